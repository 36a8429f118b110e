import dataclasses
import itertools

import pytest
import torch
from attacked import generator
from cases import vit
from families import FAMILIES, family, images

from vitmem.attacks import attacks
from vitmem.attacks.features import features_of, pooling_of, steered, watched
from vitmem.attacks.relearn import split
from vitmem.attacks.scoring import hidden_sets, score
from vitmem.attacks.steer import to_base, to_labels
from vitmem.models.build import with_weights


# A model of Hugging Face says more than logits until it is adopted; tests/face tries all attacks on it.
@pytest.mark.parametrize("name", [name for name in FAMILIES if "Hugging" not in name])
def test_what_a_block_says_is_moved_by_each_images_vector(name):
    model = family(name)
    image = images(7)[0]
    pooling = pooling_of(model, image[:4])
    with watched(model, pooling) as seen, torch.no_grad():
        before = model(image)
        plain = dict(seen)
    block = sum(place.startswith("blocks") for place in plain) - 1
    width = plain[f"blocks.{block}"].shape[1]
    by = torch.randn(7, width, generator=generator())
    with torch.no_grad(), steered(model, pooling, block, by), watched(model, pooling) as seen:
        halves = torch.cat([model(image[:3]), model(image[3:])])  # in the order in which images pass
        torch.testing.assert_close(seen[f"blocks.{block}"], plain[f"blocks.{block}"][3:] + by[3:], atol=1e-4, rtol=1e-4)
    assert not torch.allclose(halves, before, atol=1e-3)
    with torch.no_grad():
        assert torch.equal(model(image), before)  # no hook is left
    with torch.no_grad(), steered(model, pooling, block, 0 * by):
        assert torch.equal(model(image), before)


def test_positions_that_the_classifier_does_not_read_stay(data):
    model = vit(dtype=torch.float32).eval()
    image = next(iter(data.loader(data.train_examples))).image[:3]
    pooling, said = pooling_of(model, image), []
    handle = model.blocks[0].register_forward_hook(lambda module, inputs, output: said.append(output))
    by = torch.ones(3, 16)
    with torch.no_grad():
        model(image)
        handle.remove()
        with steered(model, pooling, 0, by):
            handle = model.blocks[0].register_forward_hook(lambda module, inputs, output: said.append(output))
            model(image)
            handle.remove()
    torch.testing.assert_close(said[1] - said[0], torch.eye(5)[0][None, :, None].expand(3, 5, 16), atol=1e-5, rtol=0)


def test_directions_by_hand(data, model, known):
    half = with_weights(model, {name: value / 2 for name, value in model.state_dict().items()})
    shown, _ = split(data, generator())
    of_base, of_half = features_of(model, data, shown), features_of(half, data, shown)
    found = to_base(half, known, shown)
    torch.testing.assert_close(found["blocks.1"], (of_base["blocks.1"].mean(0) - of_half["blocks.1"].mean(0))[None])
    assert not to_base(model, known, shown)["blocks.1"].any()
    clean = data.train_examples.subset(data.train_examples.to_retain)
    clean = clean.subset(clean.given_label != 4)
    features = features_of(model, data, clean)["blocks.0"]
    mean = torch.stack([features[clean.given_label == c].mean(0) for c in range(4)])
    expected = torch.cat([mean - mean.mean(0), torch.zeros(1, 16)])
    torch.testing.assert_close(to_labels(model, data, clean)["blocks.0"], expected, atol=1e-5, rtol=1e-4)


def test_each_image_is_steered_to_its_label_and_to_others_as_a_control(data, model, known):
    attack = attacks()["steer"](directions=("label",), depths=(1.0,), alphas=(3.0,), per_class=40, controls=3)
    plain, strong = attack.apply(model, known, generator()).rows
    _, hidden = split(data, generator())
    metrics = score(model, hidden_sets(data, hidden, 1000))
    assert {key: plain[key] for key in metrics} == metrics
    assert strong["place"] == "blocks.1"
    # What follows the last block, by hand: norm and head of the moved class token.
    towards = to_labels(model, data, data.train_examples.subset(data.train_examples.to_retain))["blocks.1"]
    token = features_of(model, data, hidden)["blocks.1"]

    def said(label):
        return model.head(model.norm(token + 3 * towards[label])).argmax(1)

    own = said(hidden.given_label)
    assert strong["memorized_accuracy"] == pytest.approx(float((own == hidden.given_label).double().mean()))
    assert strong["ground_truth_accuracy"] == pytest.approx(float((own == hidden.true_label).double().mean()))
    hits = {}
    for step in range(1, 5):
        label = (hidden.given_label + step) % 5
        hits[step] = (said(label) == label)[label != hidden.true_label]
    sizes = {sum(len(hits[s]) for s in chosen) for chosen in itertools.combinations(hits, 3)}
    assert strong["other_label_n"] in sizes
    chance = {float(torch.cat([hits[s] for s in c]).double().mean()) for c in itertools.combinations(hits, 3)}
    assert any(strong["other_label"] == pytest.approx(value) for value in chance)


def test_what_was_moved_out_of_the_way_is_found_again_by_one_vector(data, model, known):
    """An edit that took one vector from what the last block says is undone by the direction to base."""
    edited = vit(dtype=torch.float32).eval()
    bias = edited.blocks[1].mlp.fc2.bias
    with torch.no_grad():
        bias -= 3 * torch.randn(16, generator=generator())
    attack = attacks()["steer"](directions=("base",), depths=(1.0,), alphas=(1.0,))
    before, after = attack.apply(edited, known, generator()).rows
    whole = attack.apply(model, known, generator()).rows[0]
    assert before["given_cross_entropy"] != pytest.approx(whole["given_cross_entropy"], abs=1e-2)
    assert {**after, "alpha": 0.0} == pytest.approx(whole, abs=1e-4)


def test_without_the_unedited_model_only_labels_steer(model, known):
    alone = dataclasses.replace(known, reference=lambda name: None)
    with pytest.raises(ValueError, match="the direction base needs the unedited model"):
        attacks()["steer"]().apply(model, alone, generator())
    assert attacks()["steer"](directions=("label",), alphas=(1.0,)).apply(model, alone, generator()).rows
