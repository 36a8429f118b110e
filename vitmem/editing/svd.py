"""Truncated singular value decomposition: the control that looks at the weights alone."""

import math
import time
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from vitmem.curvature.collect import uncompiled
from vitmem.curvature.layers import linear_maps
from vitmem.editing import Edit, EditData, EditResult
from vitmem.editing.kfac import relative_change
from vitmem.models import select_layers


@dataclass(frozen=True)
class SVD(Edit):
    """Control: keep the largest singular values of each weight matrix, ceil(keep * min(O, I)) of them.

    Args:
        layers: glob patterns over layer names, separated by spaces.
        keep: share of the singular values to keep, in (0, 1]; 1 changes nothing.
    """

    main_option = "keep"
    search: ClassVar[dict[str, tuple]] = {"keep": ("log", 0.03, 0.5)}

    layers: str = "blocks.*"
    keep: float = 0.1

    def __post_init__(self):
        if not 0 < self.keep <= 1:
            raise ValueError(f"keep is {self.keep}; it is the share of singular values to keep, in (0, 1]")

    def check(self, model: nn.Module) -> None:
        """Refuse patterns that match nothing."""
        select_layers(model, self.layers)

    def apply(self, model: nn.Module, data: EditData, generator: torch.Generator) -> EditResult:
        """Return the truncated weights; biases and all else stay."""
        start = time.perf_counter()
        model = uncompiled(model)
        state, rows = dict(model.state_dict()), []
        for name, layer in linear_maps(select_layers(model, self.layers)).items():
            w_OI = edited = layer.matrix()
            rank = math.ceil(self.keep * min(w_OI.shape))
            u, s, vt = torch.linalg.svd(w_OI.double(), full_matrices=False)
            if rank < len(s):
                edited = ((u[:, :rank] * s[:rank]) @ vt[:rank]).to(w_OI.dtype)
                state |= layer.state(edited)
            energy = s.square()
            rows.append(
                {
                    "layer": name,
                    "rank": rank,
                    "full_rank": len(s),
                    "energy_kept": float(energy[:rank].sum() / energy.sum()),
                    "relative_change": relative_change(w_OI, edited),
                }
            )
        return EditResult(state, {"layers": rows, "seconds": {"apply": time.perf_counter() - start}})
