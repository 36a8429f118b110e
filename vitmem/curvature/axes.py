"""Other axes than the eigenvectors of the Kronecker factors, to tell what the basis is worth from what shrinking is.

Legend: I inputs, O outputs.
"""

from collections.abc import Mapping
from typing import Literal, cast

import torch
from torch import Tensor

from vitmem.curvature.spectrum import Eigenbasis
from vitmem.datamodules.batch import keyed_generator

Axes = Literal["kfac", "identity", "svd", "random"]


def turned(
    bases: Mapping[str, Eigenbasis], kind: Axes, matrices: Mapping[str, Tensor], seed: int
) -> dict[str, Eigenbasis]:
    """Return other axes of several layers, with the diagonals of G and A in them in place of the eigenvalues.

    Each side's axes are ordered by falling diagonal, ties as they come, as eigenvectors are.

    Args:
        bases: eigenbases of the factors.
        kind: kfac (the eigenvectors themselves), identity (outputs and inputs), svd (singular vectors of the matrices)
            or random (orthogonal, uniform).
        matrices: O I, what is going to be filtered; their layers are those of the bases.
        seed: of the random axes, together with the number of the layer.
    """
    if kind == "kfac":
        return dict(bases)
    found = {}
    for number, (name, basis) in enumerate(bases.items()):
        u_OO, v_II = axes(kind, matrices[name].double(), seed, number)
        g_O = _diagonal(basis.u_g_OO, basis.lambda_O, u_OO)
        a_I = _diagonal(basis.u_a_II, basis.mu_I, v_II)
        by_g, by_a = (d.sort(descending=True, stable=True).indices for d in (g_O, a_I))
        found[name] = Eigenbasis(u_OO[:, by_g], g_O[by_g], v_II[:, by_a], a_I[by_a], basis.clamped_g, basis.clamped_a)
    return found


def axes(kind: Axes, w_OI: Tensor, seed: int, number: int) -> tuple[Tensor, Tensor]:
    """Return orthogonal axes of outputs O O and inputs I I, in columns; see ``turned``."""
    outputs, inputs = w_OI.shape
    if kind == "svd":
        u_OO, _, vt_II = torch.linalg.svd(w_OI)
        return u_OO, vt_II.T
    if kind == "identity":
        return torch.eye(outputs).to(w_OI), torch.eye(inputs).to(w_OI)
    generator = keyed_generator(seed, 10, number)
    of_outputs = _orthogonal(outputs, generator).to(w_OI)
    return of_outputs, _orthogonal(inputs, generator).to(w_OI)


def _orthogonal(size: int, generator: torch.Generator) -> Tensor:
    """Return a matrix drawn uniformly from the orthogonal group (Mezzadri 2007), float64."""
    q, r = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))
    return cast(Tensor, q * r.diagonal().sign())


def _diagonal(vectors: Tensor, values: Tensor, axes: Tensor) -> Tensor:
    """Return the diagonal, in other axes, of a symmetric matrix that its eigenvectors and eigenvalues give."""
    return (axes.T @ vectors.to(axes)).square() @ values.to(axes)


def without_curvature(matrices: Mapping[str, Tensor], kind: Axes, seed: int) -> dict[str, Eigenbasis]:
    """Return axes that no data are needed for, with a curvature of 1 everywhere; arguments as ``turned``."""
    flat = {}
    for name, w_OI in matrices.items():
        eye_OO, eye_II = axes("identity", w_OI.double(), seed, 0)
        flat[name] = Eigenbasis(eye_OO, eye_OO.new_ones(len(eye_OO)), eye_II, eye_II.new_ones(len(eye_II)), 0.0, 0.0)
    return turned(flat, kind, matrices, seed)
