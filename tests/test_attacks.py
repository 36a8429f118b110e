"""Attacks: each leaves the model as it is, measures what it says, and is stored once."""

import copy
import dataclasses
import json
import math
from dataclasses import dataclass

import pytest
import torch
from cases import vit

from vitmem.attacks import attacks
from vitmem.attacks.compress import noised, of_rank, pruned
from vitmem.attacks.contract import AttackData
from vitmem.attacks.finetune import fine_tune, fine_tuned
from vitmem.attacks.quantize import by_torchao, codes, grid, quantized, same_bucket
from vitmem.attacks.relearn import Relearn, marks, split
from vitmem.attacks.scoring import SCORED, both_halves, evenly, score, scored, scoring_sets
from vitmem.attacks.sequential import Sequential
from vitmem.attacks.views import Views
from vitmem.curvature.layers import linear_maps
from vitmem.datamodules.module import MemorisationData
from vitmem.datamodules.noise import Symmetric
from vitmem.datamodules.sources import DataSet, ImageData
from vitmem.editing.contract import EditDiverged, EditResult
from vitmem.evaluation import metrics
from vitmem.evaluation.predict import TRAIN, predict
from vitmem.models.build import with_weights
from vitmem.models.layers import select_layers

# How a tiny model is attacked in a fraction of a second.
SMALL = {
    "relearn": {"arms": ("retain", "retain+2", "noisy", "unrelated", "drift"), "steps": 3, "batch_size": 8},
    "quantize": {"bits": (8, 3), "groups": (8,)},
    "views": {},
    "compress": {"draws": 2},
    "sequential": {"rounds": 2},
}


@dataclass(frozen=True)
class Random(DataSet):
    """Random images."""

    def load(self):
        generator = torch.Generator().manual_seed(3)
        image = torch.randint(256, (60, 1, 8, 8), generator=generator, dtype=torch.uint8)
        label = torch.randint(5, (60,), generator=generator)
        return ImageData(image[:40], label[:40], image[40:], label[40:], tuple("abcde"))


@pytest.fixture(scope="module")
def data():
    return MemorisationData(Random(), Symmetric(rate=0.5))


@pytest.fixture
def model():
    return vit(dtype=torch.float32).eval()


@pytest.fixture
def known(data, model, tmp_path):
    """What an attack may use: the attacked model is its own base, and there is no retrain."""
    return AttackData(data, "edit", lambda name: model if name == "base" else None, tmp_path, again=halved)


def halved(model):
    return EditResult({name: value / 2 for name, value in model.state_dict().items()}, {})


def generator():
    return torch.Generator().manual_seed(5)


@pytest.mark.parametrize("name", sorted(SMALL))
def test_an_attack_leaves_the_model_as_it_is_and_comes_out_the_same_twice(name, model, known):
    attack = attacks()[name](**SMALL[name])
    before = copy.deepcopy(model.state_dict())
    first = attack.apply(model, known, generator())
    again = attack.apply(model, known, generator())
    assert json.dumps(first.rows) == json.dumps(again.rows)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert not model.training
    assert all(p.grad is None for p in model.parameters())
    settings = [tuple(row[key] for key in attack.settings) for row in first.rows]
    assert len(settings) == len(set(settings)) > 1
    assert all(row["memorized_accuracy_n"] > 0 for row in first.rows)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("relearn", {"arms": ("retain+x",)}, "arms: 'retain+x' is none of"),
        ("relearn", {"arms": ()}, "at least one"),
        ("relearn", {"lrs": (0.0,)}, "lrs: 0.0"),
        ("relearn", {"steps": 0}, "steps is 0"),
        ("quantize", {"bits": (1,)}, "1 bits"),
        ("quantize", {"groups": (0,)}, "groups: 0"),
        ("views", {"shift": 0.5}, "shift is 0.5"),
        ("views", {"jpeg": (101,)}, "jpeg: 101"),
        ("views", {"crops": (0.0,)}, "crops: 0.0"),
        ("compress", {"rank": (0.0,)}, "rank: 0.0"),
        ("compress", {"prune": (1.5,)}, "prune: 1.5"),
        ("compress", {"noise": (math.nan,)}, "noise: nan"),
        ("sequential", {"rounds": 0}, "rounds is 0"),
    ],
)
def test_options_out_of_range(name, options, words):
    with pytest.raises(ValueError, match=words.replace("+", r"\+")):
        attacks()[name](**options)


