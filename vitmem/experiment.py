"""The grid of an experiment file: seeds x (base, references, edits) x attacks, resumable, into tables."""

import dataclasses
import fnmatch
import functools
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from vitmem.attacking import is_attacked, perform, stored_attacks
from vitmem.attacks import Attack
from vitmem.config import RunConfig, read_attack, read_edit
from vitmem.editing import Edit
from vitmem.editing.known import check_share, known_noisy
from vitmem.evaluation import recovery, scorecard
from vitmem.evaluation.comparison import comparison_csv
from vitmem.evaluation.predict import TRAIN, ExampleTable
from vitmem.evaluation.tables import OK, add_recovered, result_row, to_csv, usable
from vitmem.runs import check_name, write_atomically
from vitmem.stages import check_model, train
from vitmem.trained import BASE, TrainedRun, make_data, read_edit_json
from vitmem.tuning import POINTS, Tuning, check_known, check_space, check_tuner, read_space, tune, within_drop

REFERENCES = ("clean", "retrain")


@dataclass(frozen=True)
class PlannedEdit:
    """One edit of the grid.

    Args:
        edit_id: name of its result, such as ``kfac-rho0.95``.
        name: registered name.
        edit: the options.
        prefix: what the names of its tuned results start with.
        space: the options that tuning may choose, all but those that the file gives and those without effect.
    """

    edit_id: str
    name: str
    edit: Edit
    prefix: str = ""
    space: Mapping[str, tuple] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True)
class PlannedAttack:
    """One attack, to be made on several models.

    Args:
        attack_id: name of its results, such as ``relearn``.
        name: registered name.
        attack: the options.
    """

    attack_id: str
    name: str
    attack: Attack


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
        attacks: what to attack the models with.
        attacked: glob patterns over the ids of the edits to attack; base and references always are.
        other_rates: results tables of the same models and edits at other noise rates, for the scorecards.
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
    attacks: tuple[PlannedAttack, ...] = ()
    attacked: tuple[str, ...] = ("*",)
    other_rates: tuple[Path, ...] = ()

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
        for pattern in self.attacked if self.attacks and ids else ():
            if not fnmatch.filter(ids, pattern):
                raise ValueError(f"attacked: {pattern!r} matches no edit; there are: {', '.join(ids)}")

    def result_ids(self, planned: PlannedEdit) -> list[str]:
        """Return the names of the results of an edit: one, or one for each operating point if it is tuned."""
        return [f"{planned.prefix}-{point}" for point in POINTS] if self.tune and planned.space else [planned.edit_id]

    def is_attacked(self, edit_id: str) -> bool:
        """Tell whether an edit is to be attacked."""
        return bool(self.attacks) and any(fnmatch.fnmatch(edit_id, pattern) for pattern in self.attacked)


def plan_attacks(items: Sequence[Mapping | str]) -> tuple[PlannedAttack, ...]:
    """Return the attacks that the ``attacks`` list of an experiment file stands for.

    An item is the name of an attack, or a mapping with its ``name``, options, and an ``id`` where a name occurs twice.

    Raises:
        ValueError: a name or option is unknown, a value out of range, or two attacks have one id; the item is named.
    """
    planned: dict[str, PlannedAttack] = {}
    for number, item in enumerate(items):
        options = {"name": item} if isinstance(item, str) else dict(item)
        name, attack_id = options.pop("name", None), options.pop("id", None)
        try:
            attack = read_attack(name, options)
        except ValueError as error:
            raise ValueError(f"attacks[{number}]: {error}") from error
        attack_id = check_name(f"attacks[{number}]: id", attack_id or name)
        if attack_id in planned:
            raise ValueError(f"attacks[{number}]: two attacks would be called {attack_id!r}; give one of them an `id`")
        planned[attack_id] = PlannedAttack(attack_id, name, attack)
    return tuple(planned.values())


