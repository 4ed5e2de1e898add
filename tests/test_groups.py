"""The one mechanism by which images are dealt, resampled and shuffled: groups stay together."""

from __future__ import annotations

import numpy as np
import pytest
from grouped_images import random_groups
from hypothesis import given
from hypothesis import strategies as st
from sklearn.model_selection import KFold

from synbrain_cli.errors import InputError
from synbrain_cli.groups import (
    count_groups,
    deal,
    derangement,
    joined,
    members,
    number_groups,
    resample,
    second_half,
    with_their_groups,
)


@st.composite
def structures(draw, least=2):
    """Groups of random number and sizes."""
    n_groups = draw(st.integers(least, 12))
    n_images = n_groups + draw(st.integers(1, 40))
    return random_groups(np.random.default_rng(draw(st.integers(0, 2**31))), n_images, n_groups)


@given(structures(), st.integers(2, 10), st.integers(0, 1000))
def test_no_group_is_on_both_sides_of_a_fold(groups, n_folds, seed):
    parts = deal(len(groups), n_folds, np.random.default_rng(seed), groups)
    assert sorted(np.concatenate(parts)) == list(range(len(groups)))
    assert len(parts) == min(n_folds, count_groups(len(groups), groups))
    held_out = [set(groups[part]) for part in parts]
    assert all(held_out)
    assert sum(map(len, held_out)) == len(set(groups))


@given(st.integers(2, 60), st.integers(2, 10), st.integers(0, 1000))
def test_without_groups_folds_are_those_of_scikit_learn(n_images, n_folds, seed):
    n_folds = min(n_folds, n_images)
    found = deal(n_images, n_folds, np.random.default_rng(seed))
    state = int(np.random.default_rng(seed).integers(2**31))
    expected = KFold(n_folds, shuffle=True, random_state=state).split(np.zeros(n_images))
    for part, (_, held_out) in zip(found, expected, strict=True):
        np.testing.assert_array_equal(part, held_out)


def test_folds_of_groups_are_of_nearly_one_size_and_random(rng):
    groups = np.repeat(np.arange(12), 5)
    parts = deal(60, 4, rng, groups)
    assert [len(part) for part in parts] == [15] * 4
    assert any(set(a) != set(b) for a, b in zip(parts, deal(60, 4, rng, groups), strict=True))


def test_images_of_one_group_cannot_be_dealt(rng):
    with pytest.raises(InputError, match=r"all 7 images .* are of one group"):
        deal(7, 5, rng, np.zeros(7, int))


@given(structures(), st.integers(0, 1000))
def test_no_group_is_in_both_halves(groups, seed):
    second = second_half(len(groups), np.random.default_rng(seed), groups)
    assert not set(groups[second]) & set(groups[~second])
    assert second.any()
    assert not second.all()


@given(structures(), st.integers(0, 1000))
def test_shuffled_images_are_of_other_groups(groups, seed):
    order = derangement(len(groups), np.random.default_rng(seed), groups)
    assert sorted(order) == list(range(len(groups)))
    assert (order != np.arange(len(groups))).all()
    if 2 * np.bincount(groups).max() <= len(groups):
        assert (groups[order] != groups).all()


@given(structures(), st.integers(0, 1000))
def test_groups_are_resampled_whole(groups, seed):
    counts = resample(len(groups), 20, np.random.default_rng(seed), groups)
    for rows in members(groups):
        assert (counts[:, rows] == counts[:, rows[:1]]).all()
    first = [rows[0] for rows in members(groups)]
    assert (counts[:, first].sum(1) == count_groups(len(groups), groups)).all()


def test_intervals_over_groups_are_those_of_their_means(rng):
    """Images of a group are no evidence of their own: five copies of 12 values are 12 values."""
    from synbrain_cli.metrics.bootstrap import Bootstrap

    values = rng.standard_normal(12)
    groups = np.repeat(np.arange(12), 5)
    many = Bootstrap(2000, 1, groups=groups).limits_of_mean(np.repeat(values, 5))
    assert many == pytest.approx(Bootstrap(2000, 1).limits_of_mean(values))
    as_if = Bootstrap(2000, 1).limits_of_mean(np.repeat(values, 5))
    assert np.ptp(as_if) < 0.6 * np.ptp(many)


def test_images_that_stand_alone_have_no_groups():
    assert number_groups(["a", "b", "c"], {}) is None
    assert number_groups(["a", "b", "c"], {"a": "x", "b": "y", "c": "z"}) is None
    # An image without a group is not of the group that has its name
    assert number_groups(["x", "b", "c"], {"b": "x", "c": "x"}).tolist() == [0, 1, 1]
    assert number_groups(["a", "b"], {"a": "x", "b": "x", "c": "y"}).tolist() == [0, 0]


def test_groups_of_subjects_that_share_an_image_are_one():
    first = {"a": "1", "b": "1", "c": "2"}
    second = {"b": "2", "d": "2", "e": "3"}
    found = joined([first, second])
    assert found["a"] == found["b"] == found["d"]
    assert len({found[name] for name in "ace"}) == 3
    assert with_their_groups({"d"}, found) == {"a", "b", "d"}
    assert with_their_groups({"z"}, found) == {"z"}
