"""Order of trials: draws have the time courses they claim; what is not there is not found."""

from dataclasses import replace

import numpy as np
import pytest

from synbrain_cli.model.covariance import LowRank
from synbrain_cli.model.curve import NODES
from synbrain_cli.model.readout import Readout
from synbrain_cli.model.sequence import (
    Sequence,
    TrialOrder,
    centred_variance,
    earlier,
    effect_factors,
    estimate_drift,
    less,
    time_covariance,
    with_rest,
)
from synbrain_cli.model.sequence_fit import fit_sequence, is_sorted_by_name
from synbrain_cli.model.trial_blocks import Residuals, cut_blocks, held_out_blocks

N_SESSIONS, LENGTH, N_VOXELS, N_IMAGES = 8, 300, 60, 800


def plain(n_voxels: int, variance: float | np.ndarray = 1.0) -> Readout:
    """Independent noise, no unexplained signal, means of SD 1."""
    return Readout.gaussian(np.broadcast_to(np.float32(variance), n_voxels))


def left_by(trials, means, image) -> Residuals:
    """Residuals, with the variance that they have as that of the noise."""
    return Residuals(trials, image, means, plain(N_VOXELS, (trials - means[image]).var(0)))


@pytest.fixture(scope="module")
def experiment():
    """Means and order of an experiment in which every image is shown three times."""
    rng = np.random.default_rng(1)
    image = rng.permutation(np.repeat(np.arange(N_IMAGES), 3))
    session = np.repeat(np.arange(N_SESSIONS), LENGTH)
    means = rng.standard_normal((N_IMAGES, N_VOXELS)).astype(np.float32)
    return means, TrialOrder.of(session, image), image


@pytest.fixture(scope="module")
def truth():
    """A sequence with all three effects, each of its own pattern over voxels."""
    rng = np.random.default_rng(2)
    loadings = (0.35 * rng.standard_normal((N_VOXELS, 2))).astype(np.float32)
    offset = np.array([0.1, -0.02, -0.08])[:, None] * (1 + 0.5 * rng.standard_normal(N_VOXELS))
    return Sequence(
        LowRank(loadings, np.full(N_VOXELS, 0.15, np.float32)),
        32.0,
        (offset - offset.mean(0)).astype(np.float32),
        (0.5 * (offset - offset.mean(0))).astype(np.float32),
        "experiment",
        (0.12 * (1 + 0.5 * rng.standard_normal(N_VOXELS))).astype(np.float32),
        LowRank.independent(np.ones(N_VOXELS)),
    )


def record(sequence, experiment, seed=3):
    """Trials of the experiment, and the drift in them."""
    means, order, image = experiment
    rng = np.random.default_rng(seed)
    drift = np.concatenate([np.stack(list(sequence.courses(int(n), rng))) for n in order.length])
    before = np.where(order.previous[:, None] >= 0, means[order.previous], 0)
    effects = sequence.effect(order.presentation, means[image], before)
    rest = np.stack([sequence.rest.draw(rng) for _ in range(len(image))])
    return means[image] + drift + effects + rest, drift


@pytest.fixture(scope="module")
def fitted(truth, experiment):
    trials, drift = record(truth, experiment)
    means, order, image = experiment
    residuals = left_by(trials, means, image)
    return fit_sequence(residuals, order), residuals, drift


# ------------------------------------------------------------------------------ order


def test_places_of_trials():
    order = TrialOrder.of(
        np.array([4, 4, 4, 2, 2]), np.array([7, 8, 7, 7, 7]), np.array([1, 1, 2, 1, 1])
    )
    assert order.session.tolist() == [0, 0, 0, 1, 1]
    assert order.position.tolist() == [0, 1, 2, 0, 1]
    assert order.length.tolist() == [3, 2]
    assert order.presentation.tolist() == [1, 1, 2, 3, 4]
    assert order.presentation_in_session.tolist() == [1, 1, 2, 1, 2]
    assert order.previous.tolist() == [-1, 7, -1, -1, 7]  # the third begins a run


