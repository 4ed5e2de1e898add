r"""Scores of predicted responses, and the best that the repeats of each image allow.

A name says what a score runs over: ``voxelwise_correlation`` runs over images and gives one number
per voxel; ``pattern_correlation``, ``mean_squared_error`` and ``cosine_similarity`` run over voxels
and give one number per trial.

Everywhere here:

- arrays are ``(n_images or n_trials, n_voxels)``, and are never broadcast against each other;
- sums are taken in float64, block by block, and returned in the dtype of the input (float64 for
  integers);
- a missing value (NaN) makes the scores it enters NaN: nothing is dropped or filled;
- no score is clipped, except the signal variance in ``ncsnr``, as its source does.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from synbrain_cli.errors import InputError, InputTypeError

_BLOCK = 2**23  # numbers converted to float64 at a time (64 MB)


def voxelwise_correlation(y_true: ArrayLike, y_pred: ArrayLike) -> NDArray:
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
    y_true, y_pred, dtype = _pair(y_true, y_pred)
    _at_least_two(y_true.shape[0], "a correlation over images", "images")
    return _blockwise(_column_correlation, y_true, y_pred, keep=1).astype(dtype)


def pattern_correlation(y_true: ArrayLike, y_pred: ArrayLike) -> NDArray:
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
    y_true, y_pred, dtype = _pair(y_true, y_pred)
    _at_least_two(y_true.shape[1], "a correlation over voxels", "voxels")
    return _blockwise(lambda t, p: _column_correlation(t.T, p.T), y_true, y_pred, keep=0).astype(
        dtype
    )


def mean_squared_error(y_true: ArrayLike, y_pred: ArrayLike) -> NDArray:
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
    y_true, y_pred, dtype = _pair(y_true, y_pred)
    return _blockwise(lambda t, p: ((t - p) ** 2).mean(1), y_true, y_pred, keep=0).astype(dtype)


def cosine_similarity(y_true: ArrayLike, y_pred: ArrayLike) -> NDArray:
    r"""Cosine of the angle between two patterns, one per trial:
    :math:`y \cdot \hat y \,/\, \lVert y \rVert \lVert \hat y \rVert`.

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
    y_true, y_pred, dtype = _pair(y_true, y_pred)
    return _blockwise(lambda t, p: _cosine(t.T, p.T), y_true, y_pred, keep=0).astype(dtype)


def skill(y_true: ArrayLike, y_pred: ArrayLike, baseline: ArrayLike) -> NDArray:
    r"""Part of the baseline's squared error that the model removes, one per voxel.

    .. math:: 1 - \frac{\sum_i (y_{iv} - \hat y_{iv})^2}{\sum_i (y_{iv} - b_v)^2}

    With the training mean as baseline this is the out-of-sample :math:`R^2`
    (Campbell & Thompson 2008).

    Parameters
    ----------
    y_true, y_pred : arrays of shape (n_images, n_voxels)
        Measured and predicted responses, in the same unit.
    baseline : array of shape (n_voxels,)
        The pattern predicted for every image: the mean over *training* trials.

    Returns
    -------
    array of shape (n_voxels,)
        1 for a perfect prediction, 0 for one as good as the baseline, negative for a worse one. NaN
        where the baseline makes no error or a value is missing.
    """
    model, base, dtype = _squared_errors(y_true, y_pred, baseline)
    return _one_minus_ratio(model, base).astype(dtype)


def pooled_skill(y_true: ArrayLike, y_pred: ArrayLike, baseline: ArrayLike) -> float:
    """``skill`` with the errors of all voxels summed before the ratio is taken.

    Voxels with large responses weigh more than in the mean of ``skill`` over voxels, and voxels
    with almost none cannot dominate. Parameters as in ``skill``; NaN as there.
    """
    model, base, _ = _squared_errors(y_true, y_pred, baseline)
    return float(_one_minus_ratio(model.sum(), base.sum()))


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
    y_true, y_pred, _ = _pair(y_true, y_pred)
    baseline = np.broadcast_to(np.asarray(baseline), y_true.shape)
    both = [mean_squared_error(y_true.astype(np.float64), p) for p in (y_pred, baseline)]
    return np.stack(both, axis=1)


def average_repeats(
    betas: ArrayLike, image_index: ArrayLike
) -> tuple[NDArray, NDArray, NDArray[np.int64]]:
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
    betas, images, order, starts, counts = _group(betas, image_index)
    means = np.empty((len(images), betas.shape[1]), dtype=_float_dtype(betas))
    for columns in _slices(betas.shape[1], betas.shape[0]):
        block = betas[:, columns].astype(np.float64)[order]
        means[:, columns] = np.add.reduceat(block, starts, axis=0) / counts[:, None]
    return means, images, counts


