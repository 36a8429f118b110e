"""Attacks on run folders: stored once, made again when something changed, told when they fail."""

import json
from dataclasses import dataclass

import pytest
import torch
from edited_runs import rewritten

from vitmem.attacks.relearn import Relearn
from vitmem.editing import edits
from vitmem.editing.contract import EditDiverged
from vitmem.experiment.attacking import attack_results
from vitmem.experiment.perform import How
from vitmem.experiment.perform import perform as perform_task
from vitmem.experiment.plan import Experiment, plan_attacks
from vitmem.experiment.stages import MEASURE, Task
from vitmem.runs.attack import is_attacked, perform, stored_attack
from vitmem.runs.edit import make_edit
from vitmem.runs.evaluate import evaluation_inputs
from vitmem.runs.trained import TrainedRun
from vitmem.training.errors import Interrupted, TrainingDiverged

pytestmark = pytest.mark.slow

FAST = "--attacks=[{name: relearn, arms: [retain], steps: 2}, {name: quantize, bits: [4, 8], groups: []}]"


def stamps(folder):
    return {path: path.stat().st_mtime_ns for path in sorted(folder.rglob("attacks/*.json"))}


def test_attacks_are_stored_once_and_made_again_when_something_changed(cli, run_folder):
    code, printed, errors = cli("eval", run_folder, FAST)
    assert code == 0, errors
    assert "kfac-rho0.9: " in printed
    before = stamps(run_folder)
    names = {str(path.relative_to(run_folder / "evals")) for path in before}
    assert names == {f"{i}/attacks/{a}.json" for i in ("base", "kfac-rho0.9") for a in ("relearn", "quantize")}
    assert cli("eval", run_folder, FAST)[0] == 0
    assert stamps(run_folder) == before
    assert cli("eval", run_folder, FAST.replace("bits: [4, 8]", "bits: [4, 6]"))[0] == 0
    changed = {path.name for path, stamp in stamps(run_folder).items() if before[path] != stamp}
    assert changed == {"quantize.json"}
    before = stamps(run_folder)
    assert cli("edit", "kfac", run_folder, "--rho=0.9", "--draws=2", "--force")[0] == 0
    assert cli("eval", run_folder, FAST.replace("bits: [4, 8]", "bits: [4, 6]"))[0] == 0
    changed = {path.parts[-3] for path, stamp in stamps(run_folder).items() if before[path] != stamp}
    assert changed == {"kfac-rho0.9"}
    rates = f"--other_rates=[{run_folder / 'evals' / 'results.csv'}]"
    assert cli("eval", run_folder, FAST.replace("bits: [4, 8]", "bits: [4, 6]"), rates)[0] == 0
    code, _, errors = cli("eval", run_folder, "--other_rates=[nowhere.csv]")
    assert code == 2
    assert "nowhere.csv is not there" in errors
    header, *rows = (run_folder / "evals" / "attacks.csv").read_text().splitlines()
    assert header == "experiment,seed,id,attack,name,bits,group,head,arm,lr,step,metric,value,low,high,sd,n,reason"
    missing = [row for row in rows if ",recovery," in row]
    assert missing
    assert all("retrain was not measured" in row for row in missing)
    header = (run_folder / "evals" / "scorecard.csv").read_text().splitlines()[0]
    assert header == "experiment,seed,id,criterion,value,low,high,reason,population"


def test_a_result_that_was_compared_with_a_model_that_changed_is_made_again(run_folder):
    run = TrainedRun.open(run_folder)

    @dataclass(frozen=True)
    class Compare:
        settings = ()

        def apply(self, model, data, generator):
            found = {name: data.reference(name) is not None for name in ("base", "retrain", "kfac-rho0.9")}
            return type("Result", (), {"rows": [found], "report": {"subject": data.subject}})

    content = perform(run, Compare(), "compare", "compare", "kfac-rho0.9")
    assert content["rows"] == [{"base": True, "retrain": False, "kfac-rho0.9": True}]
    assert content["report"]["subject"] == "kfac-rho0.9"
    assert stored_attack(run, "compare", "kfac-rho0.9") == content
    copy_of_run = run_folder.with_name("seed0-retrain")
    copy_of_run.symlink_to(run_folder)
    assert stored_attack(run, "compare", "kfac-rho0.9") is None  # there is a retrain model now


def test_an_option_that_joined_later_leaves_what_was_measured_before(run_folder):
    """As ``within`` of relearn: at its default it is not stored, so that older results still hold."""
    run, options = TrainedRun.open(run_folder), {"name": "relearn", "arms": ["retain"], "steps": 1}
    (plain,), (restricted,) = plan_attacks([options]), plan_attacks([options | {"within": "removed"}])
    stored = perform(run, plain.attack, "relearn", "relearn", "kfac-rho0.9")
    assert not {"within", "rank"} & stored["options"].keys()
    assert is_attacked(run, plain.attack, "relearn", "relearn", "kfac-rho0.9")
    assert not is_attacked(run, restricted.attack, "relearn", "relearn", "kfac-rho0.9")
    again = perform(run, restricted.attack, "relearn", "relearn", "kfac-rho0.9")
    assert again["options"]["within"] == "removed"
    assert not is_attacked(run, plain.attack, "relearn", "relearn", "kfac-rho0.9")


