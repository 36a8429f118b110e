"""Noise of any rate on any number of classes: what is counted, what is kept, and what a manifest remembers."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from labels import labelled
from properties import few

from vitmem.datamodules.corruption import Instance, PairFlip, Symmetric, SymmetricInclusive
from vitmem.datamodules.manifest import NoiseManifest

RATES = st.floats(0, 1)
DETAILS = st.dictionaries(st.text("abc", min_size=1), st.integers() | st.text() | st.lists(st.integers(), max_size=3))


@st.composite
def data(draw):
    """Images of a few pixels with labels of 2 to 6 classes."""
    classes = draw(st.integers(2, 6))
    label = draw(st.lists(st.integers(0, classes - 1), min_size=1, max_size=60))
    return labelled(np.array(label), tuple("abcdef"[:classes]), side=2)


@few
@given(data(), RATES, st.integers(0, 2**32 - 1))
def test_so_many_labels_are_wrong_as_the_rate_says(images, rate, seed):
    true = images.train_label.numpy()
    for kind in (Symmetric, PairFlip):
        found = kind(rate=rate, seed=seed).manifest(images)
        assert found.is_noisy.sum() == round(rate * len(true))
        assert found.realised_rate == found.is_noisy.mean()
        assert set(found.given_label) <= set(range(images.num_classes))
    inclusive = SymmetricInclusive(rate=rate, seed=seed).manifest(images)
    assert inclusive.is_noisy.sum() <= round(rate * len(true))
    drawn = Symmetric(rate=rate, seed=seed, exact=False).manifest(images)
    assert drawn.rate == rate
    if rate in (0, 1):
        assert drawn.is_noisy.all() == (rate == 1)
        assert drawn.is_noisy.any() == (rate == 1)


@few
@given(data(), st.floats(0, 1), st.floats(0, 1), st.integers(0, 2**32 - 1))
def test_a_higher_rate_adds_wrong_labels_and_takes_none_back(images, one, other, seed):
    low, high = sorted((one, other))
    for exact in (True, False):
        fewer, more = (PairFlip(rate=rate, seed=seed, exact=exact).manifest(images).is_noisy for rate in (low, high))
        assert (more | ~fewer).all()


@few
@given(data(), RATES, st.floats(0, 10), st.integers(0, 2**32 - 1))
def test_instance_noise_flips_to_other_classes_with_a_certainty_that_is_reported(images, rate, scale, seed):
    found = Instance(rate=rate, seed=seed, logit_scale=scale).manifest(images)
    assert set(found.given_label) <= set(range(images.num_classes))
    assert 0 <= found.details["target_entropy"] <= np.log(images.num_classes - 1) + 1e-12
    if rate == 0:
        assert not found.is_noisy.any()


@few
@given(data(), RATES, st.data())
def test_canaries_are_among_the_right_labels_and_counted(images, rate, drawn):
    plain = Symmetric(rate=rate).manifest(images)
    count = drawn.draw(st.integers(1, max(1, int((~plain.is_noisy).sum()))))
    if count > (~plain.is_noisy).sum():
        return
    planted = Symmetric(rate=rate, canaries=count).manifest(images)
    chosen = planted.details["canaries"]
    assert chosen == sorted(set(chosen))
    assert len(chosen) == planted.details["num_canaries"] == count
    assert not plain.is_noisy[chosen].any()
    others = np.setdiff1d(np.arange(len(plain.is_noisy)), chosen)
    assert (planted.given_label[others] == plain.given_label[others]).all()


@pytest.mark.slow
@few
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=50), RATES, DETAILS)
def test_a_manifest_remembers_everything(tmp_path_factory, pairs, rate, details):
    true, wrong = np.array(pairs, np.int64).T
    manifest = NoiseManifest(true, wrong, 10, "file", rate, 3, "f" * 64, details)
    folder = tmp_path_factory.mktemp("noise")
    (folder / "noise.csv").write_text(manifest.csv_text())
    (folder / "noise.json").write_text(json.dumps(manifest.header()))
    found = NoiseManifest.load(folder / "noise.csv", folder / "noise.json")
    assert (found.true_label == true).all()
    assert (found.given_label == wrong).all()
    assert (found.num_classes, found.kind, found.rate, found.seed) == (10, "file", rate, 3)
    assert (found.data_fingerprint, found.details) == ("f" * 64, details)
    header = found.header()
    assert header == manifest.header()
    assert header["num_examples"] == len(pairs)
    assert header["num_noisy"] == sum(t != w for t, w in pairs)
    assert header["realised_rate"] == header["num_noisy"] / len(pairs)
