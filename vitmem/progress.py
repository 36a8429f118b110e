"""How far a stage of long work is: a bar on a terminal, a line now and then in a log."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")
LINE_SECONDS = 30.0  # between two lines in a log


class Progress:
    """Counts the pieces of one stage, shows how many of all are done and about how long the rest takes.

    Args:
        stage: what is worked on, such as ``runs/digits/seed0: edits``.
        total: number of pieces.
        done: how many of them were there before.
    """

    def __init__(self, stage: str, total: int, done: int = 0):
        self.stage, self.total, self.done = stage, total, done
        self._start = self._shown = time.monotonic()
        self._worked = 0  # pieces that took time: what was there before tells nothing of the rest
        self._last = self._start
        terminal = sys.stderr.isatty()
        self._bar = (
            tqdm(total=total, initial=done, desc=stage, leave=False, disable=None, dynamic_ncols=True)
            if terminal
            else None
        )

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def step(self, what: str = "") -> None:
        """Count one piece as done.

        Args:
            what: its name, shown beside the numbers.
        """
        now = time.monotonic()
        self.done += 1
        self._worked += now - self._last > 0.05
        self._last = now
        if self._bar is not None:
            self._bar.set_postfix_str(what, refresh=False)
            self._bar.update()
        elif self._worked and (now - self._shown > LINE_SECONDS or self._ended(now)):
            self._shown = now
            print(self.line(what), flush=True)

    def _ended(self, now: float) -> bool:
        return self.done == self.total and now - self._start > LINE_SECONDS / 3  # short stages need no line

    def line(self, what: str = "") -> str:
        """Return where the stage is, in words."""
        took = self._last - self._start
        left = took / max(self._worked, 1) * (self.total - self.done)
        rest = f"about {duration(left)} left" if self.done < self.total else duration(took)
        return f"{self.stage}: {self.done} of {self.total}{f' ({what})' if what else ''}, {rest}"


def tracked(items: Iterable[T], stage: str, total: int | None = None) -> Iterator[T]:
    """Yield items and show how many of them are done."""
    with Progress(stage, len(items) if total is None else total) as progress:
        for item in items:
            yield item
            progress.step()


def duration(seconds: float) -> str:
    """Return a time as a person says it: 40 s, 12 min, 3.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def size(number: float) -> str:
    """Return a number of bytes as a person says it."""
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} TB"
