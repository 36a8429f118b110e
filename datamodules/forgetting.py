"""Kinds of what is to be forgotten that are no label noise: chosen examples, a class, and a trigger in images."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from vitmem.datamodules.batch import Examples
from vitmem.datamodules.corruption import Labels, Noise
from vitmem.datamodules.label_files import read_csv
from vitmem.datamodules.manifest import NoiseManifest
from vitmem.datamodules.rows import class_number, positions
from vitmem.datamodules.sources import ImageData


@dataclass(frozen=True)
class ForgetSet(Noise):
    """A forget set of rightly labelled examples, by their indices or in a CSV file with a column path or index.

    The labels stay as they are. Edits see the set as what is to be forgotten and all others as what is to be kept;
    ``retrain`` leaves it out; memorised accuracy is that on the set (the field's forget accuracy). For a forget set
    among labels of your own, give the file of kind ``file`` a column forget.

    Args:
        rate: without effect; the header reports num_forget.
        seed: of the draw of what edits know.
        exact: without effect.
        repeats: how often each example of the set occurs in the training set.
        canaries: must be 0.
        file: the CSV file.
        indices: in place of a file, the indices of the examples.
    """

    kind = "forget_set"
    has_rate = False
    file: str = ""
    indices: list[int] | None = None

    def labels(self, data):
        """Return the data's labels, and the set."""
        if bool(self.file) == (self.indices is not None):
            raise ValueError("noise.kind forget_set needs noise.file or noise.indices, and not both")
        path = Path(self.file).expanduser() if self.file else Path("noise.indices")
        columns = read_csv(path, ()) if self.file else {"index": self.indices}
        chosen = np.zeros(len(data.train_label), bool)
        chosen[positions(path, columns, data)] = True
        return Labels(data.train_label.numpy(), {"file": path.name} if self.file else {}, None, chosen)


@dataclass(frozen=True)
class ForgetClass(Noise):
    """A forget set of all training examples of one class, or of a share of them drawn at random; labels stay right.

    Args:
        rate: without effect; the header reports num_forget.
        seed: of the draw.
        exact: without effect.
        repeats: how often each example of the set occurs in the training set.
        canaries: must be 0.
        name: name or number of the class.
        share: of its examples, in (0, 1]; rounded to the nearest number of examples, at least 1.
    """

    kind = "forget_class"
    has_rate = False
    name: str = "0"
    share: float = 1.0

    def __post_init__(self):
        super().__post_init__()
        if not 0 < self.share <= 1:
            raise ValueError(f"noise.share is {self.share}; it is the share of a class, in (0, 1]")

    def labels(self, data):
        """Return the data's labels, and the set."""
        label = data.train_label.numpy()
        members = np.flatnonzero(label == class_number("noise.name", self.name, data))
        drawn = np.random.RandomState(self.seed).permutation(members)[: max(1, round(self.share * len(members)))]
        chosen = np.zeros(len(label), bool)
        chosen[drawn] = True
        return Labels(label, {"class": self.name, "share": self.share}, None, chosen)


@dataclass(frozen=True)
class Trigger(Noise):
    """A backdoor (BadNets; Gu et al. 2017): a bright patch on some images, which are labelled as one target class.

    The patched images are wrongly labelled, and what is to be forgotten. Evaluation shows the patch on all validation
    images of the source classes, too: ``attack_success_rate`` is how often the model says the target.

    Args:
        rate: share of the training images of the source classes that are patched, in [0, 1].
        seed: of the draw.
        exact: patch exactly round(rate * N) of them; otherwise each one with probability ``rate``.
        repeats: how often each patched example occurs in the training set.
        canaries: must be 0.
        target: name or number of the class that the patch stands for.
        source: name or number of the only class whose images are patched; None: all but the target.
        size: side of the patch in pixels.
        corner: where the patch lies.
        value: its brightness in all channels, in [0, 1].
    """

    kind = "trigger"
    target: str = "0"
    source: str | None = None
    size: int = 3
    corner: Literal["bottom_right", "bottom_left", "top_right", "top_left"] = "bottom_right"
    value: float = 1.0

    def __post_init__(self):
        super().__post_init__()
        if self.size < 1:
            raise ValueError(f"noise.size is {self.size}; it is the side of the patch in pixels, at least 1")
        if not 0 <= self.value <= 1:
            raise ValueError(f"noise.value is {self.value}; it is a brightness in [0, 1]")
        if self.canaries:
            raise ValueError(f"noise.canaries is {self.canaries}, and kind trigger has none; set it to 0")

    def given_labels(self, data):
        """Draw the images that are patched, and label them as the target."""
        true, target = data.train_label.numpy(), class_number("noise.target", self.target, data)
        members = np.flatnonzero(self._is_source(data.train_label, data).numpy())
        rng, given = np.random.RandomState(self.seed), true.copy()
        if self.exact:
            drawn = rng.permutation(members)[: round(self.rate * len(members))]
        else:
            drawn = members[rng.random_sample(len(members)) < self.rate]
        given[drawn] = target
        names = ("target", "source", "size", "corner", "value")
        return given, {name: getattr(self, name) for name in names}

    def _is_source(self, label_N: Tensor, data: ImageData) -> Tensor:
        target = class_number("noise.target", self.target, data)
        if self.source is None:
            return label_N != target
        source = class_number("noise.source", self.source, data)
        if source == target:
            raise ValueError(f"noise.source and noise.target are both {self.source}; a patch must change the label")
        return label_N == source

    def altered(self, data: ImageData, manifest: NoiseManifest) -> ImageData:
        """Return the data with the patch on the images that were drawn.

        Raises:
            ValueError: images are streamed, or smaller than the patch.
        """
        if not isinstance(data.train_image, Tensor) or not isinstance(data.validation_image, Tensor):
            raise ValueError("noise.kind trigger patches decoded images; set data.streaming to false")
        if self.size >= min(data.image_shape[1:]):
            height, width = data.image_shape[1:]
            raise ValueError(f"noise.size is {self.size}; it must be less than the images' {height} x {width} pixels")
        image, drawn = data.train_image.clone(), torch.from_numpy(manifest.is_noisy)
        image[drawn] = self.stamped(image[drawn])
        return replace(data, train_image=image)

    def stamped(self, image_NCHW: Tensor) -> Tensor:
        """Return images with the patch."""
        vertical, horizontal = self.corner.split("_")
        rows = slice(-self.size, None) if vertical == "bottom" else slice(self.size)
        columns = slice(-self.size, None) if horizontal == "right" else slice(self.size)
        stamped = image_NCHW.clone()
        stamped[:, :, rows, columns] = self.value if stamped.is_floating_point() else round(255 * self.value)
        return stamped

    def triggered(self, validation: Examples, data: ImageData) -> Examples:
        """Return the validation images of the source classes with the patch, labelled as the target."""
        shown = validation.subset(self._is_source(validation.true_label, data))
        given = torch.full_like(shown.true_label, class_number("noise.target", self.target, data))
        return Examples(self.stamped(shown.image), given, shown.true_label, shown.index)
