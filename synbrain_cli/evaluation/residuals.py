"""Recorded and drawn trials of one model's test images, as residuals, image by image.

Draws that stand beside recorded trials must be *predictive*: the true mean response is not the
predicted one, and how far it is from it is part of what the model claims. In draws of a model this
is the unexplained signal u, whose variance is larger where an image is unlike those of training.
The repeats of one image share their u, and so do the draws here (``--signal shared``). Of single
trials the distribution is that of ``--signal fresh``; of pairs it is not.

Similar images share errors in a recording, and in draws. Which errors, no model knows: classifiers
that learn from some images would tell the draws' errors of others from the recorded ones, however
right the distribution of each image is. Draws therefore share none here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from synbrain_cli.brain import Brain
from synbrain_cli.brain.drawing import Drawing
from synbrain_cli.evaluation.calibration import latent_draws
from synbrain_cli.evaluation.predictions import Predictions
from synbrain_cli.evaluation.test_set import TestSet
from synbrain_cli.groups import Groups
from synbrain_cli.io.results.two_sample import Rows
from synbrain_cli.metrics.trial_features import (
    Columns,
    ImageFeatures,
    Probes,
    pair_features,
    pairs_of,
    trial_features,
)
from synbrain_cli.metrics.two_sample import LEAST_IMAGES, Sample

N_FITTED = 300  # images from whose residuals components are found
OWN_DRAWS = 1_000  # added to the seed: draws that no other score uses
IMITATED = 2_000  # the same, of imitated recordings
N_IMITATED = 50  # more than the sets of draws of which one comparison takes
Responses = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Residuals:
    """Where recorded and drawn residuals of some images come from.

    Attributes
    ----------
    n_repeats : int array of shape (n_images,)
        Recorded trials of each image, and draws.
    recorded : callable
        Number of an image → float32 array (n_repeats, n_voxels), standardised.
    drawn : callable
        Number of an image, and of an imitation of the recording → the same. Draws of one imitation
        share their unexplained signal.
    groups : int array of shape (n_images,), optional
        Group of each image.
    """

    n_repeats: NDArray[np.integer]
    recorded: Callable[[int], Responses]
    drawn: Callable[[int, int], Responses]
    groups: Groups | None = None

    def with_draws(self, number: int) -> Residuals:
        """Return the same recorded trials beside another set of draws, counted from 0."""
        return replace(self, drawn=lambda image, imitation: self.drawn(image, number + imitation))

    def both(self, image: int) -> Iterator[tuple[bool, Responses]]:
        """Yield the recorded trials of an image, then as many drawn ones."""
        yield True, self.recorded(image)
        yield False, self.drawn(image, 0)


@dataclass(frozen=True, eq=False)
class ResidualSource:
    """Makes residuals of recorded trials, and of the draws of several distributions.

    Attributes
    ----------
    brain : Brain
    test : TestSet
    predictions : Predictions
    images : int array of shape (n_images,)
        Rows of the test set that take part.
    seed : int
    """

    brain: Brain
    test: TestSet
    predictions: Predictions
    images: NDArray[np.integer]
    seed: int

    def of(self, name: str) -> Residuals:
        """Residuals of recorded trials and of one distribution's draws.

        Parameters
        ----------
        name : {"model", "linear", "mean_pattern", "latent_nf1"}
        """
        n_repeats = self.test.n_repeats[self.images]

        def recorded(image: int) -> Responses:
            row = self.images[image]
            return self._residual(row, self.test.trials[self.test.image_index == row])

        def drawn(image: int, imitation: int) -> Responses:
            row, seed = int(self.images[image]), self.seed + OWN_DRAWS + imitation
            return self._residual(row, self._draw(name, row, int(n_repeats[image]), seed))

        groups = None if self.test.groups is None else self.test.groups[self.images]
        return Residuals(n_repeats, recorded, drawn, groups)

    def imitated(self, number: int) -> Residuals:
        """Residuals of an imitated recording, of which the model is right, and of its draws.

        Similar images share errors in the imitation, as in a brain: what tells a recording from
        draws for no other reason than this is seen here.

        Parameters
        ----------
        number : int
            Of the imitation, counted from 0.
        """
        draws = self.of("model").with_draws(N_IMITATED * (number + 1))
        seed = self.seed + IMITATED + number

        def recorded(image: int) -> Responses:
            row, n_repeats = int(self.images[image]), int(draws.n_repeats[image])
            drawing = Drawing(n_repeats, seed, signal="shared")
            return self._residual(row, self.predictions.draw(self.brain, self.test, row, drawing))

        return replace(draws, recorded=recorded)

    def _residual(self, row: int, responses: Responses) -> Responses:
        z = (responses - self.predictions["model"][row]) / self.spread(row)
        return np.asarray(z, np.float32)

    def spread(self, row: int) -> Responses:
        """Standard deviation of a single trial that the model expects: (n_voxels,)."""
        return np.maximum(self.predictions.trial_sd(self.brain, self.test, row), 1e-6)

    def _draw(self, name: str, row: int, n_draws: int, seed: int) -> Responses:
        if name == "latent_nf1":
            return latent_draws(self.brain, self.test.token(row), 1.0, (seed, row), n_draws)
        apart = replace(self.predictions, apart=True)
        drawing = Drawing(n_draws, seed, signal="shared")
        return next(apart.draw_all(self.brain, self.test, row, drawing, (name,)))

    def image_features(self) -> ImageFeatures:
        """What the model expects of the images, and how surely."""
        expected = np.stack(
            [self.predictions["model"][row] / self.spread(int(row)) for row in self.images]
        )
        doubt, unsure = self.predictions.doubt, None
        if doubt is not None:
            unsure = doubt.relative[self.images].mean(1, dtype=np.float64)
        return ImageFeatures.of(expected, unsure)


@dataclass(frozen=True, eq=False)
class Seen:
    """Recorded and drawn rows, as classifiers see them.

    Attributes
    ----------
    names : tuple of n_features str
    sample : Sample
    """

    names: tuple[str, ...]
    sample: Sample

    def only(self, names: set[str]) -> Sample:
        """Return the sample with some features alone."""
        kept = [k for k, name in enumerate(self.names) if name in names]
        return replace(self.sample, features=self.sample.features[:, kept])


def fit_probes(
    residuals: Residuals,
    expected: NDArray[np.float32],
    averaging: NDArray[np.float32],
    regions: Sequence[str],
    generator: np.random.Generator,
) -> Probes:
    """Find components of residuals from some of the images: `Probes.fit`."""
    n_images = len(residuals.n_repeats)
    chosen = np.sort(generator.choice(n_images, min(N_FITTED, n_images), replace=False))
    rows, group = [], []
    for image in chosen.tolist():
        for is_recorded, own in residuals.both(image):
            rows.append(own)
            group += [2 * image + is_recorded] * len(own)
    z = np.concatenate(rows)
    return Probes.fit(z, np.array(group), expected, averaging, regions, generator)


def see(residuals: Residuals, probes: Probes, images: ImageFeatures) -> dict[Rows, Seen]:
    """Compute the features of all trials, and of all pairs of repeats where there are any.

    Returns
    -------
    dict of Seen
        "trials", and "pairs" where `LEAST_IMAGES` or more, or as many groups of images, were
        repeated.
    """
    rows: dict[Rows, list[tuple[Columns, int, bool]]] = {"trials": [], "pairs": []}
    for image, n in enumerate(residuals.n_repeats.tolist()):
        first, second = pairs_of(n)
        for is_recorded, z in residuals.both(image):
            rows["trials"].append((trial_features(z, image, probes, images), image, is_recorded))
            if len(first):
                found = pair_features(z[first], z[second], image, probes, images)
                rows["pairs"].append((found, image, is_recorded))
    joined = {unit: _joined(parts, residuals) for unit, parts in rows.items() if parts}
    return {
        unit: seen
        for unit, seen in joined.items()
        if unit == "trials" or len(np.unique(seen.sample.unit)) >= LEAST_IMAGES
    }


def _joined(parts: list[tuple[Columns, int, bool]], residuals: Residuals) -> Seen:
    """Rows of all images."""
    features = [np.column_stack(list(columns.values())) for columns, _, _ in parts]
    sizes = [len(rows) for rows in features]
    image = np.repeat([image for _, image, _ in parts], sizes)
    is_recorded = np.repeat([label for _, _, label in parts], sizes)
    sample = Sample(
        np.concatenate(features), image, is_recorded, len(residuals.n_repeats), residuals.groups
    )
    return Seen(tuple(parts[0][0]), sample)