# Scoring


def test_evenly_spaced_positions():
    assert evenly(10, 4).tolist() == [0, 2, 5, 7]
    assert evenly(3, 5).tolist() == [0, 1, 2]
    assert evenly(0, 5).tolist() == []


def test_both_halves_of_validation_are_sampled_alike():
    for n, limit in ((4000, 2000), (10, 5), (11, 4), (3, 9)):
        found = both_halves(n, limit)
        assert len(found) == min(n, limit)
        assert found.tolist() == sorted(set(found.tolist()))
        assert 0 <= int((found % 2 == 0).sum()) - int((found % 2 == 1).sum()) <= 1


def test_scores_of_all_examples_are_the_ordinary_metrics(data, model):
    expected = metrics.compute(predict(model, dict(enumerate(data.val_dataloader()))))
    found = score(model, scoring_sets(data, 1000))
    for name in SCORED:
        assert found[name] == pytest.approx(expected[name].value, rel=1e-6)
    assert found["validation_accuracy_n"] == 20
    few = score(model, scoring_sets(data, 3))
    assert [few[f"{name}_n"] for name in ("memorized_accuracy", "clean_train_accuracy", "validation_accuracy")] == [
        3
    ] * 3


@pytest.mark.parametrize("name", sorted(SMALL))
def test_what_an_edit_knew_is_told_apart_where_it_was_a_part(name, data, model, known):
    is_known = data.train_examples.is_noisy & (torch.arange(40) % 3 == 0)
    plain = attacks()[name](**SMALL[name]).apply(model, known, generator()).rows
    rows = attacks()[name](**SMALL[name]).apply(model, dataclasses.replace(known, known=is_known), generator()).rows
    if name != "relearn":  # it shows what was known
        assert [{key: row[key] for key in before} for before, row in zip(plain, rows, strict=True)] == plain
    for row in rows:
        of, unseen = (row[f"memorized_{part}_accuracy_n"] for part in ("known", "unseen"))
        assert of + unseen == row["memorized_accuracy_n"]
        both = of * row["memorized_known_accuracy"] + unseen * row["memorized_unseen_accuracy"]
        assert both == pytest.approx(row["memorized_accuracy_n"] * row["memorized_accuracy"])
    if name != "relearn":
        assert rows[0]["memorized_known_accuracy_n"] == int(is_known.sum())


# Relearning


def test_shown_and_scored_examples_are_disjoint_in_every_arm(data, model, known):
    shown, hidden = split(data, generator())
    noisy = set(data.train_examples.index[data.train_examples.is_noisy].tolist())
    assert set(shown.index.tolist()).isdisjoint(hidden.index.tolist())
    assert set(shown.index.tolist()) | set(hidden.index.tolist()) == noisy
    assert len(shown) == len(noisy) // 2
    attack = Relearn(steps=10, batch_size=64)
    retain = set(range(40)) - noisy
    trained = {
        arm: attack.training(arm, model, data, shown, 0) for arm in ("retain", "retain+3", "retain+all", "noisy")
    }
    used = {arm: set(examples.index.tolist()) for arm, examples in trained.items()}
    assert used["retain"] == retain
    assert used["retain+3"] == retain | set(shown.index[:3].tolist())
    assert used["retain+all"] == retain | set(shown.index.tolist())
    assert used["noisy"] == set(shown.index.tolist())
    report = Relearn(steps=1, arms=("noisy",)).apply(model, known, generator()).report
    assert set(report["shown"]).isdisjoint(report["scored"])
    is_known = data.train_examples.is_noisy & (torch.arange(40) % 2 == 0)
    shown, hidden = split(data, generator(), is_known)
    told = set(data.train_examples.index[is_known].tolist())
    assert set(shown.index.tolist()) < told
    assert len(shown) == len(told) // 2
    assert set(hidden.index.tolist()) == noisy - set(shown.index.tolist())


