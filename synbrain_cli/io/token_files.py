"""Tokens that the user computed: a file of numbers, and which row belongs to which image.

``.npy``, HDF5 (``.h5``, ``.hdf5``) or ``.safetensors``, of shape (n_images, n_tokens, n_dims) or
(n_images, n_features), which is one token per image. Which image a row belongs to is said, in this
order, by

- the dataset ``image`` beside the tokens in an HDF5 file;
- a table ``FILE.tsv`` beside the file (``clip.tsv`` for ``clip.npy``) with the column ``image``, or
  a list of names, one a line;
- the images themselves: rows are in the order of their sorted names.

Files are read some rows at a time: memory does not grow with them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from synbrain_cli.bands import OWN
from synbrain_cli.errors import InputError, MissingError
from synbrain_cli.io.arrays import map_array
from synbrain_cli.io.reading import reading
from synbrain_cli.io.tables import read_table
from synbrain_cli.labels import image_stem, tokens_name
from synbrain_cli.memory import release
from synbrain_cli.paths import is_given

_HDF5 = (".h5", ".hdf5")
SUFFIXES = (".npy", *_HDF5, ".safetensors")
WHAT = "a file of tokens"
MAX_SIZE = 1_000_000  # tokens of an image, or dimensions of a token: as bands have them
TOGETHER = 1 << 24  # numbers that are read at a time
_INSIDE = "::"  # separates a file from the name of an array in it
_FLOATS = {"F16": "float16", "F32": "float32", "F64": "float64", "BF16": "bfloat16"}
_NAMES = "image"  # of the dataset, and of the column, that name the images


@dataclass(frozen=True)
class _Rows:
    """Rows of an array in a file, of any format.

    Attributes
    ----------
    shape : tuple of int
    dtype : str
    read : callable
        First row and the one after the last → array.
    images : list of str, optional
        Names in the file itself.
    """

    shape: tuple[int, ...]
    dtype: str
    read: Callable[[int, int], np.ndarray]
    images: list[str] | None = None


def is_token_file(path: Path | str) -> bool:
    """Return whether a path names a file of tokens, by its suffix."""
    return str(path).split(_INSIDE)[0].lower().endswith(SUFFIXES)


@dataclass(frozen=True)
class TokenFile:
    """A file of tokens that the user computed.

    Attributes
    ----------
    name : str
        Of the band, which is ``tokens:NAME``.
    path : Path
    array : str
        Name of the array, in a file that may hold several; empty: the only one.
    is_named : bool
        Whether the user chose the name; else it is that of the file.

    Raises
    ------
    InputError
        When the name is none, or the file is of another format.
    """

    name: str
    path: Path
    array: str = ""
    is_named: bool = True

    def __post_init__(self) -> None:
        tokens_name(self.name)
        if self.path.suffix.lower() not in SUFFIXES:
            raise InputError(
                f"{self.path}: expected {WHAT}, one of {' '.join(SUFFIXES)}: save it as .npy, "
                "(n_images, n_tokens, n_dims) or (n_images, n_features)"
            )
        if self.array and self.path.suffix.lower() == ".npy":
            raise InputError(f"{self.path}: a .npy file holds one array: leave out ::{self.array}")

    @classmethod
    def parse(cls, text: str) -> TokenFile:
        """Read ``FILE``, ``NAME=FILE`` or ``NAME=FILE::ARRAY``.

        Raises
        ------
        InputError

        Examples
        --------
        >>> TokenFile.parse("clip=features/vit.h5::layer_6").array
        'layer_6'
        >>> TokenFile.parse("features/vit.npy").name
        'vit'
        """
        name, separator, rest = text.partition("=")
        is_named = bool(separator) and "/" not in name
        file, _, array = (rest if is_named else text).partition(_INSIDE)
        if not file or (is_named and not name):
            raise InputError(f"--tokens {text}: expected FILE or NAME=FILE, such as clip=clip.npy")
        path = Path(file)
        return cls(name if is_named else path.stem, path, array, is_named)

    @property
    def spec(self) -> str:
        """Name of the band."""
        return f"{OWN}{self.name}"

    @cached_property
    def _rows(self) -> _Rows:
        with reading(self.path, WHAT, also=(SafetensorError,)):
            suffix = self.path.suffix.lower()
            if suffix == ".npy":
                mapped = map_array(self.path)
                found = _Rows(mapped.shape, mapped.dtype.name, _of_map(mapped))
            else:
                found = self._in_hdf5() if suffix in _HDF5 else self._in_safetensors()
        self._check(found)
        return found

    def _in_hdf5(self) -> _Rows:
        file = h5py.File(self.path, "r")
        there: dict[str, h5py.Dataset] = {}
        file.visititems(lambda name, one: there.update({name: one}) if _is_array(one) else None)
        chosen = self._choose({n: d for n, d in there.items() if d.dtype.kind not in "OSU"})
        data = there[chosen]
        beside = there.get(f"{chosen.rpartition('/')[0]}/{_NAMES}".lstrip("/"))
        images = None
        if beside is not None and beside.dtype.kind in "OS" and beside.ndim == 1:
            images = [one.decode() if isinstance(one, bytes) else str(one) for one in beside[:]]
        return _Rows(data.shape, data.dtype.name, lambda a, b: data[a:b], images)

    def _in_safetensors(self) -> _Rows:
        with safe_open(self.path, "numpy") as file:
            there = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            name = self._choose(there)
            shape = tuple(there[name].get_shape())
            kind = _FLOATS.get(there[name].get_dtype(), there[name].get_dtype())
        if kind == "bfloat16":  # which numpy does not know

            def read(first: int, last: int) -> np.ndarray:
                with safe_open(self.path, "pt") as opened:
                    return opened.get_slice(name)[first:last].float().numpy()

        else:

            def read(first: int, last: int) -> np.ndarray:
                with safe_open(self.path, "numpy") as opened:
                    return opened.get_slice(name)[first:last]

        return _Rows(shape, kind, read)

    def _choose(self, there: Mapping[str, Any]) -> str:
        """Name of the array that was asked for, or of the only one."""
        listed = ", ".join(sorted(there)[:10]) or "none"
        if self.array.strip("/") in there:
            return self.array.strip("/")
        if self.array:
            raise InputError(f"{self.path}: no array {self.array}: it has {listed}")
        if len(there) != 1:
            raise InputError(
                f"{self.path}: expected one array of tokens, found {len(there)} ({listed}): name "
                f"one, {self.path}{_INSIDE}ARRAY"
            )
        return next(iter(there))

    def _check(self, found: _Rows) -> None:
        if found.dtype not in _FLOATS.values():
            raise InputError(
                f"{self.path}: expected tokens in float16, float32 or float64, found "
                f'{found.dtype}: save them with .astype("float32")'
            )
        sizes = found.shape[1:]
        if len(found.shape) not in (2, 3) or not all(1 <= n <= MAX_SIZE for n in sizes):
            raise InputError(
                f"{self.path}: expected tokens of shape (n_images, n_tokens, n_dims) or (n_images, "
                f"n_features), found {found.shape}"
                + (
                    ": move the channels last and join the two axes of the positions"
                    * (len(found.shape) == 4)
                )
            )
        if not found.shape[0]:
            raise InputError(f"{self.path}: expected tokens of images, found none")

    def __len__(self) -> int:
        """Return the number of rows."""
        return self._rows.shape[0]

    @property
    def token_shape(self) -> tuple[int, int]:
        """Tokens per image, and dimensions of a token."""
        *n_tokens, n_dims = self._rows.shape[1:]
        return (n_tokens[0] if n_tokens else 1), n_dims

    @property
    def precision(self) -> str:
        """How the tokens are kept: "fp16" for float16, else "float32"."""
        return "fp16" if self._rows.dtype == "float16" else "float32"

    # ------------------------------------------------------------------- rows of which images

    @cached_property
    def listed(self) -> list[str] | None:
        """Name of the image of each row, as HDF5 or the table beside the file says; None without.

        Raises
        ------
        InputError
            When there are more or fewer than rows, or a name occurs twice.
        """
        source, names = str(self.path), self._rows.images
        if names is None:
            table = self.path.with_suffix(".tsv")
            if not is_given(table):
                return None
            source, names = str(table), _read_names(table)
        if len(names) != len(self):
            raise InputError(
                f"{source}: expected a name for each of the {len(self):,} rows of {self.path}, "
                f"found {len(names):,}"
            )
        first: dict[str, int] = {}
        for row, name in enumerate(names):
            if first.setdefault(image_stem(name), row) != row:
                raise InputError(
                    f"{source}: {name} names rows {first[image_stem(name)] + 1} and {row + 1}: "
                    "expected every image once"
                )
        return [image_stem(name) for name in names]

    def of_images(self, order: Sequence[str], where: str) -> TokenRows:
        """Say which row belongs to which image.

        Parameters
        ----------
        order : sequence of str
            Names of the images whose rows follow one another where nothing else names them.
        where : str
            What these are, for messages: "the images of faces/".

        Raises
        ------
        MissingError, InputError
            When there are more or fewer images than rows.
        """
        if self.listed is not None:
            return TokenRows(self, tuple(self.listed))
        if len(order) != len(self):
            raise InputError(
                f"{self.path}: expected a row for each of {where}, {len(order):,}, in the order of "
                f"their sorted names, found {len(self):,} rows: name the image of each row in "
                f"{self.path.with_suffix('.tsv')}, a table with the column {_NAMES}"
            )
        return TokenRows(self, tuple(map(image_stem, order)))

    def read(self, rows: Sequence[int]) -> NDArray[np.float32]:
        """Read some rows: float32 (n_rows, n_tokens, n_dims), all finite.

        Raises
        ------
        InputError
            When a number is not finite, or beyond the range of float32.
        """
        out = np.empty((len(rows), *self.token_shape), np.float32)
        first = 0
        while first < len(rows):  # rows that follow one another are read together
            last = first + 1
            while last < len(rows) and rows[last] == rows[last - 1] + 1:
                last += 1
            out[first:last] = self._read_span(rows[first], rows[last - 1] + 1)
            first = last
        return out

    def _read_span(self, first: int, last: int) -> NDArray[np.float32]:
        with reading(self.path, WHAT, also=(SafetensorError,)):
            stored = self._rows.read(first, last)
        with np.errstate(all="ignore"):
            values = np.asarray(stored, np.float32).reshape(last - first, *self.token_shape)
        wrong = np.flatnonzero(~np.isfinite(values).all((1, 2)))
        if len(wrong):
            with np.errstate(all="ignore"):
                beyond = np.isfinite(np.asarray(stored[wrong[0]], np.float64)).all()
            raise InputError(
                f"{self.path}: expected finite numbers, found "
                f"{'some beyond float32' if beyond else 'NaN or infinity'} in row "
                f"{first + wrong[0] + 1}: compute its tokens again, or leave the image out"
            )
        return values

    def blocks(self) -> Iterator[tuple[range, NDArray[np.float32]]]:
        """Yield all rows in order, some at a time, as `read` returns them."""
        step = max(1, TOGETHER // (self.token_shape[0] * self.token_shape[1]))
        for first in range(0, len(self), step):
            rows = range(first, min(first + step, len(self)))
            yield rows, self.read(rows)


@dataclass(frozen=True)
class TokenRows:
    """A file of tokens whose rows belong to known images.

    Attributes
    ----------
    file : TokenFile
    images : tuple of str
        Image of each row, without the suffix of an image file; with folders where names have them.
    """

    file: TokenFile
    images: tuple[str, ...]

    @cached_property
    def identity(self) -> dict[str, str | int]:
        """What the band is compared by: its name, shape, and a checksum of names and numbers.

        The checksum (SHA-256 over the images in the order of their names, of each the SHA-256 of
        its tokens as float32) is the same for any file format and any order of rows.

        Raises
        ------
        InputError
            When a number is not finite.
        """
        lines = []
        for rows, values in self.file.blocks():
            for row, one in zip(rows, values, strict=True):
                digest = hashlib.sha256(np.ascontiguousarray(one, "<f4").data).hexdigest()
                lines.append(f"{self.images[row]}\t{digest}\n")
        n_tokens, n_dims = self.file.token_shape
        content = f"{n_tokens}\t{n_dims}\n{''.join(sorted(lines))}"
        return {
            "name": self.file.spec,
            "version": 1,
            "n_tokens": n_tokens,
            "n_dims": n_dims,
            "weights": hashlib.sha256(content.encode("utf-8", "surrogateescape")).hexdigest(),
        }

    @cached_property
    def _row(self) -> dict[str, int]:
        """Row of a name, with or without its folders; -1 where several rows have it."""
        found: dict[str, int] = {}
        for row, name in enumerate(self.images):
            parts = name.split("/")
            for k in range(len(parts)):
                key = "/".join(parts[k:])
                found[key] = row if found.get(key, row) == row else -1
        return found

    def rows_of(self, images: Sequence[str]) -> list[int]:
        """Return the row of each image.

        Parameters
        ----------
        images : sequence of str
            Names or paths. The more folders of a path the file names, the better they agree.

        Raises
        ------
        MissingError, InputError
            When an image has no row, or several have its name.
        """
        rows, missing = [], []
        for image in images:
            parts = image_stem(image).split("/")
            keys = ("/".join(parts[k:]) for k in range(len(parts)))
            row = next((self._row[key] for key in keys if key in self._row), None)
            if row == -1:
                raise InputError(
                    f"{self.file.path}: several rows are of {parts[-1]}, in different folders: "
                    "name the images in one way, with their folder"
                )
            if row is None:
                missing.append(image)
            else:
                rows.append(row)
        if missing:
            raise MissingError(
                f"{self.file.path}: no tokens of {len(missing):,} of {len(images):,} images "
                f"(first: {missing[0]}); its rows are of {self.images[0]}, …: compute them, or "
                f"name the image of each row in {self.file.path.with_suffix('.tsv')}"
            )
        return rows


def _of_map(mapped: np.memmap) -> Callable[[int, int], np.ndarray]:
    def read(first: int, last: int) -> np.ndarray:
        values = np.array(mapped[first:last])
        release(mapped)
        return values

    return read


def _is_array(found: object) -> bool:
    return isinstance(found, h5py.Dataset) and found.shape is not None and found.ndim > 0


def _read_names(path: Path) -> list[str]:
    """Names of a table with the column image, or of a list with one name a line."""
    with reading(path, "a table of the images' names"):
        content = path.read_text("utf-8-sig")
    lines = content.splitlines()
    if lines and _NAMES in lines[0].replace('"', "").split("\t"):
        return read_table(path, (_NAMES,))[_NAMES].tolist()
    if any("\t" in line for line in lines):
        raise InputError(
            f"{path}: expected a table with the column {_NAMES}, or a list of names, found the "
            f"columns {', '.join(lines[0].split())[:80]}"
        )
    return [line.strip() for line in lines if line.strip()]