def test_part_of_an_order_knows_images_that_are_not_in_it():
    order = TrialOrder.of(np.zeros(4, int), np.array([0, 1, 2, 0]))
    part = order.part(np.array([1, 3]), np.array([0, 5, -1]))
    assert part.previous.tolist() == [0, -1]
    assert part.position.tolist() == [1, 3]
    assert part.presentation.tolist() == [1, 2]
    assert part.length.tolist() == [4]


def test_earlier_counts(rng):
    values = rng.integers(0, 5, 50)
    assert earlier(values).tolist() == [int((values[:t] == v).sum()) for t, v in enumerate(values)]


def test_rows_sorted_by_name_are_no_order(rng):
    session = np.zeros(400, int)
    assert is_sorted_by_name(session, np.tile(np.arange(100), 4))
    assert is_sorted_by_name(session, np.repeat(np.arange(100), 4))
    assert not is_sorted_by_name(session, rng.permutation(np.repeat(np.arange(100), 4)))


def test_blocks_never_share_trials_or_sessions(experiment):
    _, order, _ = experiment
    for blocks in (held_out_blocks(order), cut_blocks(order, 3)):
        rows = np.concatenate([block.rows for block in blocks])
        assert len(rows) == len(np.unique(rows))
        for block in blocks:
            assert len(np.unique(order.session[block.rows])) == 1
            assert np.ptp(order.position[block.rows]) < block.length
    few = TrialOrder.of(np.repeat([0, 1], 400), np.arange(800))
    assert len(held_out_blocks(few)) == 8


# ------------------------------------------------------------------------------ draws


def test_drift_has_the_covariance_it_claims(truth):
    rng = np.random.default_rng(0)
    courses = np.stack([np.stack(list(truth.courses(40, rng))) for _ in range(1500)])
    # Every session's mean is 0, but for what scales all trials to one variance
    assert (courses.mean(1).var(0) < 0.02 * truth.drift.variance).all()
    np.testing.assert_allclose(
        courses.var(0).mean(1), np.full(40, truth.drift.variance.mean()), rtol=0.06
    )
    across = np.einsum("nsv,ntv->st", courses, courses) / courses.shape[0]
    expected = time_covariance(40, truth.time_constant) * truth.drift.variance.sum()
    assert np.abs(across - expected).max() < 0.05 * truth.drift.variance.sum()
    over_voxels = np.einsum("ntv,ntw->vw", courses, courses) / (1500 * 40)
    wanted = truth.drift.loadings @ truth.drift.loadings.T + np.diag(truth.drift.private**2)
    assert np.abs(over_voxels - wanted).max() < 0.15 * truth.drift.variance.max()


def test_time_covariance_in_closed_form():
    """The variance that scales courses is that of the covariance."""
    place = np.arange(30)
    raw = np.exp(-np.abs(place[:, None] - place) / 7)
    centring = np.eye(30) - 1 / 30
    np.testing.assert_allclose(np.diag(centring @ raw @ centring), centred_variance(30, 7.0))
    np.testing.assert_allclose(np.diag(time_covariance(30, 7.0)), 1)


def test_a_session_of_one_trial_has_no_drift(truth):
    assert not next(truth.courses(1, np.random.default_rng(0))).any()
    seen, none = np.ones((1, N_VOXELS)), LowRank.independent(np.zeros(N_VOXELS))
    assert not estimate_drift(seen, np.array([0]), 1, truth, none).any()


def test_what_is_taken_out_was_there(rng):
    """Noise that holds a part, less that part, is the rest: exactly where both are low-rank."""
    part, rest = rng.standard_normal((30, 2)), rng.standard_normal((30, 3))
    private = rng.uniform(0.5, 1, 30)
    noise = LowRank(np.hstack([part, rest]).astype(np.float32), private.astype(np.float32))
    left = less(noise, part, noise.variance - (part**2).sum(1))
    found = left.loadings @ left.loadings.T + np.diag(left.private**2)
    np.testing.assert_allclose(found, rest @ rest.T + np.diag(private**2), atol=1e-4)


