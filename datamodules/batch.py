"""The batch contract, and the loader that serves batches from tensors in memory.

Legend: N examples of a split, B examples of a batch, C channels, H x W pixels.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

TRAIN, VALIDATION, TEST, TRIGGERED = range(4)  # splits of what is evaluated


class Batch(NamedTuple):
    """What every loader yields; ``index`` is the example's id in its split.

    ``is_noisy`` means that the given label is known to be wrong: given != true, and true is not -1 (unknown).
    """

    image: Tensor  # B C H W, float32, normalised
    given_label: Tensor  # B, int64
    true_label: Tensor  # B, int64
    is_noisy: Tensor  # B, bool
    index: Tensor  # B, int64
    target: Tensor | None = None  # B K, soft targets in place of the given labels; only where training mixes images
    chosen: Tensor | None = None  # B, bool, the forget set, where it was chosen; else it is the wrong labels

    @property
    def to_forget(self) -> Tensor:
        """B, bool: as ``Examples.to_forget``."""
        return self.is_noisy if self.chosen is None else self.chosen

    @property
    def to_retain(self) -> Tensor:
        """B, bool: as ``Examples.to_retain``."""
        return self.given_label == self.true_label if self.chosen is None else ~self.chosen

    def map(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        """Return the batch with every field that is there changed."""
        return Batch(*(None if field is None else change(field) for field in self))


@dataclass(frozen=True, eq=False)
class Examples:
    """Labelled images, in memory or streamed.

    Args:
        image: N C H W, uint8 in [0, 255] or float in [0, 1]; or ``StreamedImages``.
        given_label: N, the labels that training sees.
        true_label: N, the labels that are right; -1 where that is unknown.
        index: N, stable ids in the split.
        chosen: N, bool, the forget set, where it was chosen whatever the labels; None: the wrong labels.
    """

    image: Tensor
    given_label: Tensor
    true_label: Tensor
    index: Tensor
    chosen: Tensor | None = None

    def __len__(self) -> int:
        return len(self.index)

    @property
    def is_noisy(self) -> Tensor:
        """N, bool: the given label is known to be wrong."""
        return (self.given_label != self.true_label) & (self.true_label >= 0)

    @property
    def to_forget(self) -> Tensor:
        """N, bool: what edits are to remove, and ``retrain`` never sees: the chosen examples, or the wrong labels."""
        return self.is_noisy if self.chosen is None else self.chosen

    @property
    def to_retain(self) -> Tensor:
        """N, bool: what edits are to keep: the examples that were not chosen, or whose labels are known to be right."""
        return self.given_label == self.true_label if self.chosen is None else ~self.chosen

    @property
    def truth_known(self) -> bool:
        """A true label is known, or a forget set was chosen; else nobody knows what is to be forgotten."""
        return self.chosen is not None or bool((self.true_label >= 0).any())

    @property
    def remembered(self) -> Tensor:
        """N, bool: where memory is measured: what is to be forgotten; everything where nobody knows what that is."""
        return self.to_forget if self.truth_known else torch.ones_like(self.to_forget)

    def subset(self, selection: Tensor) -> "Examples":
        """Return the selected examples (a mask or positions); indices stay those of the split."""
        image = self.image[selection] if isinstance(self.image, Tensor) else self.image.subset(selection)
        labels = (self.given_label, self.true_label, self.index, self.chosen)
        return Examples(image, *(None if column is None else column[selection] for column in labels))

    @staticmethod
    def concatenate(parts: Sequence["Examples"]) -> "Examples":
        """Return the examples of several parts of one data set, one after the other; streamed images stay so."""
        images = [part.image for part in parts]
        image = torch.cat(images) if isinstance(images[0], Tensor) else images[0].concatenate(images)
        labels = [torch.cat([getattr(part, name) for part in parts]) for name in ("given_label", "true_label", "index")]
        chose = any(part.chosen is not None for part in parts)
        chosen = torch.cat([part.to_forget for part in parts]) if chose else None
        return Examples(image, *labels, chosen)


@dataclass(frozen=True)
class Share:
    """Which part of every training step one process does.

    A step's examples are dealt out in turn to ``processes * accumulate`` batches, of which each process has
    ``accumulate``: the step is the same however many processes there are.

    Args:
        rank: number of the process.
        processes: how many there are.
        accumulate: batches per step and process, whose gradients add up.
    """

    rank: int = 0
    processes: int = 1
    accumulate: int = 1

    def examples(self, number: int, size: int) -> slice:
        """Return which of the ``size`` examples of a step are in this process's batch of that number."""
        first = (number % self.accumulate) * self.processes + self.rank
        return slice(first, size, self.processes * self.accumulate)


def keyed_seed(*key: int) -> int:
    """Return a seed in [0, 2^63) that depends on every integer of the key, and on nothing else."""
    seed = 0
    for part in key:  # SplitMix64 finaliser over the parts, so that (0, 1) and (1, 0) differ
        seed = (seed ^ (part & (2**64 - 1))) + 0x9E3779B97F4A7C15 & (2**64 - 1)
        seed = (seed ^ (seed >> 30)) * 0xBF58476D1CE4E5B9 & (2**64 - 1)
        seed = (seed ^ (seed >> 27)) * 0x94D049BB133111EB & (2**64 - 1)
        seed ^= seed >> 31
    return seed & (2**63 - 1)


