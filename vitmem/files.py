"""Files and what identifies them: atomic writes, names, JSON, digests, provenance. Knows no run folder."""

import contextlib
import datetime
import hashlib
import json
import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Iterable
from functools import cache
from importlib.metadata import version
from pathlib import Path

from vitmem._version import __version__

FORMAT = 1


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file under a name of this process's own, then rename it: readers see all of it or nothing."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())  # before the rename, so that a power cut leaves no empty file of that name
        os.replace(partial, path)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


def check_name(option: str, name: str) -> str:
    """Return a name that is safe as that of a folder.

    Raises:
        ValueError: it has other characters than letters, digits, '.', '_', '+', '-', or starts with a dot.
    """
    if not isinstance(name, str) or not re.fullmatch(r"[\w+-][\w.+-]*", name):
        raise ValueError(f"{option} is {name!r}; use letters, digits, '.', '_', '+' and '-', and no dot in front")
    return name


def to_json(value: object) -> str:
    """Return JSON with sorted keys; numbers that are not finite are written as null."""
    return json.dumps(_finite(value), indent=1, sort_keys=True, allow_nan=False) + "\n"


def _finite(value):
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and value - value != 0 else value


def digest(value: object) -> str:
    """Return the SHA-256 of a JSON-able value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            found.update(block)
    return found.hexdigest()


def provenance(**facts: object) -> dict:
    """Return who made something, with what: command, versions, git commit, machine kind and time, and given facts."""
    import numpy
    import torch

    return {
        "format": FORMAT,
        "vitmem": __version__,
        "command": shlex.join(["vitmem", *sys.argv[1:]]),
        "git": _git_commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "timm": version("timm"),
        "numpy": numpy.__version__,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine(),
        "threads": torch.get_num_threads(),
        "started": now(),
        **facts,
    }


def read_json(path: Path, keys: Iterable[str]) -> dict | None:
    """Return the mapping that a file holds; None if it is missing, malformed, or lacks a key."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) and all(key in content for key in keys) else None


def now() -> str:
    """Return the time, in UTC, to the second."""
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


@cache
def _git_commit() -> str | None:
    def git(*arguments: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    with contextlib.suppress(OSError, subprocess.SubprocessError):
        changed = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "HEAD") + ("+changes" if changed else "")
    return None
