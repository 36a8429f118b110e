import json
import shutil
import subprocess
import sys

import pytest
from cases import QUICK

from vitmem.runs.trained import TrainedRun

PLUGIN = '''
from dataclasses import dataclass
import torch
from datamodules.sources import DataSet, ImageData
from vitmem.editing import Edit, EditResult


@dataclass(frozen=True)
class Stripes(DataSet):
    """Black and white stripes."""

    count: int = 12

    def load(self):
        label = torch.arange(self.count) % 2
        image = torch.zeros(self.count, 1, 8, 8)
        image[label == 1, :, ::2] = 1
        image[label == 0, :, :, ::2] = 1
        return ImageData(image, label, image[:4], label[:4], ("rows", "columns"))


@dataclass(frozen=True)
class Shrink(Edit):
    """Multiply all weights."""

    main_option = "factor"
    factor: float = 0.5

    def apply(self, model, data, generator):
        state = {key: value * self.factor for key, value in model.state_dict().items()}
        return EditResult(state, {"layers": [], "seconds": {"apply": 0.0}})


@dataclass(frozen=True)
class Poke:
    """Look at the model sternly."""
'''
ENTRY_POINTS = """
[vitmem.datasets]
stripes = tiny_plugin:Stripes
[vitmem.edits]
shrink = tiny_plugin:Shrink
[vitmem.attacks]
poke = tiny_plugin:Poke
"""


def test_train_again_does_nothing_and_other_settings_are_refused(cli, run_folder):
    out = run_folder.parents[1]
    before = (run_folder / "model.safetensors").stat().st_mtime_ns
    code, printed, _ = cli("train", f"--out={out}", "--name=tiny", *QUICK)
    assert code == 0
    assert "already trained" in printed
    code, _, errors = cli("train", f"--out={out}", "--name=tiny", *QUICK, "--train.epochs=3")
    assert code == 2
    assert "train.epochs: 2 there, 3 asked for" in errors
    assert (run_folder / "model.safetensors").stat().st_mtime_ns == before
    code, _, _ = cli("train", f"--out={out}", "--name=tiny", *QUICK, "--train.epochs=1", "--force")
    assert code == 0
    assert (run_folder / "model.safetensors").stat().st_mtime_ns != before


def test_the_realised_rate_is_printed(cli, tmp_path):
    code, printed, _ = cli("train", f"--out={tmp_path}", *QUICK, "--noise.kind=symmetric_inclusive", "--noise.rate=0.5")
    assert code == 0
    header = json.loads((tmp_path / "default" / "seed0" / "noise.json").read_text())
    assert f"realised rate {header['realised_rate']:.4f} (symmetric_inclusive, nominal 0.5)" in printed
    assert header["realised_rate"] == pytest.approx(0.45, abs=0.03)


def test_edit_again_does_nothing_and_other_options_are_refused(cli, run_folder):
    weights = run_folder / "edits" / "kfac-rho0.9" / "model.safetensors"
    before = weights.stat().st_mtime_ns
    assert cli("edit", "kfac", run_folder, "--rho=0.9")[0] == 0
    assert weights.stat().st_mtime_ns == before
    code, _, errors = cli("edit", "kfac", run_folder, "--rho=0.9", "--tokens=mean", "--id=kfac-rho0.9")
    assert code == 2
    assert "tokens: all there, mean asked for" in errors
    assert weights.stat().st_mtime_ns == before
    assert cli("edit", "kfac", run_folder, "--rho=0.9", "--tokens=mean", "--id=other")[0] == 0
    assert (run_folder / "edits" / "other" / "model.safetensors").exists()
    assert cli("edit", "kfac", run_folder, "--rho=0.9", "--tokens=mean", "--force")[0] == 0
    assert weights.stat().st_mtime_ns != before


