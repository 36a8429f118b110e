"""Files appear whole or not at all, and nothing is left of writers that ended."""

import errno
import os
import subprocess
import sys
import time

import pytest

from vitmem.files import check_name, discard, replacing, sweep, unfinished, write_atomically, write_together

OLD = {"weights": "old weights", "facts": "old facts"}


def contents(folder):
    return {path.name: path.read_text() for path in folder.iterdir()}


@pytest.fixture
def folder(tmp_path):
    """A folder with weights, and facts that make them valid."""
    write_together(tmp_path / "a", OLD)
    return tmp_path / "a"


def test_files_are_replaced_together(folder):
    write_together(folder, {"weights": b"new weights", "facts": "new facts"})
    assert contents(folder) == {"weights": "new weights", "facts": "new facts"}
    write_together(folder, {"weights": None, "facts": "no weights"})
    assert contents(folder) == {"facts": "no weights"}


@pytest.mark.parametrize("full_at", [1, 2])
def test_a_full_disk_changes_nothing(folder, monkeypatch, full_at):
    synced = []

    def fsync(descriptor):
        synced.append(descriptor)
        if len(synced) == full_at:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match="No space left") as found:
        write_together(folder, {"weights": "new weights", "facts": "new facts"})
    assert os.path.dirname(found.value.filename) == str(folder)
    assert contents(folder) == OLD


@pytest.mark.parametrize(("ended_at", "left"), [(0, {"weights": "old weights"}), (1, {"weights": "new weights"})])
def test_facts_never_speak_for_other_weights(folder, monkeypatch, ended_at, left):
    real, moves = os.replace, []

    def replace(source, target):
        moves.append(target)
        if len(moves) > ended_at:
            raise KeyboardInterrupt
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(KeyboardInterrupt):
        write_together(folder, {"weights": "new weights", "facts": "new facts"})
    assert contents(folder) == left


def test_a_file_is_on_the_disk_before_it_takes_its_place(tmp_path, monkeypatch):
    done, real = [], os.replace
    monkeypatch.setattr(os, "fsync", lambda descriptor: done.append("synced"))
    monkeypatch.setattr(os, "replace", lambda *names: (done.append("renamed"), real(*names)))
    write_atomically(tmp_path / "a", "text")
    with replacing(tmp_path / "b") as own:
        own.write_text("text")
    assert done == ["synced", "renamed"] * 2


def test_an_error_names_the_file_that_was_meant(tmp_path):
    with pytest.raises(OSError, match="absent/a") as found:
        write_atomically(tmp_path / "absent" / "a", "text")
    assert found.value.filename == str(tmp_path / "absent" / "a")


def test_what_dead_writers_left_is_removed_and_nothing_else(tmp_path):
    leave = "import os, sys; from pathlib import Path; from vitmem import files; import contextlib\n" \
            "with files.unfinished(Path(sys.argv[1])) as own: own.write_text('a'); os._exit(0)"  # fmt: skip
    (tmp_path / "inside").mkdir()
    for name in ("a", "inside/a"):
        subprocess.run([sys.executable, "-c", leave, tmp_path / name], check=True)
    (dead,) = tmp_path.glob(".*.partial")
    _, machine_and_pid, ending = dead.name.split(".")
    _, pid, number = machine_and_pid.split("-")
    elsewhere, forgotten = (tmp_path / f".{k * 8}-{pid}-{number}.{ending}" for k in "01")
    for path in (elsewhere, forgotten, tmp_path / "thesis.partial"):
        path.write_text("dear")
    os.utime(forgotten, (time.time() - 100_000,) * 2)
    os.utime(tmp_path / "thesis.partial", (0, 0))
    with unfinished(tmp_path / "a") as own:
        own.mkdir()
        sweep(tmp_path, inside=False)
        assert {p.name for p in tmp_path.iterdir()} == {own.name, elsewhere.name, "thesis.partial", "inside"}
        assert list((tmp_path / "inside").iterdir())
        sweep(tmp_path)
        assert own.is_dir()
    assert not list((tmp_path / "inside").iterdir())
    assert not own.exists()


def test_a_folder_is_discarded_at_once(tmp_path, folder, monkeypatch):
    monkeypatch.setattr("shutil.rmtree", lambda *args, **options: None)  # killed meanwhile
    discard(folder)
    discard(folder)  # it need not be there
    assert not folder.exists()


def test_names_that_file_systems_refuse():
    assert check_name("--id", "a" * 200)
    for name in ("a" * 201, "\u00e4" * 101):
        with pytest.raises(ValueError, match=r"--id is .*\.\.\., which takes 20\d bytes; use at most 200"):
            check_name("--id", name)
