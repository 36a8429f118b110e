"""Image folders and archives that the tests of data sets share."""

import hashlib
import io
import pickle
import tarfile

import numpy as np
from PIL import Image

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
