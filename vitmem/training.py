"""Training: one Lightning module, its optimiser and schedule, and the memorisation metrics of every epoch.

Randomness is keyed, not carried along: the order of an epoch by (seed, epoch), dropout by (seed, step). A resumed run
therefore sees what the uninterrupted one saw, and evaluating more often changes nothing.
"""

import csv
import dataclasses
import io
import logging
import math
import os
import signal
import sys
import time
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.callbacks import Checkpoint, TQDMProgressBar
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics.classification import MulticlassAccuracy

from datamodules.batch import Batch, keyed_seed
from datamodules.module import MemorisationData
from vitmem.models import is_decayed
from vitmem.runs import write_atomically
from vitmem.tied_dropout import TiedDropout

ACCURACIES = ("memorized_accuracy", "ground_truth_accuracy", "clean_train_accuracy", "validation_accuracy")
LAST_CHECKPOINT = Path("checkpoints/last.ckpt")


logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)


@dataclass(frozen=True)
class TrainConfig:
    """AdamW with linear warm-up and cosine decay.

    Args:
        epochs: passes over the training set, at least 1.
        batch_size: examples per step.
        lr: peak learning rate.
        weight_decay: decoupled decay of matrices; biases, norms, positions and tokens are not decayed.
        warmup_epochs: epochs of linear warm-up; a fraction is fine.
        label_smoothing: share of the target spread over all classes, in [0, 1).
        clip: largest gradient norm; 0 switches clipping off.
        eval_every: epochs between evaluations; the last epoch is always evaluated.
        checkpoint_minutes: minutes between checkpoints; one is also written at the end and on Ctrl-C.
        early_stop: end with the weights of the evaluated epoch that is best on the validation examples of even index.
        tied_fixed: share of each MLP's hidden units that generalise, in (0, 1]; below 1, the others are tied to
            examples while training (example-tied dropout, Maini et al. 2023, who take 0.2) and dropped at the end.
        tied_memory: share of the other units that each example switches on, in (0, 1); Maini et al. take 0.1.
    """

    epochs: int = 100
    batch_size: int = 64
    lr: float = 1e-3
    weight_decay: float = 0.1
    warmup_epochs: float = 5.0
    label_smoothing: float = 0.0
    clip: float = 1.0
    eval_every: int = 1
    checkpoint_minutes: float = 1.0
    early_stop: bool = False
    tied_fixed: float = 1.0
    tied_memory: float = 0.1

    def __post_init__(self):
        for option in ("epochs", "batch_size", "eval_every"):
            if getattr(self, option) < 1:
                raise ValueError(f"train.{option} is {getattr(self, option)}; it must be at least 1")
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise ValueError(f"train.lr is {self.lr}; it must be positive and finite")
        for option in ("weight_decay", "warmup_epochs", "clip", "checkpoint_minutes"):
            if not getattr(self, option) >= 0:
                raise ValueError(f"train.{option} is {getattr(self, option)}; it must not be negative")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"train.label_smoothing is {self.label_smoothing}; it must be in [0, 1)")
        if not 0 < self.tied_fixed <= 1:
            raise ValueError(f"train.tied_fixed is {self.tied_fixed}; it must be in (0, 1]; 1 switches it off")
        if not 0 < self.tied_memory < 1:
            raise ValueError(f"train.tied_memory is {self.tied_memory}; it must be in (0, 1)")


@dataclass(frozen=True)
class TrainerConfig:
    """Flags handed to Lightning's Trainer.

    Args:
        accelerator: cpu, gpu or auto.
        devices: number of devices; 1.
        precision: Lightning's name, for example 32-true or bf16-mixed.
    """

    accelerator: str = "auto"
    devices: int = 1
    precision: str = "32-true"

    def __post_init__(self):
        if self.devices != 1:
            raise ValueError(f"trainer.devices is {self.devices}; training on several devices is not supported: use 1")

    def check(self) -> None:
        """Raise ValueError if Lightning cannot train with these flags on this machine."""
        try:
            L.Trainer(**dataclasses.asdict(self), logger=False, enable_checkpointing=False)
        except (MisconfigurationException, ImportError, TypeError, ValueError, RuntimeError) as error:
            raise ValueError(f"Lightning cannot use trainer {dataclasses.asdict(self)}: {error}") from error


