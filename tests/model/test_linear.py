"""The linear encoder and its leave-one-out predictions against scikit-learn; the token scaler."""

from __future__ import annotations

import numpy as np
import pytest
from one_band import one_scaler, plain_scaler, standard
from sklearn.linear_model import Ridge

from synbrain_cli.errors import InputError
from synbrain_cli.metrics.accuracy import voxelwise_correlation
from synbrain_cli.model.linear import (
    ALPHAS,
    LEAST_IMAGES,
    MAX_FEATURES,
    LinearEncoder,
    apply_ridge,
    fit_linear,
    fit_ridge,
    pool_bands,
    pool_tokens,
)
from synbrain_cli.model.tokens import StandardTokens
from synbrain_cli.tokens import Tokens


@pytest.fixture
def data(rng):
    tokens = rng.normal(0, 1, (120, 4, 15)).astype(np.float32) + 3
    weights = rng.normal(0, 1, (60, 5)) * [2, 1, 0.5, 0.1, 0]
    signal = (tokens.reshape(120, -1) - 3) @ weights
    return tokens, (signal + rng.normal(0, 3, signal.shape) + 7).astype(np.float32)


def test_a_ridge_has_the_chosen_penalty_of_each_voxel(data, rng):
    tokens, responses = data
    ridge = fit_linear(standard(tokens), responses, rng)[0].ridges[0]
    flat = tokens.reshape(len(tokens), -1).astype(float)
    scale = ((flat - flat.mean(0)) ** 2).sum(1).mean()
    assert np.isclose(ridge.alphas[:, None], ALPHAS, rtol=1e-4).any(1).all()
    for voxel, alpha in enumerate(ridge.alphas):
        reference = Ridge(alpha=alpha * scale).fit(flat, responses[:, voxel])
        np.testing.assert_allclose(
            ridge.predict(tokens)[:, voxel], reference.predict(flat), rtol=1e-3, atol=1e-3
        )


def test_noise_gets_a_larger_penalty_than_signal(data, rng):
    ridge = fit_linear(standard(data[0]), data[1], rng)[0].ridges[0]
    assert ridge.alphas[4] > ridge.alphas[0]


def test_it_predicts_new_images_and_not_shuffled_ones(data, rng):
    tokens, responses = data
    linear, _ = fit_linear(standard(tokens[:90]), responses[:90], rng)
    predicted = linear.predict(Tokens.of(tokens[90:]))
    assert voxelwise_correlation(responses[90:], predicted)[0] > 0.5
    shuffled = voxelwise_correlation(responses[90:], np.roll(predicted, 7, axis=0))
    assert shuffled[0] < 0.35


# 40 rows: fewer than features, where a fit can pass through every row.
@pytest.mark.parametrize("n_rows", [40, 120])
def test_leave_one_out_predictions_are_those_of_fits_without_the_row(n_rows, data, rng):
    tokens, responses = data[0][:n_rows], data[1][:n_rows]
    fit, held_out = fit_ridge(pool_tokens(tokens), responses, rng)
    flat = tokens.reshape(n_rows, -1).astype(float)
    scale = ((flat - flat.mean(0)) ** 2).sum(1).mean()
    reference = np.empty((n_rows, 5))
    for row in range(n_rows):
        others = np.arange(n_rows) != row
        ridge = Ridge(alpha=fit["alphas"].astype(float) * scale)
        ridge.fit(flat[others], responses[others])
        reference[row] = ridge.predict(flat[[row]])[0]
    assert len(set(fit["alphas"])) > 1
    assert held_out.shape == responses.shape
    assert held_out.dtype == np.float32
    np.testing.assert_allclose(held_out, reference, rtol=1e-3, atol=5e-3)
    # It matters: the fit has seen each row.
    assert np.abs(apply_ridge(fit, pool_tokens(tokens)) - reference).max() > 1


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


