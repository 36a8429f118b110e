"""Linear maps as matrices: what a layer's inputs, output gradients and weights look like, position by position.

Legend: B examples, S positions, I inputs, O outputs. A convolution is a linear map on the patches under its kernel, one
for each place of its output (KFC, Grosse & Martens 2016; expand, Eschenhagen et al. 2023); with a bias, the last input
is the constant 1 (homogeneous coordinate).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True, eq=False)
class LinearMap:
    """A layer seen as one matrix O I.

    Args:
        name: module name.
        module: an ``nn.Linear``, or an ``nn.Conv2d`` without groups, padded with zeros.
        bias: whether the bias is the last column of the matrix; False leaves it out of everything.
    """

    name: str
    module: nn.Linear | nn.Conv2d
    bias: bool = False

    @property
    def inputs(self) -> int:
        """I, the constant of a bias included."""
        return self.module.weight[0].numel() + self.bias

    @property
    def outputs(self) -> int:
        """Number of outputs O."""
        return len(self.module.weight)

    def input_rows(self, x: Tensor) -> Tensor:
        """Return the inputs B S I (without the constant) of a forward pass."""
        if isinstance(self.module, nn.Conv2d):
            kernel, stride, dilation = self.module.kernel_size, self.module.stride, self.module.dilation
            return F.unfold(F.pad(x, _padding(self.module)), kernel, dilation, stride=stride).transpose(1, 2)
        return x[:, None] if x.ndim == 2 else x.flatten(1, -2)

    def gradient_rows(self, g: Tensor) -> Tensor:
        """Return the gradients B S O at the output."""
        if isinstance(self.module, nn.Conv2d):
            return g.flatten(2).transpose(1, 2)
        return g[:, None] if g.ndim == 2 else g.flatten(1, -2)

    def with_constant(self, a_BTI: Tensor) -> Tensor:
        """Append the constant 1 to inputs if the bias takes part."""
        return torch.cat([a_BTI, a_BTI.new_ones(*a_BTI.shape[:-1], 1)], -1) if self.bias else a_BTI

    def matrix(self) -> Tensor:
        """Return the weights O I, detached."""
        w_OI = self.module.weight.detach().flatten(1)
        constant = self.module.bias if self.bias else None
        return w_OI if constant is None else torch.cat([w_OI, constant.detach()[:, None]], 1)

    def matrix_of(self, state: dict[str, Tensor]) -> Tensor:
        """Return the weights O I that a state dict of the model holds for this layer."""
        w_OI = state[f"{self.name}.weight"].flatten(1)
        return torch.cat([w_OI, state[f"{self.name}.bias"][:, None]], 1) if self.bias else w_OI

    def state(self, w_OI: Tensor) -> dict[str, Tensor]:
        """Return the entries of the model's state dict that a matrix O I stands for."""
        if not self.bias:
            return {f"{self.name}.weight": w_OI.reshape(self.module.weight.shape)}
        weight = w_OI[:, :-1].reshape(self.module.weight.shape).contiguous()
        return {f"{self.name}.weight": weight, f"{self.name}.bias": w_OI[:, -1].contiguous()}


def _padding(convolution: nn.Conv2d) -> list[int]:
    """Return left, right, top, bottom."""
    if convolution.padding == "same":  # the greater half behind, as PyTorch has it
        spans = [d * (k - 1) for d, k in zip(convolution.dilation, convolution.kernel_size, strict=True)]
        return [part for span in reversed(spans) for part in (span // 2, span - span // 2)]
    height, width = (0, 0) if isinstance(convolution.padding, str) else convolution.padding
    return [width, width, height, height]


def linear_maps(layers: Mapping[str, nn.Module], bias: bool = False) -> dict[str, LinearMap]:
    """Return the linear maps of chosen layers; a layer without a bias has none to take part."""
    chosen = {name: cast("nn.Linear | nn.Conv2d", layer) for name, layer in layers.items()}
    return {name: LinearMap(name, layer, bias and layer.bias is not None) for name, layer in chosen.items()}
