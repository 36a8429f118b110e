"""Files of a run folder that hold other things than they must: made again where that can be, else told in one line."""

import json
import shutil

import pytest
import yaml
from cases import QUICK
from edited_runs import rewritten

from vitmem.files import file_digest
from vitmem.runs.evaluate import evaluate, measured
from vitmem.runs.trained import TrainedRun

EDIT = "edits/kfac-rho0.9/edit.json"
METRICS = "evals/kfac-rho0.9/metrics.json"


def changed(content, place, value):
    """Return JSON with another value at a place such as ``metrics.given_margin.n``."""
    first, _, rest = place.partition(".")
    return content | {first: changed(content[first], rest, value) if rest else value}


def resealed(run_folder, name, text):
    """Replace a sealed file, and seal it again."""
    (run_folder / name).write_text(text)
    provenance = json.loads((run_folder / "provenance.json").read_text())
    provenance["sha256"][name] = file_digest(run_folder / name)
    (run_folder / "provenance.json").write_text(json.dumps(provenance))


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("inputs", 3),
        ("at_chance", "no"),
        ("known", "half"),
        ("metrics", []),
        ("metrics.memorized_accuracy", None),
        ("metrics.memorized_accuracy.value", 1.5),
        ("metrics.memorized_accuracy.n", -1),
        ("metrics.memorized_accuracy.low", "0"),
        ("metrics.memorized_accuracy.low", None),
        ("metrics.given_margin.value", [1]),
    ],
)
def test_malformed_measurements_are_made_again(cli, run_folder, place, value):
    before = json.loads((run_folder / METRICS).read_text())
    rewritten(run_folder / METRICS, **changed({k: v for k, v in before.items() if k != "checksum"}, place, value))
    code, _, errors = cli("eval", run_folder)
    assert code == 0, errors
    assert json.loads((run_folder / METRICS).read_text())["metrics"] == before["metrics"]


def test_edited_measurements_are_not_believed(cli, run_folder):
    before = json.loads((run_folder / METRICS).read_text())
    edited = changed(before, "metrics.memorized_accuracy.value", 0.123)
    (run_folder / METRICS).write_text(json.dumps(edited))
    code, printed, _ = cli("eval", run_folder)
    assert code == 0
    assert "0.123" not in printed
    assert json.loads((run_folder / METRICS).read_text())["metrics"] == before["metrics"]


def test_measurements_of_before_there_were_checksums_hold(cli, run_folder):
    content = json.loads((run_folder / METRICS).read_text())
    del content["checksum"]
    (run_folder / METRICS).write_text(json.dumps(content))
    assert cli("eval", run_folder)[0] == 0
    assert "checksum" not in json.loads((run_folder / METRICS).read_text())


def test_another_version_of_the_code_measures_again(run_folder, monkeypatch):
    run = TrainedRun.open(run_folder)
    assert measured(run, "base", run.weights_sha256)
    monkeypatch.setattr("vitmem.runs.evaluate.VERSION", 2)
    assert measured(run, "base", run.weights_sha256) is None
    evaluate(run)
    assert measured(run, "base", run.weights_sha256)


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        ("id", "../other", "id is '../other'; it must be a name"),
        ("options", 3, "options is 3; it must be a mapping"),
        ("main_option", "nothing", "main_option is 'nothing', which is none of the options"),
        ("weights_sha256", "x", "weights_sha256 is 'x'; it must be a SHA-256 or null"),
        ("report.layers", {}, "report.layers is a mapping; it must be a list"),
        ("cost.passes", -1, "cost.passes is -1; it must be a number from 0 on"),
        ("known", {"share": 2, "examples": 1}, "known.share is 2; it must be a number from 1e-09 up to 1"),
    ],
)
def test_a_malformed_edit_is_told_and_made_again_when_it_is_asked_for(cli, run_folder, place, value, words):
    content = json.loads((run_folder / EDIT).read_text())
    rewritten(run_folder / EDIT, **changed({k: v for k, v in content.items() if k != "checksum"}, place, value))
    code, _, errors = cli("eval", run_folder)
    assert (code, errors.count("\n")) == (2, 1)
    assert f"{run_folder / EDIT} is malformed: {words}" in errors
    code, printed, errors = cli("edit", "kfac", run_folder, "--rho=0.9")
    assert code == 0, errors
    assert "it is made again" in printed
    assert json.loads((run_folder / EDIT).read_text())["options"] == content["options"]
    assert cli("eval", run_folder)[0] == 0


