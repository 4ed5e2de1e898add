"""Expected responses to the images of an experiment, and how unsure they are, also together."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from synbrain_cli.brain import Brain
from synbrain_cli.brain.images import in_batches
from synbrain_cli.brain.prediction import BATCH
from synbrain_cli.experiments.keeping import Keeping, Values
from synbrain_cli.model.error_fields import shared_errors
from synbrain_cli.model.readout import Readout
from synbrain_cli.model.similar_images import band_scores, similarity
from synbrain_cli.progress import Bar

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Predicted:
    """A model's expected responses to images, standardised.

    Attributes
    ----------
    brain : Brain
    means : float32 array of shape (n_images, n_voxels)
    relative : float32 array of shape (n_images, n_voxels), optional
        Variance of the unexplained signal relative to its average; None where it is not known.
    shared : float64 array of shape (n_images, n_images)
        Correlation of the images' errors (`synbrain_cli.model.similar_images`).
    distances : float64 array of shape (n_images,)
        From the training images, in percent; NaN where they are not known.
    digests : list of str
        Of the images' content.
    """

    brain: Brain
    means: NDArray[np.float32]
    relative: NDArray[np.float32] | None
    shared: Array
    distances: Array
    digests: list[str]

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.means)

    @cached_property
    def readouts(self) -> list[Readout]:
        """The distribution of trials around each mean."""
        readout = self.brain.distribution.readout
        if self.relative is None:
            return [readout] * len(self)
        return [readout.of_image(one) for one in self.relative]

    def error_variance(self, weights: Array) -> Array:
        """Variance of the error of a weighted sum of the means, by voxel: (n_voxels,).

        Parameters
        ----------
        weights : float array of shape (n_images,)
        """
        signal = self.brain.distribution.readout.signal.variance
        root = np.ones((len(self), 1)) if self.relative is None else np.sqrt(self.relative)
        each = weights[:, None] * root
        squares: Array = np.einsum("iv,iv->v", each, self.shared @ each)
        return signal * np.maximum(squares, 0)

    def error_variance_of_sum(self, weights: Array, over: Array) -> float:
        """Variance of the error of a weighted sum over images and voxels.

        Parameters
        ----------
        weights : float array of shape (n_images,)
        over : float array of shape (n_voxels,)
            Weights of the voxels: for the mean of a region, 1 / its size there, and 0 elsewhere.
        """
        signal, inside = self.brain.distribution.readout.signal, over != 0
        root = np.broadcast_to(over[inside], (len(self), int(inside.sum())))
        if self.relative is not None:
            root = root * np.sqrt(self.relative[:, inside])
        factors, private = root @ signal.loadings[inside], root * signal.private[inside]
        covariance = factors @ factors.T + private @ private.T
        return float(max(weights @ (self.shared * covariance) @ weights, 0))

    def noise_variance(self, weights: Array) -> Array:
        """Variance of a weighted sum of one trial of each image by trial noise: (n_voxels,)."""
        readout = self.brain.distribution.readout
        of_trial = readout.relative_noise_variance(self.means) * readout.noise.variance
        variance: Array = weights**2 @ of_trial
        return variance

    def noise_variance_of_sum(self, weights: Array, over: Array) -> float:
        """Variance of a weighted sum over images and voxels of one trial of each image, by noise.

        Parameters
        ----------
        weights, over
            As in `error_variance_of_sum`.
        """
        readout, inside = self.brain.distribution.readout, over != 0
        root = over[inside] * np.sqrt(readout.relative_noise_variance(self.means)[:, inside])
        factors = root @ readout.noise.loadings[inside]
        private = root * readout.noise.private[inside]
        of_trial = np.square(factors).sum(1) + np.square(private).sum(1)
        return float(weights**2 @ of_trial)

    def part(self, rows: NDArray[np.integer]) -> Predicted:
        """Return some of the images."""
        return Predicted(
            self.brain,
            self.means[rows],
            None if self.relative is None else self.relative[rows],
            self.shared[np.ix_(rows, rows)],
            self.distances[rows],
            [self.digests[row] for row in rows],
        )


def predict(brain: Brain, images: Any, bar: Bar, keeping: Keeping | None = None) -> Predicted:
    """Predict the responses to images, some at a time.

    Parameters
    ----------
    brain : Brain
    images
        As `Brain.mean` takes them.
    bar : Bar
        Is advanced by every image.
    keeping : Keeping, optional
        Keeps what is known of the images for the run that continues an interrupted one.

    Raises
    ------
    InputError
        When an image cannot be read; of published weights.
    """
    known = brain.distribution  # refuses published weights
    n, stream = len(images), partial(_stream, brain, images)
    found = (keeping or Keeping()).in_pieces("images", n, stream, bar)
    shared = np.eye(n)
    if known.uncertainty is not None:
        scores = [found[f"score.{k}"] for k in range(len(brain.config.bands))]
        cosines = similarity(brain.predictors.linear, scores)
        shared = shared_errors(cosines, known.uncertainty.concentration)
    digests = [bytes(one).decode("ascii") for one in found["digest"]]
    return Predicted(
        brain, found["mean"], found.get("relative"), shared, found["distance"], digests
    )


def _stream(brain: Brain, images: Any, rows: Sequence[int]) -> Generator[Values, None, None]:
    """Yield what is known of one image after the other."""
    if not rows:
        return
    for tokens, digests in in_batches(brain.tokens(images, rows), BATCH):
        known: Values = {"mean": brain.mean_of_tokens(tokens)}
        doubt = brain.doubt(tokens)
        known["distance"] = np.full(len(tokens), np.nan) if doubt is None else doubt.distance
        if doubt is not None:
            known["relative"] = doubt.relative
            linear, seen = brain.predictors.linear, brain.predictors.scaler(tokens)
            known |= {f"score.{k}": scores for k, scores in enumerate(band_scores(linear, seen))}
        for i, digest in enumerate(digests):  # the last batch may be filled up
            own = {name: values[i] for name, values in known.items()}
            yield own | {"digest": np.frombuffer(digest.encode("ascii"), np.uint8)}
