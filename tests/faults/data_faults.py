"""Data sets, labels and weights to start from, damaged."""

import io
import json
import os
import pickle
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from faults.damage import BINARY, POINTER, WEB_PAGE, Damage, in_place
from faults.outcomes import RUN, Case
from photographs import make_folder, save_image

TRAIN = ("train", "--model.width=16", "--model.heads=2", "--model.depth=1", "--train.epochs=1", "--dry_run")
FOLDER = (*TRAIN, "--data.name=imagefolder", "--data.root=data")
LABELS = (*TRAIN, "--noise.kind=file", "--noise.file=labels.csv")
HUMAN = (*TRAIN, "--noise.kind=human", "--noise.file=human.pt")
NPZ = (*TRAIN, "--data.name=npz", "--data.path=data.npz", "--model.patch=4")


class Calls:
    """Its pickle runs a command when it is loaded."""

    def __reduce__(self):
        return os.system, ("touch called",)


def png(width: int, height: int) -> bytes:
    """Return a PNG that declares a size and holds nothing."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


EPS = "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n(called) (w) file closefile\nshowpage\n"
IMAGES: dict[str, Damage] = {
    **{fault: BINARY[fault] for fault in ("empty", "cut off", "a web page", "a pointer of Git LFS", "not UTF-8")},
    "PostScript": lambda path: path.write_text(EPS),
    "PDF": lambda path: path.write_text("%PDF-1.4\n"),
    "of 10 gigapixels": lambda path: path.write_bytes(png(100_000, 100_000)),
    "of no pixels": lambda path: path.write_bytes(png(0, 0)),
    "without pixels": lambda path: path.write_bytes(png(8, 8)),
    "a pipe": BINARY["a pipe"],
    "a device without end": BINARY["a device without end"],
}
TREES = {  # what happens to a folder of images, and what is said
    "no such folder": (lambda root: os.rename(root, root.with_name("elsewhere")), "there is no folder"),
    "a file": (lambda root: (os.rename(root, root.with_name("elsewhere")), root.touch()), "data"),
    "no training images": (lambda root: os.rename(root / "train", root / "elsewhere"), "train"),
    "no validation": (lambda root: os.rename(root / "val", root / "elsewhere"), "data.validation_share"),
    "one class": (lambda root: os.rename(root / "train/cat", root / "cat"), "train"),
    "an empty class": (lambda root: (root / "train/eel").mkdir(), "eel"),
    "a class of validation only": (lambda root: os.rename(root / "val/cat", root / "val/eel"), "eel"),
    "images of two sizes": (
        lambda root: (root / "train/cat/0000.png").write_bytes((root / "large.png").read_bytes()),
        "size",
    ),
}
CLASSES = {
    "classes: no such file": ("--data.classes=nowhere.txt", "nowhere.txt"),
    "classes: unknown": ("--data.classes=[cat, yak]", "yak"),
    "classes: twice": ("--data.classes=[cat, cat]", "cat"),
    "classes: one": ("--data.classes=[cat]", "cat"),
    "classes: a folder": ("--data.classes=data", "data.classes"),
    "classes: a pipe": ("--data.classes=pipe", "data.classes"),
    "classes: an empty file": ("--data.classes=empty.txt", "data.classes"),
    "per_class 0": ("--data.per_class=0", "per_class is 0"),
    "per_class -1": ("--data.per_class=-1", "per_class is -1"),
    "skip all": ("--data.skip_per_class=1000", "skip_per_class"),
    "size 0": ("--data.size=0", "size is 0"),
    "share 1": ("--data.validation_share=1", "validation_share is 1"),
    "share beside a folder": ("--data.validation_share=0.5", "validation_share"),
    "workers -1": ("--data.workers=-1", "workers is -1"),
    "crop of decoded images": ("--augment.crop=0.5", "augment.crop"),
    "shift beyond the image": ("--augment.pad=8", "augment.pad is 8"),
    "a patch that does not divide": ("--model.patch=3", "patch 3"),
}


def photographs(folder: Path) -> Path:
    """Write a folder of images, and what may stand beside it; return its root."""
    root = folder / "data"
    make_folder(root)
    (folder / "empty.txt").touch()
    os.mkfifo(folder / "pipe")
    save_image(root / "large.png", side=(16, 16))
    return root


def of_folders() -> Iterator[Case]:
    """Yield the cases of folders of images."""
    for fault, damage in IMAGES.items():
        for how in ("", "--data.streaming=true"):
            yield Case(
                "an image" + (", streamed" if how else ""),
                fault,
                (*FOLDER, how) if how else FOLDER,
                (),
                lambda folder, d=damage: d(photographs(folder) / "train/cat/0001.png"),
            )
    for fault, (damage, word) in TREES.items():
        yield Case("imagefolder", fault, FOLDER, (word,), lambda folder, d=damage: d(photographs(folder)))
    for fault, (option, word) in CLASSES.items():
        yield Case("imagefolder", fault, (*FOLDER, option), (word,), photographs)


IMAGE, LABEL = np.zeros((4, 8, 8), np.uint8), np.array([0, 1, 0, 1])
ARRAYS = {
    "images of two dimensions": {"x_train": IMAGE[0]},
    "images of numbers with points": {"x_train": IMAGE.astype(float)},
    "images of objects": {"x_train": np.array([{}] * 4)},
    "images of 5 channels": {"x_train": np.zeros((4, 8, 8, 5), np.uint8)},
    "no images": {"x_train": IMAGE[:0], "y_train": LABEL[:0]},
    "labels of objects": {"y_train": np.array([{}, 1, 0, 1])},
    "labels that run code": {"y_train": np.array([Calls()])},
    "labels with points": {"y_train": LABEL + 0.5},
    "labels of words": {"y_train": np.array(["a", "b", "a", "b"])},
    "labels below 0": {"y_train": LABEL - 1},
    "labels of 64 bits without sign": {"y_train": np.array([0, 2**64 - 1, 0, 1], np.uint64)},
    "labels of 1e12": {"y_train": np.array([0, 10**12, 0, 1])},
    "a class without images": {"y_train": LABEL * 2},
    "too few labels": {"y_train": LABEL[:3]},
    "too many labels": {"y_train": np.zeros((4, 2), int)},
    "other classes in validation": {"y_test": LABEL * 3},
    "validation of another size": {"x_test": np.zeros((4, 9, 9), np.uint8)},
    "a truth for labels": {"y_train": LABEL.astype(bool)},
}


def archive(folder: Path, **change: np.ndarray) -> Path:
    """Write an archive of four images, with other arrays."""
    path = folder / "data.npz"
    np.savez(path, **{"x_train": IMAGE, "y_train": LABEL, "x_test": IMAGE, "y_test": LABEL} | change)
    return path


def members(path: Path, content: bytes, name: str = "x_train.npy") -> None:
    """Write one member of an archive anew."""
    with zipfile.ZipFile(path) as old:
        kept = {entry: old.read(entry) for entry in old.namelist() if entry != name}
    with zipfile.ZipFile(path, "w") as new:
        for entry, text in {**kept, name: content}.items():
            new.writestr(entry, text)


def declared(shape: str) -> bytes:
    """Return an array file that declares a shape and holds nothing."""
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header


MEMBERS = {
    "no array": b"text",
    "empty": b"",
    "terabytes": declared("(4, 1000000, 1000000)"),
    "a shape below 0": declared("(-4, 8, 8)"),
    "a shape of words": declared("('a', 8, 8)"),
    "a call for a shape": declared("(__import__('os').system('touch called'), 8, 8)"),
}


def of_archives() -> Iterator[Case]:
    """Yield the cases of NumPy's archives."""
    for fault, change in ARRAYS.items():
        yield Case("npz", fault, NPZ, (), lambda folder, change=change: archive(folder, **change))
    for fault, content in MEMBERS.items():
        yield Case("member of npz", fault, NPZ, ("data.npz",), lambda f, c=content: members(archive(f), c))
    for fault, damage in BINARY.items():
        if fault != "a bit flipped":  # it may lie where nothing is read
            yield Case("npz", fault, NPZ, ("data.npz",), lambda folder, d=damage: d(archive(folder)))


