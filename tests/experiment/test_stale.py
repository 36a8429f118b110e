"""What a second command must notice, and what one that fails must say."""

import csv
import errno
import functools

import pytest
from cases import SMALL

from vitmem.attacks.views import Views
from vitmem.experiment import run as running
from vitmem.experiment.board import Board
from vitmem.experiment.jobs import failed
from vitmem.experiment.perform import How, is_settled
from vitmem.experiment.plan import Experiment, plan_analyses, plan_attacks, plan_edits
from vitmem.experiment.stages import DONE, FAILED, SKIPPED, measuring, records, stage_digest, tasks, write_records
from vitmem.runs import folder as folders
from vitmem.runs.config import RunConfig
from vitmem.runs.folder import held


def planned(**options):
    return Experiment("plan", RunConfig(), references=(), edits=plan_edits([{"name": "svd"}]), **options)


def measure_task(tmp_path, **options):
    return next(task for task in tasks(planned(**options), tmp_path / "plan") if not task.is_training)


@pytest.fixture
def plan(tmp_path):
    """Write an experiment file, and return its name and where its results go."""

    def write(more, small=SMALL):
        file = tmp_path / "small.yaml"
        file.write_text(small + more)
        return file, f"--out={tmp_path}"

    return write


def ids(table):
    with table.open() as file:
        return {(row["seed"], row["id"]) for row in csv.DictReader(file)}


def test_what_was_done_before_does_not_count_when_its_process_dies(tmp_path):
    task = measure_task(tmp_path)
    done = {stage.name: {"digest": "0" * 64, "state": DONE, "seconds": 1.0, "result": ""} for stage in task.stages}
    for how in (How(tmp_path, force=True), How(tmp_path)):
        write_records(task, done)
        first, *others = task.stages
        outcome = failed(task, how, "", "its process died", {})
        assert outcome[first.name] == (FAILED, "its process died")
        assert {outcome[stage.name][0] for stage in others} == {SKIPPED}
        board = Board([], {}, how)
        board.tasks.append(task)
        board.finish(task, outcome)
        assert "its process died" in board.told()[0]
    told = {task.stages[0].name: (DONE, "")}
    assert failed(task, How(tmp_path, force=True), "", "why", told) == told | {task.stages[1].name: (FAILED, "why")}
    assert records(task)[task.stages[1].name]["state"] == FAILED


def test_a_job_that_comes_back_keeps_what_was_done_again_since_it_was_asked_for(tmp_path):
    how = How(tmp_path, force=True, began="2026-11-27T12:00:00+00:00")
    assert is_settled(DONE, {"ended": "2026-11-27T12:00:01+00:00"}, how)
    assert not is_settled(DONE, {"ended": "2026-11-27T11:59:59+00:00"}, how)
    assert not is_settled(DONE, {}, how)
    assert not is_settled(DONE, {"ended": "2026-11-27T12:00:01+00:00"}, How(tmp_path, force=True))
    assert is_settled(DONE, {}, How(tmp_path))
    assert not is_settled(FAILED, {}, How(tmp_path, retry_failed=True))


def test_a_stage_is_another_when_its_attack_measures_something_else(monkeypatch):
    found = []
    for version in (1, 2):
        monkeypatch.setattr(Views, "version", version)
        stages = measuring(planned(attacks=plan_attacks(["views"])))
        found.append([stage_digest(stage, {name: {} for name in stage.needs}, ["a"]) for stage in stages[:2]])
    assert found[0][0] == found[1][0]
    assert found[0][1] != found[1][1]


def test_models_of_other_seeds_are_trained_before_they_are_looked_at(tmp_path):
    for against, across in (("seeds", True), ("retrain,clean", False)):
        asked = planned(seeds=(0, 1), analyses=plan_analyses([{"name": "similarity", "against": against}]))
        found = tasks(asked, tmp_path / "plan")
        board = Board(found, {task.record: task.name for task in found if task.is_training}, How(tmp_path))
        board.finish(found[0], {})
        assert (found[1] in board.ready()) != across
        order = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(running, "perform", lambda *_: {})
            running.run_here(board, running.View(board, "test"), order.append)
        order = [(task.seed, task.part) for task in order]
        assert order == ([(1, "base"), (0, "measure")] if across else [(0, "measure"), (1, "base")]) + [(1, "measure")]


def test_all_folders_of_a_seed_are_held_also_when_some_are_done(tmp_path, monkeypatch):
    asked = Experiment("plan", RunConfig(), references=("retrain",))
    found = tasks(asked, tmp_path / "plan")
    board = Board(found, {task.record: task.name for task in found if task.is_training}, How(tmp_path))
    board.finish(found[0], {})
    held_now = []
    monkeypatch.setattr(
        running,
        "perform",
        lambda *_: held_now.append(sorted(p.name for p in (tmp_path / "plan").glob(".*.holder"))) or {},
    )
    running.run_here(board, running.View(board, "test"), lambda task: None)
    assert held_now == [[".seed0-retrain.holder", ".seed0.holder"]] * 2


