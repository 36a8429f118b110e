"""Images and labels in one NumPy archive, without pickles."""

import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from vitmem.datamodules.sources import DataSet, ImageData

# images, labels: of training; then of validation, the first pair that is there
_TRAIN = (("train_images", "train_labels"), ("x_train", "y_train"))
_VALIDATION = (
    ("val_images", "val_labels"),
    ("x_val", "y_val"),
    ("test_images", "test_labels"),
    ("x_test", "y_test"),
)


@dataclass(frozen=True)
class Npz(DataSet):
    """One .npz file with MedMNIST's keys (train_images, train_labels, val_images, ...) or x_train, y_train, x_test, ...

    Args:
        path: the file; images N H W or N H W C, uint8, 1 or 3 channels; labels N or N 1, integers from 0.
        max_gb: refuse files that take more gigabytes than this in memory.
    """

    path: str = "data.npz"
    max_gb: float = 16.0

    def load(self) -> ImageData:
        """Return the training split, and validation (val, else test).

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
                raise ValueError(f"it takes {gigabytes:.1f} GB, and data.max_gb is {self.max_gb:g}; raise it to go on")
            with np.load(path, allow_pickle=False) as arrays:
                train = _split(arrays, _TRAIN)
                validation = _split(arrays, _VALIDATION)
        except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            message = "it holds pickled objects, which could run code" if "allow_pickle" in str(error) else error
            raise ValueError(f"{path} cannot be used: {' '.join(str(message).split())}") from error
        classes = int(train[1].max()) + 1
        counts = torch.bincount(train[1], minlength=classes)
        if not counts.all():
            empty = torch.nonzero(counts == 0).flatten().tolist()
            raise ValueError(f"{path} has no training image of classes {empty}; labels must go from 0 to {classes - 1}")
        return ImageData(*train, *validation, tuple(str(k) for k in range(classes)))


def _split(arrays: np.lib.npyio.NpzFile, keys: tuple[tuple[str, str], ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return images N C H W and labels N of the first pair of keys that is there."""
    pair = next((pair for pair in keys if set(pair) <= set(arrays.files)), None)
    if pair is None:
        wanted = ", or ".join(" and ".join(pair) for pair in keys)
        raise ValueError(f"it has the keys {', '.join(arrays.files) or '(none)'}; expected {wanted}")
    image, label = (arrays[key] for key in pair)
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
    label = torch.from_numpy(label.astype(np.int64))
    return torch.from_numpy(np.ascontiguousarray(image.transpose(0, 3, 1, 2))), label
