"""By what each eigen-coordinate is multiplied, once a threshold is known: masks and filters.

Legend: I inputs, O outputs.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from vitmem.curvature.spectrum import Mass, Threshold


def hard_masks(masses: Sequence[Mass], threshold: Threshold) -> list[Tensor]:
    """Return the masks O I of the pairs that a threshold keeps."""
    if threshold.tau == 0 and math.isinf(threshold.ties):
        return [torch.ones(mass.shape, dtype=torch.bool, device=mass.dense().device) for mass in masses]
    if math.isinf(threshold.ties):
        return [mass.mask(threshold.tau) for mass in masses]
    masks, ties = [], int(threshold.ties)
    for mass in masses:
        mask_OI = mass.mask(math.nextafter(threshold.tau, math.inf))
        if ties > 0:
            reached_OI = mass.mask(threshold.tau) if threshold.tau > 0 else torch.ones_like(mask_OI)
            equal = (reached_OI & ~mask_OI).flatten().nonzero()[:ties, 0]
            mask_OI.view(-1)[equal] = True
            ties -= len(equal)
        masks.append(mask_OI)
    return masks


def graded_filter(mass_OI: Tensor, tau: float, exponent: float) -> Tensor:
    """Return the shrinkage P^g / (P^g + tau^g) of each pair, in [0, 1].

    Args:
        mass_OI: masses P, not negative.
        tau: the mass that is halved; 0 shrinks nothing.
        exponent: g, positive; 1 is Wiener's filter, and the step at tau is the limit of large g.
    """
    if tau == 0:
        return torch.ones_like(mass_OI)
    return 1 / (1 + (tau / mass_OI).pow(exponent))  # a mass of 0 gives 1 / inf = 0


def smallest_mask(mass_OI: Tensor, count: int) -> Tensor:
    """Return the mask of the ``count`` smallest masses: the largest are removed (control)."""
    mask = torch.zeros(mass_OI.numel(), dtype=torch.bool, device=mass_OI.device)
    mask[mass_OI.flatten().sort(stable=True).indices[:count]] = True
    return mask.view_as(mass_OI)
