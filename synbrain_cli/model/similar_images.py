r"""Errors of the mean that similar images share.

The unexplained signals u of two images that look alike are alike: what a model misses of one face,
it misses of the next. Averages over the images of a condition therefore err more than independent
errors would. Over images i and j, for every voxel (ours),

.. math:: \mathrm{cov}(u_{iv}, u_{jv}) = \sigma_{uv}^2 \sqrt{g_{iv}\, g_{jv}}\; C_{ij}, \qquad
    C_{ij} = \frac{e^{\kappa k_{ij}} - 1}{e^\kappa - 1}

k is the cosine between the images' scores on the components of each band's ridge, averaged over
bands by their weights; g is of `synbrain_cli.model.uncertainty`. The concentration κ is the one
whose C is nearest to the products of residuals of training images that were left out *together*:
residuals of images that served to predict one another share noise. Both follow from the hat matrix,
without further fits (Cook & Weisberg 1982, *Residuals and Influence in Regression*, section 3.6):
with B its rows and columns of these images and r their residuals, :math:`(I - B)^{-1} r`. Draws
share errors by `synbrain_cli.model.error_fields`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from synbrain_cli.groups import Groups, deal
from synbrain_cli.model.covariance import LowRank
from synbrain_cli.model.error_fields import ErrorFields, shared_errors
from synbrain_cli.model.linear import LinearEncoder
from synbrain_cli.model.tokens import StandardBand, StandardTokens
from synbrain_cli.model.uncertainty import Doubt, MeanUncertainty
from synbrain_cli.tokens import Tokens

CONCENTRATIONS = (0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 16.0, np.inf)  # of which κ is chosen
TOGETHER = 400  # images that are left out together, at most
GROUPS = 4  # of images that are left out together
LEAST_TOGETHER = 10  # images that tell anything about κ (ours)
ALONE = 16.0  # κ of images that share nothing known

Scores = Sequence[NDArray[np.float32]]  # of each band, (n_images, n_components)


def band_scores(linear: LinearEncoder, tokens: Tokens | StandardTokens) -> Scores:
    """Scores of images on each band's components, from standardised tokens."""
    bands: Sequence[np.ndarray | StandardBand] = tokens.bands
    return [ridge.scores(band)[0] for ridge, band in zip(linear.ridges, bands, strict=True)]


def directions(linear: LinearEncoder, scores: Scores) -> NDArray[np.float32]:
    """Join the directions of images' scores in all bands, by weight.

    Returns
    -------
    float32 array of shape (n_images, n_components of all bands)
        Of length 1; their products are cosines averaged over bands.
    """
    weights = linear.band_weights().mean(1, dtype=np.float64)
    parts = []
    for weight, own in zip(weights, scores, strict=True):
        length = np.sqrt(np.square(own, dtype=np.float64).sum(1, keepdims=True))
        parts.append((np.sqrt(weight) / np.maximum(length, 1e-12) * own).astype(np.float32))
    return np.concatenate(parts, 1)


def doubt_images(
    linear: LinearEncoder, tokens: Tokens, uncertainty: MeanUncertainty, fields: ErrorFields
) -> Doubt:
    """Say how unsure the mean response to images is, and by what draws of them share errors.

    Parameters
    ----------
    linear : LinearEncoder
        Its ridges know their leverage.
    tokens : Tokens
        Of the images, standardised.
    uncertainty : MeanUncertainty
        Fitted with the encoder.
    fields : ErrorFields
        Of the model that draws.
    """
    leverage, scores = linear.leverage(tokens)
    doubt = uncertainty(leverage)
    if not uncertainty.is_shared:
        return doubt
    features = fields.features(directions(linear, scores), uncertainty.concentration)
    return replace(doubt, features=features)


def similarity(linear: LinearEncoder, scores: Scores) -> NDArray[np.float64]:
    """Cosines between images, averaged over bands: float64 (n_images, n_images)."""
    unit = directions(linear, scores)
    return (unit @ unit.T).astype(np.float64)


