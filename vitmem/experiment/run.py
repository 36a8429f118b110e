"""The grid of an experiment: trained, edited, measured and attacked, resumable, into tables."""

import contextlib
import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path

import torch

from vitmem.editing.contract import Edit
from vitmem.editing.known import known_noisy
from vitmem.evaluation.comparison import comparison_csv
from vitmem.evaluation.tables import OK, usable
from vitmem.experiment.analysing import analyse_all
from vitmem.experiment.analysing import write_tables as write_analyses
from vitmem.experiment.attacking import attack_all, gather_attacks, pending, read_results, write_attacks
from vitmem.experiment.per_example import write_per_example
from vitmem.experiment.plan import Experiment, PlannedEdit
from vitmem.experiment.results import PLAN, largest, seed_folders, write_experiment_table
from vitmem.experiment.tuning import Tuning, check_known, check_validation, points, tune
from vitmem.files import write_atomically
from vitmem.progress import Progress
from vitmem.runs.edit import make_edit
from vitmem.runs.evaluate import evaluate, status_of
from vitmem.runs.folder import held, held_all
from vitmem.runs.start import check_model, make_data
from vitmem.runs.train import train
from vitmem.runs.trained import BASE, REFERENCES, TrainedRun
from vitmem.training.devices import check as check_devices
from vitmem.training.loggers import check_loggers


def run(experiment: Experiment, out: Path, *, force: bool = False, wait: bool = False) -> list[dict]:
    """Run all stages of an experiment; what is finished is not done again.

    Args:
        experiment: what to do.
        out: folder of all experiments.
        force: do everything again.
        wait: wait while other commands work on one of the seeds.

    Returns:
        The rows of ``results.csv``: of all seeds that are there, whatever command made them.

    Raises:
        ValueError: the plan cannot be carried out, or another command works on one of the seeds.
    """
    folder = out / experiment.name
    check(experiment)
    others = read_results(experiment.other_rates)
    rows: list[dict] = []
    with contextlib.ExitStack() as stack:
        if experiment.file:
            folder.mkdir(parents=True, exist_ok=True)
            write_atomically(folder / PLAN, experiment.file.read_text())
        kinds = [kind for kind in (BASE, *REFERENCES) if kind in (BASE, *experiment.references)]
        models = [model_folder(folder, seed, kind) for seed in sorted(experiment.seeds) for kind in kinds]
        stack.enter_context(held_all(models, wait=wait))
        for seed in experiment.seeds:
            base, references = train_models(experiment, folder, seed, force)
            measure_seed(experiment, base, references, force)
            rows = write_tables(experiment, folder, others)
        write_per_example(folder, seed_folders(folder), rows)
    return rows


def check(experiment: Experiment) -> None:
    """Raise ValueError if the plan cannot be carried out; nothing is written."""
    data = make_data(experiment.run)
    blank = check_model(experiment.run, data)
    check_loggers(experiment.run.trainer.loggers)
    if (devices := check_devices(experiment.run.trainer, experiment.run.train.batch_size).world_size) > 1:
        raise ValueError(
            f"vitmem run works on one device, and {devices} were asked for; train the models with `vitmem train` and "
            "the same --name and options first: `vitmem run` with trainer.devices 1 finds them and goes on"
        )
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


def train_models(
    experiment: Experiment, folder: Path, seed: int, force: bool
) -> tuple[TrainedRun, dict[str, TrainedRun]]:
    """Train the base model of a seed and its references, and return them."""
    found = {}
    with Progress(f"{folder}: models of seed {seed}", 1 + len(experiment.references)) as progress:
        for kind in (BASE, *experiment.references):
            path = model_folder(folder, seed, kind)
            trained = train(experiment.config_of(seed, kind), path, force=force)
            found[kind] = dataclasses.replace(trained, known=experiment.known, cache_gb=experiment.cache_gb)
            progress.step(kind)
    return found.pop(BASE), found


def model_folder(folder: Path, seed: int, kind: str) -> Path:
    """Return where an experiment has a model."""
    return folder / (f"seed{seed}" if kind == BASE else f"seed{seed}-{kind}")


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


def measure_seed(experiment: Experiment, base: TrainedRun, references: Mapping[str, TrainedRun], force: bool) -> None:
    """Measure and attack the models of a seed, then make, measure and attack every edit, as needed."""
    for model in (base, *references.values()):
        evaluate(model, force=force)
        attack_all(model, experiment.attacks, force=force, keep_going=True)
    total = sum(len(experiment.result_ids(planned)) for planned in experiment.edits)
    with Progress(f"{base.path}: edits", total) as progress:
        for planned in experiment.edits:
            for name, edit, tuned in settings(experiment, planned, base, force):
                made = functools.partial(
                    make_edit,
                    base,
                    edit,
                    planned.name,
                    name,
                    replace=True,
                    save=experiment.save_weights,
                    cleaned=True,
                    tuned=tuned,
                    keep_going=True,
                )
                content = made(force=force)
                found = evaluate(base, name, force=force)
                if experiment.is_attacked(name) and usable(content) and status_of(found) == OK:
                    if not base.has_weights(name) and pending(base, experiment.attacks, name):
                        made(force=True)
                        evaluate(base, name)  # weights that were cleaned away may come out otherwise in the last digit
                    attack_all(base, experiment.attacks, name, force, keep_going=True)
                progress.step(name)
    for model in (base, *(model for kind, model in references.items() if kind == "retrain")):
        analyse_all(model, experiment.analyses, force=force)


def settings(
    experiment: Experiment, planned: PlannedEdit, base: TrainedRun, force: bool
) -> list[tuple[str, Edit, dict | None]]:
    """Return the edits to report, each with its name and how it was tuned: one, or one for each operating point."""
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
