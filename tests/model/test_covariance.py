"""Low-rank covariances: what is drawn has them, and samples give them back."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from synbrain_cli.model import covariance
from synbrain_cli.model.covariance import LowRank, Rows, SecondMoment, fit_low_rank


def matrix(low_rank):
    loadings = low_rank.loadings.astype(float)
    return loadings @ loadings.T + np.diag(low_rank.private.astype(float) ** 2)


def shared(covariances):
    """Off-diagonal entries."""
    return covariances[~np.eye(len(covariances), dtype=bool)]


def known(rng, n_voxels, strengths=(0.6, 0.45, 0.3)):
    loadings = rng.normal(0, 1, (n_voxels, len(strengths))) * strengths
    private = rng.uniform(0.5, 1, n_voxels)
    return LowRank(loadings.astype(np.float32), private.astype(np.float32))


def sample(low_rank, n, rng):
    return np.stack([low_rank.draw(rng) for _ in range(n)])


def fit(rows, variance, seed=0, **options):
    """Of one row an image."""
    terms = [Rows(1.0, rows, np.arange(len(rows)))]
    generator = np.random.default_rng(seed)
    return fit_low_rank(SecondMoment(terms, np.ones(len(rows))), variance, generator, **options)


# The distribution


def test_draws_have_the_stated_covariance(rng):
    low_rank = known(rng, 6)
    draws = sample(low_rank, 40_000, rng)
    assert draws.dtype == np.float32
    expected = matrix(low_rank)
    # Of a normal sample, an entry's variance is (Σ_ii Σ_jj + Σ_ij²) / n.
    error = np.sqrt((np.outer(np.diag(expected), np.diag(expected)) + expected**2) / len(draws))
    assert (np.abs(np.cov(draws.T) - expected) < 5 * error).all()
    assert (np.abs(draws.mean(0)) < 5 * np.sqrt(np.diag(expected) / len(draws))).all()


def test_variance_is_the_diagonal(rng):
    low_rank = known(rng, 50)
    np.testing.assert_allclose(low_rank.variance, np.diag(matrix(low_rank)), rtol=1e-12)


def test_a_draw_depends_on_its_generator_alone(rng):
    low_rank = known(rng, 40)
    first = low_rank.draw(np.random.default_rng(3))
    low_rank.draw(np.random.default_rng(4))
    np.testing.assert_array_equal(low_rank.draw(np.random.default_rng(3)), first)
    assert (low_rank.draw(np.random.default_rng(4)) != first).all()


def test_independent_voxels_share_nothing_and_a_negative_estimate_is_none(rng):
    low_rank = LowRank.independent(np.array([4.0, 0.0, -1.0, 0.25]))
    np.testing.assert_array_equal(matrix(low_rank), np.diag([4, 0, 0, 0.25]))
    assert (low_rank.draw(rng)[1:3] == 0).all()


def test_with_variance_keeps_correlations(rng):
    low_rank = known(rng, 20)
    wanted = rng.uniform(0.01, 9, 20)
    rescaled = low_rank.with_variance(wanted)
    np.testing.assert_allclose(rescaled.variance, wanted, rtol=1e-6)
    before, after = (matrix(x) for x in (low_rank, rescaled))
    np.testing.assert_allclose(
        after / np.sqrt(np.outer(wanted, wanted)),
        before / np.sqrt(np.outer(np.diag(before), np.diag(before))),
        atol=1e-6,
    )
    assert rescaled.loadings.dtype == rescaled.private.dtype == np.float32
    np.testing.assert_allclose(low_rank.variance, np.diag(before))  # the first one is left alone


def test_with_variance_of_zero_and_of_voxels_that_had_none(rng):
    low_rank = known(rng, 5).with_variance(np.array([1.0, 0, 1, 2, 3]))
    assert low_rank.variance[1] == 0
    assert (matrix(low_rank)[1] == 0).all()
    # Nothing says how a voxel without variance goes with others: it stays without.
    again = low_rank.with_variance(np.ones(5))
    np.testing.assert_allclose(again.variance, [1, 0, 1, 1, 1], rtol=1e-6)
    assert np.isfinite(again.draw(rng)).all()


# The fit


@pytest.mark.parametrize("seed", range(3))
def test_a_known_covariance_is_recovered(seed):
    rng = np.random.default_rng(seed)
    truth = known(rng, 60)
    fitted = fit(sample(truth, 3000, rng), truth.variance, seed)
    assert np.corrcoef(shared(matrix(fitted)), shared(matrix(truth)))[0, 1] > 0.99
    # Its size, too, and not its pattern alone.
    slope = shared(matrix(fitted)) @ shared(matrix(truth)) / (shared(matrix(truth)) ** 2).sum()
    assert slope == pytest.approx(1, abs=0.05)
    assert fitted.loadings.shape[1] <= 6  # three, and perhaps some of next to nothing
    # What voxels do not share is found as well.
    np.testing.assert_allclose(fitted.private, truth.private, atol=0.08)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(
    ("strengths", "gain"), [((0.6, 0.45, 0.3), 0.95), ((0.3, 0.2), 0.7), ((0.1,), 0.3)]
)
def test_it_beats_the_sample_covariance_where_images_are_few(seed, strengths, gain):
    rng = np.random.default_rng(seed)
    truth = known(rng, 300, strengths)
    rows = sample(truth, 150, rng)
    expected = shared(matrix(truth))
    error = np.linalg.norm(shared(matrix(fit(rows, truth.variance, seed))) - expected)
    raw = np.linalg.norm(shared(rows.T @ rows / len(rows)) - expected)
    assert error < gain * raw


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(("n_voxels", "n_images"), [(100, 400), (300, 150)])
def test_independent_voxels_get_next_to_no_factors(seed, n_voxels, n_images):
    rows = np.random.default_rng(seed).normal(size=(n_images, n_voxels)).astype(np.float32)
    fitted = fit(rows, np.ones(n_voxels), seed)
    # The sample's own first eigenvector would account for 2 to 6 of n_voxels, one in each.
    assert (fitted.loadings**2).sum() < 0.01 * n_voxels
    np.testing.assert_allclose(fitted.private, 1, atol=0.1)


def test_a_factor_of_few_images_is_not_made_larger_by_them():
    """The leading eigenvalue of 100 images and 300 voxels is far above the truth; λ is not."""
    ratios, naive = [], []
    for seed in range(5):
        rng = np.random.default_rng(seed)
        truth = known(rng, 300, (0.2,))
        rows = sample(truth, 100, rng)
        true = (truth.loadings**2).sum()
        ratios.append((fit(rows, truth.variance, seed).loadings ** 2).sum() / true)
        naive.append(np.linalg.eigvalsh(rows @ rows.T / len(rows))[-1] / true)
    assert np.mean(naive) > 1.15
    assert np.mean(ratios) < 1.05


def test_the_diagonal_is_the_variance_asked_for(rng):
    truth = known(rng, 80)
    rows = sample(truth, 500, rng)
    for variance in (truth.variance, rows.var(0, dtype=float), rng.uniform(0.2, 5, 80)):
        np.testing.assert_allclose(fit(rows, variance).variance, variance, rtol=1e-6)


def test_loadings_that_exceed_the_variance_are_shortened(rng):
    truth = known(rng, 80)
    variance = 0.05 * truth.variance
    variance[7] = 0
    fitted = fit(sample(truth, 500, rng), variance)
    np.testing.assert_allclose(fitted.variance, variance, rtol=1e-6)
    assert (fitted.loadings[7] == 0).all()
    assert fitted.private[7] == 0
    assert (fitted.private >= 0).all()
    assert np.isfinite(fitted.loadings).all()


def test_one_seed_gives_one_result(rng):
    truth = known(rng, 50)
    rows = sample(truth, 300, rng)
    first, again, other = (fit(rows, truth.variance, seed) for seed in (5, 5, 6))
    np.testing.assert_array_equal(first.loadings, again.loadings)
    np.testing.assert_array_equal(first.private, again.private)
    # Another deal of folds changes little.
    assert np.corrcoef(shared(matrix(first)), shared(matrix(other)))[0, 1] > 0.99


def test_the_callers_arrays_are_left_alone(rng):
    truth = known(rng, 30)
    rows, variance = sample(truth, 100, rng), truth.variance.copy()
    before = rows.copy()
    fit(rows, variance)
    np.testing.assert_array_equal(rows, before)
    np.testing.assert_array_equal(variance, truth.variance)


@pytest.mark.parametrize("n_images", [1, 4])
def test_few_images_tell_of_no_factor(n_images, rng):
    truth = known(rng, 30)
    fitted = fit(sample(truth, n_images, rng), truth.variance)
    assert fitted.loadings.shape == (30, 0)
    np.testing.assert_allclose(fitted.variance, truth.variance, rtol=1e-6)


def test_rank_is_bounded(rng):
    truth = known(rng, 40, (0.8, 0.7, 0.6, 0.5))
    rows = sample(truth, 1000, rng)
    assert fit(rows, truth.variance, max_rank=2).loadings.shape[1] == 2
    assert fit(rows, truth.variance, max_rank=0).loadings.shape[1] == 0
    assert fit(rows[:, :1], truth.variance[:1]).loadings.shape == (1, 0)  # nobody to share with
    assert fit(rows[:17], truth.variance).loadings.shape[1] <= 17 // covariance.N_FOLDS


# Thousands of voxels


def test_products_without_the_matrix_give_the_same_factors(monkeypatch):
    rng = np.random.default_rng(1)
    truth = known(rng, 200)
    rows = sample(truth, 150, rng)
    rounds = fit(rows, truth.variance)
    monkeypatch.setattr(covariance, "_ROUNDS", 1)
    dense = fit(rows, truth.variance)
    monkeypatch.setattr(covariance, "DENSE", 10)
    thin = fit(rows, truth.variance)
    assert thin.loadings.shape == dense.loadings.shape
    np.testing.assert_allclose(matrix(thin), matrix(dense), atol=1e-4)
    # Beyond DENSE the variance that factors share is taken once, which is next to nothing.
    assert np.corrcoef(shared(matrix(thin)), shared(matrix(rounds)))[0, 1] > 0.99


def test_thousands_of_voxels_need_no_matrix_of_them(rng):
    n_voxels = 3 * covariance.DENSE
    truth = known(rng, n_voxels, (0.5,))
    rows = sample(truth, 40, rng)
    variance = truth.variance
    tracemalloc.start()
    fitted = fit(rows, variance, max_rank=3)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < n_voxels**2 * 4 / 6
    found = np.corrcoef(fitted.loadings[:, 0], truth.loadings[:, 0])[0, 1]
    assert abs(found) > 0.9


# Several terms


def repeated(rng, signal, noise, counts):
    index = rng.permutation(np.repeat(np.arange(len(counts)), counts))
    u = sample(signal, len(counts), rng)
    return u[index] + sample(noise, len(index), rng), index


def pair_terms(trials, index, n_images):
    """Σ over pairs of different repeats: that of all pairs less that of each with itself."""
    sums = np.zeros((n_images, trials.shape[1]), np.float32)
    np.add.at(sums, index, trials)
    return [Rows(1.0, sums, np.arange(n_images)), Rows(-1.0, trials, index)]


# One round leaves 50 voxels' factors too small; of thousands it would not.
@pytest.mark.parametrize(("dense", "short"), [(2048, 0.12), (10, 0.25)])
def test_pairs_of_repeats_give_the_signal_free_of_noise(dense, short, monkeypatch, rng):
    monkeypatch.setattr(covariance, "DENSE", dense)
    signal, noise = known(rng, 50, (0.7, 0.4)), known(rng, 50, (1.2,))
    counts = rng.integers(1, 5, 1500)
    trials, index = repeated(rng, signal, noise, counts)
    terms = pair_terms(trials, index, len(counts))
    moment = SecondMoment(terms, counts * (counts - 1.0))
    fitted = fit_low_rank(moment, signal.variance, rng)
    found, true, other = (shared(matrix(x)) for x in (fitted, signal, noise))
    assert np.corrcoef(found, true)[0, 1] > 0.95
    # The noise's factor is the larger one, and none of it is in there.
    size, leak = np.linalg.lstsq(np.stack([true, other], 1), found, rcond=None)[0]
    assert size == pytest.approx(1, abs=short)
    assert leak == pytest.approx(0, abs=0.05)


def test_images_seen_once_say_nothing_of_pairs(rng):
    signal, noise = known(rng, 30, (0.7,)), known(rng, 30, (0.5,))
    counts = np.repeat([3, 1], [200, 100])
    trials, index = repeated(rng, signal, noise, counts)
    loud = np.where((index >= 200)[:, None], 1000 * trials, trials).astype(np.float32)
    fits = [
        fit_low_rank(
            SecondMoment(pair_terms(x, index, 300), counts * (counts - 1.0)),
            signal.variance,
            np.random.default_rng(0),
        )
        for x in (trials, loud)
    ]
    np.testing.assert_array_equal(fits[0].loadings, fits[1].loadings)


# Factors of regions


def concentration(covariances):
    """Sum of squared eigenvalues over their squared sum: 1 of one factor, 1 / n of independent."""
    return np.square(covariances).sum() / np.trace(covariances) ** 2


def regional_signal(rng, n_voxels=400, size=40):
    """Repeats: of a factor of all voxels and one of each region, with both signs; and noise."""
    loadings = np.zeros((n_voxels, 3))
    loadings[:, 0] = 0.15 * rng.normal(size=n_voxels)
    regions = [np.arange(n_voxels) < size, np.arange(n_voxels) >= n_voxels - size]
    for k, region in enumerate(regions):
        loadings[region, k + 1] = 0.25 * rng.choice([-1, 1], size)
    signal = LowRank(loadings.astype(np.float32), np.full(n_voxels, 0.15, np.float32))
    noise = known(rng, n_voxels, (0.5, 0.4))
    counts = np.full(1200, 3)
    trials, index = repeated(rng, signal, noise, counts)
    return signal, regions, SecondMoment(pair_terms(trials, index, 1200), counts * (counts - 1.0))


def test_what_a_region_shares_is_found_within_it(rng):
    signal, regions, moment = regional_signal(rng)
    fits = [
        fit_low_rank(moment, signal.variance, np.random.default_rng(0), own)
        for own in ([], regions)
    ]
    lost, found = ([concentration(matrix(one)[np.ix_(r, r)]) for r in regions] for one in fits)
    true = [concentration(matrix(signal)[np.ix_(r, r)]) for r in regions]
    np.testing.assert_allclose(found, true, rtol=0.25)
    assert (np.array(lost) < 0.3 * np.array(found)).all()
    for one in fits:
        np.testing.assert_allclose(one.variance, signal.variance, rtol=1e-5)
    # Outside the regions, nothing but the factors of all voxels
    elsewhere = ~(regions[0] | regions[1])
    n_all = fits[0].loadings.shape[1]
    assert not fits[1].loadings[elsewhere, n_all:].any()


def test_regions_that_share_nothing_have_no_factors(rng):
    rows = sample(known(rng, 120), 600, rng)
    regions = [np.arange(120) // 30 == k for k in range(4)]
    plain, regional = (fit(rows, rows.var(0), regions=own) for own in ([], regions))
    # Chance may leave a factor to a region, of next to no variance
    shared = np.square(regional.loadings[:, plain.loadings.shape[1] :]).sum()
    assert shared < 0.01 * rows.var(0).sum()


def test_factors_of_regions_do_not_depend_on_how_many_voxels_are_dense(monkeypatch, rng):
    """Products with rows, and with a matrix, are the same moment."""
    signal, regions, moment = regional_signal(rng, n_voxels=150)
    one = fit_low_rank(moment, signal.variance, np.random.default_rng(0), regions)
    monkeypatch.setattr(covariance, "DENSE", 45)  # all voxels, but no region
    other = fit_low_rank(moment, signal.variance, np.random.default_rng(0), regions)
    for r in regions:
        of_both = [matrix(x)[np.ix_(r, r)] for x in (one, other)]
        np.testing.assert_allclose(*map(concentration, of_both), rtol=0.1)
