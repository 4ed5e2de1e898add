"""Errors that a user can correct.

Each is raised where input enters the program, with a message that states what was expected, what
was found, in which file, and what to do next. The command line prints the message on one line and
exits with status 1; any other exception is a bug and keeps its traceback.
"""

import csv
import lzma
import pickle
import struct
import tokenize
import zipfile
import zlib
from xml.parsers.expat import ExpatError

# Exceptions that occur while a truncated, altered or unrelated file is read, in any format:
# streams and archives, headers (sizes that overflow, or that no memory can hold), pickles, XML,
# tables, literals, and code that meets unexpected values. Warnings are among them where Python is
# told to raise them. Readers add the exceptions of the library they use, and do not intercept
# `SynbrainError`.
DAMAGED: tuple[type[Exception], ...] = (
    OSError,
    EOFError,
    ValueError,
    ArithmeticError,
    LookupError,
    TypeError,
    AttributeError,
    RuntimeError,
    AssertionError,
    MemoryError,
    BufferError,
    SyntaxError,
    SystemError,
    Warning,
    zlib.error,
    lzma.LZMAError,
    zipfile.BadZipFile,
    struct.error,
    pickle.UnpicklingError,
    tokenize.TokenError,
    csv.Error,
    ExpatError,
)


class SynbrainError(Exception):
    """Base of every error that synbrain raises on purpose."""


class InputError(SynbrainError, ValueError):
    """A value, an array or the content of a file is not as required."""


class InputTypeError(SynbrainError, TypeError):
    """An argument is of a type that is not accepted."""


class MissingError(SynbrainError, FileNotFoundError):
    """A file, folder, subject, session or model was not found."""


class AlignmentError(InputError):
    """Responses do not fit the images of their trials."""


class BusyError(SynbrainError, RuntimeError):
    """Another process is writing in the same folder."""
