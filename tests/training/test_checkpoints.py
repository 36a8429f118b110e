"""Full disks, damaged files and signals: what is on the disk afterwards, and how the training goes on."""

import errno
import os
import random
import signal

import pytest
import torch
from cases import QUICK

from vitmem.datamodules.digits import Digits
from vitmem.datamodules.module import MemorisationData
from vitmem.datamodules.noise import Symmetric
from vitmem.models.build import create
from vitmem.models.config import ModelConfig
from vitmem.training.checkpoints import is_intact, newest_checkpoint
from vitmem.training.config import TrainConfig, TrainerConfig
from vitmem.training.errors import Interrupted, StateLost
from vitmem.training.fit import fit
from vitmem.training.kept import LAST_CHECKPOINT, PREVIOUS_CHECKPOINT
from vitmem.training.module import MemorisationModule

MODEL = ModelConfig(width=16, depth=1, heads=2, patch=4, dropout=0.1).timm_arguments((1, 8, 8), 10)
DATA = MemorisationData(Digits(), Symmetric(), batch_size=450, seed=3)
CONFIG = {"epochs": 3, "batch_size": 450, "warmup_epochs": 1, "eval_every": 3}  # 3 steps an epoch, 9 together


def train(folder, precision="32-true", **options):
    """Return the weights and metrics.csv of a small training; by default with a checkpoint after every step."""
    folder.mkdir(exist_ok=True)
    config = TrainConfig(**{**CONFIG, "checkpoint_minutes": 0, **options})
    trainer = TrainerConfig(accelerator="cpu", precision=precision)
    state, _ = fit(create(MODEL, seed=3), DATA, config, trainer, seed=3, folder=folder)
    return state, (folder / "metrics.csv").read_text()


def assert_same(found, expected):
    assert found[1] == expected[1]
    assert list(found[0]) == list(expected[0])
    assert all(torch.equal(found[0][name], value) for name, value in expected[0].items())


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return train(tmp_path_factory.mktemp("whole") / "run")


@pytest.fixture
def at_step(monkeypatch):
    """Do something in the given training step."""
    original = MemorisationModule.training_step

    def arrange(step, action):
        def stepped(self, batch, batch_idx):
            if self.global_step == step:
                action()
            return original(self, batch, batch_idx)

        monkeypatch.setattr(MemorisationModule, "training_step", stepped)

    return arrange


@pytest.fixture
def stopped(tmp_path, at_step):
    """A run that was stopped at step 5, with the checkpoints of steps 5 and 4."""
    at_step(4, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Interrupted, match="stopped at step 5") as caught:
        train(tmp_path / "run")
    assert caught.value.code == 143
    at_step(-1, None)
    return tmp_path / "run"


def step_of(path):
    return torch.load(path, weights_only=True)["global_step"]


def truncate(path):
    path.write_bytes(path.read_bytes()[:-100])


def fill_with_garbage(path):
    path.write_bytes(random.Random(0).randbytes(path.stat().st_size))


