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
from synbrain_cli.errors import InputError
from synbrain_cli.evaluation.test_set import TestSet
from synbrain_cli.model.readout import Readout
from synbrain_cli.model.uncertainty import Doubt
from synbrain_cli.run import RunContext

DISTRIBUTIONS = ("model", "linear", "mean_pattern")  # whose draws are scored beside one another


@dataclass(frozen=True)
class Around:
    """The distribution of single trials of one image around one prediction of it.

    Attributes
    ----------
    mean : float32 array of shape (n_voxels,)
    readout : Readout
    """

    mean: NDArray[np.float32]
    readout: Readout

    @classmethod
    def pattern(cls, image_blind: Readout | None) -> Self:
        """Return the distribution of images that nothing is known of."""
        if image_blind is None:
            raise InputError("the image-blind distribution: models of earlier versions have none")
        return cls(image_blind.centre, image_blind)


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
    doubt : Doubt, optional
        How unsure each image's mean is.
    apart : bool
        Whether draws of similar images share no errors.
    """

    by_name: dict[str, NDArray[np.float32]]
    shuffle: NDArray[np.int64]
    doubt: Doubt | None = None
    apart: bool = False
    _kept: dict[int, Readout] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, brain: Brain, test: TestSet, run: RunContext) -> Self:
        """Predict the test images; the run's seed shuffles them for the control."""
        shuffle = test.derangement(np.random.default_rng(run.seed))
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
        known = [doubt.of(k) for doubt in doubts if doubt is not None for k in range(len(doubt))]
        return cls(by_name, shuffle, Doubt.join(known) if known else None)

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
        return next(self.draw_all(brain, test, image, drawing, ("model",)))

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
        features = self.features_of(test, image)
        generators = RepeatedGenerators(drawing, test.digests[image], brain.fields, features)
        for name in names:
            around = self.around(brain, test, image, name)
            drawn = draw_around(around.mean, around.readout, generators)
            yield self.to_unit(test, image, drawn)

    def around(self, brain: Brain, test: TestSet, image: int, name: str) -> Around:
        """Return one distribution of an image's trials, in the unit of the fit that predicts it.

        Parameters
        ----------
        brain : Brain
        test : TestSet
        image : int
        name : {"model", "linear", "mean_pattern", "shuffled", "image_blind"}
            The model's; independent normal noise around a baseline; the model's for another image;
            that of images that nothing is known of, which models of earlier versions lack.
        """
        known = brain.distribution
        if name == "image_blind":
            return Around.pattern(known.image_blind)
        if name == "shuffled":
            other = int(self.shuffle[image])
            return Around(self["model"][other], self._readout(brain, other))
        is_model = name == "model"
        readout = self.readout_of(brain, image) if is_model else known.normal_noise[name]
        return Around(self[name][image], readout)

    def from_unit(
        self, test: TestSet, image: int, responses: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Bring responses (..., n_voxels) to the unit of the fit that predicts an image."""
        return responses

    def to_unit(
        self, test: TestSet, image: int, responses: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Bring them back to that of the evaluated model."""
        return responses

    def trial_sd(self, brain: Brain, test: TestSet, image: int) -> NDArray[np.float32]:
        """Standard deviation of a single trial around the model's mean: float32 (n_voxels,)."""
        around = self.around(brain, test, image, "model")
        sd: NDArray[np.float32] = around.readout.sd(around.mean)
        return sd

    def readout_of(self, brain: Brain, image: int) -> Readout:
        """Distribution around an image's mean; that of the image asked for last is kept."""
        if image not in self._kept:
            self._kept.clear()
            self._kept[image] = self._readout(brain, image)
        return self._kept[image]

    def _readout(self, brain: Brain, image: int) -> Readout:
        relative = None if self.doubt is None else self.doubt.relative[image]
        return brain.distribution.readout.of_image(relative)

    def features_of(self, test: TestSet, image: int) -> NDArray[np.float32] | None:
        """By what an image shares errors with others: `synbrain_cli.model.error_fields`."""
        if self.doubt is None or self.doubt.features is None or self.apart:
            return None
        return self.doubt.features[image]

    def __getitem__(self, name: str) -> NDArray[np.float32]:
        """Predictions of one name: (n_images, n_voxels)."""
        return self.by_name[name]
