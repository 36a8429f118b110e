"""What the page holds: the same numbers as the tables, and every name as text."""

import base64
import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
from reported import CLASSES, Elements

from vitmem.evaluation.glossary import GLOSSARY, entry
from vitmem.evaluation.scorecard import CRITERIA
from vitmem.evaluation.tables import terminal_table, to_csv
from vitmem.experiment.board import Board
from vitmem.experiment.perform import How
from vitmem.files import write_atomically
from vitmem.report import figures, tables
from vitmem.report.answers import COUNTED
from vitmem.report.packed import Space
from vitmem.runs.evaluate import examples

ROOT = Path(__file__).parents[2]


def rows_of(folder):
    return tables.read_rows(folder / "results.csv")


def unpacked(text, kind):
    return np.frombuffer(base64.b64decode(text), kind)


@pytest.fixture(scope="module")
def elements(report):
    return Elements(report.read_text())


@pytest.mark.slow
def test_the_headline_has_the_cells_of_the_terminal(hostile):
    rows = rows_of(hostile)
    with (hostile / "results.csv").open() as file:
        base = [float(row["validation_accuracy"]) for row in csv.DictReader(file) if row["id"] == "base"]
    table, failed = tables.results(rows)
    lines = [re.split(r"  +", line) for line in terminal_table(rows).splitlines()[2:]]
    for cells, line in zip(table.body, lines, strict=False):
        assert [cell.split("\n")[0] for cell in cells if cell] == [cell for cell in line if cell]
    assert f"{np.mean(base):.3f} ± {np.std(base, ddof=1):.3f}" in table.body[0][4]
    half = 12.706 * np.std(base, ddof=1) / np.sqrt(2)  # Student's t of one degree of freedom
    low, high = map(float, re.search(r"\[(.*), (.*)\]", table.body[0][4]).groups())
    assert (low, high) == (pytest.approx(np.mean(base) - half, abs=2e-3), pytest.approx(np.mean(base) + half, abs=2e-3))
    assert len(failed) == sum(row["status"] != "ok" for row in rows)


def test_counts_are_those_of_the_table_of_results(elements, hostile):
    rows = {(row["seed"], row["id"]): row for row in rows_of(hostile)}
    told = {(seed["seed"], model["id"]): model["count"] for seed in elements.data["seeds"] for model in seed["models"]}
    assert told.keys() == rows.keys()
    assert {name for _, name in told} >= {"base", "retrain", "svd-keep0.6", "rewind-keep0.5"}
    for key, count in told.items():
        for name, metric in COUNTED.items():
            number, n = count[name]
            assert (n, number / n) == (rows[key][f"{metric}_n"], pytest.approx(rows[key][metric], abs=1e-9))


def test_answers_and_labels_are_those_that_were_measured(elements, hostile):
    data = elements.data
    index = unpacked(data["index"], np.uint32)
    assert sorted(index) == list(range(120))
    for seed in data["seeds"]:
        table = examples(hostile / f"seed{seed['seed']}", "scale-factor0.4")
        train = table.split == 0
        by_index = {
            name: getattr(table, name)[train][np.argsort(table.index[train])]
            for name in ("given", "true", "prediction")
        }
        noisy = by_index["given"] != by_index["true"]
        for name in ("given", "true"):
            assert (unpacked(seed[name], np.uint8) == by_index[name][index]).all()
        assert (unpacked(seed["asked"], np.uint8) == noisy[index]).all()
        (model,) = (model for model in seed["models"] if model["id"] == "scale-factor0.4")
        assert (unpacked(model["answer"], np.uint8) == by_index["prediction"][index[noisy[index]]]).all()


def test_pairs_are_counted_over_all_noisy_images(elements, hostile):
    for seed in elements.data["seeds"]:
        path, ids = hostile / f"seed{seed['seed']}", [model["id"] for model in seed["models"]]
        tables_of = {name: examples(path, name) for name in ("base", "scale-factor0.7")}
        noisy = tables_of["base"].is_noisy
        right, gone = (
            np.logical_and(*(change(table)[noisy] for table in tables_of.values())).sum()
            for change in (lambda t: t.prediction == t.true, lambda t: t.prediction != t.given)
        )
        place = ids.index("base") * len(ids) + ids.index("scale-factor0.7")
        assert unpacked(seed["shared"]["truth"], np.uint32)[place] == right
        assert unpacked(seed["shared"]["gone"], np.uint32)[place] == gone