def flip_a_bit_of_a_weight(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def test_weights_in_float64_are_not_rounded_where_a_training_goes_on(tmp_path, at_step):
    expected = train(tmp_path / "whole", "64-true", ema=0.9)
    at_step(4, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Interrupted):
        train(tmp_path / "run", "64-true", ema=0.9)
    at_step(-1, None)
    assert_same(train(tmp_path / "run", "64-true", ema=0.9), expected)
    assert expected[0]["head.weight"].dtype == torch.float64


DAMAGE = [truncate, fill_with_garbage, flip_a_bit_of_a_weight, lambda path: path.write_bytes(b"")]


@pytest.mark.parametrize("damage", DAMAGE, ids=["truncated", "garbage", "bit", "empty"])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(stopped, damage, whole, capsys):
    assert [step_of(stopped / name) for name in (LAST_CHECKPOINT, PREVIOUS_CHECKPOINT)] == [5, 4]
    damage(stopped / LAST_CHECKPOINT)
    assert_same(train(stopped), whole)
    assert "last.ckpt is damaged; going on from" in capsys.readouterr().out


def test_a_damaged_checkpoint_never_replaces_the_good_one_before(stopped, at_step):
    truncate(stopped / LAST_CHECKPOINT)
    at_step(4, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Interrupted):
        train(stopped)
    assert [step_of(stopped / name) for name in (LAST_CHECKPOINT, PREVIOUS_CHECKPOINT)] == [5, 4]


def test_two_damaged_checkpoints_are_named(stopped):
    truncate(stopped / LAST_CHECKPOINT)
    truncate(stopped / PREVIOUS_CHECKPOINT)
    with pytest.raises(ValueError, match=r"last.ckpt and .*previous.ckpt are damaged; remove them"):
        train(stopped)


def test_killed_between_the_two_renames(stopped, whole):
    (stopped / LAST_CHECKPOINT).rename(stopped / "checkpoints" / "last.partial")
    assert newest_checkpoint(stopped) == (stopped / PREVIOUS_CHECKPOINT, [])
    assert_same(train(stopped), whole)


def test_a_flipped_bit_is_noticed_unless_it_changes_nothing(tmp_path):
    path = tmp_path / "small.ckpt"
    torch.save({"state_dict": {"weight": torch.arange(200.0)}, "global_step": 7}, path)
    content, draw, unnoticed = path.read_bytes(), random.Random(1), 0
    for _ in range(300):
        changed = bytearray(content)
        changed[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        path.write_bytes(changed)
        if is_intact(path):
            unnoticed += 1
            found = torch.load(path, weights_only=True)
            assert found["global_step"] == 7
            assert torch.equal(found["state_dict"]["weight"], torch.arange(200.0))
    assert unnoticed < 200  # padding and times of the archive


def full_disk(monkeypatch, steps):
    """Let no checkpoint of these steps be written."""

    def save(checkpoint, file, original=torch.save):
        if checkpoint["global_step"] in steps:
            file.write(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        original(checkpoint, file)

    monkeypatch.setattr(torch, "save", save)


def test_a_full_disk_is_told_and_tried_again(tmp_path, monkeypatch, whole, capsys):
    full_disk(monkeypatch, {2, 3, 4})
    assert_same(train(tmp_path / "run"), whole)
    warnings = [line for line in capsys.readouterr().err.splitlines() if "cannot be written" in line]
    assert len(warnings) == 3
    assert all("No space left on device" in line and "tried again" in line for line in warnings)
    assert step_of(tmp_path / "run" / LAST_CHECKPOINT) == 9


def test_a_full_disk_at_the_end_keeps_the_earlier_checkpoints(tmp_path, monkeypatch, at_step):
    full_disk(monkeypatch, {4, 5})
    at_step(4, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(StateLost, match=r"step 5, .*No space left.* what came after step 3 is lost; make room"):
        train(tmp_path / "run")
    assert [step_of(tmp_path / "run" / name) for name in (LAST_CHECKPOINT, PREVIOUS_CHECKPOINT)] == [3, 2]
    assert not list((tmp_path / "run").rglob("*.partial"))


def test_a_folder_that_cannot_be_written_does_not_stop_the_training(tmp_path, whole, capsys):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "checkpoints").write_text("in the way")
    assert_same(train(folder, checkpoint_minutes=1, checkpoint_epochs=1), whole)
    assert capsys.readouterr().err.count("cannot be written") == 3


def test_a_table_that_cannot_be_written_at_the_end_is_told(tmp_path):
    (tmp_path / "run" / "metrics.csv" / "in the way").mkdir(parents=True)
    with pytest.raises(StateLost, match=r"metrics.csv cannot be written .* goes on from the last checkpoint"):
        train(tmp_path / "run")
    assert step_of(tmp_path / "run" / LAST_CHECKPOINT) == 9


def test_checkpoints_by_epoch(tmp_path):
    train(tmp_path / "run", checkpoint_minutes=60, checkpoint_epochs=2)
    assert [step_of(tmp_path / "run" / name) for name in (LAST_CHECKPOINT, PREVIOUS_CHECKPOINT)] == [9, 6]


@pytest.mark.parametrize(("number", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGUSR1", 143)])
def test_signals_and_exit_codes(cli, tmp_path, at_step, number, code):
    before = {name: signal.getsignal(name) for name in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
    at_step(3, lambda: os.kill(os.getpid(), signal.Signals[number]))
    found, _, errors = cli("train", f"--out={tmp_path}", *QUICK)
    assert found == code
    assert "stopped at step 4; the same command goes on from there" in errors
    assert {name: signal.getsignal(name) for name in before} == before
    at_step(-1, None)
    assert cli("train", f"--out={tmp_path}", *QUICK)[0] == 0


def test_results_that_cannot_be_written_are_told(cli, tmp_path, at_step):
    weights = tmp_path / "default" / "seed0" / "model.safetensors"
    at_step(3, lambda: weights.mkdir())
    code, _, errors = cli("train", f"--out={tmp_path}", *QUICK)
    assert code == 1
    assert errors.count("\n") == 1
    assert "the trained model cannot be written" in errors
    weights.rmdir()
    assert cli("train", f"--out={tmp_path}", *QUICK)[0] == 0
