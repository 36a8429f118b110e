import hashlib
import io
import json
import pickle
import struct
import sys
import tarfile
import urllib.error
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch
import yaml
from PIL import Image
from torchvision import datasets as tv
from torchvision.datasets import imagenet as tv_imagenet

from vitmem.cli import main
from vitmem.datamodules import (
    SVHN,
    Cifar10,
    Cifar100,
    FashionMNIST,
    ImageFolder,
    ImageNet,
    Npz,
    class_names,
    datasets,
    images,
)
from vitmem.datamodules.batch import Examples, InMemoryLoader
from vitmem.datamodules.noise import NOISES
from vitmem.datamodules.sources import ImageData
from vitmem.options import summary
from vitmem.runs.config import RunConfig, parser_for, run_config

RNG = np.random.RandomState(0)


def save_image(path, side=(8, 8), mode="RGB", value=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = side[::-1] if mode == "L" else (*side[::-1], 3)
    pixels = RNG.randint(0, 256, shape).astype(np.uint8) if value is None else np.full(shape, value, np.uint8)
    Image.fromarray(pixels).save(path)
    return pixels


def make_folder(root, classes=("cat", "dog"), train=3, validation=2, name="val", suffix=".png", **options):
    """Write an image folder, and return its training pixels in the order of the labels."""
    pixels = [
        save_image(root / "train" / label / f"{k:04d}{suffix}", **options) for label in classes for k in range(train)
    ]
    for label in classes:
        for k in range(validation):
            save_image(root / name / label / f"{k:04d}{suffix}", **options)
    return np.stack(pixels)


# what holds for every data set


@pytest.mark.parametrize("name", sorted(datasets()))
def test_options_survive_the_configuration_file(name):
    assert summary(datasets()[name])
    for kind in NOISES:
        settings = RunConfig(data=datasets()[name](), noise=NOISES[kind]())
        text = yaml.safe_dump(settings.to_dict())
        assert RunConfig.from_dict(yaml.safe_load(text)) == settings


def read_options(*arguments):
    return run_config(parser_for(arguments, "train", "").read(arguments))


def test_offline_is_spelled_in_short_and_means_nothing_where_nothing_is_downloaded():
    assert read_options("--data.name=svhn", "--offline").data == SVHN(offline=True)
    assert read_options("--data.name=cifar10", "--data.root=/x", "--data.offline=true").data.offline
    assert read_options("--offline") == read_options()
    listed = read_options("--data.name=imagefolder", "--data.classes=[cat, dog]", "--data.per_class=5").data
    assert listed == ImageFolder(classes=["cat", "dog"], per_class=5)


# image folders


@pytest.mark.parametrize("name", ["val", "validation", "test"])
def test_a_folder_is_read_in_the_order_of_its_names(tmp_path, name):
    pixels = make_folder(tmp_path, ("zebra", "ant", "bee"), name=name)
    data = ImageFolder(root=str(tmp_path)).load()
    assert data.class_names == ("ant", "bee", "zebra")
    assert data.train_label.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert data.validation_label.tolist() == [0, 0, 1, 1, 2, 2]
    assert data.train_name[3] == "train/bee/0000.png"
    expected = pixels[[3, 4, 5, 6, 7, 8, 0, 1, 2]].transpose(0, 3, 1, 2)
    assert data.train_image.dtype == torch.uint8
    assert (data.train_image.numpy() == expected).all()
    mean, std = data.mean_std
    assert mean == pytest.approx((expected / 255).mean((0, 2, 3)), abs=1e-6)
    assert std == pytest.approx((expected / 255).std((0, 2, 3)), abs=1e-6)


def test_jpeg_and_nested_and_hidden_files(tmp_path):
    make_folder(tmp_path, suffix=".JPEG")
    save_image(tmp_path / "train" / "cat" / "images" / "x.jpg")
    save_image(tmp_path / "train" / "cat" / ".hidden.jpg")
    (tmp_path / "train" / ".ipynb_checkpoints").mkdir()
    (tmp_path / "train" / "cat" / "notes.txt").write_text("no image")
    data = ImageFolder(root=str(tmp_path)).load()
    assert len(data.train_label) == 7
    assert data.train_name[3] == "train/cat/images/x.jpg"


def test_size_cuts_the_centre_out(tmp_path):
    make_folder(tmp_path, side=(12, 8))
    striped = np.zeros((8, 16, 3), np.uint8)
    striped[:, 4:12] = 200  # the centre of a wide image
    Image.fromarray(striped).save(tmp_path / "train" / "cat" / "0000.png")
    data = ImageFolder(root=str(tmp_path), size=8).load()
    assert data.train_image.shape == (6, 3, 8, 8)
    assert (data.train_image[0] == 200).all()
    halved = ImageFolder(root=str(tmp_path), size=4).load().train_image[0]
    assert (halved[:, :, 1:3] == 200).all()
    assert (halved >= 150).all()  # the edge averages with what lies beyond it
    assert ImageFolder(root=str(tmp_path), size=16, grey=True).load().image_shape == (1, 16, 16)


def test_modes_become_colour_or_grey(tmp_path):
    make_folder(tmp_path, mode="L", value=7)
    Image.new("RGBA", (8, 8), (7, 7, 7, 9)).save(tmp_path / "train" / "cat" / "0000.png")
    Image.new("P", (8, 8)).save(tmp_path / "train" / "cat" / "0001.png")
    colour, grey = (ImageFolder(root=str(tmp_path), grey=grey).load().train_image for grey in (False, True))
    assert colour.shape[1] == 3
    assert grey.shape[1] == 1
    assert (colour[2:] == 7).all()
    assert (grey[[0, 2, 3, 4, 5]] == 7).all()


def test_subsets(tmp_path):
    pixels = make_folder(tmp_path, ("a", "b", "c"), train=4)
    whole = ImageFolder(root=str(tmp_path)).load()
    part = ImageFolder(root=str(tmp_path), per_class=2, per_class_validation=1).load()
    assert part.train_name == tuple(f"train/{label}/000{k}.png" for label in "abc" for k in range(2))
    assert torch.equal(part.train_image, whole.train_image[[0, 1, 4, 5, 8, 9]])
    assert len(part.validation_label) == 3
    assert ImageFolder(root=str(tmp_path), per_class=10_000).load().fingerprint == whole.fingerprint
    (tmp_path / "names.txt").write_text("c\n\na\n")
    for classes in (["c", "a"], str(tmp_path / "names.txt")):
        data = ImageFolder(root=str(tmp_path), classes=classes).load()
        assert data.class_names == ("a", "c")
        assert data.train_label.tolist() == [0] * 4 + [1] * 4
        assert (data.train_image[4:].numpy() == pixels[8:].transpose(0, 3, 1, 2)).all()


def test_part_of_the_training_images_is_held_out(tmp_path):
    make_folder(tmp_path, train=10, validation=0)
    data = ImageFolder(root=str(tmp_path), validation_share=0.2).load()
    assert data.train_label.tolist() == [0] * 8 + [1] * 8
    assert data.validation_label.tolist() == [0, 0, 1, 1]
    again = ImageFolder(root=str(tmp_path), validation_share=0.2, cache=str(tmp_path / "other")).load()
    assert again.fingerprint == data.fingerprint
    assert again.train_name == data.train_name
    with pytest.warns(UserWarning, match=r"2 classes are too small to be in validation: cat, dog|1 classes are too"):
        ImageFolder(root=str(tmp_path), validation_share=0.2, per_class=2).load()


def folder_options(**options):
    return lambda root: ImageFolder(root=str(root), **options)


def remove(path):
    for file in path.iterdir():
        file.unlink()


@pytest.mark.parametrize(
    ("change", "dataset", "message"),
    [
        (None, lambda root: ImageFolder(root=str(root / "no")), "there is no folder .*no; set data.root to a folder"),
        (None, lambda root: ImageFolder(root=str(root / "val")), "there is no folder .*val/train; images belong in"),
        (None, lambda root: ImageFolder(root=str(root / "train/cat")), "there is no folder .*cat/train"),
        (lambda root: (root / "no/train").mkdir(parents=True), lambda root: ImageFolder(root=str(root / "no")),
         "holds no class folders"),
        (lambda root: remove(root / "train/dog"), folder_options(),
         "classes without an image in .*train: dog; images end in .jpg"),
        (lambda root: (root / "train/eel").mkdir(), folder_options(), "classes without an image in .*train: eel"),
        (lambda root: remove(root / "val/dog"), folder_options(), "classes without an image in .*val: dog; add some"),
        (lambda root: save_image(root / "train/eel/1.png"), folder_options(), "without an image in .*val: eel; add"),
        (lambda root: save_image(root / "val/eel/1.png"), folder_options(),
         "val has classes that train/ beside it lacks: eel; classes must agree"),
        (None, folder_options(classes=["cat", "eel"]), "has names that .*train lacks: eel; it has cat, dog"),
        (None, folder_options(classes=["cat", "dog", "cat"]), "names classes twice: cat"),
        (None, folder_options(classes=["cat"]), r"has 1 classes to use \(cat\); at least 2 are needed"),
        (None, folder_options(classes=[]), "names no class; leave it out to use all"),
        (None, folder_options(classes="no.txt"), "there is no file no.txt; give a text file of names, or a list"),
        (None, folder_options(validation_share=0.5), "validation_share is 0.5, but there is .*val; set it to 0"),
        (None, folder_options(workers=-1), "data.workers is -1; it must not be negative"),
        (lambda root: save_image(root / "train/cat/9.png", (9, 8)), folder_options(),
         r"1 of 7 images cannot be used; .*: train/cat/9.png \(9 x 8 pixels, the first is 8 x 8: set size\)"),
        (lambda root: Image.new("I;16", (8, 8)).save(root / "train/cat/9.png"), folder_options(),
         r"9.png \(its mode is I;16; allowed are images of 8 bits a channel\)"),
    ],
)  # fmt: skip
def test_folders_that_are_refused(tmp_path, change, dataset, message):
    make_folder(tmp_path)
    if change:
        change(tmp_path)
    with pytest.raises(ValueError, match=message):
        dataset(tmp_path).load()


def test_without_validation_and_without_a_share(tmp_path):
    make_folder(tmp_path, validation=0)
    with pytest.raises(ValueError, match=r"has no val/, validation/ or test/, and data.validation_share 0.0 of 6"):
        ImageFolder(root=str(tmp_path)).load()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, "data.size is 0; it must be at least 1"),
        ({"per_class": 0}, "data.per_class is 0"),
        ({"validation_share": 1.0}, r"data.validation_share is 1.0; it is a fraction in \[0, 1\)"),
    ],
)
def test_folder_options_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        ImageFolder(**options)


