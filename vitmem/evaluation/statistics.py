"""Statistics of comparisons: intervals and tests paired over seeds, equivalence, families of tests, aggregates, power.

Pure functions. Legend: N values, one of each seed (paired differences, mostly); R resamples. Functions of arrays take
leading dimensions before N: independent experiments at once.

Sources: Student 1908; Efron 1987 (BCa); Fisher 1935 (sign flips); Schuirmann 1987 (two one-sided tests); Holm 1979;
Agarwal et al. 2021, "Deep reinforcement learning at the edge of the statistical precipice" (``rliable``).
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

LEVEL = 0.05  # of tests; intervals are of 1 - LEVEL
RESAMPLES = 1999  # of bootstraps
EXACT = 14  # seeds up to which all sign flips are tried; above it MOST_FLIPS of them
MOST_FLIPS = 10_000
MOST_SEEDS = 1_000_000  # beyond it a difference counts as undetectable
# Share of 95 % BCa intervals that hold the true mean of N normal differences, in 200,000 experiments: too few of them
# for few seeds, where the t interval is the one to read. `tests/evaluation/test_statistics.py` measures it again.
BCA_COVERAGE = {3: 0.7200, 5: 0.8364, 8: 0.8819, 10: 0.8973, 20: 0.9240}


@dataclass(frozen=True)
class Difference:
    """Mean over seeds, usually of paired differences, with a 95 % t interval.

    Args:
        mean: over the pairs.
        low: lower end; NaN for fewer than two pairs.
        high: upper end.
        n: number of pairs.
        p: of the two-sided t test that the mean is 0; NaN for fewer than two pairs.
        sd: sample standard deviation; NaN for fewer than two pairs.
    """

    mean: float
    low: float
    high: float
    n: int
    p: float = math.nan
    sd: float = math.nan

    def within(self, margin: float) -> bool:
        """Tell whether the interval lies within a margin around 0."""
        return -margin < self.low and self.high < margin


def t_interval(values: Sequence[float]) -> Difference:
    """Return the mean of values by seed with its interval; NaN counts as unknown."""
    known = [value for value in values if not math.isnan(value)]
    if not known:
        return Difference(math.nan, math.nan, math.nan, 0)
    mean, n = statistics.fmean(known), len(known)
    if n == 1:
        return Difference(mean, math.nan, math.nan, 1)
    sd = statistics.stdev(known)
    low, high, p = (float(number) for number in student(mean, sd, n))
    return Difference(mean, low, high, n, p, sd)


def student(mean: np.ndarray | float, sd: np.ndarray | float, n: int, level: float = LEVEL) -> tuple:
    """Return the ends of the t interval of a mean of n values, and p of the two-sided t test that it is 0.

    Args:
        mean: a number or an array of any shape.
        sd: sample standard deviations, of the same shape.
        n: number of values, at least 2.
        level: 1 - that of the interval.
    """
    from scipy import special

    mean, error = np.asarray(mean), np.asarray(sd) / math.sqrt(n)
    half = special.stdtrit(n - 1, 1 - level / 2) * error
    return mean - half, mean + half, np.where(error > 0, 2 * special.stdtr(n - 1, -_over(abs(mean), error)), mean == 0)


def equivalence(mean: np.ndarray | float, sd: np.ndarray | float, n: int, margin: float) -> np.ndarray:
    """Return p of two one-sided t tests that a true mean of paired differences is not within a margin around 0.

    Below a level exactly where the 1 - 2 level t interval lies within the margin.

    Args:
        mean: a number or an array of any shape.
        sd: sample standard deviations, of the same shape.
        n: number of values; NaN is returned for fewer than 2, and where sd is NaN.
        margin: largest difference that does not matter, above 0.
    """
    from scipy import special

    mean, sd = np.asarray(mean, float), np.asarray(sd, float)
    if n < 2:
        return np.full(mean.shape, math.nan)
    error, inside = sd / math.sqrt(n), margin - abs(mean)
    found = np.where(error > 0, special.stdtr(n - 1, -_over(inside, error)), np.where(inside > 0, 0.0, 1.0))
    return np.where(np.isnan(error), math.nan, found)


def _over(numbers: np.ndarray, by: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return numbers / by


def paired_difference(first: Mapping[int, float], second: Mapping[int, float]) -> Difference:
    """Return first - second over the seeds for which both are known, as ``interval_of_differences`` has it.

    Args:
        first: value by seed; NaN counts as unknown.
        second: likewise.
    """
    return interval_of_differences([first[s] - second[s] for s in sorted(first) if s in second])


def interval_of_differences(values: Sequence[float]) -> Difference:
    """Return the mean of paired differences with its interval; NaN counts as unknown.

    A few differences of a coarse metric that are equal, and not 0, are so by chance: their spread is not known, so
    that sd, interval and p are NaN.
    """
    gap = t_interval(values)
    if gap.n > 1 and gap.mean and gap.sd <= 1e-12 * abs(gap.mean):
        return Difference(gap.mean, math.nan, math.nan, gap.n)
    return gap


def bca_interval(values_N: np.ndarray, *, seed: int = 0, resamples: int = RESAMPLES, level: float = LEVEL) -> tuple:
    """Return the ends of the bias-corrected and accelerated bootstrap interval of a mean; NaN for fewer than 2 values.

    Args:
        values_N: ... N. Their order does not matter.
        seed: of the resamples, which are the same for all leading dimensions.
        resamples: how many.
        level: 1 - that of the interval.
    """
    from scipy import special

    values_N = np.sort(np.asarray(values_N, float))
    n, mean = values_N.shape[-1], values_N.mean(-1)
    if n < 2:
        return np.full(mean.shape, math.nan), np.full(mean.shape, math.nan)
    shares_RN = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), resamples) / n
    means_R = np.sort(values_N @ shares_RN.T)
    centred_N, same = values_N - mean[..., None], 1e-12 * (1 + abs(mean[..., None]))
    below = ((means_R < mean[..., None] - same).mean(-1) + (means_R <= mean[..., None] + same).mean(-1)) / 2
    bias = special.ndtri(np.clip(below, 1 / resamples, 1 - 1 / resamples))
    skew = np.nan_to_num(_over((centred_N**3).sum(-1), 6 * (centred_N**2).sum(-1) ** 1.5))
    ends = []
    for quantile in (level / 2, 1 - level / 2):
        shifted = bias + special.ndtri(quantile)
        place = special.ndtr(bias + shifted / (1 - skew * shifted)) * (resamples - 1)
        under = np.clip(place.astype(int), 0, resamples - 2)[..., None]
        low, high = (np.take_along_axis(means_R, under + step, -1)[..., 0] for step in (0, 1))
        ends.append(low + (place - under[..., 0]) * (high - low))
    return ends[0], ends[1]


def sign_flips(values_N: np.ndarray, *, seed: int = 0) -> np.ndarray:
    """Return p of the two-sided permutation test of a mean: paired differences keep their size and change their sign.

    Exact for symmetric differences of any distribution up to ``EXACT`` seeds, by random flips above. N seeds cannot
    give less than 2 / 2^N, which is 0.25 for 3 and 0.0625 for 5.

    Args:
        values_N: ... N; NaN is returned for none.
        seed: of random flips.
    """
    values_N = np.sort(np.asarray(values_N, float))
    n = values_N.shape[-1]
    if n == 0:
        return np.full(values_N.shape[:-1], math.nan)
    if n <= EXACT:
        signs_RN = 1 - 2 * (np.arange(2**n)[:, None] >> np.arange(n) & 1)
    else:
        signs_RN = np.random.default_rng(seed).choice([-1, 1], (MOST_FLIPS, n))
        signs_RN[0] = 1  # what was seen is one of the flips
    same = 1e-12 * abs(values_N).sum(-1, keepdims=True)
    return (abs(values_N @ signs_RN.T) >= abs(values_N.sum(-1, keepdims=True)) - same).mean(-1)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p values adjusted for that many tests, by Holm's step-down procedure; NaN is no test, and stays."""
    order = sorted((p, k) for k, p in enumerate(p_values) if not math.isnan(p))
    adjusted, largest = list(p_values), 0.0
    for rank, (p, k) in enumerate(order):
        largest = max(largest, min(1.0, p * (len(order) - rank)))
        adjusted[k] = largest
    return adjusted


