r"""Calibration: agreement of the distribution of draws with that of recorded single trials.

The draws of a calibrated model cannot be distinguished from recorded trials. The rank of a recorded
trial among the draws is uniform (``pit``, ``coverage``), and draws have the same variance as trials
(``variance_ratio``). Noise correlations between voxels are compared in
`synbrain_cli.metrics.noise_correlation`. ``crps`` and ``energy_score`` are proper scores: the true
distribution has the best expected score.

``pit``, ``crps``, ``energy_score`` and ``variogram_score`` take the recorded trials of one image,
(n_trials, n_voxels), and the draws for that image, (n_draws, n_voxels). They return one row per
trial, to be joined over images. ``variance_ratio`` takes all test images at once;
``line_agreement`` takes one number per voxel.

Everywhere here:

- draws are compared with single trials, never with averages over repeats, which vary less;
- ``crps``, ``energy_score``, ``variogram_score`` and ``variance_ratio`` return the dtype of the
  input (float64 for integers); sums are taken in float64;
- a missing value (NaN) makes the results it enters NaN; the two exceptions, ``pit_histogram`` and
  ``line_agreement``, say so.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.distance import cdist

from synbrain_cli.errors import InputError, InputTypeError
from synbrain_cli.metrics.arrays import (
    as_matrix,
    at_least_two,
    block_slices,
    blockwise,
    centred_columns,
    check_generator,
    column_correlation,
    drawn_and_recorded,
    float_dtype,
    same_voxels,
)

WIDTH = 1_024  # voxels whose products are taken together
LEVELS = (0.5, 0.8, 0.9, 0.95)  # central intervals reported by default (ours)


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
    return Ensemble(draws).pit(trials, generator)


def crps(trials: ArrayLike, draws: ArrayLike) -> np.ndarray:
    r"""Continuous ranked probability score of the draws, one per trial and voxel.

    .. math:: \frac1M \sum_m |x_{mv} - y_v|
        - \frac{1}{2 M (M - 1)} \sum_{m, m'} |x_{mv} - x_{m'v}|

    The divisor M (M − 1), not M², makes it *fair*: its expectation is that of infinitely many
    draws, so few draws are not punished (Ferro 2014, *QJRMS* 140). The second term is computed from
    sorted draws (Zamo & Naveau 2018, *Mathematical Geosciences* 50), not from all pairs of them.

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
    return Ensemble(draws).crps(trials)