@pytest.mark.parametrize(
    "changes",
    [
        {"rows": 3},
        {"rows": [{}]},
        {"rows": [{"bits": [4]}]},
        {"settings": "bits"},
        {"options": []},
        {"references": {"../../other": None}},
        {"references": {"base": 3}},
        {"report": {"paths": 3}},
        {"report": {"failed": 3}},
        {"id": "../up"},
        {"attack": "other"},
        {"seconds": None},
    ],
)
def test_malformed_attacks_are_made_again(cli, run_folder, changes):
    attack = "--attacks=[{name: quantize, bits: [4], groups: []}]"
    assert cli("eval", run_folder, attack)[0] == 0
    file = run_folder / "evals" / "kfac-rho0.9" / "attacks" / "quantize.json"
    before = json.loads(file.read_text())
    rewritten(file, **changes)
    code, _, errors = cli("eval", run_folder, attack)
    assert code == 0, errors
    assert json.loads(file.read_text())["rows"] == before["rows"]


def test_edited_attacks_and_those_of_another_version_are_made_again(run_folder, monkeypatch):
    run, quantize = TrainedRun.open(run_folder), plan_attacks([{"name": "quantize", "bits": [4], "groups": []}])[0]
    perform(run, quantize.attack, "quantize", "quantize")
    file = run_folder / "evals" / "base" / "attacks" / "quantize.json"
    content = json.loads(file.read_text())
    assert stored_attack(run, "quantize")
    with monkeypatch.context() as patch:
        patch.setattr("vitmem.runs.attack.VERSION", 0)
        assert stored_attack(run, "quantize") is None
    content["rows"][0]["memorized_accuracy"] = 0.123
    file.write_text(json.dumps(content))
    assert stored_attack(run, "quantize") is None


def test_attacks_count_what_an_edit_knew_as_it_was_recorded(run_folder):
    edit = edits()["gradient_ascent"](steps=1)
    make_edit(TrainedRun.open(run_folder, known=0.5), edit, "gradient_ascent", "ascent")
    relearn = Relearn(arms=("noisy",), steps=1)
    run = TrainedRun.open(run_folder, known=0.25)
    for edit_id, share in (("ascent", 0.5), ("kfac-rho0.9", 0.25)):
        found = perform(run, relearn, "relearn", "relearn", edit_id)
        counted = int(run.known_noisy(share)[found["report"]["scored"]].sum())
        assert found["rows"][0]["memorized_known_accuracy_n"] == counted
    other = TrainedRun.open(run_folder, known=1.0)
    assert is_attacked(other, relearn, "relearn", "relearn", "ascent")
    assert not is_attacked(other, relearn, "relearn", "relearn", "kfac-rho0.9")
    rows = perform(other, relearn, "relearn", "relearn", "kfac-rho0.9")["rows"]
    assert not any("known" in key or "unseen" in key for row in rows for key in row)


def raising(error):
    """Return an attack that fails."""

    @dataclass(frozen=True)
    class Broken:
        settings = ()

        def apply(self, model, data, generator):
            raise error

    return Broken()


