"""A task of a plan, performed: its stages one after the other, each recorded as it ends."""

import dataclasses
import functools
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from vitmem.editing.contract import Edit
from vitmem.evaluation.tables import OK, usable
from vitmem.experiment.analysing import analyse_all
from vitmem.experiment.attacking import attack_all, pending
from vitmem.experiment.plan import PlannedEdit
from vitmem.experiment.results import largest
from vitmem.experiment.stages import (
    ANALYSE,
    ATTACK,
    DONE,
    EDIT,
    FAILED,
    LEFT_OUT,
    MEASURE,
    SKIPPED,
    TRAIN,
    Outcome,
    Stage,
    Task,
    records,
    stage_digest,
    stamps,
    states,
    write_records,
)
from vitmem.experiment.tuning import Tuning, points, tune
from vitmem.files import digest, now, sweep
from vitmem.models.memory import ran_out
from vitmem.runs.attack import stored_attack
from vitmem.runs.edit import make_edit
from vitmem.runs.evaluate import evaluate, status_of, stored
from vitmem.runs.folder import RunFolder, held_all, weights_digest
from vitmem.runs.share import remember, take_over
from vitmem.runs.train import train
from vitmem.runs.trained import BASE, REFERENCES, TrainedRun
from vitmem.training.errors import Interrupted, StateLost

Told = Callable[[str, str, str], None]  # called with the name of a stage, what became of it, and why


@dataclass(frozen=True)
class How:
    """How tasks are performed.

    Args:
        out: folder of all experiments.
        force: do again what is done.
        retry_failed: do again what failed.
        wait: wait while other commands work on a run folder.
        share: take over equal trainings of other experiments.
        began: when it was asked for, where it may be begun again: ``force`` leaves what was done since.
    """

    out: Path
    force: bool = False
    retry_failed: bool = False
    wait: bool = False
    share: bool = True
    began: str = ""


def trained_result(path: Path) -> str | None:
    """Return what tells a finished training from others: its weights and labels; None where there is none."""
    try:
        folder = RunFolder(path)
        sealed = folder.read_provenance()["sha256"] if folder.is_trained else {}
    except ValueError:  # whoever opens it says why
        return None
    return f"{sealed['model.safetensors']} {sealed['noise.csv']}" if sealed else None


def trainings(task: Task) -> list[str | None]:
    """Return the results of the trainings that a measuring task works on, base first."""
    if task.is_training:
        return []
    return [trained_result(task.model_path(kind)) for kind in (BASE, *task.experiment.references)]


def perform(task: Task, how: How, training: str = "", told: Told = lambda name, state, why: None) -> Outcome:
    """Do the stages of a task that are not done, and return what became of each.

    Args:
        task: which.
        how: in which way.
        training: digest of the training that it is.
        told: is told of each stage.

    Raises:
        ValueError: another command works in its folders.
        Interrupted: the process was told to end.
        StateLost: results cannot be written.
    """
    folders = [task.path] if task.is_training else [task.model_path(k) for k in (BASE, *task.experiment.references)]
    outcome: Outcome = {}
    with held_all(folders, wait=how.wait):
        sweep(task.record.parent, inside=False)
        recorded, trained = dict(records(task)), trainings(task)
        before, runs = states(task, recorded, trained, training), _Models(task)
        for stage in task.stages:
            lacks = None in (trained if stage.references else trained[:1])
            if lacks or any(outcome[need][0] in (FAILED, SKIPPED) for need in stage.needs):
                outcome[stage.name] = SKIPPED, "what it needs failed"
            elif is_settled(before[stage.name], recorded.get(stage.name), how):
                outcome[stage.name] = before[stage.name], recorded[stage.name].get("why", "")
            else:
                its_digest = stage_digest(stage, recorded, trained, training)
                entry = {"digest": its_digest, **_tried(task, stage, runs, how, training), "ended": now()}
                recorded[stage.name] = entry | ({"files": stamps(task, stage)} if entry["state"] == DONE else {})
                write_records(task, recorded)
                outcome[stage.name] = entry["state"], entry.get("why", "")
            told(stage.name, *outcome[stage.name])
        _stamp_again(task, recorded, outcome)
    return outcome


def is_settled(state: str | None, recorded: Mapping | None, how: How) -> bool:
    """Tell whether a stage needs not be done now.

    Args:
        state: of ``states``.
        recorded: what is recorded of it.
        how: in which way stages are done.
    """
    if state not in ((DONE,) if how.retry_failed else (DONE, FAILED)):
        return False
    return not how.force or bool(how.began and recorded and recorded.get("ended", "") >= how.began)


def _stamp_again(task: Task, recorded: dict[str, dict], outcome: Outcome) -> None:
    """Record the files as they are now: an attack may have had to make an edit again."""
    now = {s.name: recorded[s.name] | {"files": stamps(task, s)} for s in task.stages if outcome[s.name][0] == DONE}
    if now != {name: recorded[name] for name in now}:
        write_records(task, recorded | now)


def _tried(task: Task, stage: Stage, runs: "_Models", how: How, training: str) -> dict:
    """Do a stage and return what is recorded of it, whether it could be done or not."""
    start = time.monotonic()
    try:
        result = _ACTIONS[stage.kind](task, stage, runs, how, training)
        entry = {"state": DONE, "result": result}
    except (Interrupted, StateLost):
        raise
    except Exception as error:
        task.log.parent.mkdir(parents=True, exist_ok=True)
        with task.log.open("a") as log:
            log.write(f"{now()} {task.name}: {stage.name}\n{traceback.format_exc()}")
        why = " ".join(str(error).split())[:500] or type(error).__name__
        less = "; lower batch_size, layers_per_pass or the number of examples, or free memory" if ran_out(error) else ""
        entry = {"state": FAILED, "why": why + less}
        runs.forget()
    return entry | {"seconds": round(time.monotonic() - start, 3)}


