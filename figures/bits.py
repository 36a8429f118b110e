"""Memory and validation accuracy against the bit width of the weights."""

import math
import statistics
from pathlib import Path

from vitmem.figures import style
from vitmem.figures.tables import read_attacks

HEADER = ["id", "bits", "metric", "mean", "sd", "seeds"]
PANELS = {
    "memorized_accuracy": "memorized accuracy (fraction)",
    "validation_accuracy": "validation accuracy (fraction)",
}
COLORS = (style.BLUE, style.VERMILLION, style.GREEN, style.PURPLE, "#E69F00", "#56B4E9", style.GREY, "#882255")
REFERENCES = {"base": ("black", "*"), "retrain": ("black", "H"), "clean": ("black", "P")}
MARKERS = ("o", "s", "^", "D", "v", "X", "<", ">")


@style.look()
def draw(attacks_csv: Path, out: Path) -> list[Path]:
    """Draw what rounding does to every attacked model: one scale per row, the head quantised if that was measured.

    Args:
        attacks_csv: table of the attacks of an experiment.
        out: folder of the figure ``bits``.

    Returns:
        The PNG, or nothing where fewer than two bit widths were measured.
    """
    rows = [row for row in read_attacks(attacks_csv) if row["name"] == "quantize" and row["metric"] in PANELS]
    heads = {row["head"] for row in rows}
    shown = "quantized" if "quantized" in heads else "kept"
    rows = [row for row in rows if row["group"] == "row" and row["head"] == shown]
    widths = sorted({row["bits"] for row in rows})
    if len(widths) < 2:
        return []
    ids = list(dict.fromkeys(row["id"] for row in rows))
    figure = style.new_figure(style.WIDE, 2.7 + 0.14 * math.ceil(len(ids) / 4))
    panels = dict(zip(PANELS, figure.subplots(1, len(PANELS)), strict=True))
    edits = [name for name in ids if name not in REFERENCES]
    table = []
    for name in ids:
        color, marker = REFERENCES.get(name) or _look(edits.index(name))
        for metric, axes in panels.items():
            own = [row for row in rows if (row["id"], row["metric"]) == (name, metric)]
            points = [(bits, *_mean([row["value"] for row in own if row["bits"] == bits])) for bits in widths]
            line = {"color": color, "marker": marker, "linestyle": ":" if name in REFERENCES else "-", "linewidth": 1.0}
            axes.plot(range(len(widths)), [point[1] for point in points], label=name, **line)
            table += [(name, bits, metric, *rest) for bits, *rest in points]
    for metric, axes in panels.items():
        axes.set(xlabel=f"bits per weight (head {shown})", ylabel=PANELS[metric], ylim=(-0.03, 1.03))
        axes.set_xticks(range(len(widths)), [f"{bits:g}" for bits in widths])
    handles, labels = panels["validation_accuracy"].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, handlelength=2.6)
    return [style.save(figure, out, "bits", HEADER, table)]


def _look(number: int) -> tuple[str, str]:
    return COLORS[number % len(COLORS)], MARKERS[number % len(MARKERS)]


def _mean(values: list[float]) -> tuple[float, float, int]:
    known = [value for value in values if not math.isnan(value)]
    mean = statistics.fmean(known) if known else math.nan
    return mean, statistics.stdev(known) if len(known) > 1 else math.nan, len(known)
