"""Checksums of the files of a folder: how a file that was changed or damaged is told.

The record of a folder (``config.json`` of a bundle, ``dataset_description.json`` of a prepared
subject) lists the SHA-256 of every other file, and is itself sealed
(`synbrain_cli.io.records.write_sealed`).
A file is compared with its checksum before it is used.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Callable, Container, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Annotated

import msgspec

from synbrain_cli.errors import InputError, MissingError, SynbrainError
from synbrain_cli.io.files import atomic
from synbrain_cli.paths import require_regular_file

# A name of a file, never a path: what is listed lies in the folder itself.
FileName = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,200}$")]
SHA256 = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}$")]
Checksums = dict[FileName, SHA256]
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,200}")
_SETTLED = 2.0  # seconds after which a change of a file shows in its times, on any file system


def file_checksum(path: Path) -> str:
    """Return the SHA-256 of a file; a file that is as it was is not read twice in one process."""
    status = path.stat()
    key = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    if time.time() - status.st_ctime < _SETTLED:
        return _read_checksum(path)
    return _known_checksum(path, key)


@lru_cache(maxsize=4096)
def _known_checksum(path: Path, key: tuple[int, ...]) -> str:
    return _read_checksum(path)


def _read_checksum(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror or error}): copy it again"
        ) from error


def list_files(folder: Path, but: Container[str] = ()) -> list[str]:
    """Names of the files in a folder that are not hidden, sorted; links are not files."""
    with os.scandir(folder) as entries:
        return sorted(
            entry.name
            for entry in entries
            if entry.is_file(follow_symlinks=False)
            and not entry.name.startswith(".")
            and entry.name not in but
        )


def checksums_of(folder: Path, but: Container[str] = ()) -> Checksums:
    """SHA-256 of every file in a folder that is not hidden.

    Parameters
    ----------
    folder : path
    but : container of str
        Names of files to leave out.
    """
    return {name: file_checksum(folder / name) for name in list_files(folder, but)}


def member(folder: Path, name: str, advice: str) -> Path:
    """Return the path of a regular file that lies in a folder.

    Parameters
    ----------
    folder : path
    name : str
        Plain name: no path.
    advice : str
        What the user can do, for the message.

    Raises
    ------
    MissingError
        When it is absent.
    InputError
        When the name is a path; when it is no regular file, or a link to a file elsewhere.
    """
    if not _NAME.fullmatch(name):
        raise InputError(f"{folder}: expected names of files in it, found {name!r}: {advice}")
    path = require_regular_file(folder / name, "a regular file", advice)
    if path.is_symlink() and path.resolve().parent != folder.resolve():
        raise InputError(
            f"{path}: expected a regular file, found a link to a file elsewhere: {advice}"
        )
    return path


def checked_member(folder: Path, name: str, checksums: Mapping[str, str], advice: str) -> Path:
    """Return the path of a file, once it is known to be what was written.

    Parameters
    ----------
    folder : path
    name : str
    checksums : mapping of str to str
        SHA-256 of the folder's files.
    advice : str
        What the user can do, for the message.

    Raises
    ------
    MissingError
        When it is absent.
    InputError
        As in `member`; when its checksum is another, or it is not listed.
    """
    path = member(folder, name, advice)
    if name not in checksums:
        raise InputError(f"{path}: expected a file with a checksum, found none listed: {advice}")
    if file_checksum(path) != checksums[name]:
        raise InputError(
            f"{path}: its checksum is not the one recorded: truncated or changed since it was "
            f"written; {advice}"
        )
    return path


def find_file_faults(
    folder: Path, checksums: Mapping[str, str], known: Container[str], advice: str, read: bool
) -> Iterator[str]:
    """Yield the faults of a folder's files, a line each.

    Parameters
    ----------
    folder : path
    checksums : mapping of str to str
        SHA-256 of the files that belong to it.
    known : container of str
        Names of files that have no checksum here.
    advice : str
        What the user can do.
    read : bool
        Read every file; else say only which are missing or no files.
    """
    for name in checksums:
        try:
            if read:
                checked_member(folder, name, checksums, advice)
            else:
                member(folder, name, advice)
        except MissingError:
            yield f"{folder / name}: missing: {advice}"
        except SynbrainError as error:
            yield str(error)
    for path in sorted(folder.iterdir()):
        name = path.name
        if not (name.startswith(".") or path.is_dir() or name in known or name in checksums):
            yield f"{path}: does not belong there: it has no checksum; move it away"


def keep(path: Path) -> None:
    """Note the checksum of a file that an interrupted run will take up again (`is_kept`)."""
    with atomic(_note(path)) as note:
        note.write_text(file_checksum(path) + "\n", "ascii")


def is_kept(path: Path, log: Callable[[str], None]) -> bool:
    """Whether a file is there as `keep` found it.

    Parameters
    ----------
    path : path
    log : callable
        Takes messages: of a file that was changed or damaged, and is to be made again.
    """
    note = _note(path)
    if not (note.is_file() and path.is_file()):
        return False
    if note.read_bytes().strip() == file_checksum(path).encode():
        return True
    log(f"{path} was damaged since the run was interrupted: it is computed again")
    return False


def _note(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")
