import dataclasses
import itertools

import numpy as np
import pytest
import torch
from families import family, images

from vitmem.analysis.attended import attention_of
from vitmem.analysis.contract import MadeEdit
from vitmem.analysis.directions import Directions, best_edits, entropy, grid_of, pictures
from vitmem.analysis.responses import Means, responses, share_of
from vitmem.curvature.layers import linear_maps
from vitmem.datamodules.batch import Examples, InMemoryLoader
from vitmem.models.attention import opened
from vitmem.models.layers import select_layers
from vitmem.models.outputs import with_logits
from vitmem.runs.analyse import stored_arrays, stored_scores
from vitmem.runs.trained import TrainedRun


def draws(seed=0):
    return torch.Generator().manual_seed(seed)


def test_the_share_has_the_p_value_of_counting_all_draws():
    member = torch.tensor([True, True, True, False, False, False, False])
    counts = [int(member[list(top)].sum()) for top in itertools.combinations(range(7), 3)]
    for top in ([0, 1, 2], [0, 1, 6], [0, 5, 6], [4, 5, 6]):
        found, k = share_of(torch.tensor(top), member), int(member[top].sum())
        tails = [np.mean([count <= k for count in counts]), np.mean([count >= k for count in counts])]
        assert found["share"] == k / 3
        assert found["null"] == pytest.approx(np.mean(counts) / 3)
        assert found["p"] == pytest.approx(min(1, 2 * min(tails)))
        assert 0 <= found["null_low"] <= found["null"] <= found["null_high"] <= 1


def test_means_have_the_standard_errors_of_the_textbook():
    x, means = torch.randn(11, 3, generator=draws()), Means()
    for part in x.split(4):
        means.add("a", part)
    mean, error = means.of("a")
    torch.testing.assert_close(mean, x.double().mean(0))
    torch.testing.assert_close(error, x.double().std(0) / 11**0.5)


@pytest.mark.parametrize("of", ["outputs", "inputs"])
def test_responses_are_those_of_the_definition(known, model, data, of):
    layer = known.curvature(model, Directions()).layers["blocks.1.mlp.fc1"]
    seen, found = [], []
    examples = data.train_examples.subset(torch.arange(5))
    handle = layer.map.module.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].detach()))
    axes = {"x": Directions(of=of).axes(layer)}
    responses(model, data, examples, {"x": layer.map}, axes, "all", lambda name, r: found.append(r))
    handle.remove()
    w, u, v = layer.map.matrix(), layer.basis.u_g_OO.float(), layer.basis.u_a_II.float()
    for i in (0, 3):
        per_token = [[float((u[:, i] @ w @ a) if of == "outputs" else v[:, i] @ a) ** 2 for a in b] for b in seen[0]]
        assert found[0][:, i].tolist() == pytest.approx([np.mean(row) for row in per_token], rel=1e-3)


def test_components_are_of_the_largest_and_smallest_curvature(known, model):
    layer = known.curvature(model, Directions()).layers["blocks.0.attn.qkv"]
    size = len(layer.basis.lambda_O)
    flat = torch.zeros(size, dtype=torch.float64), torch.ones(size, dtype=torch.float64)
    apart = (torch.arange(size).eq(2).double(), flat[1])
    chosen = Directions(components=2).chosen(layer, apart, flat)
    curvature = layer.mass.dense().double().sum(1)
    real = curvature.sort(descending=True).indices[: int((curvature > 1e-6 * curvature.max()).sum())].tolist()
    assert [i for kind, i, _ in chosen if kind == "top"] == real[:2]
    assert [i for kind, i, _ in chosen if kind == "bottom"] == real[:-3:-1]
    assert next(i for kind, i, _ in chosen if kind == "differs") == 2
    assert all(value == pytest.approx(float(curvature[i])) for _, i, value in chosen)


