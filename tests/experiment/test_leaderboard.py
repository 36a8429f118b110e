"""The leaderboard: the committed page is what its command makes, and its numbers are those of a table by hand."""

import dataclasses
import importlib
import math
from pathlib import Path

import pytest

from vitmem.runs.config import RunConfig
from vitmem.yaml_files import dump_yaml

HERE = Path(__file__).parents[2] / "experiments"
HEADER = "experiment,seed,id,edit,option,value,point,status,plan,track,tuned_memorized,kept_validation,"
HEADER += "memorized_unseen_accuracy,ground_truth_unseen_accuracy,clean_train_accuracy,validation_held_out_accuracy,"
HEADER += "passes,seconds\n"
EXPERIMENT = "name: toy\ndata: {name: digits}\nnoise: {kind: symmetric, rate: 0.1, seed: 3}\nmodel: {width: 8}\n"
EXPERIMENT += "train: {epochs: 2, keep_every: 1}\nseeds: 0,1\nvary_noise: true\n"


@pytest.fixture
def leaderboard(monkeypatch):
    monkeypatch.syspath_prepend(str(HERE))
    return importlib.import_module("leaderboard")


@pytest.fixture
def toy(leaderboard, tmp_path, monkeypatch):
    """A board of one contest with two seeds, and its folders of experiments and results."""
    board = leaderboard.Board("toy", "Toys", ("toy",), (), ("toy",), "toy")
    monkeypatch.setattr(leaderboard, "BOARDS", (board,))
    (tmp_path / "toy.yaml").write_text(EXPERIMENT)
    write(tmp_path / "results" / "toy", {"mild": (0.5, 0.7), "strong": (0.6, 0.8)})
    return board, tmp_path / "results", tmp_path


def write(folder, truths, track="label-free (tuned)"):
    """Write a results table: frontiers from memorized 0.3 to 0.1 whose middle has the given ground truth by seed."""
    lines = []
    for method, values in truths.items():
        for seed, truth in enumerate(values):
            for point, kept, memorized, shift in (("at0.3", 0.9, 0.3, -0.1), ("at0.1", 0.5, 0.1, 0.1)):
                row = (
                    "toy",
                    seed,
                    f"{method}-{point}",
                    method,
                    "keep",
                    kept,
                    point,
                    "ok",
                    "",
                    track,
                    point[2:],
                    "True",
                )
                lines.append((*row, memorized, truth + shift, 0.9, 0.9, 1, 2 + seed))
            row = ("toy", seed, f"{method}-best", method, "keep", 0.7, "best", "ok", "", track, 0.2, "True")
            lines.append((*row, 0.2, truth, 0.9, 0.9, 1, 2 + seed))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.csv").write_text(HEADER + "".join(",".join(map(str, line)) + "\n" for line in lines))


@pytest.mark.slow
def test_the_committed_page_is_what_the_command_makes(leaderboard):
    page = (HERE / "leaderboard.md").read_text()
    assert page[page.index(leaderboard.MARK) :] == leaderboard.page(HERE / "results")


def test_committed_digests_are_those_of_the_wrong_labels(leaderboard):
    lines = (HERE / "results" / "leaderboard" / "manifests.csv").read_text().splitlines()
    config = RunConfig()
    config = dataclasses.replace(config, noise=dataclasses.replace(config.noise, seed=2))
    header = leaderboard.make_data(config).manifest.header()
    assert f"digits_contest,2,2,{header['data_fingerprint']},{header['sha256']}" in lines


def test_numbers_are_those_by_hand(leaderboard, toy):
    board, results, experiments = toy
    methods = {m.name: m for m in leaderboard.read_board(board, results, experiments)}
    assert methods["mild"].truth["0.2"] == pytest.approx({0: 0.5, 1: 0.7})  # half way between 0.3 and 0.1
    assert methods["mild"].truth["best"] == pytest.approx({0: 0.5, 1: 0.7})
    assert methods["mild"].track == "label-free"
    assert methods["mild"].cost == {"passes": [1, 1], "seconds": [2, 3]}
    both = [methods["mild"], methods["strong"]]
    behind = leaderboard.regrets(both, "0.2")
    assert behind[0].value == pytest.approx(0.1)
    assert behind[1].value == 0
    assert math.isnan(behind[1].low)
    title, body = leaderboard.track_table(both).titles, leaderboard.track_table(both).body
    assert [line[0] for line in body] == ["strong", "mild"]
    assert body[0][title.index("ground truth at memorized 0.2")].value == pytest.approx(0.7)
    assert body[0][title.index("seconds")] == "2.5 (2 to 3)"


