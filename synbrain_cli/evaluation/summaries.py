"""Single numbers of a pattern, whose distribution tells how voxels vary together.

Draws of single voxels can be right while voxels vary together too little, or too much. What users
compute from patterns is then wrong: means over regions and their differences, projections, and the
distances between the patterns of two images, on which RSA rests.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray

Kind = Literal[
    "region_means", "region_differences", "noise_components", "signal_components", "distances"
]
N_COMPONENTS = 5  # of noise and of signal (ours)

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Summaries:
    """Numbers that are computed of every pattern.

    Attributes
    ----------
    weights : float32 array of shape (n_voxels, n_linear)
        Patterns → those that are linear: means over regions, differences of two of these,
        projections on the directions of the most noise and of the most signal.
    kinds : dict of slice
        Kind → columns. "distances" follow those of the weights: Euclidean, and one minus the
        correlation over voxels, of a trial from a trial of another image.
    """

    weights: Array
    kinds: dict[Kind, slice]

    @classmethod
    def of(cls, regions: Mapping[str, NDArray[np.bool_]], noise: Array, predictions: Array) -> Self:
        """Choose the summaries of a model.

        Parameters
        ----------
        regions : mapping of str to bool array of shape (n_voxels,)
        noise : float32 array of shape (n_voxels, rank)
            Loadings of the noise.
        predictions : float32 array of shape (n_images, n_voxels)
            Of the mean.
        """
        n_voxels = len(noise)
        masks = np.array(list(regions.values()), np.float32).reshape(len(regions), n_voxels)
        means = masks / np.maximum(masks.sum(1, keepdims=True), 1)
        pairs = [means[j] - means[k] for j, k in combinations(range(len(means)), 2)]
        parts: dict[Kind, Array] = {
            "region_means": means,
            "region_differences": np.array(pairs, np.float32).reshape(len(pairs), n_voxels),
            "noise_components": _directions(noise),
            "signal_components": _directions((predictions - predictions.mean(0)).T),
        }
        ends = np.cumsum([len(part) for part in parts.values()]).tolist()
        starts = [0, *ends[:-1]]
        kinds = {k: slice(a, b) for k, a, b in zip(parts, starts, ends, strict=True) if b > a}
        if n_voxels > 2:
            kinds["distances"] = slice(ends[-1], ends[-1] + 2)
        weights = np.ascontiguousarray(np.concatenate([*parts.values()]).T, np.float32)
        return cls(weights, kinds)

    @property
    def n(self) -> int:
        """Number of summaries, distances among them."""
        return max((columns.stop for columns in self.kinds.values()), default=0)

    def __call__(self, patterns: Array, others: Array | None) -> NDArray[np.float64]:
        """Summarise patterns.

        Parameters
        ----------
        patterns : float32 array of shape (n, n_voxels)
        others : float32 array of shape (n, n_voxels), optional
            Patterns of another image: distances are from these, row by row. NaN without.

        Returns
        -------
        float64 array of shape (n, n_summaries)
        """
        values = np.full((len(patterns), self.n), np.nan)
        values[:, : self.weights.shape[1]] = patterns @ self.weights
        if others is not None and "distances" in self.kinds:
            values[:, self.kinds["distances"]] = _distances(patterns, others)
        return values


def _directions(columns: Array) -> Array:
    """Leading left singular vectors of (n_voxels, n): (n_directions, n_voxels)."""
    if not columns.size or not columns.any():
        return np.zeros((0, len(columns)), np.float32)
    _, sizes, vectors = np.linalg.svd(columns.T.astype(np.float64), full_matrices=False)
    found = vectors[:N_COMPONENTS][sizes[:N_COMPONENTS] > 1e-6 * sizes[0]]
    return found.astype(np.float32)


def _distances(patterns: Array, others: Array) -> NDArray[np.float64]:
    """Euclidean distance and one minus correlation of rows: (n, 2)."""
    a, b = patterns.astype(np.float64), others.astype(np.float64)
    euclidean = np.sqrt(np.square(a - b).sum(1))
    a, b = (x - x.mean(1, keepdims=True) for x in (a, b))
    size = np.sqrt(np.square(a).sum(1) * np.square(b).sum(1))
    with np.errstate(divide="ignore", invalid="ignore"):
        correlation = np.where(size > 0, (a * b).sum(1) / size, 0)
    return np.stack([euclidean, 1 - correlation], 1)
