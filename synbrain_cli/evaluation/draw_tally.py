"""Scores of one distribution's draws, added up image by image."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from synbrain_cli.io.results.evaluation import N_BINS
from synbrain_cli.metrics.calibration import LEVELS, Ensemble, pit

REGION_LEVEL = 0.9  # of the intervals in which trials' region means are counted


@dataclass
class Tally:
    """Scores of one distribution's draws, added up image by image; all float64.

    Parameters
    ----------
    n_images : int
    averaging : float32 array of shape (n_voxels, n_regions)
        Voxels → region means.

    Attributes
    ----------
    histogram : array of shape (N_BINS,)
        Trials and voxels by their rank among the draws.
    inside, inside_image : arrays of shape (n_levels, n_voxels) and (n_images, n_levels)
        Trials inside each central interval; and their share, over an image's trials and voxels.
    crps, crps_image : arrays of shape (n_voxels,) and (n_images,)
        Sum over trials; and mean over an image's trials and voxels.
    energy_image : array of shape (n_images,)
        Mean over an image's trials.
    moments : array of shape (2, n_voxels)
        Sums of draws and of their squares.
    inside_regions : array of shape (n_images, n_regions)
        Share of an image's trials whose region mean is inside the central 90 % of the draws'.
    n_trials, n_draws : int
        Numbers scored so far.
    """

    n_images: int
    averaging: NDArray[np.float32]  # (n_voxels, n_regions): voxels → region means
    n_trials: int = 0
    histogram: NDArray[np.float64] = field(init=False)
    inside: NDArray[np.float64] = field(init=False)
    inside_image: NDArray[np.float64] = field(init=False)
    crps: NDArray[np.float64] = field(init=False)
    crps_image: NDArray[np.float64] = field(init=False)
    energy_image: NDArray[np.float64] = field(init=False)
    moments: NDArray[np.float64] = field(init=False)
    inside_regions: NDArray[np.float64] = field(init=False)
    n_draws: int = 0

    def __post_init__(self) -> None:
        self.histogram = np.zeros(N_BINS)
        n_voxels, n_regions = self.averaging.shape
        self.inside = np.zeros((len(LEVELS), n_voxels))
        self.inside_image = np.zeros((self.n_images, len(LEVELS)))
        self.crps = np.zeros(n_voxels)
        self.crps_image = np.zeros(self.n_images)
        self.energy_image = np.zeros(self.n_images)
        self.moments = np.zeros((2, n_voxels))
        self.inside_regions = np.zeros((self.n_images, n_regions))

    def add(
        self,
        image: int,
        trials: NDArray[np.float32],
        draws: Ensemble,
        generator: np.random.Generator,
    ) -> None:
        """Score the draws of one image by its trials.

        Parameters
        ----------
        image : int
            Number of the image.
        trials : float32 array of shape (n_trials, n_voxels)
        draws : Ensemble
            float32 (n_draws, n_voxels).
        generator : numpy.random.Generator
            Of the randomised ranks (`synbrain_cli.metrics.calibration.pit`).
        """
        rank = draws.pit(trials, generator)
        self.histogram += np.histogram(rank, N_BINS, (0, 1))[0]
        away = np.abs(rank - 0.5)
        for j, level in enumerate(LEVELS):
            hit = away <= level / 2
            self.inside[j] += hit.sum(0)
            self.inside_image[image, j] = hit.mean()
        score = draws.crps(trials)
        self.crps += score.sum(0, dtype=np.float64)
        self.crps_image[image] = score.mean(dtype=np.float64)
        self.energy_image[image] = draws.energy_score(trials).mean(dtype=np.float64)
        self.moments += draws.total, draws.squares
        if self.averaging.size:
            means = (trials @ self.averaging, draws.draws @ self.averaging)
            # Random numbers of their own: those of voxels are the same with and without regions.
            rank = pit(*means, generator.spawn(1)[0])
            self.inside_regions[image] = (np.abs(rank - 0.5) <= REGION_LEVEL / 2).mean(0)
        self.n_trials += len(trials)
        self.n_draws += len(draws)

    def reaches(self, level: float) -> bool:
        """False where the interval would reach beyond the outermost of so few draws."""
        return level <= 1 - 2 / (self.n_draws / self.n_images + 1)

    def variance(self) -> NDArray[np.float64]:
        """Total variance of the draws, over images and draws: (n_voxels,)."""
        total, squares = self.moments / self.n_draws
        variance: NDArray[np.float64] = (squares - total**2) * self.n_draws / (self.n_draws - 1)
        return variance
