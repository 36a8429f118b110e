import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch
from photographs import RNG, make_cifar, md5, tar
from torchvision import datasets as tv

from vitmem.datamodules import (
    SVHN,
    Cifar10,
    Cifar100,
    FashionMNIST,
    class_names,
    published,
)


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
def test_fashion_mnist(tmp_path, monkeypatch):
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    pixels = RNG.randint(0, 256, (20, 28, 28)).astype(np.uint8)
    label = (np.arange(20) % 10).astype(np.uint8)
    for part, n in (("train", 20), ("t10k", 10)):
        (raw / f"{part}-images-idx3-ubyte").write_bytes(struct.pack(">IIII", 2051, n, 28, 28) + pixels[:n].tobytes())
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 2049, n) + label[:n].tobytes())
    with pytest.raises(ValueError, match="train-images-idx3-ubyte is not the published file of Fashion-MNIST"):
        FashionMNIST(root=str(tmp_path), offline=True).load()
    for file in raw.iterdir():
        monkeypatch.setitem(published.FASHION_MNIST_MD5, file.name, md5(file.read_bytes()))
    data = FashionMNIST(root=str(tmp_path), offline=True).load()
    assert (data.train_image[:, 0].numpy() == pixels).all()
    assert data.train_label.tolist() == label.tolist()
    assert data.class_names[0] == "T-shirt/top"
    (old := raw.with_name("processed")).mkdir()
    for name in ("training.pt", "test.pt"):  # which torchvision reads instead of the files with checksums
        torch.save((torch.zeros(20, 28, 28, dtype=torch.uint8), torch.arange(20) % 10), old / name)
    with pytest.raises(ValueError, match="processed holds copies by an older torchvision, which cannot be checked"):
        FashionMNIST(root=str(tmp_path), offline=True).load()
    shutil.rmtree(old)
    (raw / "t10k-labels-idx1-ubyte").write_bytes(b"\0\0\0\0")
    monkeypatch.setitem(published.FASHION_MNIST_MD5, "t10k-labels-idx1-ubyte", md5(b"\0\0\0\0"))
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
