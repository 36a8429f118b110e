"""Run folders: what they hold, atomic writes, provenance, and the checks when one is opened again."""

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
from pathlib import Path

from vitmem._version import __version__

FORMAT = 1
PROVENANCE = "provenance.json"


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file under a temporary name in its folder, then rename it: readers see all of it or nothing."""
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(content.encode() if isinstance(content, str) else content)
    os.replace(partial, path)


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
    import timm
    import torch

    return {
        "format": FORMAT,
        "vitmem": __version__,
        "command": shlex.join(["vitmem", *sys.argv[1:]]),
        "git": _git_commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "timm": timm.__version__,
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


def difference(old: dict, new: dict, prefix: str = "") -> str:
    """Return in which entries two nested mappings differ, as a user reads it."""
    changes = []
    for key in sorted({*old, *new}):
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            changes += [difference(before, after, f"{prefix}{key}.")] if before != after else []
        elif before != after:
            changes.append(f"{prefix}{key}: {before} there, {after} asked for")
    return ", ".join(changes)


def now() -> str:
    """Return the time, in UTC, to the second."""
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


def _git_commit() -> str | None:
    def git(*arguments: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    with contextlib.suppress(OSError, subprocess.SubprocessError):
        changed = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "HEAD") + ("+changes" if changed else "")
    return None


class RunFolder:
    """A folder that holds one trained model, and seals what must not change behind its back.

    Args:
        path: the folder, which need not exist yet.
    """

    def __init__(self, path: Path | str):
        self.path = Path(path)

    @property
    def is_run(self) -> bool:
        """The folder was made by vitmem."""
        return (self.path / PROVENANCE).is_file()

    @property
    def is_trained(self) -> bool:
        """The folder holds a sealed, trained model."""
        return self.is_run and "model.safetensors" in self.read_provenance()["sha256"]

    def read_provenance(self) -> dict:
        """Return what ``provenance.json`` holds.

        Raises:
            ValueError: the folder is not a run folder.
        """
        if not self.path.exists():
            raise ValueError(f"there is no folder {self.path}; give a run folder such as runs/digits/seed0")
        try:
            found = json.loads((self.path / PROVENANCE).read_text())
            if not isinstance(found["sha256"], dict):
                raise TypeError("sha256 is not a table")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{self.path} is not a run folder: its {PROVENANCE} is missing or malformed; "
                "give one that `vitmem train` made, such as runs/digits/seed0"
            ) from error
        if found.get("format") != FORMAT:
            raise ValueError(f"{self.path} has run format {found.get('format')}; this vitmem reads format {FORMAT}")
        return found

    def seal(self, files: Iterable[str], **facts: object) -> None:
        """Record the SHA-256 of files, and further facts, in ``provenance.json``."""
        found = self.read_provenance() if self.is_run else provenance(sha256={})
        found["sha256"] |= {name: file_digest(self.path / name) for name in files}
        write_atomically(self.path / PROVENANCE, to_json(found | facts))

    def check(self) -> None:
        """Compare every sealed file with its recorded SHA-256.

        Raises:
            ValueError: a file is missing or was changed.
        """
        for name, expected in self.read_provenance()["sha256"].items():
            path = self.path / name
            if not path.is_file():
                raise ValueError(f"{path} is missing; it was there when the run was sealed")
            if file_digest(path) != expected:
                raise ValueError(
                    f"{path} was changed or damaged after it was written: its SHA-256 is not the one in {PROVENANCE}; "
                    "restore it, or train again with --force"
                )
