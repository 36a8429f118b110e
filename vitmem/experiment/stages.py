"""The stages of a plan: a graph of pieces of work, each done once, and what is recorded of those that were tried.

A task is what one process does in a sitting, holding its run folders: the training of a model, or all else of a seed
(measure, edit, attack, analyse). A stage is one piece of it; a stage that fails takes with it those that need it, and
nothing else. ``stages/seedK/TASK.json`` of an experiment tells what became of each: it counts as done while its digest
(options, code, weights and edits that it works on) is the same and its files are as they were left.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from vitmem.analysis.contract import Analysis
from vitmem.attacks.contract import Attack
from vitmem.curvature import cache as curvature
from vitmem.editing.contract import identity
from vitmem.experiment import tuning
from vitmem.experiment.plan import Experiment
from vitmem.experiment.results import seed_folders
from vitmem.files import digest, read_json, write_json
from vitmem.registry import plugins
from vitmem.runs import analyse, attack, evaluate
from vitmem.runs.folder import EDIT_FILE, PROVENANCE, WEIGHTS
from vitmem.runs.trained import BASE, REFERENCES
from vitmem.shapes import Each, Number

FOLDER = "stages"
TRAIN, MEASURE, EDIT, ATTACK, ANALYSE = "train", "measure", "edit", "attack", "analyse"
DONE, FAILED, PENDING, SKIPPED = "done", "failed", "pending", "skipped"
LEFT_OUT = "left out"  # result of an attack on what has nothing to attack
_CODE = {
    MEASURE: [evaluate.VERSION],
    EDIT: [evaluate.VERSION, curvature.VERSION, tuning.VERSION],
    ATTACK: [evaluate.VERSION, attack.VERSION],
    ANALYSE: [evaluate.VERSION, analyse.VERSION],
}
_RECORD = {
    "digest": str,
    "state": str,
    "seconds": Number(0),
    "ended?": str,
    "result?": str,
    "why?": str,
    "files?": Each(str, [Number(0, whole=True)]),
}
SHAPE = {"stages": Each(str, _RECORD)}
Outcome = dict[str, tuple[str, str]]  # what became of the stages of a task: state and reason, by name


@dataclass(frozen=True)
class Stage:
    """One piece of work of a task.

    Args:
        kind: train, measure, edit, attack or analyse.
        model: whose: base, a reference, or the id of an edit as the plan has it.
        what: id of the attack or analysis.
        options: all that its outcome depends on besides models.
        needs: names of stages of the same task.
        references: it looks at the reference models, too, and cannot be done if one could not be trained.
    """

    kind: str
    model: str
    what: str = ""
    options: object = None
    needs: tuple[str, ...] = ()
    references: bool = False

    @property
    def name(self) -> str:
        """Its name within the task."""
        return " ".join(part for part in (self.kind, self.what, self.model) if part)


@dataclass(frozen=True)
class Task:
    """What one process does in a sitting.

    Args:
        experiment: whose.
        folder: of the experiment.
        seed: of its models.
        part: base or a reference, whose model is trained; or ``measure``, all else.
    """

    experiment: Experiment
    folder: Path
    seed: int
    part: str

    @property
    def is_training(self) -> bool:
        """A model is trained; otherwise models are measured."""
        return self.part != MEASURE

    @property
    def path(self) -> Path:
        """Run folder of the model that is trained, or of the base model."""
        return self.model_path(self.part if self.is_training else BASE)

    def model_path(self, kind: str) -> Path:
        """Return the run folder of a model of this seed."""
        return model_folder(self.folder, self.seed, kind)

    @property
    def name(self) -> str:
        """Its name in messages."""
        return f"{self.folder.name}/seed{self.seed} {'train ' * self.is_training}{self.part}"

    @property
    def record(self) -> Path:
        """File that tells what became of its stages."""
        return self.folder / FOLDER / f"seed{self.seed}" / f"{self.part}.json"

    @property
    def log(self) -> Path:
        """File of what a process says that works for another one."""
        return self.record.with_suffix(".log")

    @cached_property
    def stages(self) -> tuple[Stage, ...]:
        """Its stages, each after those that it needs."""
        return (Stage(TRAIN, self.part),) if self.is_training else tuple(measuring(self.experiment))


def model_folder(folder: Path, seed: int, kind: str) -> Path:
    """Return where an experiment has a model."""
    return folder / (f"seed{seed}" if kind == BASE else f"seed{seed}-{kind}")


def tasks(experiment: Experiment, folder: Path) -> list[Task]:
    """Return the tasks of an experiment, each after those that it needs."""
    kinds = [*(kind for kind in (BASE, *REFERENCES) if kind in (BASE, *experiment.references)), MEASURE]
    return [Task(experiment, folder, seed, kind) for seed in experiment.seeds for kind in kinds]


def measuring(experiment: Experiment) -> list[Stage]:
    """Return what is done with the trained models of a seed, in order."""
    found = []
    for model in (BASE, *experiment.references):
        found.append(Stage(MEASURE, model, options=experiment.known, references=model != BASE))
        found += _attacks(experiment, model, (found[-1].name,))
    edited = []
    for planned in experiment.edits:
        options = [
            planned.name, identity(planned.edit), experiment.known, experiment.save_weights,
            experiment.result_ids(planned), experiment.space(planned) and [experiment.tune, experiment.tuner],
            list(experiment.space(planned).items()),
        ]  # fmt: skip
        edited.append(Stage(EDIT, planned.edit_id, options=options))
        found.append(edited[-1])
        for its_id in experiment.result_ids(planned):
            if experiment.is_attacked(its_id):
                found += _attacks(experiment, its_id, (edited[-1].name,))
    for model in (BASE, *(kind for kind in experiment.references if kind == "retrain")):
        needs = tuple(stage.name for stage in edited) if model == BASE else ()
        for one in experiment.analyses:
            options = [one.name, dataclasses.asdict(one.analysis), *_version(one.analysis)]
            found.append(Stage(ANALYSE, model, one.analysis_id, options, needs, references=True))
    return found


def _attacks(experiment: Experiment, model: str, needs: tuple[str, ...]) -> list[Stage]:
    return [
        Stage(
            ATTACK,
            model,
            one.attack_id,
            [one.name, identity(one.attack), *_version(one.attack)],
            needs,
            references=True,
        )
        for one in experiment.attacks
    ]


def _version(asked: Attack | Analysis) -> list[int]:
    return [asked.version] if asked.version else []


def stage_digest(stage: Stage, recorded: Mapping[str, dict], trained: Sequence[str | None], training: str = "") -> str:
    """Return what tells the outcome of a stage from others.

    Args:
        stage: which.
        recorded: as ``records``; the stages that it needs are done.
        trained: results of the trainings of its seed.
        training: digest of the training that it is.
    """
    results = [*trained, *(recorded[name].get("result") for name in stage.needs)]
    code = [_CODE.get(stage.kind), plugins() if stage.kind != TRAIN else []]
    return digest([stage.name, stage.options, results, training, code])


def files_of(task: Task, stage: Stage) -> list[Path]:
    """Return the files that a stage leaves, some of them only as far as they are wanted, or that it looks at."""
    if stage.kind == TRAIN:
        path = task.path
        return [path / name for name in (PROVENANCE, "config.yaml", "noise.csv", "noise.json", WEIGHTS, "model.json")]
    own = stage.model in (BASE, *REFERENCES)
    run, model = (task.model_path(stage.model), BASE) if own else (task.path, stage.model)
    evaluation = run / "evals" / model
    if stage.kind == MEASURE:
        return [evaluation / evaluate.MEASUREMENT, evaluation / evaluate.EXAMPLES]
    if stage.kind == ATTACK:
        return [evaluation / "attacks" / f"{stage.what}.json"]
    if stage.kind == ANALYSE:  # and what it looks at besides models of the seed: edits, and models of other seeds
        (analysis,) = (one.analysis for one in task.experiment.analyses if one.analysis_id == stage.what)
        seeds = seed_folders(task.folder).values() if analysis.looks_across else ()
        others = [path / PROVENANCE for path in seeds if path != task.path]
        own = [evaluation / "analyses" / f"{stage.what}.{suffix}" for suffix in ("json", "npz")]
        return own + sorted(task.path.glob(f"edits/*/{EDIT_FILE}")) + others
    planned = next(one for one in task.experiment.edits if one.edit_id == stage.model)
    found = []
    for its_id in task.experiment.result_ids(planned):
        edit, evaluation = run / "edits" / its_id, run / "evals" / its_id
        found += [edit / EDIT_FILE, edit / WEIGHTS]
        found += [evaluation / name for name in (evaluate.MEASUREMENT, evaluate.EXAMPLES)]
    return found


def stamps(task: Task, stage: Stage) -> dict[str, list[int]]:
    """Return size and time (ns) of the files of a stage that are there, by their path in the experiment."""
    found = {}
    for path in files_of(task, stage):
        try:
            told = path.stat()
        except OSError:
            continue
        found[str(path.relative_to(task.folder))] = [told.st_size, told.st_mtime_ns]
    return found


def records(task: Task) -> dict[str, dict]:
    """Return what is recorded of the stages of a task, by name."""
    return (read_json(task.record, SHAPE) or {"stages": {}})["stages"]


def write_records(task: Task, found: Mapping[str, dict]) -> None:
    """Record what became of the stages of a task."""
    task.record.parent.mkdir(parents=True, exist_ok=True)
    write_json(task.record, {"stages": dict(found)})


def states(task: Task, recorded: Mapping[str, dict], trained: Sequence[str | None], training: str) -> dict[str, str]:
    """Return the state of each stage of a task: done, failed (the same was tried), skipped, or pending.

    Args:
        task: which.
        recorded: as ``records``.
        trained: results of the trainings of its seed; None for one that is not done.
        training: digest of the training that the task is; empty for a measuring one.
    """
    found: dict[str, str] = {}
    for stage in task.stages:
        told = recorded.get(stage.name)
        found[stage.name] = PENDING
        if any(found[name] in (FAILED, SKIPPED) for name in stage.needs):
            found[stage.name] = SKIPPED
            continue
        if told is None or any(found[name] == PENDING for name in stage.needs):
            continue
        if told["digest"] != stage_digest(stage, recorded, trained, training):
            continue
        if told["state"] == FAILED:
            found[stage.name] = FAILED
        elif told.get("files") == stamps(task, stage) and (told["files"] or told.get("result") == LEFT_OUT):
            found[stage.name] = DONE
    return found
