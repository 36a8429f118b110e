import dataclasses
import itertools
import math

import pytest
import torch
from cases import vit
from edited import CACHE, DATA, INITIAL, MODEL, apply

from vitmem.curvature.cache import CurvatureCache
from vitmem.curvature.spectrum import DenseMass
from vitmem.datamodules.batch import keyed_generator
from vitmem.datamodules.digits import Digits
from vitmem.datamodules.module import MemorisationData
from vitmem.datamodules.noise import Symmetric
from vitmem.editing.auto import AutoEKFAC
from vitmem.editing.data import EditData
from vitmem.editing.kfac import EKFAC, KFAC, RandomPairs, TopRemoved, filtered, layer_row, relative_change
from vitmem.editing.svd import SVD
from vitmem.models.layers import select_layers

KNOBS = {
    "bias": KFAC(bias=True),
    "ekfac": KFAC(moments="ekfac"),
    "ekfac_cls": KFAC(moments="ekfac", tokens="cls"),
    "global": KFAC(scope="global"),
    "graded": KFAC(filter="graded", exponent=0.7),
    "fraction": KFAC(fraction=0.1),
    "pairs": KFAC(pairs=40),
    "tau": KFAC(tau=1e-6, scope="global"),
    "topk": KFAC(labels="topk", top=3),
    "exact": KFAC(labels="exact"),
    "given": KFAC(labels="given"),
    "mean": KFAC(tokens="mean"),
    "validation": KFAC(split="validation"),
    "excluded": KFAC(noisy="excluded"),
    "only": KFAC(noisy="only"),
    "float64": KFAC(dtype="float64"),
    "patches": KFAC(layers="patch_embed.proj head", rho=0.5),
    "update": KFAC(of="update"),
    "identity": KFAC(basis="identity"),
    "inputs": KFAC(masses="a"),
    "permuted": KFAC(permuted=True),
    "start": KFAC(at="start"),
}


@pytest.mark.parametrize("name", sorted(KNOBS))
def test_every_knob_works_and_changes_the_edit(name):
    result, plain = apply(KNOBS[name]), apply(KFAC())
    assert all(torch.isfinite(value).all() for value in result.state_dict.values())
    assert any(not torch.equal(value, plain.state_dict[key]) for key, value in result.state_dict.items())
    assert all(0 <= row["mass_kept"] <= 1 + 1e-12 for row in result.report["layers"])


def test_every_option_of_kfac_is_tried():
    tried = {field.name for e in [*KNOBS.values(), KFAC(draws=2, temperature=2.0, examples=9, seed=1, batch_size=9)]
             for field in dataclasses.fields(KFAC) if getattr(e, field.name) != field.default}  # fmt: skip
    tried |= {"layers_per_pass", "factor_device"}  # in the next test
    assert tried == {field.name for field in dataclasses.fields(KFAC)}


@pytest.mark.slow
def test_what_lumped_labels_leave_out_is_reported():
    shares = [apply(KFAC(labels="topk", top=top)).report["lumped_trace"] for top in (1, 3, 9)]
    assert shares[0] > shares[1] > shares[2] >= 0
    assert shares[2] < 1e-12
    assert apply(KFAC()).report["lumped_trace"] == 0


@pytest.mark.slow
def test_how_the_work_is_done_does_not_change_the_edit():
    plain = apply(KFAC(moments="ekfac")).state_dict
    for how in ({"layers_per_pass": 3}, {"batch_size": 100}, {"factor_device": "cpu"}):
        edit = KFAC(moments="ekfac", **how)
        other = edit.apply(MODEL, EditData(DATA, edit.sees, CurvatureCache()), keyed_generator(0)).state_dict
        for key, value in plain.items():
            assert torch.allclose(other[key], value, atol=1e-4 * float(value.abs().max()))


@pytest.mark.slow
@pytest.mark.parametrize("edit", [KFAC(), EKFAC(rho=0.5), SVD(keep=0.3)])
def test_a_compiled_model_is_edited_like_the_original(edit):
    compiled = torch.compile(MODEL, backend="eager")
    found = edit.apply(compiled, EditData(DATA, edit.sees, CurvatureCache()), keyed_generator(0)).state_dict
    assert all(torch.equal(value, found[key]) for key, value in apply(edit).state_dict.items())


def test_layers_are_chosen_too():
    auto = AutoEKFAC(rhos="0.9 0.5", exponents="1", layer_choices="blocks.0.* | blocks.*.mlp.*")
    report = apply(auto).report
    assert {row["layers"] for row in report["candidates"]} == {"blocks.*", "blocks.0.*", "blocks.*.mlp.*"}
    chosen = select_layers(MODEL, report["choice"]["layers"])
    assert [row["layer"] for row in report["layers"]] == list(chosen)


def test_curvature_that_vanishes_is_refused():
    with pytest.raises(ValueError, match="every layer's curvature is zero"):
        apply(KFAC(temperature=1e30))


