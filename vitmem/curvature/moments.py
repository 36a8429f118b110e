"""Pure functions on tensors: token layout, second moments, and gradients at the logits.

Legend: B examples, S tokens, T tokens that are kept, R rows (B times T), F features, I inputs, O outputs, K classes.

Normalisation. The loss is summed over examples, never averaged. A = sum_n sum_t a a^T / (number of positions), and
G = sum_n sum_t g g^T / (number of examples), so that G (x) A is the Fisher block of the mean loss under the expand
approximation (``all``). For ``mean`` (reduce) a is averaged over tokens and g is summed: one position each.
Source: Martens & Grosse 2015; Eschenhagen et al. 2023, sections 3.1 and 3.2.
"""

import itertools
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

Tokens = Literal["cls", "all", "mean"]
Labels = Literal["sampled", "exact", "given"]

_BLOCKS = 4  # a symmetric matrix is filled in so many block rows: 10 of its 16 blocks are computed
_SMALL = 256  # below this many features, one product is faster than its parts


def select_tokens(x: Tensor, tokens: Tokens, role: Literal["input", "gradient"]) -> Tensor:
    """Return the rows B T F that enter a second moment.

    Args:
        x: B S F, or B F for a layer behind the pooling; further middle dimensions count as tokens.
        tokens: the class token (position 0), every token, or all tokens together.
        role: ``mean`` averages inputs and sums gradients over the tokens.
    """
    x_BSF = x[:, None] if x.ndim == 2 else x.flatten(1, -2)
    if tokens == "cls":
        return x_BSF[:, :1]
    if tokens == "all":
        return x_BSF
    return x_BSF.mean(1, keepdim=True) if role == "input" else x_BSF.sum(1, keepdim=True)


def add_second_moment(sum_FF: Tensor, x_RF: Tensor) -> None:
    """Add x^T x to the lower block triangle of a sum; ``mirror`` completes it.

    Args:
        sum_FF: symmetric sum, changed in place.
        x_RF: rows; they are cast to the type of the sum.
    """
    x_RF = x_RF.to(sum_FF.dtype)
    features = len(sum_FF)
    blocks = _BLOCKS if features >= _SMALL else 1
    edges = [round(i * features / blocks) for i in range(blocks + 1)]
    for first, last in itertools.pairwise(edges):
        sum_FF[first:last, :last].addmm_(x_RF[:, first:last].T, x_RF[:, :last])


def mirror(sum_FF: Tensor) -> Tensor:
    """Return the full symmetric matrix of which ``add_second_moment`` filled the lower block triangle."""
    lower = sum_FF.tril()
    return lower + lower.tril(-1).T


def logit_gradients(
    logits_BK: Tensor, labels: Labels, *, uniform_BD: Tensor | None, given_B: Tensor | None, temperature: float = 1.0
) -> Iterator[Tensor]:
    """Yield gradients B K at the logits whose outer products sum, in expectation, to the wanted output curvature.

    ``sampled``: one gradient of -log p(y) for each draw of y, scaled by 1/sqrt(draws): Monte Carlo Fisher.
    ``exact``: the columns sqrt(p_k) (e_k - p) of a square root of the softmax Hessian diag(p) - p p^T, one for each k.
    ``given``: the gradient of the cross-entropy on the given labels (empirical Fisher).

    Args:
        logits_BK: the model's outputs.
        labels: which of the three.
        uniform_BD: numbers in [0, 1), one for each example and draw (``sampled``).
        given_B: given labels (``given``).
        temperature: the predicted distribution is softmax(logits / temperature), and so is the loss.

    Source: Martens 2020, section 9; Kunstner et al. 2019 for the empirical Fisher.
    """
    p_BK = torch.softmax(logits_BK.detach() / temperature, dim=1)
    if labels == "exact":
        for k in range(p_BK.shape[1]):
            column_BK = -p_BK * p_BK[:, k : k + 1].sqrt()
            column_BK[:, k] += p_BK[:, k].sqrt()
            yield column_BK / temperature
        return
    drawn = given_B[:, None] if labels == "given" else sample_labels(p_BK, uniform_BD)
    for label_B in drawn.T:
        gradient_BK = p_BK.clone()
        gradient_BK.scatter_add_(1, label_B[:, None], gradient_BK.new_full((len(label_B), 1), -1.0))
        yield gradient_BK / (temperature * drawn.shape[1] ** 0.5)


def sample_labels(p_BK: Tensor, uniform_BD: Tensor) -> Tensor:
    """Return labels B D drawn by inverting the cumulative distribution, so that they depend on the numbers alone."""
    cumulative_BK = p_BK.double().cumsum(1)
    threshold_BD = uniform_BD.to(cumulative_BK) * cumulative_BK[:, -1:]
    return torch.searchsorted(cumulative_BK, threshold_BD, right=True).clamp_(max=p_BK.shape[1] - 1)
