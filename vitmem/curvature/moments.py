"""Pure functions on tensors: token layout, second moments, and gradients at the logits.

Legend: B examples, S positions, T positions that are kept, R rows (B times T), F features, D draws, K classes.

Normalisation. The loss is summed over examples, never averaged. A = sum_n sum_t a a^T / (number of positions), and
G = sum_n sum_t g g^T / (number of examples), so that G (x) A is the Fisher block of the mean loss under the expand
approximation (``all``). For ``mean`` (reduce) a is averaged over tokens and g is summed: one position each.
Source: Martens & Grosse 2015; Eschenhagen et al. 2023, sections 3.1 and 3.2.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vitmem.datamodules.batch import keyed_seed
from vitmem.options import check_counts

Tokens = Literal["cls", "all", "mean"]
Labels = Literal["sampled", "exact", "topk", "given"]

WORTH = 256  # rows from which on a product is worth reading and writing the whole sum
FORMED = 1 << 24  # numbers of per-example gradients that are formed at a time

_FEWER = ((128, 1), (512, 4), (704, 6))  # below so many features, block rows: smaller products cost more than they save


@dataclass(frozen=True)
class LabelRule:
    """At which labels the loss is taken.

    ``sampled``: labels drawn from the model (Monte Carlo Fisher). ``exact``: the expectation over all classes, by the
    columns sqrt(p_k) (e_k - p) of a square root of the softmax Hessian. ``topk``: those columns for the ``top`` most
    probable classes of each example, the rest lumped into one pseudo-class. ``given``: given labels (empirical Fisher).

    Args:
        labels: which of the four.
        draws: labels drawn for each example (``sampled``).
        top: classes taken one by one (``topk``).
        temperature: the predicted distribution is softmax(logits / temperature), and so is the loss.
        seed: of the drawn labels.

    Source: Martens 2020, section 9; Kunstner et al. 2019 for the empirical Fisher.
    """

    labels: Labels = "sampled"
    draws: int = 1
    top: int = 10
    temperature: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        check_counts(self, "draws", "top")
        if not self.temperature > 0:
            raise ValueError(f"temperature is {self.temperature}; it must be positive")

    def probabilities(self, logits_BK: Tensor) -> Tensor:
        """Return the predicted distribution B K."""
        return torch.softmax(logits_BK.detach() / self.temperature, dim=1)

    def logit_gradients(self, logits_BK: Tensor, index_B: Tensor, given_B: Tensor) -> Iterator[Tensor]:
        """Yield gradients B K at the logits whose outer products sum, in expectation, to the wanted output curvature.

        Args:
            logits_BK: the model's outputs.
            index_B: ids of the examples; drawn labels depend on seed and id alone.
            given_B: given labels, read only for ``given``.
        """
        p_BK = self.probabilities(logits_BK)
        classes = p_BK.shape[1]
        if self.labels in ("sampled", "given"):
            if self.labels == "given":
                label_BD = given_B[:, None]
            else:
                label_BD = sample_labels(p_BK, keyed_uniform(self.seed, index_B, self.draws))
            for label_B in label_BD.T:
                yield (p_BK - one_hot(label_B, classes, p_BK)) / (self.temperature * label_BD.shape[1] ** 0.5)
            return
        top = classes if self.labels == "exact" else min(self.top, classes)
        order_BK = p_BK.sort(dim=1, descending=True, stable=True).indices
        for label_B in order_BK[:, :top].T:
            root_B1 = p_BK.gather(1, label_B[:, None]).sqrt()
            yield root_B1 * (one_hot(label_B, classes, p_BK) - p_BK) / self.temperature
        if top < classes:
            rest_BK = p_BK.scatter(1, order_BK[:, :top], 0.0)
            total_B1 = rest_BK.sum(1, keepdim=True)
            lump_BK = rest_BK / total_B1.clamp(min=torch.finfo(p_BK.dtype).tiny)
            yield total_B1.sqrt() * (lump_BK - p_BK) / self.temperature

    def lumped_trace(self, logits_BK: Tensor) -> tuple[float, float]:
        """Return the trace of the softmax Hessian that ``topk`` leaves out, and the whole, summed over examples."""
        p_BK = self.probabilities(logits_BK).double()
        rest_BK = p_BK.sort(1, descending=True).values[:, self.top :]
        total_B = rest_BK.sum(1)
        lost_B = total_B - rest_BK.square().sum(1) / total_B.clamp(min=1e-300)
        return float(lost_B.sum()), float((1 - p_BK.square().sum(1)).sum())


def one_hot(label_B: Tensor, classes: int, like: Tensor) -> Tensor:
    """Return B K unit vectors in the type of ``like``."""
    return like.new_zeros(len(label_B), classes).scatter_(1, label_B[:, None], 1.0)


def select_tokens(x_BSF: Tensor, tokens: Tokens, role: Literal["input", "gradient"]) -> Tensor:
    """Return the rows B T F that enter a second moment.

    Args:
        x_BSF: every position.
        tokens: the class token (position 0), every token, or all tokens together.
        role: ``mean`` averages inputs and sums gradients over the tokens.
    """
    if tokens == "cls":
        return x_BSF[:, :1]
    if tokens == "all":
        return x_BSF
    return x_BSF.mean(1, keepdim=True) if role == "input" else x_BSF.sum(1, keepdim=True)


def add_second_moment(sum_FF: Tensor, x_RF: Tensor) -> None:
    """Add x^T x to the lower block triangle of a sum; ``mirror`` completes it.

    Args:
        sum_FF: symmetric sum, changed in place; it may be on another device.
        x_RF: rows; they are cast to the type of the sum.
    """
    x_RF = x_RF.to(sum_FF.dtype)
    for first, last in _blocks(len(sum_FF)):
        if sum_FF.device == x_RF.device:
            sum_FF[first:last, :last].addmm_(x_RF[:, first:last].T, x_RF[:, :last])
        else:
            sum_FF[first:last, :last] += (x_RF[:, first:last].T @ x_RF[:, :last]).to(sum_FF.device)


class SecondMoment:
    """A running sum of x^T x; few rows are gathered until a product is worth the pass over the sum.

    They are gathered in one place that stays: copies made between the activations of a pass would keep the allocator
    from handing out the same memory again.

    Args:
        features: F.
        dtype: type of the sum.
        device: where the sum is kept.
    """

    def __init__(self, features: int, dtype: torch.dtype, device: torch.device | str):
        self._sum_FF = torch.zeros(features, features, dtype=dtype, device=device)
        self._gathered_RF: Tensor | None = None
        self._rows = 0

    def add(self, x_RF: Tensor) -> None:
        """Add rows."""
        if len(x_RF) >= WORTH:
            add_second_moment(self._sum_FF, x_RF)
            return
        if self._rows + len(x_RF) > WORTH:
            self._flush()
        if self._gathered_RF is None:
            self._gathered_RF = x_RF.new_empty(WORTH, x_RF.shape[1])
        self._gathered_RF[self._rows : self._rows + len(x_RF)] = x_RF
        self._rows += len(x_RF)

    def _flush(self) -> None:
        if self._gathered_RF is not None:
            add_second_moment(self._sum_FF, self._gathered_RF[: self._rows])
            self._rows = 0

    def total(self) -> Tensor:
        """Return the full sum F F."""
        self._flush()
        return mirror(self._sum_FF)


def mirror(sum_FF: Tensor) -> Tensor:
    """Complete, in place, the symmetric matrix of which ``add_second_moment`` filled the lower block triangle."""
    for first, last in _blocks(len(sum_FF)):
        sum_FF[:first, first:last] = sum_FF[first:last, :first].T
    return sum_FF


def _blocks(features: int) -> list[tuple[int, int]]:
    """Return the block rows of a symmetric matrix: n of them leave (n - 1) / 2n of it uncomputed."""
    blocks = next((n for most, n in _FEWER if features < most), 8)
    return list(itertools.pairwise(round(i * features / blocks) for i in range(blocks + 1)))


def add_gradient_moment(sum_OI: Tensor, g_BTO: Tensor, a_BTI: Tensor, most: int = FORMED) -> None:
    """Add the squared per-example gradients (sum_t g_t a_t^T)^2, entry by entry, summed over examples.

    One position makes the gradient an outer product, and the sum one matrix product of squares. Otherwise gradients are
    formed for so many examples at a time that they stay below ``most`` numbers.

    Args:
        sum_OI: sum, changed in place; it may be on another device.
        g_BTO: output gradients, in the basis wanted.
        a_BTI: inputs, likewise.
        most: numbers that may be formed at a time.
    """
    if g_BTO.shape[1] == 1:
        sum_OI += (g_BTO[:, 0].square().T.to(sum_OI.dtype) @ a_BTI[:, 0].square().to(sum_OI.dtype)).to(sum_OI.device)
        return
    at_once = max(1, most // (g_BTO.shape[2] * a_BTI.shape[2]))
    for g, a in zip(torch.split(g_BTO, at_once), torch.split(a_BTI, at_once), strict=True):
        squares_OI = torch.bmm(g.mT, a).to(sum_OI.dtype).square_().sum(0)
        sum_OI += squares_OI.to(sum_OI.device)


def keyed_uniform(seed: int, index_B: Tensor, draws: int) -> Tensor:
    """Return numbers B D in [0, 1), float64, that depend on the seed, the example's id and the draw alone.

    So the drawn labels are the same in whatever order, batches or processes the examples come. (SplitMix64.)
    """
    first: npt.NDArray[Any] = index_B.cpu().numpy().astype(np.uint64)[:, None] * np.uint64(draws)
    index = first + np.arange(draws, dtype=np.uint64)
    with np.errstate(over="ignore"):
        z = (index + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(keyed_seed(seed, 3))
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    return torch.from_numpy((z >> np.uint64(11)).astype(np.float64) * 2.0**-53)


def sample_labels(p_BK: Tensor, uniform_BD: Tensor) -> Tensor:
    """Return labels B D drawn by inverting the cumulative distribution."""
    cumulative_BK = p_BK.double().cumsum(1)
    threshold_BD = uniform_BD.to(cumulative_BK) * cumulative_BK[:, -1:]
    return torch.searchsorted(cumulative_BK, threshold_BD, right=True).clamp_(max=p_BK.shape[1] - 1)
