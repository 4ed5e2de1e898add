"""Densities of normal distributions whose covariance over voxels is low-rank plus private."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from synbrain_cli.model.covariance import LowRank

LEAST_PRIVATE = 1e-6  # private variance of a voxel, of its whole variance: below it, singular

Array = NDArray[np.float64]


@dataclass(frozen=True)
class LowRankDensity:
    """Density of the normal distribution of covariance ``loadings @ loadings.T + diag(private)``.

    Its mean is 0; `synbrain_cli.model.covariance.LowRank` draws from such a distribution.

    Attributes
    ----------
    loadings : float32 array of shape (n_voxels, rank)
        Products over voxels are in float32, too, which is twice as fast: of 15,724 voxels, the log
        density is then right to a hundredth of a nat.
    private : float64 array of shape (n_voxels,)
        Variances.
    """

    loadings: NDArray[np.float32]
    private: Array

    @classmethod
    def of(cls, part: LowRank, factor: Array) -> LowRankDensity:
        """Return the distribution of a low-rank normal variable times factors (n_voxels,)."""
        loadings = part.loadings * factor[:, None].astype(np.float32)
        return cls(loadings, _not_singular(loadings, (part.private * factor) ** 2))

    def plus(self, other: LowRankDensity, times: float = 1) -> LowRankDensity:
        """Return the distribution of the sum with another, independent one of variance × times."""
        more = np.float32(np.sqrt(times)) * other.loadings
        loadings = np.hstack([more, self.loadings])
        private = times * other.private + self.private
        return LowRankDensity(loadings, _not_singular(loadings, private))

    @property
    def n_voxels(self) -> int:
        """Number of voxels."""
        return len(self.private)

    @cached_property
    def _weighed(self) -> NDArray[np.float32]:
        return np.divide(self.loadings, self.private[:, None], dtype=np.float32)

    @cached_property
    def _root(self) -> Array:
        """Lower root of ``I + loadings.T @ diag(1 / private) @ loadings``: (rank, rank)."""
        inner = (self.loadings.T @ self._weighed).astype(np.float64)
        inner[np.diag_indices_from(inner)] += 1
        return np.asarray(np.linalg.cholesky(inner), np.float64)

    @cached_property
    def log_determinant(self) -> float:
        """Of the covariance."""
        return float(2 * np.log(np.diag(self._root)).sum() + np.log(self.private).sum())

    @cached_property
    def precision_loadings(self) -> NDArray[np.float32]:
        """K (n_voxels, rank): the inverse covariance is ``diag(1 / private) - K @ K.T``."""
        inverse = np.linalg.inv(self._root)
        return self._weighed @ inverse.T.astype(np.float32)

    def times(self, rows: Array) -> Array:
        """Rows (..., n_voxels) times the covariance."""
        shared = (rows.astype(np.float32) @ self.loadings) @ self.loadings.T
        product: Array = rows * self.private + shared
        return product

    def solve(self, rows: Array) -> Array:
        """Rows (..., n_voxels) times the inverse covariance."""
        own = self.precision_loadings
        shared = (rows.astype(np.float32) @ own) @ own.T
        product: Array = rows / self.private - shared
        return product

    def log_density(self, t: Array) -> Array:
        """Log density, nats, of rows (n, n_voxels): (n,)."""
        shared = (t.astype(np.float32) @ self.precision_loadings).astype(np.float64)
        distance = (t**2 / self.private).sum(1) - np.square(shared).sum(1)
        density: Array = -0.5 * (
            distance + self.log_determinant + self.n_voxels * np.log(2 * np.pi)
        )
        return density


def _not_singular(loadings: NDArray[np.float32], private: Array) -> Array:
    shared = np.square(loadings).sum(1, dtype=np.float64)
    floor: Array = np.maximum(private, LEAST_PRIVATE * (private + shared) + 1e-24)
    return floor
