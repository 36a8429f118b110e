"""classes.csv and flips.csv, from what evaluations stored."""

import csv
import json

import numpy as np
import pytest

from vitmem.experiment import per_example
from vitmem.experiment.results import run_rows, write_run_table
from vitmem.figures.tables import read_csv
from vitmem.runs.evaluate import examples
from vitmem.runs.trained import TrainedRun


def rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def measured(run_folder):
    """A finished run, and the rows of its table."""
    run = TrainedRun.open(run_folder)
    return run_folder, run_rows(run, run.edited())


def test_eval_writes_both_tables_beside_the_results(cli, run_folder):
    folder = run_folder.parent
    assert cli("eval", folder)[0] == 0
    assert {"results.csv", "classes.csv", "flips.csv"} <= {path.name for path in folder.iterdir()}
    flips, classes = rows(folder / "flips.csv"), read_csv(folder / "classes.csv", ("id", "by", "class_name"))
    header = ["experiment", "seed", "index", "given_name", "true_name", "given", "true", "base", "kfac-rho0.9"]
    assert list(flips[0]) == header
    for name in ("base", "kfac-rho0.9"):
        metrics = json.loads((run_folder / "evals" / name / "metrics.json").read_text())["metrics"]
        share = np.mean([row[name] == row["given"] for row in flips])
        assert share == pytest.approx(metrics["memorized_accuracy"]["value"])
        own = [row for row in classes if (row["id"], row["by"]) == (name, "true")]
        assert len(own) == 10
        for metric in ("memorized_accuracy", "ground_truth_accuracy", "clean_train_accuracy", "validation_accuracy"):
            assert sum(row[f"{metric}_n"] for row in own) == metrics[metric]["n"]
    assert flips[0]["given_name"] == flips[0]["given"]  # the digits are called so
    before = (folder / "flips.csv").read_bytes(), (folder / "classes.csv").read_bytes()
    assert cli("eval", run_folder)[0] == 0
    assert before == tuple((run_folder / "evals" / f"{name}.csv").read_bytes() for name in ("flips", "classes"))
    assert before == ((folder / "flips.csv").read_bytes(), (folder / "classes.csv").read_bytes())


def test_flips_that_are_cut_say_so(measured, tmp_path, monkeypatch, capsys):
    folder, table = measured
    monkeypatch.setattr(per_example, "MOST_EDITS", 0)
    monkeypatch.setattr(per_example, "MOST_ROWS", 7)
    per_example.write_per_example(tmp_path, {0: folder}, table)
    found = rows(tmp_path / "flips.csv")
    whole = examples(folder)
    noisy = sorted(whole.index[(whole.split == 0) & whole.is_noisy].tolist())
    assert [int(row["index"]) for row in found] == noisy[:7]
    assert "kfac-rho0.9" not in found[0]
    told = f"holds the first 0 of 1 edits, and 7 of {len(noisy)} rows, those of lowest index in each seed"
    assert [row["cut"] for row in found] == [told, *[""] * 6]
    assert told in capsys.readouterr().err


def test_what_cannot_be_read_is_told_and_left_out(measured, tmp_path, capsys):
    folder, table = measured
    (folder / "evals" / "kfac-rho0.9" / "examples.npz").write_bytes(b"damaged")
    per_example.write_per_example(tmp_path, {0: folder}, table)
    assert {row["id"] for row in rows(tmp_path / "classes.csv")} == {"base"}
    assert {row["kfac-rho0.9"] for row in rows(tmp_path / "flips.csv")} == {""}
    assert "left out of classes.csv and flips.csv" in capsys.readouterr().err


def test_a_run_table_has_the_rows_that_are_written(measured):
    folder, table = measured
    assert [row["id"] for row in write_run_table(TrainedRun.open(folder))] == [row["id"] for row in table]
