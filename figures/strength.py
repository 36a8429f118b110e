"""Accuracies against the strength of edits, from the trials that matched strengths were found in."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.lines import Line2D

from vitmem.figures import palette, style, words
from vitmem.figures.tables import mean_of

HEADER = ["method", "kept", "metric", "mean", "sd", "seeds"]
PANELS = {"memorized": "memorized (fraction)", "ground_truth": "ground truth (fraction)"}


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
    figure, panels = style.panels(len(PANELS), 2.5, 0.5)
    looks, rows = palette.looks(list(trials)), []
    for method, by_seed in trials.items():
        points = ladder(method, by_seed)
        for axes, metric in zip(panels, PANELS, strict=True):
            found = [(kept, mean_of(trial[metric] for trial in tried)) for kept, tried in points]
            found = [(kept, of) for kept, of in found if of.seeds]
            bars = {"yerr": [of.sd for _, of in found], "elinewidth": style.points(0.5), "linewidth": style.points(1)}
            axes.errorbar([kept for kept, _ in found], [of.mean for _, of in found], **looks[method], **bars)
            rows += [(method, kept, metric, *of) for kept, of in found]
    for axes, label in zip(panels, PANELS.values(), strict=True):
        axes.set(xlabel="share kept c", ylabel=label, xlim=(0, 1), ylim=(-0.03, 1.03))
    seeds = max((row[-1] for row in rows), default=0)
    handles = [Line2D([], [], **look) for look in looks.values()]
    note = f"bars: ± sd over {seeds} seeds" if seeds > 1 else "1 seed"
    style.legend(figure, handles, [words.literal(words.spaced(method)) for method in looks], note)
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
