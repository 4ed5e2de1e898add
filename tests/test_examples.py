"""Scripts in examples/ that make other data sets fit `synbrain prepare table`."""

from __future__ import annotations

import runpy
from pathlib import Path

import h5py
import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import scipy.io
from PIL import Image

from synbrain_cli.io.prepared import PreparedSubject

EXAMPLE = Path(__file__).parents[1] / "examples/nsd_synthetic.py"
N_TRIALS, SHAPE = 744, (6, 5, 4)


@pytest.fixture
def nsd(tmp_path):
    """NSD-synthetic's files with their names and index bases; small images of known pixels."""
    root = tmp_path / "nsd"
    generator = np.random.default_rng(0)
    order = np.concatenate([np.arange(1, 285), generator.integers(1, 285, N_TRIALS - 284)])
    generator.shuffle(order)
    design = root / "nsddata/experiments/nsdsynthetic"
    design.mkdir(parents=True)
    scipy.io.savemat(
        design / "nsdsynthetic_expdesign.mat", {"masterordering": order[None].astype(np.uint16)}
    )
    stimuli = root / "nsddata_stimuli/stimuli/nsdsynthetic"
    stimuli.mkdir(parents=True)
    for name, first, n in (("stimuli", 1, 220), ("colorstimuli_subj01", 221, 64)):
        with h5py.File(stimuli / f"nsdsynthetic_{name}.hdf5", "w") as file:
            values = np.arange(first, first + n) % 256
            bricks = np.broadcast_to(values[:, None, None, None], (n, 20, 32, 3))
            file["imgBrick"] = bricks.astype(np.uint8)
    betas = generator.integers(-3000, 3000, (*SHAPE, N_TRIALS)).astype(np.int16)
    nib.save(nib.Nifti1Image(betas, np.diag([1.8, 1.8, 1.8, 1])), root / "betas.nii.gz")
    mask = np.zeros(SHAPE, np.uint8)
    mask[1:4, 2:] = 1
    nib.save(nib.Nifti1Image(mask, np.diag([1.8, 1.8, 1.8, 1])), root / "mask.nii.gz")
    return root, order, betas


def test_nsd_synthetic(nsd, tmp_path, synbrain):
    root, order, betas = nsd
    example = runpy.run_path(str(EXAMPLE))
    output = tmp_path / "synthetic"
    table = example["write"](root, output, 1)
    names = pd.read_csv(table, sep="\t")["image"]
    assert len(names) == N_TRIALS
    for trial in (0, 1, 300, 743):
        pixels = np.asarray(Image.open(output / "images" / f"{names[trial]}.png"))
        assert pixels.shape == (20, 32, 3)
        expected = np.rint(np.sqrt(order[trial] % 256 / 255) * 255)
        assert (pixels == expected).all()
        assert names[trial].endswith("_subj01") == (order[trial] > 220)
    code, _, error = synbrain(
        *("prepare", "table", table, "--images", output / "images"),
        *("--responses", root / "betas.nii.gz", "--mask", root / "mask.nii.gz"),
        *("--divide-by", 300, "--unit", "percent signal change", "--dataset", "nsdsynthetic"),
        *("--subject", 1, "--encoder", "gabor", "--device", "cpu", "-w", tmp_path),
    )
    assert code == 0, error
    subject = PreparedSubject(tmp_path / "prepared/nsdsynthetic/sub-01")
    mean, sd = subject.standardization([1])
    expected = betas[subject.voxel_space.geometry.inside].T / 300
    np.testing.assert_allclose(subject.betas * sd + mean, expected, atol=1e-4)
