"""Images and labels in parquet files, as Hugging Face stores data sets."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from datamodules.images import CACHE_FOLDER, cached, decode

_IMAGE_COLUMNS = ("img", "image")


@dataclass(frozen=True)
class Columns:
    """What the files must hold.

    Args:
        label: name of the label column; the image column is ``img`` or ``image``.
        class_names: of the labels, in order.
    """

    label: str
    class_names: tuple[str, ...]


def find(root: Path, split: str) -> list[Path]:
    """Return the parquet files of a split in a folder or one folder below, sorted."""
    return sorted(root.glob(f"{split}*.parquet")) or sorted(root.glob(f"*/{split}*.parquet"))


def read(root: Path, split: str, files: Sequence[Path], columns: Columns) -> tuple[torch.Tensor, torch.Tensor]:
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
    if not files:
        raise ValueError(f"{root} holds parquet files, but no {split}*.parquet; put both splits there")
    try:
        for file in files:
            _check(file, parquet.read_schema(file), columns)
        labels = [parquet.read_table(file, columns=[columns.label])[columns.label].to_numpy() for file in files]
        label = np.concatenate(labels)
        if label.dtype.kind not in "iu":  # missing values make it floating
            raise ValueError(f"{files[0]}: the column {columns.label} is {label.dtype}; expected integers without gaps")

        def build() -> np.ndarray:
            column = {file: next(c for c in _IMAGE_COLUMNS if c in parquet.read_schema(file).names) for file in files}
            items, names = [], []
            for file in files:
                cells = parquet.read_table(file, columns=[column[file]])[column[file]].to_pylist()
                items += [cell["bytes"] if isinstance(cell, dict) else cell for cell in cells]
                names += [f"{file.name} row {row}" for row in range(len(cells))]
            return decode([item or b"" for item in items], names)

        sources = {file.name: str(file) for file in files}
        image = cached(root / CACHE_FOLDER, split, {"format": "parquet"}, sources, build)
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"the parquet files in {root} cannot be read: {' '.join(str(error).split())[:300]}") from error
    return torch.from_numpy(image), torch.from_numpy(label.astype(np.int64))


def _check(file: Path, schema, columns: Columns) -> None:
    """Refuse a file without the columns, or with other classes than ours."""
    if columns.label not in schema.names or not set(_IMAGE_COLUMNS) & set(schema.names):
        raise ValueError(
            f"{file} has the columns {', '.join(schema.names)}; expected {' or '.join(_IMAGE_COLUMNS)}, and "
            f"{columns.label}"
        )
    described = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    names = described.get("info", {}).get("features", {}).get(columns.label, {}).get("names")
    if names and tuple(names) != columns.class_names:
        raise ValueError(
            f"{file} has the classes {', '.join(names[:5])} ...; expected {', '.join(columns.class_names[:5])} ..., "
            "so it is another data set"
        )
