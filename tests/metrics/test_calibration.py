"""Draws that are right must look right, and those that are wrong in one way must show it."""

import functools
import tracemalloc
from functools import partial

import numpy as np
import pytest
import scoringrules
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from scipy import stats

from synbrain_cli.errors import InputError, InputTypeError
from synbrain_cli.metrics import calibration
from synbrain_cli.metrics.noise_correlation import noise_correlation, noise_correlation_agreement

seeds = st.integers(0, 2**32 - 1)
MIXING = np.array([[1.0, 0, 0, 0], [0.8, 0.6, 0, 0], [0, 0, 1, 0], [0, 0, -0.6, 0.8]])


def rng(seed=0):
    return np.random.default_rng(seed)


def ensemble(n_draws, spread=1.0, shift=0.0, n_images=60, n_trials=3, n_voxels=25, seed=0):
    """Trials and draws of each image: same mean, draws wider by `spread` and moved by `shift`."""
    generator = rng(seed)
    for _ in range(n_images):
        mean = generator.normal(size=n_voxels)
        trials = mean + generator.normal(size=(n_trials, n_voxels))
        drawn = mean + shift + spread * generator.normal(size=(n_draws, n_voxels))
        yield trials.astype(np.float32), drawn.astype(np.float32)


@functools.cache
def all_pits(n_draws, **how):
    generator = rng(1)
    return np.concatenate([calibration.pit(t, d, generator) for t, d in ensemble(n_draws, **how)])


def repeated(n_images, n_repeats, mixing=MIXING, seed=0, signal=3.0):
    """Single trials whose noise has covariance mixing·mixingᵀ, around one mean per image."""
    generator = rng(seed)
    index = generator.permutation(np.repeat(np.arange(n_images), n_repeats))
    means = signal * generator.normal(size=(n_images, len(mixing)))
    noise = generator.normal(size=(len(index), mixing.shape[1])) @ mixing.T
    return (means[index] + noise).astype(np.float32), index


def loadings(n_voxels, n_factors=3, seed=9):
    """Noise shared by voxels through a few factors, plus noise of each voxel."""
    return np.hstack([rng(seed).normal(size=(n_voxels, n_factors)), np.eye(n_voxels)])


# Rank of trials among draws -----------------------------------------------------------------------


class Constant(np.random.Generator):
    """A generator whose U is always one value."""

    def __init__(self, value):
        super().__init__(np.random.PCG64(0))
        self.value = value

    def random(self, size=None):
        return np.full(size, self.value)


@pytest.mark.parametrize("u", [0.0, 0.25, 0.75])
def test_pit_by_hand(u):
    trials = np.array([[0, 2, 2, 9], [2, 2, 2, 2]], dtype=np.float32)
    drawn = np.array([[1, 1, 2, 1], [2, 2, 2, 2], [3, 2, 2, 3]], dtype=np.float32)
    below = [[0, 1, 0, 3], [1, 1, 0, 1]]
    ties = [[0, 2, 3, 0], [1, 2, 3, 1]]
    found = calibration.pit(trials, drawn, Constant(u))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, (np.array(below) + u * (np.array(ties) + 1)) / 4)


@pytest.mark.parametrize("n_draws", [1, 2, 7, 50])
def test_pit_of_exchangeable_trials_is_uniform(n_draws):
    values = all_pits(n_draws, n_trials=1).ravel()
    assert stats.kstest(values, "uniform").pvalue > 0.01
    # Ties are broken at random, so integers are no exception
    counts = rng(3).poisson(1.0, size=(n_draws + 1, 3000))
    values = calibration.pit(counts[:1], counts[1:], rng(4)).ravel()
    assert stats.kstest(values, "uniform").pvalue > 0.01


@given(seeds, st.integers(1, 6), npst.arrays(np.float32, (3, 4), elements=st.integers(-2, 2)))
@settings(max_examples=40, deadline=None)
def test_pit_is_a_probability_between_the_ranks(seed, n_draws, trials):
    drawn = rng(seed).integers(-2, 3, size=(n_draws, 4)).astype(np.float32)
    values = calibration.pit(trials, drawn, rng(seed))
    below = (drawn[:, None] < trials).sum(0)
    up_to = (drawn[:, None] <= trials).sum(0)
    assert (values >= 0).all()
    assert (values <= 1).all()
    assert (values >= below / (n_draws + 1) - 1e-6).all()
    assert (values <= (up_to + 1) / (n_draws + 1) + 1e-6).all()