def test_an_attack_that_fails_is_told_and_the_others_are_made(cli, run_folder, capsys):
    run = TrainedRun.open(run_folder)
    for kind in (ValueError, EditDiverged, TrainingDiverged, torch.linalg.LinAlgError):
        broken = raising(kind("two\nlines"))
        content = perform(run, broken, "broken", "broken", keep_going=True)
        assert (content["rows"], content["report"]) == ([], {"failed": "two lines"})
        assert not is_attacked(run, broken, "broken", "broken")  # the next command tries again
        with pytest.raises(ValueError, match="broken on base failed: two lines"):
            perform(run, broken, "broken", "broken")
    full = (MemoryError(), torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("std::bad_alloc"))
    for error in (KeyboardInterrupt(), Interrupted("stopped", 130), *full):  # nothing of the attack
        with pytest.raises(type(error)):
            perform(run, raising(error), "broken", "broken", keep_going=True)
    items = [
        {"name": "imprint", "lr": 1e18, "steps": 3, "weight_decays": [0.0]},
        {"name": "quantize", "bits": [4], "groups": []},
    ]
    plan = Experiment("tiny", run.config, references=(), attacks=plan_attacks(items))
    perform_task(Task(plan, run.path.parent, 0, MEASURE), How(run.path.parent.parent))
    assert "imprint on base failed: the loss of the attack's fine-tuning is not finite" in capsys.readouterr().out
    stored = {result["attack"]: result for result in attack_results(run, (), ())}
    assert "not finite" in stored["imprint"]["report"]["failed"]
    assert stored["quantize"]["rows"]
    code, _, errors = cli(
        "eval", run_folder, "--attacks=[{name: imprint, lr: 1e18, steps: 3, weight_decays: [0.0]}]", "--edits=base"
    )
    assert code == 2
    assert "not finite" in errors
    assert errors.count("\n") == 1


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("relern", "unknown attack 'relern'; registered are"),
        ("relearn,quantise", "attacks[1]: unknown attack 'quantise'"),
        ("[{name: relearn, lr: 1}]", "attacks[0]"),
        ("[{name: relearn, steps: 0}]", "attacks[0]: steps is 0"),
        ("[{name: relearn, steps: null}]", "steps"),
        ("[views, views]", "two attacks would be called 'views'"),
        ("[{name: views, id: ../up}]", "attacks[0]: id is '../up'"),
        ("[3]", "attacks: 3 is neither"),
    ],
)
def test_bad_attacks(cli, run_folder, value, words):
    before = sorted(str(path) for path in run_folder.rglob("*"))
    code, printed, errors = cli("eval", run_folder, f"--attacks={value}")
    assert (code, printed) == (2, "")
    assert errors.count("\n") == 1
    assert words in errors
    assert sorted(str(path) for path in run_folder.rglob("*")) == before


def test_edits_without_weights_are_told_in_one_line(cli, run_folder):
    edit = run_folder / "edits" / "kfac-rho0.9"
    content = rewritten(edit / "edit.json", weights_sha256=None)
    (edit / "model.safetensors").unlink()
    measured = run_folder / "evals" / "kfac-rho0.9" / "metrics.json"
    run = TrainedRun.open(run_folder)
    rewritten(measured, inputs=evaluation_inputs(run, content["inputs"]))
    code, printed, _ = cli("eval", run_folder, "--attacks=[{name: quantize, bits: [4], groups: []}]")
    assert code == 0
    assert "kfac-rho0.9 is not attacked: its weights were not stored" in printed
    code, _, errors = cli("eval", run_folder, "--attacks=quantize", "--edits=kfac-rho0.9")
    assert code == 2
    assert "holds no weights (save_weights was false)" in errors
    assert errors.count("\n") == 1


EXPERIMENT = """
name: small
model: {width: 16, depth: 2, heads: 2, patch: 4}
train: {epochs: 4, batch_size: 64, lr: 3e-3, warmup_epochs: 0}  # enough to be above chance
references: [retrain]
save_weights: false
edits:
  - {name: svd, keep: [0.5, 0.9]}
attacks:
  - {name: relearn, arms: [retain, noisy], steps: 2}
  - {name: quantize, bits: [4, 8], groups: []}
attacked: ["svd-keep0.5"]
"""


def test_an_experiment_attacks_base_references_and_the_edits_named(cli, tmp_path):
    file = tmp_path / "small.yaml"
    file.write_text(EXPERIMENT)
    out = tmp_path / "runs"
    code, _, errors = cli("run", file, f"--out={out}")
    assert code == 0, errors
    before = stamps(out)
    where = {str(path.relative_to(out / "small")) for path in before}
    models = ("seed0/evals/base", "seed0/evals/svd-keep0.5", "seed0-retrain/evals/base")
    assert where == {f"{m}/attacks/{a}.json" for m in models for a in ("relearn", "quantize")}
    retrain = json.loads((out / "small/seed0-retrain/evals/base/attacks/quantize.json").read_text())
    assert retrain["id"] == "retrain"
    assert set(retrain["references"]) == {"base"}
    assert retrain["rows"][0]["same_bucket"] < 1
    drawn = {path.name for path in (out / "small" / "figures").glob("*.png")}
    assert {"bits.png", "relearning_svd-keep0.5.png", "scorecard_svd-keep0.5.png"} <= drawn
    assert cli("run", file, f"--out={out}", "--figures=false")[0] == 0
    assert stamps(out) == before
    # The weights of an edit were not stored: another attack makes them again.
    file.write_text(EXPERIMENT.replace("bits: [4, 8]", "bits: [4, 6]"))
    code, _, errors = cli("run", file, f"--out={out}", "--figures=false")
    assert code == 0, errors
    assert {path.name for path, stamp in stamps(out).items() if before[path] != stamp} == {"quantize.json"}
    file.write_text(EXPERIMENT.replace("svd-keep0.5", "kfac*"))
    code, _, errors = cli("run", file, f"--out={out}")
    assert code == 2
    assert "attacked: 'kfac*' matches no edit; there are: svd-keep0.5, svd-keep0.9" in errors
