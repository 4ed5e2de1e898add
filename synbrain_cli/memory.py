"""Memory and disk: what is free, whether a task fits, and pages of files that are given back."""

from __future__ import annotations

import mmap
import shutil
from pathlib import Path

import numpy as np
import psutil

from synbrain_cli.errors import InputError


def release(array: np.ndarray) -> None:
    """Give back the memory of what was read of a memory map; it can be read again at any time.

    Pages of a mapped file count as the memory of the process that read them, so that a pass through
    a file of tokens would take as much memory as the file is long. Other arrays are left alone.

    Parameters
    ----------
    array : array
        As `numpy.load` returns it with ``mmap_mode="r"``.
    """
    mapped = getattr(array, "_mmap", None)
    if mapped is not None and array.flags.writeable is False and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)


def require_memory(needed: float, what: str, advice: str) -> str:
    """Refuse a task that does not fit into the free memory; say what it needs.

    Parameters
    ----------
    needed : float
        Bytes at the peak, estimated.
    what : str
        What is to be done: "training sub-01".
    advice : str
        What needs less.

    Returns
    -------
    str
        How much is needed and how much is free, for the log.

    Raises
    ------
    InputError
        When less is free.
    """
    free = psutil.virtual_memory().available
    found = f"{gigabytes(needed)} GB of memory, {gigabytes(free)} GB are free"
    if needed > free:
        raise InputError(f"{what} needs about {found}: close other programs, or {advice}")
    return f"needs about {found}"


def require_disk(needed: float, folder: Path, what: str, advice: str) -> str:
    """Refuse a task whose files do not fit on the disk; say what they need.

    Parameters
    ----------
    needed : float
        Bytes, estimated.
    folder : path
        Where they are written.
    what : str
        What is to be done: "drawing 10,000 images".
    advice : str
        What needs less.

    Returns
    -------
    str
        How much is needed and how much is free, for the log.

    Raises
    ------
    InputError
        When less is free.
    """
    free = shutil.disk_usage(folder).free
    found = f"{gigabytes(needed)} GB of disk, {gigabytes(free)} GB are free"
    if needed > free:
        raise InputError(f"{what} needs about {found} in {folder}: free some space, {advice}")
    return f"needs about {found}"


def gigabytes(n_bytes: float) -> str:
    """Gigabytes with one decimal: "6.4"."""
    return f"{n_bytes / 1e9:.1f}"
