"""Images decoded once, into uint8 arrays that later runs read from a memory-mapped cache.

Legend: N images, C channels, H x W pixels.
"""

import hashlib
import io
import json
import os
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from tqdm import tqdm

FORMATS = ("JPEG", "PNG", "PPM", "BMP", "TIFF", "WEBP")  # what the suffixes of image folders stand for
CACHE_FOLDER = ".vitmem_cache"
_VERSION = 1  # of the decoding: a change makes every cache stale
_SHOWN = 20  # unreadable images that an error names
_CHUNK = 256  # images that a thread decodes in one go
_SMALL = 64  # side in pixels up to which one thread is fastest: more of them wait for the interpreter (measured)
_COVERS = "names, sizes and modification times of the source files, and the decoding settings; not the files' bytes"


def decode(items: Sequence[str | bytes], names: Sequence[str], size: int | None = None, grey: bool = False):
    """Return decoded images.

    Args:
        items: N image files, or their contents.
        names: N names for messages.
        size: side in pixels; the short side is resized to it (bilinear), the centre kept. None: as they are, and all
            must then be of one size.
        grey: one channel instead of three.

    Returns:
        N C H W, uint8.

    Raises:
        ValueError: images cannot be read, or differ in size; all of them are counted and the first 20 named.
    """
    native = native_size(items)
    width, height = (size, size) if size else native
    image_NCHW = np.empty((len(items), 1 if grey else 3, height, width), np.uint8)
    bad: dict[int, str] = {}

    def fill(start: int) -> int:
        stop = min(start + _CHUNK, len(items))
        for number in range(start, stop):
            try:
                image_NCHW[number] = read(items[number], (width, height), resize=bool(size), grey=grey)
            except Exception as error:  # decoders fail in many ways; every failure is reported below
                bad[number] = reason(error)
        return stop - start

    workers = 1 if max(native) <= _SMALL else min(32, cores())
    hidden = True if len(items) < 1000 else None  # None: shown on a terminal
    with ThreadPoolExecutor(workers) as pool, tqdm(total=len(items), desc="decoding", disable=hidden) as bar:
        for done in pool.map(fill, range(0, len(items), _CHUNK)):
            bar.update(done)
    if bad:
        raise ValueError(report([f"{names[number]} ({bad[number]})" for number in sorted(bad)], len(items)))
    return image_NCHW


def report(bad: Sequence[str], total: int) -> str:
    """Return one line that counts unusable images and names the first 20."""
    rest = f"; and {len(bad) - _SHOWN} more" if len(bad) > _SHOWN else ""
    return (
        f"{len(bad)} of {total} images cannot be used; replace or remove them, and start again: "
        f"{'; '.join(bad[:_SHOWN])}{rest}"
    )


def verify(files: Sequence[str], names: Sequence[str], size: tuple[int, int] | None) -> None:
    """Look at the header of every file, in parallel; damage behind a header is found when the image is decoded.

    Args:
        files: N image files.
        names: N names for messages.
        size: width and height that all must have; None: any.

    Raises:
        ValueError: files cannot be read, are no images or have another size; all are counted and the first 20 named.
    """

    def look(file: str) -> str | None:
        try:
            with _open(file) as image:
                _check(image, size)
                image.verify()
        except Exception as error:  # decoders fail in many ways; every failure is reported below
            return reason(error)

    with ThreadPoolExecutor(min(32, 4 * cores())) as pool:  # it waits for the disk more than it computes
        found = list(tqdm(pool.map(look, files), total=len(files), desc="looking at images", disable=None))
    if bad := [f"{name} ({problem})" for name, problem in zip(names, found, strict=True) if problem]:
        raise ValueError(report(bad, len(files)))


