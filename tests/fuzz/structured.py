"""Damage that knows the format: JSON, tables, headers of arrays and volumes, archives, images."""

from __future__ import annotations

import ast
import io
import json
import os
import pickle
import re
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import scipy.io
from mutations import (
    FILE_SYSTEM,
    ByteMutator,
    Damage,
    Mutation,
    Rng,
    Victim,
    as_mutator,
    damage_bytes,
    flip_bits,
    inside_gzip,
    one_of,
    truncate,
    zero_run,
)
from PIL import Image

NUMBERS = (0, -1, 1, 2, 0.5, -0.0, 1e308, -1e308, 1e30, 5e-324, 2**31, 2**63, 2**64, 10**400)
ESCAPES = "\x1b[31m\x1b]0;owned\x07\x9b2J"
STRINGS = (
    *("", " ", "x" * 100_000, ESCAPES, "a\nb\rc\td", "nul\0", "\ud800", "é" * 300, "‮gpj.exe"),
    *("../../../etc/passwd", "/dev/zero", "/etc/passwd", ".", "..", "a/b", "~/x", "-rf", "{0}%s"),
    *("NaN", "1e999", "None", "sub-01", "<script>alert(1)</script>"),
)


# -------------------------------------------------------------------------------------- JSON


def _nodes(value: Any, path: tuple = ()) -> list[tuple]:
    found = [path] if path else []
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = list(enumerate(value))[:20]
    else:
        items = ()
    for key, inner in items:
        found += _nodes(inner, (*path, key))
    return found


def _set(content: Any, path: tuple, value: Any) -> None:
    for key in path[:-1]:
        content = content[key]
    content[path[-1]] = value


def _get(content: Any, path: tuple) -> Any:
    for key in path:
        content = content[key]
    return content


def _remove(content: Any, path: tuple) -> None:
    del _get(content, path[:-1])[path[-1]]


def _other_type(value: Any, rng: Rng) -> Any:
    others = [7, 0.25, "text", True, None, [], {}, [1, "a"], {"a": 1}, [[[]]]]
    return one_of(rng, [o for o in others if type(o) is not type(value)])


def _nested(depth: int) -> str:
    return "[" * depth + "]" * depth


def _json_whole(content: Any, text: str, rng: Rng) -> Damage:
    """The whole file instead of a field."""
    key = json.dumps(next(iter(content))) if isinstance(content, dict) and content else '"a"'
    what, changed = one_of(
        rng,
        (
            ("a list instead", "[]"),
            ("text instead", '"text"'),
            ("a number instead", "7"),
            ("null instead", "null"),
            ("an empty object instead", "{}"),
            ("nested 100,000 deep", _nested(100_000)),
            ("a key twice", text.rstrip().rstrip("}") + f",{key}: null}}"),
            ("a byte order mark", "\ufeff" + text),
            ("two documents", text + text),
            ("a comment", "// c\n" + text),
        ),
    )
    return what, changed.encode("utf-8", "surrogatepass"), True


def damage_json(data: bytes, rng: Rng) -> Damage:
    text = data.decode("utf-8")
    content = json.loads(text)
    nodes = _nodes(content)
    if not nodes or rng.random() < 0.1:
        return _json_whole(content, text, rng)
    if rng.random() < 0.05:
        encoding = one_of(rng, ("utf-16", "utf-32", "cp500"))
        return f"in {encoding}", text.encode(encoding), True
    top = [node for node in nodes if len(node) == 1]
    path = one_of(rng, top if rng.random() < 0.4 else nodes)
    old = _get(content, path)
    choice = one_of(rng, ("remove", "null", "type", "type", "number", "text", "text", "nan", "key"))
    tellable = choice in ("null", "type", "nan") and old is not None
    if choice == "remove":
        _remove(content, path)
        what = "removed"
    elif choice == "key":
        name = one_of(rng, STRINGS)
        _get(content, path[:-1]) if len(path) > 1 else content
        holder = _get(content, path[:-1])
        if isinstance(holder, dict):
            holder[name] = old
        else:
            holder.append(old)
        what = f"also as {name[:30]!r}"
    else:
        value = {
            "null": lambda: None,
            "type": lambda: _other_type(old, rng),
            "number": lambda: one_of(rng, NUMBERS),
            "text": lambda: one_of(rng, STRINGS),
            "nan": lambda: one_of(rng, (float("nan"), float("inf"), -float("inf"))),
        }[choice]()
        _set(content, path, value)
        what = f"= {str(value)[:30]!r}"
    where = ".".join(map(str, path))[:80]
    changed = json.dumps(content, indent=2, ensure_ascii=bool(rng.random() < 0.5))
    return f"{where} {what}", changed.encode("utf-8", "replace"), tellable


