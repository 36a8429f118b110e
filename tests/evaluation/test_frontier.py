import math

import numpy as np
import pytest

from vitmem.evaluation.frontier import at_memorized, best_ground_truth, detectable, holm, mcnemar, paired_difference


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


def test_what_a_paired_test_detects_is_found_as_often_as_it_says():
    """Monte Carlo: t tests of eight differences whose true mean is the detectable one reject in 80 % of draws."""
    from scipy import stats

    generator = np.random.RandomState(0)
    for n in (3, 8):
        shift = detectable(standardised(n))
        draws = generator.standard_normal((20_000, n)) + shift
        rejected = (stats.ttest_1samp(draws, 0.0, axis=1).pvalue < 0.05).mean()
        assert abs(rejected - 0.8) < 0.01
    assert 1.1 < detectable(standardised(8)) < 1.2
    assert math.isnan(detectable([1.0]))
    assert paired_difference({0: 1.0, 1: 3.0, 2: 2.0}, {0: 0.0, 1: 0.0, 2: 0.0}).detectable == detectable(
        [1.0, 3.0, 2.0]
    )


def standardised(n):
    """Return n numbers of sample standard deviation 1."""
    values = np.arange(n) - (n - 1) / 2
    return list(values / values.std(ddof=1))


def test_mcnemars_exact_test_by_hand():
    first = [True] * 8 + [False] * 2 + [True] * 5
    second = [False] * 8 + [True] * 2 + [True] * 5
    expected = 2 * sum(math.comb(10, k) for k in (0, 1, 2)) / 2**10  # 8 against 2 of the 10 that differ
    assert mcnemar(first, second) == pytest.approx(expected)
    assert mcnemar(first, first) == 1
