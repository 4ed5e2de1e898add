"""One guard around every library that reads a file which may be damaged.

>>> with reading("trials.tsv", "a table"):
...     raise EOFError("no more bytes")
Traceback (most recent call last):
synbrain_cli.errors.MissingError: trials.tsv does not exist: expected a table, found nothing: ...
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

from isal import isal_zlib
from nibabel.filebasedimages import ImageFileError
from nibabel.freesurfer.mghformat import MGHError
from nibabel.imageglobals import logger as nibabel_logger
from nibabel.spatialimages import HeaderDataError

from synbrain_cli.errors import DAMAGED, InputError, SynbrainError
from synbrain_cli.paths import require_regular_file

AGAIN = "copy or download the file again"
# What the libraries raise that read files for io/, beside the exceptions of Python.
_DAMAGED = (*DAMAGED, isal_zlib.error, ImageFileError, HeaderDataError, MGHError)
# nibabel prints each repair of a header on stderr. Headers are checked in volume.py instead, and
# readers run in threads, where neither handlers nor filters can be set for a while.
nibabel_logger.handlers[:] = [logging.NullHandler()]
warnings.filterwarnings("ignore", "Extension size is not a multiple of 16", UserWarning)
warnings.filterwarnings("ignore", "Actual # of data arrays does not match", UserWarning)  # GIFTI


@contextlib.contextmanager
def reading(
    path: Path | str,
    expected: str = "a file",
    advice: str = AGAIN,
    also: tuple[type[Exception], ...] = (),
) -> Iterator[None]:
    """Convert every error of a library that reads a file to one that names the file.

    Parameters
    ----------
    path : path
    expected : str
        What the file should be, for the message: "a table".
    advice : str
        What the user can do about a damaged file.
    also : tuple of exceptions
        Those of a library that only this reader uses.

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
    except (*_DAMAGED, *also) as error:
        raise InputError(
            f"{path}: truncated or damaged, or not {expected} "
            f"({str(error) or type(error).__name__}): {advice}"
        ) from error
