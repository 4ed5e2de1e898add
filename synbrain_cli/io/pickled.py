"""Pickled dictionaries of numbers in ``.npy`` files: read as data, and never run.

``np.save`` writes a dictionary as a pickle, which may name any function for its reader to call.
Here every such name but those of numpy's arrays and numbers is refused, and what numpy would be
called to rebuild is noted and rebuilt here: numpy trusts the state of a pickled dtype, so that a
malicious file could reach memory through it.

Large arrays stay on the disk, mapped into memory where they lie in the file.
"""

from __future__ import annotations

import math
import os
import pickle
import re
import struct
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, NamedTuple

import numpy as np

from synbrain_cli.errors import InputError
from synbrain_cli.io.reading import AGAIN, reading

LARGE = 1 << 16  # bytes from which on numbers stay on the disk: those, pickle writes by themselves
_DTYPE = re.compile(r"b1|[iuf][1248]")
_ORDERS = ("<", ">", "|", "=")
_ALLOWED = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    *((f"numpy.{core}.multiarray", "_reconstruct") for core in ("core", "_core")),
    *((f"numpy.{core}.multiarray", "scalar") for core in ("core", "_core")),
}


class _Span(NamedTuple):
    """Bytes that were left in the file."""

    start: int
    size: int


class _Noted:
    """Stands for a pickled array, dtype or number of numpy: what it was made of, and its state."""

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments
        self.state: tuple[Any, ...] = ()

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.state = state


def _latin1(text: Any, encoding: Any) -> bytes:
    """Return the bytes that Python 2's protocol of pickles writes as text."""
    if not (isinstance(text, str) and encoding == "latin1"):
        raise ValueError("text in an unknown encoding")
    return text.encode("latin1")


_Unpickler: Any = pickle._Unpickler  # the one in C cannot leave bytes where they are


class _Reader(_Unpickler):  # type: ignore[misc]
    """Unpickles plain values, notes the content of arrays, and calls nothing that a file names."""

    dispatch: ClassVar[dict[int, Any]] = dict(_Unpickler.dispatch)

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file)
        self._file = file
        self._size = os.fstat(file.fileno()).st_size

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("_codecs", "encode"):
            return _latin1
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"{module}.{name} is not a number or an array")
        return _Noted

    def _load_bytes(self, size: int) -> None:
        """Push bytes, or where they are: large ones lie outside the frames of the protocol."""
        at = self._file.tell()
        frame = self._unframer.current_frame
        left = len(frame.getvalue()) - frame.tell() if frame is not None else 0
        if size > self._size:
            raise EOFError(f"{size:,} bytes of a file of {self._size:,}")
        if size < LARGE or left:
            self.append(self.read(size))
            return
        if at + size > self._size:
            raise EOFError(f"{size:,} bytes from {at:,} on, of a file of {self._size:,}")
        self._file.seek(at + size)
        self.append(_Span(at, size))

    def load_binbytes8(self) -> None:
        self._load_bytes(struct.unpack("<Q", self.read(8))[0])

    def load_binbytes(self) -> None:
        self._load_bytes(struct.unpack("<I", self.read(4))[0])

    dispatch[pickle.BINBYTES8[0]] = load_binbytes8
    dispatch[pickle.BINBYTES[0]] = load_binbytes


