"""Truncation of features: keep the directions of each layer's input in which inputs are large.

Legend: I inputs, O outputs, d directions that are kept.
"""

import math
import time
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from vitmem.curvature.collect import uncompiled
from vitmem.curvature.layers import linear_maps
from vitmem.editing.contract import Edit, EditResult
from vitmem.editing.data import EditData
from vitmem.editing.parameters import draw_seed, input_moments, result
from vitmem.models.layers import select_layers
from vitmem.options import check_counts


@dataclass(frozen=True)
class Features(Edit):
    """Project each layer's input on its leading principal directions, over all positions of training images.

    With the leading d eigenvectors U_d of the second moment (not centred) of a layer's inputs, in one pass through the
    unedited model: W' = W U_d U_d^T. Wrong labels are said to be fitted in the tail. Source: The Malignant Tail (arXiv
    2603.02293, withdrawn by its second version).

    Args:
        layers: glob patterns over layer names, separated by commas.
        keep: share of the I directions to keep, in (0, 1]: d is keep * I, rounded up; 1 changes nothing.
        examples: training images, at least 1.
        batch_size: images in a batch; the result does not depend on it.
    """

    sees = frozenset({"unlabeled"})
    main_option = "keep"
    search: ClassVar[dict[str, tuple]] = {"keep": ("uniform", 0.02, 1.0)}

    layers: str = "blocks.*"
    keep: float = 0.3
    examples: int = 1000
    batch_size: int = 100

    def __post_init__(self):
        if not 0 < self.keep <= 1:
            raise ValueError(f"keep is {self.keep}; it is a share of the directions, in (0, 1]")
        check_counts(self, "examples", "batch_size")

    def check(self, model: nn.Module) -> None:
        """Refuse patterns that match nothing."""
        select_layers(model, self.layers)

    def apply(self, model: nn.Module, data: EditData, generator: torch.Generator) -> EditResult:
        """Return the projected weights; biases and all else stay."""
        start = time.perf_counter()
        model = uncompiled(model)
        maps = linear_maps(select_layers(model, self.layers))
        images = data.unlabeled(self.examples, self.batch_size, seed=draw_seed(generator))
        moments = input_moments(model, maps, images)
        changed = {}
        for name, layer in maps.items():
            w_OI, rank = layer.matrix(), math.ceil(self.keep * layer.inputs)
            if rank < layer.inputs:
                w_OI = (w_OI.double() @ truncation(moments[name], rank)).to(w_OI.dtype)
            changed |= layer.state(w_OI)
        return result(model, changed, start, sum(moment.numel() for moment in moments.values()))


def truncation(moment_II: Tensor, rank: int) -> Tensor:
    """Return the projection I I on the eigenvectors of the largest ``rank`` eigenvalues of a second moment."""
    leading_Id = torch.linalg.eigh(moment_II).eigenvectors[:, -rank:]
    return leading_Id @ leading_Id.T
