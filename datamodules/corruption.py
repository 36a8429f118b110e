"""What a noise kind is, and the kinds that draw wrong labels from a seed.

Legend: N training examples, K classes, D pixel values of an image.
"""

from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple

import numpy as np
import torch

from vitmem.datamodules.batch import Examples
from vitmem.datamodules.class_names import CIFAR10, CIFAR100, CIFAR100_SUPERCLASSES
from vitmem.datamodules.manifest import TEST_FINGERPRINT, NoiseManifest
from vitmem.datamodules.sources import ImageData

_CHUNK = 2**24  # pixel values that are handled at once


class Labels(NamedTuple):
    """What a noise kind makes of the training labels.

    Attributes:
        given: N, int64, the labels that training is given.
        details: what the kind has to report; JSON types.
        true: N, int64, -1 where the truth is unknown; None: the data's labels.
        chosen: N, bool, the forget set, where it was chosen whatever the labels; None: the wrong labels.
    """

    given: np.ndarray
    details: dict
    true: np.ndarray | None = None
    chosen: np.ndarray | None = None


@dataclass(frozen=True)
class Noise:
    """Options shared by all kinds.

    Args:
        rate: share of the training examples that are selected for corruption, in [0, 1].
        seed: seed of the corruption, independent of the model's seed.
        exact: select exactly round(rate * N) examples; otherwise each one with probability ``rate``.
        repeats: how often each noisy example occurs in the training set.
        canaries: so many of the other training examples get a label drawn uniformly from all classes.
    """

    kind: ClassVar[str]
    has_rate: ClassVar[bool] = True  # False: the labels come from elsewhere, and ``rate`` has no effect
    needs_truth: ClassVar[bool] = True  # False: the data need not say which labels are right

    rate: float = 0.1
    seed: int = 0
    exact: bool = True
    repeats: int = 1
    canaries: int = 0

    def __post_init__(self):
        if not 0 <= self.rate <= 1:
            raise ValueError(f"noise.rate is {self.rate}; it is a fraction in [0, 1], not a percentage")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"noise.seed is {self.seed}; it must be in [0, 2^32)")
        for name, least, most in (("repeats", 1, 1000), ("canaries", 0, 10**9)):
            if not least <= getattr(self, name) <= most:
                raise ValueError(
                    f"noise.{name} is {getattr(self, name)}; it must be at least {least} and at most {most}"
                )

    def manifest(self, data: ImageData) -> NoiseManifest:
        """Return the labels that training is given, and where they come from.

        Raises:
            ValueError: the data set has too few classes or examples, or not those that the kind is made for.
        """
        if data.num_classes < 2:
            raise ValueError(f"label noise needs at least 2 classes; the data set has {data.num_classes}")
        if self.needs_truth and (data.train_label < 0).any():
            raise ValueError(
                f"noise.kind {self.kind} starts from the right labels, and the data do not say them: the images of "
                "train/ are in no class folders; use noise.kind file with a file of labels"
            )
        given, details, true, chosen = self.labels(data)
        true = data.train_label.numpy() if true is None else true
        if chosen is not None and not chosen.any():
            raise ValueError(f"the forget set of noise.kind {self.kind} is empty; name at least one training example")
        if self.repeats > 1:
            details["repeats"] = self.repeats
        if self.canaries and chosen is not None:
            raise ValueError(f"noise.canaries is {self.canaries}, but the forget set is another; set it to 0")
        if self.canaries:
            details["num_canaries"], details["canaries"] = self.canaries, self._plant(given, true, data.num_classes)
        if data.has_test:
            details[TEST_FINGERPRINT] = data.test_fingerprint
        made = NoiseManifest(
            true, given, data.num_classes, self.kind, 0.0, self.seed, data.fingerprint, details, chosen, data.train_name
        )
        return replace(made, rate=self.rate if self.has_rate else made.realised_rate)

    def labels(self, data: ImageData) -> Labels:
        """Return all that a kind says of the labels; by default the given ones, of which the data's are the truth."""
        return Labels(*self.given_labels(data))

    def altered(self, data: ImageData, manifest: NoiseManifest) -> ImageData:
        """Return the data as training sees them, where a kind changes images, too; by default as they are."""
        return data

    def triggered(self, validation: Examples, data: ImageData) -> Examples | None:
        """Return validation images with a trigger in them, labelled as it asks for; None for kinds that have none."""
        return None

    def given_labels(self, data: ImageData) -> tuple[np.ndarray, dict]:
        """Return N labels, int64, and what the kind has to report; by default the selected labels are corrupted."""
        rng = np.random.RandomState(self.seed)  # NumPy keeps this stream the same in every version
        given = data.train_label.numpy().copy()
        if self.exact:
            selected = np.sort(rng.permutation(len(given))[: round(self.rate * len(given))])
        else:
            selected = np.flatnonzero(rng.random_sample(len(given)) < self.rate)
        given[selected] = self.corrupt(given[selected], data, rng)
        return given, {}

    def corrupt(self, label: np.ndarray, data: ImageData, rng: np.random.RandomState) -> np.ndarray:
        """Return the new labels of the selected examples."""
        raise NotImplementedError("abstract")

    def _plant(self, given: np.ndarray, true: np.ndarray, num_classes: int) -> list[int]:
        """Draw the canaries' labels into ``given``, and return their indices."""
        rng = np.random.RandomState([self.seed, 1])
        free = np.flatnonzero(given == true)
        if self.canaries > len(free):
            raise ValueError(f"noise.canaries is {self.canaries}, but only {len(free)} labels are still right")
        chosen = np.sort(rng.permutation(free)[: self.canaries])
        given[chosen] = rng.randint(0, num_classes, size=len(chosen))
        return chosen.tolist()


