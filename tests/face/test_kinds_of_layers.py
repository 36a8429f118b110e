"""Edits of attention and of convolutions equal those of the same functions written with ``nn.Linear`` modules."""

import importlib.util
from pathlib import Path

import pytest
import torch
from torch import nn

import vitmem

TESTS = Path(__file__).parents[1]


def module(name):
    """Return a module of tests that holds a model and its twin of linear modules."""
    spec = importlib.util.spec_from_file_location(Path(name).stem, TESTS / name)
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def attention():
    of = module("models/test_attention.py")
    torch.manual_seed(0)
    model = of.Attentive().eval()
    names = {"qkv.weight": "attention.in_proj_weight", "out.weight": "attention.out_proj.weight"}
    return model, of.Plain(model), "attention.*", "qkv out", names, torch.randn(40, 3, 2, 3), 4


def convolutions():
    of = module("curvature/test_collect.py")
    torch.manual_seed(0)
    model = of.Convolutions()
    return model, of.Unfolded(model), "c1 c2", "c1 c2", {f"{c}.weight": f"{c}.weight" for c in ("c1", "c2")}, (
        torch.randn(40, 1, 8, 8)
    ), 10  # fmt: skip


@pytest.mark.parametrize("make", [attention, convolutions])
@pytest.mark.parametrize(
    ("edit", "options"),
    [
        ("kfac", {"labels": "exact", "rho": 0.8}),
        ("ekfac", {"rho": 0.8}),
        ("svd", {"keep": 0.5}),
        ("sap", {"examples": 40, "images": "unlabeled"}),
    ],
)
def test_an_edit_is_that_of_linear_modules(make, edit, options):
    model, twin, layers, twins, names, image, classes = make()
    with torch.no_grad():
        for part in (model, twin):
            assert isinstance(part, nn.Module)
        assert torch.allclose(model(image), twin(image), atol=1e-5)
    train = (image, torch.arange(40) % classes, torch.arange(40) % classes)
    more = {"dtype": "float64", "batch_size": 40} if edit.endswith("kfac") else {}
    one = vitmem.edit(vitmem.adopt(model, train), edit, layers=layers, **options, **more).state_dict
    two = vitmem.edit(vitmem.adopt(twin, train), edit, layers=twins, **options, **more).state_dict
    for of_twin, own in names.items():
        assert torch.allclose(one[own].flatten(1), two[of_twin], atol=1e-4), own
        assert not torch.equal(one[own], dict(model.state_dict())[own])
