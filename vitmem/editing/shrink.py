"""Shrinking by one number: towards zero, towards the weights that training started from, or norms towards none.

Controls for every edit that shrinks by a rule: what does a dumb one get? Legend: I inputs, O outputs.
"""

import time
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from vitmem.curvature.collect import uncompiled
from vitmem.curvature.layers import linear_maps
from vitmem.editing.contract import Edit, EditResult, added
from vitmem.editing.data import EditData
from vitmem.editing.parameters import result
from vitmem.models.anatomy import anatomy_of, depths
from vitmem.models.layers import select_layers, select_norms

PARTS = ("query", "key", "value")


@dataclass(frozen=True)
class Scale(Edit):
    """Control: multiply the chosen matrices by one number; sees no data.

    Args:
        layers: glob patterns over layer names, separated by commas.
        factor: what the matrices are multiplied by, in [0, 1]; 1 changes nothing.
        part: which rows of the fused matrices of attention; all takes whole matrices of any layer, the others leave
            layers that are not named ``qkv`` or ``in_proj`` alone.
        temperature: what the logits of attention are divided by, at least 1, in the chosen layers of these names: the
            queries, with their biases, are divided by it.
    """

    main_option = "factor"
    search: ClassVar[dict[str, tuple]] = {"factor": ("uniform", 0.2, 1.0)}

    layers: str = "blocks.*"
    factor: float = 0.6
    part: Literal["all", "query", "key", "value"] = "all"
    temperature: float = 1.0

    def __post_init__(self):
        _check_share("factor", self.factor)
        if not 1 <= self.temperature < float("inf"):
            raise ValueError(f"temperature is {self.temperature}; it must be at least 1 and finite")

    def check(self, model: nn.Module) -> None:
        """Refuse patterns that match nothing, or no fused attention where a part or a temperature is asked for."""
        chosen = select_layers(model, self.layers)
        fused = [name for name in chosen if _is_fused(name)]
        if not fused and (self.part != "all" or self.temperature != 1):
            raise ValueError(
                f"layers: {self.layers} chooses no layer named qkv or in_proj, which part and temperature need"
            )
        for name in fused if self.temperature != 1 else ():
            attention = model.get_submodule(name.rpartition(".")[0])
            if not isinstance(getattr(attention, "q_norm", nn.Identity()), nn.Identity):
                raise ValueError(f"temperature: {name} is followed by a norm of the queries, which undoes it")

    def apply(self, model: nn.Module, data: EditData, generator: torch.Generator) -> EditResult:
        """Return the scaled weights; biases (but for a temperature) and all else stay."""
        start = time.perf_counter()
        model = uncompiled(model)
        self.check(model)
        state, changed = model.state_dict(), {}
        for name, layer in linear_maps(select_layers(model, self.layers)).items():
            w_OI, fused = layer.matrix().clone(), _is_fused(name)
            if self.part == "all":
                w_OI *= self.factor
            elif fused:
                w_OI[_rows(w_OI, self.part)] *= self.factor
            if fused and self.temperature != 1:
                w_OI[_rows(w_OI, "query")] /= self.temperature
                if layer.module.bias is not None:
                    bias_O = state[f"{name}.bias"].clone()
                    bias_O[_rows(bias_O, "query")] /= self.temperature
                    changed[f"{name}.bias"] = bias_O
            changed |= layer.state(w_OI)
        return result(model, changed, start, 0)


def _is_fused(name: str) -> bool:
    """Tell whether a layer makes queries, keys and values at once: timm's, or PyTorch's opened attention."""
    return name.endswith((".qkv", ".in_proj"))


def _rows(tensor: Tensor, part: str) -> slice:
    """Return the rows of a fused matrix that make queries, keys or values."""
    third = len(tensor) // 3
    return slice(PARTS.index(part) * third, (PARTS.index(part) + 1) * third)


