import errno
import json
import shutil

import pytest
import torch
from cases import QUICK

from vitmem.runs.trained import TrainedRun
from vitmem.training.errors import Interrupted


def test_train_again_does_nothing_and_other_settings_are_refused(cli, run_folder):
    out = run_folder.parents[1]
    before = (run_folder / "model.safetensors").stat().st_mtime_ns
    code, printed, _ = cli("train", f"--out={out}", "--name=tiny", *QUICK)
    assert code == 0
    assert "already trained" in printed
    code, _, errors = cli("train", f"--out={out}", "--name=tiny", *QUICK, "--train.epochs=3")
    assert code == 2
    assert "train.epochs: 2 there, 3 asked for" in errors
    assert f"to train on from its weights, choose another --name and give --model.pretrained {run_folder}" in errors
    assert (run_folder / "model.safetensors").stat().st_mtime_ns == before
    code, _, _ = cli("train", f"--out={out}", "--name=tiny", *QUICK, "--train.epochs=1", "--force")
    assert code == 0
    assert (run_folder / "model.safetensors").stat().st_mtime_ns != before


def test_a_training_that_only_warms_up_is_told(cli, tmp_path):
    for warmup, told in ((1, True), (0.5, False)):
        out = tmp_path / str(warmup)
        code, printed, _ = cli("train", f"--out={out}", *QUICK, "--train.epochs=1", f"--train.warmup_epochs={warmup}")
        assert (code, "the learning rate rises to the end" in printed) == (0, told)


def test_the_realised_rate_is_printed(cli, tmp_path):
    code, printed, _ = cli("train", f"--out={tmp_path}", *QUICK, "--noise.kind=symmetric_inclusive", "--noise.rate=0.5")
    assert code == 0
    header = json.loads((tmp_path / "default" / "seed0" / "noise.json").read_text())
    assert f"realised rate {header['realised_rate']:.4f} (symmetric_inclusive, nominal 0.5)" in printed
    assert header["realised_rate"] == pytest.approx(0.45, abs=0.03)


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


@pytest.mark.parametrize("finished", [True, False])
def test_other_data_are_refused_before_going_on(cli, tmp_path, other_digits, finished):
    """The images were replaced under the same name: neither is the run trained already, nor may it go on."""
    arguments = ("train", f"--out={tmp_path}", *QUICK)
    assert cli(*arguments)[0] == 0
    run = tmp_path / "default" / "seed0"
    if not finished:
        provenance = json.loads((run / "provenance.json").read_text())
        for name in ("model.safetensors", "model.json", "metrics.csv"):
            del provenance["sha256"][name]
        (run / "provenance.json").write_text(json.dumps(provenance))
    other_digits()
    before = sorted((str(p), p.stat().st_mtime_ns) for p in run.rglob("*"))
    code, _, errors = cli(*arguments)
    assert (code, errors.count("\n")) == (2, 1)
    assert f"the data at hand are not those that {run} was trained on (data_fingerprint" in errors
    assert sorted((str(p), p.stat().st_mtime_ns) for p in run.rglob("*")) == before


def test_a_folder_of_something_else_is_never_touched(cli, tmp_path):
    folder = tmp_path / "default" / "seed0"
    folder.mkdir(parents=True)
    (folder / "thesis.tex").write_text("dear")
    for force in ([], ["--force"]):
        code, _, errors = cli("train", f"--out={tmp_path}", *QUICK, *force)
        assert code == 2
        assert "not a run folder" in errors
    assert (folder / "thesis.tex").read_text() == "dear"


def test_frozen_layers_stay_as_they_start(cli, tmp_path):
    small = ["--model.width=16", "--model.depth=2", "--model.heads=2", "--train.epochs=2", "--train.warmup_epochs=0"]
    out = f"--out={tmp_path}"
    code, _, errors = cli("train", *small, "--name=a", out, "--train.frozen=blocks.*.attn.*, blocks.0.mlp.fc1")
    assert code == 0, errors
    run = TrainedRun.open(tmp_path / "a" / "seed0")
    start, end = run.initial_state, run.model.state_dict()
    same = {name for name in end if torch.equal(start[name], end[name])}
    matrices = {name for name in end if name.startswith("blocks") and ".norm" not in name and name.endswith("weight")}
    assert same & matrices == {n for n in matrices if ".attn." in n or n == "blocks.0.mlp.fc1.weight"}
    assert "head.weight" not in same
    code, _, errors = cli("train", *small, "--name=b", out, "--train.frozen=blocks.*.nothing")
    assert (code, errors.count("\n")) == (2, 1)
    assert "'blocks.*.nothing' matches no linear layer" in errors
    assert not (tmp_path / "b").exists()


