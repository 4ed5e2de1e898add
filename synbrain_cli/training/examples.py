"""A prepared subject's training and validation examples, in the units that networks learn in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from synbrain_cli.groups import Groups, number_groups
from synbrain_cli.io.prepared import PreparedSubject, Trials
from synbrain_cli.io.token_store import TokenStore
from synbrain_cli.metrics.accuracy import average_repeats
from synbrain_cli.metrics.arrays import blockwise
from synbrain_cli.model.joint_tokens import JointTokens
from synbrain_cli.model.tokens import StandardBand, StandardTokens, TokenScaler


@dataclass(frozen=True)
class Examples:
    """One split, ready for training.

    Attributes
    ----------
    betas : float32 array of shape (n_trials, n_voxels), z-scored
    image_index : int array of shape (n_trials,)
        Row of each trial's image in ``tokens`` and ``averages``.
    tokens : StandardTokens, or StandardBand
        Of each image, under every band; as networks see them (`seen_by_networks`), of one.
    averages : float32 array of shape (n_images, n_voxels)
        Over the repeats of each image.
    """

    betas: np.ndarray
    image_index: np.ndarray
    tokens: Any
    averages: np.ndarray


def share_predicted(examples: Examples, predicted: np.ndarray) -> float:
    """Share of the variance of images' average responses that is predicted; at most 1.

    Parameters
    ----------
    examples : Examples
    predicted : float32 array of shape (n_images, n_voxels), standardised
        0 is the mean response, whose share is 0.
    """
    error = ((examples.averages - predicted) ** 2).sum()
    return 1 - float(error / (examples.averages**2).sum())


@dataclass(frozen=True)
class ResponseScale:
    """What returns the networks' unit to the recorded one: ``z * sd + mean``.

    Attributes
    ----------
    mean, sd : float array of shape (n_voxels,), in the recorded unit
    """

    mean: np.ndarray
    sd: np.ndarray

    def standardize(self, trials: Trials) -> Trials:
        """Return trials in recorded units, standardised; float32."""
        betas = np.empty(trials.betas.shape, np.float32)
        for row, recorded in zip(betas, trials.betas, strict=True):  # one at a time, to save memory
            row[:] = (recorded - self.mean) / self.sd
        return replace(trials, betas=betas)


@dataclass(frozen=True)
class SubjectExamples:
    """Training and validation examples of one subject, and the scales that they are in.

    Attributes
    ----------
    scaler : TokenScaler
        Standardises the tokens.
    scale : ResponseScale
        Returns responses to the recorded unit.
    train, val : Examples
    both : Examples
        Training examples, then validation examples; the two above are views of it.
    images : array of str of shape (n_images,)
        Names of the images of ``both``.
    regions : dict of bool arrays of shape (n_voxels,)
        ROIs, whose voxels may have signal and noise in common.
    groups : int array of shape (n_images,), optional
        Groups of images that are never both fitted and held out; None where each stands alone.
    """

    scaler: TokenScaler
    scale: ResponseScale
    train: Examples
    val: Examples
    both: Examples
    images: np.ndarray
    regions: Mapping[str, np.ndarray] = field(default_factory=dict)
    groups: Groups | None = None

    @property
    def groups_of_training(self) -> Groups | None:
        """Groups of the training images."""
        return None if self.groups is None else self.groups[: len(self.train.averages)]

    @property
    def groups_of_validation(self) -> Groups | None:
        """Groups of the validation images."""
        return None if self.groups is None else self.groups[len(self.train.averages) :]

    @classmethod
    def of(
        cls,
        scaler: TokenScaler,
        scale: ResponseScale,
        both: Examples,
        n_train: int,
        images: np.ndarray,
    ) -> SubjectExamples:
        """Divide examples after the first trials, and their images: views, not copies.

        Parameters
        ----------
        scaler : TokenScaler
        scale : ResponseScale
        both : Examples
            Training examples, then validation examples, of other images.
        n_train : int
            Trials of training.
        images : array of str of shape (n_images,)
            Names of the images.
        """
        n_images = int(both.image_index[:n_train].max()) + 1

        def part(trials: slice, images: slice) -> Examples:
            return Examples(
                both.betas[trials],
                both.image_index[trials] - (images.start or 0),
                both.tokens.part(images),
                both.averages[images],
            )

        train = part(slice(None, n_train), slice(None, n_images))
        val = part(slice(n_train, None), slice(n_images, None))
        return cls(scaler, scale, train, val, both, images)


def load_examples(
    subject: PreparedSubject,
    store: TokenStore,
    within: np.ndarray | None = None,
    scaler: TokenScaler | None = None,
) -> SubjectExamples:
    """Load training and validation examples of a subject. The test split is not opened.

    Networks learn in standard deviations: betas prepared without standardisation are standardised
    here, by mean and standard deviation of the training trials. So are the betas of a subject's
    first hours, whatever they were prepared with: no trial beyond these hours counts for anything.

    Parameters
    ----------
    subject : PreparedSubject
    store : TokenStore
        Tokens of its images.
    within : bool array of shape (n_trials,), optional
        The trials of the first hours (`PreparedSubject.first_hours`); default all.
    scaler : TokenScaler, optional
        Default: fitted to the tokens of the training images.
    """
    train_trials = subject.select("train", within)
    val_trials = subject.select("val", within)
    scale = ResponseScale(*subject.standardization(subject.sessions))
    if within is not None or subject.description.standardization == "none":
        train_trials = replace(train_trials, betas=subject.recorded(train_trials))
        val_trials = replace(val_trials, betas=subject.recorded(val_trials))
        sd = blockwise(lambda block: block.std(0), train_trials.betas, keep=1)
        scale = ResponseScale(
            train_trials.betas.mean(0, dtype=np.float64), np.where(sd > 0, sd, 1.0)
        )
        train_trials, val_trials = scale.standardize(train_trials), scale.standardize(val_trials)
    scaler = scaler or TokenScaler.fit(
        [(one.tokens, one.rows_of(train_trials.images)) for one in store.stores]
    )
    images = np.concatenate([train_trials.images, val_trials.images])
    of_val = val_trials.image_index + len(train_trials.images)
    index = np.concatenate([train_trials.image_index, of_val])
    n_train = len(train_trials.betas)
    betas = np.concatenate([train_trials.betas, val_trials.betas])
    del train_trials, val_trials  # responses are in memory once
    averages, _, _ = average_repeats(betas, index)
    tokens = standard_tokens(store, images, scaler)
    both = Examples(betas, index, tokens, averages)
    found = SubjectExamples.of(scaler, scale, both, n_train, images)
    return replace(found, regions=subject.rois(), groups=number_groups(images, subject.groups))


def seen_by_networks(examples: SubjectExamples, joint: JointTokens) -> SubjectExamples:
    """Return the examples with the tokens of all bands as those of one."""
    parts = {
        name: replace(one, tokens=joint.all_of(one.tokens))
        for name, one in (("train", examples.train), ("val", examples.val))
    }
    return replace(examples, **parts)


def standard_tokens(
    store: TokenStore, images: Iterable[str], scaler: TokenScaler
) -> StandardTokens:
    """Return the tokens of images, to be read and standardised when they are needed.

    Raises
    ------
    MissingError, InputError
        When tokens of an image have not been extracted, or were changed since.
    """
    images = list(images)
    return StandardTokens(
        tuple(
            StandardBand(one.tokens, one.rows_of(images), own)
            for one, own in zip(store.stores, scaler.bands, strict=True)
        )
    )
