import torch
from cases import TINY
from edited import DATA, MODEL, apply

from vitmem.curvature.cache import CurvatureCache
from vitmem.datamodules.batch import keyed_generator
from vitmem.editing.data import EditData
from vitmem.editing.kfac import KFAC, RandomPairs
from vitmem.models.build import create


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
