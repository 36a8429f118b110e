"""Kinds of modules that can be edited."""

from torch import nn


def is_linear(module: nn.Module) -> bool:
    """Tell whether a module is a linear map on tokens, or on the patches under a kernel, by its weights as they are.

    What derives from these and computes something else (standardised weights, padding of its own) is none. timm's
    ``Linear`` is PyTorch's, cast for mixed precision.
    """
    kind = type(module)
    if isinstance(module, nn.Conv2d):
        plain = kind.forward is nn.Conv2d.forward and kind._conv_forward is nn.Conv2d._conv_forward
        return plain and module.groups == 1 and module.padding_mode == "zeros"
    if isinstance(module, nn.Linear):
        return kind.forward is nn.Linear.forward or kind.__module__ == "timm.layers.linear"
    return False


def is_norm(module: nn.Module) -> bool:
    """Tell whether a module is a norm with a scale: PyTorch's layer norm, or timm's norms, which go by their name."""
    named = isinstance(module, nn.LayerNorm) or type(module).__name__.lower().removesuffix("2d").endswith("norm")
    return named and isinstance(getattr(module, "weight", None), nn.Parameter) and module.weight.ndim == 1