def test_every_unreadable_image_is_named(tmp_path):
    make_folder(tmp_path, suffix=".jpg", train=4)
    train = tmp_path / "train"
    (train / "cat/0001.jpg").write_text("no image")
    (train / "cat/0002.jpg").write_bytes((train / "cat/0002.jpg").read_bytes()[:300])
    (train / "dog/0000.jpg").write_bytes(b"")
    (train / "dog/0003.jpg").unlink()
    (train / "dog/0003.jpg").symlink_to(tmp_path / "gone.jpg")
    with pytest.raises(ValueError, match=r"4 of 8 images cannot be used; replace or remove them") as error:
        ImageFolder(root=str(tmp_path)).load()
    text = str(error.value)
    assert "\n" not in text
    for part in ("cat/0001.jpg (not an image)", "cat/0002.jpg (", "dog/0000.jpg (not an image)", "0003.jpg (No such"):
        assert part in text
    assert not list(tmp_path.glob(".vitmem_cache/train*"))


def test_a_long_list_of_unreadable_images_is_cut():
    with pytest.raises(ValueError, match=r"25 of 25 images .* n19 \(not an image\); and 5 more$") as error:
        images.decode([b""] * 25, [f"n{k}" for k in range(25)])
    assert "n20" not in str(error.value)


