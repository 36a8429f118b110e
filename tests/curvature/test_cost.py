import os

import pytest
import torch
from edited import DATA, MODEL
from torch import nn

from vitmem.curvature import cost
from vitmem.curvature.cache import CurvatureCache, CurvatureConfig
from vitmem.curvature.layers import LinearMap, linear_maps
from vitmem.datamodules.batch import keyed_generator
from vitmem.editing.data import EditData
from vitmem.editing.kfac import KFAC
from vitmem.models.build import create
from vitmem.models.config import ModelConfig
from vitmem.models.layers import select_layers
from vitmem.models.memory import OutOfMemory, saved_bytes


@pytest.mark.slow
def test_cost_is_told_before_the_work_and_too_much_is_refused(monkeypatch):
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
    with pytest.raises(OutOfMemory, match="set layers_per_pass, or factor_device: cpu"):
        KFAC().apply(MODEL, EditData(DATA, KFAC().sees, CurvatureCache(announce=lines.extend)), keyed_generator(0))


def test_the_cost_of_vit_base_is_foreseen_without_building_it():
    model = create(ModelConfig().timm_arguments((3, 224, 224), 1000), device="meta")
    costs = cost.layer_costs(linear_maps(select_layers(model, "blocks.{0,11}.mlp.*")), "ekfac", "float32")
    assert [(c.outputs, c.inputs) for c in costs] == [(3072, 768), (768, 3072)] * 2
    assert all(c.disk == 4 * (3072**2 + 768**2 + 3072 * 768) for c in costs)


ONE = nn.Sequential(nn.Flatten(), nn.Linear(64, 5, bias=False)).double()
MAPS = {"1": LinearMap("1", ONE[1])}
SQUARES = 64**2 + 5**2


@pytest.mark.parametrize(("dtype", "width"), [("float32", 4), ("float64", 8)])
def test_bytes_by_hand(dtype, width):
    (plain,), (corrected,) = (cost.layer_costs(MAPS, moments, dtype) for moments in ("kfac", "ekfac"))
    bases = 8 * SQUARES + 4 * 64 * 5
    assert (plain.layer, plain.outputs, plain.inputs) == ("1", 5, 64)
    assert (plain.sums, plain.kept, plain.disk) == (width * SQUARES, bases, width * SQUARES)
    assert (corrected.sums, corrected.disk) == (width * SQUARES, width * (SQUARES + 320))
    assert corrected.kept == bases + 24 * 320
    tall = {"1": LinearMap("1", nn.Linear(64, 64))}  # a pass for moments holds fewer numbers than one for factors
    assert cost.layer_costs(tall, "ekfac", dtype)[0].sums == width * 2 * 64**2


@pytest.mark.parametrize(
    ("options", "backward"),
    [
        ({"labels": "sampled", "draws": 3}, 3),
        ({"labels": "given"}, 1),
        ({"labels": "topk", "top": 2}, 3),
        ({"labels": "exact"}, 5),
        ({"labels": "topk", "top": 9}, 5),
        ({"labels": "sampled", "draws": 12}, 12),
        ({"moments": "inputs"}, 0),
        ({"labels": "given", "moments": "ekfac"}, 1),
    ],
)
def test_time_is_that_of_the_products_at_the_rate_of_the_machine(options, backward, monkeypatch):
    monkeypatch.setattr(cost, "matmul_rate", lambda device: 1000.0)
    monkeypatch.setattr(ONE, "num_classes", 5, raising=False)
    config = CurvatureConfig(batch_size=4, **options)
    flops = 2 * 320 * 4 * (1 + backward) + 1.3 * 4 * (64**2 + backward * 25)
    if config.moments == "ekfac":  # a second pass, into the eigenbasis and entry by entry
        flops += 2 * 320 * 4 * (1 + backward) + 2 * 4 * (64**2 + backward * 25) + 2 * 4 * backward * 320
    assert cost.step_flops(ONE, MAPS, config, backward) == pytest.approx(flops)
    found = cost.requirements(ONE, MAPS, config, 7, (1, 8, 8))
    solver = 20 * (64**3 + 5**3) / (1000 / 8)
    assert found.seconds == pytest.approx(7 * flops / 1000 + solver)
    assert found.passes == 1
    assert found.solver == 8 * (5 * 64**2 + 2**22)


def test_tokens_make_rows_and_work():
    maps = linear_maps(select_layers(MODEL, "blocks.0.mlp.fc1"))
    parameters = sum(p.numel() for p in MODEL.parameters() if p.ndim >= 2)
    for tokens, rows in (("all", 5), ("cls", 1), ("mean", 1)):  # 2 x 2 patches and the class token
        found = cost.step_flops(MODEL, maps, CurvatureConfig(tokens=tokens, batch_size=3), 2)
        assert found == pytest.approx(2 * parameters * 5 * 3 * 3 + 1.3 * 3 * rows * (16**2 + 2 * 64**2))


