import json

import numpy as np
import pytest
import torch
from cases import QUICK
from photographs import make_folder, save_image
from PIL import Image, ImageOps

from vitmem.datamodules import (
    ImageFolder,
    images,
)


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
    rest = ImageFolder(root=str(tmp_path), skip_per_class=2).load()
    assert set(rest.train_name) == set(whole.train_name) - set(part.train_name)
    assert ImageFolder(root=str(tmp_path), skip_per_class=1, per_class=1).load().train_name[0] == "train/a/0001.png"
    with pytest.raises(ValueError, match=r"data.skip_per_class is 4, which leaves no image of a, b, c; skip fewer"):
        ImageFolder(root=str(tmp_path), skip_per_class=4).load()
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
        (None, folder_options(classes=" , "), "names no class; leave it out to use all"),
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
        ({"size": 10**6}, "data.size is 1000000; it is a side in pixels, and at most 16384"),
        ({"max_gb": -1.0}, "data.max_gb is -1.0; it must not be negative"),
        ({"workers": 10**6}, "data.workers is 1000000; it must not be negative, and at most 1024"),
        ({"per_class": 0}, "data.per_class is 0"),
        ({"skip_per_class": -1}, "data.skip_per_class is -1"),
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


def test_a_validation_class_that_was_not_asked_for_is_no_error(tmp_path):
    make_folder(tmp_path)
    save_image(tmp_path / "val/eel/1.png")
    assert ImageFolder(root=str(tmp_path), classes=["cat", "dog"]).load().class_names == ("cat", "dog")


def test_a_class_list_with_a_byte_order_mark(tmp_path):
    make_folder(tmp_path)
    (tmp_path / "names.txt").write_text("cat\r\ndog\r\n", encoding="utf-8-sig")
    assert ImageFolder(root=str(tmp_path), classes=str(tmp_path / "names.txt")).load().class_names == ("cat", "dog")
    (tmp_path / "names.txt").write_text("cat\ndog\n", encoding="utf-16")
    with pytest.raises(ValueError, match="names.txt is not a text file in UTF-8"):
        ImageFolder(root=str(tmp_path), classes=str(tmp_path / "names.txt")).load()


@pytest.mark.parametrize("typed", ["no,yes", '["no","yes"]'])
def test_classes_on_the_command_line_are_names_as_they_are_typed(cli, tmp_path, typed):
    make_folder(tmp_path / "data", ("no", "yes", "0"))
    data = ["--data.name=imagefolder", f"--data.root={tmp_path / 'data'}", f"--data.classes={typed}"]
    assert cli("train", f"--out={tmp_path / 'runs'}", *QUICK, *data)[0] == 0
    described = json.loads((tmp_path / "runs/default/seed0/model.json").read_text())
    assert described["classes"] == ["no", "yes"]


@pytest.mark.parametrize(("written", "read"), [("[no, yes]", "False"), ("[0, 1]", "0"), ("['0', 1.10]", "1.1")])
def test_classes_that_yaml_changed_are_refused(cli, tmp_path, written, read):
    (tmp_path / "a.yaml").write_text(f"data:\n  name: imagefolder\n  root: {tmp_path}\n  classes: {written}\n")
    make_folder(tmp_path)
    (tmp_path / "b.yaml").write_text(f"data:\n  name: imagefolder\n  root: {tmp_path}\n")
    config, typed = f"--config={tmp_path / 'a.yaml'}", [f"--config={tmp_path / 'b.yaml'}", f"--data.classes={written}"]
    for arguments in ([config], typed):
        code, _, error = cli("train", f"--out={tmp_path / 'runs'}", *arguments)
        assert code == 2
        assert f"data.classes has {read}, which YAML makes of yes, no and numbers; put the names in quotes" in error


def test_a_third_split_is_for_reporting(tmp_path):
    make_folder(tmp_path)
    before = ImageFolder(root=str(tmp_path)).load()
    assert not before.has_test
    make_folder(tmp_path / "more", name="test")
    (tmp_path / "more" / "test").rename(tmp_path / "test")
    data = ImageFolder(root=str(tmp_path), per_class_validation=1).load()
    assert data.test_label.tolist() == [0, 1]
    assert data.test_image.shape == data.validation_image.shape
    assert ImageFolder(root=str(tmp_path)).load().fingerprint == before.fingerprint  # runs on them stay valid
    assert data.test_fingerprint != before.test_fingerprint is None


def test_a_test_folder_of_other_classes_is_left_out(tmp_path, capsys):
    make_folder(tmp_path)
    (tmp_path / "test").mkdir()
    save_image(tmp_path / "test" / "0.png")  # as in competitions: images without labels
    assert not ImageFolder(root=str(tmp_path)).load().has_test
    assert "test is left out, since it has no images of cat, dog" in capsys.readouterr().out


def test_images_in_no_class_folder(tmp_path):
    make_folder(tmp_path, ("cat", "dog"))
    flat = tmp_path / "flat"
    for k in range(3):
        save_image(flat / "train" / f"{k}.png")
    with pytest.raises(ValueError, match=r"train has no class folders, and .* no val/, validation/ or test/; add val"):
        ImageFolder(root=str(flat)).load()
    (tmp_path / "val").rename(flat / "val")
    data = ImageFolder(root=str(flat)).load()
    assert data.train_label.tolist() == [-1, -1, -1]
    assert data.train_name == ("train/0.png", "train/1.png", "train/2.png")
    assert data.class_names == ("cat", "dog")
    assert data.validation_label.tolist() == [0, 0, 1, 1]
    with pytest.raises(ValueError, match="data.per_class, skip_per_class and validation_share have nothing to count"):
        ImageFolder(root=str(flat), per_class=1).load()


def test_images_are_resized_by_the_filter_that_is_named(tmp_path):
    random = np.random.default_rng(0)
    for part in ("train/a", "train/b", "val/a", "val/b"):
        (tmp_path / part).mkdir(parents=True)
        for number in range(2):
            pixels = random.integers(0, 256, (30, 40, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / part / f"{number}.png")
    found = {}
    for filtered in ("bilinear", "bicubic"):
        options = {"root": str(tmp_path), "size": 16, "interpolation": filtered}
        decoded, streamed = (ImageFolder(**options, streaming=how).load() for how in (False, True))
        found[filtered] = decoded.train_image
        assert torch.equal(streamed.train_image[:], decoded.train_image)
        with Image.open(tmp_path / "train" / "a" / "0.png") as image:
            plain = ImageOps.fit(image, (16, 16), getattr(Image.Resampling, filtered.upper()))
        assert np.array_equal(decoded.train_image[0].permute(1, 2, 0).numpy(), np.asarray(plain))
    assert not torch.equal(*found.values())