# the cache


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An image folder, and how many splits were decoded."""
    make_folder(tmp_path / "data")
    count = []
    decode = images.decode
    monkeypatch.setattr("vitmem.datamodules.folder.decode", lambda *args: count.append(1) or decode(*args))
    return tmp_path / "data", count


def test_images_are_decoded_once(folder):
    root, count = folder
    first = ImageFolder(root=str(root)).load()
    again = ImageFolder(root=str(root)).load()
    assert len(count) == 2  # train and validation
    assert again.fingerprint == first.fingerprint
    assert again.train_name == first.train_name
    ImageFolder(root=str(root), grey=True).load()
    ImageFolder(root=str(root), size=4).load()
    ImageFolder(root=str(root), per_class=1).load()
    assert len(count) == 2 + 2 + 2 + 1  # the validation images of the last are those of the first
    described = json.loads(next((root / ".vitmem_cache").glob("train*.json")).read_text())
    assert set(described) == {"version", "settings", "num_files", "covers", "files_sha256", "shape", "dtype"}
    assert not list((root / ".vitmem_cache").glob("*.part"))


def test_a_changed_source_is_decoded_again(folder):
    root, count = folder
    before = ImageFolder(root=str(root)).load()
    pixels = save_image(root / "train/cat/0000.png")
    after = ImageFolder(root=str(root)).load()
    assert len(count) == 3
    assert after.fingerprint != before.fingerprint
    assert (after.train_image[0].numpy() == pixels.transpose(2, 0, 1)).all()
    (root / "train/dog/0002.png").unlink()
    assert len(ImageFolder(root=str(root)).load().train_label) == 5


@pytest.mark.parametrize("damage", ["no description", "other description", "cut", "empty", "other shape"])
def test_a_damaged_cache_is_made_again(folder, damage):
    root, count = folder
    before = ImageFolder(root=str(root)).load().fingerprint
    array, sidecar = (next((root / ".vitmem_cache").glob(f"train*.{suffix}")) for suffix in ("npy", "json"))
    if damage == "no description":
        sidecar.unlink()
    elif damage == "other description":
        sidecar.write_text("{}")
    elif damage == "other shape":
        np.save(array, np.zeros((1, 3, 8, 8), np.uint8))
    else:
        array.write_bytes(array.read_bytes()[: 500 if damage == "cut" else 0])
    assert ImageFolder(root=str(root)).load().fingerprint == before
    assert len(count) == 3


def test_a_cache_with_pickles_is_not_opened(folder, tmp_path):
    root, count = folder
    ImageFolder(root=str(root)).load()
    array = next((root / ".vitmem_cache").glob("train*.npy"))
    np.save(array, np.array([{}]), allow_pickle=True)
    assert ImageFolder(root=str(root)).load().train_image.dtype == torch.uint8
    assert len(count) == 3


def test_a_cache_that_cannot_be_written_costs_a_warning(folder, monkeypatch):
    root, _ = folder
    expected = ImageFolder(root=str(root)).load().fingerprint
    (root / "taken").write_text("a file")
    with pytest.warns(UserWarning, match=r"not cached in .*taken .*stay in memory; set data.cache"):
        data = ImageFolder(root=str(root), cache=str(root / "taken")).load()
    assert data.fingerprint == expected

    def full(*args, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.warns(UserWarning, match="No space left on device"):
        data = ImageFolder(root=str(root), cache=str(root / "full")).load()
    assert data.fingerprint == expected
    assert list((root / "full").iterdir()) == []


def test_mapped_images_serve_batches_and_are_never_written_to(folder):
    root, _ = folder
    ImageFolder(root=str(root)).load()
    data = ImageFolder(root=str(root)).load()
    stored = next((root / ".vitmem_cache").glob("train*.npy")).read_bytes()
    examples = Examples(data.train_image, data.train_label, data.train_label, torch.arange(6))
    batch = InMemoryLoader(examples, 4).batch(torch.tensor([5, 0]))
    assert torch.equal(batch.image, data.train_image[[5, 0]].float() / 255)
    picked = data.train_image[[1, 2]]
    picked += 1
    data.train_image[0] = 0
    assert next((root / ".vitmem_cache").glob("train*.npy")).read_bytes() == stored
    assert torch.equal(examples.subset(torch.tensor([3])).image, data.train_image[[3]])


# ImageNet

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


def md5(data):
    return hashlib.md5(data).hexdigest()


def tar(files, mode="w"):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return out.getvalue()


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


def test_imagenet_with_flat_validation_images(tmp_path, official):
    make_folder(tmp_path, WNIDS, validation=0, side=(10, 10))
    for k in range(4):
        (tmp_path / "val").mkdir(exist_ok=True)
        (tmp_path / "val" / f"ILSVRC2012_val_{k:08d}.JPEG").write_bytes(jpeg(50 * k))
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


# npz

PIXELS = RNG.randint(0, 256, (9, 5, 5, 3)).astype(np.uint8)
NINE = np.arange(9) % 3


def npz(path, **arrays):
    np.savez(path, **{"train_images": PIXELS, "train_labels": NINE[:, None], "val_images": PIXELS[:3],
                      "val_labels": NINE[:3, None]} | arrays)  # fmt: skip
    return Npz(path=str(path))


def test_medmnist(tmp_path):
    data = npz(tmp_path / "a.npz", test_images=PIXELS[:2], test_labels=NINE[:2, None]).load()
    assert (data.train_image.numpy() == PIXELS.transpose(0, 3, 1, 2)).all()
    assert data.train_label.tolist() == NINE.tolist()
    assert data.class_names == ("0", "1", "2")
    assert len(data.validation_label) == 3


def test_keras_keys_and_grey_images(tmp_path):
    np.savez(tmp_path / "a.npz", x_train=PIXELS[..., 0], y_train=NINE.astype(np.uint8), x_test=PIXELS[:4, ..., 0],
             y_test=NINE[:4])  # fmt: skip
    data = Npz(path=str(tmp_path / "a.npz")).load()
    assert data.image_shape == (1, 5, 5)
    assert len(data.validation_label) == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train_images": PIXELS.astype(np.float32)}, "train_images is float32 of shape .*; expected uint8 of shape"),
        ({"train_images": PIXELS[0, 0]}, r"train_images is uint8 of shape \(5, 3\); expected"),
        ({"train_images": PIXELS[..., :2]}, "with C 1 or 3"),
        ({"train_labels": NINE[:8]}, r"train_labels is int64 of shape \(8,\); expected integers of shape \(9,\) or"),
        ({"train_labels": np.zeros((9, 14), int)}, "expected integers of shape"),
        ({"train_labels": NINE / 1.0}, "train_labels is float64"),
        ({"train_labels": NINE - 1}, "has a negative label"),
        ({"train_labels": NINE * 2}, r"no training image of classes \[1, 3\]; labels must go from 0 to 4"),
        ({"val_labels": NINE[3:6] + 1}, "validation: labels go from 1 to 3; expected 0 to 2"),
        ({"val_images": PIXELS[:3, :4]}, "must have one shape"),
        ({"train_images": np.array([{}] * 9)}, "it holds pickled objects, which could run code"),
        ({"train_labels": np.array([{}] * 9)}, "it holds pickled objects, which could run code"),
    ],
)  # fmt: skip
def test_npz_files_that_are_refused(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        npz(tmp_path / "a.npz", **change).load()


def test_npz_files_of_another_kind(tmp_path):
    with pytest.raises(ValueError, match="there is no file .*; set data.path to an .npz file"):
        Npz(path=str(tmp_path / "a.npz")).load()
    (tmp_path / "a.npz").write_bytes(pickle.dumps({}))
    with pytest.raises(ValueError, match="a.npz cannot be used: File is not a zip file"):
        Npz(path=str(tmp_path / "a.npz")).load()
    np.savez(tmp_path / "a.npz", x_train=PIXELS, labels=NINE)
    with pytest.raises(
        ValueError, match="it has the keys x_train, labels; expected train_images and train_labels, or x_"
    ):
        Npz(path=str(tmp_path / "a.npz")).load()
    whole = npz(tmp_path / "a.npz")
    with pytest.raises(ValueError, match=r"it takes 0.0 GB, and data.max_gb is 1e-07"):
        Npz(path=whole.path, max_gb=1e-7).load()
    (tmp_path / "a.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:-200])
    with pytest.raises(ValueError, match="a.npz cannot be used"):
        whole.load()


# torchvision's files


@pytest.fixture
def offline_world(monkeypatch):
    """No test reaches the network."""

    def unreachable(*args, **options):
        raise urllib.error.URLError("no network in tests")

    monkeypatch.setattr("urllib.request.urlopen", unreachable)


def pickled_batch(labels, key):
    pixels = RNG.randint(0, 256, (len(labels), 3072)).astype(np.uint8)
    return {"data": pixels, key: list(labels)}


def make_cifar(root, monkeypatch, source, key, names):
    """Write a small CIFAR in torchvision's own form, and return its pickled files."""
    folder = root / source.base_folder
    folder.mkdir(parents=True)
    batches, lists = {}, {}
    for attribute in ("train_list", "test_list"):
        lists[attribute] = []
        for name, _ in getattr(source, attribute):
            batches[name] = pickled_batch(RNG.permutation(len(names))[:10], key)
            (folder / name).write_bytes(pickle.dumps(batches[name]))
            lists[attribute].append([name, md5((folder / name).read_bytes())])
        monkeypatch.setattr(source, attribute, lists[attribute])
    meta = folder / source.meta["filename"]
    meta.write_bytes(pickle.dumps({source.meta["key"]: list(names)}))
    monkeypatch.setattr(source, "meta", source.meta | {"md5": md5(meta.read_bytes())})
    return batches


