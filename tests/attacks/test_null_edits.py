"""An edit that changes nothing is attacked as base is: every attack returns the same numbers."""

import copy
import json

import pytest
import torch
from attacked import CONFIG
from cases import TINY, vit

from vitmem.attacks import attacks
from vitmem.attacks.contract import AttackData
from vitmem.datamodules.batch import keyed_generator
from vitmem.datamodules.digits import Digits
from vitmem.datamodules.module import MemorisationData
from vitmem.datamodules.noise import Symmetric
from vitmem.editing import edits
from vitmem.editing.data import EditData
from vitmem.figures.tables import ATTACK_TEXT
from vitmem.models.build import create, with_weights
from vitmem.runs.fresh import recipe_of

pytestmark = pytest.mark.slow

# How each attack is made in about a second. A new attack needs a line.
SMALL = {
    "relearn": {"arms": ("retain", "noisy"), "steps": 2, "batch_size": 8, "examples": 50},
    "quantize": {"bits": (8, 3), "groups": (8,), "examples": 50},
    "views": {"examples": 50},
    "compress": {"draws": 2, "examples": 50},
    "sequential": {"rounds": 2, "examples": 50},
    "membership": {"shadows": 2},
    "connectivity": {"points": 3, "examples": 40, "relearn_steps": 2},
    "probes": {"permutations": 1, "examples": 40},
    "imprint": {"permutations": 1, "examples": 40, "steps": 3, "weight_decays": (0.0, 1e3)},
    "prototype": {"examples_per_class": (1, 20), "draws": 2, "examples": 50},
    "steer": {"depths": (1.0,), "alphas": (1.0,), "per_class": 3, "controls": 2, "examples": 50},
    "over_unlearning": {"eps": (0.0, 0.1), "draws": 2, "examples": 40},
}
NULL = edits()["svd"](keep=1.0)
DATA = MemorisationData(Digits(), Symmetric())
BASE = vit("token", classes=10, dtype=torch.float32).eval()
RETRAIN = create(TINY.timm_arguments((1, 8, 8), 10), seed=1).eval()


def null(model):
    return NULL.apply(model, EditData(DATA, NULL.sees), keyed_generator(0))


def rows(attack, model, subject, folder, again=None):
    references = {"base": BASE, "retrain": RETRAIN}
    recipe = recipe_of(CONFIG, DATA)
    given = AttackData(DATA, subject, references.get, folder, again=again, recipe=recipe)
    return attack.apply(copy.deepcopy(model), given, keyed_generator(0)).rows


def test_every_attack_is_tried():
    assert sorted(SMALL) == sorted(attacks())


@pytest.mark.parametrize("name", sorted(SMALL))
def test_a_null_edit_is_attacked_as_base_is(name, folder):
    attack = attacks()[name](**SMALL[name])
    of_base = rows(attack, BASE, "base", folder)
    of_edit = rows(attack, with_weights(BASE, null(BASE).state_dict), "svd-keep1", folder, again=lambda m, _: null(m))
    to_base = [row for row in of_edit if row.get("path") == "base"]  # base itself has no path to base
    assert len({json.dumps({**row, "alpha": 0}) for row in to_base}) <= 1
    assert json.dumps([row for row in of_edit if row.get("path") != "base"]) == json.dumps(of_base)
    assert len(of_base) >= 1
    told = {key for row in of_base for key in attack.settings if isinstance(row[key], str)}
    assert told <= set(ATTACK_TEXT)  # else tables with it cannot be read
