"""What the command writes to its terminal, pipe or file, and what happens when that fails."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from typing import Any, TextIO, cast


class LenientStream:
    """A text stream that goes on when it cannot be written to: a training is worth more than it.

    Args:
        stream: what is written to.

    Attributes:
        failure: why the first text was lost that was.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.failure: OSError | None = None
        with suppress(AttributeError, ValueError):
            # A letter that the terminal does not have is no reason to stop, either.
            cast(Any, stream).reconfigure(errors="backslashreplace")

    def write(self, text: str) -> int:
        """Writes a text, or drops it."""
        if self.failure is None:
            try:
                return self._stream.write(text)
            except OSError as error:
                self._fail(error)
        return len(text)

    def flush(self) -> None:
        """Flushes the stream, if it still takes anything."""
        if self.failure is None:
            try:
                self._stream.flush()
            except OSError as error:
                self._fail(error)

    def _fail(self, error: OSError) -> None:
        self.failure = error
        # What is still in its buffer would fail once more when Python ends.
        with suppress(OSError, ValueError, AttributeError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)


@contextmanager
def lenient_output() -> Iterator[LenientStream]:
    """Lets everything in a ``with`` block write through `LenientStream`, and gives that of stdout.

    A stream that was closed before the command began takes everything and keeps nothing.
    """
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        out, err = (LenientStream(stream or nowhere) for stream in (sys.stdout, sys.stderr))
        with redirect_stdout(cast(TextIO, out)), redirect_stderr(cast(TextIO, err)):
            try:
                yield out
            finally:
                out.flush()
                err.flush()


def one_line(text: str) -> str:
    """A text without characters that begin a line or move the cursor: they are escaped."""
    return "".join(c if c.isprintable() or c in " " else repr(c)[1:-1] for c in text)
