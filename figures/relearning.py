"""How much memory fine-tuning brings back, and what it does to validation accuracy."""

import math
from pathlib import Path

from matplotlib.lines import Line2D

from vitmem.figures import style
from vitmem.figures.palette import Palette, looks
from vitmem.figures.tables import mean_of, read_attacks, read_results

# What is drawn of an edit with or without a forget set: the first that was measured; and of which wrong labels it is.
RECOVERIES = {True: ("recovery_known", "recovery"), False: ("recovery_unseen", "recovery")}
OF = {"recovery_known": "known wrong labels", "recovery_unseen": "unseen wrong labels", "recovery": "all wrong labels"}
HEADER = ["id", "arm", "lr", "step", "metric", "mean", "sd", "seeds"]
OTHER = {"validation_accuracy": "validation (fraction)"}  # panels beside recovery


LINES = ("-", "--", ":", "-.")  # of learning rates


@style.look()
def draw(attacks_csv: Path, out: Path) -> list[Path]:
    """Draw, for each edit that was relearnt, recovery and validation accuracy against steps: means and sd over seeds.

    Of an edit with a forget set, recovery is that of the wrong labels that it knew, where that was a part of them; of
    all others, which knew none, that of those that no edit knew. Which edits had one is told by the track in the
    ``results.csv`` beside the table; without it none is taken to have had one.

    Args:
        attacks_csv: table of the attacks of an experiment.
        out: folder of the figures ``relearning_<id>``.

    Returns:
        The PNGs.
    """
    rows = [row for row in read_attacks(attacks_csv) if row["name"] == "relearn" and not math.isnan(row["step"])]
    results = attacks_csv.with_name("results.csv")
    told = {row["id"] for row in read_results(results) if "known" in str(row.get("track"))} if results.exists() else ()
    shown = (*OF, *OTHER)
    palette = Palette.beside(attacks_csv)
    drawn = dict.fromkeys(
        (row["id"], row["attack"])
        for row in rows
        if row["metric"] in shown and row["id"] not in ("base", "retrain", "clean")
    )
    return [
        _draw_edit(*key, [row for row in rows if (row["id"], row["attack"]) == key], key[0] in told, palette, out)
        for key in drawn
    ]


def curves(rows: list[dict]) -> dict[tuple[str, float, str], list[tuple[float, float, float, int]]]:
    """Return step, mean, sd and number of seeds, by arm, learning rate and metric; unmeasured values are left out."""
    measured: dict[tuple, dict[float, list[float]]] = {}
    for row in rows:
        values = measured.setdefault((row["arm"], row["lr"], row["metric"]), {}).setdefault(row["step"], [])
        if not math.isnan(row["value"]):
            values.append(row["value"])
    return {
        key: [(step, *mean_of(values)) for step, values in sorted(steps.items()) if values]
        for key, steps in measured.items()
    }


def _draw_edit(edit: str, attack: str, rows: list[dict], told: bool, palette: Palette, out: Path) -> Path:
    name = edit if attack == "relearn" else f"{edit}_{attack}"
    measured = {row["metric"] for row in rows}
    recovery = next((metric for metric in RECOVERIES[told] if metric in measured), "recovery")
    labels_of = {recovery: f"recovery of {OF[recovery]}\n(0 retrain, 1 unedited)", **OTHER}
    found = curves([row for row in rows if row["metric"] in labels_of])
    arms, lrs = (list(dict.fromkeys(key[i] for key in found)) for i in (0, 1))
    kinds = dict.fromkeys(key[:2] for key in found)
    look = {(arm, lr): looks(arms)[arm] | {"linestyle": LINES[lrs.index(lr) % len(LINES)]} for arm, lr in kinds}
    figure, panels = style.panels(len(labels_of), 2.5, 0.5)
    panels = dict(zip(labels_of, panels, strict=True))
    for (arm, lr, metric), points in found.items():
        step, mean, sd, _ = zip(*points, strict=True) if points else ((),) * 4
        bars = {"yerr": sd, "elinewidth": style.points(0.6), "markersize": style.points(2.5)}
        panels[metric].errorbar(step, mean, **look[arm, lr], **bars)
    for metric, axes in panels.items():
        axes.set_xscale("symlog", linthresh=1)
        axes.set(xlabel="steps of fine-tuning", ylabel=labels_of[metric], xlim=(0, None))
    for height in (0, 1):
        panels[recovery].axhline(height, color="black", linestyle=":", linewidth=style.points(0.7), zorder=1.5)
    handles = [Line2D([], [], **its) for its in look.values()]
    labels = [arm if len(lrs) == 1 else f"{arm}, lr {lr:g}" for arm, lr in look]
    seeds = max((point[3] for points in found.values() for point in points), default=0)
    title = palette.words(edit) if attack == "relearn" else f"{palette.words(edit)} ({attack})"
    title += f": mean, bars ± sd over {seeds} seeds" if seeds > 1 else ": 1 seed"
    style.legend(figure, handles, labels, title)
    table = [(name, arm, lr, p[0], metric, *p[1:]) for (arm, lr, metric), points in found.items() for p in points]
    return style.save(figure, out, f"relearning_{name}", HEADER, table)
