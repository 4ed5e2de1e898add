"""The prepared subject: one format that every reader writes and everything else reads.

``prepared/<dataset>/sub-01/``

``betas.npy``               float32 (n_trials, n_voxels), standardised; memory-mapped
``trials.tsv``              trial, session, image, repeat, split
``voxels.tsv``              position (i, j, k in a volume; hemisphere, vertex on a surface), ncsnr
                            (given, or from the repeats), ncsnr_recomputed, then one column of
                            labels per ROI collection
``mask.nii.gz``             the voxels, in C order; or ``vertices.npz``, on a surface; or neither
``surface_resampling.npz``  how voxels reach cortical surfaces, where known
``mni_resampling.npz``      how voxels reach MNI, where known
``standardization.npz``     sessions (n_sessions,), mean and sd (n_sessions, n_voxels): session
                            s's betas in the unit they came in are ``betas * sd[s] + mean[s]``
``dataset_description.json``  `PreparedDescription`: unit, sources, versions, options, simulated
                            or not

Beside the subjects: ``features/<encoder>/``, image tokens (`synbrain_cli.io.token_store`); and
``stimuli.tsv``, what is known of the images.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd

from synbrain_cli.errors import DAMAGED, InputError, MissingError
from synbrain_cli.io.files import sha256
from synbrain_cli.io.records import read_record
from synbrain_cli.io.voxel_space import POSITION_COLUMNS, VoxelSpace

SPLITS = ("train", "val", "test")
TRIAL_COLUMNS = ("trial", "session", "image", "repeat", "split")
# How betas are standardised, and what one then is.
STANDARDIZATIONS = {
    "session": "z-score within session (over all its trials, test trials included)",
    "train": "z-score by the training trials of all sessions",
    "none": "as recorded",
}
DESCRIPTION = "dataset_description.json"


class Origin(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="pascal"
):
    """What a reader knows of the data that it prepares.

    Attributes
    ----------
    name : str
        One line that tells a reader of the folder what it holds.
    simulated : bool
    space : str
        Of the voxels: NSD's names, fsaverage and its densities, or the user's own.
    unit_before_standardization : str
        Unit the betas came in.
    options : dict
        What was asked for; the entries differ from reader to reader.
    sources : dict
        File → ``{"bytes": size}``.
    noise_ceiling_snr : dict
        ``median_given``, ``median_recomputed``, ``correlation``; None where unknown.
    """

    name: str
    simulated: bool
    space: str
    unit_before_standardization: str
    options: dict[str, Any]
    sources: dict[str, dict[str, int]]
    noise_ceiling_snr: dict[str, float | None] = msgspec.field(name="NoiseCeilingSNR")


class PreparedDescription(Origin, frozen=True, kw_only=True):
    """Content of ``dataset_description.json``: `Origin`, and what the writer adds.

    Attributes
    ----------
    unit : str
        Of ``betas.npy``, in words.
    standardization : {"session", "train", "none"}
    betas_blake2b : dict
        Session → checksum of the betas read.
    voxels_left_out : int
        Voxels that were constant or not finite in some session.
    voxels_left_out_by_session : dict
        Session → the number of such voxels in it, where there are any.
    versions : dict
        Package → version.
    generated_by : list of dict
    bids_version, dataset_type : str
        As the Brain Imaging Data Structure wants them.
    """

    unit: str
    standardization: str
    betas_blake2b: dict[int, str] = msgspec.field(name="BetasBLAKE2b")
    voxels_left_out: int
    voxels_left_out_by_session: dict[int, int]
    versions: dict[str, str]
    generated_by: list[dict[str, str]]
    bids_version: str = msgspec.field(name="BIDSVersion", default="1.9.0")
    dataset_type: str = "derivative"


@dataclass(frozen=True)
class Trials:
    """Some trials of one subject.

    Attributes
    ----------
    betas : float32 array of shape (n_trials, n_voxels)
    image_index : int array of shape (n_trials,)
        Row of ``images`` that each trial shows.
    images : array of str of shape (n_images,)
        Sorted.
    session : int array of shape (n_trials,)
    """

    betas: np.ndarray
    image_index: np.ndarray
    images: np.ndarray
    session: np.ndarray


@dataclass(frozen=True)
class PreparedSubject:
    """A prepared subject, opened; betas stay on disk until asked for."""

    folder: Path

    @cached_property
    def description(self) -> PreparedDescription:
        """Content of ``dataset_description.json``.

        Raises
        ------
        MissingError, InputError
            The file is absent; a field is missing, unknown or of another type.
        """
        return read_record(
            self.folder / DESCRIPTION, PreparedDescription, "run `synbrain prepare --overwrite`"
        )

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
        """SHA-256 of ``dataset_description.json``, which lists checksums of the sources."""
        return sha256(self.folder / DESCRIPTION)

    @property
    def simulated(self) -> bool:
        """Whether the data are simulated."""
        return self.description.simulated

    @cached_property
    def betas(self) -> np.ndarray:
        """Memory-mapped float32 (n_trials, n_voxels), standardised; see `recorded`.

        Raises
        ------
        MissingError, InputError
            The file is absent, truncated or damaged.
        """
        path = self.folder / "betas.npy"
        try:
            return np.load(path, mmap_mode="r", allow_pickle=False)
        except FileNotFoundError as error:
            raise MissingError(f"{path} does not exist: run `synbrain prepare` again") from error
        except DAMAGED as error:
            raise InputError(
                f"{path}: truncated or damaged ({error}): run `synbrain prepare --overwrite`"
            ) from error

    @cached_property
    def trials(self) -> pd.DataFrame:
        """``trials.tsv``: one row a trial, with `TRIAL_COLUMNS`.

        Raises
        ------
        InputError
            Other columns, or another number of rows than there are betas.
        """
        # An image may be called NA.
        table = pd.read_csv(
            self.folder / "trials.tsv", sep="\t", dtype={"image": str}, keep_default_na=False
        )
        if tuple(table.columns) != TRIAL_COLUMNS or len(table) != len(self.betas):
            raise InputError(
                f"{self.folder / 'trials.tsv'}: expected {len(self.betas)} rows and the columns "
                f"{TRIAL_COLUMNS}, found {len(table)} rows and {tuple(table.columns)}: "
                "run `synbrain prepare --overwrite`"
            )
        return table

    @cached_property
    def voxels(self) -> pd.DataFrame:
        """``voxels.tsv``: see `read_voxels`."""
        return read_voxels(self.folder / "voxels.tsv")

    @cached_property
    def voxel_space(self) -> VoxelSpace:
        """Mask or vertices, and resampling to other spaces."""
        return VoxelSpace(self.folder)

    @property
    def n_voxels(self) -> int:
        """Number of voxels or vertices."""
        return self.betas.shape[1]

    @cached_property
    def sessions(self) -> list[int]:
        """Sessions in the order recorded."""
        return sorted(int(s) for s in self.trials["session"].unique())

    def standardization(self, sessions: Iterable[int]) -> tuple[np.ndarray, np.ndarray]:
        """Mean and SD (n_voxels,), in the unit betas came in, averaged over ``sessions``."""
        with np.load(self.folder / "standardization.npz", allow_pickle=False) as file:
            rows = np.isin(file["sessions"], list(sessions))
            return file["mean"][rows].mean(0), np.sqrt((file["sd"][rows] ** 2).mean(0))

    def first_hours(self, hours: float) -> np.ndarray:
        """The first hours of scanning: an hour is a session, in recorded order.

        Parameters
        ----------
        hours : float
            1 is the first session, 3 the first three; of 1.5 the last half hour is the first half
            of the second session's trials.

        Returns
        -------
        bool array of shape (n_trials,)
            Which trials were recorded then, those of the test split among them.

        Raises
        ------
        InputError
            When there are fewer sessions.
        """
        if not 0 < hours <= len(self.sessions):
            raise InputError(
                f"--hours {hours:g}: an hour is a session, and sub-{self.subject} has "
                f"{len(self.sessions)}: expected more than 0 and at most {len(self.sessions)}"
            )
        whole = int(hours)
        session = self.trials["session"].to_numpy()
        chosen = np.isin(session, self.sessions[:whole])
        if hours > whole:
            rows = np.flatnonzero(session == self.sessions[whole])
            chosen[rows[: round((hours - whole) * len(rows))]] = True
        return chosen

    def select(self, split: str, within: np.ndarray | None = None) -> Trials:
        """Load the trials of one split, in recorded order.

        Parameters
        ----------
        split : {"train", "val", "test"}
        within : bool array of shape (n_trials,), optional
            Trials to choose from, as `first_hours` gives; default all.

        Raises
        ------
        InputError
            When there are none.
        """
        table = self.trials
        chosen = (table["split"] == split).to_numpy()
        if within is not None:
            chosen = chosen & within
        if not chosen.any():
            few = "" if within is None else f" among the {int(within.sum()):,} trials chosen"
            raise InputError(
                f"{self.folder}: no trial of the {split} split{few}: choose more hours, or prepare "
                "with a larger --validation"
            )
        images, index = np.unique(table["image"][chosen].to_numpy(str), return_inverse=True)
        return Trials(
            np.asarray(self.betas[chosen]), index, images, table["session"][chosen].to_numpy()
        )

    def recorded(self, trials: Trials) -> np.ndarray:
        """Betas in the unit they came in: float32 (n_trials, n_voxels)."""
        if self.description.standardization == "none":
            return trials.betas
        with np.load(self.folder / "standardization.npz", allow_pickle=False) as file:
            row = np.searchsorted(file["sessions"], trials.session)
            return np.asarray(trials.betas * file["sd"][row] + file["mean"][row], np.float32)

    def rois(self) -> dict[str, np.ndarray]:
        """Boolean array (n_voxels,) per ROI; V1, V2 and V3 join their ventral and dorsal parts.

        Columns are collections; a label found in two of them is listed once, joined.
        """
        return roi_masks(self.voxels)


def read_voxels(path: Path) -> pd.DataFrame:
    """Read ``voxels.tsv``: labels are text, empty where there is none; ncsnr NaN where unknown."""
    table = pd.read_csv(path, sep="\t", keep_default_na=False)
    for column in ("ncsnr", "ncsnr_recomputed"):
        if column in table:
            table[column] = pd.to_numeric(table[column], errors="coerce")
    return table


def roi_collections(voxels: pd.DataFrame) -> list[str]:
    """Columns of a ``voxels.tsv`` table that hold labels: text, not numbers."""
    return [
        column
        for column in voxels.columns
        if column not in (*POSITION_COLUMNS, "ncsnr", "ncsnr_recomputed")
        and not pd.api.types.is_numeric_dtype(voxels[column])
    ]


def roi_masks(
    voxels: pd.DataFrame, collections: Iterable[str] | None = None
) -> dict[str, np.ndarray]:
    """ROIs of a ``voxels.tsv`` table, of all or some collections: see `PreparedSubject.rois`."""
    masks: dict[str, np.ndarray] = {}
    for collection in roi_collections(voxels) if collections is None else collections:
        labels = voxels[collection].astype(str).to_numpy()
        for label in sorted(set(labels) - {""}):
            name = roi_name(label)
            masks[name] = masks.get(name, False) | (labels == label)
    return masks


def roi_name(label: str) -> str:
    """V1 for V1v and V1d, likewise V2 and V3; other labels as they are."""
    return label[:-1] if label in ("V1v", "V1d", "V2v", "V2d", "V3v", "V3d") else label


def find_prepared(root: Path) -> list[PreparedSubject]:
    """Prepared subjects below ``root`` (a workspace's ``prepared/``), sorted."""
    return [
        PreparedSubject(path.parent) for path in sorted(Path(root).glob(f"*/sub-*/{DESCRIPTION}"))
    ]
