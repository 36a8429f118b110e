"""Files that are made from the results of an experiment, and made again only when results have changed."""

from collections.abc import Callable, Sequence
from pathlib import Path

from vitmem._version import __version__
from vitmem.files import digest, file_digest, read_json, write_json

PER_EXAMPLE = ("classes.csv", "flips.csv")  # made from what was measured
SHAPE = {"made_from": str, "files": [str]}


def show(folder: Path, kind: str, made: Callable[[], Sequence[Path]], wanted: Sequence[str] = ()) -> list[Path]:
    """Make files from the results of an experiment, unless they are there and were made from just these results.

    What they were made from is kept in ``stages/KIND.json``: tables by content, what was measured by size and time.

    Args:
        folder: of the experiment.
        kind: of files.
        made: makes them, and returns their paths.
        wanted: what is to be made.

    Returns:
        Their paths.
    """
    record = folder / "stages" / f"{kind}.json"
    tables = [path for path in folder.glob("*.csv") if path.name not in PER_EXAMPLE]
    contents = sorted([*tables, *folder.glob("analyses/*.csv"), *folder.glob("stages/seed*/*.json")])
    measured = [(str(path), path.stat()) for path in sorted(folder.glob("seed*/e*/*/examples.npz"))]
    made_from = digest(
        [
            __version__,
            list(wanted),
            [(str(path), file_digest(path)) for path in contents],
            [(path, stat.st_size, stat.st_mtime_ns) for path, stat in measured],
        ]
    )
    known = read_json(record, SHAPE)
    if known and known["made_from"] == made_from:
        files = [folder / name for name in known["files"]]
        if all(file.is_file() for file in files):
            return files
    files = list(made())
    record.parent.mkdir(exist_ok=True)
    write_json(record, {"made_from": made_from, "files": [str(file.relative_to(folder)) for file in files]})
    return files
