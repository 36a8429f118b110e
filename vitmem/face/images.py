"""Images and labels as users have them, tensors, datasets or loaders, as the data module of the house.

Legend: N training examples, M validation examples, C channels, K classes.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset, IterableDataset, SequentialSampler

from vitmem.datamodules.corruption import Noise
from vitmem.datamodules.module import MemorisationData
from vitmem.datamodules.sources import DataSet, ImageData

# images with labels and, if they are known, true labels: three tensors, a dataset of such examples, batches of them
Images: TypeAlias = Sequence[Tensor] | Dataset[Any] | DataLoader[Any] | Iterable[Sequence[Tensor]]
UNKNOWN = -1
BATCH = 500  # images of a pass that only evaluates


@dataclass(frozen=True, eq=False)
class Labelled:
    """Images with labels, in memory.

    Args:
        image: N C H W, uint8 in [0, 255] or float32.
        label: N, int64.
        true: N, int64, the labels that are right; None where that is not known.
    """

    image: Tensor
    label: Tensor
    true: Tensor | None = None


def gathered(images: Images, what: str, true: Tensor | None = None) -> Labelled:
    """Return the images and labels of tensors, a dataset or a loader.

    Args:
        images: tensors (images, labels) or (images, labels, true labels), a dataset of such examples, or an iterable of
            such batches.
        what: name of the argument, for errors.
        true: N true labels, where ``images`` does not hold them.

    Raises:
        ValueError: there is nothing, or something else.
    """
    image, *labels = _parts(images, what)
    if true is not None:
        if len(labels) > 1:
            raise ValueError(f"true labels are given twice: in {what}, and as true")
        if isinstance(images, DataLoader) and not _in_order(images):
            raise ValueError(
                f"{what} is a loader that shuffles or leaves examples out, so that nobody knows to which of them a "
                "label of true belongs; give the dataset itself, or true labels as the third part of each batch"
            )
        labels.append(torch.as_tensor(true))
    if image.ndim != 4 or not len(image):
        raise ValueError(f"{what}: images have shape {tuple(image.shape)}; expected N C H W, at least one")
    for label in labels:
        if label.shape != image.shape[:1] or label.is_floating_point():
            raise ValueError(
                f"{what}: labels are {label.dtype} of shape {tuple(label.shape)}; expected integers of shape "
                f"({len(image)},), one for each image"
            )
    image = image if image.dtype == torch.uint8 else image.float()
    return Labelled(image.detach().cpu(), *(label.long().cpu() for label in labels))


def _parts(images: Images, what: str) -> list[Tensor]:
    """Return what every example has, each over all examples."""
    if isinstance(images, (tuple, list)) and images and all(isinstance(part, (Tensor, np.ndarray)) for part in images):
        parts = [torch.as_tensor(part) for part in images]
    else:
        if isinstance(images, Dataset) and not isinstance(images, IterableDataset):
            images = DataLoader(images, batch_size=BATCH)
        try:
            batches = [[torch.as_tensor(part) for part in batch] for batch in images]
            parts = [torch.cat(columns) for columns in zip(*batches, strict=True)]
        except (TypeError, ValueError, RuntimeError) as error:
            raise ValueError(
                f"{what} is a {type(images).__name__} that gives no images and labels ({_first_line(error)}); give "
                "(images, labels), a dataset of such examples, or a loader of such batches"
            ) from error
    if len(parts) not in (2, 3):
        raise ValueError(f"{what} has {len(parts)} parts; give images and labels, and true labels where they are known")
    return parts


def _in_order(loader: DataLoader[Any]) -> bool:
    """Tell whether a loader gives all examples of its dataset in their order."""
    if isinstance(loader.dataset, IterableDataset):
        return True
    plain = type(loader.batch_sampler) in (BatchSampler, type(None)) and isinstance(loader.sampler, SequentialSampler)
    return plain and not loader.drop_last


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def taken_out(
    image: Tensor, mean: Sequence[float] | None, std: Sequence[float] | None
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return what is taken out of images N C H W: mean and standard deviation by channel, nothing if none is given.

    Raises:
        ValueError: they do not fit the images, or images of bytes come without.
    """
    channels = image.shape[1]
    if (mean is None) != (std is None):
        raise ValueError("mean and std belong together; give both, or neither where images are normalised already")
    if mean is None or std is None:
        if image.dtype == torch.uint8:
            raise ValueError(
                "the images are uint8, and the mean and std that the model was trained with are not given; give both, "
                "by channel and in [0, 1], as mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), or images that are normalised"
            )
        return (0.0,) * channels, (1.0,) * channels
    for name, values in (("mean", mean), ("std", std)):
        if len(values) != channels or not all(map(math.isfinite, values)) or (name == "std" and min(values) <= 0):
            raise ValueError(f"{name} is {values}; give a number for each of the {channels} channels, std above 0")
    return tuple(map(float, mean)), tuple(map(float, std))


@dataclass(frozen=True, eq=False)
class InMemory(DataSet):  # type: ignore[misc]  # mypy does not find the folder of vitmem.datamodules
    """A data set of tensors.

    Args:
        data: the images and their true labels.
    """

    data: ImageData

    def load(self) -> ImageData:
        """Return the images and labels."""
        return self.data


@dataclass(frozen=True, eq=False)
class GivenLabels(Noise):  # type: ignore[misc]
    """Labels as a user gives them.

    Args:
        given: N, the labels that the model was trained on.
    """

    kind = "given"
    has_rate = False
    needs_truth = False

    given: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))

    def given_labels(self, data: ImageData) -> tuple[np.ndarray, dict[str, Any]]:
        """Return the labels as they are."""
        return self.given.numpy().copy(), {}


def data_module(
    train: Labelled,
    validation: Labelled | None,
    classes: int,
    normalisation: tuple[tuple[float, ...], tuple[float, ...]],
    seed: int,
) -> MemorisationData:
    """Return the data module of a user's images.

    Args:
        train: with the labels that the model was trained on.
        validation: with right labels; None for none.
        classes: K.
        normalisation: mean and standard deviation by channel.
        seed: of the run.

    Raises:
        ValueError: labels are not those of the model.
    """
    held_out = Labelled(train.image[:0], train.label[:0]) if validation is None else validation
    true = torch.full_like(train.label, UNKNOWN) if train.true is None else train.true
    for name, label in (("train", train.label), ("validation", held_out.label)):
        if len(label) and not 0 <= int(label.min()) <= int(label.max()) < classes:
            raise ValueError(
                f"{name}: labels go from {int(label.min())} to {int(label.max())}, and the model has {classes} outputs"
            )
    data = ImageData(train.image, true, held_out.image, held_out.label, tuple(map(str, range(classes))))
    noise = GivenLabels(given=train.label)
    return MemorisationData(InMemory(data), noise, eval_batch_size=BATCH, seed=seed, normalisation=normalisation)