def test_weights_that_are_not_finite_are_not_sealed(cli, tmp_path, monkeypatch):
    """The loss of a step is finite; what the last step makes of the weights is not."""
    from vitmem.training.fit import fit as real

    def overflowing(*args, **options):
        state, epoch = real(*args, **options)
        state["head.weight"][0, 0] = float("nan")
        return state, epoch

    monkeypatch.setattr("vitmem.training.fit.fit", overflowing)
    code, _, errors = cli("train", *QUICK, "--name=a", f"--out={tmp_path}")
    assert (code, errors.count("\n")) == (1, 1)
    assert "head.weight is not finite after the training" in errors
    assert not (tmp_path / "a" / "seed0" / "model.safetensors").exists()


def test_a_reference_of_other_labels_is_refused(cli, run_folder, tmp_path):
    """A retrain model of another noise seed beside a run would give numbers that mean nothing."""
    other = [*QUICK, "--noise.seed=5", "--noise.rate=0.4", "--train_on=retrain"]
    assert cli("train", *other, "--name=other", f"--out={tmp_path}")[0] == 0
    beside = run_folder.with_name(f"{run_folder.name}-retrain")
    (made,) = (tmp_path / "other").glob("seed0*")
    shutil.copytree(made, beside)
    code, _, errors = cli("eval", run_folder)
    assert (code, errors.count("\n")) == (2, 1)
    assert "cannot be compared with" in errors
    assert "noise.rate: 0.1 there, 0.4 asked for" in errors


def test_force_on_a_full_disk_loses_nothing(cli, run_folder, monkeypatch):
    from vitmem.runs.folder import RunFolder

    before = {path: path.read_bytes() for path in run_folder.rglob("*") if path.is_file()}
    out = [f"--out={run_folder.parents[1]}", "--name=tiny"]

    def full(*args, **facts):
        raise OSError(errno.ENOSPC, "No space left on device", str(run_folder))

    with monkeypatch.context() as patched:
        patched.setattr(RunFolder, "seal", full)
        code, _, errors = cli("train", *out, *QUICK, "--force")
        assert (code, errors.count("\n")) == (2, 1)
    code, printed, _ = cli("train", *out, *QUICK)
    assert code == 0
    assert "already trained" in printed
    assert {path: path.read_bytes() for path in run_folder.rglob("*") if path.is_file()} == before


def test_a_replaced_run_is_kept_until_the_new_one_is_finished(cli, run_folder, monkeypatch):

    kept, command = run_folder.with_name(".seed0.replaced"), [f"--out={run_folder.parents[1]}", "--name=tiny", *QUICK]

    def ended(*args, **options):
        raise Interrupted("stopped", 143)

    with monkeypatch.context() as patched:
        patched.setattr("vitmem.training.fit.fit", ended)
        for options in (["--force"], ["--force"], []):
            code, _, _ = cli("train", *command, "--train.lr=0.002", *options)
            assert code == 143
            assert TrainedRun.open(kept).edited() == ["kfac-rho0.9"]
    assert cli("train", *command, "--train.lr=0.002")[0] == 0
    assert TrainedRun.open(run_folder).edited() == []
    assert not kept.exists()


def test_what_goes_on_after_force_is_said(cli, run_folder, monkeypatch):
    """With --force again, the training would begin anew."""
    command = ("train", f"--out={run_folder.parents[1]}", "--name=tiny", *QUICK, "--train.lr=0.002")

    def ended(*args, **options):
        raise Interrupted("stopped at step 3; the same command goes on from there", 143)

    monkeypatch.setattr("vitmem.training.fit.fit", ended)
    assert "; the same command without --force goes on from there" in cli(*command, "--force")[2]
    assert "; the same command goes on from there" in cli(*command)[2]


def test_a_run_whose_replacement_never_began_is_put_back(cli, run_folder):
    run_folder.rename(run_folder.with_name(".seed0.replaced"))
    code, printed, _ = cli("train", f"--out={run_folder.parents[1]}", "--name=tiny", *QUICK)
    assert code == 0
    assert "already trained" in printed
    assert TrainedRun.open(run_folder).edited() == ["kfac-rho0.9"]


def test_a_name_that_is_too_long_is_refused_before_the_training(cli, tmp_path):
    code, _, errors = cli("train", f"--out={tmp_path}", f"--name={'a' * 250}", *QUICK)
    assert (code, errors.count("\n")) == (2, 1)
    assert "takes 250 bytes; use at most 200" in errors
    plan = tmp_path / "plan.yaml"
    plan.write_text(f"edits: [{{name: kfac, id: {'b' * 199}, rho: [0.9, 0.8]}}]\n")
    code, _, errors = cli("run", plan, f"--out={tmp_path / 'runs'}", *QUICK)
    assert (code, errors.count("\n")) == (2, 1)
    assert "use at most 200" in errors
    assert not (tmp_path / "runs").exists()
