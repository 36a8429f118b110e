"""One page for each edit: the six criteria, what each attack brought back, and the verdict with its numbers."""

import math
from pathlib import Path

from vitmem.figures import style
from vitmem.figures.palette import REFERENCES, Palette
from vitmem.figures.tables import mean_of, read_csv

HEADER = ["id", "criterion", "mean", "sd", "min", "max", "low", "high", "seeds", "reason"]
CRITERIA = ("verbatim", "views", "privacy", "utility", "scale", "sustained")
BACK = ("back_relearn", "back_quantize", "back_views", "back_compress")
JUDGED = ("durable_left", "durable_back")  # what the verdict is about, with its 95 % interval
LABELS = {"durable_left": "left", "durable_back": "strongest"}
TEXT = ("experiment", "id", "criterion", "reason", "population")


@style.look()
def draw(scorecard_csv: Path, out: Path) -> list[Path]:
    """Draw the scorecard of every edit, as mean over seeds with whiskers of ± sd.

    What the verdict is about has its 95 % interval as whiskers, where there is one.

    Args:
        scorecard_csv: table of the scorecards of an experiment.
        out: folder of the figures ``scorecard_<id>``.

    Returns:
        The PNGs.
    """
    rows, palette = read_csv(scorecard_csv, TEXT), Palette.beside(scorecard_csv)
    ids = [name for name in dict.fromkeys(row["id"] for row in rows) if name not in REFERENCES]
    return [_draw_edit(name, palette.words(name), [row for row in rows if row["id"] == name], out) for name in ids]


def summarise(rows: list[dict], criterion: str) -> tuple:
    """Return mean, sd, lowest and highest value, ends of an interval, number of seeds, and why there is no value.

    What the verdict is about is one number for all seeds, with an interval where tables hold one.
    """
    own = [row for row in rows if row["criterion"] == criterion]
    values = [row["value"] for row in own if not math.isnan(row["value"])]
    if not values:
        return *[math.nan] * 6, 0, own[0]["reason"] if own else "not measured"
    if criterion in JUDGED:
        seeds = len({row["seed"] for row in rows if row["criterion"] == "left"})
        return values[0], *[math.nan] * 3, own[0]["low"], own[0]["high"], seeds, ""
    mean, sd, seeds = mean_of(values)
    return mean, sd, min(values), max(values), math.nan, math.nan, seeds, ""


def _draw_edit(name: str, words: str, rows: list[dict], out: Path) -> Path:
    figure, (left, right) = style.panels(2, 2.2, 0.5, least=2.6)
    judged = JUDGED if any(row["criterion"] in JUDGED for row in rows) else ()  # older tables have none
    table, most = [], 0
    for axes, criteria, color, title in (
        (left, CRITERIA, style.BLUE, "criteria (1: as good as is hoped for)"),
        (right, (*BACK, *judged), style.VERMILLION, "memory back, or left (share of base's)"),
    ):
        found = {criterion: summarise(rows, criterion) for criterion in criteria}
        table += [(name, criterion, *cells) for criterion, cells in found.items()]
        most = max(most, *(cells[-2] for cells in found.values()))
        edges = [0.0, 1.05]
        for place, (criterion, cells) in enumerate(found.items()):
            edges += _draw_bar(axes, place, style.PURPLE if criterion in JUDGED else color, cells)
        axes.set_yticks(range(len(criteria)), [LABELS.get(c, c.removeprefix("back_")) for c in criteria])
        axes.set(xlabel=title, xlim=(min(edges), max(edges)), ylim=(len(criteria) - 0.5, -0.5))
    final = next((row for row in rows if row["criterion"] == "durable"), None)
    table += [(name, "durable", final["value"], *[None] * 6, final["reason"])] if final else []
    of = f"; of {final['population'].partition(' (')[0]}" if final and final.get("population") else ""
    bars = f"whiskers: ± sd over {most} seeds" if most > 1 else "1 seed"
    bars += "; of left and strongest: 95 % interval" if judged else ""
    style.legend(figure, [], [], "\n".join([words, *([final["reason"] + of] if final else []), bars]), "upper")
    return style.save(figure, out, f"scorecard_{name}", HEADER, table)


def _draw_bar(axes, place: int, color: str, cells: tuple) -> list[float]:
    """Draw one criterion, as ``summarise`` returns it, and return the ends of its whiskers."""
    mean, sd, _, _, low, high, seeds, _ = cells
    if not seeds:
        axes.text(0.01, place, "not measured", color=style.GREY, fontsize=style.points(6.5), va="center")
        return []
    axes.barh(place, mean, height=0.6, color=color)
    low, high = (mean - sd, mean + sd) if math.isnan(low) else (low, high)
    if math.isnan(low):
        return [mean]
    whiskers = [[max(0, mean - low)], [max(0, high - mean)]]
    axes.errorbar(mean, place, xerr=whiskers, color="black", capsize=style.points(1.8))
    return [low, high]
