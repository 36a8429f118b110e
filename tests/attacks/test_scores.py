import itertools
import math

import numpy as np
import pytest

from vitmem.attacks import scores as s

RNG = np.random.RandomState(0)


@pytest.mark.parametrize(("m", "n", "values"), [(7, 5, 4), (1, 1, 2), (30, 20, 6), (9, 11, 10**6)])
def test_auc_against_counting_pairs_with_ties(m, n, values):
    member, nonmember = (RNG.randint(values, size=size).astype(float) for size in (m, n))
    pairs = [(a > b) + (a == b) / 2 for a, b in itertools.product(member, nonmember)]
    assert s.auc(member, nonmember) == pytest.approx(np.mean(pairs), abs=1e-12)
    assert s.auc(nonmember, member) == pytest.approx(1 - np.mean(pairs), abs=1e-12)


def test_auc_interval_against_the_placements_of_each_example():
    member, nonmember = RNG.randint(5, size=13).astype(float), RNG.randint(5, size=9).astype(float)
    win = (member[:, None] > nonmember) + (member[:, None] == nonmember) / 2
    half = 1.959963984540054 * math.sqrt(win.mean(1).var(ddof=1) / 13 + win.mean(0).var(ddof=1) / 9)
    expected = (win.mean(), win.mean() - half, min(1.0, win.mean() + half))
    assert s.auc_interval(member, nonmember) == pytest.approx(expected)
    assert s.auc_interval(nonmember, member) == pytest.approx((1 - expected[0], 1 - expected[2], 1 - expected[1]))


def test_tpr_at_fpr_by_hand():
    nonmember, member = np.arange(10.0), np.array([10.0, 9.0, 8.5, 8.0, 1.0])
    assert s.tpr_at_fpr(member, nonmember, 0.1) == 3 / 5  # one false positive, 9, is allowed: above 8
    assert s.tpr_at_fpr(member, nonmember, 0.19) == 3 / 5
    assert s.tpr_at_fpr(member, nonmember, 0.2) == 4 / 5
    assert s.tpr_at_fpr(member, nonmember, 1.0) == 1.0
    assert s.tpr_at_fpr(member, np.full(10, 9.0), 0.1) == 1 / 5  # ten ties cannot be split
    assert math.isnan(s.tpr_at_fpr(member, nonmember, 0.09))
    assert math.isnan(s.tpr_at_fpr(member[:0], nonmember, 0.5))


def test_balanced_accuracy_against_all_thresholds():
    member, nonmember = RNG.randint(6, size=12).astype(float), RNG.randint(5, size=8).astype(float)
    tried = [((member >= t).mean() + (nonmember < t).mean()) / 2 for t in np.arange(-0.5, 7)]
    assert s.balanced_accuracy(member, nonmember) == pytest.approx(max(tried))
