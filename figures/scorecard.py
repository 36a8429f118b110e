"""One page for each edit: the six criteria, what each attack brought back, and the verdict with its numbers."""

import math
import statistics
from pathlib import Path

from vitmem.figures import style
from vitmem.figures.tables import read_csv

HEADER = ["id", "criterion", "mean", "min", "max", "low", "high", "seeds", "reason"]
CRITERIA = ("verbatim", "views", "privacy", "utility", "scale", "sustained")
BACK = ("back_relearn", "back_quantize", "back_views", "back_compress")
JUDGED = ("durable_left", "durable_back")  # what the verdict is about, with its 95 % interval
LABELS = {"durable_left": "left", "durable_back": "strongest"}
TEXT = ("experiment", "id", "criterion", "reason", "population")


@style.look()
def draw(scorecard_csv: Path, out: Path) -> list[Path]:
    """Draw the scorecard of every edit, as mean over seeds with whiskers from the lowest to the highest.

    What the verdict is about has its 95 % interval as whiskers, where there is one.

    Args:
        scorecard_csv: table of the scorecards of an experiment.
        out: folder of the figures ``scorecard_<id>``.

    Returns:
        The PNGs.
    """
    rows = read_csv(scorecard_csv, TEXT)
    ids = [name for name in dict.fromkeys(row["id"] for row in rows) if name not in ("base", "retrain", "clean")]
    return [_draw_edit(name, [row for row in rows if row["id"] == name], out) for name in ids]


def summarise(rows: list[dict], criterion: str) -> tuple:
    """Return mean, lowest and highest value, ends of an interval, number of seeds, and why there is no value.

    What the verdict is about is one number for all seeds, with an interval where tables hold one.
    """
    own = [row for row in rows if row["criterion"] == criterion]
    values = [row["value"] for row in own if not math.isnan(row["value"])]
    if not values:
        return *[math.nan] * 5, 0, own[0]["reason"] if own else "not measured"
    if criterion in JUDGED:
        seeds = len({row["seed"] for row in rows if row["criterion"] == "left"})
        return values[0], math.nan, math.nan, own[0]["low"], own[0]["high"], seeds, ""
    return statistics.fmean(values), min(values), max(values), math.nan, math.nan, len(values), ""


def _draw_edit(name: str, rows: list[dict], out: Path) -> Path:
    figure = style.new_figure(style.WIDE, 2.6)
    judged = JUDGED if any(row["criterion"] in JUDGED for row in rows) else ()  # older tables have none
    left, right = figure.subplots(1, 2, width_ratios=(len(CRITERIA), len(BACK)))
    table = []
    for axes, criteria, color, title in (
        (left, CRITERIA, style.BLUE, "criteria (1: as good as is hoped for)"),
        (right, (*BACK, *judged), style.VERMILLION, "memory back, or left (share of base's)"),
    ):
        found = {criterion: summarise(rows, criterion) for criterion in criteria}
        table += [(name, criterion, *cells) for criterion, cells in found.items()]
        edges = [0.0]
        for place, (criterion, (mean, low, high, *ends, seeds, _)) in enumerate(found.items()):
            if not seeds:
                axes.text(0.01, place, "not measured", color=style.GREY, fontsize=6.5, va="center")
                continue
            low, high = ends if criterion in JUDGED else (low, high)
            axes.barh(place, mean, height=0.6, color=style.PURPLE if criterion in JUDGED else color)
            if not math.isnan(low):
                whiskers = [[max(0, mean - low)], [max(0, high - mean)]]
                axes.errorbar(mean, place, xerr=whiskers, color="black", capsize=1.8)
                edges.append(low)
        axes.set_yticks(range(len(criteria)), [LABELS.get(c, c.removeprefix("back_")) for c in criteria])
        axes.set(xlabel=title, xlim=(min(edges), 1.05), ylim=(len(criteria) - 0.5, -0.5))
    final = next((row for row in rows if row["criterion"] == "durable"), None)
    table += [(name, "durable", final["value"], *[None] * 5, final["reason"])] if final else []
    of = f"; of {final['population'].partition(' (')[0]}" if final and final.get("population") else ""
    figure.suptitle(f"{name}\n{final['reason'] if final else ''}{of}", fontsize=7.5, wrap=True)
    return style.save(figure, out, f"scorecard_{name}", HEADER, table)
