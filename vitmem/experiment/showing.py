"""Files that show the results of an experiment, figures and a report, made again only when results have changed."""

from collections.abc import Callable, Sequence
from pathlib import Path

from vitmem._version import __version__
from vitmem.figures import figures
from vitmem.files import digest, file_digest, read_json, write_json

SHOWN = Path("stages/shown.json")  # what the figures and the report were made from
SHAPE = {"made_from": str, "files": [str]}


def show(folder: Path, made: Callable[[], Sequence[Path]], what: str) -> list[Path]:
    """Make files that show the results of an experiment, unless they are there and show just these results.

    Args:
        folder: of the experiment.
        made: makes them, and returns their paths.
        what: is wanted, in words.

    Returns:
        Their paths.
    """
    sources = [*sorted(folder.glob("*.csv")), *sorted(folder.glob("stages/seed*/*.json"))]
    made_from = digest(
        [__version__, what, list(figures()), {str(p.relative_to(folder)): file_digest(p) for p in sources}]
    )
    known = read_json(folder / SHOWN, SHAPE)
    if known and known["made_from"] == made_from:
        files = [folder / name for name in known["files"]]
        if all(file.is_file() for file in files):
            return files
    files = list(made())
    (folder / SHOWN).parent.mkdir(exist_ok=True)
    write_json(folder / SHOWN, {"made_from": made_from, "files": [str(file.relative_to(folder)) for file in files]})
    return files