def root_of(correlations: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return R with R Rᵀ = correlations, of which negative parts are left out."""
    values, vectors = np.linalg.eigh(correlations)
    root = vectors * np.sqrt(np.maximum(values, 0))
    # Variances stay 1 where a part was left out
    root /= np.sqrt(np.square(root).sum(1, keepdims=True))
    return root.astype(np.float32)


def draw_errors(
    signal: LowRank,
    root: NDArray[np.float32],
    relative: NDArray[np.float32] | None,
    generator: np.random.Generator,
) -> NDArray[np.float32]:
    """Draw unexplained signals of several images together.

    Parameters
    ----------
    signal : LowRank
        u of an average image.
    root : float32 array of shape (n_images, n_images)
        Of the correlation of the images' errors (`root_of`).
    relative : float32 array of shape (n_images, n_voxels), optional
        Variance of each image's u, relative to the average (`synbrain_cli.model.uncertainty`).
    generator : numpy Generator

    Returns
    -------
    float32 array of shape (n_images, n_voxels)
    """
    drawn: NDArray[np.float32] = root @ np.stack([signal.draw(generator) for _ in root])
    if relative is not None:
        drawn *= np.sqrt(relative)
    return drawn


def residuals_together(
    linear: LinearEncoder,
    scores: Scores,
    responses: NDArray[np.float32],
    voxels: NDArray[np.intp],
) -> NDArray[np.float64]:
    """Residuals of training images that are left out together, by the stack of the ridges.

    Parameters
    ----------
    linear : LinearEncoder
        Its ridges know their leverage.
    scores : sequence of float32 arrays of shape (n_images, n_components)
        Of the images (`band_scores`).
    responses : float32 array of shape (n_images, n_voxels)
        That the encoder was fitted to.
    voxels : int array of shape (n_chosen,)

    Returns
    -------
    float64 array of shape (n_images, n_chosen)
    """
    own = (responses[:, voxels] - linear.mean[voxels]).astype(np.float64)
    left = own.copy()
    weights = linear.by_band()[:, voxels]
    for ridge, weight, seen in zip(linear.ridges, weights, scores, strict=True):
        assert ridge.known is not None
        fitted = seen @ ridge.coefficients[:, voxels] + ridge.intercept[voxels]
        residual = responses[:, voxels] - fitted
        column = ridge.known.column(ridge.alphas[voxels])
        for k in np.unique(column):
            shrunk = seen / (ridge.known.powers + ridge.known.penalties[k])
            hat = 1 / len(ridge.known.left_out) + shrunk.astype(np.float64) @ seen.T
            apart = np.eye(len(seen)) * (1 + 1e-6) - hat
            some = column == k
            residual[:, some] = np.linalg.solve(apart, residual[:, some])
        left -= weight * (own - residual)
    return left


def fit_concentration(
    linear: LinearEncoder,
    tokens: StandardTokens,
    responses: NDArray[np.float32],
    signal: NDArray[np.float64],
    voxels: NDArray[np.intp],
    generator: np.random.Generator,
    groups: Groups | None = None,
) -> float:
    """Choose the concentration κ.

    Parameters
    ----------
    linear : LinearEncoder
    tokens : StandardTokens
        Of the training images.
    responses : float32 array of shape (n_images, n_voxels)
        That the encoder was fitted to.
    signal : float array of shape (n_chosen,)
        Variance of the unexplained signal, of ``voxels``.
    voxels : int array of shape (n_chosen,)
    generator : numpy Generator
        Chooses the images that are left out.
    groups : int array of shape (n_images,), optional
        Groups of images, which are left out whole.

    Returns
    -------
    float
        Infinite for errors that no images share; `ALONE` where images or signal are too few to
        tell.
    """
    n_images = len(responses)
    size = min(TOGETHER, n_images // 5)
    if size < LEAST_TOGETHER or not signal.any():
        return ALONE
    errors = np.zeros(len(CONCENTRATIONS))
    for images in _left_out_together(n_images, size, generator, groups):
        scores = band_scores(linear, tokens.part(images))
        residuals = residuals_together(linear, scores, responses[images], voxels)
        products = residuals @ residuals.T / signal.sum()
        cosines = similarity(linear, scores)
        pairs = np.triu_indices(len(images), 1)
        errors += [
            np.square(products[pairs] - shared_errors(cosines, one)[pairs]).sum()
            for one in CONCENTRATIONS
        ]
    return float(CONCENTRATIONS[int(errors.argmin())])


def _left_out_together(
    n_images: int, size: int, generator: np.random.Generator, groups: Groups | None
) -> list[NDArray[np.intp]]:
    """Rows of images that are left out together: `GROUPS` times at most, about ``size`` each."""
    n_parts = n_images // size
    if groups is not None:
        return deal(n_images, n_parts, generator, groups)[:GROUPS]
    order = generator.permutation(n_images)
    parts = [order[k * size : (k + 1) * size] for k in range(min(GROUPS, n_parts))]
    return [np.sort(part) for part in parts]
