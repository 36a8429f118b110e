import json

import pytest
import torch

from vitmem.evaluation.tables import terminal_table
from vitmem.experiment.results import run_rows
from vitmem.runs.evaluate import evaluate, status_of
from vitmem.runs.trained import TrainedRun


@pytest.mark.slow
def test_an_evaluation_follows_its_weights(cli, run_folder):
    metrics = run_folder / "evals" / "kfac-rho0.9" / "metrics.json"
    before, stamp = json.loads(metrics.read_text())["inputs"], metrics.stat().st_mtime_ns
    assert cli("eval", run_folder)[0] == 0
    assert metrics.stat().st_mtime_ns == stamp
    assert cli("edit", "kfac", run_folder, "--rho=0.9", "--draws=2", "--force")[0] == 0
    assert cli("eval", run_folder)[0] == 0
    assert json.loads(metrics.read_text())["inputs"] != before


def test_eval_prints_base_and_edits_and_those_asked_for(cli, run_folder):
    code, printed, _ = cli("eval", run_folder)
    assert code == 0
    assert [line.split()[0] for line in printed.splitlines()[2:4]] == ["base", "kfac-rho0.9"]
    code, printed, _ = cli("eval", run_folder, "--edits=base")
    assert "kfac" not in printed
    code, _, errors = cli("eval", run_folder, "--edits=kfac-rho0.1")
    assert code == 2
    assert "edits of this run: kfac-rho0.9" in errors


@pytest.mark.parametrize("content", ["", "[]", "{}", "not json"])
def test_a_damaged_evaluation_is_measured_again(cli, run_folder, content):
    metrics = run_folder / "evals" / "base" / "metrics.json"
    before = json.loads(metrics.read_text())["metrics"]
    metrics.write_text(content)
    assert cli("eval", run_folder)[0] == 0
    assert json.loads(metrics.read_text())["metrics"] == before


def test_a_base_model_that_computes_nan_has_a_status(run_folder):
    run = TrainedRun.open(run_folder)
    with torch.no_grad():
        run.model.head.bias[1] = torch.nan
    content = evaluate(run, force=True)
    rows = {row["id"]: row for row in run_rows(run, run.edited())}
    assert rows["base"]["status"] == "not finite: the logits of 1797 of 1797 examples"
    assert rows["base"]["memorized_accuracy"] == rows["base"]["ground_truth_accuracy"] == 0
    assert "base (seed 0): not finite" in terminal_table(list(rows.values()))
    del content["status"]  # as files of earlier versions
    assert status_of(content) == "at chance"
    assert status_of(content | {"at_chance": False}) == "ok"
