"""The linear encoder and its leave-one-out predictions against scikit-learn; the token scaler."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from synbrain_cli.errors import InputError
from synbrain_cli.metrics.accuracy import voxelwise_correlation
from synbrain_cli.model.linear import (
    ALPHAS,
    MAX_FEATURES,
    apply_ridge,
    fit_linear,
    fit_ridge,
    pool_tokens,
)
from synbrain_cli.model.tokens import TokenScaler


@pytest.fixture
def data(rng):
    tokens = rng.normal(0, 1, (120, 4, 15)).astype(np.float32) + 3
    weights = rng.normal(0, 1, (60, 5)) * [2, 1, 0.5, 0.1, 0]
    signal = (tokens.reshape(120, -1) - 3) @ weights
    return tokens, (signal + rng.normal(0, 3, signal.shape) + 7).astype(np.float32)


def test_it_is_ridge_with_the_chosen_penalty_of_each_voxel(data, rng):
    tokens, responses = data
    linear, _ = fit_linear(tokens, responses, rng)
    flat = tokens.reshape(len(tokens), -1).astype(float)
    scale = ((flat - flat.mean(0)) ** 2).sum(1).mean()
    assert np.isclose(linear.alphas[:, None], ALPHAS, rtol=1e-4).any(1).all()
    for voxel, alpha in enumerate(linear.alphas):
        reference = Ridge(alpha=alpha * scale).fit(flat, responses[:, voxel])
        np.testing.assert_allclose(
            linear.predict(tokens)[:, voxel], reference.predict(flat), rtol=1e-3, atol=1e-3
        )


def test_noise_gets_a_larger_penalty_than_signal(data, rng):
    linear, _ = fit_linear(*data, rng)
    assert linear.alphas[4] > linear.alphas[0]


def test_it_predicts_new_images_and_not_shuffled_ones(data, rng):
    tokens, responses = data
    linear, _ = fit_linear(tokens[:90], responses[:90], rng)
    predicted = linear.predict(tokens[90:])
    assert voxelwise_correlation(responses[90:], predicted)[0] > 0.5
    shuffled = voxelwise_correlation(responses[90:], np.roll(predicted, 7, axis=0))
    assert shuffled[0] < 0.35


# 40 rows: fewer than features, where a fit can pass through every row.
@pytest.mark.parametrize("n_rows", [40, 120])
def test_leave_one_out_predictions_are_those_of_fits_without_the_row(n_rows, data, rng):
    tokens, responses = data[0][:n_rows], data[1][:n_rows]
    linear, held_out = fit_linear(tokens, responses, rng)
    flat = tokens.reshape(n_rows, -1).astype(float)
    scale = ((flat - flat.mean(0)) ** 2).sum(1).mean()
    reference = np.empty((n_rows, 5))
    for row in range(n_rows):
        others = np.arange(n_rows) != row
        ridge = Ridge(alpha=linear.alphas.astype(float) * scale)
        ridge.fit(flat[others], responses[others])
        reference[row] = ridge.predict(flat[[row]])[0]
    assert len(set(linear.alphas)) > 1
    assert held_out.shape == responses.shape
    assert held_out.dtype == np.float32
    np.testing.assert_allclose(held_out, reference, rtol=1e-3, atol=5e-3)
    # It matters: the fit has seen each row.
    assert np.abs(linear.predict(tokens) - reference).max() > 1


@pytest.mark.parametrize("alpha", [1e-4, 1.0, 1e3])
def test_leave_one_out_predictions_with_any_penalty(alpha, rng, monkeypatch):
    monkeypatch.setattr("synbrain_cli.model.linear.ALPHAS", np.array([alpha]))
    features = (rng.normal(0, 1, (50, 30)) * np.geomspace(1, 0.01, 30) + 5).astype(np.float32)
    targets = (features @ rng.normal(0, 1, (30, 3)) + rng.normal(0, 1, (50, 3))).astype(np.float32)
    _, held_out = fit_ridge(features, targets, rng)
    exact = features.astype(float)
    scale = ((exact - exact.mean(0)) ** 2).sum(1).mean()
    for row in range(0, 50, 7):
        others = np.arange(50) != row
        ridge = Ridge(alpha=alpha * scale).fit(exact[others], targets[others])
        np.testing.assert_allclose(held_out[row], ridge.predict(exact[[row]])[0], atol=5e-3)


@pytest.mark.parametrize("n_features", [20, 400])
def test_leave_one_out_predictions_do_not_follow_noise(n_features, rng):
    features = rng.normal(0, 1, (100, n_features)).astype(np.float32)
    targets = rng.normal(3, 1, (100, 60)).astype(np.float32)
    fit, held_out = fit_ridge(features, targets, rng)
    assert np.mean(voxelwise_correlation(targets, apply_ridge(fit, features))) > 0.3
    assert np.mean(voxelwise_correlation(targets, held_out)) < 0.02
    # Residuals are no smaller than those around the mean: all variance is left.
    assert ((targets - held_out) ** 2).mean() > 0.99 * targets.var(0).mean()


def test_leave_one_out_errors_are_those_of_new_images(rng):
    features = rng.normal(0, 1, (1100, 80)).astype(np.float32)
    signal = features @ rng.normal(0, 0.1, (80, 40))
    targets = (signal + rng.normal(0, 1, signal.shape)).astype(np.float32)
    fit, held_out = fit_ridge(features[:100], targets[:100], rng)
    promised = ((targets[:100] - held_out) ** 2).mean()
    kept = ((targets[100:] - apply_ridge(fit, features[100:])) ** 2).mean()
    seen = ((targets[:100] - apply_ridge(fit, features[:100])) ** 2).mean()
    assert promised == pytest.approx(kept, rel=0.06)
    assert seen < 0.8 * kept


def test_the_encoder_is_ridge_on_pooled_tokens(data):
    tokens, responses = data
    linear, held_out = fit_linear(tokens, responses, np.random.default_rng(4))
    features = pool_tokens(tokens)
    fit, also_held_out = fit_ridge(features, responses, np.random.default_rng(4))
    for name, array in fit.items():
        np.testing.assert_array_equal(getattr(linear, name), array)
        assert array.dtype == np.float32, name
    np.testing.assert_array_equal(held_out, also_held_out)
    np.testing.assert_array_equal(apply_ridge(fit, features), linear.predict(tokens))
    one = apply_ridge(fit, features[:1])
    np.testing.assert_allclose(one, linear.predict(tokens)[:1], rtol=1e-4, atol=1e-4)


def test_what_the_ridge_is_given_is_left_alone(rng):
    features = rng.normal(2, 1, (40, 6)).astype(np.float32)
    targets = rng.normal(2, 1, (40, 3)).astype(np.float32)
    before = features.copy(), targets.copy()
    apply_ridge(fit_ridge(features, targets, rng)[0], features)
    np.testing.assert_array_equal(features, before[0])
    np.testing.assert_array_equal(targets, before[1])


def test_the_callers_arrays_are_left_alone(data, rng):
    tokens, responses = data[0].copy(), data[1].copy()
    fit_linear(*data, rng)
    np.testing.assert_array_equal(data[0], tokens)
    np.testing.assert_array_equal(data[1], responses)


def test_tokens_of_another_encoder_are_refused(data, rng):
    linear, _ = fit_linear(*data, rng)
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


@pytest.mark.parametrize("n_rows", [2, 6])
def test_features_that_are_all_alike_predict_the_mean(rng, n_rows):
    targets = rng.normal(size=(n_rows, 3)).astype(np.float32)
    linear, left_out = fit_linear(np.full((n_rows, 4, 5), 0.3, np.float32), targets, rng)
    predicted = linear.predict(rng.normal(size=(2, 4, 5)))
    np.testing.assert_allclose(predicted, np.tile(targets.mean(0), (2, 1)), atol=1e-6)
    others = (targets.sum(0) - targets) / (n_rows - 1)
    np.testing.assert_allclose(left_out, others, atol=1e-5)


@pytest.mark.parametrize("n_rows", [2, 3, 4])
def test_fewer_rows_than_folds_are_fitted(rng, n_rows):
    tokens = rng.normal(size=(n_rows, 4, 5)).astype(np.float32)
    linear, left_out = fit_linear(tokens, rng.normal(size=(n_rows, 3)), rng)
    assert np.isfinite(linear.predict(tokens)).all()
    assert np.isfinite(left_out).all()
