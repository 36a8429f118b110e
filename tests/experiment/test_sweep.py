import dataclasses

import pytest

from vitmem.datamodules.noise import Symmetric
from vitmem.experiment.plan import Experiment, plan_attacks, plan_edits
from vitmem.experiment.sweep import MOST_CELLS, cells
from vitmem.runs.config import RunConfig

RUN = RunConfig()
EDITS = [{"name": "kfac", "rho": [0.9, 0.8]}, {"name": "svd"}]
PLAN = Experiment("plan", RUN, edits=plan_edits(EDITS), attacks=plan_attacks(["quantize"]))


def named(found):
    return [cell.experiment.name for cell in found]


def test_without_a_sweep_there_is_the_experiment_itself():
    (cell,) = cells(PLAN, {})
    assert cell.experiment is PLAN
    assert cell.columns == {}


def test_options_are_crossed_in_the_order_of_the_file():
    found = cells(PLAN, {"noise.rate": [0.05, 0.2], "train.weight_decay": [0.0, 0.1]})
    assert named(found) == [
        "rate0.05-weight_decay0", "rate0.05-weight_decay0.1", "rate0.2-weight_decay0", "rate0.2-weight_decay0.1"
    ]  # fmt: skip
    last = found[-1]
    assert last.columns == {"noise.rate": 0.2, "train.weight_decay": 0.1}
    expected = dataclasses.replace(
        RUN, noise=Symmetric(rate=0.2, seed=RUN.noise.seed), train=dataclasses.replace(RUN.train, weight_decay=0.1)
    )
    assert last.experiment.run == expected
    assert last.experiment.edits == PLAN.edits


def test_options_that_change_together_and_points_with_names():
    sweep = {
        "train.lr, train.epochs": [[1e-3, 5], [3e-4, 9]],
        "size": {"small": None, "wide": {"model.width": 192, "model.heads": 6}},
    }
    found = cells(PLAN, sweep)
    assert named(found) == [
        "lr0.001-epochs5-small", "lr0.001-epochs5-wide", "lr0.0003-epochs9-small", "lr0.0003-epochs9-wide"
    ]  # fmt: skip
    run = found[3].experiment.run
    assert (run.train.lr, run.train.epochs, run.model.width, run.model.heads) == (3e-4, 9, 192, 6)
    assert found[0].experiment.run.model == RUN.model
    assert found[3].columns == {
        "train.lr": 3e-4, "train.epochs": 9, "model.width": 192, "model.heads": 6, "size": "wide"
    }  # fmt: skip


def test_another_kind_of_noise_does_not_inherit_the_options_of_the_first():
    kinds = [cell.experiment.run.noise for cell in cells(PLAN, {"noise.kind": ["symmetric", "pair_flip"]})]
    assert kinds[0] == RUN.noise
    assert kinds[1].kind == "pair_flip"


def test_edits_attacks_and_options_of_the_experiment():
    found = cells(PLAN, {"edits.kfac.tokens": ["cls", "all"], "attacks.quantize.bits": [[4], [8]], "known": [0.5, 1]})
    assert len(found) == 8
    first, last = found[0].experiment, found[-1].experiment
    assert [p.edit.tokens for p in first.edits[:2]] == ["cls", "cls"]
    assert [p.edit.tokens for p in last.edits[:2]] == ["all", "all"]
    assert [p.edit_id for p in last.edits] == [p.edit_id for p in PLAN.edits]
    assert last.edits[2] == PLAN.edits[2]
    assert (first.attacks[0].attack.bits, last.attacks[0].attack.bits) == ((4,), (8,))
    assert (first.known, last.known) == (0.5, 1)


def test_what_is_swept_is_not_tuned():
    plan = dataclasses.replace(PLAN, tune=3, edits=plan_edits([{"name": "finetune"}]))
    assert "epochs" in plan.edits[0].space
    swept = cells(plan, {"edits.finetune.epochs": [1, 2]})[0].experiment.edits[0]
    assert set(plan.edits[0].space) - set(swept.space) == {"epochs"}


@pytest.mark.parametrize(
    ("sweep", "words"),
    [
        ({"noise.rate": 0.1}, "sweep: noise.rate is 0.1; give a list of values"),
        ({"noise.rate": []}, "give a list of values"),
        ({"noise.rate": [0.1, 2.0]}, "rate2: noise.rate is 2"),
        ({"noise.rato": [0.1]}, "rato"),
        ({"rate": [0.1]}, "unknown option 'rate'"),
        ({"seed": [1, 2]}, "seed cannot be swept"),
        ({"trainer.devices": [1, 2]}, "trainer.devices cannot be swept"),
        ({"train.lr,train.epochs": [[1e-3], [1e-4]]}, "give lists of 2 values"),
        ({"noise.rate": [0.1, 0.2], "a": {"x": {"noise.rate": 0.3}}}, "two factors vary noise.rate"),
        ({"noise.rate": [0.1, 0.1]}, "two cells would be called 'rate0.1'"),
        ({"size": {"small": 3}}, "small is 3; give options"),
        ({"../up": {"a": {}}}, "../up"),
        ({"edits.ekfac.rho": [0.1]}, "there is no edit 'ekfac'; there are: kfac, svd"),
        ({"edits.kfac.rho": [0.1]}, "give its values in the list of edits"),
        ({"edits.kfac.tokens": ["none"]}, "tokens"),
        ({"known": ["half"]}, "known is 'half'"),
        ({"noise.rate": [k / 1000 for k in range(1, 200)], "train.lr": [k * 1e-5 for k in range(1, 100)]}, "cells"),
    ],
)
def test_bad_sweeps_are_refused_in_a_line(sweep, words):
    with pytest.raises(ValueError, match="^[^\n]*$") as error:
        cells(PLAN, sweep)
    assert words in str(error.value)


def test_as_many_cells_as_are_allowed():
    assert MOST_CELLS * 8 >= 10_000


def test_a_long_name_is_cut_and_stays_one_of_its_own():
    value = "".join(["blocks.*.attn.qkv,"] * 20)
    found = cells(PLAN, {"edits.kfac.layers": [value + "blocks.0.mlp.fc1", value + "blocks.0.mlp.fc2"]})
    assert len(set(named(found))) == 2
    assert all(len(name) < 120 for name in named(found))