def test_pit_depends_on_the_generator_alone():
    trials, drawn = next(ensemble(5))
    np.testing.assert_array_equal(
        calibration.pit(trials, drawn, rng(3)), calibration.pit(trials, drawn, rng(3))
    )
    assert (calibration.pit(trials, drawn, rng(3)) != calibration.pit(trials, drawn, rng(4))).any()


@pytest.mark.parametrize("level", calibration.LEVELS)
@pytest.mark.parametrize("n_draws", [7, 200])
def test_coverage_is_nominal_for_exchangeable_draws(n_draws, level):
    values = all_pits(n_draws, n_images=4000, n_trials=1, n_voxels=10)  # independent trials
    found = calibration.coverage(values, level)
    error = np.sqrt(level * (1 - level) / 4000)
    assert found.shape == (10,)
    np.testing.assert_allclose(found, level, atol=4 * error)
    assert found.mean() == pytest.approx(level, abs=4 * error / np.sqrt(10))


@pytest.mark.parametrize("level", calibration.LEVELS)
def test_wrong_spread_and_bias_show_in_coverage(level):
    expected = stats.norm.cdf(stats.norm.ppf((1 + level) / 2) / 2) * 2 - 1
    # With many draws the interval is the model's own: ±2 z of a model twice too narrow, and so on
    narrow = calibration.coverage(all_pits(400, spread=0.5, n_trials=20), level).mean()
    assert narrow == pytest.approx(expected, abs=0.02)
    wide = calibration.coverage(all_pits(400, spread=2.0, n_trials=20), level).mean()
    assert wide == pytest.approx(
        stats.norm.cdf(stats.norm.ppf((1 + level) / 2) * 2) * 2 - 1, abs=0.02
    )
    assert calibration.coverage(all_pits(50, shift=2.0), level).mean() < level - 0.1


def test_coverage_by_hand():
    values = np.array([[0.25, 0.1, np.nan], [0.75, 0.9, 0.5], [0.2, 0.95, 0.5], [0.5, 0.5, 0.5]])
    np.testing.assert_array_equal(calibration.coverage(values, 0.5), [0.75, 0.25, np.nan])


def test_histogram():
    np.testing.assert_allclose(
        calibration.pit_histogram([[0, 0.1, 0.3], [0.6, 1.0, np.nan]], 4), [1.6, 0.8, 0.8, 0.8]
    )
    flat = calibration.pit_histogram(all_pits(7, n_images=400, n_trials=1))
    assert flat.shape == (20,)
    assert flat.dtype == np.float64
    np.testing.assert_allclose(flat, 1, atol=4.5 * np.sqrt(20 / 10000))
    narrow = calibration.pit_histogram(all_pits(50, spread=0.5), 10)
    wide = calibration.pit_histogram(all_pits(50, spread=2.0), 10)
    low = calibration.pit_histogram(all_pits(50, shift=-1.0), 10)
    assert narrow[[0, -1]].min() > 1.5 > narrow[4:6].max()
    assert wide[[0, -1]].max() < 0.6 < 1.3 < wide[4:6].min()
    assert low[-1] > 3 > 0.5 > low[0]
    for histogram in (flat, narrow, wide, low):
        assert histogram.mean() == pytest.approx(1)


# Proper scores ------------------------------------------------------------------------------------


def test_crps_by_hand():
    # mean |x − y| − |x₁ − x₂| / 2
    trials = np.array([[0, 5], [2, 1]], dtype=np.float32)
    drawn = np.array([[1, 1], [3, 1]], dtype=np.float32)
    found = calibration.crps(trials, drawn)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, [[2 - 1, 4], [1 - 1, 0]])


