"""Images and labels in parquet files, as Hugging Face stores data sets."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from vitmem.datamodules.images import CACHE_FOLDER, cached, decode

_IMAGE_COLUMNS = ("img", "image")


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
            _check(file, parquet.read_schema(file), layout)
        labels = [parquet.read_table(file, columns=[layout.label])[layout.label].to_numpy() for file in files]
        label = np.concatenate(labels)
        if label.dtype.kind not in "iu":  # missing values make it floating
            raise ValueError(f"{files[0]}: the column {layout.label} is {label.dtype}; expected integers without gaps")

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


def _check(file: Path, schema, layout: Layout) -> None:
    """Refuse a file without the columns, or with other classes than ours."""
    if layout.label not in schema.names or not set(_IMAGE_COLUMNS) & set(schema.names):
        raise ValueError(
            f"{file} has the columns {', '.join(schema.names)}; expected {' or '.join(_IMAGE_COLUMNS)}, and "
            f"{layout.label}"
        )
    described = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    names = described.get("info", {}).get("features", {}).get(layout.label, {}).get("names")
    if names and tuple(names) != layout.class_names:
        raise ValueError(
            f"{file} has the classes {', '.join(names[:5])} ...; expected {', '.join(layout.class_names[:5])} ..., "
            "so it is another data set"
        )
