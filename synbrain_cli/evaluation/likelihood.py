"""How likely the recorded test trials are under the model, jointly over voxels, in bits.

Bits are log-likelihoods per voxel and trial, above that of the mean pattern with independent normal
noise: what a model knows of the noise counts, and what it knows of the image. The latter alone is
the information gain, from a model that is told nothing of the image to one that is told the image
and its other repeats (Lurz, Bashiri, Walker & Sinz 2023, *ICLR*, whose oracle is told the repeats;
here they update the unexplained signal u, so that the oracle knows at least as much as the model).

Counts have no density: a curve Q with steps where they lie would make them as likely as one likes.
Trials of voxels whose values are few and equally spaced are therefore spread evenly over the space
between two values, and Q is left straight there. The log density of what was spread is, in
expectation, a lower bound of the log probability of the counts (Theis, van den Oord & Bethge 2016,
*ICLR*).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from msgspec import UNSET, UnsetType
from numpy.typing import NDArray

from synbrain_cli.brain import Brain
from synbrain_cli.evaluation.predictions import Around, Predictions
from synbrain_cli.evaluation.test_set import TestSet
from synbrain_cli.groups import count_groups
from synbrain_cli.io.results.likelihood import (
    InformationGain,
    LikelihoodScore,
    LikelihoodScores,
)
from synbrain_cli.io.results.record import finite
from synbrain_cli.metrics.bootstrap import Bootstrap, weighted_mean
from synbrain_cli.model.curve import straight
from synbrain_cli.model.density import TrialDensity
from synbrain_cli.model.readout import Readout
from synbrain_cli.progress import UNSEEN, Share
from synbrain_cli.threads import one_thread

BASELINE = "mean_pattern"
MOST_COUNTS = 64  # different values of a voxel that counts (ours)
Array = NDArray[np.float64]


def score_likelihood(
    brain: Brain,
    test: TestSet,
    predictions: Predictions,
    bootstrap: Bootstrap,
    share: Share = UNSEEN,
) -> LikelihoodScores:
    """Score how likely recorded test trials are.

    Parameters
    ----------
    brain : Brain
    test : TestSet
    predictions : Predictions
    bootstrap : Bootstrap
    share : Share
        Of a task whose progress is shown.
    """
    bits, given_repeats = image_by_image(brain, test, predictions, share)
    repeated = np.flatnonzero(test.n_repeats > 1)
    scores = LikelihoodScores(given_image=_score(bits, bootstrap))
    some = bootstrap.of(repeated)
    if count_groups(len(repeated), some.groups) > 1:
        told = {name: values[repeated] for name, values in given_repeats.items()}
        untold = {name: values[repeated] for name, values in bits.items()}
        scores = LikelihoodScores(
            given_image=scores.given_image,
            given_repeats=_score(told, some),
            information_gain=_information_gain(untold, told, some),
        )
    return finite(scores)


def image_by_image(
    brain: Brain, test: TestSet, predictions: Predictions, share: Share = UNSEEN
) -> tuple[dict[str, Array], dict[str, Array]]:
    """Bits per voxel of each image's trials, and of the same given their other repeats.

    Returns
    -------
    dict of float64 arrays of shape (n_images,)
        "model", "linear", "shuffled", "image_blind": mean over an image's trials, above the
        baseline.
    dict of float64 arrays of shape (n_images,)
        The same for all but "linear"; NaN for images shown once.
    """
    steps = count_steps(test.trials)
    if steps.any():
        generator = np.random.default_rng(0)  # the same for every model: they can be compared
        between = steps * generator.uniform(-0.5, 0.5, test.trials.shape)
        test = replace(test, trials=test.trials + between.astype(np.float32))
    densities = _Densities(brain, predictions, steps > 0)
    bits: dict[str, Array] = {}
    given_repeats: dict[str, Array] = {}
    per_voxel = np.log(2) * test.n_voxels
    with one_thread():  # products are small, and of every trial
        for image in share.over(range(test.n_images)):
            own = test.trials[test.image_index == image]
            trials = predictions.from_unit(test, image, own)
            baseline = densities.of(BASELINE, test, image).log_density(trials).mean()
            for name in densities.names:
                density = densities.of(name, test, image)
                known = bits.setdefault(name, np.full(test.n_images, np.nan))
                known[image] = (density.log_density(trials).mean() - baseline) / per_voxel
                if name == "linear":  # of its noise nothing is shared by repeats
                    continue
                known = given_repeats.setdefault(name, np.full(test.n_images, np.nan))
                if len(trials) > 1:
                    told = density.log_density_given_others(trials).mean()
                    known[image] = (told - baseline) / per_voxel
    return bits, given_repeats


class _Densities:
    """Densities of an image's trials; that which all images share is computed once."""

    def __init__(self, brain: Brain, predictions: Predictions, counts: NDArray[np.bool_]) -> None:
        self._brain, self._predictions, self._counts = brain, predictions, counts
        self._pattern: tuple[Readout, TrialDensity] | None = None
        known = brain.distribution.image_blind is not None
        self.names = ("model", "linear", "shuffled", *(("image_blind",) if known else ()))

    def of(self, name: str, test: TestSet, image: int) -> TrialDensity:
        around = self._predictions.around(self._brain, test, image, name)
        if name != "image_blind":
            return self._density(around)
        if self._pattern is None or self._pattern[0] is not around.readout:
            self._pattern = around.readout, self._density(around)
        return self._pattern[1]

    def _density(self, around: Around) -> TrialDensity:
        return TrialDensity(_straightened(around.readout, self._counts), around.mean)


