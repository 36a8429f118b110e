"""Scaled activation projection: keep in each layer's input what trusted examples, or all of them, use.

Legend: I inputs, O outputs.
"""

import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from vitmem.curvature.collect import uncompiled
from vitmem.curvature.layers import linear_maps
from vitmem.datamodules.batch import Batch
from vitmem.editing.contract import Edit, EditResult, added
from vitmem.editing.data import EditData
from vitmem.editing.parameters import draw_seed, input_moments, result
from vitmem.models.layers import select_layers
from vitmem.options import check_counts


@dataclass(frozen=True)
class SAP(Edit):
    """Project each layer's input, softly, on the principal directions of trusted examples.

    With the second moment U S U^T of a layer's inputs over all positions of the trusted images, in one pass through the
    unedited model, and s = (S / tr S)^g: W' = W U diag(alpha s / ((alpha - 1) s + 1)) U^T. Trusted are
    examples known to be right, drawn at random; the authors look for such examples by their loss. Source: Kodge et al.
    2025 (arXiv 2403.08618).

    Args:
        layers: glob patterns over layer names, separated by commas; the authors leave out the classifier.
        alpha: scale of the shares, at least 1; the authors choose among 1e4, 3e4, 1e5, 3e5 and 1e6 on validation data.
        examples: images, at least 1; the authors take 1000.
        batch_size: images in a batch; the result does not depend on it.
        exponent: g, to which the shares are raised; the authors' is 1, and more parts large shares from small ones.
        images: right (examples known to be right) or unlabeled (training images, whatever their labels).
    """

    main_option = "alpha"
    search: ClassVar[dict[str, tuple]] = {"alpha": ("log", 10.0, 1e6)}

    layers: str = "patch_embed.proj blocks.*"
    alpha: float = 1e5
    examples: int = 1000
    batch_size: int = 100
    exponent: float = added(1.0)
    images: Literal["right", "unlabeled"] = added("right")

    def __post_init__(self):
        if not self.alpha >= 1:
            raise ValueError(f"alpha is {self.alpha}; it must be at least 1")
        if not 0 < self.exponent < math.inf:
            raise ValueError(f"exponent is {self.exponent}; it must be positive and finite")
        check_counts(self, "examples", "batch_size")

    @property
    def sees(self) -> frozenset[str]:
        """What is known to be right, or images alone."""
        return frozenset({"retain" if self.images == "right" else "unlabeled"})

    def check(self, model: nn.Module) -> None:
        """Refuse patterns that match nothing."""
        select_layers(model, self.layers)

    def apply(self, model: nn.Module, data: EditData, generator: torch.Generator) -> EditResult:
        """Return the projected weights; biases and all else stay."""
        start = time.perf_counter()
        model = uncompiled(model)
        maps = linear_maps(select_layers(model, self.layers))
        if self.images == "right":
            batches = first(data.retain(self.batch_size, shuffle=True, seed=draw_seed(generator)), self.examples)
        else:
            batches = data.unlabeled(self.examples, self.batch_size, seed=draw_seed(generator))
        moments = input_moments(model, maps, batches)
        changed = {}
        for name, layer in maps.items():
            w_OI = layer.matrix()
            projection_II = projection(moments[name], self.alpha, self.exponent)
            changed |= layer.state((w_OI.double() @ projection_II).to(w_OI.dtype))
        return result(model, changed, start, sum(moment.numel() for moment in moments.values()))


def projection(moment_II: Tensor, alpha: float, exponent: float = 1.0) -> Tensor:
    """Return the soft projection I I on the principal directions of a second moment.

    Args:
        moment_II: sum of a a^T over inputs a, of any scale.
        alpha: a direction with share s of the trace is multiplied by alpha s^g / ((alpha - 1) s^g + 1).
        exponent: g, positive.
    """
    values, u_II = torch.linalg.eigh(moment_II)
    share = values.clamp(min=0) / values.clamp(min=0).sum()
    share = share**exponent
    return (u_II * (alpha * share / ((alpha - 1) * share + 1))) @ u_II.T


def first(batches: Iterable[Batch], examples: int) -> Iterator[Batch]:
    """Yield batches until a number of examples is reached."""
    for batch in batches:
        yield batch.map(lambda field, n=examples: field[:n])
        examples -= len(batch.index)
        if examples <= 0:
            return
