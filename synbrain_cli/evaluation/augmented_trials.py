"""Real and synthesized trials that the decoders of an augmentation are fitted to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from synbrain_cli.brain import Brain
from synbrain_cli.brain.drawing import Drawing
from synbrain_cli.brain.images import token_digest
from synbrain_cli.errors import InputError
from synbrain_cli.evaluation.augmented_decoder import Rows
from synbrain_cli.evaluation.retrieval import FeatureSpace
from synbrain_cli.groups import number_groups, with_their_groups
from synbrain_cli.io.prepared import PreparedSubject, Trials
from synbrain_cli.io.token_store import TokenStore
from synbrain_cli.metrics.accuracy import average_repeats
from synbrain_cli.model.linear import LinearEncoder, fit_linear, pool_bands
from synbrain_cli.model.transfer import Adapter, fit_adapter, gather_evidence
from synbrain_cli.run import RunContext
from synbrain_cli.tokens import Tokens
from synbrain_cli.training.examples import standard_tokens

MIN_TRAIN, MIN_VALIDATION = 10, 2  # images
_BATCH = 64  # images whose tokens are read at a time


@dataclass(frozen=True)
class RealTrials:
    """Recorded trials of training and validation images.

    Attributes
    ----------
    betas : float32 array of shape (n_trials, n_voxels), standardised
    images : array of str of shape (n_images,)
        Sorted.
    image_index : int array of shape (n_trials,)
        Row of ``images`` that each trial shows.
    validation : boolean array of shape (n_trials,)
    group_of : mapping of str to str
        Name of an image → name of its group; empty where every image stands alone.
    """

    betas: np.ndarray
    images: np.ndarray
    image_index: np.ndarray
    validation: np.ndarray
    group_of: Mapping[str, str] = field(default_factory=dict)

    @property
    def n_validation_images(self) -> int:
        """Number of validation images."""
        return len(np.unique(self.image_index[self.validation]))

    @property
    def n_train_images(self) -> int:
        """Number of training images."""
        return len(np.unique(self.image_index[~self.validation]))


def training_trials(brain: Brain, subject: PreparedSubject) -> RealTrials:
    """Read and standardise the trials that a model was trained on; of an adapted one, its hours'.

    They are those of its training and of its validation images: the model has learned from both,
    and a decoder may be fitted to both. No trial of the test split is among them.

    A model of some hours standardises them by the mean and SD of these hours.

    Raises
    ------
    InputError
        Too few training or validation images to choose a decoder by.
    """
    table = subject.trials
    chosen = (table["split"] != "test").to_numpy()
    adaptation = brain.config.training.adaptation
    if adaptation is not None:
        chosen = chosen & table["trial"].isin(adaptation.trials).to_numpy()
    table = table[chosen]
    images, index = np.unique(table["image"].to_numpy(str), return_inverse=True)
    betas = subject.read_betas(chosen)
    if brain.config.training.hours is not None:
        trials = Trials(betas, index, images, table["session"].to_numpy())
        betas = (subject.recorded(trials) - brain.response_mean) / brain.response_sd
    else:
        betas = brain.standardize(betas)
    validation = (table["split"] == "val").to_numpy()
    real = RealTrials(betas.astype(np.float32), images, index, validation, subject.groups)
    n_train, n_validation = real.n_train_images, real.n_validation_images
    if n_train < MIN_TRAIN or n_validation < MIN_VALIDATION:
        raise InputError(
            f"{subject.folder}: {brain.name} was trained on {n_train} training and {n_validation} "
            f"validation images, expected {MIN_TRAIN} and {MIN_VALIDATION} or more: a decoder "
            "cannot be chosen by so few; use a model of more hours, or prepare with a larger "
            "--validation"
        )
    return real


# ------------------------------------------------------------------ new images and responses


def new_images(
    store: TokenStore,
    real: RealTrials,
    test_images: Iterable[str],
    group_of: Mapping[str, str],
    generator: np.random.Generator,
) -> list[str]:
    """Return the images to synthesize responses to, in random order.

    They are neither of the real trials nor of the test, under another name either, where the store
    knows the pixels; and of no group of a test or validation image.

    Raises
    ------
    InputError
        Fewer than two.
    """
    validating = real.images[np.unique(real.image_index[real.validation])]
    held_out = {*map(str, test_images), *map(str, validating)}
    seen = {*real.images, *with_their_groups(held_out, group_of)}
    names, digests = store.images, store.digests
    pixels = {d for name, d in zip(names, digests, strict=True) if name in seen and d}
    new = [
        name for name, d in zip(names, digests, strict=True) if name not in seen and d not in pixels
    ]
    if len(new) < 2:
        raise InputError(
            f"{store.folders}: expected images that are neither of the test nor shown in the "
            f"{len(real.betas)} real trials, found {len(new)} among {len(names)}: there is nothing "
            "to synthesize responses to; prepare more subjects of this dataset, or use a model of "
            "fewer hours (`synbrain adapt --hours 1`)"
        )
    return [new[i] for i in generator.permutation(len(new))]


@dataclass(frozen=True)
class ModelWithoutValidation:
    """A model, and what replaces its linear encoder and adapter while a decoder is chosen.

    Attributes
    ----------
    brain : Brain
    linear : LinearEncoder
    adapter : Adapter, optional
        Of a model that was adapted from others.
    """

    brain: Brain
    linear: LinearEncoder
    adapter: Adapter | None

    @classmethod
    def fit(
        cls, brain: Brain, real: RealTrials, store: TokenStore, seed: int
    ) -> ModelWithoutValidation:
        """Fit the linear encoder and the adapter again, to training images alone.

        The response network, three of whose four cores have seen a validation image, gives way to
        the linear encoder. The published networks' weights were never trained on these images. They
        still have a part in when training stopped, the few weights of the stack, and the
        covariance of noise.

        Parameters
        ----------
        brain : Brain
        real : RealTrials
        store : TokenStore
        seed : int
        """
        train = ~real.validation
        averages, index, _ = average_repeats(real.betas[train], real.image_index[train])
        images = real.images[index]
        tokens = standard_tokens(store, images, brain.predictors.scaler)
        groups = number_groups(images, real.group_of)
        linear, _ = fit_linear(tokens, averages, np.random.default_rng([seed, 2]), groups=groups)
        adapter = None
        if brain.predictors.transfer is not None:
            known = gather_evidence(brain.predictors.transfer.evidence, tokens)
            generator = np.random.default_rng([seed, 3])
            adapter, _ = fit_adapter(*known, averages, generator, groups=groups)
        return cls(brain, linear, adapter)

    def means(self, tokens: Tokens) -> tuple[np.ndarray, np.ndarray]:
        """Predict responses by the whole model and by the model without its validation images.

        Parameters
        ----------
        tokens : Tokens
            As encoded.

        Returns
        -------
        float32 arrays of shape (n_images, n_voxels), standardised
        """
        predictors = self.brain.predictors
        own = self.brain.mean(tokens, unit="z")
        weight = dict(zip(predictors.names, predictors.stack, strict=True))
        standard = predictors.scaler(tokens)
        refitted = self.linear.predict(standard)
        other = own + weight["linear"] * (refitted - predictors.linear.predict(standard))
        if predictors.network is not None:
            other += weight["network"] * (refitted - predictors.network.predict(tokens))
        if self.adapter is not None and predictors.transfer is not None:
            known = predictors.transfer.evidence(tokens)
            change = self.adapter(*known) - predictors.transfer.adapter(*known)
            other += weight["transfer"] * change
        return own, other


@dataclass(frozen=True)
class Synthesized:
    """Synthesized trials of new images.

    Attributes
    ----------
    image : int array of shape (n_trials,)
        Row of ``means`` and ``targets``.
    draws : float32 array of shape (n_trials, n_voxels), standardised
    means : float32 array of shape (n_images, n_voxels), standardised
    targets : float32 array of shape (n_images, n_components)
    """

    image: np.ndarray
    draws: np.ndarray
    means: np.ndarray
    targets: np.ndarray

    def rows(self, condition: str, n: int, order: np.ndarray) -> Rows:
        """Return the first n trials, as a decoder is fitted to them.

        Parameters
        ----------
        condition : {"draws", "mean", "shuffled"}
        n : int
        order : int array of shape (n_images,)
            The image whose components take the place of an image's own, where shuffled.

        Returns
        -------
        responses : float32 array of shape (n, n_voxels)
        targets : float32 array of shape (n, n_components)
        """
        image = self.image[:n]
        responses = self.means[image] if condition == "mean" else self.draws[:n]
        shown = order[image] if condition == "shuffled" else image
        return responses, self.targets[shown]


def synthesize(
    model: ModelWithoutValidation,
    store: TokenStore,
    images: Sequence[str],
    n_trials: int,
    space: FeatureSpace,
    run: RunContext,
) -> tuple[Synthesized, Synthesized]:
    """Draw one trial per image, and again, until there are ``n_trials``.

    The draws are those of ``Brain.draw(tokens, n, seed, unit="z")``, but that every image errs on
    its own: errors that images share are those of one brain, and decoders would learn them. Draw k
    is an image's k-th trial.

    Parameters
    ----------
    model : ModelWithoutValidation
    store : TokenStore
    images : sequence of str
        At most ``n_trials``.
    n_trials : int
    space : FeatureSpace
    run : RunContext

    Returns
    -------
    Synthesized, Synthesized
        By the model, and by the model without its validation images, with the same random numbers.
    """
    brain = model.brain
    trial_image = np.arange(n_trials) % len(images)
    n_draws = np.bincount(trial_image, minlength=len(images))
    draws = np.empty((2, n_trials, brain.n_voxels), np.float32)
    means = np.empty((2, len(images), brain.n_voxels), np.float32)
    targets = np.empty((len(images), space.axes.shape[1]), np.float32)
    with run.progress.bar("responses", len(images)) as bar:
        for start in range(0, len(images), _BATCH):
            tokens = store.take(images[start : start + _BATCH])
            rows = slice(start, start + len(tokens))
            targets[rows] = space(pool_bands(brain.predictors.scaler(tokens)))
            means[:, rows] = model.means(tokens)
            for i, token in enumerate(tokens.one_by_one(), start):
                digest, drawing = token_digest(token), Drawing(int(n_draws[i]), run.seed)
                doubt = brain.doubt_of(token)
                doubt = None if doubt is None else doubt.apart()
                for drawn, mean in zip(draws, means, strict=True):
                    own = brain.draw_around(mean[i], digest, drawing, doubt=doubt)
                    drawn[i :: len(images)] = own
                bar()
    final, choosing = (
        Synthesized(trial_image, drawn, mean, targets)
        for drawn, mean in zip(draws, means, strict=True)
    )
    return final, choosing


def pooled_features(
    brain: Brain, store: TokenStore, images: Sequence[str] | NDArray[np.str_]
) -> np.ndarray:
    """Pool standardised tokens, read some images at a time: float32 (n_images, n_features)."""
    return np.concatenate(
        [
            pool_bands(brain.predictors.scaler(store.take(images[start : start + _BATCH])))
            for start in range(0, len(images), _BATCH)
        ]
    )
