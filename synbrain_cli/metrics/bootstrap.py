"""The bootstrap over test images, and scores of resampled images as matrix products.

A bootstrap sample of images is given as counts, (n_boot, n_images): how often it holds each image.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from synbrain_cli.errors import InputError, InputTypeError
from synbrain_cli.groups import Groups, count_groups, resample
from synbrain_cli.metrics.accuracy import one_minus_ratio, squared_errors
from synbrain_cli.metrics.arrays import (
    as_pair,
    at_least_two,
    blockwise,
    column_sd,
    shares_of_counts,
)

TOGETHER = 128  # bootstrap samples that are computed together, at most
Statistic = Callable[[NDArray[np.float64]], ArrayLike]


@dataclass(frozen=True)
class Bootstrap:
    """Percentile bootstrap over test images: one way for all scores.

    Every interval begins with the same generator: intervals of sets of equally many images rest on
    the same samples of images, so that a difference of two scores has an interval of its own.

    Attributes
    ----------
    n_boot : int
        Bootstrap samples of the test images.
    seed : int
    stream : int, optional
        Tells this generator from others of the same seed.
    groups : int array of shape (n_images,), optional
        Groups of the images, which are then resampled whole.
    """

    n_boot: int = 1000
    seed: int = 0
    stream: int | None = None
    groups: Groups | None = field(default=None, compare=False)

    def generator(self) -> np.random.Generator:
        """Return the generator that every interval begins with."""
        key = self.seed if self.stream is None else [self.seed, self.stream]
        return np.random.default_rng(key)

    def of(self, images: NDArray[np.integer]) -> Bootstrap:
        """Return the bootstrap over some of the images, by their rows."""
        return self if self.groups is None else replace(self, groups=self.groups[images])

    def interval(self, statistic: Statistic, n_images: int) -> NDArray[np.float64]:
        """95 % interval of a statistic (`bootstrap_ci`).

        Parameters
        ----------
        statistic : callable
            Counts of images (n_boot, n_images) → values (n_boot, ...).
        n_images : int

        Returns
        -------
        float64 array of shape (..., 2)
            Lower and upper limit, for each value of the statistic.
        """
        low, high = bootstrap_ci(
            statistic, n_images, self.generator(), self.n_boot, groups=self.groups
        )
        return np.stack([low, high], axis=-1)

    def limits(self, statistic: Statistic, n_images: int) -> tuple[float, float]:
        """`interval` of a statistic that is one number, as a record has it."""
        low, high = self.interval(statistic, n_images)
        return float(low), float(high)

    def limits_of_mean(self, values: NDArray[np.floating]) -> tuple[float, float]:
        """95 % interval of the mean over images: values of shape (n_images,)."""
        return self.limits(lambda counts: weighted_mean(values, counts), len(values))

    def interval_of_mean(self, values: NDArray[np.floating]) -> NDArray[np.float64]:
        """95 % interval of means over images: (n_images, ...) → (..., 2)."""
        return self.interval(lambda counts: weighted_mean(values, counts), len(values))

    def values(self, statistic: Statistic, n_images: int) -> NDArray[np.float64]:
        """Statistic of every bootstrap sample, for those that are combined into another statistic.

        Parameters
        ----------
        statistic : callable
            Counts of images (n_boot, n_images) → values (n_boot, ...).
        n_images : int

        Returns
        -------
        float64 array of shape (n_boot, ...)
        """
        counts = resample(n_images, self.n_boot, self.generator(), self.groups)
        parts = np.array_split(counts, -(-self.n_boot // TOGETHER))
        return np.concatenate([np.asarray(statistic(part), np.float64) for part in parts])


def bootstrap_ci(
    statistic: Statistic,
    n_images: int,
    generator: np.random.Generator,
    n_boot: int = 1000,
    level: float = 0.95,
    groups: Groups | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Percentile bootstrap interval over images (Efron 1979).

    Images, not trials, are resampled with replacement, because repeats of one image share its
    signal. Samples are passed as counts per image, so that a statistic of sums over images is one
    matrix product for many samples (``weighted_mean``, ``weighted_correlation``,
    ``weighted_skill``).

    Parameters
    ----------
    statistic : callable
        Takes counts of shape (n_samples, n_images), float64, in rows that sum to ``n_images`` (but
        for groups of different sizes), for some of the samples; returns an array of shape
        (n_samples, ...).
    n_images : int
        Number of images, two or more.
    generator : numpy.random.Generator
        Source of the samples.
    n_boot : int
        Number of bootstrap samples.
    level : float
        Probability of the interval, between 0 and 1.
    groups : int array of shape (n_images,), optional
        Groups of images, two or more, which are resampled whole (`synbrain_cli.groups.resample`).

    Returns
    -------
    low, high : float64 arrays of shape (...)
        Limits, of the shape of one value of the statistic. Samples in which it is NaN are left
        out; the limits are NaN where all are.

    Raises
    ------
    InputError, InputTypeError
        When an argument is out of range, or the statistic returns another number of values.

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
    n_independent = count_groups(n_images, groups)
    at_least_two(n_independent, "a bootstrap over images", "images, or groups of images,")
    if groups is not None and len(groups) != n_images:
        raise InputError(f"groups: expected that of each of {n_images} images, found {len(groups)}")
    if n_boot < 1 or not 0 < level < 1:
        raise InputError(
            f"bootstrap: expected n_boot ≥ 1 and 0 < level < 1, found {n_boot} and {level}"
        )
    values = np.concatenate(
        [
            np.asarray(
                statistic(resample(n_images, min(TOGETHER, n_boot - start), generator, groups)),
                dtype=np.float64,
            )
            for start in range(0, n_boot, TOGETHER)
        ]
    )
    if values.shape[0] != n_boot:
        raise InputError(
            f"statistic: expected one value per sample ({n_boot}), found {values.shape[0]}: "
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
    """Return the mean over images for each bootstrap sample, for scores with one value per image.

    Parameters
    ----------
    values : array of shape (n_images, ...)
        One or several values per image.
    counts : array of shape (n_boot, n_images)
        How often each sample holds each image.

    Returns
    -------
    float64 array of shape (n_boot, ...)
    """
    values = np.asarray(values, dtype=np.float64)
    return np.tensordot(shares_of_counts(counts, len(values)), values, axes=1)


def weighted_correlation(
    y_true: ArrayLike, y_pred: ArrayLike, counts: ArrayLike
) -> NDArray[np.float64]:
    """Return ``voxelwise_correlation`` for each bootstrap sample, by matrix products.

    Parameters
    ----------
    y_true, y_pred : arrays of shape (n_images, n_voxels)
        Measured and predicted responses.
    counts : array of shape (n_boot, n_images)
        How often each sample holds each image.

    Returns
    -------
    float64 array of shape (n_boot, n_voxels)
        As ``voxelwise_correlation`` of the images in the sample: NaN where the data do not vary, 0
        where only the prediction does not.
    """
    y_true, y_pred, _ = as_pair(y_true, y_pred)
    shares = shares_of_counts(counts, len(y_true))

    def correlations(t: np.ndarray, p: np.ndarray) -> np.ndarray:
        # Standardised first, so that nothing cancels, and a variance of 1e-12 is rounding: constant
        t, p = ((x - x.mean(0)) / column_sd(x) for x in (t, p))
        mean_t, mean_p = shares @ t, shares @ p
        var_t, var_p = shares @ t**2 - mean_t**2, shares @ p**2 - mean_p**2
        covariance = shares @ (t * p) - mean_t * mean_p
        with np.errstate(divide="ignore", invalid="ignore"):
            r = covariance / np.sqrt(var_t * var_p)
        r[var_p <= 1e-12] = 0
        r[(var_t <= 1e-12) | np.isnan(covariance)] = np.nan
        return r.T

    return blockwise(correlations, y_true, y_pred, keep=1).T


def weighted_skill(
    y_true: ArrayLike, y_pred: ArrayLike, baseline: ArrayLike, counts: ArrayLike
) -> NDArray[np.float64]:
    """Return ``skill`` for each bootstrap sample.

    Parameters
    ----------
    y_true, y_pred, baseline : arrays
        As in ``skill``.
    counts : array of shape (n_boot, n_images)
        How often each sample holds each image.

    Returns
    -------
    float64 array of shape (n_boot, n_voxels)
    """
    model, base, _ = squared_errors(y_true, y_pred, baseline, counts)
    return one_minus_ratio(model, base)
