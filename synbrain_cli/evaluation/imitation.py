"""Draws in the design of the test recording: their reliability and noise correlations."""

from __future__ import annotations

from math import ceil

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from synbrain_cli.evaluation.test_set import TestSet
from synbrain_cli.io.results.evaluation import (
    DrawScores,
    NoiseCorrelationScore,
    ReliabilityScore,
)
from synbrain_cli.metrics.calibration import line_agreement
from synbrain_cli.metrics.noise_ceiling import ncsnr, ncsnr_of_sums
from synbrain_cli.metrics.noise_correlation import noise_correlation_agreement

# Imitations of the whole test recording: fewer would add noise of their own, the less so the more
# images each holds.
MOST, LEAST = 60, 10
N_IMITATED = 12_000  # images in all imitations together, between these limits
N_PAIRED = 500  # voxels whose noise correlations are compared: 125,000 pairs


class Imitation:
    """Draws in the design of the test recording, several times over.

    Parameters
    ----------
    n_voxels : int
    n_repeats : int array of shape (n_images,)
    generator : numpy.random.Generator
        Chooses the voxels whose noise correlations are compared, and splits repeats in halves.

    Attributes
    ----------
    n_recordings : int
        Imitations that are made: 60 of up to 200 images, 10 of 1,200 or more.
    """

    def __init__(
        self, n_voxels: int, n_repeats: NDArray[np.int64], generator: np.random.Generator
    ) -> None:
        self.n_repeats = n_repeats
        self.n_recordings = min(max(ceil(N_IMITATED / len(n_repeats)), LEAST), MOST)
        self.generator = generator
        self.chosen = np.sort(generator.choice(n_voxels, min(N_PAIRED, n_voxels), replace=False))
        self.total, self.squares, self.within = np.zeros((3, self.n_recordings, n_voxels))
        self.paired: list[NDArray[np.float32]] = []
        self.index: list[NDArray[np.int64]] = []

    def add(self, image: int, k: int, repeats: NDArray[np.float32]) -> None:
        """Add the repeats (n_repeats, n_voxels) of an image in recording ``k``."""
        values = repeats.astype(np.float64)
        self.total[k] += values.sum(0)
        self.squares[k] += (values**2).sum(0)
        self.within[k] += ((values - values.mean(0)) ** 2).sum(0)
        self.paired.append(values[:, self.chosen].astype(np.float32))
        self.index.append(np.full(len(values), image * self.n_recordings + k))

    def ncsnr(self) -> NDArray[np.float64]:
        """Root mean square over recordings: (n_voxels,)."""
        around = self.squares - self.total**2 / self.n_repeats.sum()
        each = [
            ncsnr_of_sums(a, w, self.n_repeats) for a, w in zip(around, self.within, strict=True)
        ]
        values: NDArray[np.float64] = np.sqrt(np.mean(np.square(each), 0))
        return values

    def compare(self, scores: DrawScores, test: TestSet) -> DrawScores:
        """Add the agreement of reliability and noise correlations with the recorded ones."""
        if np.isfinite(test.ncsnr).sum() > 1:  # a line over voxels
            known = test.ncsnr * np.sqrt(test.averaged_over)  # of a row, which may be an average
            ours = line_agreement(self.ncsnr(), known)
            again = line_agreement(ncsnr(test.trials, test.image_index), known)
            both = {k: ReliabilityScore(model=ours[k], test_trials=again[k]) for k in ours}
            scores = replace(
                scores,
                ncsnr_correlation=both["correlation"],
                ncsnr_slope=both["slope"],
                ncsnr_median_ratio=both["median_ratio"],
            )
        if len(self.chosen) >= 3 and (self.n_repeats > 1).sum() >= 4:
            found = noise_correlation_agreement(
                np.concatenate(self.paired),
                np.concatenate(self.index),
                test.trials[:, self.chosen],
                test.image_index,
                self.generator,
            )
            agreement = NoiseCorrelationScore(
                model=found["correlation"],
                ceiling=found["ceiling"],
                share_of_ceiling=found["share"],
            )
            scores = replace(scores, noise_correlation=agreement)
        return scores
