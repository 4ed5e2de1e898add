"""Densities of normal distributions over voxels whose covariance is low-rank plus private."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve, solve_triangular

from synbrain_cli.model.covariance import LowRank

LEAST_PRIVATE = 1e-6  # private variance of a voxel, of its whole variance: below it, singular

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Normal:
    """A centred normal distribution of covariance ``loadings @ loadings.T + diag(private)``.

    Loadings are float32 (n_voxels, rank), and so are products over voxels, which is twice as fast:
    of 15,724 voxels, the log density is then right to a hundredth of a nat. ``private`` are
    variances, float64 (n_voxels,).
    """

    loadings: NDArray[np.float32]
    private: Array

    @classmethod
    def of(cls, part: LowRank, factor: Array) -> Normal:
        """Return the distribution of a low-rank normal variable times factors (n_voxels,)."""
        loadings = part.loadings * factor[:, None].astype(np.float32)
        return cls(loadings, _not_singular(loadings, (part.private * factor) ** 2))

    def plus(self, other: Normal, times: float = 1) -> Normal:
        """Return the distribution of the sum with another, independent one of variance × times."""
        more = np.float32(np.sqrt(times)) * other.loadings
        loadings = np.hstack([more, self.loadings])
        return Normal(loadings, _not_singular(loadings, times * other.private + self.private))

    @property
    def n_voxels(self) -> int:
        """Number of voxels."""
        return len(self.private)

    @cached_property
    def _weighed(self) -> NDArray[np.float32]:
        return np.divide(self.loadings, self.private[:, None], dtype=np.float32)

    @cached_property
    def _factor(self) -> tuple[Array, bool]:
        inner = (self.loadings.T @ self._weighed).astype(np.float64)
        inner[np.diag_indices_from(inner)] += 1
        return cho_factor(inner, lower=True)

    @cached_property
    def log_determinant(self) -> float:
        """Of the covariance."""
        shared = 2 * np.log(np.diag(self._factor[0])).sum() if self.loadings.size else 0.0
        return float(shared + np.log(self.private).sum())

    @cached_property
    def precision_loadings(self) -> NDArray[np.float32]:
        """K (n_voxels, rank): the inverse covariance is ``diag(1 / private) - K @ K.T``."""
        if not self.loadings.size:
            return self.loadings
        root = np.tril(self._factor[0])
        inverse = solve_triangular(root, np.eye(len(root)), lower=True)
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
        distance = (t**2 / self.private).sum(1)
        if self.loadings.size:
            score = (t.astype(np.float32) @ self._weighed).astype(np.float64)
            distance = distance - (score * cho_solve(self._factor, score.T).T).sum(1)
        density: Array = -0.5 * (
            distance + self.log_determinant + self.n_voxels * np.log(2 * np.pi)
        )
        return density


def _not_singular(loadings: NDArray[np.float32], private: Array) -> Array:
    shared = np.square(loadings).sum(1, dtype=np.float64)
    floor: Array = np.maximum(private, LEAST_PRIVATE * (private + shared) + 1e-24)
    return floor
