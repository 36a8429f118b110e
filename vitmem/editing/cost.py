"""What an edit costs: peak memory above what was in use before it."""

import contextlib
import ctypes
import os
import sys
import threading
from pathlib import Path

import torch

STATM = Path("/proc/self/statm")


def resident() -> int:
    """Return the memory of this process in bytes: what it holds now, or (outside Linux) the most it ever held."""
    if STATM.exists():
        return int(STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def return_freed() -> None:
    """Give back to the system what the process freed and still holds, where the C library can (glibc)."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


class ExtraMemory:
    """Context that measures the peak memory above what was in use at its start.

    On a GPU this is PyTorch's own count and exact. On a CPU the resident memory is sampled, so short peaks may be
    missed; what earlier work freed is given back first, so that it hides nothing (with glibc; elsewhere it may).

    Args:
        device: where the work is done.
        period: seconds between two samples.

    Attributes:
        bytes: the result, once the context is left.
    """

    def __init__(self, device: torch.device, period: float = 0.01):
        self.device, self.period, self.bytes = device, period, 0
        self._done = threading.Event()

    def __enter__(self) -> "ExtraMemory":
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)
            self._before = torch.cuda.memory_allocated(self.device)
        else:
            return_freed()
            self._before = self._peak = resident()
            self._thread = threading.Thread(target=self._watch, daemon=True)
            self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._done.wait(self.period):
            self._peak = max(self._peak, resident())

    def __exit__(self, *exception: object) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            self._peak = torch.cuda.max_memory_allocated(self.device)
        else:
            self._done.set()
            self._thread.join()
            self._peak = max(self._peak, resident())
        self.bytes = self._peak - self._before
