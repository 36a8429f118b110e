"""``vitmem check``: whether what a folder holds can be trusted."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from vitmem.cli.shared import add_folders
from vitmem.options import Parser

EXAMPLES = """examples:
  vitmem check runs/digits/seed0         one run: seals, weights, edits, measurements, attacks, trials, curvature
  vitmem check runs/digits --data        all runs of an experiment, and whether the data are still the same
"""


def main(arguments: Sequence[str]) -> int:
    """Print what is wrong in run and experiment folders, a line each, and return 1 if anything is."""
    values = check_parser().read(arguments)

    from vitmem.experiment.checking import check_experiment, check_run
    from vitmem.experiment.results import cells_in
    from vitmem.runs.folder import PROVENANCE

    paths = [cell for path in values.folders for cell in cells_in(Path(path))]
    for path in paths:
        if not (path / PROVENANCE).exists() and not any(path.glob("seed*")):
            raise ValueError(f"{path} is neither a run folder nor one of an experiment; give one, such as runs/digits")
    counts: Counter = Counter()
    wrong = 0
    for path in paths:
        check = check_run if (path / PROVENANCE).exists() else check_experiment
        for why in check(path, counts, data=values.data):
            wrong += 1
            print(why, flush=True)
    read = ", ".join(f"{number} {_plural(kind, number)}" for kind, number in counts.items())
    print(f"{wrong} of these {'is' if wrong == 1 else 'are'} wrong in: {read}" if wrong else f"ok: {read}")
    return 1 if wrong else 0


def _plural(kind: str, number: int) -> str:
    first, *rest = kind.split(" of ")
    return " of ".join([first if number == 1 else f"{first}s", *rest])


def check_parser() -> Parser:
    """Return the parser of the command line."""
    parser = Parser(prog="vitmem check", description="Say what is wrong in run folders; nothing is written.")
    parser.examples = EXAMPLES
    add_folders(parser)
    parser.add_argument("--data", action="store_true", help="load the data, too, and compare them with the manifest")
    return parser
