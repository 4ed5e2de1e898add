"""Scores against references, and the properties a score must have."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics as reference

from synbrain_cli.errors import InputError, InputTypeError
from synbrain_cli.metrics import accuracy, arrays, bootstrap, noise_ceiling

FLOATS = [np.float16, np.float32, np.float64]
ATOL = {np.float16: 2e-3, np.float32: 1e-6, np.float64: 1e-12}


def pair(seed=0, n_images=40, n_voxels=7, dtype=np.float64, strength=1.0):
    """Data with a voxel mean, and a prediction that shares `strength` of its signal."""
    rng = np.random.default_rng(seed)
    signal, noise, other = rng.normal(size=(3, n_images, n_voxels))
    offset = rng.normal(size=n_voxels) * 3
    return (signal + noise + offset).astype(dtype), (strength * signal + other + offset).astype(
        dtype
    )


# References ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", FLOATS)
def test_scores_agree_with_references(dtype):
    y_true, y_pred = pair(dtype=dtype)
    t, p = y_true.astype(float), y_pred.astype(float)
    baseline = t.mean(0) + 0.1
    expected = {
        "voxelwise_correlation": [stats.pearsonr(a, b)[0] for a, b in zip(t.T, p.T, strict=True)],
        "pattern_correlation": [stats.pearsonr(a, b)[0] for a, b in zip(t, p, strict=True)],
        "mean_squared_error": reference.mean_squared_error(t.T, p.T, multioutput="raw_values"),
        "cosine_similarity": reference.pairwise.paired_cosine_distances(t, p) * -1 + 1,
    }
    for name, values in expected.items():
        scores = getattr(accuracy, name)(y_true, y_pred)
        assert scores.dtype == dtype, name
        scale = max(1, np.abs(values).max())
        np.testing.assert_allclose(scores, values, atol=ATOL[dtype] * scale, err_msg=name)
    np.testing.assert_allclose(
        accuracy.skill(y_true, y_pred, t.mean(0)),
        reference.r2_score(t, p, multioutput="raw_values"),
        atol=max(1e-10, ATOL[dtype]),
    )
    pooled = 1 - ((t - p) ** 2).sum() / ((t - baseline) ** 2).sum()
    assert accuracy.pooled_skill(y_true, y_pred, baseline) == pytest.approx(pooled)


def test_blocks_do_not_change_scores(monkeypatch):
    y_true, y_pred = pair()
    index = np.arange(40) // 3
    calls = [
        lambda: accuracy.voxelwise_correlation(y_true, y_pred),
        lambda: accuracy.pattern_correlation(y_true, y_pred),
        lambda: accuracy.skill(y_true, y_pred, y_true.mean(0)),
        lambda: noise_ceiling.ncsnr(y_true, index),
        lambda: accuracy.average_repeats(y_true, index)[0],
        lambda: bootstrap.weighted_correlation(y_true, y_pred, np.ones((2, 40))),
        lambda: bootstrap.weighted_skill(y_true, y_pred, y_true.mean(0), np.ones((2, 40))),
    ]
    whole = [call() for call in calls]
    monkeypatch.setattr(arrays, "BLOCK", 1)
    for call, values in zip(calls, whole, strict=True):
        np.testing.assert_allclose(call(), values, rtol=1e-12)


def test_sums_are_float64():
    rng = np.random.default_rng(0)
    signal = rng.normal(size=(1000, 3))
    shifted = (signal + 3e4).astype(np.float32)  # float32 sums would lose most digits
    expected = accuracy.voxelwise_correlation(shifted.astype(np.float64), signal)
    np.testing.assert_allclose(
        accuracy.voxelwise_correlation(shifted, signal.astype(np.float32)), expected, atol=1e-6
    )


def test_integers_are_scored_in_float64():
    y_true = np.array([[1, 300], [2, -300], [4, 30]], dtype=np.int16)
    assert accuracy.voxelwise_correlation(y_true, y_true).dtype == np.float64
    assert accuracy.mean_squared_error(y_true, -y_true)[0] == (4 + 600**2) / 2  # no overflow


# Conventions --------------------------------------------------------------------------------------


def test_constant_prediction_scores_zero_and_constant_data_nan():
    y_true, y_pred = pair()
    y_pred[:, 0] = 0.1  # not exact in binary: the mean over images is not 0.1
    y_true[:, 1] = 0.1
    y_true[:, 2] = y_pred[:, 2] = 0.3
    counts = np.ones((1, 40))
    for r in (
        accuracy.voxelwise_correlation(y_true, y_pred),
        bootstrap.weighted_correlation(y_true, y_pred, counts)[0],
        accuracy.pattern_correlation(y_true.T, y_pred.T),
    ):
        assert r[0] == 0
        assert np.isnan(r[1:3]).all()
        assert np.isfinite(r[3:]).all()
    assert np.isnan(accuracy.skill(y_true, y_pred, np.full(7, 0.1))[1])
    np.testing.assert_array_equal(
        accuracy.cosine_similarity([[1, 2], [0, 0], [0, 0]], [[0, 0], [1, 2], [0, 0]]),
        [0, np.nan, np.nan],
    )


@pytest.mark.parametrize("which", [0, 1])
def test_a_missing_value_reaches_its_scores_and_no_other(which):
    arrays = pair()
    arrays[which][3, 2] = np.nan
    by_voxel, by_trial = np.arange(7) == 2, np.arange(40) == 3
    np.testing.assert_array_equal(np.isnan(accuracy.voxelwise_correlation(*arrays)), by_voxel)
    np.testing.assert_array_equal(np.isnan(accuracy.skill(*arrays, np.zeros(7))), by_voxel)
    counts = np.ones((1, 40))
    np.testing.assert_array_equal(
        np.isnan(bootstrap.weighted_correlation(*arrays, counts)[0]), by_voxel
    )
    for score in ("pattern_correlation", "mean_squared_error", "cosine_similarity"):
        np.testing.assert_array_equal(np.isnan(getattr(accuracy, score)(*arrays)), by_trial)


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda: accuracy.voxelwise_correlation(np.ones((4, 3)), np.ones((4, 1))), InputError),
        (lambda: accuracy.voxelwise_correlation(np.ones((4, 3)), np.ones((1, 3))), InputError),
        (lambda: accuracy.mean_squared_error(np.ones(3), np.ones(3)), InputError),
        (lambda: accuracy.cosine_similarity(np.ones((0, 3)), np.ones((0, 3))), InputError),
        (lambda: accuracy.voxelwise_correlation(np.ones((1, 3)), np.ones((1, 3))), InputError),
        (lambda: accuracy.pattern_correlation(np.ones((3, 1)), np.ones((3, 1))), InputError),
        (lambda: accuracy.skill(np.ones((4, 3)), np.ones((4, 3)), np.ones(1)), InputError),
        (lambda: accuracy.skill(np.ones((4, 3)), np.ones((4, 3)), np.ones((2, 3))), InputError),
        (lambda: accuracy.average_repeats(np.ones((4, 3)), [0, 1, 2]), InputError),
        (lambda: accuracy.average_repeats(np.ones((4, 3)), [[0, 1, 2, 3]]), InputError),
        (lambda: accuracy.average_repeats(np.ones((2, 3)), [0.5, np.nan]), InputTypeError),
        (lambda: noise_ceiling.ncsnr(np.ones((4, 3)), [0, 1, 2, 3]), InputError),
        (lambda: noise_ceiling.ncsnr(np.ones((4, 3)), [0, 0, 0, 0]), InputError),
        (lambda: noise_ceiling.noise_ceiling(1.0, 0), InputError),
        (lambda: noise_ceiling.noise_ceiling(1.0, []), InputError),
        (lambda: noise_ceiling.noise_ceiling(1.0, [3, np.nan]), InputError),
        (lambda: noise_ceiling.noise_ceiling([-0.1], 3), InputError),
        (lambda: bootstrap.weighted_mean(np.ones(4), np.ones((2, 3))), InputError),
        (lambda: accuracy.voxelwise_correlation([["a"]], [["b"]]), InputTypeError),
        (lambda: accuracy.voxelwise_correlation([[1j]], [[1j]]), InputTypeError),
        (lambda: bootstrap.bootstrap_ci(np.mean, 10, 0), InputTypeError),
        (lambda: bootstrap.bootstrap_ci(np.mean, 10, np.random.default_rng(), 0), InputError),
        (
            lambda: bootstrap.bootstrap_ci(np.mean, 10, np.random.default_rng(), level=95),
            InputError,
        ),
        (
            lambda: bootstrap.bootstrap_ci(lambda c: np.ones(3), 10, np.random.default_rng()),
            InputError,
        ),
    ],
)
def test_bad_input_is_refused(call, error):
    with pytest.raises(error, match="expected"):
        call()


# Properties ---------------------------------------------------------------------------------------

seeds = st.integers(0, 2**32 - 1)


@given(seeds, st.sampled_from([np.float32, np.float64]))
@settings(max_examples=25, deadline=None)
def test_perfect_prediction_scores_best(seed, dtype):
    y_true, y_pred = pair(seed, dtype=dtype)
    for score in ("voxelwise_correlation", "pattern_correlation", "cosine_similarity"):
        score = getattr(accuracy, score)
        np.testing.assert_allclose(score(y_true, y_true), 1, rtol=1e-6)
        assert (score(y_true, y_pred) < 1).all()
    assert (accuracy.mean_squared_error(y_true, y_true) == 0).all()
    assert (accuracy.skill(y_true, y_true, y_true.mean(0)) == 1).all()
    assert (accuracy.skill(y_true, y_pred, y_true.mean(0)) < 1).all()


@given(seeds)
@settings(max_examples=25, deadline=None)
def test_shuffling_images_worsens_every_score_taken_image_by_image(seed):
    y_true, y_pred = pair(seed, n_images=200, n_voxels=20)
    shuffled = np.roll(y_pred, 1, axis=0)
    baseline = y_true.mean(0)
    for score in ("voxelwise_correlation", "pattern_correlation", "cosine_similarity"):
        score = getattr(accuracy, score)
        assert score(y_true, shuffled).mean() < score(y_true, y_pred).mean()
    mse = accuracy.mean_squared_error
    assert mse(y_true, shuffled).mean() > mse(y_true, y_pred).mean()
    for score in (accuracy.skill, accuracy.pooled_skill):
        assert np.mean(score(y_true, shuffled, baseline)) < np.mean(score(y_true, y_pred, baseline))


@given(seeds, st.floats(1e-3, 1e3), st.floats(-1e3, 1e3))
@settings(max_examples=25, deadline=None)
def test_correlations_ignore_scale_and_offset(seed, scale, offset):
    y_true, y_pred = pair(seed)
    moved = scale * y_pred + offset
    for score in (accuracy.voxelwise_correlation, accuracy.pattern_correlation):
        np.testing.assert_allclose(score(y_true, moved), score(y_true, y_pred), atol=1e-7)
        np.testing.assert_allclose(score(y_true, -moved), -score(y_true, y_pred), atol=1e-7)
        np.testing.assert_allclose(score(y_pred, y_true), score(y_true, y_pred), atol=1e-12)


def test_mean_pattern_scores_zero():
    y_true, _ = pair()
    prediction = np.broadcast_to(y_true.mean(0), y_true.shape)
    assert (accuracy.voxelwise_correlation(y_true, prediction) == 0).all()
    assert (accuracy.skill(y_true, prediction, y_true.mean(0)) == 0).all()
    assert (accuracy.pattern_correlation(y_true, prediction) > 0.5).all()  # why a baseline is shown


# Repeats ------------------------------------------------------------------------------------------


def simulate(rng, snr, counts, sigma=1.0):
    """Trials in random order: signal per image with sd `snr`·`sigma`, noise with sd `sigma`."""
    index = rng.permutation(np.repeat(np.arange(len(counts)), counts))
    signal = rng.normal(size=(len(counts), len(snr))) * snr * sigma
    return signal[index] + sigma * rng.normal(size=(len(index), len(snr))), index


def test_average_repeats_keeps_unequal_counts():
    betas = np.array([[1, 10], [2, 20], [3, 30], [5, np.nan]], dtype=np.float32)
    means, images, n_repeats = accuracy.average_repeats(betas, ["b", "a", "b", "c"])
    np.testing.assert_array_equal(images, ["a", "b", "c"])
    np.testing.assert_array_equal(n_repeats, [1, 2, 1])  # not 3: a missing repeat stays missing
    np.testing.assert_array_equal(means, [[2, 20], [2, 20], [5, np.nan]])
    assert means.dtype == np.float32


@given(seeds, st.lists(st.integers(1, 4), min_size=1, max_size=12))
@settings(max_examples=40, deadline=None)
def test_average_repeats_is_the_mean_over_the_trials_of_each_image(seed, counts):
    rng = np.random.default_rng(seed)
    betas, index = simulate(rng, np.ones(3), counts)
    means, images, n_repeats = accuracy.average_repeats(betas, index)
    np.testing.assert_array_equal(n_repeats, counts)
    for image, mean in zip(images, means, strict=True):
        np.testing.assert_allclose(mean, betas[index == image].mean(0), atol=1e-12)


@pytest.mark.parametrize("counts", [[3] * 3000, [3, 2, 1, 4] * 1000], ids=["equal", "unequal"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_ncsnr_recovers_the_truth(counts, dtype):
    snr = np.repeat([0.2, 0.5, 1.0, 2.0], 200)
    betas, index = simulate(np.random.default_rng(0), snr, counts, sigma=5)
    found = noise_ceiling.ncsnr((betas + 1000).astype(dtype), index)
    assert found.dtype == dtype
    # Squares, which are unbiased before they are clipped at 0, average to the truth
    rms = np.sqrt((found.reshape(4, 200) ** 2).mean(1))
    np.testing.assert_allclose(rms, [0.2, 0.5, 1.0, 2.0], rtol=0.04)
    np.testing.assert_allclose(found, snr, rtol=0.1, atol=0.15)


def test_ncsnr_is_allens_when_all_images_have_three_repeats():
    betas, index = simulate(np.random.default_rng(0), np.array([0.3, 1.0]), [3] * 2000)
    betas = stats.zscore(betas, axis=0)
    noise = np.mean([betas[index == i].var(0, ddof=1) for i in range(2000)], axis=0)
    np.testing.assert_allclose(
        noise_ceiling.ncsnr(betas, index), np.sqrt((1 - noise) / noise), rtol=2e-3
    )


def test_ncsnr_signal_variance_is_unbiased_with_few_images():
    rng = np.random.default_rng(0)
    counts, snr = [4, 3, 1, 2, 3], np.full(20000, 3.0)
    betas, index = simulate(rng, snr, counts)
    # At this ncsnr the signal variance is seldom below 0, where it would be clipped
    signal = noise_ceiling.ncsnr(betas, index) ** 2 * _noise_variance(betas, index)
    assert signal.mean() == pytest.approx(9, rel=0.03)


def _noise_variance(betas, index):
    means, _, n_repeats = accuracy.average_repeats(betas, index)
    return ((betas - means[index]) ** 2).sum(0) / (n_repeats - 1).sum()


def test_ncsnr_images_seen_once_do_not_enter_the_noise():
    rng = np.random.default_rng(0)
    betas, index = simulate(rng, np.ones(5), [3] * 50)
    single = rng.normal(size=(1000, 5)) * 1e-6 + betas.mean(0)
    both, both_index = np.vstack([betas, single]), np.append(index, 50 + np.arange(1000))
    noise = _noise_variance(betas, index)
    total = both.var(0, ddof=1)
    expected = np.sqrt(np.maximum(total - noise, 0) / noise)
    np.testing.assert_allclose(noise_ceiling.ncsnr(both, both_index), expected, atol=5e-3)


def test_ncsnr_special_voxels():
    betas, index = simulate(np.random.default_rng(0), np.zeros(6), [3] * 200)
    betas[:, 0] = 0.1
    betas[:, 1] = index
    betas[4, 2] = np.nan
    betas[:, 3] = np.tile([-1.0, 0.0, 1.0], 200)[np.argsort(np.argsort(index, kind="stable"))]
    found = noise_ceiling.ncsnr(betas, index)
    assert np.isnan(found[0])  # does not vary
    assert found[1] > 1e6  # repeats identical
    assert np.isnan(found[2])  # missing
    assert found[3] == 0  # negative signal variance


def test_noise_ceiling_values():
    assert noise_ceiling.noise_ceiling(1.0, 3) == 0.75
    np.testing.assert_allclose(
        noise_ceiling.noise_ceiling(np.array([0, 1, np.inf, np.nan]), 1), [0, 0.5, 1, np.nan]
    )
    # Allen et al.: (A/3 + B/2 + C/1) / (A + B + C) for images with 3, 2 and 1 repeats
    mixed = (5 / 3 + 3 / 2 + 2) / 10
    np.testing.assert_allclose(
        noise_ceiling.noise_ceiling([0.5], np.repeat([3, 2, 1], [5, 3, 2])), 0.25 / (0.25 + mixed)
    )
    assert noise_ceiling.correlation_ceiling(np.float32(1), 3) == np.float32(np.sqrt(0.75))
    assert noise_ceiling.noise_ceiling(np.ones(2, np.float32), [1, 2]).dtype == np.float32


def test_noise_ceiling_is_what_the_true_signal_scores():
    rng = np.random.default_rng(0)
    snr, counts = np.array([0.3, 0.7, 1.5]), [3, 2, 1] * 5000
    index = np.repeat(np.arange(len(counts)), counts)
    signal = rng.normal(size=(len(counts), 3)) * snr
    betas = signal[index] + rng.normal(size=(len(index), 3))
    means, _, n_repeats = accuracy.average_repeats(betas, index)
    r = accuracy.voxelwise_correlation(means, signal)
    np.testing.assert_allclose(
        r,
        noise_ceiling.correlation_ceiling(noise_ceiling.ncsnr(betas, index), n_repeats),
        atol=0.02,
    )


# Bootstrap ----------------------------------------------------------------------------------------


def test_weighted_scores_are_those_of_the_images_drawn():
    y_true, y_pred = pair()
    rng = np.random.default_rng(1)
    counts = rng.multinomial(40, np.full(40, 1 / 40), size=5)
    baseline = y_true.mean(0)
    for row, r, s, m in zip(
        counts,
        bootstrap.weighted_correlation(y_true, y_pred, counts),
        bootstrap.weighted_skill(y_true, y_pred, baseline, counts),
        bootstrap.weighted_mean(accuracy.mean_squared_error(y_true, y_pred), counts),
        strict=True,
    ):
        drawn = np.repeat(np.arange(40), row)
        t, p = y_true[drawn], y_pred[drawn]
        np.testing.assert_allclose(r, accuracy.voxelwise_correlation(t, p), atol=1e-12)
        np.testing.assert_allclose(s, accuracy.skill(t, p, baseline), atol=1e-12)
        np.testing.assert_allclose(m, accuracy.mean_squared_error(t, p).mean(), atol=1e-12)


def test_weighted_correlation_of_a_draw_that_does_not_vary():
    y_true = np.array([[0.1], [0.2], [0.3]])
    r = bootstrap.weighted_correlation(y_true, y_true[::-1] ** 2, [[3, 0, 0], [1, 1, 1]])
    assert np.isnan(r[0, 0])
    assert r[1, 0] < -0.9
    assert bootstrap.weighted_correlation(y_true, [[1], [1], [2]], [[2, 1, 0]]).item() == 0


def test_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    rho, n_images, n_voxels = 0.5, 100, 400  # each voxel is one independent data set
    y_true, other = rng.normal(size=(2, n_images, n_voxels))
    y_pred = rho * y_true + np.sqrt(1 - rho**2) * other
    low, high = bootstrap.bootstrap_ci(
        lambda counts: bootstrap.weighted_correlation(y_true, y_pred, counts), n_images, rng, 500
    )
    assert low.shape == high.shape == (n_voxels,)
    assert 0.90 < ((low < rho) & (rho < high)).mean() < 0.98


def test_interval_matches_resampling_by_index():
    values = np.random.default_rng(0).exponential(size=60)
    low, high = bootstrap.bootstrap_ci(
        lambda c: bootstrap.weighted_mean(values, c), 60, np.random.default_rng(1), 4000, level=0.9
    )
    expected = stats.bootstrap(
        (values,), np.mean, n_resamples=4000, confidence_level=0.9, method="percentile",
        rng=np.random.default_rng(2),
    ).confidence_interval  # fmt: skip
    np.testing.assert_allclose([low, high], expected, atol=0.02)


def test_interval_depends_on_the_generator_alone():
    y_true, y_pred = pair()

    def interval(seed):
        return bootstrap.bootstrap_ci(
            lambda c: bootstrap.weighted_correlation(y_true, y_pred, c),
            40,
            np.random.default_rng(seed),
            n_boot=300,
        )

    np.testing.assert_array_equal(interval(3), interval(3))
    assert (interval(3)[0] != interval(4)[0]).any()


def test_interval_leaves_out_undefined_draws():
    counts_seen = []

    def statistic(counts):
        counts_seen.append(counts)
        value = counts[:, 0] - 1
        return np.stack([np.where(counts[:, 0] == 0, np.nan, value), value * np.nan], axis=1)

    low, high = bootstrap.bootstrap_ci(statistic, 10, np.random.default_rng(0), 200)
    assert low[0] == 0
    assert high[0] >= 1
    assert np.isnan([low[1], high[1]]).all()
    counts = np.concatenate(counts_seen)
    assert counts.shape == (200, 10)
    assert (counts.sum(1) == 10).all()
    low, _ = bootstrap.bootstrap_ci(lambda c: statistic(c)[:, 0], 10, np.random.default_rng(0), 200)
    assert low == 0


def test_bootstrap_is_quick():
    y_true, y_pred = pair(n_images=100, n_voxels=1000)
    start = time.perf_counter()
    bootstrap.bootstrap_ci(
        lambda c: bootstrap.weighted_correlation(y_true, y_pred, c),
        100,
        np.random.default_rng(0),
        500,
    )
    assert time.perf_counter() - start < 2
