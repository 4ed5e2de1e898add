"""The bootstrap over test images: one way for all scores."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from synbrain_cli.metrics.bootstrap import bootstrap_ci, weighted_mean

CHUNK = 128  # bootstrap draws that are computed together, at most
Statistic = Callable[[NDArray[np.float64]], ArrayLike]


@dataclass(frozen=True)
class Bootstrap:
    """Percentile bootstrap over test images.

    Every interval begins with the same generator: intervals of sets of equally many images rest on
    the same draws of images, so that a difference of two scores has an interval of its own.

    Attributes
    ----------
    n_boot : int
        Bootstrap draws of the test images.
    seed : int
    stream : int, optional
        Tells this generator from others of the same seed.
    """

    n_boot: int = 1000
    seed: int = 0
    stream: int | None = None

    def generator(self) -> np.random.Generator:
        """Return the generator that every interval begins with."""
        key = self.seed if self.stream is None else [self.seed, self.stream]
        return np.random.default_rng(key)

    def interval(self, statistic: Statistic, n_images: int) -> NDArray[np.float64]:
        """95 % interval of a statistic (`synbrain_cli.metrics.bootstrap.bootstrap_ci`).

        Parameters
        ----------
        statistic : callable
            Counts of images (n_draws, n_images) → values (n_draws, ...).
        n_images : int

        Returns
        -------
        float64 array of shape (..., 2)
            Lower and upper limit, for each value of the statistic.
        """
        low, high = bootstrap_ci(statistic, n_images, self.generator(), self.n_boot)
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
        """Statistic of every bootstrap draw, for those that are combined into another statistic.

        Parameters
        ----------
        statistic : callable
            Counts of images (n_draws, n_images) → values (n_draws, ...).
        n_images : int

        Returns
        -------
        float64 array of shape (n_boot, ...)
        """
        counts = self.generator().multinomial(
            n_images, np.full(n_images, 1 / n_images), self.n_boot
        )
        parts = np.array_split(counts.astype(np.float64), -(-self.n_boot // CHUNK))
        return np.concatenate([np.asarray(statistic(part), np.float64) for part in parts])
