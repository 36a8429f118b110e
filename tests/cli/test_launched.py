"""Variables of launchers that did not start this process change nothing; those of launchers that did are kept."""

import os
import socket
import subprocess
import sys

import pytest
from cases import QUICK

from vitmem.cli.launched import PARENT, alone_or_launched

pytestmark = pytest.mark.slow

TORCH = {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2"}
PLACE = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
SLURM = {"SLURM_NTASKS": "2", "SLURM_PROCID": "1", "SLURM_LOCALID": "1", "SLURM_NODEID": "0"}
STEP = {"SLURM_STEP_ID": "0"}
MPI = {"PMI_RANK": "1", "PMI_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1"}
STRAY = [
    {"LOCAL_RANK": "1"},
    {"LOCAL_RANK": "0", "RANK": "3"},
    {"WORLD_SIZE": "2"},
    {"RANK": "one"},
    TORCH | PLACE,
    TORCH | PLACE | {"TORCHELASTIC_RUN_ID": "none", "TORCHELASTIC_USE_AGENT_STORE": "True"},  # its agent is gone
    TORCH | {"TORCHELASTIC_RUN_ID": "none"},
    {"NODE_RANK": "1", "MASTER_ADDR": "10.0.0.1"},
    SLURM,
    MPI,
]


@pytest.fixture
def environment(monkeypatch):
    """Set variables, with none of a launcher's there before."""
    for name in (*TORCH, *PLACE, *SLURM, *STEP, *MPI, PARENT, "NODE_RANK", "TORCHELASTIC_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    return lambda variables: [monkeypatch.setenv(*item) for item in variables.items()]


@pytest.mark.parametrize("variables", STRAY)
def test_without_a_launcher_they_are_ignored_and_told_in_one_line(environment, capsys, variables):
    environment(variables)
    with alone_or_launched():
        assert not set(variables) & set(os.environ)
        assert os.environ[PARENT] == str(os.getpid())
    assert {name: os.environ[name] for name in variables} == variables
    assert PARENT not in os.environ
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("variables", [TORCH | {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}, PLACE])
def test_what_says_that_there_is_one_process_is_not_told(environment, capsys, variables):
    environment(variables)
    with alone_or_launched():
        assert not set(variables) & set(os.environ)
    assert capsys.readouterr().err == ""


def test_launchers_are_believed(environment, capsys):
    with socket.create_server(("127.0.0.1", 0)) as agent:
        port = {"MASTER_PORT": str(agent.getsockname()[1])}
        for variables in (
            TORCH | PLACE | {"TORCHELASTIC_RUN_ID": "none"},
            TORCH | PLACE | port | {"TORCHELASTIC_RUN_ID": "none", "TORCHELASTIC_USE_AGENT_STORE": "True"},
            SLURM | STEP | MPI | PLACE,
            SLURM | STEP | TORCH,
            TORCH | PLACE | {PARENT: str(os.getppid())},
        ):
            with pytest.MonkeyPatch.context() as patch:
                for item in variables.items():
                    patch.setenv(*item)
                with alone_or_launched():
                    assert set(variables) <= set(os.environ)
    assert capsys.readouterr().err == ""


def test_a_child_without_its_parent_does_nothing(environment, cli):
    environment({PARENT: "1", "LOCAL_RANK": "1"})
    code, printed, errors = cli("list", "edits")
    assert (code, printed, errors.count("\n")) == (2, "", 1)
    assert "has ended" in errors


def test_a_training_with_a_stray_rank_trains(tmp_path):
    left = {"LOCAL_RANK": "1", "RANK": "1", "WORLD_SIZE": "4", "SLURM_PROCID": "1", "SLURM_NTASKS": "4"}
    command = [sys.executable, "-m", "vitmem", "train", f"--out={tmp_path}", *QUICK]
    environment = {**os.environ, **left, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    assert "the model is in" in done.stdout
    assert done.stderr.count("vitmem: ") == 1
    assert (tmp_path / "default" / "seed0" / "model.safetensors").exists()
