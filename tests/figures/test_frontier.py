import math
import statistics

import pytest
from drawn import ACCURACIES, write_csv, write_results

from vitmem.figures import frontier
from vitmem.figures.tables import read_csv


def test_frontier_means_over_seeds_in_the_order_of_the_option(tmp_path):
    models = {"base": ("", "", ""), "retrain": ("", "", ""), "clean": ("", "", "")}
    models |= {f"{name}-rho{rho}": (name, "rho", rho) for name in ("ekfac", "kfac") for rho in (0.9, 0.5)}
    models["svd-keep0.1"] = ("svd", "keep", 0.1)  # one value is no line
    write_results(tmp_path / "results.csv", seeds=(0, 1, 2), models=models)
    assert [path.name for path in frontier.draw(tmp_path / "results.csv", tmp_path)] == ["frontier.png"]
    rows = read_csv(tmp_path / "frontier.csv")
    assert [row["id"] for row in rows] == ["ekfac", "ekfac", "kfac", "kfac", "base", "retrain"]
    assert [row["value"] for row in rows[:4]] == [0.5, 0.9, 0.5, 0.9]
    for metric in ("memorized_accuracy", "validation_accuracy", "ground_truth_accuracy"):
        accuracies = [0.8, 0.9, 1.0]  # of ekfac-rho0.5, the fifth model
        expected = [statistics.fmean(accuracies), statistics.stdev(accuracies), 3]
        assert [rows[0][f"{metric}{part}"] for part in ("", "_sd", "_seeds")] == pytest.approx(expected)
    assert rows[5]["validation_accuracy"] == pytest.approx(0.3)


def test_frontier_of_one_seed_has_no_sd_and_leaves_out_what_was_not_measured(tmp_path):
    header = ["seed", "id", "edit", "option", "value", *ACCURACIES]
    rows = [[0, f"kfac-rho{rho}", "kfac", "rho", rho, 0.5, "", 0.5, 0.25] for rho in (0.5, 0.9)]
    write_csv(tmp_path / "results.csv", header, rows)
    frontier.draw(tmp_path / "results.csv", tmp_path)
    row = read_csv(tmp_path / "frontier.csv")[0]
    assert (row["validation_accuracy"], row["validation_accuracy_seeds"]) == (0.25, 1)
    assert math.isnan(row["validation_accuracy_sd"])
    assert math.isnan(row["ground_truth_accuracy"])
    assert row["ground_truth_accuracy_seeds"] == 0


def test_frontier_tells_many_families_apart(tmp_path):
    models = {f"family{n}-rho{rho}": ("kfac", "rho", rho) for n in range(13) for rho in (0.5, 0.9)}
    write_results(tmp_path / "results.csv", models=models)
    frontier.draw(tmp_path / "results.csv", tmp_path)
    assert len(read_csv(tmp_path / "frontier.csv")) == 26
    assert len({*frontier.COLORS}) == len({*frontier.MARKERS}) == 8


def test_frontier_without_a_swept_option_draws_nothing(tmp_path):
    write_results(tmp_path / "results.csv", models={"base": ("", "", ""), "kfac-rho0.5": ("kfac", "rho", 0.5)})
    assert frontier.draw(tmp_path / "results.csv", tmp_path) == []
