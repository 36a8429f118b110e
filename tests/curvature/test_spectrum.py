import pytest
import torch
from factors import keep, random_factors
from oracles import brute_force_selection

from vitmem.curvature.factors import LayerFactors
from vitmem.curvature.spectrum import DenseMass, KroneckerMass, Target, decompose, decompose_all


def masses_in_tenths(seed):
    generator = torch.Generator().manual_seed(seed)
    few, many = (torch.randint(1, 6, (n,), generator=generator).double() / 10 for n in (4, 5))
    return both(few, many)


@pytest.mark.parametrize("seed", range(20))
def test_ties_that_are_not_exact_in_binary(seed):
    for rho in (0.3, 0.5, 0.7, 0.9):
        for mass in masses_in_tenths(seed):
            (mask,) = keep(mass, "rho", rho)
            kept = mass.dense()[mask]
            assert kept.sum() >= rho * mass.total * (1 - 1e-9)
            assert kept.sum() - kept.min() < rho * mass.total * (1 + 1e-9)
            assert kept.min() >= mass.dense()[~mask].max()


def test_decomposition_rebuilds_the_factors_in_falling_order():
    factors = random_factors(0)
    basis = decompose(factors)
    assert torch.allclose(basis.u_g_OO @ basis.lambda_O.diag() @ basis.u_g_OO.T, factors.G)
    assert torch.allclose(basis.u_a_II @ basis.mu_I.diag() @ basis.u_a_II.T, factors.A)
    assert (basis.lambda_O.diff() <= 0).all()
    assert (basis.mu_I.diff() <= 0).all()


def test_negative_eigenvalues_are_clamped_and_reported():
    matrix = torch.diag(torch.tensor([3.0, 1.0, -1.0]))
    basis = decompose(LayerFactors(matrix, matrix, 1, 1))
    assert basis.mu_I.min() == 0
    assert basis.clamped_a == pytest.approx(0.25)
    small = decompose(LayerFactors(matrix / 100, torch.zeros(2, 2), 1, 1))
    assert small.clamped_a == pytest.approx(0.25)
    assert small.clamped_g == 0


def test_factors_that_are_not_finite_name_the_layer():
    good = random_factors(0)
    bad = LayerFactors(good.a_sum_II, good.g_sum_OO * float("nan"), 9, 3)
    with pytest.raises(ValueError, match=r"G of layer 'blocks.3.fc1' has 9 entries that are not finite"):
        decompose(bad, "blocks.3.fc1")


def both(few, many):
    """The same masses, separable and one by one."""
    few, many = (x.sort(descending=True).values for x in (few, many))
    return KroneckerMass(few, many), DenseMass(torch.outer(few, many))


@pytest.mark.parametrize("seed", range(25))
@pytest.mark.parametrize("rho", [1e-6, 0.3, 0.5, 0.77, 0.95, 0.9999])
def test_selection_equals_brute_force_with_ties(seed, rho):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randint(0, 4, (5 + 6,), generator=generator).double()  # few distinct values: many ties and zeros
    values[0] = values[-1] = 3
    for mass in both(values[:5], values[5:]):
        (mask,) = keep(mass, "rho", rho)
        assert {tuple(pair) for pair in mask.nonzero().tolist()} == brute_force_selection(mass.dense(), rho)


@pytest.mark.parametrize("seed", range(25))
def test_selection_equals_brute_force_on_random_spectra(seed):
    generator = torch.Generator().manual_seed(seed)
    spectra = [torch.rand(n, generator=generator, dtype=torch.float64).exp().pow(9) for n in (7, 12, 9, 4)]
    spectra[2][:2] = spectra[2][0]
    for masses in zip(both(*spectra[:2]), both(*spectra[2:]), strict=True):
        for rho in (0.2, 0.75, 0.97):
            together = brute_force_selection(torch.cat([m.dense().flatten() for m in masses])[None], rho)
            masks = torch.cat([mask.flatten() for mask in keep(list(masses), "rho", rho)])
            assert masks.nonzero()[:, 0].tolist() == sorted(place for _, place in together)
        for count in (1, 17, 83, 84 + 36 - 1):
            masks = keep(list(masses), "pairs", count)
            assert sum(int(mask.sum()) for mask in masks) == count
            smallest_kept = min(float(m.dense()[k].min()) for m, k in zip(masses, masks, strict=True) if k.any())
            largest_dropped = max(float(m.dense()[~k].max()) for m, k in zip(masses, masks, strict=True) if (~k).any())
            assert smallest_kept >= largest_dropped
        fraction = keep(list(masses), "fraction", 0.25)
        assert sum(int(mask.sum()) for mask in fraction) == 30
        tau = float(masses[0].dense().median())
        assert all(
            torch.equal(k, m.dense() >= tau) for m, k in zip(masses, keep(list(masses), "tau", tau), strict=True)
        )


def test_counting_is_exact_at_every_mass_that_occurs():
    generator = torch.Generator().manual_seed(0)
    kronecker, dense = both(*(torch.rand(n, generator=generator, dtype=torch.float64).pow(6) for n in (30, 40)))
    for tau in dense.dense().flatten().tolist():
        assert kronecker.at_least(tau)[1] == int((dense.dense() >= tau).sum())
        assert kronecker.at_least(tau)[0] == pytest.approx(dense.at_least(tau)[0], rel=1e-12)
        above = float(torch.nextafter(torch.tensor(tau, dtype=torch.float64), torch.tensor(1e9, dtype=torch.float64)))
        assert kronecker.at_least(above)[1] == int((dense.dense() > tau).sum())


