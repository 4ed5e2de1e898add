r"""Scores of predicted responses against recorded ones.

A name says what a score runs over: ``voxelwise_correlation`` runs over images and gives one number
per voxel; ``pattern_correlation``, ``mean_squared_error`` and ``cosine_similarity`` run over voxels
and give one number per trial. What the repeats of each image allow is in
`synbrain_cli.metrics.noise_ceiling`, intervals over images in `synbrain_cli.metrics.bootstrap`.

Everywhere here:

- arrays are ``(n_images or n_trials, n_voxels)``, and are never broadcast against each other;
- sums are taken in float64, block by block, and returned in the dtype of the input (float64 for
  integers);
- a missing value (NaN) makes the scores it enters NaN: nothing is dropped or filled;
- no score is clipped.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from synbrain_cli.errors import InputError
from synbrain_cli.metrics.arrays import (
    as_pair,
    at_least_two,
    block_slices,
    blockwise,
    column_correlation,
    column_cosine,
    float_dtype,
    group_by_image,
    shares_of_counts,
)


def voxelwise_correlation(y_true: ArrayLike, y_pred: ArrayLike) -> np.ndarray:
    r"""Pearson correlation over images, one per voxel.

    .. math:: r_v = \frac{\sum_i (y_{iv} - \bar y_v)(\hat y_{iv} - \bar{\hat y}_v)}
        {\sqrt{\sum_i (y_{iv} - \bar y_v)^2 \sum_i (\hat y_{iv} - \bar{\hat y}_v)^2}}

    Parameters
    ----------
    y_true : array of shape (n_images, n_voxels)
        Measured responses (usually the average over repeats), in any unit. At least two images.
    y_pred : array of shape (n_images, n_voxels)
        Predictions; scale and offset of a voxel do not matter.

    Returns
    -------
    array of shape (n_voxels,)
        NaN where the data do not vary over images or a value is missing. 0 where the data vary and
        the prediction does not: a constant (the mean pattern, say) predicts nothing about images,
        and leaving it out of an average would reward it (ours).
    """
    y_true, y_pred, dtype = as_pair(y_true, y_pred)
    at_least_two(y_true.shape[0], "a correlation over images", "images")
    return blockwise(column_correlation, y_true, y_pred, keep=1).astype(dtype)


def pattern_correlation(y_true: ArrayLike, y_pred: ArrayLike) -> np.ndarray:
    """Pearson correlation over voxels, one per trial.

    High even for a prediction that is the same for all images, since voxels differ in their mean:
    report it beside that of the mean pattern.

    Parameters
    ----------
    y_true, y_pred : arrays of shape (n_trials, n_voxels)
        Measured and predicted patterns. At least two voxels.

    Returns
    -------
    array of shape (n_trials,)
        NaN where the measured pattern is the same in all voxels or a value is missing; 0 where the
        predicted one is (as in ``voxelwise_correlation``).
    """
    y_true, y_pred, dtype = as_pair(y_true, y_pred)
    at_least_two(y_true.shape[1], "a correlation over voxels", "voxels")
    return blockwise(lambda t, p: column_correlation(t.T, p.T), y_true, y_pred, keep=0).astype(
        dtype
    )


def mean_squared_error(y_true: ArrayLike, y_pred: ArrayLike) -> np.ndarray:
    r"""Mean squared error over voxels, one per trial: :math:`\frac1V \sum_v (y_v - \hat y_v)^2`.

    Parameters
    ----------
    y_true, y_pred : arrays of shape (n_trials, n_voxels)
        Measured and predicted patterns, in the same unit.

    Returns
    -------
    array of shape (n_trials,)
        In the unit squared.
    """
    y_true, y_pred, dtype = as_pair(y_true, y_pred)
    return blockwise(lambda t, p: ((t - p) ** 2).mean(1), y_true, y_pred, keep=0).astype(dtype)


def cosine_similarity(y_true: ArrayLike, y_pred: ArrayLike) -> np.ndarray:
    r"""Cosine of the angle between two patterns, one per trial.

    .. math:: y \cdot \hat y \,/\, \lVert y \rVert \lVert \hat y \rVert

    Parameters
    ----------
    y_true, y_pred : arrays of shape (n_trials, n_voxels)
        Measured and predicted patterns.

    Returns
    -------
    array of shape (n_trials,)
        NaN where the measured pattern is zero everywhere or a value is missing; 0 where the
        predicted one is.
    """
    y_true, y_pred, dtype = as_pair(y_true, y_pred)
    return blockwise(lambda t, p: column_cosine(t.T, p.T), y_true, y_pred, keep=0).astype(dtype)


def skill(y_true: ArrayLike, y_pred: ArrayLike, baseline: ArrayLike) -> np.ndarray:
    r"""Part of the baseline's squared error that the model removes, one per voxel.

    .. math:: 1 - \frac{\sum_i (y_{iv} - \hat y_{iv})^2}{\sum_i (y_{iv} - b_v)^2}

    With the training mean as baseline this is the out-of-sample :math:`R^2`
    (Campbell & Thompson 2008).

    Parameters
    ----------
    y_true, y_pred : arrays of shape (n_images, n_voxels)
        Measured and predicted responses, in the same unit.
    baseline : array of shape (n_voxels,) or (n_images, n_voxels)
        The pattern predicted for every image: the mean over *training* trials. One for each image
        where each was held out from other training trials.

    Returns
    -------
    array of shape (n_voxels,)
        1 for a perfect prediction, 0 for one as good as the baseline, negative for a worse one. NaN
        where the baseline makes no error or a value is missing.
    """
    model, base, dtype = squared_errors(y_true, y_pred, baseline)
    return one_minus_ratio(model, base).astype(dtype)


def pooled_skill(y_true: ArrayLike, y_pred: ArrayLike, baseline: ArrayLike) -> float:
    """``skill`` with the errors of all voxels summed before the ratio is taken.

    Voxels with large responses weigh more than in the mean of ``skill`` over voxels, and voxels
    with almost none cannot dominate. Parameters as in ``skill``; NaN as there.
    """
    model, base, _ = squared_errors(y_true, y_pred, baseline)
    return float(one_minus_ratio(model.sum(), base.sum()))


def squared_errors_of_images(
    y_true: ArrayLike, y_pred: ArrayLike, baseline: ArrayLike
) -> NDArray[np.float64]:
    """Squared errors of model and baseline, one per image: what ``pooled_skill`` is made of.

    Parameters as in ``skill``.

    Returns
    -------
    float64 array of shape (n_images, 2)
        Means over voxels, of the model and of the baseline: for ``weighted_mean``.
    """
    y_true, y_pred, _ = as_pair(y_true, y_pred)
    baseline = np.broadcast_to(np.asarray(baseline), y_true.shape)
    both = [mean_squared_error(y_true.astype(np.float64), p) for p in (y_pred, baseline)]
    return np.stack(both, axis=1)


def average_repeats(
    betas: ArrayLike, image_index: ArrayLike
) -> tuple[np.ndarray, np.ndarray, NDArray[np.int64]]:
    """Mean response to each image, with the number of repeats it rests on.

    Parameters
    ----------
    betas : array of shape (n_trials, n_voxels)
        Single-trial responses, in any unit and order.
    image_index : array of shape (n_trials,)
        Which image each trial showed: integers or names. Images need not be seen equally often.

    Returns
    -------
    means : array of shape (n_images, n_voxels)
        Rows in the order of ``images``. NaN where any repeat is missing.
    images : array of shape (n_images,)
        The distinct values of ``image_index``, sorted.
    n_repeats : int64 array of shape (n_images,)
        Trials averaged for each image, 1 or more.

    Examples
    --------
    >>> means, images, n_repeats = average_repeats([[1.0], [5.0], [3.0]], [7, 2, 7])
    >>> means.ravel().tolist(), images.tolist(), n_repeats.tolist()
    ([5.0, 2.0], [2, 7], [1, 2])
    """
    betas, images, order, starts, counts = group_by_image(betas, image_index)
    means = np.empty((len(images), betas.shape[1]), dtype=float_dtype(betas))
    for columns in block_slices(betas.shape[1], betas.shape[0]):
        block = betas[:, columns].astype(np.float64)[order]
        means[:, columns] = np.add.reduceat(block, starts, axis=0) / counts[:, None]
    return means, images, counts


def squared_errors(
    y_true: ArrayLike, y_pred: ArrayLike, baseline: ArrayLike, counts: ArrayLike | None = None
) -> tuple[np.ndarray, np.ndarray, np.dtype]:
    """Mean squared errors over images of model and baseline: (n_voxels,) or (n_boot, n_voxels)."""
    y_true, y_pred, dtype = as_pair(y_true, y_pred)
    baseline = np.asarray(baseline)
    if baseline.shape not in (y_true.shape[1:], y_true.shape):
        raise InputError(
            f"baseline: expected one pattern, shape {y_true.shape[1:]}, or one for each image, "
            f"found {baseline.shape}"
        )
    shares = None if counts is None else shares_of_counts(counts, len(y_true))

    def errors(t: np.ndarray, p: np.ndarray, b: np.ndarray) -> np.ndarray:
        both = ((t - p) ** 2, (t - b) ** 2)
        means = [x.mean(0) if shares is None else shares @ x for x in both]
        return np.stack(means).T  # (n_voxels, [n_boot,] 2)

    model, base = blockwise(errors, y_true, y_pred, np.atleast_2d(baseline), keep=1).T
    return model, base, dtype


def one_minus_ratio(model: ArrayLike, base: ArrayLike) -> np.ndarray:
    """Return 1 − model / base; NaN where the baseline's error is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(np.equal(base, 0), np.nan, 1 - np.divide(model, base))
