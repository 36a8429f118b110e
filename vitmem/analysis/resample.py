"""Intervals and null distributions by resampling.

Legend: R resamples, M and N examples of two groups, Q quantities.
"""

import torch
from torch import Tensor


def resampled_ratios(first_MQ: Tensor, second_NQ: Tensor, resamples: int, generator: torch.Generator) -> Tensor:
    """Return the ratios R Q of the means of two groups, drawn with replacement in each; one draw serves all."""
    return resampled_mean(first_MQ, resamples, generator) / resampled_mean(second_NQ, resamples, generator)


def ends(drawn_RQ: Tensor) -> tuple[Tensor, Tensor]:
    """Return the ends Q of the 95 % percentile intervals."""
    low_Q, high_Q = torch.quantile(drawn_RQ, torch.tensor([0.025, 0.975], dtype=drawn_RQ.dtype), dim=0)
    return low_Q, high_Q


def resampled_mean(value_NQ: Tensor, resamples: int, generator: torch.Generator) -> Tensor:
    """Return the means R Q of draws with replacement."""
    number = len(value_NQ)
    drawn_RN = torch.randint(number, (resamples, number), generator=generator)
    times_RN = torch.zeros(resamples, number, dtype=value_NQ.dtype)
    times_RN.scatter_add_(1, drawn_RN, torch.ones_like(drawn_RN, dtype=value_NQ.dtype))
    return times_RN @ value_NQ / number


def permuted_ratios(first_MQ: Tensor, second_NQ: Tensor, permutations: int, generator: torch.Generator) -> Tensor:
    """Return the ratios R Q of means when the examples are dealt to the groups at random."""
    both, first = torch.cat([first_MQ, second_NQ]), len(first_MQ)
    total_Q = both.sum(0)
    member_RN = torch.zeros(permutations, len(both), dtype=both.dtype)
    for row in member_RN:
        row[torch.randperm(len(both), generator=generator)[:first]] = 1
    sum_RQ = member_RN @ both
    return (sum_RQ / first) / ((total_Q - sum_RQ) / len(second_NQ))


def two_sided(found_Q: Tensor, null_RQ: Tensor) -> Tensor:
    """Return the permutation p-values Q: how often the null is as far from its own mean as what was found."""
    centre_Q = null_RQ.mean(0)
    further_Q = ((null_RQ - centre_Q).abs() >= (found_Q - centre_Q).abs()).sum(0)
    return (1 + further_Q) / (1 + len(null_RQ))


def null_numbers(found: float, null_R: Tensor) -> dict[str, float]:
    """Return the mean of a null distribution, the ends of its 95 % interval, and the p-value of what was found."""
    low, high = ends(null_R[:, None])
    p = two_sided(torch.tensor([found], dtype=null_R.dtype, device=null_R.device), null_R[:, None])
    return {"null": float(null_R.mean()), "null_low": float(low), "null_high": float(high), "p": float(p)}


def auroc(score_N: Tensor, is_positive_N: Tensor) -> float:
    """Return how often a positive has the higher score than a negative, ties counted half; NaN without both."""
    positives, negatives = int(is_positive_N.sum()), int((~is_positive_N).sum())
    if not positives or not negatives:
        return float("nan")
    _, inverse_N, counts = torch.unique(score_N.double(), return_inverse=True, return_counts=True)
    last = counts.cumsum(0)
    rank_N = (last - (counts - 1).double() / 2)[inverse_N]  # from 1; ties share the mean of their ranks
    return float((rank_N[is_positive_N].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def auroc_interval(
    score_N: Tensor, is_positive_N: Tensor, resamples: int, generator: torch.Generator
) -> tuple[float, float, float]:
    """Return the area and the ends of its 95 % percentile bootstrap interval; both kinds are drawn apart."""
    found = auroc(score_N, is_positive_N)
    if found != found:
        return found, found, found
    high, low = score_N[is_positive_N].double(), score_N[~is_positive_N].double()
    drawn = torch.tensor(
        [
            auroc(
                torch.cat(
                    [
                        high[torch.randint(len(high), (len(high),), generator=generator)],
                        low[torch.randint(len(low), (len(low),), generator=generator)],
                    ]
                ),
                torch.arange(len(high) + len(low)) < len(high),
            )
            for _ in range(resamples)
        ],
        dtype=torch.float64,
    )
    low, high = ends(drawn)
    return found, float(low), float(high)
