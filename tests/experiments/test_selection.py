"""Regions that are asked for, and what a chosen set is worth: known answers."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from synbrain_cli.errors import InputError
from synbrain_cli.experiments.selection_aims import (
    SelectionSettings,
    find_region,
    parse_contrast,
)
from synbrain_cli.experiments.selection_guard import _unexplained, believe

ROIS = {
    "V1": np.array([1, 1, 0, 0, 0], bool),
    "hV4": np.array([0, 0, 1, 0, 0], bool),
    "A+B": np.array([0, 0, 0, 1, 0], bool),
    "left:V2": np.array([0, 0, 0, 0, 1], bool),
    "-x": np.array([1, 0, 0, 0, 0], bool),
}


@pytest.fixture
def brain():
    return SimpleNamespace(name="m", n_voxels=5, rois=lambda: ROIS)


@pytest.mark.parametrize(
    ("text", "voxels"),
    [
        ("V1", [0, 1]),
        ("V1+hV4", [0, 1, 2]),
        ("A+B", [3]),
        ("voxel:4", [4]),
        ("hV4+voxel:0", [0, 2]),
        ("left:V2", [4]),
    ],
)
def test_regions_are_rois_unions_and_voxels(brain, text, voxels):
    region = find_region(brain, text, "--drive")
    assert region.name == text
    assert np.flatnonzero(region.mask).tolist() == voxels


@pytest.mark.parametrize(
    ("text", "signs", "names"),
    [
        ("V1:hV4", (1, -1), ("V1", "hV4")),
        ("+V1:-hV4", (1, -1), ("V1", "hV4")),
        ("+V1:+hV4", (1, 1), ("V1", "hV4")),
        ("-V1:-hV4", (-1, -1), ("V1", "hV4")),
        ("-V1:+A+B", (-1, 1), ("V1", "A+B")),
        ("voxel:1:voxel:2", (1, -1), ("voxel:1", "voxel:2")),
        ("+voxel:1:-left:V2", (1, -1), ("voxel:1", "left:V2")),
        ("left:V2:hV4", (1, -1), ("left:V2", "hV4")),
        ("-x:hV4", (1, -1), ("-x", "hV4")),
    ],
)
def test_contrasts_have_two_regions_and_their_signs(brain, text, signs, names):
    aims = parse_contrast(brain, text)
    assert tuple(aim.sign for aim in aims) == signs
    assert tuple(aim.region.name for aim in aims) == names


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("V1", "expected two regions, such as"),
        ("V1:", "expected two regions, such as"),
        ("+V1:-", "expected two regions, such as"),
        ("V1:V1", "expected two regions, found the same voxels twice"),
        ("+V1+hV4:-hV4+V1", "found the same voxels twice"),
        ("V1:-hV4", "a sign of both regions or of neither"),
        ("V1:FFA", "m has no ROI 'FFA'; its ROIs: V1, hV4, A"),
        ("voxel:1:FFA", "no ROI 'FFA'"),
        ("V1:voxel:5", "voxel:0 to voxel:4 of m, found voxel:5"),
    ],
)
def test_impossible_contrasts_are_refused(brain, text, message):
    with pytest.raises(InputError, match=message):
        parse_contrast(brain, text)


def test_one_thing_is_asked_for():
    with pytest.raises(InputError, match="expected one of --drive V1, --suppress V2"):
        SelectionSettings(drive="V1", suppress="V2")
    with pytest.raises(InputError, match="--roi V2: expected with --tell-apart alone"):
        SelectionSettings(drive="V1", roi="V2")
    with pytest.raises(InputError, match="--top 0: expected one or more"):
        SelectionSettings(drive="V1", top=0)


def test_by_default_at_most_half_of_the_images_are_chosen():
    assert [SelectionSettings().n_chosen(n) for n in (2, 7, 40, 1000)] == [1, 3, 20, 20]
    assert SelectionSettings(top=5).n_chosen(10) == 5
    with pytest.raises(InputError, match="--top 6: expected at most 5, half of the 10 images"):
        SelectionSettings(top=6).n_chosen(10)
    with pytest.raises(InputError, match="expected two images or more to choose among, found 1"):
        SelectionSettings().n_chosen(1)


# ------------------------------------------------------------------------------- what is believed

N, N_CANDIDATES = 2_000, 500


class Halves:
    """What two halves predict of a true score, to training images and to candidates."""

    def __init__(self, rng, error=0.0, gain=1.0, signal=1.0, candidate_error=None):
        true, new = signal * rng.normal(size=N), signal * rng.normal(size=N_CANDIDATES)
        self.recorded = true + rng.normal(size=N)

        def predict(values, error):
            return gain * (values + error * rng.normal(size=(2, len(values))))

        self.predicted = predict(true, error)
        self.candidates = predict(new, error if candidate_error is None else candidate_error)
        self.is_second = np.arange(N) % 2 == 1

    def believe(self):
        return believe(self.recorded, self.predicted, self.is_second, self.candidates)


def test_of_noise_nothing_is_believed(rng):
    """Sets chosen by noise look large to what chose them, and are worth nothing."""
    noise = Halves(rng, error=1.0, signal=0.0)
    own = np.sort(noise.candidates[0])[-20:].mean()
    guard = noise.believe()
    assert own > 1.5
    assert abs(guard.share * own) < 0.15
    assert abs(guard.slope) < 0.1


def test_right_predictions_are_believed(rng):
    guard = Halves(rng).believe()
    assert guard.agreement == pytest.approx(1)
    assert guard.share == pytest.approx(1, abs=0.05)


def test_too_large_predictions_are_made_smaller(rng):
    assert Halves(rng, gain=2).believe().share == pytest.approx(0.5, abs=0.03)
    assert Halves(rng, gain=0.5).believe().share == pytest.approx(2, abs=0.1)


def test_errors_that_choose_are_taken_off(rng):
    """Errors as large as what is true: half of what is chosen is luck."""
    assert Halves(rng, error=1.0).believe().share == pytest.approx(0.5, abs=0.05)


def test_less_is_believed_where_halves_agree_less_than_on_training_images(rng):
    far = Halves(rng, error=0.5, candidate_error=2.0).believe()
    near = Halves(rng, error=0.5).believe()
    assert far.agreement < 0.35 * far.agreement_training
    assert far.share < 0.4 * near.share
    better = Halves(rng, error=0.5, candidate_error=0.0).believe()
    assert better.share == pytest.approx(better.slope, abs=0.01)  # and never more


def test_candidates_that_are_all_alike_are_worth_nothing(rng):
    found = Halves(rng)
    guard = believe(found.recorded, found.predicted, found.is_second, np.ones((2, N_CANDIDATES)))
    assert guard.share == 0


def test_unexplained_signal_is_told_from_noise(rng):
    n_images, n_repeats = 3_000, 3
    covariance = np.array([[1.0, 0.6], [0.6, 0.8]])
    signal = rng.multivariate_normal((0, 0), covariance, n_images)
    names = np.repeat([f"i{i:04d}" for i in range(n_images)], n_repeats)
    trials = np.repeat(signal, n_repeats, 0) + 2 * rng.normal(size=(len(names), 2))
    order = rng.permutation(len(names))
    found = _unexplained(trials[order], names[order], np.zeros((n_images, 2), np.float32))
    np.testing.assert_allclose(found, covariance, atol=0.15)
    once = _unexplained(signal, names[::n_repeats], np.zeros((n_images, 2), np.float32))
    assert np.isnan(once).all()
