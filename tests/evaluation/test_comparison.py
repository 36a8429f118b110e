"""Methods of an experiment beside each other."""

import math

import pytest

from vitmem.evaluation.comparison import compare, comparison_table


def test_methods_are_compared_with_kfac_seed_by_seed():
    def row(name, seed, value, point="best", status="ok"):
        return {"edit": name, "point": point, "id": f"{name}-{point}", "seed": seed, "status": status,
                "ground_truth_unseen_accuracy": value}  # fmt: skip

    rows = [row("kfac", 0, 0.3), row("kfac", 1, 0.5), row("npo", 0, 0.5), row("npo", 1, 0.6), row("npo", 2, 0.9),
            row("kfac", 0, 0.1, "at0.2"), row("npo", 0, 0.2, "at0.2"), row("svd", 1, 0.4, status="at chance"),
            {"edit": "", "id": "base", "seed": 0, "ground_truth_unseen_accuracy": 0.0}]  # fmt: skip
    found = {(line["method"], line["point"]): line for line in compare(rows)}
    name = "ground_truth_unseen_accuracy_minus_kfac"
    best = found["npo", "best"]
    assert best[name] == pytest.approx(0.15)  # seeds 0 and 1
    assert best[f"{name}_high"] - best[name] == pytest.approx(12.706 * 0.05, rel=1e-3)  # t, one degree of freedom
    assert found["npo", "at0.2"][name] == pytest.approx(0.1)
    assert math.isnan(found["svd", "best"][name])
    assert math.isnan(found["base", "reference"][name])
    assert best["ground_truth_unseen_accuracy_above_kfac"] == "2/2"
    assert found["svd", "best"]["ground_truth_unseen_accuracy_above_kfac"] == ""
    assert "+0.150 [-0.485, +0.785] (2/2)" in comparison_table(rows)
    rows[2] = row("npo", 0, 0.3)
    assert "+0.050 [-0.585, +0.685] (1/2)" in comparison_table(rows)


def test_the_comparison_leaves_failed_seeds_out():
    row = {"edit": "x", "point": "best", "id": "x-best", "track": "label-free (tuned)", "trials": 4, "passes": 1.0}
    rows = [
        {"id": "base", "seed": 0, "edit": "", "ground_truth_unseen_accuracy": 0.0},
        {**row, "seed": 0, "status": "ok", "ground_truth_unseen_accuracy": 0.5},
        {**row, "seed": 1, "status": "ok", "ground_truth_unseen_accuracy": 0.7},
        {**row, "seed": 2, "status": "at chance", "ground_truth_unseen_accuracy": 0.1},
    ]
    _, line = compare(rows)
    assert (line["method"], line["seeds"], line["usable_seeds"]) == ("x", 3, 2)
    assert line["ground_truth_unseen_accuracy"] == pytest.approx(0.6)
    assert line["ground_truth_unseen_accuracy_sd"] == pytest.approx(math.sqrt(0.02))
    text = comparison_table(rows)
    assert "| x (at chance, 1 of 3 seeds) | label-free (tuned) |" in text
    assert "0.600 ± 0.141" in text
