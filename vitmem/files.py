"""Files and what identifies them: atomic writes, names, JSON, digests, provenance. Knows no run folder."""

import contextlib
import datetime
import errno
import hashlib
import json
import os
import platform
import re
import secrets
import shlex
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.metadata import version
from pathlib import Path

from vitmem._version import __version__
from vitmem.registry import plugins
from vitmem.shapes import Shape, mismatch

FORMAT = 1
LARGEST_JSON = 1 << 28  # bytes; far above what any file of a run folder has
_CHECKSUM = "checksum"


class Damaged(ValueError):
    """A file that is not there, cannot be read, or does not hold what it must."""


LONGEST_NAME = 200  # bytes; file systems allow 255, and endings such as .holder come on top
_OWN = re.compile(r"\.(\w{8})-(\d{1,10})-\w{8}\.partial")  # names of ``unfinished``: machine, process, anything
_DAY = 86_400  # seconds; longer than any writer leaves its file alone


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a name of this writer's own to write a file under; at the end the file is put in the place of another.

    Readers see the old file or the new one, whole, whenever this process or the machine ends.

    Raises:
        OSError: the file cannot be written; it carries the name of the file that was meant.
    """
    with unfinished(path) as own:
        yield own
        _sync(own)
        os.replace(own, path)


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file as ``replacing`` does."""
    with replacing(path) as own:
        own.write_bytes(_bytes(content))


def write_together(folder: Path, contents: Mapping[str, str | bytes | None]) -> None:
    """Write files of a folder, of which the last makes the others valid.

    All are on the disk before the first takes its place, so that a full disk changes nothing; the last one that was
    there is removed first and comes last, so that it never speaks for other files than those beside it.

    Args:
        folder: made if it is absent.
        contents: by name; None: there shall be no such file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        own = {name: stack.enter_context(unfinished(folder / name)) for name in contents}
        for name, content in contents.items():
            if content is not None:
                own[name].write_bytes(_bytes(content))
                _sync(own[name])
        (folder / list(contents)[-1]).unlink(missing_ok=True)
        for name, content in contents.items():
            if content is None:
                (folder / name).unlink(missing_ok=True)
            else:
                os.replace(own[name], folder / name)


def _bytes(content: str | bytes) -> bytes:
    return content.encode() if isinstance(content, str) else content


@contextlib.contextmanager
def unfinished(path: Path) -> Iterator[Path]:
    """Yield a name of this writer's own beside a path; what still has it at the end is removed.

    The name is that of no other writer, on this machine or another, and tells ``sweep`` whose it is.

    Raises:
        OSError: as the work in it, with the name of what was meant.
    """
    own = path.with_name(f".{_machine()}-{os.getpid()}-{secrets.token_hex(4)}.partial")
    try:
        yield own
    except OSError as error:
        if error.filename is None or os.fspath(error.filename).startswith(os.fspath(own)):
            error.filename, error.filename2 = os.fspath(path), None
        raise
    finally:
        remove(own)


def _sync(path: Path) -> None:
    """Wait until a file is on the disk: renamed before, a power cut would leave an empty file of its name."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


@cache
def _machine() -> str:
    return hashlib.sha256(platform.node().encode()).hexdigest()[:8]


def sweep(folder: Path, *, inside: bool = True) -> None:
    """Remove what writers left in a folder that have surely ended.

    Args:
        folder: any; nothing but names of ``unfinished`` is touched.
        inside: also in the folders that it holds.
    """
    for path in list(folder.rglob("*.partial") if inside else folder.glob("*.partial")):
        if _is_left(path):
            remove(path)


def leftovers(folder: Path, *, inside: bool = True) -> list[Path]:
    """Return what writers left that have surely ended, as ``sweep`` removes it, and what earlier versions left.

    Args:
        folder: any.
        inside: also in the folders that it holds.
    """
    found = folder.rglob("*.partial") if inside else folder.glob("*.partial")
    return sorted(path for path in found if _is_left(path) or not _OWN.fullmatch(path.name))


def _is_left(path: Path) -> bool:
    """Tell whether the writer of an unfinished file has ended: its process is gone, or it was left alone for a day."""
    found = _OWN.fullmatch(path.name)
    if found and found[1] == _machine():
        try:
            os.kill(int(found[2]), 0)
        except (ProcessLookupError, OverflowError):
            return True
        except OSError:  # somebody else's process
            pass
    with contextlib.suppress(OSError):
        return found is not None and time.time() - path.stat().st_mtime > _DAY
    return False


