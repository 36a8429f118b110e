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


def t_interval(values: Sequence[float]) -> Difference:
    """Return the mean of values by seed with its interval; NaN counts as unknown."""
    known = [value for value in values if not math.isnan(value)]
    if not known:
        return Difference(math.nan, math.nan, math.nan, 0)
    mean, n = statistics.fmean(known), len(known)
    if n == 1:
        return Difference(mean, math.nan, math.nan, 1)
    from scipy import stats

    sd = statistics.stdev(known)
    error = sd / math.sqrt(n)
    half = float(stats.t.ppf(0.975, n - 1)) * error
    p = float(2 * stats.t.sf(abs(mean) / error, n - 1)) if error else float(mean == 0)
    return Difference(mean, mean - half, mean + half, n, p, sd)


def paired_difference(first: Mapping[int, float], second: Mapping[int, float]) -> Difference:
    """Return first - second over the seeds for which both are known.

    Args:
        first: value by seed; NaN counts as unknown.
        second: likewise.
    """
    return t_interval([first[s] - second[s] for s in sorted(first) if s in second])


def detectable_difference(sd: float, n: int, power: float = 0.8, level: float = 0.05) -> float:
    """Return the smallest true mean difference that a two-sided paired t test detects with a given probability.

    Args:
        sd: of the differences.
        n: number of pairs; NaN for fewer than two.
        power: the probability.
        level: of the single test.
    """
    if n < 2 or math.isnan(sd):
        return math.nan
    from scipy import optimize, stats

    critical = stats.t.ppf(1 - level / 2, n - 1)

    def missing(shift: float) -> float:
        wrong_sign = float(stats.nct.cdf(-critical, n - 1, shift))  # scipy has NaN for what is next to nothing
        return float(stats.nct.sf(critical, n - 1, shift)) + (0.0 if math.isnan(wrong_sign) else wrong_sign) - power

    most = 2.0
    while missing(most) < 0:
        most *= 2
    return optimize.brentq(missing, 0.0, most) * sd / math.sqrt(n)


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
