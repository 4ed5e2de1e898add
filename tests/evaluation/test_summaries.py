"""Summaries of patterns: what they are computed from."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from synbrain_cli.evaluation.summaries import N_COMPONENTS, Summaries

N_VOXELS = 30


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def regions():
    masks = {name: np.zeros(N_VOXELS, bool) for name in ("V1", "V2", "FFA")}
    masks["V1"][:10], masks["V2"][8:20], masks["FFA"][20:] = True, True, True
    return masks


def made(rng):
    noise = rng.normal(0, 1, (N_VOXELS, 3)).astype(np.float32)
    return Summaries.of(regions(), noise, rng.normal(0, 1, (50, N_VOXELS)).astype(np.float32))


def test_means_of_regions_and_their_differences(rng):
    summaries, patterns = made(rng), rng.normal(0, 1, (4, N_VOXELS)).astype(np.float32)
    values = summaries(patterns, None)
    means = np.stack([patterns[:, mask].mean(1) for mask in regions().values()], 1)
    np.testing.assert_allclose(values[:, summaries.kinds["region_means"]], means, atol=1e-5)
    pairs = [(0, 1), (0, 2), (1, 2)]
    differences = np.stack([means[:, j] - means[:, k] for j, k in pairs], 1)
    found = values[:, summaries.kinds["region_differences"]]
    np.testing.assert_allclose(found, differences, atol=1e-5)


def test_directions_are_those_of_most_variance(rng):
    noise = np.zeros((N_VOXELS, 2), np.float32)
    noise[3, 0], noise[7, 1] = 5, 2
    summaries = Summaries.of({}, noise, np.zeros((10, N_VOXELS), np.float32))
    assert "region_means" not in summaries.kinds
    assert "signal_components" not in summaries.kinds, "predictions do not vary"
    directions = np.abs(summaries.weights[:, summaries.kinds["noise_components"]])
    np.testing.assert_allclose(directions, np.eye(N_VOXELS)[:, [3, 7]], atol=1e-6)
    assert made(rng).kinds["signal_components"].stop - 9 == N_COMPONENTS


def test_distances_are_those_of_rsa(rng):
    summaries = made(rng)
    a, b = rng.normal(0, 1, (2, 5, N_VOXELS)).astype(np.float32)
    found = summaries(a, b)[:, summaries.kinds["distances"]]
    for k, metric in enumerate(("euclidean", "correlation")):
        np.testing.assert_allclose(found[:, k], np.diag(cdist(a, b, metric)), rtol=1e-5)
    assert np.isnan(summaries(a, None)[:, summaries.kinds["distances"]]).all()


def test_one_voxel_has_no_distances():
    one = Summaries.of({}, np.ones((1, 1), np.float32), np.ones((3, 1), np.float32))
    assert set(one.kinds) == {"noise_components"}
