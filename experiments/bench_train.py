"""Cost of the training loop: Lightning's steps over those of a bare PyTorch loop, on digits.

Both sides train the same model on the same batches with the same optimiser, clipping and schedule; setting up and
evaluating are left out. Sides run in turn; the ratio of each turn is printed, then the median.

    python experiments/bench_train.py [--turns 5] [--epochs 4]
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import lightning as L
import torch
from torch.nn import functional as F

from datamodules.digits import Digits
from datamodules.module import MemorisationData
from datamodules.noise import Symmetric
from vitmem import models
from vitmem.training import TrainConfig, TrainerConfig, fit, warmup_cosine

MODEL = models.ModelConfig(width=128, depth=4, heads=4, patch=4)


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


def with_lightning(data: MemorisationData, config: TrainConfig) -> float:
    """Return the seconds of all steps in vitmem's loop."""
    model = models.create(MODEL.timm_arguments((1, 8, 8), 10), seed=0)
    timer = StepTimer()
    with tempfile.TemporaryDirectory() as folder:
        trainer = TrainerConfig(accelerator="cpu")
        fit(model, data, config, trainer, seed=0, folder=Path(folder), callbacks=[timer])
    return timer.seconds


def bare(data: MemorisationData, config: TrainConfig) -> float:
    """Return the seconds of all steps in a plain loop."""
    model = models.create(MODEL.timm_arguments((1, 8, 8), 10), seed=0).train()
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


def main() -> None:
    """Print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=4)
    options = parser.parse_args()
    data = MemorisationData(Digits(), Symmetric(), batch_size=64)
    config = TrainConfig(epochs=options.epochs, eval_every=options.epochs, warmup_epochs=1)
    bare(data, config)  # warm-up
    ratios = []
    for turn in range(options.turns):
        lightning, plain = with_lightning(data, config), bare(data, config)
        ratios.append(lightning / plain)
        print(f"turn {turn + 1}: lightning {lightning:.2f} s, bare {plain:.2f} s, ratio {ratios[-1]:.3f}", flush=True)
    print(f"median ratio: {statistics.median(ratios):.3f}")


if __name__ == "__main__":
    main()
