import csv
import multiprocessing
import os
import signal
import subprocess
import time

import numpy as np
import pytest
import torch
from cases import QUICK
from PIL import Image

from vitmem.attacks.probes import other_task
from vitmem.attacks.relearn import Relearn
from vitmem.attacks.shadows import make_pairs
from vitmem.cli import main
from vitmem.curvature.cache import CurvatureConfig
from vitmem.datamodules import ImageFolder
from vitmem.datamodules.augment import Augment
from vitmem.datamodules.batch import Examples, InMemoryLoader
from vitmem.datamodules.module import MemorisationData
from vitmem.datamodules.noise import Symmetric
from vitmem.datamodules.streaming import StreamedImages, StreamingLoader, _leave_signals_to_the_parent, evenly
from vitmem.editing.data import EditData
from vitmem.files import file_digest
from vitmem.models.build import create
from vitmem.models.config import ModelConfig
from vitmem.training.config import TrainConfig, TrainerConfig
from vitmem.training.errors import Interrupted
from vitmem.training.fit import fit
from vitmem.training.module import MemorisationModule

pytestmark = pytest.mark.slow

MODEL = ModelConfig(width=16, depth=1, heads=2, patch=4)
TRAIN = TrainConfig(epochs=2, batch_size=16, warmup_epochs=1)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Photographs of three classes in several sizes, 30 a class."""
    root, generator = tmp_path_factory.mktemp("photographs"), np.random.RandomState(0)
    for split, number in (("train", 30), ("val", 5)):
        for k, name in enumerate(("ant", "bee", "cat")):
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(number):
                pixels = generator.randint(0, 200, (9 + i % 3, 8 + i % 5, 3)) + 25 * k
                Image.fromarray(pixels.astype(np.uint8)).resize((24, 20 + i % 7)).save(folder / f"{i:03}.jpg")
    return root


def folder(root, **options):
    return ImageFolder(root=str(root), size=16, **({"streaming": True, "workers": 0} | options))


def test_streamed_pixels_are_those_of_the_decoded_set(root):
    streamed, decoded = folder(root).load(), folder(root, streaming=False).load()
    assert isinstance(streamed.train_image, StreamedImages)
    assert streamed.train_image.shape == decoded.train_image.shape
    assert torch.equal(streamed.train_image[:], decoded.train_image)
    positions = torch.tensor([80, 3, 3])
    assert torch.equal(streamed.train_image[positions], decoded.train_image[positions])
    mask = decoded.train_label == 1
    assert torch.equal(streamed.train_image.subset(mask)[torch.tensor([0, 29])], decoded.train_image[mask][[0, 29]])
    assert streamed.mean_std == decoded.mean_std  # of all images: there are fewer than 2,000
    assert torch.equal(streamed.validation_image[:], decoded.validation_image)
    assert streamed.train_name == decoded.train_name
    grey = folder(root, grey=True).load()
    assert torch.equal(grey.train_image[:5], folder(root, grey=True, streaming=False).load().train_image[:5])


def test_attacks_make_the_same_images_of_a_streamed_set(root):
    made = []
    for streaming in (True, False):
        data = MemorisationData(folder(root, streaming=streaming), Symmetric())
        examples, generator = data.train_examples, torch.Generator().manual_seed(0)
        shown = examples.subset(examples.is_noisy)
        pairs = make_pairs(data)
        kept = torch.arange(pairs.pool_size) % 2 == 0
        assert kept[len(pairs.train) :].any()  # training and validation images are joined
        arms = [Relearn(steps=1).training(arm, None, data, shown, 0) for arm in ("retain+2", "unrelated")]
        made.append([*arms, pairs.chosen(kept), other_task(shown, "rotation", 4, generator)])
    for streamed, decoded in zip(*made, strict=True):
        assert torch.equal(streamed.image[:], decoded.image)
        assert torch.equal(streamed.given_label, decoded.given_label)
        assert torch.equal(streamed.index, decoded.index)
    assert isinstance(made[0][0].image, StreamedImages)
    assert isinstance(made[0][2].image, StreamedImages)


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_those_of_the_decoded_set(root, workers):
    loaders = []
    for streaming in (True, False):
        source = folder(root, streaming=streaming, workers=workers)
        data = MemorisationData(source, Symmetric(), batch_size=70, train_on="retrain", augment=Augment(flip=True))
        loaders.append(data.train_dataloader())
    assert isinstance(loaders[0], StreamingLoader)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    for epoch in (0, 1):
        for loader in loaders:
            loader.set_epoch(epoch)
        found = list(zip(*loaders, strict=True))
        assert len(found) == 2  # the first of 70 is more than one part
        for one, two in found:
            assert all(torch.equal(a, b) for a, b in zip(one[:5], two[:5], strict=True))
    for loader in loaders:
        loader.load_state_dict({"epoch": 1, "served": 1})
    resumed = [list(loader) for loader in loaders]
    assert len(resumed[0]) == len(resumed[1]) == 1
    assert torch.equal(resumed[0][0].image, resumed[1][0].image)
    assert torch.equal(torch.get_rng_state(), before)


def test_an_iteration_that_is_left_early_does_not_disturb_the_next(root):
    loader = MemorisationData(folder(root, workers=1), Symmetric(), batch_size=16).train_dataloader()
    expected = [batch.image for batch in loader]
    iterator = iter(loader)
    next(iterator), iterator.close()
    assert all(torch.equal(a.image, b) for a, b in zip(loader, expected, strict=True))


def test_a_random_crop_is_keyed_and_training_alone_has_it(root):
    def batches(workers, epoch=0):
        data = MemorisationData(folder(root, workers=workers), Symmetric(), batch_size=70, augment=Augment(crop=0.3))
        loader = data.train_dataloader()
        loader.set_epoch(epoch)
        return data, list(loader)

    data, first = batches(0)
    plain = MemorisationData(folder(root), Symmetric(), batch_size=70).train_dataloader()
    assert all(torch.equal(a.image, b.image) for a, b in zip(first, batches(2)[1], strict=True))
    assert not torch.equal(first[0].image, batches(0, 1)[1][0].image)
    for one, two in zip(first, plain, strict=True):
        assert torch.equal(one.index, two.index)
        assert (one.image != two.image).flatten(1).any(1).all()
    (train, _), images = data.val_dataloader(), data.data.train_image
    assert torch.equal(next(iter(train)).image, train.normalise(images[:90]))


def test_a_random_crop_of_decoded_images_is_refused(root):
    with pytest.raises(ValueError, match="augment.crop is 0.5, but the images are decoded already"):
        MemorisationData(folder(root, streaming=False), Symmetric(), augment=Augment(crop=0.5))


def test_sets_above_max_gb_are_streamed(root, capsys):
    assert isinstance(folder(root, streaming=None).load().train_image, torch.Tensor)
    data = folder(root, streaming=None, max_gb=1e-6).load()
    assert isinstance(data.train_image, StreamedImages)
    assert (
        "105 images of 16 x 16 pixels take 0.0 GB, and data.max_gb is 1e-06: they are decoded"
        in capsys.readouterr().out
    )


def test_the_fingerprint_follows_names_sizes_and_contents(root, tmp_path):
    for split in ("train", "val"):
        for file in sorted((root / split).glob("*/*.jpg")):
            copy = tmp_path / file.relative_to(root)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(file.read_bytes())
    first = folder(root).load().fingerprint
    assert folder(tmp_path).load().fingerprint == first
    assert ImageFolder(root=str(tmp_path), size=8, streaming=True).load().fingerprint != first
    changed = tmp_path / "train/bee/007.jpg"
    content = bytearray(changed.read_bytes())
    content[-20] ^= 1  # of the same size
    changed.write_bytes(content)
    second = folder(tmp_path).load().fingerprint
    assert second != first
    content[-20] ^= 1
    status = changed.stat()
    changed.with_name("new").write_bytes(content)
    os.utime(changed.with_name("new"), ns=(status.st_atime_ns, status.st_mtime_ns))
    changed.with_name("new").replace(changed)  # of the same size and time
    assert folder(tmp_path).load().fingerprint == first
    changed.rename(changed.with_name("900.jpg"))
    assert folder(tmp_path).load().fingerprint not in (first, second)


def damaged(root, tmp_path):
    for split in ("train", "val"):
        for file in sorted((root / split).glob("*/00?.jpg")):
            copy = tmp_path / file.relative_to(root)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(file.read_bytes())
    return tmp_path / "train"


def test_every_bad_header_is_named_before_training(root, tmp_path, capsys):
    train = damaged(root, tmp_path)
    (train / "ant/001.jpg").write_text("no image")
    (train / "bee/002.jpg").write_bytes(b"")
    (train / "cat/003.jpg").unlink()
    (train / "cat/003.jpg").symlink_to(tmp_path / "gone.jpg")
    arguments = ["--data.name=imagefolder", f"--data.root={tmp_path}", "--data.size=16", "--data.streaming=true"]
    assert main(["train", f"--out={tmp_path / 'runs'}", *QUICK, *arguments]) == 2
    error = capsys.readouterr().err.strip()
    assert "\n" not in error
    assert "3 of 30 images cannot be used" in error
    for part in ("ant/001.jpg (not an image)", "bee/002.jpg (not an image)", "cat/003.jpg (No such file"):
        assert part in error


def test_sizes_must_agree_where_none_is_asked_for(root, tmp_path):
    damaged(root, tmp_path)
    with pytest.raises(ValueError, match=r"images cannot be used.*pixels, the first is 24 x 20: set size"):
        ImageFolder(root=str(tmp_path), streaming=True).load()


@pytest.mark.parametrize("workers", [0, 1])
def test_damage_behind_a_header_is_named_when_it_is_met(root, tmp_path, workers):
    train = damaged(root, tmp_path)
    data = folder(tmp_path, workers=workers).load()
    file = train / "ant/001.jpg"
    file.write_bytes(file.read_bytes()[:300])
    loader = StreamingLoader(Examples(data.train_image, *[data.train_label] * 3), 10)
    with pytest.raises(ValueError, match=r"1 of 10 images cannot be used; .*: train/ant/001.jpg \(") as error:
        list(loader)
    assert "\n" not in str(error.value)


def test_edits_and_curvature_read_streamed_images(root):
    found = []
    for streaming in (True, False):
        data = MemorisationData(folder(root, streaming=streaming), Symmetric(rate=0.2))
        edit_data = EditData(data, frozenset({"unlabeled", "retain", "forget", "validation"}))
        loaders = [
            edit_data.unlabeled(20, 8),
            edit_data.images(CurvatureConfig(examples=30, batch_size=7)),
            edit_data.retain(10),
            edit_data.forget(10),
            edit_data.validation(10),
        ]
        found.append([torch.cat([batch.image for batch in loader]) for loader in loaders])
    assert all(torch.equal(one, two) for one, two in zip(*found, strict=True))


def train(source, run):
    run.mkdir(exist_ok=True)
    data = MemorisationData(source, Symmetric(), batch_size=16, seed=1, augment=Augment(pad=2))
    model = create(MODEL.timm_arguments((3, 16, 16), 3), seed=1)
    fit(model, data, TRAIN, TrainerConfig(accelerator="cpu"), seed=1, folder=run)
    return model.state_dict(), (run / "metrics.csv").read_text()


def test_a_streamed_run_is_bitwise_that_of_the_decoded_set_and_resumes(root, tmp_path, monkeypatch):
    weights, metrics = train(folder(root, streaming=False), tmp_path / "decoded")
    original = MemorisationModule.training_step

    def pressed(self, batch, batch_idx):
        if self.global_step == 8:
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(MemorisationModule, "training_step", pressed)
        with pytest.raises(Interrupted):
            train(folder(root, workers=1), tmp_path / "streamed")
    found, table = train(folder(root, workers=1), tmp_path / "streamed")
    assert all(torch.equal(found[name], value) for name, value in weights.items())
    assert table == metrics
    assert len(list(csv.DictReader(table.splitlines()))) == 2


def worker(pipe):
    _leave_signals_to_the_parent(0)
    pipe.send([signal.getsignal(number) for number in (signal.SIGINT, signal.SIGUSR1)])
    pipe.recv()
    pipe.send("still there")
    time.sleep(60)


def test_only_the_parent_ends_a_worker():
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=worker, args=(theirs,), daemon=True)
    process.start()
    assert ours.poll(60)
    assert ours.recv() == [signal.SIG_IGN, signal.SIG_IGN]
    subprocess.run(["kill", "-TERM", str(process.pid)], check=True)  # what another process sends
    ours.send("go on")
    assert ours.poll(60)
    assert ours.recv() == "still there"
    process.terminate()
    process.join(60)
    assert process.exitcode == 0


def test_positions_are_evenly_spaced():
    assert evenly(10, 5) == [0, 2, 4, 6, 8]
    assert evenly(3, 5) == [0, 1, 2]
    assert len(set(evenly(1001, 256))) == 256


def test_a_loader_makes_batches_on_its_device():
    image = torch.randint(0, 256, (6, 1, 4, 4), dtype=torch.uint8)
    label = torch.zeros(6, dtype=torch.int64)
    loader = InMemoryLoader(Examples(image, label, label, label), 4, device="meta")
    batch = loader.batch(torch.tensor([1, 2]))
    assert {tensor.device.type for tensor in batch[:5]} == {"meta"}


def test_images_that_do_not_fit_stay_with_the_host(root, monkeypatch, capsys):
    data = MemorisationData(folder(root, streaming=False), Symmetric())
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (4 * 105 * 3 * 16 * 16 - 1, 10**9))
    data.to_device(torch.device("cuda"))
    assert "stay in the host's memory" in capsys.readouterr().out
    assert data.train_examples.image is data.data.train_image


def test_every_file_of_a_large_set_is_part_of_the_fingerprint(tmp_path):
    for split, number in (("train", 300), ("val", 2)):
        for name in ("ant", "bee"):
            (tmp_path / split / name).mkdir(parents=True)
            for i in range(number):
                Image.new("L", (2, 2), i % 256).save(tmp_path / split / name / f"{i:03}.bmp")
    source = ImageFolder(root=str(tmp_path), streaming=True, workers=0)
    first = source.load().fingerprint
    for i in range(1, 300, 37):
        file = tmp_path / "train/bee" / f"{i:03}.bmp"
        before = file.read_bytes()
        file.write_bytes(before[:-1] + b"x")
        assert source.load().fingerprint != first
        file.write_bytes(before)
    assert source.load().fingerprint == first


def test_a_file_that_cannot_be_read_for_a_moment_leaves_no_trace(root, tmp_path, monkeypatch):
    source = folder(root, cache=str(tmp_path / "cache"))
    expected = folder(root, cache=str(tmp_path / "other")).load().fingerprint

    def stale(path):
        if path.name == "003.jpg":
            raise OSError(116, "Stale file handle")
        return file_digest(path)

    with monkeypatch.context() as patch:
        patch.setattr("vitmem.datamodules.cache.file_digest", stale)
        with pytest.raises(
            ValueError, match=r"3 of 90 images cannot be used; .*train/ant/003.jpg \(it could not be read"
        ):
            source.load()
    assert source.load().fingerprint == expected
