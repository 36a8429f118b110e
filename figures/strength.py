"""Accuracies against the strength of edits, from the trials that matched strengths were found in."""

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from vitmem.figures import style

HEADER = ["method", "kept", "metric", "mean", "sd", "seeds"]
PANELS = {"memorized": "memorized (fraction)", "ground_truth": "ground truth (fraction)"}
COLORS = ("black", style.BLUE, style.GREEN, style.VERMILLION, style.PURPLE, style.GREY, "#E69F00", "#56B4E9")
MARKERS = "os^DvP*X"


@style.look()
def draw(trials: Mapping[str, Sequence[Sequence[dict]]], out: Path, name: str) -> Path:
    """Draw, for each method, memorised and ground-truth accuracy against the share that it keeps, means over seeds.

    The points are the strengths that were tried in every seed: the ladder. The accuracies are those of the half of the
    wrong labels that trials are scored on.

    Args:
        trials: of each method, in each seed, as ``experiment.tuning.read_trials`` returns them.
        out: folder of the figure.
        name: of its files.

    Returns:
        The PNG.

    Raises:
        ValueError: a method has no trials.
    """
    figure = style.new_figure(style.WIDE, 3.0)
    panels = dict(zip(PANELS, figure.subplots(1, len(PANELS)), strict=True))
    rows = []
    for number, (method, by_seed) in enumerate(trials.items()):
        points = ladder(method, by_seed)
        look = {"color": COLORS[number % len(COLORS)], "marker": MARKERS[number % len(MARKERS)], "linewidth": 1.0}
        for metric, axes in panels.items():
            found = [(kept, *summary(tried, metric)) for kept, tried in points]
            found = [point for point in found if not math.isnan(point[1])]
            axes.plot([p[0] for p in found], [p[1] for p in found], label=method, **look)
            rows += [(method, kept, metric, mean, sd, seeds) for kept, mean, sd, seeds in found]
    for metric, axes in panels.items():
        axes.set(xlabel="share kept c", ylabel=PANELS[metric], xlim=(0, 1), ylim=(-0.03, 1.03))
    handles, labels = panels["memorized"].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4)
    return style.save(figure, out, name, HEADER, rows)


def ladder(method: str, by_seed: Sequence[Sequence[dict]]) -> list[tuple[float, list[dict]]]:
    """Return the strengths that a method tried in every seed, falling, each with its trials.

    Raises:
        ValueError: it has no trials.
    """
    tried = [{next(iter(trial["options"].values())): trial for trial in trials} for trials in by_seed]
    if not tried:
        raise ValueError(f"there are no trials of {method}; the experiment needs tune and tuner: bisect")
    common = set.intersection(*map(set, tried))
    return [(kept, [trials[kept] for trials in tried]) for kept in sorted(common, reverse=True)]


def summary(trials: Sequence[dict], metric: str) -> tuple[float, float, int]:
    """Return mean, sd and number of what was measured; NaN for none, or no sd."""
    values = [trial[metric] for trial in trials if trial[metric] is not None]
    mean = statistics.fmean(values) if values else math.nan
    return mean, statistics.stdev(values) if len(values) > 1 else math.nan, len(values)