def test_a_single_trial_varies_as_before(truth, experiment, rng):
    """Variance of drift, effects and rest together is that of the noise, voxel by voxel."""
    means, order, image = experiment
    noise = LowRank(
        (0.3 * rng.standard_normal((N_VOXELS, 3))).astype(np.float32),
        np.full(N_VOXELS, 0.8, np.float32),
    )
    some = slice(None, None, 4)
    before = np.where(order.previous[:, None] >= 0, means[order.previous], 0)[some]
    shown = order.presentation[some], means[image][some], before
    taken = with_rest(truth, noise, truth.effect(*shown))
    after = taken.effect(*shown)
    total = taken.rest.variance + taken.drift.variance + after.var(0, dtype=np.float64)
    np.testing.assert_allclose(total, noise.variance, rtol=1e-5)
    # And of draws: those of one trial in many sequences
    drawn = np.stack([next(taken.courses(5, rng)) + taken.rest.draw(rng) for _ in range(4000)])
    np.testing.assert_allclose(
        (drawn.var(0) + after.var(0)).mean(), noise.variance.mean(), rtol=0.03
    )


def test_more_than_there_is_cannot_be_taken(truth):
    noise = LowRank.independent(np.full(N_VOXELS, 0.01))
    found = with_rest(truth, noise, np.zeros((10, N_VOXELS), np.float32))
    assert (found.rest.variance > 0).all()
    np.testing.assert_allclose(found.rest.variance + found.drift.variance, 0.01, rtol=1e-4)


def test_factors_of_effects(rng):
    effects = (rng.standard_normal((400, 2)) @ rng.standard_normal((2, 20))).astype(np.float32)
    factors = effect_factors(effects)
    assert factors.shape == (20, 2)
    np.testing.assert_allclose(factors @ factors.T, np.cov(effects.T, bias=True), atol=1e-4)
    assert effect_factors(np.ones((5, 20), np.float32)).shape == (20, 0)


def test_arrays_round_trip(truth):
    again = Sequence.from_arrays(truth.arrays())
    assert again.time_constant == truth.time_constant
    assert again.count == truth.count
    for name in ("offset", "gain", "serial"):
        np.testing.assert_array_equal(getattr(again, name), getattr(truth, name))
    np.testing.assert_array_equal(again.rest.private, truth.rest.private)
    np.testing.assert_array_equal(again.drift.loadings, truth.drift.loadings)


# ------------------------------------------------------------------------------ fit


def test_residuals_undo_the_curve(rng):
    curve = (NODES + 0.08 * NODES**2)[:, None].astype(np.float32)
    readout = replace(plain(1), curve=curve)
    drawn = readout.respond(
        np.zeros(1, np.float32),
        [np.zeros(1, np.float32)],
        (e := rng.standard_normal((200, 1)).astype(np.float32)),
        200,
    )
    index = np.zeros(200, int)
    residuals = Residuals(drawn, index, np.zeros((1, 1), np.float32), readout)
    np.testing.assert_allclose(residuals.of(slice(0, 1)), e, atol=1e-4)


def test_every_effect_is_found(fitted, truth):
    found, _, _ = fitted
    sequence = found.sequence
    assert set(found.kept) == {"drift", "repetition", "serial"}
    assert sequence.count == "experiment"
    assert np.corrcoef(sequence.serial, truth.serial)[0, 1] > 0.9
    assert np.corrcoef(sequence.offset.ravel(), truth.offset.ravel())[0, 1] > 0.8
    assert abs(sequence.serial.mean() / truth.serial.mean() - 1) < 0.1
    assert 16 <= sequence.time_constant <= 64
    assert abs(sequence.drift.variance.mean() / truth.drift.variance.mean() - 1) < 0.3
    assert np.corrcoef(sequence.drift.variance, truth.drift.variance)[0, 1] > 0.8


