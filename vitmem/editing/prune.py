"""Pruning: set the least important weights of each matrix to zero.

Legend: I inputs, O outputs.
"""

import math
import time
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from vitmem.curvature.collect import uncompiled
from vitmem.curvature.filters import graded_filter
from vitmem.curvature.layers import linear_maps
from vitmem.distributed import all_sum
from vitmem.editing.contract import Edit, EditResult, added
from vitmem.editing.data import EditData
from vitmem.editing.origin import Filtered, initial_matrices
from vitmem.editing.parameters import draw_seed, result, watch_inputs
from vitmem.models.layers import select_layers
from vitmem.options import check_counts


@dataclass(frozen=True)
class Magnitude(Filtered):
    """Keep the largest weights of each matrix, or of all matrices together (Han et al. 2015); sees no data.

    Args:
        layers: glob patterns over layer names, separated by commas.
        keep: share of the weights to keep, in (0, 1]; 1 changes nothing.
        scope: one ranking for each layer, or a global one for all of them together.
    """

    main_option = "keep"
    search: ClassVar[dict[str, tuple]] = {"keep": ("uniform", 0.05, 0.9)}

    layers: str = "blocks.*"
    keep: float = 0.5
    scope: Literal["layer", "global"] = "layer"
    exponent: float = added(2.0)

    def __post_init__(self):
        super().__post_init__()
        _check_share("keep", self.keep)

    def check(self, model: nn.Module) -> None:
        """Refuse patterns that match nothing."""
        select_layers(model, self.layers)

    def apply(self, model: nn.Module, data: EditData, generator: torch.Generator) -> EditResult:
        """Return the pruned weights; biases and all else stay."""
        start = time.perf_counter()
        model = uncompiled(model)
        maps = linear_maps(select_layers(model, self.layers))
        origin = initial_matrices(maps, self.of, model, data)
        matrices = {n: m.matrix() - origin[n] if n in origin else m.matrix() for n, m in maps.items()}
        if self.scope == "layer":
            factors = {name: self.multiplier(w_OI.abs().flatten()).view_as(w_OI) for name, w_OI in matrices.items()}
        else:
            factor = self.multiplier(torch.cat([w_OI.abs().flatten() for w_OI in matrices.values()]))
            parts = factor.split([w_OI.numel() for w_OI in matrices.values()])
            factors = {n: part.view_as(w_OI) for (n, w_OI), part in zip(matrices.items(), parts, strict=True)}
        changed = {}
        for name, layer in maps.items():
            edited = matrices[name] * factors[name]
            if name in origin:
                edited = layer.matrix() if (factors[name] == 1).all() else edited + origin[name]
            changed |= layer.state(edited)
        return result(model, changed, start, sum(factor.numel() for factor in factors.values()))

    def multiplier(self, size: Tensor) -> Tensor:
        """Return by what each of n weights is multiplied: a mask, or a filter in [0, 1]; of their absolute values."""
        mask = largest(size, self.keep)
        if self.filter == "hard" or mask.all():
            return mask
        tau = math.sqrt(float(size[mask].min()) * float(size[~mask].max()))
        return graded_filter(size.double(), tau, self.exponent).to(size)


@dataclass(frozen=True)
class Wanda(Edit):
    """Prune by |W_oi| times the length of input i over calibration images, within each output (arXiv 2306.11695).

    With ``forget``, weights are removed for the known wrong examples instead: those among the top ``forget`` of an
    output by the score on wrong examples, unless they are among its top ``keep`` by the score on examples known to be
    right (set difference, Wei et al. 2024, arXiv 2402.05162).

    Args:
        layers: glob patterns over layer names, separated by commas.
        keep: share of each output's weights to keep, in (0, 1]; the authors of Wanda take 0.5.
        forget: share of each output's weights that count as important to wrong examples, in (0, 1].
        examples: calibration images, at least 1; the authors take 128. Not used with ``forget``, which takes all.
        batch_size: images in a batch; the result does not depend on it.
    """

    main_option = "keep"
    search: ClassVar[dict[str, tuple]] = {"keep": ("uniform", 0.05, 0.9)}

    layers: str = "blocks.*"
    keep: float = 0.5
    forget: float | None = None
    examples: int = 128
    batch_size: int = 100

    def __post_init__(self):
        _check_share("keep", self.keep)
        if self.forget is not None:
            _check_share("forget", self.forget)
        check_counts(self, "examples", "batch_size")

    @property
    def sees(self) -> frozenset[str]:
        """Images alone, unless wrong and right examples are told apart."""
        return frozenset({"unlabeled"} if self.forget is None else {"forget", "retain"})

    def check(self, model: nn.Module) -> None:
        """Refuse patterns that match nothing."""
        select_layers(model, self.layers)

    def apply(self, model: nn.Module, data: EditData, generator: torch.Generator) -> EditResult:
        """Return the pruned weights; biases and all else stay."""
        start = time.perf_counter()
        model = uncompiled(model)
        maps = linear_maps(select_layers(model, self.layers))

        def scores(batches) -> dict[str, Tensor]:
            device = next(model.parameters()).device
            squares = {n: torch.zeros(m.inputs, dtype=torch.float64, device=device) for n, m in maps.items()}
            watch_inputs(model, maps, batches, lambda name, a_TI: squares[name].add_(a_TI.square().sum(0)))
            # over all processes: a share of drawn images each, or everything each, which ranks alike
            return {name: layer.matrix().abs() * all_sum(squares[name]).sqrt() for name, layer in maps.items()}

        if self.forget is None:
            calibration = data.unlabeled(self.examples, self.batch_size, seed=draw_seed(generator))
            masks = {name: largest(score_OI, self.keep) for name, score_OI in scores(calibration).items()}
        else:
            wrong, right = scores(data.forget(self.batch_size)), scores(data.retain(self.batch_size))
            masks = {n: ~largest(wrong[n], self.forget) | largest(right[n], self.keep) for n in maps}
        changed = {k: v for n, layer in maps.items() for k, v in layer.state(layer.matrix() * masks[n]).items()}
        return result(model, changed, start, sum(mask.numel() for mask in masks.values()))


def largest(score: Tensor, share: float) -> Tensor:
    """Return the mask of the ceil(share n) largest of the n entries along the last dimension."""
    count = math.ceil(share * score.shape[-1])
    return torch.zeros_like(score, dtype=torch.bool).scatter_(-1, score.topk(count, -1).indices, True)


def _check_share(option: str, value: float) -> None:
    if not 0 < value <= 1:
        raise ValueError(f"{option} is {value}; it is a share of the weights, in (0, 1]")
