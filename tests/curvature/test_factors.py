import pytest
import torch
from cases import loader, vit
from factors import maps_of, relative

from vitmem.curvature.collect import collect_factors
from vitmem.curvature.factors import LayerFactors, LayerMoments, load_sums, save_sums
from vitmem.curvature.moments import (
    SecondMoment,
    add_second_moment,
    mirror,
)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_sums_are_refused(dtype):
    with pytest.raises(ValueError, match="use float32 or float64"):
        collect_factors(vit(), loader(), maps_of(vit()), dtype=dtype)


def test_block_triangle_equals_the_plain_product():
    x = torch.randn(50, 701, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    total = torch.zeros(701, 701, dtype=torch.float64)
    add_second_moment(total, x[:20])
    add_second_moment(total, x[20:])
    assert torch.allclose(mirror(total), x.T @ x, rtol=0, atol=1e-12 * float((x.T @ x).abs().max()))
    assert torch.allclose(total, total.T, rtol=1e-13)


@pytest.mark.parametrize("batches", [[3], [100, 100, 100], [5, 300, 7], [256], []])
def test_a_running_sum_loses_no_rows(batches):
    generator = torch.Generator().manual_seed(0)
    parts = [torch.randn(n, 9, generator=generator, dtype=torch.float64) for n in batches]
    running = SecondMoment(9, torch.float64, "cpu")
    for part in parts:
        running.add(part)
        part.zero_() if len(part) < 256 else None  # rows that wait are copies
    generator.manual_seed(0)
    whole = torch.cat([torch.randn(n, 9, generator=generator, dtype=torch.float64) for n in [*batches, 0]])
    assert torch.allclose(running.total(), whole.T @ whole, rtol=1e-12)


def test_sums_add_and_survive_a_file(tmp_path):
    model = vit()
    maps = maps_of(model)
    whole = collect_factors(model, loader(11, 4), maps, dtype=torch.float64)
    batches = list(loader(11, 4))
    parts = [collect_factors(model, part, maps, dtype=torch.float64) for part in (batches[2:], batches[:2])]
    save_sums(tmp_path / "part.safetensors", parts[0], {"note": "first"})
    first, metadata = load_sums(tmp_path / "part.safetensors", LayerFactors)
    assert metadata["note"] == "first"
    for name in maps:
        total = first[name] + parts[1][name]
        assert relative(total.a_sum_II, whole[name].a_sum_II) < 1e-13
        assert relative(total.G, whole[name].G) < 1e-13
        assert total.num_positions == whole[name].num_positions


def test_counts_and_traces_come_back_from_a_file_to_the_last_digit(tmp_path):
    square, ones = torch.eye(2, dtype=torch.float64) / 3, torch.ones(3, 2)
    first, factors = (LayerFactors(square.clone(), square.clone(), 2**53 + 1, 2**31 + 1, 0.1, 1 / 3) for _ in range(2))
    save_sums(tmp_path / "f", {"blocks.0.mlp": first, "head": factors}, {})
    found, metadata = load_sums(tmp_path / "f", LayerFactors)
    assert (set(found), metadata) == ({"blocks.0.mlp", "head"}, {})
    for name, value in vars(factors).items():
        read = getattr(found["head"], name)
        assert torch.equal(read, value) if isinstance(value, torch.Tensor) else read == value
        assert type(read) is type(value)
    save_sums(tmp_path / "m", {"head": LayerMoments(ones, 7)}, {})
    moments = load_sums(tmp_path / "m", LayerMoments)[0]["head"]
    assert torch.equal(moments.mean_OI, ones / 7)
    assert not list(tmp_path.glob("*.partial"))


def test_means_are_over_positions_and_over_examples():
    factors = LayerFactors(torch.eye(2) * 12, torch.eye(3) * 10, 6, 5)
    assert torch.equal(factors.A, torch.eye(2) * 2)
    assert torch.equal(factors.G, torch.eye(3) * 2)
    nothing = LayerFactors(torch.zeros(2, 2), torch.zeros(3, 3), 0, 0)
    assert not nothing.A.any()
    assert not nothing.G.any()
    assert not LayerMoments(torch.zeros(3, 2), 0).mean_OI.any()
    total = factors + factors
    assert (total.num_positions, total.num_examples) == (12, 10)


@pytest.mark.parametrize("features", [127, 128, 639, 640])
def test_sums_of_any_size_are_whole(features):
    x = torch.randn(3, features, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    total = torch.zeros(features, features, dtype=torch.float64)
    add_second_moment(total, x)
    assert torch.allclose(mirror(total), x.T @ x, rtol=0, atol=1e-12)
