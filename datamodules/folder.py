"""Images in folders by class, and ImageNet as a special case of them."""

import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from vitmem.datamodules.cache import CACHE_FOLDER, cached
from vitmem.datamodules.digits import stratified
from vitmem.datamodules.images import VERSION, decode, native_size
from vitmem.datamodules.sources import DataSet, ImageData
from vitmem.datamodules.streaming import relative, streamed
from vitmem.datamodules.tree import SUFFIXES, Tree, by_form, class_folders, composed, flat_images, has_classes

VALIDATION_FOLDERS = ("val", "validation", "test")
UNLABELLED = ""  # stands for the class of images that lie in no class folder
_SPLIT_SEED = 0
_MOST_WORKERS, _MOST_PIXELS = 2**10, 2**14

Split = Mapping[str, Sequence[str]]  # class name -> paths of its images, sorted


@dataclass(frozen=True)
class ImageFolder(DataSet):
    """Images in folders by class: ROOT/train/CLASS/* and ROOT/val, validation or test.

    Beside val/ or validation/, test/ is a third split, for reporting alone. Images may lie in train/ itself, in no
    class folder: then a file says their labels (noise.kind file), and the validation folder what classes there are.

    Args:
        root: folder that holds train/ and val/, validation/ or test/ (the first of these that is there).
        size: side in pixels, by resizing the short side and cutting the centre out; None: as they are, all of one size.
        classes: names of the classes to use, or a text file of names, one a line; None: all. Labels follow the sorted
            names.
        per_class: at most so many training images of each class, the first by file name; None: all.
        per_class_validation: likewise for validation, and for test.
        skip_per_class: leave out the first so many training images of each class, before per_class counts: a second
            data set of the same folder that shares no training image with the first.
        grey: one channel instead of three.
        validation_share: share of the training images to hold out, where there is no validation folder.
        cache: folder for the decoded images; None: ROOT/.vitmem_cache.
        max_gb: sets that take more gigabytes than this when decoded are streamed.
        streaming: decode images whenever they are needed, instead of once; None: only above max_gb. The pixels are the
            same, except with augment.crop.
        workers: processes that decode streamed images ahead of training; None: one a core, at most 32.
        interpolation: of resizing, where size is given.
    """

    root: str = "data"
    size: int | None = None
    classes: list[str | bool | int | float] | str | None = None
    per_class: int | None = None
    per_class_validation: int | None = None
    skip_per_class: int = 0
    grey: bool = False
    validation_share: float = 0.0
    cache: str | None = None
    max_gb: float = 16.0
    streaming: bool | None = None
    workers: int | None = None
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"

    def __post_init__(self):
        if self.workers is not None and not 0 <= self.workers <= _MOST_WORKERS:
            raise ValueError(
                f"data.workers is {self.workers}; it must not be negative, and at most {_MOST_WORKERS} processes"
            )
        if self.size is not None and self.size > _MOST_PIXELS:
            raise ValueError(f"data.size is {self.size}; it is a side in pixels, and at most {_MOST_PIXELS}")
        for name in ("size", "per_class", "per_class_validation"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"data.{name} is {value}; it must be at least 1")
        if self.skip_per_class < 0:
            raise ValueError(f"data.skip_per_class is {self.skip_per_class}; it must not be negative")
        if self.max_gb < 0:
            raise ValueError(f"data.max_gb is {self.max_gb}; it must not be negative")
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
        names, columns = tuple(splits["validation"]), {}
        for split, paths in files.items():
            number = [names.index(name) if name != UNLABELLED else -1 for name in splits[split]]
            label = np.repeat(np.array(number, np.int64), [len(part) for part in splits[split].values()])
            columns[f"{split}_image"] = read(split, paths, root, cache, (width, height))
            columns[f"{split}_label"] = torch.from_numpy(label)
        return ImageData(**columns, class_names=names, train_name=tuple(relative(files["train"], root)))

    def _streams(self, number: int, width: int, height: int) -> bool:
        gigabytes = number * (1 if self.grey else 3) * height * width / 1e9
        if self.streaming is None and gigabytes > self.max_gb:
            print(f"{number} images of {height} x {width} pixels take {gigabytes:.1f} GB, and data.max_gb is "
                  f"{self.max_gb:g}: they are decoded whenever they are needed", flush=True)  # fmt: skip
            return True
        return bool(self.streaming)

    def _streamed(self, split: str, paths: Sequence[str], root: Path, cache: Path, size: tuple[int, int]):
        how = {"size": size, "resize": bool(self.size), "grey": self.grey, "workers": self.workers}
        return streamed(paths, root, cache, **how, interpolation=self.interpolation)

    def _decoded(self, split: str, paths: Sequence[str], root: Path, cache: Path, size: tuple[int, int]):
        names = relative(paths, root)
        settings, files = {"size": self.size, "grey": self.grey}, dict(zip(names, paths, strict=True))
        settings |= {} if self.interpolation == "bilinear" else {"interpolation": self.interpolation}
        build = partial(decode, paths, names, self.size, self.grey, self.interpolation)
        return torch.from_numpy(cached(cache, split, settings, files, build, VERSION))

    def splits(self, root: Path) -> dict[str, Split]:
        """Return the chosen images of all splits by class, in the order of the labels."""
        folder = root / "train"
        if folder.is_dir() and (flat := flat_images(folder)) and not has_classes(folder):
            return self._unlabelled(flat, root)
        names, tree = self.chosen(class_folders(folder), folder), Tree()
        train = {name: tree.images(folder / name)[self.skip_per_class :][: self.per_class] for name in names}
        if empty := [name for name, files in train.items() if not files]:
            if self.skip_per_class:
                raise ValueError(
                    f"data.skip_per_class is {self.skip_per_class}, which leaves no image of {_some(empty)}; skip fewer"
                )
            raise ValueError(f"classes without an image in {folder}: {_some(empty)}; images end in {_some(SUFFIXES)}")
        folder = next((root / name for name in VALIDATION_FOLDERS if (root / name).is_dir()), None)
        if folder is None:
            _tell(tree, root)
            return self._held_out(train, root)
        if self.validation_share:
            raise ValueError(f"data.validation_share is {self.validation_share}, but there is {folder}; set it to 0")
        validation = {
            name: files[: self.per_class_validation] for name, files in self.validation(folder, names, tree).items()
        }
        if empty := [name for name, files in validation.items() if not files]:
            _tell(tree, root)
            raise ValueError(f"classes without an image in {folder}: {_some(empty)}; add some, or set data.classes")
        test = self._test(root, names, tree) if folder.name != "test" else {}
        _tell(tree, root)
        return {"train": train, "validation": validation, **test}

    def _unlabelled(self, flat: Sequence[str], root: Path) -> dict[str, Split]:
        """Return the splits where training images lie in no class folder, and validation says the classes."""
        folder = next((root / name for name in VALIDATION_FOLDERS if (root / name).is_dir()), None)
        if folder is None:
            raise ValueError(
                f"{root / 'train'} has no class folders, and {root} no val/, validation/ or test/; add val/CLASS/, "
                "whose images are labelled by their folders"
            )
        if self.per_class or self.skip_per_class or self.validation_share:
            raise ValueError(
                f"{root / 'train'} has no class folders, so data.per_class, skip_per_class and validation_share have "
                "nothing to count; leave them out"
            )
        names, tree = self.chosen(class_folders(folder), folder), Tree()
        validation = {name: tree.images(folder / name)[: self.per_class_validation] for name in names}
        if empty := [name for name, files in validation.items() if not files]:
            raise ValueError(f"classes without an image in {folder}: {_some(empty)}; add some, or set data.classes")
        test = self._test(root, names, tree) if folder.name != "test" else {}
        _tell(tree, root)
        return {"train": {UNLABELLED: flat}, "validation": validation, **test}

    def _test(self, root: Path, names: Sequence[str], tree: Tree) -> dict[str, Split]:
        """Return the split of the folder test/ by class; none where it is not there, or not of these classes."""
        folder = root / "test"
        if not folder.is_dir():
            return {}
        found = by_form(class_folders(folder), str(folder)) if has_classes(folder) else {}
        own = {name: tree.images(folder / found[form]) for name in names if (form := composed(name)) in found}
        if lacking := [name for name in names if not own.get(name)]:
            print(f"{folder} is left out, since it has no images of {_some(lacking)}: all is reported on validation "
                  "images", flush=True)  # fmt: skip
            return {}
        return {"test": {name: files[: self.per_class_validation] for name, files in own.items()}}

    def validation(self, folder: Path, names: Sequence[str], tree: Tree) -> Split:
        """Return the validation images of the named classes, which must be those of the folder if none is left out."""
        found = by_form(class_folders(folder), str(folder))
        everything = len(names) == len(class_folders(folder.parent / "train")) and self.classes is None
        if everything and (unknown := sorted(set(found) - set(map(composed, names)))):
            raise ValueError(f"{folder} has classes that train/ beside it lacks: {_some(unknown)}; classes must agree")
        own = {name: found.get(composed(name)) for name in names}
        return {name: [] if other is None else tree.images(folder / other) for name, other in own.items()}

    def chosen(self, found: Sequence[str], folder: Path) -> Sequence[str]:
        """Return the names that ``classes`` lists, all by default, sorted."""
        wanted = class_list(self.classes)
        if wanted is not None:
            there = by_form(found, str(folder))
            if unknown := sorted(name for name in wanted if composed(name) not in there):
                raise ValueError(f"data.classes has names that {folder} lacks: {_some(unknown)}; it has {_some(found)}")
            found = sorted(there[composed(name)] for name in wanted)
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


