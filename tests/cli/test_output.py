"""Streams that are full, closed or cannot spell stop no work, and are told at the end."""

import io
import subprocess
import sys
from pathlib import Path

import pytest
from cases import QUICK

from vitmem.cli.output import Kept, kept
from vitmem.runs.trained import TrainedRun

pytestmark = pytest.mark.slow

FULL = Path("/dev/full")


class Full(io.StringIO):
    """A stream on a full disk."""

    def write(self, text):
        raise OSError(28, "No space left on device")


@pytest.mark.parametrize("broken", ["stdout", "stderr", "both"])
def test_a_training_whose_output_cannot_be_written_is_saved(cli, tmp_path, monkeypatch, broken):
    from vitmem.cli import main

    with monkeypatch.context() as streams:
        for name in ("stdout", "stderr") if broken == "both" else (broken,):
            streams.setattr(sys, name, Full())
        code = main(["train", f"--out={tmp_path}", *QUICK])
    assert code == (0 if broken == "stderr" else 1)
    assert TrainedRun.open(tmp_path / "default" / "seed0").config.train.epochs
    code, printed, errors = cli("train", f"--out={tmp_path}", *QUICK)
    assert (code, errors) == (0, "")
    assert "already trained" in printed


def shell(redirection, *arguments):
    """Return exit code and standard error of a command in a shell."""
    line = 'exec "$0" -m vitmem "$@" ' + redirection
    done = subprocess.run(
        ["sh", "-c", line, sys.executable, *arguments], capture_output=True, text=True, timeout=100, check=False
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize("redirection", [">/dev/full", ">&-", ">/dev/full 2>&1", ">&- 2>&-"])
def test_output_that_is_full_or_closed_is_one_line_and_exit_code_1(redirection):
    if "full" in redirection and not FULL.exists():
        pytest.skip("there is no /dev/full")
    code, errors = shell(redirection, "list", "edits")
    assert code == 1
    assert errors.count("\n") == (0 if "2>" in redirection else 1)
    assert "Traceback" not in errors
    assert "Exception" not in errors


def test_a_reader_that_leaves_is_one_line():
    code, errors = shell("| { exec <&-; sleep 3; }", "list")
    assert (code, "Exception" in errors, "Traceback" in errors) == (0, False, False)  # code of the reader
    assert errors == "vitmem: standard output is not complete (Broken pipe); all else is done\n"


@pytest.mark.parametrize(("encoding", "expected"), [("ascii", b"1 +- 2 ? ?"), ("latin-1", b"1 \xb1 2 ? ?")])
def test_what_a_terminal_cannot_spell_is_spelled_otherwise(encoding, expected):
    written = io.BytesIO()
    stream = Kept(io.TextIOWrapper(written, encoding))
    print("1 ± 2 ", end="", file=stream)
    print("\udcff 語", end="", file=stream)  # such as a name of a file
    stream.flush()
    assert written.getvalue() == expected
    assert stream.error == ""


def test_streams_are_given_back(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    with kept() as said:
        print("nobody hears it")
        assert said.error == "it is closed"
    assert sys.stdout is None
