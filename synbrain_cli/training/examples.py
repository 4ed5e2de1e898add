"""A prepared subject's training and validation examples, in the units that networks learn in."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from synbrain_cli.io.prepared import PreparedSubject, Trials
from synbrain_cli.io.token_store import TokenStore
from synbrain_cli.metrics.accuracy import average_repeats
from synbrain_cli.model.tokens import StandardTokens, TokenScaler


@dataclass(frozen=True)
class Examples:
    """One split, ready for training.

    Attributes
    ----------
    betas : float32 array of shape (n_trials, n_voxels), z-scored
    image_index : int array of shape (n_trials,)
        Row of each trial's image in ``tokens`` and ``averages``.
    tokens : StandardTokens of shape (n_images, n_tokens, n_dims)
    averages : float32 array of shape (n_images, n_voxels)
        Over the repeats of each image.
    """

    betas: np.ndarray
    image_index: np.ndarray
    tokens: StandardTokens
    averages: np.ndarray

    @classmethod
    def from_trials(cls, trials: Trials, store: TokenStore, scaler: TokenScaler) -> Examples:
        """Average the repeats of each image, and look its tokens up."""
        averages, _, _ = average_repeats(trials.betas, trials.image_index)
        tokens = StandardTokens(store.tokens, store.rows_of(trials.images), scaler)
        return cls(trials.betas, trials.image_index, tokens, averages)


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
        betas = ((trials.betas - self.mean) / self.sd).astype(np.float32)
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
    """

    scaler: TokenScaler
    scale: ResponseScale
    train: Examples
    val: Examples

    @property
    def tokens(self) -> StandardTokens:
        """Of all images, those of training first."""
        return self.train.tokens + self.val.tokens

    @property
    def averages(self) -> np.ndarray:
        """Of all images (n_train_images + n_val_images, n_voxels), those of training first."""
        return np.concatenate([self.train.averages, self.val.averages])

    @property
    def trials(self) -> tuple[np.ndarray, np.ndarray]:
        """Betas of all trials, and the row of each trial's image in ``tokens``."""
        betas = np.concatenate([self.train.betas, self.val.betas])
        of_val = self.val.image_index + len(self.train.tokens)
        return betas, np.concatenate([self.train.image_index, of_val])


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
        sd = train_trials.betas.std(0, dtype=np.float64)
        scale = ResponseScale(
            train_trials.betas.mean(0, dtype=np.float64), np.where(sd > 0, sd, 1.0)
        )
        train_trials, val_trials = scale.standardize(train_trials), scale.standardize(val_trials)
    scaler = scaler or TokenScaler.fit(store.tokens, store.rows_of(train_trials.images))
    return SubjectExamples(
        scaler,
        scale,
        Examples.from_trials(train_trials, store, scaler),
        Examples.from_trials(val_trials, store, scaler),
    )
