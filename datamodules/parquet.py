"""Images and labels in parquet files, as Hugging Face stores data sets."""

import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from vitmem.datamodules.cache import CACHE_FOLDER, cached
from vitmem.datamodules.images import VERSION, decode, native_size
from vitmem.files import mistaken

_IMAGE_COLUMNS = ("img", "image")
_MOST_ROWS, _MOST_GB = 10**6, 16.0  # of a split; CIFAR has 50,000 rows


@dataclass(frozen=True)
class Layout:
    """What the files must hold.

    Args:
        folders: where they may lie below the root; the first that holds any counts.
        label: name of the label column; the image column is ``img`` or ``image``.
        class_names: of the labels, in order.
    """

    folders: tuple[str, ...]
    label: str
    class_names: tuple[str, ...]


def folder_of(root: Path, layout: Layout) -> Path | None:
    """Return the folder that holds parquet files, if there is one."""
    return next((root / name for name in layout.folders if any((root / name).glob("*.parquet"))), None)


def read(root: Path, split: str, layout: Layout) -> tuple[torch.Tensor, torch.Tensor]:
    """Return images N C H W, decoded once, and labels N.

    Raises:
        ValueError: pyarrow is not installed, or the files are missing, damaged or lack the columns.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise ValueError(
            f"{root} holds parquet files, which need pyarrow: pip install 'vitmem[parquet]', or set data.root elsewhere"
        ) from error
    files = sorted(root.glob(f"{split}*.parquet"))
    if not files:
        raise ValueError(f"{root} holds parquet files, but no {split}*.parquet; put both splits there")
    try:
        for file in files:
            _check_size(file, parquet.read_metadata(file))
            _check(file, parquet.read_schema(file), layout)
        labels = [parquet.read_table(file, columns=[layout.label])[layout.label].to_numpy() for file in files]
        label = np.concatenate(labels)
        if label.dtype.kind not in "iu":  # missing values make it floating
            raise ValueError(f"{files[0]}: the column {layout.label} is {label.dtype}; expected integers without gaps")
        if len(label) and (least := int(label.astype(np.int64).min())) < 0:
            raise ValueError(f"{files[0]}: labels go from {least}; expected class numbers from 0 upwards")

        def build() -> np.ndarray:
            column = {file: next(c for c in _IMAGE_COLUMNS if c in parquet.read_schema(file).names) for file in files}
            items, names = [], []
            for file in files:
                cells = parquet.read_table(file, columns=[column[file]])[column[file]].to_pylist()
                items += [cell["bytes"] if isinstance(cell, dict) else cell for cell in cells]
                names += [f"{file.name} row {row}" for row in range(len(cells))]
            items = [item or b"" for item in items]
            width, height = native_size(items)
            _check_gigabytes(root, len(items) * 3 * height * width / 1e9)
            return decode(items, names)

        sources = {file.name: str(file) for file in files}
        image = cached(root / CACHE_FOLDER, split, {"format": "parquet"}, sources, build, VERSION)
    except (pyarrow.ArrowException, OSError, LookupError, TypeError, AttributeError, MemoryError) as error:
        message = next(filter(None, map(mistaken, files)), "") or " ".join(str(error).split())[:300]
        raise ValueError(f"the parquet files in {root} cannot be read: {message or type(error).__name__}") from error
    return torch.from_numpy(image), torch.from_numpy(label.astype(np.int64))


def _check_size(file: Path, metadata) -> None:
    """Refuse a file that declares more than memory is to be taken for."""
    if metadata.num_rows > _MOST_ROWS:
        raise ValueError(f"{file} declares {metadata.num_rows} rows; expected at most {_MOST_ROWS}")
    _check_gigabytes(file, sum(metadata.row_group(k).total_byte_size for k in range(metadata.num_row_groups)) / 1e9)


def _check_gigabytes(path: Path, gigabytes: float) -> None:
    if gigabytes > _MOST_GB:
        raise ValueError(f"{path}: the images take {gigabytes:.1f} GB; expected at most {_MOST_GB:g}")


def _check(file: Path, schema, layout: Layout) -> None:
    """Refuse a file without the columns, without bytes in that of the images, or with other classes than ours."""
    if layout.label not in schema.names or not set(_IMAGE_COLUMNS) & set(schema.names):
        raise ValueError(
            f"{file} has the columns {', '.join(schema.names)}; expected {' or '.join(_IMAGE_COLUMNS)}, and "
            f"{layout.label}"
        )
    column = schema.field(next(name for name in _IMAGE_COLUMNS if name in schema.names)).type
    fields = {field.name: field.type for field in column} if str(column).startswith("struct") else {"bytes": column}
    if str(fields.get("bytes")) not in ("binary", "large_binary"):
        raise ValueError(f"{file}: its images are {str(column)[:100]}; expected bytes, or a struct with a field bytes")
    names = _declared_names(schema, layout)
    if names and names != layout.class_names:
        raise ValueError(
            f"{file} has the classes {', '.join(names[:5])} ...; expected {', '.join(layout.class_names[:5])} ..., "
            "so it is another data set"
        )


def _declared_names(schema, layout: Layout) -> tuple[str, ...]:
    """Return the names of the classes that the metadata of Hugging Face declares; none where it says nothing."""
    found = None
    with suppress(ValueError, RecursionError):
        found = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    for key in ("info", "features", layout.label, "names"):
        found = found.get(key) if isinstance(found, dict) else None
    return tuple(map(str, found)) if isinstance(found, list) else ()
