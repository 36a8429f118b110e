"""Methods side by side at an operating point, grouped by what they may know."""

import math
import textwrap
from pathlib import Path

from vitmem.figures import style
from vitmem.figures.tables import read_csv

HEADER = ["point", "track", "method", "metric", "mean", "sd", "usable_seeds", "status"]
TEXT = ("method", "point", "track", "status")
SHOWN = {
    "memorized_unseen_accuracy": ("memorized, unseen", style.VERMILLION, "o"),
    "ground_truth_unseen_accuracy": ("ground truth, unseen", style.GREEN, "s"),
    "validation_held_out_accuracy": ("validation, held out", style.PURPLE, "D"),
}
POINTS = {"best": "best ground truth within the drop", "at0.2": "memorized nearest 0.2"}
UNTUNED = "default"
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
    lines = read_csv(comparison_csv, TEXT)
    order = ordered(lines)
    starts = [(i, track) for i, (track, _) in enumerate(order) if i == 0 or order[i - 1][0] != track]
    figure = style.new_figure(style.WIDE, 0.9 + 0.17 * len(order))
    table = []
    for axes, (point, title) in zip(figure.subplots(1, 2, sharey=True), POINTS.items(), strict=True):
        for place, (track, method) in enumerate(order):
            line = find(lines, method, point)
            if line is None:
                continue
            for metric, (label, color, marker) in SHOWN.items():
                mean, sd = line[metric], line[f"{metric}_sd"]
                table.append((point, track, method, metric, mean, sd, line["usable_seeds"], line["status"]))
                bar = None if math.isnan(sd) else sd
                look = {"color": color, "marker": marker, "linestyle": "", "elinewidth": 0.7}
                axes.errorbar(mean, place, xerr=bar, label=label if place == 0 else None, **look)
            if math.isnan(line["memorized_unseen_accuracy"]) and line["status"]:
                axes.text(0.01, place, line["status"][:40], color=style.GREY, fontsize=5.5, va="center")
        for place in (place for place, _ in starts[1:]):
            axes.axhline(place - 0.5, color="black", linewidth=0.6)
        axes.set(xlabel="accuracy (fraction)", xlim=(-0.02, 1.02), ylim=(len(order) - 0.5, -0.5))
        axes.set_title(title, fontsize=8)
    figure.axes[0].set_yticks(range(len(order)), [named(lines, method) for _, method in order])
    for (place, track), (end, _) in zip(starts, [*starts[1:], (len(order), "")], strict=True):
        text = textwrap.fill(track, 4 * (end - place)) if track in TRACKS else "bound"
        angle = -90 if track in TRACKS else 0
        figure.axes[1].text(1.03, (place + end - 1) / 2, text, fontsize=6, va="center", rotation=angle)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return [style.save(figure, out, "comparison", HEADER, table)]


def ordered(lines: list[dict]) -> list[tuple[str, str]]:
    """Return track and method of every line: references as they come, then track by track, the best method first."""

    def rank(pair: tuple[str, str]) -> tuple[int, float]:
        track, method = pair
        best = find(lines, method, "best")
        value = best["ground_truth_unseen_accuracy"] if best and track else 0.0
        return TRACKS.index(track) if track in TRACKS else len(TRACKS), math.inf if math.isnan(value) else -value

    return sorted(dict.fromkeys((line["track"].removesuffix(" (tuned)"), line["method"]) for line in lines), key=rank)


def named(lines: list[dict], method: str) -> str:
    """Return a method's name and, if the edit failed in some seed, in how many it did not."""
    best = find(lines, method, "best")
    return f"{method} ({best['usable_seeds']:g} of {best['seeds']:g})" if best and best["status"] else method


def find(lines: list[dict], method: str, point: str) -> dict | None:
    """Return the line of a method at a point; references and what was not tuned have one for all points."""
    own = [line for line in lines if line["method"] == method]
    return next((line for line in own if line["point"] in (point, "reference", UNTUNED)), None)