# ------------------------------------------------------------------------------------ tables


CELLS = (
    *("", "NA", "nan", "inf", "-inf", "1e30", "1e999", "-1", "0", "1.5", "1,5", "0x1", "1_000"),
    *("9" * 400, "9223372036854775808", "True", "x" * 100_000, ESCAPES, "nul\0", "../../secret"),
    *("/etc/passwd", "é", " 1 ", "=1+1", '"', '"unclosed', "a\rb", "\u2028", "test", "sub-01"),
)
_IMPOSSIBLE = ("inf", "-inf", "1e30", "1e999", "9" * 400, '"unclosed', "nul\0")
_NUMERIC = ("session", "repeat", "ncsnr", "trial", "i", "j", "k")


def _cell(rows: list[list[str]], rng: Rng) -> tuple[int, int]:
    row = int(rng.integers(1, len(rows))) if len(rows) > 1 else 0
    return row, int(rng.integers(max(1, len(rows[row]))))


def _damage_cell(rows: list[list[str]], rng: Rng) -> tuple[str, bool]:
    row, column = _cell(rows, rng)
    value = one_of(rng, CELLS)
    if rng.random() < 0.2:  # a whole column
        for cells in rows[1:]:
            if column < len(cells):
                cells[column] = value
    elif column < len(rows[row]):
        rows[row][column] = value
    name = rows[0][column] if column < len(rows[0]) else ""
    return f"row {row}, {name} = {value[:20]!r}", value in _IMPOSSIBLE and name in _NUMERIC


def _drop_cell(rows: list[list[str]], rng: Rng) -> tuple[str, bool]:
    row, column = _cell(rows, rng)
    del rows[row][column]
    return f"row {row}: cell {column} dropped", True


def _add_cell(rows: list[list[str]], rng: Rng) -> tuple[str, bool]:
    row, column = _cell(rows, rng)
    rows[row].insert(column, "more")
    return f"row {row}: a cell more at {column}", True


def _row_names(rows: list[list[str]], rng: Rng) -> tuple[str, bool]:
    """As R's write.table: one more cell than the header in every row."""
    for number, row in enumerate(rows[1:], start=1):
        row.insert(0, f'"{number}"' if rng.random() < 0.5 else str(number))
    return "row names without a header", True


def _double_header(rows: list[list[str]], rng: Rng) -> tuple[str, bool]:
    column = int(rng.integers(len(rows[0])))
    for row in rows:
        row.append(row[column] if row is rows[0] else one_of(rng, ("1", "x", "test")))
    return f"column {rows[0][column]} twice", True


def _rename_header(rows: list[list[str]], rng: Rng) -> tuple[str, bool]:
    column = int(rng.integers(len(rows[0])))
    name = one_of(rng, ("", "x", rows[0][column].upper(), f" {rows[0][column]} ", ESCAPES, "model"))
    what = f"column {rows[0][column]} named {name!r}"
    rows[0][column] = name
    return what, False


