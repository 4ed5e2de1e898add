"""Factors of regions and of predicted patterns: sums vary as measured, voxels as before."""

import numpy as np
import pytest

from synbrain_cli.model.components import VarianceComponents
from synbrain_cli.model.covariance import LowRank, add_factors
from synbrain_cli.model.readout import Together, fit_readout, fit_separated

N_VOXELS = 60
REGIONS = [np.arange(N_VOXELS) < 40, (np.arange(N_VOXELS) >= 10) & (np.arange(N_VOXELS) < 30)]
MEANS = np.array([region / region.sum() for region in REGIONS])


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
    more = add_factors(found, MEANS, wanted)
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
    more = add_factors(found, MEANS, wanted)
    ratios = np.array([of_mean(more, r) for r in REGIONS]) / wanted
    assert 1 < ratios[0] < 1.5
    assert ratios[1] < 1
    alone = add_factors(found, MEANS[1:], wanted[1:])
    apart = np.array([of_mean(alone, r) for r in REGIONS]) / wanted
    assert np.square(ratios - 1).sum() < np.square(apart - 1).sum()
    np.testing.assert_allclose(more.variance, found.variance, rtol=1e-5)


def test_a_region_that_lacks_nothing_has_no_factor(rng):
    found = LowRank(
        rng.normal(size=(N_VOXELS, 2)).astype(np.float32), np.ones(N_VOXELS, np.float32)
    )
    now = np.array([of_mean(found, region) for region in REGIONS])
    assert add_factors(found, MEANS, now).loadings.shape == (N_VOXELS, 2)
    assert add_factors(found, MEANS, 0.5 * now).loadings.shape == (N_VOXELS, 2)
    nothing = LowRank.independent(np.zeros(N_VOXELS))
    assert add_factors(nothing, MEANS, now).is_nothing
    # No more can be taken than voxels have for themselves
    most = add_factors(LowRank.independent(np.ones(N_VOXELS)), MEANS, np.array([5.0, 5.0]))
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
    found = VarianceComponents(trials, index, means, REGIONS[1:]).of_sums
    expected = 0.1 * signal + 0.9 * signal / 20
    assert found.signal.variance[0] == pytest.approx(expected, rel=0.25)
    assert found.noise.variance[0] == pytest.approx(1 / 20, rel=0.1)
    readout, _ = fit_separated(trials, index, means, rng, together=Together(tuple(REGIONS)))
    assert of_mean(readout.signal, REGIONS[1]) == pytest.approx(found.signal.variance[0], rel=0.05)
    without, _ = fit_separated(trials, index, means, rng)
    np.testing.assert_allclose(without.signal.variance, readout.signal.variance, rtol=1e-4)
    once, _ = fit_separated(
        trials[:300], np.arange(300), means, rng, together=Together(tuple(REGIONS))
    )
    assert once.signal.is_nothing


def simulated(rng, patterns, variance):
    """Trials of images whose predictions vary along patterns, as u does by a variance of each."""
    n_images, n_repeats, signal = 1_000, 3, 0.5
    index = np.repeat(np.arange(n_images), n_repeats)
    means = rng.normal(size=(n_images, len(patterns))) * [3.0, 2.0, 1.5] @ patterns
    u = rng.normal(size=(n_images, len(patterns))) * np.sqrt(variance) @ patterns
    u = u + signal**0.5 * rng.normal(size=u.shape)
    trials = means[index] + u[index] + rng.normal(size=(len(index), u.shape[1]))
    return trials.astype(np.float32), index, means.astype(np.float32), signal


@pytest.fixture
def patterns(rng):
    """Three orthogonal patterns of length 1 over 200 voxels."""
    return np.linalg.qr(rng.normal(size=(200, 3)))[0].T


def test_unexplained_signal_along_predicted_patterns_varies_as_the_trials_say(rng, patterns):
    lacking = 0.4
    trials, index, means, signal = simulated(rng, patterns, lacking)
    readout = fit_readout(trials, index, means, rng)

    def along(found):
        return np.einsum("kv,vw,kw->k", patterns, covariance(found), patterns)

    np.testing.assert_allclose(along(readout.signal).mean(), signal + lacking, rtol=0.12)
    np.testing.assert_allclose(along(readout.noise).mean(), 1, rtol=0.05)
    # Nothing of it where predictions vary along other patterns
    other = np.linalg.qr(np.concatenate([patterns, rng.normal(size=(3, 200))]).T)[0].T[3:]
    elsewhere = means @ patterns.T @ other
    without = fit_readout(trials - means[index] + elsewhere[index], index, elsewhere, rng)
    assert along(without.signal).mean() < along(readout.signal).mean() - lacking / 2
    np.testing.assert_allclose(without.signal.variance, readout.signal.variance, rtol=0.05)


