"""Training-time alternatives: example-tied dropout and early stopping."""

import csv
import os
import signal

import pytest
import torch

from vitmem.datamodules.batch import keyed_seed
from vitmem.datamodules.digits import Digits
from vitmem.datamodules.module import MemorisationData
from vitmem.datamodules.noise import Symmetric
from vitmem.models.build import create
from vitmem.models.config import ModelConfig
from vitmem.training.averaging import BestEpoch
from vitmem.training.config import TrainConfig, TrainerConfig
from vitmem.training.errors import Interrupted
from vitmem.training.fit import fit
from vitmem.training.module import MemorisationModule
from vitmem.training.tied_dropout import TiedDropout, is_fixed, tied_mask, uniform

MODEL = ModelConfig(width=16, depth=2, heads=2, patch=4)
BOTH = TrainConfig(epochs=3, batch_size=250, lr=3e-3, warmup_epochs=1, early_stop=True, tied_fixed=0.3)


def blank(seed=3):
    return create(MODEL.timm_arguments((1, 8, 8), 10), seed=seed).eval()


def train(folder, config):
    folder.mkdir(exist_ok=True)
    data = MemorisationData(Digits(), Symmetric(), batch_size=config.batch_size, seed=3)
    model = blank().train()
    _, epoch = fit(model, data, config, TrainerConfig(accelerator="cpu"), seed=3, folder=folder)
    return epoch, model, (folder / "metrics.csv").read_text()


def press_at(monkeypatch, step, original=MemorisationModule.training_step):
    """Press Ctrl-C in the given step."""

    def pressed(self, batch, batch_idx):
        if self.global_step == step:
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, batch, batch_idx)

    monkeypatch.setattr(MemorisationModule, "training_step", pressed)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return train(tmp_path_factory.mktemp("whole") / "run", BOTH)


def test_numbers_look_drawn_and_follow_splitmix64():
    """The finaliser in Python's integers, which do not wrap by themselves."""

    def expected(number, key):
        x = (number * 0x9E3779B97F4A7C15 + key) % 2**64
        x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
        return ((x ^ (x >> 31)) >> 11) / 2**53

    key = keyed_seed(5)
    numbers = torch.arange(20000)
    found = uniform(numbers, key)
    assert found[:50].tolist() == [expected(n, key) for n in range(50)]
    assert float(found.mean()) == pytest.approx(0.5, abs=0.01)
    assert float(torch.corrcoef(torch.stack([found[:-1], found[1:]]))[0, 1]) == pytest.approx(0.0, abs=0.03)


def test_an_example_keeps_its_units_and_the_first_ones_belong_to_all():
    index = torch.arange(400)
    mask = tied_mask(index, 50, 0.3, 0.2, key=1)
    assert mask[:, :15].all()
    assert float(mask[:, 15:].float().mean()) == pytest.approx(0.2, abs=0.015)
    assert torch.equal(tied_mask(index[[7, 3]], 50, 0.3, 0.2, key=1), mask[[7, 3]])
    assert not torch.equal(tied_mask(index, 50, 0.3, 0.2, key=2), mask)
    assert len(torch.unique(mask, dim=0)) > 390
    assert int(is_fixed(10, 0.21).sum()) == 3  # rounded up


def test_the_mask_is_what_the_second_layer_sees_on_every_token():
    model = blank()
    tied = TiedDropout(model, 0.25, 0.5, seed=0)
    seen = []
    model.blocks[1].mlp.fc2.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    index = torch.tensor([11, 4])
    with torch.no_grad(), tied(index):
        model(torch.rand(2, 1, 8, 8))
    mask = tied_mask(index, 64, 0.25, 0.5, keyed_seed(0, 1, 6))
    assert torch.equal((seen[0] != 0).all(1), mask)
    assert torch.equal((seen[0] != 0).any(1), mask)
    with torch.no_grad():
        model(torch.rand(2, 1, 8, 8))
    assert (seen[1][..., 16:] == 0).all()  # outside the context nobody's own units are on


