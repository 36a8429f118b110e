"""JSON in and out: what was written is read, and nothing else."""

import os

import pytest

from vitmem.files import Damaged, cache_key, load_json, read_json, write_json

SHAPE = {"value": float}


def test_what_is_written_is_read(tmp_path):
    path = tmp_path / "a.json"
    written = write_json(path, {"value": 0.1, "pair": (1, 2), "nan": float("nan")})
    assert written == {"value": 0.1, "pair": [1, 2], "nan": None}
    assert load_json(path, SHAPE) == written


def test_what_was_changed_is_not_believed(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"value": 0.1, "other": 1})
    path.write_text(path.read_text().replace('"other": 1', '"other": 2'))
    with pytest.raises(Damaged, match="was changed after it was written"):
        load_json(path, SHAPE)
    assert read_json(path, SHAPE) is None


def test_files_of_before_there_were_checksums_are_read(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"value": 1}')
    assert load_json(path, SHAPE) == {"value": 1}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is no JSON"),
        (b'{"value": 1', "is no JSON"),
        (b"[" * 100_000, "is no JSON"),
        (b'{"value": ' + b"1" * 5000 + b"}", "malformed"),
        (b'{"value": 1e999}', "value is Infinity; it must be a number"),
        (b'{"value": "\xff"}', "is not UTF-8"),
        (b"[]", "the whole is a list; it must be a mapping"),
        (b"{}", "value is missing"),
    ],
)
def test_malformed_files_are_told_with_their_name(tmp_path, content, words):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(Damaged) as error:
        load_json(path, SHAPE)
    assert str(path) in str(error.value)
    assert words in str(error.value)
    assert read_json(path, SHAPE) is None


def test_what_is_no_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "folder", "nothing"):
        assert read_json(tmp_path / name, SHAPE) is None


def test_keys_change_with_the_version_of_the_code():
    keys = [cache_key(version, weights="a") for version in (1, 2, 3)]
    assert len(set(keys)) == 3
    assert cache_key(1, weights="a") != cache_key(1, weights="b")