def ncsnr(betas: ArrayLike, image_index: ArrayLike) -> NDArray:
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
    betas, _, order, starts, counts = _group(betas, image_index)
    _need_repeats(counts)

    def ratio(block: NDArray) -> NDArray:
        block = block[order]
        flat = np.ptp(block, axis=0) == 0
        block -= block.mean(0)
        total = (block**2).sum(0)
        return np.where(flat, np.nan, ncsnr_of_sums(total, _within(block, starts, counts), counts))

    return _blockwise(ratio, betas, keep=1).astype(_float_dtype(betas))


def ncsnr_of_stream(
    read: Callable[[NDArray], NDArray], image_index: ArrayLike, n_rows: int = 256
) -> NDArray:
    """``ncsnr`` of responses that are too many for memory: read some images at a time.

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
    total = squares = within = 0.0
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
    return np.where(flat, np.nan, ncsnr_of_sums(spread, within, counts))


def _need_repeats(counts: NDArray) -> None:
    if counts.max(initial=0) < 2 or len(counts) < 2:
        raise InputError(
            f"ncsnr: expected two images or more, at least one of them seen twice; found "
            f"{len(counts)} images in {counts.sum()} trials: pass single trials, not their averages"
        )


def _within(block: NDArray, starts: NDArray, counts: NDArray) -> NDArray:
    """Sum of squares around the mean of each image, trials sorted by image; changes ``block``."""
    means = np.add.reduceat(block, starts, axis=0) / counts[:, None]
    block -= np.repeat(means, counts, axis=0)
    return (block**2).sum(0)


def ncsnr_of_sums(total: NDArray, within: NDArray, counts: NDArray) -> NDArray:
    """``ncsnr`` of responses that were summed as they went by.

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


def noise_ceiling(ncsnr: ArrayLike, n_repeats: ArrayLike) -> NDArray:
    r"""Largest share of variance any model can explain in the average of n repeats.

    .. math:: \mathrm{NC} = \frac{\mathrm{ncsnr}^2}
        {\mathrm{ncsnr}^2 + \frac1I \sum_i \frac{1}{n_i}}

    (Allen et al. 2022, Methods; the mean of 1/n is their A/3 + B/2 + C/1 form.) Progress it with
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
    dtype = _float_dtype(ncsnr)
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


def correlation_ceiling(ncsnr: ArrayLike, n_repeats: ArrayLike) -> NDArray:
    """Largest expected ``voxelwise_correlation`` with the average of n repeats: √``noise_ceiling``.

    Divide r by it, or r² by ``noise_ceiling``, to normalise for noise. Parameters as there.
    """
    return np.sqrt(noise_ceiling(ncsnr, n_repeats))


def bootstrap_ci(
    statistic: Callable[[NDArray[np.float64]], ArrayLike],
    n_images: int,
    generator: np.random.Generator,
    n_boot: int = 1000,
    level: float = 0.95,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Percentile bootstrap interval over images (Efron 1979).

    Images, not trials, are drawn with replacement: repeats of one image share its signal. A draw is
    handed over as counts per image, so that a statistic made of sums over images is one matrix
    product for many draws (``weighted_mean``, ``weighted_correlation``, ``weighted_skill``).

    Parameters
    ----------
    statistic : callable
        Takes counts of shape (n_draws, n_images), float64, each row summing to ``n_images``;
        returns an array of shape (n_draws, ...).
    n_images : int
        Images in the set, two or more.
    generator : numpy.random.Generator
        Source of the draws.
    n_boot : int
        Number of draws.
    level : float
        Probability inside the interval, between 0 and 1.

    Returns
    -------
    low, high : float64 arrays of shape (...)
        Limits, of the shape of one value of the statistic. Draws where it is NaN are left out;
        where all are NaN the limits are.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> y_true, y_pred = rng.normal(size=(2, 100, 50))
    >>> low, high = bootstrap_ci(
    ...     lambda counts: np.nanmean(weighted_correlation(y_true, y_pred, counts), axis=1),
    ...     n_images=100, generator=rng)
    >>> bool(low < 0 < high)
    True
    """
    if not isinstance(generator, np.random.Generator):
        raise InputTypeError(
            f"generator: expected a numpy.random.Generator, found {type(generator).__name__}: "
            "pass numpy.random.default_rng(seed)"
        )
    _at_least_two(n_images, "a bootstrap over images", "images")
    if n_boot < 1 or not 0 < level < 1:
        raise InputError(
            f"bootstrap: expected n_boot ≥ 1 and 0 < level < 1, found {n_boot} and {level}"
        )
    probabilities = np.full(n_images, 1 / n_images)
    values = np.concatenate(
        [
            np.asarray(
                statistic(
                    generator.multinomial(
                        n_images, probabilities, size=min(128, n_boot - start)
                    ).astype(np.float64)
                ),
                dtype=np.float64,
            )
            for start in range(0, n_boot, 128)
        ]
    )
    if values.shape[0] != n_boot:
        raise InputError(
            f"statistic: expected one value per draw ({n_boot}), found {values.shape[0]}: "
            "reduce over images and voxels only"
        )
    tails = [(1 - level) / 2, (1 + level) / 2]
    missing = np.isnan(values)
    low, high = np.quantile(values, tails, axis=0)
    if missing.any():
        some = missing.any(0) & ~missing.all(0)
        if values.ndim == 1:
            low, high = np.quantile(values[~missing], tails) if some else (low, high)
        elif some.any():
            low[some], high[some] = np.nanquantile(values[:, some], tails, axis=0)
    return np.asarray(low), np.asarray(high)