def test_strengths_go_from_mild_to_strong(elements):
    found = {family["label"]: family["ids"] for family in elements.data["families"]}
    assert {"scale", "svd", "rewind-keep0.5"} == found.keys()
    assert found["rewind-keep0.5"] == ["rewind-keep0.5"]
    assert found["scale"] == ["scale-factor0.9", "scale-factor0.7", "scale-factor0.4"]


def test_names_are_text_everywhere(report, elements):
    page = report.read_text()
    for name in CLASSES:
        assert name not in page
    tags = {tag for tag, _ in elements.found}
    assert not tags & {"b", "i", "iframe", "object", "embed", "base", "form"}
    assert all(not name.startswith("on") and name != "style" for _, attributes in elements.found for name in attributes)
    assert elements.data["classes"] == sorted(CLASSES)
    assert any("<b onclick" in name for name in elements.data["names"])
    assert "</pre></script><script>" not in page
    assert "&lt;i&gt;detection&lt;/i&gt;" in page
    assert [sorted(attributes) for tag, attributes in elements.found if tag == "script"] == [["id", "type"], []]


def test_nothing_comes_from_a_network(report, elements):
    addresses = [a[key] for _, a in elements.found for key in ("href", "src", "action", "srcset", "data") if a.get(key)]
    assert addresses
    assert all(address.startswith(("#", "data:")) for address in addresses)
    (policy,) = (a["content"] for tag, a in elements.found if tag == "meta" and "Content-Security-Policy" in str(a))
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
    assert "url(" not in re.search(r"<style>(.*?)</style>", report.read_text(), re.S)[1]


def test_the_page_is_made_again_but_for_its_time(hostile, report, cli, tmp_path):
    assert cli("report", hostile, f"--out={tmp_path / 'again.html'}")[0] == 0
    first, second = (re.sub(r"Written by.*", "", path.read_text()) for path in (report, tmp_path / "again.html"))
    assert first == second


def test_every_part_is_there(report, elements):
    ids = {attributes.get("id") for _, attributes in elements.found}
    assert ids >= {
        "results",
        "flips",
        "compare",
        "browse",
        "scorecards",
        "analyses",
        "settings",
        "reproduce",
        "glossary",
    }
    page = report.read_text()
    assert all(column in page for column in CRITERIA)
    for words in (
        "train.epochs",
        "name: hostile",
        "data_fingerprint",
        "Save results.csv",
        "95 % t interval",
    ):
        assert words in page
    anchors = {attributes["href"][1:] for _, attributes in elements.found if attributes.get("href", "").startswith("#")}
    assert anchors <= ids


def test_the_glossary_has_one_source():
    text = (ROOT / "experiments" / "README.md").read_text()
    part = text[text.index("## Glossary") : text.index("## Files")]
    rows = re.findall(r"^\| (.+?) \| (.*) \|$", part, flags=re.M)[1:]
    assert {term: meaning.replace("\\|", "|") for term, meaning in rows} == GLOSSARY
    assert len(rows) == len(GLOSSARY)
    for word in ("memorized", "ground truth", "validation", "track", "retrain", "recovered", "paired test", "frontier"):
        assert entry(word)
    assert entry("kfac") is None


def test_a_run_folder_has_a_report_of_its_seed(run_folder, cli):
    (run_folder / "evals" / "results.csv").unlink()  # it is written again
    code, printed, errors = cli("report", run_folder)
    assert (code, errors) == (0, "")
    assert printed == f"report: {run_folder / 'report.html'}\n"
    data = Elements((run_folder / "report.html").read_text()).data
    assert [model["id"] for model in data["seeds"][0]["models"]] == ["base", "kfac-rho0.9"]
    assert cli("check", run_folder)[0] == 0


def test_run_ends_with_the_report(copied, cli, monkeypatch):
    monkeypatch.setattr(
        "vitmem.experiment.run.run", lambda *args, **options: (rows_of(copied), Board([], {}, How(copied.parent)))
    )
    command = ("run", copied / "plan.yaml", f"--out={copied.parent}", "--figures=false")
    assert cli(*command, "--report=false")[1].splitlines()[-1].startswith("results: ")
    assert not (copied / "report.html").exists()
    code, printed, errors = cli(*command)
    assert (code, errors) == (0, "")
    assert printed.splitlines()[-1] == f"report: {copied / 'report.html'}"
    assert (copied / "report.html").stat().st_size > 10_000


