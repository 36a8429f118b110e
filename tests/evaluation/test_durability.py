"""Verdicts: a threshold is kept or broken only where the whole interval says so."""

import math

import pytest
from recovered import RELEARNT, curve, result
from scipy import stats

from vitmem.evaluation.durability import (
    ATTACKS,
    RULE,
    Durability,
    Estimate,
    brought_back,
    memory_left,
    not_attacked,
    verdict,
)
from vitmem.evaluation.proportions import square_and_add
from vitmem.evaluation.recovery import with_recovery

NAN = math.nan
BASE, RETRAIN, EDIT = (
    {"memorized_accuracy": m, "memorized_accuracy_n": 50, "validation_accuracy": 0.9} for m in (0.9, 0.1, 0.3)
)


def seeds(*values):
    return [Estimate(value) for value in values]


def attacked(*values, attack="quantize"):
    return [
        dict.fromkeys(ATTACKS, Estimate(0.0)) | {attack: Estimate(value, "bits 4") if value == value else Estimate(NAN)}
        for value in values
    ]


def test_over_seeds_the_whole_t_interval_decides():
    values = [0.02, 0.04, 0.03]
    found = verdict(seeds(0.1, 0.1, 0.12), attacked(*values))
    interval = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert found.back[0] == pytest.approx(0.03)
    assert (found.back.low, found.back.high) == pytest.approx(tuple(interval))
    assert found.durable.value == 1
    assert "0.03 [0.01, 0.05] brought back" in found.durable.reason
    assert "95 % t intervals over 3 seeds" in found.durable.reason
    broken = verdict(seeds(0.1, 0.1, 0.12), attacked(0.2, 0.22, 0.21)).durable
    assert broken.value == 0
    assert broken.reason.startswith("not durable: attacks bring back 0.21 [0.19, 0.23], most quantize (bits 4)")


def test_an_interval_around_the_threshold_is_open():
    for values in ((0.05, 0.13, 0.02), (0.2, 0.08, 0.3)):  # means on either side of 0.1
        found = verdict(seeds(0.1, 0.1, 0.12), attacked(*values)).durable
        assert math.isnan(found.value)
        assert found.reason.startswith("open: attacks bring back")
    assert verdict(seeds(0.1, 0.1, 0.12), attacked(0.05, 0.13, 0.02), Durability(back=0.3)).durable.value == 1


def test_what_is_left_has_an_interval_too():
    assert "not removed: 0.41 [" in verdict(seeds(0.4, 0.42), attacked(0.0, 0.0)).durable.reason
    wide = verdict(seeds(0.2, 0.5), attacked(0.0, 0.0)).durable
    assert math.isnan(wide.value)
    assert wide.reason.startswith("open: 0.35 [")
    assert "memory left is not known" in verdict(seeds(NAN), attacked(0.0)).durable.reason


def test_an_attack_that_was_not_made_leaves_it_open_unless_another_broke_it():
    found = verdict(seeds(0.1, 0.1), attacked(0.01, NAN)).durable
    assert math.isnan(found.value)
    assert "quantize not measured" in found.reason
    both = [by | {"views": Estimate(NAN)} for by in attacked(0.3, 0.31)]
    assert verdict(seeds(0.1, 0.1), both).durable.value == 0


def test_one_seed_without_counts_has_no_interval_and_is_open():
    for value in (0.0, 0.9):
        found = verdict(seeds(0.1), attacked(value)).durable
        assert math.isnan(found.value)
        assert "one seed, no interval" in found.reason
    kept = [dict.fromkeys(ATTACKS, Estimate(0.01, "bits 4", -0.02, 0.05))]
    found = verdict([Estimate(0.1, "", 0.05, 0.2)], kept).durable
    assert found.value == 1
    assert "one seed, 95 % intervals over examples" in found.reason


def test_intervals_over_examples_by_hand():
    found = memory_left(EDIT, BASE, RETRAIN)
    low, high = square_and_add([(1, 0.3, 50), (-1, 0.1, 50)])
    assert found == pytest.approx((0.25, "", low / 0.8, high / 0.8))
    without = memory_left({**EDIT, "memorized_accuracy_n": None}, BASE, RETRAIN)
    assert without.value == pytest.approx(0.25)
    assert math.isnan(without.low)
    assert math.isnan(memory_left(EDIT, BASE, None).value)