def energy_score(trials: ArrayLike, draws: ArrayLike) -> np.ndarray:
    r"""Energy score of the draws as patterns over voxels, one per trial.

    .. math:: \frac1M \sum_m \lVert x_m - y \rVert
        - \frac{1}{2 M (M - 1)} \sum_{m, m'} \lVert x_m - x_{m'} \rVert

    The ``crps`` with Euclidean distances between patterns (Gneiting & Raftery 2007, *JASA* 102,
    eq. 22), fair in the same sense. It judges all voxels together, correlations included, though it
    is far less sensitive to these than to the mean (Pinson & Tastu 2013): see also
    ``noise_correlation_agreement``. It increases as √n_voxels: compare models on the same voxels.

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
    return Ensemble(draws).energy_score(trials)


def variogram_score(trials: ArrayLike, draws: ArrayLike, pairs: NDArray[np.integer]) -> np.ndarray:
    r"""Variogram score of the draws as patterns over voxels, one per trial.

    .. math:: \frac1P \sum_{(v, w)} \Big( |y_v - y_w|^{1/2}
        - \frac1M \sum_m |x_{mv} - x_{mw}|^{1/2} \Big)^2

    less the part of it that is due to so few draws, so that it is fair (Scheuerer & Hamill 2015,
    *Monthly Weather Review* 143, of order 1/2). It judges how voxels vary together, to which the
    ``energy_score`` is nearly blind, and does not notice a bias that all voxels share.

    Parameters
    ----------
    trials : array of shape (n_trials, n_voxels)
        Recorded single trials of one image.
    draws : array of shape (n_draws, n_voxels)
        Draws for that image, in the same unit. At least two.
    pairs : int array of shape (n_pairs, 2)
        Pairs of voxels, all of the same weight.

    Returns
    -------
    array of shape (n_trials,)
        In the unit of the responses; lower is better. NaN where a voxel of a pair is missing.
    """
    return Ensemble(draws).variogram_score(trials, pairs)


class Ensemble:
    """Draws of one image, for several scores of several sets of trials.

    What does not depend on the trials is computed once: the order of the draws, and how far they
    are from one another.

    Parameters
    ----------
    draws : array of shape (n_draws, n_voxels)
    """

    def __init__(self, draws: ArrayLike) -> None:
        self.draws = as_matrix(draws, "draws")

    def __len__(self) -> int:
        return len(self.draws)

    def pit(self, trials: ArrayLike, generator: np.random.Generator) -> NDArray[np.float32]:
        """Randomised ranks of trials: see `pit`."""
        trials = self._same_voxels(trials)
        check_generator(generator)
        values = np.empty(trials.shape, dtype=np.float32)
        for row, trial in zip(values, trials, strict=True):  # one at a time, to keep memory small
            below, ties = _count(self.draws, np.less, trial), _count(self.draws, np.equal, trial)
            row[:] = (below + generator.random(len(trial)) * (ties + 1)) / (len(self) + 1)
        values[np.isnan(trials) | self._missing] = np.nan
        return values

    def crps(self, trials: ArrayLike) -> np.ndarray:
        """Continuous ranked probability scores of trials: see `crps`."""
        trials = self._same_voxels(trials)
        at_least_two(len(self), "a fair score", "draws")
        scores = np.empty(trials.shape, float_dtype(trials, self.draws))
        for row, trial in zip(scores, trials, strict=True):
            # Σ |x − y| = Σ x + M y − 2 Σ min(x, y), of which the last is exact in any precision
            least = np.zeros(len(trial))
            for some in block_slices(len(self), 32 * len(trial)):
                least += np.minimum(self.draws[some], trial).sum(0, dtype=np.float64)
            exact = trial.astype(np.float64)
            row[:] = (self.total - 2 * least) / len(self) + exact - self._spread
        return scores

    def energy_score(self, trials: ArrayLike) -> np.ndarray:
        """Energy scores of trials: see `energy_score`."""
        trials = self._same_voxels(trials)
        at_least_two(len(self), "a fair score", "draws")
        error = cdist(trials.astype(np.float64), self.draws.astype(np.float64)).mean(1)
        return (error - self._distance / 2).astype(float_dtype(trials, self.draws))

    def variogram_score(self, trials: ArrayLike, pairs: NDArray[np.integer]) -> np.ndarray:
        """Variogram scores of trials: see `variogram_score`."""
        trials = self._same_voxels(trials)
        at_least_two(len(self), "a fair score", "draws")
        first, second = np.asarray(pairs).T
        drawn = np.sqrt(np.abs(self.draws[:, first] - self.draws[:, second]))
        recorded = np.sqrt(np.abs(trials[:, first] - trials[:, second]))
        error = (recorded - drawn.mean(0, dtype=np.float64)) ** 2
        by_chance = drawn.var(0, ddof=1, dtype=np.float64).mean() / len(self)
        return (error.mean(1) - by_chance).astype(float_dtype(trials, self.draws))

    @cached_property
    def total(self) -> NDArray[np.float64]:
        """Sum over draws: (n_voxels,)."""
        return self.draws.sum(0, dtype=np.float64)

    @cached_property
    def squares(self) -> NDArray[np.float64]:
        """Sum of squares over draws: (n_voxels,)."""
        return np.einsum("ij,ij->j", self.draws, self.draws, dtype=np.float64)

    @cached_property
    def _missing(self) -> NDArray[np.bool_]:
        missing: NDArray[np.bool_] = np.isnan(self.draws).any(0)
        return missing

    @cached_property
    def _ordered(self) -> np.ndarray:
        """Draws of each voxel in ascending order, missing ones last: (n_voxels, n_draws)."""
        return np.sort(np.ascontiguousarray(self.draws.T), axis=1)

    @cached_property
    def _spread(self) -> NDArray[np.float64]:
        r"""Half the mean difference of two draws: (n_voxels,).

        Of ordered draws, :math:`\sum_m (2m - M - 1)\, x_{(m)} / M (M - 1)` (Zamo & Naveau 2018).
        """
        n_draws = len(self)
        weights = (2 * np.arange(n_draws) + 1 - n_draws) / (n_draws * (n_draws - 1))
        parts = block_slices(len(self._ordered), 32 * n_draws)
        return np.concatenate([self._ordered[some].astype(np.float64) @ weights for some in parts])

    @cached_property
    def _distance(self) -> float:
        """Mean Euclidean distance of two draws."""
        distances = _distances(self.draws, self.total / len(self))
        return float(distances.sum() / (len(self) * (len(self) - 1)))

    def _same_voxels(self, trials: ArrayLike) -> np.ndarray:
        trials, _ = same_voxels(as_matrix(trials, "trials"), self.draws, "trials and draws")
        return trials


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

    def share(p: np.ndarray) -> np.ndarray:
        inside = (np.abs(p - 0.5) <= level / 2).mean(0)
        return np.where(np.isnan(p).any(0), np.nan, inside)

    return blockwise(share, pit_values, keep=1)


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


def variance_ratio(drawn: ArrayLike, recorded: ArrayLike) -> np.ndarray:
    r"""Total variance of draws over that of recorded single trials, one per voxel.

    .. math:: s^2_\mathrm{drawn} / s^2_\mathrm{recorded}

    Sample variances are taken over images and trials.

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
    drawn, recorded = drawn_and_recorded(drawn, recorded)
    for name, values in (("drawn", drawn), ("recorded", recorded)):
        at_least_two(len(values), f"the variance of {name}", "trials")
    above, below = _variance(drawn), _variance(recorded)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(below == 0, np.nan, above / below)
    return ratio.astype(float_dtype(drawn, recorded))


