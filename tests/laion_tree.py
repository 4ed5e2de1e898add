"""A small copy of LAION-fMRI: its names and layout, with responses that a test knows."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
from PIL import Image

from synbrain_cli.datasets import laion_files as files

SHAPE = (6, 7, 5)
AFFINE = np.diag([1.778, 1.778, 1.778, 1.0])
SHARED = [f"shared_12rep_LAION_cluster_{i}_i0.jpg" for i in range(6)]
OOD = [f"shared_4rep_OOD_shape_{i}.png" for i in range(4)]


def unique(subject: int) -> list[str]:
    return [f"unique_LAION_initial_cluster_{i}_i3_p{subject:02d}.jpg" for i in range(20)]


def save(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(values, AFFINE), path)


def write_subject(root: Path, subject: int, n_sessions: int = 2) -> dict[int, list[str]]:
    """Betas, tables, mask and ROIs; return the image of every trial, by session.

    Trial k of session s has in voxel v the value ``s + 10 k + v / 1000`` and noise of its own.
    """
    generator = np.random.default_rng(subject)
    mask = np.zeros(SHAPE, np.uint8)
    mask[1:5, 1:6, 1:4] = 1
    save(root / files.mask_key(subject), mask)
    early, late = np.zeros(SHAPE, np.uint8), np.zeros(SHAPE, np.uint8)
    early[1:3], late[3:6] = 1, 1
    for name, roi in (("V1", early), ("hlvis", late)):
        save(root / files.rois_prefix(subject) / f"{name}.nii.gz", roi)
    shown = {}
    for session in range(1, n_sessions + 1):
        labels = [*SHARED, *OOD, *unique(subject), *SHARED[:3], *unique(subject)[:5]]
        labels = generator.permutation(labels).tolist()
        betas = truth(session, len(labels), subject)
        betas[0, 0, 0] = np.nan  # outside the mask
        save(root / files.betas_key(subject, session), betas)
        rows = pd.DataFrame(
            {
                "session": f"ses-{session:02d}",
                "run": np.arange(len(labels)) // 20 + 1,
                "beta_index": np.arange(len(labels)),
                "label": labels,
            }
        )
        # The order of the rows is not that of the betas, which beta_index gives.
        rows.iloc[::-1].to_csv(root / files.trials_key(subject, session), sep="\t", index=False)
        shown[session] = labels
    return shown


def truth(session: int, n_trials: int, subject: int) -> np.ndarray:
    """Betas (x, y, z, n_trials), float32: known anywhere."""
    seed = np.random.default_rng([session, subject])
    return seed.normal(0, 1, (*SHAPE, n_trials)).astype(np.float32)


def write_images(folder: Path, subjects=(1,)) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for i, label in enumerate([*SHARED, *OOD, *(n for s in subjects for n in unique(s))]):
        pixels = np.random.default_rng(i).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / label)
    return folder