def test_nothing_to_collect_from_is_refused():
    clean = MemorisationData(Digits(), Symmetric(rate=0.0))
    with pytest.raises(ValueError, match="no images to collect from: noisy is 'only'"):
        KFAC(noisy="only").apply(MODEL, EditData(clean, KFAC(noisy="only").sees), keyed_generator(0))


def test_a_bias_takes_part_only_when_asked():
    assert torch.equal(apply(KFAC()).state_dict["blocks.0.mlp.fc1.bias"], MODEL.state_dict()["blocks.0.mlp.fc1.bias"])
    with_bias = vit("token", classes=10, dtype=torch.float32)  # fresh biases are zero and would stay so
    changed = apply(KFAC(bias=True), with_bias).state_dict["blocks.0.mlp.fc1.bias"]
    assert not torch.equal(changed, with_bias.state_dict()["blocks.0.mlp.fc1.bias"])


def test_one_threshold_over_all_layers_keeps_the_share_of_the_whole_mass():
    edit = KFAC(scope="global", rho=0.8)
    layers = EditData(DATA, edit.sees, CACHE).curvature(MODEL, edit).layers
    masks = edit.weights(layers)
    kept = sum(float(layers[n].mass.dense()[mask].sum()) for n, mask in masks.items())
    total = sum(layer.mass.total for layer in layers.values())
    assert kept >= 0.8 * total
    smallest = min(float(layers[n].mass.dense()[m].min()) for n, m in masks.items() if m.any())
    assert all(float(layers[n].mass.dense()[~m].max()) <= smallest for n, m in masks.items() if not m.all())


