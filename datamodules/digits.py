"""The 1,797 handwritten digits of 8 x 8 pixels that ship with scikit-learn (UCI ML, Alpaydin & Kaynak 1998)."""

from dataclasses import dataclass

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
        from sklearn.datasets import load_digits

        bunch = load_digits()
        image = torch.from_numpy((bunch.images / 16.0).astype(np.float32))[:, None]
        label = torch.from_numpy(bunch.target.astype(np.int64))
        held_out = stratified(bunch.target, _VALIDATION, _SPLIT_SEED)
        keep = np.setdiff1d(np.arange(len(label)), held_out)
        return ImageData(
            image[keep], label[keep], image[held_out], label[held_out], tuple(str(name) for name in bunch.target_names)
        )


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