def test_the_encoder_of_one_band_is_ridge_on_pooled_tokens(data):
    tokens, responses = data
    linear, _ = fit_linear(standard(tokens), responses, np.random.default_rng(4))
    features = pool_tokens(tokens)
    fit, _ = fit_ridge(features, responses, np.random.default_rng(4))
    (ridge,) = linear.ridges
    assert linear.fields == (None,)  # 2 × 2 tokens are too few for receptive fields
    for name, array in fit.items():
        np.testing.assert_array_equal(getattr(ridge, name), array)
        assert array.dtype == np.float32, name
    np.testing.assert_array_equal(apply_ridge(fit, features), ridge.predict(tokens))
    # Deviations from the mean are weighed.
    np.testing.assert_allclose(linear.mean, responses.mean(0), rtol=1e-5)
    mean, weight = linear.mean, linear.weights[0]
    expected = mean + weight * (apply_ridge(fit, features) - mean)
    np.testing.assert_allclose(linear.predict(Tokens.of(tokens)), expected, rtol=1e-5, atol=1e-5)
    one = linear.predict(Tokens.of(tokens[:1]))
    np.testing.assert_allclose(one, expected[:1], rtol=1e-4, atol=1e-4)


# Several bands -----------------------------------------------------------------------------------


@pytest.fixture
def bands(rng):
    """Two bands of 150 images, of which voxels see one, the other, both or neither."""
    arrays = [rng.normal(size=(150, n, d)).astype(np.float32) for n, d in ((16, 6), (4, 9))]
    whole = [a.reshape(150, -1) @ rng.normal(size=(a[0].size, 12)) for a in arrays]
    place = arrays[0][:, 5] @ rng.normal(size=(6, 12))  # one token: a small receptive field
    signal = [whole[0], whole[1], whole[0] + whole[1], place, np.zeros((150, 12))]
    scaled = [one / max(one.std(), 1e-9) for one in signal]
    responses = np.concatenate(scaled, 1) + rng.normal(size=(150, 60))
    parts = [standard(array, scaler=one_scaler(array)).bands[0] for array in arrays]
    return StandardTokens(tuple(parts)), responses.astype(np.float32)


def test_each_band_has_a_ridge_and_a_fine_grid_fields(bands, rng):
    tokens, responses = bands
    linear, left_out = fit_linear(tokens, responses, rng)
    assert [len(ridge.feature_mean) for ridge in linear.ridges] == [96, 36]
    assert linear.fields[0] is not None
    assert linear.fields[1] is None
    assert linear.weights.shape == (3, 60)
    assert linear.weights.dtype == left_out.dtype == np.float32
    assert (linear.weights >= 0).all()
    members = [
        linear.ridges[0].predict(tokens.bands[0][:]),
        linear.ridges[1].predict(tokens.bands[1][:]),
        linear.fields[0].predict(tokens.bands[0][:]),
    ]
    mean = linear.mean
    expected = mean + sum(w * (m - mean) for w, m in zip(linear.weights, members, strict=True))
    np.testing.assert_allclose(linear.predict(tokens[:]), expected, atol=1e-5)


def test_voxels_are_predicted_from_the_bands_that_they_see(bands, rng):
    """By the deviation of what each member adds to the prediction."""
    tokens, responses = bands
    linear, _ = fit_linear(tokens, responses, rng)
    first, second = (band[:] for band in tokens.bands)
    members = [linear.ridges[0].predict(first), linear.ridges[1].predict(second)]
    members.append(linear.fields[0].predict(first))
    added = [w * m.std(0) for w, m in zip(linear.weights, members, strict=True)]
    one, other, field = (part.reshape(5, 12).mean(1) for part in added)  # by kind of voxel
    assert one[0] > 3 * other[0]
    assert other[1] > 3 * one[1]
    assert min(one[2], other[2]) > 0.2
    assert field[3] > 3 * max(one[3], other[3])
    assert max(one[4], other[4], field[4]) < 0.2
    np.testing.assert_array_equal(linear.by_band()[0], linear.weights[0] + linear.weights[2])
    np.testing.assert_array_equal(linear.by_band()[1], linear.weights[1])