def weighted_mean(values: ArrayLike, counts: ArrayLike) -> NDArray[np.float64]:
    """Mean over images for each draw of images; for scores that are one number per image.

    Parameters
    ----------
    values : array of shape (n_images, ...)
        One value, or several, per image.
    counts : array of shape (n_draws, n_images)
        Times each image was drawn.

    Returns
    -------
    float64 array of shape (n_draws, ...)
    """
    values = np.asarray(values, dtype=np.float64)
    return np.tensordot(_shares(counts, len(values)), values, axes=1)


def weighted_correlation(
    y_true: ArrayLike, y_pred: ArrayLike, counts: ArrayLike
) -> NDArray[np.float64]:
    """``voxelwise_correlation`` for each draw of images, by matrix products.

    Parameters
    ----------
    y_true, y_pred : arrays of shape (n_images, n_voxels)
        Measured and predicted responses.
    counts : array of shape (n_draws, n_images)
        Times each image was drawn.

    Returns
    -------
    float64 array of shape (n_draws, n_voxels)
        As ``voxelwise_correlation`` of the images drawn: NaN where the data drawn do not vary, 0
        where only the prediction does not.
    """
    y_true, y_pred, _ = _pair(y_true, y_pred)
    shares = _shares(counts, len(y_true))

    def correlations(t: NDArray, p: NDArray) -> NDArray:
        # Standardised first, so that nothing cancels, and a variance of 1e-12 is rounding: constant
        t, p = ((x - x.mean(0)) / _spread(x) for x in (t, p))
        mean_t, mean_p = shares @ t, shares @ p
        var_t, var_p = shares @ t**2 - mean_t**2, shares @ p**2 - mean_p**2
        covariance = shares @ (t * p) - mean_t * mean_p
        with np.errstate(divide="ignore", invalid="ignore"):
            r = covariance / np.sqrt(var_t * var_p)
        r[var_p <= 1e-12] = 0
        r[(var_t <= 1e-12) | np.isnan(covariance)] = np.nan
        return r.T

    return _blockwise(correlations, y_true, y_pred, keep=1).T


def weighted_skill(
    y_true: ArrayLike, y_pred: ArrayLike, baseline: ArrayLike, counts: ArrayLike
) -> NDArray[np.float64]:
    """``skill`` for each draw of images.

    Parameters
    ----------
    y_true, y_pred, baseline : arrays
        As in ``skill``.
    counts : array of shape (n_draws, n_images)
        Times each image was drawn.

    Returns
    -------
    float64 array of shape (n_draws, n_voxels)
    """
    model, base, _ = _squared_errors(y_true, y_pred, baseline, counts)
    return _one_minus_ratio(model, base)


# Helpers ------------------------------------------------------------------------------------------


def _pair(y_true: ArrayLike, y_pred: ArrayLike) -> tuple[NDArray, NDArray, np.dtype]:
    """Both as arrays, checked to be 2-D, numeric and of one shape; and the dtype of the score."""
    y_true, y_pred = _matrix(y_true, "y_true"), _matrix(y_pred, "y_pred")
    if y_true.shape != y_pred.shape:
        raise InputError(
            f"y_true and y_pred: expected one shape, found {y_true.shape} and {y_pred.shape}: "
            "average the repeats, or repeat the prediction, so that rows and voxels correspond"
        )
    return y_true, y_pred, _float_dtype(y_true, y_pred)


