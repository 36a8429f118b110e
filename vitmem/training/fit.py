"""One training from start to end: callbacks, the checkpoint it goes on from, and the weights it ends with."""

import contextlib
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import lightning as L
import torch
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.strategies import FSDPStrategy
from torch import Tensor, nn

from vitmem.datamodules.batch import InMemoryLoader, Share
from vitmem.distributed import is_main
from vitmem.training.averaging import BestEpoch, WeightAverage
from vitmem.training.checkpoints import SafeCheckpointIO, newest_checkpoint
from vitmem.training.config import TrainConfig, TrainerConfig
from vitmem.training.course import course_of
from vitmem.training.devices import build, clean_name, prepared
from vitmem.training.errors import StateLost
from vitmem.training.keeper import Keeper
from vitmem.training.kept import LAST_CHECKPOINT
from vitmem.training.loggers import Followed, check_loggers
from vitmem.training.module import MemorisationModule

NOWHERE = Path(os.devnull) / "nowhere"  # can hold no hpc_ckpt_N.ckpt, which Lightning would load before ours


class Data(Protocol):
    """What a training is served from, such as ``MemorisationData``."""

    share: Share

    def train_dataloader(self) -> InMemoryLoader:
        """Return this process's share of the shuffled training batches."""

    def val_dataloader(self) -> list[InMemoryLoader]:
        """Return the evaluation loaders: training examples, then validation if there is one."""

    def to_device(self, device: torch.device | None) -> None:
        """Make batches on the device that trains; None: on the host again."""


class Served(L.LightningDataModule):
    """What Lightning asks for batches.

    Args:
        data: who makes them.
    """

    def __init__(self, data: Data):
        super().__init__()
        self.data = data

    def setup(self, stage: str) -> None:
        """Let batches be made on the device that trains."""
        self.data.to_device(self.trainer.strategy.root_device)

    def teardown(self, stage: str) -> None:
        """Give the device's memory back."""
        self.data.to_device(None)

    def train_dataloader(self) -> InMemoryLoader:
        """Return the training batches."""
        return self.data.train_dataloader()

    def val_dataloader(self) -> list[InMemoryLoader]:
        """Return the evaluation loaders."""
        return self.data.val_dataloader()


def fit(
    model: nn.Module,
    data: Data,
    train: TrainConfig,
    trainer: TrainerConfig,
    *,
    seed: int,
    folder: Path,
    callbacks: Sequence[L.Callback] = (),
) -> tuple[dict[str, Tensor], int]:
    """Train a model, going on from the folder's last undamaged checkpoint if there is one.

    Args:
        model: freshly initialised; holds the trained weights afterwards, unless they are sharded.
        data: serves training and evaluation batches.
        train: optimiser and schedule.
        trainer: how Lightning runs it.
        seed: key of order and dropout.
        folder: where metrics.csv and checkpoints/ go.
        callbacks: further Lightning callbacks.

    Returns:
        The trained weights under timm's names, and the epoch, counted from 0, that they are from.

    Raises:
        Interrupted: it was told to end; the state was saved.
        StateLost: it was told to end, and the state could not be saved.
        TrainingDiverged: the loss is not finite.
        ValueError: all checkpoints are damaged.
    """
    start, damaged = newest_checkpoint(folder)
    if damaged and is_main():
        print(f"{damaged[0]} is damaged; going on from {start}, the one before", flush=True)
    io = SafeCheckpointIO(last_is_good=not damaged)
    module = MemorisationModule(model, train, seed)
    average = [WeightAverage(train.ema)] if train.ema else []
    best = [BestEpoch()] if train.early_stop else []  # before the average, which takes its weights away again
    bar = [TQDMProgressBar(leave=False)] if sys.stderr.isatty() else []
    minutes, epochs = train.checkpoint_minutes, train.checkpoint_epochs
    followed = Followed(check_loggers(trainer.loggers) if is_main() else (), folder, trainer.online)
    line_seconds = None if bar else 10.0
    keeper = Keeper(folder, io, minutes=minutes, epochs=epochs, line_seconds=line_seconds, followed=followed)
    with warnings.catch_warnings(), contextlib.closing(followed):
        warnings.filterwarnings("ignore", message=".*(does not have many workers|LeafSpec|num_workers|mid-epoch).*")
        course = [*callbacks, *course_of(train, folder, *average)]
        engine = _engine(train, trainer, io, [*bar, *course, *best, *average, keeper])
        share_of_data = Share(engine.global_rank, engine.world_size, trainer.accumulate)
        with keeper.listening(engine), prepared(model, trainer), sharing(data, share_of_data):
            engine.fit(module, datamodule=Served(data), ckpt_path=start, weights_only=True)
    if number := keeper.signals()[1]:  # in the last epoch
        keeper.leave(engine, number)
    if is_main():
        keeper.finish(module.history)
    if best:
        model.load_state_dict(best[0].weights)
    module.tied.fold()
    sharded = isinstance(engine.strategy, FSDPStrategy)
    state = gathered(folder, io) if sharded else model.state_dict()
    epoch = best[0].epoch if best else train.epochs - 1
    return {clean_name(name): value for name, value in state.items()}, epoch


def _engine(train: TrainConfig, trainer: TrainerConfig, io: SafeCheckpointIO, callbacks: list[L.Callback]) -> L.Trainer:
    return build(
        trainer,
        max_epochs=train.epochs,
        gradient_clip_val=train.clip or None,
        check_val_every_n_epoch=train.eval_every,
        callbacks=callbacks,
        plugins=[io],
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        enable_model_summary=False,
        enable_progress_bar=any(isinstance(callback, TQDMProgressBar) for callback in callbacks),
        default_root_dir=NOWHERE,
    )


def gathered(folder: Path, io: SafeCheckpointIO) -> dict[str, Tensor]:
    """Return the whole weights of a sharded model: the last checkpoint holds the shards of all processes.

    Raises:
        StateLost: it could not be written.
    """
    if io.error is not None:
        raise StateLost(f"the trained weights could not be saved ({io.error}); the same command goes on from there")
    saved = torch.load(folder / LAST_CHECKPOINT, map_location="cpu", weights_only=True)["state_dict"]
    return {name.removeprefix("model."): value for name, value in saved.items()}


@contextmanager
def sharing(data: Data, own: Share) -> Iterator[None]:
    """Let a data module serve one process's share."""
    data.share = own
    try:
        yield
    finally:
        data.share = Share()
