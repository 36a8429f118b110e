"""``vitmem table``: a table of an experiment, for a paper, a page or a spreadsheet."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from vitmem.cli.shared import LABELS, names
from vitmem.options import Parser

EXAMPLES = """examples:
  vitmem table runs/digits                                                        means and sd over seeds, in Markdown
  vitmem table runs/digits --table scorecard --format latex --out scorecard.tex   for LaTeX, with booktabs
  vitmem table runs/digits --columns memorized_accuracy,passes --labels names.yaml
"""


def main(arguments: Sequence[str]) -> None:
    """Print or write a table of an experiment."""
    values = table_parser().read(arguments)

    from vitmem.evaluation.typeset import FORMATS
    from vitmem.experiment.tabulating import experiment_table
    from vitmem.figures.tables import known_in
    from vitmem.figures.words import read_labels
    from vitmem.files import write_atomically

    if values.format not in FORMATS:
        raise ValueError(f"format is {values.format!r}; give one of {', '.join(FORMATS)}")
    folder = Path(values.path)
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}; give that of an experiment, such as runs/digits")
    labels = {}
    if values.labels:
        there = folder if (folder / "results.csv").is_file() or not (folder / "evals").is_dir() else folder / "evals"
        labels = read_labels(Path(values.labels), known_in(there))
    table = experiment_table(folder, values.table, names("columns", values.columns), labels)
    text = table.typeset(values.format, shlex.join(["vitmem", "table", *arguments]))
    if values.out:
        write_atomically(Path(values.out), text)
        print(f"table: {values.out}")
    else:
        print(text, end="")


def table_parser() -> Parser:
    """Return the parser of the command line."""
    parser = Parser(prog="vitmem table", description="A table of an experiment in Markdown, LaTeX or CSV.")
    parser.examples = EXAMPLES
    parser.add_argument("path", type=str, help="folder of an experiment, such as runs/digits, or of a run")
    what = "results, attacks, scorecard, comparison, classes, flips, or the id of an analysis"
    parser.add_argument("--table", type=str, default="results", help=what)
    parser.add_argument("--format", type=str, default="markdown", help="markdown, latex or csv")
    what = "columns of the CSV file, comma-separated; default: those that the terminal shows"
    parser.add_argument("--columns", type=list | str | None, default=None, help=what)
    parser.add_argument("--labels", type=str | None, default=None, help=LABELS)
    parser.add_argument("--out", type=str | None, default=None, help="file to write; default: print it")
    return parser
