"""The best epoch is kept, with example-tied dropout too."""

import csv
import os
import signal

import pytest
import torch

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

MODEL = ModelConfig(width=16, depth=2, heads=2, patch=4)


BOTH = TrainConfig(epochs=3, batch_size=250, lr=3e-3, warmup_epochs=1, early_stop=True, tied_fixed=0.3)


def train(folder, config):
    folder.mkdir(exist_ok=True)
    data = MemorisationData(Digits(), Symmetric(), batch_size=config.batch_size, seed=3)
    model = create(MODEL.timm_arguments((1, 8, 8), 10), seed=3).train()
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


@pytest.mark.slow
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