def _drop_column(rows: list[list[str]], rng: Rng) -> tuple[str, bool]:
    column = int(rng.integers(len(rows[0])))
    what = f"column {rows[0][column]} dropped"
    for row in rows:
        del row[column : column + 1]
    return what, False


def _drop_rows(rows: list[list[str]], rng: Rng) -> tuple[str, bool]:
    n = len(rows)
    keep = one_of(rng, (1, 2, n - 1))
    del rows[keep:]
    return f"{keep} of {n} lines kept", False


def _swap_rows(rows: list[list[str]], rng: Rng) -> tuple[str, bool]:
    a, b = (int(rng.integers(len(rows))) for _ in range(2))
    rows[a], rows[b] = rows[b], rows[a]
    return f"lines {a} and {b} exchanged", a == 0 or b == 0


def _repeat_row(rows: list[list[str]], rng: Rng) -> tuple[str, bool]:
    row = int(rng.integers(len(rows)))
    rows.insert(row, list(rows[row]))
    return f"line {row} twice", row == 0


def _blank_line(rows: list[list[str]], rng: Rng) -> tuple[str, bool]:
    row = int(rng.integers(len(rows) + 1))
    rows.insert(row, [one_of(rng, ("", " ", "# comment"))])
    return f"line {row}: {rows[row][0]!r}", True


ROWS = (
    *(_damage_cell, _damage_cell, _damage_cell, _drop_cell, _add_cell, _row_names),
    *(_double_header, _rename_header, _drop_column, _drop_rows, _swap_rows, _repeat_row),
    _blank_line,
)


def _reencode(text: str, rng: Rng) -> Damage:
    what, changed = one_of(
        rng,
        (
            ("CRLF", text.replace("\n", "\r\n").encode()),
            ("CR alone", text.replace("\n", "\r").encode()),
            ("a byte order mark", b"\xef\xbb\xbf" + text.encode()),
            ("UTF-16", text.encode("utf-16")),
            ("no newline at the end", text.rstrip("\n").encode()),
            ("a Latin-1 letter", text.encode().replace(b"a", b"\xe9", 1)),
            ("semicolons", text.replace("\t", ";").encode()),
            ("spaces", text.replace("\t", "  ").encode()),
            ("a separator at every end", text.replace("\n", "\t\n").encode()),
            ("every cell quoted", re.sub(r"[^\t\n]+", r'"\g<0>"', text).encode()),
            ("without its header", text.partition("\n")[2].encode()),
            ("NUL bytes between", "\0".join(text[:2000]).encode()),
        ),
    )
    return what, changed, what in ("CRLF", "a byte order mark", "no newline at the end", "UTF-16")


def _table_mutator(separator: str) -> ByteMutator:
    def damage(data: bytes, rng: Rng) -> Damage:
        text = data.decode("utf-8")
        if rng.random() < 0.2:
            return _reencode(text, rng)
        rows = [line.split(separator) for line in text.splitlines()] or [[""]]
        what, tellable = one_of(rng, ROWS)(rows, rng)
        changed = "\n".join(separator.join(row) for row in rows) + "\n"
        return what, changed.encode("utf-8"), tellable

    return damage


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


# ------------------------------------------------------------------- headers of volumes