def test_groups_that_are_dealt_at_random_come_out_null(known, model, data, monkeypatch):
    everyone = data.train_examples.subset(torch.randperm(40, generator=draws(2)))
    halves = everyone.subset(torch.arange(20)), everyone.subset(torch.arange(20, 40))
    monkeypatch.setattr(type(known), "groups", lambda self, most, generator: halves)
    found = Directions(permutations=99, strongest=6).apply(model, known, draws())
    single = [row for row in found.rows if row["measure"] == "component" and row["layer"] != "all"]
    assert {row["null"] for row in single} == {0.5}
    assert np.mean([row["p"] < 0.05 for row in single]) < 0.15
    assert np.mean([row["share"] for row in single]) == pytest.approx(0.5, abs=0.15)
    whole = [row for row in found.rows if row["measure"] == "component" and row["layer"] == "all"]
    assert [row["kind"] for row in whole] == ["top", "bottom", "differs", "random"]
    assert all(row["p"] > 0.01 and row["null"] == pytest.approx(0.5, abs=0.1) for row in whole)


def test_a_component_that_answers_to_memorised_images_is_found(known, model, monkeypatch):
    """Planted: memorised images are white. Components are chosen on one half, their images found in the other."""
    memorised, clean = known.groups(40, draws())
    white = dataclasses.replace(memorised, image=torch.full_like(memorised.image, 255))
    monkeypatch.setattr(type(known), "groups", lambda self, most, generator: (white, clean))
    count = len(memorised) // 2
    found = Directions(permutations=99, strongest=count).apply(model, known, draws())
    first = [r for r in found.rows if (r["kind"], r["layer"]) == ("differs", "blocks.0.attn.qkv")]
    assert max(row["share"] for row in first) == 1
    assert min(row["p"] for row in first) < 0.01
    (best,) = [row for row in first if row["share"] == 1][:1]
    shown = {best[f"image_{i}"] for i in range(1, count + 1)}
    assert shown <= set(memorised.index.tolist())
    assert best["response_memorised"] > best["response_clean"]


def test_pictures_are_the_images(data):
    found = pictures(data, {7, 3, 11})
    assert found["index"].tolist() == [3, 7, 11]
    assert torch.equal(found["image"], data.data.train_image[[3, 7, 11]].permute(0, 2, 3, 1))
    assert torch.equal(found["memorised"], data.train_examples.to_forget[[3, 7, 11]])


class Images:
    """Serves the images of the families' tests."""

    def __init__(self, image):
        self.image = image

    def loader(self, examples, batch_size=4):
        return InMemoryLoader(examples, batch_size, (0.0,) * 3, (1.0,) * 3)


