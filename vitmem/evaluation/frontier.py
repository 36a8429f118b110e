"""Comparing edits that trade memory against utility: operating points on frontiers, and paired differences."""

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vitmem.evaluation.tables import usable


def at_memorized(rows: Sequence[Mapping], target: float, metrics: Sequence[str]) -> dict[str, float]:
    """Return metrics where a frontier crosses a memorised accuracy, linearly between the two rows around it.

    Args:
        rows: of one model and one family of edits, from the gentlest to the strongest; those whose edit diverged or
            left a model at chance are passed over.
        target: memorised accuracy, in [0, 1].
        metrics: columns to interpolate.

    Returns:
        The first crossing; NaN for every metric if the frontier never comes down to the target.
    """
    for gentle, strong in itertools.pairwise(filter(usable, rows)):
        high, low = gentle["memorized_accuracy"], strong["memorized_accuracy"]
        if high >= target >= low:
            share = 0.0 if high == low else (high - target) / (high - low)
            return {metric: gentle[metric] + share * (strong[metric] - gentle[metric]) for metric in metrics}
    return dict.fromkeys(metrics, math.nan)


def best_ground_truth(rows: Sequence[Mapping], base: Mapping, drop: float) -> Mapping | None:
    """Return the row of highest ground truth whose validation accuracy is at most ``drop`` below the base's."""
    floor = base["validation_accuracy"] - drop
    within = [row for row in rows if usable(row) and row["validation_accuracy"] >= floor - 1e-12]
    return max(within, key=lambda row: row["ground_truth_accuracy"], default=None)


@dataclass(frozen=True)
class Difference:
    """Mean of paired differences with a 95 % t interval.

    Args:
        mean: over the pairs.
        low: lower end; NaN for fewer than two pairs.
        high: upper end.
        n: number of pairs.
        p: of the two-sided paired t test that the mean is 0; NaN for fewer than two pairs.
        detectable: true difference that this test finds with power 0.8; NaN for fewer than two pairs.
    """

    mean: float
    low: float
    high: float
    n: int
    p: float = math.nan
    detectable: float = math.nan


def t_interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % t interval of a mean; the value itself, twice, if there is only one."""
    if len(values) < 2:
        return values[0], values[0]
    from scipy import stats

    mean = statistics.fmean(values)
    half = stats.t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return mean - half, mean + half


def detectable(gaps: Sequence[float], power: float = 0.8) -> float:
    """Return the true mean difference that a two-sided paired t test at 0.05 finds with a given power.

    Args:
        gaps: observed differences, whose standard deviation is taken for the true one; fewer than two give NaN.
        power: probability to reject.

    Source: Cohen 1988, chapter 2: T = (Z + shift) / S, averaged over 2,000 quantiles of the chi distribution of S.
    """
    n = len(gaps)
    if n < 2:
        return math.nan
    import numpy as np
    from scipy import optimize, stats

    bound = stats.t.ppf(0.975, n - 1)
    s = np.sqrt(stats.chi2.ppf((np.arange(2000) + 0.5) / 2000, n - 1) / (n - 1)) * bound

    def missed(shift: float) -> float:
        return power - float(np.mean(stats.norm.cdf(shift - s) + stats.norm.cdf(-shift - s)))

    return float(optimize.brentq(missed, 0.0, 10 * bound)) * statistics.stdev(gaps) / math.sqrt(n)


def mcnemar(first: Sequence[bool], second: Sequence[bool]) -> float:
    """Return the p value of McNemar's exact test that two models are right equally often on the same examples.

    Args:
        first: whether the one model is right, by example.
        second: likewise, of the other.
    """
    from scipy import stats

    only_first = sum(a and not b for a, b in zip(first, second, strict=True))
    only_second = sum(b and not a for a, b in zip(first, second, strict=True))
    differ = only_first + only_second
    return float(stats.binomtest(only_first, differ).pvalue) if differ else 1.0


def paired_difference(first: Mapping[int, float], second: Mapping[int, float]) -> Difference:
    """Return first - second over the seeds for which both are known.

    Args:
        first: value by seed; NaN counts as unknown.
        second: likewise.
    """
    gaps = [first[s] - second[s] for s in sorted(first) if s in second and not math.isnan(first[s] - second[s])]
    if not gaps:
        return Difference(math.nan, math.nan, math.nan, 0)
    mean, n = statistics.fmean(gaps), len(gaps)
    if n == 1:
        return Difference(mean, math.nan, math.nan, 1)
    from scipy import stats

    error = statistics.stdev(gaps) / math.sqrt(n)
    p = float(2 * stats.t.sf(abs(mean) / error, n - 1)) if error else float(mean == 0)
    return Difference(mean, *t_interval(gaps), n, p, detectable(gaps))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p values adjusted for that many tests, by Holm's step-down procedure; NaN is no test, and stays.

    Source: Holm 1979.
    """
    order = sorted((p, k) for k, p in enumerate(p_values) if not math.isnan(p))
    adjusted, largest = list(p_values), 0.0
    for rank, (p, k) in enumerate(order):
        largest = max(largest, min(1.0, p * (len(order) - rank)))
        adjusted[k] = largest
    return adjusted
