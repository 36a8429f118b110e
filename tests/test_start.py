"""A light start, and packages that do not collide with what lies in the user's folder."""

import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = {"lightning", "timm", "torchvision", "torch._dynamo", "scipy.stats", "sklearn", "matplotlib", "torchmetrics"}
VERBS = [
    "list",
    "train --help",
    "edit --help",
    "edit kfac --help",
    "eval --help",
    "compare --help",
    "report --help",
    "export --help",
    "clean --help",
    "run --help",
    "figures --help",
    "table --help",
]


FORKS = f"""
import os, sys
import torch
from vitmem.cli import main
for command in {VERBS!r}:
    if os.fork() == 0:
        try:
            main(command.split())
        except SystemExit:
            pass
        print("loaded by", command, sorted({HEAVY!r} & set(sys.modules)), flush=True)
        os._exit(0)
    os.wait()
"""


@pytest.fixture(scope="module")
def loaded():
    """What the verbs print, each in a process of its own that has loaded no more than torch before."""
    done = subprocess.run([sys.executable, "-u", "-c", FORKS], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.slow
@pytest.mark.parametrize("command", VERBS)
def test_help_and_list_import_nothing_heavy(command, loaded):
    found = [line for line in loaded if line.startswith(f"loaded by {command} [")]
    assert found == [f"loaded by {command} []"]


@pytest.mark.slow
def test_files_of_the_users_folder_are_left_alone(tmp_path):
    for name in ("figures.py", "datamodules.py", "tests.py"):
        (tmp_path / name).write_text("raise RuntimeError('the file of the user was imported')\n")
    (tmp_path / "figures").mkdir()
    command = [sys.executable, "-m", "vitmem", "list"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "digits" in done.stdout


@pytest.mark.parametrize("arguments", [["list"], ["train", "--help"], ["run", "experiment.yaml"]])
def test_a_python_without_what_vitmem_needs_is_told_so(arguments):
    command = [sys.executable, "-S", "-m", "vitmem", *arguments]  # without the packages that are installed
    folder = Path(__file__).parents[1]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("vitmem: torch is not installed for ")
    assert done.stderr.count("\n") == 1
