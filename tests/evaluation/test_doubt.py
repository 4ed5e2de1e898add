"""Which scores are said to mean nothing."""

from __future__ import annotations

import numpy as np
import pytest
from evaluation_record import evaluation_record

from synbrain_cli.evaluation.doubt import FEW, doubtful_scores, notes_on_doubt, notes_on_number
from synbrain_cli.metrics.accuracy import voxelwise_correlation


def scores(**changed):
    return evaluation_record({}, overall=changed).overall


def test_few_test_images_make_every_score_doubtful():
    found = doubtful_scores(scores(), FEW - 1)
    assert set(found) == {"voxelwise_correlation", "skill"}
    assert "only 6 test images" in notes_on_number(6)[0]
    assert "mean nothing" in notes_on_number(6)[0]
    assert notes_on_number(FEW) == []
    assert notes_on_doubt(found) == []  # said once, by the note on the number


def test_a_wide_interval_and_a_share_above_1_are_doubtful():
    wide = {"voxelwise_correlation": {"model": 0.396, "ci": [0.306, 1.0]}}
    found = doubtful_scores(scores(**wide), 200)
    assert found == {"voxelwise_correlation": "95 % interval wider than 0.5"}
    above = {"noise_normalised_r2": {"model": 1.13, "ci": [1.0, 1.2]}}
    above["noise_normalised_r2"] |= dict.fromkeys(("linear", "mean_pattern", "shuffled"), 0.0)
    above["noise_normalised_r2"]["ceiling"] = 1.0
    assert list(doubtful_scores(scores(**above), 200)) == ["noise_normalised_r2"]
    assert "ceiling is uncertain" in notes_on_doubt(doubtful_scores(scores(**above), 200))[0]
    assert doubtful_scores(scores(), 200) == {}


@pytest.mark.parametrize("n", [6, 12])
def test_the_note_states_the_correlation_that_chance_reaches(n):
    rng = np.random.default_rng(0)
    r = voxelwise_correlation(rng.normal(size=(n, 4000)), rng.normal(size=(n, 4000)))
    limit = float(notes_on_number(n)[0].split("±")[1].split(" ")[0])
    assert np.mean(np.abs(r) > limit) == pytest.approx(0.04, abs=0.03)