class Interrupted(Exception):
    """Ctrl-C was pressed; the state was saved."""


class TrainingDiverged(Exception):
    """The training loss is not finite."""


class MemorisationModule(L.LightningModule):
    """Cross-entropy on the given labels, with the four accuracies after every evaluated epoch.

    Args:
        model: B C H W images to B K logits.
        config: optimiser and schedule.
        num_classes: K.
        seed: key of the dropout noise.
    """

    def __init__(self, model: nn.Module, config: TrainConfig, num_classes: int, seed: int):
        super().__init__()
        self.model, self.config, self.seed = model, config, seed
        self.tied = TiedDropout(model, config.tied_fixed, config.tied_memory, seed)
        self.accuracy = nn.ModuleDict(
            {name: MulticlassAccuracy(num_classes, average="micro", validate_args=False) for name in ACCURACIES}
        )
        self.history: list[dict] = []
        self._epoch_loss: dict[str, Tensor | int] = {}
        self._evaluated = False
        self._loader_state: dict[str, int] | None = None

    def configure_optimizers(self):
        """AdamW in two groups, with the learning rate set per step."""
        decayed = {name: is_decayed(name, p) for name, p in self.model.named_parameters()}
        groups = [
            {
                "params": [p for name, p in self.model.named_parameters() if decayed[name] is decay],
                "weight_decay": self.config.weight_decay if decay else 0.0,
            }
            for decay in (True, False)
        ]
        fused = "mixed" not in str(self.trainer.precision)  # Lightning cannot clip the gradients of a fused scaled step
        optimiser = torch.optim.AdamW(groups, lr=self.config.lr, fused=fused)
        steps = int(self.trainer.estimated_stepping_batches)
        warmup = round(self.config.warmup_epochs * steps / self.config.epochs)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: warmup_cosine(step, warmup, steps))
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_train_start(self) -> None:
        """Let the loader go on where it was; Lightning itself restores it only if it was not set up before."""
        if self._loader_state is not None:
            self.trainer.train_dataloader.load_state_dict(self._loader_state)

    def on_train_epoch_start(self) -> None:
        """Start the epoch's mean loss; see to it that the last epoch is evaluated."""
        self._epoch_loss = {"sum": torch.zeros((), device=self.device), "steps": 0}
        self._evaluated = False
        if self.current_epoch == self.config.epochs - 1:
            self.trainer.check_val_every_n_epoch = 1

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Key the dropout noise by (seed, step)."""
        torch.manual_seed(keyed_seed(self.seed, self.global_step, 2))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the mean cross-entropy of the batch on its given labels."""
        with self.tied(batch.index):
            logits_BK = self.model(batch.image)
        loss = F.cross_entropy(logits_BK, batch.given_label, label_smoothing=self.config.label_smoothing)
        state = self._epoch_loss
        state["sum"] = state["sum"] + loss.detach()
        state["steps"] += 1
        if self.device.type == "cpu" or state["steps"] % 50 == 0:  # on a GPU, reading the loss waits for the step
            self._stop_if_not_finite()
        return loss

    def _stop_if_not_finite(self) -> None:
        if not torch.isfinite(self._epoch_loss["sum"]):
            first = "at" if self.device.type == "cpu" else "at or less than 50 steps before"
            raise TrainingDiverged(
                f"the training loss is not finite {first} step {self.global_step} (epoch {self.current_epoch}); "
                "lower train.lr or raise train.warmup_epochs"
            )

    def on_validation_epoch_start(self) -> None:
        """Forget the last evaluation."""
        for metric in self.accuracy.values():
            metric.reset()

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        """Count correct answers; loader 0 holds all training examples, loader 1 the validation examples."""
        predicted = self.model(batch.image).argmax(1)
        if dataloader_idx == 1:
            self.accuracy["validation_accuracy"].update(predicted, batch.true_label)
            return predicted
        noisy = batch.is_noisy
        for name, chosen, label in (
            ("memorized_accuracy", noisy, batch.given_label),
            ("ground_truth_accuracy", noisy, batch.true_label),
            ("clean_train_accuracy", ~noisy, batch.true_label),
        ):
            if chosen.any():
                self.accuracy[name].update(predicted[chosen], label[chosen])
        return predicted

    def on_validation_epoch_end(self) -> None:
        """Note that this epoch's row has accuracies."""
        self._evaluated = True

    def on_train_epoch_end(self) -> None:
        """Add the epoch's row to the history."""
        self._stop_if_not_finite()
        row: dict = {
            "epoch": self.current_epoch,
            "step": self.global_step,
            "lr": self.optimizers().param_groups[0]["lr"],
            "train_loss": float(self._epoch_loss["sum"]) / self._epoch_loss["steps"],
        }
        for name, metric in self.accuracy.items():
            known = self._evaluated and metric.update_called
            row[name] = float(metric.compute()) if known else math.nan
        self.history.append(row)

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        """Keep the history, the running loss and the place in the epoch with the weights."""
        checkpoint["history"] = self.history
        checkpoint["loader"] = self.trainer.train_dataloader.state_dict()
        checkpoint["epoch_loss"] = self._epoch_loss

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        """Restore what ``on_save_checkpoint`` kept."""
        self._loader_state = checkpoint["loader"]
        self.history, self._epoch_loss = checkpoint["history"], checkpoint["epoch_loss"]


