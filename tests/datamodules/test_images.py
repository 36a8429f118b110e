import os
import struct
import zlib

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageOps

from vitmem.datamodules import ImageFolder
from vitmem.datamodules.images import decode, native_size, verify


def test_a_file_of_another_format_is_refused_whatever_its_name(tmp_path, monkeypatch):
    """PostScript under an image's name would start another program."""
    from PIL import EpsImagePlugin

    monkeypatch.setattr(EpsImagePlugin.EpsImageFile, "load", lambda *_: pytest.fail("it was handed to Ghostscript"))
    path = tmp_path / "a.png"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n%%EOF\n")
    with pytest.raises(ValueError, match=r"a\.png"):
        decode([str(path)], ["a.png"], size=8)


def held(path, orientation, size=(6, 4)):
    """Write an image of noise with an EXIF orientation, and return what Pillow's own code makes of it."""
    pixels = np.random.RandomState(orientation).randint(0, 256, (*size[::-1], 3)).astype(np.uint8)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, exif=exif)
    with Image.open(path) as image:
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB")).transpose(2, 0, 1)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_set_upright(tmp_path, suffix, orientation):
    file = tmp_path / f"a{suffix}"
    expected = held(file, orientation)
    found = decode([str(file)], ["a"])[0]
    assert found.shape == expected.shape
    assert (found == expected).all()
    verify([str(file)], ["a"], native_size([str(file)]))


def test_an_upright_photograph_fits_those_that_were_turned(tmp_path):
    held(tmp_path / "train/cat/0.jpg", 6)
    for file in ("train/cat/1.jpg", "train/dog/0.jpg", "val/cat/0.jpg", "val/dog/0.jpg"):
        held(tmp_path / file, 1, (4, 6))
    for streaming in (False, True):
        data = ImageFolder(root=str(tmp_path), streaming=streaming, workers=0).load()
        assert data.image_shape == (3, 6, 4)


def test_damaged_exif_says_nothing(tmp_path):
    pixels = np.zeros((4, 6, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.jpg", exif=b"Exif\0\0II*\0\xff\xff\xff\x7f")
    assert decode([str(tmp_path / "a.jpg")], ["a"]).shape == (1, 3, 4, 6)


def test_a_pipe_under_an_images_name_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    for look in (lambda *a: decode(*a), lambda *a: verify(*a, None)):
        with pytest.raises(ValueError, match=r"1 of 1 images cannot be used; .*a.png \(not a regular file\)"):
            look([str(tmp_path / "a.png")], ["a.png"])


def bomb(side):
    """Return a PNG of a few bytes that declares side x side pixels."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("form", [bytes, str])
def test_a_decompression_bomb_is_one_line(tmp_path, form):
    (tmp_path / "a.png").write_bytes(bomb(100_000))
    item = bomb(100_000) if form is bytes else str(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"a.png \(Image size .* exceeds limit") as error:
        decode([item], ["a.png"])
    assert "\n" not in str(error.value)


def test_more_pixels_than_memory_is_one_line():
    with pytest.raises(ValueError, match=r"images of 9000 x 9000 pixels do not fit into memory; set data.size"):
        decode([bomb(9000)] * 10**7, [])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "it is a Git LFS pointer"),
        (b"<!DOCTYPE html>", "it is a web page"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not an image"),
    ],
)
def test_what_lies_in_place_of_an_image_is_said(tmp_path, content, words):
    (tmp_path / "a.jpg").write_bytes(content)
    for item in (content, str(tmp_path / "a.jpg")):
        with pytest.raises(ValueError, match=rf"a.jpg \({words}"):
            decode([item], ["a.jpg"])
