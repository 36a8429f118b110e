"""Checkpoints that survive a kill at any moment: written under another name, renamed when whole, the last two kept."""

import os
import pickle
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from vitmem.files import replacing
from vitmem.training.kept import LAST_CHECKPOINT, PREVIOUS_CHECKPOINT


class SafeCheckpointIO(TorchCheckpointIO):
    """Lightning's writer of checkpoints, which it calls in the main process only.

    A disk that is full or a folder that cannot be written does not stop the training: the error stays in ``error``
    until a later attempt succeeds, and the checkpoints that are there are kept.

    Args:
        last_is_good: the last checkpoint in the folder may replace the one before it.
    """

    def __init__(self, last_is_good: bool):
        super().__init__()
        self.last_is_good = last_is_good
        self.error: Exception | None = None

    def save_checkpoint(self, checkpoint: Mapping, path: str | Path, storage_options: None = None) -> None:
        """Write a checkpoint; the one of that name becomes the previous one."""
        last = Path(path)
        try:
            last.parent.mkdir(exist_ok=True)
            with replacing(last) as own:
                with own.open("wb") as file:
                    torch.save(checkpoint, file)
                if self.last_is_good and last.exists():
                    os.replace(last, last.with_name(PREVIOUS_CHECKPOINT.name))
            self.last_is_good, self.error = True, None
        except (OSError, RuntimeError) as error:  # torch's writer turns the first into the second
            self.error = error


def newest_checkpoint(folder: Path) -> tuple[Path | None, list[Path]]:
    """Return the newest undamaged checkpoint of a run folder, if any, and newer ones that are damaged.

    Raises:
        ValueError: there are checkpoints, and all are damaged.
    """
    damaged = []
    for name in (LAST_CHECKPOINT, PREVIOUS_CHECKPOINT):
        path = folder / name
        if path.exists() and is_intact(path):
            return path, damaged
        damaged += [path] if path.exists() else []
    if damaged:
        them, are = ("it", "is") if len(damaged) == 1 else ("them", "are")
        raise ValueError(
            f"{' and '.join(map(str, damaged))} {are} damaged; remove {them} to train from the start, or give --force"
        )
    return None, []


def is_intact(path: Path) -> bool:
    """Tell whether a checkpoint can be read and its contents have the checksums that were stored with them."""
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.testzip() is not None:
                return False
        torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (zipfile.BadZipFile, zlib.error, struct.error, pickle.UnpicklingError):
        return False
    except (OSError, EOFError, RuntimeError, ValueError, LookupError):
        return False
    return True
