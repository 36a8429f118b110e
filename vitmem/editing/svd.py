"""Truncated singular value decomposition: the control that looks at the weights alone."""

import math
import time
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from vitmem.curvature.collect import uncompiled
from vitmem.curvature.layers import linear_maps
from vitmem.editing.contract import Edit, EditResult
from vitmem.editing.data import EditData
from vitmem.editing.kfac import relative_change
from vitmem.models.layers import select_layers


@dataclass(frozen=True)
class SVD(Edit):
    """Control: keep the largest singular values of each weight matrix.

    Merullo et al. 2025 give pruning ratios such as 0.005 without saying whether that is the share kept or cut away.

    Args:
        layers: glob patterns over layer names, separated by commas.
        keep: share to keep, in (0, 1]; 1 changes nothing.
        share: of what ``keep`` is a share: of the number of singular values (rank: the ceil(keep n) largest), of the
            sum of their squares (energy: the fewest that reach it), or of their number again, but cut away instead of
            kept (pruned: the floor(keep n) smallest go).
    """

    main_option = "keep"
    search: ClassVar[dict[str, tuple]] = {"keep": ("log", 0.03, 0.5)}

    layers: str = "blocks.*"
    keep: float = 0.1
    share: Literal["rank", "pruned", "energy"] = "rank"

    def __post_init__(self):
        if not 0 < self.keep <= 1:
            raise ValueError(f"keep is {self.keep}; it is the share of singular values to keep, in (0, 1]")
        if self.share == "pruned" and self.keep == 1:
            raise ValueError("keep is 1.0 and share is pruned, which would cut everything away; give less than 1")

    def check(self, model: nn.Module) -> None:
        """Refuse patterns that match nothing."""
        select_layers(model, self.layers)

    def rank(self, singular: Tensor) -> int:
        """Return how many of the falling singular values stay."""
        n = len(singular)
        if self.share == "energy":
            reached = singular.square().cumsum(0) / singular.square().sum() >= self.keep
            return int(reached.int().argmax()) + 1 if reached.any() else n
        return n - math.floor(self.keep * n) if self.share == "pruned" else math.ceil(self.keep * n)

    def apply(self, model: nn.Module, data: EditData, generator: torch.Generator) -> EditResult:
        """Return the truncated weights; biases and all else stay."""
        start = time.perf_counter()
        model = uncompiled(model)
        state, rows = dict(model.state_dict()), []
        for name, layer in linear_maps(select_layers(model, self.layers)).items():
            w_OI = edited = layer.matrix()
            u, s, vt = torch.linalg.svd(w_OI.double(), full_matrices=False)
            rank = self.rank(s)
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
