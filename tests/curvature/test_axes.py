"""Other axes: diagonals of the factors in them, by dense algebra; inputs alone, against the factors of both sides."""

import pytest
import torch
from edited import DATA, MODEL
from factors import random_factors

from vitmem.curvature.axes import axes, turned, without_curvature
from vitmem.curvature.collect import collect_factors, collect_inputs
from vitmem.curvature.layers import linear_maps
from vitmem.curvature.spectrum import decompose
from vitmem.models.layers import select_layers

FACTORS = random_factors(3)
BASIS = decompose(FACTORS)
W_OI = torch.randn(3, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("kind", ["identity", "svd", "random"])
def test_diagonals_fall_and_are_those_of_the_factors(kind):
    found = turned({"a": BASIS}, kind, {"a": W_OI}, seed=0)["a"]
    for vectors, values, factor in (
        (found.u_g_OO, found.lambda_O, FACTORS.G),
        (found.u_a_II, found.mu_I, FACTORS.A),
    ):
        assert torch.allclose(vectors.T @ vectors, torch.eye(len(values), dtype=torch.float64), atol=1e-12)
        assert torch.allclose((vectors.T @ factor.double() @ vectors).diagonal(), values, atol=1e-12)
        assert (values.diff() <= 0).all()
    assert torch.allclose(found.compose(found.coordinates(W_OI)), W_OI, atol=1e-12)


def test_axes_are_what_they_are_called():
    assert turned({"a": BASIS}, "kfac", {"a": W_OI}, seed=0)["a"] is BASIS
    identity = turned({"a": BASIS}, "identity", {"a": W_OI}, seed=0)["a"]
    assert ((identity.u_a_II == 0) | (identity.u_a_II == 1)).all()
    singular = turned({"a": BASIS}, "svd", {"a": W_OI}, seed=0)["a"].coordinates(W_OI)
    assert torch.allclose(singular.abs().flatten().sort().values[-3:], torch.linalg.svdvals(W_OI).flip(0), atol=1e-12)
    assert (singular.abs() > 1e-12).sum() == 3
    one, same, other = (axes("random", W_OI, seed, 0)[1] for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.allclose(one, other)
    assert not torch.allclose(one, axes("random", W_OI, 0, 1)[1])  # another layer


def test_random_axes_have_no_favourite_direction():
    entries = torch.stack([axes("random", W_OI, seed, 0)[1][0] for seed in range(2000)])
    assert entries.mean(0).abs().max() < 0.06  # of standard deviation 1/2 / sqrt(2000) = 0.011
    assert (entries.square().mean(0) - 0.25).abs().max() < 0.03


def test_without_curvature_everything_weighs_the_same():
    found = without_curvature({"a": W_OI}, "svd", 0)["a"]
    assert torch.allclose(found.lambda_O, torch.ones(3, dtype=torch.float64))
    assert torch.allclose(found.mu_I, torch.ones(4, dtype=torch.float64))


@pytest.mark.parametrize("tokens", ["all", "cls", "mean"])
def test_inputs_alone_are_the_factor_of_both_sides(tokens):
    maps = linear_maps(select_layers(MODEL, "blocks.0.*"))
    batches = list(DATA.loader(DATA.train_examples.subset(slice(0, 100)), 30))
    both = collect_factors(MODEL, batches, maps, tokens=tokens, dtype=torch.float64)
    alone = collect_inputs(MODEL, batches, maps, tokens=tokens, dtype=torch.float64)
    for name, layer in maps.items():
        assert torch.allclose(alone[name].A, both[name].A, atol=1e-12)
        assert torch.equal(alone[name].G, torch.eye(layer.outputs, dtype=torch.float64))
        assert alone[name].G.dtype == torch.float64
        assert alone[name].num_examples == both[name].num_examples == 100
        assert alone[name].num_positions == both[name].num_positions
    assert not any(module._forward_hooks for module in MODEL.modules())
    assert all(p.requires_grad and p.grad is None for p in MODEL.parameters())
