r"""Signal-to-noise ratio of each voxel from repeats of images, and the noise ceilings it sets.

The definitions are those of Allen et al. (2022, *Nature Neuroscience* 25). A missing value (NaN)
makes the results it enters NaN. Sums are taken in float64. Nothing is clipped, except the signal
variance in ``ncsnr``, as in its source.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from synbrain_cli.errors import InputError
from synbrain_cli.metrics.arrays import blockwise, float_dtype, group_by_image


def ncsnr(betas: ArrayLike, image_index: ArrayLike) -> np.ndarray:
    r"""Noise-ceiling signal-to-noise ratio of each voxel, from repeats of images.

    With :math:`n_i` trials of image i, N trials in all:

    .. math::
        \hat\sigma_n^2 = \frac{\sum_i \sum_k (y_{ik} - \bar y_i)^2}{\sum_i (n_i - 1)}, \qquad
        \hat\sigma_s^2 = \max\Big(0,\;
            \frac{\sum_{ik} (y_{ik} - \bar y)^2 - (N - 1) \hat\sigma_n^2}{N - \sum_i n_i^2 / N}
            \Big), \qquad
        \mathrm{ncsnr} = \hat\sigma_s / \hat\sigma_n

    This is the definition of Allen et al. (2022, *Nature Neuroscience* 25, Methods, "Noise ceiling
    estimation"): variance within image over repeats, pooled over images; total variance minus it;
    negative values to 0; ratio of standard deviations. Two small differences (ours): an image
    weighs by its degrees of freedom, which is the same when all have three repeats, and the
    divisor N − Σn²/N, not N − 1, keeps the signal variance unbiased when images are few (0.7 % at
    100 images × 3; 0.007 % at NSD's 10,000). NSD z-scores betas within session first, which makes
    the total variance 1; without that, drift between sessions counts as noise.

    Parameters
    ----------
    betas : array of shape (n_trials, n_voxels)
        Single-trial responses, z-scored or not: the ratio has no unit.
    image_index : array of shape (n_trials,)
        Which image each trial showed: integers or names. Unequal numbers of repeats are fine;
        images seen once inform the total variance alone. At least one image seen twice and two
        images.

    Returns
    -------
    array of shape (n_voxels,)
        0 where repeats differ as much as images do. NaN where the voxel does not vary or a value is
        missing; infinite where repeats are identical.
    """
    betas, _, order, starts, counts = group_by_image(betas, image_index)
    _need_repeats(counts)

    def ratio(block: np.ndarray) -> np.ndarray:
        block = block[order]
        flat = np.ptp(block, axis=0) == 0
        block -= block.mean(0)
        total = (block**2).sum(0)
        return np.where(flat, np.nan, ncsnr_of_sums(total, _within(block, starts, counts), counts))

    return blockwise(ratio, betas, keep=1).astype(float_dtype(betas))


def ncsnr_of_stream(
    read: Callable[[np.ndarray], np.ndarray], image_index: ArrayLike, n_rows: int = 256
) -> np.ndarray:
    """``ncsnr`` of responses that do not fit in memory: some images are read at a time.

    Parameters
    ----------
    read : callable
        Rows (int array) → responses of those trials, (n, n_voxels), of about zero mean.
    image_index : array of shape (n_trials,)
        Which image each trial showed.
    n_rows : int
        Trials read at once, or the repeats of one image if these are more.

    Returns
    -------
    float64 array of shape (n_voxels,)
    """
    index = np.asarray(image_index)
    _, inverse, counts = np.unique(index, return_inverse=True, return_counts=True)
    _need_repeats(counts)
    order, ends = np.argsort(inverse, kind="stable"), np.cumsum(counts)
    total: np.ndarray | float = 0.0
    squares: np.ndarray | float = 0.0
    within: np.ndarray | float = 0.0
    first = 0
    while first < len(counts):
        begin = ends[first] - counts[first]
        last = max(first + 1, int(np.searchsorted(ends, begin + n_rows, side="right")))
        block = read(order[begin : ends[last - 1]]).astype(np.float64)
        some = counts[first:last]
        with np.errstate(invalid="ignore"):
            total = total + block.sum(0)
            squares = squares + (block**2).sum(0)
            within = within + _within(block, np.cumsum(some) - some, some)
        first = last
    with np.errstate(invalid="ignore"):
        spread = squares - total**2 / len(order)
    # What remains of a constant after cancellation is no variance.
    flat = spread <= 1e-12 * squares
    return np.where(flat, np.nan, ncsnr_of_sums(np.asarray(spread), np.asarray(within), counts))


def ncsnr_of_sums(total: np.ndarray, within: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """``ncsnr`` of responses from their sums of squares.

    Parameters
    ----------
    total, within : arrays of shape (n_voxels,)
        Sums of squares around the mean, and around each image's mean.
    counts : int array of shape (n_images,)
        Repeats of each image.

    Returns
    -------
    array of shape (n_voxels,)
    """
    n_trials = counts.sum()
    noise = within / (n_trials - len(counts))
    effective = n_trials - (counts.astype(np.float64) ** 2).sum() / n_trials
    signal = np.maximum((total - (n_trials - 1) * noise) / effective, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.sqrt(signal / noise)


def noise_ceiling(ncsnr: ArrayLike, n_repeats: ArrayLike) -> np.ndarray:
    r"""Largest share of variance any model can explain in the average of n repeats.

    .. math:: \mathrm{NC} = \frac{\mathrm{ncsnr}^2}
        {\mathrm{ncsnr}^2 + \frac1I \sum_i \frac{1}{n_i}}

    (Allen et al. 2022, Methods; the mean of 1/n is their A/3 + B/2 + C/1 form.) State it with
    ``n_repeats``: the ceiling of one repeat is far below that of three.

    Parameters
    ----------
    ncsnr : array of shape (n_voxels,), or a number
        Signal-to-noise ratio, ≥ 0; NaN stays NaN, infinite gives 1.
    n_repeats : a number, or array of shape (n_images,)
        Repeats averaged, ≥ 1. An array holds one number per *image* of the set scored, never per
        voxel.

    Returns
    -------
    array of the shape of ``ncsnr``
        Explained variance between 0 and 1 (× 100 for NSD's percent).

    Examples
    --------
    >>> noise_ceiling(1.0, 3).item(), noise_ceiling(1.0, [1, 1]).item()
    (0.75, 0.5)
    """
    ncsnr = np.asarray(ncsnr)
    dtype = float_dtype(ncsnr)
    repeats = np.asarray(n_repeats, dtype=np.float64)
    if repeats.ndim > 1 or repeats.size == 0 or not (repeats >= 1).all():
        raise InputError(
            f"n_repeats: expected a number, or one per image, all ≥ 1; found shape {repeats.shape}"
            + (f" with least value {repeats.min():g}" if repeats.size else "")
        )
    if (ncsnr < 0).any():
        raise InputError(f"ncsnr: expected values ≥ 0, found {np.nanmin(ncsnr):g}")
    with np.errstate(divide="ignore"):
        return (1 / (1 + (1 / repeats).mean() / np.square(ncsnr, dtype=np.float64))).astype(dtype)


def correlation_ceiling(ncsnr: ArrayLike, n_repeats: ArrayLike) -> np.ndarray:
    """Largest expected ``voxelwise_correlation`` with the average of n repeats: √``noise_ceiling``.

    Divide r by it, or r² by ``noise_ceiling``, to normalise for noise. Parameters as there.
    """
    return np.sqrt(noise_ceiling(ncsnr, n_repeats))


def _need_repeats(counts: np.ndarray) -> None:
    if counts.max(initial=0) < 2 or len(counts) < 2:
        raise InputError(
            f"ncsnr: expected two images or more, at least one of them seen twice; found "
            f"{len(counts)} images in {counts.sum()} trials: pass single trials, not their averages"
        )


def _within(block: np.ndarray, starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Sum of squares around the mean of each image, trials sorted by image; changes ``block``."""
    means = np.add.reduceat(block, starts, axis=0) / counts[:, None]
    block -= np.repeat(means, counts, axis=0)
    return (block**2).sum(0)
