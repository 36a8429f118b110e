import json

import pytest
from labels import LABELS, cifar, labelled

from vitmem.datamodules.corruption import Instance
from vitmem.datamodules.noise import NoiseManifest, PairFlip


@pytest.fixture
def saved(tmp_path):
    manifest = NoiseManifest(
        LABELS[:50], PairFlip(rate=0.2).manifest(labelled(LABELS[:50])).given_label, 7, "pair_flip", 0.2, 0, "f"
    )
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


def test_the_header_survives_with_details(tmp_path):
    manifest = Instance(canaries=3, repeats=2).manifest(cifar())
    (tmp_path / "noise.csv").write_text(manifest.csv_text())
    (tmp_path / "noise.json").write_text(json.dumps(manifest.header()))
    assert NoiseManifest.load(tmp_path / "noise.csv", tmp_path / "noise.json").header() == manifest.header()