def test_the_strongest_setting_has_the_outermost_ends_of_all():
    rows = {"base": {**BASE, "memorized_accuracy": 1.0}, "retrain": {**RETRAIN, "memorized_accuracy": 0.0}}
    theirs = [a for a in with_recovery([*RELEARNT[:2], curve("edit", (0.2, 0.4, 0.55))]) if a["id"] == "edit"]
    found = brought_back("relearn", theirs, {**EDIT, "memorized_accuracy": 0.2}, rows["base"], rows["retrain"], 0.1)
    first = square_and_add([(1, 0.4, 50), (-1, 0.0, 50), (-1, 0.2, 50), (1, 0.0, 50)])
    last = square_and_add([(1, 0.55, 50), (-1, 0.1, 50), (-1, 0.2, 50), (1, 0.0, 50)])
    assert found.value == pytest.approx(0.25)
    assert found.low == pytest.approx(max(first[0], last[0], 0.0))
    assert found.high == pytest.approx(max(first[1], last[1]))
    healed = [a for a in with_recovery([*RELEARNT[:2], curve("edit", (0.2, 0.1, 0.1))]) if a["id"] == "edit"]
    found = brought_back("relearn", healed, {**EDIT, "memorized_accuracy": 0.2}, rows["base"], rows["retrain"], 0.1)
    assert (found.value, found.reason) == (0, "arm retain step 0")
    assert found.high > 0  # other settings may have brought something back


def judged(left, back, rule=RULE):
    """Return the verdict on one seed whose intervals are given."""
    return verdict([Estimate(0.5, "", *left)], [dict.fromkeys(ATTACKS, Estimate(0.5, "bits 4", *back))], rule).durable


@pytest.mark.parametrize(
    ("left", "back", "value", "why"),
    [
        ((0.1, 0.24), (0.0, 0.09), 1, "durable: "),
        ((0.1, 0.25), (0.0, 0.09), NAN, "open: 0.50 [0.10, 0.25] of the memory is left; "),
        ((0.25, 0.3), (0.0, 0.09), NAN, "open: 0.50 [0.25, 0.30] of the memory is left; "),
        ((0.26, 0.3), (0.0, 0.09), 0, "not removed: 0.50 [0.26, 0.30] of the memory is left; "),
        ((0.1, 0.2), (0.0, 0.1), NAN, "open: attacks bring back 0.50 [0.00, 0.10], most relearn (bits 4); "),
        ((0.1, 0.2), (0.1, 0.2), NAN, "open: attacks bring back "),
        ((0.1, 0.2), (0.11, 0.2), 0, "not durable: attacks bring back 0.50 [0.11, 0.20], most relearn (bits 4); "),
        ((0.1, 0.3), (0.05, 0.2), NAN, "open: 0.50 [0.10, 0.30] of the memory is left, attacks bring back "),
    ],
)
def test_thresholds_are_strict(left, back, value, why):
    found = judged(left, back)
    assert found.value == value or (math.isnan(found.value) and math.isnan(value))
    assert found.reason.startswith(why)
    assert found.reason.endswith("at most 0.25 left and 0.1 brought back; one seed, 95 % intervals over examples")


def test_the_rule_is_that_of_the_documentation():
    assert (RULE.left, RULE.back, RULE.drop) == (0.25, 0.1, 0.1)
    assert ATTACKS == ("relearn", "quantize", "views", "compress")
    assert str(Estimate(0.123, "", 0.1, 0.2)) == "0.12 [0.10, 0.20]"
    assert str(Estimate(0.123)) == "0.12"


ROWS = {
    "base": {"memorized_accuracy": 1.0, "memorized_accuracy_n": 50, "validation_accuracy": 0.9},
    "retrain": {"memorized_accuracy": 0.0, "memorized_accuracy_n": 40, "validation_accuracy": 0.9},
    "edit": {"memorized_accuracy": 0.2, "memorized_accuracy_n": 50, "validation_accuracy": 0.9},
}


def rounded(*points, **more):
    """Return what quantisation of an edit brings back, from memory, retrain's memory and validation by bits."""
    stored = [
        result(name, "quantize", ["bits"], [{"bits": b, **cells(p)} for b, p in enumerate(points, 1)])
        for name, cells in (
            ("base", lambda p: {"memorized_accuracy": 1.0}),
            ("retrain", lambda p: {"memorized_accuracy": p[1]}),
            ("edit", lambda p: {"memorized_accuracy": p[0], "memorized_accuracy_n": 50, "validation_accuracy": p[2]}),
        )
    ]
    theirs = [a for a in with_recovery(stored) if a["id"] == "edit"]
    rows = {**ROWS, **more}
    return brought_back("quantize", theirs, rows["edit"], rows["base"], rows["retrain"], 0.1)


def test_what_a_setting_brings_back_is_above_retrain_under_it():
    found = rounded((0.6, 0.1, 0.9), (0.5, 0.3, 0.9))
    assert found.value == pytest.approx(0.3)  # 0.6 - 0.1 - (0.2 - 0.0)
    assert found.reason == "bits 1"
    terms = [[(1, own, 50), (-1, theirs, 50), (-1, 0.2, 50), (1, 0.0, 40)] for own, theirs in ((0.6, 0.1), (0.5, 0.3))]
    low, high = zip(*map(square_and_add, terms), strict=True)
    assert (found.low, found.high) == pytest.approx((max(low), max(high)))


