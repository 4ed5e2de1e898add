"""Locks: one process writes a folder at a time."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from synbrain_cli.errors import BusyError, SynbrainError
from synbrain_cli.paths import require_output


@contextlib.contextmanager
def locked(folder: Path | str, what: str, step: str = "") -> Iterator[None]:
    """Lock a folder for one writing process. The lock ends with the process in any case.

    The lock is held on the file ``.NAME.lock``, which its holder removes at the end. A process that
    opened the file before that holds a lock on a file without a name; it notices, and tries again.

    Parameters
    ----------
    folder : path
    what : str
        What is written, for the message.
    step : str
        Of several locks on one folder, which: ``.NAME.STEP.lock``.

    Raises
    ------
    InputError
        When no folder of that name can be written: see `require_output`.
    BusyError
        When another process holds the lock.
    SynbrainError
        When the lock cannot be written.
    """
    folder = require_output(folder)
    path = lock_of(folder, step)
    file = _acquire(path, folder, what)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # its folder may be gone
            if _has_name(file, path):
                path.unlink()
        os.close(file)


def lock_of(folder: Path, step: str = "") -> Path:
    """Return the file on which a lock is held."""
    return folder.with_name(f".{folder.name}.{step}{'.' if step else ''}lock")


def is_locked(folder: Path) -> bool:
    """Whether a process is writing a folder."""
    try:
        # A pipe of this name would be waited for.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
        file = os.open(lock_of(folder), flags)
    except OSError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    else:
        return False
    finally:
        os.close(file)


def _acquire(path: Path, folder: Path, what: str) -> int:
    """Return a descriptor that holds the lock on the file that now has this name."""
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # Neither emptied nor followed: a link of this name may lead to a file of the user's.
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise SynbrainError(
                f"cannot write {path}: {error.strerror}: choose a folder in which you may write"
            ) from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(file)
            raise BusyError(
                f"{folder}: another synbrain process is writing {what} there: "
                "wait for it to end, or choose another folder"
            ) from error
        except OSError as error:
            os.close(file)
            raise SynbrainError(
                f"cannot lock {path}: {error.strerror}: choose a folder on a disk with file locks"
            ) from error
        if _has_name(file, path):
            return file
        os.close(file)


def _has_name(file: int, path: Path) -> bool:
    """Whether the open file is the one that has this name."""
    try:
        named = path.lstat()
    except FileNotFoundError:
        return False
    return os.path.samestat(os.fstat(file), named)
