"""Named arrays in safetensors files, checked against what is known of them when they are read."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from synbrain_cli.errors import DAMAGED, InputError
from synbrain_cli.io.files import atomic
from synbrain_cli.paths import require_regular_file

# Sizes of an array; a word stands for a size that is the same wherever the word occurs.
Shape = tuple[int | str, ...]
COPY_AGAIN = "copy the model's folder again, or train it again"
_FAULTS: tuple[type[Exception], ...] = (*DAMAGED, SafetensorError)
_PIECE = 1 << 22  # numbers that are looked at together


def save_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Save named arrays as safetensors, atomically."""
    with atomic(path) as temporary:
        temporary.touch()  # as the umask says: safetensors lets its owner alone read the file
        mode = temporary.stat().st_mode
        save_file({k: np.ascontiguousarray(v) for k, v in arrays.items()}, temporary)
        temporary.chmod(mode)


def map_array(path: Path) -> np.memmap:
    """Map the numbers of a ``.npy`` file into memory, read-only.

    Raises
    ------
    Exceptions of `synbrain_cli.errors.DAMAGED`
        Also where the header's sizes are beyond any file, of which numpy would only warn.
    """
    with np.errstate(over="ignore"):
        mapped: np.memmap = np.load(path, mmap_mode="r", allow_pickle=False)
    return mapped


def load_arrays(path: Path) -> dict[str, np.ndarray]:
    """Load named arrays.

    Raises
    ------
    MissingError, InputError
        Absent; truncated or not safetensors.
    """
    require_regular_file(path, "a safetensors file", COPY_AGAIN)
    try:
        return load_file(path)
    except _FAULTS as error:
        raise InputError(
            f"{path}: truncated or not a safetensors file ({error}): {COPY_AGAIN}"
        ) from error


def load_expected(
    path: Path,
    shapes: Mapping[str, Shape],
    *,
    optional: Iterable[Sequence[str]] = (),
    integers: Container[str] = (),
    others: tuple[str, ...] = (),
) -> dict[str, np.ndarray]:
    """Load named arrays, and check their names, shapes, types and values.

    Parameters
    ----------
    path : path
    shapes : mapping of str to Shape
        Of every array that is expected.
    optional : iterable of sequences of str
        Names that may be absent, all of a sequence together.
    integers : container of str
        Arrays of int64; all others are of finite float32.
    others : tuple of str
        Beginnings of the names of arrays whose shapes are checked elsewhere.

    Returns
    -------
    dict of arrays

    Raises
    ------
    MissingError, InputError
        As in `load_arrays`; an array is missing, unknown, or not as expected.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "two.safetensors"
    ...     save_arrays(path, {"x": np.ones((2, 5), np.float32), "y": np.ones(5, np.float32)})
    ...     sorted(load_expected(path, {"x": (2, "n"), "y": ("n",)}))
    ['x', 'y']
    """
    arrays = load_arrays(path)
    absent = {n for group in optional if not any(n in arrays for n in group) for n in group}
    missing = [name for name in shapes if name not in arrays and name not in absent]
    unknown = [name for name in arrays if name not in shapes and not name.startswith(others or "?")]
    if missing or unknown:
        found = f"{unknown[0]!r}, which is unknown" if unknown else "none of that name"
        raise InputError(
            f"{path}: expected the array {(missing or sorted(shapes))[0]}, found {found}: "
            f"{COPY_AGAIN}"
        )
    known: dict[str, int] = {}
    for name, array in arrays.items():
        shape = shapes.get(name)
        dtype = np.dtype(np.int64 if name in integers else np.float32)
        if shape is not None and not _fits(array.shape, shape, known):
            sizes = tuple(known.get(n, n) if isinstance(n, str) else n for n in shape)
            raise InputError(
                f"{path}: expected {name} of shape {sizes}, found {array.shape}: {COPY_AGAIN}"
            )
        if array.dtype != dtype:
            raise InputError(
                f"{path}: expected {name} as {dtype}, found {array.dtype}: {COPY_AGAIN}"
            )
        if not is_finite(array):
            raise InputError(
                f"{path}: expected finite numbers in {name}, found others: {COPY_AGAIN}"
            )
    return arrays


def _fits(found: tuple[int, ...], expected: Shape, known: dict[str, int]) -> bool:
    """Whether a shape is the one expected; sizes given as words are noted in ``known``."""
    if len(found) != len(expected):
        return False
    return all(
        n == (known.setdefault(size, n) if isinstance(size, str) else size)
        for n, size in zip(found, expected, strict=True)
    )


def is_finite(array: np.ndarray) -> bool:
    """Whether all numbers are finite; in pieces, which take little memory."""
    flat = array.reshape(-1)
    return all(np.isfinite(flat[i : i + _PIECE]).all() for i in range(0, len(flat), _PIECE))
