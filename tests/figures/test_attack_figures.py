"""Figures of attacks hold the numbers of the tables, and what was not measured is not drawn as 0."""

import csv
import math

import pytest

from vitmem.evaluation import recovery
from vitmem.evaluation import scorecard as cards
from vitmem.figures import bits, draw_all, relearning, scorecard


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
    results += [part for name, m in {**memory, "svd-keep0.5": 0.3}.items() for part in stored(name, 1, m)]
    rows = [
        {"experiment": "e", "seed": seed, "id": n, "memorized_accuracy": m, "validation_accuracy": 0.9}
        for seed in (0, 1)
        for n, m in memory.items()
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
    assert float(rows["verbatim"]["mean"]) == pytest.approx(0.8)
    assert (rows["views"]["mean"], rows["views"]["seeds"]) == ("", "0")
    assert "needs attack views" in rows["views"]["reason"]
    assert rows["durable"]["reason"]
