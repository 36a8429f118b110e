"""What attacks brought back, relative to the unedited and the retrained model: pure functions of stored results.

An undefined number is NaN and says why; it is never 0.
"""

import csv
import io
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from vitmem.evaluation.metrics import wilson

BASE, RETRAIN = "base", "retrain"
MEMORY, KNOWN_MEMORY = "memorized_accuracy", "memorized_known_accuracy"
IDENTITY = ("experiment", "seed", "id", "attack")
MEASURED = ("metric", "value", "low", "high", "sd", "n", "reason")
_PARTS = ("low", "high", "sd", "n")
BROKEN = ("failed", "stopped")  # at once, or before the last setting; what reports call it


class Value(NamedTuple):
    """A number, or why there is none.

    Attributes:
        value: NaN where it is undefined.
        reason: why it is undefined; empty otherwise.
    """

    value: float
    reason: str = ""


def recovery(attacked: float | None, base: float | None, retrain: float | None) -> Value:
    """Return (attacked - retrain) / (base - retrain): 0 is as little memory as retrain has, 1 as much as base.

    Args:
        attacked: memorised accuracy of the attacked model; None or NaN if it was not measured.
        base: of the unedited model.
        retrain: of the model trained without the noisy examples, attacked in the same way.
    """
    for name, value in (("this model", attacked), (BASE, base), (RETRAIN, retrain)):
        if value is None or math.isnan(value):
            return Value(math.nan, f"memorized_accuracy of {name} was not measured under this attack")
    if base <= retrain:
        return Value(math.nan, f"base memorises no more than retrain does ({base:.3g} against {retrain:.3g})")
    return Value((attacked - retrain) / (base - retrain))


def area(curve: Mapping[float, float]) -> Value:
    """Return the mean of a curve over the logarithm of its positive steps, by the trapezoidal rule.

    Args:
        curve: recovery by step.
    """
    points = [(math.log(step), value) for step, value in sorted(curve.items()) if step > 0]
    if len(points) < 2 or any(math.isnan(value) for _, value in points):
        return Value(math.nan, "the curve needs two steps after the start, and no gaps")
    total = sum((b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in itertools.pairwise(points))
    return Value(total / (points[-1][0] - points[0][0]))


def steps_to_half(curve: Mapping[float, float], base: float | None) -> Value:
    """Return the first step at which memorised accuracy is at least half of the unedited model's.

    Args:
        curve: memorised accuracy by step.
        base: of the unedited model, not attacked.
    """
    if base is None or math.isnan(base):
        return Value(math.nan, "memorized_accuracy of base was not measured under this attack")
    reached = [step for step, value in sorted(curve.items()) if value >= base / 2]
    return Value(reached[0]) if reached else Value(math.nan, f"not within {max(curve):g} steps")


def with_recovery(results: Sequence[Mapping]) -> list[dict]:
    """Return the measurements of stored attacks in long form, with what is derived from several of them.

    ``recovery`` compares with base and retrain under the same setting; where a setting has a ``step``, base is the
    unattacked model (step 0), whose memory the attack is to bring back. ``excess`` is memorized_accuracy minus that of
    retrain, ``excess_known`` the same of the wrong labels that edits knew, where that was a part. Rows without a step
    hold the ``recovery_area`` and ``steps_to_half`` of a curve, and rows of ``BROKEN`` why an attack ended early.

    Args:
        results: contents of ``attacks/<attack>.json``, each with ``experiment`` and ``seed``.

    Returns:
        Rows with ``IDENTITY``, the attack's settings, and ``MEASURED``.
    """
    memory = {
        (metric, *_place(result), result["id"], *_setting(result, row)): row[metric]
        for result in results
        for row in result["rows"]
        for metric in (MEMORY, KNOWN_MEMORY)
        if row.get(metric) is not None
    }
    long = []
    for result in results:
        identity = {key: result[key] for key in IDENTITY}
        curves: dict[tuple, tuple[dict[float, float], dict[float, float]]] = {}
        for row in result["rows"]:
            setting = {key: row[key] for key in result["settings"]}
            long += [{**identity, **setting, **cells} for cells in _measured(row, result["settings"])]
            if MEMORY not in row:
                continue
            start = {**row, "step": 0} if "step" in setting else row
            base = memory.get((MEMORY, *_place(result), BASE, *_setting(result, start)))
            retrain = memory.get((MEMORY, *_place(result), RETRAIN, *_setting(result, row)))
            found = recovery(row[MEMORY], base, retrain)
            excess = Value(math.nan, found.reason) if retrain is None else Value(row[MEMORY] - retrain)
            long += [{**identity, **setting, **_cells(n, v)} for n, v in (("recovery", found), ("excess", excess))]
            if KNOWN_MEMORY in row:
                never = memory.get((KNOWN_MEMORY, *_place(result), RETRAIN, *_setting(result, row)))
                missing = Value(math.nan, f"{KNOWN_MEMORY} of retrain was not measured under this attack")
                known = missing if never is None else Value(row[KNOWN_MEMORY] - never)
                long.append({**identity, **setting, **_cells("excess_known", known)})
            if "step" in setting:
                rest = tuple((key, value) for key, value in setting.items() if key != "step")
                recovered, memorised = curves.setdefault((rest, base), ({}, {}))
                recovered[row["step"]], memorised[row["step"]] = found.value, row[MEMORY]
        why = {metric: result.get("report", {}).get(metric) for metric in BROKEN}
        long += [{**identity, **_cells(metric, Value(math.nan, reason))} for metric, reason in why.items() if reason]
        for (rest, base), (recovered, memorised) in curves.items():
            derived = (("recovery_area", area(recovered)), ("steps_to_half", steps_to_half(memorised, base)))
            long += [{**identity, **dict(rest), **_cells(name, value)} for name, value in derived]
    return long


def _place(result: Mapping) -> tuple:
    return result["experiment"], result["seed"], result["attack"]


def _setting(result: Mapping, row: Mapping) -> tuple:
    return tuple(row[key] for key in result["settings"])


def _measured(row: Mapping, settings: Iterable[str]) -> list[dict]:
    """Return the measurements of a row, each with its parts (``<metric>_low`` ...); an accuracy gets its interval."""
    parts = {f"{name}_{part}" for name in row for part in _PARTS if f"{name}_{part}" in row}
    cells = []
    for name, value in row.items():
        if name in settings or name in parts or isinstance(value, str):
            continue
        found = {"metric": name, "value": value} | {part: row.get(f"{name}_{part}") for part in _PARTS}
        if name.endswith("_accuracy") and found["n"] and value is not None and found["low"] is None:
            found["low"], found["high"] = wilson(round(value * found["n"]), found["n"])
        cells.append(found)
    return cells


def _cells(name: str, value: Value) -> dict:
    return {"metric": name, "value": value.value, "reason": value.reason}


def to_csv(rows: Sequence[Mapping]) -> str:
    """Return long rows as CSV; missing values and NaN are empty cells, settings stand before the metric."""
    known = {*IDENTITY, *MEASURED}
    settings = list(dict.fromkeys(key for row in rows for key in row if key not in known))
    out = io.StringIO()
    writer = csv.DictWriter(out, [*IDENTITY, *settings, *MEASURED], restval="", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({k: "" if v is None or (isinstance(v, float) and math.isnan(v)) else v for k, v in row.items()})
    return out.getvalue()
