"""Seeded label corruption, and the manifest that says which labels are wrong.

The kinds are named by their definition: the two symmetric ones differ in whether the true class can be drawn, and so
in the realised rate. Noise has its own seed, independent of the model's.
"""

import csv
import hashlib
import io
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np


@dataclass(frozen=True)
class Noise:
    """Options shared by all kinds.

    Args:
        rate: share of the training examples that are selected for corruption, in [0, 1].
        seed: seed of the corruption, independent of the model's seed.
        exact: select exactly round(rate * N) examples; otherwise each one with probability ``rate``.
    """

    kind: ClassVar[str]

    rate: float = 0.1
    seed: int = 0
    exact: bool = True

    def __post_init__(self):
        if not 0 <= self.rate <= 1:
            raise ValueError(f"noise.rate is {self.rate}; it is a fraction in [0, 1], not a percentage")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"noise.seed is {self.seed}; it must be in [0, 2^32)")

    def given_labels(self, true_label: np.ndarray, num_classes: int) -> np.ndarray:
        """Return the corrupted labels.

        Args:
            true_label: N, int, the right labels.
            num_classes: K, at least 2.
        """
        if num_classes < 2:
            raise ValueError(f"label noise needs at least 2 classes; the data set has {num_classes}")
        rng = np.random.RandomState(self.seed)  # NumPy keeps this stream the same in every version
        n = len(true_label)
        if self.exact:
            selected = np.sort(rng.permutation(n)[: round(self.rate * n)])
        else:
            selected = np.flatnonzero(rng.random_sample(n) < self.rate)
        given = np.array(true_label, dtype=np.int64)
        given[selected] = self.corrupt(given[selected], num_classes, rng)
        return given

    def corrupt(self, label: np.ndarray, num_classes: int, rng: np.random.RandomState) -> np.ndarray:
        """Return the new labels of the selected examples."""
        raise NotImplementedError("abstract")


@dataclass(frozen=True)
class Symmetric(Noise):
    """A class drawn uniformly from the others; the realised rate is the nominal one."""

    kind = "symmetric"

    def corrupt(self, label, num_classes, rng):
        """Shift each label by 1 to K - 1 classes, uniformly."""
        return (label + rng.randint(1, num_classes, size=len(label))) % num_classes


@dataclass(frozen=True)
class SymmetricInclusive(Noise):
    """A class drawn uniformly from all (Zhang et al. 2017); the realised rate is about rate * (1 - 1/K)."""

    kind = "symmetric_inclusive"

    def corrupt(self, label, num_classes, rng):
        """Draw each label anew."""
        return rng.randint(0, num_classes, size=len(label))


@dataclass(frozen=True)
class PairFlip(Noise):
    """The next class: y -> y + 1 mod K."""

    kind = "pair_flip"

    def corrupt(self, label, num_classes, rng):
        """Shift each label by one class."""
        return (label + 1) % num_classes


NOISES: dict[str, type[Noise]] = {noise.kind: noise for noise in (Symmetric, SymmetricInclusive, PairFlip)}


@dataclass(frozen=True, eq=False)
class NoiseManifest:
    """Which training labels are wrong, and how they came to be so.

    Args:
        true_label: N, int64.
        given_label: N, int64.
        num_classes: K.
        kind: registered noise kind.
        rate: nominal rate.
        seed: noise seed.
        data_fingerprint: SHA-256 of the clean data set that the labels belong to.
    """

    true_label: np.ndarray
    given_label: np.ndarray
    num_classes: int
    kind: str
    rate: float
    seed: int
    data_fingerprint: str

    @property
    def is_noisy(self) -> np.ndarray:
        """N, bool: given != true."""
        return self.given_label != self.true_label

    @property
    def realised_rate(self) -> float:
        """Share of the labels that are wrong."""
        return float(self.is_noisy.mean())

    def csv_text(self) -> str:
        """Return the table that ``noise.csv`` holds."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(["index", "true_label", "given_label", "is_noisy"])
        for index, (true, given) in enumerate(zip(self.true_label, self.given_label, strict=True)):
            writer.writerow([index, true, given, int(true != given)])
        return out.getvalue()

    def header(self) -> dict:
        """Return what ``noise.json`` holds: the settings, the realised rate and the SHA-256 of the table."""
        fields = asdict(self)
        del fields["true_label"], fields["given_label"]
        table = hashlib.sha256(self.csv_text().encode()).hexdigest()
        return {
            **fields,
            "num_examples": len(self.true_label),
            "num_noisy": int(self.is_noisy.sum()),
            "realised_rate": self.realised_rate,
            "sha256": table,
        }

    @classmethod
    def load(cls, csv_path: Path, json_path: Path) -> "NoiseManifest":
        """Read a manifest, and refuse one whose table does not match its header.

        Raises:
            ValueError: a file is missing or malformed, or the table was changed.
        """
        try:
            header = json.loads(json_path.read_text())
            text = csv_path.read_text()
            rows = np.array([[int(cell) for cell in row] for row in list(csv.reader(io.StringIO(text)))[1:]], np.int64)
            columns = rows.reshape(-1, 4)
            names = ("num_classes", "kind", "rate", "seed", "data_fingerprint")
            manifest = cls(columns[:, 1], columns[:, 2], **{name: header[name] for name in names})
            expected = header["sha256"]
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{csv_path} with {json_path.name} is not a noise manifest ({error})") from error
        if hashlib.sha256(text.encode()).hexdigest() != expected:
            raise ValueError(f"{csv_path} was changed after it was written: its SHA-256 is not the one in {json_path}")
        return manifest
