"""Tables as a terminal shows them, and in Markdown, LaTeX and CSV; a number is a mean with sd or interval."""

import csv
import io
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

FORMATS = ("markdown", "latex", "csv")
_LATEX = str.maketrans({
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}",
    ">": r"\textgreater{}", "|": r"\textbar{}", "±": r"$\pm$", "Δ": r"$\Delta$", "…": r"\ldots{}",
    **{letter: f"\\{letter}" for letter in "_%&#${}"},
})  # fmt: skip
_MARKDOWN = re.compile(r"([\\`*_<>|\[\]$])")
MISSING = {"markdown": "-", "latex": "--", "csv": ""}


class Number(NamedTuple):
    """A value of one model, or a mean over seeds.

    Attributes:
        value: NaN where it was not measured.
        sd: over seeds; NaN where there is none.
        low: lower end of an interval; NaN where there is none.
        high: upper end.
        seeds: that have a value; None where seeds are not what it is about.
    """

    value: float
    sd: float = math.nan
    low: float = math.nan
    high: float = math.nan
    seeds: int | None = None


@dataclass(frozen=True)
class Table:
    """A table to be typeset.

    Args:
        names: of the columns, as files call them.
        titles: of the columns, in words.
        body: lines of cells: words, or numbers.
        notes: what stands below it, a line each.
        seeds: of the experiment; a number that is of fewer says of how many.
    """

    names: Sequence[str]
    titles: Sequence[str]
    body: Sequence[Sequence[str | Number]]
    notes: Sequence[str] = ()
    seeds: int = 0

    def typeset(self, form: str, command: str) -> str:
        """Return the table as text.

        Args:
            form: one of ``FORMATS``.
            command: that made it, for a comment; CSV has no comments.
        """
        return {"markdown": self._markdown, "latex": self._latex, "csv": self._csv}[form](one_line(command))

    def _texts(self, form: str) -> list[list[str]]:
        """Return the cells as texts; all numbers of a column have as many decimals."""
        lines = [[escaped(title, form) for title in self.titles]]
        places = [decimals(line[column] for line in self.body) for column in range(len(self.titles))]
        for line in self.body:
            texts = [
                number(cell, place, form, self.seeds) if isinstance(cell, Number) else escaped(cell, form)
                for cell, place in zip(line, places, strict=True)
            ]
            lines.append(texts)
        return lines

    def _is_right(self) -> list[bool]:
        """Tell which columns stand at the right: those of numbers, or of words that are numbers."""

        def numeric(cell: str | Number) -> bool:
            return isinstance(cell, Number) or bool(re.fullmatch(r"[-+]?[\d.]*(?:e[-+]?\d+)?", cell))

        return [all(numeric(line[column]) for line in self.body) for column in range(len(self.titles))]

    def _markdown(self, command: str) -> str:
        header, *body = self._texts("markdown")
        right = self._is_right()
        widths = [max(3, *(len(line[column]) for line in [header, *body])) for column in range(len(header))]
        rule = ["-" * (width - 1) + (":" if at_right else "-") for width, at_right in zip(widths, right, strict=True)]
        lines = [f"| {' | '.join(padded(line, widths, right))} |" for line in [header, rule, *body]]
        notes = [escaped(note, "markdown") + "  " for note in self.notes]
        comment = f"<!-- {command.replace('-->', '--&gt;')} -->"
        return "\n".join([comment, "", *lines, *([""] if notes else []), *notes]).rstrip() + "\n"

    def _latex(self, command: str) -> str:
        header, *body = self._texts("latex")
        right = self._is_right()
        widths = [max(len(line[column]) for line in [header, *body]) for column in range(len(header))]
        lines = [f"  {' & '.join(padded(line, widths, right))} \\\\" for line in [header, *body]]
        shape = "".join("r" if at_right else "l" for at_right in right)
        comments = [f"% {one_line(line)}" for line in (command, "needs \\usepackage{booktabs}", *self.notes)]
        table = [f"\\begin{{tabular}}{{{shape}}}", "  \\toprule", lines[0], "  \\midrule", *lines[1:], "  \\bottomrule"]
        return "\n".join([*comments, *table, "\\end{tabular}"]) + "\n"

    def _csv(self, command: str) -> str:
        spread = [self._parts(column) for column in range(len(self.names))]
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        ends = {"value": "", "sd": "_sd", "low": "_low", "high": "_high", "seeds": "_seeds"}
        writer.writerow([f"{name}{ends[p]}" for name, parts in zip(self.names, spread, strict=True) for p in parts])
        for line in self.body:
            cells = []
            for cell, parts in zip(line, spread, strict=True):
                found = [getattr(cell, part) if isinstance(cell, Number) else cell for part in parts]
                cells += ["" if isinstance(at, float) and math.isnan(at) else at for at in found]
            writer.writerow(cells)
        return out.getvalue()

    def _parts(self, column: int) -> list[str]:
        """Return which parts of the numbers of a column are known anywhere."""
        cells = [line[column] for line in self.body if isinstance(line[column], Number)]
        found = [part for part in ("sd", "low", "high") if any(not math.isnan(getattr(cell, part)) for cell in cells)]
        return ["value", *found, *(["seeds"] if "sd" in found else [])]