@dataclass(frozen=True)
class Rewind(Edit):
    """Go back towards the weights that training started from: W0 + keep (W - W0); sees no data.

    For a model that was fine-tuned from pretrained weights this is weight interpolation as in WiSE-FT (Wortsman et al.
    2022, arXiv 2109.01903).

    Args:
        layers: all (every parameter, biases and norms included), or glob patterns over layer names, separated by
            commas: their matrices.
        keep: share of the way from the start to the trained weights that is kept, in [0, 1]; 1 changes nothing.
        slope: how much further late blocks go back than early ones, in [-1, 1]: block l of L keeps keep^(1 + slope s),
            s from -1 for the first block to 1 for the last; what lies before or after the blocks goes with the first
            or the last. 0 treats all alike.
        to: initial, or early_stop: an earlier checkpoint of the same training, that of the reference model
            ``early_stop``, which must lie beside the run. It was chosen on validation, so the edit counts as seeing it.
    """

    main_option = "keep"
    search: ClassVar[dict[str, tuple]] = {"keep": ("uniform", 0.2, 1.0)}

    layers: str = "all"
    keep: float = 0.5
    slope: float = added(0.0)
    to: Literal["initial", "early_stop"] = added("initial")

    def __post_init__(self):
        _check_share("keep", self.keep)
        if not -1 <= self.slope <= 1:
            raise ValueError(f"slope is {self.slope}; it must be in [-1, 1]")

    @property
    def sees(self) -> frozenset[str]:
        """The initial weights, or those of an earlier epoch, which validation chose."""
        return frozenset({"initial"} | ({"validation"} if self.to == "early_stop" else set()))

    def check(self, model: nn.Module) -> None:
        """Refuse patterns that match nothing."""
        if self.layers != "all":
            select_layers(model, self.layers)

    def apply(self, model: nn.Module, data: EditData, generator: torch.Generator) -> EditResult:
        """Return the interpolated weights; buffers stay."""
        start = time.perf_counter()
        model = uncompiled(model)
        trained, initial = dict(model.named_parameters()), data.initial(model, self.to)
        if self.layers == "all":
            chosen = list(trained)
        else:
            chosen = [f"{name}.weight" for name in select_layers(model, self.layers)]
        keep = self.shares(model)
        changed = {n: torch.lerp(initial[n], trained[n].detach(), keep[n]) for n in chosen} if self.keep < 1 else {}
        return result(model, changed, start, sum(initial[name].numel() for name in chosen))

    def shares(self, model: nn.Module) -> dict[str, float]:
        """Return what is kept of each parameter, by name."""
        place = block_of(model)
        last = max(place.values(), default=0)
        return {name: self.keep ** (1 + self.slope * (2 * p / last - 1 if last else 0.0)) for name, p in place.items()}


def block_of(model: nn.Module) -> dict[str, int]:
    """Return the number of each parameter's block, by name; what lies before the first or after the last has theirs."""
    last = max(len(anatomy_of(model).blocks) - 1, 0)
    return {name: min(max(depth - 1, 0), last) for name, depth in depths(model).items()}


@dataclass(frozen=True)
class NormsOff(Edit):
    """Take what norms have learned back: scales go to 1 + keep (w - 1), shifts to keep b; sees no data.

    Norms go on normalising. Source: Layer Norm & Memorization (arXiv 2511.10566), which leaves the learned scales and
    shifts out in training; here they are taken from a model that was trained with them.

    Args:
        layers: glob patterns over the names of norms, separated by commas.
        keep: share of the way from scale 1 and shift 0 to the trained ones that is kept, in [0, 1]; 1 changes nothing.
    """

    main_option = "keep"
    search: ClassVar[dict[str, tuple]] = {"keep": ("uniform", 0.0, 1.0)}

    layers: str = "*"
    keep: float = 0.0

    def __post_init__(self):
        _check_share("keep", self.keep)

    def check(self, model: nn.Module) -> None:
        """Refuse patterns that match no norm."""
        select_norms(model, self.layers)

    def apply(self, model: nn.Module, data: EditData, generator: torch.Generator) -> EditResult:
        """Return the weights with other norms; all else stays."""
        start = time.perf_counter()
        model = uncompiled(model)
        changed = {}
        for name, norm in select_norms(model, self.layers).items():
            trained = {part: value.detach() for part, value in norm.named_parameters(recurse=False)}
            neutral = {part: torch.full_like(value, float(part == "weight")) for part, value in trained.items()}
            changed |= {f"{name}.{part}": torch.lerp(neutral[part], trained[part], self.keep) for part in trained}
        return result(model, changed if self.keep < 1 else {}, start, 0)


def _check_share(option: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"{option} is {value}; it must be in [0, 1]")
