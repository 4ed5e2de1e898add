"""The prepared subject: the one format that all readers write and all other code reads.

``prepared/<dataset>/sub-01/``

``betas.npy``               float32 (n_trials, n_voxels), standardised; memory-mapped
``trials.tsv``              trial, session, image, repeat, split, and group where images have one
``voxels.tsv``              position (i, j, k in a volume; hemisphere, vertex on a surface), ncsnr
                            (supplied with the data, or computed from repeats), ncsnr_recomputed,
                            then one column of labels per ROI collection
``mask.nii.gz``             the voxels of a volume, in C order; on a surface ``vertices.npz``;
                            neither where positions are unknown
``surface_resampling.npz``  weights for resampling to cortical surfaces, where transforms are known
``mni_resampling.npz``      weights for resampling to MNI space, where the transform is known
``standardization.npz``     sessions (n_sessions,), mean and sd (n_sessions, n_voxels): the betas
                            of session s in the recorded unit are ``betas * sd[s] + mean[s]``
``dataset_description.json``  `PreparedDescription`: unit, sources, versions, options, whether the
                            data are simulated, and the checksum of every other file; sealed
                            (`synbrain_cli.io.records.write_sealed`)

Every file is compared with its checksum before it is used.

The folder of the dataset also holds image tokens in ``features/<encoder>/``
(`synbrain_cli.io.token_store`), and information about the images in ``stimuli.tsv``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import pandas as pd

from synbrain_cli.errors import DAMAGED, InputError, MissingError, SynbrainError
from synbrain_cli.groups import joined
from synbrain_cli.io.arrays import map_array
from synbrain_cli.io.files import sha256
from synbrain_cli.io.prepared_tables import (
    GROUP,
    PREPARE_AGAIN,
    read_trials,
    read_voxels,
    roi_masks,
)
from synbrain_cli.io.records import read_sealed
from synbrain_cli.io.replacing import unreplaced
from synbrain_cli.io.seal import Checksums, checked_member, find_file_faults, member
from synbrain_cli.io.voxel_space import VoxelSpace
from synbrain_cli.io.workfolder import restore_interrupted
from synbrain_cli.labels import names_subject
from synbrain_cli.memory import release

Standardization = Literal["session", "train", "none"]
# Standardisation of betas → their unit.
STANDARDIZATIONS: dict[Standardization, str] = {
    "session": "z-score within session (over all its trials, test trials included)",
    "train": "z-score by the training trials of all sessions",
    "none": "as recorded",
}
LARGEST = 1e15  # of standardised responses: none is, and squares of larger ones overflow (ours)
DESCRIPTION, BETAS, STANDARDIZATION = (
    "dataset_description.json",
    "betas.npy",
    "standardization.npz",
)


class Origin(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="pascal"
):
    """Origin of the data of a prepared subject, as its reader records it.

    Attributes
    ----------
    name : str
        Description of the content of the folder, in one line.
    simulated : bool
        Whether the data are simulated.
    space : str
        Space of the voxels: a name of NSD's, fsaverage in one of its densities, or a name that the
        user chose.
    unit_before_standardization : str
        Unit in which the betas were recorded.
    options : dict
        Options of the reader; the entries differ between readers.
    sources : dict
        File → ``{"bytes": size}``.
    noise_ceiling_snr : dict
        ``median_given``, ``median_recomputed`` and ``correlation``; None where unknown.
    averaged_over : int
        Recorded trials that each row is the average of; 1 where rows are single trials.
    """

    name: str
    simulated: bool
    space: str
    unit_before_standardization: str
    options: dict[str, Any]
    sources: dict[str, dict[str, int]]
    noise_ceiling_snr: dict[str, float | None] = msgspec.field(name="NoiseCeilingSNR")
    averaged_over: int = 1


class PreparedDescription(Origin, frozen=True, kw_only=True):
    """Content of ``dataset_description.json``: `Origin`, and what the writer adds.

    Attributes
    ----------
    unit : str
        Unit of ``betas.npy``, in words.
    standardization : {"session", "train", "none"}
        Key of `STANDARDIZATIONS`.
    betas_blake2b : dict
        Session → checksum of the recorded betas.
    voxels_left_out : int
        Number of voxels that were constant or not finite in at least one session.
    voxels_left_out_by_session : dict
        Session → number of such voxels in it, for sessions that have any.
    versions : dict
        Package → version.
    generated_by : list of dict
    checksums : dict
        SHA-256 of every other file of the folder.
    bids_version, dataset_type : str
        As the Brain Imaging Data Structure (BIDS) requires.
    """

    unit: str
    standardization: Standardization
    betas_blake2b: dict[int, str] = msgspec.field(name="BetasBLAKE2b")
    voxels_left_out: int
    voxels_left_out_by_session: dict[int, int]
    versions: dict[str, str]
    generated_by: list[dict[str, str]]
    checksums: Checksums
    bids_version: str = msgspec.field(name="BIDSVersion", default="1.9.0")
    dataset_type: str = "derivative"


@dataclass(frozen=True)
class Trials:
    """Trials of one subject, such as those of one split.

    Attributes
    ----------
    betas : float32 array of shape (n_trials, n_voxels)
        Single-trial responses, in the unit of the prepared subject.
    image_index : int array of shape (n_trials,)
        Row of ``images`` that was shown in each trial.
    images : array of str of shape (n_images,)
        Names of the images, sorted.
    session : int array of shape (n_trials,)
        Session of each trial.
    """

    betas: np.ndarray
    image_index: np.ndarray
    images: np.ndarray
    session: np.ndarray


@dataclass(frozen=True)
class PreparedSubject:
    """A prepared subject on disk. Betas are memory-mapped and not read until they are used.

    Attributes
    ----------
    folder : Path
        ``prepared/<dataset>/sub-01``.
    """

    folder: Path

    @cached_property
    def description(self) -> PreparedDescription:
        """Content of ``dataset_description.json``.

        Raises
        ------
        MissingError, InputError
            The file is absent; a field is missing, unknown or of another type; it was changed.
        """
        return read_sealed(self.folder / DESCRIPTION, PreparedDescription, PREPARE_AGAIN)

    def file(self, name: str) -> Path:
        """Return the path of a file of the folder, once it is known to be what was written.

        Raises
        ------
        MissingError, InputError
            The file is absent; it is truncated, or was changed.
        """
        return checked_member(self.folder, name, self.description.checksums, PREPARE_AGAIN)

    def find_faults(self) -> list[str]:
        """Compare every file with its checksum and with the others; return a line per fault."""
        try:
            checksums = self.description.checksums
        except (InputError, MissingError) as error:
            return [str(error)]
        faults = [
            f"{self.folder / name}: has no checksum in {DESCRIPTION}: {PREPARE_AGAIN}"
            for name in (BETAS, "trials.tsv", "voxels.tsv", STANDARDIZATION)
            if name not in checksums
        ]
        faults += find_file_faults(self.folder, checksums, (DESCRIPTION,), PREPARE_AGAIN, read=True)
        if not faults:
            try:
                _ = self.trials, self.voxels, self._scales, self.voxel_space.geometry
            except SynbrainError as error:
                return [str(error)]
        return faults

    @property
    def dataset(self) -> str:
        """Name of the folder that holds the subjects of one dataset."""
        return self.folder.parent.name

    @property
    def subject(self) -> str:
        """Label without ``sub-``: "01"."""
        return self.folder.name.removeprefix("sub-")

    @property
    def label(self) -> str:
        """Dataset and subject: "nsd/sub-01"."""
        return f"{self.dataset}/sub-{self.subject}"

    @property
    def checksum(self) -> str:
        """SHA-256 of ``dataset_description.json``, which lists the checksum of every file."""
        _ = self.description  # is what was written
        return sha256(self.folder / DESCRIPTION)

    @property
    def simulated(self) -> bool:
        """Whether the data are simulated."""
        return self.description.simulated

    @property
    def averaged_over(self) -> int:
        """Recorded trials that each row is the average of; 1 where rows are single trials."""
        return self.description.averaged_over

    @cached_property
    def betas(self) -> np.ndarray:
        """Memory-mapped float32 (n_trials, n_voxels), standardised; see `recorded`.

        Raises
        ------
        MissingError, InputError
            The file is absent; it is truncated, or was changed.
        """
        betas = self._mapped_betas
        self.file(BETAS)  # afterwards: another process may replace the folder in between
        return betas

    @cached_property
    def _mapped_betas(self) -> np.ndarray:
        """The same, not compared with its checksum: for its shape."""
        path = member(self.folder, BETAS, PREPARE_AGAIN)
        try:
            betas = map_array(path)
        except DAMAGED as error:
            raise InputError(f"{path}: truncated or damaged ({error}): {PREPARE_AGAIN}") from error
        if betas.dtype != np.float32 or betas.ndim != 2 or not betas.size:
            raise InputError(
                f"{path}: expected float32 of shape (n_trials, n_voxels), found {betas.dtype} of "
                f"shape {betas.shape}: {PREPARE_AGAIN}"
            )
        return betas

    @cached_property
    def trials(self) -> pd.DataFrame:
        """``trials.tsv``: one row per trial, with the columns `TRIAL_COLUMNS`, perhaps `GROUP`.

        Raises
        ------
        MissingError, InputError
            The file is absent, or was changed; the columns are others, or the number of rows is
            not that of the betas.
        """
        with unreplaced(self.folder):
            return read_trials(self.file("trials.tsv"), len(self._mapped_betas))

    @cached_property
    def groups(self) -> dict[str, str]:
        """Name of each image → name of its group; empty where every image stands alone."""
        table = self.trials.drop_duplicates("image")
        if GROUP not in table:
            return {}
        return dict(zip(table["image"].astype(str), table[GROUP].astype(str), strict=True))

    @property
    def has_test(self) -> bool:
        """Whether it has test images; without, images are held out by turns."""
        return bool((self.trials["split"] == "test").any())

    @cached_property
    def voxels(self) -> pd.DataFrame:
        """``voxels.tsv``: see `read_voxels`."""
        with unreplaced(self.folder):
            return read_voxels(self.file("voxels.tsv"), self.n_voxels, ("ncsnr",))

    @cached_property
    def voxel_space(self) -> VoxelSpace:
        """Mask or vertices of the voxels, and their resampling to other spaces."""
        return VoxelSpace(self.folder, self.description.checksums)

    @property
    def n_voxels(self) -> int:
        """Number of voxels or vertices."""
        return int(self._mapped_betas.shape[1])

    @cached_property
    def sessions(self) -> list[int]:
        """Sessions, in the order in which they were recorded."""
        return sorted(int(s) for s in self.trials["session"].unique())

    def standardization(self, sessions: Iterable[int]) -> tuple[np.ndarray, np.ndarray]:
        """Return the mean and the SD of each voxel, averaged over sessions.

        Parameters
        ----------
        sessions : iterable of int

        Returns
        -------
        mean, sd : arrays of shape (n_voxels,)
            In the recorded unit. Variances, not SDs, are averaged.
        """
        known, mean, sd = self._scales
        rows = np.isin(known, list(sessions))
        return mean[rows].mean(0), np.sqrt((sd[rows] ** 2).mean(0))

    def session_scale(self, session: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return what brings each trial back to the recorded unit: ``betas * sd + mean``.

        Parameters
        ----------
        session : int array of shape (n_trials,)
            Session of each trial.

        Returns
        -------
        mean, sd : float32 arrays of shape (n_trials, n_voxels)
        """
        known, mean, sd = self._scales
        rows = np.searchsorted(known, session)
        return mean[rows], sd[rows]

    @cached_property
    def _scales(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Sessions (n_sessions,), ascending, and mean and SD (n_sessions, n_voxels) of each.

        Raises
        ------
        MissingError, InputError
            The file is absent, or was changed; it is not of these sessions and voxels.
        """
        path = self.file(STANDARDIZATION)
        try:
            with unreplaced(self.folder), np.load(path, allow_pickle=False) as file:
                sessions, mean, sd = (file[name] for name in ("sessions", "mean", "sd"))
        except DAMAGED as error:
            raise InputError(f"{path}: truncated or damaged ({error}): {PREPARE_AGAIN}") from error
        shape = (len(self.sessions), self.n_voxels)
        if (
            sessions.tolist() != self.sessions
            or {mean.shape, sd.shape} != {shape}
            or {mean.dtype, sd.dtype} != {np.dtype(np.float32)}
        ):
            raise InputError(
                f"{path}: expected mean and standard deviation of {shape[1]:,} voxels in the "
                f"sessions {self.sessions}, found others: {PREPARE_AGAIN}"
            )
        return sessions, mean, sd

    def first_hours(self, hours: float) -> np.ndarray:
        """Select the trials of the first hours of scanning; a session counts as one hour.

        Parameters
        ----------
        hours : float
            1 selects the first session and 3 the first three; 1.5 selects the first session and
            the first half of the trials of the second.

        Returns
        -------
        bool array of shape (n_trials,)
            True for the trials of these hours, including those of the test split.

        Raises
        ------
        InputError
            When ``hours`` is not above 0, or exceeds the number of sessions.
        """
        if not 0 < hours <= len(self.sessions):
            raise InputError(
                f"--hours {hours:g}: expected more than 0 and at most {len(self.sessions)}, the "
                f"number of sessions of sub-{self.subject} (a session counts as one hour)"
            )
        whole = int(hours)
        session = self.trials["session"].to_numpy()
        chosen = np.isin(session, self.sessions[:whole])
        if hours > whole:
            rows = np.flatnonzero(session == self.sessions[whole])
            chosen[rows[: round((hours - whole) * len(rows))]] = True
        return chosen

    def select(self, split: str, within: np.ndarray | None = None) -> Trials:
        """Load the trials of one split, in the order in which they were recorded.

        Parameters
        ----------
        split : {"train", "val", "test"}
        within : bool array of shape (n_trials,), optional
            Trials from which to select, as returned by `first_hours`; all by default.

        Returns
        -------
        Trials

        Raises
        ------
        InputError
            When the split holds no such trial.
        """
        table = self.trials
        chosen = (table["split"] == split).to_numpy()
        if within is not None:
            chosen = chosen & within
        if not chosen.any():
            few = "" if within is None else f" among the {int(within.sum()):,} trials chosen"
            advice = "" if within is None else "choose more hours, or "
            raise InputError(
                f"{self.folder}: no trial of the {split} split{few}: {advice}prepare it again with "
                "more images in that split"
            )
        images, index = np.unique(table["image"][chosen].to_numpy(str), return_inverse=True)
        return Trials(self.read_betas(chosen), index, images, table["session"][chosen].to_numpy())

    def read_betas(self, chosen: np.ndarray) -> np.ndarray:
        """Read the betas of some trials into memory, known to be numbers one can compute with.

        Parameters
        ----------
        chosen : bool array of shape (n_trials,)

        Returns
        -------
        float32 array of shape (n_chosen, n_voxels)

        Raises
        ------
        InputError
            When one is not finite or, standardised, larger than `LARGEST`.
        """
        betas = np.asarray(self.betas[chosen])
        release(self.betas)
        is_recorded = self.description.standardization == "none"
        most = np.finfo(np.float32).max if is_recorded else LARGEST
        if betas.size and not (betas.min() >= -most and betas.max() <= most):  # NaN is neither
            raise InputError(
                f"{self.folder / BETAS}: expected responses in {self.description.unit}, found "
                f"values from {betas.min():.3g} to {betas.max():.3g}: {PREPARE_AGAIN}"
            )
        return betas

    def recorded(self, trials: Trials) -> np.ndarray:
        """Convert standardised betas back to the recorded unit.

        Parameters
        ----------
        trials : Trials
            From `select`.

        Returns
        -------
        float32 array of shape (n_trials, n_voxels)
        """
        if self.description.standardization == "none":
            return trials.betas
        mean, sd = self.session_scale(trials.session)
        return np.asarray(trials.betas * sd + mean, np.float32)

    def rois(self) -> dict[str, np.ndarray]:
        """Return a boolean array (n_voxels,) for each ROI.

        V1, V2 and V3 are the unions of their ventral and dorsal parts. A label that occurs in two
        collections is listed once, as the union of both.
        """
        return roi_masks(self.voxels)


def groups_of_dataset(subject: PreparedSubject) -> dict[str, str]:
    """Name of each image → name of its group, by the groups of all prepared subjects of a dataset.

    Subjects of a dataset share their images: an image that one of them saw may be of the group of
    an image that another saw. Subjects whose files cannot be read are left out.
    """
    many = [subject.groups]
    for other in find_prepared(subject.folder.parent.parent):
        if other.dataset == subject.dataset and other.folder != subject.folder:
            with contextlib.suppress(SynbrainError):
                many.append(other.groups)
    return joined(many)


def find_prepared(root: Path) -> list[PreparedSubject]:
    """Return the prepared subjects in ``root`` (``prepared/`` of a workspace), sorted by path.

    Folders whose names this program does not give (a copy of one, "sub-01 (copy)") are left out.
    """
    for dataset in Path(root).glob("[!.]*"):
        restore_interrupted(dataset)
    folders = [path.parent for path in sorted(Path(root).glob(f"*/sub-*/{DESCRIPTION}"))]
    return [
        PreparedSubject(folder)
        for folder in folders
        if names_subject(folder.parent.name, folder.name)
    ]
