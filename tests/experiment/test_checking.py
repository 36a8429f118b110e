"""``vitmem check``: one line for each thing that is wrong, and nothing is written."""

import json
import os
import shutil
import subprocess
import sys

import pytest
from cases import QUICK
from edited_runs import rewritten

from vitmem.files import _machine
from vitmem.runs.folder import held


def stamps(folder):
    return sorted((str(p), p.stat().st_mtime_ns) for p in folder.rglob("*"))


def test_a_good_run_is_ok_and_left_alone(cli, run_folder):
    before = stamps(run_folder.parent)
    code, printed, errors = cli("check", run_folder)
    assert (code, errors) == (0, "")
    assert printed == "ok: 1 run, 1 edit, 2 measurements, 1 file of curvature, 1 file of spectra\n"
    assert cli("check", run_folder.parent, "--data")[:2] == (0, printed)
    assert stamps(run_folder.parent) == before


def text(old, new):
    return lambda path: path.write_text(path.read_text().replace(old, new, 1))


def truncate(path):
    path.write_bytes(path.read_bytes()[:-20])


def other_heads(path):
    content = json.loads(path.read_text())
    content["timm"]["num_heads"] = 4
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("name", "damage", "words"),
    [
        ("provenance.json", truncate, "provenance.json is malformed"),
        ("config.yaml", text("0", "1"), "config.yaml was changed or damaged"),
        ("noise.csv", truncate, "noise.csv was changed or damaged"),
        ("model.safetensors", truncate, "model.safetensors was changed or damaged"),
        ("metrics.csv", lambda path: path.unlink(), "metrics.csv is missing"),
        ("edits/kfac-rho0.9/edit.json", truncate, "edit.json is malformed"),
        ("edits/kfac-rho0.9/edit.json", text('"rho": 0.9', '"rho": 0.8'), "edit.json was changed after it was written"),
        ("edits/kfac-rho0.9/edit.json", lambda path: path.unlink(), "kfac-rho0.9 holds no edit.json"),
        ("edits/kfac-rho0.9/model.safetensors", truncate, "model.safetensors was changed or damaged"),
        ("edits/kfac-rho0.9/model.json", other_heads, "is not the run's own"),
        ("edits/kfac-rho0.9/model.json", truncate, "model.json is malformed"),
        ("edits/kfac-rho0.9", lambda path: path.rename(path.with_name("other")), "holds an edit called 'kfac-rho0.9'"),
        ("edits/kfac-rho0.9", shutil.rmtree, "kfac-rho0.9 holds measurements of an edit that is gone"),
        ("evals/base/metrics.json", text('"n": 130', '"n": 13'), "metrics.json was changed after it was written"),
        ("evals/base/metrics.json", lambda path: rewritten(path, inputs="0" * 64), "is of other weights or data"),
        ("evals/base/examples.npz", truncate, "examples.npz is missing, or was changed"),
        ("evals/base/examples.npz", lambda path: path.unlink(), "examples.npz is missing, or was changed"),
        ("evals/base/attacks/views.json", lambda path: make(path, "{}"), "views.json is malformed: id is missing"),
        ("tuning/kfac.jsonl", lambda path: make(path, "{"), "kfac.jsonl is malformed: it is no JSON"),
        ("attacks/shadows-0/shadow0000.npz", lambda path: make(path, "x"), "shadow0000.npz cannot be read"),
        ("factors/x.safetensors", lambda path: make(path, "x"), "x.safetensors cannot be read"),
        ("config.yaml.123.partial", lambda path: make(path, "x"), "was left by a command that was killed"),
        ("attacks/shadows-0/shadow0000.work", lambda path: path.mkdir(parents=True), "was left by a command"),
    ],
)
def test_what_is_wrong_is_told_with_its_name(cli, run_folder, name, damage, words):
    damage(run_folder / name)
    before = stamps(run_folder.parent)
    code, printed, errors = cli("check", run_folder.parent)
    assert (code, errors) == (1, "")
    *told, summary = printed.splitlines()
    assert summary.startswith(f"{len(told)} ")
    assert any(words in line and str(run_folder) in line for line in told), printed
    assert len(told) <= 2  # what follows from it may be told, too
    assert stamps(run_folder.parent) == before


def make(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


@pytest.mark.slow
def test_references_seeds_and_leftovers_of_an_experiment(cli, run_folder, tmp_path):
    other = [*QUICK, "--train_on=retrain", "--noise.rate=0.4", "--name=other", f"--out={tmp_path}"]
    assert cli("train", *other)[0] == 0
    folder = run_folder.parent
    shutil.copytree(tmp_path / "other" / "seed0-retrain", folder / "seed0-retrain")
    shutil.copytree(run_folder, folder / "seed1")
    (folder / ".seed2.partial").mkdir()  # of an earlier version
    ended = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    left, alive = (folder / f".{_machine()}-{pid}-0123abcd.partial" for pid in (int(ended.stdout), os.getpid()))
    left.mkdir()
    alive.mkdir()
    code, printed, _ = cli("check", folder)
    assert code == 1
    assert f"{folder / 'seed0-retrain'} cannot be compared with {run_folder}" in printed
    assert f"{folder / 'seed1'} holds the run of seed 0" in printed
    assert f"{folder / '.seed2.partial'} was left by a command that was killed" in printed
    assert f"{left} was left by a command that was killed" in printed
    assert str(alive) not in printed
    assert printed.splitlines()[-1].startswith("4 of these are wrong in: 3 runs")


def test_a_run_that_waits_for_the_one_that_replaces_it_is_not_left(cli, run_folder):
    shutil.copytree(run_folder, run_folder.with_name(".seed0.replaced"))
    assert ".seed0.replaced was left by a command" in cli("check", run_folder.parent)[1]
    with held(run_folder):
        assert ".seed0.replaced" not in cli("check", run_folder.parent)[1]


def test_an_unfinished_run_is_not_wrong_and_one_in_use_is_told(cli, run_folder):
    provenance = json.loads((run_folder / "provenance.json").read_text())
    del provenance["sha256"]["model.safetensors"]
    (run_folder / "provenance.json").write_text(json.dumps(provenance))
    assert cli("check", run_folder)[:2] == (0, "ok: 1 run, 1 unfinished run\n")
    with held(run_folder):
        printed = cli("check", run_folder)[1]
    assert "is in use by" in printed


def test_other_data_are_found_where_they_are_asked_for(cli, run_folder, other_digits):
    other_digits()
    assert cli("check", run_folder)[0] == 0
    code, printed, _ = cli("check", run_folder, "--data")
    assert code == 1
    assert "the data at hand are not those" in printed


@pytest.mark.parametrize("name", ["nowhere", "."])
def test_what_is_no_run_is_refused(cli, tmp_path, name):
    code, printed, errors = cli("check", tmp_path / name)
    assert (code, printed, errors.count("\n")) == (2, "", 1)
    assert "is neither a run folder nor one of an experiment" in errors
