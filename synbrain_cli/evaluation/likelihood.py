"""How likely the recorded test trials are under the model, jointly over voxels, in bits.

Bits are log-likelihoods per voxel and trial, above that of the mean pattern with independent normal
noise: what a model knows of the noise counts, and what it knows of the image. The latter alone is
the information gain, from a model that is told nothing of the image to one that is told the image
and its other repeats (Lurz, Bashiri, Walker & Sinz 2023, *ICLR*, whose oracle is told the repeats;
here they update the unexplained signal u, so that the oracle knows at least as much as the model).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from msgspec import UNSET, UnsetType
from numpy.typing import NDArray

from synbrain_cli.brain import Brain
from synbrain_cli.evaluation.predictions import Predictions
from synbrain_cli.evaluation.test_set import TestSet
from synbrain_cli.io.results.evaluation import (
    InformationGain,
    LikelihoodScore,
    LikelihoodScores,
)
from synbrain_cli.io.results.record import finite
from synbrain_cli.metrics.bootstrap import Bootstrap, weighted_mean
from synbrain_cli.model.density import TrialDensity
from synbrain_cli.progress import UNSEEN, Share

BASELINE = "mean_pattern"
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
    if len(repeated) > 1:
        told = {name: values[repeated] for name, values in given_repeats.items()}
        untold = {name: values[repeated] for name, values in bits.items()}
        scores = LikelihoodScores(
            given_image=scores.given_image,
            given_repeats=_score(told, bootstrap),
            information_gain=_information_gain(untold, told, bootstrap),
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
    bits: dict[str, Array] = {}
    given_repeats: dict[str, Array] = {}
    for image in share.over(range(test.n_images)):
        trials = predictions.recorded(test, image)
        around = predictions.around(brain, test, image)
        densities = {name: TrialDensity(one.readout, one.mean) for name, one in around.items()}
        baseline = densities.pop(BASELINE).log_density(trials).mean()
        per_voxel = np.log(2) * test.n_voxels
        for name, density in densities.items():
            own = bits.setdefault(name, np.full(test.n_images, np.nan))
            own[image] = (density.log_density(trials).mean() - baseline) / per_voxel
            if name == "linear":  # of its noise nothing is shared by repeats
                continue
            own = given_repeats.setdefault(name, np.full(test.n_images, np.nan))
            if len(trials) > 1:
                told = density.log_density_given_others(trials).mean()
                own[image] = (told - baseline) / per_voxel
    return bits, given_repeats


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
