"""Own labels, forget sets, classes and triggers from training to tables, on the command line."""

import csv
import json

import numpy as np
import pytest
from cases import QUICK
from photographs import save_image

from vitmem.runs.trained import TrainedRun

pytestmark = pytest.mark.slow

MODEL = [argument for argument in QUICK if not argument.startswith(("--data", "--noise"))]


def rows_of(path):
    with (path / "evals" / "results.csv").open() as file:
        return {row["id"]: row for row in csv.DictReader(file)}


def measured(cli, path, *attacks, edits=("kfac", "npo")):
    for edit in edits:
        code, _, errors = cli("edit", edit, path)
        assert (code, errors) == (0, errors)
    code, _, errors = cli("eval", path, *attacks)
    assert code == 0, errors
    assert cli("check", path)[0] == 0
    return rows_of(path)


@pytest.fixture(scope="module")
def flat(tmp_path_factory):
    """A folder of images whose labels are in a file."""
    root = tmp_path_factory.mktemp("flat")
    for k in range(12):
        save_image(root / "train" / f"{k:02d}.png")
    for name in ("val", "test"):
        for label in ("cat", "dog"):
            for k in range(4):
                save_image(root / name / label / f"{k}.png")
    text = "".join(f"{k:02d}.png,{'cat' if k % 3 else 'dog'},{int(k == 5)}\n" for k in range(12))
    (root / "labels.csv").write_text("path,label\n" + "".join(line[: line.rindex(",")] + "\n" for line in text.split()))
    (root / "forget.csv").write_text("path,label,forget\n" + text)
    return root


def own(flat, file, out, *more):
    data = ["--data.name=imagefolder", f"--data.root={flat}", "--data.size=8", "--noise.kind=file"]
    return ["train", f"--out={out}", "--name=own", *MODEL, *data, f"--noise.file={flat / file}", *more]


def test_own_labels_of_unknown_truth(cli, flat, tmp_path):
    assert cli(*own(flat, "labels.csv", tmp_path))[0] == 0
    path = tmp_path / "own" / "seed0"
    assert (path / "noise.csv").read_text().splitlines()[1] == "0,-1,1,0,train/00.png"
    rows = measured(cli, path, "--attacks=quantize", edits=["kfac"])
    for row in rows.values():
        assert row["memorized_accuracy_n"] == "12"
        assert row["test_accuracy_n"] == "8"
        for name in ("ground_truth_accuracy", "clean_train_accuracy", "given_margin", "forget_accuracy", "tow"):
            assert row[name] == ""
    for words in (["edit", "npo", path], ["edit", "finetune", path], ["eval", path, "--attacks=relearn"]):
        code, _, errors = cli(*words)
        assert code == 2
        assert (
            "whether the training labels are right is unknown, so there are no examples to forget or retain" in errors
        )
        assert errors.count("\n") == 1
    for kind in ("retrain", "clean"):
        code, _, errors = cli(*own(flat, "labels.csv", tmp_path, f"--train_on={kind}"))
        assert (code, "unknown" in errors) == (2, True)


def test_a_forget_set_of_own_labels_with_retrain(cli, flat, tmp_path):
    for kind in ("noisy", "retrain"):
        assert cli(*own(flat, "forget.csv", tmp_path, f"--train_on={kind}"))[0] == 0
    path = tmp_path / "own" / "seed0"
    rows = measured(cli, path, "--attacks=[{name: membership, shadows: 0}]")
    assert rows["retrain"]["tow"] == "1.0"
    for row in rows.values():
        assert (row["memorized_accuracy_n"], row["clean_train_accuracy_n"]) == ("1", "11")
        assert row["ground_truth_accuracy"] == ""
        gaps = [float(row[f"{part}_gap"]) for part in ("forget", "retain", "test")]
        assert float(row["tow"]) == pytest.approx(np.prod([1 - abs(gap) for gap in gaps]))
        assert 0 <= float(row["tow_mia"]) <= 1


@pytest.mark.parametrize(
    ("options", "number"),
    [
        (["--noise.kind=forget_set", "--noise.indices=[3, 5, 8]"], 3),
        (["--noise.kind=forget_class", "--noise.name=4", "--noise.share=0.5"], None),
    ],
)
def test_rightly_labelled_examples_are_forgotten(cli, tmp_path, options, number):
    assert cli("train", f"--out={tmp_path}", "--name=f", *MODEL, *options)[0] == 0
    path = tmp_path / "f" / "seed0"
    count = json.loads((path / "noise.json").read_text())["num_forget"]
    assert number in (None, count)
    rows = measured(cli, path, edits=["scrub"])
    row = rows["scrub-lr0.0005"]
    assert (row["memorized_accuracy_n"], row["ground_truth_accuracy"]) == (str(count), "")
    assert row["forget_accuracy"] == row["memorized_accuracy"] != ""
    assert TrainedRun.open(path).known_noisy(1.0).sum() == count


def test_a_trigger_is_measured_on_validation_images(cli, tmp_path):
    options = ["--noise.kind=trigger", "--noise.target=9", "--noise.rate=0.2", "--noise.size=2"]
    assert cli("train", f"--out={tmp_path}", "--name=t", *MODEL, *options)[0] == 0
    path = tmp_path / "t" / "seed0"
    rows = measured(cli, path, "--attacks=[{name: membership, shadows: 0}]")
    true = TrainedRun.open(path).data.data.validation_label
    assert {row["attack_success_rate_n"] for row in rows.values()} == {str(int((true != 9).sum()))}
    assert all(row["membership_auc"] for row in rows.values())


def test_a_changed_test_split_is_other_data(cli, flat, tmp_path):
    assert cli(*own(flat, "labels.csv", tmp_path))[0] == 0
    path = tmp_path / "own" / "seed0"
    header = json.loads((path / "noise.json").read_text())
    run = TrainedRun.open(path)
    data = run.data
    assert header["test_fingerprint"] == data.data.test_fingerprint
    data.manifest.details["test_fingerprint"] = "0" * 64
    with pytest.raises(ValueError, match="the data at hand are not those .*test_fingerprint"):
        TrainedRun(path, known_data=data).data  # noqa: B018
    old = TrainedRun(path, known_data=data)
    del old.manifest.details["test_fingerprint"]  # trained before there were test splits
    assert old.data is data
