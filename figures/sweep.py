"""Accuracies against the swept option of an edit, one figure for each family of edits."""

import math
import statistics
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from vitmem.figures import style
from vitmem.figures.tables import read_results, swept

HEADER = ["id", "option", "value", "metric", "accuracy", "low", "high", "seeds"]
AXIS = {
    ("kfac", "rho"): "rho: curvature mass kept (fraction)",
    ("random_pairs", "rho"): "rho of the K-FAC edit of equal size (fraction)",
    ("top_removed", "rho"): "rho of the K-FAC edit of equal size (fraction)",
    ("svd", "keep"): "keep: singular values kept (fraction)",
}


class Point(NamedTuple):
    """One accuracy with its error bar, over the seeds that measured it.

    Attributes:
        accuracy: of the seed, or mean over seeds.
        low: end of the 95 % Wilson interval of the one seed, or mean - sd over seeds; NaN where unknown.
        high: the other end.
        seeds: how many.
    """

    accuracy: float
    low: float
    high: float
    seeds: int


@style.look()
def draw(results_csv: Path, out: Path) -> list[Path]:
    """Draw each family of edits that has at least two values of its option.

    Args:
        results_csv: table of the experiment.
        out: folder of the figures ``sweep_<family>``.

    Returns:
        The PNGs.
    """
    rows = read_results(results_csv)
    base = [row for row in rows if row["id"] == "base"]
    return [_draw_family(*family, base, out) for family in swept(rows)]


def summarise(rows: list[dict], metric: str, several: bool) -> Point:
    """Return one accuracy of the rows of one model, a row for each seed.

    Args:
        rows: at least one.
        metric: column of the accuracy.
        several: whether the figure is about several seeds; a value that only one of them has then gets no bar.
    """
    measured = [row for row in rows if not math.isnan(row.get(metric, math.nan))]
    values = [row[metric] for row in measured]
    mean = statistics.fmean(values) if values else math.nan
    if len(values) > 1:
        spread = statistics.stdev(values)
        return Point(mean, mean - spread, mean + spread, len(values))
    if several or not values:
        return Point(mean, math.nan, math.nan, len(values))
    return Point(mean, *(measured[0].get(f"{metric}_{end}", math.nan) for end in ("low", "high")), 1)


def _draw_family(name: str, option: str, label: str, family: list[dict], base: list[dict], out: Path) -> Path:
    values = sorted({row["value"] for row in family})
    seeds = len({row["seed"] for row in family})
    figure = style.new_figure(style.COLUMN[0], 2.9)
    axes = figure.subplots()
    rows = []
    for metric, look in style.ACCURACIES.items():
        points = [summarise([row for row in family if row["value"] == v], metric, seeds > 1) for v in values]
        _draw_points(axes, look, values, points)
        rows += [(name, option, v, metric, *point) for v, point in zip(values, points, strict=True)]
        if base:
            unedited = summarise(base, metric, seeds > 1)
            axes.axhline(unedited.accuracy, color=look.color, linestyle=":", linewidth=0.9)
            rows.append(("base", None, None, metric, unedited.accuracy, None, None, unedited.seeds))
    axes.set(xlabel=AXIS.get((family[0]["edit"], option), option), ylabel="accuracy (fraction)", ylim=(-0.03, 1.03))
    _scale_values(axes, values)
    notes = ["bars: 95 % Wilson interval" if seeds == 1 else f"bars: ± sd over {seeds} seeds"]
    notes += ["dotted: before the edit"] if base else []
    figure.legend(loc="outside upper center", ncols=4, handlelength=1.3, columnspacing=1.0, title="; ".join(notes))
    return style.save(figure, out, f"sweep_{label}", HEADER, rows)


def _draw_points(axes, look: style.Look, values: list[float], points: list[Point]) -> None:
    y, low, high, _ = np.array(points).T
    # A Wilson interval holds its value, but rounding may leave a length of -1e-17, which matplotlib refuses.
    lengths = np.maximum(0, (y - low, high - y))
    bar = {"capsize": 1.8, "elinewidth": 0.8, "capthick": 0.8}
    axes.errorbar(values, y, yerr=lengths, color=look.color, marker=look.marker, label=look.label, **bar)


def _scale_values(axes, values: list[float]) -> None:
    if values[0] <= 0 or values[-1] / values[0] <= 5:
        return
    axes.set_xscale("log")
    # Within two decades the powers of ten alone would leave the axis with one or two labels.
    subs = (1, 2, 5) if values[-1] / values[0] < 100 else (1,)
    axes.xaxis.set_major_locator(LogLocator(subs=subs))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
