import json
import os
import shutil

import numpy as np
import pytest
import torch
from photographs import save_image

from vitmem.datamodules import ImageFolder, cache
from vitmem.datamodules.batch import Examples, InMemoryLoader
from vitmem.datamodules.cache import cached, contents


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
    assert set(described) == {"version", "settings", "num_files", "covers", "files_sha256", "shape", "dtype", "sha256"}
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


@pytest.mark.parametrize(
    "damage", ["no description", "other description", "cut", "empty", "other shape", "one bit", "a zip file"]
)
def test_a_damaged_cache_is_made_again(folder, damage):
    root, count = folder
    before = ImageFolder(root=str(root)).load().fingerprint
    array, sidecar = (next((root / ".vitmem_cache").glob(f"train*.{suffix}")) for suffix in ("npy", "json"))
    if damage == "no description":
        sidecar.unlink()
    elif damage == "other description":
        sidecar.write_text("{}")
    elif damage == "one bit":
        content = bytearray(array.read_bytes())
        content[-1] ^= 1
        array.write_bytes(content)
    elif damage == "a zip file":
        np.savez(array.with_suffix(".npz"), np.zeros(3))
        array.with_suffix(".npz").replace(array)
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


def replaced(file, content):
    """Put another file of the same name, size and time of change in a file's place."""
    status = file.stat()
    assert len(content) == status.st_size
    new = file.with_name("new")
    new.write_bytes(content)
    os.utime(new, ns=(status.st_atime_ns, status.st_mtime_ns))
    new.replace(file)


def test_a_file_replaced_by_one_of_equal_size_and_time_is_noticed(folder):
    root, count = folder
    for value in (1, 2):
        save_image(root / f"train/cat/{value}.bmp", value=value)
    before = ImageFolder(root=str(root)).load()
    decoded = len(count)
    replaced(root / "train/cat/1.bmp", (root / "train/cat/2.bmp").read_bytes())
    after = ImageFolder(root=str(root)).load()
    assert len(count) == decoded + 1
    assert (after.train_image[3] == 2).all()
    assert after.fingerprint != before.fingerprint


def test_contents_are_read_once(tmp_path, monkeypatch):
    file, read = tmp_path / "a", []
    file.write_bytes(b"abc")
    original = cache.file_digest
    monkeypatch.setattr(cache, "file_digest", lambda path: read.append(path) or original(path))
    files = {"a": str(file)}
    first, again = (contents(tmp_path / "cache", files) for _ in range(2))
    assert read == [file]
    assert first.tobytes() == again.tobytes()
    assert not contents(tmp_path / "cache", {"gone": str(tmp_path / "gone")}).any()
    replaced(file, b"abd")
    assert contents(tmp_path / "cache", {"a": str(file), "gone": str(tmp_path / "gone")})[0].tobytes() != bytes(
        first[0]
    )


def test_a_copy_of_the_data_with_its_cache_is_not_decoded_again(folder):
    root, count = folder
    ImageFolder(root=str(root)).load()
    decoded = len(count)
    ImageFolder(root=str(shutil.copytree(root, root.with_name("copy")))).load()
    assert len(count) == decoded


def test_another_version_of_the_code_makes_the_cache_anew(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    made = []

    def ask(version):
        build = lambda: made.append(version) or np.full(2, version)  # noqa: E731
        return cached(tmp_path / "cache", "a", {}, {"a": str(tmp_path / "a")}, build, version).tolist()

    assert [ask(1), ask(1), ask(2), ask(1)] == [[1, 1], [1, 1], [2, 2], [1, 1]]
    assert made == [1, 2]


def test_parts_of_writers_that_died_are_removed(folder):
    root, _ = folder
    kept = root / ".vitmem_cache"
    kept.mkdir()
    for name, age in (("old.part", 2 * 86400), ("new.part", 0)):
        (kept / name).write_bytes(b"half")
        os.utime(kept / name, (kept.stat().st_mtime - age,) * 2)
    ImageFolder(root=str(root)).load()
    assert [file.name for file in kept.glob("*.part")] == ["new.part"]
