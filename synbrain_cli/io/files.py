"""Atomic writing of files, JSON and tables, locks on folders, and checksums."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from synbrain_cli.errors import BusyError, InputError, MissingError, SynbrainError

_CHUNK = 1 << 20


@contextlib.contextmanager
def atomic(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` that is renamed to ``path`` when the block succeeds.

    The temporary name keeps every suffix of ``path``, by which writers choose their format. On any
    failure the temporary file is removed and ``path`` is unchanged.

    Raises
    ------
    SynbrainError
        When the folder cannot be written (no permission, disk full).
    """
    path = Path(path)
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        temporary.replace(path)
    except OSError as error:
        if isinstance(error, SynbrainError):
            raise
        raise SynbrainError(
            f"cannot write {path}: {error.strerror or error}; an earlier version of it is "
            "unchanged: free some space or choose a folder in which you may write, then run the "
            "command again"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_json(path: Path | str, content: Any) -> None:
    """Write ``content`` as indented UTF-8 JSON, atomically."""
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", "utf-8")


def read_json(path: Path | str) -> Any:
    """Read a JSON file.

    Raises
    ------
    MissingError, InputError
        When the file is absent, or is not JSON.
    """
    path = Path(path)
    try:
        return json.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise MissingError(f"{path} does not exist") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path}: expected JSON, found something else ({error}): create the file again, or "
            "move it away"
        ) from error


def read_table(path: Path | str, columns: Iterable[str] = ()) -> pd.DataFrame:
    """Read a table with a header row: comma-separated in a .csv file, else tab-separated.

    Parameters
    ----------
    path : path
    columns : iterable of str
        Columns that are required.

    Returns
    -------
    DataFrame
        All values are text; empty cells are empty text.

    Raises
    ------
    MissingError, InputError
        When the file is absent, is not a table, or lacks a column.
    """
    path = Path(path)
    separator = "," if path.suffix.lower() == ".csv" else "\t"
    try:
        # Without index_col, a separator at the end of every row would shift the columns.
        table = pd.read_csv(path, sep=separator, dtype=str, keep_default_na=False, index_col=False)
    except FileNotFoundError as error:
        raise MissingError(f"{path} does not exist") from error
    except (OSError, ValueError, pd.errors.ParserError) as error:
        raise InputError(
            f"{path}: expected a table with a header row, {'comma' if separator == ',' else 'tab'}-"
            f"separated, found something else ({error})"
        ) from error
    missing = [column for column in columns if column not in table]
    if missing:
        found = ", ".join(map(str, table.columns[:10]))
        raise InputError(
            f"{path}: expected the column {missing[0]}, found {found}: rename the column with "
            "these values, and check that the table is "
            f"{'comma' if separator == ',' else 'tab'}-separated"
        )
    return table


def create_array(path: Path | str, dtype: Any, shape: tuple[int, ...]) -> int:
    """Create a ``.npy`` file of zeros and allocate all of its space on the disk.

    A full disk is therefore noticed before the work begins. Without allocation, the system may end
    a process that writes to a memory map of a file that cannot grow.

    Parameters
    ----------
    path : path
    dtype : dtype
    shape : tuple of int

    Returns
    -------
    int
        Byte at which the values begin.

    Raises
    ------
    SynbrainError
        When the disk lacks space, or the folder cannot be written.
    """
    path, dtype = Path(path), np.dtype(dtype)
    n_bytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    header = {"descr": dtype.str, "fortran_order": False, "shape": tuple(map(int, shape))}
    try:
        with path.open("wb") as file:
            np.lib.format.write_array_header_1_0(file, header)
            start = file.tell()
            _allocate(file.fileno(), start + n_bytes)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise SynbrainError(
            f"cannot write {path}, which needs {n_bytes / 1e9:.3g} GB ({error.strerror}): free "
            "some space or choose a folder in which you may write, then run the command again"
        ) from error
    return start


def _allocate(file: int, n_bytes: int) -> None:
    """Set the length of a new file and, where the file system supports it, allocate its blocks."""
    os.ftruncate(file, n_bytes)
    if hasattr(os, "posix_fallocate"):  # not on macOS
        try:
            os.posix_fallocate(file, 0, n_bytes)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
                raise


def write_at(file: int, values: np.ndarray, offset: int) -> None:
    """Write an array at an offset of an open file.

    Parameters
    ----------
    file : int
        File descriptor.
    values : array
        Written in C order.
    offset : int
        In bytes.
    """
    view = np.ascontiguousarray(values).data.cast("B")
    while view:
        n = os.pwrite(file, view, offset)
        view, offset = view[n:], offset + n


def is_simulated(folder: Path | str) -> bool:
    """Return whether the ``dataset_description.json`` of a folder marks its data as simulated."""
    path = Path(folder) / "dataset_description.json"
    return path.exists() and bool(read_json(path).get("Simulated", False))


def sha256(path: Path | str) -> str:
    """Return the SHA-256 of a file in hexadecimal digits; the file is read in pieces."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while piece := file.read(_CHUNK):
            digest.update(piece)
    return digest.hexdigest()


@contextlib.contextmanager
def locked(folder: Path | str, what: str) -> Iterator[None]:
    """Lock a folder for one writing process. The lock ends with the process in any case.

    Parameters
    ----------
    folder : path
    what : str
        What is written, for the message.

    Raises
    ------
    InputError
        When the path does not end in a name (``.``, ``..``): a folder is put in place by renaming.
    BusyError
        When another process holds the lock.
    SynbrainError
        When the lock cannot be written.
    """
    folder = Path(folder)
    if folder.name in ("", ".."):
        raise InputError(
            f"{folder}: expected a path that ends in the name of the folder to be written: name a "
            f"new folder in it, such as {folder / 'NEW'}"
        )
    path = folder.with_name(f".{folder.name}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("w")
    except OSError as error:
        raise SynbrainError(
            f"cannot write in {path.parent}: {error.strerror}: choose a folder in which you may "
            "write"
        ) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise BusyError(
                f"{folder}: another synbrain process is writing {what} there: "
                "wait for it to end, or choose another folder"
            ) from error
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def replace_folder(source: Path, target: Path) -> None:
    """Rename the finished folder ``source`` to ``target``, which is replaced if it exists."""
    old = target.with_name(f".{target.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.replace(old)
    source.replace(target)
    shutil.rmtree(old, ignore_errors=True)


def versions() -> dict[str, str]:
    """Return the versions of synbrain and of the packages on which its results depend."""
    names = ("synbrain", "torch", "numpy", "nibabel", "nilearn", "open_clip_torch", "himalaya")
    return {name: metadata.version(name) for name in names}
