"""Images and labels in one NumPy archive, without pickles."""

import math
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from vitmem.datamodules.sources import DataSet, ImageData
from vitmem.files import mistaken

# images, labels: of training; then of validation, the first pair that is there; a further pair of test is a third split
_TRAIN = (("train_images", "train_labels"), ("x_train", "y_train"))
_TEST = (("test_images", "test_labels"), ("x_test", "y_test"))
_VALIDATION = (
    ("val_images", "val_labels"),
    ("x_val", "y_val"),
    *_TEST,
)
_MAGIC = b"\x93NUMPY"
_HEADERS = {b"\1\0": np.lib.format.read_array_header_1_0, b"\2\0": np.lib.format.read_array_header_2_0}
_MOST_CLASSES = 2**31


@dataclass(frozen=True)
class Npz(DataSet):
    """One .npz file with MedMNIST's keys (train_images, train_labels, val_images, ...) or x_train, y_train, x_test, ...

    Args:
        path: the file; images N H W or N H W C, uint8, 1 or 3 channels; labels N or N 1, integers from 0.
        max_gb: refuse files that take more gigabytes than this in memory.
    """

    path: str = "data.npz"
    max_gb: float = 16.0

    def __post_init__(self):
        if self.max_gb < 0:
            raise ValueError(f"data.max_gb is {self.max_gb}; it must not be negative")

    def load(self) -> ImageData:
        """Return the training split, validation (val, else test), and test where there are both.

        Raises:
            ValueError: the file is missing, holds pickles, lacks keys, or has arrays of other shapes or types.
        """
        path = Path(self.path).expanduser()
        if not path.is_file():
            raise ValueError(f"there is no file {path}; set data.path to an .npz file")
        try:
            with zipfile.ZipFile(path) as archive:
                gigabytes = sum(entry.file_size for entry in archive.infolist()) / 1e9
                if gigabytes > self.max_gb:
                    raise ValueError(
                        f"it takes {gigabytes:.1f} GB, and data.max_gb is {self.max_gb:g}; raise it to go on"
                    )
                train = _split(archive, _TRAIN)
                validation = _split(archive, _VALIDATION)
                both = all(any(_has(archive, pair) for pair in keys) for keys in (_VALIDATION[:2], _TEST))
                test = _split(archive, _TEST) if both else (None, None)
        except Exception as error:  # a damaged archive fails in many ways
            message = mistaken(path) or " ".join(str(error).split())[:300] or type(error).__name__
            raise ValueError(f"{path} cannot be used: {message}") from error
        classes = int(train[1].max()) + 1
        if classes > len(train[1]):
            raise ValueError(
                f"{path} has a training label {classes - 1}, and {len(train[1])} training images; labels must go from "
                "0 upwards, with an image of each"
            )
        counts = torch.bincount(train[1], minlength=classes)
        if not counts.all():
            empty = torch.nonzero(counts == 0).flatten().tolist()
            more = f" and {len(empty) - 20} more" if len(empty) > 20 else ""
            raise ValueError(
                f"{path} has no training image of classes {empty[:20]}{more}; labels must go from 0 to {classes - 1}"
            )
        return ImageData(*train, *validation, tuple(str(k) for k in range(classes)), (), *test)


def _has(archive: zipfile.ZipFile, pair: tuple[str, str]) -> bool:
    return set(pair) <= {name.removesuffix(".npy") for name in archive.namelist()}


def _array(archive: zipfile.ZipFile, key: str) -> np.ndarray:
    """Return a member of the archive, after a look at its header: memory is taken for what is there alone."""
    entry = next(e for e in archive.infolist() if e.filename.removesuffix(".npy") == key)
    with archive.open(entry) as member:
        if member.read(len(_MAGIC)) != _MAGIC:
            raise ValueError(f"{key} is no array")
        version = member.read(2)
        if version not in _HEADERS:
            raise ValueError(f"{key} is of version {tuple(version)} of NumPy's format; expected (1, 0) or (2, 0)")
        shape, _, dtype = _HEADERS[version](member)
    if dtype.hasobject:
        raise ValueError("it holds pickled objects, which could run code")
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize > entry.file_size:
        raise ValueError(f"{key} declares {dtype} of shape {shape}, and holds {entry.file_size} bytes; it is damaged")
    with archive.open(entry) as member:
        return np.lib.format.read_array(member, allow_pickle=False)


def _split(archive: zipfile.ZipFile, keys: tuple[tuple[str, str], ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return images N C H W and labels N of the first pair of keys that is there."""
    pair = next((pair for pair in keys if _has(archive, pair)), None)
    if pair is None:
        names = [name.removesuffix(".npy") for name in archive.namelist()]
        wanted = ", or ".join(" and ".join(pair) for pair in keys)
        raise ValueError(f"it has the keys {', '.join(names[:20]) or '(none)'}; expected {wanted}")
    image, label = (_array(archive, key) for key in pair)
    if image.ndim == 3:
        image = image[..., None]
    if image.ndim != 4 or image.shape[-1] not in (1, 3) or image.dtype != np.uint8:
        raise ValueError(
            f"{pair[0]} is {image.dtype} of shape {image.shape}; expected uint8 of shape N H W or N H W C with C 1 or 3"
        )
    if label.ndim == 2 and label.shape[1] == 1:
        label = label[:, 0]
    if label.shape != image.shape[:1] or label.dtype.kind not in "iu":
        raise ValueError(
            f"{pair[1]} is {label.dtype} of shape {label.shape}; expected integers of shape ({len(image)},) or "
            f"({len(image)}, 1)"
        )
    if len(label) == 0 or label.min() < 0:
        raise ValueError(f"{pair[1]} is empty or has a negative label; expected at least one label, from 0 upwards")
    if label.max() >= _MOST_CLASSES:
        raise ValueError(f"{pair[1]} goes up to {label.max()}; expected class numbers, from 0 upwards")
    label = torch.from_numpy(label.astype(np.int64))
    return torch.from_numpy(np.ascontiguousarray(image.transpose(0, 3, 1, 2))), label
