"""Verdicts: a threshold is kept or broken only where the whole interval says so."""

import math

import pytest
from recovered import RELEARNT, curve
from scipy import stats

from vitmem.evaluation.durability import ATTACKS, Durability, Estimate, brought_back, memory_left, verdict
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
