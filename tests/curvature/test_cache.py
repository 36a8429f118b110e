import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from cases import TINY
from edited import DATA, MODEL, apply

from vitmem.curvature.cache import CurvatureCache, _how
from vitmem.datamodules.batch import keyed_generator
from vitmem.editing.data import EditData
from vitmem.editing.kfac import KFAC, RandomPairs
from vitmem.models.build import create


@pytest.mark.slow
def test_curvature_is_collected_once_for_a_sweep_and_kept_on_disk(tmp_path, monkeypatch):
    from vitmem.curvature import cache as module

    passes = []
    original = module.collect_factors
    monkeypatch.setattr(module, "collect_factors", lambda *a, **k: passes.append(1) or original(*a, **k))
    expected = apply(KFAC(rho=0.7)).state_dict
    passes.clear()
    first = CurvatureCache(tmp_path)
    for edit in (KFAC(rho=0.5), KFAC(rho=0.9), RandomPairs(rho=0.5), KFAC(rho=0.5, batch_size=7)):
        edit.apply(MODEL, EditData(DATA, edit.sees, first), keyed_generator(0))
    assert len(passes) == 1
    again = KFAC(rho=0.7).apply(MODEL, EditData(DATA, KFAC().sees, CurvatureCache(tmp_path)), keyed_generator(0))
    assert len(passes) == 1
    assert all(torch.equal(v, expected[k]) for k, v in again.state_dict.items())
    for stored in tmp_path.glob("*.safetensors"):
        stored.write_bytes(stored.read_bytes()[:-50])
    KFAC().apply(MODEL, EditData(DATA, KFAC().sees, CurvatureCache(tmp_path)), keyed_generator(0))
    assert len(passes) == 2  # what is damaged is collected again
    passes.pop()
    different = (
        {"seed": 1}, {"draws": 2}, {"tokens": "cls"}, {"layers": "blocks.0.*"}, {"examples": 100}, {"bias": True},
        {"labels": "exact"}, {"labels": "topk", "top": 3}, {"temperature": 2.0}, {"split": "validation"},
        {"noisy": "excluded"}, {"dtype": "float64"},
    )  # fmt: skip
    for options in different:
        other = KFAC(**options)
        other.apply(MODEL, EditData(DATA, other.sees, first), keyed_generator(0))
    assert len(passes) == 1 + len(different)
    for same in (KFAC(layers_per_pass=3), KFAC(factor_device="cpu"), KFAC(moments="ekfac"), KFAC(scope="global")):
        same.apply(MODEL, EditData(DATA, same.sees, first), keyed_generator(0))
    assert len(passes) == 1 + len(different)
    elsewhere = create(TINY.timm_arguments((1, 8, 8), 10), seed=1)
    KFAC().apply(elsewhere, EditData(DATA, KFAC().sees, first), keyed_generator(0))
    assert len(passes) == 2 + len(different)


FEW = {"layers": "blocks.0.*", "examples": 50}


def curvature(folder=None, **options):
    edit = KFAC(**{**FEW, **options})
    return EditData(DATA, edit.sees, CurvatureCache(folder)).curvature(MODEL, edit)


def test_spectra_are_kept_beside_the_sums_they_belong_to(tmp_path):
    found = curvature(tmp_path)
    (sums,), (spectra,) = tmp_path.glob("*.safetensors"), tmp_path.glob("*.npz")
    assert spectra.name == f"{sums.stem}.spectra.npz"
    with np.load(spectra) as arrays:
        assert set(arrays) == {f"{name}/{factor}" for name in found.layers for factor in "AG"}
        for name, layer in found.layers.items():
            assert np.array_equal(arrays[f"{name}/G"], layer.basis.lambda_O.numpy())
            assert np.array_equal(arrays[f"{name}/A"], layer.basis.mu_I.numpy())


def test_every_stage_has_its_seconds(tmp_path, monkeypatch):
    clock = SimpleNamespace(perf_counter=itertools.count(10.0).__next__)  # a second passes with every look
    monkeypatch.setattr("vitmem.curvature.cache.time", clock)
    assert curvature(tmp_path).seconds == {"collect": 1, "decompose": 1}
    found = curvature(tmp_path, moments="ekfac")
    assert found.seconds == {"collect": 1, "decompose": 1, "moments": 1}  # the first is that of then
    assert curvature(layers_per_pass=2, moments="ekfac").seconds == {"collect": 2, "decompose": 2, "moments": 2}
    assert found.lumped == 0


def test_layers_in_one_pass_are_stored_as_all_at_once(tmp_path):
    stored = lambda: sorted(path.name for path in tmp_path.glob("*.safetensors"))  # noqa: E731
    curvature(tmp_path)
    before = stored()
    for at_once in (4, 5):
        curvature(tmp_path, layers_per_pass=at_once)
        assert stored() == before
    plain, parts = curvature(tmp_path), curvature(tmp_path, layers_per_pass=3)
    assert len(stored()) == len(before) + 2
    for name, layer in plain.layers.items():
        assert torch.equal(layer.basis.lambda_O, parts.layers[name].basis.lambda_O)


def test_how_the_work_is_done():
    assert _how(KFAC()) == {"dtype": torch.float32, "device": None}  # where the model is
    assert _how(KFAC(factor_device="cpu", dtype="float64")) == {"dtype": torch.float64, "device": torch.device("cpu")}


def test_tokens_labels_and_layers_reach_both_passes(monkeypatch):
    from vitmem.curvature import cache as module

    seen = {}
    for name in ("collect_factors", "collect_moments", "collect_inputs"):
        original = getattr(module, name)
        monkeypatch.setattr(
            module, name, lambda *a, name=name, original=original, **k: seen.update({name: k}) or original(*a, **k)
        )
    edit = KFAC(moments="ekfac", tokens="cls", labels="topk", top=3, dtype="float64", **FEW)
    curvature(**{name: getattr(edit, name) for name in ("moments", "tokens", "labels", "top", "dtype")})
    for name in ("collect_factors", "collect_moments"):
        assert (seen[name]["tokens"], seen[name]["rule"], seen[name]["dtype"]) == ("cls", edit.rule, torch.float64)
    curvature(moments="inputs", tokens="mean", dtype="float64")
    assert (seen["collect_inputs"]["tokens"], seen["collect_inputs"]["dtype"]) == ("mean", torch.float64)


def test_a_model_that_is_certain_has_no_curvature():
    model = create(TINY.timm_arguments((1, 8, 8), 10), seed=0)
    with torch.no_grad():
        model.head.bias.copy_(torch.arange(10.0) * 1e4)
    edit = KFAC(labels="exact", **FEW)
    with pytest.raises(ValueError, match="certain to the last digit"):
        EditData(DATA, edit.sees, CurvatureCache()).curvature(model, edit)
    dead = KFAC(labels="exact", tokens="cls", **{**FEW, "layers": "blocks.0.mlp.fc1 blocks.1.mlp.fc1"})
    with torch.no_grad():
        model.head.bias.zero_()
        model.head.weight.normal_()
        model.blocks[0].mlp.fc2.weight.zero_()  # nothing comes back to the first layer; the second has curvature
    found = EditData(DATA, dead.sees, CurvatureCache()).curvature(model, dead)
    assert found.layers["blocks.0.mlp.fc1"].mass.total == 0
    assert found.layers["blocks.1.mlp.fc1"].mass.total > 0
