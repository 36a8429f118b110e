"""The tables of a page: cells of text, with what is left out said."""

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vitmem.evaluation import scorecard
from vitmem.evaluation.durability import ATTACKS
from vitmem.evaluation.statistics import t_interval
from vitmem.evaluation.tables import grouped, headline, shown_metrics
from vitmem.figures.scorecard import TEXT
from vitmem.figures.tables import read_csv, read_results
from vitmem.report.packed import Space, uri

MOST_ROWS = 50  # of a table of numbers in the page
_NEEDED = ("experiment", "seed", "id", "edit", "option", "value")
_JUDGED = {
    "left": "share of base's memory above retrain's that the edit left",
    "back": "the most that any attack brought back, with its 95 % interval",
}


@dataclass(frozen=True)
class Table:
    """A table of a page.

    Args:
        header: titles of the columns.
        body: lines of as many cells.
        note: what is to be said below it.
        file: name of the file that it is of; empty if there is none.
        source: that file as a data URI; empty where it is too large, or there is none.
    """

    header: Sequence[str]
    body: Sequence[Sequence[str]]
    note: str = ""
    file: str = ""
    source: str = ""


def read_rows(file: Path) -> list[dict]:
    """Return the rows of a table of results, as ``experiment.results.gather`` makes them: None where a cell is empty.

    Raises:
        ValueError: it is missing, or no such table.
    """
    again = "give the command that made it again, or `vitmem eval` the folder"
    if not file.is_file():
        raise ValueError(f"there is no {file}; {again}")
    found = read_results(file)
    if not found or set(_NEEDED) - set(found[0]) or _is_cut(found):
        raise ValueError(f"{file} is no table of results, or was cut off; {again}")
    rows = [{key: _cell(key, value) for key, value in row.items()} for row in found]
    measured = [name for name in shown_metrics(rows) if name in rows[0]]
    numbers = ["seed", *(f"{name}{part}" for name in measured for part in ("", "_low", "_high", "_n"))]
    for row in rows:
        for name in numbers:
            if isinstance(row.get(name), str):
                raise ValueError(f"{file}: {name} is {row[name][:40]!r} in a row, and no number; {again}")
    return rows


def _is_cut(rows: Sequence[Mapping]) -> bool:
    """Tell whether a row is shorter than the header: its last columns of text are absent, not empty."""
    return any(value is None for row in rows for value in row.values())


def _cell(name: str, value: float | str) -> object:
    if isinstance(value, str):
        return value
    if math.isnan(value):
        return None
    return int(value) if value.is_integer() and (name == "seed" or name.endswith("_n")) else value


def results(rows: Sequence[dict]) -> tuple[Table, list[str]]:
    """Return the headline table, as a terminal shows it, and what is said of rows that are no success.

    Over several seeds 95 % t intervals of the means stand in the second line of a cell.
    """
    header, body, note, failed = headline(rows)
    groups, shown = grouped(rows), shown_metrics(rows)
    if len({row["seed"] for row in rows}) > 1:
        note += "; in brackets the 95 % t interval of the mean over seeds"
        for line in body:
            for column, metric in enumerate(shown, 1):
                found = t_interval([row[metric] for row in groups[line[0]] if row.get(metric) is not None])
                if found.n > 1:
                    line[column] += f"\n[{found.low:.3f}, {found.high:.3f}]"
    return Table(header, body, note), failed


def edits(rows: Sequence[dict]) -> Table:
    """Return what the edits of a table are: their options that are not the defaults, and the status in each seed."""
    groups = {name: group for name, group in grouped(rows).items() if group[0]["edit"]}
    body = [
        [
            name,
            group[0]["edit"],
            "" if group[0]["value"] in (None, "") else f"{group[0]['option']} {group[0]['value']}",
            group[0].get("options") or "",
            "; ".join(dict.fromkeys(row.get("status") or "" for row in group)),
        ]
        for name, group in groups.items()
    ]
    return Table(["", "edit", "strength", "options that are no defaults", "status"], body)


def scorecards(file: Path) -> tuple[Table, dict[str, str]] | None:
    """Return the scorecards of a file, and what their columns mean; None where there is no such file.

    Raises:
        ValueError: it is no such table.
    """
    if not file.is_file():
        return None
    cards = read_csv(file, TEXT)
    if not cards:
        return None
    if (
        set(scorecard.COLUMNS[:5]) - set(cards[0])
        or _is_cut(cards)
        or any(isinstance(card["value"], str) for card in cards)
    ):
        raise ValueError(f"{file} is no table of scorecards")
    header, body = scorecard.table(cards)
    criteria = {name: meaning.replace("`", "") for name, meaning in scorecard.CRITERIA.items()}
    back = {f"+{name}": f"the most memory that attack {name} brought back; 0 is best" for name in ATTACKS}
    meant = {**criteria, **back, **_JUDGED}
    return Table(header, body, " · ".join(scorecard.verdicts(cards))), meant


def csv_table(file: Path, space: Space) -> Table:
    """Return the first rows of a CSV file, and the whole of it to save where there is space.

    Args:
        file: the table.
        space: for files that can be saved from the page.

    Raises:
        ValueError: it is no table.
    """
    content = file.read_bytes()
    try:
        lines = list(csv.reader(content.decode().splitlines()))
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{file} is no table: {error}") from error
    header, body = (lines[0], lines[1:]) if lines else ([], [])
    body = [[_short(cell) for cell in [*line, *[""] * len(header)][: len(header)]] for line in body]
    source = uri(content, "text/csv")
    source = source if space.takes(len(source)) else ""
    more = f"the first {MOST_ROWS} of {len(body):,} rows" if len(body) > MOST_ROWS else ""
    if more and not source:
        more += f"; all are in the file {file.name} of the folder that the report is of"
    return Table(header, body[:MOST_ROWS], more, file.name, source)


def _short(cell: str) -> str:
    """Return a number with five digits, or a text as it is."""
    try:
        number = float(cell)
    except ValueError:
        return cell
    return cell if len(cell) <= 7 or not math.isfinite(number) else f"{number:.5g}"


def flat(content: Mapping, prefix: str = "") -> dict[str, str]:
    """Return nested options by dotted name, as text."""
    found: dict[str, str] = {}
    for key, value in content.items():
        name = f"{prefix}{key}"
        found |= flat(value, f"{name}.") if isinstance(value, Mapping) and value else {name: str(value)}
    return found
