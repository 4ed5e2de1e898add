"""Files and folders that users name, checked before they are opened.

Opening a pipe or a device waits, or reads without end, and the system's own errors name no cause.
"""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

from synbrain_cli.errors import InputError, MissingError
from synbrain_cli.text import is_text, one_line

MAX_OUTPUT = 240  # bytes: `.NAME.recovery` lies beside it, and file systems take 255
_KINDS = (
    (stat.S_ISREG, "a file"),
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def require_regular_file(
    path: str | Path, expected: str = "a file", advice: str = "check the path"
) -> Path:
    """Return the path of a regular file that may be read, symbolic links followed.

    Parameters
    ----------
    path : path
    expected : str
        What the file should be, for the message: "an image file".
    advice : str
        What the user can do, for the message.

    Raises
    ------
    MissingError
        When there is no such file.
    InputError
        When it is a folder, a pipe or a device; when it cannot be read; when its path is not text,
        or is one that no file can have.
    """
    path = Path(path)
    mode = _mode(path, expected, advice)
    if not stat.S_ISREG(mode):
        raise InputError(f"{path}: expected {expected}, found {_kind(mode)}: {advice}")
    if not os.access(path, os.R_OK):
        raise InputError(
            f"{path}: expected {expected}, found a file that you may not read: change its "
            "permissions, or copy it"
        )
    return path


def require_folder(
    path: str | Path, expected: str = "a folder", advice: str = "check the path"
) -> Path:
    """Return the path of a folder that may be listed, symbolic links followed.

    Parameters
    ----------
    path : path
    expected, advice : str
        As in `require_regular_file`.

    Raises
    ------
    MissingError
        When there is no such folder.
    InputError
        When it is something else; when it cannot be read; when no folder can have that name.
    """
    path = Path(path)
    mode = _mode(path, expected, advice)
    if not stat.S_ISDIR(mode):
        raise InputError(f"{path}: expected {expected}, found {_kind(mode)}: {advice}")
    if not os.access(path, os.R_OK | os.X_OK):
        raise InputError(
            f"{path}: expected {expected}, found a folder that you may not read: change its "
            "permissions"
        )
    return path


def require_output(path: str | Path) -> Path:
    """Return the path of a folder to be written: absent, a folder, or a link to one.

    Parameters
    ----------
    path : path

    Raises
    ------
    InputError
        When it does not end in a name (``.``, ``..``, ``/``), or in one that is too long for the
        hidden names beside it; when something else is there.
    """
    path, expected = Path(path), "a folder to be written"
    if path.name in ("", ".."):
        raise InputError(
            f"{path}: expected a path that ends in the name of the folder to be written: name a "
            f"new folder in it, such as {path / 'NEW'}"
        )
    mode = _mode_of_output(path, expected)
    if mode is not None and not stat.S_ISDIR(mode):
        raise InputError(
            f"{path}: expected {expected}, found {_kind(mode)}: choose another, or move it away"
        )
    return path


def require_output_file(path: str | Path) -> Path:
    """Return the path of a file to be written: absent, a file, or a link to one.

    Parameters
    ----------
    path : path

    Raises
    ------
    InputError
        As `require_output`.
    """
    path, expected = Path(path), "a file to be written"
    mode = stat.S_IFDIR if path.name in ("", "..") else _mode_of_output(path, expected)
    if mode is not None and not stat.S_ISREG(mode):
        raise InputError(f"{path}: expected {expected}, found {_kind(mode)}: name a file")
    return path


def _mode_of_output(path: Path, expected: str) -> int | None:
    """Kind and permissions of what is there; None where nothing is."""
    require_text(path)
    n_bytes = len(os.fsencode(path.name))
    if n_bytes > MAX_OUTPUT:
        raise InputError(
            f"{path}: expected {expected} with a name of at most {MAX_OUTPUT} bytes, found "
            f"{n_bytes}: choose a shorter one"
        )
    if one_line(str(path)) != str(path):
        raise InputError(
            f"{path}: expected {expected} with a name without control characters: choose another"
        )
    try:
        return path.stat().st_mode
    except FileNotFoundError as error:
        if path.is_symlink():
            raise InputError(
                f"{path}: expected {expected}, found a link to nothing: remove the link, or choose "
                "another"
            ) from error
        return None
    except OSError as error:
        raise InputError(
            f"{path}: expected {expected}, which is not possible ({error.strerror}): choose another"
        ) from error


def is_there(path: str | Path) -> bool:
    """Return whether there is something; not so where nothing can have the name."""
    try:
        return Path(path).exists()
    except (OSError, ValueError):
        return False


def is_given(path: Path) -> bool:
    """Return whether there is an entry of this name; reading it tells what is wrong with it.

    A file that may be absent is not taken to be so where it is a link to nothing.
    """
    return os.path.lexists(path)


def require_text(path: str | Path) -> None:
    """Refuse a path that is not text, which no record or table could hold.

    Raises
    ------
    InputError
    """
    path = Path(path)
    if not is_text(str(path.absolute())):
        raise InputError(
            f"{path}: the path is not text in {sys.getfilesystemencoding()}, this shell's encoding "
            "of names: rename what is escaped here, or choose a UTF-8 locale"
        )


def _kind(mode: int) -> str:
    return next((name for is_kind, name in _KINDS if is_kind(mode)), "something else")


def _mode(path: Path, expected: str, advice: str) -> int:
    """Kind and permissions of what is there."""
    require_text(path)
    try:
        return path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError) as error:
        found = "a link to nothing" if path.is_symlink() else "nothing"
        raise MissingError(
            f"{path} does not exist: expected {expected}, found {found}: {advice}"
        ) from error
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(
            f"{path}: expected {expected}, which cannot be opened ({reason}): {advice}"
        ) from error
