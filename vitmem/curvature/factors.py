"""Kronecker factors as raw sums with their counts: they add across batches, processes and files."""

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor


@dataclass(frozen=True, eq=False)
class LayerFactors:
    """Sums for one linear layer with I inputs and O outputs.

    Args:
        a_sum_II: sum of a a^T over examples and positions.
        g_sum_OO: sum of g g^T over examples and positions, g the gradient of one example's loss.
        num_positions: terms in ``a_sum_II``.
        num_examples: examples in both.
    """

    a_sum_II: Tensor
    g_sum_OO: Tensor
    num_positions: int
    num_examples: int

    def __add__(self, other: "LayerFactors") -> "LayerFactors":
        return LayerFactors(
            self.a_sum_II + other.a_sum_II,
            self.g_sum_OO + other.g_sum_OO,
            self.num_positions + other.num_positions,
            self.num_examples + other.num_examples,
        )

    @property
    def A(self) -> Tensor:
        """I I: the mean of a a^T over positions."""
        return self.a_sum_II / self.num_positions

    @property
    def G(self) -> Tensor:
        """O O: the mean over examples of the sum of g g^T over positions."""
        return self.g_sum_OO / self.num_examples


def save_factors(path: Path, factors: dict[str, LayerFactors], metadata: dict[str, str]) -> None:
    """Write factors to a safetensors file, under a temporary name first.

    Args:
        path: the file.
        factors: by layer name.
        metadata: what they belong to, as strings.
    """
    tensors = {}
    for name, layer in factors.items():
        tensors[f"{name}/a_sum"], tensors[f"{name}/g_sum"] = layer.a_sum_II, layer.g_sum_OO
        tensors[f"{name}/counts"] = torch.tensor([layer.num_positions, layer.num_examples])
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    save_file({key: tensor.contiguous().cpu() for key, tensor in tensors.items()}, partial, metadata)
    partial.replace(path)


def load_factors(path: Path) -> tuple[dict[str, LayerFactors], dict[str, str]]:
    """Read what ``save_factors`` wrote: the factors by layer name, and the metadata."""
    with safe_open(path, framework="pt") as file:
        names = [key.removesuffix("/counts") for key in file.keys() if key.endswith("/counts")]  # noqa: SIM118
        factors = {
            name: LayerFactors(
                file.get_tensor(f"{name}/a_sum"),
                file.get_tensor(f"{name}/g_sum"),
                *file.get_tensor(f"{name}/counts").tolist(),
            )
            for name in names
        }
        return factors, file.metadata() or {}
