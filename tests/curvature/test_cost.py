import pytest
from edited import DATA, MODEL

from vitmem.curvature.cache import CurvatureCache
from vitmem.datamodules.batch import keyed_generator
from vitmem.editing.data import EditData
from vitmem.editing.kfac import KFAC
from vitmem.models.build import create
from vitmem.models.config import ModelConfig
from vitmem.models.layers import select_layers


def test_cost_is_told_before_the_work_and_too_much_is_refused(monkeypatch):
    from vitmem.curvature import cost

    lines = []
    KFAC().apply(MODEL, EditData(DATA, KFAC().sees, CurvatureCache(announce=lines.extend)), keyed_generator(0))
    assert lines[0].startswith("curvature of 8 layers")
    assert "blocks.0.mlp.fc1" in lines[3]
    assert "sums 17.4 kB" in lines[3]  # (64 * 64 + 16 * 16) * 4 bytes
    assert "sums 94.2 kB at a time" in lines[-1]
    assert "1 x 21 batches" in lines[-1]
    lines.clear()
    few = KFAC(layers_per_pass=1)
    few.apply(MODEL, EditData(DATA, few.sees, CurvatureCache(announce=lines.extend)), keyed_generator(0))
    assert "sums 17.4 kB at a time" in lines[-1]
    assert "8 x 21 batches" in lines[-1]
    monkeypatch.setattr(cost, "free_memory", lambda device: 100_000)
    with pytest.raises(ValueError, match="set layers_per_pass, or factor_device: cpu"):
        KFAC().apply(MODEL, EditData(DATA, KFAC().sees, CurvatureCache(announce=lines.extend)), keyed_generator(0))


def test_the_cost_of_vit_base_is_foreseen_without_building_it():
    from vitmem.curvature.cost import layer_costs
    from vitmem.curvature.layers import linear_maps

    model = create(ModelConfig().timm_arguments((3, 224, 224), 1000), device="meta")
    costs = layer_costs(linear_maps(select_layers(model, "blocks.{0,11}.mlp.*")), "ekfac", "float32")
    assert [(c.outputs, c.inputs) for c in costs] == [(3072, 768), (768, 3072)] * 2
    assert all(c.disk == 4 * (3072**2 + 768**2 + 3072 * 768) for c in costs)
