"""Exported models: what other tools make of them, what the card says, and that nothing is half written."""

import importlib.util
import json
import shutil
import subprocess
import sys
import types

import pytest
import timm
import torch
from cases import QUICK
from edited_runs import rewritten
from faults.damage import resealed

from vitmem.files import sweep
from vitmem.models.weights import load_model
from vitmem.runs import export as module
from vitmem.runs.export import FILES, export
from vitmem.runs.trained import TrainedRun

pytestmark = pytest.mark.slow

KFAC = "kfac-rho0.9"
OPEN = """
import sys
import torch

sys.modules["vitmem"] = None  # importing it is an error from here on
torch.set_num_threads(1)
for folder in sys.argv[2:]:
    if sys.argv[1] == "timm":
        import timm

        model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
        found = model.pretrained_cfg
    else:
        from transformers import AutoModelForImageClassification

        model = AutoModelForImageClassification.from_pretrained(folder, local_files_only=True).eval()
        found = model.config.id2label
    with torch.no_grad():
        logits = model(torch.load(f"{folder}.images"))
    torch.save({"logits": getattr(logits, "logits", logits), "found": found}, f"{folder}.found")
"""
needs_transformers = pytest.mark.skipif(
    importlib.util.find_spec("transformers") is None, reason="Hugging Face Transformers is not installed"
)


def images(*shape):
    return torch.randn(3, *shape, generator=torch.Generator().manual_seed(4))


@pytest.fixture(scope="session")
def other_shape(tmp_path_factory):
    """A run on colour images that are not square, with a pool that is not the model's own."""
    import numpy as np

    from vitmem.cli import main

    folder = tmp_path_factory.mktemp("colour")
    pixels, label = np.random.default_rng(0).integers(0, 256, (40, 12, 8, 3), np.uint8), np.arange(40) % 3
    np.savez(folder / "a.npz", x_train=pixels, y_train=label, x_test=pixels, y_test=label)
    data = ["--data.name=npz", f"--data.path={folder / 'a.npz'}", "--model.pool=avg", "--model.mlp_ratio=2"]
    assert main(["train", f"--out={folder}", "--name=c", *QUICK, "--train.batch_size=20", *data]) == 0
    return folder / "c" / "seed0"


@pytest.fixture(scope="module", params=["timm", pytest.param("transformers", marks=needs_transformers)])
def opened(request, finished, other_shape, tmp_path_factory):
    """A tool, with weights, images, logits and what the tool says of each exported model, in a process without vitmem.

    The last is of images in colour that are not square.
    """
    out, grey, colour = tmp_path_factory.mktemp("opened"), images(1, 8, 8), images(3, 12, 8)
    asked = {"base": (finished, grey), KFAC: (finished, grey), "colour": (other_shape, colour)}
    for name, (run, image) in asked.items():
        export(TrainedRun.open(run), KFAC if name == KFAC else "base", out / name)
        torch.save(image, out / f"{name}.images")
    command = [sys.executable, "-c", OPEN, request.param, *(out / name for name in asked)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=out)
    assert done.returncode == 0, done.stderr[-2000:]
    weights = {name: run / "edits" / KFAC if name == KFAC else run for name, (run, _) in asked.items()}
    return request.param, {name: (weights[name], asked[name][1], torch.load(out / f"{name}.found")) for name in asked}


@pytest.mark.parametrize("name", ["base", KFAC, "colour"])
def test_other_tools_compute_the_same_logits(opened, name):
    tool, models = opened
    weights, image, found = models[name]
    with torch.no_grad():
        torch.testing.assert_close(found["logits"], load_model(weights)(image), rtol=0, atol=1e-6)
    if name != "colour":
        told = found["found"]
        assert (told["label_names"] if tool == "timm" else list(told.values())) == [str(label) for label in range(10)]


def test_the_command_says_how_the_folder_is_opened(cli, finished, tmp_path):
    code, printed, errors = cli("export", finished, KFAC, tmp_path / "out")
    assert code == 0, errors
    assert f"local-dir:{tmp_path / 'out'}" in printed


