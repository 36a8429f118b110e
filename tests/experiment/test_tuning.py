"""Tuning: the same trials for all, on a split that reporting never uses, resumed where it stopped."""

import dataclasses
import json
import math
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch

from vitmem.datamodules.batch import keyed_generator
from vitmem.editing import edits
from vitmem.editing.contract import Edit, EditDiverged, EditResult
from vitmem.editing.finetune import FineTune
from vitmem.experiment.plan import plan_edits
from vitmem.experiment.tuning import (
    WORST,
    Bench,
    Tuning,
    best,
    check_space,
    check_validation,
    draw,
    matched,
    objective,
    propose,
    tune,
    within_drop,
)
from vitmem.files import digest
from vitmem.runs.trained import TrainedRun

FORGOTTEN: list[torch.Tensor] = []


APPLIED: list[float] = []


@dataclass(frozen=True)
class Shift(Edit):
    """Move the bias of the head; beyond 0.9 it diverges."""

    sees: ClassVar[frozenset[str]] = frozenset({"forget"})
    search: ClassVar[dict[str, tuple]] = {"amount": ("uniform", 0.0, 1.0), "steps": ("int", 1, 3)}
    amount: float = 0.25
    steps: int = 1

    def apply(self, model, data, generator):
        FORGOTTEN.extend(batch.index for batch in data.forget(50))
        APPLIED.append(self.amount)
        if self.amount > 0.9:
            raise EditDiverged("too far")
        state = dict(model.state_dict())
        state["head.bias"] = state["head.bias"] + self.amount * torch.arange(10)
        return EditResult(state, {"layers": [], "seconds": {"apply": 0.0}})


def tuning(trials=6, **changes):
    return Tuning("shift", Shift(), **{"space": Shift.search, "trials": trials, **changes})


def without_seconds(trials):
    return [{k: v for k, v in t.items() if k not in ("seconds", "extra_memory_bytes")} for t in trials]


@pytest.mark.parametrize("spec", [("log", 1e-4, 1e-1), ("uniform", -1.0, 2.0), ("int", 2, 5), ("choice", "a", "b")])
def test_draws_fill_their_range(spec):
    values = [draw(spec, keyed_generator(seed)) for seed in range(400)]
    if spec[0] in ("int", "choice"):
        assert set(values) == (set(range(2, 6)) if spec[0] == "int" else {"a", "b"})
        return
    low, high = spec[1:]
    assert all(low <= value <= high for value in values)
    middle = math.sqrt(low * high) if spec[0] == "log" else (low + high) / 2
    assert 150 < sum(value < middle for value in values) < 250


@pytest.mark.parametrize(
    "spec", [{"amount": ("log", 0.0, 1.0)}, {"amount": ("uniform", 1.0, 0.0)}, {"amuont": ("uniform", 0, 1)},
             {"amount": ("normal", 0, 1)}, {"amount": ("choice",)}]
)  # fmt: skip
def test_a_range_that_there_is_not(spec):
    with pytest.raises(ValueError, match="the edit shift would search"):
        check_space("shift", Shift(), spec)


@pytest.mark.parametrize("name", sorted(edits()))
def test_every_registered_space_is_one(name):
    edit = edits()[name]()
    check_space(name, edit, edit.search)
    for option, spec in edit.search.items():
        for seed in range(5):
            dataclasses.replace(edit, **{option: draw(spec, keyed_generator(seed))})


def test_the_objective():
    assert objective(0.6, 0.01) == 0.6
    assert objective(0.6, -0.1) == 0.6
    assert objective(0.6, 0.03) == pytest.approx(0.6 - 10 * 0.02)
    assert objective(0.0, 1.0) > WORST


