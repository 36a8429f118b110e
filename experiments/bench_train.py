"""Speed of training: vitmem's steps over those of a bare loop, its batches over torchvision's, and decoding of images.

Sides run in turn; the numbers of each turn are printed, then the median of the ratios.

    python experiments/bench_train.py steps [--turns 5] [--epochs 4] [--width 384 --depth 12 --heads 6]
    python experiments/bench_train.py loader [--root FOLDER] [--workers 2]
    python experiments/bench_train.py decode [--root FOLDER] [--size 224]

steps: both sides train one model on the same batches of digits with the same optimiser, clipping and schedule; setting
up and evaluating are left out. Width 384 and depth 12 are 21 M parameters.
loader: normalised batches of an image folder by class (ROOT/CLASS/*.jpg), decoded once and held in memory, against
torchvision's ImageFolder and a DataLoader; the first epoch of ours, which decodes, is told apart.
decode: JPEG files to arrays of the wanted size in one process and thread, as streamed images are.
Without --root, both make JPEG files of noise first: 32 pixels for loader, 500 x 375 for decode.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import lightning as L
import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torchvision import datasets as tv
from torchvision.transforms import v2

from vitmem import models
from vitmem.datamodules.batch import Examples, InMemoryLoader
from vitmem.datamodules.digits import Digits
from vitmem.datamodules.images import decode, read
from vitmem.datamodules.module import MemorisationData
from vitmem.datamodules.noise import Symmetric
from vitmem.datamodules.tree import Tree, class_folders
from vitmem.training.config import TrainConfig, TrainerConfig
from vitmem.training.fit import fit
from vitmem.training.module import warmup_cosine


class StepTimer(L.Callback):
    """Adds up the time from the start of each epoch to the end of its last step."""

    def __init__(self):
        self.seconds = 0.0

    def on_train_epoch_start(self, trainer, pl_module):
        """Start the clock."""
        self.start = time.perf_counter()

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        """Stop it at the last step."""
        if batch_idx + 1 == trainer.num_training_batches:
            self.seconds += time.perf_counter() - self.start


def with_lightning(size: models.ModelConfig, data: MemorisationData, config: TrainConfig) -> float:
    """Return the seconds of all steps in vitmem's loop."""
    model = models.create(size.timm_arguments((1, 8, 8), 10), seed=0)
    timer = StepTimer()
    with tempfile.TemporaryDirectory() as folder:
        trainer = TrainerConfig(accelerator="cpu")
        fit(model, data, config, trainer, seed=0, folder=Path(folder), callbacks=[timer])
    return timer.seconds


def bare(size: models.ModelConfig, data: MemorisationData, config: TrainConfig) -> float:
    """Return the seconds of all steps in a plain loop."""
    model = models.create(size.timm_arguments((1, 8, 8), 10), seed=0).train()
    decayed = {name: models.is_decayed(name, p) for name, p in model.named_parameters()}
    groups = [
        {"params": [p for n, p in model.named_parameters() if decayed[n] is d], "weight_decay": config.weight_decay * d}
        for d in (True, False)
    ]
    optimiser = torch.optim.AdamW(groups, lr=config.lr, fused=True)
    loader = data.train_dataloader()
    steps, warmup = config.epochs * len(loader), round(config.warmup_epochs * len(loader))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: warmup_cosine(step, warmup, steps))
    start = time.perf_counter()
    for epoch in range(config.epochs):
        loader.set_epoch(epoch)
        for batch in loader:
            loss = F.cross_entropy(model(batch.image), batch.given_label)
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip)
            optimiser.step()
            schedule.step()
    return time.perf_counter() - start


def compare_steps(options: argparse.Namespace) -> None:
    """Print seconds of Lightning's loop over those of the bare one."""
    size = models.ModelConfig(width=options.width, depth=options.depth, heads=options.heads, patch=4)
    data = MemorisationData(Digits(), Symmetric(), batch_size=64)
    config = TrainConfig(epochs=options.epochs, eval_every=options.epochs, warmup_epochs=1)
    parameters = sum(p.numel() for p in models.create(size.timm_arguments((1, 8, 8), 10), device="meta").parameters())
    print(f"{parameters / 1e6:.1f} M parameters, {options.epochs} epochs of 21 steps")
    bare(size, data, TrainConfig(epochs=1))  # warm-up
    in_turn(
        options.turns,
        {"lightning": lambda: with_lightning(size, data, config), "bare": lambda: bare(size, data, config)},
        "s",
    )


