"""The tables of matched strength: who is missing, and what the verdicts say."""

import importlib
import json
import math
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

HERE = Path(__file__).parents[2] / "experiments"


@pytest.fixture
def contest(monkeypatch):
    monkeypatch.syspath_prepend(str(HERE))
    return importlib.import_module("contest")


def row(method, seed, truth, point="0.2", tuned=0.2, status="ok", **more):
    label = point if point == "best" else f"at{point}"
    found = {"id": f"{method}-{label}", "seed": float(seed), "point": label, "status": status, "plan": "abc"}
    accuracies = {"memorized_unseen_accuracy": 0.2, "ground_truth_unseen_accuracy": truth}
    accuracies |= {"clean_train_accuracy": 0.9, "validation_held_out_accuracy": truth}
    return found | accuracies | {"tuned_memorized": tuned, "kept_validation": "True"} | more


def rows(values, method, **more):
    return [row(method, seed, value, **more) for seed, value in enumerate(values)]


def test_what_was_not_reached_is_missing(contest):
    table = [row("a", 0, 0.5), row("a", 1, 0.9, tuned=0.26), row("a", 2, 0.9, status="at chance")]
    table += [row("b", 0, 0.5, point="best"), row("b", 1, 0.9, point="best", kept_validation="False")]
    found = contest.at_point(table, "0.2")
    truth = [found["a"][seed]["ground_truth_unseen_accuracy"] for seed in range(3)]
    assert truth[0] == 0.5
    assert all(map(math.isnan, truth[1:]))
    best = contest.at_point(table, "best")["b"]
    assert best[0]["ground_truth_unseen_accuracy"] == 0.5
    assert math.isnan(best[1]["ground_truth_unseen_accuracy"])


def test_frontiers_of_the_reported_half_are_read_by_interpolation(contest):
    table = [row("a", 0, 0.2, "0.4", 0.4, memorized_unseen_accuracy=0.3, value=0.9)]
    table += [row("a", 0, 0.6, "0.2", 0.2, memorized_unseen_accuracy=0.1, value=0.5)]
    table += [row("b", 0, 0.2, "0.4", 0.4, memorized_unseen_accuracy=0.3, value=0.9)]
    found = contest.interpolated(table, "0.2")
    assert found["a"][0]["ground_truth_unseen_accuracy"] == pytest.approx(0.4)
    assert math.isnan(found["b"][0]["ground_truth_unseen_accuracy"])


def test_verdicts(contest):
    noise = [0.0, 0.002, -0.002, 0.001, -0.001, 0.0, 0.001, -0.001]
    table = rows([0.5 + e for e in noise], "scale") + rows([0.6 - 2 * e for e in noise], "above")
    table += rows([0.505 + 3 * e for e in noise], "same") + rows([0.4 + e for e in noise[:1]], "alone")
    lines = contest.table(table, "0.2", ["scale", "absent"], 0.02)
    verdicts = {line.split(" | ")[0].strip("| "): line.split(" | ")[5:] for line in lines if line.startswith("| ")}
    assert [name for name in verdicts if name != "method"] == ["above", "same", "scale", "alone"]
    assert verdicts["above"][0].startswith("+0.100")
    assert verdicts["above"][2].startswith("better, p ")
    assert verdicts["same"][2].startswith(("equal", "better (within the margin)"))
    assert verdicts["alone"][2] == "undecided"
    assert verdicts["scale"][0] == ""


def test_it_prints_tables_of_a_results_file(contest, tmp_path, monkeypatch, capsys):
    base = {**row("base", 0, 0.0), "id": "base", "point": "", "tuned_memorized": "", "kept_validation": ""}
    table = [base, *rows([0.5, 0.6], "scale"), *rows([0.7, 0.8], "rewind"), *rows([0.1, 0.2], "other")]
    path = tmp_path / "results.csv"
    path.write_text("\n".join([",".join(base), *(",".join(str(r[k]) for k in base) for r in table)]) + "\n")
    monkeypatch.setattr("sys.argv", ["contest.py", str(path), "--points=0.2", "--only=scale,rewind"])
    contest.main()
    printed = capsys.readouterr().out
    assert "Plan abc, 2 seeds." in printed
    assert "| rewind | 0.200 ± 0.000 | 0.750 ± 0.071 |" in printed
    assert "| *base* | 0.200 | 0.000 |" in printed
    assert "other" not in printed


def test_the_contest_of_one_gpu_runs_at_toy_size(contest, tmp_path, monkeypatch, capsys):
    script = importlib.import_module("gpu_contest")
    monkeypatch.setitem(script.TOY, "train", {"epochs": 2, "batch_size": 400, "warmup_epochs": 0})
    monkeypatch.setattr("sys.argv", ["gpu_contest.py", "--toy", "--out", str(tmp_path)])
    assert script.main() == 0
    folder = tmp_path / "gpu_contest"
    facts = json.loads((folder / "facts.json").read_text())
    assert (facts["device"], facts["epochs"]) == ("cpu", 2)
    assert 0 < facts["model_flops_utilisation"] < 1
    assert "### At memorized 0.2" in (folder / "contest.md").read_text()
    assert "| graded_of_update |" in capsys.readouterr().out


def test_training_is_cut_to_what_fits(contest, monkeypatch):
    script = importlib.import_module("gpu_contest")
    plan = type("Plan", (), {"hours": 2.0})  # of 60 epochs: two minutes each
    monkeypatch.setattr(script.cost, "plan", lambda *_: plan)
    assert script.planned(script.TOY, minutes=30)[0]["train"]["epochs"] == 9  # of 18 minutes
    assert script.planned(script.TOY, minutes=1000)[0]["train"]["epochs"] == 60
    assert script.planned(script.TOY, minutes=0.1)[0]["train"]["epochs"] == 1
