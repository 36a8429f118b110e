"""Edits that differ in their strength, from the mildest to the strongest: what the slider moves over."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence

from vitmem.figures.tables import swept

STRENGTH = "memorized_accuracy"


def families(rows: Sequence[Mapping]) -> list[dict]:
    """Return the families of edits, each with ``label``, ``option``, ``ids`` from mild to strong, and ``values``.

    Values of a swept option stay in their order, turned so that memorized accuracy falls. Edits that were tuned to
    several points go by what they left of the memory. Every other edit is a family of its own.

    Args:
        rows: of the results table.
    """
    edits = [dict(row) for row in rows if row["edit"] and row.get(STRENGTH) is not None]
    found = []
    for family in swept(edits):
        by_value: dict[float, str] = {}
        for row in family.rows:
            by_value.setdefault(row["value"], row["id"])
        ids = [by_value[value] for value in sorted(by_value)]
        if _mean(edits, ids[0]) < _mean(edits, ids[-1]):
            ids.reverse()
        found.append(_family(family.label, family.option, ids, edits))
    taken = {name for family in found for name in family["ids"]}
    rest = [row for row in edits if row["id"] not in taken]
    tuned: dict[str, dict[str, None]] = {}
    for row in rest:
        point = row.get("point") or ""
        method = row["id"].removesuffix(f"-{point}") if point else row["id"]
        tuned.setdefault(method, {})[row["id"]] = None
    for method, ids in tuned.items():
        order = sorted(ids, key=lambda name: -_mean(edits, name))
        found.append(_family(method, "", order, edits))
    return found


def _family(label: str, option: str, ids: Sequence[str], rows: Iterable[Mapping]) -> dict:
    values = {row["id"]: row["value"] for row in rows}
    return {"label": label, "option": option, "ids": list(ids), "values": [values[name] for name in ids]}


def _mean(rows: Iterable[Mapping], name: str) -> float:
    known = [row[STRENGTH] for row in rows if row["id"] == name]
    return statistics.fmean(known) if known else math.nan
