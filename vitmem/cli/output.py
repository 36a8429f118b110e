"""What a command says, on streams that may be closed, full or unable to spell: no work stops for want of a reader."""

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from typing import TextIO

_SPELLED = str.maketrans({"±": "+-", "Δ": "change of", "…": "..."})  # where a terminal cannot show them


class Kept:
    """A text stream that keeps the error of what it could not write, instead of raising it.

    Args:
        stream: where to write; None where there is none.

    Attributes:
        error: the last one, in words; empty while all could be written.
    """

    def __init__(self, stream: TextIO | None):
        self.error, self._missing = "", stream is None
        self._stream = io.StringIO() if stream is None else stream

    def __getattr__(self, name: str):
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write text, with question marks for what the stream has no letters for."""
        if self._missing:
            self.error = "it is closed"
        with self._keeping():
            try:
                self._stream.write(text)
            except UnicodeEncodeError:
                encoding = self._stream.encoding
                self._stream.write(text.translate(_SPELLED).encode(encoding, "replace").decode(encoding))
        return len(text)

    def flush(self) -> None:
        """Write what waits."""
        with self._keeping():
            self._stream.flush()

    @contextlib.contextmanager
    def _keeping(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError, RuntimeError) as error:  # closed: ValueError; in a signal handler: RuntimeError
            self.error = getattr(error, "strerror", None) or str(error)

    def give_up(self) -> None:
        """Let what waits go nowhere, where the stream has failed: Python would try again, and fail, at its end."""
        self.flush()
        if self.error:
            with contextlib.suppress(OSError, ValueError), open(os.devnull, "w") as nowhere:
                os.dup2(nowhere.fileno(), self._stream.fileno())


@contextlib.contextmanager
def kept() -> Iterator[Kept]:
    """Let standard output and standard error keep their errors; yield the former."""
    streams = sys.stdout, sys.stderr
    _fill_gaps()
    sys.stdout, sys.stderr = out, err = Kept(sys.stdout), Kept(sys.stderr)
    try:
        yield out
    finally:
        for stream in (out, err):
            stream.give_up()
        sys.stdout, sys.stderr = streams


def _fill_gaps() -> None:
    """Open what is closed of the descriptors 0, 1 and 2: a file of a run would get the number, and the output."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