def test_the_first_trial_is_the_defaults_and_others_follow_the_seed():
    assert propose(tuning(), 0, []) == {"amount": 0.25, "steps": 1}
    done = [{"options": {}, "objective": 0.0}]
    assert propose(tuning(), 0, done) == propose(tuning(), 0, done)
    assert propose(tuning(), 0, done) != propose(tuning(), 1, done)
    assert propose(tuning(), 0, done) != propose(dataclasses.replace(tuning(), label="other"), 0, done)
    assert propose(tuning(), 0, done) != propose(tuning(), 0, done * 2)


def test_operating_points():
    def trial(memorized, value, status="ok", penalty=0.0):
        return {"memorized": memorized, "objective": value, "ground_truth": value + penalty, "status": status}

    trials = [trial(1.0, 0.0), trial(0.3, 0.5), trial(0.3, 0.6), trial(0.2, 0.9, "at chance"), trial(None, WORST, "x")]
    assert best(trials) is trials[2]
    assert matched(0.2, trials) is trials[2]
    assert matched(0.9, trials) is trials[0]
    assert best(trials[3:]) is trials[3]  # nothing usable: the first, that is the defaults
    costly = trial(0.1, 0.8, penalty=0.1)
    assert best([*trials, costly]) is trials[2]  # whatever it gains, it costs more than the stated drop
    assert best([costly, trial(0.1, 0.7, penalty=0.2)]) is costly  # none keeps to the drop
    assert not within_drop(costly)


def test_tuning_never_touches_what_is_reported(run_folder, monkeypatch):
    run = TrainedRun.open(run_folder)
    known, scored = run.known_noisy(), []
    serve = type(run.data).loader

    def spy(self, examples, *arguments, **options):
        scored.append(examples)
        return serve(self, examples, *arguments, **options)

    monkeypatch.setattr(type(run.data), "loader", spy)
    FORGOTTEN.clear()
    trials = tune(run, tuning(3))
    assert len(trials) == 3
    bench = Bench(run)
    assert set(torch.cat(FORGOTTEN).tolist()) == set(bench.fit_N.nonzero()[:, 0].tolist())
    noisy = {int(i) for e in scored for i in e.index[e.is_noisy]}
    assert noisy == set(known.nonzero()[:, 0].tolist())  # read or scored; the unknown ones are neither
    assert not (bench.fit_N & bench.score_N).any()
    clean = [e for e in scored if not e.is_noisy.any()]
    assert clean  # validation
    assert all((e.index % 2 == 0).all() for e in clean)


class Killed(BaseException):
    """As if the process had been killed."""


def test_a_killed_run_goes_on_with_the_next_trial(run_folder, monkeypatch):
    run = TrainedRun.open(run_folder)
    whole = tune(run, tuning())
    assert [t["number"] for t in whole] == list(range(6))
    assert whole[0]["options"] == {"amount": 0.25, "steps": 1}
    real, calls = Bench.trial, []

    def dies(self, *arguments):
        if len(calls) == 2:
            raise Killed
        calls.append(arguments)
        return real(self, *arguments)

    monkeypatch.setattr(Bench, "trial", dies)
    with pytest.raises(Killed):
        tune(run, tuning(), force=True)
    assert len((run_folder / "tuning" / "shift.jsonl").read_text().splitlines()) == 3  # a header and two trials
    monkeypatch.setattr(Bench, "trial", real)
    APPLIED.clear()
    again = tune(run, tuning())
    assert len(APPLIED) == 4
    assert without_seconds(again) == without_seconds(whole)
    APPLIED.clear()
    assert tune(run, tuning()) == again
    assert tune(run, tuning(4)) == again[:4]
    assert not APPLIED
    assert tune(run, tuning(7))[:6] == again
    assert len(APPLIED) == 1


def test_other_spaces_and_shares_start_again(run_folder):
    run = TrainedRun.open(run_folder)
    tune(run, tuning(2))
    for other in (
        (run, tuning(2, space={"amount": ("uniform", 0.0, 0.5)})),
        (dataclasses.replace(run, known=0.3), tuning(2)),
    ):
        APPLIED.clear()
        tune(*other)
        assert len(APPLIED) == 2


