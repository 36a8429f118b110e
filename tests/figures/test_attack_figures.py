"""Figures of attacks hold the numbers of the tables, and what was not measured is not drawn as 0."""

import csv
import math

import pytest
from drawn import write_csv
from scipy import stats

from vitmem.evaluation import recovery
from vitmem.evaluation import scorecard as cards
from vitmem.figures import bits, draw_all, relearning, scorecard, style

pytestmark = pytest.mark.slow


def stored(name, seed, memory):
    steps = [
        {"arm": arm, "lr": 1e-4, "step": step, "memorized_accuracy": m, "validation_accuracy": 0.9 - 0.01 * step}
        for arm in ("retain", "noisy")
        for step, m in ((0, memory), (1, memory), (10, memory / 2))
    ]
    widths = [
        {"bits": b, "group": g, "head": h, "memorized_accuracy": memory / (9 - b), "validation_accuracy": 0.1 * b}
        for b, g in ((8, "row"), (4, "row"), (4, 32))
        for h in ("kept", "quantized")
    ]
    common = {"experiment": "e", "seed": seed, "id": name}
    return [
        {**common, "attack": "relearn", "settings": ["arm", "lr", "step"], "rows": steps},
        {**common, "attack": "quantize", "settings": ["bits", "group", "head"], "rows": widths},
    ]


@pytest.fixture
def folder(tmp_path):
    memory = {"base": 1.0, "retrain": 0.0, "svd-keep0.5": 0.2}
    results = [part for name, m in memory.items() for part in stored(name, 0, m)]
    second = {**memory, "svd-keep0.5": 0.3}
    results += [part for name, m in second.items() for part in stored(name, 1, m)]
    rows = [
        {"experiment": "e", "seed": seed, "id": n, "memorized_accuracy": m, "validation_accuracy": 0.9}
        for seed, found in enumerate((memory, second))
        for n, m in found.items()
    ]
    long = recovery.with_recovery(results)
    (tmp_path / "attacks.csv").write_text(recovery.to_csv(long))
    (tmp_path / "scorecard.csv").write_text(cards.to_csv(cards.scorecards(rows, long)))
    return tmp_path


def drawn(path):
    with open(path.with_suffix(".csv"), newline="") as file:
        return list(csv.DictReader(file))


def test_all_are_drawn_with_the_experiment_and_twice_alike(folder):
    paths = draw_all(folder)
    assert [path.name for path in paths] == ["relearning_svd-keep0.5.png", "bits.png", "scorecard_svd-keep0.5.png"]
    before = {path: path.read_bytes() for path in (folder / "figures").iterdir()}
    draw_all(folder)
    assert before == {path: path.read_bytes() for path in (folder / "figures").iterdir()}


def test_relearning_holds_means_over_seeds(folder):
    (path,) = relearning.draw(folder / "attacks.csv", folder / "out")
    rows = drawn(path)
    (start,) = [r for r in rows if (r["arm"], float(r["step"]), r["metric"]) == ("retain", 0, "recovery")]
    assert float(start["mean"]) == pytest.approx(0.25)  # of 0.2 and 0.3
    assert float(start["sd"]) == pytest.approx(math.sqrt(0.005))
    assert start["seeds"] == "2"


@pytest.mark.parametrize(
    ("track", "shown", "where", "label"),
    [
        ("known noisy examples", "recovery_known", 0.1, "known wrong labels"),
        ("label-free", "recovery_unseen", 0.4, "unseen wrong labels"),
        (None, "recovery_unseen", 0.4, "unseen wrong labels"),  # no results.csv beside it
        ("old", "recovery", 0.25, "all wrong labels"),  # unseen ones were not measured
    ],
)
def test_relearning_shows_what_the_edit_was_to_remove(tmp_path, monkeypatch, track, shown, where, label):
    parts = {"memorized_known_accuracy": 0.1, "memorized_unseen_accuracy": 0.4}
    results = [stored(name, 0, m)[0] for name, m in {"base": 1.0, "retrain": 0.0, "npo": 0.25}.items()]
    for found, values in zip(results, ({}, {}, parts), strict=True):
        for row in found["rows"] if track != "old" else ():
            row |= {metric: values.get(metric, row["memorized_accuracy"]) for metric in parts}
    (tmp_path / "attacks.csv").write_text(recovery.to_csv(recovery.with_recovery(results)))
    if track:
        (tmp_path / "results.csv").write_text(f"seed,id,track\n0,base,\n0,npo,{track}\n")
    labels = []
    save = style.save
    monkeypatch.setattr(style, "save", lambda f, *more: labels.append(f.axes[0].get_ylabel()) or save(f, *more))
    (path,) = relearning.draw(tmp_path / "attacks.csv", tmp_path / "out")
    rows = drawn(path)
    assert {row["metric"] for row in rows} == {shown, "validation_accuracy"}
    starts = [r for r in rows if (r["arm"], float(r["step"]), r["metric"]) == ("retain", 0, shown)]
    assert [float(row["mean"]) for row in starts] == pytest.approx([where])
    assert labels[0].startswith(f"recovery of {label}")


def test_bit_widths_of_whole_rows_with_the_head_rounded_too(folder):
    (path,) = bits.draw(folder / "attacks.csv", folder / "out")
    rows = drawn(path)
    found = {(r["id"], float(r["bits"])): float(r["mean"]) for r in rows if r["metric"] == "memorized_accuracy"}
    assert found == pytest.approx(
        {("base", 4): 0.2, ("base", 8): 1, ("retrain", 4): 0, ("retrain", 8): 0}
        | {("svd-keep0.5", 4): 0.05, ("svd-keep0.5", 8): 0.25}
    )


def test_a_scorecard_says_what_was_not_measured(folder):
    (path,) = scorecard.draw(folder / "scorecard.csv", folder / "out")
    rows = {r["criterion"]: r for r in drawn(path)}
    assert float(rows["verbatim"]["mean"]) == pytest.approx(0.75)
    assert (rows["views"]["mean"], rows["views"]["seeds"]) == ("", "0")
    assert "needs attack views" in rows["views"]["reason"]
    assert rows["durable"]["reason"]


def test_a_scorecard_shows_the_numbers_of_the_verdict_with_their_interval(folder):
    (path,) = scorecard.draw(folder / "scorecard.csv", folder / "out")
    rows = {r["criterion"]: r for r in drawn(path)}
    ends = stats.t.interval(0.95, 1, 0.25, 0.05)  # of 0.2 and 0.3
    left = rows["durable_left"]
    assert [float(left[name]) for name in ("mean", "low", "high", "seeds")] == pytest.approx([0.25, *ends, 2])
    assert rows["verbatim"]["low"] == ""


def test_a_scorecard_of_before_is_still_drawn(folder):
    rows = [["e", 0, "svd", "verbatim", 0.5, ""], ["e", "", "svd", "durable", 1.0, "durable: as told"]]
    write_csv(folder / "scorecard.csv", ["experiment", "seed", "id", "criterion", "value", "reason"], rows)
    (path,) = scorecard.draw(folder / "scorecard.csv", folder / "out")
    rows = {r["criterion"]: r for r in drawn(path)}
    assert float(rows["verbatim"]["mean"]) == 0.5
    assert "durable_left" not in rows
