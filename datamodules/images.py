"""Image files and their contents, decoded into uint8 arrays.

Legend: N images, C channels, H x W pixels.
"""

import io
import os
import stat
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from tqdm import tqdm

from vitmem.files import mistaken

FORMATS = ("JPEG", "PNG", "PPM", "BMP", "TIFF", "WEBP")  # what the suffixes of image folders stand for
VERSION = 2  # of the decoding: a change makes every cache stale
_SHOWN = 20  # unreadable images that an error names
_CHUNK = 256  # images that a thread decodes in one go
_TURNS = {  # EXIF's number of an orientation -> what sets the image upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_PNG_EXIF = {"exif", "Raw profile type exif"}  # where Pillow puts it
_SMALL = 64  # side in pixels up to which one thread is fastest: more of them wait for the interpreter (measured)


FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def decode(
    items: Sequence[str | bytes],
    names: Sequence[str],
    size: int | None = None,
    grey: bool = False,
    interpolation: str = "bilinear",
):
    """Return decoded images.

    Args:
        items: N image files, or their contents.
        names: N names for messages.
        size: side in pixels; the short side is resized to it, the centre kept. None: as they are, set
            upright where EXIF says how they were held, and all must then be of one size.
        grey: one channel instead of three.
        interpolation: of resizing, one of ``FILTERS``.

    Returns:
        N C H W, uint8.

    Raises:
        ValueError: images cannot be read, or differ in size; all of them are counted and the first 20 named. Or there
            is not enough memory for them.
    """
    native = native_size(items)
    width, height = (size, size) if size else native
    try:
        image_NCHW = np.empty((len(items), 1 if grey else 3, height, width), np.uint8)
    except (MemoryError, ValueError) as error:
        raise ValueError(
            f"{len(items)} images of {height} x {width} pixels do not fit into memory; set data.size, or stream them"
        ) from error
    bad: dict[int, str] = {}

    def fill(start: int) -> int:
        stop = min(start + _CHUNK, len(items))
        for number in range(start, stop):
            try:
                image_NCHW[number] = read(
                    items[number], (width, height), resize=bool(size), grey=grey, interpolation=interpolation
                )
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
            return _upright_size(image)
    return 1, 1


def is_regular(path: str | Path) -> bool:
    """Tell whether a path leads to an ordinary file: one that opens a pipe or a device would wait.

    Raises:
        OSError: it leads nowhere.
    """
    return stat.S_ISREG(os.stat(path).st_mode)


def _open(item: str | bytes) -> Image.Image:
    """Open an image by its content; others than these formats are refused, since some start other programs."""
    if isinstance(item, str) and not is_regular(item):
        raise ValueError("not a regular file")
    try:
        return Image.open(io.BytesIO(item) if isinstance(item, bytes) else item, formats=FORMATS)
    except UnidentifiedImageError as error:
        raise ValueError(mistaken(item) or "not an image") from error


def read(
    item: str | bytes,
    size: tuple[int, int],
    *,
    resize: bool,
    grey: bool,
    cut: Callable[[Image.Image], Image.Image] | None = None,
    interpolation: str = "bilinear",
) -> np.ndarray:
    """Return one image, C H W; ``cut`` replaces resizing and cutting the centre out.

    Raises:
        ValueError: the image has another size, or more than 8 bits a channel; decoders raise many other exceptions.
    """
    with _open(item) as image:
        _check(image, None if resize else size)
        turn = _TURNS.get(_orientation(image))
        image = image.convert("L" if grey else "RGB")
        image = image if turn is None else image.transpose(turn)
        if cut is not None:
            image = cut(image)
        elif resize:
            image = ImageOps.fit(image, size, FILTERS[interpolation])
        return np.atleast_3d(np.asarray(image)).transpose(2, 0, 1)


def _check(image: Image.Image, size: tuple[int, int] | None) -> None:
    if image.mode.startswith(("I", "F")):  # conversion to 8 bits would clip
        raise ValueError(f"its mode is {image.mode}; allowed are images of 8 bits a channel")
    if size is not None and _upright_size(image) != size:
        width, height = _upright_size(image)
        raise ValueError(f"{width} x {height} pixels, the first is {size[0]} x {size[1]}: set size")


def _orientation(image: Image.Image) -> int:
    """Return how EXIF says that the camera was held, 1 where it says nothing; looks at the header alone."""
    if image.format == "TIFF" or (image.format == "PNG" and not _PNG_EXIF & image.info.keys()):
        return 1  # Pillow turns TIFF by itself, and would decode a whole PNG to look for EXIF behind its pixels
    with suppress(Exception):  # damaged EXIF says nothing
        found = image.getexif().get(ExifTags.Base.Orientation, 1)
        return found if found in _TURNS else 1
    return 1


def _upright_size(image: Image.Image) -> tuple[int, int]:
    width, height = image.size
    return (height, width) if _orientation(image) >= 5 else (width, height)


def reason(error: Exception) -> str:
    """Return in a few words why an image cannot be read."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split()) or type(error).__name__
