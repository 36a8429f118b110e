"""Matched strength, on curves whose crossings are known."""

import hashlib
import itertools
import math

import pytest

from vitmem.editing import edits
from vitmem.experiment.bisection import FEWEST, LADDER, RANGE, TARGETS, crossing, points, proposed, strength
from vitmem.experiment.plan import Experiment, plan_edits
from vitmem.experiment.tuning import best, objective, within_drop
from vitmem.runs.config import RunConfig
from vitmem.runs.trained import TrainedRun

SHARE = ("share", *RANGE)


def trial(keep, memorized, validation=0.9, status="ok", base=0.9):
    score = objective(1 - memorized, base - validation)
    found = {"memorized": memorized, "ground_truth": 1 - memorized, "validation": validation, "objective": score}
    return {"options": {"keep": keep}, "status": status, **found}


def bisected(curve, number, spec=SHARE):
    """Return trials of an edit whose measurements are a function of its strength."""
    trials = []
    while len(trials) < number:
        keep = proposed(spec, "keep", trials, within_drop)
        trials.append(trial(keep, **curve(keep)))
    return trials


@pytest.mark.parametrize("middle", [0.1, 0.3, 0.6, 0.95, 0.99])
def test_crossings_are_found_wherever_they_lie(middle):
    """Memorised accuracy is a logistic curve of the log-odds of what is kept: where it crosses is known."""

    def curve(keep):
        x = math.log(keep / (1 - keep)) - math.log(middle / (1 - middle))
        return {"memorized": 1 / (1 + math.exp(-2 * x))}

    trials = bisected(curve, LADDER + 5 * len(TARGETS) + 5)
    for target in TARGETS:
        chosen = crossing(target, "keep", trials)
        assert abs(chosen["memorized"] - target) < 0.02


def test_every_edit_walks_the_same_ladder_and_makes_as_many_trials():
    low, high = ([t["options"]["keep"] for t in bisected(lambda k, m=m: {"memorized": m}, 20)] for m in (0.0, 1.0))
    assert low[:LADDER] == high[:LADDER]
    assert (low[0], low[LADDER - 1]) == pytest.approx(RANGE[::-1])
    odds = [math.log(k / (1 - k)) for k in low[:LADDER]]
    assert [a - b for a, b in itertools.pairwise(odds)] == pytest.approx([odds[0] - odds[1]] * (LADDER - 1))
    rounds = len(TARGETS) + 1
    assert all(RANGE[1] < keep < 1 for k, keep in enumerate(low[LADDER:]) if k % rounds < len(TARGETS))  # towards base
    assert all(RANGE[0] < keep < low[LADDER - 2] for keep in high[LADDER:])  # never down: towards the strong end


def test_the_first_crossing_counts_where_memory_comes_back():
    """An edit that is not monotone: below 0.3 kept the wrong labels are back, by chance."""
    curve = lambda keep: {"memorized": 0.9 if keep > 0.5 else 0.1 if keep > 0.3 else 0.3}  # noqa: E731
    trials = bisected(curve, 30)
    assert crossing(0.3, "keep", trials)["options"]["keep"] > 0.3
    assert crossing(0.1, "keep", trials)["options"]["keep"] > 0.3


def test_a_model_at_chance_is_never_chosen():
    trials = [trial(0.9, 0.8), trial(0.5, 0.55), trial(0.2, 0.11, status="at chance"), trial(0.1, 0.4)]
    assert crossing(0.1, "keep", trials)["options"]["keep"] == 0.5
    assert crossing(0.8, "keep", trials)["options"]["keep"] == 0.9
    diverged = [{**trial(0.5, 0.5), "memorized": None, "status": "diverged: too far"}]
    assert crossing(0.2, "keep", diverged) is diverged[0]


def test_validation_is_crossed_from_the_mild_side_too():
    """Validation falls below the drop at 0.4 kept, and the best trial comes near it."""
    curve = lambda keep: {"memorized": keep, "validation": 0.9 if keep > 0.4 else 0.5}  # noqa: E731
    chosen = best(bisected(curve, 34))
    assert 0.4 < chosen["options"]["keep"] < 0.45
    assert list(points("keep", best)) == ["best", "at0.4", "at0.3", "at0.2", "at0.1"]


@pytest.mark.parametrize("spec", [("log", 10.0, 1e6), ("uniform", 0.0, 4.0)])
def test_other_scales(spec):
    trials = bisected(lambda value: {"memorized": (value - spec[1]) / (spec[2] - spec[1])}, 40, spec)
    values = [t["options"]["keep"] for t in trials]
    assert (max(values), min(values)) == pytest.approx((spec[2], spec[1]))
    assert abs(crossing(0.2, "keep", trials)["memorized"] - 0.2) < 0.05


def test_only_the_strength_is_chosen():
    found = {name: strength(edit.main_option, edit.search) for name, edit in ((n, cls()) for n, cls in edits().items())}
    assert found["kfac"] == found["ekfac"] == {"rho": ("share", *RANGE)}
    assert found["rewind"] == found["svd"] == {"keep": ("share", *RANGE)}
    assert found["sap"] == {"alpha": ("log", 10.0, 1e6)}
    assert found["ekfac_auto"] == {}
    (given,) = plan_edits([{"name": "rewind", "keep": 0.0, "id": "start"}])
    experiment = Experiment("a", RunConfig(), edits=(given,), tune=30, tuner="bisect")
    assert experiment.result_ids(given) == ["start-keep0"]


def test_too_few_trials_are_refused(cli, tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text("edits: [{name: scale}]\ntune: 9\ntuner: bisect\n")
    code, _, errors = cli("run", file, f"--out={tmp_path}")
    assert code == 2
    assert f"tune is 9; tuner: bisect needs at least {FEWEST} trials for each edit" in errors


@pytest.mark.slow
def test_an_experiment_with_matched_strengths_and_labels_of_each_seed(cli, tmp_path):
    file = tmp_path / "small.yaml"
    file.write_text(
        f"references: []\nfigures: false\nseeds: 0,1\nvary_noise: true\ntune: {FEWEST}\ntuner: bisect\n"
        "model: {width: 16, depth: 2, heads: 2, patch: 4}\n"
        "train: {epochs: 1, batch_size: 400, warmup_epochs: 0}\n"
        "edits: [{name: scale}, {name: rewind, keep: 0.0, id: start}]\n"
    )
    code, _, errors = cli("run", file, f"--out={tmp_path}")
    assert code == 0, errors
    header, *rows = (tmp_path / "small" / "results.csv").read_text().splitlines()
    plans = {dict(zip(header.split(","), row.split(","), strict=True))["plan"] for row in rows}
    assert plans == {hashlib.sha256(file.read_bytes()).hexdigest()[:12]}
    names = ["base", *(f"scale-{p}" for p in ("best", "at0.4", "at0.3", "at0.2", "at0.1")), "start-keep0"]
    assert [row.split(",")[2] for row in rows] == names * 2
    runs = [TrainedRun.open(tmp_path / "small" / f"seed{seed}") for seed in (0, 1)]
    assert [run.config.noise.seed for run in runs] == [0, 1]
    assert (runs[0].manifest.is_noisy != runs[1].manifest.is_noisy).any()
    file.write_text(file.read_text().replace("seeds: 0,1", "seeds: 1"))  # of which train takes the first
    code, printed, errors = cli("train", f"--config={file}", f"--out={tmp_path}")
    assert code == 0, errors
    assert "already trained" in printed
