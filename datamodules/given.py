"""Noise kinds whose labels come from a file: those that people gave, and any others."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from vitmem.datamodules.corruption import Labels, Noise
from vitmem.datamodules.label_files import integers, read_csv, read_pt
from vitmem.datamodules.rows import class_numbers, positions
from vitmem.datamodules.sources import ImageData
from vitmem.datamodules.tree import composed


@dataclass(frozen=True)
class FileNoise(Noise):
    """Labels of your own, from a CSV file with a header row.

    Columns: ``path`` of the image (in the data's root, with or without ``train/``) or ``index`` of the example;
    ``label``, the name or the number of a class; and, if you like, ``true_label`` (or ``true``), empty or -1 where it
    is unknown, and ``forget``, 1 for the examples that edits are to remove whatever their labels, otherwise 0.
    Examples that the file leaves out keep the data's labels, where these have some.

    Args:
        rate: without effect; the header reports the realised rate.
        seed: seed of the canaries.
        exact: without effect.
        repeats: how often each noisy example occurs in the training set.
        canaries: so many of the other training examples get a label drawn uniformly from all classes.
        file: the CSV file.
        truth: where true labels come from: ``data`` (the class folders, or the data set), ``column`` (true_label of the
            file) or ``unknown``. Unknown ones are -1: what needs them is left out of every table.
    """

    kind = "file"
    has_rate = False
    needs_truth = False
    file: str = ""
    truth: Literal["data", "column", "unknown"] = "data"

    def labels(self, data):
        """Put the file's labels in place, and say what is known of the right ones."""
        path = Path(self.file).expanduser()
        columns = read_csv(path, ("label",))
        row = positions(path, columns, data)
        true = data.train_label.numpy().copy()
        given = true.copy()
        given[row] = class_numbers(path, columns, "label", data)
        if len(missing := np.flatnonzero(given < 0)):
            which = data.train_name[missing[0]] if data.train_name else missing[0]
            raise ValueError(
                f"{path} lacks {len(missing)} of the {len(given)} training examples, such as {which}, and the data do "
                "not say their labels"
            )
        if self.truth == "unknown":
            true[:] = -1
        elif self.truth == "column":
            name = next((name for name in ("true_label", "true") if name in columns), None)
            if name is None:
                raise ValueError(
                    f"noise.truth is column, and {path} has the columns {', '.join(columns)}; true_label is missing"
                )
            true[row] = class_numbers(path, columns, name, data, unknown=True)
        chosen = None
        if "forget" in columns:
            chosen = np.zeros(len(given), bool)
            chosen[row] = _flags(path, columns["forget"])
        return Labels(given, {"file": path.name}, true, chosen)


def _flags(path: Path, cells: list[str]) -> np.ndarray:
    flag = integers(path, "forget", cells)
    if not np.isin(flag, (0, 1)).all():
        raise ValueError(f"{path}: forget goes from {flag.min()} to {flag.max()}; allowed are 0 and 1")
    return flag.astype(bool)


@dataclass(frozen=True)
class Human(Noise):
    """Labels that people gave: CIFAR-10N and CIFAR-100N (Wei et al. 2022; CC BY-NC 4.0).

    The file is CIFAR-10_human.pt or CIFAR-100_human.pt (noisylabels.com; loaded without running code) for examples in
    torchvision's order, or a CSV table with the columns clean and the one asked for, and path (relative to data.root)
    or index. Its clean labels must be those of the data set.

    Args:
        rate: without effect; the header reports the realised rate.
        seed: seed of the canaries.
        exact: without effect.
        repeats: how often each noisy example occurs in the training set.
        canaries: so many of the other training examples get a label drawn uniformly from all classes.
        file: the label file.
        column: which labels: those of CIFAR-10N, or ``noisy`` for CIFAR-100N.
    """

    kind = "human"
    has_rate = False
    file: str = ""
    column: Literal["aggre", "worse", "random1", "random2", "random3", "noisy"] = "worse"

    def given_labels(self, data):
        """Read the labels, and check the clean ones."""
        path = Path(self.file).expanduser()
        read = self._from_csv if path.suffix.lower() == ".csv" else self._from_pt
        clean, given = read(path, data)
        true = data.train_label.numpy()
        if len(clean) != len(true):
            raise ValueError(
                f"{path} labels {len(clean)} examples, the data set has {len(true)}; for a part of CIFAR as an image "
                "folder, use a CSV table with paths"
            )
        if wrong := np.flatnonzero(clean != true).tolist():
            k = wrong[0]
            raise ValueError(
                f"{path} is of another order than the data: clean labels differ for {len(wrong)} of {len(true)} "
                f"examples (example {k}: {clean[k]} in the file, {true[k]} in the data); use the .pt file with "
                "torchvision's CIFAR, a CSV table with paths with an image folder"
            )
        return _in_range(path, self.column, given, data.num_classes), {"file": path.name, "column": self.column}

    def _from_pt(self, path: Path, data: ImageData) -> tuple[np.ndarray, np.ndarray]:
        content = read_pt(path)
        name = f"random_label{self.column[-1]}" if self.column.startswith("random") else f"{self.column}_label"
        if missing := [key for key in ("clean_label", name) if key not in content]:
            raise ValueError(f"{path} has {', '.join(map(str, content))}; {', '.join(missing)} is missing")
        return integers(path, "clean_label", content["clean_label"]), integers(path, name, content[name])

    def _from_csv(self, path: Path, data: ImageData) -> tuple[np.ndarray, np.ndarray]:
        columns = read_csv(path, ("clean", self.column))
        key = next(
            (k for k in ("path", "index", "cifar_index") if k in columns and (k != "path" or data.train_name)), ""
        )
        if not key:
            raise ValueError(
                f"{path} has the columns {', '.join(columns)}; path (for image folders) or index is missing"
            )
        wanted = data.train_name if key == "path" else map(str, range(len(data.train_label)))
        wanted = [composed(name) for name in wanted]
        row = {composed(name): k for k, name in enumerate(columns[key])}
        if len(row) < len(columns[key]):
            raise ValueError(f"{path}: the column {key} names an example twice; give each example one row")
        if missing := [name for name in wanted if name not in row]:
            raise ValueError(
                f"{path} lacks {len(missing)} of the {len(wanted)} training examples, such as {missing[0]}"
            )
        order = [row[name] for name in wanted]
        clean, given = (integers(path, name, columns[name])[order] for name in ("clean", self.column))
        return clean, given


def _in_range(path: Path, name: str, label: np.ndarray, num_classes: int) -> np.ndarray:
    if len(label) and (label.min() < 0 or label.max() >= num_classes):
        raise ValueError(
            f"{path}: {name} goes from {label.min()} to {label.max()}; the data set's labels are 0 to {num_classes - 1}"
        )
    return label