@given(seeds, st.integers(2, 12))
@settings(max_examples=25, deadline=None)
def test_crps_is_the_fair_one_in_any_order_of_draws(seed, n_draws):
    trials, drawn = rng(seed).normal(size=(3, 4)), rng(seed + 1).normal(size=(n_draws, 4)) + 5
    found = calibration.crps(trials, drawn)
    reference = scoringrules.crps_ensemble(
        trials, np.repeat(drawn[:, None], 3, axis=1), m_axis=0, estimator="fair", backend="numpy"
    )
    np.testing.assert_allclose(found, reference, atol=1e-12)
    np.testing.assert_allclose(
        calibration.crps(trials, rng(seed).permutation(drawn)), found, atol=1e-12
    )


def test_crps_of_many_normal_draws_is_the_closed_form():
    mean, sigma = np.array([0.0, 1.0, -3.0]), np.array([1.0, 0.2, 4.0])
    trials = np.array([[0.0, 1.5, 5.0], [2.0, 1.0, -3.0]])
    drawn = mean + sigma * rng().normal(size=(20000, 3))
    np.testing.assert_allclose(
        calibration.crps(trials, drawn), scoringrules.crps_normal(trials, mean, sigma), rtol=0.03
    )


@pytest.mark.parametrize("n_draws", [2, 3, 60])
def test_few_draws_are_not_punished(n_draws):
    generator = rng()
    # E|X − Y| / 2 for standard normals, whose difference has standard deviation √2: 1 / √π
    found = calibration.crps(
        generator.normal(size=(3, 20000)), generator.normal(size=(n_draws, 20000))
    )
    assert found.mean() == pytest.approx(1 / np.sqrt(np.pi), abs=0.01)
    # In 4 voxels E‖X − Y‖ = √2 E χ₄
    scores = [
        calibration.energy_score(generator.normal(size=(3, 4)), generator.normal(size=(n_draws, 4)))
        for _ in range(2000)
    ]
    truth = stats.chi(4).mean() / np.sqrt(2)
    assert np.mean(scores) == pytest.approx(truth, abs=4 * stats.sem(np.mean(scores, axis=1)))
    assert stats.sem(np.mean(scores, axis=1)) < 0.02


@pytest.mark.parametrize("n_draws", [2, 5, 30])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_energy_score_agrees_with_reference_and_loops(n_draws, dtype):
    trials = (rng().normal(size=(3, 6)) + 10).astype(dtype)
    drawn = (rng(1).normal(size=(n_draws, 6)) + 10).astype(dtype)
    found = calibration.energy_score(trials, drawn)
    assert found.dtype == dtype
    t, d = trials.astype(float), drawn.astype(float)
    reference = scoringrules.es_ensemble(
        t, np.repeat(d[None], 3, axis=0), estimator="fair", backend="numpy"
    )
    spread = np.mean(
        [np.linalg.norm(d[i] - d[j]) for i in range(n_draws) for j in range(n_draws) if i != j]
    )
    loops = [np.mean([np.linalg.norm(x - y) for x in d]) - spread / 2 for y in t]
    tolerance = 1e-6 if dtype == np.float32 else 1e-12
    np.testing.assert_allclose(found, reference, rtol=tolerance)
    np.testing.assert_allclose(found, loops, rtol=tolerance)


@pytest.mark.parametrize("n_draws", [2, 5, 30])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_variogram_score_agrees_with_reference(n_draws, dtype):
    trials = rng().normal(size=(3, 6)).astype(dtype)
    drawn = rng(1).normal(size=(n_draws, 6)).astype(dtype)
    pairs = np.stack(np.triu_indices(6, 1), 1)
    found = calibration.variogram_score(trials, drawn, pairs)
    assert found.dtype == dtype
    every = np.repeat(drawn[None].astype(float), 3, axis=0)
    reference = scoringrules.vs_ensemble(
        trials.astype(float), every, estimator="nrg", backend="numpy"
    )
    roots = np.sqrt(np.abs(drawn[:, pairs[:, 0]] - drawn[:, pairs[:, 1]]).astype(float))
    by_chance = roots.var(0, ddof=1).mean() / n_draws
    expected = reference / (2 * len(pairs)) - by_chance  # the reference takes a pair twice
    np.testing.assert_allclose(found, expected, rtol=1e-4 if dtype == np.float32 else 1e-12)


