"""Checks of arrays and block-wise sums that the scores share.

Arrays are ``(n_images or n_trials, n_voxels)``. Sums are taken in float64, block by block, so that
a float32 array too large to be copied is scored without a copy of the whole.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from synbrain_cli.errors import InputError, InputTypeError

BLOCK = 2**23  # numbers converted to float64 at a time (64 MB)


def as_pair(y_true: ArrayLike, y_pred: ArrayLike) -> tuple[np.ndarray, np.ndarray, np.dtype]:
    """Return two arrays, checked as by `as_matrix` and of one shape, and the dtype of a score.

    Raises
    ------
    InputError, InputTypeError
    """
    y_true, y_pred = as_matrix(y_true, "y_true"), as_matrix(y_pred, "y_pred")
    if y_true.shape != y_pred.shape:
        raise InputError(
            f"y_true and y_pred: expected one shape, found {y_true.shape} and {y_pred.shape}: "
            "average the repeats, or repeat the prediction, so that rows and voxels correspond"
        )
    return y_true, y_pred, float_dtype(y_true, y_pred)


def as_matrix(values: ArrayLike, name: str) -> np.ndarray:
    """Return an array, checked to have two axes, at least one entry and real numbers.

    Parameters
    ----------
    values : array of shape (n_images or n_trials, n_voxels)
    name : str
        Of the argument, for messages.

    Raises
    ------
    InputError, InputTypeError
    """
    values = np.asarray(values)
    if values.dtype.kind not in "biuf":
        raise InputTypeError(f"{name}: expected real numbers, found dtype {values.dtype}")
    if values.ndim != 2 or 0 in values.shape:
        raise InputError(
            f"{name}: expected a filled array (n_images or n_trials, n_voxels), "
            f"found shape {values.shape}"
        )
    return values


def same_voxels(a: np.ndarray, b: np.ndarray, names: str) -> tuple[np.ndarray, np.ndarray]:
    """Return both arrays, checked to have as many columns (voxels) as each other.

    Raises
    ------
    InputError
    """
    if a.shape[1] != b.shape[1]:
        raise InputError(
            f"{names}: expected the same voxels, found {a.shape[1]} and {b.shape[1]}: "
            "rows are trials, columns voxels"
        )
    return a, b


def float_dtype(*arrays: np.ndarray) -> np.dtype:
    """Return the floating dtype that the arrays share; float64 for integers and booleans."""
    dtype = np.result_type(*arrays)
    return dtype if dtype.kind == "f" else np.dtype(np.float64)


def at_least_two(n: int, what: str, unit: str) -> None:
    """Raise an InputError where there are fewer than two of a unit."""
    if n < 2:
        raise InputError(f"{what}: expected two {unit} or more, found {n}")


def check_generator(generator: np.random.Generator) -> None:
    """Raise an InputTypeError for anything but a numpy Generator."""
    if not isinstance(generator, np.random.Generator):
        raise InputTypeError(
            f"generator: expected a numpy.random.Generator, found {type(generator).__name__}: "
            "pass numpy.random.default_rng(seed)"
        )


def drawn_and_recorded(drawn: ArrayLike, recorded: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Return draws and recorded trials as arrays, checked to be of the same voxels."""
    drawn, recorded = as_matrix(drawn, "drawn"), as_matrix(recorded, "recorded")
    return same_voxels(drawn, recorded, "drawn and recorded")


def group_by_image(
    betas: ArrayLike, image_index: ArrayLike
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Sort trials by image.

    Parameters
    ----------
    betas : array of shape (n_trials, n_voxels)
    image_index : array of shape (n_trials,)
        Integers or names.

    Returns
    -------
    betas : array of shape (n_trials, n_voxels)
        As given, checked.
    images : array of shape (n_images,)
        The distinct values of ``image_index``, sorted.
    order : int array of shape (n_trials,)
        Order of the trials that sorts them by image.
    starts : int array of shape (n_images,)
        Position of each image's first trial in that order.
    counts : int64 array of shape (n_images,)
        Trials of each image.

    Raises
    ------
    InputError, InputTypeError
    """
    betas, index = as_matrix(betas, "betas"), np.asarray(image_index)
    if index.dtype.kind not in "iuUSO":
        raise InputTypeError(f"image_index: expected integers or names, found dtype {index.dtype}")
    if index.shape != betas.shape[:1]:
        raise InputError(
            f"image_index: expected one image per trial, shape {betas.shape[:1]}, "
            f"found shape {index.shape}"
        )
    images, inverse, counts = np.unique(index, return_inverse=True, return_counts=True)
    order = np.argsort(inverse, kind="stable")
    return betas, images, order, np.cumsum(counts) - counts, counts.astype(np.int64)


def block_slices(n: int, n_other: int) -> list[slice]:
    """Return slices of ``n`` rows or columns with at most `BLOCK` numbers each."""
    step = max(1, BLOCK // n_other)
    return [slice(start, start + step) for start in range(0, n, step)]


def blockwise(function: Callable[..., np.ndarray], *arrays: np.ndarray, keep: int) -> np.ndarray:
    """Apply a function to float64 copies of blocks along axis ``keep``; join results on axis 0."""
    n, n_other = arrays[0].shape[keep], arrays[0].shape[1 - keep]
    return np.concatenate(
        [
            function(*((a[s] if keep == 0 else a[:, s]).astype(np.float64) for a in arrays))
            for s in block_slices(n, n_other)
        ]
    )


def column_cosine(t: np.ndarray, p: np.ndarray) -> np.ndarray:
    """Return the cosine of each column of data ``t`` with that of the prediction ``p``.

    0 where the prediction is zero, NaN where the data are or a value is missing.
    """
    norm_t, norm_p = np.linalg.norm(t, axis=0), np.linalg.norm(p, axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        cosine = ((t / norm_t) * (p / norm_p)).sum(0)
    cosine[norm_p == 0] = 0
    cosine[(norm_t == 0) | np.isnan(norm_t) | np.isnan(norm_p)] = np.nan
    return cosine


def column_correlation(t: np.ndarray, p: np.ndarray) -> np.ndarray:
    """Return the Pearson correlation of each column of ``t`` with that of ``p``.

    0 where the prediction is constant, NaN where the data are or a value is missing.
    """
    return column_cosine(centred_columns(t), centred_columns(p))


def centred_columns(x: np.ndarray) -> np.ndarray:
    """Return columns minus their mean; a constant column gives exactly 0, free of rounding."""
    return np.where(np.ptp(x, axis=0) == 0, 0, x - x.mean(0))


def column_sd(x: np.ndarray) -> np.ndarray:
    """Return the standard deviation of each column; 1 for a constant column."""
    return np.where(np.ptp(x, axis=0) == 0, 1, x.std(0))


def shares_of_counts(counts: ArrayLike, n_images: int) -> NDArray[np.float64]:
    """Return the counts (n_boot, n_images) of resampled images as shares that sum to 1 per sample.

    Raises
    ------
    InputError
    """
    counts = as_matrix(counts, "counts").astype(np.float64)
    if counts.shape[1] != n_images:
        raise InputError(f"counts: expected {n_images} columns (images), found {counts.shape[1]}")
    return counts / counts.sum(1, keepdims=True)
