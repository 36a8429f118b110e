"""The plan of an experiment before it is run: stages, what is done, and about what the rest takes."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from vitmem.curvature.cache import CurvatureConfig
from vitmem.curvature.cost import requirements
from vitmem.curvature.layers import linear_maps
from vitmem.datamodules.module import MemorisationData
from vitmem.editing.contract import Edit
from vitmem.editing.kfac import KFAC
from vitmem.experiment.attacking import pending
from vitmem.experiment.plan import Experiment, PlannedEdit
from vitmem.experiment.run import Checked, cell_folder
from vitmem.experiment.stages import model_folder
from vitmem.experiment.sweep import Cell
from vitmem.experiment.tuning import trials_made
from vitmem.files import digest, read_json
from vitmem.models.build import create
from vitmem.models.layers import select_layers
from vitmem.progress import duration, size
from vitmem.runs.analyse import is_analysed
from vitmem.runs.config import RunConfig
from vitmem.runs.contents import ANALYSIS, ATTACK
from vitmem.runs.edit import edit_inputs, is_finished
from vitmem.runs.evaluate import stored
from vitmem.runs.folder import RunFolder
from vitmem.runs.start import make_data, timm_arguments
from vitmem.runs.train import state_of
from vitmem.runs.trained import BASE, TrainedRun, saved_manifest
from vitmem.shapes import Shape
from vitmem.training import cost


@dataclass
class Stage:
    """One kind of work.

    Args:
        name: what it is.
        total: pieces of it.
        done: pieces that are there.
        seconds: about what the others take.
        disk: bytes that the others write.
        note: what the numbers leave out.
    """

    name: str
    total: int = 0
    done: int = 0
    seconds: float = 0.0
    disk: float = 0.0
    note: str = ""

    def line(self) -> str:
        """Return it in words."""
        rest = f"about {duration(self.seconds)}" if self.done < self.total and self.seconds else ""
        if self.done < self.total and not self.seconds:
            rest = "time not known before the first is made"
        disk = f"disk {size(self.disk)}" if self.disk else ""
        facts = [f"{self.name}: {self.done} of {self.total} done", rest, disk, self.note]
        return ", ".join(fact for fact in facts if fact)


def lines(cells: Sequence[Cell], folder: Path) -> list[str]:
    """Return the plan of an experiment in words; nothing is written, but a few batches are trained to tell the time.

    Args:
        cells: of its sweep; one that changes nothing where it has none.
        folder: of the experiment.

    Raises:
        ValueError: the plan cannot be carried out.
    """
    found, measured, checked = [], _Measured(), Checked()
    for cell in cells:
        checked.check(cell.experiment)
        checked.check_place(cell.experiment)
        found.append(_forecast(cell.experiment, cell_folder(folder, cell), measured))
    stages = _summed([stage for stages, _ in found for stage in stages])
    seconds, disk = sum(stage.seconds for stage in stages), sum(stage.disk for stage in stages)
    memory = max(most for _, most in found)
    experiment = cells[0].experiment
    where = cost.where(experiment.run.train, experiment.run.trainer)
    number = f"{len(cells)} cells, " if len(cells) > 1 else ""
    return [
        f"{folder}: {number}seeds {', '.join(map(str, experiment.seeds))}, on {where}",
        *(f"  {stage.line()}" for stage in stages),
        f"in all: about {duration(seconds)}, memory about {size(memory)}, disk {size(disk)}"
        + ("" if seconds else "; everything is done"),
    ]


class _Measured:
    """What training costs, told once for experiments that differ in nothing that matters."""

    def __init__(self) -> None:
        self._known: dict[str, cost.Plan] = {}

    def plan(self, run: RunConfig, data: MemorisationData) -> cost.Plan:
        """Return the cost of a training."""
        told = run.to_dict()
        key = digest(
            [told["data"], told["model"], told["trainer"], told["train"]["batch_size"], told["train"]["epochs"]]
        )
        if key not in self._known:
            self._known[key] = cost.plan(timm_arguments(run, data), data, run.train, run.trainer)
        return self._known[key]


def _forecast(experiment: Experiment, folder: Path, measured: _Measured) -> tuple[list[Stage], float]:
    """Return the stages of one experiment, and the most memory that one takes."""
    data = make_data(experiment.run)
    training = measured.plan(experiment.run, data)
    models = _models(experiment, folder, training, data)
    runs = {seed: _opened(model_folder(folder, seed, BASE), experiment) for seed in experiment.seeds}
    curvature, memory = _curvature(experiment, runs, data)
    stages = [models, curvature, *_edits(experiment, runs, data, training), *_asked(experiment, folder, runs)]
    return stages, max(memory, training.memory) if models.done < models.total else memory


def minutes(cell: Cell) -> tuple[float, float]:
    """Return about how many minutes a training of a cell takes, and all else of a seed; 0 where that is not known."""
    experiment = cell.experiment
    data = make_data(experiment.run)
    training = _Measured().plan(experiment.run, data)
    none: dict[int, TrainedRun | None] = {experiment.seeds[0]: None}
    stages = [_curvature(experiment, none, data)[0], *_edits(experiment, none, data, training)]
    asked = bool(experiment.attacks or experiment.analyses)  # nobody knows before the first is made
    return 60 * training.hours, 0.0 if asked else sum(stage.seconds for stage in stages) / 60


def _summed(stages: Iterable[Stage]) -> list[Stage]:
    """Return one stage for each name, of all cells."""
    found: dict[str, Stage] = {}
    for stage in stages:
        known = found.setdefault(stage.name, Stage(stage.name))
        for field in ("total", "done", "seconds", "disk"):
            setattr(known, field, getattr(known, field) + getattr(stage, field))
        known.note = known.note or stage.note
    return [stage for stage in found.values() if stage.total]


def _models(experiment: Experiment, folder: Path, training: cost.Plan, data: MemorisationData) -> Stage:
    kinds = (BASE, *experiment.references)
    stage = Stage("models", total=len(experiment.seeds) * len(kinds))
    conflicts: list[str] = []
    others: list[str] = []
    for seed in experiment.seeds:
        for kind in kinds:
            path = model_folder(folder, seed, kind)
            state = state_of(experiment.config_of(seed, kind), path)
            stage.done += state == "done"
            conflicts += [path.name] if state == "other settings" else []
            if state in ("done", "begun") and not _same_data(experiment.config_of(seed, kind), path, data):
                others.append(path.name)
            if state != "done":
                stage.seconds += 3600 * training.hours
                stage.disk += 4 * training.parameters * 7  # weights, and two checkpoints with both moments
    reasons = {"runs with other settings": conflicts, "runs of other data than those at hand": others}
    told = [f"{', '.join(names)} hold {what}" for what, names in reasons.items() if names]
    stage.note = f"{'; '.join(told)}: the command will refuse" if told else ""
    return stage


def _same_data(config: RunConfig, path: Path, data: MemorisationData) -> bool:
    """Tell whether a run has the images and labels at hand, which are loaded once: only their noise may be another."""
    return saved_manifest(path).header() == config.noise.manifest(data.data).header()


def _opened(path: Path, experiment: Experiment) -> TrainedRun | None:
    return TrainedRun.open(path, known=experiment.known) if RunFolder(path).is_trained else None


def _curvature(
    experiment: Experiment, runs: dict[int, TrainedRun | None], data: MemorisationData
) -> tuple[Stage, float]:
    """Return the passes for curvature, each shared by all edits that ask for the same, and the most memory of one."""
    model = create(timm_arguments(experiment.run, data), seed=0)
    asked: dict[str, list[PlannedEdit]] = {}
    for planned in experiment.edits:
        if isinstance(planned.edit, KFAC) and planned.edit.needs_images:
            collected = planned.edit.collected
            options = {f.name: getattr(collected, f.name) for f in dataclasses.fields(CurvatureConfig)}
            asked.setdefault(str(options), []).append(planned)
    stage, most = Stage("curvature", total=len(asked) * len(runs)), 0.0
    for same in asked.values():
        needs = _requirements(same[0].edit.collected, model, data)
        most = max(most, needs.memory + 4 * sum(p.numel() for p in model.parameters()))
        for run in runs.values():
            done = run is not None and all(_left(experiment, p, run) == 0 for p in same)
            stage.done += done
            stage.seconds += 0 if done else needs.seconds
            stage.disk += 0 if done else needs.disk
    return stage, most


def _requirements(edit: CurvatureConfig, model: nn.Module, data: MemorisationData):
    images = min(edit.examples, len(data.train_examples))
    maps = linear_maps(select_layers(model, edit.layers), edit.bias)
    return requirements(model, maps, edit, -(-images // edit.batch_size), data.data.image_shape)


def _left(experiment: Experiment, planned: PlannedEdit, run: TrainedRun | None) -> int:
    """Return how many results of an edit have not been made and measured."""
    return sum(not _is_done(experiment, planned, name, run) for name in experiment.result_ids(planned))


def _is_done(experiment: Experiment, planned: PlannedEdit, name: str, run: TrainedRun | None) -> bool:
    content = _stored_edit(run, name)
    if run is None or content is None:
        return False
    tuned = bool(experiment.space(planned))
    same = tuned or content["inputs"] == edit_inputs(run, planned.edit, planned.name)
    finished = is_finished(run, content, save=experiment.save_weights, cleaned=True)
    return same and finished and stored(run, name) is not None


def _stored_edit(run: TrainedRun | None, name: str) -> dict | None:
    """Return what the ``edit.json`` of an edit holds; None if there is none that can be used."""
    try:
        return run.edit(name) if run else None
    except ValueError:
        return None


def _edits(
    experiment: Experiment, runs: dict[int, TrainedRun | None], data: MemorisationData, training: cost.Plan
) -> list[Stage]:
    trials, results = Stage("trials"), Stage("edits")
    evaluated = len(data.train_examples) + len(data.validation_examples)
    for planned in experiment.edits:
        one = work(planned.edit, data, training) + evaluated / training.eval_speed
        for run in runs.values():
            names = experiment.result_ids(planned)
            left = _left(experiment, planned, run)
            results.total, results.done = results.total + len(names), results.done + len(names) - left
            results.seconds += left * one
            results.disk += left * 4 * training.parameters * experiment.save_weights
            if experiment.space(planned):
                made = min(experiment.tune, trials_made(run, planned.prefix) if run else 0)
                trials.total, trials.done = trials.total + experiment.tune, trials.done + made
                trials.seconds += (experiment.tune - made) * one
    return [trials, results]


def work(edit: Edit, data: MemorisationData, training: cost.Plan) -> float:
    """Return about how many seconds an edit trains, by its epochs or steps; 0 for one that does not."""
    steps, epochs = getattr(edit, "steps", None), getattr(edit, "epochs", None)
    images = steps * getattr(edit, "batch_size", 64) if steps else (epochs or 0) * len(data.train_examples)
    return images / training.train_speed


def _asked(experiment: Experiment, folder: Path, runs: dict[int, TrainedRun | None]) -> list[Stage]:
    """Return the attacks and the analyses, with times as far as one of a kind was made."""
    attacked = [n for p in experiment.edits for n in experiment.result_ids(p) if experiment.is_attacked(n)]
    retrain = [kind for kind in experiment.references if kind == "retrain"]
    found = []
    for planned in experiment.attacks:
        done = functools.partial(lambda run, name, planned: not pending(run, [planned], name), planned=planned)
        place = f"attacks/{planned.attack_id}.json"
        models = _models_asked(experiment, folder, runs, experiment.references, attacked)
        found.append(_stage(f"attack {planned.attack_id}", models, done, place, ATTACK))
    for planned in experiment.analyses:
        of = planned.analysis, planned.name, planned.analysis_id
        done = functools.partial(lambda run, name, of: is_analysed(run, *of, name), of=of)
        place = f"analyses/{planned.analysis_id}.json"
        models = _models_asked(experiment, folder, runs, retrain, [])
        found.append(_stage(f"analysis {planned.analysis_id}", models, done, place, ANALYSIS))
    return found


def _models_asked(
    experiment: Experiment, folder: Path, runs: dict[int, TrainedRun | None], kinds: Sequence[str], ids: Sequence[str]
) -> list[tuple[TrainedRun | None, str]]:
    """Return the base models with references and edits, as runs with ids; None where there is none yet."""
    found: list[tuple[TrainedRun | None, str]] = []
    for seed, run in runs.items():
        references = [_opened(model_folder(folder, seed, kind), experiment) for kind in kinds]
        found += [(run, BASE), *((reference, BASE) for reference in references), *((run, name) for name in ids)]
    return found


def _stage(
    name: str, models: Sequence[tuple[TrainedRun | None, str]], done: Callable, place: str, shape: Shape
) -> Stage:
    stage, took = Stage(name, total=len(models)), []
    for owner, its_id in models:
        if owner is None or (its_id != BASE and _stored_edit(owner, its_id) is None):
            continue
        stage.done += done(owner, its_id)
        stored = read_json(owner.path / "evals" / its_id / place, shape)
        took += [stored["seconds"]] if stored else []
    if took:
        stage.seconds = (stage.total - stage.done) * sum(took) / len(took)
    return stage
