"""Uncertainty of the mean: leverage, how errors grow with it, and distance from training."""

import numpy as np
import pytest
from one_band import standard
from scipy.stats import norm

from synbrain_cli.model.linear import ALPHAS, apply_ridge, fit_linear, regress
from synbrain_cli.model.readout import Readout
from synbrain_cli.model.uncertainty import MeanUncertainty, Residuals
from synbrain_cli.tokens import Tokens


@pytest.mark.parametrize(("n_images", "n_features"), [(40, 12), (25, 60)])
def test_leverage_is_the_posterior_variance_of_a_ridge(n_images, n_features, rng):
    """Against the inverse of the full matrix, and refits without each image."""
    x = rng.standard_normal((n_images, n_features)).astype(np.float32)
    x -= x.mean(0)
    new = rng.standard_normal((7, n_features)).astype(np.float32)
    found = regress(x, x[:, :3].copy(), np.random.default_rng(0))
    known = found.known
    unit = np.square(x).sum(1).mean()
    for k, alpha in enumerate(ALPHAS):
        penalty = alpha * unit
        inverse = np.linalg.inv(x.T.astype(float) @ x + penalty * np.eye(n_features))
        expected = 1 / n_images + np.einsum("ij,jk,ik->i", new, inverse, new)
        scores = new @ found.fit["components"]
        beyond = np.square(new).sum(1) / unit - np.square(scores).sum(1)
        leverage = known.of_scores(scores, np.maximum(beyond, 0))[:, k]
        np.testing.assert_allclose(leverage, expected, rtol=2e-3)
        own = 1 / n_images + np.einsum("ij,jk,ik->i", x, inverse, x)
        np.testing.assert_allclose(known.left_out[:, k], own / (1 - own), rtol=5e-3)


def posterior(rng, n_images=60, n_features=20, noise=0.5):
    """Responses of the model under which ridge's posterior is right, and new images."""
    weights = rng.standard_normal((n_features, 400))
    x = rng.standard_normal((n_images, n_features)).astype(np.float32)
    y = x @ weights + noise * n_features**0.5 * rng.standard_normal((n_images, 400))
    return x, weights, y.astype(np.float32), noise * n_features**0.5


def test_errors_grow_with_leverage_as_the_posterior_says(rng):
    """Where the prior is right, the variance of errors is the leverage times the noise."""
    x, weights, y, sd = posterior(rng)
    found = regress(x, y, np.random.default_rng(0))
    for scale in (0.5, 1.0, 3.0):
        new = (scale * rng.standard_normal((200, x.shape[1]))).astype(np.float32)
        error = new @ weights - apply_ridge(found.fit, new)
        centred = new - found.fit["feature_mean"]
        scores = centred @ found.fit["components"]
        column = found.known.column(found.fit["alphas"])
        leverage = found.known.of_scores(scores, np.zeros(len(new)))[:, column]
        ratio = np.square(error).mean() / (sd**2 * leverage).mean()
        assert ratio == pytest.approx(1, abs=0.15), scale


@pytest.mark.parametrize("growth", [0.0, 0.3, 0.7, 1.0])
def test_the_growth_of_errors_is_found(growth, rng):
    leverages = np.exp(0.6 * rng.standard_normal((300, 1)) + 0.2 * rng.standard_normal((300, 50)))
    relative = leverages**growth / (leverages**growth).mean(0)
    signal, noise = rng.uniform(0.2, 0.6, 50), np.full((300, 50), 0.4)
    residual = np.sqrt(signal * relative + noise) * rng.standard_normal((300, 50))
    fitted = MeanUncertainty.fit(
        leverages.astype(np.float32), Residuals(np.square(residual), signal, noise)
    )
    assert fitted.growth == pytest.approx(growth, abs=0.11)
    doubt = fitted(leverages.astype(np.float32))
    np.testing.assert_allclose(doubt.relative.mean(0), 1, rtol=1e-5)  # g is 1 on average
    far = fitted(10 * leverages[:3].astype(np.float32))
    assert (far.distance == 100).all()
    assert fitted(np.full((1, 50), 1e-3, np.float32)).distance[0] == 0
    back = MeanUncertainty.from_arrays(fitted.arrays())
    assert back.growth == pytest.approx(fitted.growth)
    np.testing.assert_array_equal(back.level, fitted.level)
    assert MeanUncertainty.from_arrays({"stack": np.ones(3)}) is None


def test_an_encoder_is_less_sure_of_images_unlike_those_of_training(rng):
    """Two bands; one of them never varies where the new images differ."""
    tokens = rng.normal(size=(80, 16, 4)).astype(np.float32)
    responses = np.tensordot(tokens, rng.normal(size=(16, 4, 6)), 2) + rng.normal(size=(80, 6))
    linear, _ = fit_linear(standard(tokens), responses.astype(np.float32), rng)
    near, _ = linear.leverage(Tokens.of(tokens[:10]))
    far, _ = linear.leverage(Tokens.of(4 * tokens[:10]))
    assert near.shape == (10, 6)
    assert (far > near).all()
    left_out = np.stack(list(linear.leverages_left_out(range(10))))
    assert (left_out > near).all()  # an image is farther from the others than from all


def test_draws_of_an_unsure_image_spread_more_and_share_it():
    readout = Readout.gaussian(np.full(5, 0.5))
    assert readout.of_image(np.full(5, 4.0)) is readout  # no unexplained signal to be unsure of
    arrays = readout.arrays() | {"signal_private": np.full(5, 0.3, np.float32)}
    readout = Readout.from_arrays(arrays)
    assert readout.of_image(None) is readout
    unsure = readout.of_image(np.array([1, 2, 4, 9, 16.0]))
    np.testing.assert_allclose(unsure.signal.variance, 0.09 * np.array([1, 2, 4, 9, 16]), rtol=1e-6)
    np.testing.assert_array_equal(unsure.noise.variance, readout.noise.variance)
    inside = np.abs(norm.ppf(0.05)) * unsure.sd(np.zeros(5))
    generators = [np.random.default_rng([k, 0]) for k in range(4000)]
    noises = [np.random.default_rng([k, 1]) for k in range(4000)]
    draws = unsure.draw(np.zeros(5, np.float32), generators, noises)
    np.testing.assert_allclose((np.abs(draws) <= inside).mean(0), 0.9, atol=0.02)
