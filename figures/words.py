"""Names that a person reads, in place of the ids of models and edits in result tables."""

import csv
import io
import math
import re
from collections.abc import Collection, Mapping
from pathlib import Path

from vitmem.files import read_text
from vitmem.yaml_files import read_yaml

EDITS = {  # by registered name; others are shown as they are called, with spaces
    "kfac": "K-FAC", "ekfac": "EK-FAC", "ekfac_auto": "EK-FAC auto", "ekfac_polish": "EK-FAC polished", "svd": "SVD",
    "balanced_subnet": "BalancedSubnet", "subnet": "Subnet", "cfk": "CF-k", "euk": "EU-k", "finetune": "fine-tuning",
    "l1_sparse": "l1-sparse", "neggrad": "NegGrad", "npo": "NPO", "salun": "SalUn", "scrub": "SCRUB", "sap": "SAP",
    "ssd": "SSD", "potion": "Potion", "wanda": "Wanda",
}  # fmt: skip
REFERENCES = {
    "base": "before the edit",
    "retrain": "retrained",
    "clean": "clean labels",
    "early_stop": "stopped early",
}
NUMBER = r"[-+]?[\d.]+(?:e[-+]?\d+)?"
UNTUNED = "default"  # the operating point of what was not tuned


def family(row: Mapping) -> str:
    """Return what the ids of one edit have in common: without the value of its option, or its operating point.

    Args:
        row: of ``results.csv``.
    """
    if point := tuned_point(row):
        return row["id"].removesuffix(f"-{point}")
    if math.isfinite(value_of(row)):
        return re.sub(rf"-{re.escape(row['option'])}{NUMBER}(?=-|$)", "", row["id"], count=1)
    return row["id"]


def value_of(row: Mapping) -> float:
    """Return the value of a row's option; NaN where it has none that is a number."""
    value = row.get("value")
    return float(value) if row.get("option") and isinstance(value, (int, float)) else math.nan


def tuned_point(row: Mapping) -> str:
    """Return the operating point of a tuned edit; empty for others."""
    point = row.get("point")
    return point if isinstance(point, str) and point != UNTUNED else ""


def title(row: Mapping, labels: Mapping[str, str] | None = None) -> str:
    """Return the words for a row's edit, without its main option: ``K-FAC, draws 8``.

    An edit that an experiment file gave a name of its own has that name.

    Args:
        row: of ``results.csv``.
        labels: words that replace ids and names of families.
    """
    name, edit = family(row), row.get("edit") or ""
    if name in (labels or {}):
        return labels[name]
    if not edit:
        return REFERENCES.get(name, name)
    if name != edit and not name.startswith(f"{edit}-"):
        return spaced(name)
    told = dict(part.split("=", 1) for part in str(row.get("options") or "").split() if "=" in part)
    rest = [_option(part, told) for part in re.split(r"-(?=[A-Za-z])", name[len(edit) + 1 :]) if part]
    return ", ".join([EDITS.get(edit, spaced(edit)), *rest])


def words(row: Mapping, labels: Mapping[str, str] | None = None) -> str:
    """Return the words for a row: ``K-FAC, rho 0.81``, ``K-FAC, best`` or ``K-FAC at 0.2`` where it was tuned.

    Args:
        row: of ``results.csv``.
        labels: words that replace ids and names of families.
    """
    if row["id"] in (labels or {}):
        return labels[row["id"]]
    name, point = title(row, labels), tuned_point(row)
    return with_setting(name, row.get("option") or "", point or value_of(row)) if row.get("edit") else name


def with_setting(name: str, option: str, setting: float | str) -> str:
    """Return the words for an edit at a value of its option, or at an operating point."""
    if isinstance(setting, str):
        return f"{name} at {setting.removeprefix('at')}" if setting.startswith("at") else f"{name}, {setting}"
    return name if math.isnan(setting) else f"{name}, {option} {setting:.4g}"


def row_of(name: str) -> dict:
    """Return as much of a row of ``results.csv`` as an id tells: ``svd-keep0.1`` is of edit ``svd``."""
    if name in REFERENCES:
        return {"id": name, "edit": ""}
    found = re.fullmatch(rf"(.+?)-([a-z_]+?)({NUMBER})", name)
    try:
        return {"id": name, "edit": found[1], "option": found[2], "value": float(found[3])}
    except (TypeError, ValueError):
        return {"id": name, "edit": name}


def spaced(name: str) -> str:
    """Return a name with spaces."""
    return name.replace("_", " ")


def literal(text: str) -> str:
    """Return a text that matplotlib shows as it is: a pair of dollars would be taken for a formula."""
    return text.replace("$", r"\$")


def read_labels(path: Path, known: Collection[str]) -> dict[str, str]:
    """Return words by id or family, from a mapping in YAML or a CSV file of two columns.

    Args:
        path: the file; one that ends in ``.csv`` may start with the line ``id,words``.
        known: ids and families that there are.

    Raises:
        ValueError: it cannot be read, names an id that is not there, or has no words for one.
    """
    found = _from_csv(path) if path.suffix.lower() == ".csv" else read_yaml(path)
    for name, text in found.items():
        if name not in known:
            raise ValueError(f"{path} names {name!r}, which is none of: {some(known)}")
        if not isinstance(text, (str, int, float)) or isinstance(text, bool) or not str(text).strip():
            raise ValueError(f"{path} gives {text!r} for {name}; give words")
    return {name: " ".join(str(text).split()) for name, text in found.items()}


def some(names: Collection[str], most: int = 60) -> str:
    """Return names in a line, and how many more there are."""
    names = list(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _option(part: str, told: Mapping[str, str]) -> str:
    """Return an option that an id carries, as in ``draws4`` or ``tokensmean``, with a space before its value."""
    name = next((name for name, value in told.items() if part == f"{name}{value}"), None)
    return f"{spaced(name)} {told[name]}" if name else spaced(re.sub(rf"(?<=[a-z_])(?={NUMBER}$)", " ", part))


def _from_csv(path: Path) -> dict[str, str]:
    try:
        lines = [line for line in csv.reader(io.StringIO(read_text(path))) if line]
    except csv.Error as error:
        raise ValueError(f"{path} is no table: {error}") from error
    if wrong := next((line for line in lines if len(line) != 2), None):
        raise ValueError(f"{path} has a line of {len(wrong)} cells, {','.join(wrong)[:60]!r}; give two: id,words")
    lines = lines[1:] if lines and lines[0] == ["id", "words"] else lines
    if twice := next((name for n, (name, _) in enumerate(lines) if name in dict(lines[:n])), None):
        raise ValueError(f"{path} names {twice!r} twice")
    return dict(lines)
