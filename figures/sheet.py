"""A sheet of noisy training images with their labels and predictions."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.lines import Line2D

from vitmem.figures import style
from vitmem.figures.words import literal

HEADER = ["number", "given", "true", "before", "after"]
ROWS, COLUMNS = 6, 8
LONGEST = 11  # letters of a class name that fit beside "before"
OUTCOMES = {"true label": style.GREEN, "given label": style.VERMILLION, "another label": style.GREY}


@style.look()
def draw(
    out: Path,
    image: np.ndarray,
    given: Sequence[int],
    true: Sequence[int],
    before: Sequence[int],
    after: Sequence[int],
    class_names: Sequence[str],
    title_after: str,
) -> list[Path]:
    """Draw images, in the order given, each with its labels and the predictions before and after an edit.

    There are up to six lines of eight; a narrow figure has fewer in a line.

    Args:
        out: folder of the figure ``sheet``.
        image: (N, H, W) or (N, H, W, 3), in [0, 1].
        given: (N,) labels trained on, in [0, K).
        true: (N,) labels.
        before: (N,) predictions of the unedited model, -1 where its logits are not finite.
        after: (N,) predictions of the edited model.
        class_names: K names.
        title_after: name of the edit, in words.

    Returns:
        The PNG, or nothing where there is no image.
    """
    width = style.width_of(style.WIDE)
    columns = min(COLUMNS, max(1, int(width / style.inches(0.8))))
    image = np.asarray(image)[: ROWS * columns]
    if not len(image):
        return []
    labels = [[class_names[k] if k >= 0 else "none" for k in c[: len(image)]] for c in (given, true, before, after)]
    rows = [(number, *names) for number, names in enumerate(zip(*labels, strict=True), start=1)]
    lines = -(-len(image) // columns)
    figure = style.new_figure(style.WIDE, (width / style.inches(columns) + 0.47) * lines + 0.35)
    panels = figure.subplots(lines, columns, squeeze=False).ravel()
    for axes in panels:
        axes.set_axis_off()
    for axes, pixels, (_, *names) in zip(panels, image, rows, strict=False):
        axes.imshow(pixels, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        _write_labels(axes, *names)
    handles = [Line2D([], [], color=color, marker="s", linestyle="") for color in OUTCOMES.values()]
    words = [f"after = {outcome}" for outcome in OUTCOMES]
    style.legend(figure, handles, words, literal(f"after: prediction after {title_after}"), "upper")
    return [style.save(figure, out, "sheet", HEADER, rows)]


def outcome_color(given: str, true: str, after: str) -> str:
    """Return the colour of a prediction after the edit."""
    return OUTCOMES["true label" if after == true else "given label" if after == given else "another label"]


def _write_labels(axes, given: str, true: str, before: str, after: str) -> None:
    colors = ("black", "black", "black", outcome_color(given, true, after))
    for line, (what, name) in enumerate({"given": given, "true": true, "before": before, "after": after}.items()):
        y = -0.03 - 0.125 * line
        place = {"transform": axes.transAxes, "va": "top", "fontsize": style.points(5.5)}
        axes.text(0, y, what, color=style.GREY, ha="left", **place)
        short = name if len(name) <= LONGEST else name[: LONGEST - 1] + "…"
        weight = "bold" if what == "after" else "normal"  # a thin letter this small hardly shows its colour
        axes.text(1, y, literal(short), color=colors[line], weight=weight, ha="right", **place)
