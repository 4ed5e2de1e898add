"""The distribution of single trials: stacked predictions, readout, and baselines' variances."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from synbrain_cli.io.bundle import NoiseShare, Predictor, Rank, ReadoutSummary, Variances
from synbrain_cli.metrics.arrays import blockwise
from synbrain_cli.model.components import Separation
from synbrain_cli.model.linear import LinearEncoder, fit_ridge
from synbrain_cli.model.readout import Readout, fit_separated, fit_stack, signal_left
from synbrain_cli.training.examples import SubjectExamples

FEW_IMAGES = (
    50  # below which a tenth of them, for validation, are too few to weigh predictors (ours)
)


@dataclass(frozen=True)
class FittedDistribution:
    """The distribution of single trials, fitted to training and validation examples.

    Attributes
    ----------
    linear : LinearEncoder
        Fitted to the images of both splits.
    stack : float32 array of shape (n_predictors, n_voxels)
        Weight of each predictor.
    readout : Readout
    stacked : float32 array of shape (n_val_images, n_voxels)
        Stacked predictions of validation images, by predictors that were not fitted to them.
    separation : Separation
        How surely unexplained signal was told from trial noise.
    """

    linear: LinearEncoder
    stack: np.ndarray
    readout: Readout
    stacked: np.ndarray
    separation: Separation


def fit_distribution(
    examples: SubjectExamples,
    held_out: dict[Predictor, np.ndarray],
    seed: int,
    left_out_transfer: np.ndarray | None = None,
) -> FittedDistribution:
    """Fit the stack, the final linear encoder and the readout.

    Stacking weights come from validation images. The linear encoder is then fitted once more, to
    the images of both splits, and the readout to its leave-one-out predictions of all images:
    predictions of images that the mean was not fitted to. The signal
    that the stack explains beyond the linear encoder, measured on validation images, is taken from
    the unexplained signal.

    Where every predictor has leave-one-out predictions (no networks) and there are few images (an
    adapted model's hour, or fewer than `FEW_IMAGES`), stack and readout are both fitted to these
    predictions of all images.

    Parameters
    ----------
    examples : SubjectExamples
    held_out : dict of float32 arrays of shape (n_val_images, n_voxels)
        Predictions of validation images: "linear" and, where there are networks or a transfer,
        "deep" or "transfer".
    seed : int
    left_out_transfer : float32 array of shape (n_train_images + n_val_images, n_voxels), optional
        The transfer's leave-one-out predictions of all images.
    """
    generator = np.random.default_rng([seed, 1])
    predictions = np.stack(list(held_out.values()))
    val = examples.val
    # With a transfer, too, though replaced below: the linear encoder's folds, dealt next, are then
    # the same whatever predictor stands beside it.
    stack, stacked = fit_stack(predictions, val.averages, generator)
    averages = examples.both.averages
    fit, left_out = fit_ridge(examples.features, averages, generator)
    linear = LinearEncoder(**fit)
    trials, index = examples.both.betas, examples.both.image_index
    left_outs = [left_out] if left_out_transfer is None else [left_out, left_out_transfer]
    few = left_out_transfer is not None or len(averages) < FEW_IMAGES
    if few and len(left_outs) == len(held_out):
        stack, left_out = fit_stack(np.stack(left_outs), averages, generator)
        readout, separation = fit_separated(trials, index, left_out, generator)
        stacked = np.einsum("pv,piv->iv", stack, predictions)
    else:
        readout, separation = fit_separated(trials, index, left_out, generator)
        readout = signal_left(readout, stacked, held_out["linear"], val.averages)
    return FittedDistribution(linear, stack, readout, stacked, separation)


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
