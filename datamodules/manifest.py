"""The manifest that says which training labels are wrong, and which examples are to be forgotten."""

import csv
import hashlib
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

_COLUMNS = ["index", "true_label", "given_label", "is_noisy"]
_CHOSEN, _PATH = "forget", "path"  # further columns, in this order, where there is something to say
_SETTINGS = {"num_classes": int, "kind": str, "rate": (int, float), "seed": int, "data_fingerprint": str}
_MOST = {"num_classes": 2**31, "rate": 1, "seed": 2**32}  # the least is 0
_COMPUTED = ("num_examples", "num_noisy", "realised_rate", "sha256")
TEST_FINGERPRINT = "test_fingerprint"  # detail: SHA-256 of the test split, where the data have one
_COUNTED = ("num_unknown", "num_forget")  # only where they say what those above do not


@dataclass(frozen=True, eq=False)
class NoiseManifest:
    """Which training labels are wrong, and how they came to be so.

    Args:
        true_label: N, int64; -1 where it is unknown whether the given label is right.
        given_label: N, int64.
        num_classes: K.
        kind: registered noise kind.
        rate: nominal rate; the realised one for kinds that have no rate.
        seed: noise seed.
        data_fingerprint: SHA-256 of the clean data set that the labels belong to.
        details: what else the kind reports, added to the header; JSON types.
        chosen: N, bool, the forget set, where it was chosen whatever the labels; None: the wrong labels.
        name: N file names, for those who read the table; none where the data have no names. No digest counts them.
    """

    true_label: np.ndarray
    given_label: np.ndarray
    num_classes: int
    kind: str
    rate: float
    seed: int
    data_fingerprint: str
    details: dict = field(default_factory=dict)
    chosen: np.ndarray | None = None
    name: tuple[str, ...] = ()

    @property
    def is_noisy(self) -> np.ndarray:
        """N, bool: the given label is known to be wrong."""
        return (self.given_label != self.true_label) & (self.true_label >= 0)

    @property
    def to_forget(self) -> np.ndarray:
        """N, bool: as ``Examples.to_forget``."""
        return self.is_noisy if self.chosen is None else self.chosen

    @property
    def lacks_forget_set(self) -> str:
        """Why nobody can say what is to be forgotten; empty where it is known."""
        if self.chosen is not None or not len(self.true_label) or self.true_label.max() >= 0:
            return ""
        return (
            "whether the training labels are right is unknown, so there are no examples to forget or retain; name true "
            "labels (a column true_label of noise.file) or a forget set (a column forget)"
        )

    @property
    def realised_rate(self) -> float:
        """Share of the labels that are wrong."""
        return float(self.is_noisy.mean())

    def csv_text(self, names: bool = True) -> str:
        """Return the table that ``noise.csv`` holds, with a column of file names where there are some and all want it.

        Args:
            names: with them; digests are of the table without.
        """
        columns = {
            "index": range(len(self.true_label)),
            "true_label": self.true_label,
            "given_label": self.given_label,
            "is_noisy": self.is_noisy.astype(int),
            _CHOSEN: None if self.chosen is None else self.chosen.astype(int),
            _PATH: [n.encode(errors="backslashreplace").decode() for n in self.name] or None if names else None,
        }
        there = {name: column for name, column in columns.items() if column is not None}
        return _table([list(there), *zip(*there.values(), strict=True)])

    def header(self) -> dict:
        """Return what ``noise.json`` holds: the settings, the realised rate and the SHA-256 of the table."""
        table = hashlib.sha256(self.csv_text(names=False).encode()).hexdigest()
        unknown, chosen = int((self.true_label < 0).sum()), self.chosen
        return {
            **{name: getattr(self, name) for name in _SETTINGS},
            "num_examples": len(self.true_label),
            "num_noisy": int(self.is_noisy.sum()),
            "realised_rate": self.realised_rate,
            "sha256": table,
            **({"num_unknown": unknown} if unknown else {}),
            **({} if chosen is None else {"num_forget": int(chosen.sum())}),
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
            text, name = _without_names(csv_path.read_text())
            changed = hashlib.sha256(text.encode()).hexdigest() != expected
            true, given, chosen = (None,) * 3 if changed else _labels(text, settings["num_classes"])
        except (OSError, ValueError, ArithmeticError, RecursionError, csv.Error) as error:
            message = " ".join(str(error).split())[:200]
            raise ValueError(f"{csv_path} with {json_path.name} is not a noise manifest ({message})") from error
        if changed:
            raise ValueError(f"{csv_path} was changed after it was written: its SHA-256 is not the one in {json_path}")
        return cls(true, given, **settings, details=details, chosen=chosen, name=name)


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
    details = {name: value for name, value in content.items() if name not in (*_SETTINGS, *_COMPUTED, *_COUNTED)}
    return {name: content[name] for name in _SETTINGS}, details, content["sha256"]


def _table(rows: Iterable[Sequence]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(rows)
    return out.getvalue()


def _without_names(text: str) -> tuple[str, tuple[str, ...]]:
    """Return a table without its column of file names, and these; as it is if it has none."""
    if not text.partition("\n")[0].endswith(f",{_PATH}"):
        return text, ()
    rows = list(csv.reader(io.StringIO(text)))
    if any(len(row) != len(rows[0]) for row in rows):
        raise ValueError(f"the table needs rows of {', '.join(rows[0])}")
    return _table(row[:-1] for row in rows), tuple(row[-1] for row in rows[1:])


def _labels(text: str, num_classes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Return true and given labels of a table, N each, and N, bool, the forget set where it was chosen."""
    header, *rows = list(csv.reader(io.StringIO(text))) or [[]]
    if header not in (_COLUMNS, [*_COLUMNS, _CHOSEN]) or not rows or any(len(row) != len(header) for row in rows):
        raise ValueError(f"the table needs rows of {', '.join(_COLUMNS)}")
    index, true, given, is_noisy, *chosen = np.array([[int(cell) for cell in row] for row in rows], np.int64).T
    if (index != np.arange(len(rows))).any() or (((true != given) & (true >= 0)) != is_noisy).any():
        raise ValueError("index must count from 0, and is_noisy be 1 where the labels differ, otherwise 0")
    if true.min() < -1 or given.min() < 0 or max(true.max(), given.max()) >= num_classes:
        raise ValueError(f"labels must go from 0 to {num_classes - 1}; true ones that are unknown are -1")
    if any(not np.isin(column, (0, 1)).all() for column in chosen):
        raise ValueError("forget must be 1 for examples that are to be forgotten, otherwise 0")
    return true, given, chosen[0].astype(bool) if chosen else None
