"""Membership inference as arithmetic: scores of examples, how well they tell members apart, and memorisation.

Every score is higher for likelier members. A pair (image, label) enters through its confidence, the log-odds of its
label, phi = log p - log(1 - p), from which p and the loss follow.

Legend: M members, N non-members, P pairs that shadow models may have seen, Z pairs that none of them saw, S shadow
models. Arrays are float64; an undefined value is NaN.
"""

import math
from typing import Literal

import numpy as np

Variance = Literal["pair", "pooled", "within"]
Population = Literal["upper", "all"]
_LEAST_SD = 1e-6  # shadow models that agree exactly would have none


def auc(member_M: np.ndarray, nonmember_N: np.ndarray) -> float:
    """Return P(member scores higher) + P(tie) / 2; NaN if either is empty."""
    return auc_interval(member_M, nonmember_N)[0]


def auc_interval(
    member_M: np.ndarray, nonmember_N: np.ndarray, z: float = 1.959963984540054
) -> tuple[float, float, float]:
    """Return the AUC and its 95 % interval; NaN where there are too few examples.

    Source: DeLong, DeLong & Clarke-Pearson 1988; by ranks: Sun & Xu 2014.
    """
    from scipy.stats import rankdata

    m, n = len(member_M), len(nonmember_N)
    if not m or not n:
        return math.nan, math.nan, math.nan
    rank = rankdata(np.concatenate([member_M, nonmember_N]))
    beaten_M = (rank[:m] - rankdata(member_M)) / n  # share of non-members below each member
    beating_N = 1 - (rank[m:] - rankdata(nonmember_N)) / m
    area = float(beaten_M.mean())
    if m < 2 or n < 2:
        return area, math.nan, math.nan
    half = z * math.sqrt(beaten_M.var(ddof=1) / m + beating_N.var(ddof=1) / n)
    return area, max(0.0, area - half), min(1.0, area + half)


def tpr_at_fpr(member_M: np.ndarray, nonmember_N: np.ndarray, fpr: float) -> float:
    """Return the largest true-positive rate of a threshold whose false-positive rate is at most ``fpr``.

    NaN without members, or with fewer than 1 / fpr non-members: no threshold but the trivial one can be told apart.
    """
    allowed = math.floor(fpr * len(nonmember_N) + 1e-9)
    if not len(member_M) or allowed < 1:
        return math.nan
    falling_N = np.sort(nonmember_N)[::-1]
    threshold = falling_N[allowed] if allowed < len(falling_N) else -math.inf
    return float((member_M > threshold).mean())


def balanced_accuracy(member_M: np.ndarray, nonmember_N: np.ndarray) -> float:
    """Return the largest (true-positive rate + true-negative rate) / 2 over all thresholds; NaN if either is empty."""
    if not len(member_M) or not len(nonmember_N):
        return math.nan
    threshold = np.unique(np.concatenate([member_M, nonmember_N]))
    true_positive = 1 - np.searchsorted(np.sort(member_M), threshold) / len(member_M)  # scores >= the threshold
    true_negative = np.searchsorted(np.sort(nonmember_N), threshold) / len(nonmember_N)
    return float((true_positive + true_negative).max() / 2)


def priv_leak(area: float, area_retrain: float) -> float:
    """Return PrivLeak in percent: 0 for retrain, -100 where every member is told apart, positive if over-unlearned.

    MUSE counts the AUC the other way round, as P(loss on the holdout < loss on the forget set), so that 1 - AUC enters.

    Args:
        area: AUC of a score that is higher for members, on the model in question.
        area_retrain: the same on the model that never saw the members; NaN is returned if it is 1.

    Source: Shi et al. 2024 (MUSE), section 3.
    """
    return (area_retrain - area) / (1 - area_retrain) * 100 if area_retrain != 1 else math.nan


