"""Suspect labels as cleanlab's columns."""

import csv
import io

import pytest

from vitmem.runs.analyse import stored_scores
from vitmem.runs.issues import issues_csv
from vitmem.runs.trained import TrainedRun


@pytest.fixture
def analysed(cli, run_folder):
    assert (
        cli("analyse", run_folder, "{name: detection, directions: 0, resamples: 2, images: 300}", "--of=base")[0] == 0
    )
    return run_folder


@pytest.mark.slow
def test_the_most_suspect_are_marked_and_lower_is_worse(analysed):
    run = TrainedRun.open(analysed)
    scores = stored_scores(run, "detection")["summed_loss"]
    rows = list(csv.DictReader(io.StringIO(issues_csv(run, "summed_loss", 0.1))))
    assert len(rows) == 300
    marked = [row for row in rows if row["is_label_issue"] == "True"]
    assert len(marked) == 30
    lowest = min(scores[int(row["index"])] for row in marked)
    assert all(scores[int(row["index"])] <= lowest for row in rows if row not in marked)
    quality = {int(row["index"]): float(row["label_score"]) for row in rows}
    assert (min(quality.values()), max(quality.values())) == (0, 1)
    assert quality[max(quality, key=lambda i: scores[i])] == 0
    given = run.data.train_examples.given_label
    assert all(row["given_label"] == run.data.data.class_names[given[int(row["index"])]] for row in rows)


@pytest.mark.slow
def test_they_are_exported_beside_the_model(cli, analysed, tmp_path):
    code, _, errors = cli("export", analysed, "base", tmp_path / "out", "--issues=margin", "--issue_share=0.2")
    assert code == 0, errors
    assert (tmp_path / "out" / "issues.csv").read_text() == issues_csv(TrainedRun.open(analysed), "margin", 0.2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--issues=los"], "--issues is 'los'; there are: loss"),
        (["--issues=loss", "--issue_share=1"], "--issue_share is 1"),
    ],
)
def test_bad_input(cli, analysed, tmp_path, options, words):
    code, _, errors = cli("export", analysed, "base", tmp_path / "out", *options)
    assert code == 2
    assert words in errors
    assert not (tmp_path / "out").exists()


def test_without_scores_it_says_how_to_make_them(cli, run_folder, tmp_path):
    code, _, errors = cli("export", run_folder, "base", tmp_path / "out", "--issues=loss")
    assert code == 2
    assert "make them: vitmem analyse" in errors
