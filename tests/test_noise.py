import json

import numpy as np
import pytest

from datamodules.digits import Digits, stratified
from datamodules.module import MemorisationData
from datamodules.noise import NOISES, NoiseManifest, PairFlip, Symmetric, SymmetricInclusive

LABELS = np.random.RandomState(0).randint(0, 7, size=4000)


@pytest.mark.parametrize("kind", sorted(NOISES))
@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5, 1.0])
def test_exactly_the_selected_share_may_change(kind, rate):
    given = NOISES[kind](rate=rate).given_labels(LABELS, 7)
    changed = (given != LABELS).sum()
    if kind == "symmetric_inclusive":
        expected, sd = rate * 4000 * 6 / 7, np.sqrt(rate * 4000 * 6 / 49)
        assert abs(changed - expected) <= 5 * sd
        assert changed <= round(rate * 4000)
    else:
        assert changed == round(rate * 4000)
    assert given.min() >= 0
    assert given.max() < 7


def test_symmetric_reaches_every_other_class_evenly():
    given = Symmetric(rate=1.0).given_labels(LABELS, 7)
    shift = np.bincount((given - LABELS) % 7, minlength=7)
    assert shift[0] == 0
    assert np.abs(shift[1:] - 4000 / 6).max() < 5 * np.sqrt(4000 / 6)


def test_inclusive_draws_the_true_class_too():
    given = SymmetricInclusive(rate=1.0).given_labels(LABELS, 7)
    assert 0.1 < (given == LABELS).mean() < 0.19  # 1/7 = 0.143


def test_pair_flip_is_the_next_class():
    given = PairFlip(rate=0.3).given_labels(LABELS, 7)
    changed = given != LABELS
    assert ((LABELS[changed] + 1) % 7 == given[changed]).all()


def test_noise_seed_decides_and_bernoulli_selection_varies():
    assert (Symmetric(seed=1).given_labels(LABELS, 7) == Symmetric(seed=1).given_labels(LABELS, 7)).all()
    assert (Symmetric(seed=1).given_labels(LABELS, 7) != Symmetric(seed=2).given_labels(LABELS, 7)).any()
    counts = {int((Symmetric(seed=s, exact=False).given_labels(LABELS, 7) != LABELS).sum()) for s in range(8)}
    assert len(counts) > 1
    assert all(abs(c - 400) < 5 * np.sqrt(360) for c in counts)


def test_noise_does_not_depend_on_the_models_seed():
    labels = [MemorisationData(Digits(), Symmetric(), seed=seed).manifest.given_label for seed in (0, 1)]
    assert (labels[0] == labels[1]).all()


@pytest.mark.parametrize("rate", [-0.1, 1.5, 10, float("nan")])
def test_rate_outside_the_unit_interval(rate):
    with pytest.raises(ValueError, match=r"fraction in \[0, 1\]"):
        Symmetric(rate=rate)


def test_one_class_cannot_be_corrupted():
    with pytest.raises(ValueError, match="at least 2 classes"):
        Symmetric().given_labels(np.zeros(3, int), 1)


@pytest.fixture
def saved(tmp_path):
    manifest = NoiseManifest(LABELS[:50], PairFlip(rate=0.2).given_labels(LABELS[:50], 7), 7, "pair_flip", 0.2, 0, "f")
    (tmp_path / "noise.csv").write_text(manifest.csv_text())
    (tmp_path / "noise.json").write_text(json.dumps(manifest.header()))
    return manifest, tmp_path / "noise.csv", tmp_path / "noise.json"


def test_manifest_survives_a_round_trip(saved):
    manifest, *paths = saved
    loaded = NoiseManifest.load(*paths)
    assert loaded.header() == manifest.header()
    assert manifest.header()["num_noisy"] == 10
    assert manifest.header()["realised_rate"] == pytest.approx(0.2)


def test_a_changed_manifest_is_refused(saved):
    _, table, header = saved
    table.write_text(table.read_text().replace("0,", "1,", 1))
    with pytest.raises(ValueError, match="was changed after it was written"):
        NoiseManifest.load(table, header)


@pytest.mark.parametrize("text", ["", "a,b\n1,2\n", "index,true_label,given_label,is_noisy\n0,x,1,1\n"])
def test_a_malformed_manifest_is_refused(saved, text):
    _, table, header = saved
    table.write_text(text)
    with pytest.raises(ValueError, match="noise manifest|was changed"):
        NoiseManifest.load(table, header)


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
