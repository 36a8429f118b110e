"""Example-tied dropout: hidden units of the MLPs that only some examples may use, and that are dropped in the end.

Source: Maini et al. 2023 (arXiv 2307.09542), there for the channels of convolutional networks. Legend: B examples,
S tokens, H hidden units.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from vitmem.datamodules.batch import keyed_seed
from vitmem.models.layers import select_layers

MLP_OUT = "blocks.*.mlp.fc2"


class TiedDropout:
    """Masks the input of every MLP's second layer.

    The first units of each MLP, ceil(fixed H) of them, are always on. While training, each example switches on a share
    ``memory`` of the others, always the same ones, on all its tokens. Else the others are off and the first ones are
    multiplied by (fixed + memory) / fixed, as in the authors' code.

    Args:
        model: a vision transformer of timm; its hooks stay until ``fold``.
        fixed: share of the units that generalise, in (0, 1]; 1 leaves the model alone.
        memory: share of the other units that an example switches on, in (0, 1).
        seed: key of the masks.
    """

    def __init__(self, model: nn.Module, fixed: float, memory: float, seed: int):
        self.fixed, self.memory, self.seed = fixed, memory, seed
        self.index: Tensor | None = None
        self.layers = select_layers(model, MLP_OUT) if fixed < 1 else {}
        self.hooks = [
            layer.register_forward_pre_hook(lambda module, inputs, number=number: self._mask(number, inputs[0]))
            for number, layer in enumerate(self.layers.values())
        ]

    @contextmanager
    def __call__(self, index: Tensor) -> Iterator[None]:
        """Let the examples B of a batch use their own units."""
        self.index = index
        try:
            yield
        finally:
            self.index = None

    def _mask(self, number: int, x_BSH: Tensor) -> tuple[Tensor]:
        if self.index is None:
            return (x_BSH * self.dropped(x_BSH.shape[-1]).to(x_BSH),)
        mask_BH = tied_mask(self.index, x_BSH.shape[-1], self.fixed, self.memory, keyed_seed(self.seed, number, 6))
        return (x_BSH * mask_BH[:, None].to(x_BSH),)

    def dropped(self, hidden: int) -> Tensor:
        """Return by what each of the H units is multiplied when no example may use its own."""
        return is_fixed(hidden, self.fixed) * ((self.fixed + self.memory) / self.fixed)

    def fold(self) -> None:
        """Take the hooks away and put their effect, without tied units, into the weights."""
        for hook in self.hooks:
            hook.remove()
        with torch.no_grad():
            for name, layer in self.layers.items():
                layer.weight.copy_(self.folded({f"{name}.weight": layer.weight})[f"{name}.weight"])
        self.layers, self.hooks = {}, []

    def folded(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return weights, or some of them, by timm's names, as ``fold`` would leave them."""
        masked = {f"{name}.weight" for name in self.layers}
        return {k: v * self.dropped(v.shape[1]).to(v) if k in masked else v for k, v in state.items()}


def is_fixed(hidden: int, fixed: float) -> Tensor:
    """Return the mask H of the units that generalise."""
    return torch.arange(hidden) < math.ceil(fixed * hidden)


def tied_mask(index_B: Tensor, hidden: int, fixed: float, memory: float, key: int) -> Tensor:
    """Return the mask B H of the units that each example may use.

    Args:
        index_B: ids of the examples.
        hidden: number of units H.
        fixed: share of the units that are always on.
        memory: share of the others that each example switches on, each unit with this probability.
        key: of the layer; an example's mask depends on nothing but its id, the unit and this.
    """
    unit_H = torch.arange(hidden, device=index_B.device)
    own_BH = uniform(index_B[:, None] * hidden + unit_H, key) < memory
    return own_BH | is_fixed(hidden, fixed).to(index_B.device)


def uniform(number: Tensor, key: int) -> Tensor:
    """Return a number in [0, 1) for each integer, as if drawn: SplitMix64's finaliser on wrapping int64."""

    def shifted(x: Tensor, bits: int) -> Tensor:  # a logical shift: torch's copies the sign
        return (x >> bits) & ((1 << (64 - bits)) - 1)

    x = number * _signed(0x9E3779B97F4A7C15) + key
    x = (x ^ shifted(x, 30)) * _signed(0xBF58476D1CE4E5B9)
    x = (x ^ shifted(x, 27)) * _signed(0x94D049BB133111EB)
    return shifted(x ^ shifted(x, 31), 11).double() / 2**53


def _signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value
