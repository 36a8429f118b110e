"""Kronecker factors and EK-FAC masses against an independent implementation, curvlinops (optional)."""

import pytest
import torch
from cases import VITS, loader, vit
from torch import nn

from vitmem.curvature.collect import collect_factors, collect_moments
from vitmem.curvature.layers import linear_maps
from vitmem.curvature.moments import LabelRule, keyed_uniform, sample_labels
from vitmem.curvature.spectrum import decompose_all
from vitmem.datamodules.batch import InMemoryLoader
from vitmem.models.layers import select_layers

curvlinops = pytest.importorskip("curvlinops", reason="curvlinops-for-pytorch is not installed")

# The normalisation of curvlinops, read from kfac.py and ekfac.py of its version 3.0.1, against ours; N examples in
# batches of B, S positions.
#   A: sum a a^T / (N S) for expand, sum over examples of mean(a) mean(a)^T / N for reduce. Equal to ours.
#   G with CrossEntropyLoss("mean"): gradients carry 1 / B, and the sum of each batch is multiplied by B^2 / N. So G is
#     sum g g^T / N with g the gradient of one example's loss, whatever the batches. Equal to ours.
#   G with CrossEntropyLoss("sum"): sum g g^T, the factor of the summed loss. N times ours.
#   Drawn labels: the mean over draws, as ours.
#   Eigenvalue corrections: scaled as G is. They are taken of the whole gradient of each example for reduce too, which
#     only changes the eigenbasis: our collect_moments(tokens="all") in the basis of tokens="mean".
# Our tokens="cls" has no counterpart.
SCALE = {"mean": 1, "sum": 11}  # what our G and our masses are multiplied by, for 11 examples

LAYERS = "patch_embed.proj blocks.* head"
TOKENS = {"expand": "all", "reduce": "mean"}
RULES = {
    "type-2": LabelRule("exact"),
    "empirical": LabelRule("given"),
    "mc": LabelRule("sampled", draws=3, seed=7),
}
DTYPES = {"float64": (torch.float64, 1e-10), "float32": (torch.float32, 1e-5)}


def relative(found, expected):
    return float((found.double() - expected.double()).norm() / expected.double().norm())


class OurDraws:
    """Makes a curvlinops operator draw the labels that we draw; its data hold ids in place of labels."""

    def _compute_loss_and_backward(self, output, y):
        uniform = keyed_uniform(RULES["mc"].seed, y, RULES["mc"].draws)
        self._drawn = iter(sample_labels(output.detach().softmax(1), uniform).T)
        super()._compute_loss_and_backward(output, y)
        assert next(self._drawn, None) is None

    def draw_label(self, output):
        return next(self._drawn)


class DrawnKFAC(OurDraws, curvlinops.KFACLinearOperator):
    pass


class DrawnEKFAC(OurDraws, curvlinops.EKFACLinearOperator):
    pass


KFAC = {"mc": DrawnKFAC, "type-2": curvlinops.KFACLinearOperator, "empirical": curvlinops.KFACLinearOperator}
EKFAC = {"mc": DrawnEKFAC, "type-2": curvlinops.EKFACLinearOperator, "empirical": curvlinops.EKFACLinearOperator}


def case(dtype, bias, name="token"):
    """A model, its linear maps and 11 examples in batches of 4, 4 and 3."""
    model = vit(name, dtype=dtype).eval()
    batches = loader(11, 4) if dtype == torch.float64 else InMemoryLoader(loader(11, 4).examples, 4)
    return model, linear_maps(select_layers(model, LAYERS), bias), batches


def theirs(kinds, fisher, approx, model, maps, batches, bias, reduction="mean"):
    params = [p for m in maps.values() for p in ([m.module.weight, m.module.bias] if bias else [m.module.weight])]
    return kinds[fisher](
        model,
        nn.CrossEntropyLoss(reduction=reduction),
        params,
        [(batch.image, batch.index if fisher == "mc" else batch.given_label) for batch in batches],
        check_deterministic=False,
        fisher_type=fisher,
        mc_samples=RULES[fisher].draws,
        kfac_approx=approx,
        separate_weight_and_bias=not bias,
    )


def random_matrices(maps, dtype):
    """One matrix O I for each map, and the list of weights (and biases) that curvlinops makes of them."""
    generator = torch.Generator().manual_seed(3)
    matrices = {n: torch.randn(m.outputs, m.inputs, generator=generator, dtype=dtype) for n, m in maps.items()}
    return matrices, [p for n, m in maps.items() for p in m.state(matrices[n]).values()]


