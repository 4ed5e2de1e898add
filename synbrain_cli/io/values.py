"""Checks of the values of arrays that users give: range, precision, whole numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from synbrain_cli.errors import InputError
from synbrain_cli.io.tables import LARGEST

LOST = 0.01  # share of a voxel's variation that rounding to float32 may take (ours)
_SAMPLE = 512  # voxels in which that is looked at


def as_float32(values: np.ndarray, path: Path) -> np.ndarray:
    """Convert betas to float32, in which they are stored and modelled.

    Parameters
    ----------
    values : array of shape (n_trials, n_voxels)
    path : path
        File of the values, for messages.

    Returns
    -------
    float32 array of shape (n_trials, n_voxels)
        In C order.

    Raises
    ------
    InputError
        When a finite value is beyond the range of float32, or rounding to it takes more than
        `LOST` of the variation of half of the voxels: values that are far from 0 or too near to it.
    """
    with np.errstate(all="ignore"):
        out = np.ascontiguousarray(values, np.float32)
        if values.dtype.itemsize <= 2 or values.dtype == out.dtype:
            return out
        check_finite_as(values, out, path)
        some = slice(None, None, max(1, values.shape[1] // _SAMPLE))
        exact = np.asarray(values[:, some], np.float64)
        spread = exact.std(0)
        varies = np.isfinite(spread) & (spread > 0)
        lost = np.sqrt(((exact - out[:, some]) ** 2).mean(0))[varies] / spread[varies]
    if lost.size and np.median(lost) > LOST:
        raise InputError(
            f"{path}: the responses vary by {np.median(spread[varies]):.3g} (SD, median of voxels) "
            f"around {np.median(exact.mean(0)[varies]):.3g}, which float32 does not hold: subtract "
            "the mean of each voxel, or change the unit, before you save them"
        )
    return out


def check_finite_as(before: np.ndarray, after: np.ndarray, path: Path) -> None:
    """Check that finite values are finite in another dtype or unit.

    Parameters
    ----------
    before, after : arrays of shape (n_trials, n_voxels)
    path : path
        File of the values, for messages.

    Raises
    ------
    InputError
        When a value is not; the message names its trial and voxel.
    """
    infinite = ~np.isfinite(after)
    if infinite.any() and (lost := infinite & np.isfinite(before)).any():
        trial, voxel = np.argwhere(lost)[0]
        raise InputError(
            f"{path}: the value {before[trial, voxel]:.3g} of trial {trial} and voxel {voxel} "
            "(counted from 0) is beyond the range of float32: change the unit of the responses, or "
            "set the value to NaN, so that the voxel is left out"
        )


def whole_codes(values: np.ndarray, path: Path) -> np.ndarray:
    """Convert codes of a file of labels, or numbers of vertices, to whole numbers.

    Parameters
    ----------
    values : array
        NaN where there is no label.
    path : path
        For messages.

    Returns
    -------
    int64 array
        −1 for NaN.

    Raises
    ------
    InputError
        When a value is not a whole number.
    """
    found = np.nan_to_num(values.astype(np.float64), nan=-1, posinf=np.inf, neginf=-np.inf)
    bad = found[~((np.abs(found) < LARGEST) & (np.floor(found) == found))]
    if bad.size:
        raise InputError(f"{path}: expected whole numbers, found {bad[0]:g}: copy the file again")
    return found.astype(np.int64)


def signal_to_noise(values: np.ndarray, path: Path) -> np.ndarray:
    """Check that ncsnr is not negative and not infinite; NaN is unknown.

    Parameters
    ----------
    values : array
    path : path
        For messages.

    Raises
    ------
    InputError
        When a value is.
    """
    bad = values[(values < 0) | np.isinf(values)]
    if bad.size:
        raise InputError(
            f"{path}: expected ncsnr from 0, found {bad[0]:g}: copy or download the file again"
        )
    return values