def remove(path: Path) -> None:
    """Remove a file or a folder with all that is in it, as far as that can be done."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def discard(path: Path) -> None:
    """Remove a folder that shall never be seen half removed."""
    with contextlib.suppress(FileNotFoundError), unfinished(path) as own:
        path.replace(own)


def check_name(option: str, name: str) -> str:
    """Return a name that is safe as that of a folder.

    Raises:
        ValueError: it is too long, has other characters than letters, digits, '.', '_', '+', '-', or starts with a dot.
    """
    if not isinstance(name, str) or not re.fullmatch(r"[\w+-][\w.+-]*", name):
        raise ValueError(f"{option} is {name!r}; use letters, digits, '.', '_', '+' and '-', and no dot in front")
    if (size := len(name.encode())) > LONGEST_NAME:
        raise ValueError(f"{option} is {name[:40]}..., which takes {size} bytes; use at most {LONGEST_NAME}")
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
    """Return the SHA-256 of a file.

    Raises:
        OSError: it cannot be read, or is no regular file: a pipe would be waited for, a device has no end.
    """
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "it is no regular file", str(path))
    found = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            found.update(block)
    return found.hexdigest()


def mistaken(item: Path | str | bytes) -> str:
    """Return in words what a file, or its content, is in place of data; empty where it is neither of what is known."""
    head = item[:512] if isinstance(item, bytes) else b""
    if not isinstance(item, bytes):
        with contextlib.suppress(OSError), open(item, "rb") as file:
            head = file.read(512)
    if head.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer, not the file itself; run `git lfs pull` where it comes from"
    if head.removeprefix(b"\xef\xbb\xbf").lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return "it is a web page, not the file itself; download it again, from the link to its content"
    return ""


def provenance(**facts: object) -> dict:
    """Return who made something, with what: command, versions, git commit, machine kind and time, and given facts.

    Plug-ins are named where there are any.
    """
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
        **({"plugins": plugins()} if plugins() else {}),
        **facts,
    }


def cache_key(version: int, **inputs: object) -> str:
    """Return what tells a stored result from those of other inputs, or of other code.

    Args:
        version: of the code that computes the result; 1 is what made results before versions were counted.
        inputs: JSON-able.
    """
    return digest(inputs | ({"version": version} if version > 1 else {}))


def write_json(path: Path, content: dict) -> dict:
    """Write a mapping with a checksum of what it holds, and return it as a later command will read it."""
    write_atomically(path, sealed_json(content))
    return json.loads(to_json(content))


def sealed_json(content: dict) -> str:
    """Return the text that ``write_json`` writes."""
    content = json.loads(to_json(content))
    return to_json({**content, _CHECKSUM: digest(content)})


def load_json(path: Path, shape: Shape) -> dict:
    """Return the mapping that a file holds, without the checksum of ``write_json``.

    Args:
        path: the file.
        shape: what it must hold.

    Raises:
        Damaged: it is missing, malformed, or was changed after it was written.
    """
    content = parsed(read_text(path), path)
    if why := mismatch(content, shape):
        raise Damaged(f"{path} is malformed: {why}")
    if _CHECKSUM in content and content.pop(_CHECKSUM) != digest(content):  # files of before checksums have none
        raise Damaged(f"{path} was changed after it was written: its checksum does not fit")
    return content


def parsed(text: str, path: Path) -> object:
    """Return what JSON says.

    Raises:
        Damaged: it is no JSON.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Damaged(f"{path} is malformed: it is no JSON ({' '.join(str(error).split())[:100]})") from error


def read_text(path: Path, most: int = LARGEST_JSON) -> str:
    """Return the text of a regular file in UTF-8: a named pipe would be waited for, a device has no end.

    Args:
        path: the file.
        most: bytes that it may have.

    Raises:
        Damaged: there is no such file, it is too large, or it holds something else.
    """
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise Damaged(f"{path} is {'a folder' if stat.S_ISDIR(found.st_mode) else 'no regular file'}")
        with path.open("rb") as file:
            content = file.read(most + 1)
        if len(content) > most:
            size = max(path.stat().st_size, len(content))
            raise Damaged(f"{path} is malformed: it has {size:,} bytes; at most {most:,} are allowed")
        return content.decode()
    except (FileNotFoundError, NotADirectoryError):
        raise Damaged(f"there is no file {path}") from None
    except UnicodeDecodeError as error:
        raise Damaged(f"{path} is malformed: it is not UTF-8") from error
    except OSError as error:
        raise Damaged(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:  # a null character
        if isinstance(error, Damaged):
            raise
        raise Damaged(f"{str(path)!r} cannot be the name of a file: {error}") from error


def read_json(path: Path, shape: Shape) -> dict | None:
    """Return the mapping that a file holds, as ``load_json``; None if it is missing, malformed or was changed."""
    try:
        return load_json(path, shape)
    except Damaged:
        return None


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
