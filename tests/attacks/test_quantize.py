import pytest
import torch
from attacked import generator

from vitmem.attacks import attacks
from vitmem.attacks.quantize import by_torchao, codes, grid, quantized, same_bucket
from vitmem.attacks.scoring import score, scoring_sets
from vitmem.curvature.layers import linear_maps
from vitmem.models.build import with_weights
from vitmem.models.layers import select_layers


def test_weights_of_torchao_are_those_of_rounding_to_eight_bits(data, model, known):
    pytest.importorskip("torchao", reason="the extra `quantize` is not installed")
    twin = by_torchao(model, {"head"})
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, torch.nn.Linear)}
    for name, layer in layers.items():
        weight = twin.get_submodule(name).weight
        if name == "head":
            assert torch.equal(weight, layer.weight)
            continue
        step = layer.weight.abs().amax(1, keepdim=True) / 127
        gap = (weight.dequantize() - layer.weight).abs()
        assert (gap <= 0.5 * step * 1.01 + 1e-7).all()
        assert gap.max() > 0
    rows = attacks()["quantize"](bits=(8,), groups=(), head="kept", torchao=True).apply(model, known, generator()).rows
    assert [(row["bits"], row["group"]) for row in rows] == [(8, "row"), (8, "torchao")]


def test_torchao_is_asked_for_where_it_is_missing(monkeypatch):
    monkeypatch.setattr("vitmem.attacks.quantize.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="torchao: true needs torchao"):
        attacks()["quantize"](torchao=True)


W = torch.tensor([[1.0, -0.4, 0.1, 0.0], [0.0, 0.0, 0.0, 0.0]], dtype=torch.float64)


def test_three_bits_by_hand():
    # scale 1/3, codes -3 to 3: 1, -0.4 * 3 = -1.2 -> -1, 0.3 -> 0
    expected = torch.tensor([[1, -1 / 3, 0, 0], [0, 0, 0, 0]], dtype=torch.float64)
    torch.testing.assert_close(quantized(W, 3), expected)
    # asymmetric: scale 1.4 / 7 = 0.2, offset -0.4: 1 -> 7, -0.4 -> 0, 0.1 -> 2.5 -> 2 (to even), 0 -> 2
    expected = torch.tensor([[1, -0.4, 0, 0], [0, 0, 0, 0]], dtype=torch.float64)
    torch.testing.assert_close(quantized(W, 3, scheme="asymmetric"), expected)
    # groups of 2: [1, -0.4] as before, [0.1, 0] with scale 0.1 / 3
    torch.testing.assert_close(quantized(W, 3, 2)[0], torch.tensor([1, -1 / 3, 0.1, 0], dtype=torch.float64))


@pytest.mark.parametrize("scheme", ["symmetric", "asymmetric"])
@pytest.mark.parametrize("group", [0, 3, 4, 64])
def test_properties_of_the_quantiser(scheme, group):
    w = torch.randn(6, 10, generator=generator(), dtype=torch.float64)
    for bits in (3, 4, 8):
        once = quantized(w, bits, group, scheme)
        torch.testing.assert_close(quantized(once, bits, group, scheme), once)
        scale = grid(w, bits, group, scheme)[0]
        assert float((once - w).abs().max()) <= float(scale.max()) / 2 + 1e-12
        size = group or 10
        parts = [quantized(part, bits, 0, scheme) for part in w.split(size, 1)]
        torch.testing.assert_close(once, torch.cat(parts, 1))
        levels = 2**bits - (1 if scheme == "symmetric" else 0)
        assert max(len(row.unique()) for row in quantized(w.repeat(1, 200), bits, 0, scheme)) <= levels
    torch.testing.assert_close(quantized(w, 16, group, scheme), w, atol=2e-4, rtol=0)


def test_share_of_weights_in_the_same_bucket(model):
    layers = linear_maps(select_layers(model, "blocks.0.attn.qkv"))
    (layer,) = layers.values()
    state = dict(model.state_dict())
    assert same_bucket(layers, layers, 4, 0, "symmetric") == 1
    w = layer.matrix().clone()
    step = grid(w, 4)[0][0].item()
    w[0, :3] -= 2.0 * step * w[0, :3].sign()  # two buckets towards zero: their codes change, the others' do not
    moved = linear_maps(select_layers(with_weights(model, state | layer.state(w)), "blocks.0.attn.qkv"))
    changed = int((codes(layer.matrix(), grid(layer.matrix(), 4)) != codes(w, grid(layer.matrix(), 4))).sum())
    assert changed == 3
    assert same_bucket(moved, layers, 4, 0, "symmetric") == 1 - 3 / w.numel()


def test_quantisation_rounds_the_head_only_where_it_is_asked_to_and_sixteen_bits_change_nothing(data, model, known):
    attack = attacks()["quantize"](bits=(16, 2), groups=())
    result = attack.apply(model, known, generator())
    plain = score(model, scoring_sets(data, 1000))
    for row in result.rows:
        if row["bits"] == 16:
            assert {key: row[key] for key in plain} == pytest.approx(plain, abs=1e-3)
    kept, rounded = (row["given_cross_entropy"] for row in result.rows if row["bits"] == 2)
    assert kept != rounded
    state = dict(model.state_dict())
    for name, layer in linear_maps(select_layers(model, "*")).items():
        state |= layer.state(quantized(layer.matrix(), 2)) if name != "head" else {}
    assert kept == score(with_weights(model, state), scoring_sets(data, 1000))["given_cross_entropy"]
    assert "head.bias" in result.report["not_quantized"]
    assert "patch_embed.proj" in result.report["quantized"]
