"""Eigenbases of Kronecker factors, curvature masses of eigen-pairs, and which pairs to keep.

Legend: I inputs, O outputs. Pair (i, j) is the weight direction u_i v_j^T; its mass is P_ij = lambda_i mu_j.
"""

from dataclasses import dataclass

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

    @property
    def mass_OI(self) -> Tensor:
        """O I: the K-FAC masses lambda_i mu_j."""
        return torch.outer(self.lambda_O, self.mu_I)

    def coordinates(self, w_OI: Tensor) -> Tensor:
        """Return C = U_G^T W U_A."""
        return self.u_g_OO.T.to(w_OI) @ w_OI @ self.u_a_II.to(w_OI)

    def compose(self, c_OI: Tensor) -> Tensor:
        """Return U_G C U_A^T."""
        return self.u_g_OO.to(c_OI) @ c_OI @ self.u_a_II.T.to(c_OI)


def decompose(factors: LayerFactors, name: str = "?") -> Eigenbasis:
    """Return the eigenbasis of a layer's factors, decomposed in float64 after symmetrising.

    Args:
        factors: sums of the layer.
        name: the layer's name, for messages.

    Raises:
        ValueError: a factor is not finite, or the solver failed; the layer is named.
    """
    lambda_O, u_g_OO, clamped_g = _eigh(factors.G, f"G of layer {name!r}")
    mu_I, u_a_II, clamped_a = _eigh(factors.A, f"A of layer {name!r}")
    return Eigenbasis(u_g_OO, lambda_O, u_a_II, mu_I, clamped_g, clamped_a)


def _eigh(matrix: Tensor, what: str) -> tuple[Tensor, Tensor, float]:
    if not torch.isfinite(matrix).all():
        bad = int((~torch.isfinite(matrix)).sum())
        raise ValueError(f"the factor {what} has {bad} entries that are not finite; the model's activations overflow")
    matrix = matrix.double()
    matrix = (matrix + matrix.T) / 2
    try:
        values, vectors = torch.linalg.eigh(matrix)
    except RuntimeError as error:
        if matrix.device.type == "cpu":
            raise ValueError(f"the factor {what} could not be decomposed: {error}") from error
        return _eigh(matrix.cpu(), what)
    values, vectors = values.flip(0), vectors.flip(1)
    trace = float(values.clamp(min=0).sum())
    clamped = float(-values.clamp(max=0).sum()) / trace if trace > 0 else 0.0
    return values.clamp(min=0), vectors, clamped


def keep_mass(mass_OI: Tensor, rho: float) -> Tensor:
    """Return the mask O I of the fewest largest masses whose sum reaches ``rho`` of the total.

    Among equal masses the one that comes first in row order is kept first. The pair that crosses the target is kept.
    ``rho`` = 1 keeps every pair, those without mass too.

    Args:
        mass_OI: masses, not negative.
        rho: share of the total, in (0, 1].

    Source: Merullo et al. 2025, section 5.
    """
    if rho == 1:
        return torch.ones_like(mass_OI, dtype=torch.bool)
    ordered, place = mass_OI.flatten().sort(descending=True, stable=True)
    cumulative = ordered.double().cumsum(0)
    count = int(torch.searchsorted(cumulative, rho * cumulative[-1])) + 1
    return _mask(place[:count], mass_OI)


def keep_random(mass_OI: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Return the mask of ``count`` pairs drawn at random (control)."""
    return _mask(torch.randperm(mass_OI.numel(), generator=generator)[:count].to(mass_OI.device), mass_OI)


def keep_smallest(mass_OI: Tensor, count: int) -> Tensor:
    """Return the mask of the ``count`` smallest masses: the largest are removed (control)."""
    return _mask(mass_OI.flatten().sort(stable=True).indices[:count], mass_OI)


def _mask(place: Tensor, like_OI: Tensor) -> Tensor:
    mask = torch.zeros(like_OI.numel(), dtype=torch.bool, device=like_OI.device)
    mask[place] = True
    return mask.view_as(like_OI)
