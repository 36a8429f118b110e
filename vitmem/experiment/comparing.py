"""What ``vitmem compare`` and ``vitmem.compare`` say about tables of results, and where they find them."""

import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from vitmem.evaluation import contrast_tables, contrasts
from vitmem.evaluation.arms import Plan, Question, differing, plan, shown
from vitmem.evaluation.formats import Table
from vitmem.evaluation.paired_examples import paired_examples
from vitmem.evaluation.predict import ExampleTable
from vitmem.evaluation.statistics import holm
from vitmem.evaluation.tables import CONFIGURATION
from vitmem.experiment.results import seed_folders, told_configuration, with_configurations
from vitmem.figures.tables import read_results
from vitmem.runs.evaluate import examples
from vitmem.runs.folder import RunFolder
from vitmem.runs.trained import BASE, REFERENCES, path_beside, saved_config


class Results(NamedTuple):
    """Rows of tables of results, and where their runs are.

    Attributes:
        rows: of all tables, with a column for each option in which they differ.
        folders: of the base model by experiment and seed, as far as they lie beside the tables.
        tables: files that were read.
    """

    rows: list[dict]
    folders: dict[tuple[str, int], Path]
    tables: list[Path]


def table_of(path: Path) -> Path:
    """Return the table of results that a path names: itself, or that in an experiment's or a run's folder.

    Raises:
        ValueError: there is none.
    """
    found = [path / "results.csv", path / "evals" / "results.csv"] if path.is_dir() else [path]
    there = next((file for file in found if file.is_file()), None)
    if there is None:
        raise ValueError(f"there is no table {found[0]}; `vitmem run` and `vitmem eval` write one")
    return there


def read(paths: Iterable[Path]) -> Results:
    """Read tables of results; each file and each row once.

    Raises:
        ValueError: a path has no table, or it is none of results.
    """
    tables = list({table_of(path).resolve(): table_of(path) for path in paths}.values())
    read_rows = {table: [_checked(row, table) for row in read_results(table)] for table in tables}
    if empty := [table for table, rows in read_rows.items() if not rows]:
        raise ValueError(f"{empty[0]} has no rows; `vitmem run` and `vitmem eval` write results")
    claimed: dict[str, set[Path]] = {}
    for table, rows in read_rows.items():
        for row in rows:
            claimed.setdefault(row["experiment"], set()).add(_home(table))
    found: list[dict] = []
    folders: dict[tuple[str, int], Path] = {}
    source: dict[tuple, Path] = {}  # a run's table holds rows that its experiment's table holds, too
    for table, rows in read_rows.items():
        runs, home = _runs(table), _home(table)
        told = {seed: _configuration(run) for seed, run in runs.items()}
        for row in rows:
            if source.setdefault((home, row["seed"], row["id"]), table) != table:
                continue
            name = row["experiment"] if len(claimed[row["experiment"]]) == 1 else str(home)
            said = {key: shown(value) for key, value in row.items() if "." in key}
            found.append({**row, "experiment": name, "config": told.get(row["seed"], {}) | said})
            if row["seed"] in runs:
                folders[name, row["seed"]] = runs[row["seed"]]
    also = {key for row in found for key in row if "." in key}
    return Results(with_configurations(found, also), folders, tables)


def of_rows(rows: Iterable[Mapping]) -> Results:
    """Return rows of results as if they had been read; where their runs are is not known.

    Raises:
        ValueError: they are no rows of results.
    """
    return Results([_checked(dict(row), Path("rows")) for row in rows], {}, [])


def _checked(row: dict, table: Path) -> dict:
    seed = row.get("seed")
    if not {"id", "edit"} <= row.keys() or not isinstance(seed, (int, float)) or math.isnan(seed):
        raise ValueError(f"{table}: these are no results: columns seed, id and edit are needed, and a seed in each row")
    return {**row, "seed": int(seed), "experiment": row.get("experiment") or _home(table).name}


def _home(table: Path) -> Path:
    """Return the folder of the experiment that a table is of, or of the run's."""
    return table.parent.resolve().parent.parent if table.parent.name == "evals" else table.parent


def _runs(table: Path) -> dict[int, Path]:
    if table.parent.name == "evals":
        run = table.parent.parent
        return {saved_config(run).seed: run} if RunFolder(run).is_run else {}
    return seed_folders(table.parent)


def _configuration(run: Path) -> dict:
    try:
        return {option: shown(value) for option, value in told_configuration(saved_config(run)).items()}
    except ValueError as error:
        print(f"vitmem: its configuration is not shown: {error}", file=sys.stderr, flush=True)
        return {}


class Compared(NamedTuple):
    """All that is said about a question; each part is a list of rows.

    Attributes:
        question: what was asked.
        asked: arms and levels.
        configurations: how experiments differ.
        levels: what was measured.
        comparisons: differences at each level.
        interactions: differences of differences.
        examples: tests over examples.
        absent: experiments that were given and have no row of any arm.
    """

    question: Question
    asked: Plan
    configurations: list[dict]
    levels: list[dict]
    comparisons: list[dict]
    interactions: list[dict]
    examples: list[dict]
    absent: list[str]

    def tables(self) -> list[Table]:
        """Return the tables that people read; parts without rows have none."""
        factors, of, margin = self.asked.factors, self.asked.of, self.question.margin
        absent = [f"experiment {name} has no row of any of these" for name in self.absent]
        tested = any("p" in row for row in self.examples)
        why = [] if tested else [row["note"] for row in self.examples]
        found = [contrast_tables.configurations(self.configurations)] if self.configurations else []
        found += [contrast_tables.levels(self.levels, factors, of, absent)]
        found += [contrast_tables.comparisons(self.comparisons, factors, margin, of, why)]
        found += [contrast_tables.interactions(self.interactions, factors, margin)] if self.interactions else []
        return found + ([contrast_tables.examples(self.examples, factors)] if tested else [])


