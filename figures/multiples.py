"""Many panels of one kind, one for each edit, where one panel with all lines could not be read."""

import math

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vitmem.figures import style

MOST = 5  # edits that share a panel
WIDTH, HEIGHT = 0.95, 1.08  # inches of a panel


def grid(count: int, legend: float) -> tuple[Figure, list[Axes]]:
    """Return a figure of small panels that share their axes, numbered at the lower and the left edge alone.

    Args:
        count: of the panels.
        legend: inches that come on top.
    """
    most = max(1, int((style.width_of(style.WIDE) - style.inches(0.4)) / style.inches(WIDTH)))
    down = math.ceil(count / most)
    across = math.ceil(count / down)
    figure = style.new_figure(style.WIDE, HEIGHT * down + legend)
    found = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False).ravel()
    for axes in found[count:]:
        axes.set_axis_off()
    for axes in found[max(0, count - across) : count]:
        axes.tick_params(labelbottom=True)
    for axes in found[:count]:
        axes.tick_params(labelsize=style.points(6))
    return figure, list(found[:count])


def name(axes: Axes, words: str, color: str) -> None:
    """Write the name of a panel's edit above it, in lines that it has room for."""
    parts = [words] if style.wrapped(words, 0.85 * WIDTH, 6.5) == words else words.split(", ")
    text = ",\n".join(style.wrapped(part, WIDTH, 6.5) for part in parts)
    axes.set_title(text, fontsize=style.points(6.5), color=color, pad=style.points(2))


def axis_names(figure: Figure, x: str, y: str) -> None:
    """Write what the axes of all panels are, once."""
    figure.supxlabel(x, fontsize=style.points(8))
    figure.supylabel(y, fontsize=style.points(8))
