import csv
import dataclasses
import os
import random
import signal
from functools import partial
from types import SimpleNamespace

import pytest
import torch
import yaml
from torch.nn import functional as F

from vitmem.datamodules.augment import Augment, shifted
from vitmem.datamodules.batch import Batch, Examples, InMemoryLoader
from vitmem.datamodules.digits import Digits
from vitmem.datamodules.module import MemorisationData
from vitmem.datamodules.noise import Symmetric
from vitmem.models.build import create
from vitmem.models.config import ModelConfig
from vitmem.runs.config import RunConfig, parser_for, run_config
from vitmem.training.config import TrainConfig, TrainerConfig
from vitmem.training.errors import Interrupted
from vitmem.training.fit import fit
from vitmem.training.keeper import Keeper
from vitmem.training.module import MemorisationModule

ALL = Augment(flip=True, pad=1, randaugment=1, erase=0.5, mixup=0.4, cutmix=1.0)
MODEL = ModelConfig(width=16, depth=1, heads=2, patch=4, dropout=0.1)


def images(n=12, channels=3, height=6, width=5):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (n, channels, height, width), dtype=torch.uint8, generator=generator)


def applied(augment, image, seed=0, classes=4):
    label = torch.arange(len(image)) % classes
    return augment.apply(image, label, lambda image: image.double(), seed, classes)


def loader(augment, n=12, **options):
    label = torch.arange(n) % 4
    call = partial(augment.apply, num_classes=4) if augment.is_on else None
    return InMemoryLoader(
        Examples(images(n), label, label, torch.arange(n)), 4, (0.5,), (0.25,), augment=call, **options
    )


def test_by_default_nothing_is_done():
    assert not Augment().is_on
    for batch in loader(Augment()):
        assert torch.equal(batch.image, (images()[batch.index].float() / 255 - 0.5) / 0.25)
        assert batch.target is None
    for option in ("flip", "pad", "randaugment", "erase", "mixup", "cutmix"):
        assert Augment(**{option: getattr(ALL, option)}).is_on


def test_each_image_is_mirrored_or_not():
    image = images(64)
    found, target = applied(Augment(flip=True), image)
    same = (found == image).flatten(1).all(1)
    mirrored = (found == image.flip(3)).flatten(1).all(1)
    assert (same ^ mirrored).all()
    assert 20 < same.sum() < 44
    assert target is None


@pytest.mark.parametrize("fill", ["reflect", "zero"])
def test_shifts_are_padding_and_a_crop(fill):
    image, pad = images(), 2
    down, right = torch.randint(-pad, pad + 1, (2, len(image)), generator=torch.Generator().manual_seed(1))
    found = shifted(image, down, right, fill)
    padded = F.pad(image.double(), [pad] * 4, mode="reflect" if fill == "reflect" else "constant")
    for k, (dy, dx) in enumerate(zip(down.tolist(), right.tolist(), strict=True)):
        expected = padded[k, :, pad - dy : pad - dy + 6, pad - dx : pad - dx + 5]
        assert torch.equal(found[k].double(), expected)
    assert found.dtype == torch.uint8


def test_every_shift_occurs_and_none_beyond_the_pad():
    image = torch.zeros(400, 1, 7, 7)
    image[:, :, 3, 3] = 1
    found, _ = applied(Augment(pad=2, fill="zero"), image)
    places = {tuple(place) for place in found[:, 0].nonzero()[:, 1:].tolist()}
    assert places == {(y, x) for y in range(1, 6) for x in range(1, 6)}


def test_a_pad_as_large_as_the_image_cannot_be_reflected():
    with pytest.raises(ValueError, match="augment.pad is 8; it must be less than the image's 8 x 8 pixels"):
        MemorisationData(Digits(), Symmetric(), augment=Augment(pad=8))
    MemorisationData(Digits(), Symmetric(), augment=Augment(pad=8, fill="zero"))


@pytest.mark.parametrize("image", [images(16), images(16)[:, :1].float() / 255], ids=["colour", "grey float"])
def test_randaugment_draws_for_groups_of_eight(image):
    image = image[:1].expand_as(image).contiguous()
    changed = 0
    for seed in range(8):
        found, _ = applied(Augment(randaugment=2), image, seed)
        first, second = found[:8], found[8:]
        assert (first == first[0]).all()
        assert (second == second[0]).all()
        changed += not torch.equal(first, second)
    assert changed >= 5


