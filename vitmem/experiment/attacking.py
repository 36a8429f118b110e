"""Attacks on all models of an experiment, and their tables."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from vitmem.evaluation import recovery, scorecard
from vitmem.experiment.plan import PlannedAttack
from vitmem.experiment.results import open_measured, or_left_out, references_beside, seed_folders
from vitmem.files import write_atomically
from vitmem.runs.attack import is_attacked, perform, stored_attacks
from vitmem.runs.trained import BASE, TrainedRun


def pending(run: TrainedRun, attacks: Sequence[PlannedAttack], edit_id: str = BASE) -> list[PlannedAttack]:
    """Return the attacks on the base model or an edit that have not been made, or not with these options."""
    return [p for p in attacks if not is_attacked(run, p.attack, p.name, p.attack_id, edit_id)]


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
    wanted = attacks if force else pending(run, attacks, edit_id)
    for number, planned in enumerate(wanted, 1):
        content = perform(
            run, planned.attack, planned.name, planned.attack_id, edit_id, force=force, keep_going=keep_going
        )
        failed = content["report"].get("failed")
        outcome = f" failed: {failed}" if failed else f", {content['seconds']:.1f} s"
        print(f"{run.path}: {planned.attack_id} on {edit_id}{outcome} ({number} of {len(wanted)})", flush=True)


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
    from vitmem.figures.tables import read_results as read_table  # with matplotlib, which takes a second

    found = []
    for path in paths:
        rows = read_table(path) if Path(path).is_file() else []
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


def scorecard_text(
    results: Sequence[Mapping], rows: Sequence[Mapping], others: Sequence[Sequence[Mapping]] = ()
) -> str:
    """Return the scorecards as text; arguments as ``write_attacks``."""
    return scorecard.terminal_table(scorecard.scorecards(rows, recovery.with_recovery(results), others))


def gather_attacks(folder: Path, rows: Sequence[Mapping], known: float = 0.5) -> list[dict]:
    """Return the stored attacks of an experiment, from the run folders that are there.

    Args:
        folder: the experiment's folder.
        rows: of its results table; edits that are not in it are left out.
        known: as for ``gather``.
    """
    found, seeds = [], {row["seed"] for row in rows}
    for path in (path for seed, path in seed_folders(folder).items() if seed in seeds):
        with or_left_out():
            found += all_results(open_measured(path, known), rows)
    return found


def all_results(run: TrainedRun, rows: Iterable[Mapping]) -> list[dict]:
    """Return the stored attacks on a run's model, the references beside it and its edits that have a row."""
    ids = [row["id"] for row in rows if row["seed"] == run.config.seed and row["edit"]]
    return attack_results(run, ids, references_beside(run).values())


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
            print(f"{run.path}: {edit_id} is not attacked: its weights were not stored, or were cleaned away")
        else:
            attack_all(run, attacks, edit_id, force)
    return attack_results(run, chosen, references)
