import pickle

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