fishers = pytest.mark.parametrize("fisher", sorted(RULES))
approximations = pytest.mark.parametrize("approx", sorted(TOKENS))
biases = pytest.mark.parametrize("bias", [False, True], ids=["weight", "joint"])


@fishers
@approximations
@biases
@pytest.mark.parametrize(("precision", "name"), [("float32", "token"), *(("float64", name) for name in sorted(VITS))])
def test_both_factors_equal_those_of_curvlinops(fisher, approx, bias, precision, name):
    dtype, tolerance = DTYPES[precision]
    model, maps, batches = case(dtype, bias, name)
    ours = collect_factors(model, batches, maps, tokens=TOKENS[approx], rule=RULES[fisher], dtype=dtype)
    operator = theirs(KFAC, fisher, approx, model, maps, batches, bias)
    operator.compute_kronecker_factors()
    assert set(operator._input_covariances) == set(operator._gradient_covariances) == set(maps)
    for layer in maps:
        assert ours[layer].A.dtype == operator._input_covariances[layer].dtype == dtype
        assert relative(ours[layer].A, operator._input_covariances[layer]) < tolerance
        assert relative(ours[layer].G, operator._gradient_covariances[layer]) < tolerance


@fishers
@approximations
@biases
@pytest.mark.parametrize("reduction", sorted(SCALE))
def test_products_with_the_kronecker_approximation_equal_those_of_curvlinops(fisher, approx, bias, reduction):
    model, maps, batches = case(torch.float64, bias)
    ours = collect_factors(model, batches, maps, tokens=TOKENS[approx], rule=RULES[fisher], dtype=torch.float64)
    matrices, vectors = random_matrices(maps, torch.float64)
    products = theirs(KFAC, fisher, approx, model, maps, batches, bias, reduction) @ vectors
    expected = iter(products)
    for layer, m in maps.items():
        product = SCALE[reduction] * ours[layer].G @ matrices[layer] @ ours[layer].A
        for part in m.state(product).values():
            assert relative(part, next(expected)) < 1e-10


@pytest.mark.slow
@fishers
@approximations
@biases
@pytest.mark.parametrize(("precision", "reduction"), [("float32", "mean"), ("float64", "mean"), ("float64", "sum")])
def test_ekfac_masses_equal_the_corrected_eigenvalues_of_curvlinops(fisher, approx, bias, precision, reduction):
    dtype, tolerance = DTYPES[precision]
    model, maps, batches = case(dtype, bias)
    factors = collect_factors(model, batches, maps, tokens=TOKENS[approx], rule=RULES[fisher], dtype=dtype)
    bases = decompose_all(factors)
    ours = collect_moments(model, batches, maps, bases, tokens="all", rule=RULES[fisher], dtype=dtype)
    operator = theirs(EKFAC, fisher, approx, model, maps, batches, bias, reduction)
    operator._input_covariances_eigenvectors = {n: basis.u_a_II.to(dtype) for n, basis in bases.items()}
    operator._gradient_covariances_eigenvectors = {n: basis.u_g_OO.to(dtype) for n, basis in bases.items()}
    operator.compute_eigenvalue_correction()
    for layer in maps:
        found = operator._corrected_eigenvalues[layer]
        if not bias:
            (found,) = found.values()
        assert relative(SCALE[reduction] * ours[layer].mean_OI, found) < tolerance


@fishers
@biases
def test_products_with_the_eigenvalue_corrected_approximation_equal_those_of_curvlinops(fisher, bias):
    """Each side decomposes its own factors; the product depends neither on signs nor on the order of eigenvectors.

    For expand alone: gradients lie in the span of its factors. Those of reduce have a null space that gradients enter
    (11 examples, up to 64 features), where the eigenvectors, and so the product, are arbitrary.
    """
    model, maps, batches = case(torch.float64, bias)
    factors = collect_factors(model, batches, maps, tokens="all", rule=RULES[fisher], dtype=torch.float64)
    bases = decompose_all(factors)
    ours = collect_moments(model, batches, maps, bases, tokens="all", rule=RULES[fisher], dtype=torch.float64)
    matrices, vectors = random_matrices(maps, torch.float64)
    expected = iter(theirs(EKFAC, fisher, "expand", model, maps, batches, bias) @ vectors)
    for layer, m in maps.items():
        product = bases[layer].compose(ours[layer].mean_OI * bases[layer].coordinates(matrices[layer]))
        for part in m.state(product).values():
            assert relative(part, next(expected)) < 1e-10
