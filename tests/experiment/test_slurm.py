import csv
import os
import subprocess
import sys
import time

import pytest
import slurm_here
from cases import SMALL

from vitmem.experiment.slurm import read_slurm


@pytest.mark.parametrize("text", ["partition", "=gpu", "a b=3", "partition="])
def test_options_of_sbatch_are_names_with_values(text):
    with pytest.raises(ValueError, match="give options of sbatch"):
        read_slurm(text)


def test_options_are_read():
    assert read_slurm("partition=gpu, time=90,mem=8GB") == {"partition": "gpu", "time": 90, "mem": "8GB"}


def test_without_slurm_the_command_says_so(cli, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    file = tmp_path / "small.yaml"
    file.write_text(SMALL)
    code, _, errors = cli("run", file, f"--out={tmp_path}", "--launcher=slurm")
    assert (code, errors.count("\n")) == (2, 1)
    assert "there is no sbatch here" in errors
    assert not (tmp_path / "small" / "seed0").exists()
    assert "give --launcher slurm" in cli("run", file, f"--out={tmp_path}", "--slurm=partition=a")[2]
    assert "give local or slurm" in cli("run", file, f"--out={tmp_path}", "--launcher=ssh")[2]


def results(folder):
    with (folder / "small" / "results.csv").open() as file:
        left_out = ("seconds", "extra_memory_mib")
        return [{k: v for k, v in row.items() if k not in left_out} for row in csv.DictReader(file)]


@pytest.mark.slow
@pytest.mark.slurm
def test_slurm_runs_the_grid_with_one_job_killed_and_requeued(tmp_path):
    pytest.importorskip("submitit", reason="submitit is not installed: pip install 'vitmem[slurm]'")
    if why := slurm_here.lacking():
        pytest.skip(why)
    file = tmp_path / "small.yaml"
    file.write_text(SMALL.replace("epochs: 2", "epochs: 25") + "seeds: [0, 1]\n")
    command = [sys.executable, "-m", "vitmem", "run", str(file)]
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}
    alone = subprocess.run([*command, f"--out={tmp_path / 'alone'}"], env=one_thread, capture_output=True, text=True)
    assert alone.returncode == 0, alone.stderr
    with slurm_here.slurm(tmp_path / "slurm") as environment:
        options = [f"--out={tmp_path / 'jobs'}", "--launcher=slurm", "--jobs=2", "--slurm=partition=all"]
        process = subprocess.Popen([*command, *options], env=environment, stdout=subprocess.PIPE, text=True)
        killed = _first_at_work(environment, tmp_path / "jobs" / "small")
        subprocess.run(["scontrol", "requeue", killed], env=environment, check=True)
        printed, _ = process.communicate(timeout=500)
    assert process.returncode == 0, printed
    assert printed.count("Slurm: ") >= 2
    assert results(tmp_path / "jobs") == results(tmp_path / "alone")


def _first_at_work(environment, folder) -> str:
    """Wait until a job trains a model, and return its id."""
    for _ in range(600):
        told = subprocess.run(
            ["squeue", "-h", "--array", "-t", "R", "-o", "%i"], env=environment, capture_output=True, text=True
        ).stdout.split()
        if told and any(folder.glob("seed*/provenance.json")):
            return told[0]
        time.sleep(0.3)
    raise RuntimeError("no job began")
