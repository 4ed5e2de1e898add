"""Files and folders that users name, checked before they are opened.

Opening a pipe or a device waits, or reads without end, and the system's own errors name no cause.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from synbrain_cli.errors import InputError, MissingError

_OTHER_KINDS = (
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
        When it is a folder, a pipe or a device; when it cannot be read; when no file can have that
        name.
    """
    path = Path(path)
    mode = _mode(path, expected, advice)
    if not stat.S_ISREG(mode):
        kind = next((name for is_kind, name in _OTHER_KINDS if is_kind(mode)), "something else")
        raise InputError(f"{path}: expected {expected}, found {kind}: {advice}")
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
    if not stat.S_ISDIR(_mode(path, expected, advice)):
        raise InputError(f"{path}: expected {expected}, found something else: {advice}")
    if not os.access(path, os.R_OK | os.X_OK):
        raise InputError(
            f"{path}: expected {expected}, found a folder that you may not read: change its "
            "permissions"
        )
    return path


def _mode(path: Path, expected: str, advice: str) -> int:
    """Kind and permissions of what is there."""
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
