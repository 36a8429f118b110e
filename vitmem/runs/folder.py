"""Run folders: what they hold, what is sealed, and the checks when one is opened again."""

import contextlib
import json
import os
import platform
import shlex
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from vitmem.files import FORMAT, file_digest, now, provenance, read_json, to_json, write_atomically

PROVENANCE = "provenance.json"


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


def diverged(content: dict) -> bool:
    """Tell from its ``edit.json`` whether an edit has no weights."""
    return content.get("status", "ok").startswith(("diverged", "failed"))


def read_edit_json(folder: Path) -> dict:
    """Return what an edit's folder says, and refuse weights that were changed.

    Raises:
        ValueError: there is no such edit, or its weights were changed.
    """
    content = read_json(
        folder / "edit.json", ("id", "name", "main_option", "options", "inputs", "report", "weights_sha256")
    )
    if content is None:
        present = ", ".join(sorted(p.parent.name for p in folder.parent.glob("*/edit.json"))) or "none"
        raise ValueError(f"{folder} holds no edit; edits of this run: {present}")
    if content["id"] != folder.name:
        raise ValueError(f"{folder} holds an edit called {content['id']!r}: it was renamed or copied; restore its name")
    expected = content["weights_sha256"]
    weights = folder / "model.safetensors"
    if expected is not None and (not weights.is_file() or file_digest(weights) != expected):
        raise ValueError(f"{weights} was changed or damaged after it was written; make the edit again with --force")
    return content


@contextmanager
def held(path: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold a run folder: no other command writes into it meanwhile. The hold ends with the process, however it ends.

    Args:
        path: the run folder, which need not exist yet.
        wait: wait until it is free.

    Raises:
        ValueError: another command holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path.with_name(f".{path.name}.lock"), is_singleton=True)  # one process may hold it twice
    told = path.with_name(f".{path.name}.holder")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        holder = ""
        with contextlib.suppress(OSError):
            holder = told.read_text().strip()
        who = f"{path} is in use by {holder or 'another command'}"
        if not wait:
            raise ValueError(f"{who}; wait for it to end, or give --wait") from None
        print(f"{who}; waiting", flush=True)
        lock.acquire()
    try:
        command = shlex.join(["vitmem", *sys.argv[1:]])
        write_atomically(told, f"`{command}` (process {os.getpid()} on {platform.node()}, since {now()})\n")
        yield
    finally:
        if lock.lock_counter == 1:
            told.unlink(missing_ok=True)
        lock.release()
