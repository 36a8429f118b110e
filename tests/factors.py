"""Factors and spectra that the tests of curvature share."""

import torch

from vitmem.curvature.factors import LayerFactors
from vitmem.curvature.filters import hard_masks
from vitmem.curvature.layers import linear_maps
from vitmem.curvature.spectrum import Target, find_threshold
from vitmem.models.layers import select_layers

LAYERS = "blocks.* head"


def relative(found, expected):
    return float((found - expected).norm() / expected.norm())


def maps_of(model, patterns=LAYERS, bias=False):
    return linear_maps(select_layers(model, patterns), bias)


def random_factors(seed, inputs=4, outputs=3, rank=None):
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(rank or 9, inputs, generator=generator, dtype=torch.float64)
    g = torch.randn(rank or 9, outputs, generator=generator, dtype=torch.float64)
    return LayerFactors(a.T @ a, g.T @ g, 9, 3)


def keep(masses, kind, amount):
    masses = masses if isinstance(masses, list) else [masses]
    return hard_masks(masses, find_threshold(masses, Target(kind, amount)))
