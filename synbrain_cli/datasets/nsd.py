"""The Natural Scenes Dataset in a local folder → prepared subjects.

File names, index bases and scales: the NSD data manual (Allen et al. 2022, Nat. Neurosci. 25:116).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import scipy.io

from synbrain_cli.errors import InputError, MissingError
from synbrain_cli.io.files import read_json, sha256, versions
from synbrain_cli.io.prepared import PreparedSubject, PreparedWriter
from synbrain_cli.io.surface import SurfaceSampling, read_mgh_vertices
from synbrain_cli.io.volume import check_same_grid, read_masked, read_volume

BETAS = "betas_fithrf_GLMdenoise_RR"
BETA_SCALE = 300.0  # int16 = percent signal change × 300
ROI_COLLECTIONS = (
    "prf-visualrois",
    "prf-eccrois",
    "floc-faces",
    "floc-places",
    "floc-bodies",
    "floc-words",
    "streams",
)


@dataclass(frozen=True)
class Design:
    """NSD's experimental design.

    Attributes
    ----------
    ordering : int array of shape (n_trials,)
        0-based position of each trial's image in a subject's list; the same for all subjects.
    subject_images : int array of shape (n_subjects, n_images)
        0-based 73k ids.
    n_shared : int
        The first ``n_shared`` positions are the images all subjects saw.
    trials_per_session : int
    """

    ordering: np.ndarray
    subject_images: np.ndarray
    n_shared: int
    trials_per_session: int

    @classmethod
    def read(cls, path: Path) -> Design:
        """Read ``nsd_expdesign.mat``.

        The file's integers are of several dtypes and 1-based; here they are int64 and 0-based.

        Raises
        ------
        MissingError, InputError
        """
        if not path.exists():
            raise MissingError(
                f"{path} does not exist: --root must be the folder that holds nsddata/"
            )
        try:
            mat = scipy.io.loadmat(path)
            ordering = mat["masterordering"].astype(np.int64).ravel() - 1
            subject_images = mat["subjectim"].astype(np.int64) - 1
            n_shared, n_sessions = mat["sharedix"].size, len(mat["stimpattern"])
        except KeyError as error:
            raise InputError(f"{path}: expected the variable {error} of NSD's design") from error
        except (ValueError, TypeError, NotImplementedError, OSError) as error:
            raise InputError(
                f"{path}: not a readable .mat file ({error}): copy it again"
            ) from error
        return cls(ordering, subject_images, n_shared, len(ordering) // n_sessions)

    def images(self, subject: int) -> np.ndarray:
        """0-based 73k id of every trial of a subject (1-based number)."""
        return self.subject_images[subject - 1, self.ordering]

    def is_shared(self) -> np.ndarray:
        """Whether each trial shows an image that every subject saw."""
        return self.ordering < self.n_shared


@dataclass(frozen=True)
class NSD:
    """A local copy of NSD, whole or partial."""

    root: Path

    def __post_init__(self) -> None:
        if not (self.root / "nsddata").is_dir():
            raise MissingError(
                f"{self.root}: expected a folder that holds nsddata/, nsddata_betas/ and "
                "nsddata_stimuli/: pass it with --root"
            )

    @cached_property
    def design(self) -> Design:
        return Design.read(self.root / "nsddata/experiments/nsd/nsd_expdesign.mat")

    @property
    def simulated(self) -> bool:
        """Whether the folder was made by `synbrain prepare simulated`."""
        path = self.root / "dataset_description.json"
        return path.exists() and bool(read_json(path).get("Simulated", False))

    @property
    def subjects(self) -> list[int]:
        """Subjects with betas here."""
        folders = sorted((self.root / "nsddata_betas/ppdata").glob("subj[0-9][0-9]"))
        return [int(folder.name[4:]) for folder in folders]

    def session_files(self, subject: int) -> dict[int, Path]:
        """Session number → betas file, for the sessions that are here."""
        folder = self.root / f"nsddata_betas/ppdata/subj{subject:02d}/func1pt8mm/{BETAS}"
        return {
            int(p.name[13:15]): p for p in sorted(folder.glob("betas_session[0-9][0-9].nii.gz"))
        }

    def read_images(self, images: list[str]) -> Iterator[np.ndarray]:
        """Yield uint8 (425, 425, 3) pixels of images named as in ``trials.tsv``, one at a time.

        Raises
        ------
        MissingError, InputError
        """
        path = self.root / "nsddata_stimuli/stimuli/nsd/nsd_stimuli.hdf5"
        if not path.exists():
            raise MissingError(f"{path} does not exist: the images are needed for their tokens")
        try:
            with h5py.File(path, "r") as file:
                bricks = file["imgBrick"]
                for image in images:
                    yield bricks[image_id(image)]
        except (OSError, KeyError, ValueError) as error:
            raise InputError(f"{path}: truncated or damaged ({error}): copy it again") from error

    def sampling(self, subject: int, mask: np.ndarray) -> SurfaceSampling | None:
        """How the masked voxels reach fsaverage, or None where the transforms are not here."""
        folder = self.root / f"nsddata/ppdata/subj{subject:02d}/transforms"
        layers, nearest = {}, {}
        for hemisphere, short in (("left", "lh"), ("right", "rh")):
            paths = [folder / f"{short}.func1pt8-to-layerB{depth}.mgz" for depth in (1, 2, 3)]
            table = folder / f"{short}.white-to-fsaverage.mgz"
            if not all(path.exists() for path in (*paths, table)):
                return None
            layers[hemisphere] = np.stack([read_mgh_vertices(path) for path in paths])
            nearest[hemisphere] = read_mgh_vertices(table)[:, 0].astype(np.int64)
        return SurfaceSampling.from_layers(mask, layers, nearest)

    def voxel_table(self, subject: int, mask_path: Path) -> tuple[pd.DataFrame, np.ndarray, Any]:
        """Table of voxels (see `synbrain_cli.io.prepared`), boolean mask, and mask image."""
        values, mask_image = read_volume(mask_path)
        mask = values > 0  # not != -1: that takes in the whole slab
        if values.ndim != 3 or not mask.any():
            raise InputError(f"{mask_path}: expected a 3-D mask with voxels above 0")
        i, j, k = np.nonzero(mask)
        table = pd.DataFrame({"i": i, "j": j, "k": k, "ncsnr": np.nan})
        snr = self.root / (
            f"nsddata_betas/ppdata/subj{subject:02d}/func1pt8mm/{BETAS}/ncsnr.nii.gz"
        )
        if snr.exists():
            values, image = read_volume(snr)
            check_same_grid(snr, image, mask_path, mask_image)
            table["ncsnr"] = values[mask]
        for collection in ROI_COLLECTIONS:
            path = mask_path.with_name(f"{collection}.nii.gz")
            if path.exists():
                values, image = read_volume(path)
                check_same_grid(path, image, mask_path, mask_image)
                names = self._label_names(subject, collection)
                codes = values[mask].astype(int)
                table[collection] = [
                    names.get(code, f"{collection}-{code}") if code > 0 else "" for code in codes
                ]
        return table, mask, mask_image

    def _label_names(self, subject: int, collection: str) -> dict[int, str]:
        path = self.root / f"nsddata/freesurfer/subj{subject:02d}/label/{collection}.mgz.ctab"
        if not path.exists():
            return {}
        rows = [line.split() for line in path.read_text().splitlines() if line.strip()]
        return {int(row[0]): row[1] for row in rows}


def image_name(index: int) -> str:
    """Name of an image from its 0-based 73k id: 1-based with five digits, as in NSD's files."""
    return f"nsd{index + 1:05d}"


