"""How every figure looks, and how it is written.

Figures are made without pyplot: nothing global is left behind, and no display is needed.
"""

import contextlib
import csv
import io
import math
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from numbers import Real
from pathlib import Path
from typing import NamedTuple

import matplotlib.style
from matplotlib.backends.backend_agg import FigureCanvasAgg
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
    "svg.hashsalt": "vitmem",  # names in an SVG are drawn by chance without it
}
_SCALED = ("size", "width", "markersize")  # ends of the options that grow for a talk
_LETTERS, _WIDTHS = 1.8, 1.5  # by how much letters, lines and heights, and how much widths, are larger for a talk
FORMATS = {"pdf": {"CreationDate": None}, "png": None, "svg": {"Date": None}}  # the date would change the bytes
NARROWEST, WIDEST = 1.5, 40.0  # inches


@dataclass(frozen=True)
class Settings:
    """How figures are written.

    Args:
        style: paper, or talk with larger letters and lines.
        width: inches of every figure; None: each has its own. Letters keep their size.
        formats: of the images; the numbers are always written as CSV.
        labels: words that replace ids and names of edits.
    """

    style: str = "paper"
    width: float | None = None
    formats: tuple[str, ...] = ("pdf", "png")
    labels: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self):
        if self.style not in ("paper", "talk"):
            raise ValueError(f"style is {self.style!r}; give paper or talk")
        if self.width is not None and not NARROWEST <= self.width <= WIDEST:
            raise ValueError(f"width is {self.width:g} inches; give {NARROWEST:g} to {WIDEST:g}")
        if wrong := [name for name in self.formats if name not in FORMATS]:
            raise ValueError(f"format is {wrong[0]!r}; give some of {', '.join(FORMATS)}, comma-separated")
        if not self.formats:
            raise ValueError(f"format is empty; give some of {', '.join(FORMATS)}, comma-separated")


_SETTINGS: ContextVar[Settings] = ContextVar("figures", default=Settings())  # noqa: B039, it is frozen


def settings() -> Settings:
    """Return how figures are written here."""
    return _SETTINGS.get()


@contextlib.contextmanager
def written_as(chosen: Settings) -> Iterator[None]:
    """Write figures in another way."""
    token = _SETTINGS.set(chosen)
    try:
        yield
    finally:
        _SETTINGS.reset(token)


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


@contextlib.contextmanager
def look() -> Iterator[None]:
    """Draw and save figures as set; it starts from matplotlib's defaults, not the user's."""
    scaled = {name: points(value) for name, value in _OPTIONS.items() if name.endswith(_SCALED)}
    with matplotlib.style.context(["default", _OPTIONS | scaled]):
        yield


def points(size: float) -> float:
    """Return the size of letters or lines, in points, in the style that is set."""
    return size * (_LETTERS if settings().style == "talk" else 1)


def inches(natural: float) -> float:
    """Return a width, or what a panel needs of it, in the style that is set."""
    return natural * (_WIDTHS if settings().style == "talk" else 1)


def width_of(natural: float) -> float:
    """Return the width of a figure in inches: the one that is set, or else its own."""
    return settings().width or inches(natural)


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure that places its parts so that nothing is cut off.

    Args:
        width: inches, where no width is set.
        height: inches.
    """
    return Figure(figsize=(width_of(width), points(height)), layout="constrained")


def panels(count: int, height: float, legend: float = 0.0, width: float = WIDE, least: float = 2.3, **shared):
    """Return a figure and its panels, side by side, or below each other where they would be too narrow.

    Args:
        count: of the panels.
        height: of each, in inches.
        legend: inches that come on top.
        width: of the figure, in inches, where no width is set.
        least: inches that a panel with its labels needs.
        shared: arguments of ``Figure.subplots``.
    """
    across = max(1, min(count, int(width_of(width) / inches(least))))
    down = math.ceil(count / across)
    figure = new_figure(width, height * down + legend)
    found = figure.subplots(down, across, squeeze=False, **shared).ravel()
    for axes in found[count:]:
        axes.set_axis_off()
    return figure, list(found[:count])


def wrapped(text: str, width: float, size: float) -> str:
    """Return a text in lines of at most so many inches, by the mean width of letters.

    Args:
        text: in one line.
        width: inches, before they grow for a talk.
        size: of the letters, in points, likewise.
    """
    return textwrap.fill(text, max(8, int(inches(width) * 72 / (0.54 * points(size)))))


def legend(figure: Figure, handles: Sequence, labels: Sequence[str], note: str = "", loc: str = "lower") -> None:
    """Place one legend outside the panels, with as many columns as fit, and a note above its entries.

    Args:
        figure: that it explains.
        handles: of the entries.
        labels: of the entries.
        note: wrapped to the width of the figure; lines may be given.
        loc: lower or upper.
    """
    size = _OPTIONS["legend.title_fontsize"]
    note = "\n".join(wrapped(line, figure.get_figwidth() / inches(1), size) for line in note.splitlines())
    renderer = FigureCanvasAgg(figure).get_renderer()
    look = {"loc": f"outside {loc} center", "handlelength": 2.4, "columnspacing": 1.2}
    columns = max(1, len(handles))
    while columns > 1:
        tried = figure.legend(handles, labels, ncols=columns, **look)
        fits = tried.get_window_extent(renderer).width <= figure.bbox.width
        tried.remove()
        if fits:
            break
        columns -= 1
    figure.legend(handles, labels, ncols=columns, title=note or None, **look)


def save(figure: Figure, folder: Path, name: str, header: list[str], rows: Iterable) -> Path:
    """Write a figure in the formats that are set, PDF and PNG by default, and its numbers as CSV.

    Args:
        figure: the finished figure.
        folder: made if it is absent.
        name: of the files, without suffix.
        header: column names of the CSV.
        rows: what is plotted; None and NaN become empty cells.

    Returns:
        The path of the PNG; where none is asked for, of the first format.
    """
    folder, formats = Path(folder), settings().formats
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / f"{name}.csv", _csv_text(header, rows))
    for suffix in formats:
        buffer = io.BytesIO()
        with look():
            figure.savefig(buffer, format=suffix, metadata=FORMATS[suffix])
        write_atomically(folder / f"{name}.{suffix}", buffer.getvalue())
    return folder / f"{name}.{'png' if 'png' in formats else formats[0]}"


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