def test_trials_that_fail_are_recorded(run_folder):
    run = TrainedRun.open(run_folder)
    space = {"amount": ("uniform", 0.95, 1.0)}
    trials = tune(run, tuning(2, space=space))
    assert trials[0]["status"] != "diverged: too far"
    assert (trials[1]["status"], trials[1]["objective"]) == ("diverged: too far", WORST)
    lines = (run_folder / "tuning" / "shift.jsonl").read_text().splitlines()
    assert json.loads(lines[2])["status"] == "diverged: too far"
    (run_folder / "tuning" / "shift.jsonl").write_text("\n".join(lines)[:-9])
    assert without_seconds(tune(run, tuning(2, space=space))) == without_seconds(trials)


@pytest.mark.parametrize(
    ("line", "place", "value"),
    [(1, "memorized", 0.123), (1, "memorized", 7), (2, "options", {}), (2, "objective", "high"), (2, "number", 0),
     (0, "inputs", None), (0, "unedited", [])],
)  # fmt: skip
@pytest.mark.parametrize("sealed", [True, False])
def test_trials_that_were_changed_are_made_again(run_folder, line, place, value, sealed):
    run, path = TrainedRun.open(run_folder), run_folder / "tuning" / "shift.jsonl"
    trials = tune(run, tuning(2))
    lines = [json.loads(text) for text in path.read_text().splitlines()]
    lines[line][place] = value
    if sealed:
        if value == 0.123:
            pytest.skip("an accuracy that can be, under a checksum that fits, cannot be told")
        del lines[0]["checksum"]
        lines[0]["checksum"] = digest(lines)
    path.write_text("".join(json.dumps(content) + "\n" for content in lines))
    APPLIED.clear()
    assert without_seconds(tune(run, tuning(2))) == without_seconds(trials)
    assert len(APPLIED) == 2


def test_trials_of_another_version_are_made_again(run_folder, monkeypatch):
    run = TrainedRun.open(run_folder)
    tune(run, tuning(2))
    monkeypatch.setattr("vitmem.experiment.tuning.VERSION", 2)
    APPLIED.clear()
    tune(run, tuning(2))
    assert len(APPLIED) == 2


@pytest.mark.slow
def test_tpe_learns_and_resumes(run_folder):
    pytest.importorskip("optuna", reason="the extra `tune` is not installed")
    space = {"amount": ("uniform", 0.0, 1.0), "kind": ("choice", "a", "b"), "rate": ("log", 1e-3, 1.0)}
    tpe = Tuning("toy", Shift(), space, 0, "tpe")

    def search(done):
        while len(done) < 40:
            options = {"amount": 0.9, "kind": "a", "rate": 1.0} if not done else propose(tpe, 0, done)
            done.append({"options": options, "objective": -abs(options["amount"] - 0.3)})
        return done

    whole = search([])
    assert search(whole[:11]) == whole
    late = [abs(trial["options"]["amount"] - 0.3) for trial in whole[25:]]
    assert sum(late) / len(late) < 0.2  # 0.29 if it drew at random


def test_options_of_the_file_are_fixed():
    plain, fixed, swept = plan_edits(
        [{"name": "ekfac"}, {"name": "ekfac", "id": "fixed", "rho": 0.7}, {"name": "svd", "keep": [0.5]}]
    )
    assert set(plain.space) == {"rho", "exponent"}
    assert set(fixed.space) == {"exponent"}
    assert not swept.space
    assert plan_edits([{"name": "ekfac_auto"}])[0].space == {}


def test_ranges_of_the_file_replace_those_of_the_edit():
    item = {"name": "finetune", "optimiser": "adamw", "lr": 1e-4, "search": {"lr": ["log", "1e-5", 1e-2]}}
    planned = plan_edits([{**item, "epochs": 10}])[0]
    assert planned.space == {"lr": ("log", 1e-5, 1e-2)}
    assert propose(Tuning("t", planned.edit, planned.space, 2), 0, []) == {"lr": 1e-4}
    assert plan_edits([item])[0].space == {"lr": ("log", 1e-5, 1e-2), "epochs": FineTune.search["epochs"]}


