"""How every figure looks, and how it is written.

Figures are made without pyplot: nothing global is left behind, and no display is needed.
"""

import csv
import io
import math
from collections.abc import Iterable
from contextlib import AbstractContextManager
from numbers import Real
from pathlib import Path
from typing import NamedTuple

import matplotlib.style
from matplotlib.figure import Figure

from vitmem.files import write_atomically

# Okabe and Ito's palette: told apart under the common kinds of colour blindness.
BLUE, GREEN, VERMILLION, PURPLE, GREY = "#0072B2", "#009E73", "#D55E00", "#CC79A7", "#6E6E6E"

COLUMN = (3.4, 2.6)  # inches: one column of a two-column paper
WIDE = 7.0  # inches: the width of both columns

_OPTIONS = {
    "font.size": 8,
    "axes.labelsize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.5,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "lines.linewidth": 1.2,
    "lines.markersize": 3.5,
    "legend.fontsize": 7,
    "legend.title_fontsize": 7,
    "legend.frameon": False,
    "figure.dpi": 200,
    "savefig.dpi": 200,
    "pdf.fonttype": 42,  # TrueType: publishers refuse the Type 3 fonts of the default
}


class Look(NamedTuple):
    """How one accuracy is drawn.

    Attributes:
        label: words of the legend.
        color: of line and markers.
        marker: tells the lines apart in black and white.
    """

    label: str
    color: str
    marker: str


ACCURACIES = {
    "memorized_accuracy": Look("memorized", VERMILLION, "o"),
    "ground_truth_accuracy": Look("ground truth", GREEN, "s"),
    "clean_train_accuracy": Look("clean train", BLUE, "^"),
    "validation_accuracy": Look("validation", PURPLE, "D"),
}


def look() -> AbstractContextManager:
    """Return the context that figures are drawn and saved in; it starts from matplotlib's defaults, not the user's."""
    return matplotlib.style.context(["default", _OPTIONS])


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure that places its parts so that nothing is cut off.

    Args:
        width: inches.
        height: inches.
    """
    return Figure(figsize=(width, height), layout="constrained")


def save(figure: Figure, folder: Path, name: str, header: list[str], rows: Iterable) -> Path:
    """Write a figure as PDF and PNG, and its numbers as CSV.

    Args:
        figure: the finished figure.
        folder: made if it is absent.
        name: of the three files, without suffix.
        header: column names of the CSV.
        rows: what is plotted; None and NaN become empty cells.

    Returns:
        The path of the PNG.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / f"{name}.csv", _csv_text(header, rows))
    for suffix, metadata in (("pdf", {"CreationDate": None}), ("png", None)):  # the date would change the bytes
        buffer = io.BytesIO()
        with look():
            figure.savefig(buffer, format=suffix, metadata=metadata)
        write_atomically(folder / f"{name}.{suffix}", buffer.getvalue())
    return folder / f"{name}.png"


def _csv_text(header: list[str], rows: Iterable) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([_cell(value) for value in row] for row in rows)
    return out.getvalue()


def _cell(value: object) -> object:
    if value is None or (isinstance(value, Real) and math.isnan(value)):
        return ""
    return repr(float(value)) if isinstance(value, Real) and not hasattr(value, "__index__") else value