def test_few_draws_are_not_punished_by_the_variogram_score():
    generator, pairs = rng(), np.stack(np.triu_indices(8, 1), 1)
    scores = {
        n: [
            calibration.variogram_score(
                generator.normal(size=(2, 8)), generator.normal(size=(n, 8)), pairs
            ).mean()
            for _ in range(1500)
        ]
        for n in (2, 40)
    }
    error = np.hypot(*(stats.sem(values) for values in scores.values()))
    assert np.mean(scores[2]) == pytest.approx(np.mean(scores[40]), abs=4 * error)


def test_the_variogram_score_sees_correlations_that_the_energy_score_hardly_sees():
    generator, pairs = rng(), np.stack(np.triu_indices(8, 1), 1)

    def patterns(n, shared):
        own = generator.normal(size=(n, 8))
        return np.sqrt(shared) * generator.normal(size=(n, 1)) + np.sqrt(1 - shared) * own

    trials = patterns(400, 0.6)
    right, wrong = patterns(400, 0.6), patterns(400, 0.0)
    scores = {
        "energy": calibration.energy_score,
        "variogram": partial(calibration.variogram_score, pairs=pairs),
    }
    loss = {
        n: score(trials, wrong).mean() / score(trials, right).mean() for n, score in scores.items()
    }
    assert loss["variogram"] - 1 > 3 * (loss["energy"] - 1) > 0


def test_energy_score_of_one_voxel_is_crps():
    trials, drawn = rng().normal(size=(5, 1)), rng(1).normal(size=(20, 1))
    np.testing.assert_allclose(
        calibration.energy_score(trials, drawn), calibration.crps(trials, drawn)[:, 0], atol=1e-10
    )


def test_energy_score_of_equal_draws_is_the_distance():
    pattern = 1e3 + rng().normal(size=50)
    drawn = np.repeat(pattern[None], 7, axis=0)
    trial = pattern[None] + 1
    np.testing.assert_allclose(calibration.energy_score(trial, drawn), np.sqrt(50), rtol=1e-9)


def test_true_distribution_scores_best():
    mixing = loadings(10)
    generator = rng()
    sd = np.sqrt((mixing**2).sum(1))

    def draw(n):
        return generator.normal(size=(n, mixing.shape[1])) @ mixing.T

    wrong = {
        "moved": lambda n: draw(n) + 0.5 * sd,
        "too wide": lambda n: 1.7 * draw(n),
        "too narrow": lambda n: 0.5 * draw(n),
        "uncorrelated": lambda n: generator.normal(size=(n, 10)) * sd,
    }
    trials = [draw(3) for _ in range(600)]
    energy = {name: [] for name in ("true", *wrong)}
    univariate = {name: [] for name in energy}
    for trial in trials:
        for name, source in {"true": draw, **wrong}.items():
            drawn = source(20)
            energy[name].append(calibration.energy_score(trial, drawn).mean())
            univariate[name].append(calibration.crps(trial, drawn).mean())
    for name in wrong:
        worse = np.subtract(energy[name], energy["true"])
        assert worse.mean() > 3 * stats.sem(worse), name
    for name in ("moved", "too wide", "too narrow"):
        worse = np.subtract(univariate[name], univariate["true"])
        assert worse.mean() > 3 * stats.sem(worse), name
    # Voxel by voxel, nothing shows that correlations are missing
    gap = np.subtract(univariate["uncorrelated"], univariate["true"])
    assert abs(gap.mean()) < 4 * stats.sem(gap)


def test_scores_of_one_image_fit_in_memory():
    trials = rng().normal(size=(3, 3000)).astype(np.float32)
    drawn = rng(1).normal(size=(100, 3000)).astype(np.float32)
    in_float64 = drawn.size * 8
    calls = {
        "pit": lambda: calibration.pit(trials, drawn, rng()),
        "crps": lambda: calibration.crps(trials, drawn),
        "energy_score": lambda: calibration.energy_score(trials, drawn),
    }
    for name, call in calls.items():  # all pairs of draws would take 100 times as much
        tracemalloc.start()
        call()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 8 * in_float64, name
        assert name != "pit" or peak < in_float64, name


# Variance -----------------------------------------------------------------------------------------


