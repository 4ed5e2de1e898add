r"""Noise correlations between voxels, and how well those of draws agree with recorded ones.

Sums are taken in float64. A missing value (NaN) makes the results it enters NaN.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from synbrain_cli.errors import InputError, InputTypeError
from synbrain_cli.metrics.arrays import (
    as_matrix,
    check_generator,
    column_correlation,
    drawn_and_recorded,
    group_by_image,
)


def noise_correlation(
    betas: ArrayLike, image_index: ArrayLike, voxels: ArrayLike | None = None
) -> NDArray[np.float64]:
    r"""Correlation between voxels of what varies from repeat to repeat of an image.

    .. math:: C_{vw} = \frac{\sum_{ik} d_{ikv} \, d_{ikw}}
        {\sqrt{\sum_{ik} d_{ikv}^2 \sum_{ik} d_{ikw}^2}}, \qquad d_{ik} = y_{ik} - \bar y_i

    Deviations from the mean of their image are pooled over images. The mean costs each image one
    degree of freedom, in variances and covariances alike, so nothing is left to correct here.
    Images seen once contribute nothing.

    Parameters
    ----------
    betas : array of shape (n_trials, n_voxels)
        Single trials, recorded or drawn, in any unit.
    image_index : array of shape (n_trials,)
        Which image each trial showed: integers or names. At least one image seen twice.
    voxels : int array of shape (n_chosen,), optional
        Columns of ``betas`` to keep, in this order; all by default. The matrix of 15,000 voxels
        takes 2 GB: choose some hundreds or a region.

    Returns
    -------
    float64 array of shape (n_voxels, n_voxels), or (n_chosen, n_chosen)
        Rows and columns of voxels that never deviate, or with a missing value among the images
        seen twice, are NaN.
    """
    betas = as_matrix(betas, "betas")
    if voxels is not None:
        betas = betas[:, _columns(voxels, betas.shape[1])]
    deviations, _ = _deviations(betas, image_index)
    return _correlation_matrix(deviations)


def noise_correlation_agreement(
    drawn: ArrayLike,
    drawn_index: ArrayLike,
    recorded: ArrayLike,
    recorded_index: ArrayLike,
    generator: np.random.Generator,
    n_splits: int = 20,
) -> dict[str, float]:
    r"""Correlation over voxel pairs between drawn and recorded noise correlations.

    The recorded matrix is itself an estimate. Its reliability r is found by splitting the images
    seen twice or more in random halves: the correlation over voxel pairs between the matrices of
    the halves, averaged over splits, then stepped up to all images by 2r / (1 + r) (Spearman 1910,
    Brown 1910). The true matrix, free of noise, would correlate with the recorded one by √r in
    expectation (Spearman 1904): this is the ceiling. The drawn matrix is an estimate too, so give
    it many draws, or its own noise counts against the model.

    Parameters
    ----------
    drawn : array of shape (n_drawn, n_voxels)
        Draws, at least two for one image or more.
    drawn_index : array of shape (n_drawn,)
        Image of each draw.
    recorded : array of shape (n_recorded, n_voxels)
        Recorded single trials in the same voxels, three or more: choose some hundreds before. At
        least four images seen twice or more.
    recorded_index : array of shape (n_recorded,)
        Image of each recorded trial.
    generator : numpy.random.Generator
        Source of the splits.
    n_splits : int
        Number of splits in halves.

    Returns
    -------
    dict of floats
        ``correlation``: Pearson over pairs of voxels between the two matrices.
        ``reliability``: of the recorded matrix, all images.
        ``ceiling``: √reliability; NaN where reliability is not positive.
        ``share``: correlation / ceiling; may exceed 1 by chance, and is not informative where the
        ceiling is near 0.
        A drawn voxel that never deviates, or has a missing value, makes correlation and share NaN;
        a recorded one, in any half, makes reliability, ceiling and share NaN.
    """
    drawn, recorded = drawn_and_recorded(drawn, recorded)
    check_generator(generator)
    if recorded.shape[1] < 3:
        raise InputError(
            f"noise correlations: expected three voxels or more, found {recorded.shape[1]}"
        )
    if n_splits < 1:
        raise InputError(f"n_splits: expected one split or more, found {n_splits}")
    deviations, images = _deviations(recorded, recorded_index)
    n_images = images[-1] + 1
    if n_images < 4:
        raise InputError(
            f"recorded: expected four images or more that are seen twice, found {n_images}: "
            "pass single trials of more images"
        )

    halves = []
    for _ in range(n_splits):
        first = np.isin(images, generator.permutation(n_images)[: n_images // 2])
        halves.append(
            _pair_correlation(*(_correlation_matrix(deviations[h]) for h in (first, ~first)))
        )
    r = np.mean(halves)
    with np.errstate(divide="ignore", invalid="ignore"):
        reliability = 2 * r / (1 + r)
        ceiling = np.sqrt(reliability) if reliability > 0 else np.nan
    correlation = _pair_correlation(
        _correlation_matrix(deviations), noise_correlation(drawn, drawn_index)
    )
    return {
        "correlation": correlation,
        "reliability": float(reliability),
        "ceiling": float(ceiling),
        "share": float(correlation / ceiling),
    }


def _columns(voxels: ArrayLike, n_voxels: int) -> np.ndarray:
    voxels = np.asarray(voxels)
    if voxels.dtype.kind not in "iu":
        raise InputTypeError(
            f"voxels: expected integers, found dtype {voxels.dtype}: "
            "pass numpy.flatnonzero(mask) for a mask"
        )
    if voxels.ndim != 1 or voxels.size == 0 or voxels.min() < 0 or voxels.max() >= n_voxels:
        raise InputError(
            f"voxels: expected a list of columns from 0 to {n_voxels - 1}, "
            f"found shape {voxels.shape}"
            + (f" from {voxels.min()} to {voxels.max()}" if voxels.size else "")
        )
    return voxels


def _deviations(
    betas: ArrayLike, image_index: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Trials of images seen twice or more, minus the mean of their image; number of that image."""
    betas, _, order, _, counts = group_by_image(betas, image_index)
    repeated = counts > 1
    if not repeated.any():
        raise InputError(
            f"noise correlations: expected at least one image seen twice, found {len(counts)} "
            f"images in {counts.sum()} trials: pass single trials, not their averages"
        )
    deviations = betas[order[np.repeat(repeated, counts)]].astype(np.float64)
    counts = counts[repeated]
    starts = np.cumsum(counts) - counts
    # Minus the first repeat before the mean, so that equal repeats deviate by exactly 0
    deviations -= np.repeat(deviations[starts], counts, axis=0)
    means = np.add.reduceat(deviations, starts, axis=0) / counts[:, None]
    deviations -= np.repeat(means, counts, axis=0)
    return deviations, np.repeat(np.arange(len(counts)), counts)


def _correlation_matrix(deviations: np.ndarray) -> NDArray[np.float64]:
    with np.errstate(divide="ignore", invalid="ignore"):
        unit = deviations / np.linalg.norm(deviations, axis=0)
        return unit.T @ unit


def _pair_correlation(recorded: np.ndarray, other: np.ndarray) -> float:
    """Pearson between two matrices over their pairs of voxels."""
    pairs = np.triu_indices(len(recorded), k=1)
    return float(column_correlation(recorded[pairs][:, None], other[pairs][:, None])[0])
