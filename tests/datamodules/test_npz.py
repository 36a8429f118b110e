import pickle
import zipfile

import numpy as np
import pytest
from photographs import RNG

from vitmem.datamodules import (
    Npz,
)

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
    assert data.test_label.tolist() == [0, 1]
    plain = npz(tmp_path / "b.npz").load()
    assert plain.fingerprint == data.fingerprint  # runs on either stay valid
    assert plain.test_fingerprint is None
    other = npz(tmp_path / "c.npz", test_images=PIXELS[1:3], test_labels=NINE[:2]).load()
    assert other.test_fingerprint != data.test_fingerprint


def test_keras_keys_and_grey_images(tmp_path):
    np.savez(tmp_path / "a.npz", x_train=PIXELS[..., 0], y_train=NINE.astype(np.uint8), x_test=PIXELS[:4, ..., 0],
             y_test=NINE[:4])  # fmt: skip
    data = Npz(path=str(tmp_path / "a.npz")).load()
    assert data.image_shape == (1, 5, 5)
    assert len(data.validation_label) == 4
    assert not data.has_test  # test is validation where there is no other


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
        ({"train_images": PIXELS[:, :0], "val_images": PIXELS[:3, :0]}, "expected N C H W and N, with all of them"),
        ({"train_labels": NINE + 10**12}, "train_labels goes up to 1000000000002; expected class numbers"),
        ({"train_labels": NINE.astype(np.uint64) + np.uint64(2**64 - 3)}, "train_labels goes up to 1844674407370955"),
        ({"val_labels": NINE[:3] + 10**12}, "val_labels goes up to"),
        ({"train_labels": NINE + 10**6}, "has a training label 1000002, and 9 training images; labels must go from 0"),
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


def header(shape, version=b"\1\0", descr="|u1"):
    text = repr({"descr": descr, "fortran_order": False, "shape": shape}).encode()
    return b"\x93NUMPY" + version + len(text).to_bytes(2 if version == b"\1\0" else 4, "little") + text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no array", "train_images is no array"),
        (b"", "train_images is no array"),
        (header((10**12, 64, 64, 3)), r"train_images declares uint8 of shape \(1000000000000, 64, 64, 3\), and holds"),
        (header((2**40, 2**40)), "train_images declares uint8"),
        (header((-1, 8, 8)), r"train_images declares uint8 of shape \(-1, 8, 8\)"),
        (header((9, 5, 5), b"\2\0")[:-9], "a.npz cannot be used: "),
        (header((9, 5, 5), b"\7\0"), r"is of version \(7, 0\) of NumPy's format"),
        (header((9,), descr="|O"), "pickled objects"),
        (header((9,), descr="(" * 3000), "a.npz cannot be used: "),
    ],
)  # fmt: skip
def test_members_that_are_no_arrays_or_declare_more_than_they_hold(tmp_path, content, message):
    whole = npz(tmp_path / "whole.npz").path
    with zipfile.ZipFile(whole) as source, zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in source.namelist():
            archive.writestr(name, content if name == "train_images.npy" else source.read(name))
    with pytest.raises(ValueError, match=message) as error:
        Npz(path=str(tmp_path / "a.npz")).load()
    assert "\n" not in str(error.value)


def test_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", train_images=np.zeros((2000, 32, 32), np.uint8))
    assert (tmp_path / "a.npz").stat().st_size < 10_000
    with pytest.raises(ValueError, match="it takes 0.0 GB, and data.max_gb is 0.001; raise it to go on"):
        Npz(path=str(tmp_path / "a.npz"), max_gb=1e-3).load()


def test_a_pointer_in_place_of_an_archive(tmp_path):
    (tmp_path / "a.npz").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(ValueError, match="a.npz cannot be used: it is a Git LFS pointer"):
        Npz(path=str(tmp_path / "a.npz")).load()


def test_a_bound_of_memory_is_not_negative():
    with pytest.raises(ValueError, match=r"data.max_gb is -1; it must not be negative"):
        Npz(path="a.npz", max_gb=-1)
