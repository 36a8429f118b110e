"""Kinds of modules that can be edited."""

from torch import nn


def is_linear(module: nn.Module) -> bool:
    """Tell whether a module is a linear map on tokens, or on the patches under a kernel."""
    if isinstance(module, nn.Conv2d):
        return module.groups == 1 and module.padding_mode == "zeros"
    return isinstance(module, nn.Linear)


def is_norm(module: nn.Module) -> bool:
    """Tell whether a module is a norm with a scale: PyTorch's layer norm, or timm's norms, which go by their name."""
    named = isinstance(module, nn.LayerNorm) or type(module).__name__.lower().removesuffix("2d").endswith("norm")
    return named and isinstance(getattr(module, "weight", None), nn.Parameter) and module.weight.ndim == 1
