"""Factors of regions: means over regions vary as measured, voxels as before."""

import numpy as np
import pytest

from synbrain_cli.model.components import VarianceComponents
from synbrain_cli.model.covariance import LowRank, add_regions
from synbrain_cli.model.readout import Together, fit_separated

N_VOXELS = 60
REGIONS = [np.arange(N_VOXELS) < 40, (np.arange(N_VOXELS) >= 10) & (np.arange(N_VOXELS) < 30)]


def covariance(found):
    return found.loadings @ found.loadings.T + np.diag(found.private**2)


def of_mean(found, region):
    return covariance(found.__class__(found.loadings, found.private))[np.ix_(region, region)].mean()


def test_means_over_regions_vary_as_measured_and_voxels_as_before(rng):
    found = LowRank(
        0.1 * rng.normal(size=(N_VOXELS, 2)).astype(np.float32),
        rng.uniform(0.5, 1, N_VOXELS).astype(np.float32),
    )
    wanted = np.array([0.08, 0.15])
    more = add_regions(found, REGIONS, wanted)
    np.testing.assert_allclose(more.variance, found.variance, rtol=1e-5)
    assert of_mean(more, REGIONS[1]) == pytest.approx(0.15, rel=1e-3)
    assert of_mean(more, REGIONS[0]) == pytest.approx(0.08, rel=1e-3)
    outside = np.flatnonzero(~REGIONS[0])
    np.testing.assert_allclose(
        covariance(more)[outside][:, outside], covariance(found)[outside][:, outside], rtol=1e-5
    )


def test_a_region_within_another_does_not_make_it_vary_more_than_measured(rng):
    """Where both cannot be met, squared relative errors are least."""
    found = LowRank.independent(np.ones(N_VOXELS))
    wanted = np.array([0.03, 0.4])  # the smaller one alone gives the larger .1
    more = add_regions(found, REGIONS, wanted)
    ratios = np.array([of_mean(more, r) for r in REGIONS]) / wanted
    assert 1 < ratios[0] < 1.5
    assert ratios[1] < 1
    alone = add_regions(found, REGIONS[1:], wanted[1:])
    apart = np.array([of_mean(alone, r) for r in REGIONS]) / wanted
    assert np.square(ratios - 1).sum() < np.square(apart - 1).sum()
    np.testing.assert_allclose(more.variance, found.variance, rtol=1e-5)


def test_a_region_that_lacks_nothing_has_no_factor(rng):
    found = LowRank(
        rng.normal(size=(N_VOXELS, 2)).astype(np.float32), np.ones(N_VOXELS, np.float32)
    )
    now = np.array([of_mean(found, region) for region in REGIONS])
    assert add_regions(found, REGIONS, now).loadings.shape == (N_VOXELS, 2)
    assert add_regions(found, REGIONS, 0.5 * now).loadings.shape == (N_VOXELS, 2)
    nothing = LowRank.independent(np.zeros(N_VOXELS))
    assert add_regions(nothing, REGIONS, now).is_nothing
    # No more can be taken than voxels have for themselves
    most = add_regions(LowRank.independent(np.ones(N_VOXELS)), REGIONS, np.array([5.0, 5.0]))
    np.testing.assert_allclose(most.variance, 1, rtol=1e-5)
    assert (most.private > 0).all()


def test_weak_covariance_over_a_region_is_found_from_trials(rng):
    """A correlation of .1 between all voxels of a region: too weak for factors of few images."""
    n_images, n_repeats = 300, 3
    signal, noise = 0.4, 1.0
    shared = np.zeros((n_images, N_VOXELS))
    shared[:, REGIONS[1]] = (0.1 * signal) ** 0.5 * rng.normal(size=(n_images, 1))
    own = np.where(REGIONS[1], (0.9 * signal) ** 0.5, signal**0.5)
    u = shared + own * rng.normal(size=(n_images, N_VOXELS))
    index = np.repeat(np.arange(n_images), n_repeats)
    trials = (u[index] + noise * rng.normal(size=(len(index), N_VOXELS))).astype(np.float32)
    means = np.zeros((n_images, N_VOXELS), np.float32)
    found = VarianceComponents(trials, index, means, REGIONS[1:]).of_regions
    expected = 0.1 * signal + 0.9 * signal / 20
    assert found.signal[0] == pytest.approx(expected, rel=0.25)
    assert found.noise[0] == pytest.approx(1 / 20, rel=0.1)
    readout, _ = fit_separated(trials, index, means, rng, together=Together(tuple(REGIONS)))
    assert of_mean(readout.signal, REGIONS[1]) == pytest.approx(found.signal[0], rel=0.05)
    without, _ = fit_separated(trials, index, means, rng)
    np.testing.assert_allclose(without.signal.variance, readout.signal.variance, rtol=1e-4)
    once, _ = fit_separated(
        trials[:300], np.arange(300), means, rng, together=Together(tuple(REGIONS))
    )
    assert once.signal.is_nothing
