"""Random functions of the image: normal numbers that alike images share, and no other images."""

import numpy as np
import pytest
from scipy.stats import kstest

from synbrain_cli.model.covariance import LowRank
from synbrain_cli.model.error_fields import ErrorFields, shared_errors

N_FUNCTIONS = 400


@pytest.fixture
def directions(rng):
    """Images more and less like the first, and one that is its opposite."""
    away = rng.standard_normal((5, 60))
    near = away[0] + np.array([0, 0.3, 0.8, 2, 20])[:, None] * away
    near = np.concatenate([near, -near[:1]])
    return near / np.linalg.norm(near, axis=1, keepdims=True)


def numbers_of(fields, features, size, seeds=range(N_FUNCTIONS)):
    """Numbers of every image by many functions: (n_functions, n_images, size)."""
    return np.array(
        [
            [fields.normals(own, s, "u").standard_normal(size, np.float32) for own in features]
            for s in seeds
        ]
    )


def test_errors_shared_by_cosine():
    half = np.array([[1, 0.5], [0.5, 1]])
    assert shared_errors(half, 2.0)[0, 1] == pytest.approx(np.expm1(1) / np.expm1(2))
    assert shared_errors(half, 1e-6)[0, 1] == pytest.approx(0.5, abs=1e-5)  # of linear functions
    assert shared_errors(half, 16.0)[0, 1] < 0.001
    np.testing.assert_array_equal(shared_errors(half, np.inf), np.eye(2))
    across = np.array([[1, 0.0, -1], [0, 1, 0], [-1, 0, 1]])
    found = shared_errors(across, 3.0)
    assert found[0, 1] == 0
    assert -0.06 < found[0, 2] < 0
    np.testing.assert_array_equal(np.diag(found), 1)


@pytest.mark.parametrize("concentration", [1.0, 4.0, 8.0])
def test_images_share_numbers_by_how_alike_they_are(directions, concentration):
    """Over functions and voxels, whatever the number of voxels."""
    expected = shared_errors(directions @ directions.T, concentration)
    for size in (20, 3_000):
        fields = ErrorFields("a model")
        features = fields.features(directions, concentration)
        numbers = numbers_of(fields, features, size)
        found = np.einsum("siv,sjv->ij", numbers, numbers) / numbers.shape[0] / size
        np.testing.assert_allclose(found, expected, atol=0.08)
        np.testing.assert_allclose(np.diag(found), 1, atol=0.06 if size == 20 else 0.02)


def test_other_models_have_other_frequencies_whose_errors_average_out(directions):
    """The approximation is unbiased."""
    found = []
    for name in range(60):
        fields = ErrorFields(f"model {name}")
        numbers = numbers_of(fields, fields.features(directions, 4.0), 500, range(4))
        found.append(np.einsum("siv,sjv->ij", numbers, numbers) / numbers.shape[0] / 500)
    expected = shared_errors(directions @ directions.T, 4.0)
    np.testing.assert_allclose(np.mean(found, 0), expected, atol=0.02)


def test_numbers_of_one_image_are_normal_and_independent(directions):
    fields = ErrorFields("a model")
    features = fields.features(directions[:1], 4.0)
    numbers = numbers_of(fields, features, 300)[:, 0]
    assert kstest(numbers.ravel(), "norm").pvalue > 0.01
    correlations = np.corrcoef(numbers.T)[np.triu_indices(300, 1)]
    assert np.std(correlations) == pytest.approx(1 / np.sqrt(N_FUNCTIONS), rel=0.05)
    assert kstest(np.square(numbers).sum(1), "chi2", (300,)).pvalue > 0.01


def test_numbers_depend_on_image_seed_name_call_and_model_alone(directions, monkeypatch):
    fields = ErrorFields("a model")
    features = fields.features(directions, 4.0)
    first = fields.normals(features[0], 3, "u")
    numbers = first.standard_normal(50, np.float32)
    assert numbers.dtype == np.float32
    others = [
        first.standard_normal(50, np.float32),  # a second call
        fields.normals(features[4], 3, "u").standard_normal(50, np.float32),
        fields.normals(features[0], 4, "u").standard_normal(50, np.float32),
        fields.normals(features[0], 3, "v").standard_normal(50, np.float32),
        ErrorFields("another").normals(features[0], 3, "u").standard_normal(50, np.float32),
    ]
    assert all(abs(np.corrcoef(numbers, other)[0, 1]) < 0.6 for other in others)
    # Alone, in another order, and where nothing is kept
    monkeypatch.setattr("synbrain_cli.model.error_fields.MOST_KEPT", 0)
    alone = ErrorFields("a model")
    own = alone.features(directions[:1], 4.0)[0]
    np.testing.assert_allclose(own, features[0], rtol=0, atol=1e-7)  # a last digit at most
    again = alone.normals(features[0], 3, "u").standard_normal(50, np.float32)
    np.testing.assert_array_equal(again, numbers)
    assert not alone._functions


def test_what_is_kept_is_bounded(directions, monkeypatch):
    fields = ErrorFields("a model")
    features = fields.features(directions[:1], 4.0)[0]
    fields.normals(features, 0, "u").standard_normal(100, np.float32)
    (one,) = fields._functions.values()
    monkeypatch.setattr("synbrain_cli.model.error_fields.MOST_KEPT", 3 * one.weights.size)
    for seed in range(10):
        fields.normals(features, seed, "u").standard_normal(100, np.float32)
    assert len(fields._functions) == 3


def test_a_low_rank_distribution_is_drawn_as_from_a_generator(directions, rng):
    """Variances and correlations over voxels are those of the distribution."""
    loadings = rng.standard_normal((40, 3)).astype(np.float32)
    signal = LowRank(loadings, rng.uniform(0.5, 1, 40).astype(np.float32))
    fields = ErrorFields("a model")
    features = fields.features(directions[:2], 4.0)
    drawn = np.array(
        [[signal.draw(fields.normals(own, s, "u")) for own in features] for s in range(8_000)]
    )
    covariance = loadings @ loadings.T + np.diag(signal.private**2)
    scale = np.sqrt(np.outer(np.diag(covariance), np.diag(covariance)))
    for own in (drawn[:, 0], drawn[:, 1]):
        np.testing.assert_allclose(np.cov(own.T) / scale, covariance / scale, atol=0.09)
    shared = shared_errors(directions @ directions.T, 4.0)[0, 1]
    across = (drawn[:, 0] * drawn[:, 1]).mean(0) / np.diag(covariance)
    assert across.mean() == pytest.approx(shared, abs=0.06)
