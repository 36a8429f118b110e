import csv
import math
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import torch
from cases import QUICK

from vitmem.datamodules.digits import Digits
from vitmem.datamodules.module import MemorisationData
from vitmem.datamodules.noise import Symmetric
from vitmem.models.build import create
from vitmem.models.config import ModelConfig
from vitmem.training.config import TrainConfig, TrainerConfig
from vitmem.training.errors import Interrupted, TrainingDiverged
from vitmem.training.fit import fit
from vitmem.training.module import MemorisationModule

MODEL = ModelConfig(width=16, depth=2, heads=2, patch=4, dropout=0.1, drop_path=0.1)


TRAIN = TrainConfig(epochs=4, batch_size=250, warmup_epochs=1, eval_every=2)  # 6 steps an epoch


def train(folder, config=TRAIN, **data):
    """Return weights and metrics.csv of a small training in a folder."""
    folder.mkdir(exist_ok=True)
    module = MemorisationData(Digits(), Symmetric(), batch_size=config.batch_size, seed=3, **data)
    model = create(MODEL.timm_arguments((1, 8, 8), 10), seed=3)
    fit(model, module, config, TrainerConfig(accelerator="cpu"), seed=3, folder=folder)
    return model.state_dict(), (folder / "metrics.csv").read_text()


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    return train(tmp_path_factory.mktemp("whole") / "run")


@pytest.fixture
def interrupt_at(monkeypatch):
    """Press Ctrl-C in the given step."""

    def at(step):
        def pressed(self, batch, batch_idx, original=MemorisationModule.training_step):
            if self.global_step == step:
                os.kill(os.getpid(), signal.SIGINT)
            return original(self, batch, batch_idx)

        monkeypatch.setattr(MemorisationModule, "training_step", pressed)

    return at


# First step, mid-epoch, last step of an epoch with and without evaluation, and in the last epoch.
@pytest.mark.slow
@pytest.mark.parametrize("step", [0, 3, 5, 11, 14, 22])
def test_resume_is_bitwise_equal_to_the_uninterrupted_run(step, uninterrupted, interrupt_at, tmp_path):
    interrupt_at(step)
    with pytest.raises(Interrupted, match=f"stopped at step {step + 1}"):
        train(tmp_path / "run")
    assert (tmp_path / "run" / "checkpoints" / "last.ckpt").exists()
    interrupt_at(-1)
    weights, metrics = train(tmp_path / "run")
    assert all(torch.equal(weights[name], value) for name, value in uninterrupted[0].items())
    assert metrics == uninterrupted[1]


@pytest.mark.slow
def test_interrupting_twice_and_ctrl_c_is_given_back(uninterrupted, interrupt_at, tmp_path):
    handler = signal.getsignal(signal.SIGINT)
    for step in (7, 16):
        interrupt_at(step)
        with pytest.raises(Interrupted):
            train(tmp_path / "run")
    assert signal.getsignal(signal.SIGINT) is handler
    interrupt_at(-1)
    assert train(tmp_path / "run")[1] == uninterrupted[1]


def test_how_often_is_evaluated_changes_nothing_but_the_table(uninterrupted, tmp_path):
    config = TrainConfig(epochs=4, batch_size=250, warmup_epochs=1, eval_every=3)
    weights, metrics = train(tmp_path / "run", config)
    assert all(torch.equal(weights[name], value) for name, value in uninterrupted[0].items())
    rows = list(csv.DictReader(metrics.splitlines()))
    assert [row["validation_accuracy"] != "" for row in rows] == [False, False, True, True]


def test_the_metrics_are_those_of_the_final_weights(uninterrupted):
    weights, metrics = uninterrupted
    model = create(MODEL.timm_arguments((1, 8, 8), 10))
    model.load_state_dict(weights)
    data = MemorisationData(Digits(), Symmetric())
    last = list(csv.DictReader(metrics.splitlines()))[-1]
    with torch.no_grad():
        for loader, wanted in zip(
            data.val_dataloader(),
            [("memorized_accuracy", "ground_truth_accuracy", "clean_train_accuracy"), ("validation_accuracy",)],
            strict=True,
        ):
            batches = list(loader)
            said = torch.cat([model.eval()(b.image).argmax(1) for b in batches])
            given, true, noisy = (
                torch.cat([getattr(b, f) for b in batches]) for f in ("given_label", "true_label", "is_noisy")
            )
            explicit = {
                "memorized_accuracy": (said == given)[noisy],
                "ground_truth_accuracy": (said == true)[noisy],
                "clean_train_accuracy": (said == true)[~noisy],
                "validation_accuracy": said == true,
            }
            for name in wanted:
                assert float(last[name]) == pytest.approx(float(explicit[name].float().mean()), abs=1e-6)