def warmup_cosine(step: int, warmup: int, steps: int) -> float:
    """Return the share of the peak learning rate at a step: linear from 1/warmup to 1, then a half cosine to 0."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, steps - warmup))))


class BestEpoch(L.Callback):
    """Remembers the weights of the evaluated epoch that is best on the validation examples of even index.

    Of equally good epochs the first one counts. It is part of the checkpoints.
    """

    def __init__(self):
        self.correct, self.best = 0, -1
        self.epoch: int | None = None
        self.weights: dict[str, Tensor] = {}

    def on_validation_epoch_start(self, trainer, pl_module) -> None:
        """Count from zero."""
        self.correct = 0

    def on_validation_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0) -> None:
        """Count the correct answers on the tuning half."""
        if dataloader_idx == 1:
            self.correct += int((outputs == batch.true_label)[batch.index % 2 == 0].sum())

    def on_validation_epoch_end(self, trainer, pl_module) -> None:
        """Keep the weights if they are better than all before."""
        if self.correct > self.best:
            self.best, self.epoch = self.correct, trainer.current_epoch
            self.weights = {key: value.detach().cpu().clone() for key, value in pl_module.model.state_dict().items()}

    def state_dict(self) -> dict:
        """Return what a checkpoint keeps."""
        return {"best": self.best, "epoch": self.epoch, "weights": self.weights}

    def load_state_dict(self, state_dict: dict) -> None:
        """Restore what a checkpoint kept."""
        self.best, self.epoch, self.weights = (state_dict[key] for key in ("best", "epoch", "weights"))


class Keeper(Checkpoint):  # Lightning runs callbacks of this base after the module's own hooks
    """Writes metrics.csv and checkpoints, prints a line now and then, and turns Ctrl-C into a saved state.

    Args:
        folder: the run folder.
        minutes: minutes between checkpoints.
        line_seconds: least time between two printed lines; None prints none.
    """

    def __init__(self, folder: Path, minutes: float, line_seconds: float | None):
        self.folder, self.seconds, self.line_seconds = folder, 60 * minutes, line_seconds
        self.saved_at = self.printed_at = time.monotonic()
        self.stop_asked = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Listen for Ctrl-C, then give it back; only the main thread may. Lightning's hooks restore too early."""
        try:
            previous = signal.signal(signal.SIGINT, self._on_interrupt)
        except ValueError:  # not the main thread
            yield
            return
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, previous)

    def _on_interrupt(self, number, frame) -> None:
        if self.stop_asked:
            os._exit(130)
        self.stop_asked = True
        print("\nstopping after this step; press Ctrl-C again to stop without saving", file=sys.stderr, flush=True)

    def save(self, trainer: L.Trainer) -> None:
        """Write the checkpoint under a temporary name, then rename it."""
        path = self.folder / LAST_CHECKPOINT
        path.parent.mkdir(exist_ok=True)
        partial = path.with_suffix(".partial")
        trainer.save_checkpoint(partial)
        os.replace(partial, path)
        self.saved_at = time.monotonic()

    def _stop_if_asked(self, trainer: L.Trainer) -> None:
        if self.stop_asked:
            self.save(trainer)
            raise Interrupted(f"stopped at step {trainer.global_step}; the same command goes on from there")

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        """Save when the time has come, or when asked to stop; the last step of an epoch leaves it to the epoch."""
        if batch_idx + 1 < trainer.num_training_batches:
            self._stop_if_asked(trainer)
            if time.monotonic() - self.saved_at > self.seconds:
                self.save(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: MemorisationModule) -> None:
        """Write the metrics so far, and a checkpoint when the time has come."""
        write_atomically(self.folder / "metrics.csv", history_csv(pl_module.history))
        last = trainer.current_epoch == pl_module.config.epochs - 1
        if self.line_seconds is not None and (last or time.monotonic() - self.printed_at > self.line_seconds):
            self.printed_at = time.monotonic()
            print(progress_line(pl_module.history[-1], pl_module.config.epochs), flush=True)
        if last or time.monotonic() - self.saved_at > self.seconds:
            self.save(trainer)
        if not last:
            self._stop_if_asked(trainer)


