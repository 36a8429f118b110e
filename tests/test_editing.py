import dataclasses
import itertools
import math

import pytest
import torch
from cases import TINY, vit

from vitmem.curvature.cache import CurvatureCache
from vitmem.datamodules.batch import keyed_generator
from vitmem.datamodules.digits import Digits
from vitmem.datamodules.module import MemorisationData
from vitmem.datamodules.noise import Symmetric
from vitmem.editing import edits
from vitmem.editing.auto import AutoEKFAC, choose
from vitmem.editing.data import EditData
from vitmem.editing.finetune import FineTune
from vitmem.editing.kfac import EKFAC, KFAC, RandomPairs, TopRemoved
from vitmem.editing.polish import PolishedEKFAC
from vitmem.editing.svd import SVD
from vitmem.models.build import create
from vitmem.models.config import ModelConfig
from vitmem.models.layers import select_layers

DATA = MemorisationData(Digits(), Symmetric())
MODEL = create(TINY.timm_arguments((1, 8, 8), 10), seed=0).eval()
CACHE = CurvatureCache()


def apply(edit, model=MODEL, seed=0):
    return edit.apply(model, EditData(DATA, edit.sees, CACHE), keyed_generator(seed))


def quick(name):
    """Return a registered edit with its defaults, but in few passes over the data."""
    few = {"epochs": 1, "steps": 3, "tries": 3}
    options = {field.name for field in dataclasses.fields(edits()[name])}
    return edits()[name](**{option: value for option, value in few.items() if option in options})


@pytest.mark.parametrize("name", sorted(edits()))
class TestContract:
    """What every registered edit must do; a new one is enrolled by itself."""

    def test_the_model_is_not_changed(self, name):
        model = vit("token", classes=10, dtype=torch.float32)
        before = {key: value.clone() for key, value in model.state_dict().items()}
        result = apply(quick(name), model)
        assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
        assert all(p.requires_grad and p.grad is None for p in model.parameters())
        changed = [key for key, value in result.state_dict.items() if not torch.equal(value, before[key])]
        assert changed

    def test_the_weights_fit_the_model_and_are_finite(self, name):
        result = apply(quick(name))
        model = create(TINY.timm_arguments((1, 8, 8), 10))
        model.load_state_dict(result.state_dict, strict=True)
        assert all(torch.isfinite(value).all() for value in result.state_dict.values())
        assert all(value.dtype == MODEL.state_dict()[key].dtype for key, value in result.state_dict.items())

    def test_the_same_seed_gives_the_same_weights(self, name):
        one, two = (apply(quick(name), seed=4).state_dict for _ in range(2))
        assert all(torch.equal(one[key], two[key]) for key in one)

    def test_the_report_names_layers_and_cost(self, name):
        report = apply(quick(name)).report
        assert report["layers"]
        assert {"layer", "relative_change"} <= set(report["layers"][0])
        assert all(seconds >= 0 and math.isfinite(seconds) for seconds in report["seconds"].values())

    def test_options_have_defaults_and_the_main_one_exists(self, name):
        edit = edits()[name]()
        assert edit.main_option is None or hasattr(edit, edit.main_option)

    def test_a_pattern_that_matches_nothing_is_refused_before_any_work(self, name):
        if "layers" not in {field.name for field in dataclasses.fields(edits()[name])}:
            pytest.skip("all weights are edited")
        edit = edits()[name](layers="blocks.9.*")
        with pytest.raises(ValueError, match=r"'blocks.9.\*' matches no linear layer"):
            edit.check(MODEL)


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


def test_what_lumped_labels_leave_out_is_reported():
    shares = [apply(KFAC(labels="topk", top=top)).report["lumped_trace"] for top in (1, 3, 9)]
    assert shares[0] > shares[1] > shares[2] >= 0
    assert shares[2] < 1e-12
    assert apply(KFAC()).report["lumped_trace"] == 0


def test_how_the_work_is_done_does_not_change_the_edit():
    plain = apply(KFAC(moments="ekfac")).state_dict
    for how in ({"layers_per_pass": 3}, {"batch_size": 100}, {"factor_device": "cpu"}):
        edit = KFAC(moments="ekfac", **how)
        other = edit.apply(MODEL, EditData(DATA, edit.sees, CurvatureCache()), keyed_generator(0)).state_dict
        for key, value in plain.items():
            assert torch.allclose(other[key], value, atol=1e-4 * float(value.abs().max()))


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
    masks = edit.weights(layers, keyed_generator(0))
    kept = sum(float(layers[n].mass.dense()[mask].sum()) for n, mask in masks.items())
    total = sum(layer.mass.total for layer in layers.values())
    assert kept >= 0.8 * total
    smallest = min(float(layers[n].mass.dense()[m].min()) for n, m in masks.items() if m.any())
    assert all(float(layers[n].mass.dense()[~m].max()) <= smallest for n, m in masks.items() if not m.all())


def test_a_steep_graded_filter_is_the_hard_one():
    hard, steep = KFAC(rho=0.8, scope="global"), KFAC(rho=0.8, scope="global", filter="graded", exponent=1e7)
    layers = EditData(DATA, hard.sees, CACHE).curvature(MODEL, hard).layers
    masks, filters = (edit.weights(layers, keyed_generator(0)) for edit in (hard, steep))
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