SHORTS = (0, -1, 1, 2, 3, 7, 8, 64, 127, 128, 256, 511, 512, 1792, 2304, 32767, -32768)
FLOATS = (0.0, -1.0, 1.0, 351.0, 353.5, 1e9, 2.0**31, 1e30, 1e-30, np.nan, np.inf, -np.inf)
INTS = (0, -1, 1, 2, 3, 4, 5, 100, 2**31 - 1, -(2**31), 348, 540, 65536)
# Offset, format, how many; whether it is told by the rest of the file.
NIFTI = {
    "sizeof_hdr": (0, "i", 1, True),
    "dim": (40, "h", 8, True),
    "datatype": (70, "h", 1, True),
    "bitpix": (72, "h", 1, True),
    "pixdim": (76, "f", 8, False),
    "vox_offset": (108, "f", 1, True),
    "scl_slope": (112, "f", 1, False),
    "scl_inter": (116, "f", 1, False),
    "xyzt_units": (123, "b", 1, False),
    "qform_code": (252, "h", 1, False),
    "sform_code": (254, "h", 1, False),
    "quatern": (256, "f", 3, False),
    "qoffset": (268, "f", 3, False),
    "srow": (280, "f", 12, False),
    "magic": (344, "i", 1, True),
    "extension": (348, "i", 1, True),
}
MGH = {
    "version": (0, "i", 1, True),
    "size": (4, "i", 4, True),
    "type": (20, "i", 1, True),
    "dof": (24, "i", 1, False),
    "goodRASflag": (28, "h", 1, False),
    "delta": (30, "f", 3, False),
    "Mdc": (42, "f", 9, False),
    "Pxyz_c": (78, "f", 3, False),
}


def _header_mutator(fields: dict[str, tuple], order: str) -> ByteMutator:
    def damage(data: bytes, rng: Rng) -> Damage:
        name = one_of(rng, sorted(fields))
        start, kind, n, tellable = fields[name]
        entry = int(rng.integers(n))
        at = start + entry * struct.calcsize(kind)
        values = {"h": SHORTS, "f": FLOATS, "i": INTS, "b": (0, -1, 7, 127)}[kind]
        value = one_of(rng, values)
        packed = struct.pack(order + kind, value)
        same = data[at : at + len(packed)] == packed
        changed = data[:at] + packed + data[at + len(packed) :]
        where = f"{name}[{entry}]" if n > 1 else name
        return f"{where} = {value}", changed, tellable and not same

    return damage


damage_nifti = _header_mutator(NIFTI, "<")
damage_mgh = _header_mutator(MGH, ">")


def damage_gifti(data: bytes, rng: Rng) -> Damage:
    text = data.decode("utf-8")
    bomb = '<!DOCTYPE G [<!ENTITY a "aaaaaaaaaa">' + "".join(
        f'<!ENTITY {b} "{f"&{a};" * 10}">' for a, b in zip("abcdefgh", "bcdefghi", strict=True)
    )
    what, pattern, new = one_of(
        rng,
        (
            ("Dim0", r'Dim0="\d+"', f'Dim0="{one_of(rng, ("-1", "0", "1", "99999999999", "x"))}"'),
            ("DataType", r'DataType="\w+"', 'DataType="NIFTI_TYPE_FLOAT64"'),
            ("DataType", r'DataType="\w+"', 'DataType="NIFTI_TYPE_NONE"'),
            ("Encoding", r'Encoding="\w+"', 'Encoding="ASCII"'),
            ("Encoding", r'Encoding="\w+"', 'Encoding="ExternalFileBinary"'),
            ("Endian", r'Endian="\w+"', 'Endian="BigEndian"'),
            ("Dimensionality", r'Dimensionality="\d+"', 'Dimensionality="3"'),
            ("body", r"<Data>.{40}", "<Data>"),
            ("entities", r"<GIFTI", bomb + "]>\n<GIFTI"),
            ("no arrays", r"(?s)<DataArray.*</DataArray>", ""),
        ),
    )
    changed = re.sub(pattern, lambda match: new, text, count=1)
    told = changed != text and what not in ("entities", "Endian")
    return f"{what}: {new[:40]}", changed.encode(), told


# --------------------------------------------------------------------------- HDF5 and MATLAB


