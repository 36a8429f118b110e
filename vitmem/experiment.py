"""The grid of an experiment file: seeds x (base, references, edits), resumable, into one results table."""

import dataclasses
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vitmem.config import RunConfig, read_edit
from vitmem.editing import Edit
from vitmem.editing.known import check_share
from vitmem.evaluation.comparison import comparison_csv
from vitmem.evaluation.predict import TRAIN, ExampleTable
from vitmem.evaluation.tables import OK, add_recovered, result_row, to_csv, usable
from vitmem.runs import check_name, write_atomically
from vitmem.stages import BASE, TrainedRun, check_model, make_data, read_edit_json, train
from vitmem.tuning import POINTS, Tuning, check_space, check_tuner, tune

REFERENCES = ("clean", "retrain")


@dataclass(frozen=True)
class PlannedEdit:
    """One edit of the grid.

    Args:
        edit_id: name of its result, such as ``kfac-rho0.95``.
        name: registered name.
        edit: the options.
        prefix: what the names of its tuned results start with.
        space: the options that tuning may choose, all but those that the file gives.
    """

    edit_id: str
    name: str
    edit: Edit
    prefix: str = ""
    space: Mapping[str, tuple] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True)
class Experiment:
    """What an experiment file says.

    Args:
        name: folder name of the results.
        run: configuration of the base model; its seed is replaced by each of ``seeds``.
        seeds: one model is trained for each.
        references: which reference models to train beside it: clean, retrain.
        edits: what to do with each base model.
        save_weights: store the edited weights; without them, each edit is measured and forgotten.
        known: share of the wrong labels that edits with a forget set know, in (0, 1].
        tune: trials for each edit with options to choose and each seed; 0 takes the options as they are.
        tuner: how trials are chosen: random or tpe (needs Optuna).
    """

    name: str
    run: RunConfig
    seeds: tuple[int, ...] = (0,)
    references: tuple[str, ...] = REFERENCES
    edits: tuple[PlannedEdit, ...] = ()
    save_weights: bool = True
    known: float = 0.5
    tune: int = 0
    tuner: str = "random"

    def __post_init__(self):
        check_name("name", self.name)
        check_share(self.known)
        if self.tune < 0:
            raise ValueError(f"tune is {self.tune}; it is the number of trials for each edit, 0 for none")
        check_tuner(self.tuner)
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"seeds are {list(self.seeds)}; give at least one, each once")
        for reference in self.references:
            if reference not in REFERENCES or self.references.count(reference) > 1:
                raise ValueError(
                    f"references are {list(self.references)}; choose from {', '.join(REFERENCES)}, each at most once"
                )
        ids = [i for planned in self.edits for i in self.result_ids(planned)]
        if twice := sorted({i for i in ids if ids.count(i) > 1} | ({BASE, *REFERENCES} & set(ids))):
            raise ValueError(f"two rows of the experiment would be called {twice[0]!r}; give one of them an `id`")

    def result_ids(self, planned: PlannedEdit) -> list[str]:
        """Return the names of the results of an edit: one, or one for each operating point if it is tuned."""
        return [f"{planned.prefix}-{point}" for point in POINTS] if self.tune and planned.space else [planned.edit_id]


def plan_edits(items: Sequence[Mapping]) -> tuple[PlannedEdit, ...]:
    """Return the edits that the ``edits`` list of an experiment file stands for.

    An item names an edit and gives options; an option with a list of values is swept, and several are crossed. ``id``
    replaces the edit's name in the ids of the results.

    Raises:
        ValueError: a name or option is unknown, or a value out of range; the item is named.
    """
    planned = []
    for number, item in enumerate(items):
        options = dict(item)
        name, prefix = options.pop("name", None), options.pop("id", None)
        swept = {key: value for key, value in options.items() if isinstance(value, list)}
        if empty := [key for key, value in swept.items() if not value]:
            raise ValueError(f"edits[{number}]: {empty[0]} is an empty list; give a value or several")
        if prefix is not None:
            check_name(f"edits[{number}]: id", prefix)
        for values in itertools.product(*swept.values()):
            chosen = dict(zip(swept, values, strict=True))
            try:
                edit = read_edit(name, options | chosen)
            except ValueError as error:
                raise ValueError(f"edits[{number}]: {error}") from error
            label = prefix or name
            space = {option: spec for option, spec in edit.search.items() if option not in item}
            check_space(name, edit, space)
            tuned = edit_id(label, edit, tuple(swept)) if swept else label
            planned.append(PlannedEdit(edit_id(label, edit, tuple(swept)), name, edit, tuned, space))
    return tuple(planned)


