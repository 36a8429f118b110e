"""The grid of an experiment: trained, edited, measured and attacked, resumable, into tables."""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from vitmem.editing.known import known_noisy
from vitmem.evaluation.comparison import comparison_csv
from vitmem.experiment.analysing import write_tables as write_analyses
from vitmem.experiment.attacking import gather_attacks, read_results, write_attacks
from vitmem.experiment.board import Board, View
from vitmem.experiment.jobs import run_jobs
from vitmem.experiment.per_example import write_per_example
from vitmem.experiment.perform import How, perform
from vitmem.experiment.plan import Experiment
from vitmem.experiment.results import PLAN, seed_folders, write_experiment_table
from vitmem.experiment.showing import show
from vitmem.experiment.stages import Task, model_folder, tasks
from vitmem.experiment.sweep import Cell
from vitmem.experiment.swept import write_swept
from vitmem.experiment.tuning import check_known, check_validation
from vitmem.files import digest, write_atomically
from vitmem.runs.config import RunConfig
from vitmem.runs.folder import held, held_all, in_use
from vitmem.runs.share import training_digest
from vitmem.runs.start import check_model, make_data, pretrained_sha256
from vitmem.runs.train import check_there, is_occupied
from vitmem.runs.trained import BASE, REFERENCES
from vitmem.training.loggers import check_loggers

Launcher = Callable[[Board, View, Callable[[Task], None]], None]


def run(
    cells: Sequence[Cell], folder: Path, how: How, *, jobs: int = 1, launcher: Launcher | None = None
) -> tuple[list[dict], Board]:
    """Run all stages of an experiment; what is finished is not done again.

    Args:
        cells: of its sweep; one that changes nothing where it has none.
        folder: of the experiment.
        how: in which way stages are done.
        jobs: processes of this machine.
        launcher: performs the tasks elsewhere.

    Returns:
        The rows of ``results.csv``: of all seeds that are there, whatever command made them; and what became of the
        stages.

    Raises:
        ValueError: the plan cannot be carried out, or another command works on one of the seeds.
    """
    board = survey(cells, folder, how)
    experiments = {cell_folder(folder, cell): cell.experiment for cell in cells}
    others = {path: read_results(experiment.other_rates) for path, experiment in experiments.items()}
    rows: dict[Path, list[dict]] = {}
    for path, experiment in experiments.items():
        if experiment.file:
            path.mkdir(parents=True, exist_ok=True)
            write_atomically(path / PLAN, experiment.file.read_text())

    def ended(task: Task) -> None:
        if not task.is_training:
            rows[task.folder] = write_tables(experiments[task.folder], task.folder, others[task.folder])

    with View(board, str(folder)) as view:
        if launcher:
            launcher(board, view, ended)
        elif jobs > 1:
            run_jobs(board, view, jobs, ended)
        else:
            run_here(board, view, ended)
    for path, experiment in experiments.items():
        if path not in rows:
            rows[path] = write_tables(experiment, path, others[path])
        show(path, "per_example", functools.partial(write_per_example, path, seed_folders(path), rows[path]))
    if cells[0].is_swept:
        return write_swept(folder, [(cell, rows[cell_folder(folder, cell)]) for cell in cells]), board
    return rows[folder], board


def survey(cells: Sequence[Cell], folder: Path, how: How) -> Board:
    """Return the tasks of an experiment with what is done of them; nothing is written.

    Raises:
        ValueError: the plan cannot be carried out, or another command works on one of the seeds.
    """
    planned, training, checked = [], {}, Checked()
    for cell in cells:
        of_cell = tasks(cell.experiment, cell_folder(folder, cell))
        planned += of_cell
        for task in of_cell:
            if task.is_training:
                config = cell.experiment.config_of(task.seed, task.part)
                training[task.record] = training_digest(config, *checked.inputs(config))
    board = Board(planned, training, how)
    for experiment in {task.folder: task.experiment for task in board.left}.values():
        checked.check(experiment)
    for experiment in {task.folder: task.experiment for task in board.left if task.is_training}.values():
        checked.check_place(experiment)
    for task in board.left:
        if (user := in_use(task.path)) and not how.wait:
            raise ValueError(f"{task.path} is in use by {user}; wait for it to end, or give --wait")
        if task.is_training and is_occupied(task.path) and not how.force:
            config = task.experiment.config_of(task.seed, task.part)
            check_there(config, task.path, make_data(config))
    return board


def cell_folder(folder: Path, cell: Cell) -> Path:
    """Return where a cell lies: in a folder of its own, or in the experiment's if there is no sweep."""
    return folder / cell.experiment.name if cell.is_swept else folder


