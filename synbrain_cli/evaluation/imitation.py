"""Draws in the design of the test recording: reliability, noise correlations, averages."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from synbrain_cli.evaluation.image_averages import LEAST_GROUPS, Averages
from synbrain_cli.evaluation.test_set import TestSet
from synbrain_cli.io.results.evaluation import (
    DrawScores,
    NoiseCorrelationScore,
    ReliabilityScore,
)
from synbrain_cli.metrics.bootstrap import Bootstrap
from synbrain_cli.metrics.calibration import line_agreement
from synbrain_cli.metrics.noise_ceiling import ncsnr, ncsnr_of_sums
from synbrain_cli.metrics.noise_correlation import noise_correlation_agreement

# Imitations of the whole test recording: fewer would add noise of their own, the less so the more
# images each holds.
MOST, LEAST = 60, 20
N_IMITATED = 12_000  # images in all imitations together, between these limits
N_CHOSEN = 500  # voxels whose noise correlations, 125,000, and averages are compared


class Imitation:
    """Draws in the design of the test recording, several times over.

    Parameters
    ----------
    averaging : float32 array of shape (n_voxels, n_regions)
        Voxels → means over regions.
    n_repeats : int array of shape (n_images,)
    generator : numpy.random.Generator
        Chooses voxels that are compared, splits repeats in halves, and breaks ties.

    Attributes
    ----------
    n_recordings : int
        Imitations that are made: 60 of up to 200 images, 20 of 600 or more.
    """

    def __init__(
        self,
        averaging: NDArray[np.float32],
        n_repeats: NDArray[np.int64],
        generator: np.random.Generator,
    ) -> None:
        n_voxels, n_regions = averaging.shape
        self.averaging = averaging
        self.n_repeats = n_repeats
        self.n_recordings = min(max(ceil(N_IMITATED / len(n_repeats)), LEAST), MOST)
        self.generator = generator
        self.chosen = np.sort(generator.choice(n_voxels, min(N_CHOSEN, n_voxels), replace=False))
        self.total, self.squares, self.within = np.zeros((3, self.n_recordings, n_voxels))
        self.paired: list[NDArray[np.float32]] = []
        self.index: list[NDArray[np.int64]] = []
        shape = len(n_repeats), self.n_recordings
        self.of_voxels = np.empty((*shape, len(self.chosen)), np.float32)
        self.of_regions = np.empty((*shape, n_regions), np.float32)

    def add(self, image: int, k: int, repeats: NDArray[np.float32]) -> None:
        """Add the repeats (n_repeats, n_voxels) of an image in recording ``k``."""
        values = repeats.astype(np.float64)
        self.total[k] += values.sum(0)
        self.squares[k] += (values**2).sum(0)
        mean = values.mean(0)
        self.within[k] += ((values - mean) ** 2).sum(0)
        self.of_voxels[image, k] = mean[self.chosen]
        self.of_regions[image, k] = mean @ self.averaging
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

    def compare_averages(
        self,
        scores: DrawScores,
        test: TestSet,
        groups: Sequence[NDArray[np.intp]],
        bootstrap: Bootstrap,
    ) -> DrawScores:
        """Add the coverage of averages over groups of images that drive alike responses."""
        if len(groups) < LEAST_GROUPS:
            return scores
        recorded = test.averages
        of_voxels = Averages(recorded[:, self.chosen], self.of_voxels)
        found = of_voxels.score(groups, bootstrap, self.generator)
        scores = replace(scores, coverage_90_averages=found)
        if not self.of_regions.shape[2]:
            return scores
        of_regions = Averages(recorded @ self.averaging, self.of_regions)
        found = of_regions.score(groups, bootstrap, self.generator)
        return replace(scores, coverage_90_region_averages=found)

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