def _matrix(values: ArrayLike, name: str) -> NDArray:
    values = np.asarray(values)
    if values.dtype.kind not in "biuf":
        raise InputTypeError(f"{name}: expected real numbers, found dtype {values.dtype}")
    if values.ndim != 2 or 0 in values.shape:
        raise InputError(
            f"{name}: expected a filled array (n_images or n_trials, n_voxels), "
            f"found shape {values.shape}"
        )
    return values


def _float_dtype(*arrays: NDArray) -> np.dtype:
    dtype = np.result_type(*arrays)
    return dtype if dtype.kind == "f" else np.dtype(np.float64)


def _at_least_two(n: int, what: str, unit: str) -> None:
    if n < 2:
        raise InputError(f"{what}: expected two {unit} or more, found {n}")


def _group(betas: ArrayLike, image_index: ArrayLike) -> tuple[NDArray, NDArray, NDArray, ...]:
    """Trials sorted by image: betas, images, order of trials, first of each image, counts."""
    betas, index = _matrix(betas, "betas"), np.asarray(image_index)
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


def _slices(n: int, n_other: int) -> list[slice]:
    step = max(1, _BLOCK // n_other)
    return [slice(start, start + step) for start in range(0, n, step)]


def _blockwise(function: Callable[..., NDArray], *arrays: NDArray, keep: int) -> NDArray:
    """Apply to float64 copies of blocks along axis ``keep``; join what comes back on axis 0."""
    n, n_other = arrays[0].shape[keep], arrays[0].shape[1 - keep]
    pick = (lambda a, s: a[s]) if keep == 0 else (lambda a, s: a[:, s])
    return np.concatenate(
        [function(*(pick(a, s).astype(np.float64) for a in arrays)) for s in _slices(n, n_other)]
    )


def _cosine(t: NDArray, p: NDArray) -> NDArray:
    """Cosine of each column of ``t`` with the same of ``p``, by the conventions above."""
    norm_t, norm_p = np.linalg.norm(t, axis=0), np.linalg.norm(p, axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        cosine = ((t / norm_t) * (p / norm_p)).sum(0)
    cosine[norm_p == 0] = 0
    cosine[(norm_t == 0) | np.isnan(norm_t) | np.isnan(norm_p)] = np.nan
    return cosine


def _column_correlation(t: NDArray, p: NDArray) -> NDArray:
    return _cosine(_centred(t), _centred(p))


def _centred(x: NDArray) -> NDArray:
    """Columns minus their mean; exactly 0 for a constant column, which rounding would miss."""
    return np.where(np.ptp(x, axis=0) == 0, 0, x - x.mean(0))


def _spread(x: NDArray) -> NDArray:
    """Deviation of each column, 1 where it is 0 (the column is constant)."""
    return np.where(np.ptp(x, axis=0) == 0, 1, x.std(0))


def _shares(counts: ArrayLike, n_images: int) -> NDArray[np.float64]:
    counts = _matrix(counts, "counts").astype(np.float64)
    if counts.shape[1] != n_images:
        raise InputError(f"counts: expected {n_images} columns (images), found {counts.shape[1]}")
    return counts / counts.sum(1, keepdims=True)


def _squared_errors(
    y_true: ArrayLike, y_pred: ArrayLike, baseline: ArrayLike, counts: ArrayLike | None = None
) -> tuple[NDArray, NDArray, np.dtype]:
    """Mean squared errors over images of model and baseline: (n_voxels,) or (n_draws, n_voxels)."""
    y_true, y_pred, dtype = _pair(y_true, y_pred)
    baseline = np.asarray(baseline)
    if baseline.shape != y_true.shape[1:]:
        raise InputError(
            f"baseline: expected one pattern, shape {y_true.shape[1:]}, found {baseline.shape}"
        )
    shares = None if counts is None else _shares(counts, len(y_true))

    def errors(t: NDArray, p: NDArray, b: NDArray) -> NDArray:
        both = ((t - p) ** 2, (t - b) ** 2)
        means = [x.mean(0) if shares is None else shares @ x for x in both]
        return np.stack(means).T  # (n_voxels, [n_draws,] 2)

    model, base = _blockwise(errors, y_true, y_pred, baseline[None], keep=1).T
    return model, base, dtype


def _one_minus_ratio(model: ArrayLike, base: ArrayLike) -> NDArray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(np.equal(base, 0), np.nan, 1 - np.divide(model, base))
