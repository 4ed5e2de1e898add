"""Atomic writing of files and JSON, and checksums."""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import io
import json
import math
import os
import re
import shutil
import socket
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError

from synbrain_cli.errors import InputError, SynbrainError
from synbrain_cli.paths import require_output_file, require_regular_file

_CHUNK = 1 << 20
HALF_WRITTEN = ".half-"  # begins the name of every file and folder that is not yet whole
WORK_FOLDERS = (".partial", ".recovery")  # end the names of what `workfolder` keeps while it writes
# What the writers of other libraries raise where the disk is at fault, beside OSError.
_DISK_FAULT = re.compile(
    r"I/O error|No space left|File too large|PytorchStreamWriter|inline_container|iostream|"
    r"unexpected pos|os error"
)


@contextlib.contextmanager
def atomic(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` that is renamed to ``path`` when the block succeeds.

    The temporary name keeps the suffixes of ``path``, by which writers choose their format. On any
    failure the temporary file is removed and ``path`` is unchanged; that of a process that was
    killed is removed when ``path`` is next written. Where ``path`` is a symbolic link, the file to
    which it leads is written; in a work folder, where nothing is the user's, the link is replaced.

    Raises
    ------
    InputError
        When ``path`` is a folder, a pipe or a device, or a link to one.
    SynbrainError
        When the folder cannot be written (no permission, disk full).
    """
    path = _file_to_replace(Path(path))
    temporary = half_written(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(temporary)
        yield temporary
        temporary.replace(path)
    except (OSError, RuntimeError, SafetensorError) as error:
        if isinstance(error, SynbrainError) or not (reason := disk_fault(error)):
            raise
        raise SynbrainError(
            f"cannot write {path}: {reason}; an earlier version of it is "
            "unchanged: free some space or choose a folder in which you may write, then run the "
            "command again"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _file_to_replace(path: Path) -> Path:
    """Return the file that has this name or is to get it."""
    if _is_in_work_folder(path):
        return path
    if path.is_symlink():
        path = Path(os.path.realpath(path))
    return require_output_file(path) if path.exists() else path


def half_written(path: Path) -> Path:
    """Return the name under which this process writes what will be ``path``: see `HALF_WRITTEN`."""
    suffixes = "".join(path.suffixes[-2:])
    name = path.name
    if len(os.fsencode(name)) > 200:  # of 255 bytes that a name may have
        name = hashlib.blake2b(os.fsencode(name), digest_size=8).hexdigest() + suffixes[-32:]
    return path.with_name(f"{HALF_WRITTEN}{_host()}-{os.getpid()}.{name}")


@functools.cache
def _host() -> str:
    """Six digits that tell this machine from others that see the same disk."""
    return hashlib.blake2b(socket.gethostname().encode(), digest_size=3).hexdigest()


def _remove_abandoned(temporary: Path) -> None:
    """Remove temporary files of the same final name whose processes ended on this machine.

    Work folders are tidied when they are opened, and may hold too many files to be listed here.
    """
    if _is_in_work_folder(temporary):
        return
    name = temporary.name.split(".", 2)[2]
    known = re.compile(rf"{re.escape(HALF_WRITTEN)}{_host()}-(\d+)\.{re.escape(name)}")
    for entry in os.scandir(temporary.parent):
        match = known.fullmatch(entry.name)
        if match and int(match[1]) != os.getpid() and not _is_running(int(match[1])):
            with contextlib.suppress(OSError):
                Path(entry.path).unlink()


def _is_in_work_folder(path: Path) -> bool:
    return any(folder.name.endswith(WORK_FOLDERS) for folder in path.parents)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        return True
    return True


def disk_fault(error: BaseException) -> str | None:
    """Return why the system refused to write, given an error of any writer; None for others.

    safetensors, torch and shutil raise exceptions of their own where a write fails.
    """
    if isinstance(error, shutil.Error):  # a list of (source, target, reason)
        return str(error.args[0][0][-1]) if error.args and error.args[0] else str(error)
    if isinstance(error, OSError):
        return error.strerror or str(error) or type(error).__name__
    text = " ".join(str(error).split())
    if isinstance(error, (RuntimeError, SafetensorError)) and _DISK_FAULT.search(text):
        return text[:200]
    return None


def copy_at_once(source: Path, target: Path) -> None:
    """Copy a file or a folder under a temporary name, and then give the copy its name.

    Raises
    ------
    SynbrainError
        When it cannot be written.
    """
    with atomic(target) as temporary:
        if source.is_dir() and not source.is_symlink():
            try:
                shutil.copytree(source, temporary, symlinks=True)
            except BaseException:
                shutil.rmtree(temporary, ignore_errors=True)
                raise
        else:
            shutil.copy2(source, temporary, follow_symlinks=False)


def write_json(path: Path | str, content: Any) -> None:
    """Write ``content`` as indented UTF-8 JSON, atomically."""
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", "utf-8")


def read_json(path: Path | str, advice: str = "create the file again, or move it away") -> Any:
    """Read a JSON file.

    Parameters
    ----------
    path : path
    advice : str
        What the user can do about a file that is absent or no JSON, for the message.

    Raises
    ------
    MissingError, InputError
        When the file is absent, or is not JSON.
    """
    path = require_regular_file(path, "a JSON file", advice)
    try:
        text = path.read_text("utf-8")
        content = json.loads(text)
        if "\\u" in text:  # may name half of a character, which is no text
            json.dumps(content, ensure_ascii=False).encode("utf-8")
        return content
    # Beside what is no JSON or no UTF-8: thousands of nested lists, thousands of digits.
    except (ValueError, RecursionError, OSError) as error:
        raise InputError(
            f"{path}: expected JSON, found something else ({error}): {advice}"
        ) from error


def array_header(dtype: Any, shape: tuple[int, ...]) -> bytes:
    """Return what a ``.npy`` file holds before its values.

    Parameters
    ----------
    dtype : dtype
    shape : tuple of int
    """
    described = {"descr": np.dtype(dtype).str, "fortran_order": False}
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {**described, "shape": tuple(map(int, shape))})
    return header.getvalue()


def holds_array(path: Path, dtype: Any, shape: tuple[int, ...]) -> bool:
    """Whether a file is one that `create_array` made, as long as it was, whatever its values.

    A link is not: what is written into it would change a file elsewhere.

    Parameters
    ----------
    path : path
    dtype : dtype
    shape : tuple of int
    """
    header = array_header(dtype, shape)
    n_bytes = math.prod(shape) * np.dtype(dtype).itemsize
    if path.is_symlink() or not path.is_file() or path.stat().st_size != len(header) + n_bytes:
        return False
    with path.open("rb") as file:
        return file.read(len(header)) == header


def create_array(path: Path | str, dtype: Any, shape: tuple[int, ...]) -> int:
    """Create a ``.npy`` file of zeros and allocate all of its space on the disk.

    What has its name is removed, not written into.

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
    path, header = Path(path), array_header(dtype, shape)
    n_bytes = math.prod(shape) * np.dtype(dtype).itemsize
    try:
        path.unlink(missing_ok=True)
        with path.open("wb") as file:
            file.write(header)
            file.flush()
            _allocate(file.fileno(), len(header) + n_bytes)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise SynbrainError(
            f"cannot write {path}, which needs {n_bytes / 1e9:.3g} GB ({error.strerror}): free "
            "some space or choose a folder in which you may write, then run the command again"
        ) from error
    return len(header)


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
    content = read_json(path) if path.exists() else {}
    return isinstance(content, dict) and bool(content.get("Simulated", False))


def sha256(path: Path | str) -> str:
    """Return the SHA-256 of a file in hexadecimal digits; the file is read in pieces.

    Raises
    ------
    MissingError, InputError
        As `synbrain_cli.paths.require_regular_file`.
    """
    digest = hashlib.sha256()
    with require_regular_file(path).open("rb") as file:
        while piece := file.read(_CHUNK):
            digest.update(piece)
    return digest.hexdigest()


def versions() -> dict[str, str]:
    """Return the versions of synbrain and of the packages on which its results depend."""
    names = ("synbrain", "torch", "numpy", "nibabel", "nilearn", "open_clip_torch", "scipy")
    return {name: metadata.version(name) for name in names}
