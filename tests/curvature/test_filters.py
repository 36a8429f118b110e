import pytest
import torch
from factors import keep, random_factors

from vitmem.curvature.filters import graded_filter, smallest_mask
from vitmem.curvature.spectrum import KroneckerMass, decompose


def test_graded_filters():
    mass = torch.tensor([0.0, 0.5, 1.0, 2.0, 8.0], dtype=torch.float64)
    assert graded_filter(mass, 2.0, 1.0).tolist() == pytest.approx([0, 0.2, 1 / 3, 0.5, 0.8])
    assert graded_filter(mass, 2.0, 0.5).tolist() == pytest.approx([0, 1 / 3, 1 / (1 + 2**0.5), 0.5, 2 / 3])
    assert graded_filter(mass, 2.0, 200.0).round().tolist() == pytest.approx([0, 0, 0, 0, 1])
    assert (graded_filter(mass, 0.0, 1.0) == 1).all()


def test_the_smallest_masses_are_as_many_as_asked():
    mass = torch.rand(6, 7, generator=torch.Generator().manual_seed(0))
    smallest = smallest_mask(mass, 10)
    assert smallest.sum() == 10
    assert mass[smallest].max() <= mass[~smallest].min()


def test_exactly_the_dropped_eigen_coordinates_vanish():
    factors = random_factors(5)
    basis = decompose(factors)
    w_OI = torch.randn(3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mass = KroneckerMass(basis.lambda_O, basis.mu_I)
    (mask,) = keep(mass, "rho", 0.8)
    edited = basis.compose(basis.coordinates(w_OI) * mask)
    fisher = torch.kron(factors.G, factors.A)  # acts on W read row by row
    vectors = torch.kron(basis.u_g_OO, basis.u_a_II)
    assert torch.allclose(vectors.T @ fisher @ vectors, mass.dense().flatten().diag(), atol=1e-10)
    before, after = vectors.T @ w_OI.flatten(), vectors.T @ edited.flatten()
    kept = mask.flatten()
    assert torch.allclose(after[kept], before[kept])
    assert after[~kept].abs().max() < 1e-12
    assert before[~kept].abs().min() > 1e-6
