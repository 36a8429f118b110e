"""What a run folder holds, and that a damaged one is not opened."""

import json
import shutil

import numpy as np
import pytest

from vitmem.datamodules.folder import ImageFolder
from vitmem.runs.config import RunConfig
from vitmem.runs.trained import TrainedRun, saved_config
from vitmem.yaml_files import LONGEST_LIST, dump_yaml


def test_what_a_run_folder_holds(finished):
    present = {str(path.relative_to(finished)) for path in finished.rglob("*") if path.is_file()}
    expected = {
        "config.yaml", "provenance.json", "noise.csv", "noise.json", "checkpoints/last.ckpt", "metrics.csv",
        "losses.safetensors", "evals/classes.csv", "evals/flips.csv",
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


@pytest.mark.slow
def test_a_run_is_edited_measured_and_found_where_its_data_are_now(cli, tmp_path):
    images = np.random.default_rng(0).integers(256, size=(60, 8, 8), dtype=np.uint8)
    arrays = {"x_train": images, "y_train": np.arange(60) % 3, "x_val": images[:12], "y_val": np.arange(12) % 3}
    here, there = tmp_path / "here.npz", tmp_path / "there.npz"
    np.savez(here, **arrays)
    data = ["--data.name=npz", "--train.epochs=1", "--train.batch_size=60", "--model.width=16", "--model.depth=1"]
    data += ["--model.heads=2", "--model.patch=4"]
    train = ("train", f"--out={tmp_path}", *data)
    assert cli(*train, f"--data.path={here}")[0] == 0
    run = tmp_path / "default" / "seed0"
    assert cli(*train, f"--data.path={here}", "--name=a", "--train_on=retrain")[0] == 0
    shutil.copytree(tmp_path / "a" / "seed0-retrain", tmp_path / "default" / "seed0-retrain")
    here.rename(there)
    commands = (("eval", run, "--attacks=quantize"), ("edit", "kfac", run))
    for command in commands:
        code, _, errors = cli(*command)
        assert (code, errors.count("\n")) == (2, 1)
        assert str(here) in errors
    for command, option in zip(commands, ("--data.path", "--data.root"), strict=True):
        code, _, errors = cli(*command, f"{option}={there}")
        assert code == 0, errors
    code, printed, _ = cli(*train, f"--data.path={there}")
    assert (code, "already trained" in printed) == (0, True)
    np.savez(there, **arrays | {"x_train": images[::-1]})
    code, _, errors = cli("eval", run, f"--data.path={there}", "--force")
    assert code == 2
    assert "data at hand are not those" in errors
    assert cli("eval", run, f"--data.path={there}", f"--data.root={there}")[0] == 2


def test_data_in_no_place_cannot_be_elsewhere(cli, run_folder):
    for verb in (("eval",), ("edit", "svd")):
        code, _, errors = cli(*verb, run_folder, "--data.root=elsewhere")
        assert (code, errors.count("\n")) == (2, 1)
        assert "Digits, has no place" in errors


@pytest.mark.parametrize("value", ["-1", "nan", "inf", "much"])
def test_how_much_curvature_is_kept_is_a_number(cli, run_folder, tmp_path, value):
    (tmp_path / "a.yaml").write_text("references: []\n")
    for command in (("edit", "kfac", run_folder), ("eval", run_folder), ("run", tmp_path / "a.yaml")):
        code, _, errors = cli(*command, f"--cache_gb={value}")
        assert (code, errors.count("\n")) == (2, 1)
        assert "cache_gb" in errors


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


def test_other_data_than_the_manifests_are_refused(run_folder, other_digits):
    other_digits()
    with pytest.raises(ValueError, match="not those that .* was trained on .*data_fingerprint"):
        _ = TrainedRun.open(run_folder).data


def test_an_unfinished_run_cannot_be_edited(cli, run_folder):
    provenance = json.loads((run_folder / "provenance.json").read_text())
    del provenance["sha256"]["model.safetensors"]
    (run_folder / "provenance.json").write_text(json.dumps(provenance))
    code, _, errors = cli("edit", "kfac", run_folder)
    assert code == 2
    assert "not finished training" in errors


def test_a_copied_run_still_opens(finished, tmp_path):
    copy = shutil.copytree(finished, tmp_path / "elsewhere")
    assert TrainedRun.open(copy).config.train.epochs == 2


def test_an_edit_is_built_as_its_run_is(cli, run_folder):
    """The run's own, sealed description says how an edit's weights are built; a changed copy changes nothing."""
    before = TrainedRun.open(run_folder).model_of("kfac-rho0.9")
    copy = run_folder / "edits" / "kfac-rho0.9" / "model.json"
    content = json.loads(copy.read_text())
    content["timm"]["num_heads"] = 4
    copy.write_text(json.dumps(content))
    after = TrainedRun.open(run_folder).model_of("kfac-rho0.9")
    assert after.blocks[0].attn.num_heads == before.blocks[0].attn.num_heads
    code, _, errors = cli("edit", "svd", run_folder)
    assert code == 0, errors


def test_an_edit_that_was_renamed_is_refused(cli, run_folder):
    folder = run_folder / "edits"
    (folder / "kfac-rho0.9").rename(folder / "other")
    code, _, errors = cli("eval", run_folder, "--edits=other")
    assert (code, errors.count("\n")) == (2, 1)
    assert "holds an edit called 'kfac-rho0.9': it was renamed or copied" in errors


def test_a_run_of_more_classes_than_a_file_may_list_opens_again(tmp_path):
    """As Python makes it: class names in the configuration itself."""
    config = RunConfig(data=ImageFolder(root="x", classes=[f"class {k}" for k in range(LONGEST_LIST + 1)]))
    (tmp_path / "config.yaml").write_text(dump_yaml(config.to_dict()))
    assert saved_config(tmp_path) == config
    (tmp_path / "config.yaml").write_text(dump_yaml(config.to_dict()).replace("class 7\n", "null\n"))
    with pytest.raises(ValueError, match=r"data.classes holds something else than names"):
        saved_config(tmp_path)
