"""The density of trials: known answers, a density's properties, and what repeats tell."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import integrate
from scipy.stats import multivariate_normal

from synbrain_cli.errors import InputError
from synbrain_cli.model.covariance import LowRank
from synbrain_cli.model.curve import NODES, bend, unbend
from synbrain_cli.model.density import TrialDensity
from synbrain_cli.model.readout import Readout

N_VOXELS = 7


def low_rank(generator, rank, scale):
    loadings = scale * generator.normal(0, 1, (N_VOXELS, rank))
    private = scale * generator.uniform(0.5, 1.5, N_VOXELS)
    return LowRank(loadings.astype(np.float32), private.astype(np.float32))


def readout(seed=0, curve=None):
    generator = np.random.default_rng(seed)
    straight = np.repeat(NODES[:, None], N_VOXELS, axis=1)
    return Readout(
        low_rank(generator, 2, 0.6),
        low_rank(generator, 3, 0.9),
        generator.uniform(-0.3, 0.3, N_VOXELS).astype(np.float32),
        generator.normal(0, 1, N_VOXELS).astype(np.float32),
        generator.uniform(0.5, 2, N_VOXELS).astype(np.float32),
        straight if curve is None else curve,
    )


def bent(seed=1):
    """A monotone curve of each voxel, steeper than the least slope."""
    steps = np.random.default_rng(seed).uniform(0.4, 1.8, (len(NODES) - 1, N_VOXELS))
    heights = np.cumsum(steps * np.diff(NODES)[:, None], axis=0)
    curve = np.concatenate([np.zeros((1, N_VOXELS)), heights])
    return (curve - curve[len(NODES) // 2]).astype(np.float32)


def covariances(model, mean):
    """Covariance of u and of the noise at a mean, voxels × voxels."""
    gain = np.sqrt(model.relative_noise_variance(mean))
    signal, noise = (
        part.loadings @ part.loadings.T + np.diag(part.private**2)
        for part in (model.signal, model.noise)
    )
    return signal.astype(float), noise * gain[:, None] * gain


def without_coupling(model):
    """The same, but for noise that does not depend on the response."""
    return replace(model, signal_dependence=np.zeros(N_VOXELS, np.float32))


def test_density_of_a_trial_is_the_multivariate_normal():
    model, generator = without_coupling(readout()), np.random.default_rng(2)
    mean = generator.normal(0, 1, N_VOXELS)
    trials = generator.normal(0, 1.5, (5, N_VOXELS))
    expected = multivariate_normal(mean, sum(covariances(model, mean))).logpdf(trials)
    np.testing.assert_allclose(TrialDensity(model, mean).log_density(trials), expected, rtol=1e-5)


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_repeats_share_u_and_nothing_else(n):
    model, generator = without_coupling(readout()), np.random.default_rng(3)
    mean, trials = generator.normal(0, 1, N_VOXELS), generator.normal(0, 1.5, (n, N_VOXELS))
    signal, noise = covariances(model, mean)
    together = np.kron(np.ones((n, n)), signal) + np.kron(np.eye(n), noise)
    expected = multivariate_normal(np.tile(mean, n), together).logpdf(trials.ravel())
    assert TrialDensity(model, mean).log_joint(trials) == pytest.approx(expected, rel=1e-5)


def test_given_the_others_is_the_conditional_normal():
    model, generator = without_coupling(readout()), np.random.default_rng(4)
    mean, trials = generator.normal(0, 1, N_VOXELS), generator.normal(0, 1.5, (3, N_VOXELS))
    signal, noise = covariances(model, mean)
    # u given the average of two others: Kalman's gain
    gain = signal @ np.linalg.inv(signal + noise / 2)
    expected = []
    for k in range(3):
        known = gain @ (np.delete(trials, k, 0).mean(0) - mean)
        left = signal - gain @ signal + noise
        expected.append(multivariate_normal(mean + known, left).logpdf(trials[k]))
    found = TrialDensity(model, mean).log_density_given_others(trials)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_bent_density_integrates_to_one_and_is_that_of_the_draws():
    model, mean = readout(curve=bent()), np.zeros(N_VOXELS)
    one = Readout(
        *(LowRank(p.loadings[:1], p.private[:1]) for p in (model.signal, model.noise)),
        *(getattr(model, n)[:1] for n in ("signal_dependence", "centre", "spread")),
        model.curve[:, :1],
    )
    density = TrialDensity(one, mean[:1])

    def likelihood(y):
        return float(np.exp(density.log_density(np.array([[y]])))[0])

    total, _ = integrate.quad(likelihood, -25, 25, limit=2000, epsabs=1e-6)
    assert total == pytest.approx(1, abs=1e-3)
    generators = np.random.default_rng(5).spawn(8000)
    draws = one.draw(mean[:1], generators[:4000], generators[4000:])[:, 0]
    for limit in np.quantile(draws, [0.1, 0.5, 0.9]):
        below, _ = integrate.quad(likelihood, -25, limit, limit=2000, epsabs=1e-6)
        assert below == pytest.approx((draws < limit).mean(), abs=0.02)


def test_the_curve_is_inverted():
    curve = bent()
    t = np.random.default_rng(6).uniform(-4, 4, (50, N_VOXELS))
    found, log_slope = unbend(curve, bend(curve, t.astype(np.float32)).astype(float))
    np.testing.assert_allclose(found, t, atol=1e-4)
    assert (log_slope[np.abs(t) > 2.7] == 0).all()


def test_steps_of_a_curve_do_not_make_a_density_as_large_as_one_likes():
    counts = np.round(2 * NODES)[:, None] / 2 * np.ones((1, N_VOXELS))
    _, log_slope = unbend(counts.astype(np.float32), np.round(4 * np.eye(N_VOXELS)) / 2)
    assert log_slope.min() >= np.log(0.199)


def test_truth_is_likelier_than_any_other():
    truth, generator = readout(), np.random.default_rng(7)
    means = generator.normal(0, 1, (60, N_VOXELS)).astype(np.float32)
    trials = [
        truth.draw_given(m, [truth.signal.draw(generator)], generator.spawn(3)) for m in means
    ]

    def total(model, shift=0):
        each = zip(np.roll(means, shift, axis=0), trials, strict=True)
        return sum(TrialDensity(model, m).log_joint(y) for m, y in each)

    best = total(truth)
    nothing = LowRank.independent(np.zeros(N_VOXELS))
    whole = LowRank.independent(truth.noise.variance)
    others = {
        "no u": replace(truth, signal=nothing),
        "independent voxels": replace(truth, noise=whole),
    }
    for name, other in others.items():
        assert total(other) < best - 5, name
    assert total(truth, shift=1) < best - 5, "images shuffled"


def test_one_repeat_has_no_others():
    with pytest.raises(InputError, match="two repeats, found 1"):
        TrialDensity(readout(), np.zeros(N_VOXELS)).log_density_given_others(
            np.zeros((1, N_VOXELS))
        )
