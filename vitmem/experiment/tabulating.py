"""Tables of an experiment for papers: means over seeds, from the CSV files in its folder."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vitmem.evaluation.comparison import MEASURED, TITLES
from vitmem.evaluation.durability import ATTACKS
from vitmem.evaluation.per_class import BY
from vitmem.evaluation.scorecard import CRITERIA, JUDGED
from vitmem.evaluation.tables import CONFIGURATION, COST, SHOWN, UNSEEN, usable
from vitmem.evaluation.typeset import Number, Table
from vitmem.figures.tables import ANALYSIS_TEXT, ATTACK_TEXT, TEXT, mean_of, read_csv
from vitmem.figures.words import row_of, some, spaced, words

ANALYSES = "analyses"  # folder of the tables of analyses
CONTEXT = ("experiment", "seed", "plan", *CONFIGURATION)  # columns that say of which model and data a row is
PARTS = ("_low", "_high", "_n", "_sd")
TEXTS = {*TEXT, *ATTACK_TEXT, *ANALYSIS_TEXT}
TEXTS |= {"criterion", "population", "by", "class_name", "file", "given_name", "true_name", "cut", "method"}
MOST_NOTES = 20

Row = Mapping[str, object]


@dataclass(frozen=True)
class Source:
    """A table as it is read.

    Args:
        rows: of its file.
        names: words by id.
        keys: columns that tell lines apart.
        values: columns shown by default.
        titles: words of columns, where they are not their names.
        notes: what stands below.
    """

    rows: Sequence[Row]
    names: Mapping[str, str]
    keys: Sequence[str]
    values: Sequence[str]
    titles: Mapping[str, str]
    notes: Sequence[str] = ()


def experiment_table(
    folder: Path, name: str, columns: Sequence[str] = (), labels: Mapping[str, str] | None = None
) -> Table:
    """Return a table of an experiment, or of a run.

    Args:
        folder: of the experiment, which holds ``results.csv`` and others, or of a run.
        name: one of ``TABLES``, or the id of an analysis.
        columns: which columns besides those that tell lines apart; by default those of the tables in a terminal.
        labels: words in place of ids and names of edits.

    Raises:
        ValueError: there is no such table, or it has no such column.
    """
    file = table_file(folder, name)
    rows = read_csv(file, TEXTS)
    if not rows:
        raise ValueError(f"{file} has no rows")
    names = _names(file, rows, labels or {})
    return TABLES.get(name, _analysis)(rows, names, columns)


def table_file(folder: Path, name: str) -> Path:
    """Return the file of a table.

    Raises:
        ValueError: there is none, with those that there are.
    """
    if not re.fullmatch(r"[\w+-][\w.+-]*", name):
        raise ValueError(f"--table is {name!r}; give {', '.join(TABLES)}, or the id of an analysis")
    inside = f"{name}.csv" if name in TABLES else f"{ANALYSES}/{name}.csv"
    for place in (folder, folder / "evals"):
        if (place / inside).is_file():
            return place / inside
    there = [known for known in TABLES if any((p / f"{known}.csv").is_file() for p in (folder, folder / "evals"))]
    there += sorted(path.stem for p in (folder, folder / "evals") for path in p.glob(f"{ANALYSES}/*.csv"))
    what = f"its tables are {', '.join(there)}" if there else "it has no tables: is it the folder of an experiment?"
    raise ValueError(f"{folder} has no table {name!r}; {what}")


def _names(file: Path, rows: Sequence[Row], labels: Mapping[str, str]) -> dict[str, str]:
    """Return words by id; two ids of the same words keep theirs in brackets."""
    results = file.with_name("results.csv") if file.parent.name != ANALYSES else file.parent.with_name("results.csv")
    known = rows if results == file else read_csv(results, TEXT) if results.is_file() else []
    by_id = {row["id"]: row for row in known}
    ids = dict.fromkeys([*by_id, *(str(row.get("id") or row.get("method") or "") for row in rows)])
    found = {i: words(by_id.get(i) or row_of(i), labels) for i in ids if i}
    taken = list(found.values())
    return {i: text if taken.count(text) == 1 else f"{text} ({i})" for i, text in found.items()}


def summarise(source: Source, columns: Sequence[str]) -> Table:
    """Return one line for each combination of keys: numbers as means over seeds, words where all rows agree.

    Args:
        source: the rows, one for each seed and line.
        columns: which columns; by default those of the source.

    Raises:
        ValueError: there is no such column.
    """
    rows = source.rows
    there = list(dict.fromkeys(column for row in rows for column in row))
    _check(columns, [column for column in there if column not in source.keys])
    keys = [key for key in source.keys if key in there and any(_is_known(row[key]) for row in rows)]
    values = [c for c in columns or source.values if c in there and c not in keys]
    lines: dict[tuple, list[Row]] = {}
    for row in rows:
        lines.setdefault(tuple(_text(row[key], source.names if key == "id" else {}) for key in keys), []).append(row)
    seeds = len({row.get("seed") for row in rows if _is_known(row.get("seed"))})
    body = [[*key, *(_cell(own, value, seeds) for value in values)] for key, own in lines.items()]
    sizes = {value: _sizes(rows, value) for value in values}
    titles = ["" if key == "id" else source.titles.get(key, spaced(key)) for key in keys]
    titles += [source.titles.get(value, spaced(value)) + sizes[value] for value in values]
    spread = f"mean ± sd over {seeds} seeds; in brackets of how many, where fewer have a value"
    is_interval = any(isinstance(c, Number) and not math.isnan(c.low) for line in body for c in line)
    single = ["value [95 % interval]"] if is_interval else []
    notes = [*([spread] if seeds > 1 else single), *source.notes]
    return Table([*keys, *values], titles, body, notes, seeds if seeds > 1 else 0)


def _check(columns: Sequence[str], there: Sequence[str]) -> None:
    if wrong := [column for column in columns if column not in there]:
        known = [column for column in there if not column.endswith(PARTS)]
        raise ValueError(f"columns has {wrong[0]!r}, which is not in the table; it has {some(known)}")


def _is_known(value: object) -> bool:
    return value is not None and value != "" and not (isinstance(value, float) and math.isnan(value))


def _text(value: object, names: Mapping[str, str]) -> str:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:g}"
    return names.get(str(value), str(value or ""))


def _cell(rows: Sequence[Row], column: str, seeds: int) -> str | Number:
    """Return the mean of a column over the rows of a line, or its words."""
    values = [row.get(column) for row in rows if _is_known(row.get(column))]
    if column in TEXTS or any(isinstance(value, str) for value in values):
        return "; ".join(dict.fromkeys(map(str, values)))
    mean = mean_of(values)
    if seeds > 1 or mean.seeds != 1:
        return Number(mean.mean, mean.sd, seeds=mean.seeds)
    low, high = (rows[0].get(f"{column}_{end}", math.nan) for end in ("low", "high"))
    return Number(mean.mean, low=low, high=high)


def _sizes(rows: Sequence[Row], column: str) -> str:
    """Return how many examples an accuracy is of, in brackets."""
    known = sorted({int(row[f"{column}_n"]) for row in rows if _is_known(row.get(f"{column}_n"))})
    if len(known) > 3:
        return f" (n={known[0]} to {known[-1]})"
    return f" (n={'/'.join(map(str, known))})" if known else ""


def _results(rows: Sequence[Row], names: Mapping[str, str], columns: Sequence[str]) -> Table:
    aware = any("known" in str(row.get("track") or "") for row in rows)
    shown = SHOWN | (UNSEEN if aware else {})
    failed = [f"{names[row['id']]} (seed {row['seed']:g}): {row['status']}" for row in rows if not usable(row)]
    recovered = not columns and any(_is_known(row.get("ground_truth_recovered")) for row in rows)
    notes = ["recovered: ground truth / ground truth of retrain"] if recovered else []
    notes += ["unseen: wrong labels that no edit knew"] if aware and not columns else []
    notes += failed[:MOST_NOTES] + ([f"and {len(failed) - MOST_NOTES} more that failed"] * (len(failed) > MOST_NOTES))
    values = [*shown, "ground_truth_recovered", *(["track"] if any(row.get("track") for row in rows) else [])]
    titles = {**shown, "ground_truth_recovered": "recovered"}
    is_sweep = len({row.get("experiment") for row in rows}) > 1
    keys = ("experiment", "id") if is_sweep else ("id",)
    return summarise(Source(rows, names, keys, values, {"experiment": "cell"} | titles, notes), columns)


def _attacks(rows: Sequence[Row], names: Mapping[str, str], columns: Sequence[str]) -> Table:
    keys = [column for column in rows[0] if column not in (*CONTEXT, "name", "value", "reason", *columns)]
    return summarise(Source(rows, names, keys, ("value",), {}), columns)


def _scorecard(rows: Sequence[Row], names: Mapping[str, str], columns: Sequence[str]) -> Table:
    shown = {**dict.fromkeys(CRITERIA), **{f"back_{attack}": f"+{attack}" for attack in ATTACKS}, **JUDGED}
    criteria = [name for name in shown if any(row["criterion"] == name for row in rows)]
    cards: dict[tuple, dict] = {}
    for row in rows:
        judged = row["criterion"] in (*JUDGED, "durable")
        key = (row["id"], "" if judged else row["seed"])
        card = cards.setdefault(key, {"id": row["id"], "seed": key[1], **dict.fromkeys([*criteria, "verdict"])})
        if row["criterion"] == "durable":
            card["verdict"] = {1.0: "durable", 0.0: "not durable"}.get(row["value"], "open")
        else:
            card[row["criterion"]] = row["value"]
            card |= {f"{row['criterion']}_{end}": row.get(end, math.nan) for end in ("low", "high") if judged}
    titles = {name: text or name for name, text in shown.items()}
    notes = ["+: the most memory that an attack brought back, as a share of base's"]
    table = summarise(Source([*cards.values()], names, ("id",), [*criteria, "verdict"], titles, notes), columns)
    ends = {i: card for (i, seed), card in cards.items() if seed == ""}
    body = []
    for line, name in zip(table.body, dict.fromkeys(row["id"] for row in rows), strict=True):
        card = ends.get(name, {})
        intervals = [
            Number(c.value, low=card.get(f"{n}_low", math.nan), high=card.get(f"{n}_high", math.nan))
            if n in JUDGED and isinstance(c, Number)
            else c
            for n, c in zip(table.names, line, strict=True)
        ]
        body.append(intervals)
    return Table(table.names, table.titles, body, table.notes, table.seeds)


def _comparison(rows: Sequence[Row], names: Mapping[str, str], columns: Sequence[str]) -> Table:
    _check(columns, list(rows[0]))
    values = [c for c in columns or (*MEASURED, *COST) if c in rows[0]]
    keys = [key for key in ("method", "point", "track") if key not in values]
    body: list[list[str | Number]] = []
    for row in rows:
        cells: list[str | Number] = [_text(row[key], names if key == "method" else {}) for key in keys]
        for value in values:
            parts = {end: row.get(f"{value}_{end}", math.nan) for end in ("sd", "low", "high")}
            seeds = int(row["usable_seeds"]) if f"{value}_sd" in row else None
            known = isinstance(row[value], float)
            cells.append(Number(row[value], **parts, seeds=seeds) if known else str(row[value]))
        body.append(cells)
    there = {row["point"] for row in rows}
    notes = [f"{point}: {text[0].lower()}{text[1:]}" for point, text in TITLES.items() if point in there]
    most = max(row["seeds"] for row in rows)
    notes = [*([f"mean ± sd over {most:g} seeds; in brackets where fewer were usable"] if most > 1 else []), *notes]
    return Table([*keys, *values], [MEASURED.get(c, spaced(c)) for c in (*keys, *values)], body, notes, int(most))


def _classes(rows: Sequence[Row], names: Mapping[str, str], columns: Sequence[str]) -> Table:
    notes = ["by: what the class of an example is, its true or its given label"]
    source = Source(rows, names, ("id", "by", "class_name"), BY["true"], {**SHOWN, "class_name": "class"}, notes)
    return summarise(source, columns)


def _flips(rows: Sequence[Row], names: Mapping[str, str], columns: Sequence[str]) -> Table:
    there = [column for column in rows[0] if column != "cut"]
    _check(columns, there)
    called = {
        row[number]: row[name] for row in rows for number, name in (("given", "given_name"), ("true", "true_name"))
    }
    models = [column for column in there[there.index("true") + 1 :]]
    shown = columns or ["seed", "index", *(["file"] if "file" in there else []), "given", "true", *models]
    said = ("given", "true", *models)
    body = [[called.get(row[c], _text(row[c], {})) if c in said else _text(row[c], {}) for c in shown] for row in rows]
    notes = [cut for cut in [str(rows[0].get("cut") or "")] if cut]
    return Table(shown, [names.get(c) or words(row_of(c)) if c in models else spaced(c) for c in shown], body, notes)


def _analysis(rows: Sequence[Row], names: Mapping[str, str], columns: Sequence[str]) -> Table:
    """Return the table of any analysis: words and whole numbers tell lines apart, all else is a mean over seeds."""
    measured = []
    for column in rows[0]:
        values = [row[column] for row in rows if isinstance(row[column], float) and not math.isnan(row[column])]
        if column not in CONTEXT and not column.endswith(PARTS) and any(value != int(value) for value in values):
            measured.append(column)
    skip = (*CONTEXT, "analysis", "name", *measured)
    keys = [column for column in rows[0] if column not in skip and not column.endswith(PARTS)]
    shown = [column for column in columns if column not in keys] or measured
    return summarise(Source(rows, names, keys, shown, {}), columns)


TABLES: dict[str, Callable[[Sequence[Row], Mapping[str, str], Sequence[str]], Table]] = {
    "results": _results,
    "attacks": _attacks,
    "scorecard": _scorecard,
    "comparison": _comparison,
    "classes": _classes,
    "flips": _flips,
}
