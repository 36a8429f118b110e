"""The manifest that says which training labels are wrong."""

import csv
import hashlib
import io
import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

_COLUMNS = ["index", "true_label", "given_label", "is_noisy"]
_SETTINGS = {"num_classes": int, "kind": str, "rate": (int, float), "seed": int, "data_fingerprint": str}
_MOST = {"num_classes": 2**31, "rate": 1, "seed": 2**32}  # the least is 0
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
        writer.writerow(_COLUMNS)
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
            settings, details, expected = _header(json.loads(json_path.read_text()))
            text = csv_path.read_text()
            changed = hashlib.sha256(text.encode()).hexdigest() != expected
            true, given = (None, None) if changed else _labels(text, settings["num_classes"])
        except (OSError, ValueError, ArithmeticError, RecursionError, csv.Error) as error:
            message = " ".join(str(error).split())[:200]
            raise ValueError(f"{csv_path} with {json_path.name} is not a noise manifest ({message})") from error
        if changed:
            raise ValueError(f"{csv_path} was changed after it was written: its SHA-256 is not the one in {json_path}")
        return cls(true, given, **settings, details=details)


def _header(content: object) -> tuple[dict, dict, str]:
    """Return the settings, the details and the SHA-256 of the table that a header holds, of the right types."""
    if not isinstance(content, dict):
        raise ValueError(f"the header is a {type(content).__name__}; expected a mapping")
    for name, kind in {**_SETTINGS, "sha256": str}.items():
        value = content.get(name)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise ValueError(f"{name} is {value!r:.50}; expected {getattr(kind, '__name__', 'a number')}")
        if name in _MOST and not 0 <= value <= _MOST[name]:
            raise ValueError(f"{name} is {value!r:.50}; expected 0 to {_MOST[name]}")
    details = {name: value for name, value in content.items() if name not in (*_SETTINGS, *_COMPUTED)}
    return {name: content[name] for name in _SETTINGS}, details, content["sha256"]


def _labels(text: str, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Return true and given labels of a table, N each."""
    header, *rows = list(csv.reader(io.StringIO(text))) or [[]]
    if header != _COLUMNS or not rows or any(len(row) != len(_COLUMNS) for row in rows):
        raise ValueError(f"the table needs rows of {', '.join(_COLUMNS)}")
    index, true, given, is_noisy = np.array([[int(cell) for cell in row] for row in rows], np.int64).T
    if (index != np.arange(len(rows))).any() or ((true != given) != is_noisy).any():
        raise ValueError("index must count from 0, and is_noisy be 1 where the labels differ, otherwise 0")
    if min(true.min(), given.min()) < 0 or max(true.max(), given.max()) >= num_classes:
        raise ValueError(f"labels must go from 0 to {num_classes - 1}")
    return true, given