def test_variance_ratio():
    recorded = (rng().normal(size=(900, 4)) * [1, 2, 3, 1] + 100).astype(np.float32)
    drawn = (rng(1).normal(size=(3000, 4)) * [1, 1, 6, 1] - 7).astype(np.float32)
    recorded[:, 3] = 0.1
    found = calibration.variance_ratio(drawn, recorded)
    assert found.dtype == np.float32
    above, below = (x[:, :3].astype(float).var(0, ddof=1) for x in (drawn, recorded))
    np.testing.assert_allclose(found[:3], above / below, rtol=1e-5)
    np.testing.assert_allclose(found[:3], [1, 0.25, 4], rtol=0.2)
    assert np.isnan(found[3])
    drawn[:, 1], drawn[0, 2] = 0.1, np.nan
    found = calibration.variance_ratio(drawn, recorded)
    assert found[1] == 0  # the same draw again and again
    assert np.isnan(found[2])
    assert np.isfinite(found[0])


# Noise correlations -------------------------------------------------------------------------------


def test_noise_correlation_is_that_of_the_deviations():
    betas = rng().normal(size=(9, 4))
    index = np.array(["b", "a", "b", "c", "a", "d", "d", "b", "e"])  # c and e are seen once
    deviations = np.vstack(
        [betas[index == name] - betas[index == name].mean(0) for name in ("a", "b", "d")]
    )
    found = noise_correlation(betas, index)
    np.testing.assert_allclose(found, np.corrcoef(deviations.T), atol=1e-12)
    once = np.isin(index, ["c", "e"])
    np.testing.assert_array_equal(noise_correlation(betas[~once], index[~once]), found)
    betas[once] = np.nan  # not even when they are missing
    np.testing.assert_array_equal(noise_correlation(betas, index), found)


def test_noise_correlation_recovers_the_truth_whatever_the_images():
    betas, index = repeated(3000, 3, signal=10.0)
    found = noise_correlation(betas, index)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, MIXING @ MIXING.T, atol=0.05)
    scaled = noise_correlation(betas * [1, 2, 5, 0.1] + 3, index)
    np.testing.assert_allclose(scaled, found, atol=1e-4)


def test_noise_correlation_of_some_voxels():
    betas, index = repeated(50, 3)
    found = noise_correlation(betas, index)
    np.testing.assert_allclose(
        noise_correlation(betas, index, voxels=[2, 0]),
        found[np.ix_([2, 0], [2, 0])],
    )


def test_noise_correlation_special_voxels():
    betas, index = repeated(50, 3)
    betas[:, 1] = 0.1 * index  # images differ, repeats do not
    betas[3, 2] = np.nan
    found = noise_correlation(betas, index)
    special = np.isin(np.arange(4), [1, 2])
    np.testing.assert_array_equal(np.isnan(found), special[:, None] | special)


def test_same_noise_agrees_and_other_noise_does_not():
    mixing = loadings(25)
    recorded, index = repeated(100, 3, mixing, seed=1)
    drawn, drawn_index = repeated(100, 60, mixing, seed=2)
    found = noise_correlation_agreement(drawn, drawn_index, recorded, index, rng())
    assert set(found) == {"correlation", "reliability", "ceiling", "share"}
    assert all(type(value) is float for value in found.values())
    assert found["share"] == pytest.approx(1, abs=0.03)
    assert found["ceiling"] == pytest.approx(np.sqrt(found["reliability"]))
    assert found["share"] == pytest.approx(found["correlation"] / found["ceiling"])
    independent = repeated(100, 60, np.eye(25), seed=2)
    other = repeated(100, 60, loadings(25, seed=8), seed=2)
    for wrong in (independent, other):
        low = noise_correlation_agreement(*wrong, recorded, index, rng())
        assert abs(low["share"]) < 0.35
        assert low["reliability"] == found["reliability"]  # a property of the recordings


def test_ceiling_is_what_the_true_matrix_reaches():
    mixing = np.hstack([0.3 * loadings(40)[:, :3], np.eye(40)])
    covariance = mixing @ mixing.T
    sd = np.sqrt(np.diag(covariance))
    pairs = np.triu_indices(40, 1)
    truth = (covariance / np.outer(sd, sd))[pairs]
    reached, ceilings = [], []
    for seed in range(10):
        recorded, index = repeated(25, 3, mixing, seed=seed)
        found = noise_correlation_agreement(recorded, index, recorded, index, rng(), n_splits=10)
        ceilings.append(found["ceiling"])
        matrix = noise_correlation(recorded, index)
        reached.append(np.corrcoef(matrix[pairs], truth)[0, 1])
        assert found["correlation"] == pytest.approx(1)  # a matrix with itself
    assert 0.4 < np.mean(reached) < 0.9  # far from 1, or the test would say little
    assert np.mean(ceilings) == pytest.approx(np.mean(reached), abs=0.04)


