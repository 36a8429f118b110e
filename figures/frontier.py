"""What edits keep against what they forget, one line for each family of edits."""

import math
import statistics
from pathlib import Path
from typing import NamedTuple

from matplotlib.lines import Line2D

from vitmem.figures import style
from vitmem.figures.tables import read_results, swept, usable

X = "memorized_accuracy"
YS = {
    "validation_accuracy": "validation accuracy (fraction)",
    "ground_truth_accuracy": "ground truth accuracy (fraction)",
}
HEADER = ["id", "option", "value"]
HEADER += [column for metric in (X, *YS) for column in (metric, f"{metric}_sd", f"{metric}_seeds")]
REFERENCES = {"base": ("*", "before the edit (dotted)"), "retrain": ("H", "retrained without noisy images")}

COLORS = (style.BLUE, style.VERMILLION, style.GREEN, style.PURPLE, "#E69F00", "#56B4E9", style.GREY, "#882255")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<")
TRACKS = {"label-free": "o", "initial weights": "D", "right labels": "s", "known noisy examples": "^"}
STYLES = ("-", "--", ":", "-.")


class Mean(NamedTuple):
    """Mean over seeds.

    Attributes:
        mean: NaN where no seed measured it.
        sd: NaN below two seeds.
        seeds: how many measured it.
    """

    mean: float
    sd: float
    seeds: int


@style.look()
def draw(results_csv: Path, out: Path) -> list[Path]:
    """Draw validation and ground truth accuracy against memorized accuracy, as means over seeds.

    Edits that diverged or left a model at chance are left out. Where the edits differ in what they may know, markers
    tell it.

    Args:
        results_csv: table of the experiment.
        out: folder of the figure ``frontier``.

    Returns:
        The PNG, or nothing where no family of edits has at least two values of its option.
    """
    rows = [row for row in read_results(results_csv) if not row["edit"] or usable(row)]
    families = swept(rows)
    lines = {family[:3]: points(family.rows) for family in families}
    if not lines:
        return []
    tracks = [family.rows[0].get("track", "") for family in families]
    figure = style.new_figure(style.WIDE, 2.8 + 0.14 * math.ceil(len(lines) / 4))
    panels = dict(zip(YS, figure.subplots(1, len(YS)), strict=True))
    table = []
    for number, ((name, option, label), means) in enumerate(lines.items()):
        _draw_line(panels, number, label, list(means.values()), _marker(tracks, number))
        table += [(name, option, value, *_cells(at)) for value, at in means.items()]
    for name in REFERENCES:
        measured = [row for row in rows if row["id"] == name]
        if measured:
            at = summarise(measured)
            _draw_reference(panels, name, at)
            table.append((name, None, None, *_cells(at)))
    for metric, axes in panels.items():
        axes.set(xlabel="memorized accuracy (fraction; ← more forgotten)", ylabel=YS[metric])
    handles, labels = panels["validation_accuracy"].get_legend_handles_labels()
    for track in TRACKS if len(set(tracks)) > 1 else ():
        if any(name.startswith(track) for name in tracks):
            handles.append(Line2D([], [], color="black", marker=TRACKS[track], linestyle=""))
            labels.append(track)
    figure.legend(handles, labels, loc="outside lower center", ncols=4, handlelength=2.6, columnspacing=1.2)
    return [style.save(figure, out, "frontier", HEADER, table)]


def points(rows: list[dict]) -> dict[float, dict[str, Mean]]:
    """Return the means of a family at each value of its option, in the order of the values."""
    values = sorted({row["value"] for row in rows})
    return {value: summarise([row for row in rows if row["value"] == value]) for value in values}


def summarise(rows: list[dict]) -> dict[str, Mean]:
    """Return the mean of each accuracy shown, over the rows of one model, a row for each seed."""
    return {metric: _mean([row.get(metric, math.nan) for row in rows]) for metric in (X, *YS)}


def _mean(values: list[float]) -> Mean:
    known = [value for value in values if not math.isnan(value)]
    mean = statistics.fmean(known) if known else math.nan
    return Mean(mean, statistics.stdev(known) if len(known) > 1 else math.nan, len(known))


def _cells(at: dict[str, Mean]) -> list[float]:
    return [cell for mean in at.values() for cell in mean]


def _marker(tracks: list[str], number: int) -> str:
    """Return the marker of a line: that of what its edit may know, if the edits differ in it."""
    if len(set(tracks)) < 2:
        return MARKERS[number % len(MARKERS)]
    return next((marker for track, marker in TRACKS.items() if tracks[number].startswith(track)), ".")


def _draw_line(panels: dict, number: int, label: str, means: list[dict[str, Mean]], marker: str) -> None:
    turn, place = divmod(number, len(COLORS))
    look = {"color": COLORS[place], "marker": marker, "linestyle": STYLES[turn % len(STYLES)]}
    look |= {"markerfacecolor": COLORS[place] if turn == 0 else "white", "markersize": 3, "linewidth": 1.0}
    for metric, axes in panels.items():
        axes.plot([at[X].mean for at in means], [at[metric].mean for at in means], label=label, **look)


def _draw_reference(panels: dict, name: str, at: dict[str, Mean]) -> None:
    marker, label = REFERENCES[name]
    look = {"color": "black", "marker": marker, "markersize": 8, "markeredgecolor": "white", "markeredgewidth": 0.6}
    for metric, axes in panels.items():
        axes.plot(at[X].mean, at[metric].mean, linestyle="", label=label, zorder=3, **look)
        if name == "base" and metric == "validation_accuracy":
            axes.axhline(at[metric].mean, color="black", linestyle=":", linewidth=0.7, zorder=1.5)
