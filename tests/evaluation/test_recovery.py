"""What attacks brought back: hand computations, and NaN with a reason instead of 0."""

import csv
import io
import math

import pytest
from recovered import RELEARNT, pick, result

from vitmem.evaluation.metrics import wilson
from vitmem.evaluation.recovery import Value, area, number, recovery, steps_to_half, to_csv, with_recovery

NAN = math.nan


def test_recovery_is_zero_for_retrain_one_for_base_and_linear_between():
    assert recovery(0.1, 0.9, 0.1) == Value(0.0)
    assert recovery(0.9, 0.9, 0.1) == Value(1.0)
    assert recovery(0.3, 0.9, 0.1).value == pytest.approx(0.25)
    assert recovery(0.0, 0.9, 0.1).value == pytest.approx(-0.125)  # less than retrain: not clipped


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ((0.5, 0.9, None), "retrain was not measured"),
        ((0.5, None, 0.1), "base was not measured"),
        ((NAN, 0.9, 0.1), "this model was not measured"),
        ((0.5, 0.1, 0.1), "base memorises no more than retrain"),
        ((0.5, 0.1, 0.2), "base memorises no more than retrain"),
    ],
)
def test_recovery_is_undefined_and_says_why(values, reason):
    found = recovery(*values)
    assert math.isnan(found.value)
    assert reason in found.reason


def test_area_is_the_mean_over_log_steps():
    assert area({0: 9.0, 1: 0.5, 10: 0.5, 100: 0.5}).value == pytest.approx(0.5)
    # linear in log t from 0 to 1 over the first of two decades, 1 over the second
    assert area({0: 0.0, 1: 0.0, 10: 1.0, 100: 1.0}).value == pytest.approx(0.75)
    for curve in ({0: 1.0}, {0: 1.0, 1: 1.0}, {1: 1.0, 2: NAN, 5: 1.0}):
        assert math.isnan(area(curve).value)
        assert area(curve).reason


def test_steps_to_half_of_bases_memory():
    assert steps_to_half({0: 0.1, 10: 0.4, 20: 0.45, 50: 0.3}, 0.8) == Value(10)
    assert steps_to_half({0: 0.5}, 0.8) == Value(0)
    late = steps_to_half({0: 0.1, 50: 0.2}, 0.8)
    assert math.isnan(late.value)
    assert late.reason == "not within 50 steps"
    assert math.isnan(steps_to_half({0: 0.1}, None).value)
    assert steps_to_half({0: 0.0}, 0.0).reason == "base has memorised nothing"


def test_curves_are_compared_with_unattacked_base_and_attacked_retrain():
    rows = with_recovery(RELEARNT)
    assert [row["value"] for row in pick(rows, "edit", "recovery")] == pytest.approx([0.2, 0.4, 0.5])
    assert [row["value"] for row in pick(rows, "retrain", "recovery")] == [0, 0, 0]
    assert pick(rows, "base", "recovery")[0]["value"] == 1
    assert [row["value"] for row in pick(rows, "edit", "excess")] == pytest.approx([0.2, 0.4, 0.45])
    (mean,) = pick(rows, "edit", "recovery_area")
    assert (mean["value"], mean["arm"]) == (pytest.approx(0.45), "retain")
    assert pick(rows, "edit", "steps_to_half")[0]["value"] == 10
    first = pick(rows, "edit", "memorized_accuracy")[0]
    assert (first["low"], first["high"], first["n"]) == (*wilson(10, 50), 50)


def test_other_settings_are_compared_with_base_attacked_alike():
    values = {"base": (0.8, 0.5), "retrain": (0.0, 0.1), "edit": (0.2, 0.3)}
    results = [
        result(
            name, "quantize", ["bits"], [{"bits": b, "memorized_accuracy": m} for b, m in zip((8, 3), ms, strict=True)]
        )
        for name, ms in values.items()
    ]
    rows = with_recovery(results)
    assert [row["value"] for row in pick(rows, "edit", "recovery")] == pytest.approx([0.25, 0.5])
    assert not pick(rows, "edit", "recovery_area")
    other_seed = [{**r, "seed": 1} for r in results if r["id"] == "edit"]
    lone = with_recovery(results + other_seed)
    assert math.isnan(next(r for r in lone if r["seed"] == 1 and r["metric"] == "recovery")["value"])


def test_without_retrain_derived_numbers_are_empty_cells_with_a_reason():
    rows = with_recovery([r for r in RELEARNT if r["id"] != "retrain"])
    cells = list(csv.DictReader(io.StringIO(to_csv(rows))))
    derived = [c for c in cells if c["metric"] in ("recovery", "excess", "recovery_area")]
    assert len(derived) == 2 * (3 + 3 + 1)
    assert all(c["value"] == "" and c["reason"] for c in derived)


def test_rows_keep_intervals_that_attacks_computed_and_skip_text():
    row = {"score": "loss", "auc": 0.7, "auc_low": 0.6, "auc_high": 0.8, "note": "text"}
    (found,) = with_recovery([result("edit", "membership", ["score"], [row])])
    assert {key: found[key] for key in ("score", "metric", "value", "low", "high", "n")} == {
        "score": "loss", "metric": "auc", "value": 0.7, "low": 0.6, "high": 0.8, "n": None,
    }  # fmt: skip


def test_probes_are_compared_with_those_of_retrain_at_the_same_place():
    def probed(name, **accuracies):
        rows = [{"probe": "given", "place": place, "accuracy": value} for place, value in accuracies.items()]
        return result(name, "probes", ["probe", "place"], [*rows, {"probe": "head", "place": "head", "accuracy": 0.9}])

    rows = with_recovery([probed("edit", first=0.5, last=0.75), probed("retrain", last=0.25)])
    found = {row["place"]: row for row in pick(rows, "edit", "excess_over_retrain")}
    assert set(found) == {"first", "last"}
    assert found["last"]["value"] == 0.5
    assert math.isnan(found["first"]["value"])
    assert "retrain was not measured" in found["first"]["reason"]