def run_here(board: Board, view: View, ended: Callable[[Task], None]) -> None:
    """Perform the tasks of a board in this process, one seed after the other, and hold its folders meanwhile.

    Where models of other seeds are looked at, all are trained first.
    """
    across = any(task.experiment.looks_across for task in board.left)
    seeds: dict[tuple[Path, int, bool], list[Task]] = {}
    for task in sorted(board.left, key=lambda task: across and not task.is_training):
        seeds.setdefault((task.folder, task.seed, across and task.is_training), []).append(task)
    for (folder, seed, _), of_seed in seeds.items():
        kinds = [kind for kind in (BASE, *REFERENCES) if kind in (BASE, *of_seed[0].experiment.references)]
        with held_all([model_folder(folder, seed, kind) for kind in kinds], wait=board.how.wait):
            for task in of_seed:
                told = functools.partial(view.told, task)
                board.finish(task, perform(task, board.how, board.training.get(task.record, ""), told))
                ended(task)


class Checked:
    """Checks the experiments of a plan, each combination of what matters once, and knows the data that they need."""

    def __init__(self) -> None:
        self._seen: set[str] = set()
        self._inputs: dict[str, tuple[str, str | None, str]] = {}

    def check(self, experiment: Experiment) -> None:
        """Raise ValueError if an experiment cannot be carried out."""
        told = experiment.run.to_dict()
        parts = [told[part] for part in ("data", "noise", "model")] + [told["train"]["frozen"]]
        rest = [experiment.references, experiment.tune, experiment.known, [str(p.edit) for p in experiment.edits]]
        if (key := digest([parts, rest])) not in self._seen:
            check(experiment)
            self._seen.add(key)

    def check_place(self, experiment: Experiment) -> None:
        """Raise ValueError if the models of an experiment cannot be trained on this machine, in one process."""
        trainer, batch_size = experiment.run.trainer, experiment.run.train.batch_size
        if (key := digest([experiment.run.to_dict()["trainer"], batch_size])) in self._seen:
            return
        from vitmem.training.devices import check as check_devices  # Lightning takes seconds to import

        if (devices := check_devices(trainer, batch_size).world_size) > 1:
            raise ValueError(
                f"vitmem run works on one device, and {devices} were asked for; train the models with `vitmem train` "
                "and the same --name and options first: `vitmem run` with trainer.devices 1 finds them and goes on"
            )
        self._seen.add(key)

    def inputs(self, config: RunConfig) -> tuple[str, str | None, str]:
        """Return what the training of a run depends on besides its options.

        That is the fingerprint of its data, the SHA-256 of the weights that it starts from, and that of its labels
        where they are from a file.
        """
        told = config.to_dict()
        noise = told["noise"] if told["noise"].get("file") else None
        if (key := digest([told["data"], told["model"]["pretrained"], noise])) not in self._inputs:
            manifest = make_data(config).manifest
            labels = manifest.header()["sha256"] if noise else ""
            self._inputs[key] = manifest.data_fingerprint, pretrained_sha256(config), labels
        return self._inputs[key]


def check(experiment: Experiment) -> None:
    """Raise ValueError if the plan cannot be carried out; nothing is written."""
    data = make_data(experiment.run)
    blank = check_model(experiment.run, data)
    check_loggers(experiment.run.trainer.loggers)
    if "retrain" in experiment.references and data.manifest.to_forget.all():
        raise ValueError(
            "every training label is wrong, or to be forgotten, so `retrain` has nothing to train on; leave it out of "
            "references"
        )
    if experiment.tune:
        to_forget, is_noisy = (torch.from_numpy(mask) for mask in (data.manifest.to_forget, data.manifest.is_noisy))
        known = known_noisy(to_forget, experiment.known, data.manifest.seed, experiment.seeds[0])
        check_known(int((known & is_noisy).sum()))
        check_validation(data.validation_examples)
    for planned in experiment.edits:
        planned.edit.check(blank)


def write_tables(experiment: Experiment, folder: Path, others: list[list[dict]]) -> list[dict]:
    """Write the tables of all seeds that are there, and return the rows of ``results.csv``."""
    order = [name for planned in experiment.edits for name in experiment.result_ids(planned)]
    with held(folder / "results", wait=True):
        rows = write_experiment_table(folder, order, experiment.known)
        if experiment.tune:
            write_atomically(folder / "comparison.csv", comparison_csv(rows))
        if experiment.attacks:
            write_attacks(folder, gather_attacks(folder, rows, experiment.known), rows, others)
        if experiment.analyses:
            write_analyses(folder, experiment.known)
    return rows
