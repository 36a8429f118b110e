"""Reading the tables of an experiment."""

import csv
import math
import re
from collections.abc import Collection
from pathlib import Path


def read_csv(path: Path, text: Collection[str] = ()) -> list[dict]:
    """Return the rows of a CSV file with a header.

    Args:
        path: the file.
        text: columns that stay text whatever they hold. Elsewhere a cell becomes a float where it parses, and an empty
            cell NaN.
    """
    with open(path, newline="", encoding="utf-8") as file:
        return [{k: v if k in text else _parsed(v) for k, v in row.items()} for row in csv.DictReader(file)]


def seed_folders(experiment_folder: Path) -> dict[int, Path]:
    """Return the ``seed<digits>`` folders by seed, ascending; references such as ``seed0-clean`` are left out."""
    found = [(re.fullmatch(r"seed(\d+)", path.name), path) for path in Path(experiment_folder).glob("seed*")]
    return dict(sorted((int(match[1]), path) for match, path in found if match and path.is_dir()))


def _parsed(cell: str | None) -> float | str:
    if not cell:  # None: the row is shorter than the header
        return math.nan
    try:
        return float(cell)
    except ValueError:
        return cell
