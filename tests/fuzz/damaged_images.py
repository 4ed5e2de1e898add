"""Damage to volumes, surfaces, HDF5, MATLAB and image files, by their structure."""

from __future__ import annotations

import io
import re
import struct
import zlib
from collections.abc import Callable
from typing import Any

import h5py
import numpy as np
import scipy.io
from mutations import ByteMutator, Damage, Mutation, Rng, Victim, one_of
from PIL import Image

# ------------------------------------------------------------------- headers of volumes


SHORTS = (0, -1, 1, 2, 3, 7, 8, 64, 127, 128, 256, 511, 512, 1792, 2304, 32767, -32768)
FLOATS = (0.0, -1.0, 1.0, 351.0, 353.5, 1e9, 2.0**31, 1e30, 1e-30, np.nan, np.inf, -np.inf)
INTS = (0, -1, 1, 2, 3, 4, 5, 100, 2**31 - 1, -(2**31), 348, 540, 65536)
# Offset, format, how many; whether it is told by the rest of the file.
NIFTI = {
    "sizeof_hdr": (0, "i", 1, True),
    "dim": (40, "h", 8, True),
    "datatype": (70, "h", 1, False),  # int32 takes the bytes of float32
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
    "extension": (348, "i", 1, False),  # read by nobody where there is no room for one
}
MGH = {
    "version": (0, "i", 1, True),
    "size": (4, "i", 4, True),
    "type": (20, "i", 1, False),  # anything short may follow the values
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
