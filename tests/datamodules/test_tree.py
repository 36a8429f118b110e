import os

import pytest
from photographs import make_folder, save_image

from vitmem.datamodules import ImageFolder
from vitmem.datamodules.tree import class_folders


def load(root, **options):
    return ImageFolder(root=str(root), **options).load()


@pytest.mark.parametrize("hidden", [".ipynb_checkpoints", "@eaDir", "__MACOSX", "@eaDir/0001.png", "deep/.cache"])
def test_what_is_hidden_does_not_count(tmp_path, hidden):
    make_folder(tmp_path)
    before = load(tmp_path).fingerprint
    save_image(tmp_path / "train/cat" / hidden / "0000.png")
    save_image(tmp_path / "train" / hidden.replace("deep/", "") / "0000.png")
    save_image(tmp_path / "train/cat/._0000.png")
    assert load(tmp_path).fingerprint == before


@pytest.mark.parametrize("target", [".", "..", "../..", "../dog", "/"])
def test_a_link_that_leads_back_is_not_followed(tmp_path, target):
    make_folder(tmp_path / "data")
    before = load(tmp_path / "data").train_name
    (tmp_path / "data/train/cat/link").symlink_to(target, target_is_directory=True)
    (tmp_path / "data/train/dog/self").symlink_to("self")
    assert load(tmp_path / "data").train_name == before


def test_a_link_to_all_classes_is_no_class(tmp_path):
    make_folder(tmp_path)
    (tmp_path / "train/again").symlink_to(".")
    (tmp_path / "train/above").symlink_to("..")
    assert class_folders(tmp_path / "train") == ["cat", "dog"]


def test_a_folder_elsewhere_is_read_once(tmp_path):
    make_folder(tmp_path / "data")
    save_image(tmp_path / "store/more/9.png")
    (tmp_path / "store/loop").symlink_to(tmp_path / "store")
    for name in ("one", "two"):
        (tmp_path / "data/train/cat" / name).symlink_to(tmp_path / "store")
    names = load(tmp_path / "data").train_name
    assert len(names) == 7
    assert names[3] == "train/cat/one/more/9.png"


@pytest.mark.parametrize("link", ["train/eel", "val/eel", "train/dog/more", "val/dog/more"])
def test_one_folder_in_two_classes_or_splits_is_refused(tmp_path, link):
    make_folder(tmp_path, classes=("cat", "dog", "eel"))
    if link.endswith("eel"):
        (tmp_path / link).rename(tmp_path / "away")
        (tmp_path / link).symlink_to(tmp_path / "train/cat")
    else:
        save_image(tmp_path / "store/9.png")
        (tmp_path / "train/cat/store").symlink_to(tmp_path / "store")
        (tmp_path / link).symlink_to(tmp_path / "store")
    with pytest.raises(ValueError, match=r"is a folder that .*/train/cat holds, too; its images would count twice"):
        load(tmp_path)


def test_files_that_are_no_images_are_told(tmp_path, capsys):
    make_folder(tmp_path)
    load(tmp_path)
    assert "ignored" not in capsys.readouterr().out
    for name in ("a.gif", "b.GIF", "c.jfif", "README"):
        (tmp_path / "train/cat" / name).write_bytes(b"")
    (tmp_path / "val/dog/d.avif").write_bytes(b"")
    load(tmp_path)
    told = capsys.readouterr().out
    assert told == f"{tmp_path}: 5 files of other kinds are ignored: .avif 1, .gif 2, .jfif 1, without ending 1\n"


def test_a_pipe_is_refused_and_not_opened(tmp_path):
    make_folder(tmp_path)
    os.mkfifo(tmp_path / "train/cat/9.png")
    for streaming in (False, True):
        with pytest.raises(ValueError, match=r"train/cat/9.png \(not a regular file\)"):
            load(tmp_path, streaming=streaming)


COMPOSED, DECOMPOSED = "caf\u00e9", "cafe\u0301"


def test_names_that_look_the_same_are_the_same(tmp_path):
    make_folder(tmp_path, classes=(DECOMPOSED, "dog"))
    (tmp_path / "val" / DECOMPOSED).rename(tmp_path / "val" / COMPOSED)
    assert len(load(tmp_path).validation_label) == 4
    assert load(tmp_path, classes=[COMPOSED, "dog"]).class_names == (DECOMPOSED, "dog")
    with pytest.raises(ValueError, match="names classes twice"):
        load(tmp_path, classes=[COMPOSED, DECOMPOSED])
    save_image(tmp_path / "train" / COMPOSED / "0.png")
    with pytest.raises(ValueError, match=r"train has two names that look the same, 'caf.* and 'caf"):
        load(tmp_path)