def line_agreement(drawn: ArrayLike, recorded: ArrayLike) -> dict[str, float]:
    r"""Agreement over voxels of a quantity found from draws with that found from recordings.

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
    at_least_two(finite.sum(), "a line over voxels", "voxels where both are finite")
    d, r = (x[finite, None].astype(np.float64) for x in (drawn, recorded))
    with np.errstate(divide="ignore", invalid="ignore"):
        slope = (centred_columns(r) * centred_columns(d)).sum() / (centred_columns(r) ** 2).sum()
        ratios = d / r
    ratios = ratios[~np.isnan(ratios)]
    return {
        "correlation": float(column_correlation(r, d)[0]),
        "slope": float(slope),
        "median_ratio": float(np.median(ratios)) if ratios.size else np.nan,
    }


def _pit_values(values: ArrayLike) -> np.ndarray:
    values = as_matrix(values, "pit_values")
    if (values < 0).any() or (values > 1).any():
        raise InputError(
            "pit_values: expected values between 0 and 1, "
            f"found {np.nanmin(values):g} to {np.nanmax(values):g}: pass what pit returns"
        )
    return values


def _count(draws: np.ndarray, compare: np.ufunc, trial: np.ndarray) -> NDArray[np.int64]:
    """Number of draws (n_draws, n_voxels) that stand so to a trial (n_voxels,): by voxel.

    Counted in bytes, of 255 draws at a time: three times as fast as in integers of 64 bits.
    """
    number = np.zeros(len(trial), np.int64)
    for first in range(0, len(draws), 255):
        number += compare(draws[first : first + 255], trial).view(np.uint8).sum(0, dtype=np.uint8)
    return number


def _distances(x: np.ndarray, mean: np.ndarray) -> NDArray[np.float64]:
    """Euclidean distances between rows (n, n), by inner products around their mean.

    Products are in the precision of the rows, of `WIDTH` columns at a time, and are added up in
    float64. Around the mean little cancels; equal rows of float64 then differ by 1e-8 of their norm
    at most.
    """
    products = np.zeros((len(x), len(x)))
    for first in range(0, x.shape[1], WIDTH):
        block = x[:, first : first + WIDTH] - mean[first : first + WIDTH].astype(x.dtype)
        products += block @ block.T
    squares = np.diag(products)
    distances = np.sqrt(np.maximum(squares[:, None] + squares - 2 * products, 0))
    np.fill_diagonal(distances, 0 * squares)  # 0, or NaN for a row with a missing value
    return distances


def _variance(x: np.ndarray) -> NDArray[np.float64]:
    """Sample variance of each column, exactly 0 for a constant."""
    return blockwise(lambda b: (centred_columns(b) ** 2).sum(0) / (len(b) - 1), x, keep=1)
