"""Tables of text as Markdown, LaTeX (booktabs) or CSV."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from vitmem.evaluation.typeset import escaped


@dataclass(frozen=True)
class Table:
    """A table that a person reads.

    Args:
        title: what it shows.
        header: titles of the columns.
        body: a list of cells for each row.
        notes: sentences below it.
        rows: the same as numbers, for CSV.
    """

    title: str
    header: list[str]
    body: list[list[str]]
    notes: list[str] = field(default_factory=list)
    rows: list[Mapping] = field(default_factory=list)


def written(tables: Sequence[Table], form: str) -> str:
    """Return tables in one of ``typeset.FORMATS``, with a line break at the end."""
    if form == "csv":
        return to_csv(tables)
    return "\n".join(map({"markdown": to_markdown, "latex": to_latex}[form], tables))


def to_markdown(table: Table) -> str:
    """Return a table in Markdown, columns aligned for a terminal."""
    body = [[cell.replace("|", r"\|") for cell in line] for line in [table.header, *table.body]]
    widths = [max(len(line[place]) for line in body) for place in range(len(table.header))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in body
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    notes = ["", *(f"- {note}" for note in table.notes)] if table.notes else []
    return "\n".join([f"### {table.title}", "", *lines, *notes]) + "\n"


def to_latex(table: Table) -> str:
    """Return a table in LaTeX; the document needs the package booktabs."""

    def line(cells: Sequence[str]) -> str:
        return " & ".join(escaped(cell, "latex") for cell in cells) + r" \\"

    notes = [
        r"\par\smallskip\footnotesize " + escaped(" ".join(f"{note.rstrip('.')}." for note in table.notes), "latex")
    ]
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering\small",
            rf"\caption{{{escaped(table.title, 'latex')}}}",
            rf"\begin{{tabular}}{{{'l' * len(table.header)}}}",
            r"\toprule",
            line(table.header),
            r"\midrule",
            *map(line, table.body),
            r"\bottomrule",
            r"\end{tabular}",
            *(notes if table.notes else []),
            r"\end{table}",
            "",
        ]
    )


def rows_of(tables: Sequence[Table]) -> list[dict]:
    """Return the numbers of all tables as rows; ``table`` is the first word of its title."""
    return [{"table": table.title.split(",")[0].lower(), **row} for table in tables for row in table.rows]


def to_csv(tables: Sequence[Table]) -> str:
    """Return ``rows_of`` tables as one CSV; what a row lacks, or does not know, is empty."""
    rows, out = rows_of(tables), io.StringIO()
    writer = csv.DictWriter(out, dict.fromkeys(name for row in rows for name in row), restval="", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({name: "" if value is None or value != value else value for name, value in row.items()})
    return out.getvalue()
