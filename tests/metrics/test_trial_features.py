"""What classifiers see: complete, of the right shape, and blind to what must not matter."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from synbrain_cli.metrics.trial_features import (
    ImageFeatures,
    Probes,
    feature_auc,
    kind_of,
    leading,
    pair_features,
    pairs_of,
    trial_features,
)

N_IMAGES, N_VOXELS = 30, 40
REGIONS = ("V1", "V2")


@pytest.fixture
def seen(rng):
    averaging = np.zeros((N_VOXELS, 2), np.float32)
    averaging[:10, 0], averaging[10:30, 1] = 1 / 10, 1 / 20
    images = ImageFeatures.of(
        rng.normal(size=(N_IMAGES, N_VOXELS)).astype(np.float32), rng.random(N_IMAGES) + 0.5
    )
    z = rng.normal(size=(3 * N_IMAGES, N_VOXELS)).astype(np.float32)
    group = np.repeat(np.arange(N_IMAGES), 3)
    return z, images, Probes.fit(z, group, images.components, averaging, REGIONS, rng)


def test_directions_have_length_one_and_names(seen):
    _, images, probes = seen
    np.testing.assert_allclose(np.linalg.norm(probes.directions, axis=0), 1, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(images.directions, axis=1), 1, atol=1e-5)
    assert len(set(probes.names)) == probes.directions.shape[1] == 28


def test_leading_directions_are_those_of_an_svd(rng):
    for shape in ((12, 30), (30, 12)):
        rows = rng.normal(size=shape)
        known = np.linalg.svd(rows, full_matrices=False)[2][:4].T
        np.testing.assert_allclose(np.abs((leading(rows, 4) * known).sum(0)), 1, atol=1e-8)
    assert leading(np.zeros((5, 4)), 3).shape == (4, 0)
    assert leading(np.zeros((0, 4)), 3).shape == (4, 0)


def test_all_images_have_the_same_finite_features(seen):
    z, images, probes = seen
    one, other = (trial_features(z[3 * k : 3 * k + 3], k, probes, images) for k in (0, 7))
    assert list(one) == list(other)
    assert all(np.isfinite(v).all() and v.shape == (3,) for v in one.values())
    np.testing.assert_allclose(one["mean V1"], z[:3, :10].mean(1), atol=1e-6)
    np.testing.assert_allclose(one["mean V1²"], one["mean V1"] ** 2)
    np.testing.assert_allclose(one["energy V2"], np.log((z[:3, 10:30] ** 2).mean(1)), atol=1e-6)
    np.testing.assert_allclose(one["along"], z[:3] @ images.directions[0], atol=1e-5)


def test_order_within_a_pair_does_not_matter(seen):
    z, images, probes = seen
    found = pair_features(z[:2], z[1:3], 0, probes, images)
    turned = pair_features(z[1:3], z[:2], 0, probes, images)
    for name, values in found.items():
        np.testing.assert_allclose(values, turned[name], err_msg=name)
    np.testing.assert_allclose(found["product V1"], (z[:2] * z[1:3])[:, :10].mean(1), atol=1e-6)


def test_every_feature_has_a_kind(seen):
    z, images, probes = seen
    of_trials = {kind_of(name) for name in trial_features(z[:3], 0, probes, images)}
    of_pairs = {kind_of(name) for name in pair_features(z[:2], z[1:3], 0, probes, images)}
    assert of_trials == {None, "means", "variance", "shape"}
    assert of_pairs == {None, "means", "signal", "noise", "shape"}
    assert [kind_of(f"sum: {name}") for name in ("along × size", "energy V1")] == [
        "means",
        "signal",
    ]


@pytest.mark.parametrize(
    ("n", "pairs"), [(0, []), (1, []), (2, [(0, 1)]), (4, [(0, 1), (1, 2), (2, 3), (3, 0)])]
)
def test_pairs(n, pairs):
    assert list(zip(*(side.tolist() for side in pairs_of(n)), strict=True)) == pairs


def test_images_that_do_not_differ_have_finite_features(rng):
    same = np.ones((5, N_VOXELS), np.float32)
    images = ImageFeatures.of(same, None)
    assert np.isfinite(images.values).all()
    assert not images.directions.any()
    assert images.names == ("size", "uncertainty")


def test_auc_of_a_feature_and_its_error(rng):
    """The error is that over images: as many standard errors as AUC of new data scatter by."""
    image, labels = np.tile(np.repeat(np.arange(50), 3), 2), np.repeat([False, True], 150)
    found = []
    for _ in range(200):
        shared = rng.normal(size=(2, 50))[labels.astype(int), image]
        values = shared + rng.normal(size=300)
        area, z = feature_auc(values, image, labels)
        assert area == pytest.approx(roc_auc_score(labels, values), abs=1e-12)
        found.append(z)
    assert np.std(found) == pytest.approx(1, abs=0.15)
    assert feature_auc(np.ones(300), image, labels) == (0.5, 0.0)
