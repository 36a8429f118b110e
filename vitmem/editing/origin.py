"""What an edit filters: the weights, or what training made of the initial ones."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from vitmem.curvature.layers import LinearMap
from vitmem.editing.contract import Edit, added
from vitmem.editing.data import EditData

Of = Literal["weights", "update"]


@dataclass(frozen=True)
class Filtered(Edit):
    """Base of edits that keep, drop or shrink numbers x by their own size, such as singular values.

    Args:
        filter: hard (keep or drop) or graded (shrink by x^g / (x^g + tau^g), tau the geometric mean of the smallest one
            that the hard rule keeps and the largest that it drops).
        exponent: g of the graded filter.
        of: what is filtered: the weights, or the update that training made of the initial ones, W - W0.
    """

    filter: Literal["hard", "graded"] = added("hard")
    exponent: float = added(1.0)
    of: Of = added("weights")

    def __post_init__(self):
        if not 0 < self.exponent < math.inf:
            raise ValueError(f"exponent is {self.exponent}; it must be positive and finite")

    @property
    def sees(self) -> frozenset[str]:
        """Nothing, or the initial weights."""
        return frozenset({"initial"} if self.of == "update" else set())

    @property
    def idle(self) -> frozenset[str]:
        """What only the graded filter has."""
        return frozenset({"exponent"} if self.filter == "hard" else set())


def initial_matrices(maps: Mapping[str, LinearMap], of: Of, model: nn.Module, data: EditData) -> dict[str, Tensor]:
    """Return the matrices O I that the filtered part starts from, by layer.

    Args:
        maps: the chosen layers of the model.
        of: weights (nothing is subtracted, and nothing returned) or update (W - W0 is filtered, and W0 returned).
        model: the trained classifier.
        data: knows the initial weights.
    """
    if of == "weights":
        return {}
    initial = data.initial(model)
    return {name: layer.matrix_of(initial) for name, layer in maps.items()}
