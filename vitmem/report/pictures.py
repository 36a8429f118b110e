"""Which training images the page shows, and their thumbnails: sprites of a few hundred images each.

Legend: N training images, S shown ones, C channels, H x W pixels.
"""

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from vitmem.report.answers import Answers
from vitmem.report.packed import uri

MOST, MOST_ASKED, FROM_EACH = 2500, 1500, 50  # shown images, asked ones of them, and the first ones of each order
SIDE = 48  # pixels; smaller images stay as they are, the page enlarges them
COLUMNS, ROWS = 25, 20  # of a sprite
LARGEST = 3_500_000  # characters of all sprites


def choose(
    found: Sequence[Answers], orders: Sequence[np.ndarray], most_asked: int = MOST_ASKED
) -> tuple[np.ndarray, int]:
    """Return S indices of the shown training images, asked ones, then others, each ascending; and how many are asked.

    Where there are more than can be shown, asked ones are drawn at random, the same number for each seed that asks
    others; of the rest, the first ones of every order, and others at random. The draw is the same every time.

    Args:
        found: of each seed.
        orders: training indices, the most suspect first.
        most_asked: asked ones that are shown.
    """
    random = np.random.default_rng(0)
    asked = [np.flatnonzero(answers.asked) for answers in found]
    union = np.unique(np.concatenate(asked))
    if len(union) > most_asked:
        different = list({part.tobytes(): part for part in asked}.values())
        drawn = [random.permutation(part)[: max(1, most_asked // len(different))] for part in different]
        union = np.unique(np.concatenate(drawn))
    everything = np.arange(len(found[0].given))
    left = np.setdiff1d(everything, union)
    if len(left) > MOST - len(union):
        first = [order[:FROM_EACH] for order in orders]
        first = np.setdiff1d(np.concatenate(first), union) if first else left[:0]
        others = random.permutation(np.setdiff1d(left, first))
        left = np.sort(np.concatenate([first, others])[: MOST - len(union)])
    return np.concatenate([union, left]), len(union)


def thumbnails(image_SCHW: np.ndarray) -> dict:
    """Return the sprites of images: data URIs in ``pages``, with ``width``, ``height``, ``columns`` and ``per_page``.

    Args:
        image_SCHW: uint8, of one or three channels.
    """
    small = [_small(image) for image in image_SCHW]
    for quality in (None, 85, 60, 35):  # PNG first: it loses nothing
        starts = range(0, len(small), COLUMNS * ROWS)
        pages = [_sprite(small[start : start + COLUMNS * ROWS], quality) for start in starts]
        if sum(map(len, pages)) <= LARGEST:
            break
    width, height = small[0].size
    cell_width, cell_height = _cell(small[0].size, quality)
    return {
        "pages": pages,
        "width": width,
        "height": height,
        "cell_width": cell_width,
        "cell_height": cell_height,
        "columns": COLUMNS,
        "per_page": COLUMNS * ROWS,
    }


def _small(image_CHW: np.ndarray) -> Image.Image:
    channels = image_CHW.shape[0]
    image = Image.fromarray(image_CHW[0] if channels == 1 else np.ascontiguousarray(image_CHW[:3].transpose(1, 2, 0)))
    if max(image.size) > SIDE:
        scale = SIDE / max(image.size)
        image = image.resize([max(1, round(side * scale)) for side in image.size], Image.Resampling.LANCZOS)
    return image


def _cell(size: tuple[int, int], quality: int | None) -> tuple[int, int]:
    """Return the size of an image's place in a sprite: whole blocks of 8 pixels where JPEG would let neighbours mix."""
    return size if quality is None else tuple(-(-side // 8) * 8 for side in size)


def _sprite(images: Sequence[Image.Image], quality: int | None) -> str:
    width, height = _cell(images[0].size, quality)
    sheet = Image.new(images[0].mode, (COLUMNS * width, -(-len(images) // COLUMNS) * height))
    for number, image in enumerate(images):
        sheet.paste(image, (number % COLUMNS * width, number // COLUMNS * height))
    buffer = io.BytesIO()
    if quality is None:
        sheet.save(buffer, "PNG", optimize=True)
    else:
        sheet.save(buffer, "JPEG", quality=quality, subsampling=0)
    return uri(buffer.getvalue(), "image/png" if quality is None else "image/jpeg")
