"""What a model, its baselines and controls predict for the test images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from synbrain_cli.brain import Brain
from synbrain_cli.brain.drawing import Drawing
from synbrain_cli.brain.loading import Distribution
from synbrain_cli.evaluation.test_set import TestSet, derangement
from synbrain_cli.model.readout import Readout


@dataclass(frozen=True, eq=False)
class Predictions:
    """What a model, its baselines and controls predict for the test images, standardised.

    Attributes
    ----------
    by_name : dict of float32 arrays of shape (n_images, n_voxels)
        "model", "deep" and "transfer" (where the model has them), "linear", "mean_pattern",
        "shuffled".
    shuffle : int array of shape (n_images,)
        Another image for each: the control.
    """

    by_name: dict[str, NDArray[np.float32]]
    shuffle: NDArray[np.int64]

    @classmethod
    def of(cls, brain: Brain, test: TestSet, seed: int) -> Self:
        """Predict the test images."""
        shuffle = derangement(test.n_images, np.random.default_rng(seed))
        by_name = {"model": brain.mean(test.tokens, unit="z")}
        if brain.config.has_networks:
            by_name["deep"] = brain.predict("deep", test.tokens, unit="z")
        if brain.predictors.transfer is not None:
            by_name["transfer"] = brain.predict("transfer", test.tokens, unit="z")
        by_name["linear"] = brain.predict("linear", test.tokens, unit="z")
        constant = brain.distribution.mean_pattern
        by_name["mean_pattern"] = np.broadcast_to(constant, test.averages.shape)
        by_name["shuffled"] = by_name["model"][shuffle]
        return cls(by_name, shuffle)

    @property
    def deviations(self) -> dict[str, NDArray[np.float32]]:
        """Predictions of which correlations over images are taken: all of one fit."""
        return self.by_name

    def baseline(self, brain: Brain) -> NDArray[np.float32]:
        """Mean pattern that predictions are compared with: (n_voxels,)."""
        return brain.distribution.mean_pattern

    def draw(
        self, brain: Brain, test: TestSet, image: int, drawing: Drawing, around: str = "model"
    ) -> NDArray[np.float32]:
        """Draw single trials of one image around a prediction, all with the same random numbers.

        Parameters
        ----------
        brain : Brain
        test : TestSet
        image : int
        drawing : Drawing
        around : {"model", "linear", "mean_pattern"}
            Draws of the model; or independent normal noise around a baseline.

        Returns
        -------
        float32 array of shape (n_draws, n_voxels), standardised
        """
        mean, digest = self[around][image], test.digests[image]
        if around == "model":
            return brain.draw_around(mean, digest, drawing)
        readout = normal_noise(brain.distribution, around)
        return brain.draw_around(mean, digest, drawing, readout)

    def __getitem__(self, name: str) -> NDArray[np.float32]:
        """Predictions of one name: (n_images, n_voxels)."""
        return self.by_name[name]


def normal_noise(distribution: Distribution, around: str) -> Readout:
    """Return independent normal noise of constant variance around a baseline.

    Parameters
    ----------
    distribution : Distribution
    around : {"linear", "mean_pattern"}
    """
    variances = {
        "linear": distribution.linear_variance,
        "mean_pattern": distribution.trial_variance,
    }
    return Readout.gaussian(variances[around])
