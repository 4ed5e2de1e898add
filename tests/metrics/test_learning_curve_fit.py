"""The log-linear law: known lines recovered, references, what intervals promise."""

import json
import warnings

import numpy as np
import pytest
from scipy import stats

from synbrain_cli.errors import InputError, InputTypeError
from synbrain_cli.metrics.learning_curve import fit_learning_curve

AMOUNTS = np.array([1, 2.5, 5, 10, 20, 40])
X = np.log10(AMOUNTS)
SLOPE = 0.08
INTERCEPTS = np.array([0.1, 0.2, 0.15, 0.3])
EXACT = INTERCEPTS[:, None] + SLOPE * X


def noisy(rng, n_subjects=4, sd=0.01):
    intercepts = rng.normal(0.2, 0.05, n_subjects)
    truth = intercepts[:, None] + SLOPE * X
    return truth + sd * rng.normal(size=truth.shape), intercepts.mean()


def on_images(rng, n_subjects=4, n_images=100, sd=0.1, n_boot=200, slope_sd=0.0):
    """Scores that are means over images, and the same on resampled images."""
    slopes = SLOPE + slope_sd * rng.normal(size=(n_subjects, 1))
    truth = rng.normal(0.2, 0.05, (n_subjects, 1)) + slopes * X
    values = truth + sd * rng.normal(size=(n_images, *truth.shape))
    counts = rng.multinomial(n_images, np.full(n_images, 1 / n_images), size=n_boot)
    return values.mean(0), np.tensordot(counts / n_images, values, axes=1), truth.mean(0)


# The line -----------------------------------------------------------------------------------------


def test_a_line_without_noise_is_found_exactly():
    fit = fit_learning_curve(AMOUNTS, EXACT)
    assert fit.slope == pytest.approx(SLOPE, abs=1e-12)
    assert fit.r2 == pytest.approx(1, abs=1e-12)
    np.testing.assert_allclose(fit.intercepts, INTERCEPTS, atol=1e-12)
    np.testing.assert_allclose(fit.slope_ci, SLOPE, atol=1e-12)
    np.testing.assert_allclose(fit.predict(AMOUNTS), EXACT.mean(0), atol=1e-12)
    np.testing.assert_allclose(fit.predict(AMOUNTS, subject=2), EXACT[2], atol=1e-12)
    np.testing.assert_allclose(fit.band(AMOUNTS), [EXACT.mean(0)] * 2, atol=1e-12)


def test_one_subject_is_a_simple_regression():
    scores = noisy(np.random.default_rng(0), 1)[0][0]
    expected = stats.linregress(X, scores)
    half = stats.t.ppf(0.95, 4) * expected.stderr
    for given in (scores, scores[None]):
        fit = fit_learning_curve(AMOUNTS, given, level=0.9)
        assert fit.slope == pytest.approx(expected.slope)
        assert fit.intercepts == pytest.approx([expected.intercept])
        assert fit.r2 == pytest.approx(expected.rvalue**2)
        assert fit.slope_ci == pytest.approx((expected.slope - half, expected.slope + half))
        assert fit.interval == "residuals"
    # At amount 1 the mean line is the intercept
    half = stats.t.ppf(0.95, 4) * expected.intercept_stderr
    assert np.ravel(fit.band(1)) == pytest.approx(
        [expected.intercept - half, expected.intercept + half]
    )


