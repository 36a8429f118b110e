"""What the rows of a label file mean: which training example each is of, and which class its cells name."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vitmem.datamodules.label_files import integers
from vitmem.datamodules.sources import ImageData
from vitmem.datamodules.tree import composed

_SHOWN = 3
_UNKNOWN = ("", "-1")  # cells of true labels that say that the truth is unknown


def positions(path: Path, columns: dict[str, list[str]], data: ImageData) -> np.ndarray:
    """Return of which training example each row is, R, int64: by the column index, else by the column path.

    Args:
        path: of the table, for messages.
        columns: of the table.
        data: with the examples.

    Raises:
        ValueError: there is no such column, a row is of no example or of several, or an example comes twice.
    """
    if "index" in columns:
        found = integers(path, "index", columns["index"])
        count = len(data.train_label)
        if len(found) and (found.min() < 0 or found.max() >= count):
            raise ValueError(f"{path}: index goes from {found.min()} to {found.max()}; allowed is 0 to {count - 1}")
    elif "path" not in columns:
        raise ValueError(f"{path} has the columns {', '.join(columns)}; index or path (for image folders) is missing")
    elif not data.train_name:
        raise ValueError(f"{path} names examples by path, but the images of this data set have none; use index")
    else:
        found = _by_path(path, columns["path"], data.train_name)
    if len(set(found.tolist())) < len(found):
        value, count = np.unique(found, return_counts=True)
        twice = int(value[count > 1][0])
        which = data.train_name[twice] if data.train_name else twice
        kind = "index" if "index" in columns else "image"
        raise ValueError(f"{path}: an {kind} comes twice, such as {which}; give each example one row")
    return found


def _by_path(path: Path, cells: Sequence[str], names: Sequence[str]) -> np.ndarray:
    """Return to which name each cell belongs: that whose end it is, or that it ends in.

    Names are relative to the data's root, such as train/cat/1.jpg: cat/1.jpg is it, too, and so is
    /data/pets/train/cat/1.jpg; 1.jpg alone is it if no other image is called so.
    """
    whole, ends = {}, {}
    for position, name in enumerate(map(composed, names)):
        whole[name] = position
        for end in _ends(name)[1:]:
            ends[end] = position if end not in ends else None  # None: it is the end of several
    found, unknown, ambiguous = [], [], []
    for cell in cells:
        asked = composed(cell.replace("\\", "/")).removeprefix("./")
        position = next((whole[end] for end in _ends(asked) if end in whole), -1)
        if position < 0:
            position = ends.get(asked, -1)
        found.append(position)
        if position is None:
            ambiguous.append(cell)
        elif position < 0:
            unknown.append(cell)
    for wrong, why in (
        (unknown, f"are of no training image; these are called {names[0]}, say"),
        (ambiguous, "could be several training images; write the folder, too"),
    ):
        if wrong:
            raise ValueError(f"{path}: {len(wrong)} of {len(cells)} paths, such as {_some(wrong)}, {why}")
    return np.array(found, np.int64)


def _ends(name: str) -> list[str]:
    """Return a path, and what is left of it without its first folder, its first two, and so on."""
    parts = name.split("/")
    return ["/".join(parts[k:]) for k in range(len(parts))]


def class_numbers(
    path: Path, columns: dict[str, list[str]], name: str, data: ImageData, *, unknown: bool = False
) -> np.ndarray:
    """Return the class that each cell of a column is the number or the name of, R, int64.

    Args:
        path: of the table, for messages.
        columns: of the table.
        name: of the column.
        data: with the classes.
        unknown: cells may be empty or -1, which becomes -1.

    Raises:
        ValueError: a cell is neither, or cells are numbers of some classes and names of others.
    """
    cells = columns[name]
    number = {composed(label): k for k, label in enumerate(data.class_names)}
    told = [cell for cell in map(composed, cells) if not (unknown and cell in _UNKNOWN)]
    if strange := [cell for cell in told if cell not in number]:
        try:
            found = integers(path, name, told)
        except ValueError as error:
            strange = [cell for cell in strange if not cell.lstrip("+-").isdigit()] or strange
            raise ValueError(
                f"{error}, or names of classes: {_some(data.class_names)}; not {_some(dict.fromkeys(strange))}"
            ) from None
    else:
        found = np.array([number[cell] for cell in told], np.int64)
        if all(cell.isdecimal() for cell in told) and (found != (numbers := integers(path, name, told))).any():
            if "path" in columns and "index" not in columns:
                cell = told[(found != numbers).nonzero()[0][0]]
                raise ValueError(
                    f"{path}: {name} {cell} is the name of class {number[cell]}, and the number of another; write "
                    "numbers with a sign, as in +3, or rename the class folders"
                )
            found = numbers
    if len(found) and (found.min() < 0 or found.max() >= data.num_classes):
        raise ValueError(
            f"{path}: {name} goes from {found.min()} to {found.max()}; the data set's labels are 0 to "
            f"{data.num_classes - 1}"
        )
    label = np.full(len(cells), -1, np.int64)
    label[[not (unknown and cell in _UNKNOWN) for cell in cells]] = found
    return label


def class_number(option: str, name: str, data: ImageData) -> int:
    """Return the class of that name, or of that number where no class is called so.

    Raises:
        ValueError: there is none.
    """
    names = [composed(label) for label in data.class_names]
    if composed(name) in names:
        return names.index(composed(name))
    if name.isdecimal() and int(name) < data.num_classes:
        return int(name)
    raise ValueError(
        f"{option} is {name}, which is no class: they are {_some(data.class_names)}, or 0 to {data.num_classes - 1}"
    )


def _some(items: Sequence[str]) -> str:
    items = list(items)
    return ", ".join(items[:_SHOWN]) + (f" and {len(items) - _SHOWN} more" if len(items) > _SHOWN else "")
