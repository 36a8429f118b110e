import io
import json
import sys

import numpy as np
import pytest
from photographs import make_cifar
from PIL import Image
from torchvision import datasets as tv

from vitmem.datamodules import (
    Cifar10,
    Cifar100,
    class_names,
)


def png(value):
    out = io.BytesIO()
    Image.fromarray(np.full((32, 32, 3), value, np.uint8)).save(out, "PNG")
    return out.getvalue()


def make_parquet(root, label=(0, 1, 2), key="label", image="img", names=None, cells=None, split="train"):
    pyarrow = pytest.importorskip("pyarrow", reason="the optional dependency of the parquet extra")
    from pyarrow import parquet

    cells = [{"bytes": png(10 * y), "path": None} for y in label] if cells is None else cells
    table = pyarrow.table({image: cells, key: label})
    if names:
        features = {"info": {"features": {key: {"names": names, "_type": "ClassLabel"}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(features)})
    root.mkdir(parents=True, exist_ok=True)
    parquet.write_table(table, root / f"{split}-00000-of-00001.parquet")


@pytest.mark.parametrize("below", ["", "plain_text", "cifar10"])
def test_the_parquet_copy(tmp_path, below):
    make_parquet(tmp_path / below, names=list(class_names.CIFAR10))
    make_parquet(tmp_path / below, (9, 4), split="test")
    for _ in range(2):  # decoded, then mapped
        data = Cifar10(root=str(tmp_path), offline=True).load()
        assert data.train_image[:, 0, 0, 0].tolist() == [0, 10, 20]
        assert data.train_label.tolist() == [0, 1, 2]
        assert data.validation_image[:, 2, 5, 5].tolist() == [90, 40]
        assert data.class_names == class_names.CIFAR10
    assert len(list((tmp_path / below / ".vitmem_cache").glob("t*.npy"))) == 2


def test_two_copies_beside_each_other(tmp_path, monkeypatch):
    for split in ("train", "test"):
        make_parquet(tmp_path / "cifar10", split=split)
        make_parquet(tmp_path / "cifar100", (7, 8, 9), "fine_label", split=split)
    assert Cifar10(root=str(tmp_path)).load().train_label.tolist() == [0, 1, 2]
    assert Cifar100(root=str(tmp_path)).load().train_label.tolist() == [7, 8, 9]
    make_cifar(tmp_path, monkeypatch, tv.CIFAR10, "labels", class_names.CIFAR10)
    assert len(Cifar10(root=str(tmp_path)).load().train_label) == 50  # torchvision's files come first


def test_the_parquet_copy_of_cifar100_with_plain_bytes(tmp_path):
    for split in ("train", "test"):
        make_parquet(tmp_path, (99, 5), "fine_label", "image", cells=[png(1), png(2)], split=split)
    data = Cifar100(root=str(tmp_path)).load()
    assert data.train_label.tolist() == [99, 5]
    assert data.num_classes == 100


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"key": "target"}, "has the columns img, target; expected img or image, and label"),
        ({"image": "picture"}, "has the columns picture, label; expected img or image, and label"),
        ({"label": [0, 1, 10]}, "train: labels go from 0 to 10; expected 0 to 9"),
        ({"label": [0, None, 1], "cells": [png(1)] * 3}, "the column label is float64; expected integers without gaps"),
        (
            {"cells": [png(1), b"x", None]},
            r"2 of 3 images .*parquet row 1 \(not an image\); .*parquet row 2 \(not an image\)",
        ),
        (
            {"cells": [{"path": "a"}] * 3},
            "its images are struct<path: string>; expected bytes, or a struct with a field",
        ),
        ({"cells": ["/etc/passwd"] * 3}, "its images are string; expected bytes"),
        ({"label": np.full(3, 2**64 - 1, np.uint64), "cells": [png(1)] * 3}, "labels go from -1"),
        ({"names": ["a", "b", "c"]}, "has the classes a, b, c ...; expected airplane, .* so it is another data set"),
    ],
)
def test_parquet_files_that_are_refused(tmp_path, options, message):
    make_parquet(tmp_path, split="test")
    make_parquet(tmp_path, **options)
    with pytest.raises(ValueError, match=message):
        Cifar10(root=str(tmp_path)).load()


def test_parquet_files_that_are_missing_or_damaged(tmp_path):
    make_parquet(tmp_path)
    with pytest.raises(ValueError, match=r"holds parquet files, but no test\*.parquet; put both splits there"):
        Cifar10(root=str(tmp_path)).load()
    (tmp_path / "test.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(ValueError, match="the parquet files in .* cannot be read"):
        Cifar10(root=str(tmp_path)).load()


def test_parquet_without_pyarrow(tmp_path, monkeypatch):
    (tmp_path / "train.parquet").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ValueError, match=r"need pyarrow: pip install 'vitmem\[parquet\]'"):
        Cifar10(root=str(tmp_path)).load()


@pytest.mark.parametrize(
    "metadata",
    ["{", "[]", "null", '{"info": 3}', '{"info": {"features": []}}', "[" * 100_000, "\xff",
     '{"info": {"features": {"label": {"names": "cat"}}}}'],
)  # fmt: skip
def test_metadata_that_declares_nothing(tmp_path, metadata):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    for split in ("train", "test"):
        table = pyarrow.table({"img": [png(1), png(2)], "label": [1, 2]})
        table = table.replace_schema_metadata({b"huggingface": metadata.encode("latin-1")})
        parquet.write_table(table, tmp_path / f"{split}.parquet")
    assert Cifar10(root=str(tmp_path)).load().train_label.tolist() == [1, 2]


def test_parquet_files_that_declare_too_much(tmp_path, monkeypatch):
    from vitmem.datamodules import parquet

    for split in ("train", "test"):
        make_parquet(tmp_path, split=split)
    for name, most, message in (
        ("_MOST_ROWS", 2, "declares 3 rows; expected at most 2"),
        ("_MOST_GB", 1e-7, "take 0.0 GB; expected at most 1e-07"),
        ("_MOST_GB", 5e-6, "the images take 0.0 GB; expected at most 5e-06"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(parquet, name, most)
            with pytest.raises(ValueError, match=message):
                Cifar10(root=str(tmp_path)).load()


def test_a_pointer_in_place_of_a_parquet_file(tmp_path):
    pytest.importorskip("pyarrow")
    (tmp_path / "train.parquet").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(ValueError, match="cannot be read: it is a Git LFS pointer, not the file itself; run `git lfs"):
        Cifar10(root=str(tmp_path)).load()
