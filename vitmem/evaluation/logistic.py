"""Multinomial logistic regression on fixed features, many problems at once.

Legend: N examples, D features, P problems, K classes, V folds.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

L2_GRID = (1e-2, 1e-1, 1.0, 10.0)


def fit_logistic(
    x_ND: Tensor,
    label_PN: Tensor,
    weight_PN: Tensor,
    l2: float,
    classes: int,
    steps: int = 100,
    tolerance: float = 1e-4,
) -> Tensor:
    """Return the coefficients P D+1 K that minimise each problem's objective; the last row is the intercept.

    The objective is the weighted mean cross-entropy + l2 / 2 * ||coefficients||^2, without the intercept. It is convex,
    and is minimised by L-BFGS from zero, in the singular directions of the features, each scaled by the curvature that
    bounds the objective's (Böhning 1992): a few dozen steps then do.

    Args:
        x_ND: features that all problems share, float64.
        label_PN: labels of each problem, in [0, K).
        weight_PN: weight of each example, not negative.
        l2: at least 0; scikit-learn's C is 1 / (l2 * sum of weights).
        classes: K.
        steps: of L-BFGS, at most.
        tolerance: of the largest entry of the gradient by the scaled coefficients.
    """
    weight_PN = weight_PN / weight_PN.sum(1, keepdim=True)
    _, size_R, basis_RD = torch.linalg.svd(x_ND, full_matrices=False)
    scale_R = (size_R.square() / (2 * len(x_ND)) + l2).clamp(min=1e-12).rsqrt()
    to_DR = basis_RD.T * scale_R
    x_NR = _with_constant(x_ND @ to_DR)
    penalty_R1 = l2 / 2 * scale_R.square()[:, None]
    scaled = x_ND.new_zeros(len(label_PN), len(size_R) + 1, classes, requires_grad=True)
    optimiser = torch.optim.LBFGS(
        [scaled], max_iter=steps, history_size=10, tolerance_grad=tolerance, line_search_fn="strong_wolfe"
    )

    def objective() -> Tensor:
        optimiser.zero_grad()
        loss_PN = F.cross_entropy((x_NR @ scaled).transpose(1, 2), label_PN, reduction="none")
        total = (weight_PN * loss_PN).sum() + (penalty_R1 * scaled[:, :-1].square()).sum()
        total.backward()
        return total

    with torch.enable_grad():
        optimiser.step(objective)
    solved = scaled.detach()
    return torch.cat([to_DR @ solved[:, :-1], solved[:, -1:]], 1)


def log_probabilities(x_ND: Tensor, coefficient: Tensor) -> Tensor:
    """Return log-probabilities P N K."""
    return (_with_constant(x_ND) @ coefficient).log_softmax(2)


def choose_l2(
    x_ND: Tensor,
    label_N: Tensor,
    classes: int,
    generator: torch.Generator,
    folds: int = 5,
    grid: Sequence[float] = L2_GRID,
) -> float:
    """Return the strength from a grid with the smallest held-out cross-entropy in cross-validation.

    Args:
        x_ND: features, float64.
        label_N: labels.
        classes: K.
        generator: draws the folds.
        folds: at most so many; no more than there are examples.
        grid: strengths.
    """
    folds = min(folds, len(x_ND))
    if folds < 2:
        return max(grid)
    fold_N = (torch.randperm(len(x_ND), generator=generator) % folds).to(x_ND.device)
    held_VN = fold_N == torch.arange(folds, device=x_ND.device)[:, None]
    label_VN = label_N.expand(folds, -1)

    def loss(l2: float) -> float:
        coefficient = fit_logistic(x_ND, label_VN, (~held_VN).to(x_ND), l2, classes)
        log_p_VN = log_probabilities(x_ND, coefficient).gather(2, label_VN[..., None])[..., 0]
        return -float(log_p_VN[held_VN].sum())

    return min(grid, key=loss)


def standardised(train_ND: Tensor, *others_ND: Tensor) -> list[Tensor]:
    """Return features in float64 with the first's mean and standard deviation made 0 and 1; constant ones become 0."""
    train = train_ND.double()
    mean, sd = train.mean(0), train.std(0, correction=0)
    scale = torch.where(sd > 1e-8 * (1 + mean.abs()), 1 / sd, 0.0)
    return [(part.double() - mean) * scale for part in (train, *others_ND)]


def _with_constant(x_ND: Tensor) -> Tensor:
    return torch.cat([x_ND, x_ND.new_ones(len(x_ND), 1)], 1)