def test_memory_of_a_pass():
    with saved_bytes(ONE) as saved:
        ONE(torch.zeros(1, 1, 8, 8, dtype=torch.float64))
    plain, corrected = (
        cost.activation_bytes(ONE, MAPS, CurvatureConfig(moments=moments), (1, 8, 8)) for moments in ("kfac", "ekfac")
    )
    assert plain >= 4 * 64 * 8
    assert corrected - plain == 64 * 8  # inputs that wait for their gradients
    assert plain - 4 * 64 * 8 <= saved[0]
    grown = nn.Sequential(nn.Flatten(), nn.Linear(64, 192, bias=False)).double()
    more = cost.activation_bytes(grown, {"1": LinearMap("1", grown[1])}, CurvatureConfig(), (1, 8, 8))
    assert more - 4 * 192 * 8 == plain - 4 * 64 * 8
    found = [cost.requirements(ONE, MAPS, CurvatureConfig(batch_size=b), 7, (1, 8, 8)) for b in (1, 10)]
    assert found[1].activations == 10 * found[0].activations == 10 * plain


def need(**options):
    numbers = {"sums": 10, "held": 12, "bases": 100, "kept": 200, "solver": 3000, "activations": 40_000}
    return cost.Requirements(**{**numbers, "disk": 0, "passes": 1, "seconds": 1.0, "on_cpu": False, **options})


def test_the_peak_is_while_collecting_or_decomposing_or_afterwards():
    assert need().memory == 40_012
    assert need(solver=50_000).memory == 50_110
    assert need(kept=60_000).memory == 60_000
    assert need(on_cpu=True, solver=50_000).memory == 40_012


def test_what_is_held_beside_activations():
    maps = linear_maps(select_layers(MODEL, "blocks.0.*"))
    plain, twice = (
        cost.requirements(MODEL, maps, CurvatureConfig(moments=moments, dtype="float32"), 1, (1, 8, 8))
        for moments in ("kfac", "ekfac")
    )
    squares = 4 * 16 * (48 + 16 + 64 + 64)
    assert plain.bases == twice.bases == plain.held == plain.sums
    assert twice.held == twice.bases + squares


def test_work_of_a_pass_by_hand():
    gathered, image = 8 * 256 * (64 + 5), 8 * 64 * 5  # ONE is float64
    for tokens, moments, expected in (
        ("all", "kfac", 0),
        ("cls", "kfac", gathered),
        ("mean", "kfac", gathered),
        ("cls", "ekfac", gathered),
        ("all", "ekfac", 7 * image),
    ):
        assert cost.work_bytes(MAPS, CurvatureConfig(tokens=tokens, moments=moments, batch_size=7)) == expected
    many = CurvatureConfig(moments="ekfac", batch_size=10**6)
    assert cost.work_bytes(MAPS, many) == (2**24 // 320) * image


def test_sums_are_held_for_so_many_layers_at_a_time():
    maps = linear_maps(select_layers(MODEL, "blocks.0.*"))
    sums = [c.sums for c in cost.layer_costs(maps, "kfac", "float32")]
    assert sums == [4 * (16**2 + n**2) for n in (48, 16, 64, 64)]
    for at_once, held, passes in ((0, sum(sums), 1), (1, max(sums), 4), (3, sum(sums[:3]), 2), (2, sum(sums[2:]), 2)):
        found = cost.requirements(MODEL, maps, CurvatureConfig(layers_per_pass=at_once), 1, (1, 8, 8))
        assert (found.sums, found.passes) == (held, passes)
        assert found.disk == sum(sums)
        assert found.kept == sum(4 * (16**2 + n**2) + 4 * 16 * n for n in (48, 16, 64, 64))
        assert found.held == held + (sum(sums) if at_once else 0)  # and bases of other groups, as large as their sums
        assert not found.on_cpu


def test_what_fits_to_the_last_byte_is_allowed(monkeypatch):
    monkeypatch.setattr(cost, "requirements", lambda *arguments: need())
    for free, fits in ((40_012, True), (40_011, False), (None, True)):
        monkeypatch.setattr(cost, "free_memory", lambda device, free=free: free)
        if fits:
            assert len(cost.foresee(ONE, MAPS, CurvatureConfig(), 7, (1, 8, 8))) == 3
        else:
            with pytest.raises(OutOfMemory, match="10 B for sums, 200 B for bases and 40 kB to collect"):
                cost.foresee(ONE, MAPS, CurvatureConfig(), 7, (1, 8, 8))


def test_free_memory_is_what_the_kernel_calls_available(monkeypatch):
    import builtins
    import io

    said = "MemTotal:  9000 kB\nMemAvailable:   123 kB\nMemFree: 7 kB\n"
    real = builtins.open
    monkeypatch.setattr(
        builtins, "open", lambda f, *a, **k: io.StringIO(said) if f == "/proc/meminfo" else real(f, *a, **k)
    )
    assert cost.free_memory(torch.device("cpu")) == 123 * 1024


def test_one_gradient_is_formed_at_a_time_where_it_is_larger_than_what_is_formed():
    maps = {"wide": LinearMap("wide", nn.Linear(6000, 3000, device="meta"))}
    found = cost.work_bytes(maps, CurvatureConfig(tokens="all", moments="ekfac", batch_size=7))
    assert found == 4 * 6000 * 3000


def test_free_memory_is_what_the_system_says():
    found = cost.free_memory(torch.device("cpu"))
    pages = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert pages / 4 < found < 64 * pages + 2**36
    assert cost.matmul_rate(torch.device("cpu")) > 0