def lira(
    phi_P: np.ndarray, shadow_SP: np.ndarray, kept_SP: np.ndarray, *, online: bool = True, variance: Variance = "pair"
) -> np.ndarray:
    """Return the likelihood-ratio scores P of the target's confidences under Gaussians fitted to those of the shadows.

    Online: log N(phi; in) - log N(phi; out). Offline: (phi - mean out) / sd out, which orders as the one-sided
    probability of the paper does.

    Args:
        phi_P: the target's confidences.
        shadow_SP: those of the shadow models.
        kept_SP: bool, the shadow model was trained on the pair.
        online: use the shadow models that saw the pair as well as those that did not.
        variance: pair (each pair's own), or for few shadow models one for all pairs: pooled (of all values in one, of
            the shadow models that saw their pair; offline of those that did not; as in the authors' code) or within
            (the mean of the pairs' variances, of either kind by itself).

    Source: Carlini et al. 2022, algorithm 1 and section VI; the centres are medians, as in the authors' code. There a
    pair's variance is divided by n, here by n - 1, and the offline score is the density, which is two-sided.
    """

    def gaussian(chosen_SP: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        centre_P, variance_P = (np.full(len(phi_P), math.nan) for _ in range(2))
        for p, chosen_S in enumerate(chosen_SP.T):
            if chosen_S.any():
                centre_P[p] = np.median(shadow_SP[chosen_S, p])
            if chosen_S.sum() > 1:
                variance_P[p] = shadow_SP[chosen_S, p].var(ddof=1)
        pool = kept_SP if online else ~kept_SP
        if variance == "pooled" and pool.any():
            variance_P[:] = shadow_SP[pool].var()
        elif variance == "within":
            known = variance_P[~np.isnan(variance_P)]
            variance_P[:] = known.mean() if len(known) else math.nan
        return centre_P, np.maximum(np.sqrt(variance_P), _LEAST_SD)

    out_P, sd_out_P = gaussian(~kept_SP)
    if not online:
        return (phi_P - out_P) / sd_out_P
    from scipy.stats import norm

    in_P, sd_in_P = gaussian(kept_SP)
    return norm.logpdf(phi_P, in_P, sd_in_P) - norm.logpdf(phi_P, out_P, sd_out_P)


def rmia(
    phi_P: np.ndarray,
    shadow_SP: np.ndarray,
    kept_SP: np.ndarray,
    phi_Z: np.ndarray,
    shadow_SZ: np.ndarray,
    *,
    a: float = 0.3,
    gamma: float = 1.0,
    population: Population = "upper",
) -> np.ndarray:
    """Return the share of population pairs whose ratio p / p_mean the pair's own exceeds gamma times (offline form).

    p_mean = ((1 + a) mean of p over the shadow models that did not see the pair + (1 - a)) / 2. None saw the
    population; of each of its pairs, the mean is over the upper half of the values, as many as others have, or all.

    Args:
        phi_P: the target's confidences in the pairs to score.
        shadow_SP: those of the shadow models.
        kept_SP: bool, the shadow model was trained on the pair.
        phi_Z: the target's confidences in the population.
        shadow_SZ: those of the shadow models, none of which saw the population.
        a: how a probability without the pair stands for one with and without it, in [0, 1].
        gamma: least ratio of ratios.
        population: upper, as in the authors' code (privacytrustlab/ml_privacy_meter), or all.

    Source: Zarifzadeh, Liu & Shokri 2024, section 3 and appendix B.2.2.
    """
    from scipy.special import expit

    out_P = np.where(kept_SP, 0.0, expit(shadow_SP)).sum(0)
    with np.errstate(invalid="ignore"):  # no shadow model without the pair: undefined
        mean_P = ((1 + a) * out_P / (~kept_SP).sum(0) + 1 - a) / 2
    rising_SZ = np.sort(expit(shadow_SZ), 0)
    half = rising_SZ[-max(len(rising_SZ) // 2, 1) :] if population == "upper" else rising_SZ
    mean_Z = ((1 + a) * half.mean(0) + 1 - a) / 2
    ratio_P, ratio_Z = expit(phi_P) / mean_P, np.sort(expit(phi_Z) / mean_Z)
    share_P = np.searchsorted(ratio_Z, ratio_P / gamma) / len(ratio_Z)
    return np.where(np.isnan(ratio_P), math.nan, share_P)


def memorization(correct_SP: np.ndarray, kept_SP: np.ndarray) -> np.ndarray:
    """Return mem(i) = P(correct | i in the training set) - P(correct | i not in it), P values in [-1, 1].

    Args:
        correct_SP: bool, the model says the pair's label.
        kept_SP: bool, the model was trained on the pair; NaN is returned where all or none were.

    Source: Feldman & Zhang 2020, equation 1 and section 2.
    """
    with np.errstate(invalid="ignore"):
        return (correct_SP & kept_SP).sum(0) / kept_SP.sum(0) - (correct_SP & ~kept_SP).sum(0) / (~kept_SP).sum(0)
