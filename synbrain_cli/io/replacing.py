"""Replacement of a folder by another: at every moment the one or the other has the name."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from synbrain_cli.errors import InputError

AT_FDCWD, RENAME_EXCHANGE = -100, 2  # Linux: renameat2(2)
RENAME_SWAP = 2  # macOS: renamex_np(2)


def put_in_place(new: Path, target: Path, aside: Path) -> None:
    """Give the folder ``new`` the name ``target``; remove the folder that had it.

    The two exchange their names in one step where the file system can do so. Elsewhere the former
    folder is first moved to ``aside``, from where `restore` takes it back after a kill between the
    two steps.

    Parameters
    ----------
    new, target, aside : path
        On one file system; ``target`` need not exist, ``aside`` does not.
    """
    if not target.exists():
        new.replace(target)
        return
    if exchange(new, target):
        shutil.rmtree(new, ignore_errors=True)
        return
    target.replace(aside)
    new.replace(target)
    shutil.rmtree(aside, ignore_errors=True)


def restore(target: Path, aside: Path) -> None:
    """Take back a folder that was moved aside, where its replacement has not got the name."""
    if aside.is_dir() and not target.exists():
        aside.replace(target)


@contextlib.contextmanager
def unreplaced(folder: Path) -> Iterator[None]:
    """Refuse what was read in the block while another process replaced the folder.

    Raises
    ------
    InputError
    """
    before = _identity(folder)
    yield
    if _identity(folder) != before:
        raise InputError(
            f"{folder}: was replaced by another process while it was read: run the command again"
        )


def _identity(folder: Path) -> tuple[int, int] | None:
    try:
        status = folder.stat()
    except OSError:  # whoever reads it says what is wrong
        return None
    return status.st_dev, status.st_ino


def exchange(one: Path, other: Path) -> bool:
    """Exchange the names of two folders in one step; False where the system cannot."""
    function = _system_call()
    return function is not None and function(os.fsencode(one), os.fsencode(other)) == 0


@functools.cache
def _system_call() -> Callable[[bytes, bytes], int] | None:
    library = ctypes.CDLL(None)
    if sys.platform == "darwin":
        swap = getattr(library, "renamex_np", None)
        return None if swap is None else lambda a, b: swap(a, b, RENAME_SWAP)
    rename = getattr(library, "renameat2", None)  # None of an old C library, or another system
    if rename is None:
        return None
    rename.argtypes = (ctypes.c_int, ctypes.c_char_p) * 2 + (ctypes.c_uint,)
    return lambda a, b: rename(AT_FDCWD, a, AT_FDCWD, b, RENAME_EXCHANGE)
