"""What every analysis must hold, and what becomes of its results in a run folder."""

import copy
import csv
import json
from collections import Counter
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from edited_runs import rewritten

from vitmem.analysis import Analysis, analyses
from vitmem.experiment.checking import check_run
from vitmem.files import to_json
from vitmem.runs.analyse import stored_analyses, stored_analysis, stored_scores
from vitmem.runs.trained import TrainedRun

pytestmark = pytest.mark.slow

# How a tiny model is analysed in a fraction of a second.
SMALL = {
    "bands": {"resamples": 10, "permutations": 5},
    "ownership": {"resamples": 10},
    "detection": {"resamples": 5, "directions": 1},
    "localise": {"permutations": 2},
    "similarity": {"permutations": 3, "images": 20},
    "dynamics": {"draws": 2},
    "directions": {"permutations": 3, "components": 1},
}


@pytest.mark.parametrize("name", sorted(SMALL))
def test_an_analysis_leaves_the_model_as_it_is_and_comes_out_the_same_twice(name, model, known):
    analysis = analyses()[name](**SMALL[name])
    before = copy.deepcopy(model.state_dict())
    first, again = (analysis.apply(model, known, torch.Generator().manual_seed(5)) for _ in range(2))
    assert to_json(first.rows) == to_json(again.rows)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert not model.training
    settings = [tuple(row[key] for key in analysis.settings) for row in first.rows]
    assert len(settings) == len(set(settings)) > 1
    numbers = [value for row in first.rows for key, value in row.items() if key not in analysis.settings]
    assert all(isinstance(value, (int, float)) for value in numbers)
    assert all(len(score) == 40 for score in first.scores.values())


def test_results_are_stored_once_and_made_again_when_something_changed(cli, run_folder):
    ask = ["analyse", run_folder, "{name: localise, modes: scale, permutations: 0}", "--of=base"]
    code, printed, errors = cli(*ask)
    assert code == 0, errors
    assert "localise of base" in printed
    file = run_folder / "evals" / "base" / "analyses" / "localise.json"
    stamp = file.stat().st_mtime_ns
    assert cli(*ask)[0] == 0
    assert file.stat().st_mtime_ns == stamp
    assert cli(*ask[:2], "{name: localise, modes: scale, permutations: 0, factor: 0.2}", "--of=base")[0] == 0
    assert file.stat().st_mtime_ns != stamp
    rows = list(csv.DictReader((run_folder / "analyses" / "localise.csv").open()))
    assert {row["id"] for row in rows} == {"base"}
    assert {row["mode"] for row in rows} == {"none", "scale"}
    assert cli(*ask[:3], "--of=kfac*")[0] == 0
    assert stored_analysis(TrainedRun.open(run_folder), "localise", "kfac-rho0.9")["id"] == "kfac-rho0.9"


def test_scores_are_stored_beside_and_checked(cli, run_folder):
    ask = ["analyse", run_folder, "{name: detection, directions: 0, resamples: 3}", "--of=base"]
    assert cli(*ask)[0] == 0
    run = TrainedRun.open(run_folder)
    scores = stored_scores(run, "detection")
    assert set(scores) >= {"loss", "margin", "low_curvature", "random"}
    assert all(len(score) == len(run.data.train_examples) for score in scores.values())
    assert not [*check_run(run_folder, Counter())]
    file = run_folder / "evals" / "base" / "analyses" / "detection.npz"
    np.savez(file, loss=np.zeros(3))
    assert stored_analysis(run, "detection") is None
    assert any("detection" in why for why in check_run(run_folder, Counter()))
    assert cli(*ask)[0] == 0
    assert len(stored_scores(run, "detection")["loss"]) > 3


@pytest.mark.parametrize(
    "changes", [{"rows": 3}, {"rows": [{}]}, {"settings": "mode"}, {"references": {"../x": None}}, {"edits": [3]},
                {"id": "other"}, {"scores_sha256": 3}],
)  # fmt: skip
def test_malformed_results_are_made_again(cli, run_folder, changes):
    ask = ["analyse", run_folder, "{name: localise, modes: scale, permutations: 0}", "--of=base"]
    assert cli(*ask)[0] == 0
    file = run_folder / "evals" / "base" / "analyses" / "localise.json"
    before = json.loads(file.read_text())
    rewritten(file, **changes)
    assert stored_analyses(TrainedRun.open(run_folder)) == []
    assert cli(*ask)[0] == 0
    assert json.loads(file.read_text())["rows"] == before["rows"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["band"], "unknown analysis 'band'; registered are"),
        (["{name: bands, image: 3}"], "image"),
        (["{name: bands, images: 0}"], "images is 0"),
        (["bands", "bands"], "two analyses would be called 'bands'"),
        (["bands", "--of=kfak*"], "has no model 'kfak*'; there are: base, kfac-rho0.9"),
        (["{name: bands"], "is no YAML"),
    ],
)
def test_bad_input_is_one_line(cli, run_folder, arguments, words):
    code, _, errors = cli("analyse", run_folder, *arguments)
    assert code == 2
    assert errors.count("\n") == 1
    assert words in errors
    assert not (run_folder / "analyses").exists()


@dataclass(frozen=True)
class Impossible(Analysis):
    """Cannot be made of any model."""

    def apply(self, model, data, generator):
        raise ValueError("there is nothing\nto look at")


def test_of_all_analyses_those_that_cannot_be_made_are_left_out_and_said(cli, run_folder, monkeypatch):
    for module in ("vitmem.analysis", "vitmem.runs.named"):
        monkeypatch.setattr(f"{module}.analyses", lambda: {"impossible": Impossible})
    code, printed, errors = cli("analyse", run_folder, "--of=base")
    assert code == 0, errors
    assert "impossible of base, left out: there is nothing to look at (1 of 1)" in printed
    code, _, errors = cli("analyse", run_folder, "impossible", "--of=base")
    assert code == 2
    assert "there is nothing to look at" in errors
