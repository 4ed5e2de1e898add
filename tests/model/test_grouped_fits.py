"""What a fit predicts for an image that was left out, it owes to images of other groups alone."""

from __future__ import annotations

import numpy as np
import pytest
from grouped_images import random_groups
from one_band import standard
from sklearn.linear_model import Ridge as SklearnRidge

from synbrain_cli.errors import InputError
from synbrain_cli.groups import members
from synbrain_cli.model import covariance, fields, linear, similar_images, stack
from synbrain_cli.model.components import VarianceComponents
from synbrain_cli.model.covariance import Rows, SecondMoment, fit_low_rank
from synbrain_cli.model.fields import fit_fields
from synbrain_cli.model.linear import fit_linear, regress
from synbrain_cli.model.readout import Together, fit_separated
from synbrain_cli.model.stack import fit_stack
from synbrain_cli.model.transfer import fit_adapter


def seeded(seed):
    return np.random.default_rng(seed)


@pytest.fixture(params=range(3))
def groups(request):
    return random_groups(np.random.default_rng(request.param), 60, (8, 13, 30)[request.param])


@pytest.fixture
def spied(monkeypatch, groups):
    """Every deal of images to folds, in whatever fit: none may tear a group apart."""
    found = []

    def spy(module):
        real = module.deal

        def deal(n_images, n_folds, generator, own=None):
            assert own is not None, f"{module.__name__} deals without groups"
            parts = real(n_images, n_folds, generator, own)
            assert sum(len(set(own[part])) for part in parts) == len(set(own))
            found.append(module.__name__)
            return parts

        monkeypatch.setattr(module, "deal", deal)

    for module in (covariance, fields, linear, similar_images, stack):
        spy(module)
    return found


def test_ridge_leaves_out_groups_as_fits_without_them(groups, rng):
    x = rng.normal(size=(60, 20))
    y = (x @ rng.normal(size=(20, 6)) + 2 * rng.normal(size=(60, 6)) + 5).astype(np.float32)
    found = regress(x, y, seeded(0), groups=groups)
    scale = np.square(x - x.mean(0)).sum(1).mean()
    centred = x - x.mean(0)
    assert found.known is not None
    for rows in members(groups):
        others = np.setdiff1d(np.arange(60), rows)
        for voxel, alpha in enumerate(found.fit["alphas"]):
            # Where all components are kept, those of all rows are as good as those of the others
            reference = SklearnRidge(alpha=alpha * scale).fit(centred[others], y[others, voxel])
            expected = reference.predict(centred[rows])
            np.testing.assert_allclose(found.left_out[rows, voxel], expected, atol=2e-3)
        for column, alpha in enumerate(found.known.penalties):
            seen = np.c_[np.ones(len(others)), centred[others]]
            penalty = np.diag([0.0, *[alpha * scale] * 20])
            own = np.c_[np.ones(len(rows)), centred[rows]]
            leverage = np.einsum("ij,ji->i", own, np.linalg.solve(seen.T @ seen + penalty, own.T))
            left_out = found.known.left_out[rows, column]
            np.testing.assert_allclose(left_out, leverage, rtol=2e-3, atol=1e-4)


def test_single_images_as_groups_are_left_out_as_without_groups(rng):
    x, y = rng.normal(size=(40, 8)), rng.normal(size=(40, 5)).astype(np.float32)
    alone = regress(x, y, seeded(1))
    grouped = regress(x, y, seeded(1), groups=np.arange(40))
    same = alone.fit["alphas"] == grouped.fit["alphas"]  # folds are others
    assert same.any()
    np.testing.assert_allclose(alone.left_out[:, same], grouped.left_out[:, same], atol=1e-4)


def test_without_features_the_mean_of_other_groups_is_predicted(groups, rng):
    y = rng.normal(size=(60, 4)).astype(np.float32)
    found = regress(np.full((60, 7), 0.3), y, rng, groups=groups).left_out
    for rows in members(groups):
        expected = np.delete(y, rows, 0).mean(0)
        np.testing.assert_allclose(found[rows], np.tile(expected, (len(rows), 1)), atol=1e-5)


def test_receptive_fields_do_not_know_the_responses_of_a_held_out_group(groups, rng):
    tokens = rng.normal(size=(60, 16, 4)).astype(np.float32)
    y = rng.normal(size=(60, 8)).astype(np.float32)
    _, before = fit_fields(tokens, y, seeded(3), groups=groups)
    rows = members(groups)[0]
    changed = y.copy()
    changed[rows] -= 50
    _, after = fit_fields(tokens, changed, seeded(3), groups=groups)
    np.testing.assert_array_equal(after[rows], before[rows])