def test_halves_hold_whole_images():
    """By hand: four images allow three splits; the average lies among their correlations."""
    betas, index = repeated(4, 4, loadings(8))
    pairs = np.triu_indices(8, 1)

    def half(images):
        chosen = np.isin(index, images)
        return noise_correlation(betas[chosen], index[chosen])[pairs]

    possible = [
        np.corrcoef(half(a), half(b))[0, 1]
        for a, b in (([0, 1], [2, 3]), ([0, 2], [1, 3]), ([0, 3], [1, 2]))
    ]
    stepped = [2 * r / (1 + r) for r in possible]
    one = noise_correlation_agreement(betas, index, betas, index, rng(), n_splits=1)
    assert np.isclose(stepped, one["reliability"]).any()
    r = np.mean(possible)
    many = noise_correlation_agreement(betas, index, betas, index, rng(), n_splits=1000)
    assert many["reliability"] == pytest.approx(2 * r / (1 + r), abs=0.02)


def test_unreliable_recordings_have_no_ceiling():
    for seed in range(20):
        recorded, index = repeated(4, 2, np.eye(5), seed=seed)
        found = noise_correlation_agreement(recorded, index, recorded, index, rng(), 2)
        if found["reliability"] <= 0:
            break
    assert found["reliability"] <= 0
    assert np.isnan([found["ceiling"], found["share"]]).all()
    assert found["correlation"] == pytest.approx(1)


def test_missing_values_reach_the_agreement():
    recorded, index = repeated(20, 3)
    missing = recorded.copy()
    missing[0, 0] = np.nan
    found = noise_correlation_agreement(missing, index, recorded, index, rng())
    assert np.isnan([found["correlation"], found["share"]]).all()
    assert np.isfinite([found["reliability"]]).all()
    found = noise_correlation_agreement(recorded, index, missing, index, rng())
    assert np.isnan(list(found.values())).all()


# One number per voxel -----------------------------------------------------------------------------


def test_line_agreement():
    recorded = rng().uniform(0.1, 1, size=500)
    drawn = 0.2 + 0.5 * recorded + 0.05 * rng(1).normal(size=500)
    found = calibration.line_agreement(drawn.astype(np.float32), recorded.astype(np.float32))
    reference = stats.linregress(recorded, drawn)
    assert found["correlation"] == pytest.approx(reference.rvalue, rel=1e-5)
    assert found["slope"] == pytest.approx(reference.slope, rel=1e-5)
    assert found["median_ratio"] == pytest.approx(np.median(drawn / recorded), rel=1e-5)
    # Voxels where either is missing or infinite are left out
    d = np.r_[drawn, np.nan, 1, np.inf, 1]
    r = np.r_[recorded, 1, np.nan, 1, np.inf]
    for name, value in calibration.line_agreement(d, r).items():
        assert value == pytest.approx(found[name], rel=1e-5)


@pytest.mark.parametrize(
    ("drawn", "recorded", "correlation", "slope", "ratio"),
    [
        ([1, 2, 3], [2, 4, 6], 1, 0.5, 0.5),
        ([3, 2, 1], [1, 2, 3], -1, -1, 1),
        ([0.1, 0.1, 0.1], [1, 2, 4], 0, 0, 0.05),
        ([1, 2, 3], [0.1, 0.1, 0.1], np.nan, np.nan, 20),
        ([0, 1, 2, 3], [0, 0, 1, 2], 0.944, 1.273, 2),  # 0 / 0 is out, 1 / 0 is above the median
        ([0, 0], [0, 0], np.nan, np.nan, np.nan),
    ],
)
def test_line_agreement_by_hand(drawn, recorded, correlation, slope, ratio):
    found = calibration.line_agreement(drawn, recorded)
    np.testing.assert_allclose(
        [found["correlation"], found["slope"], found["median_ratio"]],
        [correlation, slope, ratio],
        atol=1e-3,
    )