class _Models:
    """The models of a seed, opened when they are asked for."""

    def __init__(self, task: Task):
        self.task = task
        self._open: dict[str, TrainedRun] = {}

    def __getitem__(self, kind: str) -> TrainedRun:
        if kind not in self._open:
            experiment = self.task.experiment
            self._open[kind] = TrainedRun.open(
                self.task.model_path(kind), known=experiment.known, cache_gb=experiment.cache_gb
            )
        return self._open[kind]

    def forget(self) -> None:
        """Open models again: what failed may have left them changed, or holds memory."""
        self._open.clear()


def _train(task: Task, stage: Stage, runs: _Models, how: How, training: str) -> str:
    config = task.experiment.config_of(task.seed, task.part)
    taken = take_over(how.out, training, config, task.path) if how.share and training else None
    if taken:
        print(f"{task.path}: the training is that of {taken}, whose files are linked", flush=True)
    else:
        train(config, task.path, force=how.force and not _begun_since(task.path, how.began), wait=how.wait)
    if training:
        remember(how.out, training, task.path)
    result = trained_result(task.path)
    assert result is not None
    return result


def _begun_since(path: Path, when: str) -> bool:
    """Tell whether the training in a folder was begun after it was asked for: a job of Slurm that came back."""
    try:
        return bool(when) and str(RunFolder(path).read_provenance().get("started", "")) >= when
    except ValueError:
        return False


def _measure(task: Task, stage: Stage, runs: _Models, how: How, training: str) -> str:
    evaluate(runs[stage.model], force=how.force)
    return ""


def _edit(task: Task, stage: Stage, runs: _Models, how: How, training: str) -> str:
    planned, base, found = _planned(task, stage.model), runs[BASE], []
    for name, edit, tuned in settings(task, planned, base, how.force):
        content = _made(task, planned, base, name, edit, tuned)(force=how.force)
        evaluate(base, name, force=how.force)
        found.append([name, content.get("status"), weights_digest(content)])
    return digest(found)


def _attack(task: Task, stage: Stage, runs: _Models, how: How, training: str) -> str:
    run = runs[stage.model] if stage.model in (BASE, *REFERENCES) else runs[BASE]
    edit_id = BASE if stage.model in (BASE, *REFERENCES) else stage.model
    attacks = [one for one in task.experiment.attacks if one.attack_id == stage.what]
    if edit_id != BASE and not _can_be_attacked(run, edit_id):
        return LEFT_OUT
    if edit_id != BASE and not run.has_weights(edit_id) and (how.force or pending(run, attacks, edit_id)):
        for planned in task.experiment.edits:
            if edit_id in task.experiment.result_ids(planned):
                name, edit, tuned = next(s for s in settings(task, planned, run, False) if s[0] == edit_id)
                _made(task, planned, run, name, edit, tuned)(force=True)
        evaluate(run, edit_id)  # weights that were cleaned away may come out otherwise in the last digit
    attack_all(run, attacks, edit_id, how.force, keep_going=True)
    told = stored_attack(run, stage.what, edit_id)
    if told and (failed := told["report"].get("failed")):
        raise ValueError(f"{stage.what} on {stage.model} failed: {failed}")
    return ""


def _can_be_attacked(run: TrainedRun, edit_id: str) -> bool:
    """Tell whether an edit has finite weights, and a model that is not at chance."""
    found = stored(run, edit_id)
    return usable(run.edit(edit_id)) and found is not None and status_of(found) == OK


def _analyse(task: Task, stage: Stage, runs: _Models, how: How, training: str) -> str:
    asked = [one for one in task.experiment.analyses if one.analysis_id == stage.what]
    analyse_all(runs[stage.model], asked, force=how.force)
    return ""


_ACTIONS: dict[str, Callable[[Task, Stage, _Models, How, str], str]] = {
    TRAIN: _train,
    MEASURE: _measure,
    EDIT: _edit,
    ATTACK: _attack,
    ANALYSE: _analyse,
}


def _planned(task: Task, edit_id: str) -> PlannedEdit:
    return next(planned for planned in task.experiment.edits if planned.edit_id == edit_id)


def _made(
    task: Task, planned: PlannedEdit, base: TrainedRun, name: str, edit: Edit, tuned: dict | None
) -> Callable[..., dict]:
    """Return what makes an edit under a name."""
    save = task.experiment.save_weights
    how = {"replace": True, "save": save, "cleaned": True, "tuned": tuned, "keep_going": True}
    return functools.partial(make_edit, base, edit, planned.name, name, **how)


def settings(task: Task, planned: PlannedEdit, base: TrainedRun, force: bool) -> list[tuple[str, Edit, dict | None]]:
    """Return the edits to report, each with its name and how it was tuned: one, or one for each operating point."""
    experiment = task.experiment
    space = experiment.space(planned)
    if not space:
        return [(planned.edit_id, planned.edit, None)]
    tuning = Tuning(planned.prefix, planned.edit, space, experiment.tune, experiment.tuner)
    trials = tune(base, tuning, force=force)
    spent = {key: sum(trial[key] for trial in trials) for key in ("passes", "seconds")}
    spent["extra_memory_bytes"] = largest(trial["extra_memory_bytes"] for trial in trials)
    found = []
    for name, (point, choose) in zip(
        experiment.result_ids(planned), points(experiment.tuner, space).items(), strict=True
    ):
        chosen = choose(trials)
        tuned = {"point": point, "trials": len(trials), "tuner": experiment.tuner, **spent, "chosen": chosen}
        found.append((name, dataclasses.replace(planned.edit, **chosen["options"]), tuned))
    return found
