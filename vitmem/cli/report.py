"""``vitmem report``: results as one HTML file."""

from collections.abc import Sequence
from pathlib import Path

from vitmem.cli.shared import add_place, place
from vitmem.options import Parser

EXAMPLES = """examples:
  vitmem report runs/digits                             runs/digits/report.html, which opens in any browser
  vitmem report runs/digits/seed0 --out digits0.html    of one run, somewhere else
"""


def main(arguments: Sequence[str]) -> None:
    """Write the report of an experiment or a run."""
    values = report_parser().read(arguments)

    from vitmem.experiment.results import runs_in
    from vitmem.runs.folder import RunFolder

    folder = Path(values.path)
    for run in runs_in([folder])[0]:
        RunFolder(run).read_provenance()  # says it if there is no such run
    print(f"report: {written(folder, None if values.out is None else Path(values.out), place(values.data))}")


def written(folder: Path, out: Path | None = None, data: str | None = None) -> Path:
    """Write a report, tell what had to be left out, and return its path."""
    import sys

    from vitmem.report.page import NAME, write_report

    out = out or folder / NAME
    for note in write_report(folder, out, data):
        print(f"vitmem: {note}", file=sys.stderr, flush=True)
    return out


def report_parser() -> Parser:
    """Return the parser of the command line."""
    parser = Parser(
        prog="vitmem report",
        description="Write results as one HTML file that opens in a browser, and shows which wrong labels flip back.",
    )
    parser.examples = EXAMPLES
    parser.add_argument("path", type=str, help="an experiment folder such as runs/digits, or a run folder")
    parser.add_argument("--out", type=str | None, default=None, help="the file; report.html in the folder by default")
    add_place(parser)
    return parser
