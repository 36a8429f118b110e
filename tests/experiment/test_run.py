import csv
import dataclasses
import shutil

import pytest
from cases import QUICK
from edited_runs import Explode

from vitmem.experiment.results import evaluate_folder
from vitmem.runs.trained import TrainedRun


def test_an_edit_that_diverges_stops_nothing_else(cli, registered, run_folder, tmp_path):
    code, printed, errors = cli("edit", "explode", run_folder)
    assert (code, printed) == (1, "")
    assert errors.count("\n") == 1
    assert "diverged: the loss is nan at step 3" in errors
    assert not (run_folder / "edits" / "explode" / "model.safetensors").exists()
    rows = {row["id"]: row for row in evaluate_folder(TrainedRun.open(run_folder))}
    assert rows["explode"]["status"].startswith("diverged: ")
    assert "memorized_accuracy" not in rows["explode"]
    assert {"base", "kfac-rho0.9", "explode"} == set(rows)
    folder = tmp_path / "again" / "small" / "seed0"
    shutil.copytree(run_folder, folder)
    file = tmp_path / "small.yaml"
    file.write_text(
        "name: small\nreferences: []\nfigures: false\n"
        "model: {width: 16, depth: 2, heads: 2, patch: 4}\n"
        "train: {epochs: 2, batch_size: 200, warmup_epochs: 1}\n"
        "edits: [{name: explode}, {name: explode, id: nan, how: nan}, "
        "{name: explode, id: big, how: fails}, {name: svd}]\n"
    )
    code, printed, errors = cli("run", file, f"--out={tmp_path / 'again'}")
    assert code == 0, errors
    assert "explode (seed 0): diverged: the loss is nan at step 3" in printed
    assert "nan (seed 0): diverged: head.bias is not finite" in printed
    assert "big (seed 0): failed: there is no kernel" in printed
    lines = (tmp_path / "again" / "small" / "results.csv").read_text().splitlines()
    assert [line.split(",")[2] for line in lines[1:]] == [
        "base", "explode", "nan", "big", "svd-keep0.1", "kfac-rho0.9"  # which the folder holds, too
    ]  # fmt: skip


@pytest.mark.parametrize("tune", [0, 2])
def test_want_of_memory_fails_the_stage_and_is_no_result(cli, registered, run_folder, tmp_path, monkeypatch, tune):
    monkeypatch.setattr(Explode, "search", {"how": ("choice", "nan", "memory")})
    file = tmp_path / "tiny.yaml"
    file.write_text(
        "references: []\nfigures: false\nmodel: {width: 16, depth: 2, heads: 2, patch: 4}\n"
        "train: {epochs: 2, batch_size: 200, warmup_epochs: 1}\nedits: [{name: explode, how: memory}]\n"
        f"tune: {tune}\n"
    )
    code, _, errors = cli("run", file, f"--out={tmp_path}", "--name=tiny")
    assert code == 3
    assert errors.startswith("vitmem: failed: tiny/seed0 measure: edit explode: [enforce fail")
    assert "free memory" in errors
    assert not list(run_folder.glob("edits/explode*/edit.json"))
    assert not list(run_folder.glob("tuning/*"))
    assert cli("edit", "explode", run_folder, "--how=memory")[0] == 1


@pytest.mark.slow
def test_early_stopping_is_a_reference_of_its_own(cli, tmp_path):
    """Its weights are those of the epoch that is best on half of validation; attacks tell it from the base model."""
    file = tmp_path / "a.yaml"
    file.write_text(
        "references: [early_stop]\nfigures: false\nattacks: [{name: quantize, bits: [4], examples: 50}]\n"
        "model: {width: 16, depth: 2, heads: 2, patch: 4}\n"
        "train: {epochs: 3, batch_size: 400, warmup_epochs: 0, lr: 3e-3}\n"
    )
    code, _, errors = cli("run", file, f"--out={tmp_path}")
    assert code == 0, errors
    base, stopped = (TrainedRun.open(tmp_path / "a" / name) for name in ("seed0", "seed0-early_stop"))
    assert (base.kind, stopped.kind) == ("base", "early_stop")
    assert stopped.config == dataclasses.replace(
        base.config, train=dataclasses.replace(base.config.train, early_stop=True)
    )
    with (tmp_path / "a" / "results.csv").open() as table:
        assert [row["id"] for row in csv.DictReader(table)] == ["base", "early_stop"]
    with (tmp_path / "a" / "attacks.csv").open() as table:
        assert {row["id"] for row in csv.DictReader(table)} == {"base", "early_stop"}


@pytest.mark.slow
def test_a_dry_run_tells_that_the_data_are_other_ones(cli, run_folder, tmp_path, other_digits):
    plan = tmp_path / "plan.yaml"
    plan.write_text("references: []\n")
    command = ("run", plan, f"--out={run_folder.parents[1]}", "--name=tiny", *QUICK, "--dry_run")
    assert "the command will refuse" not in cli(*command)[1]
    assert "other settings" in cli(*command, "--noise.rate=0.2")[1]
    other_digits()
    assert "seed0 hold runs of other data than those at hand: the command will refuse" in cli(*command)[1]