def count_steps(trials: np.ndarray) -> Array:
    """Distance between two values of voxels that count.

    Parameters
    ----------
    trials : float array of shape (n_trials, n_voxels)

    Returns
    -------
    float64 array of shape (n_voxels,)
        0 for voxels whose values are more than `MOST_COUNTS`, or not equally spaced.
    """
    steps = np.zeros(trials.shape[1])
    if len(trials) <= 2 * MOST_COUNTS:
        return steps
    some = trials[: 8 * MOST_COUNTS]  # of most voxels these show that there are too many
    for voxel in range(trials.shape[1]):
        if len(np.unique(some[:, voxel])) > MOST_COUNTS:
            continue
        values = np.unique(trials[:, voxel].astype(np.float64))
        if 1 < len(values) <= MOST_COUNTS:
            gaps = np.diff(values) / np.diff(values).min()
            if np.abs(gaps - np.round(gaps)).max() < 0.01:
                steps[voxel] = np.diff(values).min()
    return steps


def _straightened(readout: Readout, voxels: NDArray[np.bool_]) -> Readout:
    """A readout whose Q is the identity for some voxels (n_voxels,)."""
    if not voxels.any():
        return readout
    return replace(readout, curve=np.where(voxels, straight(len(voxels)), readout.curve))


def _score(bits: Mapping[str, Array], bootstrap: Bootstrap) -> LikelihoodScore:
    def mean(name: str) -> float | UnsetType:
        return float(bits[name].mean()) if name in bits else UNSET

    model = bits["model"]
    return LikelihoodScore(
        model=float(model.mean()),
        linear=mean("linear"),
        image_blind=mean("image_blind"),
        shuffled=float(bits["shuffled"].mean()),
        ci=bootstrap.limits_of_mean(model),
        gain_ci={
            name: bootstrap.limits_of_mean(model - values)
            for name, values in bits.items()
            if name != "model"
        },
    )


def _information_gain(
    bits: Mapping[str, Array], told: Mapping[str, Array], bootstrap: Bootstrap
) -> InformationGain | UnsetType:
    """Normalised information gain; absent without the image-blind model."""
    if "image_blind" not in bits:
        return UNSET
    least = bits["image_blind"]
    most = told["model"] - least

    def gain(values: Array, counts: Array) -> Array:
        with np.errstate(divide="ignore", invalid="ignore"):
            return weighted_mean(values - least, counts) / weighted_mean(most, counts)

    every = np.ones((1, len(least)))
    return InformationGain(
        model=float(gain(bits["model"], every)[0]),
        shuffled=float(gain(bits["shuffled"], every)[0]),
        ci=bootstrap.limits(lambda counts: gain(bits["model"], counts), len(least)),
    )
