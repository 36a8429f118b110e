"""The data module: one data set, its noise, and the three training sets made from them."""

import copy
from functools import partial
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from vitmem.datamodules.augment import Augment
from vitmem.datamodules.batch import TEST, TRAIN, TRIGGERED, VALIDATION, Examples, InMemoryLoader, Share
from vitmem.datamodules.noise import Noise
from vitmem.datamodules.sources import DataSet
from vitmem.datamodules.streaming import StreamingLoader

TrainOn = Literal["noisy", "retrain", "clean"]


class MemorisationData:
    """Serves a data set with injected label noise.

    Args:
        source: the data set.
        noise: how labels are corrupted.
        batch_size: training batch size.
        eval_batch_size: batch size of the passes that only evaluate.
        train_on: ``noisy`` (all examples, given labels), ``retrain`` (what is to be forgotten left out) or ``clean``
            (all examples, true labels). Evaluation is the same for all three.
        seed: key of the shuffling and of the augmentation.
        augment: what is done to training images; evaluation and edits see them as they are.
        normalisation: per-channel mean and standard deviation, in [0, 1], that are taken out of every image: those of
            the model, where it was trained elsewhere. None: those of the training images.
    """

    def __init__(
        self,
        source: DataSet,
        noise: Noise,
        *,
        batch_size: int = 64,
        eval_batch_size: int = 500,
        train_on: TrainOn = "noisy",
        seed: int = 0,
        augment: Augment = Augment(),  # noqa: B008
        normalisation: tuple[tuple[float, ...], tuple[float, ...]] | None = None,
    ):
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size
        self.train_on, self.seed, self.augment = train_on, seed, augment
        self.share = Share()  # set while several processes train together
        self.data = source.load()
        self._normalisation = normalisation
        if normalisation is not None and any(len(part) != self.data.image_shape[0] for part in normalisation):
            raise ValueError(
                f"mean and std have {len(normalisation[0])} and {len(normalisation[1])} numbers, and the images "
                f"{self.data.image_shape[0]} channels; give one for each channel"
            )
        self._noise, self.manifest = noise, noise.manifest(self.data)
        self.data = noise.altered(self.data, self.manifest)
        self.repeats = noise.repeats
        self._device, self._moved = torch.device("cpu"), {}
        if augment.crop < 1 and isinstance(self.data.train_image, Tensor):
            raise ValueError(
                f"augment.crop is {augment.crop}, but the images are decoded already, and cut to size; use an image "
                "folder with data.streaming true, or augment.pad"
            )
        if augment.fill == "reflect" and augment.pad >= min(self.data.image_shape[1:]):
            size = " x ".join(map(str, self.data.image_shape[1:]))
            raise ValueError(
                f"augment.pad is {augment.pad}; it must be less than the image's {size} pixels to reflect them"
            )

    @property
    def mean_std(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Per-channel mean and standard deviation that are taken out of every image, scaled to [0, 1]."""
        return self._normalisation or self.data.mean_std

    def normalised(self, pair: tuple[tuple[float, ...], tuple[float, ...]]) -> "MemorisationData":
        """Return the same data with another mean and standard deviation taken out of every image."""
        twin = copy.copy(self)
        twin._normalisation = pair
        return twin

    def to_device(self, device: torch.device | None) -> None:
        """Make batches on a device; move the images there once, if it is a GPU and they are small enough.

        Args:
            device: the one that trains; None gives its memory back, and batches come from the host again.
        """
        self._device, self._moved = device or torch.device("cpu"), {}
        images = {"train": self.data.train_image, "validation": self.data.validation_image}
        images |= {"test": self.data.test_image} if self.data.has_test else {}
        if self._device.type != "cuda" or not all(isinstance(image, Tensor) for image in images.values()):
            return
        needed = sum(image.nbytes for image in images.values()) / 1e9
        free = torch.cuda.mem_get_info(self._device)[0] / 1e9
        if needed > free / 4:  # a training set without its noisy examples is a second copy; the rest is the model's
            print(f"the images ({needed:.1f} GB) stay in the host's memory: they take more than a quarter of the "
                  f"{free:.1f} GB that are free on {self._device}", flush=True)  # fmt: skip
            return
        self._moved = {split: image.to(self._device) for split, image in images.items()}

    def need_forget_set(self, asker: str) -> None:
        """Raise ValueError if nobody knows what is to be forgotten, and so what an edit or attack should look at."""
        if why := self.manifest.lacks_forget_set:
            raise ValueError(f"{asker}, but {why}")

    @property
    def train_examples(self) -> Examples:
        """All training examples, with given and true labels."""
        manifest = self.manifest
        return Examples(
            self._moved.get("train", self.data.train_image),
            *(torch.from_numpy(np.ascontiguousarray(label)) for label in (manifest.given_label, manifest.true_label)),
            torch.arange(len(manifest.given_label)),
            None if manifest.chosen is None else torch.from_numpy(manifest.chosen),
        )

    @property
    def validation_examples(self) -> Examples:
        """The validation examples; their given labels are the true ones."""
        label = self.data.validation_label
        image = self._moved.get("validation", self.data.validation_image)
        return Examples(image, label, label, torch.arange(len(label)))

    @property
    def test_examples(self) -> Examples | None:
        """The test examples, for reporting alone; None where the data have no such split."""
        if not self.data.has_test:
            return None
        label = self.data.test_label
        return Examples(self._moved.get("test", self.data.test_image), label, label, torch.arange(len(label)))

    def fit_examples(self) -> Examples:
        """Return the training set that ``train_on`` names.

        Noisy examples occur ``noise.repeats`` times; the clean set repeats the same images, with their true labels.
        """
        examples = self.train_examples
        if self.train_on == "retrain":
            self.need_forget_set("train_on is retrain")
            if examples.to_forget.all():
                raise ValueError(
                    "every training label is wrong, or to be forgotten, so `retrain` has nothing to train on; lower "
                    "noise.rate, or choose fewer"
                )
            return examples.subset(~examples.to_forget)
        if self.repeats > 1:
            examples = examples.subset(
                torch.arange(len(examples)).repeat_interleave(torch.where(examples.to_forget, self.repeats, 1))
            )
        if self.train_on == "clean":
            if unknown := int((examples.true_label < 0).sum()):
                raise ValueError(f"train_on is clean, but the true labels of {unknown} training examples are unknown")
            return Examples(examples.image, examples.true_label, examples.true_label, examples.index)
        return examples

    def loader(self, examples: Examples, batch_size: int | None = None, **options) -> InMemoryLoader:
        """Return a loader over some examples with this data set's normalisation."""
        mean, std = self.mean_std
        kind = InMemoryLoader if isinstance(examples.image, Tensor) else StreamingLoader
        return kind(examples, batch_size or self.eval_batch_size, mean, std, device=self._device, **options)

    def train_dataloader(self) -> InMemoryLoader:
        """Return the shuffled training batches, or this process's share of each."""
        return self.training_loader(self.fit_examples(), self.seed, self.share)

    def training_loader(self, examples: Examples, seed: int, share: Share) -> InMemoryLoader:
        """Return shuffled batches of some examples as training has them, augmented."""
        options: dict = {"shuffle": True, "seed": seed, "share": share}
        if self.augment.is_on:
            options["augment"] = partial(self.augment.apply, num_classes=self.data.num_classes)
        if self.augment.crop < 1:
            options["crop"] = self.augment.crop
        return self.loader(examples, self.batch_size, **options)

    @property
    def triggered_examples(self) -> Examples | None:
        """Validation images that show the trigger, labelled as it asks for; None where training had none."""
        return self._noise.triggered(self.validation_examples, self.data)

    def evaluation_loaders(self) -> dict[int, InMemoryLoader]:
        """Return a loader for each split that is reported: training, validation, and those of others that there are."""
        parts = {TRAIN: self.train_examples, VALIDATION: self.validation_examples}
        parts |= {TEST: self.test_examples, TRIGGERED: self.triggered_examples}
        return {split: self.loader(part) for split, part in parts.items() if part is not None}

    def val_dataloader(self) -> list[InMemoryLoader]:
        """Return the two evaluation loaders: all training examples, then validation; in order, not augmented.

        Where several processes train together, each has every so-manieth example, and none has one twice.
        """
        own = slice(self.share.rank, None, self.share.processes)
        return [self.loader(part.subset(own)) for part in (self.train_examples, self.validation_examples)]