def test_the_settings_are_those_of_the_run(finished, tmp_path):
    export(TrainedRun.open(finished), "base", tmp_path / "out")
    described = json.loads((finished / "model.json").read_text())
    config = timm.create_model(f"local-dir:{tmp_path / 'out'}").pretrained_cfg
    assert (config["mean"], config["std"]) == (described["mean"], described["std"])
    assert tuple(config["input_size"]) == (1, 8, 8)
    assert (config["crop_pct"], config["interpolation"], config["num_classes"]) == (1.0, "bilinear", 10)
    for name in ("noise.csv", "noise.json", "model.safetensors"):
        assert (tmp_path / "out" / name).read_bytes() == (finished / name).read_bytes()
    stored = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (stored["architecture"], stored["num_classes"], stored["num_features"]) == ("vit_base_patch16_224", 10, 16)


def test_the_card_tells_what_was_measured_and_what_is_missing(cli, run_folder, tmp_path):
    export(TrainedRun.open(run_folder), KFAC, tmp_path / "one")
    card = (tmp_path / "one" / "README.md").read_text()
    for edit_id, line in ((KFAC, f"| **{KFAC}** (this model) | "), ("base", "| base: before the edit | ")):
        measured = json.loads((run_folder / "evals" / edit_id / "metrics.json").read_text())["metrics"]
        names = [f"{name}_accuracy" for name in ("memorized", "ground_truth", "clean_train", "validation")]
        cells = [f"{m['value']:.3f} [{m['low']:.3f}, {m['high']:.3f}]" for m in map(measured.get, names)]
        assert line + " | ".join(cells) + " |" in card
    for words in ("memorized (n=130)", "clean train (n=1,167)", "| `rho` | `0.9` |", "label-free", "not attacked"):
        assert words in card
    assert "Missing" not in card
    assert str(run_folder) not in card
    shutil.rmtree(run_folder / "evals" / KFAC)
    export(TrainedRun.open(run_folder), KFAC, tmp_path / "two")
    card = (tmp_path / "two" / "README.md").read_text()
    assert f"Missing, for it was not measured (`vitmem eval` does it): **{KFAC}** (this model)." in card
    assert "| base: before the edit | " in card
    assert cli("eval", run_folder, "--attacks=[{name: quantize, bits: [4], groups: []}]")[0] == 0
    export(TrainedRun.open(run_folder), KFAC, tmp_path / "three")
    assert "attacked by quantize" in (tmp_path / "three" / "README.md").read_text()


def test_an_edit_without_weights_is_refused(cli, run_folder, tmp_path):
    edit = run_folder / "edits" / KFAC
    for changes, words in (
        ({"weights_sha256": None}, ["save_weights was false", f"vitmem edit kfac {run_folder} --id {KFAC} --force"]),
        ({"status": "diverged: the loss is nan"}, ["holds no weights: the edit diverged: the loss is nan"]),
    ):
        rewritten(edit / "edit.json", **changes)
        (edit / "model.safetensors").unlink(missing_ok=True)
        code, printed, errors = cli("export", run_folder, KFAC, tmp_path / "out" / "here")
        assert (code, printed, errors.count("\n")) == (2, "", 1)
        assert all(word in errors for word in words), errors
        assert not (tmp_path / "out").exists()


def test_what_is_there_is_kept_unless_forced(cli, finished, tmp_path):
    folder = tmp_path / "out"
    assert cli("export", finished, "base", folder)[0] == 0
    (folder / "notes.txt").write_text("mine")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    code, _, errors = cli("export", finished, KFAC, folder)
    assert (code, errors.count("\n")) == (2, 1)
    assert "is not empty" in errors
    assert "--force" in errors
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert cli("export", finished, KFAC, folder, "--force")[0] == 0
    after = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert {name for name in before if before[name] != after[name]} == {"model.safetensors", "README.md"}
    assert after.keys() == {*FILES, "notes.txt"} - {"preprocessor_config.json", "issues.csv"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["RUN", "nothing", "OUT"], ["holds no edit", KFAC]),
        (["RUN", "../up", "OUT"], ["../up"]),
        (["RUN", "base", "RUN/edits/new"], ["is part of the run folder"]),
        (["RUN", "base", "RUN", "--force"], ["is part of the run folder"]),
        (["RUN", "base", "RUN/../file"], ["is no folder"]),
        (["RUN", "base"], ["folder"]),
        (["nowhere", "base", "OUT"], ["there is no folder nowhere"]),
        (["RUN", "base", "OUT", "--hub=a/b/c"], ["--hub is 'a/b/c'"]),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(cli, run_folder, tmp_path, arguments, words):
    (run_folder.parent / "file").write_text("in the way")
    before = sorted(map(str, tmp_path.rglob("*")))
    given = [argument.replace("RUN", str(run_folder)).replace("OUT", str(tmp_path / "out")) for argument in arguments]
    code, printed, errors = cli("export", *given)
    assert (code, printed, errors.count("\n")) == (2, "", 1)
    assert all(word in errors for word in words), errors
    assert sorted(map(str, tmp_path.rglob("*"))) == before