@pytest.mark.parametrize(
    ("dataset", "source", "key", "names"),
    [
        (Cifar10, tv.CIFAR10, "labels", class_names.CIFAR10),
        (Cifar100, tv.CIFAR100, "fine_labels", class_names.CIFAR100),
    ],
)
@pytest.mark.usefixtures("offline_world")
def test_cifar_in_torchvisions_form(tmp_path, monkeypatch, dataset, source, key, names):
    batches = make_cifar(tmp_path, monkeypatch, source, key, names)
    data = dataset(root=str(tmp_path), offline=True).load()
    train = [batches[name] for name, _ in source.train_list]
    assert data.class_names == names
    assert data.train_label.tolist() == [label for batch in train for label in batch[key]]
    assert (data.train_image.flatten(1).numpy() == np.concatenate([batch["data"] for batch in train])).all()
    assert data.validation_label.tolist() == batches[source.test_list[0][0]][key]  # the test set
    assert data.image_shape == (3, 32, 32)


@pytest.mark.usefixtures("offline_world")
def test_an_archive_is_unpacked_without_a_network(tmp_path, monkeypatch):
    make_cifar(tmp_path, monkeypatch, tv.CIFAR10, "labels", class_names.CIFAR10)
    files = {
        f"{tv.CIFAR10.base_folder}/{p.name}": p.read_bytes() for p in (tmp_path / tv.CIFAR10.base_folder).iterdir()
    }
    archive = tar(files, "w:gz")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / tv.CIFAR10.filename).write_bytes(archive)
    with pytest.raises(ValueError, match=r"checksum mismatch: .*cifar-10-python.tar.gz is not the published file"):
        Cifar10(root=str(tmp_path / "b"), offline=True).load()
    monkeypatch.setattr(tv.CIFAR10, "tgz_md5", md5(archive))
    fingerprints = {Cifar10(root=str(tmp_path / part), offline=True).load().fingerprint for part in ("", "b")}
    assert len(fingerprints) == 1