def test_several_bands_predict_no_worse_than_each_alone(bands):
    tokens, responses = bands
    train, test = tokens.part(slice(100)), tokens.part(slice(100, None))

    def share(tokens, new):
        linear, _ = fit_linear(tokens, responses[:100], np.random.default_rng(0))
        return (
            1 - ((linear.predict(new) - responses[100:]) ** 2).sum() / (responses[100:] ** 2).sum()
        )

    both = share(train, test)
    alone = [
        share(StandardTokens((one,)), StandardTokens((new,)))
        for one, new in zip(train.bands, test.bands, strict=True)
    ]
    assert both > max(alone) + 0.05


def test_held_out_predictions_of_several_bands_promise_what_new_images_keep(bands):
    tokens, responses = bands
    linear, left_out = fit_linear(
        tokens.part(slice(100)), responses[:100], np.random.default_rng(0)
    )
    promised = ((left_out - responses[:100]) ** 2).mean()
    kept = ((linear.predict(tokens.part(slice(100, None))) - responses[100:]) ** 2).mean()
    seen = ((linear.predict(tokens.part(slice(100))) - responses[:100]) ** 2).mean()
    assert promised == pytest.approx(kept, rel=0.1)
    assert seen < 0.9 * kept


def test_standard_tokens_are_predicted_as_those_in_memory(bands, rng, monkeypatch):
    monkeypatch.setattr("synbrain_cli.model.linear.TOGETHER", 7)
    tokens, responses = bands
    linear, _ = fit_linear(tokens, responses, rng)
    np.testing.assert_allclose(linear.predict(tokens), linear.predict(tokens[:]), atol=1e-5)


RIDGE = (
    *("feature_mean", "components", "coefficients", "intercept", "alphas"),
    *("known.powers", "known.penalties", "known.left_out"),
)


def test_through_a_file_it_is_the_same(bands, rng):
    linear, _ = fit_linear(*bands, rng)
    back = LinearEncoder.from_arrays(linear.arrays(), 2)
    assert back.fields[1] is None
    tokens = bands[0][:20]
    np.testing.assert_array_equal(back.predict(tokens), linear.predict(tokens))
    assert set(linear.arrays()) == {
        *("weights", "mean"),
        *(f"ridge.{k}.{name}" for k in (0, 1) for name in RIDGE),
        *(f"field.0.{name}" for name in ("axes", "fields", "coefficients", "intercept")),
    }


@pytest.mark.parametrize("n_images", [LEAST_IMAGES - 1, LEAST_IMAGES])
def test_receptive_fields_need_some_images(n_images, rng):
    tokens = rng.normal(size=(n_images, 16, 3)).astype(np.float32)
    linear, left_out = fit_linear(standard(tokens), rng.normal(size=(n_images, 4)), rng)
    assert (linear.fields[0] is not None) == (n_images == LEAST_IMAGES)
    assert np.isfinite(linear.predict(Tokens.of(tokens))).all()
    assert np.isfinite(left_out).all()


def test_pooled_bands_have_the_same_variance_and_one_is_as_it_is(rng):
    arrays = [rng.normal(size=(200, n, d)).astype(np.float32) for n, d in ((16, 8), (4, 3))]
    pooled = pool_bands(Tokens.of(*arrays))
    parts = pooled[:, :128], pooled[:, 128:]
    assert pooled.shape == (200, 140)
    assert parts[0].var(0).sum() == pytest.approx(parts[1].var(0).sum(), rel=0.1)
    np.testing.assert_array_equal(parts[0], pool_tokens(arrays[0]))
    np.testing.assert_array_equal(pool_bands(Tokens.of(arrays[1])), pool_tokens(arrays[1]))


# What it is given --------------------------------------------------------------------------------


