"""Quantisation: does rounding the weights bring back what an edit removed?

Legend: O outputs, I inputs of a weight matrix.
"""

import copy
import math
import time
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal

import torch
from torch import Tensor, nn

from vitmem.attacks.contract import Attack, AttackData, AttackResult
from vitmem.attacks.scoring import score, scoring_sets
from vitmem.curvature.collect import uncompiled
from vitmem.curvature.layers import LinearMap, linear_maps
from vitmem.models.build import with_weights
from vitmem.models.kinds import is_linear
from vitmem.models.layers import select_layers
from vitmem.models.memory import ran_out

Scheme = Literal["symmetric", "asymmetric"]


@dataclass(frozen=True)
class Quantize(Attack):
    """Round weights to the nearest of few levels per output row, or per group of a row's inputs.

    Only weights of linear layers and of the patch embedding: activations, biases, norms, positions and tokens keep
    their precision. Source: Zhang et al. 2025 (arXiv 2410.16454).

    Args:
        bits: bit widths with one scale per output row.
        group_bits: bit width of the group-wise settings.
        groups: inputs that share a scale; empty for none.
        scheme: symmetric (levels around 0, none for -2^(b-1)) or asymmetric (from the smallest to the largest weight).
        head: the classifier's head: kept, quantized, or both, one after the other.
        torchao: round the linear layers also by torchao's own 8-bit weights, and compute with its kernels
            (``group: torchao``); where the device has none, the report's ``skipped`` says so.
        examples: most scored of each kind, noisy, clean training and validation.
    """

    settings = ("bits", "group", "head")

    bits: tuple[int, ...] = (8, 6, 4, 3)
    group_bits: int = 4
    groups: tuple[int, ...] = (32, 64, 128)
    scheme: Scheme = "symmetric"
    head: Literal["kept", "quantized", "both"] = "both"
    torchao: bool = False
    examples: int = 2000

    def __post_init__(self):
        for bits in (*self.bits, self.group_bits):
            if not 2 <= bits <= 16:
                raise ValueError(f"{bits} bits are asked for; bits and group_bits are in [2, 16]")
        if wrong := [group for group in self.groups if group < 1]:
            raise ValueError(f"groups: {wrong[0]} inputs cannot share a scale; give positive numbers")
        if self.examples < 1:
            raise ValueError(f"examples is {self.examples}; it must be at least 1")
        if self.torchao and not find_spec("torchao"):
            raise ValueError("torchao: true needs torchao, which is not installed; pip install 'vitmem[quantize]'")

    def apply(self, model: nn.Module, data: AttackData, generator: torch.Generator) -> AttackResult:
        """Return the metrics of every precision, with the share of weights in the bucket of the unedited model's."""
        start = time.perf_counter()
        loaders = scoring_sets(data.data, self.examples)
        layers = linear_maps(select_layers(model, "*"))
        base = data.reference("base")
        before = None if base is None else linear_maps(select_layers(base, "*"))
        head_name = _head(layers)
        heads = ("kept", "quantized") if self.head == "both" else (self.head,)
        rows, skipped = [], []
        for bits, group in [*((b, 0) for b in self.bits), *((self.group_bits, g) for g in self.groups)]:
            for head in heads:
                chosen = {n: layer for n, layer in layers.items() if head == "quantized" or n != head_name}
                state = dict(model.state_dict())
                for layer in chosen.values():
                    state |= layer.state(quantized(layer.matrix(), bits, group, self.scheme))
                row = {"bits": bits, "group": group or "row", "head": head}
                row |= score(with_weights(model, state), loaders, data.known)
                if before is not None:
                    row["same_bucket"] = same_bucket(chosen, before, bits, group, self.scheme)
                rows.append(row)
        for head in heads if self.torchao else ():
            try:
                twin = by_torchao(model, set() if head == "quantized" else {head_name})
                rows.append({"bits": 8, "group": "torchao", "head": head, **score(twin, loaders, data.known)})
            except (RuntimeError, AssertionError) as error:  # how torchao says that the device has no kernel
                if ran_out(error):
                    raise
                skipped.append(f"torchao, head {head}: {' '.join(str(error).split())[:300]}")
        kept = {name for name, _ in model.named_parameters()} - {f"{name}.weight" for name in layers}
        report = {
            "seconds": round(time.perf_counter() - start, 3),
            "quantized": list(layers),
            "head": head_name,
            "skipped": skipped,
            "not_quantized": sorted(kept),
            "not_linear": sorted(n for n, m in model.named_modules() if isinstance(m, nn.Conv2d) and not is_linear(m)),
        }
        return AttackResult(rows, report)