def test_several_subjects_are_a_regression_with_an_indicator_of_each():
    rng = np.random.default_rng(1)
    scores, _ = noisy(rng)
    scores[0, 4:] = scores[2, [0, 3]] = scores[3, 1:] = np.nan
    subject, amount = np.nonzero(~np.isnan(scores))
    design = np.column_stack([subject[:, None] == np.arange(4), X[amount]]).astype(float)
    y = scores[subject, amount]
    coefficients, residual, *_ = np.linalg.lstsq(design, y)
    fit = fit_learning_curve(AMOUNTS, scores)
    np.testing.assert_allclose([*fit.intercepts, fit.slope], coefficients, atol=1e-12)
    n_degrees = len(y) - 5
    covariance = np.linalg.inv(design.T @ design) * residual / n_degrees
    t = stats.t.ppf(0.975, n_degrees)
    half = t * np.sqrt(covariance[-1, -1])
    np.testing.assert_allclose(fit.slope_ci, [fit.slope - half, fit.slope + half])
    at = np.array([0.5, 7, 300])
    mean_line = np.column_stack([np.full((3, 4), 1 / 4), np.log10(at)])
    half = t * np.sqrt(np.einsum("ij,jk,ik->i", mean_line, covariance, mean_line))
    np.testing.assert_allclose(fit.band(at), mean_line @ coefficients + [-half, half])


def test_order_and_unit_of_amounts_do_not_matter():
    scores, _ = noisy(np.random.default_rng(2))
    fit = fit_learning_curve(AMOUNTS, scores)
    order = np.array([3, 0, 5, 1, 4, 2])
    for amounts, values in ((AMOUNTS[order], scores[:, order]), (AMOUNTS * 60, scores)):
        again = fit_learning_curve(amounts, values)
        np.testing.assert_allclose([again.slope, *again.slope_ci], [fit.slope, *fit.slope_ci])
    assert again.amount_to_reach(0.4)[0] == pytest.approx(60 * fit.amount_to_reach(0.4)[0])


def test_a_subject_without_the_large_amounts_does_not_bend_the_line():
    scores = EXACT.copy()
    scores[3, 2:] = np.nan  # the best one: the mean over those that are there drops
    scores[0, 1:] = np.nan  # one score: an intercept and nothing else
    fit = fit_learning_curve(AMOUNTS, scores)
    assert fit.slope == pytest.approx(SLOPE)
    np.testing.assert_allclose(fit.intercepts, INTERCEPTS, atol=1e-12)
    np.testing.assert_allclose(fit.predict(AMOUNTS), EXACT.mean(0), atol=1e-12)


def test_scores_that_do_not_vary():
    fit = fit_learning_curve(AMOUNTS, np.full((2, 6), 0.1))
    assert fit.slope == 0
    assert np.isnan(fit.r2)
    assert fit.slope_ci == (0, 0)
    assert fit.amount_to_reach(0.2) == (np.inf, (np.inf, np.inf))


def test_no_degrees_of_freedom_no_interval():
    fit = fit_learning_curve([1, 10], [0.1, 0.2])
    assert fit.slope == pytest.approx(0.1)
    estimate, interval = fit.amount_to_reach(0.3)
    assert estimate == pytest.approx(100)
    assert np.isnan([*fit.slope_ci, *interval, *np.ravel(fit.band([1, 2]))]).all()


# Intervals ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_subjects", [1, 4])
def test_intervals_from_residuals_hold_the_truth_as_often_as_they_say(n_subjects):
    rng = np.random.default_rng(0)
    inside = []
    for _ in range(200):
        scores, intercept = noisy(rng, n_subjects)
        fit = fit_learning_curve(AMOUNTS, scores)
        low, high = fit.band(15)
        reach = fit.amount_to_reach(intercept + 2 * SLOPE)[1]
        inside.append(
            [
                fit.slope_ci[0] < SLOPE < fit.slope_ci[1],
                low < intercept + SLOPE * np.log10(15) < high,
                reach[0] < 100 < reach[1],
            ]
        )
    share = np.mean(inside, axis=0)
    assert (share >= 0.9).all(), share
    assert (share <= 0.99).all(), share