def test_an_evaluation_follows_its_weights(cli, run_folder):
    metrics = run_folder / "evals" / "kfac-rho0.9" / "metrics.json"
    before, stamp = json.loads(metrics.read_text())["inputs"], metrics.stat().st_mtime_ns
    assert cli("eval", run_folder)[0] == 0
    assert metrics.stat().st_mtime_ns == stamp
    assert cli("edit", "kfac", run_folder, "--rho=0.9", "--draws=2", "--force")[0] == 0
    assert cli("eval", run_folder)[0] == 0
    assert json.loads(metrics.read_text())["inputs"] != before


def test_eval_prints_base_and_edits_and_those_asked_for(cli, run_folder):
    code, printed, _ = cli("eval", run_folder)
    assert code == 0
    assert [line.split()[0] for line in printed.splitlines()[2:4]] == ["base", "kfac-rho0.9"]
    code, printed, _ = cli("eval", run_folder, "--edits=base")
    assert "kfac" not in printed
    code, _, errors = cli("eval", run_folder, "--edits=kfac-rho0.1")
    assert code == 2
    assert "edits of this run: kfac-rho0.9" in errors


def test_what_a_run_folder_holds(finished):
    present = {str(path.relative_to(finished)) for path in finished.rglob("*") if path.is_file()}
    expected = {
        "config.yaml", "provenance.json", "noise.csv", "noise.json", "checkpoints/last.ckpt", "metrics.csv",
        "model.safetensors", "model.json", "edits/kfac-rho0.9/model.safetensors", "edits/kfac-rho0.9/model.json",
        "edits/kfac-rho0.9/edit.json", "evals/base/examples.npz", "evals/base/metrics.json",
        "evals/kfac-rho0.9/examples.npz", "evals/kfac-rho0.9/metrics.json", "evals/results.csv",
    }  # fmt: skip
    assert expected <= present
    assert {p.split("/")[0] for p in present - expected} == {"factors"}
    provenance = json.loads((finished / "provenance.json").read_text())
    assert {"command", "git", "torch", "timm", "device", "data_fingerprint", "started", "finished"} <= set(provenance)
    report = json.loads((finished / "edits/kfac-rho0.9/edit.json").read_text())["report"]
    assert {"pairs_kept", "mass_kept", "clamped_a", "clamped_g", "relative_change"} <= set(report["layers"][0])
    assert {"collect", "decompose", "apply"} == set(report["seconds"])


def damage_text(path):
    path.write_text(path.read_text().replace("0", "1", 1))


def truncate(path):
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize("verb", [("edit", "svd"), ("eval",)])
@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("noise.csv", damage_text),
        ("config.yaml", damage_text),
        ("model.safetensors", truncate),
        ("model.json", damage_text),
        ("model.safetensors", lambda path: path.unlink()),
        ("provenance.json", lambda path: path.write_text("{}")),
        ("provenance.json", lambda path: path.unlink()),
    ],
)
def test_a_run_that_was_changed_by_hand_is_refused(cli, run_folder, verb, name, damage):
    damage(run_folder / name)
    before = sorted((str(p), p.stat().st_mtime_ns) for p in run_folder.rglob("*"))
    code, printed, errors = cli(*verb, run_folder)
    assert (code, printed) == (2, "")
    assert str(run_folder) in errors
    assert errors.count("\n") == 1
    assert sorted((str(p), p.stat().st_mtime_ns) for p in run_folder.rglob("*")) == before


def test_edited_weights_that_were_changed_are_refused(cli, run_folder):
    truncate(run_folder / "edits" / "kfac-rho0.9" / "model.safetensors")
    code, _, errors = cli("eval", run_folder)
    assert code == 2
    assert "was changed or damaged" in errors


def test_other_data_than_the_manifests_are_refused(run_folder, monkeypatch):
    from vitmem.datamodules.digits import Digits

    original = Digits.load

    def other(self):
        data = original(self)
        data.train_image[0, 0, 0, 0] = 0.5
        return data

    monkeypatch.setattr(Digits, "load", other)
    with pytest.raises(ValueError, match="not those that .* was trained on .*data_fingerprint"):
        _ = TrainedRun.open(run_folder).data