def class_list(classes: list | str | None) -> list[str] | None:
    """Return the names that an option lists, or that the text file it names holds, one a line.

    Raises:
        ValueError: there is no such file, it is no text, there is no name in it, a name comes twice, or YAML made
            something else of a name.
    """
    if isinstance(classes, str):
        path = Path(classes).expanduser()
        typed = "," in classes and not path.is_file()  # as lists are typed on a command line
        names = classes.split(",") if typed else _lines(path)
        classes = [name.strip() for name in names if name.strip()]
    if classes is None:
        return None
    if changed := [name for name in classes if not isinstance(name, str)]:
        raise ValueError(
            f"data.classes has {changed[0]}, which YAML makes of yes, no and numbers; put the names in quotes, as in "
            "['no', '0']"
        )
    if not classes:
        raise ValueError("data.classes names no class; leave it out to use all")
    if twice := sorted(name for name, number in Counter(map(composed, classes)).items() if number > 1):
        raise ValueError(f"data.classes names classes twice: {_some(twice)}; name each one once")
    return classes


def _lines(path: Path) -> list[str]:
    """Return the lines of a text file."""
    if not path.is_file():
        raise ValueError(f"data.classes: there is no file {path}; give a text file of names, or a list [a, b]")
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"data.classes: {path} is not a text file in UTF-8 ({error})") from error


def _tell(tree: Tree, root: Path) -> None:
    if words := tree.report():
        print(f"{root}: {words}", flush=True)


def _some(names) -> str:
    names = list(names)
    return ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