TABLES = {
    "empty": "",
    "no header": "0,1\n1,2\n",
    "another header": "number,class\n0,1\n",
    "a cell too few": "index,label\n0\n",
    "a cell too many": "index,label\n0,1,2\n",
    "words": "index,label\nzero,one\n",
    "points": "index,label\n0,1.5\n",
    "an index below 0": "index,label\n-1,1\n",
    "an index beyond": "index,label\n99999,1\n",
    "an index twice": "index,label\n0,1\n0,2\n",
    "a label beyond": "index,label\n0,10\n",
    "a label below 0": "index,label\n0,-1\n",
    "a label of 31 digits": f"index,label\n0,1{'0' * 30}\n",
    "a label of 5,000 digits": f"index,label\n0,{'9' * 5000}\n",
    "a cell without end": f"index,label\n0,{'x' * 200_000}\n",
    "a null character": "index,label\n0,\0\n",
    "not finite": "index,label\n0,nan\n",
    "a web page": WEB_PAGE,
    "a pointer of Git LFS": POINTER,
}


def zipped(**members: bytes) -> bytes:
    """Return an archive of files."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        for name, content in members.items():
            file.writestr(name, content)
    return out.getvalue()


PICKLES = {
    "empty": b"",
    "a web page": WEB_PAGE.encode(),
    "cut off": pickle.dumps({"clean_label": [0] * 1000})[:100],
    "runs code": pickle.dumps(Calls()),
    "runs code, in a table": pickle.dumps({"clean_label": Calls(), "worse_label": [1]}),
    "a list": pickle.dumps([0, 1]),
    "other keys": pickle.dumps({"labels": [0, 1]}),
    "words": pickle.dumps({"clean_label": ["a"], "worse_label": ["b"]}),
    "too few": pickle.dumps({"clean_label": [0], "worse_label": [1]}),
    "numbers of 31 digits": pickle.dumps({"clean_label": [10**30], "worse_label": [1]}),
    "lists in lists": pickle.dumps({"clean_label": [[0]], "worse_label": [[1]]}),
    "an archive without labels": zipped(other=b"x"),
    "an archive of nothing": zipped(),
}


def of_labels() -> Iterator[Case]:
    """Yield the cases of label files."""
    for fault, text in TABLES.items():
        damage = lambda folder, text=text: (folder / "labels.csv").write_text(text)  # noqa: E731
        yield Case("labels.csv", fault, LABELS, ("labels.csv",), damage)
    for fault, content in PICKLES.items():
        damage = lambda folder, content=content: (folder / "human.pt").write_bytes(content)  # noqa: E731
        yield Case("human.pt", fault, HUMAN, ("human.pt",), damage)
    for fault in ("gone", "a folder", "a pipe", "a link to itself", "not UTF-8"):
        for name, command in (("labels.csv", LABELS), ("human.pt", HUMAN)):

            def damage(folder, fault=fault, name=name):
                (folder / name).touch()
                BINARY[fault](folder / name)

            yield Case(name, fault, command, (name,), damage)
    for name in ("cifar10", "cifar100", "svhn", "fashion_mnist"):
        command = (*TRAIN, f"--data.name={name}", "--data.root=data", "--offline")
        yield Case(name, "no files, offline", command, ("data",), lambda folder: (folder / "data").mkdir())
        yield Case(name, "a file for the folder, offline", command, ("data",), lambda folder: (folder / "data").touch())
    yield Case("imagenet", "no files", (*TRAIN, "--data.name=imagenet", "--data.root=data"), ("data",), None)


def header(text: str, size: int | None = None) -> bytes:
    """Return a safetensors file of this header."""
    return struct.pack("<Q", len(text) if size is None else size) + text.encode()


TENSOR = {"dtype": "F32", "shape": [10**9, 10**6], "data_offsets": [0, 8]}
WEIGHTS: dict[str, Damage] = {
    **{fault: damage for fault, damage in BINARY.items() if fault != "a bit flipped"},
    "a header without end": lambda path: path.write_bytes(header("{}", 2**60)),
    "a header of no table": lambda path: path.write_bytes(header("[1]")),
    "no tensors": lambda path: path.write_bytes(header("{}")),
    "tensors of terabytes": lambda path: path.write_bytes(header(json.dumps({"head.weight": TENSOR})) + b"x" * 8),
    "a pickle that runs code": lambda path: path.write_bytes(pickle.dumps(Calls())),
    "an archive": lambda path: path.write_bytes(zipped(other=b"x")),
    "a folder without weights": in_place(lambda path: (path.mkdir(), (path / "x").touch())),
}


def of_weights() -> Iterator[Case]:
    """Yield the cases of weights to start from."""
    for suffix in ("safetensors", "pth"):
        command = (*TRAIN[:-1], f"--model.pretrained=start.{suffix}", "--out=out")
        for fault, damage in WEIGHTS.items():

            def both(folder, damage=damage, suffix=suffix):
                start = folder / f"start.{suffix}"
                start.write_bytes((folder / RUN / "model.safetensors").read_bytes())
                damage(start)

            yield Case(f"weights, .{suffix}", fault, command, ("start",), both)


DATA_CASES = [*of_folders(), *of_archives(), *of_labels(), *of_weights()]
