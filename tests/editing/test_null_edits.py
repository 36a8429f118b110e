"""An edit of no strength gives the base model's row, to the last digit."""

import csv
import time

import pytest
import torch
from cases import vit
from edited import DATA, apply
from nulls import NULLS

from vitmem.editing import edits
from vitmem.evaluation.metrics import METRICS, compute
from vitmem.evaluation.predict import TRAIN, VALIDATION, predict
from vitmem.models.build import with_weights

MODEL = vit("token", classes=10, dtype=torch.float32).eval()
LAYERED = ("kfac", "ekfac", "svd", "scale", "rewind", "magnitude", "features", "wanda")


def row(model):
    """Return the numbers of the results table."""
    loaders = {TRAIN: DATA.loader(DATA.train_examples), VALIDATION: DATA.loader(DATA.validation_examples)}
    return {name: (metric.value, metric.n) for name, metric in compute(predict(model, loaders)).items()}


@pytest.fixture(scope="module")
def of_base():
    return row(MODEL)


def test_every_edit_says_how_it_does_nothing():
    assert sorted(NULLS) == sorted(edits()), "a new edit needs its options of no strength, or why there are none"


@pytest.mark.parametrize("name", sorted(name for name, options in NULLS.items() if isinstance(options, dict)))
def test_an_edit_of_no_strength_gives_the_row_of_base(name, of_base):
    start = time.perf_counter()
    result = apply(edits()[name](**NULLS[name]), MODEL)
    took = time.perf_counter() - start
    state, before = result.state_dict, MODEL.state_dict()
    own = [seconds for stage, seconds in result.report["seconds"].items() if stage in ("apply", "train", "polish")]
    assert own
    assert 0 <= sum(own) <= took  # curvature may come from the cache, and its seconds are those that it took then
    if name in ("probe_head", "rewind", "norms_off"):
        assert result.report["layers"] == []  # nothing was touched
    assert list(state) == list(before)
    assert all(torch.equal(value, before[key]) for key, value in state.items())
    assert row(with_weights(MODEL, state)) == of_base


@pytest.mark.parametrize("name", LAYERED)
def test_layers_that_are_not_chosen_stay(name):
    """Nothing is left of the choice: an edit of one layer is nothing to the others."""
    strong = {"rho": 0.3} if "kfac" in name else {"factor": 0.3} if name == "scale" else {"keep": 0.3}
    state = apply(edits()[name](layers="blocks.1.mlp.fc1", **strong), MODEL).state_dict
    changed = [key for key, value in MODEL.state_dict().items() if not torch.equal(value, state[key])]
    assert changed == ["blocks.1.mlp.fc1.weight"]


def test_the_results_table_has_base_twice(cli, run_folder):
    for name, option in (("scale", "factor"), ("kfac", "rho")):
        assert cli("edit", name, run_folder, f"--{option}=1")[0] == 0
    assert cli("eval", run_folder)[0] == 0
    rows = list(csv.DictReader((run_folder / "evals/results.csv").open()))
    found = {row["id"]: {key: row[key] for key in METRICS} for row in rows}
    assert found["scale-factor1"] == found["kfac-rho1"] == found["base"]
    assert found["kfac-rho0.9"] != found["base"]
