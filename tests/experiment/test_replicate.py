"""Products with Hessian and Fisher against dense matrices, and the table of measures by hand."""

import importlib
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from vitmem.curvature.cache import LayerCurvature
from vitmem.curvature.factors import LayerFactors
from vitmem.curvature.layers import linear_maps
from vitmem.curvature.spectrum import KroneckerMass, decompose

HERE = Path(__file__).parents[2] / "experiments"
LAYERS = ["0", "2"]
SMOOTHING = 0.1


@pytest.fixture
def measures(monkeypatch):
    monkeypatch.syspath_prepend(str(HERE))
    return importlib.import_module("replicate_curvature")


@pytest.fixture
def net():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    return model, torch.randn(7, 3).double(), torch.tensor([0, 1, 2, 0, 1, 2, 0])


def products(measures, net):
    model, image, label = net
    batches = [SimpleNamespace(image=image[:4], given_label=label[:4])]
    batches += [SimpleNamespace(image=image[4:], given_label=label[4:])]
    return measures.Products(model, SimpleNamespace(loader=lambda _: batches), label, LAYERS, SMOOTHING)


def dense(net):
    """Hessian and Gauss-Newton matrix in both weights, by differentiating everything."""
    model, image, label = net
    shapes = [model[0].weight.shape, model[2].weight.shape]

    def logits(flat):
        first, second = flat.split([12, 12])
        state = {"0.weight": first.reshape(shapes[0]), "2.weight": second.reshape(shapes[1])}
        return torch.func.functional_call(model, state, image)

    flat = torch.cat([model[0].weight.detach().flatten(), model[2].weight.detach().flatten()])
    hessian = torch.autograd.functional.hessian(
        lambda w: F.cross_entropy(logits(w), label, label_smoothing=SMOOTHING), flat
    )
    jacobian = torch.autograd.functional.jacobian(logits, flat)
    p = logits(flat).detach().softmax(1)
    inner = torch.diag_embed(p) - p[:, :, None] * p[:, None]
    return hessian, torch.einsum("nkv,nkl,nlw->vw", jacobian, inner, jacobian) / len(label)


def flattened(blocks):
    return torch.cat([blocks[name].flatten() for name in LAYERS])


def test_products_are_those_of_dense_matrices(measures, net):
    made, (hessian, fisher) = products(measures, net), dense(net)
    vector = {"0": torch.randn(4, 3).double(), "2": torch.randn(3, 4).double()}
    v = flattened(vector)
    torch.testing.assert_close(flattened(made.hessian(vector)), hessian @ v)
    torch.testing.assert_close(flattened(made.fisher(vector)), fisher @ v)
    assert measures.along(made, vector) == pytest.approx((float(v @ hessian @ v), float(v @ fisher @ v)))


def test_the_gradient_and_the_loss_belong_together(measures, net):
    made, model = products(measures, net), net[0]
    step = {"0": 1e-6 * torch.randn(4, 3).double(), "2": 1e-6 * torch.randn(3, 4).double()}
    moved = {name: model[int(name)].weight.detach() + value for name, value in step.items()}
    slope = float(flattened(made.gradient()) @ flattened(step))
    assert made.loss(moved) - made.loss() == pytest.approx(slope, rel=1e-3)


def curved(net):
    """K-FAC factors that are random, in the layers' own axes."""
    generator = torch.Generator().manual_seed(1)
    layers = {}
    for name, layer in linear_maps({name: net[0][int(name)] for name in LAYERS}).items():
        sums = [
            root @ root.T
            for root in (torch.randn(s, s, generator=generator).double() for s in (layer.inputs, layer.outputs))
        ]
        basis = decompose(LayerFactors(*sums, 1.0, 1.0))
        mass = KroneckerMass(basis.lambda_O, basis.mu_I)
        layers[name] = LayerCurvature(layer, basis, mass, basis.coordinates(layer.matrix().float()))
    return layers


