"""The subspace that an edit changed, and projections of weight updates on it: is what was removed gone, or hidden?

Legend: O outputs, I inputs of a weight matrix, R rank of the subspace.
"""

import math
from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from vitmem.curvature.layers import linear_maps
from vitmem.models.layers import select_layers

Within = Literal["all", "removed", "complement", "random"]


class Sides(NamedTuple):
    """Orthonormal columns: matrices left @ X @ right.T are the subspace of one layer."""

    left: Tensor  # O R
    right: Tensor  # I R


def changed_subspace(model: nn.Module, base: nn.Module, share: float) -> dict[str, Sides]:
    """Return the leading singular vectors of what an edit took from each weight matrix, by parameter name.

    A matrix that did not change has none (R = 0), nor has any direction that did not.

    Args:
        model: the edited classifier.
        base: the unedited one.
        share: R is ceil(share * min(O, I)), at most the rank of the change.
    """
    before, found = linear_maps(select_layers(base, "*")), {}
    for name, layer in linear_maps(select_layers(model, "*")).items():
        now_OI = layer.matrix()
        gone_OI = before[name].matrix().to(now_OI).double() - now_OI.double()
        u, s, vt = torch.linalg.svd(gone_OI, full_matrices=False)
        noise = now_OI.abs().max() * max(now_OI.shape) * torch.finfo(now_OI.dtype).eps  # what rounding alone changes
        rank = min(math.ceil(share * len(s)), int((s > noise).sum()))
        found[f"{name}.weight"] = Sides(u[:, :rank].to(now_OI), vt[:rank].T.to(now_OI))
    return found


def random_subspace(like: Mapping[str, Sides], generator: torch.Generator) -> dict[str, Sides]:
    """Return random subspaces of the same ranks: the control."""
    return {
        name: Sides(*(torch.linalg.qr(torch.randn(side.shape, generator=generator))[0].to(side) for side in sides))
        for name, sides in like.items()
    }


def projected(update: Tensor, sides: Sides | None) -> Tensor:
    """Return the part of a weight update in a layer's subspace, U U^T update V V^T; 0 for what has no subspace.

    Args:
        update: O I, or O C H W of a convolution, whose inputs are C H W.
        sides: U and V.
    """
    if sides is None:
        return torch.zeros_like(update)
    left, right = sides
    core_RR = left.T @ update.flatten(1) @ right
    return (left @ core_RR @ right.T).view_as(update)


def projection(subspace: Mapping[str, Sides], within: Within) -> Callable[[str, Tensor], Tensor] | None:
    """Return what keeps a part of a parameter's update, given its name: None for ``all``.

    ``complement`` keeps what lies outside of the subspace, the others what lies in it; parameters without a subspace,
    such as biases, norms and tokens, lie outside.
    """
    if within == "all":
        return None

    def kept(name: str, update: Tensor) -> Tensor:
        inside = projected(update, subspace.get(name))
        return update - inside if within == "complement" else inside

    return kept