def test_the_choice_of_rho_sees_validation_but_no_label_of_a_training_example():
    auto = AutoEKFAC(rhos="0.9 0.5", exponents="0.5 1")
    result = apply(auto)
    assert auto.sees == {"unlabeled", "validation"}
    rows = result.report["candidates"]
    assert [(row["rho"], row["exponent"]) for row in rows[1:]] == [(0.9, 0.5), (0.5, 0.5), (0.9, 1.0), (0.5, 1.0)]
    choice = result.report["choice"]
    assert choice["tuning_accuracy"] >= max(row["tuning_accuracy"] for row in rows) - result.report["tolerance"]
    chosen = apply(EKFAC(rho=choice["rho"], exponent=choice["exponent"])).state_dict
    assert all(torch.equal(value, chosen[key]) for key, value in result.state_dict.items())
    hidden = next(iter(EditData(DATA, auto.sees).images(auto)))
    assert (hidden.given_label == -1).all()
    for options in ({"rhos": "a"}, {"rhos": ""}, {"exponents": "-1"}, {"rhos": "2"}):
        with pytest.raises(ValueError, match=r"rhos and exponents|exponent is -1|rho is 2"):
            AutoEKFAC(**options)


def test_the_strongest_edit_that_validation_cannot_tell_from_the_best():
    rows = [{"tuning_accuracy": a, "changed": c} for a, c in ((0.90, 0.0), (0.92, 0.1), (0.91, 0.2), (0.80, 0.9))]
    assert choose(rows, 0.015) == rows[2]
    assert choose(rows, 0.005) == rows[1]
    assert choose(rows, 0.5) == rows[3]


def test_polishing_is_the_edit_and_then_fine_tuning_on_what_is_right():
    polished = PolishedEKFAC(rho=0.6, steps=5, lr=1e-3)
    assert polished.sees == {"retain"}
    model = create(TINY.timm_arguments((1, 8, 8), 10)).eval()
    model.load_state_dict(apply(EKFAC(rho=0.6, noisy="excluded")).state_dict)
    healing = FineTune(lr=1e-3, steps=5, batch_size=64, optimiser="adamw", weight_decay=0.0)
    expected, found = apply(healing, model).state_dict, apply(polished).state_dict
    assert all(torch.equal(found[key], value) for key, value in expected.items())


@pytest.mark.parametrize("options", [{"noisy": "included"}, {"labels": "given"}, {"split": "validation"}])
def test_polishing_may_not_tell_unknown_wrong_labels_by_elimination(options):
    with pytest.raises(ValueError, match="noisy: "):
        PolishedEKFAC(**options)


@pytest.mark.parametrize("options", [{"steps": 0}, {"lr": 0.0}, {"step_size": 0}])
def test_options_of_polishing_out_of_range(options):
    with pytest.raises(ValueError, match=f"{next(iter(options))} is 0"):
        PolishedEKFAC(**options)


def test_the_cost_of_vit_base_is_foreseen_without_building_it():
    from vitmem.curvature.cost import layer_costs
    from vitmem.curvature.layers import linear_maps

    model = create(ModelConfig().timm_arguments((3, 224, 224), 1000), device="meta")
    costs = layer_costs(linear_maps(select_layers(model, "blocks.{0,11}.mlp.*")), "ekfac", "float32")
    assert [(c.outputs, c.inputs) for c in costs] == [(3072, 768), (768, 3072)] * 2
    assert all(c.disk == 4 * (3072**2 + 768**2 + 3072 * 768) for c in costs)


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


def test_svd_keeps_the_best_approximation_of_its_rank():
    result = apply(SVD(keep=0.3))
    for name, layer in select_layers(MODEL, "blocks.*").items():
        after = result.state_dict[f"{name}.weight"].double()
        singular = torch.linalg.svdvals(layer.weight.detach().double())
        rank = math.ceil(0.3 * len(singular))
        assert torch.linalg.matrix_rank(after, rtol=1e-5) == rank
        error = torch.linalg.norm(after - layer.weight.detach().double())
        assert error == pytest.approx(float(singular[rank:].square().sum().sqrt()), rel=1e-4)  # Eckart-Young


def test_edits_read_only_what_they_declare():
    data = EditData(DATA, frozenset({"unlabeled"}))
    batch = next(iter(data.unlabeled(50, 50)))
    assert (batch.given_label == -1).all()
    assert (batch.true_label == -1).all()
    assert not batch.is_noisy.any()
    for kind in (data.retain, data.forget):
        with pytest.raises(PermissionError, match="declares that it sees \\['unlabeled'\\]"):
            kind(10)
    with pytest.raises(PermissionError, match="'given'"):
        data.given(10, 10)
    assert KFAC().sees == {"unlabeled"}
    assert KFAC(labels="given").sees == {"unlabeled", "given"}
    given = next(iter(EditData(DATA, frozenset({"given"})).given(50, 50)))
    assert (given.given_label >= 0).all()
    assert (given.true_label == -1).all()
    known = EditData(DATA, frozenset({"retain", "forget"}))
    assert all(not b.is_noisy.any() for b in known.retain(500))
    assert sum(int(b.is_noisy.sum()) for b in known.forget(500)) == int(DATA.manifest.is_noisy.sum())


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


@pytest.mark.parametrize("rho", [0.0, -0.1, 1.1, math.nan])
def test_rho_out_of_range(rho):
    with pytest.raises(ValueError, match=r"share of curvature mass to keep, in \(0, 1\]"):
        KFAC(rho=rho)


def test_the_class_token_of_a_model_that_pools():
    model = vit("avg", classes=10)
    with pytest.raises(ValueError, match="use tokens: all"):
        KFAC(tokens="cls").check(model)
