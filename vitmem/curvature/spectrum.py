"""Eigenbases of Kronecker factors, curvature masses of eigen-pairs, and thresholds on them.

Legend: I inputs, O outputs. Pair (i, j) is the weight direction u_i v_j^T. Its mass is an estimate of the curvature of
the mean loss along it: lambda_i mu_j (K-FAC), or the mean of (u_i^T G_n v_j)^2 over examples (EK-FAC). The masses of
all layers are in one unit (loss per squared weight), because sums are divided by the number of examples, not by tokens
or batches; that is what makes one threshold over several layers meaningful.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vitmem.curvature.factors import LayerFactors


@dataclass(frozen=True, eq=False)
class Eigenbasis:
    """Eigen-decomposition of one layer's factors, eigenvalues descending and not negative.

    Args:
        u_g_OO: eigenvectors of G, in columns.
        lambda_O: eigenvalues of G.
        u_a_II: eigenvectors of A, in columns.
        mu_I: eigenvalues of A.
        clamped_g: negative eigenvalues of G set to 0, as a share of its trace.
        clamped_a: likewise for A.
    """

    u_g_OO: Tensor
    lambda_O: Tensor
    u_a_II: Tensor
    mu_I: Tensor
    clamped_g: float
    clamped_a: float

    def coordinates(self, w_OI: Tensor) -> Tensor:
        """Return C = U_G^T W U_A."""
        return self.u_g_OO.T.to(w_OI) @ w_OI @ self.u_a_II.to(w_OI)

    def compose(self, c_OI: Tensor) -> Tensor:
        """Return U_G C U_A^T."""
        return self.u_g_OO.to(c_OI) @ c_OI @ self.u_a_II.T.to(c_OI)


def decompose_all(factors: Mapping[str, LayerFactors], vectors: torch.dtype = torch.float64) -> dict[str, Eigenbasis]:
    """Return the eigenbases of several layers, decomposed in float64 after symmetrising, equal shapes together.

    Args:
        factors: by layer name.
        vectors: type that eigenvectors are rounded to; eigenvalues stay float64.

    Raises:
        ValueError: a factor is not finite, or the solver failed; the layer is named.
    """
    matrices = {}
    for name, layer in factors.items():
        matrices[f"G of layer {name!r}"], matrices[f"A of layer {name!r}"] = layer.G, layer.A
    found = _eigh_all(matrices, vectors)
    bases = {}
    for name in factors:
        lambda_O, u_g_OO, clamped_g = found[f"G of layer {name!r}"]
        mu_I, u_a_II, clamped_a = found[f"A of layer {name!r}"]
        bases[name] = Eigenbasis(u_g_OO, lambda_O, u_a_II, mu_I, clamped_g, clamped_a)
    return bases


def decompose(factors: LayerFactors, name: str = "?") -> Eigenbasis:
    """Return the eigenbasis of one layer's factors; see ``decompose_all``."""
    return decompose_all({name: factors})[name]


_TOGETHER = 1 << 22  # numbers that are decomposed in one call at most


