"""Where a training is followed, beside ``metrics.csv``: off by default, offline by default, and never in its way.

A logger is made in the main process by a function of the run folder and whether it may go online, and has two methods:
``log(row)`` for the row of an epoch, as ``metrics.csv`` has it, and ``close()``.
"""

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

from vitmem.registry import Registry, lookup, registered


class Logger(Protocol):
    """What a registered function returns."""

    def log(self, row: Mapping[str, float]) -> None:
        """Take the row of an epoch; an accuracy that was not measured is NaN."""

    def close(self) -> None:
        """Write what waits; the training has ended, or was interrupted."""


class TensorBoard:
    """Event files in the run's folder ``tensorboard``; see them with ``tensorboard --logdir``."""

    def __init__(self, folder: Path, online: bool):
        from torch.utils.tensorboard import SummaryWriter

        self.folder, self.writer = str(folder / "tensorboard"), SummaryWriter
        self.events: SummaryWriter | None = None

    def log(self, row: Mapping[str, float]) -> None:
        """Write the values of an epoch; what an interrupted training wrote beyond it does not count."""
        epoch = int(row["epoch"])
        if self.events is None:
            self.events = self.writer(self.folder, purge_step=epoch)
        for name, value in measured(row).items():
            self.events.add_scalar(name, value, epoch)

    def close(self) -> None:
        """Close the event file."""
        if self.events is not None:
            self.events.close()


class WandB:
    """A run of Weights & Biases in the run's folder ``wandb``: offline, unless ``--trainer.online true``."""

    def __init__(self, folder: Path, online: bool):
        import wandb

        folder = folder.resolve()
        name = f"{folder.parent.name}/{folder.name}"
        mode = "online" if online else "offline"  # given, so that no variable of the environment decides
        self.run = wandb.init(project="vitmem", name=name, dir=str(folder), mode=mode)

    def log(self, row: Mapping[str, float]) -> None:
        """Log the values of an epoch."""
        self.run.log(measured(row), step=int(row["epoch"]))

    def close(self) -> None:
        """End the run."""
        self.run.finish()


_BUILTIN: dict[str, Callable[[Path, bool], Logger]] = {"tensorboard": TensorBoard, "wandb": WandB}
_PACKAGES = {"tensorboard": "TensorBoard", "wandb": "Weights & Biases"}  # extra and module of the same name


def loggers() -> Registry[Callable[[Path, bool], Logger]]:
    """Return the registered loggers by name: ours, and those that plug-ins add (group ``vitmem.loggers``)."""
    return registered("vitmem.loggers", _BUILTIN)


def measured(row: Mapping[str, float]) -> dict[str, float]:
    """Return the values of an epoch that were measured."""
    return {name: value for name, value in row.items() if not math.isnan(value)}


def check_loggers(names: str) -> list[str]:
    """Return the names of loggers, comma-separated in a text.

    Raises:
        ValueError: one is not registered, or its package is not installed.
    """
    chosen = [name.strip() for name in names.split(",") if name.strip()]
    for name in chosen:
        lookup("logger", name, loggers())
        if name in _PACKAGES and find_spec(name) is None:
            raise ValueError(
                f"trainer.loggers: {name} needs {_PACKAGES[name]}, which is not installed; pip install "
                f"'vitmem[{name}]', or leave it out: metrics.csv is always written"
            )
    return chosen


class Followed:
    """The loggers of a training; one that raises is told once and dropped, and the training goes on.

    Args:
        names: registered names.
        folder: the run folder.
        online: they may use the network.
    """

    def __init__(self, names: Sequence[str], folder: Path, online: bool):
        self.active: dict[str, Logger] = {}
        for name in names:
            try:
                self.active[name] = loggers()[name](folder, online)
            except Exception as error:  # whatever a stranger's code raises
                self._drop(name, error)

    def log(self, row: Mapping[str, float]) -> None:
        """Hand the row of an epoch on."""
        self._each(lambda logger: logger.log(row))

    def close(self) -> None:
        """Close all."""
        self._each(lambda logger: logger.close())
        self.active = {}

    def _each(self, do: Callable[[Logger], None]) -> None:
        for name, logger in list(self.active.items()):
            try:
                do(logger)
            except Exception as error:  # whatever a stranger's code raises
                self._drop(name, error)

    def _drop(self, name: str, error: Exception) -> None:
        self.active.pop(name, None)
        why = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        print(f"vitmem: the logger {name} is dropped ({why}); the training goes on", file=sys.stderr, flush=True)