def cores() -> int:
    """Return the number of processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def native_size(items: Sequence[str | bytes]) -> tuple[int, int]:
    """Return width and height of the first image that can be opened, (1, 1) if there is none."""
    for item in items:
        with suppress(Exception), _open(item) as image:  # decode reports what cannot be opened
            return image.size
    return 1, 1


def _open(item: str | bytes) -> Image.Image:
    """Open an image by its content; others than these formats are refused, since some start other programs."""
    return Image.open(io.BytesIO(item) if isinstance(item, bytes) else item, formats=FORMATS)


def read(
    item: str | bytes,
    size: tuple[int, int],
    *,
    resize: bool,
    grey: bool,
    cut: Callable[[Image.Image], Image.Image] | None = None,
) -> np.ndarray:
    """Return one image, C H W; ``cut`` replaces resizing and cutting the centre out.

    Raises:
        ValueError: the image has another size, or more than 8 bits a channel; decoders raise many other exceptions.
    """
    with _open(item) as image:
        _check(image, None if resize else size)
        image = image.convert("L" if grey else "RGB")
        if cut is not None:
            image = cut(image)
        elif resize:
            image = ImageOps.fit(image, size, Image.Resampling.BILINEAR)
        return np.atleast_3d(np.asarray(image)).transpose(2, 0, 1)


def _check(image: Image.Image, size: tuple[int, int] | None) -> None:
    if image.mode.startswith(("I", "F")):  # conversion to 8 bits would clip
        raise ValueError(f"its mode is {image.mode}; allowed are images of 8 bits a channel")
    if size is not None and image.size != size:
        raise ValueError(f"{image.size[0]} x {image.size[1]} pixels, the first is {size[0]} x {size[1]}: set size")


def reason(error: Exception) -> str:
    """Return in a few words why an image cannot be read."""
    if isinstance(error, UnidentifiedImageError):
        return "not an image"
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split()) or type(error).__name__


def cached(
    folder: Path, name: str, settings: Mapping, files: Mapping[str, str], build: Callable[[], np.ndarray]
) -> np.ndarray:
    """Return the array that ``build`` makes from files; later calls map it from a cache while the files are the same.

    A cache is one ``.npy`` and one ``.json`` that says what it was made from; the ``.json`` is written last, so a
    half-written cache is never taken for whole. A folder that cannot be written costs a warning, no more. Nothing is
    ever removed: the folder may be deleted at any time.

    Args:
        folder: where the cache lies.
        name: of the cache, for readers of the folder.
        settings: whatever else the array depends on; JSON types.
        files: the sources in order, stable name -> path.
        build: makes the array.
    """
    described = {"version": _VERSION, "settings": dict(settings), "num_files": len(files), "covers": _COVERS}
    described["files_sha256"] = _files_sha256(files)
    key = hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:16]
    path = folder / f"{name}-{key}.npy"
    with suppress(OSError, ValueError, EOFError):
        found = json.loads(path.with_suffix(".json").read_text())
        array = _map(path)
        if found == described | {"shape": list(array.shape), "dtype": str(array.dtype)}:
            return array
    array = build()
    described |= {"shape": list(array.shape), "dtype": str(array.dtype)}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write(path, lambda file: np.save(file, array, allow_pickle=False))
        _write(path.with_suffix(".json"), lambda file: file.write(json.dumps(described, indent=2).encode()))
        return _map(path)
    except OSError as error:
        warnings.warn(
            f"decoded images are not cached in {folder} ({error.strerror}) and stay in memory; set data.cache to a "
            "folder that can be written",
            stacklevel=2,
        )
        return array


def _map(path: Path) -> np.ndarray:
    # copy on write: torch has no read-only tensors, and the file is never changed
    return np.load(path, mmap_mode="c", allow_pickle=False)


def _files_sha256(files: Mapping[str, str]) -> str:
    """SHA-256 of the list of files: name, size and modification time of each."""
    digest = hashlib.sha256()
    for name, path in files.items():
        try:
            stat = os.stat(path)
            state = f"{stat.st_size} {stat.st_mtime_ns}"
        except OSError:
            state = "missing"
        digest.update(f"{name}\0{state}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


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