def plan_edits(items: Sequence[Mapping]) -> tuple[PlannedEdit, ...]:
    """Return the edits that the ``edits`` list of an experiment file stands for.

    An item names an edit and gives options; an option with a list of values is swept, and several are crossed. ``id``
    replaces the edit's name in the ids of the results. ``search`` holds ranges that replace those of ``Edit.search``,
    such as ``{lr: [log, 1e-5, 1e-2]}``; tuning starts from the options given and leaves alone those without a range.

    Raises:
        ValueError: a name or option is unknown, or a value out of range; the item is named.
    """
    planned = []
    for number, item in enumerate(items):
        options = dict(item)
        name, prefix, ranges = (options.pop(key, None) for key in ("name", "id", "search"))
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
            space = {option: spec for option, spec in edit.search.items() if option not in {*item, *edit.idle}}
            try:
                space |= read_space(ranges)
                check_space(name, edit, space)
            except ValueError as error:
                raise ValueError(f"edits[{number}]: {error}") from error
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
    others = read_results(experiment.other_rates)
    if (devices := experiment.run.trainer.check(experiment.run.train.batch_size).world_size) > 1:
        raise ValueError(
            f"vitmem run works on one device, and {devices} were asked for; train the models with `vitmem train` and "
            "the same --name and options first: `vitmem run` with trainer.devices 1 finds them and goes on"
        )
    if "retrain" in experiment.references and data.manifest.is_noisy.all():
        raise ValueError(
            "every training label is wrong, so `retrain` has nothing to train on; leave it out of references"
        )
    if experiment.tune:
        is_noisy = torch.from_numpy(data.manifest.is_noisy)
        check_known(int(known_noisy(is_noisy, experiment.known, data.manifest.seed, experiment.seeds[0]).sum()))
    for planned in experiment.edits:  # before any work
        planned.edit.check(blank)
    rows: list[dict] = []
    measured: list[dict] = []
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
        if experiment.attacks:
            chosen = [i for edit in experiment.edits for i in experiment.result_ids(edit) if experiment.is_attacked(i)]
            ids = {planned.attack_id for planned in experiment.attacks}
            measured += [r for r in attack_results(base, chosen, references.values()) if r["attack"] in ids]
            write_attacks(folder, measured, rows, others)
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
    for model in (base, *references.values()):
        attack_all(model, experiment.attacks, BASE, force, keep_going=True)
    print(f"{base.path}: {len(experiment.edits)} edits", flush=True)
    for planned in experiment.edits:
        for name, edit, tuned in settings(experiment, planned, base, force):
            made = functools.partial(
                base.edit,
                edit,
                planned.name,
                name,
                replace=True,
                save=experiment.save_weights,
                tuned=tuned,
                keep_going=True,
            )
            row = edit_row(experiment.name, seed, made(force=force), base.evaluate(name, force=force))
            rows.append(row)
            if not experiment.is_attacked(name) or not usable(row):
                continue
            if not base.has_weights(name) and pending(base, experiment.attacks, name):
                made(force=True)
            attack_all(base, experiment.attacks, name, force, keep_going=True)
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
    spent["extra_memory_bytes"] = _largest(trial["extra_memory_bytes"] for trial in trials)
    found = []
    for name, (point, choose) in zip(experiment.result_ids(planned), POINTS.items(), strict=True):
        chosen = choose(trials)
        tuned = {"point": point, "trials": len(trials), "tuner": experiment.tuner, **spent, "chosen": chosen}
        found.append((name, dataclasses.replace(planned.edit, **chosen["options"]), tuned))
    return found


def pending(run: TrainedRun, attacks: Sequence[PlannedAttack], edit_id: str) -> bool:
    """Tell whether an attack on the base model or an edit has not been made, or not with these options."""
    return not all(is_attacked(run, planned.attack, planned.name, planned.attack_id, edit_id) for planned in attacks)


def attack_all(
    run: TrainedRun,
    attacks: Sequence[PlannedAttack],
    edit_id: str = BASE,
    force: bool = False,
    *,
    keep_going: bool = False,
) -> None:
    """Make the attacks on the base model or an edit that have not been made, and say how long each took.

    One that fails ends this with ValueError, unless ``keep_going``: then the next one is made.
    """
    for planned in attacks:
        arguments = (run, planned.attack, planned.name, planned.attack_id, edit_id)
        if force or not is_attacked(*arguments):
            content = perform(*arguments, force=force, keep_going=keep_going)
            failed = content["report"].get("failed")
            outcome = f" failed: {failed}" if failed else f", {content['seconds']:.1f} s"
            print(f"{run.path}: {planned.attack_id} on {edit_id}{outcome}", flush=True)