def history_csv(history: list[dict]) -> str:
    """Return the rows of the epochs as CSV; an accuracy that was not measured is an empty cell."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["epoch", "step", "lr", "train_loss", *ACCURACIES])
    for row in history:
        writer.writerow(["" if isinstance(v, float) and math.isnan(v) else v for v in row.values()])
    return out.getvalue()


def progress_line(row: dict, epochs: int) -> str:
    """Return one epoch's row in words."""
    accuracies = "  ".join(f"{n.removesuffix('_accuracy')} {row[n]:.3f}" for n in ACCURACIES if not math.isnan(row[n]))
    return f"  epoch {row['epoch'] + 1}/{epochs}  loss {row['train_loss']:.4f}  {accuracies}"


def fit(
    model: nn.Module,
    data: MemorisationData,
    train: TrainConfig,
    trainer: TrainerConfig,
    *,
    seed: int,
    folder: Path,
    callbacks: Sequence[L.Callback] = (),
) -> int:
    """Train a model in place, going on from the folder's last checkpoint if there is one.

    Args:
        model: freshly initialised; holds the trained weights afterwards.
        data: serves training and evaluation batches.
        train: optimiser and schedule.
        trainer: Lightning's flags.
        seed: key of order and dropout.
        folder: where metrics.csv and checkpoints/ go.
        callbacks: further Lightning callbacks.

    Returns:
        The epoch, counted from 0, whose weights the model holds.

    Raises:
        Interrupted: Ctrl-C; the state was saved.
        TrainingDiverged: the loss is not finite.
    """
    last = folder / LAST_CHECKPOINT
    if last.exists() and not zipfile.is_zipfile(last):
        raise ValueError(f"{last} is damaged; remove it to train from the start, or give --force")
    module = MemorisationModule(model, train, data.data.num_classes, seed)
    bar = [TQDMProgressBar(leave=False)] if sys.stderr.isatty() else []
    keeper = Keeper(folder, train.checkpoint_minutes, None if bar else 10.0)
    best = BestEpoch()
    callbacks = [*callbacks, best] if train.early_stop else callbacks
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*(does not have many workers|LeafSpec|num_workers|mid-epoch).*")
        engine = L.Trainer(
            max_epochs=train.epochs,
            accelerator=trainer.accelerator,
            devices=trainer.devices,
            precision=trainer.precision,
            gradient_clip_val=train.clip or None,
            check_val_every_n_epoch=train.eval_every,
            callbacks=[*bar, *callbacks, keeper],
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
            logger=False,
            enable_model_summary=False,
            enable_progress_bar=bool(bar),
            default_root_dir=folder,
        )
        with keeper.listening():
            engine.fit(module, datamodule=data, ckpt_path=last if last.exists() else None, weights_only=True)
    write_atomically(folder / "metrics.csv", history_csv(module.history))
    if keeper.stop_asked:  # in the last epoch
        raise Interrupted(f"stopped at step {engine.global_step}; the same command goes on from there")
    if train.early_stop:
        model.load_state_dict(best.weights)
    module.tied.fold()
    return best.epoch if train.early_stop else train.epochs - 1
