"""What curvature must not depend on: the order of examples, batches and classes, and how often all examples occur."""

import copy

import pytest
import torch
from cases import DoubleLoader, loader, vit
from factors import maps_of, relative

from vitmem.curvature.collect import collect_factors, collect_inputs, collect_moments
from vitmem.curvature.moments import LabelRule
from vitmem.curvature.spectrum import KroneckerMass, Target, decompose_all, find_threshold
from vitmem.datamodules.batch import Examples

EXAMPLES = loader(11).examples
MODEL, CLASSES = vit(), 5
MAPS = maps_of(MODEL)
RULES = [LabelRule("sampled", draws=2, seed=3), LabelRule("exact"), LabelRule("topk", top=2), LabelRule("given")]
ORDER = torch.randperm(11, generator=torch.Generator().manual_seed(4))
SWAPPED = torch.tensor([3, 0, 4, 1, 2])  # new label by old label


def found(rule, examples=EXAMPLES, batch_size=4, model=MODEL, maps=MAPS, bases=None):
    """Return factors, and moments in given bases or in those of the factors."""
    options = {"rule": rule, "dtype": torch.float64}
    factors = collect_factors(model, DoubleLoader(examples, batch_size), maps, **options)
    bases = bases or decompose_all(factors)
    return factors, collect_moments(model, DoubleLoader(examples, batch_size), maps, bases, **options), bases


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.labels)
@pytest.mark.parametrize("batch_size", [1, 3, 11, 30])
def test_the_order_and_the_batches_of_examples_do_not_matter(rule, batch_size):
    factors, moments, bases = found(rule)
    again = found(rule, EXAMPLES.subset(ORDER), batch_size, bases=bases)
    for name in MAPS:
        for one, other in zip((factors[name], moments[name]), (again[0][name], again[1][name]), strict=True):
            assert one.num_examples == other.num_examples == 11
        assert relative(again[0][name].A, factors[name].A) < 1e-12
        assert relative(again[0][name].G, factors[name].G) < 1e-12
        assert relative(again[1][name].mean_OI, moments[name].mean_OI) < 1e-12


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.labels)
def test_examples_that_all_occur_twice_are_the_same_curvature(rule):
    factors, moments, bases = found(rule)
    twice, squares, _ = found(rule, Examples.concatenate([EXAMPLES, EXAMPLES]), bases=bases)
    inputs = [collect_inputs(MODEL, DoubleLoader(e, 4), MAPS, dtype=torch.float64) for e in (EXAMPLES, EXAMPLES)]
    for name in MAPS:
        assert (twice[name].num_examples, twice[name].num_positions) == (22, 2 * factors[name].num_positions)
        assert relative(twice[name].A, factors[name].A) < 1e-12
        assert relative(twice[name].G, factors[name].G) < 1e-12
        assert relative(twice[name].a_sum_II, 2 * factors[name].a_sum_II) < 1e-12
        assert relative(squares[name].mean_OI, moments[name].mean_OI) < 1e-12
        total = inputs[0][name] + inputs[1][name]
        assert relative(total.A, factors[name].A) < 1e-12
        assert torch.equal(total.G, torch.eye(len(total.G), dtype=torch.float64))
        for share in ("lost_trace", "total_trace"):
            assert getattr(twice[name], share) == pytest.approx(2 * getattr(factors[name], share), rel=1e-12)


def relabelled():
    """Return the model and the examples with other numbers for the classes."""
    model = copy.deepcopy(MODEL)
    with torch.no_grad():
        model.head.weight[SWAPPED] = MODEL.head.weight
        model.head.bias[SWAPPED] = MODEL.head.bias
    labels = SWAPPED[EXAMPLES.given_label], SWAPPED[EXAMPLES.true_label]
    return model, Examples(EXAMPLES.image, *labels, EXAMPLES.index)


@pytest.mark.parametrize("rule", RULES[1:], ids=lambda rule: rule.labels)  # drawn labels follow the classes' order
def test_the_numbers_of_the_classes_do_not_matter(rule):
    model, examples = relabelled()
    factors, moments, bases = found(rule)
    maps = maps_of(model)
    again = collect_factors(model, DoubleLoader(examples, 4), maps, rule=rule, dtype=torch.float64)
    for name in MAPS:
        order = SWAPPED.argsort() if name == "head" else slice(None)
        expected = factors[name].G if name != "head" else factors[name].G[order][:, order]
        assert relative(again[name].A, factors[name].A) < 1e-12
        assert relative(again[name].G, expected) < 1e-12
        assert again[name].lost_trace == pytest.approx(factors[name].lost_trace, rel=1e-12)
    squares = collect_moments(model, DoubleLoader(examples, 4), maps, bases, rule=rule, dtype=torch.float64)
    for name in MAPS:
        if name != "head":
            assert relative(squares[name].mean_OI, moments[name].mean_OI) < 1e-12


@pytest.mark.parametrize(("kind", "amount"), [("rho", 0.7), ("fraction", 0.3), ("pairs", 20)])
def test_the_unit_of_the_masses_and_the_order_of_the_layers_do_not_matter(kind, amount):
    bases = found(RULES[1])[2]
    masses = [KroneckerMass(basis.lambda_O, basis.mu_I) for basis in bases.values()]
    scaled = [KroneckerMass(basis.lambda_O * 0.25, basis.mu_I) for basis in bases.values()]
    first = find_threshold(masses, Target(kind, amount))
    assert find_threshold(masses[::-1], Target(kind, amount)) == first
    assert find_threshold(scaled, Target(kind, amount)) == type(first)(first.tau / 4, first.ties)
