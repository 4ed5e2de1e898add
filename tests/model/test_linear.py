"""The linear encoder against scikit-learn, and the token scaler."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from synbrain_cli.errors import InputError
from synbrain_cli.metrics.accuracy import voxelwise_correlation
from synbrain_cli.model.linear import ALPHAS, MAX_FEATURES, fit_linear, pool_tokens
from synbrain_cli.model.tokens import TokenScaler


@pytest.fixture
def data(rng):
    tokens = rng.normal(0, 1, (120, 4, 15)).astype(np.float32) + 3
    weights = rng.normal(0, 1, (60, 5)) * [2, 1, 0.5, 0.1, 0]
    signal = (tokens.reshape(120, -1) - 3) @ weights
    return tokens, (signal + rng.normal(0, 3, signal.shape) + 7).astype(np.float32)


def test_it_is_ridge_with_the_chosen_penalty_of_each_voxel(data, rng):
    tokens, responses = data
    linear = fit_linear(tokens, responses, rng)
    flat = tokens.reshape(len(tokens), -1).astype(float)
    scale = ((flat - flat.mean(0)) ** 2).sum(1).mean()
    assert np.isclose(linear.alphas[:, None], ALPHAS, rtol=1e-4).any(1).all()
    for voxel, alpha in enumerate(linear.alphas):
        reference = Ridge(alpha=alpha * scale).fit(flat, responses[:, voxel])
        np.testing.assert_allclose(
            linear.predict(tokens)[:, voxel], reference.predict(flat), rtol=1e-3, atol=1e-3
        )


def test_noise_gets_a_larger_penalty_than_signal(data, rng):
    linear = fit_linear(*data, rng)
    assert linear.alphas[4] > linear.alphas[0]


def test_it_predicts_new_images_and_not_shuffled_ones(data, rng):
    tokens, responses = data
    linear = fit_linear(tokens[:90], responses[:90], rng)
    predicted = linear.predict(tokens[90:])
    assert voxelwise_correlation(responses[90:], predicted)[0] > 0.5
    shuffled = voxelwise_correlation(responses[90:], np.roll(predicted, 7, axis=0))
    assert shuffled[0] < 0.35


def test_the_callers_arrays_are_left_alone(data, rng):
    tokens, responses = data[0].copy(), data[1].copy()
    fit_linear(*data, rng)
    np.testing.assert_array_equal(data[0], tokens)
    np.testing.assert_array_equal(data[1], responses)


def test_tokens_of_another_encoder_are_refused(data, rng):
    linear = fit_linear(*data, rng)
    with pytest.raises(InputError, match="another encoder"):
        linear.predict(data[0][:, :2])


@pytest.mark.parametrize(("n_tokens", "n_dims"), [(256, 48), (256, 1664), (50, 768), (7, 5000)])
def test_pooling_bounds_the_features_and_keeps_averages(n_tokens, n_dims, rng):
    tokens = rng.normal(0, 1, (2, n_tokens, n_dims)).astype(np.float32)
    pooled = pool_tokens(tokens)
    assert pooled.shape[1] <= MAX_FEATURES
    assert pooled.shape[1] % n_dims == 0
    if n_tokens == 256:
        means = pooled.reshape(2, -1, n_dims).mean(1)
        np.testing.assert_allclose(means, tokens.mean(1), atol=1e-5)
    if n_tokens * n_dims <= MAX_FEATURES:
        np.testing.assert_array_equal(pooled, tokens.reshape(2, -1))


def test_pooling_joins_neighbours_in_the_picture():
    tokens = np.zeros((1, 256, 1664), np.float32)
    tokens[0, [0, 1, 16, 17]] = 1  # a 2 × 2 square of the 16 × 16 grid
    pooled = pool_tokens(tokens).reshape(-1, 1664)
    assert (pooled > 0).any(1).sum() == 1


def test_scaler(rng):
    tokens = rng.normal(5, 3, (200, 6, 4)).astype(np.float32)
    tokens[..., 3] = 2  # a feature that never varies
    scaled = TokenScaler.fit(tokens)(tokens)
    np.testing.assert_allclose(scaled.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(scaled[..., :3].std((0, 1)), 1, atol=1e-4)
    assert (scaled[..., 3] == 0).all()
    assert scaled.dtype == np.float32
