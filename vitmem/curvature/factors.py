"""Kronecker factors and eigen-moments as raw sums with their counts: they add across batches, processes and files."""

import dataclasses
import errno
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from vitmem.files import replacing

Added = TypeVar("Added", bound="Sums")


@dataclass(frozen=True, eq=False)
class Sums:
    """Base of the sums: tensors and counts, added field by field."""

    def __add__(self: Added, other: Added) -> Added:
        fields = dataclasses.fields(self)
        return type(self)(*(getattr(self, field.name) + getattr(other, field.name) for field in fields))


@dataclass(frozen=True, eq=False)
class LayerFactors(Sums):
    """Sums for one linear map with I inputs and O outputs.

    Args:
        a_sum_II: sum of a a^T over examples and positions.
        g_sum_OO: sum of g g^T over examples and positions, g the gradient of one example's loss.
        num_positions: terms in ``a_sum_II``.
        num_examples: examples in both.
        lost_trace: trace of the output curvature that lumped labels left out, summed over examples.
        total_trace: trace of the whole output curvature, likewise; 0 if labels were not lumped.
    """

    a_sum_II: Tensor
    g_sum_OO: Tensor
    num_positions: int
    num_examples: int
    lost_trace: float = 0.0
    total_trace: float = 0.0

    @property
    def A(self) -> Tensor:
        """I I: the mean of a a^T over positions."""
        return self.a_sum_II / max(1, self.num_positions)

    @property
    def G(self) -> Tensor:
        """O O: the mean over examples of the sum of g g^T over positions."""
        return self.g_sum_OO / max(1, self.num_examples)


@dataclass(frozen=True, eq=False)
class LayerMoments(Sums):
    """Sums of squared per-example gradients in the eigenbasis of one linear map.

    Args:
        squares_OI: sum over examples of (u_i^T G_n v_j)^2, G_n the gradient of one example's loss.
        num_examples: examples in it.
    """

    squares_OI: Tensor
    num_examples: int

    @property
    def mean_OI(self) -> Tensor:
        """O I: the mean over examples."""
        return self.squares_OI / max(1, self.num_examples)


def save_sums(path: Path, sums: Mapping[str, Sums], metadata: Mapping[str, str]) -> None:
    """Write the sums of several layers to one safetensors file, whole or not at all.

    Args:
        path: the file.
        sums: by layer name.
        metadata: what they belong to.

    Raises:
        OSError: it cannot be written.
    """
    tensors = {}
    for name, layer in sums.items():
        for field in dataclasses.fields(layer):
            tensors[f"{name}/{field.name}"] = _tensor(getattr(layer, field.name))
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as own:
        try:
            save_file(tensors, own, dict(metadata))
        except SafetensorError as error:  # a full disk, say
            raise OSError(errno.EIO, " ".join(str(error).split()), str(path)) from error


def _tensor(value: Tensor | float) -> Tensor:
    if isinstance(value, Tensor):
        return value.cpu().contiguous()
    return torch.tensor(value, dtype=torch.float64 if isinstance(value, float) else torch.int64)


def load_sums(path: Path, kind: type[Added]) -> tuple[dict[str, Added], dict[str, str]]:
    """Read what ``save_sums`` wrote: sums of one kind by layer name, and the metadata."""
    fields = [field.name for field in dataclasses.fields(kind)]
    with safe_open(path, framework="pt") as file:
        names = [key.rsplit("/", 1)[0] for key in file.keys() if key.endswith(f"/{fields[0]}")]  # noqa: SIM118
        sums = {}
        for name in names:
            tensors = (file.get_tensor(f"{name}/{field}") for field in fields)
            sums[name] = kind(*(tensor if tensor.ndim else tensor.item() for tensor in tensors))
        return sums, file.metadata() or {}
