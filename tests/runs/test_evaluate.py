import json

import pytest


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
