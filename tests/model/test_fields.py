"""Receptive-field readout: known fields are found again, and its promises are kept."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from sklearn.linear_model import Ridge, RidgeCV

from synbrain_cli.metrics.accuracy import voxelwise_correlation
from synbrain_cli.model import fields as module
from synbrain_cli.model.fields import (
    PENALTIES,
    FieldRidge,
    _fit_one,
    best_fields,
    candidate_fields,
    channel_axes,
    field_masks,
    fit_fields,
    is_grid,
)


def responses_of_fields(field, rng, noise, n_images=150, side=8, n_dims=5):
    """Tokens, and responses that are weighted sums of them within Gaussian fields."""
    tokens = rng.normal(0, 1, (n_images, side**2, n_dims)).astype(np.float32)
    weights = rng.normal(0, 1, (n_dims, len(field)))
    signal = np.einsum("vt,ntk,kv->nv", field_masks(field, side), tokens, weights, optimize=True)
    noisy = signal + noise * signal.std(0) * rng.normal(0, 1, signal.shape) + 3
    return tokens, noisy.astype(np.float32)


def some_fields(rng, n=60):
    """Between those of the grid."""
    field = np.c_[rng.uniform(0.1, 0.9, (n, 2)), np.log(rng.uniform(0.12, 0.3, n))]
    return field.astype(np.float32)


def away(found, field):
    """Median distance of centres, in image sides."""
    return np.median(np.hypot(*(found - field)[:, :2].T))


# Masks -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", [4, 7, 16])
def test_masks_sum_to_one_wherever_they_are(side, rng):
    field = np.c_[rng.uniform(-1, 2, (200, 2)), rng.uniform(-6, 2, 200)].astype(np.float32)
    mask = field_masks(field, side)
    assert mask.shape == (200, side**2)
    assert mask.dtype == np.float32
    assert (mask > 0).all()
    np.testing.assert_allclose(mask.sum(1), 1, rtol=1e-5)


@pytest.mark.parametrize(("x", "y"), [(0.5, 0.5), (0.3, 0.6), (0.7, 0.35)])
def test_a_mask_is_centred_where_its_field_says(x, y):
    """x is to the right, y down; tokens come row by row."""
    mask = field_masks(np.float32([[x, y, np.log(0.08)]]), 16).reshape(16, 16)
    centre = (np.arange(16) + 0.5) / 16
    assert (mask.sum(0) * centre).sum() == pytest.approx(x, abs=2e-3)  # columns
    assert (mask.sum(1) * centre).sum() == pytest.approx(y, abs=2e-3)  # rows
    spread = (mask.sum(0) * (centre - x) ** 2).sum() ** 0.5
    assert spread == pytest.approx(0.08, rel=0.05)


def test_masks_are_those_of_the_shared_core(rng):
    """Fields that are found here are where a core's training starts."""
    import torch

    from synbrain_cli.model.core import receptive_masks

    field = some_fields(rng)
    np.testing.assert_allclose(
        field_masks(field, 9), receptive_masks(torch.from_numpy(field), 9), rtol=1e-4, atol=1e-7
    )


def test_candidates_cover_the_image_at_every_size():
    fields = candidate_fields()
    assert fields.shape[1] == 3
    assert len(np.unique(fields, axis=0)) == len(fields)
    for size in module.SIZES:
        places = fields[np.isclose(fields[:, 2], np.log(size)), :2]
        assert {0, 1} <= set(places[:, 0]) & set(places[:, 1])
        steps = np.diff(np.unique(places[:, 0]))
        assert steps.max() < max(1.3 * size, 0.13)


@pytest.mark.parametrize(
    ("n_tokens", "is_one"),
    [(1, False), (9, False), (15, False), (50, False), (16, True), (49, True)],
)
def test_a_grid_is_square_and_not_too_coarse(n_tokens, is_one):
    assert is_grid(n_tokens) is is_one


# Fields ------------------------------------------------------------------------------------------


def test_fields_of_the_grid_are_found(rng):
    centres = itertools.product([0, 0.25, 0.5, 0.75, 1], repeat=2)
    field = np.float32([(x, y, np.log(s)) for x, y in centres for s in (0.1, 0.25)])
    tokens, averages = responses_of_fields(field, rng, 0.3)
    found = best_fields([tokens], averages)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, field)
    np.testing.assert_array_equal(fit_fields(tokens, averages, rng)[0].fields, field)


def test_fields_between_those_of_the_grid_are_found_nearby(rng):
    field = some_fields(rng)
    tokens, averages = responses_of_fields(field, rng, 0.3, n_images=250)
    found = best_fields([tokens], averages)
    assert away(found, field) < 0.1  # neighbours on the grid are 0.125 to 0.25 apart
    assert np.corrcoef(found[:, 2], field[:, 2])[0, 1] > 0.6
    # Where images have nothing to do with responses, fields are anywhere.
    lost = best_fields([tokens], np.roll(averages, 11, axis=0))
    assert away(lost, field) > 0.3