@pytest.mark.parametrize("content", ["", "{", "[]"])
def test_a_truncated_edit_is_made_again(cli, run_folder, content):
    (run_folder / EDIT).write_text(content)
    assert cli("edit", "kfac", run_folder, "--rho=0.9")[0] == 0
    assert cli("eval", run_folder)[0] == 0


def test_options_of_an_edit_that_were_changed_are_refused(cli, run_folder):
    content = json.loads((run_folder / EDIT).read_text())
    rewritten(run_folder / EDIT, options=content["options"] | {"rho": 0.5})
    code, _, errors = cli("eval", run_folder)
    assert (code, errors.count("\n")) == (2, 1)
    assert "is no edit of this run" in errors


@pytest.mark.slow
def test_an_edit_of_another_run_is_refused(cli, run_folder, tmp_path):
    assert cli("train", f"--out={tmp_path}", "--name=other", *QUICK, "--seed=1")[0] == 0
    other = tmp_path / "other" / "seed1"
    shutil.copytree(run_folder / "edits", other / "edits")
    for arguments in (("eval", other), ("eval", other, "--edits=kfac-rho0.9", "--attacks=quantize")):
        code, _, errors = cli(*arguments)
        assert (code, errors.count("\n")) == (2, 1)
        assert f"{other / 'edits' / 'kfac-rho0.9'} is no edit of this run" in errors


@pytest.mark.parametrize("name", ["../../other", "..", ".hidden", "a/b", ""])
def test_ids_are_names_and_never_paths(cli, run_folder, name):
    run = TrainedRun.open(run_folder)
    for read in (run.edit, run.model_of, run.has_weights, lambda edit_id: measured(run, edit_id, "")):
        with pytest.raises(ValueError, match="use letters, digits"):
            read(name)
    if name:
        for arguments in (("eval", run_folder, f"--edits={name}"), ("edit", "svd", run_folder, f"--id={name}")):
            code, _, errors = cli(*arguments)
            assert (code, errors.count("\n")) == (2, 1)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "config.yaml is malformed: seed is missing"),
        ("- 1\n", "config.yaml holds a list"),
        ("!!python/object/apply:os.getcwd []\n", "config.yaml is not valid YAML"),
        ("a: &a [*a]\n", "config.yaml"),
        ("seed: 0\n", "config.yaml is malformed: train_on is missing"),
    ],
)
@pytest.mark.parametrize("verb", [("eval",), ("edit", "svd"), ("check",)])
def test_resealed_settings_are_read_with_care(cli, run_folder, verb, text, words):
    resealed(run_folder, "config.yaml", text)
    code, printed, errors = cli(*verb, run_folder)
    assert code == (1 if verb == ("check",) else 2)
    assert words in (printed if verb == ("check",) else errors)


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("noise.json", {"num_classes": 10**40}, "num_classes is 1000"),
        ("noise.json", {"rate": "0.1"}, "rate is '0.1'"),
        ("model.json", {"timm": []}, "timm is a list; it must be a mapping"),
        ("model.json", {"timm": {"model_name": "vit_base_patch16_224"}}, "the arguments of the model lack img_size"),
    ],
)
def test_resealed_descriptions_are_read_with_care(cli, run_folder, name, changes, words):
    resealed(run_folder, name, json.dumps(json.loads((run_folder / name).read_text()) | changes))
    shutil.rmtree(run_folder / "evals")
    code, _, errors = cli("eval", run_folder)
    assert (code, errors.count("\n")) == (2, 1)
    assert name in errors
    assert str(run_folder) in errors
    assert words in errors


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"format": 2, "vitmem": "9.1"}, "was written by a newer vitmem (9.1): it has run format 2"),
        ({"format": 0}, "has run format 0; this vitmem reads format 1"),
        ({"format": "1"}, "format is '1'; it must be a whole number"),
        ({"sha256": []}, "sha256 is a list; it must be a mapping"),
        ({"sha256": {}}, "sha256.config.yaml is missing"),
        ({"sha256": {"../up": "0" * 64}}, "the key sha256.'../up' is '../up'; it must be a name"),
        ({"pretrained_sha256": 3}, "pretrained_sha256 is 3; it must be a SHA-256 or null"),
    ],
)
def test_provenance_is_read_with_care(cli, run_folder, changes, words):
    path = run_folder / "provenance.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    for verb in (("eval",), ("edit", "svd")):
        code, _, errors = cli(*verb, run_folder)
        assert (code, errors.count("\n")) == (2, 1)
        assert words in errors


def test_configurations_survive_the_strict_reading(finished):
    assert TrainedRun.open(finished).config.to_dict() == yaml.safe_load((finished / "config.yaml").read_text())
