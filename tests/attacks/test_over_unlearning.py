import dataclasses
import math

import pytest
import torch
from attacked import generator

from vitmem.attacks import attacks
from vitmem.attacks.over_unlearning import at_distance, jensen_shannon, places
from vitmem.models.build import with_weights


def test_images_lie_at_their_distance_in_random_directions():
    image = torch.full((3, 2, 8, 8), 0.5)
    moved = at_distance(image, generator(), eps=0.1)
    torch.testing.assert_close((moved - image).square().mean((1, 2, 3)).sqrt(), torch.full((3,), 0.1))
    assert not torch.allclose(moved[0], moved[1])
    assert torch.equal(at_distance(image, generator(), eps=0.0), image)


def test_divergence_by_hand():
    one, other = torch.tensor([[1.0, 0.0], [0.5, 0.5]]).double(), torch.tensor([[0.0, 1.0], [0.5, 0.5]]).double()
    assert jensen_shannon(one, other).tolist() == pytest.approx([math.log(2), 0.0])
    half = torch.tensor([[0.5, 0.5]]).double()
    by_hand = 0.5 * math.log(1 / 0.75) + 0.5 * (0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25))
    assert jensen_shannon(one[:1], half).item() == pytest.approx(by_hand)


def test_near_is_nearest_and_far_is_far(data):
    found = places(data, 1000, generator())
    examples = data.train_examples
    assert found["forget"].index.tolist() == examples.index[examples.is_noisy].tolist()
    clean = examples.index[~examples.is_noisy].tolist()
    pixels = examples.image.double().flatten(1)
    least = {c: min(float((pixels[c] - pixels[f]).norm()) for f in found["forget"].index) for c in clean}
    nearest = {min(clean, key=lambda c, f=f: float((pixels[c] - pixels[f]).norm())) for f in found["forget"].index}
    assert set(found["near"].index.tolist()) == nearest
    far = found["far"].index.tolist()
    assert not set(far) & nearest
    assert all(least[c] >= sorted(least.values())[(len(least) - 1) // 2] - 1e-9 for c in far)
    assert len(far) <= len(nearest)


def test_a_model_that_answers_as_base_loses_nothing_and_a_constant_one_nearly_everything(data, model, known):
    attack = attacks()["over_unlearning"](eps=(0.0, 0.2), draws=2)
    rows = attack.apply(with_weights(model, dict(model.state_dict())), known, generator()).rows
    assert [(row["place"], row["eps"]) for row in rows] == [
        (p, e) for p in ("forget", "near", "far") for e in (0.0, 0.2)
    ]
    asked = [row for row in rows if row["lost_n"]]
    assert asked
    assert all(row["lost"] == 0 for row in asked)
    assert all(row["divergence"] == 0 for row in rows)
    state = dict(model.state_dict())
    state["head.weight"] = torch.zeros_like(state["head.weight"])
    state["head.bias"] = torch.tensor([0.0, 0.0, 50.0, 0.0, 0.0])  # always says 2
    constant = attack.apply(with_weights(model, state), known, generator()).rows
    for row, same in zip(constant, rows, strict=True):
        assert (row["lost_n"], row["base_right"]) == (same["lost_n"], same["base_right"])  # of base
        assert 0 < row["divergence"] <= math.log(2)
    base_right = {row["place"]: row["base_right"] for row in rows if row["eps"] == 0}
    near = places(data, 1000, generator())["near"]
    assert constant[2]["lost_n"] == round(base_right["near"] * len(near))
    assert sum(row["lost"] * row["lost_n"] for row in constant if row["lost_n"]) > 0


def test_it_needs_the_unedited_model(model, known):
    with pytest.raises(ValueError, match="compares with the unedited model"):
        attacks()["over_unlearning"]().apply(
            model, dataclasses.replace(known, reference=lambda name: None), generator()
        )
