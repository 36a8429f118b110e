"""How much curvature is kept, in memory and in files: what was not asked for longest goes first."""

import contextlib
import os
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Generic, TypeVar

from torch import Tensor, nn

from vitmem.files import file_digest, read_text, write_atomically

T = TypeVar("T")
CACHE_GB = 8.0  # four to six curvatures of a ViT-B
_MOST_GB = 1e9


class Recent(Generic[T]):
    """Values by key, of which those that were not asked for longest go when all take more memory than they may.

    Args:
        limit: bytes.
    """

    def __init__(self, limit: float):
        self.limit = limit
        self._kept: OrderedDict[str, T] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: str) -> T | None:
        """Return a value, or None if it is not kept."""
        if key in self._kept:
            self._kept.move_to_end(key)
        return self._kept.get(key)

    def put(self, key: str, value: T) -> int:
        """Keep a value, however large, and return how many others went for it.

        Args:
            key: its key.
            value: its tensors count, and those that several values share count once.
        """
        before = len(self._kept)
        self._kept[key] = value
        while len(self._kept) > 1 and sum(dict(_storages(self._kept)).values()) > self.limit:
            self._kept.popitem(last=False)
        return before + 1 - len(self._kept)


def _storages(thing: object) -> Iterator[tuple[int, int]]:
    """Yield address and bytes of the storages of all tensors in something, but for those of modules."""
    if isinstance(thing, Tensor):
        yield thing.untyped_storage().data_ptr(), thing.untyped_storage().nbytes()
    elif isinstance(thing, dict):
        for item in thing.values():
            yield from _storages(item)
    elif isinstance(thing, (list, tuple)):
        for item in thing:
            yield from _storages(item)
    elif hasattr(thing, "__dict__") and not isinstance(thing, nn.Module):
        yield from _storages(vars(thing))


def check_cache_gb(value: float) -> float:
    """Return GB of curvature to keep.

    Raises:
        ValueError: they are negative or no number.
    """
    if not 0 <= value <= _MOST_GB:
        raise ValueError(f"cache_gb is {value:g}; give GB of curvature to keep, 0 for no more than what is in use")
    return value


def digest_file(path: Path) -> Path:
    """Return where the SHA-256 of a file is kept."""
    return path.with_name(path.name + ".sha256")


def write_digest(path: Path) -> None:
    """Write the SHA-256 of a file beside it, which makes it valid."""
    write_atomically(digest_file(path), file_digest(path) + "\n")


def is_intact(path: Path) -> bool:
    """Tell whether a file is there as it was when its SHA-256 was written."""
    try:
        return read_text(digest_file(path)).strip() == file_digest(path)
    except (OSError, ValueError):
        return False


def sweep(folder: Path, limit: float, in_use: str) -> int:
    """Remove the files of sums that were not used longest, until the others take no more than a limit.

    Args:
        folder: of the cache.
        limit: bytes.
        in_use: start of the names of files that stay.

    Returns:
        How many went.
    """
    files = sorted(folder.glob("*.safetensors"), key=lambda path: path.stat().st_mtime_ns)
    total, gone = sum(path.stat().st_size for path in files), 0
    for path in files:
        if total <= limit:
            break
        if not path.name.startswith(in_use):
            total -= path.stat().st_size
            digest_file(path).unlink(missing_ok=True)
            path.unlink()
            gone += 1
    return gone


def used(path: Path) -> None:
    """Note that a file was used now, where that may be written."""
    with contextlib.suppress(OSError):
        os.utime(path)
