"""Fixtures: the command line in this process, and one small finished run."""

import shutil

import pytest
import torch
from cases import QUICK
from edited_runs import Explode, Reader

from vitmem import registry
from vitmem.cli import main
from vitmem.datamodules.digits import Digits
from vitmem.editing import edits

torch.set_num_threads(1)  # the models are tiny: more threads only wait for each other


@pytest.fixture(autouse=True)
def plugins_end_with_the_test():
    """Unload plug-ins: another test would try their edits, too, one of which ends the process."""
    before = list(registry._LOADED)
    yield
    registry._LOADED[:] = before


@pytest.fixture
def cli(capsys):
    """Run a command; return exit code, standard output and standard error."""

    def run(*arguments):
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """A trained run with a K-FAC edit, evaluated; do not change it."""
    out = tmp_path_factory.mktemp("finished")
    assert main(["train", f"--out={out}", "--name=tiny", *QUICK]) == 0
    path = out / "tiny" / "seed0"
    assert main(["edit", "kfac", str(path), "--rho", "0.9"]) == 0
    assert main(["eval", str(path)]) == 0
    return path


@pytest.fixture
def run_folder(finished, tmp_path):
    """A copy of the finished run that a test may damage."""
    return shutil.copytree(finished, tmp_path / "tiny" / "seed0")


@pytest.fixture
def other_digits(monkeypatch):
    """Return a function after which the digits at hand are others: one pixel differs."""
    original = Digits.load

    def other(self):
        data = original(self)
        data.train_image[0, 0, 0, 0] = 0.5
        return data

    return lambda: monkeypatch.setattr(Digits, "load", other)


@pytest.fixture
def registered(monkeypatch):
    """The registered edits and two of the tests'."""
    ours = {**edits(), "reader": Reader, "explode": Explode}
    for module in (
        "vitmem.editing",
        "vitmem.cli.edit",
        "vitmem.runs.named",
        "vitmem.runs.trained",
        "vitmem.runs.clean",
        "vitmem.experiment.results",
    ):
        monkeypatch.setattr(f"{module}.edits", lambda: ours)
