"""The stack: weights and honest predictions; least squares with weights of 0 or more."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import nnls

from synbrain_cli.errors import InputError
from synbrain_cli.model import stack as module
from synbrain_cli.model.stack import fit_stack, non_negative


def seeded(*seed):
    return np.random.default_rng(seed)


def predictors(rng, qualities, n_images, n_voxels=40, noise=1.0):
    """Predictions that correlate with the signal by ``qualities``, best weighted 1 when alone."""
    signal = rng.normal(size=(n_images, n_voxels))
    predictions = [
        q**2 * signal + q * np.sqrt(1 - q**2) * rng.normal(size=signal.shape) for q in qualities
    ]
    averages = signal + noise * rng.normal(size=signal.shape)
    return np.stack(predictions).astype(np.float32), averages.astype(np.float32), signal


def combine(weights, predictions):
    return np.einsum("pv,piv->iv", weights, predictions)


@pytest.mark.parametrize("n_images", [10, 60])
@pytest.mark.parametrize(
    "qualities", [(0.7, 0.0), (0.7, 0.3), (0.7, 0.7), (0.7, 1.0), (0.05, 0.02), (0.5, 0.4, 0.3)]
)
def test_the_stack_is_hardly_ever_worse_than_its_best_member(qualities, n_images):
    excess, promise = [], []
    for seed in range(4):
        x, y, signal = predictors(seeded(seed), qualities, n_images + 200)
        weights, held_out = fit_stack(x[:, :n_images], y[:n_images], seeded(seed))
        assert weights.shape == (len(qualities), 40)
        assert weights.dtype == held_out.dtype == np.float32
        assert (weights >= 0).all()
        new, truth = x[:, n_images:], signal[n_images:]
        best = min(((one - truth) ** 2).mean() for one in new)
        stacked = combine(weights, new)
        excess.append(((stacked - truth) ** 2).mean() - best)
        promised = ((held_out - y[:n_images]) ** 2).mean()
        promise.append(promised / ((stacked - y[n_images:]) ** 2).mean())
    # Of a signal of variance 1.
    assert np.mean(excess) < 0.01 + 0.15 / n_images
    assert max(excess) < 1 / n_images
    # Held-out predictions promise what new images keep.
    assert np.mean(promise) == pytest.approx(1, abs=0.03 + 0.7 / n_images)


@pytest.mark.parametrize("n_images", [10, 100])
def test_two_noisy_copies_get_equal_weights_and_a_sum_beats_both(n_images, rng):
    x, y, signal = predictors(rng, (0.7, 0.7), n_images + 500)
    weights, _ = fit_stack(x[:, :n_images], y[:n_images], rng)
    first, second = weights.mean(1)
    assert first == pytest.approx(second, rel=0.3)
    # Of two such predictions, least squares gives each 1 / (1 + q²).
    assert first + second == pytest.approx(2 / 1.49, rel=0.2)
    new, truth = x[:, n_images:], signal[n_images:]
    stacked = ((combine(weights, new) - truth) ** 2).mean()
    assert stacked < 0.85 * min(((one - truth) ** 2).mean() for one in new)


def test_a_perfect_prediction_gets_all_and_a_useless_one_nothing(rng):
    x, y, _ = predictors(rng, (1.0, 1.0), 200)
    x[1] = rng.normal(size=x[1].shape)  # varies as much as the other
    weights, _ = fit_stack(x, y, rng)
    np.testing.assert_allclose(weights.mean(1), [1, 0], atol=0.04)


def test_a_prediction_that_is_wrong_way_round_is_left_out(rng):
    x, y, _ = predictors(rng, (0.8, 0.8), 300)
    x[1] *= -1
    weights, _ = fit_stack(x, y, rng)
    assert weights[1].mean() < 0.05


def test_voxels_that_need_different_weights_get_them(rng):
    x, y, _ = predictors(rng, (0.9, 0.9), 400)
    x[0, :, :20] = rng.normal(size=(400, 20))  # each prediction knows half the brain
    x[1, :, 20:] = rng.normal(size=(400, 20))
    weights, _ = fit_stack(x, y, rng)
    np.testing.assert_allclose(weights[0, 20:].mean() / weights[1, :20].mean(), 1, atol=0.1)
    assert weights[0, :20].mean() < 0.1
    assert weights[1, 20:].mean() < 0.1
    assert weights[0, 20:].mean() == pytest.approx(1, abs=0.1)


def test_a_mean_of_several_fits_is_weighed_as_the_mean(rng):
    """Each fit predicted a part of the images here, and new images are predicted by all."""
    x, y, signal = predictors(rng, (0.7, 0.7), 2000)
    ambiguity = 0.5
    fits = x[1] + np.sqrt(ambiguity) * rng.normal(size=(4, *y.shape)).astype(np.float32)
    single, mean = np.stack([x[0], fits[0]]), np.stack([x[0], fits.mean(0)])
    excess = np.full(40, 0.75 * ambiguity, np.float32)
    known, new = slice(0, 600), slice(600, None)

    def error(weights):
        return ((combine(weights, mean[:, new]) - signal[new]) ** 2).mean()

    best, _ = fit_stack(mean[:, known], y[known], seeded(0))
    found, _ = fit_stack(single[:, known], y[known], seeded(0), {1: excess})
    plain, _ = fit_stack(single[:, known], y[known], seeded(0))
    np.testing.assert_allclose(found.mean(1), best.mean(1), atol=0.03)
    assert plain[1].mean() < best[1].mean() - 0.1
    assert error(found) < error(plain)
    assert error(found) == pytest.approx(error(best), rel=0.03)


def test_no_more_variance_is_taken_than_half_of_what_is_the_predictors_own(rng):
    x, y, _ = predictors(rng, (0.7, 0.7), 60)
    much = np.full(40, 100.0, np.float32)
    weights, held_out = fit_stack(x, y, rng, {1: much})
    assert (weights >= 0).all()
    assert weights.max() < 3
    assert np.isfinite(held_out).all()
    x[1] = x[0]  # nothing is its own
    np.testing.assert_allclose(
        fit_stack(x, y, seeded(1), {1: much})[0].sum(0), fit_stack(x, y, seeded(1))[0].sum(0),
        rtol=1e-3,
    )  # fmt: skip
    x[1] = 0
    assert not fit_stack(x, y, rng, {1: much})[0][1].any()


def test_one_prediction_is_scaled(rng):
    x, y, _ = predictors(rng, (0.8,), 2000, 10)
    weights, held_out = fit_stack(4 * x, y, rng)
    assert weights.shape == (1, 10)
    np.testing.assert_allclose(weights, 0.25, atol=0.03)
    np.testing.assert_allclose(held_out, x[0], atol=0.4)


def test_held_out_predictions_owe_nothing_to_their_own_image(monkeypatch, rng):
    # One κ only: its choice looks at all images, which is one number for all of them.
    monkeypatch.setattr(module, "_SHRINKAGES", (1.0,))
    x, y, _ = predictors(rng, (0.7, 0.5), 40)
    _, before = fit_stack(x, y, seeded(0))
    for image in (0, 17, 39):
        changed = y.copy()
        changed[image] += 100 * rng.normal(size=40).astype(np.float32)
        _, after = fit_stack(x, changed, seeded(0))
        np.testing.assert_allclose(after[image], before[image], atol=1e-5)
        moved = np.abs(after - before).max(1) > 1e-3
        assert moved.sum() == 36  # all but its fold of four


def test_held_out_predictions_do_not_follow_noise(rng):
    x = rng.normal(size=(2, 30, 200)).astype(np.float32)
    y = rng.normal(size=(30, 200)).astype(np.float32)
    weights, held_out = fit_stack(x, y, rng)
    assert weights.mean() < 0.05
    assert (held_out * y).mean() < 0.005


def test_the_stack_is_reproducible_and_leaves_arrays_alone(rng):
    x, y, _ = predictors(rng, (0.7, 0.5), 40)
    before = x.copy(), y.copy()
    first, again = fit_stack(x, y, seeded(3)), fit_stack(x, y, seeded(3))
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])
    np.testing.assert_array_equal(x, before[0])
    np.testing.assert_array_equal(y, before[1])


@pytest.mark.parametrize("n_images", [0, 1])
def test_stacking_needs_two_images(n_images, rng):
    with pytest.raises(InputError, match="two validation images or more"):
        fit_stack(np.ones((2, n_images, 3)), np.ones((n_images, 3)), rng)


def test_two_images_are_enough(rng):
    x, y, _ = predictors(rng, (0.7, 0.5), 2)
    weights, held_out = fit_stack(x, y, rng)
    assert np.isfinite(weights).all()
    assert np.isfinite(held_out).all()


# A large stack ---------------------------------------------------------------------------------


def test_ten_predictors_of_bands_are_no_worse_than_the_best(rng):
    """As many as five bands have, most of them nearly alike."""
    x, y, signal = predictors(rng, (0.7, 0.69, 0.68, 0.3, 0.3, 0.2, 0.1, 0.05, 0.0, 0.0), 300, 20)
    x[1] = x[0] + 0.3 * rng.normal(size=x[0].shape)
    weights, _ = fit_stack(x[:, :100], y[:100], rng)
    new, truth = x[:, 100:], signal[100:]
    best = min(((one - truth) ** 2).mean() for one in new)
    assert ((combine(weights, new) - truth) ** 2).mean() < best


@pytest.mark.parametrize("n_voxels", [1, 255, 257])
def test_voxels_are_stacked_alike_in_blocks_of_any_size(n_voxels, rng, monkeypatch):
    x, y, _ = predictors(rng, (0.7, 0.5, 0.3), 50, n_voxels)
    whole = fit_stack(x, y, seeded(0))
    monkeypatch.setattr(module, "_VOXELS", 16)
    for one, other in zip(whole, fit_stack(x, y, seeded(0)), strict=True):
        np.testing.assert_allclose(other, one, atol=1e-6)


# Least squares without negative weights ----------------------------------------------------------


def normal_equations(problems):
    return np.stack([x.T @ x for x, _ in problems]), np.stack([x.T @ y for x, y in problems])


@pytest.mark.parametrize("n_predictors", [1, 2, 3, 4, 12])
def test_least_squares_without_negative_weights_against_scipy(n_predictors, rng):
    problems = []
    for _ in range(100):
        x = rng.normal(size=(30, n_predictors)) + rng.uniform(0, 3) * rng.normal(size=(30, 1))
        x *= 10 ** rng.uniform(-0.5, 0.5, n_predictors)
        problems.append((x, x @ rng.normal(size=n_predictors) + rng.normal(size=30)))
    found = non_negative(*normal_equations(problems))
    reference = np.stack([nnls(x, y)[0] for x, y in problems])
    np.testing.assert_allclose(found, reference, atol=1e-5)
    assert (reference == 0).any()


@pytest.mark.parametrize("apart", [0.1, 1e-3, 1e-6, 0.0])
def test_predictors_that_are_nearly_alike_leave_no_more_than_scipy(apart, rng):
    """Which of them is weighted does not matter: what is left of the target does."""
    problems = []
    for _ in range(50):
        source = rng.normal(size=(40, 2))
        x = np.repeat(source, 3, axis=1) + apart * rng.normal(size=(40, 6))
        problems.append((x, source @ rng.normal(size=2) + rng.normal(size=40)))
    weights = non_negative(*normal_equations(problems))
    assert (weights >= 0).all()
    for (x, y), own in zip(problems, weights, strict=True):
        left = np.linalg.norm(y - x @ own)
        assert left <= nnls(x, y)[1] * (1 + 1e-3)


def test_least_squares_of_predictions_that_coincide_or_are_empty(rng):
    x = rng.normal(size=(30, 1))
    twins, y = np.hstack([x, x, 0 * x]), 2 * x[:, 0]
    weights = non_negative((twins.T @ twins)[None], (twins.T @ y)[None])[0]
    assert weights[:2].sum() == pytest.approx(2, abs=1e-4)
    assert (weights >= 0).all()
    assert weights[2] == 0
    np.testing.assert_array_equal(non_negative(np.zeros((2, 2, 2)), np.zeros((2, 2))), 0)


def test_an_empty_predictor_changes_nothing(rng):
    x = rng.normal(size=(30, 3))
    x[:, 1] = 0
    y = x @ [0.5, 0, 0.7] + rng.normal(size=30)
    weights = non_negative((x.T @ x)[None], (x.T @ y)[None])[0]
    alone = non_negative(*normal_equations([(x[:, [0, 2]], y)]))[0]
    np.testing.assert_allclose(weights[[0, 2]], alone, atol=1e-8)
    assert weights[1] == 0


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_units_do_not_matter(scale, rng):
    x, y = rng.normal(size=(30, 3)), rng.normal(size=30)
    plain = non_negative(*normal_equations([(x, y)]))
    scaled = non_negative(*normal_equations([(scale * x, y)]))
    np.testing.assert_allclose(scaled * scale, plain, rtol=1e-6, atol=1e-9)