@pytest.mark.parametrize(
    "ranges",
    [["lr"], {"lr": 3}, {"lr": ["log", "a", 1]}, {"lr": ["grid", 1, 2]}, {"lr": ["log", 1]}, {"l": ["log", 1, 2]}],
)
def test_ranges_of_another_form(ranges):
    with pytest.raises(ValueError, match=r"edits\[0\]: .*search"):
        plan_edits([{"name": "finetune", "search": ranges}])


@pytest.mark.parametrize(
    ("item", "space"),
    [
        ({"name": "ekfac", "fraction": 0.1}, {"exponent"}),
        ({"name": "ekfac", "pairs": 9}, {"exponent"}),
        ({"name": "ekfac", "tau": 1e-6}, {"exponent"}),
        ({"name": "ekfac", "filter": "hard"}, {"rho"}),
        ({"name": "finetune", "steps": 9}, {"lr"}),
        ({"name": "finetune"}, {"lr", "epochs"}),
        ({"name": "bad_teacher"}, {"lr", "steps"}),
    ],
)
def test_options_without_effect_are_not_searched(item, space):
    assert set(plan_edits([item])[0].space) == space


@pytest.mark.slow
def test_an_experiment_tunes_each_edit_with_as_many_trials(cli, tmp_path, monkeypatch):
    ours = {**edits(), "shift": Shift}
    for module in ("vitmem.editing", "vitmem.cli.edit", "vitmem.runs.named", "vitmem.experiment.results"):
        monkeypatch.setattr(f"{module}.edits", lambda: ours)
    file = tmp_path / "small.yaml"
    file.write_text(
        "name: small\nreferences: []\nfigures: false\nseeds: 0,1\ntune: 2\n"
        "model: {width: 16, depth: 2, heads: 2, patch: 4}\n"
        "train: {epochs: 1, batch_size: 400, warmup_epochs: 0}\n"
        "edits: [{name: shift}, {name: svd}, {name: svd, id: fixed, keep: 0.5}]\n"
    )
    code, printed, errors = cli("run", file, f"--out={tmp_path}")
    assert code == 0, errors
    folder = tmp_path / "small"
    for seed in (0, 1):
        for name in ("shift", "svd"):
            lines = (folder / f"seed{seed}" / "tuning" / f"{name}.jsonl").read_text().splitlines()
            assert len(lines) == 1 + 2
    ids = [line.split(",")[2] for line in (folder / "results.csv").read_text().splitlines()[1:]]
    points = ["best", "at0.2", "at0.05"]
    expected = ["base", *(f"{name}-{p}" for name in ("shift", "svd") for p in points), "fixed-keep0.5"]
    assert ids == expected * 2
    assert "label-free (tuned)" in printed
    assert "| fixed-keep0.5 (no trials)" in printed
    assert (
        (folder / "comparison.csv")
        .read_text()
        .startswith("method,point,track,trials,seeds,usable_seeds,lost_validation,status,")
    )
    stamps = {p: p.stat().st_mtime_ns for p in folder.rglob("*.safetensors")}
    APPLIED.clear()
    assert cli("run", file, f"--out={tmp_path}")[0] == 0
    assert not APPLIED
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*.safetensors")} == stamps
    code, _, errors = cli("run", file, f"--out={tmp_path}", "--tuner=grid")
    assert code == 2
    assert "tuner is 'grid'" in errors


def test_tuning_without_validation_images_is_refused_in_one_line(run_folder):
    run = TrainedRun.open(run_folder)
    check_validation(run.data.validation_examples)
    with pytest.raises(ValueError, match="the data set has none; give it some, or tune: 0"):
        check_validation(run.data.validation_examples.subset(slice(0, 0)))