@pytest.mark.parametrize("offline", [True, False])
@pytest.mark.usefixtures("offline_world")
def test_a_changed_file_is_refused_before_it_is_opened(tmp_path, monkeypatch, offline):
    make_cifar(tmp_path, monkeypatch, tv.CIFAR10, "labels", class_names.CIFAR10)
    (tmp_path / tv.CIFAR10.base_folder / "data_batch_3").write_bytes(b"cos\nsystem\n(S'touch ran'\ntR.")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        ValueError, match=r"checksum mismatch: .*data_batch_3 is not the published file of CIFAR-10 \(MD5"
    ):
        Cifar10(root=str(tmp_path), offline=offline).load()
    assert not Path("ran").exists()


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        (Cifar10, r"no cifar-10-batches-py/data_batch_1, .*; put there https://www.cs.toronto.edu/.*parquet copy"),
        (Cifar100, "no cifar-100-python/train, .*uoft-cs/cifar100"),
        (FashionMNIST, "no FashionMNIST/raw/train-images-idx3-ubyte, .*http.*as FashionMNIST/raw/train-images-idx3-"),
        (SVHN, "no train_32x32.mat, test_32x32.mat; put there http://ufldl.stanford.edu/.* as train_32x32.mat"),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("offline_world")
def test_offline_says_what_is_missing_and_where_it_is(tmp_path, dataset, message):
    with pytest.raises(ValueError, match=f"data.offline is true: there is {message}"):
        dataset(root=str(tmp_path), offline=True).load()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(
        ValueError, match=r"cannot be read from .* or downloaded: .*(no network in tests|Error downloading)"
    ) as error:
        dataset(root=str(tmp_path)).load()
    assert "\n" not in str(error.value)


