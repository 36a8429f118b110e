"""Accuracies against the swept option of an edit, one figure for each family of edits."""

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from vitmem.figures import style, words
from vitmem.figures.palette import Edit, Palette
from vitmem.figures.tables import mean_of, read_results, usable

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
    """Draw each edit that has at least two values of its option; the frontier has the others.

    A value at which the model is at chance in some seed is hollow.

    Args:
        results_csv: table of the experiment.
        out: folder of the figures ``sweep_<family>``.

    Returns:
        The PNGs.
    """
    rows = read_results(results_csv)
    base, palette = [row for row in rows if row["id"] == "base"], Palette(rows)
    return [_draw_edit(edit, palette, base, out) for edit in palette.edits if len(values_of(edit)) > 1]


def values_of(edit: Edit) -> list[float]:
    """Return the values of an edit's option, rising; none for one that was tuned."""
    values = {words.value_of(row) for row in edit.rows if not words.tuned_point(row)}
    return sorted(value for value in values if math.isfinite(value))


def summarise(rows: list[dict], metric: str, several: bool) -> Point:
    """Return one accuracy of the rows of one model, a row for each seed.

    Args:
        rows: at least one.
        metric: column of the accuracy.
        several: whether the figure is about several seeds; a value that only one of them has then gets no bar.
    """
    measured = [row for row in rows if not math.isnan(row.get(metric, math.nan))]
    mean, spread, seeds = mean_of(row[metric] for row in measured)
    if seeds > 1:
        return Point(mean, mean - spread, mean + spread, seeds)
    if several or not seeds:
        return Point(mean, math.nan, math.nan, seeds)
    return Point(mean, *(measured[0].get(f"{metric}_{end}", math.nan) for end in ("low", "high")), 1)


def _draw_edit(edit: Edit, palette: Palette, base: list[dict], out: Path) -> Path:
    values, seeds = values_of(edit), len({row["seed"] for row in edit.rows})
    by_value = {value: [row for row in edit.rows if words.value_of(row) == value] for value in values}
    hollow = [not all(map(usable, rows)) for rows in by_value.values()]
    figure = style.new_figure(style.COLUMN[0], 2.9)
    axes = figure.subplots()
    rows = []
    for metric, look in style.ACCURACIES.items():
        points = [summarise(by_value[value], metric, seeds > 1) for value in values]
        _draw_points(axes, look, values, points, hollow)
        rows += [(edit.name, edit.option, v, metric, *point) for v, point in zip(values, points, strict=True)]
        if base:
            unedited = summarise(base, metric, seeds > 1)
            axes.axhline(unedited.accuracy, color=look.color, linestyle=":", linewidth=style.points(0.9))
            rows.append(("base", None, None, metric, unedited.accuracy, None, None, unedited.seeds))
    name = edit.rows[0]["edit"]
    axes.set(xlabel=AXIS.get((name, edit.option), edit.option), ylabel="accuracy (fraction)", ylim=(-0.03, 1.03))
    _scale_values(axes, values)
    notes = ["bars: 95 % Wilson interval" if seeds == 1 else f"bars: ± sd over {seeds} seeds"]
    notes += ["dotted: before the edit"] if base else []
    notes += ["hollow: at chance, or diverged, in a seed"] if any(hollow) else []
    handles, labels = axes.get_legend_handles_labels()
    style.legend(figure, handles, labels, f"{palette.title(edit.key)}\n{'; '.join(notes)}", "upper")
    return style.save(figure, out, f"sweep_{edit.key}", HEADER, rows)


def _draw_points(axes, look: style.Look, values: list[float], points: list[Point], hollow: list[bool]) -> None:
    y, low, high, _ = np.array(points).T
    # A Wilson interval holds its value, but rounding may leave a length of -1e-17, which matplotlib refuses.
    lengths = np.maximum(0, (y - low, high - y))
    bar = {"capsize": style.points(1.8), "elinewidth": style.points(0.8), "capthick": style.points(0.8)}
    axes.errorbar(values, y, yerr=lengths, color=look.color, marker=look.marker, label=look.label, **bar)
    shown = [(x, at) for x, at, is_hollow in zip(values, y, hollow, strict=True) if is_hollow]
    marks = {"color": look.color, "marker": look.marker, "markerfacecolor": "white", "linestyle": "", "zorder": 3}
    axes.plot([x for x, _ in shown], [at for _, at in shown], **marks)


def _scale_values(axes, values: list[float]) -> None:
    if values[0] <= 0 or values[-1] / values[0] <= 5:
        return
    axes.set_xscale("log")
    # Within two decades the powers of ten alone would leave the axis with one or two labels.
    subs = (1, 2, 5) if values[-1] / values[0] < 100 else (1,)
    axes.xaxis.set_major_locator(LogLocator(subs=subs))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