@pytest.mark.slow
def test_random_vectors_find_cosines_and_what_lies_between_layers(measures, net):
    model = net[0].float()
    net = (model, net[1].float(), net[2])
    hessian, fisher = dense(net)
    layers, generator = curved(net), torch.Generator().manual_seed(0)
    found = measures.matrices(products(measures, net), layers, layers, 300, generator)

    def block(matrix):
        return torch.stack([matrix[:12, :12], matrix[12:, 12:]])

    def cosine(a, b):
        return float((a * b).sum() / (a.norm() * b.norm()))

    kfac = torch.stack([
        torch.kron(c.basis.u_g_OO @ torch.diag(c.basis.lambda_O) @ c.basis.u_g_OO.T,
                   c.basis.u_a_II @ torch.diag(c.basis.mu_I) @ c.basis.u_a_II.T)
        for c in layers.values()
    ]).float()  # fmt: skip
    assert found["cosine hessian, fisher"] == pytest.approx(cosine(block(hessian), block(fisher)), abs=0.06)
    assert found["cosine fisher, kfac"] == pytest.approx(cosine(block(fisher), kfac), abs=0.06)
    share = 1 - float(block(fisher).square().sum() / fisher.square().sum())
    assert found["between layers, fisher"] == pytest.approx(share, abs=0.06)


def test_the_table_has_means_with_intervals(monkeypatch):
    monkeypatch.syspath_prepend(str(HERE))
    replicate = importlib.import_module("replicate")
    rows = replicate.table({"doses": [{"a": 1.0, "b": 2.0}, {"a": 3.0}]})["doses"]
    assert [row["name"] for row in rows] == ["a", "b"]
    assert (rows[0]["mean"], rows[0]["seeds"]) == (2, 2)
    assert rows[0]["high"] == pytest.approx(2 + 12.706, abs=1e-3)  # t of one degree of freedom, standard error 1
    assert (rows[1]["mean"], rows[1]["seeds"]) == (2, 1)
    assert math.isnan(rows[1]["low"])


@pytest.fixture
def stored(monkeypatch):
    monkeypatch.syspath_prepend(str(HERE))
    return importlib.import_module("replicate_stored")


def write_results(folder, values):
    lines = ["seed,id,option,value,memorized_accuracy,ground_truth_accuracy,clean_train_accuracy,validation_accuracy"]
    lines += [f"{seed},{name}-rho{rho},rho,{rho},{m},{1 - m},1,0.9" for seed, name, rho, m in values]
    (folder / "results.csv").write_text("\n".join(lines) + "\n")


def test_steps_along_rho(stored, tmp_path):
    fine = [(0, "fine", 0.9, 1.0), (0, "fine", 0.8, 0.25), (0, "fine", 0.85, 0.75), (0, "fine", 0.75, 0.5)]
    write_results(tmp_path, [*fine, (1, "fine", 0.9, 0.0), (0, "drawn", 0.9, 0.1)])
    found = stored.smoothness(tmp_path / "seed0")
    keys = ("from", "to", "largest fall", "largest rise", "share of rises")
    assert [found[f"memorized_accuracy, {key}"] for key in keys] == [1, 0.5, 0.5, 0.25, 1 / 3]


def test_spread_over_drawn_labels(stored, tmp_path):
    write_results(tmp_path, [(0, "drawn", 0, 0.25), (0, "drawn", 1, 0.75)])
    found = stored.drawn(tmp_path / "seed0")
    assert found["memorized_accuracy, mean"] == 0.5
    assert found["memorized_accuracy, most less least"] == 0.5
    assert found["memorized_accuracy, sd over draws"] == pytest.approx(0.125**0.5)


def test_what_an_arm_adds_is_its_highest_point_less_its_first(stored):
    values = {"retain": (0.5, 0.25, 0.125), "retain+all": (0.5, 0.75, 0.625)}
    rows = [
        {"arm": arm, "memorized_unseen_accuracy": value, "validation_accuracy": 0.9}
        for arm, own in values.items()
        for value in own
    ]
    found = stored.brought_back("a", rows)
    assert found["a, left"] == 0.5
    assert (found["a, back, retain"], found["a, back, retain+all"]) == (0, 0.25)
    assert (found["a, after, retain"], found["a, after, retain+all"]) == (0.125, 0.625)