def test_course_of_a_recorded_session_is_found_from_half_of_its_trials(fitted, experiment):
    found, residuals, drift = fitted
    _, order, _ = experiment
    rng = np.random.default_rng(0)
    seen = residuals.trials - residuals.means[residuals.image_index]
    estimated, true = [], []
    for session in range(N_SESSIONS):
        rows = np.flatnonzero(order.session == session)
        known = rng.random(len(rows)) < 0.5
        course = estimate_drift(
            seen[rows[known]],
            order.position[rows[known]],
            LENGTH,
            found.sequence,
            LowRank.independent(np.zeros(N_VOXELS)),
        )
        estimated.append(course[~known])
        true.append(drift[rows[~known]])
    r = np.corrcoef(np.concatenate(estimated).ravel(), np.concatenate(true).ravel())[0, 1]
    assert r > 0.8


def test_draws_have_the_autocorrelation_of_the_recording(fitted, experiment, truth):
    """At lags that a drift of this time constant spans, and per voxel at once."""
    found, residuals, _ = fitted
    means, _, image = experiment
    drawn = record(found.sequence, experiment, seed=11)[0]

    def autocovariance(trials):
        left = (trials - means[image]).reshape(N_SESSIONS, LENGTH, N_VOXELS)
        left = left - left.mean(1, keepdims=True)
        return np.array([(left[:, :-k] * left[:, k:]).mean() for k in (1, 5, 20, 60)])

    recorded = autocovariance(residuals.trials)
    assert np.abs(autocovariance(drawn) - recorded).max() < 0.03
    assert recorded[0] > 0.15
    np.testing.assert_allclose(drawn.var(0).mean(), residuals.trials.var(0).mean(), rtol=0.03)


@pytest.mark.parametrize("seed", range(4))
def test_nothing_is_gained_where_there_is_no_order(experiment, truth, seed):
    """Trials of another order: what the effects were made of is now noise."""
    trials, _ = record(truth, experiment)
    means, _, image = experiment
    rng = np.random.default_rng(seed)
    shuffled = rng.permutation(len(image))
    where = TrialOrder.of(np.repeat(np.arange(N_SESSIONS), LENGTH), image[shuffled])
    place = np.argsort(shuffled)
    residuals = left_by(trials, means, image)
    found = fit_sequence(residuals, where.part(place, np.arange(N_IMAGES)))
    assert found.kept == ()
    assert found.sequence.drift.is_nothing
    assert not found.sequence.has_effects
    for gain in found.gains.values():
        assert gain.bits < 1e-3
        assert not gain.is_sure


def test_each_effect_alone_is_told_from_the_others(experiment, truth):
    none = Sequence.nothing(truth.rest)
    alone = {
        "drift": replace(none, drift=truth.drift, time_constant=truth.time_constant),
        "repetition": replace(none, offset=truth.offset, gain=truth.gain),
        "serial": replace(none, serial=truth.serial),
    }
    means, order, image = experiment
    for name, sequence in alone.items():
        trials, _ = record(sequence, experiment, seed=5)
        residuals = left_by(trials, means, image)
        found = fit_sequence(residuals, order)
        assert found.kept == (name,)


def test_presentations_may_be_counted_by_session(experiment, truth):
    means, _, _ = experiment
    rng = np.random.default_rng(4)
    image = rng.permuted(
        np.tile(np.repeat(np.arange(100), 3), (N_SESSIONS, 1)), axis=1
    ).ravel()  # all images in every session
    order = TrialOrder.of(np.repeat(np.arange(N_SESSIONS), LENGTH), image)
    x = means[image]
    effect = truth.effect(order.presentation_in_session, x, np.zeros_like(x))
    trials = x + effect + rng.standard_normal(x.shape)
    residuals = left_by(trials.astype(np.float32), means, image)
    found = fit_sequence(residuals, order)
    assert found.kept == ("repetition",)
    assert found.sequence.count == "session"


def test_few_trials_are_not_fitted(experiment):
    means, _, _ = experiment
    image = np.arange(120)
    trials = means[image]
    residuals = Residuals(trials, image, means, plain(N_VOXELS))
    order = TrialOrder.of(np.zeros(120, int), image)
    assert fit_sequence(residuals, order) is None
