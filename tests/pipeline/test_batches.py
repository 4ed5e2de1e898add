"""Images that are encoded by themselves are predicted together, and are what they are alone."""

import numpy as np
import pytest

from synbrain_cli import load_model
from synbrain_cli.brain.images import in_batches
from synbrain_cli.experiments.screening import RegionReader
from synbrain_cli.experiments.selection_aims import find_region
from synbrain_cli.tokens import Tokens


@pytest.mark.parametrize(
    ("sizes", "size", "expected"),
    [
        ([1] * 7, 3, [3, 3, 1]),
        ([1] * 6, 3, [3, 3]),
        ([1, 1], 16, [2]),
        ([4, 4, 4], 4, [4, 4, 4]),  # as a GPU encodes them
        ([], 4, []),
    ],
)
def test_batches_hold_every_image_once_and_in_order(sizes, size, expected):
    values = iter(np.arange(100, dtype=np.float32))
    stream = []
    for n in sizes:
        rows = np.array([next(values) for _ in range(n)]).reshape(n, 1, 1)
        stream.append((Tokens.of(rows, rows + 100), [f"{row:.0f}" for row in rows.ravel()]))
    found = list(in_batches(stream, size))
    assert [len(tokens) for tokens, _ in found] == expected
    names = [name for _, digests in found for name in digests]
    assert names == [f"{k}" for k in range(sum(sizes))]
    for tokens, digests in found:
        assert [f"{value:.0f}" for value in tokens.bands[0].ravel()] == digests
        np.testing.assert_array_equal(tokens.bands[1], tokens.bands[0] + 100)


def test_a_batch_that_was_filled_up_stays_so():
    rows = np.zeros((4, 1, 1), np.float32)
    ((tokens, digests),) = in_batches([(Tokens.of(rows), ["a", "b"])], 4)
    assert (len(tokens), digests) == (4, ["a", "b"])
    ((tokens, digests),) = in_batches([(Tokens.of(rows[:2]), ["a"])], 4)
    assert (len(tokens), digests) == (1, ["a"])


def test_images_together_are_predicted_as_alone(trained):
    brain = load_model(next(trained.weights.glob("sub-01*")), "cpu")
    pixels = np.random.default_rng(3).integers(0, 255, (5, 32, 32, 3), np.uint8)
    reader = RegionReader(brain, (find_region(brain, next(iter(brain.rois())), "--drive"),))
    ((tokens, digests),) = in_batches(brain.tokens(pixels), 16)
    assert len(tokens) == len(digests) == 5
    for seen, pixel in zip(reader.see(tokens), pixels, strict=True):
        ((alone, _),) = brain.tokens(pixel[None])
        np.testing.assert_allclose(seen.mean, brain.mean(pixel[None])[0], rtol=1e-4, atol=1e-5)
        doubt = brain.doubt(alone)
        known = brain.response_sd * np.sqrt(doubt.relative[0])
        np.testing.assert_allclose(seen.scale, known, rtol=1e-4)
        assert seen.distance == pytest.approx(doubt.distance[0], abs=0.1)
