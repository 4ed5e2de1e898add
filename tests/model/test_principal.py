"""Principal components, from either matrix of moments and by either method, against the SVD."""

from __future__ import annotations

import numpy as np
import pytest

from synbrain_cli.model import principal
from synbrain_cli.model.principal import principal_components


# More rows than features and fewer; all components, some (Lanczos, in the last two).
@pytest.mark.parametrize(
    ("shape", "most"),
    [((30, 80), 99), ((80, 30), 99), ((80, 30), 12), ((90, 200), 4), ((200, 90), 4)],
)
def test_components_are_those_of_the_svd(shape, most, rng):
    features = rng.normal(size=shape) * np.geomspace(3, 0.1, shape[1])
    features = (features - features.mean(0)).astype(np.float32)
    found = principal_components(features, most)
    left, sizes, right = np.linalg.svd(features.astype(float), full_matrices=False)
    n = len(found.powers)
    assert n == min(most, shape[0] - 1, shape[1])
    np.testing.assert_allclose(np.sqrt(found.powers), sizes[:n], rtol=1e-4)
    np.testing.assert_allclose(np.abs(np.diag(right[:n] @ found.axes)), 1, atol=1e-4)
    np.testing.assert_allclose(np.abs(np.diag(left[:, :n].T @ found.vectors)), 1, atol=1e-4)
    scores = found.vectors * np.sqrt(found.powers)
    np.testing.assert_allclose(features @ found.axes, scores, atol=1e-3)


@pytest.mark.parametrize("shape", [(120, 80), (80, 120)])
def test_components_of_large_matrices_are_the_same_in_float32(shape, rng, monkeypatch):
    features = rng.normal(size=shape).astype(np.float32) * np.geomspace(3, 0.1, shape[1])
    features = (features - features.mean(0)).astype(np.float32)
    exact = principal_components(features, 30)
    monkeypatch.setattr(principal, "LARGE", 10)
    found = principal_components(features, 30)
    np.testing.assert_allclose(found.powers, exact.powers, rtol=1e-4)
    np.testing.assert_allclose(np.abs((found.axes * exact.axes).sum(0)), 1, atol=1e-4)
    np.testing.assert_allclose(found.vectors.T @ found.vectors, np.eye(30), atol=1e-5)


def test_signs_do_not_depend_on_the_method(rng, monkeypatch):
    features = rng.normal(size=(90, 200)).astype(np.float32) * np.geomspace(3, 0.1, 200)
    features = (features - features.mean(0)).astype(np.float32)
    few = principal_components(features, 4)
    monkeypatch.setattr(principal, "FEW", 1000)
    dense = principal_components(features, 4)
    np.testing.assert_allclose(few.axes, dense.axes, atol=1e-4)
    assert (few.axes.max(0) == np.abs(few.axes).max(0)).all()
