"""Layers as matrices: rows of inputs times the matrix are the layer's outputs, whatever the padding."""

import pytest
import torch
from torch import nn

from vitmem.curvature.layers import LinearMap


@pytest.mark.parametrize(
    "options",
    [
        {"padding": "same", "kernel_size": 3}, {"padding": "same", "kernel_size": (2, 5)},
        {"padding": "same", "kernel_size": 4, "dilation": 2}, {"padding": "valid", "kernel_size": 3},
        {"padding": (2, 1), "kernel_size": 3, "stride": 2}, {"padding": 0, "kernel_size": 4, "stride": 4},
    ],
)  # fmt: skip
def test_a_convolution_is_a_product_with_its_patches(options):
    torch.manual_seed(0)
    layer = nn.Conv2d(2, 3, bias=False, **options).double()
    x = torch.randn(4, 2, 9, 8, dtype=torch.float64)
    found = LinearMap("c", layer)
    outputs = layer(x)
    torch.testing.assert_close(found.input_rows(x) @ found.matrix().T, found.gradient_rows(outputs))
    assert found.input_rows(x).shape == (4, outputs.shape[2] * outputs.shape[3], found.inputs)


@pytest.mark.parametrize("shape", [(5, 6), (5, 4, 6), (5, 2, 3, 6)])
def test_rows_of_a_linear_layer(shape):
    layer = nn.Linear(6, 3).double()
    x = torch.randn(shape, dtype=torch.float64)
    found = LinearMap("l", layer, bias=True)
    rows = found.with_constant(found.input_rows(x)) @ found.matrix().T
    torch.testing.assert_close(rows, found.gradient_rows(layer(x)))
