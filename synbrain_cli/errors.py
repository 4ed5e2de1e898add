"""Faults that a user can mend.

Raise one of these at the boundary and say what was expected, what was found, in which file, and
what to do next. The command line prints the message on one line and exits with 1; any other
exception is a bug and keeps its traceback.
"""

import pickle
import struct
import tokenize
import zipfile
import zlib
from xml.parsers.expat import ExpatError

# What reading a file that is truncated, altered or of another kind raises, by whichever format:
# streams and archives, headers, pickles, XML, and code that meets values it did not expect.
# Readers add the exceptions of the library they read with, and let `SynbrainError` pass.
DAMAGED: tuple[type[Exception], ...] = (
    OSError,
    EOFError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    RuntimeError,
    AssertionError,
    zlib.error,
    zipfile.BadZipFile,
    struct.error,
    pickle.UnpicklingError,
    tokenize.TokenError,
    ExpatError,
)


class SynbrainError(Exception):
    """Base of every error that synbrain raises on purpose."""


class InputError(SynbrainError, ValueError):
    """A value, an array or the content of a file is not what it must be."""


class InputTypeError(SynbrainError, TypeError):
    """An argument is of a kind that is not accepted."""


class MissingError(SynbrainError, FileNotFoundError):
    """A file, folder, subject, session or model is not where it was looked for."""


class BusyError(SynbrainError, RuntimeError):
    """Another process is writing in the same folder."""
