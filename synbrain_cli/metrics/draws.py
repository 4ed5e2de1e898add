r"""Judge draws of single-trial responses against recorded single trials.

A calibrated model draws trials that nobody could tell from recorded ones: each recorded trial is
as likely to lie anywhere among the draws (``pit``, ``coverage``), trials vary as much
(``variance_ratio``) and vary together in the same way (``noise_correlation``). ``crps`` and
``energy_score`` are proper: no other model can expect a better score than the true one.

``pit``, ``crps`` and ``energy_score`` take the recorded trials of one image, (n_trials, n_voxels),
and the draws for that image, (n_draws, n_voxels). They return one row per trial, to be joined
over images. The other functions take all test images at once. ``line_agreement`` takes one number
per voxel.

Everywhere here:

- draws are compared with single trials, never with averages over repeats, which vary less;
- ``crps``, ``energy_score`` and ``variance_ratio`` return the dtype of the input (float64 for
  integers); sums are taken in float64;
- a missing value (NaN) makes the results it enters NaN; the two exceptions, ``pit_histogram`` and
  ``line_agreement``, say so.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.distance import cdist
from scoringrules import crps_ensemble

from synbrain_cli.errors import InputError, InputTypeError
from synbrain_cli.metrics.accuracy import (
    _at_least_two,
    _blockwise,
    _centred,
    _column_correlation,
    _float_dtype,
    _group,
    _matrix,
)

LEVELS = (0.5, 0.8, 0.9, 0.95)  # central intervals reported by default (ours)


# Trials of one image ------------------------------------------------------------------------------


def pit(trials: ArrayLike, draws: ArrayLike, generator: np.random.Generator) -> NDArray[np.float32]:
    r"""Randomised probability integral transform of each trial among the draws, voxel by voxel.

    .. math:: \frac{\#\{m : x_{mv} < y_v\} + U \, (\#\{m : x_{mv} = y_v\} + 1)}{M + 1},
        \qquad U \sim \mathcal U(0, 1)

    It is uniform when the trial is exchangeable with the M draws, for any M ≥ 1: the rank of the
    trial is then equally likely to be 0, …, M, and U spreads it over its step and breaks ties at
    random (Gneiting, Balabdaoui & Raftery 2007, *JRSS B* 69; randomised as for counts by Czado,
    Gneiting & Held 2009, *Biometrics* 65). A ∪-shaped histogram means too little spread in the
    draws, a ∩-shaped one too much, a slope a bias.

    Parameters
    ----------
    trials : array of shape (n_trials, n_voxels)
        Recorded single trials of one image, in any unit.
    draws : array of shape (n_draws, n_voxels)
        Draws for that image, in the same unit.
    generator : numpy.random.Generator
        Source of U, one number per trial and voxel.

    Returns
    -------
    float32 array of shape (n_trials, n_voxels)
        Between 0 and 1. NaN where the trial or any draw is missing. Trials of one image share its
        draws, and voxels their noise, so values are not independent of one another.

    Examples
    --------
    >>> above_both = pit([[5.0]], [[1.0], [2.0]], np.random.default_rng(0))
    >>> bool(2 / 3 <= above_both.item() <= 1)
    True
    """
    trials, draws = _trials_and_draws(trials, draws)
    _check_generator(generator)
    values = np.empty(trials.shape, dtype=np.float32)
    for row, trial in zip(values, trials, strict=True):  # one at a time, to keep memory small
        below = np.count_nonzero(draws < trial, axis=0)
        ties = np.count_nonzero(draws == trial, axis=0)
        row[:] = (below + generator.random(len(trial)) * (ties + 1)) / (len(draws) + 1)
    values[np.isnan(trials) | np.isnan(draws).any(0)] = np.nan
    return values


def crps(trials: ArrayLike, draws: ArrayLike) -> NDArray:
    r"""Continuous ranked probability score of the draws, one per trial and voxel.

    .. math:: \frac1M \sum_m |x_{mv} - y_v|
        - \frac{1}{2 M (M - 1)} \sum_{m, m'} |x_{mv} - x_{m'v}|

    The divisor M (M − 1), not M², makes it *fair*: its expectation is that of infinitely many
    draws, so few draws are not punished (Ferro 2014, *QJRMS* 140). Computed by
    ``scoringrules.crps_ensemble`` in its probability-weighted-moment form, which is the same number
    from sorted draws (Zamo & Naveau 2018, *Mathematical Geosciences* 50); its "fair" form holds all
    pairs of draws in memory.

    Parameters
    ----------
    trials : array of shape (n_trials, n_voxels)
        Recorded single trials of one image.
    draws : array of shape (n_draws, n_voxels)
        Draws for that image, in the same unit. At least two.

    Returns
    -------
    array of shape (n_trials, n_voxels)
        In the unit of the responses; lower is better. A single one may be negative, as for any
        unbiased estimate. NaN where the trial or any draw is missing.
    """
    trials, draws = _trials_and_draws(trials, draws)
    _at_least_two(len(draws), "a fair score", "draws")

    def scores(draws: NDArray, trials: NDArray) -> NDArray:
        ordered = np.sort(draws.T, axis=1)  # (n_voxels, n_draws), sorted once for all trials
        return np.stack(
            [
                crps_ensemble(
                    trial, ordered, estimator="pwm", sorted_ensemble=True, backend="numpy"
                )
                for trial in trials
            ],
            axis=1,
        )

    return _blockwise(scores, draws, trials, keep=1).T.astype(_float_dtype(trials, draws))


def energy_score(trials: ArrayLike, draws: ArrayLike) -> NDArray:
    r"""Energy score of the draws as patterns over voxels, one per trial.

    .. math:: \frac1M \sum_m \lVert x_m - y \rVert
        - \frac{1}{2 M (M - 1)} \sum_{m, m'} \lVert x_m - x_{m'} \rVert

    The ``crps`` with Euclidean distances between patterns (Gneiting & Raftery 2007, *JASA* 102,
    eq. 22), fair in the same sense. It judges all voxels together, correlations included, though it
    is far less sensitive to these than to the mean (Pinson & Tastu 2013): see also
    ``noise_correlation_agreement``. It grows as √n_voxels: compare models on the same voxels.

    ``scoringrules.es_ensemble`` would hold n_draws² × n_voxels numbers. Here distances between
    draws come from their inner products, once for all trials of the image.

    Parameters
    ----------
    trials : array of shape (n_trials, n_voxels)
        Recorded single trials of one image.
    draws : array of shape (n_draws, n_voxels)
        Draws for that image, in the same unit. At least two.

    Returns
    -------
    array of shape (n_trials,)
        In the unit of the responses; lower is better. NaN where the trial has a missing value in
        any voxel; all NaN where a draw has.
    """
    trials, draws = _trials_and_draws(trials, draws)
    _at_least_two(len(draws), "a fair score", "draws")
    dtype = _float_dtype(trials, draws)
    trials, draws = trials.astype(np.float64), draws.astype(np.float64)
    error = cdist(trials, draws).mean(1)
    spread = _distances(draws).sum() / (len(draws) * (len(draws) - 1))
    return (error - spread / 2).astype(dtype)


# Calibration over trials --------------------------------------------------------------------------


def coverage(pit_values: ArrayLike, level: float) -> NDArray[np.float64]:
    r"""Share of trials inside the central interval of the draws: :math:`|p - ½| ≤` level / 2.

    For draws that are calibrated it is ``level`` in expectation, for any number of draws: the ends
    of the interval are randomised between draws as ``pit`` is.

    Parameters
    ----------
    pit_values : array of shape (n_trials, n_voxels)
        From ``pit``, trials of all images joined.
    level : float
        Probability inside the interval, between 0 and 1; ``LEVELS`` holds the usual ones.

    Returns
    -------
    float64 array of shape (n_voxels,)
        Below ``level`` where the draws vary too little or are biased, above it where they vary too
        much. NaN where any trial is missing.

    Examples
    --------
    >>> coverage([[0.5, 0.1], [0.6, 0.7]], level=0.5).tolist()
    [1.0, 0.5]
    """
    pit_values = _pit_values(pit_values)
    if not 0 < level < 1:
        raise InputError(f"level: expected a probability between 0 and 1, found {level}")

    def share(p: NDArray) -> NDArray:
        inside = (np.abs(p - 0.5) <= level / 2).mean(0)
        return np.where(np.isnan(p).any(0), np.nan, inside)

    return _blockwise(share, pit_values, keep=1)


def pit_histogram(pit_values: ArrayLike, n_bins: int = 20) -> NDArray[np.float64]:
    """Density of the transform over all trials and voxels, in equal bins from 0 to 1.

    Parameters
    ----------
    pit_values : array of shape (n_trials, n_voxels)
        From ``pit``. Missing values are left out; at least one must be there.
    n_bins : int
        Number of bins.

    Returns
    -------
    float64 array of shape (n_bins,)
        Frequency in each bin over that of the uniform distribution: 1 everywhere for calibrated
        draws; the mean is 1 always.
    """
    pit_values = _pit_values(pit_values)
    if n_bins < 1:
        raise InputError(f"n_bins: expected one bin or more, found {n_bins}")
    counts, _ = np.histogram(pit_values, bins=n_bins, range=(0, 1))  # NaN falls in no bin
    if not counts.any():
        raise InputError(
            "pit_values: expected at least one value that is not missing, found none: "
            "check the trials and draws for NaN"
        )
    return counts * n_bins / counts.sum()


def variance_ratio(drawn: ArrayLike, recorded: ArrayLike) -> NDArray:
    r"""Total variance of drawn over that of recorded single trials, one per voxel:
    :math:`s^2_\mathrm{drawn} / s^2_\mathrm{recorded}` (sample variances, over images and trials).

    Parameters
    ----------
    drawn : array of shape (n_drawn, n_voxels)
        Draws for all test images.
    recorded : array of shape (n_recorded, n_voxels)
        Recorded single trials of the same images, in the same unit. Where images weigh unequally,
        draw as many trials of each as were recorded, or a multiple. At least two of each.

    Returns
    -------
    array of shape (n_voxels,)
        1 where draws vary as recorded trials do. NaN where the recorded ones do not vary or a value
        is missing.
    """
    drawn, recorded = _drawn_and_recorded(drawn, recorded)
    for name, values in (("drawn", drawn), ("recorded", recorded)):
        _at_least_two(len(values), f"the variance of {name}", "trials")
    above, below = _variance(drawn), _variance(recorded)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(below == 0, np.nan, above / below)
    return ratio.astype(_float_dtype(drawn, recorded))


# Noise correlations -------------------------------------------------------------------------------


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
    betas = _matrix(betas, "betas")
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
        ``share``: correlation / ceiling; may exceed 1 by chance, and says nothing where the
        ceiling is near 0.
        A drawn voxel that never deviates, or has a missing value, makes correlation and share NaN;
        a recorded one, in any half, makes reliability, ceiling and share NaN.
    """
    drawn, recorded = _drawn_and_recorded(drawn, recorded)
    _check_generator(generator)
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


# One number per voxel -----------------------------------------------------------------------------


def line_agreement(drawn: ArrayLike, recorded: ArrayLike) -> dict[str, float]:
    r"""How a quantity of each voxel found from draws follows that found from recordings.

    Meant for ``ncsnr`` of draws against that of recorded trials.

    Parameters
    ----------
    drawn, recorded : arrays of shape (n_voxels,)
        The quantity, in the same unit. Voxels where either is not finite are left out; at least two
        must remain.

    Returns
    -------
    dict of floats
        ``correlation``: Pearson over voxels; 0 where ``drawn`` does not vary.
        ``slope``: :math:`\sum_v (r_v - \bar r)(d_v - \bar d) / \sum_v (r_v - \bar r)^2`, least
        squares of drawn on recorded. Noise in the recorded values draws it towards 0.
        ``median_ratio``: median over voxels of drawn / recorded. Infinite ratios (recorded is 0)
        take part in the median; 0 / 0 does not, and NaN is returned where all are.
        Correlation and slope are NaN where ``recorded`` does not vary.
    """
    drawn, recorded = np.asarray(drawn), np.asarray(recorded)
    for name, values in (("drawn", drawn), ("recorded", recorded)):
        if values.dtype.kind not in "biuf":
            raise InputTypeError(f"{name}: expected real numbers, found dtype {values.dtype}")
    if drawn.ndim != 1 or drawn.shape != recorded.shape:
        raise InputError(
            "drawn and recorded: expected one number per voxel each, in the same voxels, "
            f"found shapes {drawn.shape} and {recorded.shape}"
        )
    finite = np.isfinite(drawn) & np.isfinite(recorded)
    _at_least_two(finite.sum(), "a line over voxels", "voxels where both are finite")
    d, r = (x[finite, None].astype(np.float64) for x in (drawn, recorded))
    with np.errstate(divide="ignore", invalid="ignore"):
        slope = (_centred(r) * _centred(d)).sum() / (_centred(r) ** 2).sum()
        ratios = d / r
    ratios = ratios[~np.isnan(ratios)]
    return {
        "correlation": float(_column_correlation(r, d)[0]),
        "slope": float(slope),
        "median_ratio": float(np.median(ratios)) if ratios.size else np.nan,
    }


# Helpers ------------------------------------------------------------------------------------------


def _trials_and_draws(trials: ArrayLike, draws: ArrayLike) -> tuple[NDArray, NDArray]:
    trials, draws = _matrix(trials, "trials"), _matrix(draws, "draws")
    return _same_voxels(trials, draws, "trials and draws")


def _drawn_and_recorded(drawn: ArrayLike, recorded: ArrayLike) -> tuple[NDArray, NDArray]:
    drawn, recorded = _matrix(drawn, "drawn"), _matrix(recorded, "recorded")
    return _same_voxels(drawn, recorded, "drawn and recorded")


def _same_voxels(a: NDArray, b: NDArray, names: str) -> tuple[NDArray, NDArray]:
    if a.shape[1] != b.shape[1]:
        raise InputError(
            f"{names}: expected the same voxels, found {a.shape[1]} and {b.shape[1]}: "
            "rows are trials, columns voxels"
        )
    return a, b


def _check_generator(generator: np.random.Generator) -> None:
    if not isinstance(generator, np.random.Generator):
        raise InputTypeError(
            f"generator: expected a numpy.random.Generator, found {type(generator).__name__}: "
            "pass numpy.random.default_rng(seed)"
        )


def _pit_values(values: ArrayLike) -> NDArray:
    values = _matrix(values, "pit_values")
    if (values < 0).any() or (values > 1).any():
        raise InputError(
            "pit_values: expected values between 0 and 1, "
            f"found {np.nanmin(values):g} to {np.nanmax(values):g}: pass what pit returns"
        )
    return values


def _columns(voxels: ArrayLike, n_voxels: int) -> NDArray:
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


def _distances(x: NDArray) -> NDArray:
    """Euclidean distances between rows of float64: (n, n)."""
    # Around the mean, so that little cancels; equal rows then differ by 1e-8 of their norm at most
    x = x - x.mean(0)
    products = x @ x.T
    squares = np.diag(products)
    distances = np.sqrt(np.maximum(squares[:, None] + squares - 2 * products, 0))
    np.fill_diagonal(distances, 0 * squares)  # 0, or NaN for a row with a missing value
    return distances


def _variance(x: NDArray) -> NDArray[np.float64]:
    """Sample variance of each column, exactly 0 for a constant."""
    return _blockwise(lambda b: (_centred(b) ** 2).sum(0) / (len(b) - 1), x, keep=1)


def _deviations(
    betas: ArrayLike, image_index: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Trials of images seen twice or more, minus the mean of their image; number of that image."""
    betas, _, order, _, counts = _group(betas, image_index)
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


def _correlation_matrix(deviations: NDArray) -> NDArray[np.float64]:
    with np.errstate(divide="ignore", invalid="ignore"):
        unit = deviations / np.linalg.norm(deviations, axis=0)
        return unit.T @ unit


def _pair_correlation(recorded: NDArray, other: NDArray) -> float:
    """Pearson between two matrices over their pairs of voxels."""
    pairs = np.triu_indices(len(recorded), k=1)
    return float(_column_correlation(recorded[pairs][:, None], other[pairs][:, None])[0])
