"""Label files: CSV tables, and the .pt files of CIFAR-10N and CIFAR-100N read without running code."""

import csv
import io
import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from vitmem.files import mistaken

_MOST_BYTES = 2**28  # of a pickle: a hundred times what CIFAR-100N takes
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # first object of the files that torch.save wrote before version 1.6


def read_csv(path: Path, needed: tuple[str, ...]) -> dict[str, list[str]]:
    """Return the columns of a CSV file with a header row.

    Raises:
        ValueError: there is no such file, a needed column is missing or comes twice, or rows differ in length.
    """
    if not path.is_file():
        raise ValueError(f"there is no file {path}; set noise.file to a label file")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            lines = [(reader.line_num, [cell.strip() for cell in row]) for row in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} is not a CSV table ({mistaken(path) or error})") from error
    (_, header), *rows = [(number, row) for number, row in lines if row not in ([], [""])] or [(1, [])]
    if missing := [name for name in needed if name not in header]:
        raise ValueError(f"{path} has the columns {', '.join(header)}; {', '.join(missing)} is missing")
    if twice := [name for name in needed if header.count(name) > 1]:
        raise ValueError(f"{path} has the columns {', '.join(header)}; {', '.join(twice)} comes twice")
    if ragged := [(number, row) for number, row in rows if len(row) != len(header)]:
        number, row = ragged[0]
        raise ValueError(f"{path}: line {number} has {len(row)} cells; expected {len(header)}")
    return {name: [row[k] for _, row in rows] for k, name in enumerate(header)}


def integers(path: Path, name: str, cells) -> np.ndarray:
    """Return a column as int64.

    Raises:
        ValueError: a cell is not a whole number.
    """
    try:
        if isinstance(cells, np.ndarray):
            if cells.dtype.kind not in "iu" or (cells.size and cells.max() > np.iinfo(np.int64).max):
                raise ValueError(f"it is {cells.dtype}, up to {cells.max()}")
            array = cells.astype(np.int64)
        elif isinstance(cells, (list, tuple)):
            array = np.array([_whole(cell) for cell in cells], np.int64)
        else:
            raise ValueError(f"it is a {type(cells).__name__}")
    except (ValueError, TypeError, OverflowError) as error:
        raise ValueError(f"{path}: {name} must hold whole numbers ({error})") from error
    if array.ndim != 1:
        raise ValueError(f"{path}: {name} has shape {array.shape}; expected one number for each example")
    return array


def _whole(cell: object) -> int:
    """Return the whole number that a cell of a table or a list is; Python's own conversion would cut 1.7 down to 1."""
    if type(cell) is int or (isinstance(cell, str) and re.fullmatch(r"[+-]?[0-9]{1,20}", cell)):
        return int(cell)
    raise ValueError(f"one of them is {cell!r:.50}")


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
        if isinstance(found, dict):
            return {_name(key): value.array if isinstance(value, _Array) else value for key, value in found.items()}
    except Exception as error:  # a damaged pickle fails in many ways
        message = mistaken(path) or " ".join(str(error).split())[:200] or type(error).__name__
        raise ValueError(f"{path} is not a readable label file ({message})") from error
    raise ValueError(f"{path} holds a {type(found).__name__}; expected a dictionary of label arrays")


def _name(key: object) -> str:
    if not isinstance(key, str):  # others may be as large as they like when they are written out
        raise ValueError(f"one of its keys is a {type(key).__name__}; expected names of columns")
    return key


def _pickle_bytes(path: Path) -> bytes:
    if not zipfile.is_zipfile(path):
        if path.stat().st_size > _MOST_BYTES:
            raise ValueError(f"it takes {path.stat().st_size / 1e9:.1f} GB, which no label file does")
        content = path.read_bytes()
        if content.startswith(b"\x93NUMPY"):
            raise ValueError(
                "a NumPy array: those of CIFAR-10N and CIFAR-100N are in TensorFlow's order of the images; use "
                "CIFAR-10_human.pt or CIFAR-100_human.pt, which are in torchvision's"
            )
        return content
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if name.split("/")[-1] == "data.pkl"]
        if len(names) != 1:
            raise ValueError(f"a zip file with {len(names)} data.pkl; expected one")
        if (size := archive.getinfo(names[0]).file_size) > _MOST_BYTES:
            raise ValueError(f"it takes {size / 1e9:.1f} GB when unpacked, which no label file does")
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


def _from_buffer(data: bytes, dtype: _DType, shape: tuple, order: str) -> _Array:
    """Stands in for what NumPy rebuilds arrays with in pickles of protocol 5."""
    array = _Array()
    array.__setstate__((1, shape, dtype, order == "F", data))
    return array


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
    ("numpy.core.numeric", "_frombuffer"): _from_buffer,
    ("numpy._core.numeric", "_frombuffer"): _from_buffer,
    ("numpy", "ndarray"): _NdArray,
    ("numpy", "dtype"): _DType,
    ("_codecs", "encode"): _encode,
    ("collections", "OrderedDict"): OrderedDict,
}