def by_torchao(model: nn.Module, spared: set[str]) -> nn.Module:
    """Return a copy whose linear layers, but for the spared ones, hold torchao's 8-bit weights, one scale per row.

    The patch embedding, a convolution, keeps its precision.
    """
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    twin = copy.deepcopy(uncompiled(model))
    quantize_(twin, Int8WeightOnlyConfig(), lambda module, name: isinstance(module, nn.Linear) and name not in spared)
    return twin


def _head(layers: dict[str, LinearMap]) -> str:
    """Return the classifier's name: the last linear layer."""
    return list(layers)[-1]


def _grouped(w_OI: Tensor, group: int) -> Tensor:
    """Return a matrix O I as rows of ``group`` inputs each, the last group of a row padded with its last weight."""
    outputs, inputs = w_OI.shape
    if not group or group >= inputs:
        return w_OI
    padding = -inputs % group
    return torch.cat([w_OI, w_OI[:, -1:].expand(outputs, padding)], 1).reshape(-1, group)


def _ungrouped(rows: Tensor, like_OI: Tensor) -> Tensor:
    outputs, inputs = like_OI.shape
    return rows.reshape(outputs, -1)[:, :inputs]


def grid(w_OI: Tensor, bits: int, group: int = 0, scheme: Scheme = "symmetric") -> tuple[Tensor, Tensor, int, int]:
    """Return the levels that weights are rounded to, one scale for each row of groups.

    Args:
        w_OI: weights.
        bits: b.
        group: inputs that share a scale; 0 for a whole row.
        scheme: symmetric: scale max|w| / (2^(b-1) - 1), codes from -(2^(b-1) - 1) to 2^(b-1) - 1. asymmetric: scale
            (max - min) / (2^b - 1), codes from 0 to 2^b - 1, offset min.

    Returns:
        Scale and offset as columns, the lowest and the highest code.
    """
    rows = _grouped(w_OI.double(), group)
    if scheme == "symmetric":
        high = 2 ** (bits - 1) - 1
        scale, offset, low = rows.abs().amax(1, keepdim=True) / high, torch.zeros_like(rows[:, :1]), -high
    else:
        high, low = 2**bits - 1, 0
        offset = rows.amin(1, keepdim=True)
        scale = (rows.amax(1, keepdim=True) - offset) / high
    return torch.where(scale > 0, scale, 1.0), offset, low, high  # a row of equal weights has no scale: any will do


def codes(w_OI: Tensor, levels: tuple[Tensor, Tensor, int, int], group: int = 0) -> Tensor:
    """Return the integer codes of weights on a grid, in its rows."""
    scale, offset, low, high = levels
    return ((_grouped(w_OI.double(), group) - offset) / scale).round().clamp(low, high)


def quantized(w_OI: Tensor, bits: int, group: int = 0, scheme: Scheme = "symmetric") -> Tensor:
    """Return weights O I rounded to the nearest level; see ``grid``."""
    levels = grid(w_OI, bits, group, scheme)
    scale, offset, *_ = levels
    return _ungrouped(codes(w_OI, levels, group) * scale + offset, w_OI).to(w_OI.dtype)


def same_bucket(
    layers: dict[str, LinearMap], before: dict[str, LinearMap], bits: int, group: int, scheme: Scheme
) -> float:
    """Return the share of weights that round to the code they had before the edit, on the grid from before it."""
    same = total = 0
    for name, layer in layers.items():
        old = before[name].matrix()
        levels = grid(old, bits, group, scheme)
        equal = codes(old, levels, group) == codes(layer.matrix().to(old.device), levels, group)
        same += int(_ungrouped(equal, old).sum())
        total += old.numel()
    return same / total if total else math.nan