def plain(header: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table for a terminal: columns at the left, a rule below the header."""
    widths = [max(len(line[i]) for line in [header, *body]) for i in range(len(header))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in [header, *body]]
    return [line.rstrip() for line in (lines[0], "-" * len(lines[0]), *lines[1:])]


def padded(line: Sequence[str], widths: Sequence[int], right: Sequence[bool]) -> list[str]:
    """Return cells that are as wide as their columns."""
    return [
        cell.rjust(width) if at_right else cell.ljust(width)
        for cell, width, at_right in zip(line, widths, right, strict=True)
    ]


def decimals(cells: Iterable[str | Number]) -> int:
    """Return how many decimals the numbers of a column have: three for shares, about four digits otherwise."""
    known = [abs(cell.value) for cell in cells if isinstance(cell, Number) and math.isfinite(cell.value)]
    if all(value == int(value) and value >= 2 for value in known):
        return 0
    digits = math.floor(math.log10(max((value for value in known if value), default=1.0)))
    return max(0, 3 - digits) if digits >= 0 else 3 if digits >= -2 else min(8, 2 - digits)


def number(cell: Number, places: int, form: str, most: int = 0) -> str:
    """Return a number with its sd, or its interval, as text.

    Args:
        cell: the number.
        places: decimals.
        form: one of ``FORMATS``.
        most: seeds of the table; a cell of fewer, if of any, says of how many.
    """
    if math.isnan(cell.value):
        return MISSING[form]
    text = f"{cell.value:.{places}f}"
    few = f" ({cell.seeds})" if cell.seeds is not None and cell.seeds < most else ""
    if form == "latex":
        text = f"{text} \\pm {cell.sd:.{places}f}" if not math.isnan(cell.sd) else text
        if math.isnan(cell.sd) and not math.isnan(cell.low):
            text += f"\\ [{cell.low:.{places}f},\\,{cell.high:.{places}f}]"
        return f"${text}${few}"
    if not math.isnan(cell.sd):
        return f"{text} ± {cell.sd:.{places}f}{few}"
    interval = "" if math.isnan(cell.low) else f"[{cell.low:.{places}f}, {cell.high:.{places}f}]"
    return " ".join(filter(None, [text, interval])) + few


def escaped(text: str, form: str) -> str:
    """Return words in which nothing is taken for a command of the format."""
    text = one_line(text)
    if form == "latex":
        text = text.translate(_LATEX)
        return f"{{{text[0]}}}{text[1:]}" if text[:1] in ("[", "*") else text  # after \\ they would be its options
    return _MARKDOWN.sub(r"\\\1", text) if form == "markdown" else text


def one_line(text: str) -> str:
    """Return a text without line breaks."""
    return " ".join(str(text).split())