# All ----------------------------------------------------------------------------------------------


def test_missing_values_reach_their_scores_and_no_other():
    for which in range(2):
        arrays = [a.copy() for a in next(ensemble(6, n_voxels=4))]
        arrays[which][1, 2] = np.nan
        expected = np.zeros((3, 4), dtype=bool)
        expected[1 if which == 0 else slice(None), 2] = True
        np.testing.assert_array_equal(np.isnan(calibration.pit(*arrays, rng())), expected)
        np.testing.assert_array_equal(np.isnan(calibration.crps(*arrays)), expected)
        np.testing.assert_array_equal(np.isnan(calibration.energy_score(*arrays)), expected.any(1))


def test_inputs_are_not_changed():
    trials, drawn = (x[:, ::-1] for x in next(ensemble(6)))
    recorded, index = repeated(10, 3)
    calls = [
        (lambda t, d: calibration.pit(t, d, rng()), trials, drawn),
        (calibration.crps, trials, drawn),
        (calibration.energy_score, trials, drawn),
        (lambda t, d: calibration.energy_score(t.astype(float), d), trials, drawn.astype(float)),
        (calibration.variance_ratio, trials, drawn),
        (noise_correlation, recorded.astype(float), index),
        (
            lambda r, i: noise_correlation_agreement(r, i, r, i, rng()),
            recorded.astype(float),
            index,
        ),
        (calibration.line_agreement, trials[0], drawn[0]),
    ]
    for call, *arrays in calls:
        before = [a.copy() for a in arrays]
        for array in arrays:
            array.flags.writeable = False
        call(*arrays)
        for array, copy in zip(arrays, before, strict=True):
            np.testing.assert_array_equal(array, copy)


def test_lists_and_integers_are_scored_in_float64():
    for score in (calibration.crps, calibration.energy_score, calibration.variance_ratio):
        found = score([[1, 200], [2, 7]], [[3, 4], [5, 60]])
        assert found.dtype == np.float64
        assert np.isfinite(found).all()


ONES, TWO, INDEX = np.ones((4, 3)), np.ones((2, 3)), [0, 0, 1, 1]


def agreement(drawn=None, recorded=None, generator=None, n_images=4, **options):
    betas, index = repeated(n_images, 2)
    betas = betas if recorded is None else recorded
    drawn = betas if drawn is None else drawn
    return noise_correlation_agreement(
        drawn, index, betas, index, rng() if generator is None else generator, **options
    )


