# ruff: noqa: E501
"""Bad data through the real command line: one line on standard error, exit code 2, and no run folder."""

import csv
import re

import numpy as np
import pytest
import torch
from cases import QUICK
from PIL import Image


def folder(root, classes=("cat", "dog"), number=4):
    for split in ("train", "val"):
        for label in classes:
            for k in range(number):
                file = root / split / label / f"{k}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (8, 8), (k, 0, 0)).save(file)
    return root


def npz(root, **change):
    image, label = np.zeros((4, 8, 8), np.uint8), np.array([0, 1, 0, 1])
    arrays = {"x_train": image, "y_train": label, "x_test": image, "y_test": label}
    np.savez(root / "a.npz", **arrays | change)
    return f"--data.name=npz --data.path={root / 'a.npz'}"


def parquet(root):
    pyarrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet as files

    for split in ("train", "test"):
        files.write_table(pyarrow.table({"picture": [b""], "label": [0]}), root / f"{split}-00000-of-00001.parquet")
    return f"--data.name=cifar10 --data.root={root} --offline"


def changed_file(root):
    part = root / "cifar-10-batches-py" / "data_batch_1"
    part.parent.mkdir()
    part.write_bytes(b"not the published one")
    return f"--data.name=cifar10 --data.root={root} --offline"


def empty_class(root):
    (folder(root) / "train" / "eel").mkdir()
    return f"--data.name=imagefolder --data.root={root}"


def unreadable(root):
    (folder(root) / "train" / "cat" / "2.png").write_bytes(b"nothing")
    return f"--data.name=imagefolder --data.root={root}"


def label_out_of_range(root):
    with (root / "labels.csv").open("w") as file:
        csv.writer(file).writerows([["index", "label"], *[[k, 2 if k == 5 else 0] for k in range(8)]])
    return f"--data.name=imagefolder --data.root={folder(root)} --noise.kind=file --noise.file={root / 'labels.csv'}"


def human_of_another_order(root):
    labels = np.array([1, 0] * 4)
    torch.save({"clean_label": labels, "worse_label": labels}, root / "human.pt")
    options = f"--noise.kind=human --noise.file={root / 'human.pt'}"
    return f"--data.name=imagefolder --data.root={folder(root)} {options}"


def with_folder(options):
    return lambda root: f"--data.name=imagefolder --data.root={folder(root)} {options}"


CASES = {
    "missing folder": (lambda root: f"--data.name=imagefolder --data.root={root / 'no'}", "there is no folder .*no; set"),
    "missing training folder": (lambda root: f"--data.name=imagefolder --data.root={root}", "there is no folder .*train"),
    "missing ImageNet": (lambda root: f"--data.name=imagenet --data.root={root}", "neither train/ nor the official arch"),
    "empty class": (empty_class, r"classes without an image in .*train: eel"),
    "unreadable image": (unreadable, r"1 of 8 images cannot be used; .*cat/2.png \(not an image\)"),
    "unreadable streamed image": (
        lambda root: unreadable(root) + " --data.streaming=true",
        r"1 of 8 images cannot be used; .*cat/2.png \(not an image\)",
    ),
    "unknown class": (with_folder("--data.classes=[cat,yak]"), "data.classes has names that .*train lacks: yak"),
    "label out of range": (label_out_of_range, "labels.csv: label goes from 0 to 2; the data set's labels are 0 to 1"),
    "human labels of another order": (human_of_another_order, "is of another order than the data: clean labels differ for 4 of 8"),
    "missing archive": (lambda root: f"--data.name=npz --data.path={root / 'no.npz'}", "there is no file .*no.npz"),
    "archive of wrong shape": (lambda root: npz(root, x_train=np.zeros((4, 8), np.uint8)), r"x_train is uint8 of shape"),
    "archive with pickles": (lambda root: npz(root, y_train=np.array([{}] * 4)), "holds pickled objects, which could run"),
    "archive with a missing class": (lambda root: npz(root, y_train=np.array([0, 2, 0, 2])), r"no training image of classes \[1\]"),
    "archive with a validation label out of range": (
        lambda root: npz(root, y_test=np.array([0, 1, 0, 2])), "validation: labels go from 0 to 2; expected 0 to 1"),
    "parquet without columns": (parquet, "has the columns picture, label; expected"),
    "checksum": (changed_file, "checksum mismatch: .*data_batch_1 is not the published file of CIFAR-10"),
    "crop of decoded images": (with_folder("--augment.crop=0.5"), "augment.crop is 0.5, but the images are decoded"),
    "shift beyond the image": (with_folder("--augment.pad=8"), "augment.pad is 8; it must be less than the image's 8 x 8 pixels"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_bad_data_is_one_line_and_exit_code_2(case, cli, tmp_path):
    make, words = CASES[case]
    root, out = tmp_path / "data", tmp_path / "runs"
    root.mkdir()
    code, _, error = cli("train", f"--out={out}", *QUICK, "--noise.rate=0.5", *make(root).split())
    assert code == 2, error
    assert error.startswith("vitmem: ")
    assert error.count("\n") == 1
    assert re.search(words, error), error
    assert not out.exists()
