"""The response distribution: drawn as stated, and found again from trials drawn from it."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
from scipy import stats

from synbrain_cli.metrics.calibration import LEVELS, coverage, pit, variance_ratio
from synbrain_cli.metrics.noise_ceiling import ncsnr
from synbrain_cli.model.components import VarianceComponents
from synbrain_cli.model.covariance import LowRank
from synbrain_cli.model.curve import NODES, WIDE, bend, normal_scores, sd_of_normal
from synbrain_cli.model.density import TrialDensity
from synbrain_cli.model.draw_key import draw_generator, draw_key
from synbrain_cli.model.readout import (
    MAX_SIGNAL_DEPENDENCE,
    LatentReadout,
    Readout,
    fit_image_blind,
    fit_readout,
    less_signal,
    shrink,
    signal_left,
)

VARIANCE_U, VARIANCE_E = 0.4, 1.0
PLAIN = {"low_rank", "signal_dependence", "curve"}


def seeded(*seed):
    return np.random.default_rng(seed)


def low_rank(rng, n_voxels, variance):
    loadings = rng.normal(0, 1, (n_voxels, 2)) * [0.6, 0.4]
    shape = LowRank(loadings.astype(np.float32), np.full(n_voxels, 0.7, np.float32))
    return shape.with_variance(np.full(n_voxels, variance))


def straight(n_voxels):
    return np.repeat(NODES[:, None], n_voxels, axis=1).astype(np.float32)


def skewed(n_voxels, strength=0.35):
    """An exponential between the nodes, of mean 0 and variance 1 for normal input."""
    z = stats.norm.ppf((np.arange(100_000) + 0.5) / 100_000)
    curve = np.exp(strength * NODES)
    for _ in range(30):  # the tails' slope is 1 whatever the scale, so not at one go
        bent = np.interp(z, NODES, curve) + np.minimum(z + 2.6, 0) + np.maximum(z - 2.6, 0)
        curve = (curve - bent.mean()) / bent.std()
    return np.repeat(curve[:, None], n_voxels, axis=1).astype(np.float32)


def model(rng, n_voxels=40, n_images=600, signal_dependence=0.0, curve=None):
    """A known distribution, and means of images."""
    means = rng.normal(0.2, 0.6, (n_images, n_voxels)).astype(np.float32)
    truth = Readout(
        low_rank(rng, n_voxels, VARIANCE_U),
        low_rank(rng, n_voxels, VARIANCE_E),
        np.full(n_voxels, signal_dependence, np.float32),
        means.mean(0),
        means.std(0),
        straight(n_voxels) if curve is None else curve,
    )
    return truth, means


def record(truth, means, counts, rng):
    """Trials of every image, repeats with one u: as an experiment would, in random order."""
    rows = []
    for mean, count in zip(means, counts, strict=True):
        seed = int(rng.integers(2**62))
        rows.append(truth.draw(mean, [seeded(seed) for _ in range(count)], [rng] * count))
    index = np.repeat(np.arange(len(means)), counts)
    order = rng.permutation(len(index))
    return np.concatenate(rows)[order], index[order]


def covariance_between(part):
    loadings = part.loadings.astype(float)
    return (loadings @ loadings.T)[np.triu_indices(len(loadings), 1)]


# Draws --------------------------------------------------------------------------------------------


def test_without_curve_a_draw_is_mean_signal_and_noise(rng):
    truth, means = model(rng, signal_dependence=0.3)
    drawn = truth.draw(means[0], [seeded(1), seeded(2)], [seeded(3), seeded(4)])
    assert drawn.shape == (2, 40)
    for row, (a, b) in zip(drawn, [(1, 3), (2, 4)], strict=True):
        u, e = truth.signal.draw(seeded(a)), truth.noise.draw(seeded(b))
        x = (means[0] + u - truth.centre) / truth.spread
        h = np.exp(0.3 * x - 0.3**2 / 2 * (1 + truth.signal.variance / truth.spread**2))
        np.testing.assert_allclose(row, means[0] + u + np.sqrt(h) * e, atol=2e-5)


def test_draws_are_float32(rng):
    truth, means = model(rng, n_images=2)
    assert truth.draw(means[0], [rng], [rng]).dtype == np.float32


def test_the_curve_is_interpolated_and_goes_on_with_slope_1(rng):
    n_voxels = 30_000
    curve = np.sort(rng.normal(0, 2, (len(NODES), n_voxels)), axis=0).astype(np.float32)
    readout = replace(Readout.gaussian(np.ones(n_voxels)), curve=curve)
    t = readout.noise.draw(seeded(1))
    drawn = readout.draw(np.zeros(n_voxels, np.float32), [seeded(0)], [seeded(1)])[0]
    below, above = t < NODES[0], t > NODES[-1]
    assert below.sum() > 50
    assert above.sum() > 50
    np.testing.assert_allclose(drawn[below], (curve[0] + t - NODES[0])[below], atol=1e-5)
    np.testing.assert_allclose(drawn[above], (curve[-1] + t - NODES[-1])[above], atol=1e-5)
    inside = np.flatnonzero(~below & ~above)[:3000]
    expected = [np.interp(t[v], NODES, curve[:, v]) for v in inside]
    np.testing.assert_allclose(drawn[inside], expected, atol=1e-4)


def test_noise_grows_with_the_mean_and_not_for_ever():
    readout = Readout.gaussian(np.full(20_000, 2.0))
    readout = replace(readout, signal_dependence=np.full(20_000, 0.5))
    x = np.array([-50, -3, -2, 0, 2, 3, 50], np.float32)
    drawn = [readout.draw(np.full(20_000, v), [seeded(0)], [seeded(1)])[0] - v for v in x]
    expected = 2 * np.exp(0.5 * np.clip(x, -3, 3) - 0.125)
    np.testing.assert_allclose([d.var() for d in drawn], expected, rtol=0.05)
    # 1 on average over images.
    h = readout.relative_noise_variance(seeded(0).normal(size=(20, 20_000)))
    assert h.mean() == pytest.approx(1, abs=0.005)


def test_repeats_share_the_signal_and_fresh_draws_do_not(rng):
    n_voxels = 20_000
    truth, means = model(rng, n_voxels, 2)
    truth = replace(
        truth,
        signal=LowRank.independent(np.full(n_voxels, VARIANCE_U)),
        noise=LowRank.independent(np.full(n_voxels, VARIANCE_E)),
    )
    mean = means[0]
    repeats = truth.draw(mean, [seeded(1), seeded(1)], [seeded(2), seeded(3)]) - mean
    fresh = truth.draw(mean, [seeded(1), seeded(4)], [seeded(2), seeded(3)]) - mean
    share = VARIANCE_U / (VARIANCE_U + VARIANCE_E)
    assert np.corrcoef(repeats)[0, 1] == pytest.approx(share, abs=0.03)
    assert np.corrcoef(fresh)[0, 1] == pytest.approx(0, abs=0.03)


@pytest.mark.parametrize("n_voxels", [1, 40, 3001])
def test_a_draw_is_the_same_to_the_last_bit_alone_or_among_many(n_voxels, rng):
    truth, means = model(rng, n_voxels, 4, signal_dependence=0.3, curve=skewed(n_voxels))
    seeds = range(9)
    many = truth.draw(means[1], [seeded(0, s) for s in seeds], [seeded(1, s) for s in seeds])
    for s in seeds:
        alone = truth.draw(means[1], [seeded(0, s)], [seeded(1, s)])
        np.testing.assert_array_equal(alone[0], many[s])
    assert len(np.unique(many[:, 0])) == len(seeds)


def test_the_sd_is_exact(rng):
    """Against the integral in small steps, for curves that bend at every node, and any mean."""
    truth, means = model(rng, 30, signal_dependence=0.5)
    jagged = np.cumsum(rng.uniform(0.02, 0.5, truth.curve.shape), axis=0)
    truth = replace(truth, curve=(jagged - jagged.mean(0)).astype(np.float32))
    t = np.arange(-12, 12, 2.0**-12)
    density = stats.norm.pdf(t) * 2.0**-12
    bent = bend(truth.curve, np.repeat(t[:, None], 30, axis=1))
    sd = np.sqrt(density @ bent**2 - (density @ bent) ** 2)
    np.testing.assert_allclose(sd_of_normal(truth.curve), sd, rtol=1e-5)
    h = truth.relative_noise_variance(means[:3])
    scale = np.sqrt(truth.signal.variance + h * truth.noise.variance)
    np.testing.assert_allclose(truth.sd(means[:3]), scale * sd, rtol=1e-5)
    assert truth.sd(means[0]).dtype == np.float32


def test_the_sd_without_curve_is_that_of_signal_and_noise(rng):
    truth, means = model(rng)
    variance = truth.signal.variance + truth.noise.variance
    np.testing.assert_allclose(truth.sd(means) ** 2, np.tile(variance, (len(means), 1)), rtol=1e-5)


def test_gaussian_is_independent_normal_noise(rng):
    variance = rng.uniform(0.1, 9, 2000)
    variance[5] = 0
    mean = rng.normal(0, 3, 2000).astype(np.float32)
    drawn = Readout.gaussian(variance).draw(mean, [rng] * 50, [rng] * 50)
    assert (drawn[:, 5] == mean[5]).all()
    keep = variance > 0
    z = ((drawn - mean)[:, keep] / np.sqrt(variance[keep])).astype(float)
    assert stats.kstest(z.ravel(), "norm").pvalue > 0.01
    for neighbour in (z[:, 1:] * z[:, :-1], z[1:] * z[:-1]):  # of voxels, of draws
        assert abs(neighbour.mean()) < 4 / np.sqrt(neighbour.size)
    # Deviations differ over voxels by no more than chance.
    assert stats.kstest((z**2).sum(0), "chi2", args=(50,)).pvalue > 0.01


def test_arrays_hold_the_whole_distribution(rng):
    truth, means = model(rng, n_images=100, signal_dependence=0.3, curve=skewed(40))
    fitted = fit_readout(*record(truth, means, [2] * 100, rng), means, rng)
    again = Readout.from_arrays(fitted.arrays())
    drawn = [r.draw(means[0], [seeded(1)], [seeded(2)]) for r in (fitted, again)]
    np.testing.assert_array_equal(*drawn)
    for field in fields(Readout):
        if field.name not in ("signal", "noise"):
            np.testing.assert_array_equal(getattr(again, field.name), getattr(fitted, field.name))
    assert {array.dtype for array in fitted.arrays().values()} == {np.dtype(np.float32)}
    prefixed = fitted.arrays("readout_")
    assert set(prefixed) == {f"readout_{name}" for name in fitted.arrays()}


# The fit ------------------------------------------------------------------------------------------


def test_moments_are_those_of_the_docstring(rng):
    truth, means = model(rng, 5, 60)
    counts = rng.integers(1, 5, 60)
    trials, index = record(truth, means, counts, rng)
    fitted = fit_readout(trials, index, means, rng, PLAIN)
    within, signal = np.zeros(5), []
    for i in range(60):
        within += ((trials[index == i] - trials[index == i].mean(0)) ** 2).sum(0)
    noise = within / (counts - 1).sum()
    for i in range(60):
        r = (trials[index == i] - means[i]).mean(0)
        signal.append(r**2 - noise / counts[i])
    np.testing.assert_allclose(fitted.noise.variance, noise, rtol=1e-5)
    np.testing.assert_allclose(
        fitted.signal.variance, np.maximum(np.mean(signal, 0), 0), rtol=1e-4, atol=1e-12
    )
    np.testing.assert_allclose(fitted.centre, means.mean(0), atol=1e-6)
    np.testing.assert_allclose(fitted.spread, means.std(0), rtol=1e-5)
    np.testing.assert_array_equal(fitted.signal_dependence, 0)
    np.testing.assert_array_equal(fitted.curve, straight(5))
    assert fitted.signal.loadings.shape == fitted.noise.loadings.shape == (5, 0)


@pytest.mark.parametrize("signal_dependence", [0.0, 0.35, -0.35])
def test_the_truth_is_recovered(signal_dependence, rng):
    truth, means = model(rng, signal_dependence=signal_dependence, n_images=800)
    counts = rng.integers(1, 6, 800)  # some images are seen once
    fitted = fit_readout(*record(truth, means, counts, rng), means, rng)
    assert fitted.noise.variance.mean() == pytest.approx(VARIANCE_E, rel=0.04)
    assert fitted.signal.variance.mean() == pytest.approx(VARIANCE_U, rel=0.06)
    assert fitted.noise.variance.std() < 0.1
    assert fitted.signal.variance.std() < 0.1
    assert fitted.signal_dependence.mean() == pytest.approx(signal_dependence, abs=0.05)
    assert fitted.signal_dependence.std() < 0.05  # one truth for all voxels: shrunk to it
    for part in ("signal", "noise"):
        found, true = (covariance_between(getattr(r, part)) for r in (fitted, truth))
        assert np.corrcoef(found, true)[0, 1] > 0.95, part
        assert found @ true / (true @ true) == pytest.approx(1, abs=0.15), part
    # What was not bent is not: that noise depends on u explains how residuals are skewed.
    pooled = fitted.curve_of_sum(np.ones(40)).mean(1)
    pooled = np.interp(NODES, NODES if len(pooled) == len(NODES) else WIDE, pooled)
    np.testing.assert_allclose(pooled[3:-3], NODES[3:-3], atol=0.06)
    np.testing.assert_allclose(pooled, NODES, atol=0.15)


def test_growth_that_differs_over_voxels_is_told_apart(rng):
    truth, means = model(rng, n_images=1000)
    signal_dependence = np.repeat([-0.4, 0.0, 0.2, 0.5], 10).astype(np.float32)
    truth = replace(truth, signal_dependence=signal_dependence)
    fitted = fit_readout(*record(truth, means, [3] * 1000, rng), means, rng)
    found = fitted.signal_dependence.reshape(4, 10).mean(1)
    np.testing.assert_allclose(found, [-0.4, 0, 0.2, 0.5], atol=0.1)
    assert np.corrcoef(fitted.signal_dependence, signal_dependence)[0, 1] > 0.9


def test_growth_is_bounded(rng):
    truth, means = model(rng, n_images=300, signal_dependence=1.5)
    fitted = fit_readout(*record(truth, means, [3] * 300, rng), means, rng)
    of_whole = fitted.growth * np.sqrt(fitted.spread**2 + fitted.signal.variance)  # SD of m + u
    assert of_whole.max() <= np.float32(MAX_SIGNAL_DEPENDENCE) + 1e-6
    assert of_whole.mean() > 0.5


@pytest.mark.parametrize("signal_dependence", [0.0, 0.35])
@pytest.mark.parametrize("shape", [straight, skewed])
def test_draws_are_like_new_trials(signal_dependence, shape):
    rng = np.random.default_rng(5)
    truth, means = model(rng, 30, 700, signal_dependence, shape(30))
    trials, index = record(truth, means[:600], [3] * 600, rng)
    fitted = fit_readout(trials, index, means[:600], rng)
    new, new_index = record(truth, means[600:], [2] * 100, rng)
    values, drawn = [], []
    for i, mean in enumerate(means[600:]):
        draws = fitted.draw(mean, [seeded(i, k) for k in range(19)], [rng] * 19)
        values.append(pit(new[new_index == i], draws, rng))
        drawn.append(draws)
    values = np.concatenate(values)
    for level in LEVELS:
        assert coverage(values, level).mean() == pytest.approx(level, abs=0.02)
    assert values.mean() == pytest.approx(0.5, abs=0.02)
    assert variance_ratio(np.concatenate(drawn), new).mean() == pytest.approx(1, abs=0.06)

    # The experiment again, with draws that share their signal over repeats.
    again, again_index = record(fitted, means[:600], [3] * 600, rng)
    skew = stats.skew(again - means[again_index]).mean()
    assert skew == pytest.approx(stats.skew(trials - means[index]).mean(), abs=0.1)
    assert (skew > 0.7) == (shape is skewed)
    # Bending a little turns signal into noise.
    recorded = ncsnr(trials, index).mean()
    assert ncsnr(again, again_index).mean() == pytest.approx(recorded, rel=0.05)


def test_the_curve_of_a_voxel_is_its_own_where_trials_are_many(rng):
    truth, means = model(rng, n_images=1200)
    truth = replace(truth, curve=np.hstack([skewed(20), straight(20)]))
    trials, index = record(truth, means, [3] * 1200, rng)
    bend = []
    for few in (1200, 40):
        keep = index < few
        curve = fit_readout(trials[keep], index[keep], means[:few], rng, {"low_rank"}).curve
        assert (np.diff(curve, axis=0) >= 0).all()
        # The nodes at ±2 minus twice the middle: 0 for a straight curve.
        ends = curve[[3, -4]].sum(0) - 2 * curve[13]
        bend.append(ends[:20].mean() - ends[20:].mean())
    true = (truth.curve[[3, -4]].sum(0) - 2 * truth.curve[13])[[0, -1]]
    assert bend[0] == pytest.approx(true[0] - true[1], rel=0.25)
    assert bend[1] < 0.6 * bend[0]  # of 120 trials, it is mostly that of all voxels


@pytest.mark.parametrize("n_trials", [60, 3000])
def test_draws_have_the_residuals_mean_and_variance_where_tails_are_long(n_trials, rng):
    residuals = 0.3 + rng.standard_t(4, (n_trials, 20)) * np.linspace(0.5, 2, 20)
    means = np.zeros((n_trials, 20), np.float32)
    fitted = fit_readout(residuals.astype(np.float32), np.arange(n_trials), means, rng)
    drawn = fitted.draw(means[0], [rng] * 20_000, [rng] * 20_000)
    offset = (drawn.mean(0) - residuals.mean(0)) / residuals.std(0)
    np.testing.assert_allclose(offset, 0, atol=0.04)
    ratio = variance_ratio(drawn, residuals)
    assert ratio.mean() == pytest.approx(1, abs=0.04)
    np.testing.assert_allclose(ratio, 1, atol=0.2)


def test_parts_that_are_left_out_are_not_there(rng):
    truth, means = model(rng, n_images=150, signal_dependence=0.4, curve=skewed(40))
    trials, index = record(truth, means, [3] * 150, rng)
    constant = fit_readout(trials, index, means, rng, {"signal_dependence"})
    assert (constant.signal_dependence == 0).all()
    no_curve = fit_readout(trials, index, means, rng, {"curve"})
    np.testing.assert_array_equal(no_curve.curve, straight(40))
    independent = fit_readout(trials, index, means, rng, {"low_rank"})
    assert independent.signal.loadings.shape == independent.noise.loadings.shape == (40, 0)
    for part in ("signal", "noise"):  # variances are the same with factors or without
        np.testing.assert_allclose(
            getattr(independent, part).variance, getattr(no_curve, part).variance, rtol=1e-5
        )


def test_predictions_that_explain_all_signal_leave_none(rng):
    truth, means = model(rng)
    truth = replace(truth, signal=LowRank.independent(np.zeros(40)))
    fitted = fit_readout(*record(truth, means, [3] * 600, rng), means, rng)
    assert (fitted.signal.variance >= 0).all()
    assert fitted.signal.variance.mean() < 0.02


def test_images_seen_once_add_little_to_the_noise(rng):
    """Their contrasts are none; they tell what is explained of a voxel."""
    truth, means = model(rng)
    counts = np.repeat([3, 1], [400, 200])
    trials, index = record(truth, means, counts, rng)
    twice = index < 400
    both = fit_readout(trials, index, means, seeded(0), {"signal_dependence", "curve"})
    some = fit_readout(
        trials[twice], index[twice], means[:400], seeded(0), {"signal_dependence", "curve"}
    )
    np.testing.assert_allclose(both.noise.variance, some.noise.variance, rtol=0.04)
    shared = [fitted.noise.loadings @ fitted.noise.loadings.T for fitted in (both, some)]
    np.testing.assert_allclose(*shared, atol=0.02)
    assert both.signal.variance.mean() == pytest.approx(VARIANCE_U, rel=0.1)


def test_without_repeats_all_is_noise(rng):
    truth, means = model(rng, signal_dependence=0.3)
    trials, index = record(truth, means, [1] * 600, rng)
    assert not VarianceComponents(trials, index, means).separation().possible
    fitted = fit_readout(trials, index, means, rng)
    assert (fitted.signal.variance == 0).all()
    residual = trials - means[index]
    np.testing.assert_allclose(fitted.noise.variance, (residual**2).mean(0), rtol=1e-5)
    # The dependence is that of the noise; u, taken for noise, dilutes it.
    diluted = 0.3 * VARIANCE_E / (VARIANCE_U + VARIANCE_E)
    assert fitted.signal_dependence.mean() == pytest.approx(diluted, abs=0.06)
    drawn, _ = record(fitted, means, [1] * 600, rng)
    assert variance_ratio(drawn, trials).mean() == pytest.approx(1, abs=0.05)


def test_the_order_of_trials_does_not_matter_and_arrays_are_left_alone(rng):
    truth, means = model(rng, 10, 100, 0.3)
    trials, index = record(truth, means, rng.integers(1, 4, 100), rng)
    before = trials.copy(), index.copy(), means.copy()
    order = rng.permutation(len(index))
    a = fit_readout(trials, index, means, seeded(0), {"low_rank"})
    b = fit_readout(trials[order], index[order], means, seeded(0), {"low_rank"})
    for name, array in a.arrays().items():
        np.testing.assert_allclose(b.arrays()[name], array, rtol=1e-4, atol=1e-5, err_msg=name)
    for array, was in zip((trials, index, means), before, strict=True):
        np.testing.assert_array_equal(array, was)


# Shrinkage ----------------------------------------------------------------------------------------


def test_estimates_that_differ_by_error_alone_go_to_their_mean(rng):
    errors = rng.uniform(0.5, 2, 300)
    estimates = 0.2 + 0.5 * errors * rng.normal(size=300)  # closer together than errors allow
    weighted = np.average(estimates, weights=errors**-2.0)
    np.testing.assert_allclose(shrink(estimates, errors), weighted)


def test_estimates_far_better_than_their_errors_stay(rng):
    estimates = rng.normal(0, 10, 300)
    np.testing.assert_allclose(shrink(estimates, np.full(300, 0.05)), estimates, atol=0.01)


@pytest.mark.parametrize("spread", [0.3, 1.0, 3.0])
def test_shrinking_comes_closer_to_the_truth_than_either_extreme(spread, rng):
    truth = rng.normal(1, spread, 2000)
    errors = rng.uniform(0.5, 1.5, 2000)
    estimates = truth + errors * rng.normal(size=2000)
    shrunk = ((shrink(estimates, errors) - truth) ** 2).mean()
    assert shrunk < ((estimates - truth) ** 2).mean()
    assert shrunk < ((np.average(estimates, weights=errors**-2.0) - truth) ** 2).mean()


def test_one_estimate_without_error_does_not_draw_all_others_to_it(rng):
    estimates = np.r_[rng.normal(1, 0.5, 300), 0]  # a voxel for which predictions never differ
    errors = np.r_[np.full(300, 0.1), 0]
    alone = shrink(estimates[:-1], errors[:-1])
    np.testing.assert_allclose(shrink(estimates, errors)[:-1], alone, atol=0.02)


# Signal that the stack takes away -----------------------------------------------------------------


def fitted_on_linear(rng, n_voxels=40):
    return model(rng, n_voxels, 10)[0]


def test_what_the_stack_explains_is_taken_from_the_unexplained(rng):
    readout = fitted_on_linear(rng)
    n_images = 1500
    linear = rng.normal(size=(n_images, 40))
    found = rng.normal(size=(n_images, 40)) * np.sqrt(0.25)
    missed = rng.normal(size=(n_images, 40)) * np.sqrt(VARIANCE_U - 0.25)
    averages = linear + found + missed + 0.6 * rng.normal(size=(n_images, 40))
    left = signal_left(readout, linear + found, linear, averages)
    assert left.signal.variance.mean() == pytest.approx(VARIANCE_U - 0.25, abs=0.02)
    assert left.signal.variance.std() < 0.03
    before, after = (
        r.signal.loadings / np.sqrt(r.signal.variance)[:, None] for r in (readout, left)
    )
    np.testing.assert_allclose(after, before, atol=1e-5)  # correlations are kept
    for name in ("signal_dependence", "centre", "spread", "curve", "noise"):
        assert getattr(left, name) is getattr(readout, name)


def test_the_mean_of_several_fits_leaves_less_than_each_of_them(rng):
    """By how much less is taken from what was fitted to single ones; never all of it."""
    truth, true_means = model(rng, n_images=900)
    trials, index = record(truth, true_means, [3] * 900, rng)
    errors = 0.4 * rng.normal(size=(4, 900, 40)).astype(np.float32)  # of four fits
    single = true_means + errors[rng.integers(4, size=900), np.arange(900)]
    fitted = fit_readout(trials, index, single, rng)
    of_mean = less_signal(fitted, np.full(40, 0.75 * 0.4**2))
    expected = VARIANCE_U + np.square(errors.mean(0)).mean()
    assert of_mean.signal.variance.mean() == pytest.approx(expected, rel=0.05)
    assert fitted.signal.variance.mean() > 1.1 * expected
    least = less_signal(fitted, np.full(40, 99.0)).signal.variance
    np.testing.assert_allclose(least, 0.1 * fitted.signal.variance, rtol=1e-5)
    assert not less_signal(Readout.gaussian(np.ones(3)), np.ones(3)).signal.variance.any()


def test_voxels_gain_what_is_theirs(rng):
    readout = fitted_on_linear(rng)
    linear = rng.normal(size=(1500, 40))
    found = rng.normal(size=(1500, 40)) * np.sqrt(0.25)
    found[:, :20] = 0.01 * rng.normal(size=(1500, 20))  # next to nothing
    averages = linear + found + 0.6 * rng.normal(size=(1500, 40))
    left = signal_left(readout, linear + found, linear, averages).signal.variance
    assert left[:20].mean() == pytest.approx(VARIANCE_U, abs=0.02)
    assert left[20:].mean() == pytest.approx(VARIANCE_U - 0.25, abs=0.04)


def test_a_stack_that_is_the_linear_prediction_takes_nothing(rng):
    readout = fitted_on_linear(rng)
    linear, averages = rng.normal(size=(2, 30, 40))
    left = signal_left(readout, linear, linear, averages)
    np.testing.assert_allclose(left.signal.variance, readout.signal.variance, rtol=1e-6)


def test_a_stack_that_does_worse_gives_signal_back(rng):
    readout = fitted_on_linear(rng)
    linear = rng.normal(size=(1500, 40))
    worse = linear + np.sqrt(0.2) * rng.normal(size=(1500, 40))
    averages = linear + rng.normal(size=(1500, 40))
    left = signal_left(readout, worse, linear, averages)
    assert left.signal.variance.mean() == pytest.approx(VARIANCE_U + 0.2, abs=0.03)


def test_a_tenth_is_left_at_least_and_none_stays_none(rng):
    readout = fitted_on_linear(rng)
    variance = np.where(np.arange(40) < 3, 0, VARIANCE_U)
    readout = replace(readout, signal=readout.signal.with_variance(variance))
    averages = 10 * rng.normal(size=(30, 40))
    left = signal_left(readout, averages, np.zeros((30, 40)), averages)
    np.testing.assert_allclose(left.signal.variance, 0.1 * variance, rtol=1e-5)


# Generators ---------------------------------------------------------------------------------------


def test_draw_generators_differ_by_each_argument_and_by_nothing_else():
    keys = [
        (seed, digest, k, fingerprint)
        for seed in (0, 1, 10)
        for digest in ("a1", "b2")
        for k in (0, 1, 2, 10, "signal")
        for fingerprint in ("m", "n")
    ]
    first = {key: draw_generator(*key).integers(2**63) for key in keys}
    assert len(set(first.values())) == len(keys)
    assert all(draw_generator(*key).integers(2**63) == first[key] for key in reversed(keys))


def test_numbers_of_a_key_are_those_of_numpy():
    """As with ``Philox(key=…)``, which takes longer to make."""
    for digest in ("a1", "b2"):
        found = draw_generator(0, digest, 3, "m")
        numpy = np.random.Generator(np.random.Philox(key=draw_key(0, digest, 3, "m")))
        np.testing.assert_array_equal(
            found.standard_normal(99, np.float32), numpy.standard_normal(99, np.float32)
        )
        np.testing.assert_array_equal(found.integers(2**63, size=9), numpy.integers(2**63, size=9))


def test_draw_generators_are_independent():
    z = np.stack([draw_generator(0, "a", k, "m").standard_normal(4000) for k in range(20)])
    correlations = np.corrcoef(z)[np.triu_indices(20, 1)]
    assert np.abs(correlations).max() < 5 / np.sqrt(4000)


# The published way --------------------------------------------------------------------------------


def test_latent_noise_has_the_posteriors_deviation_or_the_factor():
    sd = np.linspace(0.1, 2, 12).reshape(3, 4).astype(np.float32)
    readout = LatentReadout(sd)
    for factor, expected in [(None, sd), (0.5, np.full_like(sd, 0.5)), (0.0, np.zeros_like(sd))]:
        generator = seeded(0)
        noise = np.stack([readout.noise(generator, factor) for _ in range(4000)])
        assert noise.dtype == np.float32
        np.testing.assert_allclose(noise.std(0), expected, rtol=0.06)
        np.testing.assert_allclose(noise.mean(0), 0, atol=0.15)


# Noise that depends on unexplained signal ---------------------------------------------------------


def test_noise_grows_with_signal_that_is_not_explained():
    """As with the mean: one response, whatever part of it the model knows. 1 on average."""
    n_voxels = 20_000
    dependent = replace(
        Readout.gaussian(np.ones(n_voxels)),
        signal=LowRank.independent(np.full(n_voxels, 0.5)),
        signal_dependence=np.full(n_voxels, 0.4, np.float32),
        spread=np.full(n_voxels, 0.8, np.float32),
    )
    mean = np.zeros(n_voxels, np.float32)
    u = dependent.signal.draw(seeded(0))
    trials = dependent.draw_given(mean, [u], [seeded(1), seeded(2)])
    squares = np.square(trials[0] - trials[1]) / 2
    slope = np.polyfit(u, squares, 1)[0]
    h = np.exp(0.5 * u - 0.5**2 * 0.5 / 2 - 0.4**2 / 2)  # β/ρ = .5 per unit; m is at its average
    expected = np.polyfit(u, h, 1)[0]
    assert slope == pytest.approx(expected, abs=0.05)
    assert squares.mean() == pytest.approx(dependent.relative_noise_variance(mean)[0], rel=0.03)
    # So does the noise of an image whose mean is the less sure
    sd = dependent.of_image(np.full(n_voxels, 2.0)).sd(mean)
    drawn = dependent.of_image(np.full(n_voxels, 2.0)).draw(mean, [seeded(3)], [seeded(4)])
    assert drawn.std() == pytest.approx(sd[0], rel=0.02)


@pytest.mark.parametrize(("share", "growth"), [(0.1, 0.5), (0.4, -0.6), (0.7, 1.0)])
def test_normal_scores_of_a_sum_are_those_of_its_samples(share, growth, rng):
    z, other = rng.normal(size=(2, 400_000))
    t = np.sqrt(share) * z + np.sqrt((1 - share) * np.exp(growth * z - growth**2 / 2)) * other
    expected = stats.norm.ppf([(t <= node).mean() for node in WIDE])
    found = normal_scores(np.array([share]), np.array([growth]))[:, 0]
    np.testing.assert_allclose(found[7:-7], expected[7:-7], atol=0.02)


def test_a_sum_that_is_normal_has_its_own_scores():
    nothing, whole = normal_scores(np.array([0.3, 1.0]), np.array([0.0, 0.8])).T
    np.testing.assert_allclose(nothing, WIDE, atol=1e-4)
    np.testing.assert_array_equal(whole, WIDE)  # nothing but signal: no noise to depend on it


def test_the_shape_of_single_trials_is_that_of_q_whatever_noise_depends_on(rng):
    truth, _ = model(rng, 2_000, 4, signal_dependence=0.5, curve=skewed(2_000))
    mean = truth.centre.astype(np.float32)
    drawn = np.concatenate([truth.draw(mean, [rng], [rng]) for _ in range(60)])
    scale = truth.scale(truth.relative_noise_variance(mean))
    # As of the average image: there ⟨h⟩ is 1, and here exp(−β²/2)
    residuals = ((drawn - mean) / scale).ravel()
    expected = np.interp(stats.norm.ppf([0.05, 0.25, 0.5, 0.75, 0.95]), NODES, truth.curve[:, 0])
    np.testing.assert_allclose(
        np.quantile(residuals, [0.05, 0.25, 0.5, 0.75, 0.95]), expected, atol=0.05
    )


def test_an_image_of_which_nothing_is_known_has_the_noise_of_all_images(rng):
    truth, means = model(rng, n_images=600, signal_dependence=0.4)
    trials, index = record(truth, means, [3] * 600, rng)
    fitted = fit_readout(trials, index, means, rng)
    blind = fit_image_blind(fitted, trials, index, means.mean(0), rng)
    first, second = (
        blind.draw(blind.centre, *([seeded(of, k) for k in range(1500)] for of in (0, kind)))
        for kind in (1, 2)
    )
    drawn = np.square(first - second).mean(0) / 2
    assert drawn.mean() == pytest.approx(fitted.noise.variance.mean(), rel=0.05)
    # Trials of images with large responses vary more, though nothing of them is known

    def together(first, second):
        size, vary = first + second, np.square(first - second)
        return np.mean([np.corrcoef(size[:, v], vary[:, v])[0, 1] for v in range(40)])

    rows = np.argsort(index, kind="stable").reshape(600, 3)
    recorded = together(trials[rows[:, 0]], trials[rows[:, 1]])
    assert recorded > 0.1
    assert together(first, second) == pytest.approx(recorded, abs=0.04)


def test_noise_stays_finite_where_predictions_hardly_vary(rng):
    truth, _ = model(rng, 50, signal_dependence=0.5, curve=skewed(50))
    flat = replace(truth, spread=np.full(50, 1e-4, np.float32))  # β per unit: 5,000
    drawn = flat.draw(flat.centre, [seeded(0, k) for k in range(200)], [rng] * 200)
    assert np.isfinite(drawn).all()
    assert np.abs(drawn - flat.centre).max() < 60
    density = TrialDensity(flat, flat.centre).log_density(drawn[:5])
    assert np.isfinite(density).all()