def test_the_folded_model_answers_as_the_hooked_one_and_is_plain():
    model, image = blank(), torch.rand(3, 1, 8, 8)
    tied = TiedDropout(model, 0.25, 0.1, seed=0)
    with torch.no_grad():
        hooked = model(image)
        tied.fold()
        torch.testing.assert_close(model(image), hooked)
    old = blank().state_dict()
    for name, value in model.state_dict().items():
        if name.endswith("mlp.fc2.weight"):
            torch.testing.assert_close(value[:, :16], old[name][:, :16] * 0.35 / 0.25)
            assert (value[:, 16:] == 0).all()
        else:
            assert torch.equal(value, old[name])
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_switched_off_it_leaves_no_trace():
    model = blank()
    tied = TiedDropout(model, 1.0, 0.1, seed=0)
    assert not any(module._forward_pre_hooks for module in model.modules())
    with tied(torch.arange(2)):
        pass
    tied.fold()
    assert all(torch.equal(value, blank().state_dict()[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("step", [5, 9])
def test_resume_is_bitwise_equal(step, whole, tmp_path, monkeypatch):
    press_at(monkeypatch, step)
    with pytest.raises(Interrupted):
        train(tmp_path / "run", BOTH)
    press_at(monkeypatch, -1)
    epoch, model, metrics = train(tmp_path / "run", BOTH)
    assert epoch == whole[0]
    assert metrics == whole[2]
    assert all(torch.equal(value, whole[1].state_dict()[name]) for name, value in model.state_dict().items())


def test_the_table_describes_the_weights_of_the_epoch_that_is_kept(whole):
    epoch, model, metrics = whole
    row = list(csv.DictReader(metrics.splitlines()))[epoch]
    data = MemorisationData(Digits(), Symmetric())
    with torch.no_grad():
        right = torch.cat([model.eval()(b.image).argmax(1) == b.true_label for b in data.val_dataloader()[1]])
    assert float(row["validation_accuracy"]) == pytest.approx(float(right.double().mean()), abs=1e-6)


def test_the_best_epoch_is_kept_the_first_of_equals_judged_on_even_indices_and_over_a_break(tmp_path, monkeypatch):
    """Four epochs whose tuning halves are made right 10, 30, 30 and 20 times; the other half is always right."""
    right = iter([10, 30, 30, 20])
    original, states = BestEpoch.on_validation_batch_end, []

    def fixed(self, trainer, module, outputs, batch, batch_idx, dataloader_idx=0):
        if dataloader_idx == 1:
            outputs = torch.where(batch.index % 2 == 0, (batch.true_label + 1) % 10, batch.true_label)
            count = 2 * next(right)
            outputs[:count] = batch.true_label[:count]
            states.append({key: value.clone() for key, value in module.model.state_dict().items()})
        original(self, trainer, module, outputs, batch, batch_idx, dataloader_idx)

    monkeypatch.setattr(BestEpoch, "on_validation_batch_end", fixed)
    press_at(monkeypatch, 14)  # in the third epoch
    config = TrainConfig(epochs=4, batch_size=250, early_stop=True)
    with pytest.raises(Interrupted):
        train(tmp_path / "run", config)
    press_at(monkeypatch, -1)
    epoch, model, _ = train(tmp_path / "run", config)
    assert epoch == 1
    assert len(states) == 4
    assert all(torch.equal(value, states[1][name]) for name, value in model.state_dict().items())
    assert not torch.equal(states[1]["head.weight"], states[2]["head.weight"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tied_fixed": 0.0}, r"train.tied_fixed is 0.0; it must be in \(0, 1\]"),
        ({"tied_fixed": 1.1}, "train.tied_fixed is 1.1"),
        ({"tied_memory": 1.0}, "train.tied_memory is 1.0"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig(**options)
