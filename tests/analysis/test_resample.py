import math

import pytest
import torch
from scipy.stats import kstest
from sklearn.metrics import roc_auc_score

from vitmem.analysis.resample import auroc, auroc_interval, ends, permuted_ratios, resampled_ratios, two_sided


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("rounded", [False, True])  # with and without ties
def test_the_area_is_that_of_scikit_learn(rounded):
    score = torch.randn(200, generator=generator(), dtype=torch.float64)
    score = score.round() if rounded else score
    positive = torch.rand(200, generator=generator(1)) < 0.3
    assert auroc(score, positive) == pytest.approx(roc_auc_score(positive.numpy(), score.numpy()), abs=1e-12)


def test_the_area_of_one_kind_alone_is_unknown():
    assert math.isnan(auroc(torch.arange(3.0), torch.ones(3, dtype=torch.bool)))
    assert all(math.isnan(part) for part in auroc_interval(torch.arange(3.0), torch.zeros(3).bool(), 5, generator()))


def test_the_interval_of_an_area_has_about_the_width_that_hanley_and_mcneil_give():
    positive = torch.arange(400) < 100
    score = torch.randn(400, generator=generator(2), dtype=torch.float64) + positive
    area, low, high = auroc_interval(score, positive, 400, generator())
    q1, q2 = area / (2 - area), 2 * area**2 / (1 + area)
    sd = math.sqrt((area * (1 - area) + 99 * (q1 - area**2) + 299 * (q2 - area**2)) / (100 * 300))
    assert (high - low) / (2 * 1.96 * sd) == pytest.approx(1, abs=0.2)


def test_intervals_of_ratios_hold_the_truth_in_95_of_100():
    """Of 300 data sets, the number of misses is binomial with 0.05: 15 +- 3 sd is 4 to 26."""
    draws = generator(3)
    missed = 0
    for _ in range(300):
        first, second = (1 + 0.5 * torch.randn(60, 1, generator=draws, dtype=torch.float64) for _ in range(2))
        low, high = ends(resampled_ratios(first, second, 300, draws))
        missed += not float(low) <= 1 <= float(high)
    assert 4 <= missed <= 26


def test_permutation_p_values_are_uniform_where_there_is_no_difference():
    draws = generator(4)
    found = []
    for _ in range(200):
        first, second = (1 + torch.rand(30, 1, generator=draws, dtype=torch.float64) for _ in range(2))
        null = permuted_ratios(first, second, 99, draws)
        found.append(float(two_sided(first.mean(0) / second.mean(0), null)))
    assert kstest(found, "uniform").pvalue > 0.001


def test_a_difference_is_found():
    draws = generator(5)
    first, second = (shift + torch.rand(30, 1, generator=draws, dtype=torch.float64) for shift in (2, 1))
    null = permuted_ratios(first, second, 99, draws)
    assert float(two_sided(first.mean(0) / second.mean(0), null)) == pytest.approx(0.01)
