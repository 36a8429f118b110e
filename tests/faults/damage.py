"""What can happen to a file."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

Damage = Callable[[Path], object]


def in_place(make: Damage) -> Damage:
    """Return the damage that takes a file away and puts something else in its place."""

    def damage(path: Path) -> None:
        path.unlink()
        make(path)

    return damage


def half(path: Path) -> None:
    """Cut a file off in its middle."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flipped(path: Path) -> None:
    """Flip a bit in the middle of the last half."""
    content = bytearray(path.read_bytes())
    content[len(content) * 3 // 4] ^= 4
    path.write_bytes(content)


WEB_PAGE = "<!DOCTYPE html>\n<html><body>404</body></html>\n"
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 31128\n"
ANY: dict[str, Damage] = {
    "gone": Path.unlink,
    "empty": lambda path: path.write_bytes(b""),
    "cut off": half,
    "a web page": lambda path: path.write_text(WEB_PAGE),
    "a pointer of Git LFS": lambda path: path.write_text(POINTER),
    "not UTF-8": lambda path: path.write_bytes(b"\xff\xfe\x00{" * 100),
    "a folder": in_place(Path.mkdir),
    "a pipe": in_place(os.mkfifo),
    "a link to itself": in_place(lambda path: path.symlink_to(path.name)),
    "a link to nothing": in_place(lambda path: path.symlink_to("nothing")),
    "a device without end": in_place(lambda path: path.symlink_to("/dev/zero")),
}
BINARY = ANY | {"a bit flipped": flipped}
JSON = ANY | {
    name: lambda path, text=text: path.write_text(text)
    for name, text in {
        "a list": "[]",
        "an empty table": "{}",
        "a number": "3",
        "null": "null",
        "a text": '"text"',
        "nested 100,000 deep": "[" * 100_000,
        "a number of 5,000 digits": '{"format": ' + "9" * 5000 + "}",
        "not finite": '{"format": NaN, "sha256": Infinity}',
    }.items()
}


def changed(*keys: str, to: object) -> Damage:
    """Return the damage that gives one place of a JSON file another value; numbers are places in lists."""

    def damage(path: Path) -> None:
        content = json.loads(path.read_text())
        inner = content
        *way, last = [int(key) if key.isdigit() else key for key in keys]
        for key in way:
            inner = inner[key]
        inner[last] = to
        path.write_text(json.dumps(content))

    return damage


def resealed(name: str, damage: Damage) -> Damage:
    """Return the damage of a file of a run folder whose checksum somebody mends."""

    def damaged(run: Path) -> None:
        damage(run / name)
        checksum = hashlib.sha256((run / name).read_bytes()).hexdigest()
        changed("sha256", name, to=checksum)(run / "provenance.json")

    return damaged


def without(folder: str) -> Damage:
    """Return the damage that removes a folder, or a file."""

    def damage(root: Path) -> None:
        target = root / folder
        shutil.rmtree(target) if target.is_dir() else target.unlink()

    return damage
