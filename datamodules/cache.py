"""Arrays that are made from files once and read again while the files are the same.

Legend: N files.
"""

import hashlib
import json
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
from tqdm import tqdm

from vitmem.datamodules.images import cores, is_regular
from vitmem.files import file_digest

CACHE_FOLDER = ".vitmem_cache"
_DAY = 24 * 3600.0  # seconds
_COVERS = "names and contents of the source files, the settings, and the version of the code that decodes"


def cached(
    folder: Path,
    name: str,
    settings: Mapping,
    files: Mapping[str, str],
    build: Callable[[], np.ndarray],
    version: int,
) -> np.ndarray:
    """Return the array that ``build`` makes from files; later calls map it from a cache while the files are the same.

    A cache is one ``.npy`` and one ``.json`` that says what it was made from, with its SHA-256; the ``.json`` is
    written last, so a half-written cache is never taken for whole, and a damaged one is made again. A folder that
    cannot be written costs a warning, no more. Nothing is ever removed: the folder may be deleted at any time.

    Args:
        folder: where the cache lies.
        name: of the cache, for readers of the folder.
        settings: whatever else the array depends on; JSON types.
        files: the sources in order, stable name -> path.
        build: makes the array.
        version: of the code that makes it.
    """
    digest = hashlib.sha256()
    for source, content in zip(files, contents(folder, files), strict=True):
        digest.update(source.encode(errors="surrogateescape") + b"\0" + content.tobytes())
    described = {"version": version, "settings": dict(settings), "num_files": len(files), "covers": _COVERS}
    return _kept(folder, name, described | {"files_sha256": digest.hexdigest()}, build)


def contents(folder: Path, files: Mapping[str, str]) -> np.ndarray:
    """Return N x 32, uint8: the SHA-256 of every file; zeros where there is none to read.

    They are read once, and again when a path, size, time of change or inode differs.

    Args:
        folder: where that is kept.
        files: name -> path.
    """
    digest = hashlib.sha256()
    for path in files.values():
        found = _state(path)
        state = found and (found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)
        digest.update(f"{os.path.abspath(path)}\0{state}\n".encode(errors="surrogateescape"))

    def look() -> np.ndarray:
        hidden = True if len(files) < 1000 else None  # None: shown on a terminal
        with ThreadPoolExecutor(min(32, 4 * cores())) as pool:  # it waits for the disk more than it computes
            found = pool.map(_sha256, files.values())
            rows = list(tqdm(found, total=len(files), desc="reading files", disable=hidden))
        return np.frombuffer(b"".join(rows), np.uint8).reshape(-1, 32)

    described = {"num_files": len(files), "state_sha256": digest.hexdigest()}
    return _kept(folder, "contents", described, look, keep=lambda rows: rows.any(1).all())


def _state(path: str) -> os.stat_result | None:
    with suppress(OSError):
        return os.stat(path)
    return None


def _sha256(path: str) -> bytes:
    with suppress(OSError):  # whoever decodes it says what is wrong
        if is_regular(path):
            return bytes.fromhex(file_digest(Path(path)))
    return bytes(32)


def _kept(
    folder: Path,
    name: str,
    described: Mapping,
    build: Callable[[], np.ndarray],
    keep: Callable[[np.ndarray], bool] = lambda array: True,
) -> np.ndarray:
    """Return the array that a description stands for, from the folder, or built and put there if it is to be kept."""
    key = hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:16]
    path = folder / f"{name}-{key}.npy"
    with suppress(Exception):  # whatever is wrong with it, it is made again
        found = json.loads(path.with_suffix(".json").read_text())
        array = _map(path)
        if found == described | _facts(array):
            return array
    array = build()
    if not keep(array):
        return array
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _sweep(folder)
        _write(path, lambda file: np.save(file, array, allow_pickle=False))
        text = json.dumps(described | _facts(array), indent=2)
        _write(path.with_suffix(".json"), lambda file: file.write(text.encode()))
        return _map(path)
    except OSError as error:
        warnings.warn(
            f"decoded images are not cached in {folder} ({error.strerror}) and stay in memory; set data.cache to a "
            "folder that can be written",
            stacklevel=3,
        )
        return array


def _facts(array: np.ndarray) -> dict:
    sha256 = hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()
    return {"shape": list(array.shape), "dtype": str(array.dtype), "sha256": sha256}


def _map(path: Path) -> np.ndarray:
    # copy on write: torch has no read-only tensors, and the file is never changed
    return np.load(path, mmap_mode="c", allow_pickle=False)


def _sweep(folder: Path) -> None:
    """Remove what writers that were killed left behind: those at work change their files all the time."""
    for part in folder.glob("*.part"):
        if (found := _state(str(part))) and time.time() - found.st_mtime > _DAY:
            part.unlink(missing_ok=True)


def _write(path: Path, write: Callable) -> None:
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.stem, suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise
