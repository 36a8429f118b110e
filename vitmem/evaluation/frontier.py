"""Comparing edits that trade memory against utility: operating points on frontiers."""

import itertools
import math
from collections.abc import Mapping, Sequence

from vitmem.evaluation.tables import usable

NEAR = 0.05  # a method whose trials came no nearer to a memorised accuracy has not reached it


def at_memorized(rows: Sequence[Mapping], target: float, metrics: Sequence[str]) -> dict[str, float]:
    """Return metrics where a frontier crosses a memorised accuracy, linearly between the two rows around it.

    Args:
        rows: of one model and one family of edits, from the gentlest to the strongest; those whose edit diverged or
            left a model at chance are passed over.
        target: memorised accuracy, in [0, 1].
        metrics: columns to interpolate.

    Returns:
        The first crossing; NaN for every metric if the frontier never comes down to the target.
    """
    for gentle, strong in itertools.pairwise(filter(usable, rows)):
        high, low = gentle["memorized_accuracy"], strong["memorized_accuracy"]
        if high >= target >= low:
            share = 0.0 if high == low else (high - target) / (high - low)
            return {metric: gentle[metric] + share * (strong[metric] - gentle[metric]) for metric in metrics}
    return dict.fromkeys(metrics, math.nan)


def best_ground_truth(rows: Sequence[Mapping], base: Mapping, drop: float) -> Mapping | None:
    """Return the row of highest ground truth whose validation accuracy is at most ``drop`` below the base's."""
    floor = base["validation_accuracy"] - drop
    within = [row for row in rows if usable(row) and row["validation_accuracy"] >= floor - 1e-12]
    return max(within, key=lambda row: row["ground_truth_accuracy"], default=None)


def unreached(row: Mapping) -> str:
    """Return in words why a row is not at the operating point that it was tuned for; nothing where it is.

    Args:
        row: of results, with ``point`` (empty: it was not tuned), ``tuned_memorized`` and ``kept_validation``; a table
            without these columns does not say.
    """
    point = row.get("point") or ""
    if point == "best" and row.get("kept_validation", True) not in (True, "True", 1.0):
        return "no trial kept validation"
    if point.startswith("at") and "tuned_memorized" in row:
        tuned = row["tuned_memorized"]
        if tuned is None or not abs(tuned - float(point[2:])) <= NEAR:
            return f"its trials came no nearer to memorized {point[2:]} than {NEAR:g}"
    return ""