def keyed_generator(*key: int) -> torch.Generator:
    """Return a CPU generator seeded by ``keyed_seed``."""
    return torch.Generator().manual_seed(keyed_seed(*key))


class InMemoryLoader:
    """Batches by index from tensors, in an order keyed by (seed, epoch).

    The order of an epoch does not depend on the epochs before it, so a resumed run sees what the uninterrupted one
    saw. Lightning calls ``sampler.set_epoch``; ``state_dict`` lets it resume in the middle of an epoch.

    Args:
        examples: what to serve.
        batch_size: examples per batch; the last batch may be smaller.
        mean: per-channel mean of images scaled to [0, 1].
        std: per-channel standard deviation, likewise.
        shuffle: draw a new order each epoch.
        seed: key of the orders and of the augmentation.
        augment: ``augment(image_BCHW, label_B, normalise, seed) -> (image_BCHW, target_BK or None)`` on raw images;
            None for evaluation.
        drop_last: leave out a ragged last batch.
        share: the part of every batch that this process serves, where several train together.
        device: where batches are made; images that lie elsewhere are moved batch by batch.
    """

    def __init__(
        self,
        examples: Examples,
        batch_size: int,
        mean: tuple[float, ...] = (0.0,),
        std: tuple[float, ...] = (1.0,),
        *,
        shuffle: bool = False,
        seed: int = 0,
        augment: Callable[[Tensor, Tensor, Callable, int], tuple[Tensor, Tensor | None]] | None = None,
        drop_last: bool = False,
        share: Share = Share(),
        device: torch.device | str = "cpu",
    ):
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; it must be at least 1")
        self.examples, self.batch_size, self.shuffle, self.seed = examples, batch_size, shuffle, seed
        self.augment, self.drop_last, self.device, self.share = augment, drop_last, torch.device(device), share
        self.mean, self.std = (torch.tensor(value, device=device).view(-1, 1, 1) for value in (mean, std))
        labels = (examples.given_label, examples.true_label, examples.is_noisy, examples.index, examples.chosen)
        self._labels = [None if column is None else column.to(device) for column in labels]
        self.sampler, self.batch_sampler = self, None  # where Lightning looks for set_epoch
        self.epoch = 0
        self._served = 0  # batches of this epoch handed out so far
        self._first = 0  # batch at which the next iteration starts

    def __len__(self) -> int:
        full, rest = divmod(len(self.examples), self.batch_size)
        return (full + (rest > 0 and not self.drop_last)) * self.share.accumulate

    def set_epoch(self, epoch: int) -> None:
        """Choose the order that the next iteration follows."""
        self.epoch = epoch

    def state_dict(self) -> dict[str, int]:
        """Return how far the current epoch has come."""
        return {"epoch": self.epoch, "served": self._served}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on after the batches that a state counts as served."""
        self.epoch, self._first = state["epoch"], state["served"] % len(self)

    def order(self) -> Tensor:
        """Return the positions in the order of this epoch."""
        if not self.shuffle:
            return torch.arange(len(self.examples))
        return torch.randperm(len(self.examples), generator=keyed_generator(self.seed, self.epoch))

    def __iter__(self) -> Iterator[Batch]:
        first, self._first = self._first, 0
        for served, (position, number) in enumerate(self.plan(first), start=first + 1):
            self._served = served
            yield self.batch(position, number)

    def plan(self, first: int = 0) -> Iterator[tuple[Tensor, int]]:
        """Yield the positions of every batch of this epoch from one on, and the number that keys its augmentation."""
        order = self.order()
        for number in range(first, len(self)):
            step = self._step(number)
            own = order[step][self.share.examples(number, step.stop - step.start)]
            yield own if len(own) else order[step][:1], number * self.share.processes + self.share.rank

    def _step(self, number: int) -> slice:
        start = number // self.share.accumulate * self.batch_size
        return slice(start, min(start + self.batch_size, len(self.examples)))

    def counts(self, number: int) -> tuple[int, int]:
        """Return how many examples count in a batch, and in all batches of its step, those of other processes too.

        A ragged last step may have fewer examples than batches; a batch without any holds one that counts 0.
        """
        step = self._step(number)
        size = step.stop - step.start
        return len(range(size)[self.share.examples(number, size)]), size

    def images(self, position: Tensor) -> Tensor:
        """Return the raw images at the given positions, on the device."""
        image = self.examples.image
        return image[position.to(image.device)].to(self.device, non_blocking=True)

    def batch(self, position: Tensor, number: int = 0) -> Batch:
        """Return the examples at the given positions as one batch."""
        image, target = self.images(position), None
        place = position.to(self.device)
        given, true, is_noisy, index, chosen = (None if c is None else c[place] for c in self._labels)
        if self.augment is None:
            image = self.normalise(image)
        else:
            seed = keyed_seed(self.seed, self.epoch, number, 1)
            image, target = self.augment(image, given, self.normalise, seed)
        return Batch(image, given, true, is_noisy, index, target, chosen)

    def normalise(self, image_BCHW: Tensor) -> Tensor:
        """Return raw images with this loader's mean and standard deviation taken out."""
        return normalise(image_BCHW, self.mean, self.std)


def normalise(image_BCHW: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Scale uint8 images to [0, 1], then subtract the mean and divide by the standard deviation."""
    image_BCHW = image_BCHW.float() / 255 if image_BCHW.dtype == torch.uint8 else image_BCHW.float()
    return (image_BCHW - mean) / std
