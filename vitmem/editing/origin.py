"""What an edit filters: the weights, or what training made of the initial ones."""

from collections.abc import Mapping
from typing import Literal

from torch import Tensor, nn

from vitmem.curvature.layers import LinearMap
from vitmem.editing.data import EditData

Of = Literal["weights", "update"]


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
