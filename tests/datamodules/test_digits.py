import numpy as np
import pytest

from vitmem.datamodules.digits import Digits, stratified
from vitmem.datamodules.module import MemorisationData
from vitmem.datamodules.noise import Symmetric


def test_digits_manifest_is_the_one_of_the_first_version():
    header = MemorisationData(Digits(), Symmetric()).manifest.header()
    assert header == {
        "num_classes": 10,
        "kind": "symmetric",
        "rate": 0.1,
        "seed": 0,
        "data_fingerprint": "c54a7f5b263aecd52b005911c19c1deca51c7b74f36979ea08a13aab75112453",
        "num_examples": 1297,
        "num_noisy": 130,
        "realised_rate": pytest.approx(130 / 1297),
        "sha256": "8bebc9a7740b1b97b8137d90c3c5fee08e011b3492665b96c10f0dc48de3cd2c",
    }


def test_digits_split_is_fixed_and_stratified():
    data = Digits().load()
    assert len(data.train_label) == 1297
    assert len(data.validation_label) == 500
    share = np.bincount(np.concatenate([data.train_label, data.validation_label])) * 500 / 1797
    assert np.abs(np.bincount(data.validation_label) - share).max() <= 1
    assert data.fingerprint == Digits().load().fingerprint
    assert data.fingerprint == "c54a7f5b263aecd52b005911c19c1deca51c7b74f36979ea08a13aab75112453"


def test_stratified_sizes_add_up():
    label = np.array([0] * 7 + [1] * 5 + [2] * 3)
    for size in range(16):
        chosen = stratified(label, size, 0)
        assert len(set(chosen)) == size
