"""Readers hold a session, not the experiment: memory does not grow with the number of sessions."""

from __future__ import annotations

import tracemalloc

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from synbrain_cli.datasets.glmsingle import Fits, prepare_fits
from synbrain_cli.datasets.table import Experiment, prepare_experiment

N_VOXELS, N_TRIALS = 3_000, 50
SESSION = 4 * N_VOXELS * N_TRIALS  # bytes
FEW, MANY = 20, 40  # of fewer, blocks of rows are not yet as large as they get
GRID = (20, 15, 10)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    for k in range(N_TRIALS):
        Image.fromarray(np.full((8, 8, 3), 5 * k, np.uint8)).save(folder / f"i{k:02d}.png")
    return folder


def betas(session: int) -> np.ndarray:
    return np.random.default_rng(session).normal(size=(N_TRIALS, N_VOXELS)).astype(np.float32)


def table(folder, images, n_sessions):
    """Arrays of every session, one file each."""
    files = []
    for session in range(n_sessions):
        files.append(folder / f"s{session:02d}.npy")
        np.save(files[-1], betas(session))
    names = [f"i{k:02d}.png" for k in range(N_TRIALS)] * n_sessions
    trials = pd.DataFrame(
        {"image": names, "session": np.repeat(np.arange(1, n_sessions + 1), N_TRIALS)}
    )
    trials.to_csv(folder / "trials.tsv", sep="\t", index=False)
    experiment = Experiment(folder / "trials.tsv", images, tuple(files))
    return lambda: prepare_experiment(experiment, "1", folder / "prepared/d/sub-01")


def glmsingle(folder, images, n_sessions):
    """A folder of every session, pickled by numpy."""
    nib.save(nib.Nifti1Image(np.ones(GRID, np.uint8), np.eye(4)), folder / "mask.nii.gz")
    names = [f"i{k:02d}.png" for k in range(N_TRIALS)]
    pd.DataFrame({"image": names}).to_csv(folder / "conditions.tsv", sep="\t", index=False)
    order = np.arange(N_TRIALS)
    design = np.zeros((3 * N_TRIALS, N_TRIALS), np.float32)
    design[3 * order, order] = 1
    about = {
        "design": [design],
        "stimorder": list(order),
        "condcounts": [1] * N_TRIALS,
        "numtrialrun": [N_TRIALS],
        "params": {"sessionindicator": np.ones((1, 1)), "wantpercentbold": 1},
    }
    folders = []
    for session in range(n_sessions):
        own = folder / f"fit{session:02d}"
        own.mkdir()
        folders.append(own)
        values = betas(session).T.reshape(*GRID, N_TRIALS)
        content = {"betasmd": values, "R2": np.ones(GRID, np.float32), "pcnum": 1}
        np.save(own / "TYPED_FITHRF_GLMDENOISE_RR.npy", content, allow_pickle=True)
        np.save(own / "DESIGNINFO.npy", about, allow_pickle=True)
    fits = Fits(
        sources=tuple(folders),
        conditions=(folder / "conditions.tsv",),
        images=images,
        mask=folder / "mask.nii.gz",
    )
    return lambda: prepare_fits(fits, "01", folder / "prepared/d/sub-01")


@pytest.mark.parametrize("reader", [table, glmsingle])
def test_memory_does_not_grow_with_the_number_of_sessions(reader, images, tmp_path):
    peaks = {}
    for n_sessions in (FEW, MANY):
        folder = tmp_path / str(n_sessions)
        folder.mkdir()
        prepare = reader(folder, images, n_sessions)
        tracemalloc.start()
        subject = prepare()
        peaks[n_sessions] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert len(subject.sessions) == n_sessions
        assert len(subject.trials) == n_sessions * N_TRIALS
    # The table of trials grows; the twenty more sessions of responses are not in memory
    assert peaks[MANY] - peaks[FEW] < 2 * SESSION, {n: p / SESSION for n, p in peaks.items()}
