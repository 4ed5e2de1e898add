"""Population receptive fields: known ones are found, what has none is not explained."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import approx_fprime

from synbrain_cli.experiments.mapping_stimuli import mapping_apertures
from synbrain_cli.experiments.population_fields import (
    COARSE,
    EXPONENTS,
    PopulationFields,
    _Seen,
    fit_population_fields,
)

MASKS = mapping_apertures().masks


def known(rng, n=60):
    return PopulationFields(
        x=rng.uniform(-0.9, 0.9, n),
        y=rng.uniform(-0.9, 0.9, n),
        sd=np.exp(rng.uniform(np.log(0.07), np.log(0.5), n)),
        exponent=rng.choice(EXPONENTS, n),
        gain=rng.uniform(0.5, 2, n),
        baseline=rng.normal(size=n),
        r2=np.ones(n),
    )


def test_known_fields_are_found(rng):
    truth = known(rng)
    found = fit_population_fields(MASKS, truth.predict(MASKS).astype(np.float32))
    near = np.hypot(found.x - truth.x, found.y - truth.y)
    assert np.median(near) < 1e-3
    assert np.quantile(near, 0.95) < 0.05
    assert np.median(np.abs(np.log(found.size / truth.size))) < 0.01
    assert (found.r2 > 0.95).all()
    exact = near < 1e-3
    np.testing.assert_allclose(found.gain[exact], truth.gain[exact], rtol=0.1)
    np.testing.assert_allclose(
        found.predict(MASKS)[:, exact], truth.predict(MASKS)[:, exact], atol=0.05
    )


def test_noise_widens_the_error_and_lowers_r2(rng):
    truth = known(rng)
    clean = truth.predict(MASKS)
    noisy = clean + 0.5 * clean.std(0) * rng.normal(size=clean.shape)
    found = fit_population_fields(MASKS, noisy)
    assert np.median(found.r2) == pytest.approx(1 / 1.25, abs=0.06)
    assert np.median(np.hypot(found.x - truth.x, found.y - truth.y)) < 0.06


def test_scale_and_offset_of_responses_change_gain_and_baseline_alone(rng):
    clean = known(rng, 12).predict(MASKS) + 0.02 * rng.normal(size=(len(MASKS), 12))
    one, other = (fit_population_fields(MASKS, values) for values in (clean, 30 * clean - 7))
    for name in ("x", "y", "sd", "exponent", "r2"):
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), atol=1e-6)
    np.testing.assert_allclose(other.gain, 30 * one.gain, rtol=1e-6)
    np.testing.assert_allclose(other.baseline, 30 * one.baseline - 7, atol=1e-5)


def test_responses_without_fields_are_not_explained(rng):
    noise = rng.normal(size=(len(MASKS), 40))
    assert np.median(fit_population_fields(MASKS, noise).r2) < 0.25
    truth = known(rng)
    order = rng.permutation(len(MASKS))
    lost = fit_population_fields(MASKS[order], truth.predict(MASKS))
    assert np.median(lost.r2) < 0.4
    constant = fit_population_fields(MASKS, np.full((len(MASKS), 2), 3.0))
    np.testing.assert_array_equal(constant.r2, 0)
    np.testing.assert_allclose(constant.gain, 0, atol=1e-9)
    assert np.isfinite([constant.x, constant.y, constant.sd, constant.baseline]).all()


def test_suppression_is_no_field(rng):
    """Gains are not negative: a voxel that contrast suppresses has a small R²."""
    truth = known(rng, 20)
    found = fit_population_fields(MASKS, -truth.predict(MASKS))
    assert (found.gain >= 0).all()
    assert np.median(found.r2) < 0.5


def test_angles_are_counterclockwise_from_the_right():
    x, y = np.array([0.5, 0.0, -0.5, 0.0]), np.array([0.0, 0.5, 0.0, -0.5])
    ones = np.ones(4)
    fields = PopulationFields(x, y, 0.2 * ones, 0.25 * ones, ones, ones, ones)
    np.testing.assert_allclose(fields.angle, [0, 90, 180, 270])
    np.testing.assert_allclose(fields.eccentricity, 0.5)
    np.testing.assert_allclose(fields.size, 0.4)


def test_derivatives_are_those_of_differences(rng):
    coarse = rng.uniform(size=(5, COARSE**2))
    theta = np.array([[0.2], [-0.3], [np.log(0.2)]])
    seen = _Seen.through(coarse, theta, slopes=True)
    for k in range(5):

        def overlap(values, k=k):
            return _Seen.through(coarse[[k]], values[:, None]).overlap[0, 0]

        expected = approx_fprime(theta[:, 0], overlap, 1e-6)
        np.testing.assert_allclose([s[k, 0] for s in seen.slopes], expected, rtol=1e-3, atol=1e-5)
