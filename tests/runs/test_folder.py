"""One command at a time in a run folder."""

import errno
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vitmem.runs import folder
from vitmem.runs.folder import held, in_use

pytestmark = pytest.mark.slow

HOLDS = """
import sys, time
from pathlib import Path
from vitmem.runs.folder import held
with held(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""


def holder(path, seconds):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(path), str(seconds)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_command_is_told_who_holds_the_folder_and_a_killed_holder_blocks_nobody(tmp_path):
    process = holder(tmp_path / "seed0", 60)
    try:
        with (
            pytest.raises(ValueError, match=rf"seed0 is in use by .*process {process.pid} on .*--wait"),
            held(tmp_path / "seed0"),
        ):
            pass
        with held(tmp_path / "seed1"):  # another one is free
            pass
    finally:
        process.kill()
        process.wait()
    with held(tmp_path / "seed0"):
        pass


def test_waiting_until_the_folder_is_free(tmp_path, capsys):
    process, start = holder(tmp_path / "seed0", 2), time.monotonic()
    with held(tmp_path / "seed0", wait=True):
        assert time.monotonic() - start > 1
    process.wait()
    assert "seed0 is in use by" in capsys.readouterr().out


def test_one_process_may_hold_it_twice_and_leaves_no_name(tmp_path):
    with held(tmp_path / "seed0"), held(tmp_path / "seed0"):
        assert (tmp_path / ".seed0.holder").exists()
    assert not (tmp_path / ".seed0.holder").exists()


def test_a_folder_is_held_by_whatever_way_it_is_named(tmp_path, monkeypatch):
    (tmp_path / "seed0").mkdir()
    (tmp_path / "link").symlink_to("seed0")
    process = holder(tmp_path / "seed0", 60)
    try:
        monkeypatch.chdir(tmp_path / "seed0")
        for name in (tmp_path / "link", Path(), Path("../seed0")):
            with pytest.raises(ValueError, match="in use by"), held(name):
                pass
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("kind", ["clean", "retrain"])
def test_references_are_held_with_their_run(cli, run_folder, kind):
    (run_folder.parent / f"seed0-{kind}").mkdir()
    process = holder(run_folder.parent / f"seed0-{kind}", 60)
    try:
        code, _, errors = cli("eval", run_folder)
        assert (code, errors.count("\n")) == (2, 1)
        assert f"seed0-{kind} is in use by" in errors
    finally:
        process.kill()
        process.wait()


def test_a_file_system_without_locks_is_told(tmp_path, monkeypatch):
    def none(self, **options):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(folder.FileLock, "acquire", none)
    with pytest.raises(ValueError, match="file system without locks"), held(tmp_path / "seed0"):
        pass


def test_a_run_is_in_use_by_whatever_name_it_has(tmp_path, monkeypatch):
    (tmp_path / "runs" / "seed0").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "runs" / "seed0")
    monkeypatch.chdir(tmp_path / "runs" / "seed0")
    process = holder(tmp_path / "runs" / "seed0", 60)
    try:
        for path in (Path("."), tmp_path / "link", tmp_path / "runs" / "seed0" / ".." / "seed0"):
            assert in_use(path), path
    finally:
        process.kill()
        process.wait()
    assert in_use(tmp_path / "link") is None