def test_what_edits_knew_has_its_own_curve():
    names = ("memorized_accuracy", "memorized_known_accuracy")
    curves = {"base": [(1.0, 1.0)] * 2, "retrain": [(0.0, 0.0)] * 2, "edit": [(0.5, 0.0), (0.6, 0.6)]}
    results = [
        result(
            name, "relearn", ["step"], [{"step": s, **dict(zip(names, v, strict=True))} for s, v in enumerate(values)]
        )
        for name, values in curves.items()
    ]
    rows = with_recovery(results)
    assert [row["value"] for row in pick(rows, "edit", "recovery")] == [0.5, 0.6]
    assert [row["value"] for row in pick(rows, "edit", "recovery_known")] == [0, 0.6]
    assert pick(rows, "edit", "steps_to_half")[0]["value"] == 0  # what it never removed
    assert pick(rows, "edit", "steps_to_half_known")[0]["value"] == 1


def test_a_curve_that_broke_off_has_no_area_and_what_was_lost_has_rows():
    broken = RELEARNT[2] | {"options": {"steps": 200}, "report": {"diverged": ["retain: nan"], "skipped": ["a", "b"]}}
    rows = with_recovery([*RELEARNT[:2], broken])
    (area_row,) = pick(rows, "edit", "recovery_area")
    assert math.isnan(area_row["value"])
    assert area_row["reason"] == "the curve ends at step 10 of 200"
    assert [row["reason"] for row in pick(rows, "edit", "skipped")] == ["a", "b"]
    assert [row["reason"] for row in pick(rows, "edit", "diverged")] == ["retain: nan"]


def test_barriers_and_distances_of_paths_are_in_the_table():
    path = {"barrier": {"given": 0.5}, "memory_back": None, "distance": {"total": {"distance": 2.0, "relative": 0.1}}}
    report = {"paths": {"base": path}, "undefined": {"base.memory_back": "it stays away"}}
    rows = with_recovery([result("edit", "connectivity", ["path", "alpha"], []) | {"report": report}])
    assert {row["metric"]: row["value"] for row in rows if row["metric"] != "memory_back"} == {
        "barrier_given": 0.5, "distance_total": 2.0, "relative_distance_total": 0.1,
    }  # fmt: skip
    assert pick(rows, "edit", "memory_back")[0]["reason"] == "it stays away"
    assert all(row["path"] == "base" for row in rows)


LONG = """
experiment,seed,id,attack,name,bits,metric,value,low,high,sd,n,reason
e,0,base,quantize,quantize,4,memorized_accuracy,0.9,,,,,
e,0,base,quantize,quantize,4,recovery,1.0,,,,,
e,0,base,quantize,quantize,4,excess,0.8,,,,,
e,0,edit,again,quantize,4,memorized_accuracy,0.5,0.1,0.9,0.2,10,
e,0,edit,again,quantize,4,recovery,,,,,,memorized_accuracy of base was not measured under this attack
e,0,edit,again,quantize,4,excess,,,,,,memorized_accuracy of retrain was not measured under this attack
e,0,edit,again,quantize,,stopped,,,,,,no memory
"""


def test_the_long_table_by_hand():
    row = {"bits": 4, "memorized_accuracy": 0.5, "memorized_accuracy_n": 10}
    row |= {f"memorized_accuracy_{part}": value for part, value in (("low", 0.1), ("high", 0.9), ("sd", 0.2))}
    results = [
        result(n, "quantize", ["bits"], [{"bits": 4, "memorized_accuracy": m}])
        for n, m in (("base", 0.9), ("retrain", 0.1))
    ]
    other = result("edit", "again", ["bits"], [row]) | {"name": "quantize", "report": {"stopped": "no memory"}}
    found = [r for r in with_recovery([*results, other]) if r["id"] != "retrain"]
    assert to_csv(found).replace("0.8000000000000000", "0.8") == LONG.lstrip("\n")


def test_curves_have_the_settings_that_they_share_and_end_where_they_end():
    rows = with_recovery(RELEARNT)
    whole = [row for row in pick(rows, "edit", "steps_to_half") if row["value"] == row["value"]]
    assert [(row["arm"], "step" in row) for row in whole] == [("retain", False)]
    enough = [r | {"options": {"steps": 10}} for r in RELEARNT]
    assert pick(with_recovery(enough), "edit", "recovery_area")[0]["value"] == pytest.approx(0.45)
    more = [r | {"options": {"steps": 11}} for r in RELEARNT]
    assert math.isnan(pick(with_recovery(more), "edit", "recovery_area")[0]["value"])


def test_the_same_metric_of_another_place_seed_or_setting_is_no_reference():
    def at(name, value, seed=0, bits=4, attack="quantize"):
        return result(name, attack, ["bits"], [{"bits": bits, "memorized_accuracy": value}], seed)

    ours = [at("base", 0.9), at("retrain", 0.1), at("edit", 0.5)]
    for other in (at("base", 0.2, seed=1), at("base", 0.2, bits=3), at("base", 0.2, attack="other")):
        found = pick(with_recovery([*ours, other, other | {"experiment": "f"}]), "edit", "recovery")
        assert [row["value"] for row in found] == [pytest.approx(0.5)]


def test_cells_of_a_table_as_numbers():
    assert [number(value) for value in ("0.5", 1, 2.5, 0)] == [0.5, 1, 2.5, 0]
    assert all(math.isnan(number(value)) for value in (None, "", NAN))
