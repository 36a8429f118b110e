"""Methods side by side at an operating point, grouped by what they may know."""

import math
from collections.abc import Iterator
from pathlib import Path

from matplotlib.lines import Line2D

from vitmem.figures import style
from vitmem.figures.palette import Palette
from vitmem.figures.tables import read_csv
from vitmem.figures.words import UNTUNED

HEADER = ["point", "track", "method", "metric", "mean", "sd", "usable_seeds", "status"]
TEXT = ("method", "point", "track", "status")
SHOWN = {
    "memorized_unseen_accuracy": ("memorized, unseen", style.VERMILLION, "o"),
    "ground_truth_unseen_accuracy": ("ground truth, unseen", style.GREEN, "s"),
    "validation_held_out_accuracy": ("validation, held out", style.PURPLE, "D"),
}
POINTS = {"best": "best ground truth within the drop", "at0.2": "memorized nearest 0.2"}
TRACKS = (
    "",
    "label-free",
    "initial weights",
    "right labels",
    "known noisy examples",
)  # in this order; further ones are bounds


@style.look()
def draw(comparison_csv: Path, out: Path) -> list[Path]:
    """Draw three accuracies of every method, on examples that it knew nothing of, with sd over seeds.

    Methods of one track stand together, the highest ground truth first; those that failed in some seed say in
    how many they did not, those that no seed could use have no mark, and say why.

    Args:
        comparison_csv: table of an experiment whose edits were tuned.
        out: folder of the figure ``comparison``.

    Returns:
        The PNG.
    """
    lines, palette = read_csv(comparison_csv, TEXT), Palette.beside(comparison_csv, "method")
    order = ordered(lines)
    figure, panels = style.panels(len(POINTS), 0.5 + 0.17 * len(order), 0.5, least=3.0, sharey=True)
    table = []
    for axes, (point, title) in zip(panels, POINTS.items(), strict=True):
        for place, (track, method) in enumerate(order):
            if line := find(lines, method, point):
                table += [(point, track, method, *cells) for cells in _draw_line(axes, place, line)]
        axes.set(xlabel="accuracy (fraction)", xlim=(-0.02, 1.02), ylim=(len(order) - 0.5, -0.5))
        axes.set_title(style.wrapped(title, 1.6, 8), fontsize=style.points(8))
    room = 0.35 * style.width_of(style.WIDE) / style.inches(1)
    names = [style.wrapped(named(lines, method, palette.title(method)), room, 7) for _, method in order]
    panels[0].set_yticks(range(len(order)), names, linespacing=0.8)
    for axes in panels:
        in_last_column = axes is panels[-1] or panels[0].get_gridspec().ncols == 1
        _frame_tracks(axes, [track for track, _ in order], in_last_column)
    handles = [Line2D([], [], color=color, marker=marker, linestyle="") for _, color, marker in SHOWN.values()]
    style.legend(figure, handles, [label for label, *_ in SHOWN.values()], note(lines))
    return [style.save(figure, out, "comparison", HEADER, table)]


def note(lines: list[dict]) -> str:
    """Return what stands under the figure: what the bars are, and which operating points are in the table alone."""
    seeds = max((line["seeds"] for line in lines), default=0)
    others = [point for point in dict.fromkeys(line["point"] for line in lines) if point.startswith("at")]
    others = [point.removeprefix("at") for point in others if point not in POINTS]
    parts = [f"bars: ± sd over {seeds:g} seeds, without those that failed" if seeds > 1 else "1 seed"]
    parts += [f"memorized nearest {', '.join(others)}: in comparison.csv"] if others else []
    return "; ".join(parts)


def _draw_line(axes, place: int, line: dict) -> Iterator[tuple]:
    """Draw one method at one point; yield metric, mean, sd, usable seeds and status."""
    for metric, (_, color, marker) in SHOWN.items():
        mean, sd = line[metric], line[f"{metric}_sd"]
        look = {"color": color, "marker": marker, "linestyle": "", "elinewidth": style.points(0.7)}
        axes.errorbar(mean, place, xerr=None if math.isnan(sd) else sd, **look)
        yield metric, mean, sd, line["usable_seeds"], line["status"]
    if math.isnan(line["memorized_unseen_accuracy"]) and line["status"]:
        axes.text(0.01, place, line["status"][:40], color=style.GREY, fontsize=style.points(5.5), va="center")


def _frame_tracks(axes, tracks: list[str], named: bool) -> None:
    """Separate methods by what they may know, and write it beside them."""
    starts = [place for place, track in enumerate(tracks) if place == 0 or tracks[place - 1] != track]
    for start, end in zip(starts, [*starts[1:], len(tracks)], strict=True):
        if start:
            axes.axhline(start - 0.5, color="black", linewidth=style.points(0.6))
        if named:
            is_track = tracks[start] in TRACKS
            text = style.wrapped(tracks[start], 0.17 * (end - start), 6) if is_track else "bound"
            look = {"fontsize": style.points(6), "va": "center", "rotation": -90 if is_track else 0}
            axes.text(1.03, (start + end - 1) / 2, text, **look)


def ordered(lines: list[dict]) -> list[tuple[str, str]]:
    """Return track and method of every line: references as they come, then track by track, the best method first."""

    def rank(pair: tuple[str, str]) -> tuple[int, float]:
        track, method = pair
        best = find(lines, method, "best")
        value = best["ground_truth_unseen_accuracy"] if best and track else 0.0
        return TRACKS.index(track) if track in TRACKS else len(TRACKS), math.inf if math.isnan(value) else -value

    return sorted(dict.fromkeys((line["track"].removesuffix(" (tuned)"), line["method"]) for line in lines), key=rank)


def named(lines: list[dict], method: str, words: str) -> str:
    """Return a method's words and, if the edit failed in some seed, in how many it did not."""
    best = find(lines, method, "best")
    return f"{words} ({best['usable_seeds']:g} of {best['seeds']:g})" if best and best["status"] else words


def find(lines: list[dict], method: str, point: str) -> dict | None:
    """Return the line of a method at a point; references and what was not tuned have one for all points."""
    own = [line for line in lines if line["method"] == method]
    return next((line for line in own if line["point"] in (point, "reference", UNTUNED)), None)
