"""Draws of a trained model: averages over images vary as the closed form of contrasts says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import QUIET
from PIL import Image

from synbrain_cli import load_model
from synbrain_cli.experiments.predicted import predict

ROOT = Path(__file__).parents[2]
N_DRAWS = 600


@pytest.fixture(scope="module")
def brain(trained):
    return load_model(next(trained.weights.glob("sub-01*")), "cpu")


@pytest.fixture(scope="module")
def pictures():
    """Four views of each of two photographs, a few pixels apart."""
    files = [ROOT / "examples/images" / name for name in ("chelsea.png", "flower.jpg")]
    whole = [np.array(Image.open(file).convert("RGB").resize((80, 80))) for file in files]
    return np.stack([one[k : k + 64, k : k + 64] for one in whole for k in (0, 5, 10, 15)])


@pytest.fixture(scope="module")
def draws(brain, pictures):
    """In standard deviations: (n_images, n_draws, n_voxels)."""
    return brain.draw(pictures, N_DRAWS, seed=1, signal="fresh", unit="z")


@pytest.fixture(scope="module")
def predicted(brain, pictures):
    with QUIET.bar("images", len(pictures)) as bar:
        return predict(brain, pictures, bar)


WEIGHTS = {
    "mean over alike images": np.repeat([0.25, 0], 4),
    "mean over all": np.full(8, 1 / 8),
    "difference of two kinds": np.repeat([0.25, -0.25], 4),
    "difference of alike images": np.array([1, -1, 0, 0, 0, 0, 0, 0.0]),
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_sums_over_images_vary_as_their_standard_errors_say(draws, predicted, name):
    weights = WEIGHTS[name]
    expected = predicted.error_variance(weights) + predicted.noise_variance(weights)
    found = np.einsum("i,ikv->kv", weights, draws).var(0)
    assert np.median(found / expected) == pytest.approx(1, abs=0.08)
    assert found.sum() / expected.sum() == pytest.approx(1, abs=0.08)


def test_images_that_err_on_their_own_would_be_far_too_sure(brain, predicted, draws):
    """Or the test before would see nothing."""
    signal = brain.distribution.readout.signal.variance
    weights = WEIGHTS["mean over alike images"]
    alone = np.square(weights) @ (predicted.relative * signal)
    shared = predicted.error_variance(weights)
    assert shared.sum() > 1.8 * alone.sum()
    np.testing.assert_array_less(0.2, predicted.shared[:4, :4])
    np.testing.assert_array_less(np.abs(predicted.shared[:4, 4:]), 0.3)


def test_a_draw_depends_on_its_image_and_number_alone(brain, pictures, draws):
    alone = brain.draw(pictures[5:6], 3, seed=1, signal="fresh", unit="z")
    np.testing.assert_array_equal(alone[0], draws[5, :3])
    turned = brain.draw(pictures[::-1], 2, seed=1, signal="fresh", unit="z")
    np.testing.assert_array_equal(turned[::-1], draws[:, :2])