@pytest.mark.parametrize(("n_subjects", "slope_sd"), [(2, 0), (4, 0), (8, 0.01)])
def test_intervals_from_a_bootstrap_hold_the_truth_about_as_often_as_they_say(n_subjects, slope_sd):
    rng = np.random.default_rng(0)
    inside = []
    for _ in range(200):
        scores, boot, mean = on_images(rng, n_subjects, slope_sd=slope_sd)
        fit = fit_learning_curve(AMOUNTS, scores, boot, generator=rng)
        low, high = fit.band(AMOUNTS[3])
        inside.append([fit.slope_ci[0] < SLOPE < fit.slope_ci[1], low < mean[3] < high])
    assert (np.mean(inside, axis=0) >= 0.9).all()
    assert fit.interval == ("images" if n_subjects < 3 else "images and subjects")


def test_bootstrap_refits_every_draw():
    rng = np.random.default_rng(0)
    scores, boot, _ = on_images(rng, n_subjects=2)
    scores[0, 3:] = np.nan
    fit = fit_learning_curve(AMOUNTS, scores, boot)  # two subjects: nothing to draw
    assert fit.refits.slopes.shape == (200,)
    assert fit.refits.intercepts.shape == (200, 2)
    for draw in (0, 17, 199):
        alone = fit_learning_curve(AMOUNTS, np.where(np.isnan(scores), np.nan, boot[draw]))
        assert fit.refits.slopes[draw] == pytest.approx(alone.slope)
        np.testing.assert_allclose(fit.refits.intercepts[draw], alone.intercepts)
    np.testing.assert_allclose(fit.slope_ci, np.quantile(fit.refits.slopes, [0.025, 0.975]))
    lines = fit.refits.intercepts.mean(1) + fit.refits.slopes * np.log10(7)
    np.testing.assert_allclose(fit.band(7), np.quantile(lines, [0.025, 0.975]))
    assert fit_learning_curve(AMOUNTS, scores, boot).slope_ci == fit.slope_ci


def test_subjects_that_differ_widen_the_interval_when_they_are_drawn():
    slopes = np.array([0.02, 0.08, 0.14])[:, None]
    scores = 0.2 + slopes * X
    boot = np.repeat(scores[None], 5000, axis=0)  # images that tell nothing new
    fit = fit_learning_curve(AMOUNTS, scores, boot, generator=np.random.default_rng(0))
    assert fit.slope == pytest.approx(0.08)
    low, high = fit.slope_ci
    assert low == pytest.approx(0.02)  # the same subject three times: 1 draw in 27
    assert high == pytest.approx(0.14)
    two = fit_learning_curve(AMOUNTS, scores[:2], boot[:, :2])
    assert two.slope_ci == pytest.approx((0.05, 0.05))


def test_a_bootstrap_depends_on_the_generator_alone():
    scores, boot, _ = on_images(np.random.default_rng(0))

    def interval(seed):
        return fit_learning_curve(
            AMOUNTS, scores, boot, generator=np.random.default_rng(seed)
        ).slope_ci

    assert interval(3) == interval(3)
    assert interval(3) != interval(4)