@dataclass(frozen=True)
class Symmetric(Noise):
    """A class drawn uniformly from the others; the realised rate is the nominal one."""

    kind = "symmetric"

    def corrupt(self, label, data, rng):
        """Shift each label by 1 to K - 1 classes, uniformly."""
        return (label + rng.randint(1, data.num_classes, size=len(label))) % data.num_classes


@dataclass(frozen=True)
class SymmetricInclusive(Noise):
    """A class drawn uniformly from all (Zhang et al. 2017); the realised rate is about rate * (1 - 1/K)."""

    kind = "symmetric_inclusive"

    def corrupt(self, label, data, rng):
        """Draw each label anew."""
        return rng.randint(0, data.num_classes, size=len(label))


@dataclass(frozen=True)
class PairFlip(Noise):
    """The next class: y -> y + 1 mod K."""

    kind = "pair_flip"

    def corrupt(self, label, data, rng):
        """Shift each label by one class."""
        return (label + 1) % data.num_classes


@dataclass(frozen=True)
class Asymmetric(Noise):
    """A class that is easily confused (Patrini et al. 2017), for CIFAR-10 and CIFAR-100.

    CIFAR-10: truck -> automobile, bird -> airplane, deer -> horse, cat <-> dog; the other classes keep their labels, so
    the realised rate is about rate / 2. CIFAR-100: the next class of the same superclass, in alphabetical order; the
    superclasses are the real ones, not blocks of five labels as in the code of Patrini et al.
    """

    kind = "asymmetric"

    def corrupt(self, label, data, rng):
        """Look up each label's partner."""
        names = data.class_names
        if set(names) == set(CIFAR10):
            partner = _PATRINI
        elif set(names) == set(CIFAR100):
            groups = CIFAR100_SUPERCLASSES.values()
            partner = {name: group[(k + 1) % 5] for group in groups for k, name in enumerate(group)}
        else:
            raise ValueError(
                f"noise.kind asymmetric is defined for the classes of CIFAR-10 and CIFAR-100; the data set has "
                f"{len(names)} classes ({', '.join(names[:5])} ...); use pair_flip, or file with labels of your own"
            )
        position = {name: k for k, name in enumerate(names)}
        return np.array([position[partner.get(name, name)] for name in names])[label]


_PATRINI = {"truck": "automobile", "bird": "airplane", "deer": "horse", "cat": "dog", "dog": "cat"}


@dataclass(frozen=True)
class Instance(Noise):
    """Part-dependent noise (Xia et al. 2020, algorithm 2): the pixels of an image decide on its wrong label.

    Flip probabilities are drawn from a normal of mean ``rate`` and deviation 0.1 cut to [0, 1], so a low rate is
    exceeded (0.1 gives about 0.13; see realised_rate); rate 0 means no noise. Targets are drawn from
    softmax(x W_y) over the other classes, W_y of D x K standard normals for each true class y, x the pixels in [0, 1]
    standardised by channel. The authors' code feeds pixels of 0 to 255, which makes the target all but certain;
    ``target_entropy`` in the header (nats, mean over examples, at most log(K - 1)) says how certain it is here.

    Args:
        rate: mean flip probability, in [0, 1].
        seed: seed of the corruption, independent of the model's seed.
        exact: without effect.
        repeats: how often each noisy example occurs in the training set.
        canaries: so many of the other training examples get a label drawn uniformly from all classes.
        logit_scale: factor of x W_y; 1 is the paper's, smaller ones spread the targets, 0 makes them uniform.
    """

    kind = "instance"
    logit_scale: float = 1.0

    def __post_init__(self):
        super().__post_init__()
        if not self.logit_scale >= 0:
            raise ValueError(f"noise.logit_scale is {self.logit_scale}; it must not be negative")

    def given_labels(self, data):
        """Draw flip probabilities, then targets class by class."""
        true, rng = data.train_label.numpy(), np.random.RandomState(self.seed)
        from scipy.special import ndtr, ndtri

        low, high = ndtr((0 - self.rate) / 0.1), ndtr((1 - self.rate) / 0.1)
        flip_rate = self.rate + 0.1 * ndtri(low + (high - low) * rng.random_sample(len(true)))
        flips = (rng.random_sample(len(true)) < flip_rate) & (self.rate > 0)
        level = rng.random_sample(len(true))
        given, entropy = true.copy(), np.zeros(len(true))
        mean, std = (np.array(value)[:, None, None] for value in data.mean_std)
        scale = 255.0 if data.train_image.dtype == torch.uint8 else 1.0
        for y in range(data.num_classes):
            weight = rng.standard_normal((int(np.prod(data.image_shape)), data.num_classes))
            for rows in np.array_split(np.flatnonzero(true == y), 1 + (true == y).sum() * len(weight) // _CHUNK):
                pixel = (data.train_image[rows].numpy() / scale - mean) / std
                logit = self.logit_scale * pixel.reshape(len(rows), len(weight)) @ weight
                logit[:, y] = -np.inf
                target = np.exp(logit - logit.max(1, keepdims=True, initial=-np.inf))
                target /= target.sum(1, keepdims=True)
                entropy[rows] = -(target * np.log(np.where(target > 0, target, 1))).sum(1)
                sums = target.cumsum(1)
                drawn = (sums <= level[rows, None] * sums[:, -1:]).sum(1)  # never the true class, whose step is zero
                given[rows] = np.where(flips[rows], drawn, y)
        return given, {"logit_scale": self.logit_scale, "target_entropy": float(entropy.mean())}