def _others(values: np.ndarray, rng: Rng) -> tuple[str, Any, bool]:
    """Something else in place of an array; whether its type or shape tells."""
    choices: tuple[tuple[str, Callable[[], Any], bool], ...] = (
        ("text", lambda: np.full(values.shape, b"text"), True),
        ("variable text", lambda: np.full(values.shape, "text", dtype=object), True),
        ("one number", lambda: np.float64(7), True),
        ("empty", lambda: values[:0], True),
        ("transposed", lambda: values.T, False),
        ("one axis more", lambda: values[..., None], False),
        ("one axis", lambda: values.ravel(), values.ndim > 1),
        ("double precision", lambda: values.astype(np.float64), False),
        ("8 bits", lambda: values.astype(np.int8), False),
        ("booleans", lambda: values.astype(bool), False),
        ("complex", lambda: values.astype(np.complex64), True),
        ("records", lambda: np.zeros(values.shape, [("a", "f4")]), True),
        ("not a number", lambda: np.full(values.shape, np.nan), True),
        ("infinite", lambda: np.full(values.shape, np.inf), True),
        ("1e30", lambda: np.full(values.shape, 1e30), False),
        ("negative", lambda: -values.astype(np.float64), False),
        ("fewer", lambda: values[:-1], True),
        ("zeros", lambda: np.zeros_like(values), False),
    )
    what, make, tellable = one_of(rng, choices)
    return what, make(), tellable


def _damage_dataset(file: h5py.File, name: str, rng: Rng) -> tuple[str, bool]:
    choice = one_of(rng, ("values", "values", "values", "rename", "delete", "group", "link", "ref"))
    values = file[name][()]
    del file[name]
    if choice == "rename":
        file[one_of(rng, ("x", "betas2", "é"))] = values
        return "renamed", True
    if choice == "delete":
        return "deleted", True
    if choice == "group":
        file.create_group(name)["inner"] = values
        return "a group", True
    if choice == "link":
        target = one_of(rng, ("/etc/passwd", "/dev/zero", "nothing.h5", ""))
        file[name] = h5py.ExternalLink(target, "/x") if target else h5py.SoftLink(f"/{name}")
        return f"a link to {target or 'itself'}", True
    if choice == "ref":
        data = file.create_dataset(name, values.shape[:1], dtype=h5py.ref_dtype)
        data[...] = file.ref
        return "references", True
    what, other, tellable = _others(values, rng)
    try:
        file[name] = other
    except TypeError:
        file[name] = "text"
        return "text", True
    return what, tellable


def damage_hdf5(victim: Victim, rng: Rng) -> Mutation:
    data = io.BytesIO(victim.path.read_bytes())
    with h5py.File(data, "r+") as file:
        found: list[str] = []
        file.visititems(lambda n, x: found.append(n) if isinstance(x, h5py.Dataset) else None)
        name = one_of(rng, found)
        what, tellable = _damage_dataset(file, name, rng)
    victim.rewrite(data.getvalue())
    return Mutation(f"{name}: {what}", tellable)


def damage_mat(victim: Victim, rng: Rng) -> Mutation:
    content = {k: v for k, v in scipy.io.loadmat(victim.path).items() if not k.startswith("__")}
    name = one_of(rng, sorted(content))
    if rng.random() < 0.2:
        del content[name]
        what, tellable = "deleted", True
    else:
        what, content[name], tellable = _others(content[name], rng)
    file = io.BytesIO()
    try:
        scipy.io.savemat(file, content)
    except (TypeError, ValueError):
        content[name] = "text"
        scipy.io.savemat(file, content)
    victim.rewrite(file.getvalue())
    return Mutation(f"{name}: {what}", tellable)


# ------------------------------------------------------------------------------------- images


def _png_size(victim: Victim, rng: Rng) -> Mutation:
    """A PNG whose header promises other sizes, with a right checksum."""
    file = io.BytesIO()
    Image.open(victim.path).convert("RGB").save(file, "PNG")
    data = file.getvalue()
    width, height = one_of(rng, ((2**31 - 1, 2**31 - 1), (30_000, 30_000), (0, 0), (1, 200)))
    header = b"IHDR" + struct.pack(">II", width, height) + data[24:29]
    checksum = struct.pack(">I", zlib.crc32(header))
    victim.rewrite(data[:12] + header + checksum + data[33:])
    return Mutation(f"a PNG that says {width} × {height}", tellable=width != 1)


