"""The manifest that says which training labels are wrong."""

import csv
import hashlib
import io
import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

_SETTINGS = ("num_classes", "kind", "rate", "seed", "data_fingerprint")
_COMPUTED = ("num_examples", "num_noisy", "realised_rate", "sha256")


@dataclass(frozen=True, eq=False)
class NoiseManifest:
    """Which training labels are wrong, and how they came to be so.

    Args:
        true_label: N, int64.
        given_label: N, int64.
        num_classes: K.
        kind: registered noise kind.
        rate: nominal rate; the realised one for kinds that have no rate.
        seed: noise seed.
        data_fingerprint: SHA-256 of the clean data set that the labels belong to.
        details: what else the kind reports, added to the header; JSON types.
    """

    true_label: np.ndarray
    given_label: np.ndarray
    num_classes: int
    kind: str
    rate: float
    seed: int
    data_fingerprint: str
    details: dict = field(default_factory=dict)

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
        table = hashlib.sha256(self.csv_text().encode()).hexdigest()
        return {
            **{name: getattr(self, name) for name in _SETTINGS},
            "num_examples": len(self.true_label),
            "num_noisy": int(self.is_noisy.sum()),
            "realised_rate": self.realised_rate,
            "sha256": table,
            **self.details,
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
            details = {name: value for name, value in header.items() if name not in _SETTINGS + _COMPUTED}
            settings = {name: header[name] for name in _SETTINGS}
            manifest = cls(columns[:, 1], columns[:, 2], **settings, details=details)
            expected = header["sha256"]
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{csv_path} with {json_path.name} is not a noise manifest ({error})") from error
        if hashlib.sha256(text.encode()).hexdigest() != expected:
            raise ValueError(f"{csv_path} was changed after it was written: its SHA-256 is not the one in {json_path}")
        return manifest