def test_methods_of_other_recipes_and_tracks_are_not_compared(leaderboard):
    methods = [
        leaderboard.Method(name, "toy", recipe, track, {"best": {0: value, 1: value}})
        for name, recipe, track, value in (("a", "r", "x", 0.5), ("b", "r", "y", 0.9), ("c", "s", "x", 0.9))
    ]
    assert [n.value for n in leaderboard.regrets(methods, "best").values()] == [0, 0, 0]


def test_a_recipe_is_what_trains_the_model(leaderboard, tmp_path):
    (tmp_path / "a.yaml").write_text(EXPERIMENT)
    (tmp_path / "b.yaml").write_text(EXPERIMENT.replace(", keep_every: 1", "").replace("toy", "other") + "tune: 3\n")
    (tmp_path / "c.yaml").write_text(EXPERIMENT.replace("width: 8", "width: 16"))
    first, same, other = (leaderboard.recipe_of(name, tmp_path) for name in "abc")
    assert first == same != other


def test_durability_is_of_all_seeds(leaderboard):
    row = {"seed": math.nan, "low": 0.1, "high": 0.3, "reason": "", "population": ""}
    rows = [row | {"id": "a-at0.2", "criterion": "durable_left", "value": 0.2}]
    rows += [row | {"id": "a-at0.2", "criterion": "durable_back", "value": 0.15}]
    rows += [row | {"id": "a-at0.2", "criterion": "durable", "value": math.nan, "reason": "open: it reaches across"}]
    rows += [row | {"id": "a-at0.2", "criterion": "durable_left", "value": 0.9, "seed": 0}]
    left, back, verdict = leaderboard.durability_of(rows)["a"]
    assert (left.value, left.low, back.value, verdict) == (0.2, 0.1, 0.15, "open")


def entry(folder, leaderboard, board, experiments, width):
    for seed in (0, 1):
        config = leaderboard.expected(board.entry, seed, experiments)
        config = dataclasses.replace(config, model=dataclasses.replace(config.model, width=width))
        (folder / f"seed{seed}").mkdir(parents=True)
        (folder / f"seed{seed}" / "config.yaml").write_text(dump_yaml(config.to_dict()))
    write(folder, {"mine": (0.65, 0.85)})


def test_an_entry_is_added_and_compared(leaderboard, toy):
    board, results, experiments = toy
    folder = experiments / "runs" / "toy_entry_mine"
    entry(folder, leaderboard, board, experiments, width=8)
    leaderboard.add(folder, results, experiments)
    methods = leaderboard.read_board(board, results, experiments)
    assert [m.source for m in methods if m.name == "mine"] == ["toy_entry_mine"]
    assert leaderboard.regrets(methods, "best")[0].value == pytest.approx(0.15)  # `mild`, less than the entry
    page = leaderboard.page(results, experiments)
    assert page.index("| mine ") < page.index("| strong ")


def test_entries_of_other_models_or_names_are_refused(leaderboard, toy):
    board, results, experiments = toy
    entry(experiments / "toy_entry_mine", leaderboard, board, experiments, width=16)
    with pytest.raises(ValueError, match="was not trained as"):
        leaderboard.add(experiments / "toy_entry_mine", results, experiments)
    with pytest.raises(ValueError, match="it must be toy_entry_NAME"):
        leaderboard.add(experiments / "mine", results, experiments)


def test_entering_runs_the_edits_of_a_file_as_the_board_does(leaderboard, tmp_path, monkeypatch):
    plugin = tmp_path / "mine.py"
    plugin.write_text(
        "from vitmem.editing.shrink import Scale\nclass Mine(Scale): pass\nEDITS = {'mine_of_the_leaderboard': Mine}\n"
    )
    said = []
    monkeypatch.setattr("vitmem.registry._LOADED", [])  # and unloaded afterwards
    monkeypatch.setattr("vitmem.cli.main", lambda arguments: said.append(arguments) or 0)
    assert leaderboard.enter(plugin, tmp_path) == tmp_path / "digits_entry_mine"
    assert said[0][:2] == ["run", str(HERE / "digits_durability.yaml")]
    assert said[0][said[0].index("--edits") + 1] == '[{"name": "mine_of_the_leaderboard"}]'
    assert said[0][said[0].index("--plugin") + 1] == str(plugin)
