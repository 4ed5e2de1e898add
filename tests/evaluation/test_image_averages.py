"""Averages over similar images: groups, and intervals that know of errors that images share."""

import numpy as np
import pytest

from synbrain_cli.evaluation.image_averages import Averages, alike_groups
from synbrain_cli.metrics.bootstrap import Bootstrap


@pytest.fixture
def kinds(rng):
    """Patterns of 40 images of four kinds in turns, and the kind of each."""
    kind = np.arange(40) % 4
    patterns = rng.standard_normal((4, 30))[kind] + 0.1 * rng.standard_normal((40, 30))
    return patterns.astype(np.float32), kind


def test_groups_are_of_images_alike_and_no_image_is_in_two(kinds):
    patterns, kind = kinds
    groups = alike_groups(patterns, [slice(0, 40)])
    assert [len(own) for own in groups] == [10] * 4
    assert all(len(set(kind[own])) == 1 for own in groups)
    assert sorted(np.concatenate(groups)) == list(range(40))
    assert len(alike_groups(patterns[:25], [slice(0, 25)])) == 2


def test_groups_stay_within_folds_and_keep_together_what_belongs_together(kinds):
    patterns, _ = kinds
    groups = alike_groups(patterns, [slice(0, 15), slice(15, 40)])
    assert [own.max() < 15 or own.min() >= 15 for own in groups] == [True] * 3
    photograph = np.repeat(np.arange(10), 4)  # of every kind one view
    groups = alike_groups(patterns, [slice(0, 40)], photograph)
    assert [len(own) for own in groups] == [12, 12, 12]
    assert all(len(set(photograph[own])) == 3 for own in groups)


def test_intervals_of_averages_cover_where_images_share_errors_and_else_do_not(rng):
    """Recordings and imitations of one distribution, in which images of a group share errors."""
    n_groups, n_recordings, n_voxels = 200, 60, 20
    groups = list(np.arange(10 * n_groups).reshape(n_groups, 10))

    def recording():
        shared = rng.standard_normal((n_groups, 1, n_voxels)).repeat(10, 1)
        return (shared + rng.standard_normal(shared.shape)).reshape(-1, n_voxels)

    imitated = np.stack([recording() for _ in range(n_recordings)], 1).astype(np.float32)
    averages = Averages(recording().astype(np.float32), imitated)
    found = averages.score(groups, Bootstrap(200), rng)
    assert found.model == pytest.approx(0.9, abs=0.015)
    assert found.ci[0] < 0.9 < found.ci[1]
    # Images apart: the SD of the average is 1 / √10 · √2 instead of √(1 + 1 / 10)
    assert found.apart == pytest.approx(0.516, abs=0.03)
    assert found.gain_ci[0] > 0.3
    assert found.n_groups == n_groups