def test_no_arm_is_trained_on_what_is_scored(data, model, known, monkeypatch):
    trained = {}

    def spy(model, batches, marks, *, lr):
        trained[len(trained)] = (set(batches.examples.index.tolist()), batches.batch_size, lr)
        return fine_tuned(model, batches, marks, lr=lr)

    monkeypatch.setattr("vitmem.attacks.relearn.fine_tuned", spy)
    arms = ("retain", "retain+1", "retain+all", "noisy", "drift")
    attack = Relearn(arms=arms, lrs=(1e-4, 1e-3), steps=1, batch_size=7)
    report = attack.apply(model, known, generator()).report
    assert len(trained) == 2 * len(arms)
    scored = set(report["scored"])
    assert scored
    assert all(index and index.isdisjoint(scored) for index, *_ in trained.values())
    assert [found[1:] for found in trained.values()] == [(7, 1e-4), (7, 1e-3)] * len(arms)


def test_unrelated_images_are_shuffled_alike_and_drift_learns_the_models_own_answers(data, model):
    shown, _ = split(data, generator())
    attack = Relearn(steps=10)
    unrelated = attack.training("unrelated", model, data, shown, 0)
    original = data.train_examples.image[unrelated.index]
    assert torch.equal(unrelated.image.flatten(1).sort(1).values, original.flatten(1).sort(1).values)
    moved = unrelated.image.flatten(1)[:, :, None] == original.flatten(1)[:, None, :]
    assert moved.all(0).any(1).all()  # each pixel comes from one place, the same in all images
    drift = attack.training("drift", model, data, shown, 0)
    table = predict(model, {TRAIN: data.loader(drift)})
    assert drift.given_label.tolist() == table.prediction.tolist()
    assert not data.train_examples.is_noisy[drift.index].any()


def test_relearning_starts_from_the_model_and_learns_what_it_is_shown(data, model, known):
    attack = Relearn(arms=("noisy",), lrs=(1e-3,), steps=12, batch_size=8)
    rows = attack.apply(model, known, generator()).rows
    assert [row["step"] for row in rows] == [0, 1, 2, 5, 10, 12]
    shown, hidden = split(data, generator())
    assert rows[0]["memorized_accuracy"] == score(model, {TRAIN: data.loader(hidden)})["memorized_accuracy"]
    student = fine_tune(model, data.loader(shown, 64), 40, lr=1e-2)
    assert score(student, {TRAIN: data.loader(shown)})["memorized_accuracy"] > 0.9


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


def test_arms_that_cannot_be_filled_and_divergence_are_told(model, known):
    result = Relearn(arms=("retain+500", "retain"), steps=2, lrs=(1e30,)).apply(model, known, generator())
    assert "retain+500" in result.report["skipped"][0]
    assert {row["arm"] for row in result.rows} == {"retain"}
    assert result.report["diverged"]
    assert all(math.isfinite(row["given_cross_entropy"]) for row in result.rows)


@pytest.mark.parametrize(("rate", "empty"), [(0.0, ["noisy"]), (1.0, ["retain", "drift"])])
def test_arms_without_an_example_are_skipped(model, tmp_path, rate, empty):
    known = AttackData(MemorisationData(Random(), Symmetric(rate=rate)), "base", lambda name: model, tmp_path)
    result = Relearn(arms=("retain", "noisy", "drift"), steps=1).apply(model, known, generator())
    assert result.report["skipped"] == [f"{arm}: there is no example to train on" for arm in empty]
    assert {row["arm"] for row in result.rows} == {"retain", "noisy", "drift"} - set(empty)


def test_marks_are_log_spaced():
    assert marks(200) == [0, 1, 2, 5, 10, 20, 50, 100, 200]
    assert marks(30) == [0, 1, 2, 5, 10, 20, 30]
    assert marks(1) == [0, 1]


# Quantisation

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


# Views