def test_without_noise_the_noisy_accuracies_are_unknown_not_zero(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    data = MemorisationData(Digits(), Symmetric(rate=0.0), batch_size=600)
    model = create(MODEL.timm_arguments((1, 8, 8), 10), seed=0)
    fit(model, data, TrainConfig(epochs=1), TrainerConfig(accelerator="cpu"), seed=0, folder=folder)
    (row,) = csv.DictReader((folder / "metrics.csv").read_text().splitlines())
    assert row["memorized_accuracy"] == row["ground_truth_accuracy"] == ""
    assert row["validation_accuracy"] != ""


def test_a_loss_that_is_not_finite_stops_and_names_the_step(tmp_path, monkeypatch):
    original = MemorisationModule.training_step

    def poisoned(self, batch, batch_idx):
        if self.global_step == 8:
            batch = batch._replace(image=batch.image * math.nan)
        return original(self, batch, batch_idx)

    monkeypatch.setattr(MemorisationModule, "training_step", poisoned)
    with pytest.raises(TrainingDiverged, match=r"not finite at step 8 \(epoch 1\); lower train.lr"):
        train(tmp_path / "run")


@pytest.mark.parametrize("step", [22, 23])
def test_ctrl_c_in_the_last_epoch_stops_too_and_nothing_is_lost(step, uninterrupted, interrupt_at, tmp_path):
    interrupt_at(step)
    with pytest.raises(Interrupted):
        train(tmp_path / "run")
    interrupt_at(-1)
    weights, metrics = train(tmp_path / "run")
    assert all(torch.equal(weights[name], value) for name, value in uninterrupted[0].items())
    assert metrics == uninterrupted[1]


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_precisions_train_with_clipping(precision, tmp_path):
    data = MemorisationData(Digits(), Symmetric(), batch_size=600)
    model = create(MODEL.timm_arguments((1, 8, 8), 10), seed=0)
    trainer = TrainerConfig(accelerator="cpu", precision=precision)
    fit(model, data, TrainConfig(epochs=1), trainer, seed=0, folder=tmp_path)
    assert (tmp_path / "metrics.csv").read_text().count("\n") == 2


def test_a_checkpoint_of_another_making_is_not_loaded(uninterrupted, tmp_path, monkeypatch):
    """On SLURM, Lightning itself goes on from a file of this name where it is told of no checkpoint."""
    connector = "lightning.pytorch.trainer.connectors.checkpoint_connector.SLURMEnvironment"
    monkeypatch.setattr(connector, SimpleNamespace(detect=lambda: True))
    (tmp_path / "run").mkdir()
    torch.save({"state_dict": {}, "nothing": "of ours"}, tmp_path / "run" / "hpc_ckpt_3.ckpt")
    weights, metrics = train(tmp_path / "run")
    assert all(torch.equal(weights[name], value) for name, value in uninterrupted[0].items())
    assert metrics == uninterrupted[1]
    assert [path.name for path in (tmp_path / "run").iterdir() if path.name.startswith(("hpc", "light"))] == [
        "hpc_ckpt_3.ckpt"
    ]


def test_a_damaged_checkpoint_is_named(tmp_path):
    train(tmp_path / "run", TrainConfig(epochs=1, batch_size=600))
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    last.write_bytes(last.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"last.ckpt is damaged; remove it"):
        train(tmp_path / "run", TrainConfig(epochs=2, batch_size=600))


@pytest.mark.slow
def test_ctrl_c_on_the_command_line_saves_and_exits_with_130(tmp_path):
    command = [sys.executable, "-m", "vitmem", "train", f"--out={tmp_path}", *QUICK, "--train.epochs=2000"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    folder = tmp_path / "default" / "seed0"
    deadline = time.monotonic() + 120
    while not (folder / "metrics.csv").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert "goes on from there" in errors
    assert "Traceback" not in errors
    assert (folder / "checkpoints" / "last.ckpt").exists()
    assert not list(folder.rglob("*.partial"))