def verdict(mean: float, p: float, within: bool, words: tuple[str, str] = ("better", "worse")) -> str:
    """Return what a comparison says: better or worse, equal (within the margin), or undecided.

    Args:
        mean: difference.
        p: that it is 0, corrected for the family; NaN for none.
        within: equality within the margin was shown.
        words: for differences above and below 0.
    """
    if p < LEVEL:
        return words[mean < 0] + (" (within the margin)" if within else "")
    return "equal" if within else "undecided"


def interquartile_mean(scores: Sequence[np.ndarray], *, seed: int = 0, resamples: int = RESAMPLES) -> Difference:
    """Return the mean of the middle half of all scores, with a 95 % percentile interval of a stratified bootstrap.

    Args:
        scores: of each stratum (task, level), N; seeds are drawn again within each.
        seed: of the resamples.
        resamples: how many.

    Returns:
        ``n`` is the number of scores; without an interval where a stratum has fewer than two.
    """
    from scipy import stats

    pool = np.concatenate([np.asarray(part, float) for part in scores]) if scores else np.empty(0)
    if not len(pool):
        return Difference(math.nan, math.nan, math.nan, 0)
    low = high = math.nan
    if min(map(len, scores)) > 1:
        drawn = np.concatenate(_resampled(scores, np.random.default_rng(seed), resamples), -1)
        low, high = np.quantile(stats.trim_mean(drawn, 0.25, axis=-1), [LEVEL / 2, 1 - LEVEL / 2])
    return Difference(float(stats.trim_mean(pool, 0.25)), float(low), float(high), len(pool))