def test_a_rectangle_is_erased():
    found, _ = applied(Augment(erase=1.0), torch.ones(16, 3, 32, 32))
    for image in found:
        rows, columns = (image[0] != 1).nonzero().unbind(1)
        area = (rows.max() - rows.min() + 1) * (columns.max() - columns.min() + 1)
        assert len(rows) == area  # nothing inside the rectangle is left
        assert 0.01 < area / 32**2 < 0.4
    untouched, _ = applied(Augment(erase=0.5), torch.ones(64, 3, 32, 32))
    assert 16 < (untouched == 1).flatten(1).all(1).sum() < 48


def test_mixup_mixes_images_and_targets_alike():
    image = images().double()
    found, target = applied(Augment(mixup=1.0), image)
    one_hot = F.one_hot(torch.arange(12) % 4, 4).double()
    share = float(target[1, 1])  # of the image itself, whose neighbour is of another class
    assert 0 < share < 1
    assert torch.allclose(found, share * image + (1 - share) * image.roll(1, 0))
    assert torch.allclose(target.double(), share * one_hot + (1 - share) * one_hot.roll(1, 0), atol=1e-6)


def test_cutmix_targets_are_shares_of_the_area():
    image = torch.arange(12.0).view(12, 1, 1, 1).expand(12, 1, 16, 16).contiguous()
    for seed in range(5):
        found, target = applied(Augment(cutmix=1.0), image, seed)
        own = (found[5] == 5).double().mean()
        assert set(found[5].unique().tolist()) <= {4.0, 5.0}
        assert float(target[5, 1]) == pytest.approx(float(own), abs=1e-6)
        assert float(target[5, 0]) == pytest.approx(float(1 - own), abs=1e-6)


def test_draws_are_keyed_and_the_global_generators_untouched():
    torch.manual_seed(5), random.seed(5)
    before = torch.get_rng_state(), random.getstate()
    first = list(loader(ALL, seed=1))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    torch.manual_seed(6), random.seed(6)
    again = list(loader(ALL, seed=1))
    assert all(
        torch.equal(a.image, b.image) and torch.equal(a.target, b.target) for a, b in zip(first, again, strict=True)
    )
    resumed = loader(ALL, seed=1)
    resumed.load_state_dict({"epoch": 0, "served": 2})
    assert torch.equal(next(iter(resumed)).image, first[2].image)
    later = loader(ALL, seed=1)
    later.set_epoch(1)
    assert not torch.equal(next(iter(later)).image, first[0].image)


def test_only_training_batches_are_augmented():
    data = MemorisationData(Digits(), Symmetric(), augment=ALL)
    plain = MemorisationData(Digits(), Symmetric())
    assert next(iter(data.train_dataloader())).target is not None
    for ours, theirs in zip(data.val_dataloader(), plain.val_dataloader(), strict=True):
        for one, two in zip(ours, theirs, strict=True):
            assert torch.equal(one.image, two.image)
            assert one.target is None


def test_soft_targets_enter_the_loss_only_where_images_are_mixed():
    model = create(MODEL.timm_arguments((1, 8, 8), 4), seed=0).eval()
    module = MemorisationModule(model, TrainConfig(label_smoothing=0.1), seed=0)
    image, label = torch.rand(3, 1, 8, 8), torch.tensor([0, 1, 2])
    trainer = SimpleNamespace(train_dataloader=InMemoryLoader(Examples(image, label, label, label), 3))
    module.trainer = trainer
    target = torch.tensor([[0.3, 0.7, 0, 0], [0, 1, 0, 0], [0, 0, 0.5, 0.5]])
    batch = Batch(image, label, label, label == 9, label)
    losses = []
    for soft in (None, target):
        module._epoch_loss = torch.zeros(2)
        losses.append(float(module.training_step(batch._replace(target=soft), 0)["loss"].detach()))
    log_p = model(image).log_softmax(1)
    for loss, soft in zip(losses, (F.one_hot(label, 4), target), strict=True):
        smooth = 0.9 * soft + 0.1 / 4
        assert loss == pytest.approx(float(-(smooth * log_p).sum(1).mean().detach()), abs=1e-6)


def train(folder, train_config, augment):
    folder.mkdir(exist_ok=True)
    data = MemorisationData(Digits(), Symmetric(), batch_size=train_config.batch_size, seed=3, augment=augment)
    model = create(MODEL.timm_arguments((1, 8, 8), 10), seed=3)
    fit(model, data, train_config, TrainerConfig(accelerator="cpu"), seed=3, folder=folder)
    return model.state_dict(), (folder / "metrics.csv").read_text()


