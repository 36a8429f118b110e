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
MEMORY, UNSEEN_MEMORY = "memorized_accuracy", "memorized_unseen_accuracy"
# Of memory, and how what is derived from them ends.
KINDS = {MEMORY: "", "memorized_known_accuracy": "_known", UNSEEN_MEMORY: "_unseen"}
IDENTITY = ("experiment", "seed", "id", "attack", "name")  # the attack's id, and its registered name
MEASURED = ("metric", "value", "low", "high", "sd", "n", "reason")
_PARTS = ("low", "high", "sd", "n")
BROKEN = ("failed", "stopped")  # at once, or before the last setting; what reports call it
LOST = ("skipped", "diverged")  # some settings


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
    if base <= 0:
        return Value(math.nan, "base has memorised nothing")
    reached = [step for step, value in sorted(curve.items()) if value >= base / 2]
    return Value(reached[0]) if reached else Value(math.nan, f"not within {max(curve):g} steps")


def with_recovery(results: Sequence[Mapping]) -> list[dict]:
    """Return the measurements of stored attacks in long form, with what is derived from several of them.

    ``recovery`` compares with base and retrain under the same setting; where a setting has a ``step``, base is the
    unattacked model (step 0), whose memory the attack is to bring back. ``excess`` is memorized_accuracy minus that of
    retrain. ``recovery_known`` and ``excess_known`` are the same of the wrong labels that edits knew, where that was a
    part, ``recovery_unseen`` and ``excess_unseen`` of those that no edit knew. Rows without a step hold the
    ``recovery_area`` and ``steps_to_half`` of a curve, those without an alpha what belongs to a whole path, and rows of
    ``BROKEN`` and ``LOST`` why an attack or a part of it ended early.

    Args:
        results: contents of ``attacks/<attack>.json``, each with ``experiment`` and ``seed``.

    Returns:
        Rows with ``IDENTITY``, the attack's settings, and ``MEASURED``.
    """
    reached = {
        (metric, *_place(result), result["id"], *_setting(result, row)): row[metric]
        for result in results
        for row in result["rows"]
        for metric in (*KINDS, "accuracy")
        if row.get(metric) is not None
    }
    return [row for result in results for row in _long(result, reached)]


def _long(result: Mapping, reached: Mapping[tuple, float]) -> list[dict]:
    """Return the long rows of one stored attack.

    Args:
        result: see ``with_recovery``.
        reached: what all models reached, by metric, place, id and setting.
    """
    report, place = result.get("report", {}), _place(result)
    found: list[dict] = []
    curves: dict[tuple, tuple[dict[float, float], dict[float, float]]] = {}
    for row in result["rows"]:
        setting = {key: row[key] for key in result["settings"]}
        cells, here = _measured(row, result["settings"]), _setting(result, row)
        if row.get("probe") == "given":
            retrain = reached.get(("accuracy", *place, RETRAIN, *here))
            cells.append(_cells("excess_over_retrain", _excess(row["accuracy"], retrain, "accuracy")))
        start = _setting(result, {**row, "step": 0}) if "step" in setting else here
        for metric, suffix in KINDS.items():
            if metric not in row:
                continue
            base, retrain = (reached.get((metric, *place, *key)) for key in ((BASE, *start), (RETRAIN, *here)))
            recovered = recovery(row[metric], base, retrain)
            cells.append(_cells(f"recovery{suffix}", recovered))
            cells.append(_cells(f"excess{suffix}", _excess(row[metric], retrain, metric)))
            if "step" in setting:
                rest = tuple((key, value) for key, value in setting.items() if key != "step")
                curve = curves.setdefault((rest, base, suffix), ({}, {}))
                curve[0][row["step"]], curve[1][row["step"]] = recovered.value, row[metric]
        found += [{**setting, **cell} for cell in cells]
    for metric in (*BROKEN, *LOST):
        told = report.get(metric) or []
        found += [_cells(metric, Value(math.nan, why)) for why in ([told] if isinstance(told, str) else told)]
    last = result.get("options", {}).get("steps", 0)
    for (rest, base, suffix), (recovered, memorised) in curves.items():
        whole = area(recovered)
        if max(recovered) < last:
            whole = Value(math.nan, f"the curve ends at step {max(recovered):g} of {last}")
        derived = (("recovery_area", whole), ("steps_to_half", steps_to_half(memorised, base)))
        found += [{**dict(rest), **_cells(name + suffix, value)} for name, value in derived]
    identity = {key: result.get(key, result["attack"]) for key in IDENTITY}
    return [{**identity, **cells} for cells in (*found, *_paths(report))]


def _paths(report: Mapping) -> list[dict]:
    """Return what attack ``connectivity`` reports of whole paths: barriers, where memory is back, distances."""
    rows = []
    for name, path in report.get("paths", {}).items():
        why = report["undefined"].get(f"{name}.memory_back", "")
        found = {f"barrier_{loss}": Value(number(value)) for loss, value in path["barrier"].items()}
        found["memory_back"] = Value(number(path["memory_back"]), why)
        for block, gap in path["distance"].items():
            found[f"distance_{block}"] = Value(number(gap["distance"]))
            found[f"relative_distance_{block}"] = Value(number(gap["relative"]))
        rows += [{"path": name, **_cells(metric, value)} for metric, value in found.items()]
    return rows


def number(value: object) -> float:
    """Return a cell of a table as a number; NaN where there is none."""
    return math.nan if value is None or value == "" else float(value)


def _excess(value: float, retrain: float | None, metric: str) -> Value:
    if retrain is None:
        return Value(math.nan, f"{metric} of retrain was not measured under this attack")
    return Value(value - retrain)


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
