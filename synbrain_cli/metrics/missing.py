"""Medians, means and quantiles of the values that are known: NaN where none is."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike


def known_median(values: ArrayLike, axis: int | None = None) -> Any:
    """Return ``np.nanmedian``; NaN, without a warning, where all values are NaN or there is none.

    Parameters
    ----------
    values : array
    axis : int, optional
        Default: over all values.

    Returns
    -------
    array, or a number without ``axis``
    """
    return _of_known(np.nanmedian, values, axis)


def known_mean(values: ArrayLike, axis: int | None = None) -> Any:
    """Return ``np.nanmean``, as `known_median`."""
    return _of_known(np.nanmean, values, axis)


def known_quantile(values: ArrayLike, q: float, axis: int | None = None) -> Any:
    """Return ``np.nanquantile`` of one probability q, as `known_median`."""
    return _of_known(partial(np.nanquantile, q=q), values, axis)


def _of_known(function: Callable[..., Any], values: ArrayLike, axis: int | None) -> Any:
    values = np.asarray(values)
    known = (~np.isnan(values)).any(axis)
    if np.all(known):
        return function(values, axis=axis)
    if axis is None:
        return np.nan
    rows = np.moveaxis(values, axis, -1)
    found = np.full(rows.shape[:-1], np.nan)
    if known.any():
        found[known] = function(rows[known], axis=-1)
    return found
