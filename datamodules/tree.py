"""Folders of images by class: which images are in them, and which files are not read."""

import os
import unicodedata
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
_SYSTEM = frozenset(  # what systems put beside files: copies, thumbnails, waste paper
    {"@eadir", "__macosx", "__pycache__", "#recycle", "#snapshot", "@recycle", "@recently-snapshot", "$recycle.bin",
     "lost+found", "system volume information"}
)  # fmt: skip


class Tree:
    """Reads folders of images, each real folder once however many links lead to it.

    Attributes:
        ignored: how many files had which ending that is none of an image.
    """

    def __init__(self):
        self.ignored: Counter[str] = Counter()
        self._owner: dict[tuple[int, int], Path] = {}

    def images(self, folder: Path) -> list[str]:
        """Return the paths of the images below a class folder, sorted; what is hidden is left out.

        Links to folders are followed, but for those that lead back to what holds the classes or into it.

        Raises:
            ValueError: a folder below it was found below another class or in another split, too.
        """
        holder, found, left = os.path.realpath(folder.parent), [], [str(folder)]
        while left:
            parent = left.pop()
            if not self._is_new(parent, folder):
                continue
            entries = sorted(_visible(parent), key=lambda entry: entry.name, reverse=True)
            for entry in sorted(entries, key=lambda entry: not entry.is_symlink()):  # folders themselves come first
                if _is_folder(entry):
                    if not (entry.is_symlink() and _is_within(holder, entry.path)):
                        left.append(entry.path)
                elif entry.name.lower().endswith(SUFFIXES):
                    found.append(entry.path)
                else:
                    self.ignored[os.path.splitext(entry.name)[1].lower() or "without ending"] += 1
        return sorted(found)

    def _is_new(self, path: str, folder: Path) -> bool:
        """Tell whether a folder was not seen before, and note to which class folder it belongs."""
        status = os.stat(path)
        key = status.st_dev, status.st_ino
        owner = self._owner.get(key)
        if owner not in (None, folder):
            raise ValueError(
                f"{path} is a folder that {owner} holds, too; its images would count twice, with two labels or in two "
                "splits: remove one of the links"
            )
        self._owner[key] = folder
        return owner is None

    def report(self) -> str:
        """Return which files were not read, in words; empty if there were none."""
        some = ", ".join(f"{ending} {number}" for ending, number in sorted(self.ignored.items())[:10])
        return f"{self.ignored.total()} files of other kinds are ignored: {some}" if self.ignored else ""


def class_folders(folder: Path) -> list[str]:
    """Return the names of the class folders, sorted; hidden ones are left out, and links that lead back.

    Raises:
        ValueError: there is no such folder, no class folder in it, or two whose names look the same.
    """
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}; images belong in {folder}/CLASS/")
    real = os.path.realpath(folder)
    names = sorted(e.name for e in _visible(folder) if _is_folder(e) and not _is_above(os.path.realpath(e.path), real))
    if not names:
        raise ValueError(f"{folder} holds no class folders; images belong in {folder}/CLASS/")
    by_form(names, str(folder))
    return names


def has_classes(folder: Path) -> bool:
    """Tell whether a folder holds folders, other than hidden ones."""
    return any(_is_folder(entry) for entry in _visible(folder))


def flat_images(folder: Path) -> list[str]:
    """Return the paths of the images that lie in a folder itself, sorted; hidden ones are left out."""
    return sorted(e.path for e in _visible(folder) if e.name.lower().endswith(SUFFIXES) and not _is_folder(e))


def by_form(names: Iterable[str], where: str) -> dict[str, str]:
    """Return names by their composed form (NFC): macOS writes umlauts in two characters, others in one.

    Raises:
        ValueError: two names have one form, and so look the same.
    """
    found: dict[str, str] = {}
    for name in names:
        if found.setdefault(composed(name), name) != name:
            raise ValueError(f"{where} has two names that look the same, {name!a} and {found[composed(name)]!a}")
    return found


def composed(name: str) -> str:
    """Return a name in composed form (NFC), in which names that look the same are the same."""
    return unicodedata.normalize("NFC", name)


def _visible(folder: str | Path) -> list[os.DirEntry]:
    with os.scandir(folder) as entries:
        return [e for e in entries if not e.name.startswith(".") and e.name.lower() not in _SYSTEM]


def _is_folder(entry: os.DirEntry) -> bool:
    with suppress(OSError):  # a link that leads to itself
        return entry.is_dir()
    return False


def _is_within(holder: str, link: str) -> bool:
    """Tell whether a link leads into a folder, to it, or to one above it."""
    real = os.path.realpath(link)
    return _is_above(holder, real) or _is_above(real, holder)


def _is_above(one: str, other: str) -> bool:
    return other == one or other.startswith(one.rstrip(os.sep) + os.sep)
