"""The figures of an experiment as parts of a page: images with what they show in words, and their numbers."""

import io
import os
from pathlib import Path

from PIL import Image

from vitmem.figures import figures
from vitmem.options import summary
from vitmem.report import analyses
from vitmem.report.packed import Space, uri
from vitmem.report.tables import Table, csv_table

LARGEST = 3_500_000  # characters of all figures in the page
_WIDTHS = (None, 1200, 800)  # pixels; the first is as drawn
_BESIDE = {  # figures that others draw, or that the registry does not name
    "sheet": "training images with their labels and the answers before and after an edit",
    "mass": "how much of the curvature mass the first eigen-pairs hold",
}


def embedded(folder: Path, notes: list[str], space: Space, largest: int = LARGEST) -> list[dict]:
    """Return the figures of a folder, each with ``name``, ``alt``, ``source``, ``width``, ``height`` and ``numbers``.

    Where they are too large together, all are made smaller, and those that still do not fit are left out and named.

    Args:
        folder: the experiment's.
        notes: what was made smaller or left out is added here.
        space: for tables of numbers that can be saved from the page.
        largest: characters that the images may take.
    """
    files = sorted((folder / "figures").glob("*.png"), key=_place)
    found: dict[Path, tuple[str, tuple[int, int]]] = {}
    for width in _WIDTHS:
        found = {file: image for file in files if (image := _image(file, width, notes if width is None else []))}
        if sum(len(source) for source, _ in found.values()) <= largest:
            break
    if width is not None:
        notes.append(f"Figures are at most {width} pixels wide here; figures/ has them as they were drawn")
    shown, left = [], Space(largest)
    for file, (source, size) in found.items():
        if not left.takes(len(source)):
            notes.append(f"The figure {file.name} is left out, for want of space; it is in figures/")
            continue
        shown.append({"name": file.stem, "alt": described(file.stem), "source": source, "width": size[0]})
        shown[-1] |= {"height": size[1], "numbers": _numbers(file.with_suffix(".csv"), notes, space)}
    return shown


def described(name: str) -> str:
    """Return in words what the figure of a name shows."""
    if name.startswith(analyses.FIGURE):
        return f"Analysis {name.removeprefix(analyses.FIGURE)}"
    kind = _kind(name)
    told = _BESIDE.get(name) or (summary(figures()[kind]) if kind else "")
    return f"{name}: {told}" if told else name


def _kind(name: str) -> str | None:
    """Return which registered figure has drawn the one of a name, as far as that tells it."""
    return max((key for key in figures() if name == key or name.startswith(f"{key}_")), key=len, default=None)


def _place(file: Path) -> tuple:
    """Return where a figure comes: in the order of the registry, what it does not know at the end."""
    order, kind = list(figures()), _kind(file.stem)
    return (len(order) if kind is None else order.index(kind), file.name)


def _image(file: Path, width: int | None, notes: list[str]) -> tuple[str, tuple[int, int]] | None:
    """Return an image as a data URI, and its size in pixels; None, with a note, where it cannot be read."""
    try:
        with Image.open(file, formats=["PNG"]) as image:
            if width is None or image.width <= width:
                return uri(file.read_bytes(), "image/png"), image.size
            small = image.convert("RGB").resize((width, round(image.height * width / image.width)))
    except (OSError, ValueError, SyntaxError) as error:
        notes.append(f"The figure {file.name} cannot be read ({error})")
        return None
    buffer = io.BytesIO()
    small.quantize(64).save(buffer, "PNG", optimize=True)
    return uri(buffer.getvalue(), "image/png"), small.size


def _numbers(file: Path, notes: list[str], space: Space) -> Table | None:
    try:
        return csv_table(file, space) if os.path.isfile(file) else None
    except ValueError as error:
        notes.append(f"The numbers of a figure are left out: {error}")
        return None
