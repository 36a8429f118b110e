"""Basis x masses x filter x scope x strength: the corners of the design are the edits that have names of their own."""

import copy
import math

import edited
import pytest
import torch
from edited import DATA

from vitmem.curvature.cache import CurvatureCache
from vitmem.datamodules.batch import keyed_generator
from vitmem.editing.data import EditData
from vitmem.editing.kfac import EKFAC, KFAC, InputFilter, RandomPairs
from vitmem.editing.prune import Magnitude
from vitmem.editing.svd import SVD
from vitmem.models.layers import select_layers

MODEL = copy.deepcopy(edited.MODEL).double()
START = {name: value.double() for name, value in edited.INITIAL.items()}
LAYERS = [f"{name}.weight" for name in select_layers(MODEL, "blocks.*")]
FEW = {"examples": 200, "dtype": "float64"}
FORMS = [(a, b) for a in ("kfac", "identity", "svd", "random") for b in ("ag", "a", "g", "size", "obd")]


def apply(edit, cache=None, seed=0):
    data = EditData(DATA, edit.sees, cache or CurvatureCache(), initial=lambda: START)
    return edit.apply(MODEL, data, keyed_generator(seed)).state_dict


def close(found, expected, tolerance=1e-12):
    return all(torch.allclose(found[name], expected[name], rtol=0, atol=tolerance) for name in LAYERS)


@pytest.fixture(scope="module", autouse=True)
def double_images():
    """Serve images in float64 to this module's model."""
    forward = MODEL.forward
    MODEL.forward = lambda image: forward(image.double())
    yield
    del MODEL.forward


@pytest.fixture(scope="module")
def cache():
    return CurvatureCache()


def ranks(keep):
    """Return each layer's name, its singular values and how many of them SVD keeps."""
    for name in LAYERS:
        full = min(MODEL.get_parameter(name).shape)
        yield name.removesuffix(".weight"), name, math.ceil(keep * full)


@pytest.mark.parametrize("of", ["weights", "update"])
def test_singular_values_are_a_basis_and_their_squares_its_masses(of):
    for layer, name, rank in ranks(0.3):
        form = KFAC(layers=layer, basis="svd", masses="size", pairs=rank, of=of)
        named = SVD(layers=layer, keep=0.3, of=of)
        assert torch.allclose(apply(form)[name], apply(named)[name], rtol=0, atol=1e-12)
        assert form.track == named.track


def test_graded_singular_values_likewise():
    for layer, name, rank in ranks(0.3):
        s = torch.linalg.svdvals(MODEL.get_parameter(name).detach())
        tau = float(s[rank - 1] * s[rank])  # of squares
        form = KFAC(layers=layer, basis="svd", masses="size", filter="graded", exponent=0.5, tau=tau)
        named = SVD(layers=layer, keep=0.3, filter="graded", exponent=1.0)
        assert torch.allclose(apply(form)[name], apply(named)[name], rtol=0, atol=1e-12)


@pytest.mark.parametrize("scope", ["layer", "global"])
@pytest.mark.parametrize("of", ["weights", "update"])
def test_single_weights_are_a_basis_and_their_squares_its_masses(scope, of):
    form = KFAC(basis="identity", masses="size", fraction=0.4, scope=scope, of=of)
    assert close(apply(form), apply(Magnitude(keep=0.4, scope=scope, of=of)))
    assert form.sees == Magnitude(of=of).sees


def test_inputs_alone_need_no_gradient_and_no_label(cache):
    options = {"filter": "graded", "scope": "global", "exponent": 0.5, "rho": 0.8, **FEW}
    alone = apply(InputFilter(rho=0.8, **FEW), cache)
    assert close(apply(KFAC(masses="a", **options), cache), alone)
    assert close(apply(EKFAC(masses="a", rho=0.8, **FEW), cache), alone)
    assert InputFilter().sees == {"unlabeled"}
    assert KFAC(masses="a", labels="given").sees == {"unlabeled"}
    assert KFAC(masses="g", labels="given").sees == {"unlabeled", "given"}


def test_permuted_masses_hard_are_random_pairs(cache):
    for scope in ("layer", "global"):
        plain = KFAC(rho=0.8, scope=scope, permuted=True, **FEW)
        random = RandomPairs(rho=0.8, scope=scope, **FEW)
        assert close(apply(plain, cache, 3), apply(random, cache, 3))
        assert not close(apply(plain, cache, 4), apply(random, cache, 3), 1e-3)


def test_the_diagonal_fisher_in_the_weights_own_axes(cache):
    """Masses in the identity basis are mean squared gradients of single weights, label by label."""
    edit = EKFAC(basis="identity", examples=20, labels="exact", dtype="float64", layers="blocks.0.attn.proj")
    data = EditData(DATA, edit.sees, cache)
    layer = data.curvature(MODEL, edit).layers["blocks.0.attn.proj"]
    mass = layer.basis.compose(layer.mass.dense())  # of permutations: back to rows and columns
    weight, expected = MODEL.blocks[0].attn.proj.weight, 0
    for batch in data.images(edit):
        for image in batch.image:
            log_p = MODEL(image[None]).log_softmax(1)[0]
            for k in range(10):
                (g,) = torch.autograd.grad(log_p[k], weight, retain_graph=True)
                expected = expected + log_p[k].exp().detach() * g.square() / 20
    assert torch.allclose(mass, expected, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize(("basis", "masses"), FORMS)
def test_every_form_keeps_everything_at_strength_0_and_less_with_more(basis, masses, cache):
    for kind in (KFAC, EKFAC):
        form = {"basis": basis, "masses": masses, "filter": "graded", "layers": "blocks.0.mlp.*", **FEW}
        kept = apply(kind(rho=1.0, **form), cache)
        assert all(torch.equal(kept[name], MODEL.state_dict()[name]) for name in LAYERS)
        norms = [
            sum(float(apply(kind(rho=rho, **form), cache)[n].square().sum()) for n in LAYERS if "blocks.0.mlp" in n)
            for rho in (0.95, 0.7, 0.4)
        ]
        assert norms == sorted(norms, reverse=True)
        assert norms[-1] < norms[0]


@pytest.mark.slow
def test_permuting_changes_the_edit_but_not_how_much_is_kept(cache):
    options = {"rho": 0.8, "examples": 200, "layers": "blocks.0.*"}
    for basis in ("kfac", "random"):
        plain, dealt = EKFAC(basis=basis, **options), EKFAC(basis=basis, permuted=True, **options)
        data = [EditData(DATA, e.sees, cache) for e in (plain, dealt)]
        rows = [
            e.apply(MODEL, d, keyed_generator(0)).report["layers"] for e, d in zip((plain, dealt), data, strict=True)
        ]
        for one, other in zip(*rows, strict=True):
            assert one["pairs_kept"] == other["pairs_kept"]
        assert not close(apply(plain, cache), apply(dealt, cache), 1e-3)


def test_forms_that_need_no_image_ask_for_none():
    for basis in ("identity", "svd", "random"):
        edit = KFAC(basis=basis, masses="size")
        assert edit.sees == frozenset()
        data = EditData(DATA, edit.sees)
        edit.apply(MODEL, data, keyed_generator(0))
        assert data.served == 0
    assert KFAC(basis="kfac", masses="size").sees == {"unlabeled"}


def test_masses_that_need_gradients_are_refused_without():
    for masses in ("g", "size", "obd"):
        with pytest.raises(ValueError, match=f"masses is {masses}, which needs gradients; use a, or moments: kfac"):
            InputFilter(masses=masses)
