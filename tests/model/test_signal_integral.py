"""The density where noise depends on unexplained signal, against integrals taken otherwise."""

import numpy as np
import pytest
from scipy import integrate
from scipy.stats import multivariate_normal, norm

from synbrain_cli.model.low_rank_density import LowRankDensity
from synbrain_cli.model.signal_integral import SignalIntegral

U, E = 0.3, 0.7  # variances of signal and noise of one voxel


def one_voxel(growth):
    nothing = np.zeros((1, 0), np.float32)
    signal, noise = (LowRankDensity(nothing, np.array([v])) for v in (U, E))
    return SignalIntegral(signal, noise, np.array([growth]))


def spread(u, growth):
    """SD of the noise, given the signal."""
    return np.sqrt(E) * np.exp(growth * u / 2 - growth**2 * U / 4)


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("growth", [0.0, 0.3, -0.7])
def test_of_one_voxel_it_is_the_integral_over_its_signal(n, growth):
    generator = np.random.default_rng(n)
    for u in generator.normal(0, np.sqrt(U), 5):
        t = u + spread(u, growth) * generator.normal(size=(n, 1))

        def integrand(u, t=t):
            return norm.pdf(u, 0, np.sqrt(U)) * norm.pdf(t[:, 0], u, spread(u, growth)).prod()

        exact = np.log(integrate.quad(integrand, -6, 6, limit=500, epsabs=1e-14)[0])
        # Laplace's method is of second order: exact without growth
        error = abs(one_voxel(growth).log_density(t) - exact)
        assert error < (0.03 if growth else 1e-6)


def test_it_integrates_to_one_and_is_skewed():
    density = one_voxel(0.7)

    def of(power):
        def integrand(t):
            return t**power * np.exp(density.log_density(np.array([[t]])))

        return integrate.quad(integrand, -8, 12, limit=500)[0]

    assert of(0) == pytest.approx(1, abs=0.01)
    assert of(2) == pytest.approx(U + E, abs=0.02)
    # E t³ = 3 E u h e² = 3 g σ_u² σ_e²
    assert of(3) == pytest.approx(3 * 0.7 * U * E, abs=0.05)


N_VOXELS = 12


def low_rank(generator, rank, size, private):
    loadings = size * generator.normal(size=(N_VOXELS, rank))
    return LowRankDensity(loadings.astype(np.float32), generator.uniform(*private, N_VOXELS))


def covariance(part):
    return part.loadings.astype(float) @ part.loadings.T + np.diag(part.private)


@pytest.mark.parametrize(("n", "growth"), [(1, 0.3), (3, 0.3), (3, -0.5)])
def test_of_many_voxels_it_is_what_samples_of_the_signal_say(n, growth):
    generator = np.random.default_rng(4)
    signal, noise = low_rank(generator, 2, 0.4, (0.0, 0.2)), low_rank(generator, 3, 0.5, (0.4, 1.0))
    of_u, of_e = covariance(signal) + 1e-9 * np.eye(N_VOXELS), covariance(noise)
    growth = growth * generator.uniform(0.5, 1.5, N_VOXELS)

    def log_d(u):
        return growth * u / 2 - growth**2 * np.diag(of_u) / 4

    u = generator.multivariate_normal(np.zeros(N_VOXELS), of_u)
    e = generator.multivariate_normal(np.zeros(N_VOXELS), of_e, n)
    t = u + np.exp(log_d(u)) * e
    # Importance sampling from what the signal would be were the noise independent of it
    gain = of_u @ np.linalg.inv(of_u + of_e / n)
    proposal = multivariate_normal(gain @ t.mean(0), 1.3 * (of_u - gain @ of_u), True)
    samples = proposal.rvs(100_000, generator)
    weights = multivariate_normal(np.zeros(N_VOXELS), of_u).logpdf(samples)
    weights -= proposal.logpdf(samples)
    for row in t:
        w = (row - samples) * np.exp(-log_d(samples))
        weights += multivariate_normal(np.zeros(N_VOXELS), of_e).logpdf(w) - log_d(samples).sum(1)
    exact = np.log(np.exp(weights - weights.max()).mean()) + weights.max()
    found = SignalIntegral(signal, noise, growth).log_density(t)
    assert found == pytest.approx(exact, abs=0.1)


def test_without_growth_it_is_the_normal_density():
    generator = np.random.default_rng(5)
    signal, noise = low_rank(generator, 2, 0.4, (0.1, 0.2)), low_rank(generator, 3, 0.5, (0.4, 1.0))
    t = generator.normal(size=(3, N_VOXELS))
    whole = np.kron(np.ones((3, 3)), covariance(signal)) + np.kron(np.eye(3), covariance(noise))
    expected = multivariate_normal(np.zeros(3 * N_VOXELS), whole).logpdf(t.ravel())
    found = SignalIntegral(signal, noise, np.zeros(N_VOXELS)).log_density(t)
    assert found == pytest.approx(expected, rel=1e-5)


def test_trials_far_from_all_that_is_expected_have_a_density_too():
    generator = np.random.default_rng(6)
    signal, noise = low_rank(generator, 2, 0.4, (0.1, 0.2)), low_rank(generator, 3, 0.5, (0.4, 1.0))
    integral = SignalIntegral(signal, noise, np.full(N_VOXELS, 0.5))
    far = [integral.log_density(np.full((2, N_VOXELS), x)) for x in (0.0, 10.0, 100.0, -100.0)]
    assert np.isfinite(far).all()
    assert np.argmax(far) == 0
