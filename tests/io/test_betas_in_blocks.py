"""Sessions that are written block by block are those that are written at once."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pandas as pd
import pytest
from hypothesis import given

from synbrain_cli.errors import InputError
from synbrain_cli.io.prepared import Origin, PreparedSubject
from synbrain_cli.io.prepared_writer import PreparedWriter
from synbrain_cli.io.standardization import RunningMoments, moments_of

N_TRIALS, N_VOXELS = 23, 7


def written(folder, values, blocks, standardize="train") -> PreparedSubject:
    trials = pd.DataFrame(
        {
            "trial": np.arange(N_TRIALS),
            "session": 1,
            "image": [f"i{k:02d}" for k in range(N_TRIALS)],
            "repeat": 1,
            "split": ["train", "test", "val"] * 7 + ["train"] * 2,
        }
    )
    origin = Origin(
        name="one",
        simulated=True,
        space="x",
        unit_before_standardization="au",
        options={},
        sources={},
        noise_ceiling_snr={},
    )
    with PreparedWriter(folder, {}, trials, N_VOXELS, standardize) as writer:
        writer.write_blocks(1, np.split(values, blocks), "betas.h5")
        writer.finish(pd.DataFrame({"ncsnr": np.ones(N_VOXELS)}), None, {}, origin)
    return PreparedSubject(folder)


@pytest.fixture
def values() -> np.ndarray:
    found = np.random.default_rng(0).normal(5, 3, (N_TRIALS, N_VOXELS)).astype(np.float32)
    found[:, 2] = 0.1  # constant, whatever the blocks: left out
    found[4, 3] = np.nan
    return found


@pytest.mark.parametrize("standardize", ["none", "train"])
@pytest.mark.parametrize("blocks", [[1], [5, 6, 20], list(range(1, N_TRIALS))])
def test_blocks_give_what_one_gives(values, tmp_path, standardize, blocks):
    whole = written(tmp_path / "prepared/a/sub-01", values, [], standardize)
    parts = written(tmp_path / "prepared/b/sub-01", values, blocks, standardize)
    assert parts.description.voxels_left_out == whole.description.voxels_left_out == 2
    assert parts.description.betas_blake2b == whole.description.betas_blake2b
    np.testing.assert_allclose(parts.betas, whole.betas, atol=1e-6)
    for one, other in zip(parts.standardization([1]), whole.standardization([1]), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda v: (v[:-1], [5]), "expected 23 trials, found 22"),
        (lambda v: (np.concatenate([v, v]), [5]), "expected 23 trials, found 46 or more"),
    ],
)
def test_other_numbers_of_trials(values, tmp_path, change, says):
    with pytest.raises(InputError, match=f"betas.h5: {says}"):
        written(tmp_path / "prepared/a/sub-01", *change(values))


def test_a_standardisation_by_all_trials_needs_them_at_once(values, tmp_path):
    with pytest.raises(InputError, match="in one block"):
        written(tmp_path / "prepared/a/sub-01", values, [5], "session")
    written(tmp_path / "prepared/b/sub-01", values, [], "session")


def test_a_trial_without_values_in_a_later_block(values, tmp_path):
    values[12] = np.nan
    with pytest.raises(InputError, match=r"first: trial 12, counted from 0"):
        written(tmp_path / "prepared/a/sub-01", values, [10])


@given(st.integers(0, 2**32 - 1), st.lists(st.integers(1, 40), min_size=1, max_size=6))
def test_running_moments(seed, lengths):
    values = np.random.default_rng(seed).normal(3, 2, (sum(lengths), 4)).astype(np.float32)
    values[:, 0] = values[0, 0]
    running = RunningMoments()
    for block in np.split(values, np.cumsum(lengths)[:-1]):
        running.add(block)
    mean, sd = moments_of(values)
    assert running.n == len(values)
    np.testing.assert_allclose(running.mean, mean, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(running.sd, sd, rtol=1e-9, atol=1e-12)
    assert running.sd[0] == 0
