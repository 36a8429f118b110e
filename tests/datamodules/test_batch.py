import functools
import operator

import pytest
import torch

from vitmem.datamodules.batch import Examples, InMemoryLoader, keyed_generator, keyed_seed
from vitmem.datamodules.digits import Digits
from vitmem.datamodules.module import MemorisationData
from vitmem.datamodules.noise import Symmetric
from vitmem.datamodules.sources import ImageData


def examples(n=10):
    label = torch.arange(n) % 3
    given = label.clone()
    given[0] = 2
    return Examples(torch.arange(n).float().view(n, 1, 1, 1) / n, given, label, torch.arange(100, 100 + n))


def indices(loader):
    return [batch.index.tolist() for batch in loader]


def test_every_example_once_and_a_ragged_last_batch():
    found = indices(InMemoryLoader(examples(), 4))
    assert found == [[100, 101, 102, 103], [104, 105, 106, 107], [108, 109]]
    assert indices(InMemoryLoader(examples(), 4, drop_last=True)) == found[:2]


def test_the_contract():
    batch = next(iter(InMemoryLoader(examples(), 10, (0.5,), (2.0,))))
    assert batch.is_noisy.tolist() == [True] + [False] * 9
    assert batch.image.dtype == torch.float32
    assert torch.allclose(batch.image.flatten(), (torch.arange(10) / 10 - 0.5) / 2)
    assert (batch.given_label[1:] == batch.true_label[1:]).all()


def test_uint8_images_are_scaled():
    data = Examples(torch.tensor([[[[255, 0]]]], dtype=torch.uint8), *[torch.zeros(1, dtype=torch.int64)] * 3)
    assert next(iter(InMemoryLoader(data, 1))).image.flatten().tolist() == [1.0, 0.0]


def test_order_is_keyed_by_seed_and_epoch_alone():
    loader = InMemoryLoader(examples(), 3, shuffle=True, seed=5)
    loader.set_epoch(2)
    second = indices(loader)
    fresh = InMemoryLoader(examples(), 3, shuffle=True, seed=5)
    fresh.set_epoch(2)
    assert indices(fresh) == second
    fresh.set_epoch(3)
    assert indices(fresh) != second
    assert sorted(functools.reduce(operator.iadd, second, [])) == list(range(100, 110))
    other = InMemoryLoader(examples(), 3, shuffle=True, seed=6)
    other.set_epoch(2)
    assert indices(other) != second


def test_going_on_in_the_middle_of_an_epoch():
    whole = InMemoryLoader(examples(), 3, shuffle=True)
    expected = indices(whole)
    iterator = iter(whole)
    next(iterator), next(iterator)
    resumed = InMemoryLoader(examples(), 3, shuffle=True)
    resumed.load_state_dict(whole.state_dict())
    assert indices(resumed) == expected[2:]
    assert indices(resumed) == expected  # only the first iteration is cut short


def test_augmentation_is_keyed_and_optional():
    def shift(image, label, normalise, seed):
        noise = torch.rand(len(image), 1, 1, 1, generator=torch.Generator().manual_seed(seed))
        return normalise(image) + noise, None

    first, again = (InMemoryLoader(examples(), 5, augment=shift, seed=1) for _ in range(2))
    for one, two in zip(first, again, strict=True):
        assert torch.equal(one.image, two.image)
    again.set_epoch(1)
    assert not torch.equal(next(iter(first)).image, next(iter(again)).image)


def test_keys_do_not_collide():
    keys = [(a, b) for a in range(30) for b in range(30)] + [(a,) for a in range(30)]
    assert len({keyed_seed(*key) for key in keys}) == len(keys)
    assert torch.rand(1, generator=keyed_generator(3, 1)) == torch.rand(1, generator=keyed_generator(3, 1))


def test_the_three_training_sets():
    noisy, retrain, clean = (
        MemorisationData(Digits(), Symmetric(rate=0.2), train_on=kind).fit_examples()
        for kind in ("noisy", "retrain", "clean")
    )
    wrong = noisy.is_noisy
    assert int(wrong.sum()) == 259
    assert retrain.index.tolist() == noisy.index[~wrong].tolist()
    assert not retrain.is_noisy.any()
    assert torch.equal(clean.given_label, noisy.true_label)
    assert len(clean) == 1297


def test_evaluation_sees_everything_once_in_order_whatever_is_trained_on():
    data = MemorisationData(Digits(), Symmetric(), train_on="retrain", eval_batch_size=300)
    train, validation = data.val_dataloader()
    assert functools.reduce(operator.iadd, indices(train), []) == list(range(1297))
    assert functools.reduce(operator.iadd, indices(validation), []) == list(range(500))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train_image": torch.zeros(3, 8, 8)}, "expected N C H W"),
        ({"train_label": torch.tensor([0, 1, 2])}, "labels go from 0 to 2; expected 0 to 1"),
        ({"train_label": torch.tensor([0.0, 1, 0])}, "int64"),
        ({"train_image": torch.zeros(3, 1, 4, 4, dtype=torch.float64)}, "uint8 or float32"),
        ({"validation_image": torch.zeros(2, 1, 5, 5)}, "one shape"),
    ],
)
def test_data_sets_that_break_the_contract(change, message):
    good = {
        "train_image": torch.zeros(3, 1, 4, 4),
        "train_label": torch.tensor([0, 1, 0]),
        "validation_image": torch.zeros(2, 1, 4, 4),
        "validation_label": torch.tensor([0, 1]),
        "class_names": ("a", "b"),
    }
    with pytest.raises(ValueError, match=message):
        ImageData(**good | change)


def test_batch_size_must_be_positive():
    with pytest.raises(ValueError, match="batch_size is 0"):
        InMemoryLoader(examples(), 0)
