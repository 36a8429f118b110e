import json

import numpy as np
import pytest
import torch
from photographs import save_image

from vitmem.datamodules import (
    ImageFolder,
)
from vitmem.datamodules.batch import Examples, InMemoryLoader
from vitmem.datamodules.images import decode


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


def test_a_file_of_another_format_is_refused_whatever_its_name(tmp_path, monkeypatch):
    """PostScript under an image's name would start another program."""
    from PIL import EpsImagePlugin

    monkeypatch.setattr(EpsImagePlugin.EpsImageFile, "load", lambda *_: pytest.fail("it was handed to Ghostscript"))
    path = tmp_path / "a.png"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n%%EOF\n")
    with pytest.raises(ValueError, match=r"a\.png"):
        decode([str(path)], ["a.png"], size=8)
