"""What a model, its baselines and controls predict for the test images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Self

import numpy as np
from numpy.typing import NDArray

from synbrain_cli.brain import Brain
from synbrain_cli.brain.drawing import Drawing, RepeatedGenerators, draw_around
from synbrain_cli.brain.prediction import BATCH
from synbrain_cli.evaluation.test_set import TestSet, derangement
from synbrain_cli.model.readout import Readout
from synbrain_cli.run import RunContext

DISTRIBUTIONS = ("model", "linear", "mean_pattern")  # whose draws are scored beside one another


@dataclass(frozen=True, eq=False)
class Predictions:
    """What a model, its baselines and controls predict for the test images, standardised.

    Attributes
    ----------
    by_name : dict of float32 arrays of shape (n_images, n_voxels)
        "model", "network", "transfer" and "deep" (where the model has them), "linear",
        "mean_pattern", "shuffled".
    shuffle : int array of shape (n_images,)
        Another image for each: the control.
    relative : float32 array of shape (n_images, n_voxels), optional
        Uncertainty of each image's mean, relative to the average over images.
    """

    by_name: dict[str, NDArray[np.float32]]
    shuffle: NDArray[np.int64]
    relative: NDArray[np.float32] | None = None
    _kept: dict[int, Readout] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, brain: Brain, test: TestSet, run: RunContext) -> Self:
        """Predict the test images; the run's seed shuffles them for the control."""
        shuffle = derangement(test.n_images, np.random.default_rng(run.seed))
        names = dict.fromkeys((*brain.predictors.names, "linear"))
        tokens, each = test.tokens, {}
        with run.progress.stage("predictions of test images") as share:
            *of_predictors, of_doubt = share.split(*[8] * len(names), 1)
            for name, own in zip(names, of_predictors, strict=True):
                images = own.over(range(test.n_images))
                parts = [brain.predict(name, tokens[[image]], unit="z") for image in images]
                each[name] = np.concatenate(parts)
            starts = of_doubt.over(range(0, test.n_images, BATCH))
            doubts = [brain.doubt(tokens[start : start + BATCH]) for start in starts]
        by_name = {"model": brain.predictors.stacked(each), **each}
        constant = brain.distribution.mean_pattern
        by_name["mean_pattern"] = np.broadcast_to(constant, test.averages.shape)
        by_name["shuffled"] = by_name["model"][shuffle]
        known = [doubt.relative for doubt in doubts if doubt is not None]
        return cls(by_name, shuffle, np.concatenate(known) if known else None)

    @property
    def deviations(self) -> dict[str, NDArray[np.float32]]:
        """Predictions of which correlations over images are taken: all of one fit."""
        return self.by_name

    def baseline(self, brain: Brain) -> NDArray[np.float32]:
        """Mean pattern that predictions are compared with: (n_voxels,)."""
        return brain.distribution.mean_pattern

    def draw(
        self, brain: Brain, test: TestSet, image: int, drawing: Drawing
    ) -> NDArray[np.float32]:
        """Draw single trials of one image.

        Parameters
        ----------
        brain : Brain
        test : TestSet
        image : int
        drawing : Drawing

        Returns
        -------
        float32 array of shape (n_draws, n_voxels), standardised
        """
        readout = self.readout_of(brain, image)
        return brain.draw_around(self["model"][image], test.digests[image], drawing, readout)

    def draw_all(
        self,
        brain: Brain,
        test: TestSet,
        image: int,
        drawing: Drawing,
        names: Sequence[str] = DISTRIBUTIONS,
    ) -> Iterator[NDArray[np.float32]]:
        """Yield draws of one image around several predictions, all with the same random numbers.

        Parameters
        ----------
        brain : Brain
        test : TestSet
        image : int
        drawing : Drawing
        names : sequence of {"model", "linear", "mean_pattern"}
            Draws of the model; or independent normal noise around a baseline.

        Yields
        ------
        float32 array of shape (n_draws, n_voxels), standardised
        """
        known = brain.distribution
        generators = RepeatedGenerators(drawing, test.digests[image], brain.config.fingerprint)
        for name in names:
            is_model = name == "model"
            readout = self.readout_of(brain, image) if is_model else known.normal_noise[name]
            yield draw_around(self[name][image], readout, generators)

    def readout_of(self, brain: Brain, image: int) -> Readout:
        """Distribution around an image's mean; that of the image asked for last is kept."""
        if image not in self._kept:
            relative = None if self.relative is None else self.relative[image]
            self._kept.clear()
            self._kept[image] = brain.distribution.readout.of_image(relative)
        return self._kept[image]

    def __getitem__(self, name: str) -> NDArray[np.float32]:
        """Predictions of one name: (n_images, n_voxels)."""
        return self.by_name[name]
