import math
import statistics

import pytest
from drawn import ACCURACIES, write_csv, write_results

from vitmem.figures import frontier, style
from vitmem.figures.palette import Palette
from vitmem.figures.tables import read_csv, read_results


def drawn(rows):
    """Return the line of the CSV of each id and setting."""
    return {(row["id"], row["value"]): row for row in rows}


@pytest.mark.slow
def test_frontier_means_over_seeds_in_the_order_of_the_option(tmp_path):
    models = {"base": ("", "", ""), "retrain": ("", "", ""), "clean": ("", "", "")}
    models |= {f"{name}-rho{rho}": (name, "rho", rho) for name in ("ekfac", "kfac") for rho in (0.9, 0.5)}
    models["svd-keep0.1"] = ("svd", "keep", 0.1)  # one value is a point
    models["salun"] = ("salun", "", "")  # and so is what has no option
    write_results(tmp_path / "results.csv", seeds=(0, 1, 2), models=models)
    assert [path.name for path in frontier.draw(tmp_path / "results.csv", tmp_path)] == ["frontier.png"]
    rows = read_csv(tmp_path / "frontier.csv")
    names = ["ekfac", "ekfac", "kfac", "kfac", "svd", "salun", "base", "retrain", "clean"]
    assert [row["id"] for row in rows] == names
    assert [row["value"] for row in rows[:5]] == [0.5, 0.9, 0.5, 0.9, 0.1]
    for metric in ("memorized_accuracy", "validation_accuracy", "ground_truth_accuracy"):
        accuracies = [0.8, 0.9, 1.0]  # of ekfac-rho0.5, the fifth model
        expected = [statistics.fmean(accuracies), statistics.stdev(accuracies), 3]
        assert [rows[0][f"{metric}{part}"] for part in ("", "_sd", "_seeds")] == pytest.approx(expected)
    assert rows[7]["validation_accuracy"] == pytest.approx(0.3)


def write_statuses(path):
    header = ["seed", "id", "edit", "option", "value", "point", "status", *ACCURACIES]
    rows = [[seed, "base", "", "", "", "", "ok", 1, 0, 1, 0.9] for seed in (0, 1)]
    for seed in (0, 1):
        rows += [[seed, f"kfac-rho{rho}", "kfac", "rho", rho, "", "ok", rho, 0.5, 0.5, 0.5] for rho in (0.5, 0.9)]
        rows.append([seed, "svd-keep0.1", "svd", "keep", 0.1, "", "at chance", 0.1, 0.1, 0.1, 0.1])
        status = ("ok", "diverged: nan")[seed]
        rows.append([seed, "svd-keep0.5", "svd", "keep", 0.5, "", status, 0.4 + seed, 0.1, 0.1, 0.8])
        rows.append([seed, "npo-lr1", "npo", "lr", 1, "", "diverged: nan", "", "", "", ""])
        rows += [
            [seed, f"ssd-{point}", "ssd", "alpha", 3 + seed, point, "ok", memory, 0.5, 0.5, 0.5]
            for point, memory in (("best", 0.5), ("at0.1", 0.1), ("at0.4", 0.4))
        ]
    write_csv(path, header, rows)


@pytest.mark.slow
def test_frontier_leaves_nothing_out_without_a_word(tmp_path):
    write_statuses(tmp_path / "results.csv")
    frontier.draw(tmp_path / "results.csv", tmp_path)
    rows = read_csv(tmp_path / "frontier.csv")
    assert [(row["id"], row["value"]) for row in rows if row["id"] == "ssd"] == [
        ("ssd", "at0.4"), ("ssd", "at0.1"), ("ssd", "best")
    ]  # fmt: skip
    found = drawn(rows)
    chance, some, lost = found["svd", 0.1], found["svd", 0.5], found["npo", 1.0]
    assert (chance["memorized_accuracy"], chance["seeds_at_chance"], chance["seeds_failed"]) == (0.1, 2, 0)
    assert (some["memorized_accuracy"], some["memorized_accuracy_seeds"], some["seeds_failed"]) == (0.4, 1, 1)
    assert math.isnan(lost["memorized_accuracy"])
    assert lost["seeds_failed"] == 2
    table = read_results(tmp_path / "results.csv")
    palette = Palette(table)
    told = frontier.note(palette, [(edit, frontier.points(edit.rows)) for edit in palette.edits], 2)
    assert told.splitlines() == [
        "bars: ± sd over 2 seeds; hollow: at chance in every seed",
        "without seeds that were at chance or diverged: SVD, keep 0.5 (1 of 2 left out)",
        "not drawn, since not measured or diverged in every seed: NPO, lr 1",
    ]


@pytest.mark.parametrize("more", [0, 2])
def test_what_is_at_chance_is_hollow_and_off_the_line(tmp_path, monkeypatch, more):
    write_statuses(tmp_path / "results.csv")
    if more:
        monkeypatch.setattr("vitmem.figures.multiples.MOST", 2)
    figures = []
    monkeypatch.setattr(style, "save", lambda figure, *rest: figures.append(figure))
    frontier.draw(tmp_path / "results.csv", tmp_path)
    panels = [axes for axes in figures[0].axes if axes.lines]
    titles = [axes.get_title() for axes in panels]
    assert titles == (["K-FAC", "SVD", "NPO", "SSD"] if more else ["", ""])
    axes = panels[1 if more else 0]
    hollow = [line for line in axes.lines if line.get_markerfacecolor() == "white" and line.get_marker() != "None"]
    assert {(line.get_xdata()[0], round(line.get_ydata()[0], 6)) for line in hollow} == {(0.1, 0.1)}
    lines = [line for line in axes.lines if line.get_linestyle() not in ("None", ":") and len(line.get_xdata())]
    assert all(0.1 not in line.get_xdata() or 0.4 in line.get_xdata() for line in lines)  # the latter is SSD's


def test_a_long_note_counts_what_it_does_not_name(tmp_path):
    header = ["seed", "id", "edit", "option", "value", "status", *ACCURACIES]
    rows = [[0, f"kfac-rho{n}", "kfac", "rho", n, "diverged: nan", "", "", "", ""] for n in range(1, 16)]
    write_csv(tmp_path / "results.csv", header, rows)
    palette = Palette(read_results(tmp_path / "results.csv"))
    told = frontier.note(palette, [(edit, frontier.points(edit.rows)) for edit in palette.edits], 1)
    assert told.startswith("1 seed\nnot drawn")
    assert told.endswith("K-FAC, rho 12; and 3 more, in the CSV")
    assert frontier.draw(tmp_path / "results.csv", tmp_path) == []


@pytest.mark.slow
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


@pytest.mark.slow
def test_frontier_tells_many_families_apart(tmp_path):
    models = {f"family{n}-rho{rho}": ("kfac", "rho", rho) for n in range(13) for rho in (0.5, 0.9)}
    write_results(tmp_path / "results.csv", models=models)
    frontier.draw(tmp_path / "results.csv", tmp_path)
    assert len(read_csv(tmp_path / "frontier.csv")) == 26


def test_frontier_of_references_alone_draws_nothing(tmp_path):
    write_results(tmp_path / "results.csv", models={"base": ("", "", ""), "retrain": ("", "", "")})
    assert frontier.draw(tmp_path / "results.csv", tmp_path) == []