class PickledDict:
    """A pickled dictionary of numbers, text, arrays and lists of these.

    Parameters
    ----------
    path : path
        ``.npy``, as ``np.save`` writes a dictionary.
    what : str
        What the file should be, for messages.

    Raises
    ------
    MissingError, InputError
        When the file is absent or damaged, or holds anything else.
    """

    def __init__(self, path: Path, what: str) -> None:
        self.path, self._what = path, what
        try:
            with reading(path, what, also=(RecursionError,)), path.open("rb") as file:
                self._content = _load(file)
                if not all(isinstance(name, str) for name in self._content):
                    raise ValueError("a dictionary whose keys are no names")
        except InputError as error:
            named = error.__cause__
            if isinstance(named, pickle.UnpicklingError) and "is not a number" in str(named):
                raise InputError(
                    f"{path}: expected {what} of numbers and text alone, found "
                    f"{str(named).split()[0][:80]}: nothing of the file was run or used; "
                    "compare it with the one that the program wrote"
                ) from error
            raise

    def __contains__(self, name: str) -> bool:
        """Whether there is an entry, and it is not None."""
        return self._content.get(name) is not None

    def keys(self) -> list[str]:
        """Return the names of the entries."""
        return list(self._content)

    def array(self, name: str) -> np.ndarray:
        """Return an array, or a number or a list of numbers as one; large ones as memory maps.

        Raises
        ------
        InputError
            When it is of anything else.
        """
        with reading(self.path, self._what, AGAIN):
            return _as_array(self._content[name], self.path)

    def arrays(self, name: str) -> list[np.ndarray]:
        """Return a list of arrays.

        Raises
        ------
        InputError
        """
        with reading(self.path, self._what, AGAIN):
            values = self._content[name]
            if not isinstance(values, list):
                raise ValueError(f"{name} is no list")
            return [_as_array(one, self.path) for one in values]

    def inner(self, name: str) -> PickledDict | None:
        """Return an entry that is a dictionary; None where it is none."""
        inner = self._content.get(name)
        if not isinstance(inner, dict):
            return None
        found = PickledDict.__new__(PickledDict)
        found.path, found._what, found._content = self.path, self._what, inner
        return found


def read_codes(path: Path) -> dict[int, Any]:
    """Read a pickled dictionary whose keys are whole numbers.

    Raises
    ------
    Exceptions of `synbrain_cli.errors.DAMAGED`
        When the file is damaged, or holds anything else.
    """
    with path.open("rb") as file:
        content = _load(file)
    return {
        int(_as_array(code, path)) if isinstance(code, _Noted) else int(code): value
        for code, value in content.items()
    }


def _load(file: BinaryIO) -> dict[Any, Any]:
    version = np.lib.format.read_magic(file)
    read_header = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }[version]
    shape, _, dtype = read_header(file)
    if shape != () or dtype.kind != "O":
        raise ValueError(f"an array of {dtype} of shape {shape}, and no dictionary")
    (content,) = _state(_Reader(file).load(), 5)[4]
    if not isinstance(content, dict):
        raise ValueError("something else than a dictionary")
    return content


def _state(noted: Any, n: int) -> tuple[Any, ...]:
    if not isinstance(noted, _Noted) or not isinstance(noted.state, tuple) or len(noted.state) < n:
        raise ValueError(f"something else than an array: {type(noted).__name__.strip('_')}")
    return noted.state


def _dtype(noted: Any) -> np.dtype:
    """A type of numbers; any other is refused."""
    _, order, *_ = _state(noted, 2)
    name = noted.arguments[0] if noted.arguments else None
    if not (isinstance(name, str) and _DTYPE.fullmatch(name)) or order not in _ORDERS:
        raise ValueError(f"values of the type {str(name)[:20]}, which are no numbers")
    return np.dtype(name if order == "|" else f"{order}{name}")


def _as_array(value: Any, path: Path) -> np.ndarray:
    """Return an array of numbers from what was noted."""
    if isinstance(value, bool | int | float):
        return np.array(value)
    if isinstance(value, list):
        return np.array([_as_array(one, path)[()] for one in value])
    if isinstance(value, _Noted) and len(value.arguments) == 2 and not value.state:
        dtype, content = _dtype(value.arguments[0]), value.arguments[1]
        if not isinstance(content, bytes) or len(content) != dtype.itemsize:
            raise ValueError("a number of another size")
        return np.frombuffer(content, dtype)[0]
    _, shape, kind, is_fortran, content = _state(value, 5)[:5]
    dtype = _dtype(kind)
    order: Any = "F" if is_fortran else "C"
    if not isinstance(shape, tuple) or not all(type(n) is int and n >= 0 for n in shape):
        raise ValueError("an array without a shape")
    n_bytes = math.prod(shape) * dtype.itemsize
    if isinstance(content, _Span) and content.size == n_bytes:
        return np.memmap(path, dtype, "r", content.start, shape, order)
    if not isinstance(content, bytes) or len(content) != n_bytes:
        raise ValueError(f"other bytes than those of an array of shape {shape}")
    return np.frombuffer(content, dtype).reshape(shape, order=order)