def with_another_number(folder):
    with (folder / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        row["memorized_accuracy"] = "0.5017" if row["id"] == "svd-keep0.6" else row["memorized_accuracy"]
    write_atomically(folder / "results.csv", to_csv(rows))


DAMAGES = {
    "answers of an edit": (
        lambda folder: (folder / "seed0/evals/svd-keep0.2/examples.npz").write_bytes(b"damaged"),
        "svd-keep0.2 (seed 0) is left out where single images are shown: ",
    ),
    "answers of the base model": (
        lambda folder: (folder / "seed1/evals/base/examples.npz").unlink(),
        "Nothing is shown of single images of seed 1: ",
    ),
    "a table of other measurements": (
        with_another_number,
        "it was measured again since the table of results was written (memorized_accuracy)",
    ),
    "scores of an analysis": (
        lambda folder: (folder / "seed0/evals/base/analyses/detection.npz").write_bytes(b"PK"),
        "Detection scores of seed 0 are left out: ",
    ),
    "scorecards": (lambda folder: (folder / "scorecard.csv").write_text("a,b\n1,2\n"), "is no table of scorecards"),
}


@pytest.mark.parametrize("what", DAMAGES)
def test_what_is_damaged_is_left_out_and_named(copied, cli, what):
    damage, words = DAMAGES[what]
    damage(copied)
    code, _, errors = cli("report", copied)
    assert code == 0
    assert errors.startswith("vitmem: ")
    assert words in errors
    page = (copied / "report.html").read_text()
    assert "What is left out" in page


def test_without_the_data_there_are_no_thumbnails(copied, cli):
    code, _, errors = cli("report", copied, "--data.root=/nowhere")
    assert code == 0
    assert "There are no thumbnails, since the data are not at hand: " in errors
    data = Elements((copied / "report.html").read_text()).data
    assert data["thumbnails"] is None
    assert len(data["seeds"]) == 2


def test_bad_input_is_one_line(copied, cli, tmp_path):
    (tmp_path / "empty").mkdir()
    for arguments, words in {
        (tmp_path / "nowhere",): "there is no folder",
        (tmp_path / "empty",): "is not a run folder",
        (copied, f"--out={tmp_path / 'no' / 'report.html'}"): "cannot be read or written",
    }.items():
        code, printed, errors = cli("report", *arguments)
        assert (code, printed, errors.count("\n")) == (2, "", 1)
        assert words in errors
    for table, words in {
        "a,b\n1,2\n": "is no table of results",
        (copied / "results.csv").read_text().replace(",24,", ",many,", 1): "is 'many' in a row, and no number",
    }.items():
        (copied / "results.csv").write_text(table)
        code, printed, errors = cli("report", copied)
        assert (code, printed, errors.count("\n")) == (2, "", 1)
        assert words in errors


@pytest.mark.slow
def test_figures_have_words_and_numbers_and_a_limit(tmp_path):
    from drawn import write_history, write_results

    from vitmem.figures import draw_all

    write_history(tmp_path / "seed0")
    write_results(tmp_path / "results.csv")
    draw_all(tmp_path)
    (tmp_path / "figures" / "analysis_bands.png").write_bytes((tmp_path / "figures" / "training.png").read_bytes())
    notes: list[str] = []
    shown = figures.embedded(tmp_path, notes, Space(10**6))
    assert notes == []
    assert [figure["name"] for figure in shown] == ["training", "sweep_kfac", "frontier", "analysis_bands"]
    assert [figure["alt"] for figure in shown][-1] == "Analysis bands"
    assert "accuracies over the values" in shown[1]["alt"]
    assert shown[0]["numbers"].header[:2] == ["metric", "epoch"]
    whole = sum(len(figure["source"]) for figure in shown)
    small = figures.embedded(tmp_path, notes, Space(0), whole * 2 // 3)
    assert 0 < sum(len(figure["source"]) for figure in small) <= whole * 2 // 3
    assert "Figures are at most" in notes[0]
    assert all(not figure["numbers"].source for figure in small if figure["numbers"])
    assert figures.embedded(tmp_path, notes, Space(0), 10) == []
    assert sum("is left out, for want of space" in note for note in notes) >= 4


def test_long_tables_say_what_they_leave_out(tmp_path):
    (tmp_path / "a.csv").write_text("x,y\n" + "".join(f"{k},{k / 7}\n" for k in range(200)))
    table = tables.csv_table(tmp_path / "a.csv", Space(10**5))
    assert (len(table.body), table.note) == (tables.MOST_ROWS, f"the first {tables.MOST_ROWS} of 200 rows")
    assert base64.b64decode(table.source.split(",")[1]).decode() == (tmp_path / "a.csv").read_text()
    assert "all are in the file a.csv" in tables.csv_table(tmp_path / "a.csv", Space(10)).note
    assert json.dumps(table.body[1]) == '["1", "0.14286"]'
