"""A case of the catalogue: an input with a fault, and what a command must make of it."""

import contextlib
import io
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from vitmem.cli import main

LIMIT = 120  # seconds, after which a command hangs
RUN, EXPERIMENT, TUNED = "runs/tiny/seed0", "tiny.yaml", "tuned.yaml"  # in the working directory of every case
FINISHED = (f"{RUN}/model.safetensors", f"{RUN}/noise.csv", "retrain/model.safetensors")  # no case may touch them


@dataclass(frozen=True)
class Case:
    """A case.

    Args:
        where: the option or the file that has the fault.
        fault: what is wrong with it.
        command: in a folder that holds a finished ``RUN`` and the experiment files that made it.
        words: pieces of the one line of error.
        damage: what is done to that folder before.
        codes: exit codes that are right.
    """

    where: str
    fault: str
    command: Sequence[str]
    words: Sequence[str] = ()
    damage: Callable[[Path], object] | None = None
    codes: Sequence[int] = (2,)

    def __str__(self):
        return f"{self.command[0]}: {self.where}: {self.fault}"


class Hang(BaseException):
    """A command took too long; no handler of errors may take it for one."""


def outcome(command: Sequence[str], limit: int = LIMIT) -> tuple[int, str, str]:
    """Run a command in this process, and return its exit code and what it wrote."""

    def ring(*_):
        raise Hang(f"still running after {limit} s")

    out, err = io.StringIO(), io.StringIO()
    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(limit)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main([str(part) for part in command])
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    return code, out.getvalue(), err.getvalue()


def files(folder: Path) -> dict[str, tuple[int, int]]:
    """Return what tells the content of every regular file below a folder, by its path: size and time.

    Left out are locks, and checksums of curvature, which go with what they speak for.
    """
    kept = (path for path in folder.rglob("*") if path.is_file() and path.suffix not in (".lock", ".sha256"))
    found = (path for path in kept if not path.is_symlink())
    return {str(path.relative_to(folder)): (path.stat().st_size, path.stat().st_mtime_ns) for path in found}


def check(case: Case, folder: Path) -> None:
    """Assert that a command ends as it must, says one line if it fails, and leaves finished files alone.

    Args:
        case: whose fault is in the folder already.
        folder: the working directory.
    """
    before = files(folder)
    code, _, err = outcome(case.command)
    assert code in case.codes, f"exit code {code}: {err}"
    assert "Traceback" not in err
    assert not Path(folder / "called").exists(), "code ran"
    if code:
        assert err.startswith("vitmem: "), err
        assert err.count("\n") == 1, err
        assert len(err) < 2000, f"{len(err)} characters"
        assert all(word in err for word in case.words), err
    finished = [name for name in before if (code and case.command[0] != "run") or name.endswith(FINISHED)]
    after = files(folder)
    assert {name: after.get(name) for name in finished} == {name: before[name] for name in finished}