def edit_id(prefix: str, edit: Edit, shown: Sequence[str] = ()) -> str:
    """Return the name of a result: a prefix with the shown options, or with the edit's main option."""
    options = shown or ((edit.main_option,) if edit.main_option else ())
    parts = [prefix, *(f"{option}{_text(getattr(edit, option))}" for option in options)]
    return re.sub(r"[^\w.+-]", "_", "-".join(parts))


def _text(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def run(experiment: Experiment, out: Path, *, force: bool = False) -> list[dict]:
    """Run all stages of an experiment and return its result rows; what is finished is not done again.

    Args:
        experiment: what to do.
        out: folder of all experiments.
        force: do everything again.
    """
    folder = out / experiment.name
    data = make_data(experiment.run)
    blank = check_model(experiment.run, data)
    if (devices := experiment.run.trainer.check(experiment.run.train.batch_size).world_size) > 1:
        raise ValueError(
            f"vitmem run works on one device, and {devices} were asked for; train the models with `vitmem train` and "
            "the same --name and options first: `vitmem run` with trainer.devices 1 finds them and goes on"
        )
    if "retrain" in experiment.references and data.manifest.is_noisy.all():
        raise ValueError(
            "every training label is wrong, so `retrain` has nothing to train on; leave it out of references"
        )
    for planned in experiment.edits:  # before any work
        planned.edit.check(blank)
    rows: list[dict] = []
    for seed in experiment.seeds:
        base = train(_with(experiment.run, seed, "noisy"), folder / f"seed{seed}", force=force)
        base = dataclasses.replace(base, known=experiment.known)
        references = {
            kind: dataclasses.replace(
                train(_with(experiment.run, seed, kind), folder / f"seed{seed}-{kind}", force=force),
                known=experiment.known,
            )
            for kind in experiment.references
        }
        rows += seed_rows(experiment, seed, base, references, force)
        add_recovered(rows)
        write_atomically(folder / "results.csv", to_csv(rows))
        if experiment.tune:
            write_atomically(folder / "comparison.csv", comparison_csv(rows))
    return rows


def _with(config: RunConfig, seed: int, train_on: str) -> RunConfig:
    return dataclasses.replace(config, seed=seed, train_on=train_on)


def seed_rows(
    experiment: Experiment, seed: int, base: TrainedRun, references: Mapping[str, TrainedRun], force: bool
) -> list[dict]:
    """Return the rows of one seed: base, references, then every edit, made and evaluated as needed."""
    identity = {"experiment": experiment.name, "seed": seed, "edit": "", "option": "", "value": ""}
    rows = [result_row({**identity, "id": BASE}, base.evaluate(force=force)["metrics"], None)]
    for kind, reference in references.items():
        rows.append(result_row({**identity, "id": kind}, reference.evaluate(force=force)["metrics"], None))
    print(f"{base.path}: {len(experiment.edits)} edits", flush=True)
    for planned in experiment.edits:
        for name, edit, tuned in settings(experiment, planned, base, force):
            content = base.edit(
                edit, planned.name, name, force=force, replace=True, save=experiment.save_weights, tuned=tuned
            )
            rows.append(edit_row(experiment.name, seed, content, base.evaluate(name, force=force)))
    return rows


def settings(
    experiment: Experiment, planned: PlannedEdit, base: TrainedRun, force: bool
) -> list[tuple[str, Edit, dict | None]]:
    """Return the edits to report, each with its name and how it was tuned: one, or one for each operating point."""
    if not (experiment.tune and planned.space):
        return [(planned.edit_id, planned.edit, None)]
    print(f"{base.path}: {planned.prefix}: {experiment.tune} trials", flush=True)
    tuning = Tuning(planned.prefix, planned.edit, planned.space, experiment.tune, experiment.tuner)
    trials = tune(base, tuning, force=force)
    spent = {key: sum(trial[key] for trial in trials) for key in ("passes", "seconds")}
    spent["extra_memory_bytes"] = max((trial["extra_memory_bytes"] or 0 for trial in trials), default=0)
    found = []
    for name, (point, choose) in zip(experiment.result_ids(planned), POINTS.items(), strict=True):
        chosen = choose(trials)
        tuned = {"point": point, "trials": len(trials), "tuner": experiment.tuner, **spent, "chosen": chosen}
        found.append((name, dataclasses.replace(planned.edit, **chosen["options"]), tuned))
    return found


def edit_row(experiment: str, seed: int, content: Mapping, measured: Mapping) -> dict:
    """Return the result row of an edit from its ``edit.json`` and ``metrics.json``."""
    option = content["main_option"]
    identity = {
        "experiment": experiment,
        "seed": seed,
        "id": content["id"],
        "edit": content["name"],
        "option": option or "",
        "value": content["options"][option] if option else "",
    }
    facts: dict = {"status": content.get("status", OK), "track": content.get("track", "")}
    if measured["at_chance"]:
        facts["status"] = "at chance"
    tuned = content.get("tuned")
    if tuned:
        facts |= {"track": f"{facts['track']} (tuned)", "point": tuned["point"], "trials": tuned["trials"]}
    if cost := content.get("cost"):
        facts |= {"passes": round(cost["passes"], 4), "extra_parameters": cost["extra_parameters"]}
        # With curvature from the cache the edit's own is unknown; the trial that collected it knows.
        memory = cost["extra_memory_bytes"] or (tuned or {}).get("extra_memory_bytes")
        facts["extra_memory_mib"] = None if memory is None else round(memory / 2**20, 2)
    return result_row(identity, measured["metrics"], content["report"], **facts)


def evaluate_folder(run: TrainedRun, ids: Sequence[str] | None = None, *, force: bool = False) -> list[dict]:
    """Return the rows of a run folder: base, the reference models beside it, and its edits.

    Args:
        run: the base model's run.
        ids: which edits; all that are there by default.
        force: evaluate again.

    Raises:
        ValueError: the folder has no edit of that id.
    """
    path = run.path.resolve()
    name, seed = path.parent.name, run.config.seed
    identity = {"experiment": name, "seed": seed, "edit": "", "option": "", "value": ""}
    chosen = run.edited() if ids is None else [i for i in ids if i != BASE]
    contents = [read_edit_json(run.path / "edits" / i) for i in chosen]
    rows = [result_row({**identity, "id": BASE}, run.evaluate(force=force)["metrics"], None)]
    for kind in REFERENCES:
        beside = path.with_name(f"{path.name}-{kind}")
        if (beside / "model.safetensors").exists():
            measured = TrainedRun.open(beside).evaluate(force=force)["metrics"]
            rows.append(result_row({**identity, "id": kind}, measured, None))
    rows += [edit_row(name, seed, c, run.evaluate(c["id"], force=force)) for c in contents]
    add_recovered(rows)
    return rows


def best_edit(rows: Sequence[dict], seed: int) -> dict | None:
    """Return the edit row with the highest ground-truth accuracy among those that halve memorised accuracy.

    Edits that diverged or left a model at chance do not count.
    """
    base = next(row for row in rows if row["id"] == BASE and row["seed"] == seed)
    halved = (base["memorized_accuracy"] or 0) / 2
    edits = [row for row in rows if row["seed"] == seed and row["edit"] and usable(row)]
    edits = [row for row in edits if row["memorized_accuracy"] is not None and row["memorized_accuracy"] <= halved]
    return max(edits, key=lambda row: row["ground_truth_accuracy"], default=None)


def draw_figures(experiment: Experiment, out: Path, rows: Sequence[dict]) -> list[Path]:
    """Draw the figures of a finished experiment and return the paths of the images."""
    import figures

    folder, seed = out / experiment.name, experiment.seeds[0]
    best, sheet = best_edit(rows, seed), None
    if best is not None:
        data = make_data(experiment.run)
        before = ExampleTable.load(folder / f"seed{seed}" / "evals" / BASE / "examples.npz")
        after = ExampleTable.load(folder / f"seed{seed}" / "evals" / best["id"] / "examples.npz")
        shown = figures.sheet.ROWS * figures.sheet.COLUMNS
        noisy = np.flatnonzero((before.split == TRAIN) & before.is_noisy)[:shown]
        image = data.data.train_image[before.index[noisy]]
        image = image.permute(0, 2, 3, 1).squeeze(-1).numpy()
        sheet = {
            "image": image / 255.0 if image.dtype == np.uint8 else image,
            "given": before.given[noisy],
            "true": before.true[noisy],
            "before": before.prediction[noisy],
            "after": after.prediction[noisy],
            "class_names": data.data.class_names,
            "title_after": best["id"],
        }
    return figures.draw_all(folder, sheet)
