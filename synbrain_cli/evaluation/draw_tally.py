"""Scores of one distribution's draws, added up image by image."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from synbrain_cli.evaluation.summaries import Summaries
from synbrain_cli.io.results.evaluation import N_BINS
from synbrain_cli.metrics.calibration import LEVELS, Ensemble, pit

SUMMARY_LEVEL = 0.9  # of the intervals in which summaries of trials are counted


@dataclass(frozen=True)
class Judged:
    """What is judged of draws beside single voxels and whole patterns.

    Attributes
    ----------
    summaries : Summaries
    pairs : int array of shape (n_pairs, 2)
        Of voxels, of the variogram score.
    """

    summaries: Summaries
    pairs: NDArray[np.intp]


@dataclass
class Tally:
    """Scores of one distribution's draws, added up image by image; all float64.

    Parameters
    ----------
    n_images : int
    judged : Judged
        What is judged beside single voxels and whole patterns.

    Attributes
    ----------
    histogram : array of shape (N_BINS,)
        Trials and voxels by their rank among the draws.
    inside, inside_image : arrays of shape (n_levels, n_voxels) and (n_images, n_levels)
        Trials inside each central interval; and their share, over an image's trials and voxels.
    crps, crps_image : arrays of shape (n_voxels,) and (n_images,)
        Sum over trials; and mean over an image's trials and voxels.
    energy_image, variogram_image : arrays of shape (n_images,)
        Mean over an image's trials.
    moments : array of shape (2, n_voxels)
        Sums of draws and of their squares.
    inside_summaries : array of shape (n_images, n_summaries)
        Share of an image's trials whose summary is inside the central 90 % of the draws'.
    summary_histogram : array of shape (n_summaries, N_BINS)
        Trials by the rank of their summary.
    n_trials, n_draws : int
        Numbers scored so far.
    """

    n_images: int
    judged: Judged
    n_trials: int = 0
    histogram: NDArray[np.float64] = field(init=False)
    inside: NDArray[np.float64] = field(init=False)
    inside_image: NDArray[np.float64] = field(init=False)
    crps: NDArray[np.float64] = field(init=False)
    crps_image: NDArray[np.float64] = field(init=False)
    energy_image: NDArray[np.float64] = field(init=False)
    moments: NDArray[np.float64] = field(init=False)
    variogram_image: NDArray[np.float64] = field(init=False)
    inside_summaries: NDArray[np.float64] = field(init=False)
    summary_histogram: NDArray[np.float64] = field(init=False)
    n_draws: int = 0
    _before: tuple[NDArray[np.float32], NDArray[np.float32]] | None = None

    def __post_init__(self) -> None:
        self.histogram = np.zeros(N_BINS)
        n_voxels = len(self.judged.summaries.weights)
        self.inside = np.zeros((len(LEVELS), n_voxels))
        self.inside_image = np.zeros((self.n_images, len(LEVELS)))
        self.crps = np.zeros(n_voxels)
        self.crps_image = np.zeros(self.n_images)
        self.energy_image = np.zeros(self.n_images)
        self.moments = np.zeros((2, n_voxels))
        self.variogram_image = np.zeros(self.n_images)
        self.inside_summaries = np.full((self.n_images, self.judged.summaries.n), np.nan)
        self.summary_histogram = np.zeros((self.judged.summaries.n, N_BINS))

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
        self.variogram_image[image] = draws.variogram_score(trials, self.judged.pairs).mean()
        # Random numbers of their own: those of voxels are the same with and without regions.
        self._add_summaries(image, trials, draws.draws, generator.spawn(1)[0])
        self.n_trials += len(trials)
        self.n_draws += len(draws)

    def _add_summaries(
        self,
        image: int,
        trials: NDArray[np.float32],
        draws: NDArray[np.float32],
        generator: np.random.Generator,
    ) -> None:
        """Rank summaries of trials among those of draws; distances are to the image before."""
        before, self._before = self._before, (trials[:1], draws)
        if not self.judged.summaries.n:
            return
        others = (
            [None, None] if before is None else [np.repeat(before[0], len(trials), 0), before[1]]
        )
        recorded, drawn = (
            self.judged.summaries(patterns, other)
            for patterns, other in zip((trials, draws), others, strict=True)
        )
        rank = pit(recorded, drawn, generator)
        inside = np.abs(rank - 0.5) <= SUMMARY_LEVEL / 2
        self.inside_summaries[image] = np.where(np.isnan(rank), np.nan, inside).mean(0)
        for column, histogram in zip(rank.T, self.summary_histogram, strict=True):
            histogram += np.histogram(column[np.isfinite(column)], N_BINS, (0, 1))[0]

    def reaches(self, level: float) -> bool:
        """False where the interval would reach beyond the outermost of so few draws."""
        return level <= 1 - 2 / (self.n_draws / self.n_images + 1)

    def variance(self) -> NDArray[np.float64]:
        """Total variance of the draws, over images and draws: (n_voxels,)."""
        total, squares = self.moments / self.n_draws
        variance: NDArray[np.float64] = (squares - total**2) * self.n_draws / (self.n_draws - 1)
        return variance
