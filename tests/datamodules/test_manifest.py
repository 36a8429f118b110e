import hashlib
import json

import numpy as np
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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rate": "high"}, "rate is 'high'; expected a number"),
        ({"rate": float("nan")}, "rate is nan; expected 0 to 1"),
        ({"seed": 10**40}, "seed is 1000"),
        ({"seed": True}, "seed is True; expected int"),
        ({"num_classes": 10**30}, "num_classes is 1000"),
        ({"num_classes": 3}, "labels must go from 0 to 2"),
        ({"kind": None}, "kind is None; expected str"),
        ({"data_fingerprint": []}, r"data_fingerprint is \[\]; expected str"),
        ({"sha256": 5}, "sha256 is 5; expected str"),
    ],
)
def test_headers_with_wrong_values_are_refused(saved, change, message):
    _, table, header = saved
    header.write_text(json.dumps(json.loads(header.read_text()) | change))
    with pytest.raises(ValueError, match=f"is not a noise manifest \\({message}"):
        NoiseManifest.load(table, header)


@pytest.mark.parametrize("text", ["[]", "null", "", "{", "[" * 100_000, "9" * 5000])
def test_headers_that_are_no_mappings_are_refused(saved, text):
    _, table, header = saved
    header.write_text(text)
    with pytest.raises(ValueError, match="is not a noise manifest") as error:
        NoiseManifest.load(table, header)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("0,1,99999999999999999999999,1\n", "too large"),
        ("0,1,1,0\n0,1,1,0\n", "index must count from 0"),
        ("0,1,2,0\n", "is_noisy be 1 where"),
        ("0,-1,-1,0\n", "labels must go from 0 to 6"),
        ("0,1,1\n", "needs rows of index, true_label"),
        ("", "needs rows of index, true_label"),
    ],
)
def test_tables_under_a_new_seal_are_refused(saved, rows, message):
    _, table, header = saved
    table.write_text("index,true_label,given_label,is_noisy\n" + rows)
    sha256 = hashlib.sha256(table.read_bytes()).hexdigest()
    header.write_text(json.dumps(json.loads(header.read_text()) | {"sha256": sha256}))
    with pytest.raises(ValueError, match=f"is not a noise manifest .*{message}"):
        NoiseManifest.load(table, header)


def test_the_table_and_its_header_by_hand(tmp_path):
    manifest = NoiseManifest(np.array([0, 1, 2]), np.array([0, 2, 2]), 3, "file", 0.5, 7, "f" * 8, {"file": "x"})
    assert manifest.csv_text() == "index,true_label,given_label,is_noisy\n0,0,0,0\n1,1,2,1\n2,2,2,0\n"
    assert manifest.header() == {
        "num_classes": 3, "kind": "file", "rate": 0.5, "seed": 7, "data_fingerprint": "f" * 8, "num_examples": 3,
        "num_noisy": 1, "realised_rate": 1 / 3, "file": "x",
        "sha256": hashlib.sha256(manifest.csv_text().encode()).hexdigest(),
    }  # fmt: skip
    assert manifest.is_noisy.tolist() == [False, True, False]


@pytest.mark.parametrize("key", ["num_classes", "kind", "rate", "seed", "data_fingerprint", "sha256"])
def test_a_header_that_lacks_something_is_refused(saved, key):
    manifest, table, header = saved
    header.write_text(json.dumps({name: value for name, value in manifest.header().items() if name != key}))
    with pytest.raises(ValueError, match=f"noise.csv with noise.json is not a noise manifest .*{key}"):
        NoiseManifest.load(table, header)


def stored(tmp_path, manifest):
    (tmp_path / "noise.csv").write_text(manifest.csv_text())
    (tmp_path / "noise.json").write_text(json.dumps(manifest.header()))
    return NoiseManifest.load(tmp_path / "noise.csv", tmp_path / "noise.json")


def test_names_unknown_truth_and_a_forget_set_survive(tmp_path):
    names = ("a,b.png", 'say "cheese".png', "ü.png")
    true, given, chosen = np.array([-1, 1, 2]), np.array([0, 2, 2]), np.array([True, False, True])
    manifest = NoiseManifest(true, given, 3, "file", 1 / 3, 0, "f", {}, chosen, names)
    assert manifest.csv_text().splitlines()[:2] == [
        "index,true_label,given_label,is_noisy,forget,path",
        '0,-1,0,0,1,"a,b.png"',
    ]
    found = stored(tmp_path, manifest)
    assert found.header() == manifest.header()
    assert (manifest.header()["num_unknown"], manifest.header()["num_forget"], found.details) == (1, 2, {})
    assert found.name == names
    assert found.is_noisy.tolist() == [False, True, False]
    assert found.to_forget.tolist() == chosen.tolist()


def test_names_are_in_no_digest(tmp_path):
    plain = NoiseManifest(np.array([0, 1]), np.array([1, 1]), 2, "file", 0.5, 0, "f")
    named = NoiseManifest(np.array([0, 1]), np.array([1, 1]), 2, "file", 0.5, 0, "f", name=("a", "b"))
    assert named.header() == plain.header()
    assert plain.csv_text() == "index,true_label,given_label,is_noisy\n0,0,1,1\n1,1,1,0\n"
    assert stored(tmp_path, named).header() == plain.header()


@pytest.mark.parametrize(
    ("row", "message"), [("0,-2,0,0", "labels must go"), ("0,-1,0,1", "is_noisy"), ("0,0,0,0,2", "forget must be 1")]
)
def test_rows_that_contradict_themselves(tmp_path, row, message):
    header = "index,true_label,given_label,is_noisy" + ",forget" * (row.count(",") == 4)
    table = f"{header}\n{row}\n"
    plain = NoiseManifest(np.array([0]), np.array([0]), 2, "file", 0.0, 0, "f").header()
    (tmp_path / "noise.csv").write_text(table)
    changed = plain | {"sha256": hashlib.sha256(table.encode()).hexdigest()}
    (tmp_path / "noise.json").write_text(json.dumps(changed))
    with pytest.raises(ValueError, match=message):
        NoiseManifest.load(tmp_path / "noise.csv", tmp_path / "noise.json")
