"""What data were too few to estimate, and what was done instead: one line each."""

from __future__ import annotations

from collections.abc import Iterator

from synbrain_cli.groups import count_groups
from synbrain_cli.model.components import ENOUGH
from synbrain_cli.model.covariance import N_FOLDS
from synbrain_cli.model.fields import is_grid
from synbrain_cli.model.linear import LEAST_IMAGES, LinearEncoder
from synbrain_cli.model.similar_images import LEAST_TOGETHER
from synbrain_cli.training.distribution import FittedDistribution
from synbrain_cli.training.examples import SubjectExamples

FEW_TRIALS = 300  # from which on half of a voxel's own quantiles may count (ours)
FEW = 100  # images of which missing factors are said to be missing (ours)


def find_limits(
    examples: SubjectExamples, linear: LinearEncoder, fitted: FittedDistribution
) -> Iterator[str]:
    """Yield what could not be estimated from the examples, and what stands in its place.

    Parameters
    ----------
    examples : SubjectExamples
    linear : LinearEncoder
    fitted : FittedDistribution
    """
    n_images, n_trials = len(examples.images), len(examples.both.betas)
    on_grid = any(is_grid(band.shape[1]) for band in examples.both.tokens.bands)
    if on_grid and n_images < LEAST_IMAGES:
        yield (
            f"receptive fields: {n_images} images, {LEAST_IMAGES} needed to compare them: "
            "regressions on whole images alone"
        )
    yield from _of_components(fitted)
    yield from _of_factors(examples, fitted)
    n_groups = count_groups(n_images, examples.groups)
    least = 5 * LEAST_TOGETHER
    if fitted.uncertainty is None:
        yield "uncertainty by image: tokens do not vary: the same for all images"
    elif n_images < least:
        yield (
            f"errors that similar images share: {n_images} images, {least} needed to measure them: "
            "next to none are assumed, so that errors of contrasts may be too small"
        )
    if n_trials < FEW_TRIALS:
        yield (
            f"shape of a voxel's residuals: {n_trials} trials, {FEW_TRIALS} needed for one that is "
            "mostly its own: drawn towards that of all voxels"
        )
    if n_groups < n_images and n_groups < 2 * N_FOLDS:
        yield (
            f"penalties and weights: {n_groups} groups of images to choose them by: each choice "
            "leaves out a large part of them"
        )


def _of_components(fitted: FittedDistribution) -> Iterator[str]:
    """Of unexplained signal and trial noise."""
    found = fitted.separation
    if not found.possible:
        yield (
            "unexplained signal: no image has two rows, so that it cannot be told from trial "
            "noise: all is taken as noise, and how unsure the mean of an image is, is not known"
        )
    elif not found.by_voxel:
        yield (
            f"unexplained signal and trial noise: {found.repeated} images were repeated, {ENOUGH} "
            "needed for estimates of single voxels: these are pooled towards their mean over "
            "voxels, and regions have no unexplained signal in common"
        )


def _of_factors(examples: SubjectExamples, fitted: FittedDistribution) -> Iterator[str]:
    """Of what voxels have in common."""
    n_images = len(examples.images)
    if n_images >= FEW:
        return
    parts = {"trial noise": fitted.readout.noise}
    if not fitted.readout.signal.is_nothing:
        parts["unexplained signal"] = fitted.readout.signal
    for name, part in parts.items():
        if not part.loadings.shape[1]:
            yield (
                f"{name} that voxels share: none was confirmed by images that were left out, of "
                f"{n_images}: it is independent from voxel to voxel, so that averages over voxels "
                "may vary too little"
            )
