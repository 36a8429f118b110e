"""Analyses of all models of an experiment, and their tables."""

import csv
import fnmatch
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from vitmem.experiment.plan import PlannedAnalysis
from vitmem.experiment.results import open_measured, or_left_out, references_beside, seed_folders
from vitmem.files import write_together
from vitmem.runs.analyse import is_analysed, packed_arrays, perform, stored_analyses, stored_arrays
from vitmem.runs.trained import BASE, REFERENCES, TrainedRun

FOLDER = "analyses"  # of an experiment or a run: one table for each analysis


def analyse_all(
    run: TrainedRun,
    analyses: Sequence[PlannedAnalysis],
    edit_id: str = BASE,
    *,
    force: bool = False,
    keep_going: bool = False,
) -> None:
    """Make the analyses of a model that have not been made, and say how long each took.

    One that cannot be made of this model ends this with ValueError, unless ``keep_going``: then that is said, and the
    next one is made.
    """
    wanted = [p for p in analyses if force or not is_analysed(run, p.analysis, p.name, p.analysis_id, edit_id)]
    for number, planned in enumerate(wanted, 1):
        try:
            content = perform(run, planned.analysis, planned.name, planned.analysis_id, edit_id, force=force)
            outcome = f"{content['seconds']:.1f} s"
        except ValueError as error:
            if not keep_going:
                raise
            outcome = f"left out: {' '.join(str(error).split())}"
        print(f"{run.path}: {planned.analysis_id} of {edit_id}, {outcome} ({number} of {len(wanted)})", flush=True)


def models_of(run: TrainedRun, patterns: Sequence[str]) -> list[tuple[TrainedRun, str]]:
    """Return the models that patterns choose, as runs with ids: base, references beside it, and edits.

    A reference that was not trained is left out, and said to be.

    Raises:
        ValueError: a pattern matches nothing.
    """
    references, found = references_beside(run), []
    for pattern in patterns:
        ids = fnmatch.filter(run.edited(), pattern)
        if pattern == BASE:
            found.append((run, BASE))
        elif pattern in references:
            found.append((references[pattern], BASE))
        elif pattern in REFERENCES:
            print(f"{run.path}: there is no model {pattern} beside it, so it is left out", flush=True)
        elif not ids:
            there = ", ".join([BASE, *references, *run.edited()])
            raise ValueError(f"--of: {run.path} has no model {pattern!r}; there are: {there}")
        found += [(run, i) for i in ids]
    return found


def results_of(run: TrainedRun) -> list[dict]:
    """Return the stored analyses of a run's model, the references beside it and its edits, with experiment and seed.

    ``arrays`` is a function that reads the arrays that an analysis stored for its figure.
    """
    identity = {"experiment": run.path.resolve().parent.name, "seed": run.config.seed}
    models = [(run, BASE), *((r, BASE) for r in references_beside(run).values()), *((run, i) for i in run.edited())]
    return [
        identity | result | {"arrays": lambda r=model, i=edit_id, a=result["analysis"]: stored_arrays(r, a, i)}
        for model, edit_id in models
        for result in stored_analyses(model, edit_id)
    ]


def write_tables(folder: Path, known: float = 0.5) -> list[Path]:
    """Write ``analyses/<id>.csv`` of an experiment from the run folders that are there, and return the tables.

    Beside a table whose figure shows images, ``<id>.npz`` has those of the first model in it.

    Args:
        folder: the experiment's folder.
        known: as for ``gather``.
    """
    found: list[dict] = []
    for path in seed_folders(folder).values():
        with or_left_out():
            found += results_of(open_measured(path, known))
    return _write(folder / FOLDER, found)


def write_run_tables(run: TrainedRun) -> list[Path]:
    """Write ``analyses/<id>.csv`` of one run, and return the tables."""
    return _write(run.path / FOLDER, results_of(run))


def _write(folder: Path, results: Sequence[Mapping]) -> list[Path]:
    paths = []
    for analysis_id in dict.fromkeys(result["analysis"] for result in results):
        own = [result for result in results if result["analysis"] == analysis_id]
        rows = [
            {key: result[key] for key in ("experiment", "seed", "id", "analysis", "name")} | row
            for result in own
            for row in result["rows"]
        ]
        paths.append(folder / f"{analysis_id}.csv")
        arrays = own[0]["arrays"]()
        npz = {f"{analysis_id}.npz": packed_arrays(arrays) if arrays else None}
        write_together(folder, npz | {paths[-1].name: to_csv(rows)})
    return paths


def to_csv(rows: Iterable[Mapping]) -> str:
    """Return rows as CSV, with a column for each key of any of them; what is unknown is an empty cell."""
    rows = list(rows)
    out = io.StringIO()
    writer = csv.DictWriter(out, dict.fromkeys(key for row in rows for key in row), lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows({key: "" if value is None else value for key, value in row.items()} for row in rows)
    return out.getvalue()
