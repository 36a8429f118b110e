"""How much memory fine-tuning brings back, and what it does to validation accuracy."""

import math
import statistics
from pathlib import Path

from vitmem.figures import style
from vitmem.figures.tables import read_attacks

UNSEEN = "recovery_unseen"
HEADER = ["id", "arm", "lr", "step", "metric", "mean", "sd", "seeds"]
PANELS = {
    "recovery": "recovery (0 retrain, 1 unedited)",
    UNSEEN: "recovery, labels no edit knew (0 retrain, 1 unedited)",
    "validation_accuracy": "validation accuracy (fraction)",
}
COLORS = (style.BLUE, style.GREEN, style.VERMILLION, style.PURPLE, style.GREY, "#E69F00", "#56B4E9", "#882255")
STYLES = ("-", "--", ":", "-.")


@style.look()
def draw(attacks_csv: Path, out: Path) -> list[Path]:
    """Draw, for each edit that was relearnt, recovery and validation accuracy against steps, as means over seeds.

    Recovery is that of the wrong labels that no edit knew, for every edit alike; of all, where that was not measured.

    Args:
        attacks_csv: table of the attacks of an experiment.
        out: folder of the figures ``relearning_<id>``.

    Returns:
        The PNGs.
    """
    rows = [row for row in read_attacks(attacks_csv) if row["name"] == "relearn"]
    unseen = any(row["metric"] == UNSEEN for row in rows)
    shown = (UNSEEN if unseen else "recovery", "validation_accuracy")
    rows = [row for row in rows if row["metric"] in shown and not math.isnan(row["step"])]
    drawn = dict.fromkeys((row["id"], row["attack"]) for row in rows if row["id"] not in ("base", "retrain", "clean"))
    return [_draw_edit(*key, [row for row in rows if (row["id"], row["attack"]) == key], out) for key in drawn]


def curves(rows: list[dict]) -> dict[tuple[str, float, str], list[tuple[float, float, float, int]]]:
    """Return step, mean, sd and number of seeds, by arm, learning rate and metric; unmeasured values are left out."""
    measured: dict[tuple, dict[float, list[float]]] = {}
    for row in rows:
        values = measured.setdefault((row["arm"], row["lr"], row["metric"]), {}).setdefault(row["step"], [])
        if not math.isnan(row["value"]):
            values.append(row["value"])
    return {
        key: [
            (step, statistics.fmean(v), statistics.stdev(v) if len(v) > 1 else math.nan, len(v))
            for step, v in sorted(steps.items())
            if v
        ]
        for key, steps in measured.items()
    }


def _draw_edit(edit: str, attack: str, rows: list[dict], out: Path) -> Path:
    name = edit if attack == "relearn" else f"{edit}_{attack}"
    found = curves(rows)
    arms, lrs = (list(dict.fromkeys(key[i] for key in found)) for i in (0, 1))
    figure = style.new_figure(style.WIDE, 2.7 + 0.14 * math.ceil(len(arms) * len(lrs) / 4))
    metrics = list(dict.fromkeys(row["metric"] for row in rows))
    metrics.sort(key=list(PANELS).index)
    panels = dict(zip(metrics, figure.subplots(1, len(metrics), squeeze=False)[0], strict=True))
    for metric, axes in panels.items():
        for (arm, lr, its_metric), points in found.items():
            if its_metric != metric or not points:
                continue
            step, mean, *_ = zip(*points, strict=True)
            label = arm if len(lrs) == 1 else f"{arm}, lr {lr:g}"
            look = {"color": COLORS[arms.index(arm) % len(COLORS)], "linestyle": STYLES[lrs.index(lr) % len(STYLES)]}
            axes.plot(step, mean, marker="o", markersize=2.5, linewidth=1.0, label=label, **look)
        axes.set_xscale("symlog", linthresh=1)
        axes.set(xlabel="steps of fine-tuning", ylabel=PANELS[metric], xlim=(0, None))
    first = panels[metrics[0]]
    for height in (0, 1) if metrics[0] != "validation_accuracy" else ():
        first.axhline(height, color="black", linestyle=":", linewidth=0.7, zorder=1.5)
    handles, labels = panels[metrics[-1]].get_legend_handles_labels()
    seeds = max((point[3] for points in found.values() for point in points), default=0)
    title = f"{name}: mean over {seeds} seeds" if seeds > 1 else f"{name}: 1 seed"
    figure.legend(handles, labels, loc="outside lower center", ncols=4, handlelength=2.6, title=title)
    table = [(name, arm, lr, p[0], metric, *p[1:]) for (arm, lr, metric), points in found.items() for p in points]
    return style.save(figure, out, f"relearning_{name}", HEADER, table)
