import math

import pytest

from vitmem.evaluation.frontier import (
    at_memorized,
    best_ground_truth,
    detectable_difference,
    holm,
    paired_difference,
    t_interval,
)


def rows(*points):
    names = ("memorized_accuracy", "ground_truth_accuracy", "validation_accuracy")
    return [dict(zip(names, point, strict=True)) for point in points]


FRONTIER = rows((0.9, 0.1, 0.9), (0.5, 0.4, 0.8), (0.1, 0.6, 0.6))


def test_interpolation_between_the_rows_around_the_target():
    found = at_memorized(FRONTIER, 0.2, ("ground_truth_accuracy", "validation_accuracy"))
    assert found == pytest.approx({"ground_truth_accuracy": 0.55, "validation_accuracy": 0.65})
    assert at_memorized(FRONTIER, 0.5, ["validation_accuracy"]) == {"validation_accuracy": pytest.approx(0.8)}
    back = rows((0.9, 0, 0), (0.3, 1, 1), (0.6, 2, 2), (0.1, 3, 3))
    assert at_memorized(back, 0.45, ["validation_accuracy"])["validation_accuracy"] == pytest.approx(0.75)


def test_a_frontier_that_does_not_reach_the_target_is_unknown():
    for target in (0.05, 0.95):
        assert math.isnan(at_memorized(FRONTIER, target, ["validation_accuracy"])["validation_accuracy"])
    assert math.isnan(at_memorized(FRONTIER[:1], 0.9, ["validation_accuracy"])["validation_accuracy"])


def test_the_best_row_within_the_drop():
    base = {"validation_accuracy": 0.9}
    assert best_ground_truth(FRONTIER, base, 0.1) is FRONTIER[1]
    assert best_ground_truth(FRONTIER, base, 0.0) is FRONTIER[0]
    assert best_ground_truth(FRONTIER[2:], base, 0.1) is None


def test_paired_differences():
    gap = paired_difference({0: 0.5, 1: 0.7, 2: 0.6, 3: math.nan}, {0: 0.4, 1: 0.4, 2: 0.4, 3: 0.1, 4: 0.2})
    assert (gap.mean, gap.n) == (pytest.approx(0.2), 3)
    assert gap.high - gap.mean == pytest.approx(4.302653 * 0.1 / 3**0.5, rel=1e-5)  # t of 2 degrees of freedom
    assert math.isnan(paired_difference({0: 1.0}, {0: 0.5}).low)
    assert paired_difference({0: 1.0}, {1: 0.5}).n == 0
    assert gap.sd == pytest.approx(0.1)
    one = t_interval([0.1, math.nan, 0.3, 0.2])
    assert (one.mean, one.low, one.high, one.sd) == pytest.approx((gap.mean, gap.low, gap.high, gap.sd))


def test_the_paired_t_test_is_scipys():
    from scipy import stats

    first, second = {0: 0.7, 1: 0.72, 2: 0.66, 3: 0.71}, {0: 0.65, 1: 0.7, 2: 0.66, 3: 0.64}
    expected = stats.ttest_rel(list(first.values()), list(second.values()))
    found = paired_difference(first, second)
    assert found.p == pytest.approx(expected.pvalue)
    low, high = expected.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((low, high))
    assert paired_difference({0: 1.0, 1: 1.0}, {0: 1.0, 1: 1.0}).p == 1.0
    assert paired_difference({0: 1.0, 1: 1.0}, {0: 0.5, 1: 0.5}).p == 0.0


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.5]) == [1.0, 1.0]
    one, nothing = holm([0.04, math.nan])
    assert one == 0.04
    assert math.isnan(nothing)
    assert holm([]) == []


@pytest.mark.parametrize("n", [3, 8])
def test_the_detectable_difference_is_found_four_times_of_five(n):
    import numpy as np
    from scipy import stats

    found = detectable_difference(0.5, n)
    draws = np.random.default_rng(0).normal(found, 0.5, (40_000, n))
    assert (stats.ttest_1samp(draws, 0, axis=1).pvalue < 0.05).mean() == pytest.approx(0.8, abs=0.008)


def test_the_detectable_difference_by_hand():
    assert detectable_difference(1.0, 8) == pytest.approx(1.16, abs=0.02)
    assert detectable_difference(2.0, 8) == pytest.approx(2 * detectable_difference(1.0, 8))
    assert detectable_difference(1.0, 10_000) == pytest.approx((1.959964 + 0.841621) / 100, rel=1e-3)
    assert detectable_difference(0.0, 5) == 0
    assert math.isnan(detectable_difference(math.nan, 1))
    assert 11 < detectable_difference(1.0, 2) < 12


def test_rows_that_are_no_success_are_passed_over():
    lost = dict(FRONTIER[1], status="at chance")
    found = at_memorized([FRONTIER[0], lost, FRONTIER[2]], 0.5, ["validation_accuracy"])
    assert found == {"validation_accuracy": pytest.approx(0.75)}
    assert best_ground_truth([lost, FRONTIER[0]], {"validation_accuracy": 0.9}, 0.5) is FRONTIER[0]


def test_a_frontier_that_stands_still_takes_the_gentler_row():
    flat = rows((0.5, 0.1, 0.9), (0.5, 0.3, 0.7))
    assert at_memorized(flat, 0.5, ["ground_truth_accuracy"]) == {"ground_truth_accuracy": 0.1}


def test_a_row_that_loses_just_the_allowed_counts():
    base = {"validation_accuracy": 0.8}
    kept = rows((0.5, 0.4, 0.7), (0.4, 0.5, 0.7 - 1e-9))
    assert best_ground_truth(kept, base, 0.1) is kept[0]


def test_one_value_has_no_interval_and_none_no_mean():
    one, nothing = t_interval([0.5, math.nan]), t_interval([math.nan])
    assert (one.mean, one.n) == (0.5, 1)
    assert all(map(math.isnan, (one.low, one.high, one.p, one.sd)))
    assert nothing.n == 0
    assert math.isnan(nothing.mean)
    assert t_interval([0.0, 0.0]).p == 1.0
    assert t_interval([0.5, 0.5]).low == 0.5


def test_more_power_a_stricter_level_or_fewer_pairs_need_a_larger_difference():
    plain = detectable_difference(1.0, 5)
    assert plain == detectable_difference(1.0, 5, 0.8, 0.05)
    assert detectable_difference(1.0, 5, power=0.9) > plain
    assert detectable_difference(1.0, 5, level=0.01) > plain
    assert detectable_difference(1.0, 4) > plain > detectable_difference(1.0, 6)
    assert math.isnan(detectable_difference(1.0, 1))
    assert math.isnan(detectable_difference(math.nan, 5))
    assert detectable_difference(1.0, 2, power=0.99) > 20  # far beyond the first guess


@pytest.mark.parametrize("power", [0.06, 0.3, 0.8, 0.99])
@pytest.mark.parametrize("n", [2, 5])
def test_the_test_rejects_with_the_power_that_was_asked_for_on_either_side(power, n):
    from scipy import stats

    shift, critical = detectable_difference(1.0, n, power) * n**0.5, stats.t.ppf(0.975, n - 1)
    wrong_side = float(stats.nct.cdf(-critical, n - 1, shift))  # NaN where it is next to nothing
    found = 1 - stats.nct.cdf(critical, n - 1, shift) + (0 if math.isnan(wrong_side) else wrong_side)
    assert found == pytest.approx(power, abs=1e-5)
