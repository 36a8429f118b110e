"""Tables for papers, from the CSV files of an experiment's folder."""

import csv
import io
import statistics

import pytest
from drawn import write_csv, write_results

from vitmem.evaluation.comparison import comparison_csv
from vitmem.experiment.tabulating import experiment_table


def read(table):
    return list(csv.DictReader(io.StringIO(table.typeset("csv", ""))))


def test_results_are_means_over_seeds(tmp_path):
    write_results(tmp_path / "results.csv", seeds=(0, 1, 2))
    table = experiment_table(tmp_path, "results")
    assert [line[0] for line in table.body] == ["before the edit", "K-FAC, rho 0.5", "K-FAC, rho 0.9"]
    assert list(table.titles) == ["", *(f"{n} (n=100)" for n in ("memorized", "ground truth", "clean train",
                                                                "validation"))]  # fmt: skip
    cell = table.body[1][1]
    values = [0.2, 0.3, 0.4]
    assert (cell.value, cell.sd, cell.seeds) == pytest.approx((0.3, statistics.stdev(values), 3))
    assert table.notes[0].startswith("mean ± sd over 3 seeds")
    (tmp_path / "one").mkdir()
    write_results(tmp_path / "one" / "results.csv")
    cell = experiment_table(tmp_path / "one", "results", ["validation_accuracy"]).body[1][1]
    assert (cell.value, cell.low, cell.high, cell.seeds) == (0.2, 0.2, 0.25, None)


def test_labels_columns_and_what_failed(tmp_path):
    header = ["seed", "id", "edit", "option", "value", "status", "memorized_accuracy", "passes", "track"]
    rows = [[seed, f"npo-lr{lr}", "npo", "lr", lr, "ok" if seed else "diverged: nan", "0.5" if seed else "", 2.5, "x"]
            for seed in (0, 1) for lr in (1, 2)]  # fmt: skip
    write_csv(tmp_path / "results.csv", header, rows)
    table = experiment_table(tmp_path, "results", labels={"npo-lr1": "Ours & theirs"})
    assert [line[0] for line in table.body] == ["Ours & theirs", "NPO, lr 2"]
    assert table.notes[-2:] == ["Ours & theirs (seed 0): diverged: nan", "NPO, lr 2 (seed 0): diverged: nan"]
    assert "0.500 (1)" in table.typeset("markdown", "")
    assert read(experiment_table(tmp_path, "results", ["passes", "track"]))[0] == {
        "id": "NPO, lr 1", "passes": "2.5", "passes_sd": "0.0", "passes_seeds": "2", "track": "x"
    }  # fmt: skip
    with pytest.raises(ValueError, match="columns has 'passse', which is not in the table; it has seed"):
        experiment_table(tmp_path, "results", ["passse"])


def test_two_ids_of_the_same_words_stay_apart(tmp_path):
    header = ["seed", "id", "edit", "option", "value", "memorized_accuracy"]
    write_csv(tmp_path / "results.csv", header, [[0, f"kfac-rho0.5000{n}", "kfac", "rho", 0.5, n] for n in (1, 2)])
    lines = experiment_table(tmp_path, "results").body
    assert [line[0] for line in lines] == [f"K-FAC, rho 0.5 (kfac-rho0.5000{n})" for n in (1, 2)]


