"""The distribution of single trials: stacked predictions, readout, and baselines' variances."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from synbrain_cli.io.bundle import NoiseShare, Predictor, Rank, ReadoutSummary, Variances
from synbrain_cli.metrics.arrays import blockwise
from synbrain_cli.model.components import Separation
from synbrain_cli.model.linear import LinearEncoder
from synbrain_cli.model.readout import (
    IMAGE_BLIND,
    Readout,
    Together,
    fit_image_blind,
    fit_separated,
    less_signal,
    signal_left,
)
from synbrain_cli.model.similar_images import fit_concentration
from synbrain_cli.model.stack import fit_stack
from synbrain_cli.model.uncertainty import SOME, MeanUncertainty, Residuals, measured_voxels
from synbrain_cli.progress import UNSEEN, Share
from synbrain_cli.training.examples import SubjectExamples

READOUT = "stacking, unexplained signal, trial noise"  # what `fit_distribution` fits
TIMES = 1, 20  # shares of stack and readout


@dataclass(frozen=True)
class HeldOut:
    """Predictions of images by predictors that were not fitted to them, in standard deviations.

    Attributes
    ----------
    everywhere : dict of float32 arrays of shape (n_train_images + n_val_images, n_voxels)
        Of all images, each by fits without it: leave-one-out, or cross-fitted. "linear" first.
    on_validation : dict of float32 arrays of shape (n_val_images, n_voxels)
        Of predictors that were fitted to the training images alone: the published networks.
    linear : LinearEncoder, optional
        That made the predictions "linear": it knows how unsure it is of every image.
    excess : dict of float32 arrays of shape (n_voxels,)
        Of predictors ``everywhere``: variance that predictions of new images have not, as they are
        means of several fits, each of which predicted a part of the images here.
    """

    everywhere: dict[Predictor, np.ndarray]
    linear: LinearEncoder | None = None
    on_validation: dict[Predictor, np.ndarray] = field(default_factory=dict)
    excess: dict[Predictor, np.ndarray] = field(default_factory=dict)

    @property
    def names(self) -> tuple[Predictor, ...]:
        """Predictors in the order of the stack."""
        return (*self.everywhere, *self.on_validation)

    def of_validation(self, n_train: int) -> dict[Predictor, np.ndarray]:
        """Predictions of the validation images, which follow those of training."""
        left_out = {name: values[n_train:] for name, values in self.everywhere.items()}
        return left_out | self.on_validation


@dataclass(frozen=True)
class FittedDistribution:
    """The distribution of single trials, fitted to training and validation examples.

    Attributes
    ----------
    stack : float32 array of shape (n_predictors, n_voxels)
        Weight of each predictor.
    readout : Readout
    stacked : float32 array of shape (n_val_images, n_voxels)
        Stacked predictions of validation images, by predictors that were not fitted to them.
    separation : Separation
        How surely unexplained signal was told from trial noise.
    image_blind : Readout
        Of trials around the mean pattern, of images that nothing is known of: the lower bound of
        what knowing the image tells.
    left_out : float32 array of shape (n_train_images + n_val_images, n_voxels)
        Stacked predictions of all images, each without itself: the readout was fitted to these.
    uncertainty : MeanUncertainty, optional
        How the uncertainty of the mean depends on the image.
    """

    stack: np.ndarray
    readout: Readout
    stacked: np.ndarray
    separation: Separation
    image_blind: Readout
    left_out: np.ndarray
    uncertainty: MeanUncertainty | None = None

    def arrays(self) -> dict[str, np.ndarray]:
        """Return named arrays, for a file."""
        named = {"stack": self.stack, **self.readout.arrays()}
        named |= self.image_blind.arrays(IMAGE_BLIND)
        if self.uncertainty is not None:
            named |= self.uncertainty.arrays()
        return named


def fit_distribution(
    examples: SubjectExamples, held_out: HeldOut, seed: int, share: Share = UNSEEN
) -> FittedDistribution:
    """Fit the stack and the readout.

    Predictors that predict every image without it are stacked by these predictions, and the
    readout is fitted to what the stack leaves of the trials of all images: predictions of images
    that the mean was not fitted to. Predictors that were fitted to the training images alone are
    then added to that stack by the validation images; the signal that they explain there is taken
    from the unexplained signal. So is what single fits err more than the mean of several
    (`synbrain_cli.model.committee`), by which new images are predicted.

    Parameters
    ----------
    examples : SubjectExamples
    held_out : HeldOut
    seed : int
    share : Share
        Of a task whose progress is shown.
    """
    generator = np.random.default_rng([seed, 2])
    place = {name: k for k, name in enumerate(held_out.everywhere)}
    excess = {place[name]: variance for name, variance in held_out.excess.items()}
    of_stack, of_readout = share.split(*TIMES)
    val, averages = examples.val, examples.both.averages
    everywhere = list(held_out.everywhere.values())
    if len(everywhere) == 1:
        stack, left_out = np.ones((1, averages.shape[1]), np.float32), everywhere[0]
    else:
        stack, left_out = fit_stack(
            everywhere, averages, generator, excess, of_stack, examples.groups
        )
    trials, index = examples.both.betas, examples.both.image_index
    together = Together(tuple(examples.regions.values()), examples.groups)
    readout, separation = fit_separated(
        trials, index, left_out, generator, together=together, share=of_readout
    )
    apart, blind = generator.spawn(2)
    uncertainty = _fit_uncertainty(held_out.linear, examples, left_out, readout, apart)
    pattern = examples.both.averages.mean(0, dtype=np.float64).astype(np.float32)
    image_blind = fit_image_blind(readout, trials, index, pattern, blind, together)
    stacked = left_out[len(examples.train.averages) :]
    if held_out.on_validation:
        before = stacked
        beside = [before, *held_out.on_validation.values()]
        of_val = examples.groups_of_validation
        weights, stacked = fit_stack(beside, val.averages, generator, groups=of_val)
        stack = np.concatenate([weights[0] * stack, weights[1:]])
        readout = signal_left(readout, stacked, before, val.averages)
    for k, variance in excess.items():
        readout = less_signal(readout, stack[k] ** 2 * variance)
    return FittedDistribution(
        stack, readout, stacked, separation, image_blind, left_out, uncertainty
    )


def _fit_uncertainty(
    linear: LinearEncoder | None,
    examples: SubjectExamples,
    left_out: np.ndarray,
    readout: Readout,
    generator: np.random.Generator,
) -> MeanUncertainty | None:
    """Fit how the uncertainty of the mean depends on the image; None where no band varies.

    ``left_out`` are predictions of all images, each without itself.
    """
    if linear is None or not linear.knows_leverage:
        return None
    averages = examples.both.averages
    n_images, n_voxels = averages.shape
    repeats = np.bincount(examples.both.image_index, minlength=n_images)
    some = np.unique(np.linspace(0, n_images - 1, SOME).astype(int))
    voxels = measured_voxels(n_voxels)
    of_some = some[:, None], voxels
    residuals = Residuals(
        np.square(averages[of_some] - left_out[of_some]),
        readout.signal.variance[voxels],
        # Noise that depends on the response must not pass for uncertainty of the mean
        (readout.relative_noise_variance(left_out[some]) * readout.noise.variance)[:, voxels]
        / np.maximum(repeats[some, None], 1),
    )
    leverages = np.stack(list(linear.leverages_left_out(some)))
    signal, tokens = residuals.signal, examples.both.tokens
    concentration = fit_concentration(
        linear, tokens, averages, signal, voxels, generator, examples.groups
    )
    return MeanUncertainty.fit(leverages, residuals, concentration)


def baseline_variances(examples: SubjectExamples, linear: np.ndarray) -> dict[str, np.ndarray]:
    """Return the variances of the two simplest distributions that draws must beat.

    ``linear_variance``: of single trials of validation images around the linear encoder;
    ``trial_variance``: of training trials around their mean.

    Parameters
    ----------
    examples : SubjectExamples
    linear : float32 array of shape (n_val_images, n_voxels)
        The linear encoder's predictions.

    Returns
    -------
    dict of float32 arrays of shape (n_voxels,)
    """
    residual = examples.val.betas - linear[examples.val.image_index]
    return {
        "linear_variance": (residual**2).mean(0, dtype=np.float64).astype(np.float32),
        "trial_variance": blockwise(
            lambda block: block.var(0), examples.train.betas, keep=1
        ).astype(np.float32),
    }


def _noise_share(found: Separation) -> NoiseShare:
    low, high = found.interval
    return NoiseShare(
        value=round(found.noise_share, 4),
        interval=(round(low, 4), round(high, 4)),
        images=found.images,
        repeated_images=found.repeated,
        repeats=found.repeats,
        pooled=found.possible and not found.by_voxel,
    )


def describe_readout(
    fitted: FittedDistribution, predictors: tuple[Predictor, ...]
) -> ReadoutSummary:
    """Summarise the fitted distribution for ``config.json``: medians over voxels.

    Parameters
    ----------
    fitted : FittedDistribution
    predictors : tuple of str
        Names of the stack's rows.
    """
    readout = fitted.readout

    def median(values: np.ndarray) -> float:
        return float(np.median(values))

    return ReadoutSummary(
        signal_told_from_noise=fitted.separation.possible,
        noise_share=_noise_share(fitted.separation),
        rank=Rank(signal=readout.signal.loadings.shape[1], noise=readout.noise.loadings.shape[1]),
        variance=Variances(
            unexplained_signal=median(readout.signal.variance),
            noise=median(readout.noise.variance),
        ),
        signal_dependence=median(readout.signal_dependence),
        stack={name: median(row) for name, row in zip(predictors, fitted.stack, strict=True)},
    )