def image_id(name: str) -> int:
    """0-based 73k id of a named image."""
    return int(name.removeprefix("nsd")) - 1


def choose_validation(images: np.ndarray, share: float, seed: int) -> set[str]:
    """Draw validation images from the training images.

    Each image's lot is a hash of its name and the seed: adding sessions never moves an image
    that is already there from one side to the other.
    """
    lots = {
        image: int.from_bytes(hashlib.sha256(f"{seed}/{image}".encode()).digest()[:8]) / 2**64
        for image in images
    }
    return {image for image, lot in lots.items() if lot < share}


def prepare_subject(
    nsd: NSD,
    subject: int,
    folder: Path,
    *,
    sessions: list[int] | None = None,
    validation_share: float = 0.1,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> PreparedSubject:
    """Read one subject's sessions, one at a time, into a prepared subject.

    Parameters
    ----------
    nsd : NSD
    subject : int
        1-based, as in NSD.
    folder : path
        ``prepared/<dataset>/sub-01``. An interrupted run goes on where it stopped.
    sessions : list of int, optional
        1-based; default: all that are here, which must be a first part of the experiment.
    validation_share : float
        Part of the training images kept for validation. Test images are the shared ones.
    seed : int
        Of the validation split.
    progress : callable
        Told sessions done and their number.

    Raises
    ------
    MissingError, InputError
        Unknown subject, missing session, wrong trial count, another grid, damaged files.
    """
    if subject not in nsd.subjects:
        raise MissingError(
            f"{nsd.root}: no betas of subject {subject}; here are {nsd.subjects or 'none'}"
        )
    files = nsd.session_files(subject)
    if sessions is None:
        sessions = sorted(files)
        if not sessions or sessions != list(range(1, len(sessions) + 1)):
            raise MissingError(
                f"{nsd.root}: subject {subject} has the sessions {sessions} of {BETAS}; expected "
                "1, 2, … without a gap: copy the missing ones, or choose with --sessions"
            )
    elif absent := sorted(set(sessions) - set(files)):
        raise MissingError(
            f"{nsd.root}: subject {subject}: no betas of session {absent[0]}; here are "
            f"{sorted(files)}"
        )
    mask_path = nsd.root / f"nsddata/ppdata/subj{subject:02d}/func1pt8mm/roi/nsdgeneral.nii.gz"
    voxels, mask, mask_image = nsd.voxel_table(subject, mask_path)
    per_session = nsd.design.trials_per_session
    if max(sessions) * per_session > len(nsd.design.ordering):
        raise InputError(
            f"{files[max(sessions)]}: session {max(sessions)} is beyond the design's "
            f"{len(nsd.design.ordering) // per_session} sessions"
        )

    sources = {str(f.relative_to(nsd.root)): f.stat().st_size for f in map(files.get, sessions)}
    options = {
        "subject": subject,
        "sessions": sessions,
        "sources": sources,
        "mask": sha256(mask_path),
        "validation_share": validation_share,
        "seed": seed,
    }
    writer = PreparedWriter(
        folder, options, sessions, [per_session] * len(sessions), int(mask.sum())
    )
    for session in sessions:
        progress(sessions.index(session), len(sessions))
        if session in writer.done:
            continue
        betas = read_masked(files[session], mask)
        if len(betas) != per_session:
            raise InputError(
                f"{files[session]}: expected {per_session} trials (the design), found {len(betas)}"
            )
        writer.write_session(session, betas.astype(np.float32) / np.float32(BETA_SCALE))
    progress(len(sessions), len(sessions))

    rows = np.concatenate([np.arange((s - 1) * per_session, s * per_session) for s in sessions])
    images = np.array([image_name(i) for i in nsd.design.images(subject)[rows]])
    shared = nsd.design.is_shared()[rows]
    validation = choose_validation(np.unique(images[~shared]), validation_share, seed)
    trials = pd.DataFrame(
        {
            "trial": np.arange(len(rows)),
            "session": rows // per_session + 1,
            "image": images,
            "split": np.where(shared, "test", "train"),
        }
    )
    trials.loc[~shared & np.isin(images, list(validation)), "split"] = "val"
    trials.insert(3, "repeat", trials.groupby("image").cumcount() + 1)
    mask_image = type(mask_image)(mask.astype(np.uint8), mask_image.affine)
    mask_image.header.set_xyzt_units("mm", "sec")
    writer.finish(
        trials,
        voxels,
        mask_image,
        nsd.sampling(subject, mask),
        {
            "Name": f"{'Simulated' if nsd.simulated else 'NSD'} subject {subject}, prepared",
            "BIDSVersion": "1.9.0",
            "DatasetType": "derivative",
            "GeneratedBy": [{"Name": "synbrain", "Version": versions()["synbrain"]}],
            "Simulated": nsd.simulated,
            "Space": "func1pt8mm",
            "Unit": "z-score within session (all trials of the session, test trials included)",
            "UnitBeforeStandardization": "percent signal change",
            "Options": {k: v for k, v in options.items() if k != "sources"},
            "Sources": {
                str(path.relative_to(nsd.root)): sha256(path)
                for path in (mask_path, *(files[s] for s in sessions))
            },
            "Versions": versions(),
        },
    )
    return PreparedSubject(folder)
