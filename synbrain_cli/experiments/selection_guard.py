r"""What a set of images that a model chose is worth, by fits that had no part in choosing it.

The largest of many predictions are, on average, too large: those whose errors happened to be
positive are chosen (the winner's curse). Two linear encoders of the regions' responses are
therefore fitted to two halves of the subject's training images. What a set is worth beside the
average of all candidates is the model's own estimate times (ours)

.. math:: s = \max\left(0, \beta - \frac{\epsilon^2}{\beta}\right)
    \min\left(1, \frac{a_\mathrm{candidates}}{a_\mathrm{training}}\right)

- β, the slope of what was **recorded** of images on what a half predicts of them, over the images
  of the other half, which it never saw, and ε, its standard error: a slope that could be chance is
  drawn towards 0 (the positive part of James & Stein's estimate);
- a, the slope of one half's predictions on the other's: over training images, of which neither
  prediction knows the response, and over the candidates.

Recorded responses have errors that chose nothing, so that β is 1 for predictions that are as sure
as they should be, and 0 for noise. It is known of photographs such as those of training; where the
halves agree less on the candidates than on these, less is believed. The slopes are averages of both
directions.

A third linear encoder, fitted to all training images, says how far from its prediction the mean
response of a region is to an image that it was not fitted to. With its residuals r of trials k of
image i, each by a fit without that image, products of different repeats share the unexplained
signal and no noise:

.. math:: U = \frac{\sum_i \sum_{k \ne l} r_{ik} r_{il}^\top}{\sum_i n_i (n_i - 1)}

A model's covariance of voxels may lack what many voxels share, each a little: of unions of ROIs,
and of all regions in models of earlier versions. Standard errors are made as large as U on average,
where they are smaller.

The ratio of one half's estimate to the other's own estimate of the set that this one chose was
tried, too. It is too small: the predictions of a half are themselves drawn towards the mean
(docs/experiments.md).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from synbrain_cli.brain import Brain
from synbrain_cli.brain.matching import check_match
from synbrain_cli.errors import InputError
from synbrain_cli.experiments.selection_aims import Region
from synbrain_cli.features.images import ImageSet
from synbrain_cli.groups import Groups, number_groups, second_half
from synbrain_cli.io.arrays import load_arrays, save_arrays
from synbrain_cli.io.prepared import PreparedSubject
from synbrain_cli.io.seal import is_kept, keep
from synbrain_cli.io.token_store import TokenStore, pixels_checksum
from synbrain_cli.io.workspace import Workspace
from synbrain_cli.metrics.accuracy import average_repeats
from synbrain_cli.model.linear import LEAST_IMAGES, LinearEncoder, Ridge, fit_linear
from synbrain_cli.model.tokens import StandardTokens, TokenScaler
from synbrain_cli.progress import Share
from synbrain_cli.run import RunContext
from synbrain_cli.tokens import Tokens
from synbrain_cli.training.examples import standard_tokens

TOGETHER = 512  # trials in memory at a time
_KEPT = "recorded", "predicted", "is_second", "unexplained"  # arrays of `Halves`

Array = NDArray[np.float64]


@dataclass(frozen=True)
class TrainingData:
    """The data that a model was trained on.

    Attributes
    ----------
    subject : PreparedSubject
    store : TokenStore
        Tokens of the model's encoder.
    """

    subject: PreparedSubject
    store: TokenStore

    @classmethod
    def find(cls, workspace: Workspace, brain: Brain) -> TrainingData:
        """Find the data of a model in a workspace.

        Raises
        ------
        MissingError, InputError
            When they are not there, do not belong to the model, or are of too few images.
        """
        config = brain.config
        brain.require_readout("an independent estimate")
        subject = workspace.find_subject(config.subject, config.dataset, _unheard)
        store = workspace.find_tokens(
            config.dataset, [band.spec for band in config.bands], _unheard
        )
        check_match(brain, subject, store)
        found = cls(subject, store)
        n_images = subject.trials["image"][found.trials_of(brain)].nunique()
        if n_images < 2 * LEAST_IMAGES:
            raise InputError(
                f"{brain.name}: expected {2 * LEAST_IMAGES} training images or more to fit two "
                f"halves, found {n_images}"
            )
        return found

    def holds(self, brain: Brain, pictures: ImageSet) -> NDArray[np.bool_]:
        """Return which images a model was trained on, by their pixels: bool (n_images,).

        Of tokens that the user computed, whose pictures are not known, none.
        """
        shown = set(self.subject.trials["image"].to_numpy(str)[self.trials_of(brain)])
        known = zip(self.store.images, self.store.digests, strict=True)
        digests = {digest for name, digest in known if digest and name in shown}
        if not digests or not pictures.are_seen:
            return np.zeros(len(pictures), bool)
        return np.array([pixels_checksum(pixels) in digests for pixels in pictures])

    def trials_of(self, brain: Brain) -> NDArray[np.intp]:
        """Return the rows of the trials that a model was fitted to."""
        rows = np.flatnonzero(self.subject.trials["split"].isin(("train", "val")))
        adaptation = brain.config.training.adaptation
        return rows if adaptation is None else np.intersect1d(rows, adaptation.trials)


def _unheard(message: str) -> None:
    """Take a message about a choice that the model leaves open to nobody."""


class Guard(NamedTuple):
    """How much of a model's own estimate of the sets that it chooses is believed.

    Attributes
    ----------
    slope, slope_error : float
        Of recorded on predicted responses (β, ε).
    agreement, agreement_training : float
        Slope of one half's predictions on the other's, over the candidates and over training
        images.
    share : float
        Factor of the model's own estimate, as a deviation from all candidates.
    """

    slope: float
    slope_error: float
    agreement: float
    agreement_training: float
    share: float


@dataclass(frozen=True)
class Halves:
    """Linear encoders of the regions' responses, fitted to two halves of the training images.

    Attributes
    ----------
    encoders : tuple of LinearEncoder
        Two; their targets are the regions.
    scaler : TokenScaler
    recorded : float64 array of shape (n_images, n_regions)
        Average recorded response of each region to each training image, in the recorded unit.
    predicted : float64 array of shape (2, n_images, n_regions)
        By each half; of its own images, by fits without them.
    is_second : bool array of shape (n_images,)
        Images of the second half.
    unexplained : float64 array of shape (n_regions, n_regions)
        U; NaN where no image was repeated.
    """

    encoders: tuple[LinearEncoder, LinearEncoder]
    scaler: TokenScaler
    recorded: Array
    predicted: Array
    is_second: NDArray[np.bool_]
    unexplained: Array

    def predict(self, tokens: Tokens) -> Array:
        """Predict the responses of the regions to images: float64 (n_images, 2, n_regions)."""
        standard = self.scaler(tokens)
        return np.stack([one.predict(standard) for one in self.encoders], 1).astype(float)

    def guard(self, weights: Array, candidates: Array) -> Guard:
        """Say how much of an estimate is believed.

        Parameters
        ----------
        weights : float64 array of shape (n_regions,)
            Of the regions' responses in the score.
        candidates : float64 array of shape (n_candidates, 2, n_regions)
            `predict`, of every candidate.
        """
        return believe(
            self.recorded @ weights,
            self.predicted @ weights,
            self.is_second,
            (candidates @ weights).T,
        )

    def arrays(self) -> dict[str, np.ndarray]:
        """Return named arrays, for a file."""
        named = {name: getattr(self, name) for name in _KEPT}
        for k, encoder in enumerate(self.encoders):
            named |= {f"half.{k}.{name}": value for name, value in encoder.arrays().items()}
        return named

    @classmethod
    def from_arrays(cls, named: dict[str, np.ndarray], scaler: TokenScaler) -> Halves:
        """Rebuild from the named arrays of a file."""
        first, second = (
            LinearEncoder.from_arrays(
                {n.removeprefix(p): v for n, v in named.items() if n.startswith(p)},
                len(scaler.bands),
            )
            for p in ("half.0.", "half.1.")
        )
        return cls((first, second), scaler, **{name: named[name] for name in _KEPT})


def believe(
    recorded: Array, predicted: Array, is_second: NDArray[np.bool_], candidates: Array
) -> Guard:
    """Say how much of the deviations that a model predicts is believed. The module has the formula.

    Parameters
    ----------
    recorded : float64 array of shape (n_images,)
        Score of the recorded responses to training images.
    predicted : float64 array of shape (2, n_images)
        Score of each half's predictions of them; of its own images, by fits without them.
    is_second : bool array of shape (n_images,)
        Images of the second half.
    candidates : float64 array of shape (2, n_candidates)
        Score of each half's predictions of the candidates.
    """
    unseen = (is_second, ~is_second)  # by the first half, and by the second
    slope, error = _mean_slope(
        [(predicted[k][unseen[k]], recorded[unseen[k]]) for k in (0, 1)],
    )
    training, _ = _mean_slope(
        [(predicted[k][unseen[k]], predicted[1 - k][unseen[k]]) for k in (0, 1)]
    )
    agreement, _ = _mean_slope([(candidates[k], candidates[1 - k]) for k in (0, 1)])
    ratio = float(np.clip(agreement / training, 0, 1)) if training > 0 else 0.0
    share = max(0.0, slope - error**2 / slope) * ratio if slope > 0 else 0.0
    return Guard(slope, error, agreement, training, share)


def _mean_slope(pairs: list[tuple[Array, Array]]) -> tuple[float, float]:
    """Average over pairs (x, y) of the slope of y on x, and its standard error.

    By least squares; 0 where x does not vary.
    """
    slopes, variances = [], []
    for x, y in pairs:
        centred, deviations = x - x.mean(), y - y.mean()
        square = float(centred @ centred)
        slope = float(centred @ deviations) / square if square > 0 else 0.0
        left = deviations - slope * centred
        slopes.append(slope)
        variances.append(float(left @ left) / max(len(x) - 2, 1) / square if square > 0 else 0.0)
    return float(np.mean(slopes)), float(np.sqrt(np.sum(variances)) / len(pairs))


def fit_halves(
    brain: Brain,
    data: TrainingData,
    regions: tuple[Region, ...],
    run: RunContext,
    recovery: Path | None = None,
) -> Halves:
    """Fit two linear encoders of regions to two halves of the training images.

    Parameters
    ----------
    brain : Brain
    data : TrainingData
    regions : tuple of Region
        Their average responses are the targets: few, so that the fit costs little.
    run : RunContext
        Its seed deals the images to the halves.
    recovery : path, optional
        Folder in which they are kept for the run that continues an interrupted one.
    """
    path = recovery / "halves.safetensors" if recovery else None
    scaler = brain.predictors.scaler
    if path and is_kept(path, run.progress.info):
        return Halves.from_arrays(load_arrays(path), scaler)
    trials, names = _recorded(brain, data, regions)
    recorded, images, _ = average_repeats(trials, names)
    tokens = standard_tokens(data.store, images.tolist(), scaler)
    groups = number_groups(images, data.subject.groups)
    is_second = second_half(len(images), np.random.default_rng([run.seed, 21]), groups)
    predicted = np.empty((2, *recorded.shape))
    encoders = []
    with run.progress.stage("independent estimates: linear encoders of the regions") as share:
        of_halves, of_all = share.split(1, 1)
        for k, (own, part) in enumerate(of_halves.each((~is_second, is_second))):
            generator = np.random.default_rng([run.seed, 22, k])
            of_half = None if groups is None else groups[own]
            seen = tokens.part(np.flatnonzero(own))
            encoder, left_out = _fit(seen, recorded[own], generator, part, of_half)
            predicted[k, own] = left_out
            predicted[k, ~own] = encoder.predict(tokens.part(np.flatnonzero(~own)))
            encoders.append(encoder)
        _, left_out = _fit(tokens, recorded, np.random.default_rng([run.seed, 23]), of_all, groups)
    unexplained = _unexplained(trials, names, left_out)
    halves = Halves((encoders[0], encoders[1]), scaler, recorded, predicted, is_second, unexplained)
    if path:
        save_arrays(path, halves.arrays())
        keep(path)
    return halves


def _fit(
    tokens: StandardTokens,
    targets: Array,
    generator: np.random.Generator,
    share: Share,
    groups: Groups | None,
) -> tuple[LinearEncoder, NDArray[np.float32]]:
    """Fit a linear encoder to a few targets, in a form that takes little memory."""
    encoder, left_out = fit_linear(tokens, targets.astype(np.float32), generator, share, groups)
    few = np.eye(targets.shape[1], dtype=np.float32)
    ridges = tuple(_multiplied(ridge, few) for ridge in encoder.ridges)
    return replace(encoder, ridges=ridges), left_out


def _multiplied(ridge: Ridge, few: NDArray[np.float32]) -> Ridge:
    """Weights of features rather than of thousands of components: (n_features, n_targets)."""
    weights = ridge.components @ ridge.coefficients
    return replace(ridge, components=weights, coefficients=few, known=None)


def _recorded(
    brain: Brain, data: TrainingData, regions: tuple[Region, ...]
) -> tuple[Array, NDArray[np.str_]]:
    """What each region recorded in every trial (n_trials, n_regions), and the images shown.

    Responses are read some trials at a time: all of NSD's take gigabytes.
    """
    rows = data.trials_of(brain)
    n_trials = len(data.subject.trials)
    masks = np.stack([region.mask for region in regions]).astype(float)
    weights = masks / masks.sum(1, keepdims=True)
    values = []
    for first in range(0, len(rows), TOGETHER):
        chosen = np.zeros(n_trials, bool)
        chosen[rows[first : first + TOGETHER]] = True
        trials = brain.standardize(data.subject.read_betas(chosen))
        values.append((trials * brain.response_sd + brain.response_mean) @ weights.T)
    names = data.subject.trials["image"].to_numpy(str)[rows]
    return np.concatenate(values).astype(float), names


def _unexplained(trials: Array, names: NDArray[np.str_], predicted: NDArray[np.float32]) -> Array:
    """Covariance of what predictions leave of regions' true responses. The module has the formula.

    Parameters
    ----------
    trials : float64 array of shape (n_trials, n_regions)
    names : str array of shape (n_trials,)
    predicted : float32 array of shape (n_images, n_regions)
        By fits without the image, in the order of the sorted names.
    """
    _, index, n_repeats = np.unique(names, return_inverse=True, return_counts=True)
    residuals = trials - predicted[index]
    sums = np.zeros((len(n_repeats), trials.shape[1]))
    np.add.at(sums, index, residuals)
    n_pairs = float((n_repeats * (n_repeats - 1.0)).sum())
    if not n_pairs:
        return np.full((trials.shape[1],) * 2, np.nan)
    return np.asarray((sums.T @ sums - residuals.T @ residuals) / n_pairs)