def probability_of_improvement(
    first: Sequence[np.ndarray], second: Sequence[np.ndarray], *, seed: int = 0, resamples: int = RESAMPLES
) -> Difference:
    """Return how probable it is that a run of the first scores higher than one of the second, averaged over strata.

    Mann and Whitney's U over the number of pairs; ties count half; pairs by seed are not used. The interval is the 95 %
    percentile interval of a bootstrap that draws runs of both again within each stratum.

    Args:
        first: scores of each stratum, N.
        second: likewise, of the same strata.
        seed: of the resamples.
        resamples: how many.

    Returns:
        ``n`` is the number of strata; without an interval where a stratum has fewer than two scores.
    """
    if not first or min(map(len, [*first, *second])) == 0:
        return Difference(math.nan, math.nan, math.nan, 0)
    found = _superior(first, second)
    low = high = math.nan
    if min(map(len, [*first, *second])) > 1:
        rng = np.random.default_rng(seed)
        drawn = _superior(_resampled(first, rng, resamples), _resampled(second, rng, resamples))
        low, high = np.quantile(drawn, [LEVEL / 2, 1 - LEVEL / 2])
    return Difference(float(found), float(low), float(high), len(first))


def _resampled(scores: Sequence[np.ndarray], rng: np.random.Generator, resamples: int) -> list[np.ndarray]:
    """Return scores of each stratum drawn again: R N."""
    return [np.sort(part)[rng.integers(len(part), size=(resamples, len(part)))] for part in scores]


def _superior(first: Sequence[np.ndarray], second: Sequence[np.ndarray]) -> np.ndarray:
    shares = []
    for own, its in zip(first, second, strict=True):
        gap = np.asarray(own)[..., :, None] - np.asarray(its)[..., None, :]
        shares.append(((gap > 0) + (gap == 0) / 2).mean((-2, -1)))
    return np.mean(shares, 0)


def power_of(difference: float, sd: float, n: int, level: float = LEVEL) -> float:
    """Return how probable it is that a two-sided paired t test finds a true mean difference, by noncentral t.

    Args:
        difference: the true mean.
        sd: of the differences, at least 0.
        n: number of pairs; NaN for fewer than two.
        level: of the test.
    """
    if n < 2 or math.isnan(sd):
        return math.nan
    if sd == 0:
        return float(difference != 0) or level
    return _rejected(abs(difference) / sd * math.sqrt(n), n, level)


def _rejected(shift: float, n: int, level: float) -> float:
    from scipy import special, stats

    critical = special.stdtrit(n - 1, 1 - level / 2)
    above, below = float(stats.nct.sf(critical, n - 1, shift)), float(stats.nct.cdf(-critical, n - 1, shift))
    above = float(shift > critical) if math.isnan(above) else above  # scipy has NaN for what is next to 1 or 0
    return above + (0.0 if math.isnan(below) else below)


def detectable_difference(sd: float, n: int, power: float = 0.8, level: float = LEVEL) -> float:
    """Return the smallest true mean difference that a two-sided paired t test detects with a given probability.

    Args:
        sd: of the differences.
        n: number of pairs; NaN for fewer than two.
        power: the probability.
        level: of the single test.
    """
    if n < 2 or math.isnan(sd):
        return math.nan
    from scipy import optimize

    most = 2.0
    while _rejected(most, n, level) < power:
        most *= 2
    return optimize.brentq(lambda shift: _rejected(shift, n, level) - power, 0.0, most) * sd / math.sqrt(n)


def seeds_needed(difference: float, sd: float, power: float = 0.8, level: float = LEVEL) -> float:
    """Return the fewest seeds with which a two-sided paired t test finds a true mean difference often enough.

    Args:
        difference: the true mean.
        sd: of the differences.
        power: how often.
        level: of the test.

    Returns:
        A whole number, at least 2; infinity above ``MOST_SEEDS``, NaN for an unknown sd.
    """
    if math.isnan(sd):
        return math.nan
    few, many = 1, 2
    while power_of(difference, sd, many, level) < power:
        few, many = many, 2 * many
        if few > MOST_SEEDS:
            return math.inf
    while many - few > 1:
        middle = (few + many) // 2
        few, many = (few, middle) if power_of(difference, sd, middle, level) >= power else (middle, many)
    return many
