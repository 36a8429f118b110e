"""Reading the tables of an experiment."""

import csv
import math
import re
import statistics
import zipfile
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vitmem.figures.words import NUMBER, family, row_of

TEXT = (  # columns of results.csv that are no numbers
    "experiment", "id", "edit", "option", "status", "track", "point", "plan", "data", "noise", "model", "options"
)  # fmt: skip
ATTACK_TEXT = (
    "experiment",
    "id",
    "attack",
    "name",
    "arm",
    "group",
    "head",
    "view",
    "kind",
    "score",
    "path",
    "probe",
    "place",
    "direction",
    "metric",
    "reason",
)


ANALYSIS_TEXT = (
    "experiment", "id", "analysis", "name", "layer", "order", "definition", "band", "measure", "edit", "score", "mode",
    "block", "kind", "against", "place", "component", "images",
)  # fmt: skip


class Family(NamedTuple):
    """Edits that differ in the value of one option only.

    Attributes:
        name: what their ids have in common.
        option: the one that differs.
        label: the name, with the option where another family has the same name.
        rows: of the results, a row for each seed and value.
    """

    name: str
    option: str
    label: str
    rows: list[dict]


class Mean(NamedTuple):
    """Mean over seeds.

    Attributes:
        mean: NaN where no seed measured it.
        sd: sample standard deviation; NaN below two seeds.
        seeds: how many measured it.
    """

    mean: float
    sd: float
    seeds: int


def mean_of(values: Iterable[float]) -> Mean:
    """Return the mean of what was measured; NaN and None count as unknown."""
    known = [value for value in values if value is not None and not math.isnan(value)]
    mean = statistics.fmean(known) if known else math.nan
    return Mean(mean, statistics.stdev(known) if len(known) > 1 else math.nan, len(known))


def read_csv(path: Path, text: Collection[str] = ()) -> list[dict]:
    """Return the rows of a CSV file with a header.

    Args:
        path: the file.
        text: columns that stay text whatever they hold. Elsewhere a cell becomes a float where it parses, and an empty
            cell NaN.

    Raises:
        ValueError: it is no such file.
    """
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no table: {error}") from error
    if any(None in row for row in rows):
        raise ValueError(f"{path} is no table: a row has more cells than the header")
    return [{k: v if k in text else _parsed(v) for k, v in row.items()} for row in rows]


def read_results(path: Path) -> list[dict]:
    """Return the rows of a ``results.csv``."""
    return read_csv(path, TEXT)


def usable(row: dict) -> bool:
    """Tell whether an edit neither diverged nor left a model at chance."""
    return row.get("status") in (None, "", "ok")


def read_attacks(path: Path) -> list[dict]:
    """Return the rows of an ``attacks.csv``; settings of other attacks are empty."""
    return read_csv(path, ATTACK_TEXT)


def families(rows: list[dict]) -> dict[tuple[str, str], list[dict]]:
    """Return the edit rows whose id shows the value of their option, by the rest of the id and by option.

    An id is ``kfac-rho0.5``, or ``kfac-rho0.5-draws4`` where two options are crossed; that one is of family
    ``kfac-draws4``.
    """
    groups: dict[tuple[str, str], list[dict]] = {}
    for row in rows:
        if row["option"] and isinstance(row["value"], float) and math.isfinite(row["value"]):
            name, shown = re.subn(rf"-{re.escape(row['option'])}{NUMBER}(?=-|$)", "", row["id"], count=1)
            if shown:
                groups.setdefault((name, row["option"]), []).append(row)
    return groups


def swept(rows: list[dict]) -> list[Family]:
    """Return the families of edits that have at least two values of their option."""
    groups = {key: own for key, own in families(rows).items() if len({row["value"] for row in own}) > 1}
    names = [name for name, _ in groups]
    return [
        Family(name, option, name if names.count(name) == 1 else f"{name}_{option}", own)
        for (name, option), own in groups.items()
    ]


def seed_folders(experiment_folder: Path) -> dict[int, Path]:
    """Return the ``seed<digits>`` folders by seed, ascending; references such as ``seed0-clean`` are left out."""
    found = [(re.fullmatch(r"seed(\d+)", path.name), path) for path in Path(experiment_folder).glob("seed*")]
    return dict(sorted((int(match[1]), path) for match, path in found if match and path.is_dir()))


def known_in(folder: Path) -> list[str]:
    """Return the names of edits, and the ids of models and edits, in the tables of an experiment folder.

    Raises:
        ValueError: it has no table with ids.
    """
    tables = {"results.csv": "id", "attacks.csv": "id", "scorecard.csv": "id", "comparison.csv": "method"}
    for name, column in tables.items():
        if (folder / name).is_file():
            rows = read_csv(folder / name, (*TEXT, column))
            found = [row if "edit" in row else row_of(row[column]) for row in rows]
            return list(dict.fromkeys([*(family(row) for row in found if row["edit"]), *(row["id"] for row in found)]))
    raise ValueError(f"{folder} holds none of {', '.join(tables)}, so that there is nothing to give words to")


def spectra_files(experiment_folder: Path) -> list[Path]:
    """Return the ``factors/*.spectra.npz`` of the smallest seed that has any, sorted."""
    found = (sorted((folder / "factors").glob("*.spectra.npz")) for folder in seed_folders(experiment_folder).values())
    return next((files for files in found if files), [])


def read_spectra(path: Path) -> dict[str, dict[str, np.ndarray]]:
    """Return the eigenvalues of each layer's factors, ``A`` and ``G``, in descending order.

    Raises:
        ValueError: the file is damaged.
    """
    layers: dict[str, dict[str, np.ndarray]] = {}
    try:
        with np.load(path, allow_pickle=False) as arrays:
            for key in arrays.files:
                layer, _, factor = key.rpartition("/")
                layers.setdefault(layer, {})[factor] = arrays[key].astype(float)
    except (OSError, ValueError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} cannot be read ({error}); remove it: its figure is then left out") from error
    return layers


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of a file by name; nothing where there is none.

    Raises:
        ValueError: the file is damaged.
    """
    if not path.is_file():
        return {}
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"{path} cannot be read ({error}); remove it: its figure is then drawn without images"
        ) from error


def _parsed(cell: str | None) -> float | str:
    if not cell:  # None: the row is shorter than the header
        return math.nan
    try:
        return float(cell)
    except ValueError:
        return cell