def test_a_steep_graded_filter_is_the_hard_one():
    hard, steep = KFAC(rho=0.8, scope="global"), KFAC(rho=0.8, scope="global", filter="graded", exponent=1e7)
    layers = EditData(DATA, hard.sees, CACHE).curvature(MODEL, hard).layers
    masks, filters = (edit.weights(layers) for edit in (hard, steep))
    for name, mask in masks.items():
        different = (mask.double() - filters[name]).abs() > 1e-6
        assert int(different.sum()) <= 1  # the pair at tau itself is halved


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fraction": 0.1, "tau": 1.0}, "fraction and tau are both given"),
        ({"pairs": 0}, "pairs is 0; it is the number of eigen-pairs"),
        ({"exponent": 0.0}, "exponent is 0.0; it must be positive"),
        ({"exponent": math.inf}, "filter: hard"),
        ({"draws": 0}, "draws is 0; it must be at least 1"),
        ({"temperature": 0.0}, "temperature is 0.0"),
        ({"layers_per_pass": -1}, "layers_per_pass is -1"),
        ({"split": "validation", "noisy": "only"}, "noisy: only needs split: train"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        KFAC(**options)


def test_what_the_knobs_see():
    assert KFAC(split="validation").sees == {"validation"}
    assert KFAC(noisy="excluded").sees == {"retain"}
    assert KFAC(noisy="only", labels="given").sees == {"forget", "given"}


@pytest.mark.parametrize(
    "edit",
    [
        KFAC(rho=1.0),
        KFAC(rho=1.0, filter="graded", scope="global"),
        KFAC(fraction=1.0),
        RandomPairs(rho=1.0),
        TopRemoved(rho=1.0),
        SVD(keep=1.0),
    ],
)
def test_keeping_everything_returns_the_weights_exactly(edit):
    result = apply(edit)
    assert all(torch.equal(value, MODEL.state_dict()[key]) for key, value in result.state_dict.items())
    assert all(row["relative_change"] == 0 for row in result.report["layers"])


def test_only_the_chosen_weight_matrices_change():
    result = apply(KFAC(layers="blocks.1.mlp.fc?", rho=0.5))
    changed = {key for key, value in result.state_dict.items() if not torch.equal(value, MODEL.state_dict()[key])}
    assert changed == {"blocks.1.mlp.fc1.weight", "blocks.1.mlp.fc2.weight"}


def test_more_is_kept_and_less_is_changed_as_rho_grows():
    rows = [apply(KFAC(rho=rho)).report["layers"] for rho in (0.3, 0.6, 0.9, 0.99)]
    for fewer, more in itertools.pairwise(rows):
        for small, large in zip(fewer, more, strict=True):
            assert small["pairs_kept"] <= large["pairs_kept"]
            assert small["mass_kept"] <= large["mass_kept"]
            assert small["relative_change"] >= large["relative_change"] - 1e-6
    for rho, layers in zip((0.3, 0.6, 0.9, 0.99), rows, strict=True):
        assert all(row["mass_kept"] >= rho - 1e-9 for row in layers)


def test_controls_keep_as_many_pairs_as_kfac():
    kfac, random, top = (apply(cls(rho=0.8)) for cls in (KFAC, RandomPairs, TopRemoved))
    for a, b, c in zip(*(r.report["layers"] for r in (kfac, random, top)), strict=True):
        assert a["pairs_kept"] == b["pairs_kept"] == c["pairs_kept"]
        assert a["mass_kept"] > b["mass_kept"]
        assert b["mass_kept"] >= c["mass_kept"]


def test_random_pairs_follow_the_seed():
    one, two = apply(RandomPairs(rho=0.8), seed=1).state_dict, apply(RandomPairs(rho=0.8), seed=2).state_dict
    assert any(not torch.equal(one[key], two[key]) for key in one)


@pytest.mark.parametrize("rho", [0.0, -0.1, 1.1, math.nan])
def test_rho_out_of_range(rho):
    with pytest.raises(ValueError, match=r"share of curvature mass to keep, in \(0, 1\]"):
        KFAC(rho=rho)


def test_the_class_token_of_a_model_that_pools():
    model = vit("avg", classes=10)
    with pytest.raises(ValueError, match="use tokens: all"):
        KFAC(tokens="cls").check(model)


@pytest.mark.parametrize("of", ["weights", "update"])
def test_singular_axes_are_those_of_what_is_filtered(of):
    edit = KFAC(basis="svd", of=of, layers="blocks.0.*", examples=50)
    data = EditData(DATA, edit.sees, CurvatureCache(), initial=lambda: INITIAL)
    origin = edit.origin(MODEL, data)
    assert set(origin) == (set(select_layers(MODEL, "blocks.0.*")) if of == "update" else set())
    layers = edit.curvature(MODEL, data, origin).layers
    _, rows = edit.edited(MODEL, layers, keyed_generator(0), origin)
    for name, layer in layers.items():
        w_OI = layer.map.matrix() - origin[name] if origin else layer.map.matrix()
        found = layer.basis.coordinates(w_OI)
        sizes = found.abs().flatten().sort(descending=True).values[: min(found.shape)]
        assert torch.allclose(sizes, torch.linalg.svdvals(w_OI), atol=1e-4)
        assert int((found.abs() > 1e-4).sum()) <= min(found.shape)
    assert [row["layer"] for row in rows] == list(layers)


@pytest.mark.parametrize("basis", ["svd", "identity", "random"])
def test_forms_without_images_see_what_is_filtered(basis):
    edit = KFAC(basis=basis, masses="size", of="update", layers="blocks.0.*")
    data = EditData(DATA, edit.sees, initial=lambda: INITIAL)
    origin = edit.origin(MODEL, data)
    for name, layer in edit.curvature(MODEL, data, origin).layers.items():
        expected = layer.map.matrix() - origin[name]
        assert torch.allclose(layer.basis.compose(layer.coordinates_OI), expected, atol=1e-5)
        assert layer.map.module is MODEL.get_submodule(name)


def test_masses_by_hand():
    layer = next(iter(EditData(DATA, KFAC().sees, CACHE).curvature(MODEL, KFAC()).layers.values()))
    g_O, a_I, size_OI = layer.basis.lambda_O, layer.basis.mu_I, layer.coordinates_OI.double().square()
    expected = {
        "ag": torch.outer(g_O, a_I), "a": a_I.expand(len(g_O), -1), "g": g_O[:, None].expand(-1, len(a_I)),
        "size": size_OI, "obd": size_OI * torch.outer(g_O, a_I),
    }  # fmt: skip
    for masses, mass_OI in expected.items():
        assert torch.allclose(KFAC(masses=masses).ranked(layer).dense(), mass_OI.double())


def test_a_row_of_the_report_by_hand():
    layer = next(iter(EditData(DATA, KFAC().sees, CACHE).curvature(MODEL, KFAC()).layers.values()))
    half = torch.full(layer.mass.shape, 0.5, dtype=torch.float64)
    kept = filtered(layer.coordinates_OI, half)
    assert torch.equal(kept, layer.coordinates_OI / 2)
    row = layer_row("it", layer, half, kept)
    assert (row["layer"], row["pairs"], row["pairs_kept"]) == ("it", half.numel(), half.numel() / 2)
    assert row["mass_kept"] == pytest.approx(0.5)
    assert row["relative_change"] == pytest.approx(0.5, rel=1e-5)
    assert (row["clamped_a"], row["clamped_g"]) == (layer.basis.clamped_a, layer.basis.clamped_g)
    nothing = dataclasses.replace(layer, mass=DenseMass(torch.zeros(layer.mass.shape)))
    assert layer_row("it", nothing, half, kept)["mass_kept"] == 1.0
    assert layer_row("it", layer, torch.full_like(half, 1 / 3), kept)["pairs_kept"] == round(half.numel() / 3, 3)
    mask = torch.rand(half.shape, generator=torch.Generator().manual_seed(0)) < 0.3
    masked = filtered(layer.coordinates_OI, mask)
    assert torch.equal(masked, layer.coordinates_OI * mask)
    row = layer_row("it", layer, mask, masked)
    assert row["pairs_kept"] == int(mask.sum())
    assert row["mass_kept"] == pytest.approx(float(layer.mass.dense()[mask].sum()) / layer.mass.total)


def test_the_change_of_nothing_is_none():
    assert relative_change(torch.zeros(3), torch.zeros(3)) == 0
    assert relative_change(torch.tensor([3.0, 4.0]), torch.tensor([3.0, 1.0])) == pytest.approx(0.6)