def test_attacks_scorecards_classes_and_analyses(tmp_path):
    header = ["experiment", "seed", "id", "attack", "name", "bits", "arm", "metric", "value", "recovery", "reason"]
    rows = [["e", seed, "kfac-rho0.5", "quantize", "quantize", 4, "", "memorized_accuracy", 0.2 + seed, "", ""]
            for seed in (0, 1)]  # fmt: skip
    write_csv(tmp_path / "attacks.csv", header, rows)
    (line,) = experiment_table(tmp_path, "attacks").body
    assert line[:4] == ["K-FAC, rho 0.5", "quantize", "4", "memorized_accuracy"]
    assert (line[-1].value, line[-1].seeds) == (pytest.approx(0.7), 2)

    cards = [["e", seed, "svd-keep0.1", "verbatim", 0.5 + 0.1 * seed, "", "", ""] for seed in (0, 1)]
    cards.append(["e", "", "svd-keep0.1", "durable_left", 0.45, 0.4, 0.5, ""])
    cards.append(["e", "", "svd-keep0.1", "durable", 0, "", "", "why"])
    header = ["experiment", "seed", "id", "criterion", "value", "low", "high", "reason"]
    write_csv(tmp_path / "scorecard.csv", header, cards)
    table = experiment_table(tmp_path, "scorecard")
    assert list(table.names) == ["id", "verbatim", "durable_left", "verdict"]
    name, verbatim, left, verdict = table.body[0]
    assert (name, verdict, verbatim.value, verbatim.seeds) == ("SVD, keep 0.1", "not durable", pytest.approx(0.55), 2)
    assert (left.value, left.low, left.high) == (0.45, 0.4, 0.5)

    (tmp_path / "analyses").mkdir()
    rows = [["e", s, "base", "b", "bands", layer, 3, 0.5 + s, 0.1, 0.9, 0.3 + s / 7] for s in (0, 1) for layer in "xy"]
    header = [
        "experiment",
        "seed",
        "id",
        "analysis",
        "name",
        "layer",
        "images",
        "ratio",
        "ratio_low",
        "ratio_high",
        "p",
    ]
    write_csv(tmp_path / "analyses" / "b.csv", header, rows)
    table = experiment_table(tmp_path, "b")
    assert list(table.names) == ["id", "layer", "images", "ratio", "p"]
    assert [(line[1], line[3].value) for line in table.body] == [("x", 1.0), ("y", 1.0)]
    table = experiment_table(tmp_path, "b", ["ratio"])  # numbers that are not asked for tell no lines apart
    assert [(line[1], line[3].value, line[3].seeds) for line in table.body] == [("x", 1.0, 2), ("y", 1.0, 2)]


def test_a_comparison_has_means_and_sd_of_its_own(tmp_path):
    rows = [
        {"id": f"npo-{point}", "edit": "npo", "seed": seed, "point": point, "track": "known", "trials": 3,
         "status": status, "ground_truth_unseen_accuracy": 0.5 + 0.2 * seed}
        for point, seed, status in (("best", 0, "ok"), ("best", 1, "ok"), ("at0.2", 0, "at chance"), ("at0.2", 1, "ok"))
    ]  # fmt: skip
    (tmp_path / "comparison.csv").write_text(comparison_csv(rows))
    table = experiment_table(tmp_path, "comparison", ["ground_truth_unseen_accuracy", "status"])
    (_, point, _, value, status), (*_, other, told) = table.body
    assert (point, value.value, value.seeds, status) == ("best", pytest.approx(0.6), 2, "")
    assert (other.value, other.seeds, told) == (pytest.approx(0.7), 1, "at chance")
    assert "0.700 (1)" in table.typeset("latex", "").replace("$", "")
    with pytest.raises(ValueError, match="columns has 'nope'"):
        experiment_table(tmp_path, "comparison", ["nope"])


def test_flips_show_names_of_classes(tmp_path):
    header = ["experiment", "seed", "index", "given_name", "true_name", "given", "true", "cut", "base", "kfac-rho0.5"]
    write_csv(tmp_path / "flips.csv", header, [["e", 0, 7, "cat", "dog", 3, 5, "holds a part", 3, 5],
                                              ["e", 0, 9, "dog", "cat", 5, 3, "", -1, 5]])  # fmt: skip
    table = experiment_table(tmp_path, "flips")
    assert list(table.titles) == ["seed", "index", "given", "true", "before the edit", "K-FAC, rho 0.5"]
    assert table.body == [["0", "7", "cat", "dog", "cat", "dog"], ["0", "9", "dog", "cat", "-1", "dog"]]
    assert table.notes == ["holds a part"]


@pytest.mark.parametrize("name", ["attacks", "nothing", "../results", "analyses/x"])
def test_a_table_that_is_not_there(tmp_path, name):
    write_results(tmp_path / "results.csv")
    with pytest.raises(ValueError, match=r"its tables are results|--table is"):
        experiment_table(tmp_path, name)
    with pytest.raises(ValueError, match=r"has no tables|--table is"):
        experiment_table(tmp_path / "elsewhere", name)
