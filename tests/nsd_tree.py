"""The rest of NSD's files, made from a simulated subject: what the simulation itself leaves out.

Other spaces, preparations and formats hold values derived from the func1pt8mm betas, so that a
test knows what must come back.
"""

from __future__ import annotations

from pathlib import Path

import h5py
import nibabel as nib
import numpy as np
import pandas as pd

from synbrain_cli.datasets.nsd_choice import PREPARATIONS, Choice
from synbrain_cli.datasets.nsd_files import NSD
from synbrain_cli.datasets.nsd_voxels import SubjectVoxels

FACTOR = 2  # func1mm's grid: each func1pt8mm voxel cut in two along every axis
SHORT = {"left": "lh", "right": "rh"}


def volume_betas(nsd: NSD, subject: int, session: int) -> tuple[np.ndarray, nib.Nifti1Image]:
    folder = nsd.betas_folder(subject, Choice())
    image = nib.load(folder / f"betas_session{session:02d}.nii.gz")
    return np.asarray(image.dataobj), image


def write_hdf5(path: Path, values: np.ndarray, chunks: tuple[int, ...] | bool | None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file.create_dataset("betas", data=values, chunks=chunks or None)


def write_hdf5_twins(nsd: NSD, subject: int) -> None:
    """As MATLAB leaves them: axes reversed, one chunk a voxel."""
    for session in nsd.session_files(subject, Choice()):
        values, _ = volume_betas(nsd, subject, session)
        path = nsd.betas_folder(subject, Choice()) / f"betas_session{session:02d}.hdf5"
        write_hdf5(path, values.T, (values.shape[3], 1, 1, 1))


def write_preparations(nsd: NSD, subject: int) -> None:
    """b2 and b1: the b3 betas plus 300 and 600 (one and two percent signal change)."""
    for step, preparation in enumerate(PREPARATIONS[1:], start=1):
        folder = nsd.betas_folder(subject, Choice(preparation=preparation))
        folder.mkdir(parents=True, exist_ok=True)
        for session in nsd.session_files(subject, Choice()):
            values, image = volume_betas(nsd, subject, session)
            shifted = nib.Nifti1Image(values + np.int16(300 * step), image.affine, image.header)
            nib.save(shifted, folder / f"betas_session{session:02d}.nii.gz")


def finer(values: np.ndarray) -> np.ndarray:
    for axis in range(3):
        values = np.repeat(values, FACTOR, axis=axis)
    return values


def write_func1mm(nsd: NSD, subject: int) -> None:
    base = nsd.root / f"nsddata/ppdata/subj{subject:02d}"
    coarse, fine = Choice(), Choice(space="func1mm")
    affine = nib.load(SubjectVoxels(nsd, subject, coarse).grid()[0]).affine.copy()
    affine[:3, 3] -= affine[:3, :3] @ np.full(3, (1 - 1 / FACTOR) / 2)
    affine[:3, :3] /= FACTOR

    def save(values: np.ndarray, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(finer(values), affine), path)

    for path in nsd.roi_folder(subject, coarse).glob("*.nii.gz"):
        save(np.asarray(nib.load(path).dataobj), nsd.roi_folder(subject, fine) / path.name)
    folder = nsd.betas_folder(subject, fine)
    for session in nsd.session_files(subject, coarse):
        values, _ = volume_betas(nsd, subject, session)
        save(values, folder / f"betas_session{session:02d}.nii.gz")
    snr = nsd.betas_folder(subject, coarse) / "ncsnr.nii.gz"
    save(np.asarray(nib.load(snr).dataobj), folder / "ncsnr.nii.gz")
    for path in (base / "transforms").glob("*func1pt8-to-layerB*.mgz"):
        coordinates = np.asarray(nib.load(path).dataobj)
        # 1-based centres: the coarse voxel c covers the fine voxels FACTOR (c - 1) + 1, …
        moved = np.where(coordinates == 9999, 9999, FACTOR * (coordinates - 0.5) + 0.5)
        name = path.name.replace("func1pt8", "func1pt0")
        nib.save(nib.MGHImage(moved.astype(np.float32), np.eye(4)), path.with_name(name))


def surface_truth(n_vertices: int, n_trials: int, session: int, hemisphere: str) -> np.ndarray:
    """Percent signal change of every vertex and trial, (n_trials, n_vertices): known anywhere."""
    seed = [session, n_vertices, hemisphere == "right"]
    return np.random.default_rng(seed).normal(0.5, 1.5, (n_trials, n_vertices))


def write_surfaces(nsd: NSD, subject: int, invalid: int = 3) -> None:
    """fsaverage as float32 .mgh, the native surface as int16 .hdf5; ROIs on the native surface.

    The first ``invalid`` vertices of the left hemisphere's ROI lack data: NaN on fsaverage, zeros
    on the native surface.
    """
    labels = nsd.label_folder(subject)
    n_trials = nsd.design.trials_per_session
    for hemisphere, short in SHORT.items():
        path = nsd.transforms_folder(subject) / f"{short}.white-to-fsaverage.mgz"
        n_vertices = len(np.asarray(nib.load(path).dataobj))
        # A native surface that is fsaverage's turned by seven vertices: no identity to hide slips.
        nearest = np.roll(np.arange(n_vertices), 7) + 1
        nib.save(nib.MGHImage(nearest.astype(np.int32)[:, None, None], np.eye(4)), path)
        code = np.zeros(n_vertices, np.float32)
        code[100:160] = 1
        code[160:200] = 2
        code[-1] = -1
        for collection, values in {
            "nsdgeneral": (code > 0).astype(np.float32),
            "prf-visualrois": code,
            "prfangle": np.full(n_vertices, np.nan, np.float32),  # a map, no ROI
        }.items():
            image = nib.MGHImage(values[:, None, None], np.eye(4))
            nib.save(image, labels / f"{short}.{collection}.mgz")
        for session in nsd.session_files(subject, Choice()):
            truth = surface_truth(n_vertices, n_trials, session, hemisphere)
            folder = nsd.betas_folder(subject, Choice(space="nativesurface"))
            stored = np.rint(truth * 300).astype(np.int16)
            if hemisphere == "left":
                stored[:, 100 : 100 + invalid] = 0
            write_hdf5(folder / f"{short}.betas_session{session:02d}.hdf5", stored, (n_trials, 1))
            folder = nsd.betas_folder(subject, Choice(space="fsaverage"))
            folder.mkdir(parents=True, exist_ok=True)
            moved = truth[:, nearest - 1].astype(np.float32)
            if hemisphere == "left":
                moved[:, np.isin(nearest - 1, np.arange(100, 100 + invalid))] = np.nan
            image = nib.MGHImage(moved.T[:, None, None, :], np.eye(4))
            nib.save(image, folder / f"{short}.betas_session{session:02d}.mgh")


def write_stimulus_table(nsd: NSD) -> None:
    ids = np.unique(nsd.design.subject_images)
    table = pd.DataFrame(
        {
            "cocoId": ids * 3 + 11,
            "cocoSplit": "train2017",
            "cropBox": "(0, 0, 0.1, 0.1)",
            "nsdId": ids,
            "shared1000": np.isin(ids, nsd.design.subject_images[0, : nsd.design.n_shared]),
        }
    )
    table.to_csv(nsd.root / "nsddata/experiments/nsd/nsd_stim_info_merged.csv")
