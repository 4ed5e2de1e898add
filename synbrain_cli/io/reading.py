"""One guard around every library that reads a file which may be damaged.

>>> with reading("trials.tsv", "a table"):
...     raise EOFError("no more bytes")
Traceback (most recent call last):
synbrain_cli.errors.MissingError: trials.tsv does not exist: expected a table, found nothing: ...
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from synbrain_cli.errors import DAMAGED, InputError, SynbrainError
from synbrain_cli.paths import require_regular_file

AGAIN = "copy or download the file again"


@contextlib.contextmanager
def reading(path: Path | str, expected: str = "a file", advice: str = AGAIN) -> Iterator[None]:
    """Convert every error of a library that reads a file to one that names the file.

    Parameters
    ----------
    path : path
    expected : str
        What the file should be, for the message: "a table".
    advice : str
        What the user can do about a damaged file.

    Raises
    ------
    MissingError, InputError
        When the file is absent, is no regular file, or cannot be read to its end.
    """
    require_regular_file(path, expected)
    try:
        yield
    except SynbrainError:
        raise
    except DAMAGED as error:
        raise damaged(path, error, advice) from error


def damaged(path: Path | str, error: Exception, advice: str = AGAIN) -> InputError:
    """Return the error for a file that cannot be read to its end."""
    reason = str(error) or type(error).__name__
    return InputError(f"{path}: truncated or damaged ({reason}): {advice}")