def test_zeros_are_kept_only_to_reach_a_number():
    for mass in both(torch.tensor([2.0, 1.0, 0.0]), torch.tensor([3.0, 0.0])):
        assert int(keep(mass, "rho", 0.999)[0].sum()) == 2
        assert int(keep(mass, "pairs", 4)[0].sum()) == 4
        assert keep(mass, "pairs", 6)[0].all()
        assert keep(mass, "rho", 1.0)[0].all()
    nothing = DenseMass(torch.zeros(2, 3))
    assert keep(nothing, "rho", 0.5)[0].all()
    assert int(keep(nothing, "pairs", 4)[0].sum()) == 4


@pytest.mark.parametrize("seed", range(5))
def test_kept_sets_are_nested_in_rho_and_reach_it(seed):
    basis = decompose(random_factors(seed, 7, 6))
    mass = KroneckerMass(basis.lambda_O, basis.mu_I)
    previous = torch.zeros(mass.shape, dtype=torch.bool)
    for rho in (0.1, 0.5, 0.9, 0.99, 1.0):
        (mask,) = keep(mass, "rho", rho)
        assert (mask | ~previous).all()
        kept = mass.dense()[mask]
        assert kept.sum() >= rho * mass.total * (1 - 1e-12)
        if rho < 1:
            assert kept.sum() - kept.min() < rho * mass.total
        previous = mask
    assert previous.all()


def test_selection_ignores_the_scale_of_the_factors():
    factors = random_factors(3, 7, 6)
    scaled = LayerFactors(factors.a_sum_II * 1e-6, factors.g_sum_OO * 1e5, 9, 3)
    for rho in (0.2, 0.7, 0.95):
        one, two = (KroneckerMass(b.lambda_O, b.mu_I) for b in (decompose(factors), decompose(scaled)))
        assert torch.equal(*keep(one, "rho", rho), *keep(two, "rho", rho))


@pytest.mark.parametrize(
    ("kind", "amount"), [("rho", 0), ("rho", 1.1), ("fraction", -1), ("pairs", 0), ("tau", 0), ("tau", float("nan"))]
)
def test_targets_out_of_range(kind, amount):
    with pytest.raises(ValueError, match=f"^{kind} is {amount}; it is the"):
        Target(kind, amount)


def test_the_layer_whose_factor_the_solver_refuses_is_named(monkeypatch):
    original = torch.linalg.eigh

    def fails(matrix):
        if matrix.ndim == 3 or float(matrix.trace()) > 100:
            raise RuntimeError("linalg.eigh: the algorithm failed to converge")
        return original(matrix)

    monkeypatch.setattr(torch.linalg, "eigh", fails)
    good = random_factors(0)
    assert set(decompose_all({"a": good, "b": good})) == {"a", "b"}  # one by one after the stack has failed
    bad = LayerFactors(good.a_sum_II * 1e6, good.g_sum_OO, 9, 3)
    with pytest.raises(ValueError, match="A of layer 'b' could not be decomposed"):
        decompose_all({"a": good, "b": bad})


def test_layers_decomposed_together_equal_those_decomposed_alone():
    layers = {str(i): random_factors(i, 5, 5 if i % 2 else 4) for i in range(6)}
    for name, basis in decompose_all(layers).items():
        assert torch.allclose(basis.mu_I, decompose(layers[name]).mu_I, rtol=1e-12)


def test_totals_and_largest_masses():
    for mass in both(torch.tensor([2.0, 1.0, 0.5]), torch.tensor([3.0, 0.25])):
        assert mass.total == pytest.approx(3.5 * 3.25, rel=1e-15)
        assert mass.largest == 6.0
        assert mass.shape == (3, 2)
        assert mass.at_least(0.125) == (pytest.approx(3.5 * 3.25), 6)
        assert mass.at_least(0.5) == (pytest.approx(11.0), 4)
        assert mass.at_least(6.5) == (0.0, 0)
        half = torch.tensor([[1.0, 0.0], [0.5, 0.0], [0.0, 1.0]], dtype=torch.float64)
        assert mass.kept(half) == pytest.approx(6 + 1.5 + 0.125)
        assert mass.mask(0.5).tolist() == [[True, True], [True, False], [True, False]]


@pytest.mark.parametrize("seed", range(10))
def test_longer_sides_and_zeros_make_no_difference(seed):
    generator = torch.Generator().manual_seed(seed)
    few, many = (torch.rand(n, generator=generator, dtype=torch.float64) for n in (3, 8))
    few[0] = many[2] = 0.0
    for kronecker, dense in (both(few, many), both(many, few)):
        for tau in dense.dense().flatten().tolist():
            if tau > 0:
                assert torch.equal(kronecker.mask(tau), dense.mask(tau))
                assert kronecker.at_least(tau)[1] == dense.at_least(tau)[1]


@pytest.mark.parametrize(("kind", "everything"), [("rho", True), ("fraction", True), ("pairs", False), ("tau", False)])
def test_a_target_of_one_is_everything_where_it_is_a_share(kind, everything):
    assert Target(kind, 1).is_everything is everything
    assert not Target(kind, 0.5 if kind in ("rho", "fraction") else 2).is_everything
