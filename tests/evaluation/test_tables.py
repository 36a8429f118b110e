import math

from predicted import by_hand

from vitmem.evaluation.metrics import compute
from vitmem.evaluation.tables import add_recovered, columns, mean_sd, result_row, terminal_table, to_csv, usable


def rows():
    metrics = {name: vars(metric) for name, metric in compute(by_hand()).items()}
    identity = {"experiment": "x", "edit": "", "option": "", "value": ""}
    found = [result_row({**identity, "seed": s, "id": i}, metrics, None) for s in (0, 1) for i in ("base", "retrain")]
    found[2]["memorized_accuracy"] = 2 / 3
    add_recovered(found)
    return found


def test_tables():
    one, two = terminal_table(rows()[:2]), terminal_table(rows())
    assert "0.333 [0.061, 0.792]" in one
    assert "memorized (n=3)" in one
    assert "0.500 ± 0.236" in two
    assert "2 seeds" in two
    assert rows()[0]["ground_truth_recovered"] == 1.0
    header, first, *_ = to_csv(rows()).splitlines()
    assert header.split(",") == columns()
    assert first.startswith("x,0,base,,,,0.333")
    assert mean_sd([0.5]) == "0.500 (1 seed)"


def small(name, seed, memorized, ground_truth=None, **more):
    """Return a row with two metrics."""
    row = {"experiment": "x", "seed": seed, "id": name, "edit": "" if name in ("base", "retrain") else name}
    row |= {"memorized_accuracy": memorized, "memorized_accuracy_low": memorized - 0.1}
    row |= {"memorized_accuracy_high": memorized + 0.1, "memorized_accuracy_n": 50}
    return row | {"ground_truth_accuracy": ground_truth, **more}


def test_a_row_has_what_the_edit_kept_and_took():
    layers = [{"pairs": 30, "pairs_kept": 3.0}, {"pairs": 10, "pairs_kept": 7.0}]
    report = {"layers": layers, "seconds": {"collect": 1.0004, "apply": 0.5001}}
    identity = {"experiment": "x", "seed": 0, "id": "kfac", "edit": "kfac", "option": "rho", "value": 0.5}
    metric = {"value": 0.25, "n": 4, "low": 0.1, "high": 0.5}
    found = result_row(identity, {"memorized_accuracy": metric, "given_cross_entropy": metric}, report, passes=2.0)
    assert found == {
        **identity, "status": "ok", "passes": 2.0, "memorized_accuracy": 0.25, "memorized_accuracy_low": 0.1,
        "memorized_accuracy_high": 0.5, "memorized_accuracy_n": 4, "given_cross_entropy": 0.25, "kept_fraction": 0.25,
        "seconds": 1.5,
    }  # fmt: skip
    assert result_row(identity, {}, report, seconds=9.0, status="diverged: x")["seconds"] == 9.0
    bare = result_row(identity, {}, {"layers": [{"layer": "head"}], "seconds": {}})
    assert "kept_fraction" not in bare
    assert bare["seconds"] == 0
    assert "seconds" not in result_row(identity, {}, None)


def test_what_counts_as_a_success():
    assert all(usable({"status": status}) for status in ("ok", "", None))
    assert usable({})
    assert not any(usable({"status": status}) for status in ("at chance", "diverged: x", "failed: y"))


def test_recovered_is_a_share_of_the_same_seeds_retrain():
    rows = [small("retrain", 0, 0.1, 0.8), small("kfac", 0, 0.2, 0.4), small("kfac", 1, 0.2, 0.4), small("npo", 0, 0.2)]
    rows += [small("retrain", 2, 0.1, 0.0), small("kfac", 2, 0.2, 0.0)]
    add_recovered(rows)
    assert [row.get("ground_truth_recovered") for row in rows] == [1.0, 0.5, None, None, None, None]


def test_csv_has_empty_cells_for_what_is_unknown_and_columns_for_options_that_differ():
    rows = [small("base", 0, 0.5, math.nan, **{"train.lr": 0.1}), small("kfac", 0, 0.25, point="best")]
    header, *lines = [line.split(",") for line in to_csv(rows).splitlines()]
    assert header == columns(["train.lr"])
    assert len(header) == len(set(header))
    cells = [{name: cell for name, cell in zip(header, line, strict=True) if cell} for line in lines]
    common = {"experiment": "x", "seed": "0", "memorized_accuracy_n": "50"}
    first = {"memorized_accuracy": "0.5", "memorized_accuracy_low": "0.4", "memorized_accuracy_high": "0.6"}
    second = {"memorized_accuracy": "0.25", "memorized_accuracy_low": "0.15", "memorized_accuracy_high": "0.35"}
    assert cells == [
        {**common, **first, "id": "base", "train.lr": "0.1"},
        {**common, **second, "id": "kfac", "edit": "kfac", "point": "best"},
    ]


ONE_SEED = """
         memorized (n=50)      ground truth (n=)  clean train (n=)  validation (n=)  recovered
----------------------------------------------------------------------------------------------
retrain  0.100 [0.000, 0.200]  -                  -                 -                1.000
kfac     0.250 [0.150, 0.350]  -                  -                 -                0.500
value [95 % Wilson interval]; recovered = ground truth / ground truth of retrain
kfac (seed 0): at chance
"""


def test_the_table_of_one_seed():
    rows = [small("retrain", 0, 0.1, 0.8), small("kfac", 0, 0.25, 0.4, status="at chance")]
    add_recovered(rows)
    for row in rows:
        del row["ground_truth_accuracy"]
    assert terminal_table(rows) == ONE_SEED.strip("\n")


SEVERAL = [
    "memorized (n=50)", "ground truth (n=)", "clean train (n=)", "validation (n=)", "memorized unseen (n=20/30)",
    "ground truth unseen (n=)", "recovered", "track",
]  # fmt: skip


def test_the_table_of_several_seeds_shows_what_no_edit_knew():
    unseen = {"memorized_unseen_accuracy": 0.5, "track": "known noisy examples"}
    rows = [small("retrain", s, 0.1 * s, 0.8) for s in (0, 1)]
    rows += [small("npo", s, 0.25, 0.2 + 0.4 * s, memorized_unseen_accuracy_n=20 + 10 * s, **unseen) for s in (0, 1)]
    rows[3]["memorized_unseen_accuracy"] = 0.7
    add_recovered(rows)
    header, _, retrain, npo, note = terminal_table(rows).splitlines()
    assert [part.strip() for part in header.split("  ") if part.strip()] == SEVERAL
    cells = [part.strip() for part in npo.split("  ") if part.strip()]
    assert cells == [
        "npo", "0.250 ± 0.000", "0.400 ± 0.283", "-", "-", "0.600 ± 0.141", "-", "0.500 ± 0.354",
        "known noisy examples",
    ]  # fmt: skip
    assert retrain.split("  ")[0] == "retrain"
    assert note == (
        "mean ± sd over 2 seeds; recovered = ground truth / ground truth of retrain; "
        "unseen: wrong labels that no edit knew"
    )
    alone = terminal_table([*rows[:2], small("svd", 0, 0.3)]).splitlines()
    assert alone[3].split("  ")[0] == "svd"
    assert "0.300 [0.200, 0.400]" in alone[3]
