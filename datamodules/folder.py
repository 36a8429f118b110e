"""Images in folders by class, and ImageNet as a special case of them."""

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from vitmem.datamodules.digits import stratified
from vitmem.datamodules.images import CACHE_FOLDER, cached, decode, native_size
from vitmem.datamodules.sources import DataSet, ImageData
from vitmem.datamodules.streaming import relative, streamed

SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
VALIDATION_FOLDERS = ("val", "validation", "test")
_SPLIT_SEED = 0

Split = Mapping[str, Sequence[str]]  # class name -> paths of its images, sorted


@dataclass(frozen=True)
class ImageFolder(DataSet):
    """Images in folders by class: ROOT/train/CLASS/* and ROOT/val, validation or test.

    Args:
        root: folder that holds train/ and val/, validation/ or test/ (the first of these that is there).
        size: side in pixels, by resizing the short side and cutting the centre out; None: as they are, all of one size.
        classes: names of the classes to use, or a text file of names, one a line; None: all. Labels follow the sorted
            names.
        per_class: at most so many training images of each class, the first by file name; None: all.
        per_class_validation: likewise for validation.
        skip_per_class: leave out the first so many training images of each class, before per_class counts: a second
            data set of the same folder that shares no training image with the first.
        grey: one channel instead of three.
        validation_share: share of the training images to hold out, where there is no validation folder.
        cache: folder for the decoded images; None: ROOT/.vitmem_cache.
        max_gb: sets that take more gigabytes than this when decoded are streamed.
        streaming: decode images whenever they are needed, instead of once; None: only above max_gb. The pixels are the
            same, except with augment.crop.
        workers: processes that decode streamed images ahead of training; None: one a core, at most 32.
    """

    root: str = "data"
    size: int | None = None
    classes: list[str] | str | None = None
    per_class: int | None = None
    per_class_validation: int | None = None
    skip_per_class: int = 0
    grey: bool = False
    validation_share: float = 0.0
    cache: str | None = None
    max_gb: float = 16.0
    streaming: bool | None = None
    workers: int | None = None

    def __post_init__(self):
        if self.workers is not None and self.workers < 0:
            raise ValueError(f"data.workers is {self.workers}; it must not be negative")
        for name in ("size", "per_class", "per_class_validation"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"data.{name} is {value}; it must be at least 1")
        if self.skip_per_class < 0:
            raise ValueError(f"data.skip_per_class is {self.skip_per_class}; it must not be negative")
        if not 0 <= self.validation_share < 1:
            raise ValueError(f"data.validation_share is {self.validation_share}; it is a fraction in [0, 1)")

    def load(self) -> ImageData:
        """Decode the images, map them from the cache, or stream them.

        Raises:
            ValueError: a folder or a class is missing or empty, a name is unknown, or images cannot be read.
        """
        root = Path(self.root).expanduser().absolute()
        if not root.is_dir():
            raise ValueError(f"there is no folder {root}; set data.root to a folder that holds train/ and val/")
        splits = self.splits(root)
        files = {split: [file for paths in part.values() for file in paths] for split, part in splits.items()}
        width, height = (self.size,) * 2 if self.size else native_size(files["train"])
        read = self._streamed if self._streams(sum(map(len, files.values())), width, height) else self._decoded
        cache = Path(self.cache).expanduser() if self.cache else root / CACHE_FOLDER
        columns = []
        for split, paths in files.items():
            label = np.repeat(np.arange(len(splits[split])), [len(part) for part in splits[split].values()])
            columns += [read(split, paths, root, cache, (width, height)), torch.from_numpy(label)]
        return ImageData(*columns, tuple(splits["train"]), tuple(relative(files["train"], root)))

    def _streams(self, number: int, width: int, height: int) -> bool:
        gigabytes = number * (1 if self.grey else 3) * height * width / 1e9
        if self.streaming is None and gigabytes > self.max_gb:
            print(f"{number} images of {height} x {width} pixels take {gigabytes:.1f} GB, and data.max_gb is "
                  f"{self.max_gb:g}: they are decoded whenever they are needed", flush=True)  # fmt: skip
            return True
        return bool(self.streaming)

    def _streamed(self, split: str, paths: Sequence[str], root: Path, cache: Path, size: tuple[int, int]):
        return streamed(paths, root, cache, size=size, resize=bool(self.size), grey=self.grey, workers=self.workers)

    def _decoded(self, split: str, paths: Sequence[str], root: Path, cache: Path, size: tuple[int, int]):
        names = relative(paths, root)
        settings, files = {"size": self.size, "grey": self.grey}, dict(zip(names, paths, strict=True))
        build = partial(decode, paths, names, self.size, self.grey)
        return torch.from_numpy(cached(cache, split, settings, files, build))

    def splits(self, root: Path) -> dict[str, Split]:
        """Return the chosen images of both splits by class, in the order of the labels."""
        folder = root / "train"
        names = self.chosen(class_folders(folder), folder)
        train = {name: images(folder / name)[self.skip_per_class :][: self.per_class] for name in names}
        if empty := [name for name, files in train.items() if not files]:
            if self.skip_per_class:
                raise ValueError(
                    f"data.skip_per_class is {self.skip_per_class}, which leaves no image of {_some(empty)}; skip fewer"
                )
            raise ValueError(f"classes without an image in {folder}: {_some(empty)}; images end in {_some(SUFFIXES)}")
        folder = next((root / name for name in VALIDATION_FOLDERS if (root / name).is_dir()), None)
        if folder is None:
            return self._held_out(train, root)
        if self.validation_share:
            raise ValueError(f"data.validation_share is {self.validation_share}, but there is {folder}; set it to 0")
        validation = {
            name: files[: self.per_class_validation] for name, files in self.validation(folder, names).items()
        }
        if empty := [name for name, files in validation.items() if not files]:
            raise ValueError(f"classes without an image in {folder}: {_some(empty)}; add some, or set data.classes")
        return {"train": train, "validation": validation}

    def validation(self, folder: Path, names: Sequence[str]) -> Split:
        """Return the validation images of the named classes, which must be those of the folder if none is left out."""
        found = class_folders(folder)
        trained = class_folders(folder.parent / "train")
        if unknown := sorted(set(found) - set(trained)):
            raise ValueError(f"{folder} has classes that train/ beside it lacks: {_some(unknown)}; classes must agree")
        return {name: images(folder / name) if name in found else [] for name in names}

    def chosen(self, found: Sequence[str], folder: Path) -> Sequence[str]:
        """Return the names that ``classes`` lists, all by default, sorted."""
        wanted = class_list(self.classes)
        if wanted is not None:
            if unknown := sorted(set(wanted) - set(found)):
                raise ValueError(f"data.classes has names that {folder} lacks: {_some(unknown)}; it has {_some(found)}")
            found = sorted(wanted)
        if len(found) < 2:
            raise ValueError(f"{folder} has {len(found)} classes to use ({_some(found)}); at least 2 are needed")
        return found

    def _held_out(self, train: Split, root: Path) -> dict[str, Split]:
        number = sum(map(len, train.values()))
        size = round(self.validation_share * number)
        if not 0 < size < number:
            raise ValueError(
                f"{root} has no val/, validation/ or test/, and data.validation_share {self.validation_share} of "
                f"{number} training images is {size}; add a folder, or set data.validation_share, for example to 0.2"
            )
        label = np.repeat(np.arange(len(train)), [len(files) for files in train.values()])
        held_out = np.zeros(number, bool)
        held_out[stratified(label, size, _SPLIT_SEED)] = True
        split: dict[str, Split] = {"train": {}, "validation": {}}
        for k, (name, files) in enumerate(train.items()):
            for part, where in (("train", ~held_out), ("validation", held_out)):
                split[part][name] = [file for file, here in zip(files, where[label == k], strict=True) if here]
        for part, classes in split.items():
            if empty := [name for name, files in classes.items() if not files]:
                warnings.warn(
                    f"{root}: {len(empty)} classes are too small to be in {part}: {_some(empty)}", stacklevel=2
                )
        return split


