"""Truncated singular value decomposition: the control that looks at the weights alone."""

import math
import time
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from vitmem.curvature.collect import uncompiled
from vitmem.curvature.filters import graded_filter
from vitmem.curvature.layers import linear_maps
from vitmem.editing.contract import EditResult, added
from vitmem.editing.data import EditData
from vitmem.editing.kfac import relative_change
from vitmem.editing.origin import Filtered, initial_matrices
from vitmem.models.layers import select_layers


@dataclass(frozen=True)
class SVD(Filtered):
    """Control: keep the largest singular values of each weight matrix.

    Merullo et al. 2025 give pruning ratios such as 0.005 without saying whether that is the share kept or cut away.

    Args:
        layers: glob patterns over layer names, separated by commas.
        keep: share to keep, in (0, 1]; 1 changes nothing.
        share: of what ``keep`` is a share: of the number of singular values (rank: the ceil(keep n) largest), of the
            sum of their squares (energy: the fewest that reach it), or of their number again, but cut away instead of
            kept (pruned: the floor(keep n) smallest go).
        scope: one ranking of singular values for each layer, or a global one for all of them together.
    """

    main_option = "keep"
    search: ClassVar[dict[str, tuple]] = {"keep": ("log", 0.03, 0.5)}

    layers: str = "blocks.*"
    keep: float = 0.1
    share: Literal["rank", "pruned", "energy"] = "rank"
    scope: Literal["layer", "global"] = added("layer")

    def __post_init__(self):
        super().__post_init__()
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

    def multipliers(self, singular: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return by what each singular value is multiplied, in [0, 1].

        Args:
            singular: of each layer, falling.
        """
        if self.scope == "layer":
            return {name: self._multiplier(s, s) for name, s in singular.items()}
        everything = torch.cat(list(singular.values())).sort(descending=True).values
        return {name: self._multiplier(s, everything) for name, s in singular.items()}

    def _multiplier(self, s: Tensor, ranked: Tensor) -> Tensor:
        rank = self.rank(ranked)
        if rank == len(ranked):
            return torch.ones_like(s)
        if self.filter == "graded":
            return graded_filter(s, math.sqrt(ranked[rank - 1] * ranked[rank]), self.exponent)
        if s is ranked:  # exactly so many, also among equals
            return (torch.arange(len(s), device=s.device) < rank).to(s)
        return (s > ranked[rank]).to(s)

    def apply(self, model: nn.Module, data: EditData, generator: torch.Generator) -> EditResult:
        """Return the truncated, or shrunk, weights; biases and all else stay."""
        start = time.perf_counter()
        model = uncompiled(model)
        maps = linear_maps(select_layers(model, self.layers))
        origin = initial_matrices(maps, self.of, model, data)
        parts = {}
        for name, layer in maps.items():
            w_OI = layer.matrix() - origin[name] if name in origin else layer.matrix()
            parts[name] = torch.linalg.svd(w_OI.double(), full_matrices=False)
        state, rows = dict(model.state_dict()), []
        for name, multiplier in self.multipliers({name: s for name, (_, s, _) in parts.items()}).items():
            (u, s, vt), w_OI = parts[name], maps[name].matrix()
            edited, kept = w_OI, int((multiplier > 0).sum())
            if not (multiplier == 1).all():
                edited = ((u[:, :kept] * (s * multiplier)[:kept]) @ vt[:kept]).to(w_OI.dtype)
                edited = edited + origin[name] if name in origin else edited
                state |= maps[name].state(edited)
            energy = s.square()
            rows.append(
                {
                    "layer": name,
                    "rank": kept,
                    "full_rank": len(s),
                    "energy_kept": float((energy * multiplier.square()).sum() / energy.sum()),
                    "relative_change": relative_change(w_OI, edited),
                }
            )
        return EditResult(state, {"layers": rows, "seconds": {"apply": time.perf_counter() - start}})