def test_of_several_bands_the_one_that_explains_a_voxel_tells_its_field(rng):
    field = some_fields(rng)
    tokens, averages = responses_of_fields(field, rng, 0.3, n_images=250)
    other = rng.normal(size=(250, 49, 4)).astype(np.float32)
    first = best_fields([tokens, other], averages)
    assert (first == best_fields([other, tokens], averages)).all(1).mean() > 0.95
    assert (first == best_fields([tokens], averages)).all(1).mean() > 0.95
    half = averages.copy()
    masks = field_masks(field[:30], 7)
    half[:, :30] = np.einsum("vt,ntk->nv", masks, other)  # of the other band's
    found = best_fields([tokens, other], half)
    assert away(found[:30], field[:30]) < 0.1
    assert away(found[30:], field[30:]) < 0.1


# Ridge within a field ----------------------------------------------------------------------------


@pytest.mark.parametrize(("n_images", "n_channels"), [(40, 6), (25, 60)])
def test_weights_are_those_of_ridge_with_the_least_cross_validated_error(n_images, n_channels, rng):
    features = (rng.normal(size=(n_images, n_channels)) + 2).astype(np.float32)
    weights = rng.normal(size=(n_channels, 30)) * np.geomspace(0.01, 3, 30)
    targets = (features @ weights + rng.normal(size=(n_images, 30))).astype(np.float32)
    level, mean = features.mean(0), targets.mean(0)
    found = _fit_one(features - level, targets - mean)
    exact, wanted = (features - level).astype(float), (targets - mean).astype(float)
    alphas = PENALTIES * np.square(exact).sum(1).mean()

    def error(alpha, voxel):
        hat = exact @ np.linalg.solve(exact.T @ exact + alpha * np.eye(n_channels), exact.T)
        residual = wanted[:, voxel] - hat @ wanted[:, voxel]
        return np.square(residual / (1 - (1 + np.trace(hat)) / n_images)).sum()

    chosen = []
    for voxel in range(30):
        errors = np.array([error(alpha, voxel) for alpha in alphas])
        gaps = {}
        for alpha in alphas[errors <= (1 + 1e-3) * errors.min()]:  # equal but for rounding
            reference = Ridge(alpha=alpha, fit_intercept=False).fit(exact, wanted[:, voxel])
            gaps[alpha] = np.abs(found[:, voxel] - reference.coef_).max()
        chosen.append(min(gaps, key=gaps.get))
        assert gaps[chosen[-1]] < 5e-3 * (1 + np.abs(found[:, voxel]).max())
    assert len(set(chosen)) > 2


def test_new_images_are_predicted_as_well_as_by_scikit_learns_leave_one_out(rng):
    features = rng.normal(size=(1200, 12)).astype(np.float32)
    weights = rng.normal(size=(12, 20)) * np.geomspace(0.02, 2, 20)
    signal = features @ weights
    targets = (signal + rng.normal(size=(1200, 20))).astype(np.float32)
    known, new = slice(0, 200), slice(200, None)
    level, mean = features[known].mean(0), targets[known].mean(0)
    found = _fit_one(features[known] - level, targets[known] - mean)
    alphas = PENALTIES * np.square(features[known] - level).sum(1).mean()
    reference = RidgeCV(alphas=alphas, alpha_per_target=True).fit(features[known], targets[known])
    ours = np.square((features[new] - level) @ found + mean - signal[new]).mean()
    theirs = np.square(reference.predict(features[new]) - signal[new]).mean()
    assert ours < 1.05 * theirs


def test_prediction_is_within_the_field_of_the_channels(rng):
    tokens, averages = responses_of_fields(some_fields(rng, 12), rng, 0.3)
    fit, _ = fit_fields(tokens, averages, rng)
    assert fit.axes.shape == (5, 5)
    channels = tokens @ fit.axes
    expected = np.empty(averages.shape)
    for voxel, mask in enumerate(field_masks(fit.fields, 8)):
        seen = np.einsum("t,ntc->nc", mask, channels)
        expected[:, voxel] = seen @ fit.coefficients[:, voxel] + fit.intercept[voxel]
    np.testing.assert_allclose(fit.predict(tokens), expected, atol=1e-4)
    np.testing.assert_allclose(fit.of_channels(channels), expected, atol=1e-4)
    np.testing.assert_allclose(fit.predict(tokens[3:4]), expected[3:4], atol=1e-4)
    assert fit.predict(tokens).dtype == np.float32


def test_channels_are_rotated_to_principal_components(rng):
    mixing = rng.normal(size=(6, 6)) * np.geomspace(3, 0.1, 6)
    tokens = (rng.normal(size=(80, 16, 6)) @ mixing.T + 4).astype(np.float32)
    axes = channel_axes(tokens)
    np.testing.assert_allclose(axes.T @ axes, np.eye(6), atol=1e-5)
    variance = (tokens @ axes).var((0, 1))
    assert (np.diff(variance) <= 1e-3).all()
    assert variance.sum() == pytest.approx(tokens.var((0, 1)).sum(), rel=1e-3)