def test_a_setting_that_takes_just_the_allowed_validation_counts():
    assert rounded((0.6, 0.1, 0.8)).value == pytest.approx(0.3)
    lost = rounded((0.6, 0.1, 0.79))
    assert math.isnan(lost.value)
    assert lost.reason == "every setting destroys the model, or retrain was not attacked"
    assert rounded((0.6, 0.1, 0.79), (0.4, 0.1, 0.8)).value == pytest.approx(0.1)


def test_shares_are_of_bases_memory_above_retrains():
    half = {"retrain": ROWS["retrain"] | {"memorized_accuracy": 0.5}}
    assert rounded((0.9, 0.5, 0.9), **half).value == pytest.approx((0.9 - 0.5 - (0.2 - 0.5)) / 0.5)
    for retrain in (1.0, 1.1):
        nothing = rounded((0.6, 0.1, 0.9), retrain=ROWS["retrain"] | {"memorized_accuracy": retrain})
        assert math.isnan(nothing.value)
        assert nothing.reason == "needs base and retrain, and more memory in base"
    assert math.isnan(rounded((0.6, 0.1, 0.9), base=None).value)


def test_where_nothing_was_counted_there_is_no_interval():
    found = rounded((0.6, 0.1, 0.9), edit={key: value for key, value in ROWS["edit"].items() if key[-2:] != "_n"})
    assert found.value == pytest.approx(0.3)
    assert math.isnan(found.low)
    assert math.isnan(found.high)


def test_seeds_of_one_value_each_make_a_mean_and_the_reason_of_the_largest():
    back = [dict.fromkeys(ATTACKS, Estimate(v, f"bits {v}", v - 0.01, v + 0.01)) for v in (0.05, 0.3, 0.1)]
    found = verdict([Estimate(v, "", 0.0, 0.2) for v in (0.1, 0.1, 0.1)], back)
    assert found.back.value == pytest.approx(0.15)
    assert found.back.reason == "relearn (bits 0.3)"
    assert (found.left.value, found.left.low, found.left.high) == pytest.approx((0.1, 0.1, 0.1))


def test_the_largest_is_known_with_the_ends_of_all_only_where_all_have_some():
    def strongest(*estimates):
        by = dict(zip(ATTACKS, estimates, strict=False))
        return verdict([Estimate(0.0, "", 0.0, 0.1)], [by]).back

    found = strongest(Estimate(0.3, "a", 0.1, 0.4), Estimate(0.2, "b", 0.15, 0.9), Estimate(NAN))
    assert found == (0.3, "relearn (a)", 0.15, 0.9)
    found = strongest(Estimate(0.3, "a", 0.1, 0.4), Estimate(0.2, "b"))
    assert (found.value, found.reason, math.isnan(found.low), math.isnan(found.high)) == (
        0.3,
        "relearn (a)",
        True,
        True,
    )
    nothing = strongest(Estimate(NAN), Estimate(NAN))
    assert math.isnan(nothing.value)


def test_why_an_attack_gave_no_number():
    assert not_attacked("views", []).reason == "not measured: needs attack views"
    assert not_attacked("views", [], "too").reason == "not measured: needs attack views too"
    failed = {"name": "views", "metric": "failed", "reason": "no memory"}
    assert not_attacked("views", [failed]).reason == "attack views failed: no memory"
    assert not_attacked("relearn", [failed]).reason == "not measured: needs attack relearn"
    assert not_attacked("views", [failed | {"metric": "recovery"}]).reason == "not measured: needs attack views"


def test_a_curve_starts_where_it_was_measured_to_start():
    """On the examples of the attack the edit has 0.3 left, and not the 0.2 of all examples."""
    stored = [curve("base", (1.0, 1.0, 1.0)), curve("retrain", (0.0, 0.0, 0.0)), curve("edit", (0.3, 0.4, 0.35))]
    theirs = [a for a in with_recovery(stored) if a["id"] == "edit"]
    found = brought_back("relearn", theirs, ROWS["edit"], ROWS["base"], ROWS["retrain"], 0.1)
    assert (found.value, found.reason) == (pytest.approx(0.1), "arm retain step 1")
    later = [a for a in theirs if a.get("step") != 0]
    found = brought_back("relearn", later, ROWS["edit"], ROWS["base"], ROWS["retrain"], 0.1)
    assert found.value == pytest.approx(0.2)  # no start of its own: the unattacked model's
    healed = [curve("base", (1.0, 1.0, 1.0)), curve("retrain", (0.0, 0.0, 0.0))]
    healed.append(curve("edit", (0.3, 0.9, 0.5), (0.5, 0.4, 0.39)))
    theirs = [a for a in with_recovery(healed) if a["id"] == "edit"]
    found = brought_back("relearn", theirs, ROWS["edit"], ROWS["base"], ROWS["retrain"], 0.1)
    assert (found.value, found.reason) == (pytest.approx(0.6), "arm retain step 1")  # validation fell from 0.5
