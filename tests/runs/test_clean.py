"""Disk freed in run folders: what goes, what stays, and that every result still counts."""

import json
import os
import shutil

import pytest
from cases import QUICK
from edited_runs import rewritten

from vitmem.files import file_digest
from vitmem.runs import clean as module
from vitmem.runs.clean import KINDS, clean
from vitmem.runs.evaluate import evaluation_inputs
from vitmem.runs.trained import TrainedRun

pytestmark = pytest.mark.slow

KFAC = "kfac-rho0.9"
FILE = """
name: small
model: {width: 16, depth: 2, heads: 2, patch: 4}
train: {epochs: 2, batch_size: 200, warmup_epochs: 1, checkpoint_epochs: 1}
references: [retrain]
figures: false
edits:
  - {name: kfac, rho: 0.9, examples: 200}
  - {name: svd, keep: 0.5}
"""


def files(folder):
    """Return the content of every file below a folder, but for locks."""
    found = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock")
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def gone(before, folder):
    return {name for name in before if not (folder / name).is_file()}


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """The folder of a finished experiment, with a file that tells how it was made; do not change it."""
    from vitmem.cli import main

    folder = tmp_path_factory.mktemp("cleaned")
    (folder / "small.yaml").write_text(FILE)
    assert main(["run", str(folder / "small.yaml"), f"--out={folder}"]) == 0
    return folder


@pytest.fixture
def experiment(made, tmp_path):
    """A copy of it."""
    return shutil.copytree(made, tmp_path / "made") / "small"


def test_without_a_choice_checkpoints_and_factors_go(cli, experiment):
    before = files(experiment)
    expected = {name for name in before if name.endswith(".ckpt") or ("factors/" in name and "spectra" not in name)}
    size = sum(len(before[name]) for name in expected)
    code, printed, errors = cli("clean", experiment, "--dry_run")
    assert code == 0, errors
    assert files(experiment) == before
    told = printed.splitlines()[-1]
    assert told.endswith("would be freed")
    code, printed, errors = cli("clean", experiment)
    assert code == 0, errors
    assert printed.splitlines()[-1] == told.replace("would be freed", "freed")
    assert gone(before, experiment) == expected
    assert len({name.split("/")[0] for name in expected}) == 2  # of the base model, and of its reference
    assert f"{size / 1e3:.3g} kB freed" in printed
    assert not list(experiment.glob("*/checkpoints"))
    assert {name: content for name, content in before.items() if name not in expected} == files(experiment)
    assert cli("clean", experiment)[1].splitlines()[-1] == "0 B freed"


def test_every_result_counts_without_the_weights(cli, experiment):
    run = ["run", experiment.parent / "small.yaml", f"--out={experiment.parent}"]
    assert cli("eval", experiment, "--attacks=[{name: quantize, bits: [4], groups: []}]")[0] == 0
    before = files(experiment)
    code, printed, errors = cli("clean", experiment, "--weights")
    assert code == 0, errors
    assert gone(before, experiment) == {
        f"seed0/edits/{edit}/{name}" for edit in (KFAC, "svd-keep0.5") for name in ("model.safetensors", "model.json")
    }
    assert "weights: " in printed
    code, printed, _ = cli("check", experiment)
    assert code == 0, printed
    for command in (
        ["eval", experiment],
        ["eval", experiment, "--attacks=[{name: quantize, bits: [4], groups: []}]"],
        run,
    ):
        code, printed, errors = cli(*command)
        assert code == 0, errors
        assert "not attacked" not in printed
    after = files(experiment)
    results = [name for name in before if "evals/" in name or name.endswith("s.csv")]
    assert {name: after[name] for name in results} == {name: before[name] for name in results}
    assert not [name for name in after if name.startswith("seed0/edits/") and not name.endswith("edit.json")]
    assert "everything is done" in cli(*run, "--dry_run")[1]
    assert "attacked" not in cli("eval", experiment)[1]
    code, printed, _ = cli("eval", experiment, "--attacks=[{name: quantize, bits: [2], groups: []}]")
    assert code == 0
    assert f"{KFAC} is not attacked: its weights were not stored, or were cleaned away" in printed
    code, _, errors = cli("eval", experiment, "--attacks=[{name: quantize, bits: [3], groups: []}]", f"--edits={KFAC}")
    assert (code, errors.count("\n")) == (2, 1)
    assert "holds no weights (`vitmem clean` removed them); make them with `vitmem edit kfac" in errors


def test_weights_are_made_again_as_they_were(cli, experiment):
    edit = experiment / "seed0" / "edits" / KFAC
    weights, measured = (
        (edit / "model.safetensors").read_bytes(),
        experiment / "seed0" / "evals" / KFAC / "metrics.json",
    )
    stamp = measured.stat().st_mtime_ns
    assert cli("clean", experiment, *(f"--{kind}" for kind in KINDS))[0] == 0
    assert json.loads((edit / "edit.json").read_text())["weights_sha256"] is None
    code, _, errors = cli("edit", "kfac", experiment / "seed0", "--rho=0.9", "--examples=200")
    assert code == 0, errors
    assert (edit / "model.safetensors").read_bytes() == weights
    told = json.loads((edit / "edit.json").read_text())
    assert told["weights_sha256"] == file_digest(edit / "model.safetensors")
    assert "removed_sha256" not in told
    assert cli("eval", experiment)[0] == 0
    assert measured.stat().st_mtime_ns == stamp


