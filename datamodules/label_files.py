"""Label files: CSV tables, and the .pt files of CIFAR-10N and CIFAR-100N read without running code."""

import csv
import io
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path

import numpy as np

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # first object of the files that torch.save wrote before version 1.6


def read_csv(path: Path, needed: tuple[str, ...]) -> dict[str, list[str]]:
    """Return the columns of a CSV file with a header row.

    Raises:
        ValueError: there is no such file, a needed column is missing, or rows differ in length.
    """
    if not path.is_file():
        raise ValueError(f"there is no file {path}; set noise.file to a label file")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            header, *rows = list(csv.reader(file)) or [[]]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} is not a CSV table ({error})") from error
    if missing := [name for name in needed if name not in header]:
        raise ValueError(f"{path} has the columns {', '.join(header)}; {', '.join(missing)} is missing")
    rows = [row for row in rows if row]
    if ragged := next((n for n, row in enumerate(rows, start=2) if len(row) != len(header)), None):
        raise ValueError(f"{path}: row {ragged} has {len(rows[ragged - 2])} cells; expected {len(header)}")
    return {name: [row[k] for row in rows] for k, name in enumerate(header)}


def integers(path: Path, name: str, cells) -> np.ndarray:
    """Return a column as int64.

    Raises:
        ValueError: a cell is not a whole number.
    """
    try:
        if isinstance(cells, np.ndarray) and cells.dtype.kind not in "iu":
            raise ValueError(f"it is {cells.dtype}")
        array = np.array([int(cell) for cell in cells] if isinstance(cells, list) else cells, np.int64)
    except (ValueError, TypeError, OverflowError) as error:
        raise ValueError(f"{path}: {name} must hold whole numbers ({error})") from error
    if array.ndim != 1:
        raise ValueError(f"{path}: {name} has shape {array.shape}; expected one number for each example")
    return array


def read_pt(path: Path) -> Mapping[str, object]:
    """Return the dictionary of arrays and lists in a file of torch.save or pickle, without running code from it.

    Only numbers, strings, containers and NumPy arrays of numbers are built; anything else is refused.

    Raises:
        ValueError: there is no such file, it is damaged, or it holds anything else.
    """
    if not path.is_file():
        raise ValueError(f"there is no file {path}; set noise.file to a label file")
    try:
        content = _Reader(io.BytesIO(_pickle_bytes(path)))
        found = content.load()
        if found == _LEGACY_MAGIC:
            content.load(), content.load()  # protocol version, system information
            found = content.load()
    except Exception as error:  # a damaged pickle fails in many ways
        raise ValueError(f"{path} is not a readable label file ({' '.join(str(error).split())[:200]})") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds a {type(found).__name__}; expected a dictionary of label arrays")
    return {key: value.array if isinstance(value, _Array) else value for key, value in found.items()}


def _pickle_bytes(path: Path) -> bytes:
    if not zipfile.is_zipfile(path):
        return path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if name.split("/")[-1] == "data.pkl"]
        if len(names) != 1:
            raise ValueError(f"a zip file with {len(names)} data.pkl; expected one")
        return archive.read(names[0])


class _Reader(pickle.Unpickler):
    """Unpickles containers and arrays of numbers; NumPy's own constructors are never called with the file's data."""

    def __init__(self, file: io.BytesIO):
        super().__init__(file, encoding="latin1")

    def find_class(self, module: str, name: str) -> object:
        found = _ALLOWED.get((module, name))
        if found is None:
            raise ValueError(f"it asks for {module}.{name}, which is not allowed in a label file")
        return found


class _DType:
    """Stands in for numpy.dtype: numbers only."""

    def __init__(self, code: str, *_):
        dtype = np.dtype(str(code))
        if dtype.kind not in "iufb":
            raise ValueError(f"an array of type {dtype}; allowed are numbers")
        self.dtype = dtype

    def __setstate__(self, state: tuple):
        self.dtype = self.dtype.newbyteorder({"<": "<", ">": ">"}.get(state[1], "="))


class _Array:
    """Stands in for numpy.ndarray; its state is read by ``numpy.frombuffer``."""

    def __setstate__(self, state: tuple):
        _, shape, dtype, fortran, data = state
        data = data.encode("latin1") if isinstance(data, str) else data
        self.array = np.frombuffer(data, dtype.dtype).reshape(shape, order="F" if fortran else "C")


def _reconstruct(*_) -> _Array:
    return _Array()


def _encode(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise ValueError(f"bytes encoded as {encoding}; expected latin1")
    return text.encode("latin1")


class _NdArray:
    """Named in a pickle as the type to reconstruct; never built."""

    def __init__(self, *_):
        raise ValueError("it builds an array directly, which is not allowed in a label file")


_ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy", "ndarray"): _NdArray,
    ("numpy", "dtype"): _DType,
    ("_codecs", "encode"): _encode,
    ("collections", "OrderedDict"): OrderedDict,
}