TRAIN = TrainConfig(epochs=2, batch_size=433, warmup_epochs=1, ema=0.9)  # 3 steps an epoch


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    return train(tmp_path_factory.mktemp("whole") / "run", TRAIN, ALL)


@pytest.mark.slow
@pytest.mark.parametrize("step", [1, 4, 5])
def test_resume_is_bitwise_equal_with_augmentation_and_average(step, uninterrupted, tmp_path, monkeypatch):
    original = MemorisationModule.training_step

    def pressed(self, batch, batch_idx):
        if self.global_step == step:
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(MemorisationModule, "training_step", pressed)
        with pytest.raises(Interrupted):
            train(tmp_path / "run", TRAIN, ALL)
    weights, metrics = train(tmp_path / "run", TRAIN, ALL)
    assert all(torch.equal(weights[name], value) for name, value in uninterrupted[0].items())
    assert metrics == uninterrupted[1]


def test_a_finished_checkpoint_gives_the_average_again(uninterrupted, tmp_path):
    first, _ = train(tmp_path / "run", TRAIN, ALL)
    again, _ = train(tmp_path / "run", TRAIN, ALL)  # nothing is left to train
    assert all(torch.equal(again[name], first[name]) for name in first)


def test_the_average_is_that_of_its_definition(tmp_path, monkeypatch):
    seen = []
    original = Keeper.on_train_batch_end

    def note(self, trainer, module, outputs, batch, batch_idx):
        seen.append({name: value.clone() for name, value in module.model.state_dict().items()})
        original(self, trainer, module, outputs, batch, batch_idx)

    monkeypatch.setattr(Keeper, "on_train_batch_end", note)
    initial = create(MODEL.timm_arguments((1, 8, 8), 10), seed=3).state_dict()
    averaged, metrics = train(tmp_path / "run", dataclasses.replace(TRAIN, ema=0.25), Augment())
    expected = {name: value.double() for name, value in initial.items()}
    for t, weights in enumerate(seen, start=1):
        keep = min(0.25, (1 + t) / (10 + t))  # 2/11, then 0.25
        expected = {name: keep * expected[name] + (1 - keep) * value for name, value in weights.items()}
    for name, value in expected.items():
        assert torch.allclose(averaged[name].double(), value, atol=1e-6), name
    assert not torch.allclose(averaged["head.weight"], seen[-1]["head.weight"], atol=1e-5)
    model = create(MODEL.timm_arguments((1, 8, 8), 10)).eval()
    model.load_state_dict(averaged)
    data = MemorisationData(Digits(), Symmetric()).validation_examples
    with torch.no_grad():
        mean, std = MemorisationData(Digits(), Symmetric()).data.mean_std
        said = model((data.image - mean[0]) / std[0]).argmax(1)
    last = list(csv.DictReader(metrics.splitlines()))[-1]
    assert float(last["validation_accuracy"]) == pytest.approx(float((said == data.true_label).float().mean()))


def test_settings_survive_and_older_files_have_the_defaults():
    settings = RunConfig(augment=ALL)
    content = yaml.safe_load(yaml.safe_dump(settings.to_dict()))
    assert RunConfig.from_dict(content) == settings
    del content["augment"]
    assert RunConfig.from_dict(content) == RunConfig()
    arguments = ["--augment.flip", "true", "--augment.pad", "4", "--augment.fill=zero"]
    read = run_config(parser_for(arguments, "train", "").read(arguments))
    assert read.augment == Augment(flip=True, pad=4, fill="zero")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pad": -1}, "augment.pad is -1; it must not be negative"),
        ({"mixup": float("inf")}, "augment.mixup is inf"),
        ({"randaugment": 10**9}, "augment.randaugment is 1000000000; it must not be negative, and at most 100"),
        ({"crop": 0.0}, r"augment.crop is 0.0; it is a share of the area in \(0, 1\]"),
        ({"magnitude": 31}, r"augment.magnitude is 31; it must be in \[0, 30\]"),
        ({"erase": 1.5}, r"augment.erase is 1.5; it is a share in \[0, 1\]"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        Augment(**options)


def test_a_decay_of_one_is_refused():
    with pytest.raises(ValueError, match=r"train.ema is 1.0; it must be in \[0, 1\)"):
        TrainConfig(ema=1.0)
