"""Arrays of numbers in MATLAB's files of version 5 to 7, checked to their last byte.

SciPy's reader ends the process, by a signal, on some damaged files; this one knows numbers alone.
Format: MathWorks, "MAT-File Level 5 File Format".
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

_NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8"} | {
    12: "i8",
    13: "u8",
}
_INT8, _INT32, _UINT32, _MATRIX, _COMPRESSED = 1, 5, 6, 14, 15
_NUMERIC_CLASSES = range(6, 16)  # double to uint64
_COMPLEX = 0x0800
_HEADER = 128


def read_mat(path: Path) -> dict[str, np.ndarray]:
    """Read the real arrays of a ``.mat`` file, in the types in which they are stored.

    Text, structures and other contents are passed over.

    Parameters
    ----------
    path : path

    Returns
    -------
    dict
        Name → array.

    Raises
    ------
    ValueError, struct.error, zlib.error
        When the file is of another format, or damaged.
    """
    content = path.read_bytes()
    order = {b"IM": "<", b"MI": ">"}.get(content[126:_HEADER])
    if order is None or struct.unpack(f"{order}H", content[124:126])[0] >> 8 != 1:
        raise ValueError("not of MATLAB 5 to 7: save it with save -v7")
    found = {}
    for kind, data in _elements(content[_HEADER:], order):
        if kind == _COMPRESSED:
            ((kind, data),) = _elements(zlib.decompress(data), order)
        if kind != _MATRIX:
            raise ValueError(f"an element of the unknown type {kind}")
        variable = _read_matrix(data, order)
        if variable is not None:
            name, values = variable
            found[name] = values
    return found


def _elements(content: bytes, order: str) -> Iterator[tuple[int, bytes]]:
    """Yield the type and the content of each element of a file or of a matrix."""
    at = 0
    while at < len(content):
        (first,) = struct.unpack_from(f"{order}I", content, at)
        if first >> 16:  # up to four bytes are stored in the tag itself
            kind, n_bytes, start, after = first & 0xFFFF, first >> 16, at + 4, at + 8
        else:
            kind = first
            (n_bytes,) = struct.unpack_from(f"{order}I", content, at + 4)
            start = at + 8
            after = start + n_bytes + (-n_bytes % 8 if kind != _COMPRESSED else 0)
        if start + n_bytes > len(content) or (first >> 16 and n_bytes > 4):
            raise ValueError(f"an element of {n_bytes:,} bytes goes beyond its end")
        yield kind, content[start : start + n_bytes]
        at = after


def _read_matrix(content: bytes, order: str) -> tuple[str, np.ndarray] | None:
    """Return the name and the values of a variable; None for what is no array of real numbers."""
    elements = _elements(content, order)
    flags, dimensions, name = (next(elements, (0, b"")) for _ in range(3))
    if (flags[0], dimensions[0], name[0]) != (_UINT32, _INT32, _INT8):
        raise ValueError("a variable without its size and name")
    (flag,) = struct.unpack_from(f"{order}I", flags[1])
    if flag & 0xFF not in _NUMERIC_CLASSES or flag & _COMPLEX:
        return None
    shape = tuple(np.frombuffer(dimensions[1], f"{order}i4").tolist())
    kind, data = next(elements, (0, b""))
    if kind not in _NUMBERS:
        raise ValueError(f"numbers of the unknown type {kind}")
    dtype = np.dtype(order + _NUMBERS[kind])
    if min(shape, default=-1) < 0 or math.prod(shape) * dtype.itemsize != len(data):
        raise ValueError(f"{len(data):,} bytes of numbers for an array of shape {shape}")
    values = np.frombuffer(data, dtype).astype(dtype.newbyteorder("="))
    return name[1].decode("ascii"), values.reshape(shape, order="F")