def test_signal_that_has_nothing_to_do_with_predictions_gets_little_more(rng, patterns):
    trials, index, means, signal = simulated(rng, patterns, 0.0)
    readout = fit_readout(trials, index, means, rng)
    along = np.einsum("kv,vw,kw->k", patterns, covariance(readout.signal), patterns)
    np.testing.assert_allclose(along.mean(), signal, rtol=0.12)
    loadings = readout.signal.loadings
    assert np.square(loadings).sum() < 0.05 * readout.signal.variance.sum()


def test_patterns_are_components_of_the_predictions_and_means_that_do_not_vary_have_none(
    rng, patterns
):
    trials, index, means, _ = simulated(rng, patterns, 0.0)
    found = VarianceComponents(trials, index, means, [np.arange(200) < 50]).sums
    np.testing.assert_allclose(found[0], np.where(np.arange(200) < 50, 1 / 50, 0), rtol=1e-6)
    assert found.shape == (1 + 3, 200)
    np.testing.assert_allclose(np.abs(found[1:] @ patterns.T), np.eye(3), atol=0.2)
    constant = np.broadcast_to(means[0], means.shape)
    assert VarianceComponents(trials, index, constant).sums.shape == (0, 200)
    one_voxel = VarianceComponents(trials[:, :1], index, means[:, :1])
    assert one_voxel.sums.shape == (0, 1)


def test_of_few_images_what_chance_adds_along_patterns_is_not_taken_for_signal(rng, monkeypatch):
    """Factors fill what lacks, and cannot take away: chance alone would add to all of them."""
    n_images, n_voxels, signal = 100, 200, 0.3
    index = np.repeat(np.arange(n_images), 3)
    means = rng.normal(size=(n_images, 30)) @ rng.normal(size=(30, n_voxels))
    u = signal**0.5 * rng.normal(size=means.shape)
    trials = (means + u)[index] + rng.normal(size=(len(index), n_voxels))
    trials, means = trials.astype(np.float32), means.astype(np.float32)

    def added():
        fitted = fit_readout(trials, index, means, np.random.default_rng(0)).signal
        return np.square(fitted.loadings).sum() / fitted.variance.sum()

    pooled = added()
    monkeypatch.setattr("synbrain_cli.model.readout._pooled", lambda measured, known: measured[0])
    assert pooled < 0.7 * added()


def test_patterns_that_lack_nothing_do_not_hold_the_factors_of_regions_down(rng):
    n_images, n_voxels, signal = 150, 120, 0.4
    region = np.arange(n_voxels) < 40
    index = np.repeat(np.arange(n_images), 3)
    patterns = rng.normal(size=(12, n_voxels)) + region  # predictions, too, vary with the region
    means = rng.normal(size=(n_images, 12)) @ patterns
    shared = np.where(region, (0.08 * signal) ** 0.5 * rng.normal(size=(n_images, 1)), 0)
    u = shared + signal**0.5 * rng.normal(size=means.shape)
    trials = ((means + u)[index] + rng.normal(size=(len(index), n_voxels))).astype(np.float32)
    means = means.astype(np.float32)
    measured = VarianceComponents(trials, index, means, [region]).of_sums.signal.variance[0]
    together = Together((region,))
    readout, _ = fit_separated(trials, index, means, np.random.default_rng(0), together=together)
    assert of_mean(readout.signal, region) > 0.97 * measured


@pytest.mark.parametrize("seed", range(3))
def test_patterns_of_voxels_predicted_perfectly_do_not_spoil_those_of_others(seed):
    """Along them nothing is unexplained: estimates are next to 0, or below it."""
    rng = np.random.default_rng(seed)
    patterns = np.linalg.qr(rng.normal(size=(200, 3)))[0].T
    trials, index, means, signal = simulated(rng, patterns, 0.4)
    perfect = 5 * rng.normal(size=(len(means), 3))  # leads all patterns
    exact = perfect[index] + rng.normal(size=(len(index), 3))
    trials = np.hstack([exact, trials]).astype(np.float32)
    means = np.hstack([perfect, means]).astype(np.float32)
    fitted = fit_readout(trials, index, means, rng).signal
    along = np.einsum("kv,vw,kw->k", patterns, covariance(fitted)[3:, 3:], patterns)
    np.testing.assert_allclose(along.mean(), signal + 0.4, rtol=0.12)


def test_an_estimate_below_0_does_not_keep_other_regions_from_their_factors():
    found = LowRank.independent(np.ones(N_VOXELS))
    wanted = np.array([-0.001, 0.1])  # of the region around the other one, too
    more = add_factors(found, MEANS, wanted)
    assert of_mean(more, REGIONS[1]) > 0.06
    np.testing.assert_allclose(more.variance, found.variance, rtol=1e-5)