def _eigh_all(matrices: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, tuple[Tensor, Tensor, float]]:
    groups: dict[tuple[torch.device, int], list[str]] = {}
    for what, matrix in matrices.items():
        if bad := int((~torch.isfinite(matrix)).sum()):
            raise ValueError(
                f"the factor {what} has {bad} entries that are not finite; the model's activations overflow"
            )
        groups.setdefault((matrix.device, len(matrix)), []).append(what)
    found = {}
    for (_, size), members in groups.items():
        at_once = max(1, _TOGETHER // size**2)
        for first in range(0, len(members), at_once):
            names = members[first : first + at_once]
            stack = torch.stack([matrices[what].double() for what in names])
            for what, (values, vectors) in zip(names, _solve((stack + stack.mT) / 2, names), strict=True):
                values, vectors = values.flip(0), vectors.to(dtype).flip(1)
                trace = float(values.clamp(min=0).sum())
                clamped = float(values.clamp(max=0).abs().sum()) / trace if trace > 0 else 0.0
                found[what] = (values.clamp(min=0), vectors, clamped)
    return found


def _solve(stack: Tensor, names: Sequence[str]) -> list[tuple[Tensor, Tensor]]:
    """Decompose a stack of matrices; on failure one by one, on the CPU, so that the one at fault is named."""
    try:
        values, vectors = torch.linalg.eigh(stack)
        if torch.isfinite(values).all() and torch.isfinite(vectors).all():
            return list(zip(values, vectors, strict=True))
    except RuntimeError:
        pass  # LinAlgError of one of them
    pairs = []
    for matrix, what in zip(stack.cpu(), names, strict=True):
        try:
            values, vectors = torch.linalg.eigh(matrix)
        except RuntimeError as error:
            raise ValueError(f"the factor {what} could not be decomposed, on the CPU either: {error}") from error
        pairs.append((values.to(stack.device), vectors.to(stack.device)))
    return pairs


class Mass(Protocol):
    """Masses of one layer's pairs, ready for many thresholds."""

    @property
    def shape(self) -> tuple[int, int]:
        """O, I."""

    @property
    def total(self) -> float:
        """Sum of all masses."""

    @property
    def largest(self) -> float:
        """The largest mass."""

    def at_least(self, tau: float) -> tuple[float, int]:
        """Return sum and number of the masses >= tau, for tau > 0."""

    def mask(self, tau: float) -> Tensor:
        """Return where O I the mass is >= tau, for tau > 0."""

    def kept(self, multiplier_OI: Tensor) -> float:
        """Return the sum of the masses times multipliers."""

    def dense(self) -> Tensor:
        """Return the masses O I, float64."""


class KroneckerMass:
    """Masses lambda_i mu_j: a threshold costs a search in one spectrum for each value of the other, and no sorting.

    Args:
        lambda_O: descending, not negative.
        mu_I: descending, not negative.
    """

    def __init__(self, lambda_O: Tensor, mu_I: Tensor):
        self.lambda_O, self.mu_I = lambda_O.double(), mu_I.double()
        self._swap = len(lambda_O) > len(mu_I)  # search the longer spectrum for each value of the shorter
        few, many = (self.mu_I, self.lambda_O) if self._swap else (self.lambda_O, self.mu_I)
        self._zeros = int((few == 0).sum())
        self._few, falling = few[few > 0].cpu().numpy(), many.cpu().numpy()  # numpy: sixty searches in small arrays
        self._ascending = falling[::-1].copy()
        self._cumulative = np.concatenate([[0.0], falling.cumsum()])
        self._bounded = np.concatenate([[math.inf], falling, [-math.inf]])

    @property
    def shape(self) -> tuple[int, int]:
        """O, I."""
        return len(self.lambda_O), len(self.mu_I)

    @property
    def total(self) -> float:
        """Sum of all masses."""
        return float(self._few.sum() * self._cumulative[-1])

    @property
    def largest(self) -> float:
        """The largest mass."""
        return float(self.lambda_O[0] * self.mu_I[0])

    @np.errstate(over="ignore")
    def _numbers(self, tau: float) -> npt.NDArray[np.int64]:
        """Return how many values of the longer spectrum reach tau with each of the shorter, exactly.

        Exactly means: as if every product had been rounded to float64 and compared.
        """
        limit = tau / self._few
        number = len(self._ascending) - np.searchsorted(self._ascending, limit)
        last, following = self._bounded[number], self._bounded[number + 1]
        if not ((self._few * last < tau) | (self._few * following >= tau)).any():
            return number
        step = limit  # tau / few was rounded to the wrong side of a value: try the doubles around it
        for _ in range(2):
            step = np.nextafter(step, 0.0)
        lowest = np.full_like(limit, math.inf)
        for _ in range(5):
            lowest = np.where(self._few * step >= tau, np.minimum(lowest, step), lowest)
            step = np.nextafter(step, math.inf)
        return len(self._ascending) - np.searchsorted(self._ascending, lowest)

    def at_least(self, tau: float) -> tuple[float, int]:
        """Return sum and number of the masses >= tau."""
        number = self._numbers(tau)
        return float(self._few @ self._cumulative[number]), int(number.sum())

    def mask(self, tau: float) -> Tensor:
        """Return where O I the mass is >= tau: a staircase."""
        staircase = np.concatenate([self._numbers(tau), np.zeros(self._zeros, np.int64)])
        number = torch.from_numpy(staircase).to(self.mu_I.device)
        rank = torch.arange(len(self._ascending), device=number.device)
        return rank[:, None] < number if self._swap else rank < number[:, None]

    def kept(self, multiplier_OI: Tensor) -> float:
        """Return the sum of the masses times multipliers."""
        return float(self.lambda_O @ (multiplier_OI.double() @ self.mu_I))

    def dense(self) -> Tensor:
        """Return the masses O I."""
        return torch.outer(self.lambda_O, self.mu_I)


class DenseMass:
    """Masses given one by one; they are sorted once.

    Args:
        mass_OI: not negative.
    """

    def __init__(self, mass_OI: Tensor):
        self._mass_OI = mass_OI.double()

    @cached_property
    def _ordered(self) -> tuple[Tensor, Tensor]:
        ascending = self._mass_OI.flatten().cpu().sort().values
        cumulative = ascending.flip(0).cumsum(0)
        return ascending, torch.cat([cumulative.new_zeros(1), cumulative])

    @property
    def shape(self) -> tuple[int, int]:
        """O, I."""
        outputs, inputs = self._mass_OI.shape
        return outputs, inputs

    @property
    def total(self) -> float:
        """Sum of all masses."""
        return float(self._ordered[1][-1])

    @property
    def largest(self) -> float:
        """The largest mass."""
        return float(self._ordered[0][-1])

    def at_least(self, tau: float) -> tuple[float, int]:
        """Return sum and number of the masses >= tau."""
        number = len(self._ordered[0]) - int(torch.searchsorted(self._ordered[0], tau))
        return float(self._ordered[1][number]), number

    def mask(self, tau: float) -> Tensor:
        """Return where O I the mass is >= tau."""
        return self._mass_OI >= tau

    def kept(self, multiplier_OI: Tensor) -> float:
        """Return the sum of the masses times multipliers."""
        return float((self._mass_OI * multiplier_OI).sum())

    def dense(self) -> Tensor:
        """Return the masses O I."""
        return self._mass_OI


@dataclass(frozen=True)
class Target:
    """How much to keep.

    Args:
        kind: rho (share of the mass), fraction (share of the pairs), pairs (their number) or tau (a mass).
        amount: rho and fraction in (0, 1], pairs at least 1, tau positive.

    Raises:
        ValueError: the amount is out of range.
    """

    kind: Literal["rho", "fraction", "pairs", "tau"]
    amount: float

    def __post_init__(self) -> None:
        allowed = {
            "rho": (0 < self.amount <= 1, "the share of curvature mass to keep, in (0, 1]"),
            "fraction": (0 < self.amount <= 1, "the share of eigen-pairs to keep, in (0, 1]"),
            "pairs": (self.amount >= 1, "the number of eigen-pairs to keep, at least 1"),
            "tau": (0 < self.amount < math.inf, "the smallest mass to keep, positive"),
        }
        fits, meaning = allowed[self.kind]
        if not fits:
            raise ValueError(f"{self.kind} is {self.amount}; it is {meaning}")

    @property
    def is_everything(self) -> bool:
        """Every pair is to be kept, those without mass too."""
        return self.kind in ("rho", "fraction") and self.amount == 1


@dataclass(frozen=True)
class Threshold:
    """Keep every mass above tau, and of those equal to it the first ``ties`` in layer and row order.

    Args:
        tau: a mass; 0 with infinite ties keeps everything.
        ties: how many equal ones.
    """

    tau: float
    ties: float = math.inf


def find_threshold(masses: Sequence[Mass], target: Target) -> Threshold:
    """Return the threshold of the fewest largest masses, over all given layers together, that reach a target.

    The pair that crosses a mass target is kept. Tau is found exactly, by bisection over the floating-point numbers: it
    is always a mass that occurs.

    Args:
        masses: of one layer, or of several that share one threshold.
        target: how much to keep.

    Source: Merullo et al. 2025, section 5, for one layer and rho.
    """
    if target.is_everything:
        return Threshold(0.0)
    if target.kind == "tau":
        return Threshold(target.amount)
    by_mass = target.kind == "rho"
    if by_mass:
        goal = target.amount * math.fsum(mass.total for mass in masses)
    else:
        everything = sum(mass.shape[0] * mass.shape[1] for mass in masses)
        goal = math.ceil(target.amount * everything) if target.kind == "fraction" else target.amount
        if goal >= everything:
            return Threshold(0.0)

    def kept(tau: float) -> float:
        found = [mass.at_least(tau) for mass in masses]
        return math.fsum(m for m, _ in found) if by_mass else sum(n for _, n in found)

    smallest, largest = math.ulp(0.0), max(mass.largest for mass in masses)
    if largest <= 0 or kept(smallest) < goal:  # zeros must be kept to reach the number
        return Threshold(0.0) if by_mass else Threshold(0.0, goal - kept(smallest))
    low, high = _bits(smallest), _bits(math.nextafter(largest, math.inf))  # kept(low) >= goal > kept(high)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if kept(_number(middle)) >= goal else (low, middle)
    tau = _number(low)
    missing = goal - kept(_number(high))
    ties = max(1, math.ceil(missing / tau * (1 - 1e-12))) if by_mass else missing
    return Threshold(tau, ties)


def _bits(number: float) -> int:
    return int(torch.tensor(number, dtype=torch.float64).view(torch.int64))


def _number(bits: int) -> float:
    return float(torch.tensor(bits, dtype=torch.int64).view(torch.float64))