def damage_image(victim: Victim, rng: Rng) -> Mutation:
    if rng.random() < 0.25:
        return _png_size(victim, rng)
    image = Image.open(victim.path).convert("RGB")
    grey = np.asarray(image.convert("L"))
    what, make, kind = one_of(
        rng,
        (
            ("16 bits", lambda: Image.fromarray(grey.astype(np.uint16)), "PNG"),
            ("32 bits", lambda: Image.fromarray(grey.astype(np.int32)), "TIFF"),
            ("floats", lambda: Image.fromarray(grey.astype(np.float32)), "TIFF"),
            ("CMYK", lambda: image.convert("CMYK"), "JPEG"),
            ("palette", lambda: image.convert("P"), "GIF"),
            ("one bit", lambda: image.convert("1"), "PNG"),
            ("transparent", lambda: image.convert("RGBA"), "PNG"),
            ("1 × 1", lambda: image.resize((1, 1)), "PNG"),
            ("1 × 3000", lambda: image.resize((1, 3000)), "PNG"),
            ("PPM", lambda: image, "PPM"),
            ("ICO", lambda: image.resize((16, 16)), "ICO"),
        ),
    )
    file = io.BytesIO()
    make().save(file, kind)
    victim.rewrite(file.getvalue())
    return Mutation(f"{what}, as {kind}", tellable=False)


# ------------------------------------------------------------------------------------- choice


def _markdown(data: bytes, rng: Rng) -> Damage:
    what = one_of(rng, (ESCAPES, "\0", "x" * 100_000, "é\ud800", "<script>"))
    return f"{what[:20]!r} at the end", data + what.encode("utf-8", "surrogatepass"), False


_json, _zip, _npy_file = as_mutator(damage_json), as_mutator(damage_zip), as_mutator(damage_npy)
_image = (damage_image,)
STRUCTURED: dict[str, tuple[Callable[[Victim, Rng], Mutation], ...]] = {
    ".json": (_json,),
    ".tsv": (as_mutator(_table_mutator("\t")),),
    ".csv": (as_mutator(_table_mutator(",")),),
    ".npy": (_npy_file,),
    ".npz": (_zip,),
    ".pt": (_zip,),
    ".pth": (_zip,),
    ".safetensors": (as_mutator(damage_safetensors),),
    ".nii": (as_mutator(damage_nifti),),
    ".nii.gz": (as_mutator(inside_gzip(damage_nifti)),),
    ".mgh": (as_mutator(damage_mgh),),
    ".mgz": (as_mutator(inside_gzip(damage_mgh)),),
    ".gii": (as_mutator(damage_gifti),),
    ".hdf5": (damage_hdf5,),
    ".mat": (damage_mat,),
    ".md": (as_mutator(_markdown),),
    **dict.fromkeys((".png", ".jpg", ".tif", ".webp", ".gif", ".bmp"), _image),
}


def kind_of(path: Path) -> str:
    """Suffix by which mutators are chosen."""
    return "".join(path.suffixes[-2:]) if path.suffix == ".gz" else path.suffix


def mutate(victim: Victim, rng: Rng) -> Mutation:
    """Damage a file: mostly by its structure, else its bytes or its place in the file system."""
    draw = rng.random()
    structured = STRUCTURED.get(kind_of(victim.path))
    if structured and draw < 0.6:
        try:
            return one_of(rng, structured)(victim, rng)
        except (ValueError, KeyError, OSError, struct.error, zipfile.BadZipFile):
            pass  # empty or not what its name says: bytes are all there is
    if draw < 0.85:
        return damage_bytes(victim, rng)
    return one_of(rng, FILE_SYSTEM)(victim, rng)
