"""Run folders: what they hold, what is sealed, and the checks when one is opened again."""

import contextlib
import errno
import os
import platform
import shlex
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from vitmem.files import (
    FORMAT,
    Damaged,
    file_digest,
    load_json,
    now,
    parsed,
    provenance,
    read_text,
    sweep,
    to_json,
    write_atomically,
)
from vitmem.runs.contents import EDIT
from vitmem.shapes import NAME, SHA256, Each, mismatch

PROVENANCE, EDIT_FILE, WEIGHTS = "provenance.json", "edit.json", "model.safetensors"
SETTINGS = ("config.yaml", "noise.csv", "noise.json")
_SHAPE = {
    "format": int,
    "sha256": Each(NAME, SHA256),
    "data_fingerprint?": (str, None),
    "pretrained_sha256?": (SHA256, None),
    "adopted?": {"file": str, "sha256": SHA256, "averaged": bool, "resampled": bool},
}


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
        return self.is_run and {"model.safetensors", "model.json"} <= self.read_provenance()["sha256"].keys()

    def read_provenance(self) -> dict:
        """Return what ``provenance.json`` holds.

        Raises:
            ValueError: the folder is not a run folder, or one of a newer version.
        """
        if not self.path.exists():
            raise ValueError(f"there is no folder {self.path}; give a run folder such as runs/digits/seed0")
        file = self.path / PROVENANCE
        try:
            found = parsed(read_text(file), file)
            if isinstance(found, dict) and type(found.get("format")) is int and found["format"] > FORMAT:
                raise ValueError(
                    f"{self.path} was written by a newer vitmem ({str(found.get('vitmem'))[:20]}): it has run format "
                    f"{found['format']}, and this vitmem reads format {FORMAT}; upgrade vitmem"
                )
            if why := mismatch(found, _SHAPE):
                raise Damaged(f"{file} is malformed: {why}")
            if found["format"] != FORMAT:
                raise ValueError(f"{self.path} has run format {found['format']}; this vitmem reads format {FORMAT}")
            if missing := [name for name in SETTINGS if name not in found["sha256"]]:
                raise Damaged(f"{file} is malformed: sha256.{missing[0]} is missing; every run has it")
        except Damaged as error:
            raise Damaged(
                f"{self.path} is not a run folder ({error}); give one that `vitmem train` made, such as "
                "runs/digits/seed0; or restore the file, or train again with --force"
            ) from error
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
        for why in self.damages():
            raise ValueError(why)

    def damages(self) -> Iterator[str]:
        """Yield what is wrong with the sealed files, each with what to do.

        Raises:
            ValueError: ``provenance.json`` cannot be read.
        """
        for name, expected in self.read_provenance()["sha256"].items():
            path = self.path / name
            if not path.is_file():
                yield f"{path} is missing; it was sealed with the run: restore it, or train again with --force"
            elif file_digest(path) != expected:
                yield (
                    f"{path} was changed or damaged after it was written: its SHA-256 is not the one in {PROVENANCE}; "
                    "restore it, or train again with --force"
                )


def diverged(content: dict) -> bool:
    """Tell from its ``edit.json`` whether an edit has no weights."""
    return content.get("status", "ok").startswith(("diverged", "failed"))


def weights_digest(content: dict) -> str:
    """Return from its ``edit.json`` what tells the weights of an edit from all others, stored or not."""
    return content["weights_sha256"] or content.get("removed_sha256") or content["inputs"]


def read_edit_json(folder: Path) -> dict:
    """Return what an edit's folder says, and refuse weights that were changed.

    Raises:
        Damaged: its ``edit.json`` is malformed, or it or the weights were changed.
        ValueError: there is no such edit, or it was renamed.
    """
    if not (folder / EDIT_FILE).exists():
        present = ", ".join(sorted(p.parent.name for p in folder.parent.glob(f"*/{EDIT_FILE}"))) or "none"
        raise ValueError(f"{folder} holds no edit; edits of this run: {present}")
    again = f"make it again, as `vitmem edit NAME {folder.parent.parent} --id {folder.name} --force`"
    try:
        content = load_json(folder / EDIT_FILE, EDIT)
        if (option := content["main_option"]) is not None and option not in content["options"]:
            raise Damaged(f"{folder / EDIT_FILE} is malformed: main_option is {option!r}, which is none of the options")
    except Damaged as error:
        raise Damaged(f"{error}; {again}") from error
    if content["id"] != folder.name:
        raise ValueError(f"{folder} holds an edit called {content['id']!r}: it was renamed or copied; restore its name")
    expected = content["weights_sha256"]
    weights = folder / WEIGHTS
    if expected is not None and (not weights.is_file() or file_digest(weights) != expected):
        raise Damaged(f"{weights} was changed or damaged after it was written; {again}")
    return content


def in_use(path: Path) -> str | None:
    """Return who holds a run folder now, in words; None if nobody does. Nothing is written."""
    path = path.resolve()  # as ``held``
    lock = path.with_name(f".{path.name}.lock")
    if not lock.exists():
        return None
    try:
        with FileLock(lock, timeout=0):
            return None
    except Timeout:
        with contextlib.suppress(OSError):
            return path.with_name(f".{path.name}.holder").read_text().strip()
        return "another command"
    except OSError:  # of somebody else's, or on a disk that is read-only
        return None


@contextmanager
def held(path: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold a run folder: no other command writes into it meanwhile. The hold ends with the process, however it ends.

    Args:
        path: the run folder, which need not exist yet.
        wait: wait until it is free.

    Raises:
        ValueError: another command holds it, or folders cannot be held on this file system.
    """
    given, path = path, path.resolve()  # one lock, by whatever way the folder is named
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path.with_name(f".{path.name}.lock"), is_singleton=True)  # one process may hold it twice
    told = path.with_name(f".{path.name}.holder")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        holder = ""
        with contextlib.suppress(OSError):
            holder = told.read_text().strip()
        who = f"{given} is in use by {holder or 'another command'}"
        if not wait:
            raise ValueError(f"{who}; wait for it to end, or give --wait") from None
        print(f"{who}; waiting", flush=True)
        lock.acquire()
    except (NotImplementedError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
            raise
        raise ValueError(
            f"{path.parent} is on a file system without locks (flock), so two commands could write there at once; "
            "choose a folder on another one"
        ) from error
    try:
        if lock.lock_counter == 1:
            sweep(path)
            sweep(path.parent, inside=False)
        command = shlex.join(["vitmem", *sys.argv[1:]])
        with contextlib.suppress(OSError):  # a full disk: who would make room must hold it, too
            write_atomically(told, f"`{command}` (process {os.getpid()} on {platform.node()}, since {now()})\n")
        yield
    finally:
        if lock.lock_counter == 1:
            told.unlink(missing_ok=True)
        lock.release()


@contextmanager
def held_all(paths: Iterable[Path], *, wait: bool = False) -> Iterator[None]:
    """Hold several run folders, as ``held``: in the order of a base model, its references, and other seeds."""
    with contextlib.ExitStack() as stack:
        for path in paths:
            stack.enter_context(held(path, wait=wait))
        yield
