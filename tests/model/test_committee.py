"""A committee of networks: how much more a single prediction varies than the mean of all."""

from __future__ import annotations

import numpy as np
import pytest

from synbrain_cli.model.committee import SingleExcess

N_NETWORKS = 4


def fill(predicted, folds, averages):
    """The excess of predictions (n_networks, n_images, n_voxels)."""
    excess = SingleExcess(len(predicted), predicted.shape[2])
    for i, fold in enumerate(folds):
        excess.add(predicted[:, i], fold, averages[i])
    return excess


def variance_between(predicted):
    return predicted.var(0, ddof=1).mean(0)


@pytest.mark.parametrize("leverage", [0.0, 0.1, 0.4])
def test_what_networks_memorise_is_taken_into_account(leverage, rng):
    """Networks of known variance, that follow the responses to their images by known leverages."""
    n_images, n_voxels = 4000, 30
    variance = rng.uniform(0.02, 0.3, n_voxels)
    common = rng.normal(size=(n_images, n_voxels))
    averages = common + rng.normal(size=common.shape)
    unseen = common + np.sqrt(variance) * rng.normal(size=(N_NETWORKS, *common.shape))
    folds = rng.integers(N_NETWORKS, size=n_images)
    h = leverage * rng.uniform(0.5, 1.5, n_images)[:, None]  # of every image its own
    predicted = unseen + h * (averages - unseen)
    row = np.arange(n_images)
    predicted[folds, row] = unseen[folds, row]

    found = fill(predicted, folds, averages)
    np.testing.assert_allclose(found.ambiguity, variance, rtol=0.15)
    assert found.ambiguity.mean() == pytest.approx(variance.mean(), rel=0.02)
    np.testing.assert_allclose(found.value, 0.75 * found.ambiguity, rtol=1e-6)
    # The excess is what the mean of networks that did not see an image lacks.
    lacking = ((unseen - common) ** 2).mean((0, 1)) - ((unseen.mean(0) - common) ** 2).mean(0)
    assert found.value.mean() == pytest.approx(lacking.mean(), rel=0.02)
    if leverage == 0.4:
        seen = np.stack([np.delete(predicted[:, i], folds[i], 0) for i in row], 1)
        assert variance_between(seen).mean() < 0.5 * variance.mean()


@pytest.mark.parametrize(("n_features", "penalty"), [(60, 20.0), (200, 100.0), (400, 30.0)])
def test_ridge_regressions_differ_on_new_images_as_estimated(n_features, penalty, rng):
    n_images, n_voxels = 400, 40
    scale = np.arange(1, n_features + 1) ** -0.5
    known, new = (scale * rng.normal(size=(n, n_features)) for n in (n_images, 3000))
    weights = rng.normal(size=(n_features, n_voxels)) / np.linalg.norm(scale)
    averages = known @ weights + rng.normal(size=(n_images, n_voxels))
    folds = rng.permutation(n_images) % N_NETWORKS
    fits = []
    for k in range(N_NETWORKS):
        x, y = known[folds != k], averages[folds != k]
        fits.append(np.linalg.solve(x.T @ x + penalty * np.eye(n_features), x.T @ y))
    predicted, on_new = (np.stack([x @ one for one in fits]) for x in (known, new))

    truth = variance_between(on_new).mean()
    seen = np.stack([np.delete(predicted[:, i], folds[i], 0) for i in range(n_images)], 1)
    assert variance_between(seen).mean() < 0.93 * truth
    assert fill(predicted, folds, averages).ambiguity.mean() == pytest.approx(truth, rel=0.08)


def test_images_that_no_network_saw_are_predicted_by_the_mean_and_add_nothing(rng):
    predicted, averages = rng.normal(size=(N_NETWORKS, 60, 5)), rng.normal(size=(60, 5))
    folds = np.arange(60) % N_NETWORKS
    every, half = folds, np.where(np.arange(60) < 30, folds, -1)
    dealt = fill(predicted[:, :30], folds[:30], averages[:30])
    found = fill(predicted, half, averages)
    np.testing.assert_allclose(found.ambiguity, dealt.ambiguity)
    np.testing.assert_allclose(found.value, dealt.value / 2, rtol=1e-6)
    assert (fill(predicted, every, averages).value > 0).all()


def test_it_is_never_below_what_networks_that_saw_the_image_show(rng):
    """Nor is it anything but a number where there is nothing to estimate it from."""
    averages = rng.normal(size=(40, 6))
    predicted = averages + rng.normal(size=(N_NETWORKS, 40, 6))
    folds = np.arange(40) % N_NETWORKS
    predicted[folds, np.arange(40)] = averages  # who did not see it knows it best
    seen = np.stack([np.delete(predicted[:, i], folds[i], 0) for i in range(40)], 1)
    found = fill(predicted, folds, averages)
    np.testing.assert_allclose(found.ambiguity, variance_between(seen))
    constant = fill(np.zeros((N_NETWORKS, 40, 6)), folds, np.zeros((40, 6)))
    memorised = fill(np.broadcast_to(averages, predicted.shape), folds, averages)
    nothing, unseen = SingleExcess(N_NETWORKS, 6), fill(predicted, np.full(40, -1), averages)
    for one in (constant, memorised, nothing, unseen):
        np.testing.assert_allclose(one.value, 0, atol=1e-30)