def test_the_identity_view_is_the_ordinary_table(data, model, known):
    rows = {row["view"]: row for row in Views().apply(model, known, generator()).rows}
    examples = data.train_examples
    table = predict(model, {TRAIN: data.loader(examples.subset(examples.is_noisy))})
    assert rows["identity"] == {"view": "identity", **scored(table)}
    single = [row["memorized_accuracy"] for name, row in rows.items() if name not in ("identity", "any", "mean")]
    assert len(single) == 1 + 8 + 2 + 4 + 3 + 2 + 2
    assert rows["any"]["memorized_accuracy"] >= max(single)
    assert rows["mean"]["memorized_accuracy"] == pytest.approx(sum(single) / len(single))


def test_views_by_hand():
    x = torch.arange(16.0).reshape(1, 1, 4, 4) / 15
    views = Views(shift=0.25, brightness=(0.5,), noise=(0.0,), jpeg=(100,)).views((1, 4, 4))
    right = views["shifted +1 +0"](x, None)
    assert torch.equal(right[..., 1:], x[..., :-1])
    assert torch.equal(right[..., 0], x[..., 1])  # reflected, without repeating the edge
    up = views["shifted +0 -1"](x, None)
    assert torch.equal(up[..., :-1, :], x[..., 1:, :])
    assert torch.equal(views["mirrored"](x, None), x.flip(-1))
    assert torch.equal(views["brightness -0.5"](x, None), x * 0.5)
    assert torch.equal(views["noise 0"](x, generator()), x)
    assert float((views["jpeg 100"](x, None) - x).abs().max()) < 0.02
    assert all(view(x, generator()).shape == x.shape for view in views.values())
    assert not any(name.startswith("jpeg") for name in Views().views((2, 4, 4)))


# Compression


def test_changes_of_weights_by_hand():
    w = torch.tensor([[3.0, -1.0], [0.5, 2.0]])
    assert pruned(w, 0.5).tolist() == [[3.0, 0.0], [0.0, 2.0]]
    assert torch.equal(pruned(w, 0.0), w)
    assert torch.equal(pruned(torch.ones(2, 2), 0.5), torch.tensor([[0.0, 0.0], [1.0, 1.0]]))  # ties: exactly half
    low = torch.outer(torch.tensor([1.0, 2, 3]), torch.tensor([1.0, -1.0]))
    torch.testing.assert_close(of_rank(low, 0.5), low)
    assert int(torch.linalg.matrix_rank(of_rank(w, 0.5))) == 1
    moved = noised(w, 0.1, generator()) - w
    assert float(moved.norm() / w.norm()) == pytest.approx(0.1, rel=1e-5)


def test_draws_of_noise_are_averaged(model, known):
    attack = attacks()["compress"](prune=(0.0,), rank=(), noise=(0.5,), draws=3)
    nothing, noise = attack.apply(model, known, generator()).rows
    assert nothing["memorized_accuracy"] == score(model, scoring_sets(known.data, 100))["memorized_accuracy"]
    assert noise["draws"] == 3
    assert noise["given_cross_entropy_sd"] > 0


# Repeated edits


def test_an_edit_is_repeated_on_its_own_result_and_a_reference_stays(data, model, known, tmp_path):
    rows = Sequential(rounds=2).apply(model, known, generator()).rows
    quarter = with_weights(model, {key: value / 4 for key, value in model.state_dict().items()})
    assert rows[2] == {"round": 2, **score(quarter, scoring_sets(data, 1000))}
    reference = AttackData(data, "base", lambda name: None, tmp_path)
    first, *rest = Sequential(rounds=2).apply(model, reference, generator()).rows
    assert [row | {"round": 0} for row in rest] == [first] * 2


def test_a_repeated_edit_that_diverges_stops(data, model, tmp_path):
    def diverges(model):
        raise EditDiverged("the loss is nan")

    result = Sequential(rounds=2).apply(
        model, AttackData(data, "e", lambda n: None, tmp_path, 0, diverges), generator()
    )
    assert [row["round"] for row in result.rows] == [0]
    assert result.report["stopped"] == "round 1: the loss is nan"