def test_a_folder_can_be_held_on_a_full_disk(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(folders, "write_atomically", full)
    with held(tmp_path / "run"):
        pass


@pytest.mark.slow
def test_labels_that_changed_in_their_file_are_noticed(cli, plan, tmp_path):
    labels = tmp_path / "labels.csv"
    labels.write_text("index,label\n" + "".join(f"{k},{k % 10}\n" for k in range(100)))
    file, out = plan(f"noise: {{kind: file, file: {labels}}}\n")
    assert cli("run", file, out)[0] == 0
    assert cli("run", file, out)[0] == 0
    labels.write_text(labels.read_text().replace("\n7,7\n", "\n7,8\n"))
    code, _, errors = cli("run", file, out)
    assert code == 2
    assert "labels" in errors


@pytest.mark.slow
def test_an_edit_from_outside_makes_analyses_of_edits_anew(cli, plan, tmp_path):
    asked = "analyses: [{name: detection, images: 50, resamples: 10, directions: 0}]\n"
    file, out = plan(asked, SMALL.replace("[retrain]", "[]"))
    assert cli("run", file, out)[0] == 0
    table = tmp_path / "small" / "analyses" / "detection.csv"
    before = ids(table)
    assert cli("edit", "scale", tmp_path / "small" / "seed0", "--factor=0.9")[0] == 0
    assert cli("eval", tmp_path / "small", "--edits=scale*")[0] == 0
    table.unlink()
    assert cli("run", file, out)[0] == 0
    assert ids(table) == before


@pytest.mark.slow
def test_each_seed_is_compared_with_the_others(cli, plan, tmp_path):
    similarity = "{name: similarity, against: seeds, images: 50, permutations: 5, examples: 50}"
    file, out = plan(f"analyses: [{similarity}]\nseeds: [0, 1]\n", SMALL.replace("[retrain]", "[]"))
    assert cli("run", file, out)[0] == 0
    with (tmp_path / "small" / "analyses" / "similarity.csv").open() as table:
        found = {(row["seed"], row["against"]) for row in csv.DictReader(table)}
    assert found == {("0", "seed1"), ("1", "seed0")}


@pytest.mark.slow
def test_what_was_measured_with_a_share_is_measured_with_it_again(cli, plan, tmp_path):
    file, out = plan("known: 0.8\n")
    assert cli("run", file, out)[0] == 0
    table = tmp_path / "small" / "results.csv"
    before = ids(table)
    assert cli("eval", tmp_path / "small", "--edits=kfac*")[0] == 0
    assert ids(table) == before
    assert cli("eval", tmp_path / "small", "--edits=kfac*", "--known=0.4")[0] == 0
    assert ids(table) != before


@pytest.mark.slow
def test_a_plan_of_which_nothing_can_be_trained_says_why(cli, plan):
    file, out = plan(
        "", SMALL.replace("warmup_epochs: 1}", "warmup_epochs: 1, lr: 1e18}").replace("report: false\n", "")
    )
    for _ in range(2):
        code, _, errors = cli("run", file, out)
        assert code == 3, errors
        assert errors.startswith("vitmem: failed: small/seed0 train base: train base: the training loss is")


@pytest.mark.slow
def test_a_damaged_seed_is_left_out_and_the_others_go_on(cli, plan, tmp_path):
    asked = (
        "analyses: [{name: detection, images: 50, resamples: 10, directions: 0}]\nattacks: [quantize]\nseeds: [0, 1]\n"
    )
    file, out = plan(asked, SMALL.replace("[retrain]", "[]"))
    again = functools.partial(cli, "run", file, out, "--seeds=0")
    assert cli("run", file, out)[0] == 0
    with (tmp_path / "small" / "seed1" / "model.safetensors").open("r+b") as weights:
        weights.seek(-4, 2)
        weights.write(b"\1\2\3\4")
    code, _, errors = again()
    assert code == 0
    assert "left out of the table" in errors


@pytest.mark.slow
def test_attacks_on_edits_without_stored_weights_are_made_again_with_force(cli, plan, tmp_path):
    more = "save_weights: false\ntune: 3\nattacks: [{name: quantize, bits: [4], groups: [], examples: 20}]\n"
    small = SMALL.replace("{name: svd}", "{name: finetune, epochs: 1}").replace("[retrain]", "[]")
    file, out = plan(more, small)
    assert cli("run", file, out)[0] == 0
    before = ids(tmp_path / "small" / "attacks.csv")
    assert cli("run", file, out, "--force")[0] == 0
    assert ids(tmp_path / "small" / "attacks.csv") == before
