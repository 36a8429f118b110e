"""One page for each edit: the six criteria, what each attack brought back, and the verdict."""

import math
import statistics
from pathlib import Path

from vitmem.figures import style
from vitmem.figures.tables import read_csv

HEADER = ["id", "criterion", "mean", "min", "max", "seeds", "reason"]
CRITERIA = ("verbatim", "views", "privacy", "utility", "scale", "sustained")
BACK = ("back_relearn", "back_quantize", "back_views", "back_compress")
TEXT = ("experiment", "id", "criterion", "reason")


@style.look()
def draw(scorecard_csv: Path, out: Path) -> list[Path]:
    """Draw the scorecard of every edit, as mean over seeds with whiskers from the lowest to the highest.

    Args:
        scorecard_csv: table of the scorecards of an experiment.
        out: folder of the figures ``scorecard_<id>``.

    Returns:
        The PNGs.
    """
    rows = read_csv(scorecard_csv, TEXT)
    ids = [name for name in dict.fromkeys(row["id"] for row in rows) if name not in ("base", "retrain", "clean")]
    return [_draw_edit(name, [row for row in rows if row["id"] == name], out) for name in ids]


def summarise(rows: list[dict], criterion: str) -> tuple[float, float, float, int, str]:
    """Return mean, lowest and highest value, number of seeds, and why there is no value where there is none."""
    own = [row for row in rows if row["criterion"] == criterion]
    values = [row["value"] for row in own if not math.isnan(row["value"])]
    if values:
        return statistics.fmean(values), min(values), max(values), len(values), ""
    return math.nan, math.nan, math.nan, 0, own[0]["reason"] if own else "not measured"


def _draw_edit(name: str, rows: list[dict], out: Path) -> Path:
    figure = style.new_figure(style.WIDE, 2.6)
    left, right = figure.subplots(1, 2, width_ratios=(len(CRITERIA), len(BACK)))
    table = []
    for axes, criteria, color, title in (
        (left, CRITERIA, style.BLUE, "criteria (1: as good as is hoped for)"),
        (right, BACK, style.VERMILLION, "memory brought back (share of base's)"),
    ):
        found = {criterion: summarise(rows, criterion) for criterion in criteria}
        table += [(name, criterion, *cells) for criterion, cells in found.items()]
        labels = [criterion.removeprefix("back_") for criterion in criteria]
        for place, (mean, low, high, seeds, _) in enumerate(found.values()):
            if not seeds:
                axes.text(0.01, place, "not measured", color=style.GREY, fontsize=6.5, va="center")
                continue
            axes.barh(place, mean, height=0.6, color=color)
            axes.errorbar(mean, place, xerr=[[max(0, mean - low)], [max(0, high - mean)]], color="black", capsize=1.8)
        axes.set_yticks(range(len(criteria)), labels)
        axes.invert_yaxis()
        axes.set(xlabel=title, xlim=(min(0, *(c[1] for c in found.values() if c[3]), 0), 1.05))
    final = next((row for row in rows if row["criterion"] == "durable"), None)
    table += [(name, "durable", final["value"], None, None, None, final["reason"])] if final else []
    figure.suptitle(f"{name}\n{final['reason'] if final else ''}", fontsize=7.5, wrap=True)
    return style.save(figure, out, f"scorecard_{name}", HEADER, table)
