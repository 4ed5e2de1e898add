"""Classifiers that tell recorded from drawn rows, where it is known whether they differ."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binom
from sklearn.metrics import roc_auc_score

from synbrain_cli.errors import InputError
from synbrain_cli.metrics.permutation import Exchange, exchanges, p_values
from synbrain_cli.metrics.two_sample import (
    CLASSIFIERS,
    LEAST_IMAGES,
    Pattern,
    Sample,
    auc,
    held_out_scores,
    random_labels,
)


def made(generator, scale=1.0, shift=0.0, n_images=40, n_repeats=3, n_features=6) -> Sample:
    """Rows whose images share a part of them, and their squares; recorded ones are scaled."""
    image = np.repeat(np.arange(n_images), n_repeats)
    values = []
    for factor, moved in ((1.0, 0.0), (scale, shift)):
        shared = generator.normal(size=(n_images, n_features))[image]
        rows = factor * (0.6 * shared + generator.normal(size=(len(image), n_features))) + moved
        values.append(np.hstack([rows, rows**2]))
    is_recorded = np.repeat([False, True], len(image))
    return Sample(np.concatenate(values), np.tile(image, 2), is_recorded, n_images)


def judged(sample, classifier, generator):
    fold = sample.deal(generator)
    scores = held_out_scores(sample, CLASSIFIERS[classifier], fold, generator)
    return Exchange.of(sample, scores, fold), scores, fold


def test_auc_is_that_of_scikit_learn_with_ties(rng):
    labels, scores = rng.random(200) < 0.3, rng.integers(0, 12, 200).astype(float)
    assert auc(scores, labels) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    assert np.isnan(auc(scores, np.zeros(200, bool)))


@pytest.mark.parametrize("classifier", CLASSIFIERS)
@pytest.mark.parametrize("what", [{"scale": 1.6}, {"shift": 0.8}])
def test_every_classifier_finds_a_large_difference(classifier, what, rng):
    found, _, _ = judged(made(rng, **what), classifier, rng)
    assert found.auc > 0.7
    assert p_values([found], rng).best < 0.01


@pytest.mark.parametrize("classifier", CLASSIFIERS)
def test_nothing_is_found_where_nothing_differs(classifier):
    areas = [
        judged(made(rng), classifier, rng)[0].auc for rng in map(np.random.default_rng, range(4))
    ]
    assert abs(np.mean(areas) - 0.5) < 0.06


def test_false_alarms_are_as_rare_as_they_claim():
    """60 tests at .1: binomial limits of 0 to 12 (one in a thousand)."""
    alarms = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        alarms += p_values([judged(made(rng), "logistic", rng)[0]], rng).best <= 0.1
    assert alarms <= 12


def test_what_is_known_of_an_image_does_not_help(rng):
    """Labels and features that are those of the image: only a leak could tell them."""
    image = np.repeat(np.arange(60), 4)
    own = rng.normal(size=(60, 30))
    sample = Sample(own[image], image, (rng.random(60) < 0.5)[image], 60)
    found, _, fold = judged(sample, "trees", rng)
    assert abs(found.auc - 0.5) < 0.25
    assert np.bincount(fold).tolist() == [12] * 5


def test_exchange_is_the_auc_within_folds(rng):
    sample = made(rng, scale=1.3)
    found, scores, fold = judged(sample, "logistic", rng)
    above = pairs = 0.0
    for k in range(5):
        inside = fold[sample.image] == k
        n = sample.is_recorded[inside].sum() * (~sample.is_recorded[inside]).sum()
        above += n * roc_auc_score(sample.is_recorded[inside], scores[inside])
        pairs += n
    assert found.auc == pytest.approx(above / pairs, abs=1e-12)


def test_exchanged_and_resampled_are_recomputed_from_rows(rng):
    sample = made(rng, scale=1.3)
    found, scores, fold = judged(sample, "logistic", rng)
    n = sample.n_images
    assert found.resampled(np.ones((1, n)))[0] == pytest.approx(found.auc, abs=1e-12)
    assert found.exchanged(np.zeros((1, n)))[0] == pytest.approx(found.auc, abs=1e-12)
    assert found.exchanged(np.ones((1, n)))[0] == pytest.approx(1 - found.auc, abs=1e-12)
    swapped = rng.integers(0, 2, (3, n)).astype(float)
    for row, value in zip(swapped, found.exchanged(swapped), strict=True):
        other = sample.labelled(sample.is_recorded ^ (row[sample.image] > 0))
        assert value == pytest.approx(Exchange.of(other, scores, fold).auc, abs=1e-12)


def test_exchanges_are_as_many_as_promised(rng):
    drawn = np.concatenate(list(exchanges(7, rng)))
    assert drawn.shape == (1000, 7)
    assert set(np.unique(drawn)) == {0.0, 1.0}
    groups = np.array([4, 2, 2, 9, 4, 2, 0])
    drawn = np.concatenate(list(exchanges(7, rng, groups)))
    assert (drawn[:, [0, 1, 1]] == drawn[:, [4, 2, 5]]).all()
    assert len(np.unique(drawn, axis=0)) == 2**4


def test_groups_of_images_are_dealt_whole_and_give_no_false_alarms():
    """What images of a group share is no evidence, which it would be if they counted as many."""
    groups = np.repeat(np.arange(15), 4)
    alarms = dict.fromkeys((True, False), 0)
    for seed in range(40):
        rng = np.random.default_rng(seed)
        sample = made(rng, n_images=15, n_repeats=8)  # two rows of each of four images
        image = 4 * sample.image + np.tile(np.repeat(np.arange(4), 2), 30)
        for is_grouped in alarms:
            own = Sample(
                sample.features, image, sample.is_recorded, 60, groups if is_grouped else None
            )
            found, _, fold = judged(own, "logistic", rng)
            if is_grouped:
                assert all(len(set(fold[groups == g])) == 1 for g in range(15))
            alarms[is_grouped] += p_values([found], rng).best <= 0.05
    most = binom.ppf(0.999, 40, 0.05)  # one set of 40 in a thousand has more by chance
    assert alarms[True] <= most < alarms[False]


def test_rows_without_repeats_may_lack_images(rng):
    """Pairs exist of some images only: folds are dealt among these."""
    whole = made(rng, scale=2.0, n_images=50)
    sample = whole.select(whole.image % 2 == 0)
    found, _, fold = judged(sample, "logistic", rng)
    assert (fold[1::2] == -1).all()
    assert np.bincount(fold[::2]).tolist() == [5] * 5
    assert found.auc > 0.7
    assert 0 < p_values([found, judged(whole, "logistic", rng)[0]], rng).best < 0.05


def test_too_few_images_are_refused(rng):
    with pytest.raises(InputError, match=f"expected {LEAST_IMAGES} images or more, found 9"):
        made(rng, n_images=9).deal(rng)
    grouped = replace(made(rng, n_images=18), groups=np.repeat(np.arange(9), 2))
    with pytest.raises(InputError, match=f"{LEAST_IMAGES} groups of images or more, found 9"):
        grouped.deal(rng)


def test_a_constant_feature_tells_nothing(rng):
    sample = made(rng)
    constant = Sample(np.ones((len(sample.image), 2)), sample.image, sample.is_recorded, 40)
    found, _, _ = judged(constant, "logistic", rng)
    assert found.auc == 0.5
    assert p_values([found], rng).best == 1


def test_random_labels_halve_every_image(rng):
    image = rng.permutation(np.repeat(np.arange(30), rng.integers(1, 6, 30)))
    labels = random_labels(image, rng)
    n, n_recorded = np.bincount(image), np.bincount(image, labels)
    assert (np.abs(n - 2 * n_recorded) <= 1).all()
    odd = n % 2 == 1
    assert 0 < (n_recorded > n / 2)[odd].sum() < odd.sum()  # either may have the last one
    assert (labels != random_labels(image, rng)).any()


def test_pattern_is_a_correlation(rng):
    values, scores = rng.normal(size=(60, 5)), rng.normal(size=60)
    values[:, 4] = 3
    found = Pattern(5)
    for some in np.array_split(np.arange(60), 7):
        found.add(values[some], scores[some])
    known = [np.corrcoef(column, scores)[0, 1] for column in values.T[:4]]
    np.testing.assert_allclose(found.correlation(), [*known, 0], atol=1e-10)
