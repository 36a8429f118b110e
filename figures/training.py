"""Accuracies over the epochs of training."""

from pathlib import Path

import numpy as np
from matplotlib.ticker import MaxNLocator

from vitmem.figures import style
from vitmem.figures.tables import mean_of, read_csv, seed_folders

HEADER = ["metric", "epoch", "mean", "sd", "min", "max", "seeds"]


@style.look()
def draw(experiment_folder: Path, out: Path) -> list[Path]:
    """Draw the four accuracies against the number of epochs trained, as mean over seeds with a band of ± sd.

    Args:
        experiment_folder: holds ``seed<k>/metrics.csv``.
        out: folder of the figure ``training``.

    Returns:
        The PNG, or nothing where no accuracy was measured.
    """
    files = [folder / "metrics.csv" for folder in seed_folders(experiment_folder).values()]
    histories = [read_csv(path) for path in files if path.exists()]
    curves = {metric: curve(histories, metric) for metric in style.ACCURACIES}
    if not any(curves.values()):
        return []
    figure = style.new_figure(*style.COLUMN)
    axes = figure.subplots()
    for metric, points in curves.items():
        _draw_curve(axes, style.ACCURACIES[metric], points)
    axes.set(xlabel="epochs trained", ylabel="accuracy (fraction)", ylim=(-0.03, 1.03))
    axes.xaxis.set_major_locator(MaxNLocator(7, integer=True, steps=[1, 2, 5, 10]))
    band = f"band: ± sd over {len(histories)} seeds" if len(histories) > 1 else ""
    style.legend(figure, *axes.get_legend_handles_labels(), band, "upper")
    rows = [(metric, *point) for metric, points in curves.items() for point in points]
    return [style.save(figure, out, "training", HEADER, rows)]


def curve(histories: list[list[dict]], metric: str) -> list[tuple]:
    """Return epochs trained, mean, sd, min, max and number of seeds, for each epoch at which any seed was evaluated.

    Args:
        histories: for each seed, the rows of its ``metrics.csv``, whose epochs count from 0.
        metric: column of the accuracy.
    """
    measured: dict[int, list[float]] = {}
    for row in (row for history in histories for row in history):
        if not np.isnan(row.get(metric, np.nan)):
            measured.setdefault(int(row["epoch"]) + 1, []).append(row[metric])
    found = [(epoch, mean_of(values), values) for epoch, values in sorted(measured.items())]
    return [(epoch, of.mean, of.sd, min(values), max(values), of.seeds) for epoch, of, values in found]


def _draw_curve(axes, look: style.Look, points: list[tuple]) -> None:
    if not points:
        return
    epoch, mean, sd, _, _, seeds = map(np.array, zip(*points, strict=True))
    marker = look.marker if len(points) <= 30 else None  # more markers would hide the line
    axes.plot(epoch, mean, color=look.color, marker=marker, label=look.label)
    if max(seeds) > 1:
        axes.fill_between(epoch, mean - sd, mean + sd, color=look.color, alpha=0.2, linewidth=0)
