"""The 1,797 handwritten digits of 8 x 8 pixels that ship with scikit-learn (UCI ML, Alpaydin & Kaynak 1998)."""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from vitmem.datamodules.sources import DataSet, ImageData

_VALIDATION = 500
_SPLIT_SEED = 0


@dataclass(frozen=True)
class Digits(DataSet):
    """Handwritten digits of 8x8 pixels from scikit-learn: 1,297 train, 500 validation, no download."""

    def load(self) -> ImageData:
        """Return the digits in their fixed, stratified split."""
        pixels, target = read_digits()
        image = torch.from_numpy((pixels / 16.0).astype(np.float32))[:, None]
        label = torch.from_numpy(target.astype(np.int64))
        held_out = stratified(target, _VALIDATION, _SPLIT_SEED)
        keep = np.setdiff1d(np.arange(len(label)), held_out)
        names = tuple(str(digit) for digit in range(10))
        return ImageData(image[keep], label[keep], image[held_out], label[held_out], names)


def read_digits() -> tuple[np.ndarray, np.ndarray]:
    """Return pixels N 8 8 in 0 to 16 and labels N, from scikit-learn's file: importing scikit-learn takes a second."""
    found = find_spec("sklearn")
    file = Path(found.origin).parent / "datasets" / "data" / "digits.csv.gz" if found and found.origin else None
    if file is None or not file.is_file():
        from sklearn.datasets import load_digits

        bunch = load_digits()
        return bunch.images, bunch.target
    table = np.loadtxt(file, delimiter=",")
    return table[:, :-1].reshape(-1, 8, 8), table[:, -1].astype(np.int64)


def stratified(label: np.ndarray, size: int, seed: int) -> np.ndarray:
    """Return ``size`` sorted positions whose class shares are those of ``label``, to within one example a class.

    Args:
        label: N, int.
        size: how many positions to choose, at most N.
        seed: seed of the choice.
    """
    classes, counts = np.unique(label, return_counts=True)
    ideal = counts * (size / len(label))
    take = np.floor(ideal).astype(int)
    for k in np.argsort(take - ideal, kind="stable")[: size - take.sum()]:  # largest remainders first
        take[k] += 1
    rng = np.random.RandomState(seed)
    chosen = [rng.permutation(np.flatnonzero(label == c))[:t] for c, t in zip(classes, take, strict=True)]
    return np.sort(np.concatenate(chosen))
