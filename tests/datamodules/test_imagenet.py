import io
import pickle
import shutil

import numpy as np
import pytest
import scipy.io
import torch
from photographs import make_folder, md5, tar
from PIL import Image
from torchvision.datasets import imagenet as tv_imagenet

from vitmem.datamodules import (
    ImageNet,
)

WNIDS = ("n00000001", "n00000002", "n00000003")


def test_imagenet_follows_the_sorted_wnids(tmp_path):
    make_folder(tmp_path, WNIDS[::-1], side=(40, 30), suffix=".JPEG")
    data = ImageNet(root=str(tmp_path)).load()
    assert data.image_shape == (3, 224, 224)
    assert data.class_names == WNIDS
    assert ImageNet(root=str(tmp_path), size=8, num_classes=2).load().class_names == WNIDS[:2]
    chosen = ImageNet(root=str(tmp_path), size=8, classes=[WNIDS[2], WNIDS[0]], per_class=1).load()
    assert chosen.class_names == (WNIDS[0], WNIDS[2])
    assert len(chosen.train_label) == 2


def jpeg(value):
    out = io.BytesIO()
    Image.new("RGB", (10, 10), (value,) * 3).save(out, "JPEG")
    return out.getvalue()


@pytest.fixture
def official(monkeypatch):
    """The three archives of ImageNet in small: two training images a class; validation 0, 1, 2, 0 by number."""
    synsets = np.array(
        [(k + 1, wnid, f"thing {k}, other", "what it is", 0, 0, 0, 0) for k, wnid in enumerate(WNIDS)],
        dtype=[(name, object) for name in ("ILSVRC2012_ID", "WNID", "words", "gloss", "num_children", "a", "b", "c")],
    )
    matrix = io.BytesIO()
    scipy.io.savemat(matrix, {"synsets": synsets})
    kit = "ILSVRC2012_devkit_t12/data/"
    truth = b"\n".join(b"%d" % (k + 1) for k in (0, 1, 2, 0)) + b"\n"
    contents = {
        "train": tar({f"{w}.tar": tar({f"{w}_{k}.JPEG": jpeg(10 * k) for k in range(2)}) for w in WNIDS}),
        "val": tar({f"ILSVRC2012_val_{k:08d}.JPEG": jpeg(50 * k) for k in range(4)}),
        "devkit": tar(
            {f"{kit}meta.mat": matrix.getvalue(), f"{kit}ILSVRC2012_validation_ground_truth.txt": truth}, "w:gz"
        ),
    }
    meta = {key: (name, md5(contents[key])) for key, (name, _) in tv_imagenet.ARCHIVE_META.items()}
    monkeypatch.setattr(tv_imagenet, "ARCHIVE_META", meta)
    return {meta[key][0]: content for key, content in contents.items()}


def test_imagenet_from_the_official_archives(tmp_path, official):
    for name, content in official.items():
        (tmp_path / name).write_bytes(content)
    data = ImageNet(root=str(tmp_path), size=4).load()
    assert data.class_names == WNIDS
    assert data.train_label.tolist() == [0, 0, 1, 1, 2, 2]
    assert data.validation_label.tolist() == [0, 0, 1, 2]
    assert data.validation_image[:, 0, 0, 0].tolist() == pytest.approx([0, 150, 50, 100], abs=2)


def make_flat(root, number):
    (root / "val").mkdir(exist_ok=True)
    for k in range(number):
        (root / "val" / f"ILSVRC2012_val_{k:08d}.JPEG").write_bytes(jpeg(50 * k))


def test_imagenet_with_flat_validation_images(tmp_path, official):
    make_folder(tmp_path, WNIDS, validation=0, side=(10, 10))
    make_flat(tmp_path, 4)
    (tmp_path / "val" / "._ILSVRC2012_val_00000000.JPEG").write_bytes(b"hidden")
    with pytest.raises(ValueError, match=r"val has no class folders, and the development kit .* ILSVRC2012_devkit_t12"):
        ImageNet(root=str(tmp_path), size=4).load()
    (tmp_path / "ILSVRC2012_devkit_t12.tar.gz").write_bytes(official["ILSVRC2012_devkit_t12.tar.gz"])
    data = ImageNet(root=str(tmp_path), size=4, num_classes=2).load()
    assert data.validation_label.tolist() == [0, 0, 1]
    assert data.validation_image[:, 0, 0, 0].tolist() == pytest.approx([0, 150, 50], abs=2)
    (tmp_path / "val" / "ILSVRC2012_val_00000000.JPEG").unlink()
    with pytest.raises(ValueError, match="val holds 3 images; the development kit describes 4"):
        ImageNet(root=str(tmp_path), size=4).load()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_classes": 4}, "num_classes is 4, but .*train has 3 classes"),
        ({"classes": ["n00000001", "n9"]}, "has names that .*train lacks: n9"),
    ],
)
def test_imagenet_subsets_that_are_not_there(tmp_path, options, message):
    make_folder(tmp_path, WNIDS)
    with pytest.raises(ValueError, match=message):
        ImageNet(root=str(tmp_path), **options).load()


def test_imagenet_that_is_not_there(tmp_path, official):
    with pytest.raises(ValueError, match=r"neither train/ nor the official archives; put ILSVRC2012_devkit_t12"):
        ImageNet(root=str(tmp_path)).load()
    (tmp_path / "ILSVRC2012_img_train.tar").write_bytes(b"other")
    with pytest.raises(ValueError, match=r"archives in .* cannot be unpacked: The archive ILSVRC2012_devkit_t12"):
        ImageNet(root=str(tmp_path)).load()


def test_imagenet_options_that_exclude_each_other():
    with pytest.raises(ValueError, match="num_classes is 1; it must be at least 2"):
        ImageNet(num_classes=1)
    with pytest.raises(ValueError, match="num_classes and data.classes are both set"):
        ImageNet(num_classes=2, classes=["a", "b"])


@pytest.mark.parametrize("content", [b"", b"garbage", b"PK\3\4", pickle.dumps([1]), "other things", "code"])
def test_a_damaged_description_is_made_again_and_runs_no_code(tmp_path, official, content, capsys):
    for name, archive in official.items():
        (tmp_path / name).write_bytes(archive)
    meta = tmp_path / tv_imagenet.META_FILE
    if isinstance(content, bytes):
        meta.write_bytes(content)
    else:
        torch.save(({}, Evil() if content == "code" else [1]), meta)
    data = ImageNet(root=str(tmp_path), size=4).load()
    assert data.validation_label.tolist() == [0, 0, 1, 2]
    shutil.rmtree(tmp_path / "val")
    make_flat(tmp_path, 4)
    meta.write_bytes(b"garbage")
    assert ImageNet(root=str(tmp_path), size=4).load().validation_label.tolist() == [0, 0, 1, 2]
    meta.write_bytes(b"garbage")
    (tmp_path / "ILSVRC2012_devkit_t12.tar.gz").unlink()
    with pytest.raises(ValueError, match=r"the development kit that describes its images cannot be read"):
        ImageNet(root=str(tmp_path), size=4).load()
    assert "code ran" not in capsys.readouterr().out


class Evil:
    def __reduce__(self):
        return print, ("code ran",)
