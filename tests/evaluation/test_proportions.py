"""Paired and signed proportions: published intervals, hand computations, and coverage."""

import math

import numpy as np
import pytest

from vitmem.evaluation.metrics import wilson
from vitmem.evaluation.proportions import mcnemar, paired_proportions, square_and_add


def table(both, only_first, only_second, neither):
    counts = (both, only_first, only_second, neither)
    return np.repeat([True, True, False, False], counts), np.repeat([True, False, True, False], counts)


@pytest.mark.parametrize(
    ("counts", "published"),
    [
        ((36, 12, 2, 0), (0.2, 0.0569, 0.3404)),  # Newcombe 1998, method 10
        ((59, 6, 16, 80), (-0.0621, -0.1186, -0.0046)),  # Fagerland, Lydersen & Laake 2017, chapter 8
    ],
)
def test_newcombes_interval_is_the_published_one(counts, published):
    assert paired_proportions(*table(*counts))[:3] == pytest.approx(published, abs=5e-5)
    mirrored = paired_proportions(*reversed(table(*counts)))
    assert mirrored[:3] == pytest.approx((-published[0], -published[2], -published[1]), abs=5e-5)


def test_mcnemar_is_the_binomial_test_of_the_pairs_that_differ():
    by_hand = 2 * sum(math.comb(14, k) for k in (0, 1, 2)) / 2**14
    assert mcnemar(*table(36, 12, 2, 0)) == pytest.approx(by_hand)
    assert mcnemar(*table(0, 2, 12, 500)) == pytest.approx(by_hand)  # what both say alike does not count
    assert mcnemar(*table(0, 5, 0, 0)) == pytest.approx(2 / 2**5)
    assert mcnemar(*table(3, 4, 4, 3)) == 1
    assert mcnemar(*table(3, 0, 0, 3)) == 1
    found = paired_proportions(*table(36, 12, 2, 0))
    assert (found.only_first, found.only_second, found.p) == (12, 2, pytest.approx(by_hand))


def test_nothing_to_compare():
    assert math.isnan(paired_proportions(np.zeros(0, bool), np.zeros(0, bool)).difference)
    with pytest.raises(ValueError, match="same examples, not 2 and 3"):
        mcnemar(np.ones(2, bool), np.ones(3, bool))


def test_signed_proportions_by_hand():
    assert square_and_add([(1, 0.3, 50)]) == pytest.approx(wilson(15, 50))
    low, high = square_and_add([(1, 56 / 70, 70), (-1, 48 / 80, 80)])
    assert (low, high) == pytest.approx((0.0524, 0.3339), abs=5e-5)  # Newcombe 1998 (17, 873), example a, method 10


def test_the_interval_of_a_rise_covers_what_is_true():
    rng = np.random.default_rng(0)
    shares = {1: (0.3, 0.05), -1: (0.15, 0.02)}
    true = sum(sign * sum(both) for sign, both in shares.items())
    hits = 0
    for _ in range(400):
        drawn = [(sign, rng.binomial(65, p) / 65, 65) for sign, both in shares.items() for p in both]
        low, high = square_and_add(drawn)
        hits += low <= true <= high
    assert 0.93 <= hits / 400 <= 0.99
