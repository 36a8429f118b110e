import copy
import dataclasses
import json
import math

import pytest
import torch
from attacked import generator

from vitmem.attacks import attacks

# How a tiny model is attacked in a fraction of a second.
SMALL = {
    "relearn": {"arms": ("retain", "retain+2", "noisy", "unrelated", "drift"), "steps": 3, "batch_size": 8},
    "quantize": {"bits": (8, 3), "groups": (8,)},
    "views": {},
    "compress": {"draws": 2},
    "sequential": {"rounds": 2},
    "prototype": {"examples_per_class": (1, 20), "draws": 2},
    "steer": {"alphas": (1.0,), "per_class": 2, "controls": 2},
}
SHOW = ("relearn", "prototype", "steer")  # show labels that were known


@pytest.mark.slow
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
        ("views", {"degrees": (-1.0,)}, "degrees: -1"),
        ("views", {"degrees": (181.0,)}, "degrees: 181"),
        ("views", {"brightness": (-0.1,)}, "brightness: -0.1"),
        ("views", {"brightness": (1.1,)}, "brightness: 1.1"),
        ("views", {"noise": (-0.1,)}, "noise: -0.1"),
        ("compress", {"rank": (0.0,)}, "rank: 0.0"),
        ("compress", {"prune": (1.5,)}, "prune: 1.5"),
        ("compress", {"noise": (math.nan,)}, "noise: nan"),
        ("sequential", {"rounds": 0}, "rounds is 0"),
        ("relearn", {"within": "half"}, "within is 'half'; choose from all, removed, complement, random"),
        ("relearn", {"rank": 0.0}, "rank is 0.0"),
        ("prototype", {"examples_per_class": ()}, "at least one"),
        ("prototype", {"examples_per_class": (0,)}, "examples_per_class: 0"),
        ("prototype", {"alphas": (1.5,)}, "alphas: 1.5"),
        ("prototype", {"draws": 0}, "draws is 0"),
        ("steer", {"directions": ("up",)}, "directions: 'up' is none of base, label"),
        ("steer", {"depths": ()}, "at least one"),
        ("steer", {"depths": (0.0,)}, "depths: 0.0"),
        ("steer", {"alphas": (0.0,)}, "alphas: 0.0"),
        ("steer", {"controls": 0}, "controls is 0"),
        ("over_unlearning", {"eps": ()}, "at least one"),
        ("over_unlearning", {"eps": (-0.1,)}, "eps: -0.1"),
        ("over_unlearning", {"draws": 0}, "draws is 0"),
    ],
)
def test_options_out_of_range(name, options, words):
    with pytest.raises(ValueError, match=words.replace("+", r"\+")):
        attacks()[name](**options)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(SMALL))
def test_what_an_edit_knew_is_told_apart_where_it_was_a_part(name, data, model, known):
    is_known = data.train_examples.is_noisy & (torch.arange(40) % 3 == 0)
    plain = attacks()[name](**SMALL[name]).apply(model, known, generator()).rows
    rows = attacks()[name](**SMALL[name]).apply(model, dataclasses.replace(known, known=is_known), generator()).rows
    if name not in SHOW:
        assert [{key: row[key] for key in before} for before, row in zip(plain, rows, strict=True)] == plain
    for row in rows:
        of, unseen = (row[f"memorized_{part}_accuracy_n"] for part in ("known", "unseen"))
        assert of + unseen == row["memorized_accuracy_n"]
        both = of * row["memorized_known_accuracy"] + unseen * row["memorized_unseen_accuracy"]
        assert both == pytest.approx(row["memorized_accuracy_n"] * row["memorized_accuracy"])
    if name not in SHOW:
        assert rows[0]["memorized_known_accuracy_n"] == int(is_known.sum())