def test_an_unfinished_run_cannot_be_edited(cli, run_folder):
    provenance = json.loads((run_folder / "provenance.json").read_text())
    del provenance["sha256"]["model.safetensors"]
    (run_folder / "provenance.json").write_text(json.dumps(provenance))
    code, _, errors = cli("edit", "kfac", run_folder)
    assert code == 2
    assert "not finished training" in errors


@pytest.mark.parametrize("content", ["", "[]", "{}", "not json"])
def test_a_damaged_evaluation_is_measured_again(cli, run_folder, content):
    metrics = run_folder / "evals" / "base" / "metrics.json"
    before = json.loads(metrics.read_text())["metrics"]
    metrics.write_text(content)
    assert cli("eval", run_folder)[0] == 0
    assert json.loads(metrics.read_text())["metrics"] == before


def test_force_with_impossible_flags_loses_nothing(cli, run_folder):
    before = (run_folder / "model.safetensors").read_bytes()
    out = run_folder.parents[1]
    code, _, _ = cli("train", f"--out={out}", "--name=tiny", *QUICK, "--force", "--trainer.accelerator=banana")
    assert code == 2
    assert (run_folder / "model.safetensors").read_bytes() == before
    assert not [path for path in run_folder.parent.iterdir() if path.name.startswith(".")]


def test_a_run_killed_before_its_weights_were_written_is_finished(cli, run_folder):
    weights = (run_folder / "model.safetensors").read_bytes()
    provenance = json.loads((run_folder / "provenance.json").read_text())
    for name in ("model.safetensors", "model.json", "metrics.csv"):
        del provenance["sha256"][name]
        (run_folder / name).unlink()
    (run_folder / "provenance.json").write_text(json.dumps(provenance))
    (run_folder / "metrics.csv").write_text("epoch,half a ro")
    code, _, errors = cli("train", f"--out={run_folder.parents[1]}", "--name=tiny", *QUICK)
    assert code == 0, errors
    assert (run_folder / "model.safetensors").read_bytes() == weights
    assert (run_folder / "metrics.csv").read_text().count("\n") == 3
    assert TrainedRun.open(run_folder).edited() == ["kfac-rho0.9"]


def test_a_folder_of_something_else_is_never_touched(cli, tmp_path):
    folder = tmp_path / "default" / "seed0"
    folder.mkdir(parents=True)
    (folder / "thesis.tex").write_text("dear")
    for force in ([], ["--force"]):
        code, _, errors = cli("train", f"--out={tmp_path}", *QUICK, *force)
        assert code == 2
        assert "not a run folder" in errors
    assert (folder / "thesis.tex").read_text() == "dear"


@pytest.mark.slow
def test_installed_packages_register_data_sets_edits_and_attacks(tmp_path):
    site = tmp_path / "site"
    (site / "tiny_plugin-1.0.dist-info").mkdir(parents=True)
    (site / "tiny_plugin.py").write_text(PLUGIN)
    (site / "tiny_plugin-1.0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: tiny-plugin\nVersion: 1.0\n"
    )
    (site / "tiny_plugin-1.0.dist-info" / "entry_points.txt").write_text(ENTRY_POINTS)
    out = tmp_path / "runs"
    program = f"""
import sys
sys.path.insert(0, {str(site)!r})
from vitmem.cli import main
quick = {[*QUICK, "--train.batch_size=4"]!r}
assert main(["list"]) == 0
assert main(["train", "--out={out}", "--data.name=stripes", "--data.count=20", *quick]) == 0
assert main(["edit", "shrink", "{out}/default/seed0", "--factor=0.25"]) == 0
assert main(["eval", "{out}/default/seed0"]) == 0
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    for line in (
        "stripes Black and white stripes.",
        "Multiply all weights.",
        "Look at the model sternly.",
        "shrink-factor0.25",
    ):
        assert line in " ".join(done.stdout.split())
    assert (out / "default/seed0/noise.csv").read_text().count("\n") == 21


def test_a_copied_run_still_opens(finished, tmp_path):
    copy = shutil.copytree(finished, tmp_path / "elsewhere")
    assert TrainedRun.open(copy).config.train.epochs == 2
