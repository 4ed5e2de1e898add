"""Damage to arrays and archives of arrays: headers, members, offsets, shapes and dtypes."""

from __future__ import annotations

import ast
import io
import json
import os
import pickle
import struct
import warnings
import zipfile
from typing import Any

import numpy as np
from damaged_texts import ESCAPES, damage_json
from mutations import Damage, Rng, flip_bits, one_of, truncate, zero_run

# ------------------------------------------------------------------------------- .npy, .npz


DTYPES = (
    *("<f8", ">f4", "<f2", "<f4", "|O", "<i4", "|i1", "<U10", "|S4", "|V4", "<c8", "<M8[s]", "|b1"),
    *("garbage", [("a", "<f4")], None, 7),
)


def _npy(header: str, body: bytes, version: tuple[int, int] = (1, 0)) -> bytes:
    text = header.encode("latin-1", "replace") + b"\n"
    return b"\x93NUMPY" + bytes(version) + struct.pack("<H", len(text) % 65536) + text + body


class _Evil:
    def __reduce__(self):
        return os.system, ("touch PWNED",)


def _shapes(shape: tuple[int, ...], rng: Rng) -> Any:
    n = shape[0] if shape else 1
    return one_of(
        rng,
        (
            (-1, *shape[1:]),
            (2**40, *shape[1:]),
            (2**62, 2**62),
            (0, *shape[1:]),
            shape[::-1],
            (*shape, 1),
            (1, *shape),
            (n * int(np.prod(shape[1:], dtype=int)),),
            (),
            (n - 1, *shape[1:]),
            (n + 1, *shape[1:]),
            (1.5, 2),
            "text",
            (True, *shape[1:]),
        ),
    )


def damage_npy(data: bytes, rng: Rng) -> Damage:
    length = struct.unpack("<H", data[8:10])[0]
    header, body = ast.literal_eval(data[10 : 10 + length].decode("latin-1")), data[10 + length :]
    choice = one_of(rng, ("descr", "shape", "shape", "order", "key", "version", "length", "pickle"))
    size = np.dtype(header["descr"]).itemsize * int(np.prod(header["shape"], dtype=int))
    if choice == "descr":
        header["descr"] = one_of(rng, DTYPES)
        what = f"dtype {header['descr']}"
    elif choice == "shape":
        header["shape"] = _shapes(header["shape"], rng)
        what = f"shape {header['shape']}"
    elif choice == "order":
        header["fortran_order"] = one_of(rng, (True, None, "yes"))
        what = f"fortran_order {header['fortran_order']}"
    elif choice == "key":
        header.pop(one_of(rng, sorted(header)))
        what = f"header {sorted(header)}"
    elif choice == "version":
        version = one_of(rng, ((2, 0), (3, 0), (9, 9), (0, 0)))
        return f"version {version}", _npy(str(header), body, version), True
    elif choice == "length":
        more = one_of(rng, (0, 1, 20_000, 65_535))
        return f"header of {more} bytes", data[:8] + struct.pack("<H", more) + data[10:], True
    else:
        header |= {"descr": "|O", "shape": (1,)}
        return "a pickle that runs a command", _npy(str(header), pickle.dumps(_Evil())), True
    try:
        told = size != np.dtype(header["descr"]).itemsize * int(np.prod(header["shape"]))
    except (TypeError, ValueError, KeyError, OverflowError):
        told = True
    return what, _npy(str(header), body), told


def _zip_parts(data: bytes) -> list[tuple[zipfile.ZipInfo, bytes]]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return [(info, archive.read(info)) for info in archive.infolist()]


def _zipped(parts: list[tuple[zipfile.ZipInfo, bytes]]) -> bytes:
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # names that occur twice are wanted
        with zipfile.ZipFile(file, "w") as archive:
            for info, content in parts:
                entry = zipfile.ZipInfo(info.filename)
                entry.compress_type = info.compress_type
                archive.writestr(entry, content)
    return file.getvalue()


def _member(content: bytes, name: str, rng: Rng) -> Damage:
    if content[:6] == b"\x93NUMPY" and rng.random() < 0.6:
        return damage_npy(content, rng)
    if name.endswith("data.pkl") and rng.random() < 0.3:
        return "a pickle that runs a command", pickle.dumps(_Evil(), protocol=2), True
    if not content:
        return "4 bytes instead of none", b"abcd", True
    mutator = one_of(rng, (flip_bits, truncate, zero_run))
    what, changed, _ = mutator(content, rng)
    return what, changed, mutator is truncate


