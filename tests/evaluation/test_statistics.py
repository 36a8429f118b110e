"""Statistics against scipy, by hand, and against 10,000 synthetic experiments."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from vitmem.evaluation.statistics import (
    BCA_COVERAGE,
    EXACT,
    LEVEL,
    bca_interval,
    detectable_difference,
    equivalence,
    holm,
    interquartile_mean,
    paired_difference,
    power_of,
    probability_of_improvement,
    seeds_needed,
    sign_flips,
    student,
    t_interval,
    verdict,
)

EXPERIMENTS = 10_000
# Stated before any of the simulations was run: a measured share may be this many of its standard errors from the true
# one (chance of 1 in 370 for each). Seeds are fixed; they are not to be chosen.
ERRORS = 3


def standard_error(share, experiments=EXPERIMENTS):
    """Return the binomial standard error of a share."""
    return math.sqrt(share * (1 - share) / experiments)


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
    assert math.isnan(paired_difference({0: 1.0, 1: 1.0}, {0: 0.5, 1: 0.5}).p)  # equal by chance: of unknown spread


def test_one_value_has_no_interval_and_none_no_mean():
    one, nothing = t_interval([0.5, math.nan]), t_interval([math.nan])
    assert (one.mean, one.n) == (0.5, 1)
    assert all(map(math.isnan, (one.low, one.high, one.p, one.sd)))
    assert nothing.n == 0
    assert math.isnan(nothing.mean)
    assert t_interval([0.0, 0.0]).p == 1.0
    assert t_interval([0.5, 0.5]).low == 0.5


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


def drawn(n, seed, mean=0.0, sd=1.0):
    """Return the mean and the sd of n normal differences in each of the experiments, and the differences."""
    values_EN = np.random.default_rng(seed).normal(mean, sd, (EXPERIMENTS, n))
    return values_EN.mean(-1), values_EN.std(-1, ddof=1), values_EN


@pytest.mark.parametrize("n", [2, 3, 5, 20])
def test_t_intervals_hold_the_mean_in_95_of_100_experiments(n):
    mean, sd, _ = drawn(n, n, mean=0.3)
    low, high, p = student(mean - 0.3, sd, n)
    covered = ((low <= 0) & (high >= 0)).mean()
    assert abs(covered - 0.95) < ERRORS * standard_error(0.95)
    assert (p < LEVEL).mean() == pytest.approx(1 - covered, abs=1e-12)


def test_bootstrap_intervals_hold_the_mean_as_often_as_is_said():
    covered, n = 0.0, 5
    for seed in range(10):  # a tenth of the experiments at a time, for memory
        values_EN = np.random.default_rng([n, seed]).normal(size=(EXPERIMENTS // 10, n))
        low, high = bca_interval(values_EN)
        covered += ((low <= 0) & (high >= 0)).mean() / 10
    error = math.hypot(standard_error(BCA_COVERAGE[n]), standard_error(BCA_COVERAGE[n], 200_000))
    assert abs(covered - BCA_COVERAGE[n]) < ERRORS * error


def test_intervals_of_interactions_hold_the_difference_of_differences():
    # seed by factor by edit: seeds share what they add, and edits of one seed have errors of their own
    rng, n = np.random.default_rng(5), 4
    shared = rng.normal(size=(EXPERIMENTS, n, 1, 1))
    values = shared + rng.normal(size=(EXPERIMENTS, n, 2, 2)) + np.array([[0.1, 0.4], [0.2, 0.9]])
    interaction = (values[..., 1, 1] - values[..., 1, 0]) - (values[..., 0, 1] - values[..., 0, 0]) - 0.4
    low, high, _ = student(interaction.mean(-1), interaction.std(-1, ddof=1), n)
    assert abs(((low <= 0) & (high >= 0)).mean() - 0.95) < ERRORS * standard_error(0.95)


@pytest.mark.slow
@pytest.mark.parametrize("true", [0, 4])
def test_holm_is_wrong_in_5_of_100_families_at_most(true):
    # ten edits against one baseline, whose seeds they share; `true` of them differ from it by much
    rng, n, edits = np.random.default_rng(6 + true), 5, 10
    baseline = rng.normal(size=(EXPERIMENTS, n, 1))
    gaps = rng.normal(size=(EXPERIMENTS, n, edits)) - baseline + 20 * (np.arange(edits) < true)
    _, _, p = student(gaps.mean(1), gaps.std(1, ddof=1), n)
    adjusted = np.array([holm(list(family)) for family in p])
    wrong = (adjusted[:, true:] < LEVEL).any(1).mean()
    assert wrong < LEVEL + ERRORS * standard_error(LEVEL)
    assert (p[:, true:] < LEVEL).any(1).mean() > 0.15  # what it corrects
    if true:
        assert (adjusted[:, :true] < LEVEL).all(1).mean() > 0.99


def test_holm_of_independent_comparisons_is_wrong_as_often_as_it_may_be():
    _, _, values = drawn(5 * 8, 7)
    values = values.reshape(EXPERIMENTS, 8, 5)
    _, _, p = student(values.mean(-1), values.std(-1, ddof=1), 5)
    wrong = np.mean([min(holm(list(family))) < LEVEL for family in p])
    exact = 1 - (1 - LEVEL / 8) ** 8  # the smallest p decides whether there is any
    assert abs(wrong - exact) < ERRORS * standard_error(exact)


@pytest.mark.parametrize("n", [5, 12])
def test_equality_is_claimed_wrongly_in_5_of_100_experiments_at_most(n):
    mean, sd, _ = drawn(n, 8, mean=0.02, sd=0.002)  # just at the margin, measured well
    claimed = (equivalence(mean, sd, n, 0.02) < LEVEL).mean()
    assert abs(claimed - LEVEL) < ERRORS * standard_error(LEVEL)
    mean, sd, _ = drawn(n, 9, mean=-0.02, sd=0.03)  # measured badly
    assert (equivalence(mean, sd, n, 0.02) < LEVEL).mean() < LEVEL + ERRORS * standard_error(LEVEL)


@pytest.mark.parametrize("n", [4, 8])
def test_sign_flips_reject_as_often_as_their_p_says(n):
    _, _, values = drawn(n, 10)
    p = sign_flips(values**3)  # symmetric, with long tails
    steps = 2.0 ** (1 - n) * np.arange(1, 2 ** (n - 1) + 1)
    level = steps[steps <= max(LEVEL, steps[0])][-1]  # the largest p that it can give up to 0.05
    assert abs((p <= level + 1e-12).mean() - level) < ERRORS * standard_error(level)


@pytest.mark.parametrize(("n", "difference", "sd"), [(3, 1.5, 1.0), (5, 0.05, 0.04), (8, 0.02, 0.05)])
def test_power_is_how_often_the_difference_is_found(n, difference, sd):
    mean, spread, _ = drawn(n, 11, difference, sd)
    expected = power_of(difference, sd, n)
    found = (student(mean, spread, n)[2] < LEVEL).mean()
    assert abs(found - expected) < ERRORS * standard_error(expected)


def test_seeds_needed_are_the_fewest_that_suffice():
    assert [seeds_needed(d, 1.0) for d in (0.5, 1.0, 3.0)] == [34, 10, 4]  # G*Power 3.1, two-sided, matched pairs
    for difference, sd, power in ((0.02, 0.05, 0.8), (0.1, 0.03, 0.9)):
        n = seeds_needed(difference, sd, power)
        assert power_of(difference, sd, n) >= power > power_of(difference, sd, n - 1)
        assert detectable_difference(sd, n, power) <= difference < detectable_difference(sd, n - 1, power)
    assert seeds_needed(0.1, 0.0) == 2
    assert seeds_needed(1e-9, 1.0) == math.inf
    assert math.isnan(seeds_needed(0.1, math.nan))
    assert seeds_needed(0.5, 1.0, level=0.005) > 34
    assert power_of(0.0, 1.0, 6) == pytest.approx(LEVEL)
    assert power_of(-0.7, 1.0, 6) == power_of(0.7, 1.0, 6)
    assert (power_of(0.1, 0.0, 4), power_of(0.0, 0.0, 4)) == (1.0, LEVEL)
    assert math.isnan(power_of(0.1, 1.0, 1))
    assert (power_of(1.0, 1e-9, 2), seeds_needed(1.0, 1e-9, level=1e-5)) == (1.0, 2)  # where scipy's nct has NaN


VALUES = np.array([0.11, -0.02, 0.31, 0.08, 0.05, 0.17])


def test_bootstrap_intervals_are_scipys():
    values = np.random.default_rng(2).gamma(2.0, 0.1, 9)  # skewed: percentiles are shifted
    expected = stats.bootstrap((values,), np.mean, n_resamples=29_999, method="BCa", random_state=1, batch=10_000)
    assert bca_interval(values, resamples=29_999) == pytest.approx(tuple(expected.confidence_interval), abs=0.002)
    plain = np.quantile(expected.bootstrap_distribution, [0.025, 0.975])
    assert abs(plain - expected.confidence_interval).min() > 0.004  # what the correction does
    low, high = bca_interval(VALUES)
    several = bca_interval(np.stack([VALUES, 2 * VALUES]))
    assert np.array(several) == pytest.approx(np.array([[low, 2 * low], [high, 2 * high]]))
    assert bca_interval(VALUES[::-1]) == bca_interval(VALUES)
    assert bca_interval(VALUES, seed=1) != bca_interval(VALUES)
    assert bca_interval(np.full(4, 0.25)) == (0.25, 0.25)
    assert np.isnan(bca_interval(VALUES[:1])).all()


def test_sign_flips_by_hand_and_as_scipy_does_them():
    assert sign_flips(np.array([0.1, 0.2, 0.3])) == 0.25
    assert sign_flips(np.array([0.1, 0.2, -0.1])) == 0.75  # sums of 0.2 and more: 6 of 8
    assert sign_flips(np.zeros(3)) == 1
    expected = stats.permutation_test((VALUES,), np.mean, permutation_type="samples", n_resamples=np.inf)
    assert sign_flips(VALUES) == pytest.approx(expected.pvalue)
    many = np.random.default_rng(0).normal(0.4, 1, EXACT + 6)
    half = np.array(list(itertools.product([-1, 1], repeat=10)))
    sums = (half @ many[:10])[:, None] + half @ many[10:]  # of all 2^20 flips
    exact = (abs(sums) >= abs(many.sum()) - 1e-12).mean()
    assert abs(sign_flips(many) - exact) < ERRORS * standard_error(exact)
    assert np.isnan(sign_flips(np.empty(0)))


def test_equivalence_is_two_one_sided_tests():
    gap = t_interval(list(VALUES / 10))
    tests = [
        stats.ttest_1samp(VALUES / 10, sign * 0.03, alternative=side) for sign, side in ((-1, "greater"), (1, "less"))
    ]
    p = equivalence(gap.mean, gap.sd, gap.n, 0.03)
    assert p == pytest.approx(max(test.pvalue for test in tests))
    assert equivalence(-gap.mean, gap.sd, gap.n, 0.03) == pytest.approx(p)
    low, high, _ = student(gap.mean, gap.sd, gap.n, 2 * float(p))  # 1 - 2p interval: it just touches the margin
    assert max(-low, high) == pytest.approx(0.03)
    assert (equivalence(0.01, 0.0, 3, 0.02), equivalence(0.03, 0.0, 3, 0.02)) == (0, 1)
    assert np.isnan(equivalence(0.01, math.nan, 1, 0.02))


def test_verdicts_in_words():
    assert verdict(0.1, 0.01, False) == "better"
    assert verdict(-0.1, 0.01, False) == "worse"
    assert verdict(-0.01, 0.01, True) == "worse (within the margin)"
    assert verdict(0.001, 0.6, True) == "equal"
    assert verdict(0.1, 0.05, False) == "undecided"
    assert verdict(0.1, math.nan, False) == "undecided"
    assert verdict(-0.1, 0.01, False, ("higher", "lower")) == "lower"


def test_the_interquartile_mean_is_the_mean_of_the_middle_half():
    scores = [np.array([0.9, 0.1, 0.5, 0.4]), np.array([0.2, 0.3, 0.6, 5.0])]
    found = interquartile_mean(scores)
    assert found.mean == pytest.approx((0.3 + 0.4 + 0.5 + 0.6) / 4)  # 0.1, 0.2 and 0.9, 5.0 are cut
    assert found.n == 8
    expected = stats.bootstrap(  # of one stratum scipy does the same
        (scores[0],),
        lambda x, axis: stats.trim_mean(x, 0.25, axis),
        n_resamples=9999,
        method="percentile",
        random_state=1,
    )
    one = interquartile_mean(scores[:1])
    assert (one.low, one.high) == pytest.approx(tuple(expected.confidence_interval), abs=0.02)
    apart = [np.full(3, 0.1), np.full(3, 0.9)]  # strata are kept as they are: nothing varies
    assert interquartile_mean(apart).low == interquartile_mean(apart).high == pytest.approx(0.5)
    single = interquartile_mean([np.array([0.2]), np.array([0.4, 0.6])])
    assert (single.mean, math.isnan(single.low)) == (pytest.approx(0.4), True)
    assert math.isnan(interquartile_mean([]).mean)


def test_the_probability_of_improvement_is_mann_and_whitneys_u_averaged_over_strata():
    first, second = np.array([0.5, 0.7, 0.7, 0.2]), np.array([0.7, 0.1, 0.6])
    u = stats.mannwhitneyu(first, second).statistic / 12
    assert u == pytest.approx((1 + 2.5 + 2.5 + 1) / 12)
    assert probability_of_improvement([first], [second]).mean == pytest.approx(u)
    sure = probability_of_improvement([first, first + 1], [second, second])
    assert (sure.mean, sure.n) == (pytest.approx((u + 1) / 2), 2)
    assert 0 <= sure.low < sure.mean < sure.high <= 1
    back = probability_of_improvement([second], [first])
    assert back.mean == pytest.approx(1 - u)
    assert math.isnan(probability_of_improvement([first[:1]], [second]).low)
    assert math.isnan(probability_of_improvement([first], [second[:0]]).mean)


def test_the_interval_of_an_improvement_is_a_percentile_interval_over_runs():
    rng, n = np.random.default_rng(12), 12
    first, second = [rng.normal(0.5, 1, n), rng.normal(1, 1, n)], [rng.normal(size=n), rng.normal(size=n)]
    found = probability_of_improvement(first, second)
    drawn_again = []
    for _ in range(3000):
        parts = [[rng.choice(part, n) for part in side] for side in (first, second)]
        drawn_again.append(np.mean([np.greater.outer(a, b) for a, b in zip(*parts, strict=True)]))
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(drawn_again, [0.025, 0.975])), abs=0.02)