def class_folders(folder: Path) -> list[str]:
    """Return the names of the class folders, sorted; hidden ones are left out.

    Raises:
        ValueError: there is no such folder, or no class folder in it.
    """
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}; images belong in {folder}/CLASS/")
    names = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))
    if not names:
        raise ValueError(f"{folder} holds no class folders; images belong in {folder}/CLASS/")
    return names


def images(folder: Path) -> list[str]:
    """Return the paths of the images below a folder, sorted; hidden ones are left out."""
    return sorted(
        os.path.join(parent, file)
        for parent, _, files in os.walk(folder, followlinks=True)
        for file in files
        if file.lower().endswith(SUFFIXES) and not file.startswith(".")
    )


def class_list(classes: list[str] | str | None) -> list[str] | None:
    """Return the names that an option lists, or that the text file it names holds, one a line.

    Raises:
        ValueError: there is no such file, no name in it, or a name comes twice.
    """
    if isinstance(classes, str):
        path = Path(classes).expanduser()
        if not path.is_file():
            raise ValueError(f"data.classes: there is no file {path}; give a text file of names, or a list [a, b]")
        classes = [line.strip() for line in path.read_text().splitlines() if line.strip()]
    if classes is None:
        return None
    if not classes:
        raise ValueError("data.classes names no class; leave it out to use all")
    if twice := sorted({name for name in classes if classes.count(name) > 1}):
        raise ValueError(f"data.classes names classes twice: {_some(twice)}; name each one once")
    return classes


def _some(names) -> str:
    names = list(names)
    return ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