def damage_zip(data: bytes, rng: Rng) -> Damage:
    """A member dropped, doubled, renamed, exchanged, or damaged with a right checksum."""
    parts = _zip_parts(data)
    place = int(rng.integers(len(parts)))
    info, content = parts[place]
    name = info.filename
    choice = one_of(rng, ("drop", "double", "rename", "exchange", "sizes", *["inside"] * 5))
    if choice == "drop":
        del parts[place]
        return f"{name} dropped", _zipped(parts), True
    if choice == "double":
        other = one_of(rng, parts)[1]
        return f"{name} twice", _zipped([*parts, (info, other)]), False
    if choice == "rename":
        new = one_of(rng, ("../../x", "/abs", name + "x", "", name.upper()))
        parts[place] = zipfile.ZipInfo(new), content
        return f"{name} named {new!r}", _zipped(parts), True
    if choice == "exchange":
        other = int(rng.integers(len(parts)))
        parts[place], parts[other] = (info, parts[other][1]), (parts[other][0], content)
        return f"{name} and {parts[other][0].filename} exchanged", _zipped(parts), False
    if choice == "sizes":  # in the central directory
        at = data.rfind(b"PK\x01\x02")
        field = one_of(rng, (16, 20, 24, 42))
        value = one_of(rng, (0, 1, 0xFFFFFFFF, 0x7FFFFFFF))
        changed = data[: at + field] + struct.pack("<I", value) + data[at + field + 4 :]
        return f"central directory: {value:#x} at {field}", changed, True
    what, changed, tellable = _member(content, name, rng)
    parts[place] = info, changed
    return f"{name}: {what} (right CRC)", _zipped(parts), tellable


# ------------------------------------------------------------------------------- safetensors


def _offsets(entry: dict[str, Any], rng: Rng) -> str:
    begin, end = entry["data_offsets"]
    entry["data_offsets"] = one_of(
        rng,
        (
            [end, begin],
            [begin, end - 4],
            [begin, end + 4],
            [-8, end],
            [begin, 2**63],
            [0, end - begin],
            [begin],
            ["a", "b"],
        ),
    )
    return f"offsets {entry['data_offsets']}"


def _tensor_shape(entry: dict[str, Any], rng: Rng) -> str:
    shape = entry["shape"]
    entry["shape"] = one_of(
        rng, (shape[::-1], [], [2**40], [-1], [0], [1, *shape], ["a"], None, [2**63, 2])
    )
    return f"shape {entry['shape']}"


def _tensor_dtype(entry: dict[str, Any], rng: Rng) -> str:
    entry["dtype"] = one_of(rng, ("F16", "F64", "I32", "BF16", "BOOL", "F8_E4M3", "X", 7))
    return f"dtype {entry['dtype']}"


def _resized(header: dict[str, Any], body: bytes, name: str, rng: Rng) -> Damage:
    """A tensor of half its values or other values, everything consistent."""
    from safetensors.numpy import load, save

    arrays = load(_safetensors(header, body))
    value = arrays[name]
    choice = one_of(rng, ("half", "row", "nan", "huge", "zero", "double", "scalar"))
    arrays[name] = {
        "half": lambda: value[: len(value) // 2] if value.ndim else value,
        "row": lambda: value[None],
        "nan": lambda: np.full_like(value, np.nan) if value.dtype.kind == "f" else value,
        "huge": lambda: np.full_like(value, 1e30) if value.dtype.kind == "f" else value,
        "zero": lambda: np.zeros_like(value),
        "double": lambda: value.astype(np.float64),
        "scalar": lambda: value.reshape(-1)[:1].reshape(()),
    }[choice]()
    arrays = {k: np.ascontiguousarray(v) if v.ndim else v for k, v in arrays.items()}
    return f"{name} {choice}", save(arrays), choice in ("half", "row", "nan", "scalar")


def _safetensors(header: Any, body: bytes) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def damage_safetensors(data: bytes, rng: Rng) -> Damage:
    length = struct.unpack("<Q", data[:8])[0]
    header, body = json.loads(data[8 : 8 + length]), data[8 + length :]
    names = sorted(set(header) - {"__metadata__"})
    name = one_of(rng, names)
    choice = one_of(
        rng,
        (
            *("offsets", "shape", "dtype", "remove", "rename", "length", "metadata", "json"),
            *("content", "content", "content"),
        ),
    )
    tellable = True
    if choice == "length":
        value = one_of(rng, (0, 1, 2**63, 2**64 - 1, 10**8 + 1, length - 1, length + 1))
        return f"header of {value} bytes", struct.pack("<Q", value) + data[8:], True
    if choice == "json":
        what, text, _ = damage_json(data[8 : 8 + length], rng)
        return f"header: {what}", struct.pack("<Q", len(text)) + text + body, True
    if choice == "content":
        return _resized(header, body, name, rng)
    if choice == "remove":
        header.pop(name)
        what = "removed"
    elif choice == "rename":
        new = one_of(rng, ("x", name + " ", ESCAPES, "", "../x"))
        header[new] = header.pop(name)
        what = f"named {new!r}"
    elif choice == "metadata":
        header["__metadata__"] = one_of(rng, ({"a": 1}, [], "x", {"a": "b" * 1000}, {"format": ""}))
        what = f"metadata {str(header['__metadata__'])[:30]}"
        tellable = False
    else:
        change = {"offsets": _offsets, "shape": _tensor_shape, "dtype": _tensor_dtype}[choice]
        what = change(header[name], rng)
    return f"{name}: {what}", _safetensors(header, body), tellable