def attack_results(base: TrainedRun, ids: Iterable[str], references: Iterable[TrainedRun]) -> list[dict]:
    """Return the stored attacks on a run's model, the references beside it and edits, with experiment and seed."""
    identity = {"experiment": base.path.resolve().parent.name, "seed": base.config.seed}
    models = [(base, BASE), *((run, BASE) for run in references), *((base, i) for i in ids)]
    return [identity | result for run, edit_id in models for result in stored_attacks(run, edit_id)]


def read_results(paths: Iterable[Path]) -> list[list[dict]]:
    """Return the rows of results tables.

    Raises:
        ValueError: a file is missing, or no such table.
    """
    from figures import tables

    found = []
    for path in paths:
        rows = tables.read_results(path) if Path(path).is_file() else []
        if not (rows and {"seed", "id", recovery.MEMORY} <= rows[0].keys()):
            raise ValueError(f"other_rates: {path} is not there, or no results.csv of an experiment; give its path")
        found.append(rows)
    return found


def write_attacks(
    folder: Path, results: Sequence[Mapping], rows: Sequence[Mapping], others: Sequence[Sequence[Mapping]] = ()
) -> str:
    """Write ``attacks.csv`` and ``scorecard.csv`` and return the scorecards as text.

    Args:
        folder: where to.
        results: as ``attack_results`` returns them.
        rows: of the results table.
        others: results tables at other noise rates.
    """
    long = recovery.with_recovery(results)
    write_atomically(folder / "attacks.csv", recovery.to_csv(long))
    cards = scorecard.scorecards(rows, long, others)
    write_atomically(folder / "scorecard.csv", scorecard.to_csv(cards))
    return scorecard.terminal_table(cards)


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
        by_trials = " (tuned)" if tuned["trials"] > 1 else ""
        facts |= {"track": facts["track"] + by_trials, "point": tuned["point"], "trials": tuned["trials"]}
        facts["kept_validation"] = within_drop(tuned["chosen"])
    if cost := content.get("cost"):
        facts |= {"passes": round(cost["passes"], 4), "extra_parameters": cost["extra_parameters"]}
        # Unknown with curvature from the cache, and too low where earlier trials had grown the process.
        memory = _largest(found.get("extra_memory_bytes") for found in (cost, tuned or {}))
        facts["extra_memory_mib"] = None if memory is None else round(memory / 2**20, 2)
    return result_row(identity, measured["metrics"], content["report"], **facts)


def _largest(numbers: Iterable[int | None]) -> int | None:
    return max((number for number in numbers if number is not None), default=None)


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
    for kind, reference in references_beside(run).items():
        rows.append(result_row({**identity, "id": kind}, reference.evaluate(force=force)["metrics"], None))
    rows += [edit_row(name, seed, c, run.evaluate(c["id"], force=force)) for c in contents]
    add_recovered(rows)
    return rows


def references_beside(run: TrainedRun) -> dict[str, TrainedRun]:
    """Return the reference models in the folders beside a base model's."""
    path = run.path.resolve()
    beside = {kind: path.with_name(f"{path.name}-{kind}") for kind in REFERENCES}
    return {k: TrainedRun.open(p, known=run.known) for k, p in beside.items() if (p / "model.safetensors").exists()}


def attack_folder(
    run: TrainedRun, attacks: Sequence[PlannedAttack], ids: Sequence[str] | None = None, *, force: bool = False
) -> list[dict]:
    """Attack a run's model, the references beside it and its edits, and return the results stored there.

    Args:
        run: the base model's run.
        attacks: what to make; what is done is not done again.
        ids: which edits; by default all whose weights are stored.
        force: attack again.

    Raises:
        ValueError: the folder has no edit of that id, or not its weights.
    """
    chosen = run.edited() if ids is None else [i for i in ids if i != BASE]
    references = references_beside(run).values()
    for model in (run, *references):
        attack_all(model, attacks, BASE, force)
    for edit_id in chosen:
        if ids is None and not run.has_weights(edit_id) and pending(run, attacks, edit_id):
            print(f"{run.path}: {edit_id} is not attacked: its weights were not stored (save_weights was false)")
        else:
            attack_all(run, attacks, edit_id, force)
    return attack_results(run, chosen, references)


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
