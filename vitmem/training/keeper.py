"""The keeper of a training: its table, its checkpoints, its lines on the terminal, and its end on a signal."""

import csv
import io
import math
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.callbacks import Checkpoint

from vitmem.distributed import agreed, all_sum, is_main
from vitmem.files import write_atomically
from vitmem.training.checkpoints import SafeCheckpointIO
from vitmem.training.errors import Interrupted, StateLost
from vitmem.training.kept import LAST_CHECKPOINT
from vitmem.training.loggers import Followed
from vitmem.training.watch import SIGNALS, Watch

ACCURACIES = ("memorized_accuracy", "ground_truth_accuracy", "clean_train_accuracy", "validation_accuracy")


class Keeper(Checkpoint):  # Lightning runs callbacks of this base after the module's own hooks
    """Writes metrics.csv and checkpoints, prints a line now and then, and saves the state when it is told to end.

    Args:
        folder: the run folder.
        io: writes checkpoints.
        minutes: minutes between checkpoints.
        epochs: epochs between checkpoints; 0 for those by time only.
        line_seconds: least time between two printed lines; None prints none.
        followed: loggers, which get the row of every epoch.
    """

    def __init__(
        self,
        folder: Path,
        io: SafeCheckpointIO,
        *,
        minutes: float,
        epochs: int,
        line_seconds: float | None,
        followed: Followed,
    ):
        self.followed = followed
        self.folder, self.io, self.line_seconds = folder, io, line_seconds
        self.seconds, self.epochs = 60 * minutes, epochs
        self.saved_at = self.printed_at = time.monotonic()
        self.saved_step: int | None = None
        self.stop_signal = 0
        self.watch = Watch()

    @contextmanager
    def listening(self, trainer: L.Trainer) -> Iterator[None]:
        """Listen for the signals to end, then give them back; only the main thread may."""
        try:
            previous = {number: signal.signal(number, self._on_signal) for number in SIGNALS}
        except ValueError:  # not the main thread
            yield
            return
        try:
            with self.watch.over(trainer):
                yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Note what is saved; listen again: Lightning's handlers have taken over, and would stop without saving."""
        self.saved_step = trainer.global_step or None
        if signal.getsignal(signal.SIGINT) == self._on_signal:
            for number in SIGNALS:
                signal.signal(number, self._on_signal)

    def _on_signal(self, number, frame) -> None:
        if self.stop_signal == number == signal.SIGINT:
            os._exit(130)
        self.stop_signal = self.stop_signal or number
        again = "; press Ctrl-C again to stop without saving" if number == signal.SIGINT else ""
        print(f"\nstopping after this step{again}", file=sys.stderr, flush=True)

    def save(self, trainer: L.Trainer) -> None:
        """Write a checkpoint; where that cannot be done, say so and try again another time."""
        self.watch.sign(saving=True)
        trainer.save_checkpoint(self.folder / LAST_CHECKPOINT)  # in all processes: each has a part of the state
        self.watch.sign()
        self.saved_at = time.monotonic()
        if self.io.error is None:
            self.saved_step = trainer.global_step
        else:
            self._warn(f"{self.folder / LAST_CHECKPOINT} cannot be written ({self.io.error})")

    def _warn(self, problem: str) -> None:
        print(f"vitmem: {problem}; training goes on, and it will be tried again", file=sys.stderr, flush=True)

    def signals(self) -> tuple[bool, int]:
        """Return whether a checkpoint is due, by the main process's clock, and the signal to end: all agree on both."""
        due = is_main() and time.monotonic() - self.saved_at > self.seconds
        votes = [due, self.stop_signal == signal.SIGINT, self.stop_signal not in (0, signal.SIGINT)]
        due, interrupt, end = all_sum(torch.tensor(votes, dtype=torch.int64)).tolist()
        return due > 0, signal.SIGINT if interrupt else signal.SIGTERM if end else 0

    def stop(self, trainer: L.Trainer, number: int) -> None:
        """Save the state and leave, as ``leave``."""
        if agreed(self.saved_step != trainer.global_step):  # only the main process knows whether it was written
            self.save(trainer)
        self.leave(trainer, number)

    def leave(self, trainer: L.Trainer, number: int) -> None:
        """Tell that the training was stopped.

        Raises:
            Interrupted: always, unless the following is raised.
            StateLost: the state could not be saved.
        """
        if self.io.error is not None:
            kept = "all of it is" if self.saved_step is None else f"what came after step {self.saved_step} is"
            raise StateLost(
                f"stopped at step {trainer.global_step}, but the state could not be saved ({self.io.error}): {kept} "
                "lost; make room or make the folder writable, and the same command goes on from there"
            )
        raise Interrupted(f"stopped at step {trainer.global_step}; the same command goes on from there", 128 + number)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        """Save when the time has come, or when told to end; the last step of an epoch leaves it to the epoch."""
        self.watch.sign()
        if (batch_idx + 1) % trainer.accumulate_grad_batches or batch_idx + 1 == trainer.num_training_batches:
            return
        due, number = self.signals()
        if number:
            self.stop(trainer, number)
        if due:
            self.save(trainer)

    def on_validation_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0) -> None:
        """Show that the evaluation goes on."""
        self.watch.sign()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the metrics so far, and a checkpoint when the time has come."""
        epochs, done = trainer.max_epochs, trainer.current_epoch + 1
        if is_main():
            try:
                self.write_metrics(pl_module.history)
            except OSError as error:  # the rows are in the checkpoint, too
                self._warn(f"{self.folder / 'metrics.csv'} cannot be written ({error.strerror})")
            self.followed.log(pl_module.history[-1])
            waited = time.monotonic() - self.printed_at
            if self.line_seconds is not None and (done == epochs or waited > self.line_seconds):
                self.printed_at = time.monotonic()
                print(progress_line(pl_module.history[-1], epochs), flush=True)
        due, number = self.signals()
        if due or done == epochs or (self.epochs and done % self.epochs == 0):
            self.save(trainer)
        if number and done < epochs:
            self.stop(trainer, number)

    def finish(self, history: list[dict]) -> None:
        """Write ``metrics.csv`` once more, at the end.

        Raises:
            StateLost: it cannot be written.
        """
        try:
            self.write_metrics(history)
        except OSError as error:
            raise StateLost(
                f"{self.folder / 'metrics.csv'} cannot be written ({error.strerror}); make room or make the folder "
                "writable: the same command goes on from the last checkpoint"
            ) from error

    def write_metrics(self, history: list[dict]) -> None:
        """Write ``metrics.csv``."""
        write_atomically(self.folder / "metrics.csv", history_csv(history))


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