def compared(results: Results, question: Question, *, over_examples: bool = False) -> Compared:
    """Answer a question.

    Args:
        results: from ``read``.
        question: what is compared.
        over_examples: pair over examples in every seed, not only where there is a single pair of seeds.
    """
    asked = plan(results.rows, question)
    pairs = contrasts.comparisons(asked)
    there = {row["experiment"] for one in asked.arms.values() for row in one.rows()}
    return Compared(
        question,
        asked,
        configurations(asked),
        contrasts.levels_of(asked, question),
        contrasts.verdicts(pairs, question),
        contrasts.verdicts(contrasts.interactions(asked, pairs), question, differ=True),
        paired_over_examples(asked, pairs, results.folders, every=over_examples),
        [name for name in dict.fromkeys(row["experiment"] for row in results.rows) if name not in there],
    )


def powers(results: Results, question: Question, difference: float, seeds: Sequence[int]) -> list[Table]:
    """Return the table of what numbers of seeds can show, by the sd of paired differences that were measured.

    Args:
        results: from ``read``.
        question: what is compared.
        difference: that is to be found.
        seeds: numbers for which the detectable difference is told.
    """
    asked = plan(results.rows, question)
    rows = contrasts.power_rows(contrasts.comparisons(asked), difference, seeds)
    return [contrast_tables.power(rows, asked.factors, difference, seeds, len(rows))]


def power_of_sd(sd: float, difference: float, seeds: Sequence[int]) -> Table:
    """Return the table of what numbers of seeds can show with a given sd of paired differences."""
    return contrast_tables.power([contrasts.power_row(sd, 0, difference, seeds)], (), difference, seeds, 1)


def configurations(asked: Plan) -> list[dict]:
    """Return how experiments differ: a row for each, with all values of the columns in which they differ."""
    rows = [row for one in asked.arms.values() for row in one.rows()]
    names = dict.fromkeys(row["experiment"] for row in rows)
    differ = [name for name in differing(rows) if name in CONFIGURATION[:-1] or "." in name]
    if len(names) < 2:
        return []
    found = []
    for name in names:
        own = [row for row in rows if row["experiment"] == name]
        row = {"experiment": name, "seeds": ", ".join(map(str, sorted({row["seed"] for row in own})))}
        found.append(
            row | {column: ", ".join(dict.fromkeys(shown(r.get(column)) or "?" for r in own)) for column in differ}
        )
    return found


def paired_over_examples(
    asked: Plan, pairs: Sequence[contrasts.Pair], folders: Mapping[tuple[str, int], Path], *, every: bool
) -> list[dict]:
    """Return exact McNemar tests over the examples of a seed, for pairs that have one seed, or for all.

    A row without numbers says in ``note`` why there are none.

    Args:
        asked: arms.
        pairs: of them.
        folders: as in ``Results``.
        every: for pairs with several seeds, too.
    """
    found = []
    for pair in pairs:
        seeds = sorted(pair.differences)
        if pair.strata or not seeds or (len(seeds) > 1 and not every):
            continue
        for seed in seeds:
            models = [
                asked.arms[name].cells[asked.arms[name].at(pair.level)][seed] for name in (pair.first, pair.second)
            ]
            row = {"first": pair.first, "second": pair.second, "level": pair.level, "metric": pair.metric, "seed": seed}
            found.append(row | _paired(models, pair.metric, folders))
    for row, adjusted in zip(found, holm([row.get("p", math.nan) for row in found]), strict=True):
        row["p_holm"] = adjusted
    return found


def _paired(models: Sequence[Mapping], metric: str, folders: Mapping[tuple[str, int], Path]) -> dict:
    try:
        tables = [_examples(model, folders) for model in models]
        if (pair := paired_examples(*tables, metric)) is None:
            return {"note": f"{metric} is no share of examples"}
    except ValueError as error:
        return {"note": str(error)}
    low, high = pair.paired.low, pair.paired.high
    numbers = {"n": pair.n, "mean_first": pair.first, "mean_second": pair.second, "difference": pair.paired.difference}
    told = {"only_first": pair.paired.only_first, "only_second": pair.paired.only_second, "p": pair.paired.p}
    return numbers | {"low": low, "high": high} | told | {"note": ""}


def _examples(model: Mapping, folders: Mapping[tuple[str, int], Path]) -> ExampleTable:
    folder = folders.get((model["experiment"], model["seed"]))
    if folder is None:
        raise ValueError(
            f"the run folder of {model['experiment']}, seed {model['seed']}, is not beside the table, so that examples "
            "cannot be paired"
        )
    if model["id"] in REFERENCES:
        return examples(path_beside(folder, model["id"]), BASE)
    return examples(folder, model["id"])
