"""Which examples an edit knows that are to be forgotten, and which are kept for reporting.

Legend: N examples of a split.
"""

import math

import torch
from torch import Tensor

from vitmem.datamodules.batch import Examples, keyed_generator


def drawn(mask_N: Tensor, share: float, *key: int) -> Tensor:
    """Return a mask of a share of the True entries, drawn at random; their number is rounded to the nearest.

    Args:
        mask_N: bool.
        share: in [0, 1].
        key: of the draw; the same key and mask give the same entries.
    """
    positions = mask_N.nonzero()[:, 0]
    order = torch.randperm(len(positions), generator=keyed_generator(*key))
    chosen_N = torch.zeros_like(mask_N)
    chosen_N[positions[order[: math.floor(share * len(positions) + 0.5)]]] = True
    return chosen_N


def known_noisy(to_forget_N: Tensor, share: float, noise_seed: int, seed: int) -> Tensor:
    """Return N, bool: the training examples to be forgotten that edits with a forget set are told of.

    The draw depends on the run, never on the edit, so that all edits of a run know the same examples.

    Args:
        to_forget_N: as ``Examples.to_forget``: the wrong labels, or a forget set that was chosen.
        share: of these, in (0, 1].
        noise_seed: of the label noise.
        seed: of the run.
    """
    check_share(share)
    return drawn(to_forget_N, share, noise_seed, seed, 6)


def check_share(share: float) -> None:
    """Raise ValueError unless this is a share of wrong labels that can be known."""
    if not 0 < share <= 1:
        raise ValueError(f"known is {share}; it is the share of the wrong labels that edits may know, in (0, 1]")


def tuning_half(validation: Examples) -> Examples:
    """Return the validation examples of even index: all that edits and tuning see; odd ones are for reporting."""
    return validation.subset(validation.index % 2 == 0)
