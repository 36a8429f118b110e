"""Numbers that are not finite, in weights and in what a model says of an image."""

from collections.abc import Mapping

import torch
from torch import Tensor

NOTHING = -1  # the answer of logits that are not finite: no class, and never right


def answers(logits_BK: Tensor) -> Tensor:
    """Return B, the class of the largest logit, or ``NOTHING`` where one is not finite."""
    return torch.where(torch.isfinite(logits_BK).all(1), logits_BK.argmax(1), NOTHING)


def broken(state: Mapping[str, Tensor]) -> str | None:
    """Return the name of the first tensor that holds a number that is not finite; None if there is none."""
    return next((name for name, value in state.items() if not torch.isfinite(value).all()), None)