def test_draws_without_a_line_are_left_out():
    rng = np.random.default_rng(0)
    scores = EXACT[:3].copy()
    scores[:2, 1:] = np.nan  # only the third has two amounts, and 8 draws in 27 lack it
    boot = np.repeat(scores[None], 300, axis=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit = fit_learning_curve(AMOUNTS, scores, boot, generator=rng)
        assert 50 < np.isnan(fit.refits.slopes).sum() < 130
        assert fit.slope_ci == pytest.approx((SLOPE, SLOPE))
        assert np.isfinite(fit.band(AMOUNTS)).all()
        assert np.isfinite(fit.amount_to_reach(0.4)[1]).all()
        none = fit_learning_curve(AMOUNTS, EXACT[:2], np.full((5, 2, 6), np.nan))
        assert np.isnan([*none.slope_ci, *none.amount_to_reach(0.4)[1]]).all()
        assert np.shape(none.band(AMOUNTS)) == (2, 6)


def test_scores_missing_in_the_data_are_not_read_from_draws():
    scores, boot, _ = on_images(np.random.default_rng(0), n_subjects=2)
    scores[1, 4:] = np.nan
    expected = fit_learning_curve(AMOUNTS, scores, boot).slope_ci
    boot[:, 1, 4:] = 99
    assert fit_learning_curve(AMOUNTS, scores, boot).slope_ci == expected


def test_shuffled_amounts_have_no_slope():
    rng = np.random.default_rng(0)
    inside = []
    for _ in range(200):
        scores, boot, _ = on_images(rng, n_subjects=8, n_boot=100)
        assert fit_learning_curve(AMOUNTS, scores, boot, generator=rng).slope_ci[0] > 0
        order = np.stack([rng.permutation(6) for _ in scores])
        scores = np.take_along_axis(scores, order, axis=1)
        boot = np.take_along_axis(boot, np.broadcast_to(order, boot.shape), axis=2)
        fits = (
            fit_learning_curve(AMOUNTS, scores),
            fit_learning_curve(AMOUNTS, scores, boot, generator=rng),
        )
        inside.append([fit.slope_ci[0] < 0 < fit.slope_ci[1] for fit in fits])
    residuals, bootstrap = np.mean(inside, axis=0)
    assert residuals >= 0.9
    assert bootstrap >= 0.82  # eight subjects that differ: see the notes of fit_learning_curve


# The amount that reaches a score ------------------------------------------------------------------


@pytest.mark.parametrize("target", [0.0, 0.2, 0.35, 0.6])
@pytest.mark.parametrize("bootstrap", [False, True])
def test_amount_to_reach_is_the_inverse_of_predict(target, bootstrap):
    rng = np.random.default_rng(0)
    scores, boot, _ = on_images(rng, n_subjects=2)
    fit = fit_learning_curve(AMOUNTS, scores, boot if bootstrap else None)
    amount, (low, high) = fit.amount_to_reach(target)
    assert fit.predict(amount) == pytest.approx(target)
    assert 0 < low < amount < high < np.inf
    # The limits are where the edges of the band reach it; percentiles of a ratio only nearly so
    edges = [fit.band(low)[1], fit.band(high)[0]]
    np.testing.assert_allclose(edges, target, atol=3e-3 if bootstrap else 1e-12)


def test_a_line_that_may_not_rise_may_never_arrive():
    flat = 0.3 + 0.01 * np.array([1, -1, 0, 1, -1, 0.5])
    fit = fit_learning_curve(AMOUNTS, flat)
    assert fit.slope_ci[0] < 0 < fit.slope_ci[1]
    _, (low, high) = fit.amount_to_reach(0.4)
    assert AMOUNTS[-1] < low < np.inf
    assert fit.band(low)[1] == pytest.approx(0.4)
    assert high == np.inf
    assert fit.amount_to_reach(0.3)[1] == (0, np.inf)  # inside the band amid the data
    assert fit.amount_to_reach(0.1)[1] == (0, np.inf)
    falls = fit_learning_curve(AMOUNTS, 0.5 - EXACT)
    assert falls.amount_to_reach(0.4) == (np.inf, (np.inf, np.inf))


def test_draws_that_do_not_rise_make_the_limit_infinite():
    rng = np.random.default_rng(0)
    scores = EXACT[0]
    boot = scores + 0.1 * rng.normal(size=(400, 6))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit = fit_learning_curve(AMOUNTS, scores, boot)
        estimate, (low, high) = fit.amount_to_reach(0.5)
        assert (fit.refits.slopes <= 0).mean() > 0.025
        assert 0 < low < estimate < high
        assert high == np.inf
        downward = fit_learning_curve(AMOUNTS, scores, scores[None, ::-1] * np.ones((9, 1)))
        assert downward.amount_to_reach(0.5)[1] == (np.inf, np.inf)


def test_the_fit_as_json():
    scores, boot, _ = on_images(np.random.default_rng(0), n_subjects=2)
    fit = fit_learning_curve(AMOUNTS, scores, boot, level=0.9)
    record = json.loads(json.dumps(fit.to_dict(), allow_nan=False))
    assert record["amounts"] == AMOUNTS.tolist()
    assert record["slope"] == fit.slope
    assert record["slope_ci"] == list(fit.slope_ci)
    assert record["intercepts"] == fit.intercepts.tolist()
    assert (record["level"], record["interval"], record["n_boot"]) == (0.9, "images", 200)
    flat = fit_learning_curve([1, 10], [0.1, 0.1]).to_dict()
    json.dumps(flat, allow_nan=False)
    assert flat["slope_ci"] == [None, None]
    assert flat["r2"] is None
    assert flat["n_boot"] is None


# Errors -------------------------------------------------------------------------------------------

GENERATOR = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda: fit_learning_curve([0, 1, 2], np.ones(3)), InputError),
        (lambda: fit_learning_curve([np.nan, 1, 2], np.ones(3)), InputError),
        (lambda: fit_learning_curve([np.inf, 1, 2], np.ones(3)), InputError),
        (lambda: fit_learning_curve([5, 5, 5], np.ones(3)), InputError),
        (lambda: fit_learning_curve([], []), InputError),
        (lambda: fit_learning_curve([[1, 2]], [[1, 2]]), InputError),
        (lambda: fit_learning_curve(["1 h", "2 h"], [1, 2]), InputTypeError),
        (lambda: fit_learning_curve([1, 2], ["a", "b"]), InputTypeError),
        (lambda: fit_learning_curve([1, 2], [1, 2, 3]), InputError),
        (lambda: fit_learning_curve([1, 2], np.ones((2, 3))), InputError),
        (lambda: fit_learning_curve([1, 2], np.ones((0, 2))), InputError),
        (lambda: fit_learning_curve([1, 2], np.ones((1, 1, 2))), InputError),
        (lambda: fit_learning_curve([1, 2], [1, np.inf]), InputError),
        (lambda: fit_learning_curve([1, 2], [[1, 2], [np.nan, np.nan]]), InputError),
        # Two amounts, but each subject has one: a line through both would compare subjects
        (lambda: fit_learning_curve([1, 2], [[1, np.nan], [np.nan, 2]]), InputError),
        (lambda: fit_learning_curve([1, 1, 1, 2], [[1, 2, 4, np.nan]]), InputError),
        (lambda: fit_learning_curve([1, 2], [1, 2], level=95), InputError),
        (lambda: fit_learning_curve([1, 2], np.ones((2, 2)), np.ones((9, 2))), InputError),
        (lambda: fit_learning_curve([1, 2], np.ones((2, 2)), np.ones((9, 1, 2))), InputError),
        (lambda: fit_learning_curve([1, 2], [1, 2], np.ones((0, 2))), InputError),
        (lambda: fit_learning_curve([1, 2], [1, 2], np.full((9, 2), np.inf)), InputError),
        (lambda: fit_learning_curve([1, 2], np.ones((3, 2)), np.ones((9, 3, 2))), InputTypeError),
        (
            lambda: fit_learning_curve([1, 2], np.ones((3, 2)), np.ones((9, 3, 2)), generator=1),
            InputTypeError,
        ),
        (lambda: fit_learning_curve([1, 2], [1, 2]).predict(0), InputError),
        (lambda: fit_learning_curve([1, 2], [1, 2]).predict(1, subject=1), InputError),
        (lambda: fit_learning_curve([1, 2], [1, 2]).band([1, -1]), InputError),
        (lambda: fit_learning_curve([1, 2], [1, 2]).amount_to_reach(np.nan), InputError),
    ],
)
def test_bad_input_is_refused(call, error):
    with pytest.raises(error, match=r"expected.*found"):
        call()