@pytest.mark.parametrize("there", [False, True])
def test_a_failure_in_the_middle_leaves_what_was_there(finished, tmp_path, monkeypatch, there):
    folder = tmp_path / "out"
    if there:
        export(TrainedRun.open(finished), "base", folder)
    before = {path.name: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    monkeypatch.setattr(module, "load_model", lambda *a, **o: torch.nn.Flatten())
    with pytest.raises(ValueError, match="another function"):
        export(TrainedRun.open(finished), KFAC, folder, force=True)
    assert {path.name: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert folder.exists() == there


def test_what_a_killed_export_left_goes_with_the_next(finished, tmp_path, monkeypatch):
    monkeypatch.setattr("vitmem.files.remove", lambda path: None)  # as if it had no time to tidy up
    monkeypatch.setattr("vitmem.files.os.getpid", lambda: 2**22 + 1)  # of no process
    monkeypatch.setattr(module, "_put", lambda own, folder: None)
    export(TrainedRun.open(finished), "base", tmp_path / "out")
    assert [path.suffix for path in tmp_path.iterdir()] == [".partial"]
    monkeypatch.undo()
    export(TrainedRun.open(finished), "base", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    sweep(tmp_path)
    assert (tmp_path / "out" / "config.json").is_file()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"mean": "x"}, "mean is 'x'"),
        ({"std": [None]}, "std"),
        ({"timm": None, "other": {}}, "describes no model of timm|timm is null"),
    ],
)
def test_a_description_that_somebody_changed(run_folder, tmp_path, change, words):
    def damage(path):
        path.write_text(json.dumps(json.loads(path.read_text()) | change))

    resealed("model.json", damage)(run_folder)
    with pytest.raises(ValueError, match=words):
        export(TrainedRun.open(run_folder), "base", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_model_that_a_plug_in_builds_has_no_layout(finished, tmp_path, monkeypatch):
    monkeypatch.setattr("vitmem.runs.layouts.read_description", lambda path: {"timm": {"builder": "mine"}})
    with pytest.raises(ValueError, match="describes a model that a plug-in builds; only those of timm"):
        export(TrainedRun.open(finished), "base", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_hub_is_asked_only_where_it_is_wanted(cli, finished, tmp_path, monkeypatch):
    calls = []

    class HfApi:
        def create_repo(self, name, **options):
            calls.append((name, options))

        def upload_folder(self, **options):
            calls.append(options)
            return "https://hub.example/me/model"

    hub = types.ModuleType("huggingface_hub")
    hub.HfApi, hub.utils = HfApi, types.ModuleType("huggingface_hub.utils")
    hub.utils.validate_repo_id = lambda name: None
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    monkeypatch.setitem(sys.modules, "huggingface_hub.utils", hub.utils)
    code, printed, errors = cli("export", finished, "base", tmp_path / "out", "--hub=me/model")
    assert code == 0, errors
    assert "https://hub.example/me/model" in printed
    assert calls[0] == ("me/model", {"private": True, "exist_ok": True})
    assert (calls[1]["folder_path"], set(calls[1]["allow_patterns"])) == (tmp_path / "out", set(FILES))
    monkeypatch.setattr(HfApi, "create_repo", lambda *a, **o: (_ for _ in ()).throw(OSError("no network\nat all")))
    code, _, errors = cli("export", finished, "base", tmp_path / "out", "--force", "--hub=me/model")
    assert (code, errors.count("\n")) == (2, 1)
    assert "is written, but was not uploaded to me/model: no network at all" in errors
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    code, _, errors = cli("export", finished, "base", tmp_path / "other", "--hub=me/model")
    assert (code, errors.count("\n")) == (2, 1)
    assert "vitmem[hub]" in errors
    assert not (tmp_path / "other").exists()


def test_an_architecture_with_a_tag_goes_without_it(run_folder, tmp_path):
    def tagged(path):
        content = json.loads(path.read_text())
        content["timm"]["model_name"] += ".augreg_in21k"
        path.write_text(json.dumps(content))

    resealed("model.json", tagged)(run_folder)
    export(TrainedRun.open(run_folder), "base", tmp_path / "out")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["architecture"] == "vit_base_patch16_224"