def test_wide_tokens_are_reduced_and_lose_little(rng, monkeypatch):
    field = some_fields(rng, 20)
    tokens, averages = responses_of_fields(field, rng, 0.3, n_images=250)
    wide = tokens @ np.linalg.qr(rng.normal(size=(40, 40)))[0][:5].astype(np.float32)
    monkeypatch.setattr(module, "MAX_CHANNELS", 5)
    fit, _ = fit_fields(wide, averages, np.random.default_rng(0))
    assert fit.axes.shape == (40, 5)
    narrow, _ = fit_fields(tokens, averages, np.random.default_rng(0))
    np.testing.assert_allclose(fit.predict(wide), narrow.predict(tokens), atol=0.01)


# Promises ----------------------------------------------------------------------------------------


def test_held_out_predictions_do_not_follow_noise(rng):
    """The best of hundreds of fields fits noise, but no image's that chose it."""
    tokens = rng.normal(size=(120, 64, 5)).astype(np.float32)
    targets = rng.normal(3, 1, (120, 80)).astype(np.float32)
    fit, without = fit_fields(tokens, targets, rng)
    assert np.mean(voxelwise_correlation(targets, fit.predict(tokens))) > 0.1
    assert np.mean(voxelwise_correlation(targets, without)) < 0.02
    assert ((targets - without) ** 2).mean() > 0.99 * targets.var(0).mean()


def test_held_out_errors_are_those_of_new_images(rng):
    tokens, averages = responses_of_fields(some_fields(rng), rng, 1.0, n_images=700)
    averages /= averages.std(0)
    fit, without = fit_fields(tokens[:150], averages[:150], rng)
    promised = ((averages[:150] - without) ** 2).mean()
    kept = ((averages[150:] - fit.predict(tokens[150:])) ** 2).mean()
    seen = ((averages[:150] - fit.predict(tokens[:150])) ** 2).mean()
    # Of four fifths of the images: if anything, too little is promised.
    assert kept * 0.97 < promised < kept * 1.12
    assert seen < 0.97 * kept


def test_an_image_has_no_part_in_its_own_prediction(rng):
    tokens, averages = responses_of_fields(some_fields(rng, 15), rng, 0.5)
    before = fit_fields(tokens, averages, np.random.default_rng(5))[1]
    for image in (0, 149):
        changed = averages.copy()
        changed[image] += 50 * rng.normal(size=15).astype(np.float32)
        after = fit_fields(tokens, changed, np.random.default_rng(5))[1]
        np.testing.assert_array_equal(after[image], before[image])
        moved = np.abs(after - before).max(1) > 1e-3
        assert 100 <= moved.sum() <= 120  # all but its fold of thirty


def test_fields_are_compared_on_some_of_many_images(rng, monkeypatch):
    field = some_fields(rng)
    tokens, averages = responses_of_fields(field, rng, 0.3, n_images=300)
    monkeypatch.setattr(module, "SEARCHED", 100)
    fit, without = fit_fields(tokens, averages, rng)
    assert away(fit.fields, field) < 0.12
    assert np.mean(voxelwise_correlation(averages, without)) > 0.9


def test_it_is_reproducible_and_leaves_arrays_alone(rng):
    tokens, averages = responses_of_fields(some_fields(rng, 10), rng, 0.5)
    before = tokens.copy(), averages.copy()
    one, other = (fit_fields(tokens, averages, np.random.default_rng(2)) for _ in range(2))
    for name, array in vars(one[0]).items():
        np.testing.assert_array_equal(getattr(other[0], name), array)
        assert array.dtype == np.float32
    np.testing.assert_array_equal(one[1], other[1])
    np.testing.assert_array_equal(tokens, before[0])
    np.testing.assert_array_equal(averages, before[1])


def test_a_voxel_without_variance_is_its_mean(rng):
    tokens, averages = responses_of_fields(some_fields(rng, 4), rng, 0.5)
    averages[:, 2] = 1.5
    fit, without = fit_fields(tokens, averages, rng)
    np.testing.assert_allclose(fit.predict(tokens)[:, 2], 1.5, atol=1e-5)
    np.testing.assert_allclose(without[:, 2], 1.5, atol=1e-5)


def test_images_that_are_all_alike_predict_the_mean(rng):
    targets = rng.normal(size=(40, 3)).astype(np.float32)
    fit, without = fit_fields(np.zeros((40, 16, 4), np.float32), targets, rng)
    assert isinstance(fit, FieldRidge)
    new = fit.predict(rng.normal(size=(2, 16, 4)).astype(np.float32))
    np.testing.assert_allclose(new, np.tile(targets.mean(0), (2, 1)), atol=1e-6)
    assert np.isfinite(without).all()
