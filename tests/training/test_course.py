"""The course of a training: losses of each example in each epoch, and weights along the way."""

import csv
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from vitmem.datamodules.digits import Digits
from vitmem.datamodules.module import MemorisationData
from vitmem.datamodules.noise import Symmetric
from vitmem.evaluation.metrics import compute
from vitmem.evaluation.predict import predict
from vitmem.files import Damaged
from vitmem.models.build import create
from vitmem.models.config import ModelConfig
from vitmem.training.config import TrainConfig, TrainerConfig
from vitmem.training.course import KeptWeights
from vitmem.training.errors import Interrupted
from vitmem.training.fit import fit
from vitmem.training.kept import LOSSES, kept_epochs, read_losses
from vitmem.training.module import MemorisationModule

MODEL = ModelConfig(width=16, depth=1, heads=2, patch=4).timm_arguments((1, 8, 8), 10)
DATA = MemorisationData(Digits(), Symmetric(), batch_size=450, seed=3)


def train(folder, **options):
    folder.mkdir(exist_ok=True)
    settings = {"epochs": 3, "batch_size": 450, "warmup_epochs": 1, "eval_every": 3, "checkpoint_minutes": 0, **options}
    model = create(MODEL, seed=3)
    return fit(model, DATA, TrainConfig(**settings), TrainerConfig(accelerator="cpu"), seed=3, folder=folder)[0]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A training that keeps the weights of every epoch but the last."""
    folder = tmp_path_factory.mktemp("course") / "run"
    train(folder, keep_every=1)
    return folder


def test_losses_are_those_of_the_steps_recomputed_by_hand(run):
    """With no dropout and no augmentation a step's loss is a forward pass of the weights before it."""
    model, losses_EN = create(MODEL, seed=3), read_losses(run)
    batch = next(iter(DATA.train_dataloader()))
    with torch.no_grad():
        expected_B = F.cross_entropy(model.eval()(batch.image), batch.given_label, reduction="none")
    torch.testing.assert_close(losses_EN[0, batch.index], expected_B, rtol=1e-5, atol=1e-6)
    assert losses_EN.shape == (3, DATA.manifest.header()["num_examples"])
    assert not losses_EN.isnan().any()


def test_the_epochs_mean_loss_is_the_mean_of_the_losses(run):
    rows = (run / "metrics.csv").read_text().splitlines()
    column = rows[0].split(",").index("train_loss")
    told = [float(row.split(",")[column]) for row in rows[1:]]
    assert read_losses(run).mean(1).tolist() == pytest.approx(told, rel=1e-5)


def test_kept_weights_are_those_of_a_training_that_ended_its_epoch_there(run):
    files = kept_epochs(run)
    assert list(files) == [1, 2]
    first, second = (load_file(path) for path in files.values())
    assert first.keys() == create(MODEL, seed=3).state_dict().keys()
    assert any(not torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("options", [{}, {"ema": 0.9}, {"tied_fixed": 0.5}, {"ema": 0.9, "tied_fixed": 0.5}])
def test_kept_weights_are_those_that_were_evaluated(tmp_path, options):
    options = {"eval_every": 1, "lr": 1e-2, **options}
    ended = train(tmp_path / "a", keep_every=1, **options)
    told = list(csv.DictReader((tmp_path / "a" / "metrics.csv").open()))
    for epoch, path in kept_epochs(tmp_path / "a").items():
        model = create(MODEL, seed=3).eval()
        model.load_state_dict(load_file(path))
        found = compute(predict(model, DATA.evaluation_loaders()))
        for name in ("validation_accuracy", "ground_truth_accuracy"):
            assert found[name].value == pytest.approx(float(told[epoch - 1][name]), abs=1e-6)
    plain = train(tmp_path / "b", **options)
    assert all(torch.equal(plain[name], value) for name, value in ended.items())


def test_a_resumed_training_keeps_the_same_losses(run, tmp_path, monkeypatch):
    original = MemorisationModule.training_step

    def interrupted(self, batch, batch_idx):
        if self.global_step == 4:
            signal_callback = next(c for c in self.trainer.callbacks if hasattr(c, "stop_signal"))
            signal_callback._on_signal(15, None)
        return original(self, batch, batch_idx)

    monkeypatch.setattr(MemorisationModule, "training_step", interrupted)
    with pytest.raises(Interrupted):
        train(tmp_path / "run", keep_every=1)
    monkeypatch.setattr(MemorisationModule, "training_step", original)
    train(tmp_path / "run", keep_every=1)
    assert (tmp_path / "run" / LOSSES).read_bytes() == (run / LOSSES).read_bytes()


def test_it_can_be_switched_off_and_changes_no_weight(run, tmp_path):
    with_course, without = train(tmp_path / "a", keep_every=1), train(tmp_path / "b", log_losses=False)
    assert read_losses(tmp_path / "b") is None
    assert kept_epochs(tmp_path / "b") == {}
    assert all(torch.equal(with_course[name], value) for name, value in without.items())


def test_weights_that_cannot_be_kept_do_not_end_the_training(tmp_path, capsys):
    (tmp_path / "epochs").write_text("a file where the folder should be")
    strategy = SimpleNamespace(lightning_module_state_dict=lambda: {"model.w": torch.zeros(1)})
    trainer = SimpleNamespace(current_epoch=0, max_epochs=3, strategy=strategy)
    KeptWeights(tmp_path, 1).on_train_epoch_end(trainer, SimpleNamespace(tied=SimpleNamespace(folded=dict)))
    assert "0001.safetensors cannot be written" in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"", b"nonsense", b"\x08\0\0\0\0\0\0\0{}      "])
def test_a_damaged_file_of_losses_is_named(tmp_path, content):
    (tmp_path / LOSSES).write_bytes(content)
    with pytest.raises(Damaged, match="losses.safetensors cannot be read"):
        read_losses(tmp_path)


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match=r"train.keep_every is -1; it must not be negative"):
        TrainConfig(keep_every=-1)
