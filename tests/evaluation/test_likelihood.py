"""Likelihood of recorded trials: bits beside baselines, bounds and controls."""

import copy
from dataclasses import replace

import numpy as np
import pytest
from conftest import QUIET
from msgspec import UNSET
from scipy.stats import norm

from synbrain_cli import load_model
from synbrain_cli.brain.drawing import Drawing
from synbrain_cli.evaluation.likelihood import count_steps, image_by_image, score_likelihood
from synbrain_cli.evaluation.predictions import Predictions
from synbrain_cli.evaluation.test_set import TestSet
from synbrain_cli.metrics.bootstrap import Bootstrap
from synbrain_cli.model.covariance import LowRank
from synbrain_cli.run import RunContext


@pytest.fixture(scope="module")
def brain(trained):
    return load_model(trained.weights / "sub-01", "cpu")


@pytest.fixture(scope="module")
def made(brain, subject, store):
    """Trials that the model drew: the model is the truth."""
    test = TestSet.load(subject, store, [brain])
    predictions = Predictions.of(brain, test, RunContext(progress=QUIET))
    drawing = Drawing(4, seed=11)
    drawn = [predictions.draw(brain, test, image, drawing) for image in range(test.n_images)]
    rows = np.repeat(np.arange(test.n_images), 4)
    return replace(test, trials=np.concatenate(drawn), image_index=rows), predictions


@pytest.fixture(scope="module")
def scores(brain, made):
    return score_likelihood(brain, *made, Bootstrap(100, 0))


def test_the_model_is_likelier_than_baselines_and_shuffled_images(scores):
    given = scores.given_image
    assert given.model > given.linear > 0
    assert given.model > given.shuffled
    assert given.ci[0] < given.model < given.ci[1]
    assert given.gain_ci["shuffled"][0] > 0, "images shuffled"
    told = scores.given_repeats
    assert told.model > given.model, "other repeats tell of the image"
    assert told.model > told.image_blind > given.image_blind
    assert given.model > given.image_blind


def test_no_other_distribution_is_likelier_than_the_truth(brain, made, scores):
    readout = brain.distribution.readout
    nothing = LowRank.independent(np.zeros(brain.n_voxels))
    others = {
        "u is not shared by repeats": {
            "signal": nothing,
            "noise": readout.noise.with_variance(readout.noise.variance + readout.signal.variance),
        },
        "larger variances": {"noise": readout.noise.with_variance(1.2 * readout.noise.variance)},
        "independent voxels": {"noise": LowRank.independent(readout.noise.variance)},
    }
    for name, parts in others.items():
        other = copy.copy(brain)
        other._distribution = replace(brain.distribution, readout=replace(readout, **parts))
        test, predictions = made
        again = replace(predictions, _kept={})
        bits, told = image_by_image(other, test, again)
        assert told["model"].mean() < scores.given_repeats.model, name
        if not name.startswith("u is"):
            assert bits["model"].mean() < scores.given_image.model, name


def test_information_gain_lies_between_its_bounds(scores):
    given, told, gain = scores.given_image, scores.given_repeats, scores.information_gain
    expected = (given.model - given.image_blind) / (told.model - given.image_blind)
    assert gain.model == pytest.approx(expected), "every image was repeated"
    assert gain.shuffled < 0 < gain.model < 1
    assert gain.ci[0] < gain.model < gain.ci[1]


def test_bits_are_above_independent_normal_noise(brain, made):
    """Against scipy, trial by trial, for the linear encoder: both are independent normal."""
    test, predictions = made
    bits, _ = image_by_image(brain, test, predictions)
    known = brain.distribution
    trials = test.trials[test.image_index == 3].astype(float)
    linear = norm(predictions["linear"][3], np.sqrt(known.linear_variance)).logpdf(trials)
    pattern = norm(known.mean_pattern, np.sqrt(known.trial_variance)).logpdf(trials)
    expected = (linear - pattern).mean() / np.log(2)
    assert bits["linear"][3] == pytest.approx(expected, rel=1e-4)


def test_without_repeats_there_is_no_information_gain(brain, made):
    test, predictions = made
    first = np.unique(test.image_index, return_index=True)[1]
    once = replace(test, image_index=test.image_index[first], trials=test.trials[first])
    found = score_likelihood(brain, once, predictions, Bootstrap(50, 0))
    assert found.given_repeats is UNSET
    assert found.information_gain is UNSET
    assert np.isfinite(found.given_image.model)


def test_counts_are_told_from_other_numbers(rng):
    n = 300
    trials = np.stack(
        [
            rng.poisson(2, n) * 0.37 - 1.0,
            rng.normal(size=n),
            np.round(300 * rng.normal(size=n)) / 300,
            np.full(n, 2.0),
            rng.choice([0.0, 1.0, 1.5, 3.7], n),
        ],
        axis=1,
    )
    expected = [0.37, 0, 0, 0, 0]
    np.testing.assert_allclose(count_steps(trials.astype(np.float32)), expected, atol=1e-4)
    assert not count_steps(trials[:100]).any(), "too few trials to tell"


def test_counts_are_not_as_likely_as_one_likes(brain, made):
    """Steps of Q where the counts lie change nothing; rounding does not make trials likelier."""
    test, predictions = made
    rounded = replace(test, trials=np.round(2 * test.trials) / 2)
    bits, _ = image_by_image(brain, rounded, predictions)
    assert (count_steps(rounded.trials) > 0).all()
    steep = copy.copy(brain)
    flat = brain.distribution.readout.curve.copy()
    flat = np.round(2 * flat) / 2  # steps at the rounded values
    readout = replace(brain.distribution.readout, curve=flat.astype(np.float32))
    steep._distribution = replace(brain.distribution, readout=readout)
    again, _ = image_by_image(steep, rounded, replace(predictions, _kept={}))
    assert again["model"].mean() == pytest.approx(bits["model"].mean(), abs=1e-6)
    whole, _ = image_by_image(brain, test, predictions)
    assert bits["model"].mean() < whole["model"].mean() + 0.01
