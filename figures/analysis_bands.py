"""How much stronger components answer to memorised than to clean images, by bands of curvature."""

from pathlib import Path

from matplotlib.lines import Line2D

from vitmem.figures import style
from vitmem.figures.over_seeds import estimate, grouped, seeds_of

ORDERS = {
    "curvature": (style.VERMILLION, "o", "by curvature"),
    "svd": (style.BLUE, "s", "by singular value"),
    "random": (style.GREY, "^", "at random"),
}
DEFINITIONS = {"input": "inputs along the components", "output": "the components' part of the output"}
HEADER = ["id", "layer", "order", "definition", "band", "ratio", "ratio_low", "ratio_high", "seeds"]


@style.look()
def draw(rows: list[dict], out: Path, name: str) -> list[Path]:
    """Draw the ratios of all layers together, of base and beside it, hollow, of retrain.

    See ``vitmem.figures.analyses``.
    """
    found = {key: estimate(own, "ratio") for key, own in grouped(rows, *HEADER[:5]).items()}
    subjects = [s for s in ("base", "retrain") if any(key[0] == s for key in found)] or [rows[0]["id"]]
    bands = list(dict.fromkeys(row["band"] for row in rows))
    figure, panels = style.panels(len(DEFINITIONS), 2.4, legend=0.5, sharey=True)
    for axes, (definition, words) in zip(panels, DEFINITIONS.items(), strict=True):
        axes.axhline(1, color="black", linewidth=0.7, linestyle=":")
        for subject in subjects:
            for number, (order, (color, marker, _)) in enumerate(ORDERS.items()):
                shift = 0.12 * (number - 1) + (0.04 if subject != subjects[0] else -0.04)
                for x, band in enumerate(bands):
                    at = found.get((subject, "all", order, definition, band))
                    if at is not None:
                        fill = color if subject == subjects[0] else "white"
                        axes.errorbar(
                            x + shift,
                            at.mean,
                            at.errors,
                            color=color,
                            marker=marker,
                            markerfacecolor=fill,
                            linewidth=0.9,
                        )
        axes.set_xticks(range(len(bands)), [band.replace(" %", "%") for band in bands])
        axes.set(title=words, xlabel="band of components")
        axes.title.set_fontsize(8)
    panels[0].set_ylabel("response: memorised / clean")
    handles = [Line2D([], [], color=color, marker=marker) for color, marker, _ in ORDERS.values()]
    labels = [f"ordered {words}" for *_, words in ORDERS.values()]
    if len(subjects) > 1:
        handles.append(Line2D([], [], color="black", marker="o", markerfacecolor="white", linestyle=""))
        labels.append("hollow: retrain (null)")
    style.legend(figure, handles, labels, seeds_of(rows))
    table = [(*key, *at) for key, at in found.items()]
    return [style.save(figure, out, name, HEADER, table)]
