"""Memory and validation accuracy against the bit width of the weights."""

from pathlib import Path

from matplotlib.lines import Line2D

from vitmem.figures import multiples, style
from vitmem.figures.palette import REFERENCES, Palette
from vitmem.figures.tables import Mean, mean_of, read_attacks

HEADER = ["id", "bits", "metric", "mean", "sd", "seeds"]
PANELS = {"memorized_accuracy": "memorized", "validation_accuracy": "validation"}
LOOKS = {"memorized_accuracy": ("s", "--"), "validation_accuracy": ("o", "-")}  # where both share a panel

Curves = dict[tuple[str, str], list[Mean]]  # by id and metric, over the bit widths


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
    palette = Palette.beside(attacks_csv)
    ids = palette.ordered(row["id"] for row in rows)
    by_place: dict[tuple, list[float]] = {}
    for row in rows:
        by_place.setdefault((row["id"], row["metric"], row["bits"]), []).append(row["value"])
    curves = {
        (name, metric): [mean_of(by_place.get((name, metric, width), ())) for width in widths]
        for name in ids
        for metric in PANELS
    }
    seeds = max(mean.seeds for means in curves.values() for mean in means)
    note = f"bits per weight, head {shown}; " + (f"bars: ± sd over {seeds} seeds" if seeds > 1 else "1 seed")
    edits = [name for name in ids if name not in REFERENCES]
    figure = (_draw_apart if len(edits) > multiples.MOST else _draw_together)(palette, ids, widths, curves, note)
    table = [
        (name, width, metric, *mean)
        for (name, metric), means in curves.items()
        for width, mean in zip(widths, means, strict=True)
    ]
    return [style.save(figure, out, "bits", HEADER, table)]


def _draw_together(palette: Palette, ids: list[str], widths: list[float], curves: Curves, note: str):
    figure, found = style.panels(len(PANELS), 2.4, 0.5)
    for (metric, label), axes in zip(PANELS.items(), found, strict=True):
        for name in ids:
            _draw_curve(axes, curves[name, metric], palette.look(name))
        axes.set(xlabel="bits per weight", ylabel=f"{label} (fraction)")
        _frame(axes, widths)
    style.legend(figure, [Line2D([], [], **palette.look(name)) for name in ids], [*map(palette.words, ids)], note)
    return figure


def _draw_apart(palette: Palette, ids: list[str], widths: list[float], curves: Curves, note: str):
    shown = [name for name in ids if name != "base"]
    figure, found = multiples.grid(len(shown), 0.7)
    for axes, name in zip(found, shown, strict=True):
        color = palette.look(name)["color"]
        for metric, (marker, dash) in LOOKS.items():
            if name != "base" and ("base", metric) in curves:
                look = {"color": style.GREY, "marker": "", "linestyle": dash}
                _draw_curve(axes, curves["base", metric], look, 0.6)
            _draw_curve(axes, curves[name, metric], {"color": color, "marker": marker, "linestyle": dash})
        multiples.name(axes, palette.words(name), color)
        _frame(axes, widths)
    multiples.axis_names(figure, "bits per weight", "accuracy (fraction)")
    handles = [Line2D([], [], color="black", marker=marker, linestyle=dash) for marker, dash in LOOKS.values()]
    labels = list(PANELS.values())
    if "base" in ids:
        handles.append(Line2D([], [], color=style.GREY, linewidth=style.points(0.6)))
        labels.append(f"grey: {palette.words('base')}")
    style.legend(figure, handles, labels, note, "upper")
    return figure


def _draw_curve(axes, means: list[Mean], look: dict, width: float = 1.0) -> None:
    bars = {"yerr": [mean.sd for mean in means], "elinewidth": style.points(0.5), "linewidth": style.points(width)}
    size = {"markersize": style.points(3 if look["linestyle"] != ":" else 4)}
    axes.errorbar(range(len(means)), [mean.mean for mean in means], **look, **bars, **size)


def _frame(axes, widths: list[float]) -> None:
    axes.set_ylim(-0.03, 1.03)
    axes.set_xticks(range(len(widths)), [f"{width:g}" for width in widths])