@pytest.mark.parametrize(
    ("call", "message", "error"),
    [
        (
            lambda: calibration.pit(ONES, np.ones((5, 2)), rng()),
            "same voxels, found 3 and 2",
            InputError,
        ),
        (lambda: calibration.pit(ONES, np.ones((0, 3)), rng()), "draws: expected", InputError),
        (lambda: calibration.pit(ONES[0], TWO, rng()), "trials: expected", InputError),
        (lambda: calibration.pit(ONES, TWO, 0), "Generator, found int", InputTypeError),
        (lambda: calibration.pit([["a"]], [["b"]], rng()), "expected real numbers", InputTypeError),
        (lambda: calibration.crps(ONES, TWO[:1]), "two draws or more, found 1", InputError),
        (lambda: calibration.crps(ONES, np.ones((5, 1))), "same voxels", InputError),
        (lambda: calibration.energy_score(ONES, TWO[:1]), "two draws or more, found 1", InputError),
        (lambda: calibration.energy_score(ONES, np.ones((5, 2))), "same voxels", InputError),
        (lambda: calibration.coverage(ONES, 95), "between 0 and 1, found 95", InputError),
        (lambda: calibration.coverage(ONES, 0), "between 0 and 1, found 0", InputError),
        (lambda: calibration.coverage(2 * ONES, 0.5), "found 2 to 2: pass what pit", InputError),
        (lambda: calibration.coverage(ONES[0], 0.5), "pit_values: expected", InputError),
        (lambda: calibration.pit_histogram(-ONES), "between 0 and 1, found -1", InputError),
        (lambda: calibration.pit_histogram(ONES, 0), "one bin or more, found 0", InputError),
        (lambda: calibration.pit_histogram(ONES * np.nan), "not missing, found none", InputError),
        (
            lambda: calibration.variance_ratio(ONES[:1], TWO),
            "drawn: expected two trials",
            InputError,
        ),
        (lambda: calibration.variance_ratio(ONES, TWO[:1]), "recorded: expected two", InputError),
        (lambda: calibration.variance_ratio(ONES, TWO[:, :1]), "same voxels", InputError),
        (
            lambda: noise_correlation(TWO, [0, 1]),
            "seen twice, found 2 images",
            InputError,
        ),
        (
            lambda: noise_correlation(ONES, [0, 1]),
            "one image per trial",
            InputError,
        ),
        (
            lambda: noise_correlation(ONES, INDEX, [0.0]),
            "pass numpy.flat",
            InputTypeError,
        ),
        (
            lambda: noise_correlation(ONES, INDEX, [True]),
            "pass numpy.flat",
            InputTypeError,
        ),
        (
            lambda: noise_correlation(ONES, INDEX, [0, 3]),
            "0 to 2, .*from 0 to 3",
            InputError,
        ),
        (
            lambda: noise_correlation(ONES, INDEX, [-1]),
            "expected a list",
            InputError,
        ),
        (
            lambda: noise_correlation(ONES, INDEX, [[0]]),
            "expected a list",
            InputError,
        ),
        (
            lambda: noise_correlation(ONES, INDEX, np.zeros(0, int)),
            "expected a list",
            InputError,
        ),
        (lambda: agreement(n_images=3), "four images or more .*found 3", InputError),
        (lambda: agreement(recorded=np.ones((8, 2))), "three voxels or more, found 2", InputError),
        (lambda: agreement(drawn=np.ones((8, 3))), "same voxels, found 3 and 4", InputError),
        (lambda: agreement(generator=3), "Generator, found int", InputTypeError),
        (lambda: agreement(n_splits=0), "one split or more, found 0", InputError),
        (lambda: calibration.line_agreement([1, 2], [1]), "one number per voxel", InputError),
        (
            lambda: calibration.line_agreement([[1, 2]], [[1, 2]]),
            "one number per voxel",
            InputError,
        ),
        (
            lambda: calibration.line_agreement([1, np.nan], [1, 2]),
            "finite or more, found 1",
            InputError,
        ),
        (lambda: calibration.line_agreement(["a", "b"], [1, 2]), "real numbers", InputTypeError),
    ],
)
def test_bad_input_is_refused(call, message, error):
    with pytest.raises(error, match=message) as caught:
        call()
    assert "expected" in str(caught.value)
    assert "found" in str(caught.value)


@pytest.mark.parametrize("n_draws", [2, 255, 256, 700])
def test_ranks_of_many_draws_are_counted(n_draws):
    """Draws are counted in bytes, which hold 255."""
    drawn = np.tile(np.arange(n_draws, dtype=np.float32)[:, None], (1, 3))
    trials = np.array([[-1, n_draws, n_draws // 2 + 0.5]], np.float32)
    found = calibration.pit(trials, drawn, rng())
    below = np.array([0, n_draws, n_draws // 2 + 1])
    assert (found * (n_draws + 1) >= below - 1e-3).all()
    assert (found * (n_draws + 1) <= below + 1 + 1e-3).all()


def test_an_ensemble_scores_several_sets_of_trials_as_each_alone():
    generator = rng()
    drawn = generator.normal(size=(20, 3000)).astype(np.float32)
    ensemble = calibration.Ensemble(drawn)
    for _ in range(3):
        trials = generator.normal(size=(2, 3000)).astype(np.float32)
        np.testing.assert_array_equal(ensemble.crps(trials), calibration.crps(trials, drawn))
        np.testing.assert_array_equal(
            ensemble.energy_score(trials), calibration.energy_score(trials, drawn)
        )
        np.testing.assert_array_equal(
            ensemble.pit(trials, rng()), calibration.pit(trials, drawn, rng())
        )
        reference = scoringrules.crps_ensemble(
            trials, np.repeat(drawn[:, None], 2, 1), m_axis=0, estimator="pwm", backend="numpy"
        )
        np.testing.assert_allclose(ensemble.crps(trials), reference, atol=1e-5)
