import os

import pytest
import torch
from edited import DATA, MODEL

from vitmem.curvature.cache import CurvatureCache
from vitmem.curvature.kept import Recent, digest_file, is_intact, sweep, write_digest
from vitmem.datamodules.batch import keyed_generator
from vitmem.editing.data import EditData
from vitmem.editing.kfac import EKFAC, KFAC

pytestmark = pytest.mark.slow


def test_what_was_not_asked_for_longest_goes_first_and_shared_tensors_count_once():
    recent = Recent(limit=1000)
    shared = torch.zeros(100)  # 400 bytes
    assert recent.put("a", {"x": [shared]}) == 0
    assert recent.put("b", (shared, shared[:50], torch.zeros(50))) == 0  # 600 together
    assert recent.put("c", torch.zeros(100)) == 0  # 1000 together
    assert recent.get("a") is not None
    assert recent.put("d", torch.zeros(1)) == 1
    assert recent.get("b") is None
    assert len(recent) == 3
    assert recent.put("huge", torch.zeros(1000)) == 3  # the newest always stays
    assert recent.get("huge") is not None


def test_files_that_were_not_used_longest_go_first(tmp_path):
    paths = [tmp_path / f"{name}.safetensors" for name in "abcd"]
    for age, path in enumerate(paths):
        path.write_bytes(bytes(100))
        write_digest(path)
        os.utime(path, (1000 + age, 1000 + age))
    assert sweep(tmp_path, 400, in_use="x") == 0
    assert sweep(tmp_path, 250, in_use="a") == 2
    assert [path.exists() for path in paths] == [True, False, False, True]
    assert [digest_file(path).exists() for path in paths] == [True, False, False, True]


def apply(edit, cache):
    return edit.apply(MODEL, EditData(DATA, edit.sees, cache), keyed_generator(0)).state_dict


def test_a_small_cache_changes_no_result_and_says_once_that_it_is_small(tmp_path, capsys):
    edits = [KFAC(), KFAC(seed=1), EKFAC(), KFAC(tokens="cls"), KFAC()]
    large, small = CurvatureCache(), CurvatureCache(tmp_path, cache_gb=0)
    for edit in edits:
        expected, found = apply(edit, large), apply(edit, small)
        assert all(torch.equal(found[name], value) for name, value in expected.items())
        assert len(list(tmp_path.glob("*.safetensors"))) == len(list(tmp_path.glob("*.sha256"))) == 1
    assert capsys.readouterr().out.count("--cache_gb") == 1
    with pytest.raises(ValueError, match="cache_gb is -1"):
        CurvatureCache(cache_gb=-1)


@pytest.mark.parametrize("where", [0.0, 0.02, 0.3, 0.6, 0.999])
def test_a_flipped_bit_is_noticed_told_and_mended(tmp_path, capsys, where):
    expected = apply(EKFAC(), CurvatureCache(tmp_path))
    capsys.readouterr()
    for path in list(tmp_path.glob("*.safetensors")):
        assert is_intact(path)
        content = bytearray(path.read_bytes())
        content[int(where * len(content))] ^= 1
        path.write_bytes(content)
        found = apply(EKFAC(), CurvatureCache(tmp_path))
        assert all(torch.equal(found[name], value) for name, value in expected.items())
        printed = capsys.readouterr().out
        assert printed.count("damaged") == printed.count(str(path)) == 1
        assert is_intact(path)
    digest_file(path).write_bytes(b"\xff")
    apply(EKFAC(), CurvatureCache(tmp_path))
    assert is_intact(path)


def test_keys_hold_the_version_of_the_code(tmp_path, monkeypatch):
    apply(KFAC(), CurvatureCache(tmp_path))
    (before,) = tmp_path.glob("*.safetensors")
    monkeypatch.setattr("vitmem.curvature.cache.VERSION", 2)
    apply(KFAC(), CurvatureCache(tmp_path))
    assert len(list(tmp_path.glob("*.safetensors"))) == 2
    assert before.exists()