@pytest.mark.usefixtures("offline_world")
def test_fashion_mnist(tmp_path):
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    pixels = RNG.randint(0, 256, (20, 28, 28)).astype(np.uint8)
    label = (np.arange(20) % 10).astype(np.uint8)
    for part, n in (("train", 20), ("t10k", 10)):
        (raw / f"{part}-images-idx3-ubyte").write_bytes(struct.pack(">IIII", 2051, n, 28, 28) + pixels[:n].tobytes())
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 2049, n) + label[:n].tobytes())
    data = FashionMNIST(root=str(tmp_path), offline=True).load()
    assert (data.train_image[:, 0].numpy() == pixels).all()
    assert data.train_label.tolist() == label.tolist()
    assert data.class_names[0] == "T-shirt/top"
    (raw / "t10k-labels-idx1-ubyte").write_bytes(b"\0\0\0\0")
    with pytest.raises(ValueError, match="Fashion-MNIST cannot be read from"):
        FashionMNIST(root=str(tmp_path), offline=True).load()


@pytest.mark.usefixtures("offline_world")
def test_svhn(tmp_path, monkeypatch):
    pixels, split_list = RNG.randint(0, 256, (32, 32, 3, 20)).astype(np.uint8), dict(tv.SVHN.split_list)
    for split in ("train", "test"):
        url, name, _ = split_list[split]
        scipy.io.savemat(tmp_path / name, {"X": pixels, "y": (np.arange(20) % 10 + 1)[:, None].astype(np.uint8)})
        split_list[split] = [url, name, md5((tmp_path / name).read_bytes())]
    monkeypatch.setattr(tv.SVHN, "split_list", split_list)
    data = SVHN(root=str(tmp_path), offline=True).load()
    assert (data.train_image.numpy() == pixels.transpose(3, 2, 0, 1)).all()
    assert data.train_label[:10].tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0]  # the files say 10 for a nought
    (tmp_path / "test_32x32.mat").write_bytes(b"other")
    with pytest.raises(ValueError, match=r"checksum mismatch: .*test_32x32.mat is not the published file of SVHN"):
        SVHN(root=str(tmp_path)).load()


