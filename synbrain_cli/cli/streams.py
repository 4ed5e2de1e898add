"""Standard output and error: nothing that a terminal acts on, nothing that ends work half-way.

Names of files, cards of models and values of tables are printed as they are, except for what
`synbrain_cli.text.printable` escapes. Characters that a stream cannot encode are escaped, too.
Results that cannot be written are a fault that is said; progress that cannot be is not worth the
work it comes from.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from synbrain_cli.errors import SynbrainError
from synbrain_cli.text import printable


class StreamError(SynbrainError):
    """Standard output cannot be written."""


class SafeStream:
    """A text stream that escapes what a terminal would act on.

    Parameters
    ----------
    stream : text stream
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write text; the carriage returns of progress bars stay."""
        return self._try(
            self._stream.write, "\r".join(printable(part) for part in text.split("\r"))
        )

    def flush(self) -> None:
        """Write what is held back."""
        self._try(self._stream.flush)

    def writelines(self, lines: Any) -> None:
        """Write texts one after the other."""
        for line in lines:
            self.write(line)

    def _try(self, action: Any, *arguments: str) -> Any:
        return action(*arguments)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class Results(SafeStream):
    """Standard output."""

    def _try(self, action: Any, *arguments: str) -> Any:
        try:
            return action(*arguments)
        except BrokenPipeError:  # the reader has what it wants (`| head`)
            raise
        except OSError as error:
            raise StreamError(f"standard output cannot be written: {error.strerror}") from error


class Closed(Results):
    """Standard output that the shell closed."""

    def _try(self, action: Any, *arguments: str) -> Any:
        raise StreamError(
            "standard output is closed: send it to a file, or to /dev/null, and run the command "
            "again"
        )


class Log(SafeStream):
    """Standard error."""

    def _try(self, action: Any, *arguments: str) -> Any:
        with contextlib.suppress(OSError):
            return action(*arguments)


@contextlib.contextmanager
def safe_streams() -> Iterator[None]:
    """Replace standard output and error while the block runs."""
    before = sys.stdout, sys.stderr
    _fill_closed()
    streams = sys.stdout, sys.stderr
    for stream in streams:
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    results = Closed if before[0] is None else Results
    sys.stdout, sys.stderr = results(streams[0]), Log(streams[1])
    try:
        yield
    finally:
        sys.stderr.flush()
        sys.stdout, sys.stderr = streams
        _drop_unwritten(streams[0])


def write_out() -> None:
    """Write what standard output holds back.

    Raises
    ------
    StreamError
        When it is closed, or cannot be written.
    BrokenPipeError
        When its reader has gone.
    """
    sys.stdout.flush()


def _drop_unwritten(stream: TextIO) -> None:
    """Send what could not be written nowhere: the interpreter would try again as it ends."""
    try:
        stream.flush()
    except OSError:
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _fill_closed() -> None:
    """Open streams that the shell closed on nothing, lest files be opened under their numbers."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode))  # noqa: SIM115
