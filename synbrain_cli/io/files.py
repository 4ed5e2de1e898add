"""Writing that never leaves half a file under a final name, locks, and checksums."""

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
    """Yield a temporary path beside ``path`` that takes its name when the block succeeds.

    The temporary name keeps every suffix of ``path`` (writers choose their format by it). On any
    failure, the temporary file is removed and ``path`` is as it was.

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
            f"cannot write {path}: {error.strerror or error}; what was there before is unchanged: "
            "free some space or choose a folder you may write to, then run the command again"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_json(path: Path | str, content: Any) -> None:
    """Write ``content`` as indented UTF-8 JSON, atomically."""
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", "utf-8")


def read_json(path: Path | str) -> Any:
    """Read JSON.

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
            f"{path}: expected JSON, found something else ({error}): make it again, or move it away"
        ) from error


def read_table(path: Path | str, columns: Iterable[str] = ()) -> pd.DataFrame:
    """Read a table with a header: tab-separated, or comma-separated where it is named .csv.

    All values are text; empty cells are empty text.

    Parameters
    ----------
    path : path
    columns : iterable of str
        Columns that must be there.

    Raises
    ------
    MissingError, InputError
        No such file; not a table; a column is missing.
    """
    path = Path(path)
    separator = "," if path.suffix.lower() == ".csv" else "\t"
    try:
        # index_col: a separator at the end of every row would otherwise shift the columns.
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
            f"{path}: expected the column {missing[0]}, found {found}: rename the column that "
            "holds it, and check that the table is "
            f"{'comma' if separator == ',' else 'tab'}-separated"
        )
    return table


def create_array(path: Path | str, dtype: Any, shape: tuple[int, ...]) -> int:
    """Make a ``.npy`` of zeros with its room on the disk taken at once.

    A full disk is so found before the work, not in the middle of it, and never by the signal that
    ends a process which writes to a memory map of a file that cannot grow.

    Returns
    -------
    int
        Where the values begin, in bytes.

    Raises
    ------
    SynbrainError
        The disk has not room enough, or may not be written.
    """
    path, dtype = Path(path), np.dtype(dtype)
    n_bytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    header = {"descr": dtype.str, "fortran_order": False, "shape": tuple(map(int, shape))}
    try:
        with path.open("wb") as file:
            np.lib.format.write_array_header_1_0(file, header)
            start = file.tell()
            _take_room(file.fileno(), start + n_bytes)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise SynbrainError(
            f"cannot write {path}: {n_bytes / 1e9:.3g} GB are needed: {error.strerror}: free some "
            "space or choose a folder you may write to, then run the command again"
        ) from error
    return start


def _take_room(file: int, n_bytes: int) -> None:
    """Give a new file its length and, where the file system can, its blocks."""
    os.ftruncate(file, n_bytes)
    if hasattr(os, "posix_fallocate"):  # not on macOS
        try:
            os.posix_fallocate(file, 0, n_bytes)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
                raise


def write_at(file: int, values: np.ndarray, offset: int) -> None:
    """Write a whole contiguous array at an offset of an open file."""
    view = np.ascontiguousarray(values).data.cast("B")
    while view:
        n = os.pwrite(file, view, offset)
        view, offset = view[n:], offset + n


def is_simulated(folder: Path | str) -> bool:
    """Whether a folder of data says that it is simulated (``dataset_description.json``)."""
    path = Path(folder) / "dataset_description.json"
    return path.exists() and bool(read_json(path).get("Simulated", False))


def sha256(path: Path | str) -> str:
    """Checksum of a file's content, read in pieces."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while piece := file.read(_CHUNK):
            digest.update(piece)
    return digest.hexdigest()


@contextlib.contextmanager
def locked(folder: Path | str, what: str) -> Iterator[None]:
    """Hold ``folder`` for one writing process; the lock goes with the process, however it ends.

    Raises
    ------
    BusyError
        When another process holds it.
    """
    folder = Path(folder)
    path = folder.with_name(f".{folder.name}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("w")
    except OSError as error:
        raise SynbrainError(
            f"cannot write in {path.parent}: {error.strerror}: choose a folder you may write to"
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
    """Give the finished folder ``source`` the name ``target``, in place of what was there."""
    old = target.with_name(f".{target.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.replace(old)
    source.replace(target)
    shutil.rmtree(old, ignore_errors=True)


def versions() -> dict[str, str]:
    """Versions of synbrain and of what its numbers depend on, for records and sidecars."""
    names = ("synbrain", "torch", "numpy", "nibabel", "nilearn", "open_clip_torch", "himalaya")
    return {name: metadata.version(name) for name in names}
