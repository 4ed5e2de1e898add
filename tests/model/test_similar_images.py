"""Errors that similar images share: leaving images out together, similarity, concentration."""

import numpy as np
import pytest
from one_band import standard

from synbrain_cli.model.error_fields import shared_errors
from synbrain_cli.model.linear import fit_linear
from synbrain_cli.model.similar_images import (
    ALONE,
    band_scores,
    fit_concentration,
    residuals_together,
    similarity,
)
from synbrain_cli.tokens import Tokens


@pytest.fixture
def fitted(rng):
    """Ridge of few enough images to keep every component, its tokens and responses."""
    tokens = rng.normal(size=(60, 2, 4)).astype(np.float32)
    responses = np.tensordot(tokens, rng.normal(size=(2, 4, 5)), 2) + rng.normal(size=(60, 5))
    linear, _ = fit_linear(standard(tokens), responses.astype(np.float32), rng)
    return linear, tokens, responses.astype(np.float32)


def test_residuals_of_images_left_out_together_are_those_of_a_fit_without_them(fitted):
    """Against ridge on the other images, with the same components, penalties and centre."""
    linear, tokens, responses = fitted
    (ridge,) = linear.ridges
    out = np.arange(0, 60, 7)
    kept = np.setdiff1d(np.arange(60), out)
    scores = band_scores(linear, Tokens.of(tokens))[0].astype(np.float64)
    voxels = np.array([0, 2, 3])
    found = residuals_together(linear, [scores[out].astype(np.float32)], responses[out], voxels)
    design = np.column_stack([np.ones(60), scores])
    for column, voxel in enumerate(voxels):
        # The intercept is of responses and scores that both are centred over all images
        penalty = np.diag([0, *np.full(scores.shape[1], ridge.alphas[voxel])])
        own = design[kept]
        weights = np.linalg.solve(own.T @ own + penalty, own.T @ responses[kept, voxel])
        predicted = design[out] @ weights
        weight = linear.by_band()[0, voxel]
        expected = (
            responses[out, voxel] - linear.mean[voxel] - weight * (predicted - linear.mean[voxel])
        )
        np.testing.assert_allclose(found[:, column], expected, rtol=2e-3, atol=2e-3)


def test_similarity_is_a_cosine(fitted):
    linear, tokens, _ = fitted
    mean = linear.ridges[0].feature_mean.reshape(tokens.shape[1:])
    seen = np.stack([mean + one for one in (tokens[0], 3 * tokens[0], -tokens[0])])
    cosines = similarity(linear, band_scores(linear, Tokens.of(seen.astype(np.float32))))
    np.testing.assert_allclose(cosines, [[1, 1, -1], [1, 1, -1], [-1, -1, 1]], atol=1e-5)


def test_the_concentration_of_errors_that_images_share_is_found(rng):
    """Signal that no linear model has: smooth in the image."""
    n_images, n_dims, n_voxels = 400, 6, 300
    tokens = rng.normal(size=(n_images, 1, n_dims)).astype(np.float32)
    unit = tokens[:, 0] / np.linalg.norm(tokens[:, 0], axis=1, keepdims=True)
    voxels = np.arange(n_voxels)
    found = {}
    for concentration in (2.0, 16.0):
        shared = shared_errors((unit @ unit.T).astype(np.float64), concentration)
        values, vectors = np.linalg.eigh(shared)
        root = vectors * np.sqrt(np.maximum(values, 0))
        unexplained = root @ rng.normal(size=(n_images, n_voxels))
        responses = (tokens[:, 0] @ rng.normal(size=(n_dims, n_voxels)) + unexplained).astype(
            np.float32
        )
        linear, left_out = fit_linear(standard(tokens), responses, rng)
        signal = np.square(responses - left_out).mean(0)
        found[concentration] = fit_concentration(
            linear, standard(tokens), responses, signal, voxels, rng
        )
    # What is linear of it, the encoder learns: what it leaves is more concentrated
    assert found[2.0] <= 6 < found[16.0]


def test_few_images_tell_nothing(fitted, rng):
    linear, tokens, responses = fitted
    few = standard(tokens[:40])
    signal = np.ones(5)
    assert fit_concentration(linear, few, responses[:40], signal, np.arange(5), rng) == ALONE
    assert (
        fit_concentration(linear, standard(tokens), responses, 0 * signal, np.arange(5), rng)
        == ALONE
    )
