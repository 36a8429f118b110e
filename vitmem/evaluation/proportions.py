"""Intervals and tests of differences of proportions over examples; the same examples twice are paired."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from vitmem.evaluation.metrics import wilson


class PairedProportions(NamedTuple):
    """Difference of two proportions over the same examples.

    Attributes:
        difference: first - second.
        low: lower end of Newcombe's 95 % interval.
        high: upper end.
        only_first: examples that are True in the first alone.
        only_second: in the second alone.
        p: of the exact McNemar test.
    """

    difference: float
    low: float
    high: float
    only_first: int
    only_second: int
    p: float


def mcnemar(first_N: np.ndarray, second_N: np.ndarray) -> float:
    """Return p of the exact two-sided McNemar test that two shares are equal: binomial over the pairs that differ.

    Args:
        first_N: bool, by example.
        second_N: bool, of the same examples in the same order.
    """
    from scipy import stats

    first_N, second_N = _pairs(first_N, second_N)
    only_first, differ = int((first_N & ~second_N).sum()), int((first_N != second_N).sum())
    return float(stats.binomtest(only_first, differ, 0.5).pvalue) if differ else 1.0


def paired_proportions(first_N: np.ndarray, second_N: np.ndarray) -> PairedProportions:
    """Return the difference of two shares of the same examples, with interval and test; NaN for no examples.

    Source: Newcombe 1998 (Statistics in Medicine 17, 2635), method 10; Wilson intervals, squared and added with the
    correlation of the pairs, which is corrected for continuity.

    Args:
        first_N: bool, by example.
        second_N: bool, of the same examples in the same order.
    """
    first_N, second_N = _pairs(first_N, second_N)
    n = len(first_N)
    if not n:
        return PairedProportions(math.nan, math.nan, math.nan, 0, 0, math.nan)
    both, neither = int((first_N & second_N).sum()), int((~first_N & ~second_N).sum())
    only_first, only_second = int((first_N & ~second_N).sum()), int((~first_N & second_N).sum())
    product = both * neither - only_first * only_second
    product = max(product - n / 2, 0.0) if product > 0 else product
    ones, others = both + only_first, both + only_second
    scale = math.sqrt(ones * (n - ones) * others * (n - others))
    low, high = square_and_add([(1, ones / n, n), (-1, others / n, n)], product / scale if scale else 0.0)
    difference = (only_first - only_second) / n
    return PairedProportions(difference, low, high, only_first, only_second, mcnemar(first_N, second_N))


def square_and_add(terms: Sequence[tuple[int, float, int]], correlation: float = 0.0) -> tuple[float, float]:
    """Return a 95 % interval of a sum of signed proportions from the Wilson interval of each.

    Source: Newcombe 1998; Zou & Donner 2008 for more than two.

    Args:
        terms: sign, proportion and number of examples of each.
        correlation: of the two proportions, if there are two. At 0 the interval is conservative for differences over
            examples that agree more often than by chance.
    """
    total = sum(sign * share for sign, share, _ in terms)
    distances = []
    for sign, share, n in terms:
        low, high = wilson(round(share * n), n)
        down, up = max(0.0, share - low), max(0.0, high - share)
        distances.append((down, up) if sign > 0 else (up, down))
    ends = []
    for end in zip(*distances, strict=True):
        shared = 2 * correlation * end[0] * end[1] if correlation else 0.0
        ends.append(math.sqrt(max(0.0, sum(distance**2 for distance in end) - shared)))
    return total - ends[0], total + ends[1]


def _pairs(first_N: np.ndarray, second_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    first_N, second_N = np.asarray(first_N, bool), np.asarray(second_N, bool)
    if first_N.shape != second_N.shape:
        raise ValueError(f"pairs need the same examples, not {len(first_N)} and {len(second_N)}")
    return first_N, second_N
