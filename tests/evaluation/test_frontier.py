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
