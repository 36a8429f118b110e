import math
import sys
from types import SimpleNamespace

import pytest
from cases import QUICK

from vitmem.runs.config import RunConfig, TrainerConfig, comparable
from vitmem.training import loggers
from vitmem.training.loggers import Followed, check_loggers

ROW = {"epoch": 3, "step": 12, "lr": 0.1, "train_loss": 2.0, "memorized_accuracy": math.nan}


class Fails:
    def __init__(self, folder, online):
        self.rows = 0

    def log(self, row):
        self.rows += 1
        raise OSError("no space")

    def close(self):
        raise AssertionError("it was dropped")


@pytest.mark.slow
def test_a_logger_that_raises_is_told_once_and_the_weights_are_the_same(cli, tmp_path, monkeypatch):
    weights = []
    monkeypatch.setitem(loggers._BUILTIN, "fails", Fails)
    for name, more in (("without", []), ("with", ["--trainer.loggers=fails"])):
        code, _, err = cli("train", f"--out={tmp_path}", f"--name={name}", *QUICK, *more)
        assert code == 0, err
        assert err.count("the logger fails is dropped (OSError: no space); the training goes on") == len(more)
        weights.append((tmp_path / name / "seed0" / "model.safetensors").read_bytes())
    assert weights[0] == weights[1]
    code, out, _ = cli("train", f"--out={tmp_path}", "--name=with", *QUICK)  # the same run, without
    assert (code, "already trained" in out) == (0, True)


def test_loggers_do_not_identify_a_run():
    config = RunConfig(trainer=TrainerConfig(loggers="wandb", online=True))
    assert comparable(config) == comparable(RunConfig())


def test_one_that_cannot_be_made_is_dropped_and_the_others_go_on(monkeypatch, tmp_path, capsys):
    rows = []
    works = SimpleNamespace(log=rows.append, close=lambda: rows.append("closed"))
    monkeypatch.setitem(loggers._BUILTIN, "works", lambda folder, online: works)
    monkeypatch.setitem(loggers._BUILTIN, "cannot", lambda folder: None)
    followed = Followed(["cannot", "works"], tmp_path, False)
    followed.log(ROW)
    followed.close()
    assert rows == [ROW, "closed"]
    assert "the logger cannot is dropped (TypeError" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_a_missing_package_is_one_line_that_names_the_extra(name, cli, tmp_path, monkeypatch):
    monkeypatch.setattr(loggers, "find_spec", lambda _: None)
    code, _, err = cli("train", f"--out={tmp_path}", *QUICK, f"--trainer.loggers={name}")
    assert (code, err.count("\n")) == (2, 1)
    assert f"pip install 'vitmem[{name}]'" in err
    assert not (tmp_path / "default").exists()


def test_unknown_loggers_are_named():
    with pytest.raises(ValueError, match="unknown logger 'tensorbord'; registered are: tensorboard, wandb"):
        check_loggers("tensorbord")
    assert check_loggers(" , ") == []


def test_tensorboard_writes_what_was_measured(tmp_path):
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    followed = Followed(["tensorboard"], tmp_path, False)
    followed.log(ROW)
    followed.close()
    events = reader.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(e.step, e.value) for e in events.Scalars("train_loss")] == [(3, 2.0)]
    assert "memorized_accuracy" not in events.Tags()["scalars"]


@pytest.mark.parametrize("online", [False, True])
def test_weights_and_biases_is_offline_unless_it_is_said(online, tmp_path, monkeypatch):
    calls = []
    run = SimpleNamespace(log=lambda row, step: calls.append((row, step)), finish=lambda: calls.append("finished"))
    init = lambda **options: calls.append(options) or run  # noqa: E731
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init))
    monkeypatch.setenv("WANDB_MODE", "online")
    followed = Followed(["wandb"], tmp_path / "mine" / "seed0", online)
    followed.log(ROW)
    followed.close()
    options, (row, step), last = calls
    assert (options["mode"], options["name"]) == ("online" if online else "offline", "mine/seed0")
    assert (step, last) == (3, "finished")
    assert row == {"epoch": 3, "step": 12, "lr": 0.1, "train_loss": 2.0}


@pytest.mark.parametrize("verb", ["train", "run"])
@pytest.mark.parametrize("content", ["trainer: {online: true}", "trainer.online: true", "trainer: {online: 'true'}"])
def test_no_file_lets_a_logger_go_online(verb, content, cli, tmp_path):
    """A file may come from elsewhere."""
    file = tmp_path / "file.yaml"
    file.write_text(f"trainer.loggers: wandb\n{content}\n" if "trainer:" not in content else f"{content}\n")
    code, _, err = cli(verb, *([file] if verb == "run" else ["--config", file]), f"--out={tmp_path / 'runs'}")
    assert (code, err.count("\n")) == (2, 1)
    assert "trainer.online is no option of a file" in err
    assert not (tmp_path / "runs").exists()