# parquet


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
    assert len(list((tmp_path / below / ".vitmem_cache").glob("*.npy"))) == 2


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


# through the command line


def test_a_wrong_folder_is_one_line_and_exit_code_2(tmp_path, capsys):
    make_folder(tmp_path / "data")
    (tmp_path / "data/train/cat/0000.png").write_text("no image")
    for root in (tmp_path / "data", tmp_path / "no"):
        arguments = ["train", "--data.name=imagefolder", f"--data.root={root}", f"--out={tmp_path / 'runs'}"]
        assert main(arguments) == 2
        assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_training_on_photographs_with_canaries_and_repeats(tmp_path, capsys):
    make_folder(tmp_path / "data", train=20, validation=4)
    arguments = [
        "train", "--data.name=imagefolder", f"--data.root={tmp_path / 'data'}", f"--out={tmp_path / 'runs'}",
        "--noise.repeats=3", "--noise.canaries=2", "--model.width=16", "--model.depth=1", "--model.heads=2",
        "--model.patch=4", "--train.epochs=1", "--train.warmup_epochs=0", "--train.batch_size=16",
    ]  # fmt: skip
    assert main(arguments) == 0
    header = json.loads((tmp_path / "runs/default/seed0/noise.json").read_text())
    assert header["num_canaries"] == len(header["canaries"]) == 2
    assert f"training on {40 + 2 * header['num_noisy']} examples" in capsys.readouterr().out
    assert main(arguments) == 0  # the saved header is that of the data at hand


def test_image_data_is_still_generic():
    image = torch.zeros(3, 1, 4, 4, dtype=torch.uint8)
    data = ImageData(image, torch.tensor([0, 1, 0]), image[:2], torch.tensor([0, 1]), ("a", "b"))
    assert data.train_name == ()
    assert data.mean_std == ((0.0,), (1e-6,))
