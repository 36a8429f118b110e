import dataclasses
import random

import numpy as np
import pytest
import torch
from attacked import CONFIG
from cases import TINY
from safetensors.torch import save_file

from vitmem.attacks.shadows import Shadow, ShadowCache, make_pairs, wrong_validation
from vitmem.datamodules.augment import Augment
from vitmem.datamodules.batch import Share
from vitmem.datamodules.digits import Digits
from vitmem.datamodules.module import MemorisationData
from vitmem.datamodules.noise import PairFlip, Symmetric
from vitmem.models.build import create
from vitmem.runs.fresh import recipe_of
from vitmem.training.config import TrainConfig, TrainerConfig
from vitmem.training.fit import sharing


@pytest.fixture(scope="module")
def data():
    return MemorisationData(Digits(), Symmetric(seed=3))


def test_nonmembers_have_wrong_labels_from_the_same_noise(data):
    wrong = wrong_validation(data)
    assert len(wrong) == len(data.validation_examples)  # symmetric noise leaves no label right
    assert (wrong.given_label != wrong.true_label).all()
    assert len(set((wrong.given_label - wrong.true_label).remainder(10).tolist())) == 9
    pairs = make_pairs(data)
    assert len(pairs.candidates) == int(data.manifest.is_noisy.sum())
    indices = pairs.candidates.index.tolist() + pairs.population.index.tolist()
    assert sorted(indices) == wrong.index.tolist()
    flipped = wrong_validation(MemorisationData(Digits(), PairFlip()))
    assert torch.equal(flipped.given_label, (flipped.true_label + 1) % 10)


def test_halves_are_complementary_and_every_pair_is_left_out_equally_often(data, folder):
    cache = ShadowCache(data, make_pairs(data), recipe_of(CONFIG, data), folder, seed=0)
    kept = torch.stack([cache.kept(number) for number in range(6)])
    assert (kept.sum(0) == 3).all()
    assert not torch.equal(kept[0], kept[2])


def test_shadow_models_follow_the_recipe_of_the_run(tmp_path, monkeypatch):
    start = create(TINY.timm_arguments((1, 8, 8), 10), seed=9).state_dict()
    save_file(start, tmp_path / "start.safetensors")
    config = dataclasses.replace(
        CONFIG,
        model=dataclasses.replace(TINY, pretrained=str(tmp_path / "start.safetensors")),
        augment=Augment(flip=True),
        trainer=TrainerConfig(accelerator="cpu", devices=4, strategy="ddp", accumulate=2),
    )
    data = MemorisationData(Digits(), config.noise, batch_size=200, augment=config.augment)
    pairs = make_pairs(data)

    class Trained(Exception):
        """Ends the test's training before it starts."""

    def fit(model, shadow, train, trainer, **options):
        assert all(torch.equal(value, start[name]) for name, value in model.state_dict().items())
        assert trainer == TrainerConfig(accelerator="cpu", accumulate=2)
        with sharing(shadow, Share(accumulate=trainer.accumulate)):
            loader = shadow.train_dataloader()
        batch, position = loader.batch(torch.arange(100)), torch.arange(100)
        plain = data.loader(shadow.examples).batch(position)
        assert not torch.equal(batch.image, plain.image)
        assert torch.equal(
            torch.minimum(batch.image, batch.image.flip(3)), torch.minimum(plain.image, plain.image.flip(3))
        )
        assert len(next(iter(loader)).image) == 100  # two batches make up the run's 200
        raise Trained

    monkeypatch.setattr("vitmem.training.fit.fit", fit)
    with pytest.raises(Trained):
        ShadowCache(data, pairs, recipe_of(config, data), tmp_path, seed=0).get(1)

    def key(**changed):
        return ShadowCache(
            data, pairs, recipe_of(dataclasses.replace(config, **changed), data), tmp_path, seed=0
        ).folder

    assert key(trainer=TrainerConfig(accelerator="cpu", accumulate=2)) == key()
    assert len({key(), key(augment=Augment()), key(model=TINY), key(train=TrainConfig(epochs=2))}) == 4
    before = key()
    save_file(start | {"head.bias": torch.ones(10)}, tmp_path / "start.safetensors")
    assert key() != before
    with pytest.raises(ValueError, match="train.early_stop chose the run's epoch"):
        key(train=TrainConfig(early_stop=True))


def test_a_flipped_bit_is_noticed_unless_it_changes_nothing(tmp_path):
    path, draw = tmp_path / "shadow.npz", random.Random(0)
    numbers = np.random.default_rng(0)
    stored = Shadow(numbers.random(90) < 0.5, numbers.normal(size=99).astype(np.float32), numbers.random(99) < 0.5)
    stored.save(path)
    content, noticed = path.read_bytes(), 0
    for _ in range(400):
        changed = bytearray(content)
        changed[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        path.write_bytes(changed)
        try:
            found = Shadow.load(path)
        except ValueError:
            noticed += 1
        else:
            assert all(np.array_equal(getattr(found, n), getattr(stored, n)) for n in Shadow.__dataclass_fields__)
    assert noticed > 200  # the others change times and padding of the archive


@pytest.mark.slow
def test_a_damaged_shadow_model_is_told_and_made_again(data, tmp_path, capsys):
    cache = ShadowCache(data, make_pairs(data), recipe_of(CONFIG, data), tmp_path, seed=0)
    (first,) = cache.get(1)
    whole = cache.path(0).read_bytes()
    few = Shadow(first.kept[:5], first.phi[:5], first.correct[:5])
    for damage in (lambda path: path.write_bytes(whole[:-9]), few.save):
        damage(cache.path(0))
        capsys.readouterr()
        (again,) = cache.get(1)
        assert np.array_equal(again.phi, first.phi)
        assert capsys.readouterr().out.count(f"{cache.path(0)} is damaged") == 1
        assert np.array_equal(Shadow.load(cache.path(0)).phi, first.phi)


@pytest.mark.slow
def test_an_interrupted_shadow_model_goes_on(data, tmp_path, monkeypatch):
    from vitmem.attacks import shadows as module

    cache = ShadowCache(data, make_pairs(data), recipe_of(CONFIG, data), tmp_path, seed=0)
    original = module.confidences
    monkeypatch.setattr(module, "confidences", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        cache.get(1)
    assert not cache.path(0).exists()
    assert (cache.folder / "shadow0000.work" / "checkpoints" / "last.ckpt").exists()
    monkeypatch.setattr(module, "confidences", original)
    (resumed,) = cache.get(1)
    (whole,) = ShadowCache(data, make_pairs(data), recipe_of(CONFIG, data), tmp_path / "other", seed=0).get(1)
    assert np.array_equal(resumed.phi, whole.phi)
    assert [p.name for p in cache.folder.iterdir()] == ["shadow0000.npz"]