def test_what_the_ridge_is_given_is_left_alone(rng):
    features = rng.normal(2, 1, (40, 6)).astype(np.float32)
    targets = rng.normal(2, 1, (40, 3)).astype(np.float32)
    before = features.copy(), targets.copy()
    apply_ridge(fit_ridge(features, targets, rng)[0], features)
    np.testing.assert_array_equal(features, before[0])
    np.testing.assert_array_equal(targets, before[1])


def test_the_callers_arrays_are_left_alone(data, rng):
    tokens, responses = data[0].copy(), data[1].copy()
    fit_linear(standard(data[0]), data[1], rng)
    np.testing.assert_array_equal(data[0], tokens)
    np.testing.assert_array_equal(data[1], responses)


def test_tokens_of_another_encoder_are_refused(data, rng):
    linear, _ = fit_linear(standard(data[0]), data[1], rng)
    for others in (Tokens.of(data[0][:, :2]), Tokens.of(data[0], data[0])):
        with pytest.raises(InputError, match="another encoder"):
            linear.predict(others)


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
    scaled = one_scaler(tokens)(Tokens.of(tokens)).bands[0]
    np.testing.assert_allclose(scaled.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(scaled[..., :3].std((0, 1)), 1, atol=1e-4)
    assert (scaled[..., 3] == 0).all()
    assert scaled.dtype == np.float32
    np.testing.assert_array_equal(plain_scaler(6, 4)(Tokens.of(tokens)).bands[0], tokens)


@pytest.mark.parametrize("n_rows", [2, 6])
def test_features_that_are_all_alike_predict_the_mean(rng, n_rows):
    targets = rng.normal(size=(n_rows, 3)).astype(np.float32)
    fit, left_out = fit_ridge(np.full((n_rows, 20), 0.3, np.float32), targets, rng)
    predicted = apply_ridge(fit, rng.normal(size=(2, 20)))
    np.testing.assert_allclose(predicted, np.tile(targets.mean(0), (2, 1)), atol=1e-6)
    others = (targets.sum(0) - targets) / (n_rows - 1)
    np.testing.assert_allclose(left_out, others, atol=1e-5)


@pytest.mark.parametrize("shape", [(4, 5), (16, 5)])
def test_tokens_that_are_all_alike_are_fitted(shape, rng):
    """Nor have receptive fields anything to choose from."""
    targets = rng.normal(size=(30, 3)).astype(np.float32)
    alike = np.full((30, *shape), 0.3, np.float32)
    linear, left_out = fit_linear(standard(alike, scaler=one_scaler(alike)), targets, rng)
    predicted = linear.predict(Tokens.of(rng.normal(size=(2, *shape)).astype(np.float32)))
    np.testing.assert_allclose(predicted[0], predicted[1], atol=1e-6)
    assert np.isfinite(left_out).all()


@pytest.mark.parametrize("n_rows", [2, 3, 4])
def test_fewer_rows_than_folds_are_fitted(rng, n_rows):
    tokens = rng.normal(size=(n_rows, 4, 5)).astype(np.float32)
    linear, left_out = fit_linear(standard(tokens), rng.normal(size=(n_rows, 3)), rng)
    assert np.isfinite(linear.predict(Tokens.of(tokens))).all()
    assert np.isfinite(left_out).all()


@pytest.mark.parametrize("level", [-50, 50])
def test_predictions_of_noise_are_shrunk_to_the_mean(level, rng):
    """Not to 0, which is no voxel's response where data are as recorded."""
    tokens = rng.normal(size=(60, 16, 5)).astype(np.float32)
    responses = (level + rng.normal(size=(60, 40))).astype(np.float32)
    linear, left_out = fit_linear(standard(tokens), responses, rng)
    new = linear.predict(Tokens.of(rng.normal(size=(20, 16, 5)).astype(np.float32)))
    for predicted in (new, left_out):
        assert predicted.mean() == pytest.approx(level, abs=0.2)
        assert predicted.std(0).mean() < 0.3