def served(count=7):
    image, given, true = images(count)
    return Images(image), Examples(image, given, true, torch.arange(count))


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["timm vit", "timm deit3", "timm deit, distilled", "torchvision vit", "Hugging Face ViT"]
)
def test_attention_is_that_of_the_model_itself(name):
    model = with_logits(opened(family(name)))
    data, examples = served()
    seen = []
    if name.startswith("timm"):
        attention = model.blocks[-1].attn
        attention.fused_attn = False
        attention.attn_drop.register_forward_hook(lambda module, inputs, output: seen.append(output))
    found = attention_of(model, data, examples)
    torch.testing.assert_close(found.sum(1), torch.ones(7, dtype=torch.float64), rtol=1e-5, atol=0)
    assert len({round(float(row[0]), 6) for row in found}) > 1
    assert not any(module._forward_pre_hooks for module in model.modules())
    if (
        name == "timm vit"
    ):  # of a batch's passes the first looks for what the classifier reads, which is the class token
        weight = torch.cat([part for part in seen if len(part) in (4, 3)][-2:])
        torch.testing.assert_close(found, weight.mean(1)[:, 0].double(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["timm eva02", "timm beit", "timm swin", "plain CNN", "ResNet"])
def test_attention_that_is_more_than_queries_and_keys_is_not_shown(name):
    data, examples = served()
    with pytest.raises(ValueError, match=r"more than softmax|no projections"):
        attention_of(opened(family(name)), data, examples)


@pytest.mark.parametrize("name", ["timm swin", "torchvision vit", "plain CNN", "ResNet"])
def test_every_image_has_one_response_whatever_the_family(name):
    """Of a model that attends in windows, the mean over all windows: each image alone has the response it has here."""
    model = opened(family(name))
    data, examples = served(5)
    maps = linear_maps(select_layers(model, "blocks.*"))
    axes = {layer: torch.eye(m.inputs)[:, :2] for layer, m in maps.items()}

    def asked(part):
        found = {layer: [] for layer in maps}
        responses(model, data, part, maps, axes, "all", lambda layer, r: found[layer].append(r))
        return {layer: torch.cat(parts) for layer, parts in found.items()}

    alone = [asked(examples.subset(torch.tensor([i]))) for i in range(5)]
    for layer, r_NR in asked(examples).items():
        torch.testing.assert_close(r_NR, torch.cat([found[layer] for found in alone]), rtol=1e-4, atol=1e-5)


def test_attention_before_and_after_nothing_is_the_same(known, model, data, monkeypatch):
    memorised, _ = known.groups(40, draws())
    flips = torch.arange(len(memorised)) % 2 == 0
    answers = type("Answers", (), {"prediction": torch.where(flips, -1, memorised.given_label)})
    monkeypatch.setattr("vitmem.analysis.directions.answers_of", lambda *arguments: answers)
    rows, maps = Directions(permutations=99).attended(model, model, known, memorised, draws())
    assert [(row["kind"], row["count"]) for row in rows] == [
        ("flipped", int(flips.sum())),
        ("unflipped", int((~flips).sum())),
    ]
    for row in rows:
        assert row["overlap"] == pytest.approx(1)
        assert row["overlap_null"] < 0.999
        assert row["entropy_before"] == row["entropy_after"]
        assert row["p_overlap"] > 0.05
    assert maps["attention_before"].shape[1:] == (2, 2)  # of 8 x 8 pixels in patches of 4, without the class token
    assert torch.equal(
        maps["attention_index"], memorised.index[torch.cat([mask.nonzero()[:6, 0] for mask in (flips, ~flips)])]
    )


def test_entropy_and_grids_by_hand():
    assert entropy(torch.tensor([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]])).tolist() == pytest.approx([np.log(2), 0])
    assert grid_of(197, (224, 224)) == grid_of(196, (224, 224)) == (14, 14)
    assert grid_of(5, (8, 8)) == (2, 2)
    assert grid_of(3 + 8, (32, 16)) == (4, 2)
    assert grid_of(90, (224, 224)) is None


def test_the_best_edit_halves_memory_and_has_the_best_ground_truth(known):
    table = known.table("base")
    forget = np.flatnonzero((table.split == 0) & table.to_forget)

    def told(name):
        removed, right = {"base": (0, 0), "weak": (0.4, 0.4), "best": (0.6, 0.5), "strong": (0.9, 0.2)}[name]
        prediction = table.prediction.copy()
        prediction[forget[: round(removed * len(forget))]] = -1
        prediction[forget[: round(right * len(forget))]] = table.true[forget[: round(right * len(forget))]]
        return dataclasses.replace(table, prediction=prediction)

    data = dataclasses.replace(
        known, table=told, edits=lambda: dict.fromkeys(("weak", "strong", "best"), MadeEdit("", "", 0.0))
    )
    assert best_edits(data) == ["best", "strong"]


@pytest.mark.slow
def test_what_cannot_be_asked_is_told(known, model):
    with pytest.raises(ValueError, match="edit is 'kfak', which no usable edit of this run fits"):
        Directions(edit="kfak").apply(model, known, draws())
    with pytest.raises(ValueError, match="moments is inputs, which orders no outputs"):
        Directions(moments="inputs")
    found = Directions(components=1, permutations=2).apply(
        model, dataclasses.replace(known, subject="retrain"), draws()
    )
    assert found.report["skipped"] == ["attention: edits are of the base model"]
    assert {row["measure"] for row in found.rows} == {"component"}


def test_images_are_stored_beside_the_rows_and_beside_the_table(cli, run_folder):
    ask = [
        "analyse",
        run_folder,
        "{name: directions, components: 1, permutations: 3, layers: 'blocks.0.*'}",
        "--of=base",
    ]
    code, _, errors = cli(*ask)
    assert code == 0, errors
    run = TrainedRun.open(run_folder)
    arrays = stored_arrays(run, "directions")
    assert arrays["image"].dtype == np.uint8
    assert stored_scores(run, "directions") == {}
    with np.load(run_folder / "analyses" / "directions.npz") as beside:
        assert np.array_equal(beside["index"], arrays["index"])
