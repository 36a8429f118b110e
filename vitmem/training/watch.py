"""The end of a training on several devices that was told to end, also where one waits for another that never comes."""

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator

import lightning as L

SIGNALS = (signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGUSR1", signal.SIGTERM))  # the last warns a Slurm job
SILENT, SAVING = 30.0, 600.0  # seconds without a sign of life after a signal, and while a checkpoint is written


class Watch:
    """Ends this process if it was told to end, and gives no sign of life.

    A thread does it: Python's own handlers wait until the call that the main thread is in returns, and a collective one
    may not.

    Args:
        silent: seconds to wait for a sign of life.
    """

    def __init__(self, silent: float = SILENT):
        self.silent = silent
        self.sign()

    def sign(self, saving: bool = False) -> None:
        """Give a sign of life, before a checkpoint is written or otherwise."""
        self._until = time.monotonic() + (SAVING if saving else self.silent)

    @contextlib.contextmanager
    def over(self, trainer: L.Trainer) -> Iterator[None]:
        """Watch over a training on several devices, in the main thread."""
        if trainer.world_size == 1:
            yield
            return
        told, teller = socket.socketpair()
        teller.setblocking(False)
        previous = signal.set_wakeup_fd(teller.fileno(), warn_on_full_buffer=False)  # C's handler writes the number
        threading.Thread(target=self._wait, args=(told, trainer), daemon=True).start()
        try:
            yield
        finally:
            signal.set_wakeup_fd(previous)
            teller.close()

    def _wait(self, told: socket.socket, trainer: L.Trainer) -> None:
        with told:
            number = 0
            while number not in SIGNALS:
                if not (byte := told.recv(1)):
                    return
                number = byte[0]
            self._until = max(self._until, time.monotonic() + self.silent)
            while (left := self._until - time.monotonic()) > 0:
                told.settimeout(min(left, 1.0))
                with contextlib.suppress(TimeoutError):
                    if not told.recv(64):  # it has ended, and saved
                        return
        end(trainer, number)


def end(trainer: L.Trainer, number: int) -> None:
    """End this process at once, and those that Lightning started from it."""
    print(
        "vitmem: told to end, but another process does not answer; the same command, without --force, goes on from the "
        "last checkpoint",
        file=sys.stderr,
        flush=True,
    )
    for process in getattr(trainer.strategy.launcher, "procs", ()):
        process.kill()
    os._exit(128 + (number if number == signal.SIGINT else signal.SIGTERM))
