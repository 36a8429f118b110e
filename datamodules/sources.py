"""What a data set must provide: images with true labels, for training and for validation."""

import hashlib
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class ImageData:
    """A data set in memory, or streamed from files.

    Args:
        train_image: N C H W, uint8 in [0, 255] or float32 in [0, 1]; or ``StreamedImages``.
        train_label: N, int64 in [0, K); -1 for all where the data do not say them, and a file of labels must.
        validation_image: M C H W, likewise.
        validation_label: M, likewise.
        class_names: K names.
        train_name: N names of the training examples, such as file names; empty where they have none.
        test_image: T C H W, likewise: a third split, for reporting alone; None where there is none.
        test_label: T, likewise.

    Raises:
        ValueError: shapes, types or labels are not as stated.
    """

    train_image: Tensor
    train_label: Tensor
    validation_image: Tensor
    validation_label: Tensor
    class_names: tuple[str, ...]
    train_name: tuple[str, ...] = ()
    test_image: Tensor | None = None
    test_label: Tensor | None = None

    def __post_init__(self):
        for split in ("train", "validation", *(["test"] if self.has_test else [])):
            image, label = getattr(self, f"{split}_image"), getattr(self, f"{split}_label")
            empty = 0 in image.shape[1:] or (split == "train" and not len(image))
            if image.ndim != 4 or len(image) != len(label) or empty:
                raise ValueError(
                    f"{split}: images have shape {tuple(image.shape)} and labels {tuple(label.shape)}; "
                    "expected N C H W and N, with all of them at least 1"
                )
            if image.dtype not in (torch.uint8, torch.float32) or label.dtype != torch.int64:
                raise ValueError(
                    f"{split}: images are {image.dtype} and labels {label.dtype}; expected uint8 or float32, and int64"
                )
            if split == "train" and (label == -1).all():
                continue
            if len(label) and (label.min() < 0 or label.max() >= self.num_classes):
                raise ValueError(
                    f"{split}: labels go from {label.min()} to {label.max()}; expected 0 to {self.num_classes - 1}"
                )
            if self.train_image.shape[1:] != image.shape[1:]:
                raise ValueError(
                    f"train images are {tuple(self.train_image.shape[1:])}, {split} images {tuple(image.shape[1:])}; "
                    "they must have one shape"
                )

    @property
    def has_test(self) -> bool:
        """There is a third split, for reporting alone."""
        return self.test_image is not None

    @property
    def num_classes(self) -> int:
        """Number of classes K."""
        return len(self.class_names)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width."""
        return tuple(self.train_image.shape[1:])

    @cached_property
    def mean_std(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Per-channel mean and standard deviation of the training images, scaled to [0, 1]."""
        if not isinstance(self.train_image, Tensor):
            return self.train_image.mean_std
        if self.train_image.dtype == torch.uint8:
            mean, std = uint8_mean_std(self.train_image)
        else:
            image = self.train_image.double()
            mean, std = image.mean((0, 2, 3)), image.std((0, 2, 3), correction=0)
        return tuple(round(m, 6) for m in mean.tolist()), tuple(round(max(s, 1e-6), 6) for s in std.tolist())

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of what training and validation hold: shapes, types and bytes of all images and true labels.

        Of streamed images, that of their files. The test split has one of its own.
        """
        return self._digest(self.train_image, self.train_label, self.validation_image, self.validation_label)

    @cached_property
    def test_fingerprint(self) -> str | None:
        """SHA-256 of what the test split holds, likewise; None where there is none."""
        return self._digest(self.test_image, self.test_label) if self.has_test else None

    def _digest(self, *columns: Tensor) -> str:
        digest = hashlib.sha256(repr(self.class_names).encode())
        for tensor in columns:
            digest.update(f"{tuple(tensor.shape)} {tensor.dtype}".encode())
            streamed = not isinstance(tensor, Tensor)
            digest.update(tensor.digest.encode() if streamed else tensor.contiguous().numpy().data)
        return digest.hexdigest()


def uint8_mean_std(image_NCHW: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of each channel in [0, 1] from counts of the 256 values, in little memory."""
    count = torch.zeros(image_NCHW.shape[1], 256, dtype=torch.float64)
    for chunk in image_NCHW.split(1024):
        for channel, row in enumerate(count):
            row += torch.bincount(chunk[:, channel].flatten().int(), minlength=256)
    share, value = count / count.sum(1, keepdim=True), torch.arange(256, dtype=torch.float64) / 255
    mean = share @ value
    return mean, (share * (value - mean[:, None]) ** 2).sum(1).sqrt()


@dataclass(frozen=True)
class DataSet:
    """Base of the registered data sets: a frozen dataclass of options with a ``load`` method."""

    def load(self) -> ImageData:
        """Return the images and their true labels."""
        raise NotImplementedError("abstract")