@pytest.mark.parametrize("otherwise", [False, True])
def test_run_makes_them_again_for_an_attack(cli, experiment, otherwise):
    file, name = experiment.parent / "small.yaml", "svd-keep0.5"
    assert cli("clean", experiment, "--weights")[0] == 0
    if otherwise:  # as if another machine had made and measured those weights, which differ in the last digit
        run, other = TrainedRun.open(experiment / "seed0"), "0" * 64
        rewritten(run.edit_folder(name) / "edit.json", removed_sha256=other)
        rewritten(run.path / "evals" / name / "metrics.json", inputs=evaluation_inputs(run, other))
    code, _, errors = cli(
        "run", file, f"--out={experiment.parent}", "--attacks=[{name: quantize, bits: [4]}]", "--attacked=svd*"
    )
    assert code == 0, errors
    assert (experiment / "seed0" / "edits" / "svd-keep0.5" / "model.safetensors").exists()
    assert not (experiment / "seed0" / "edits" / KFAC / "model.safetensors").exists()
    assert cli("check", experiment)[0] == 0
    rows = (experiment / "results.csv").read_text().splitlines()
    assert [row.split(",")[2] for row in rows[1:]] == ["base", "retrain", KFAC, "svd-keep0.5"]


def test_a_killed_clean_leaves_nothing_invalid_and_the_next_finishes_it(cli, experiment, monkeypatch):
    """Before every change of the file system, as far as it came: all commands read what is there."""
    run_path, edit = experiment / "seed0", experiment / "seed0" / "edits" / KFAC
    unlink, done = module.Path.unlink, []

    def killed(path, *arguments, **options):
        if path.is_relative_to(edit) and path.name in ("model.safetensors", "model.json") and len(done) == allowed:
            raise KeyboardInterrupt
        done.append(path)
        unlink(path, *arguments, **options)

    for allowed in (0, 1):
        done.clear()
        monkeypatch.setattr(module, "KINDS", KINDS)
        with monkeypatch.context() as patch:
            patch.setattr("pathlib.Path.unlink", lambda path, *a, **o: killed(path, *a, **o))
            patch.setattr("vitmem.files.remove", lambda path: None)
            with pytest.raises(KeyboardInterrupt):
                clean(TrainedRun.open(run_path), ["weights"])
        run = TrainedRun.open(run_path)
        assert run.edit(KFAC)["weights_sha256"] is None
        assert not run.has_weights(KFAC)  # not even where the file is still there: nothing vouches for it
        assert cli("eval", run_path)[0] == 0
        code, printed, _ = cli("check", run_path)
        assert (code, "was killed" in printed) == ((1, True) if allowed == 0 else (0, False))
    assert cli("clean", run_path, "--weights")[0] == 0
    assert sorted(path.name for path in edit.iterdir()) == ["edit.json"]
    assert cli("check", run_path)[0] == 0


def test_sums_go_before_their_checksums(experiment, monkeypatch):
    unlink, order = module.Path.unlink, []
    monkeypatch.setattr("pathlib.Path.unlink", lambda path, *a, **o: (order.append(path.name), unlink(path, *a, **o)))
    clean(TrainedRun.open(experiment / "seed0"), ["factors"])
    assert len(order) == 2
    assert order[1] == f"{order[0]}.sha256"
    run = TrainedRun.open(experiment / "seed0")
    (run.path / "factors" / order[1]).write_text("0" * 64)  # as a kill in between leaves it
    (freed,) = clean(run, ["factors"])
    assert (freed.files, freed.size) == (1, 64)


def test_what_is_not_known_stays(cli, experiment, tmp_path):
    run = experiment / "seed0"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    mine = [
        "checkpoints/best.ckpt", "checkpoints/last.ckpt.bak", "factors/notes.txt", "factors/mine.safetensors",
        "edits/mine/model.safetensors", f"edits/{KFAC}/other.safetensors", "attacks/0123456789abcdef.safetensors",
    ]  # fmt: skip
    for name in mine:
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text("mine")
    linked = [("svd-keep0.5", "edits"), ("factors", ".")]
    for name, parent in linked:
        (run / parent / name).rename(elsewhere / name)
        (run / parent / name).symlink_to(elsewhere / name)
    (elsewhere / "last.ckpt").write_text("somebody else's")
    (run / "checkpoints" / "last.ckpt").unlink()
    (run / "checkpoints" / "last.ckpt").symlink_to(elsewhere / "last.ckpt")
    before = files(elsewhere)
    code, _, errors = cli("clean", run, *(f"--{kind}" for kind in KINDS))
    assert code == 0, errors
    assert all((run / name).read_text() == "mine" for name in mine)
    assert files(elsewhere) == before
    assert (run / "checkpoints" / "last.ckpt").is_symlink()
    assert not (run / "checkpoints" / "previous.ckpt").exists()
    assert not (run / "edits" / KFAC / "model.safetensors").exists()