def test_every_fit_deals_by_groups(groups, spied, rng):
    tokens = rng.normal(size=(60, 16, 4)).astype(np.float32)
    y = (tokens[:, :8, 0] + rng.normal(size=(60, 8))).astype(np.float32)
    encoder, left_out = fit_linear(standard(tokens), y, seeded(0), groups=groups)
    fit_stack([left_out, y], y, seeded(0), groups=groups)
    fit_adapter(y, None, y, seeded(0), groups=groups)
    index = np.repeat(np.arange(60), 2)
    trials = (y[index] + rng.normal(size=(120, 8))).astype(np.float32)
    fit_separated(trials, index, left_out, seeded(0), together=Together(groups=groups))
    signal, voxels = np.ones(8), np.arange(8)
    similar_images.fit_concentration(
        encoder, standard(tokens), y, signal, voxels, seeded(0), groups
    )
    expected = {"linear", "fields", "stack", "covariance", "similar_images"}
    assert {name.rsplit(".", 1)[1] for name in spied} == expected


def test_noise_that_groups_share_is_no_signal(rng):
    """A common response of a group's images would be predicted by its other images."""
    groups = np.repeat(np.arange(12), 5)
    centre = rng.normal(size=(12, 16, 6))
    tokens = (centre[groups] + 0.3 * rng.normal(size=(60, 16, 6))).astype(np.float32)
    y = (rng.normal(size=(12, 200))[groups] + rng.normal(size=(60, 200))).astype(np.float32)
    fits = {
        known: fit_linear(standard(tokens), y, seeded(0), groups=groups if known else None)
        for known in (True, False)
    }
    share = {
        k: 1 - np.square(y - left).sum() / np.square(y - y.mean(0)).sum()
        for k, (_, left) in fits.items()
    }
    assert share[False] > 0.2  # as if the images' features predicted the response
    assert share[True] < 0.02


def test_the_interval_of_the_noise_share_counts_groups(rng):
    groups = np.repeat(np.arange(8), 6)
    signal = 2 * rng.normal(size=(8, 50))[groups]
    index = np.repeat(np.arange(48), 2)
    trials = (signal[index] + rng.normal(size=(96, 50))).astype(np.float32)
    means = np.zeros((48, 50), np.float32)
    alone, grouped = (
        VarianceComponents(trials, index, means, groups=own).separation() for own in (None, groups)
    )
    assert grouped.noise_share == alone.noise_share
    assert np.ptp(grouped.interval) > np.ptp(alone.interval)


def test_errors_of_variances_along_patterns_count_groups(rng):
    """Images that are shown twice under two names say no more than once."""
    means, noise = rng.normal(size=(40, 30)), rng.normal(size=(3, 40, 30))
    trials = (means + noise).astype(np.float32)
    index = np.tile(np.arange(40), 3)
    once = VarianceComponents(trials.reshape(-1, 30), index, means.astype(np.float32)).of_sums
    doubled = np.concatenate([trials, trials], 1).reshape(-1, 30)
    for groups, ratio in ((None, 0.5**0.5), (np.tile(np.arange(40), 2), 1)):
        twice = VarianceComponents(
            doubled, np.tile(np.arange(80), 3), np.tile(means, (2, 1)).astype(np.float32),
            groups=groups,
        ).of_sums  # fmt: skip
        for one, two in zip(once, twice, strict=True):
            np.testing.assert_allclose(two.variance, one.variance, rtol=1e-4, atol=1e-6)
            np.testing.assert_allclose(two.error, ratio * one.error, rtol=1e-4)


def test_factors_of_one_group_alone_are_none(rng):
    rows = rng.normal(size=(40, 30)).astype(np.float32)
    terms = [Rows(1.0, rows, np.arange(40))]
    moment = SecondMoment(terms, np.ones(40), np.zeros(40, int))
    found = fit_low_rank(moment, rows.var(0), rng)
    assert found.loadings.shape[1] == 0


def test_images_of_one_group_cannot_be_fitted(rng):
    x, y = rng.normal(size=(9, 4)), rng.normal(size=(9, 3)).astype(np.float32)
    with pytest.raises(InputError, match="of one group"):
        regress(x, y, rng, groups=np.zeros(9, int))
    with pytest.raises(InputError, match="of one group"):
        regress(np.ones((9, 4)), y, rng, groups=np.zeros(9, int))