def compare_loaders(options: argparse.Namespace, root: Path) -> None:
    """Print images a second of the in-memory loader over those of torchvision's folder and DataLoader."""
    files = [file for name in class_folders(root) for file in Tree().images(root / name)][: options.images]
    start = time.perf_counter()
    image = torch.from_numpy(decode(files, files))
    print(f"{len(image)} images of {tuple(image.shape[1:])}, decoded in {time.perf_counter() - start:.2f} s, once")
    label = torch.zeros(len(image), dtype=torch.int64)
    ours = InMemoryLoader(Examples(image, label, label, label), 128, (0.5,) * 3, (0.25,) * 3, shuffle=True)
    scale = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.5] * 3, [0.25] * 3)]
    folder = torch.utils.data.Subset(tv.ImageFolder(str(root), v2.Compose(scale)), range(len(image)))
    workers = {"num_workers": options.workers, "persistent_workers": options.workers > 0}
    theirs = DataLoader(folder, 128, shuffle=True, **workers)
    for _ in theirs:  # starts the workers
        break

    def rate(batches) -> float:
        start = time.perf_counter()
        seen = sum(len(batch[0]) for batch in batches)
        return seen / (time.perf_counter() - start)

    in_turn(options.turns, {"in memory": lambda: rate(ours), "torchvision": lambda: rate(theirs)}, "images/s")


def measure_decoding(options: argparse.Namespace, root: Path) -> None:
    """Print how many images a second one core decodes, resizes and cuts."""
    files = Tree().images(root)[: options.images]
    rates = []
    for turn in range(options.turns):
        start = time.perf_counter()
        for file in files:
            read(file, (options.size, options.size), resize=True, grey=False)
        rates.append(len(files) / (time.perf_counter() - start))
        print(f"turn {turn + 1}: {rates[-1]:.0f} images/s to {options.size} pixels", flush=True)
    print(f"median: {statistics.median(rates):.0f} images/s and core")


def in_turn(turns: int, sides: dict[str, Callable[[], float]], unit: str) -> None:
    """Run two sides alternately; print both numbers of every turn, and the median of first over second."""
    ratios = []
    for turn in range(turns):
        found = {name: side() for name, side in sides.items()}
        first, second = found.values()
        ratios.append(first / second)
        numbers = ", ".join(f"{name} {value:.4g} {unit}" for name, value in found.items())
        print(f"turn {turn + 1}: {numbers}, ratio {ratios[-1]:.3f}", flush=True)
    print(f"median ratio: {statistics.median(ratios):.3f}")


def noise_images(root: Path, number: int, size: tuple[int, int]) -> Path:
    """Write JPEG files of smooth noise in two classes, and return their folder."""
    generator = np.random.RandomState(0)
    for k in range(number):
        file = root / f"class{k % 2}" / f"{k:05}.jpg"
        file.parent.mkdir(exist_ok=True)
        coarse = generator.randint(0, 256, (8, 8, 3)).astype(np.uint8)
        Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(file, quality=90)
    return root


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("steps", "loader", "decode"), nargs="?", default="steps")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--root", type=Path, default=None, help="image folder by class")
    parser.add_argument("--images", type=int, default=5000, help="at most so many of them")
    parser.add_argument("--workers", type=int, default=2, help="of the DataLoader")
    parser.add_argument("--size", type=int, default=224, help="side in pixels that decode resizes to")
    options = parser.parse_args()
    if options.what == "steps":
        compare_steps(options)
        return
    measure, size = (compare_loaders, (32, 32)) if options.what == "loader" else (measure_decoding, (500, 375))
    with tempfile.TemporaryDirectory() as folder:
        number = 5000 if options.what == "loader" else 100
        measure(options, options.root or noise_images(Path(folder), number, size))


if __name__ == "__main__":
    main()