def test_weights_that_are_needed_stay_and_it_is_told_why(cli, registered, run_folder):
    assert cli("edit", "svd", run_folder, "--keep=0.5")[0] == 0
    assert cli("edit", "reader", run_folder)[0] == 0
    assert cli("eval", run_folder, "--edits=reader")[0] == 0
    weights = {name: run_folder / "edits" / name / "model.safetensors" for name in ("svd-keep0.5", "reader", KFAC)}
    weights[KFAC].write_bytes(weights["reader"].read_bytes())
    stray = run_folder / "edits" / "stray"
    shutil.copytree(run_folder / "edits" / "reader", stray)
    told = json.loads((stray / "edit.json").read_text())
    run = TrainedRun.open(run_folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "edits", lambda: {})
        (freed,) = clean(run, ["weights"])
    assert any(why.startswith("reader: the edit reader is not installed here") for why in freed.kept)
    code, printed, errors = cli("clean", run_folder, "--weights")
    assert code == 0, errors
    assert {name for name, path in weights.items() if path.exists()} == {"svd-keep0.5", KFAC}
    assert f"svd-keep0.5: it is not measured; `vitmem eval {run_folder} --edits svd-keep0.5` does it" in printed
    assert f"{KFAC}: " in printed
    assert "was changed or damaged" in printed
    assert (stray / "model.safetensors").exists()  # a copy under another name is none of the run's edits
    assert told == json.loads((stray / "edit.json").read_text())


def test_weights_of_which_nothing_is_told_stay(run_folder):
    rewritten(run_folder / "edits" / KFAC / "edit.json", weights_sha256=None)
    (freed,) = clean(TrainedRun.open(run_folder), ["weights"])
    assert (freed.size, len(freed.kept)) == (0, 1)
    assert (run_folder / "edits" / KFAC / "model.safetensors").exists()


def test_a_training_that_is_not_finished_keeps_its_checkpoints(cli, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("vitmem.runs.train.save_model", lambda *a: (_ for _ in ()).throw(OSError(28, "full", "x")))
        train = ["train", f"--out={tmp_path}", "--name=t", *QUICK, "--train.checkpoint_epochs=1"]
        assert cli(*train)[0] == 1
    run = tmp_path / "t" / "seed0"
    before = files(run)
    assert [name for name in before if name.endswith(".ckpt")]
    code, printed, errors = cli("clean", tmp_path / "t")
    assert code == 0, errors
    assert f"{run}: nothing is removed: its training is not finished" in printed
    assert files(run) == before


@pytest.mark.parametrize("again", [["clean", "RUN", "--factors"], ["clean", "RUN", "--weights", "--wait"]])
def test_the_run_is_held(cli, run_folder, monkeypatch, again):
    held = []
    monkeypatch.setattr("vitmem.runs.folder.held", lambda path, **o: held.append((path, o)) or _nothing())
    assert cli(*[str(run_folder) if part == "RUN" else part for part in again])[0] == 0
    assert held == [(run_folder, {"wait": "--wait" in again})]
    assert cli("clean", run_folder, "--dry_run")[0] == 0
    assert len(held) == 1  # nothing is written


def _nothing():
    import contextlib

    return contextlib.nullcontext()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere"], ["there is no folder nowhere"]),
        (["RUN", "nowhere"], ["there is no folder nowhere"]),
        (["OUT"], ["is not a run folder"]),
        ([], ["folders"]),
        (["RUN", "--all"], ["all"]),
        (["RUN", "BROKEN"], ["model.safetensors was changed or damaged"]),
    ],
)
def test_bad_input_is_one_line_and_removes_nothing(cli, run_folder, tmp_path, arguments, words):
    broken = shutil.copytree(run_folder, tmp_path / "broken" / "seed0")
    os.truncate(broken / "model.safetensors", 100)
    (tmp_path / "empty").mkdir()
    before = files(tmp_path)
    places = {"RUN": run_folder, "OUT": tmp_path / "empty", "BROKEN": broken}
    code, _, errors = cli("clean", *(str(places.get(argument, argument)) for argument in arguments))
    assert (code, errors.count("\n")) == (2, 1)
    assert all(word in errors for word in words), errors
    assert files(tmp_path) == before


def test_epochs_go_when_asked_for_and_results_stay(cli, run_folder):
    (run_folder / "epochs").mkdir()
    kept = run_folder / "epochs" / "0001.safetensors"
    kept.write_bytes(b"weights")
    (run_folder / "epochs" / "mine.txt").write_text("mine")
    assert cli("clean", run_folder)[0] == 0
    assert kept.exists()
    assert cli("clean", run_folder, "--epochs", "--dry_run")[0] == 0
    assert kept.exists()
    code, printed, _ = cli("clean", run_folder, "--epochs")
    assert code == 0
    assert "epochs: 7 B in 1 file" in printed
    assert not kept.exists()
    assert (run_folder / "epochs" / "mine.txt").exists()
    assert (run_folder / "losses.safetensors").exists()
