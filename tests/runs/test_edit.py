"""Edits of a run: made once, with what they knew and cost."""

import json
import shutil

import pytest
import torch
from cases import QUICK
from edited_runs import SEEN, Reader, rewritten

from vitmem.cli import main
from vitmem.editing.attempt import attempt
from vitmem.editing.shrink import Rewind
from vitmem.experiment.results import changed_options
from vitmem.runs.edit import edit_inputs, make_edit
from vitmem.runs.evaluate import evaluate
from vitmem.runs.trained import TrainedRun


@pytest.mark.slow
def test_edit_again_does_nothing_and_other_options_are_refused(cli, run_folder):
    weights = run_folder / "edits" / "kfac-rho0.9" / "model.safetensors"
    before = weights.stat().st_mtime_ns
    assert cli("edit", "kfac", run_folder, "--rho=0.9")[0] == 0
    assert weights.stat().st_mtime_ns == before
    code, _, errors = cli("edit", "kfac", run_folder, "--rho=0.9", "--tokens=mean", "--id=kfac-rho0.9")
    assert code == 2
    assert "tokens: all there, mean asked for" in errors
    assert weights.stat().st_mtime_ns == before
    assert cli("edit", "kfac", run_folder, "--rho=0.9", "--tokens=mean", "--id=other")[0] == 0
    assert (run_folder / "edits" / "other" / "model.safetensors").exists()
    assert cli("edit", "kfac", run_folder, "--rho=0.9", "--tokens=mean", "--force")[0] == 0
    assert weights.stat().st_mtime_ns != before


def test_the_known_share_is_recorded_and_changes_the_edit(cli, registered, run_folder):
    assert main(["edit", "reader", str(run_folder), "--known=0.5"]) == 0
    file = run_folder / "edits" / "reader" / "edit.json"
    content = json.loads(file.read_text())
    assert content["known"] == {"share": 0.5, "examples": 65}
    assert content["track"] == "known noisy examples"
    assert content["cost"]["extra_parameters"] == 5
    known = TrainedRun.open(run_folder).known_noisy().nonzero()[:, 0].tolist()
    assert sorted(torch.cat(SEEN[: len(SEEN) // 2]).tolist()) == known
    code, _, errors = cli("edit", "reader", run_folder, "--known=0.3")
    assert code == 2
    assert "known: 0.3 asked for" in errors
    stamp = (run_folder / "edits" / "kfac-rho0.9" / "edit.json").stat().st_mtime_ns
    assert cli("edit", "kfac", run_folder, "--rho=0.9", "--known=0.3")[0] == 0  # label-free: the same edit
    assert (run_folder / "edits" / "kfac-rho0.9" / "edit.json").stat().st_mtime_ns == stamp
    code, printed, _ = cli("eval", run_folder)
    assert "memorized unseen (n=65)" in printed
    assert "known noisy examples" in printed
    assert cli("edit", "reader", run_folder, "--known=0")[0] == 2


def test_weights_made_again_keep_their_first_cost(run_folder):
    run, file = TrainedRun.open(run_folder), run_folder / "edits" / "again" / "edit.json"
    content = make_edit(run, Reader(), "reader", "again", save=False)
    content = rewritten(file, cost=content["cost"] | {"seconds": 7.0})  # as if it had taken longer at first
    assert make_edit(run, Reader(), "reader", "again", force=True)["cost"] == content["cost"]
    assert make_edit(run, Reader(epochs=1), "reader", "again", force=True)["cost"]["seconds"] == 1.0


def test_edits_from_before_the_authors_way_was_the_default_say_which_way_they_are(cli, run_folder):
    old, file = ("scrub", run_folder, "--steps=2"), run_folder / "edits" / "scrub-lr0.0005" / "edit.json"
    assert cli("edit", *old, "--drops=none", "--decayed=matrices")[0] == 0
    options = json.loads(file.read_text())["options"]
    content = rewritten(file, options={k: v for k, v in options.items() if k not in ("drops", "decayed")})
    run = TrainedRun.open(run_folder)
    assert run.edit(file.parent.name)["options"] == options
    assert "decayed=matrices drops=none " in changed_options(run.edit(file.parent.name))
    assert cli("edit", *old, "--drops=none", "--decayed=matrices")[0] == 0
    assert json.loads(file.read_text())["options"] == content["options"]  # it is the same edit
    code, _, errors = cli("edit", *old, f"--id={file.parent.name}")
    assert code == 2
    assert "drops: none there, 5 8 9 asked for" in errors
    assert "decayed: matrices there, all asked for" in errors
    assert cli("edit", *old)[0] == 0  # another edit beside it
    assert (run_folder / "edits" / "scrub-lr0.0005-decayedall-drops5_8_9" / "edit.json").exists()


def tuned(point):
    spent = {"passes": 1.0, "seconds": 1.0, "extra_memory_bytes": None}
    accuracies = {"memorized": 0.5, "ground_truth": 0.5, "validation": 0.5, "objective": 0.5}
    chosen = {"number": 0, "options": {}, "status": "ok", **accuracies, **spent}
    return {"point": point, "trials": 1, "tuner": "random", "chosen": chosen, **spent}


def test_two_points_with_the_same_options_are_made_once(run_folder, monkeypatch):
    run, made = TrainedRun.open(run_folder), []
    monkeypatch.setattr("vitmem.runs.edit.attempt", lambda *a, **o: made.append(1) or attempt(*a, **o))
    for edit_id, epochs in (("best", 1), ("at0.2", 1), ("at0.05", 2)):
        content = make_edit(run, Reader(epochs=epochs), "reader", edit_id, save=False, tuned=tuned(edit_id))
        assert (content["id"], content["tuned"]) == (edit_id, tuned(edit_id))
        assert evaluate(run, edit_id)["metrics"]
    assert len(made) == 2
    make_edit(run, Reader(epochs=2), "reader", "again", save=False, force=True)
    assert len(made) == 3


@pytest.mark.slow
def test_rewinding_to_an_earlier_checkpoint(cli, run_folder, tmp_path):
    """The checkpoint is that of the reference model beside the run; another one there makes another edit."""
    ask = ["edit", "rewind", run_folder, "--to", "early_stop", "--keep", "0", "--id", "back"]
    code, _, errors = cli(*ask)
    assert (code, errors.count("\n")) == (2, 1)
    assert "seed0-early_stop" in errors
    stopped = run_folder.with_name("seed0-early_stop")
    code, _, errors = cli("train", f"--out={tmp_path / 'other'}", *QUICK, "--name=tiny", "--train.early_stop=true")
    assert code == 0, errors
    shutil.copytree(tmp_path / "other" / "tiny" / "seed0", stopped)
    code, _, errors = cli(*ask)
    assert code == 0, errors
    run, expected = TrainedRun.open(run_folder), TrainedRun.open(stopped).model.state_dict()
    found = run.model_of("back").state_dict()
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    edit = Rewind(keep=0.0, to="early_stop")
    assert edit_inputs(run, edit, "rewind") != edit_inputs(run, Rewind(keep=0.0), "rewind")
