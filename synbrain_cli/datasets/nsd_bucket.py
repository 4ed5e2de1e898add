"""The files of NSD's public bucket that are needed for a choice of subjects, sessions and betas."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from synbrain_cli.datasets.needs import Need, interrupted
from synbrain_cli.datasets.nsd_choice import Choice
from synbrain_cli.datasets.nsd_design import SESSIONS
from synbrain_cli.datasets.nsd_files import (
    DESIGN,
    NSD,
    STIMULI,
    STIMULUS_TABLE,
    TRANSFORM_NAMES,
    betas_prefix,
)
from synbrain_cli.datasets.nsd_voxels import SubjectVoxels
from synbrain_cli.datasets.s3 import Bucket, RemoteFile
from synbrain_cli.errors import MissingError

FORM = "https://forms.gle/xue2bCdM9LaFNMeb7"
TERMS = "https://cvnlab.slite.page/p/IB6BSeW_7o/Terms-and-Conditions"
_TEMPLATE_LABELS = ("MTL", "thalamus")  # collections with label tables in nsddata/templates


def files_needed(
    bucket: Bucket, subjects: Iterable[int], sessions: list[int] | None, choice: Choice
) -> list[Need]:
    """List the files of the bucket that a choice needs.

    Parameters
    ----------
    bucket : Bucket
    subjects : iterable of int
    sessions : list of int, optional
        All sessions in the bucket by default.
    choice : Choice
        Space, preparation and ROIs.

    Returns
    -------
    list of Need
        Small files first, then the betas in the order of the sessions.

    Raises
    ------
    MissingError
        When a subject, session or file is not in the bucket. The message names what is.
    """
    needs = [Need("images", require(bucket, key)) for key in (DESIGN, STIMULI)]
    table = bucket.find(STIMULUS_TABLE)
    needs[1:1] = [Need("images", table)] if table else []
    for subject in subjects:
        name = f"subj{subject:02d}"
        small = grid_files(bucket, subject, choice)
        known = {need.file.key for need in needs}
        needs += [
            Need(f"{name}: ROIs, transforms", file) for k, file in small.items() if k not in known
        ]
        betas = bucket.list(betas_prefix(subject, choice) + "/")
        needs += [
            Need(f"{name}: ROIs, transforms", file)
            for key, file in betas.items()
            if Path(key).name in ("ncsnr.nii.gz", "lh.ncsnr.mgh", "rh.ncsnr.mgh")
        ]
        found = session_keys(betas, choice)
        if not found:
            raise MissingError(
                f"s3://{bucket.name}/{betas_prefix(subject, choice)}: no betas of subject "
                f"{subject} there; NSD has the subjects 1 to 8"
            )
        absent = sorted(set(sessions or []) - set(found))
        if absent:
            raise MissingError(
                f"s3://{bucket.name}/{betas_prefix(subject, choice)}: no betas of session "
                f"{absent[0]}: subject {subject} has the sessions {min(found)} to {max(found)} "
                "there; choose among them with --sessions"
            )
        needs += [
            Need(f"{name}: betas", betas[key])
            for session in sorted(sessions or found)
            for key in found[session]
        ]
    return needs


def session_keys(betas: Mapping[str, RemoteFile], choice: Choice) -> dict[int, tuple[str, ...]]:
    """Return the keys of the betas of each session.

    For volumes these are the compressed NIfTI files, which are half as large as the HDF5 files.

    Parameters
    ----------
    betas : mapping of str to RemoteFile
        Files in the folder of the betas, by key.
    choice : Choice
    """
    by_name = {Path(key).name: key for key in betas}
    found = {}
    for number in range(1, 100):
        name = f"betas_session{number:02d}"
        stems = [name] if choice.volume else [f"lh.{name}", f"rh.{name}"]
        for suffix in (".nii.gz",) if choice.volume else (".hdf5", ".mgh"):
            names = [f"{stem}{suffix}" for stem in stems]
            if all(n in by_name for n in names):
                found[number] = tuple(by_name[n] for n in names)
                break
    return found


def require(bucket: Bucket, key: str) -> RemoteFile:
    """Return a file of the bucket.

    Raises
    ------
    MissingError
        When it is not there.
    """
    file = bucket.find(key)
    if file is None:
        raise MissingError(
            f"s3://{bucket.name}/{key}: not in the bucket, so that NSD may have moved it: use a "
            "local copy with --root, and open an issue of synbrain"
        )
    return file


def grid_files(bucket: Bucket, subject: int, choice: Choice) -> dict[str, RemoteFile]:
    """ROIs with their label tables, and transforms."""
    name = f"subj{subject:02d}"
    labels = bucket.list(f"nsddata/freesurfer/{name}/label/")
    transforms = bucket.list(f"nsddata/ppdata/{name}/transforms/")
    tables = {key: file for key, file in labels.items() if key.endswith(".mgz.ctab")}
    wanted = {f"{short}.white-to-fsaverage.mgz" for short in ("lh", "rh")}
    if choice.volume:
        rois = {
            key: file
            for key, file in bucket.list(f"nsddata/ppdata/{name}/{choice.space}/roi/").items()
            if not Path(key).name.startswith(("lh.", "rh.")) and key.endswith(".nii.gz")
        }
        stem = TRANSFORM_NAMES[choice.space]
        wanted |= {f"{h}.{stem}-to-layerB{d}.mgz" for h in ("lh", "rh") for d in (1, 2, 3)}
        wanted.add(f"{stem}-to-MNI.nii.gz")
    else:
        # The folder also holds maps; ROI collections are those with a label table.
        collections = {Path(key).name.removesuffix(".mgz.ctab") for key in tables} | {"nsdgeneral"}
        rois = {
            key: file
            for key, file in labels.items()
            if Path(key).name in {f"{h}.{c}.mgz" for h in ("lh", "rh") for c in collections}
        }
    templates = {
        key: file
        for key, file in bucket.list("nsddata/templates/").items()
        if key.removesuffix(".ctab").rpartition("/")[2] in _TEMPLATE_LABELS
    }
    found = tables | rois | templates
    return found | {key: f for key, f in transforms.items() if Path(key).name in wanted}


@dataclass(frozen=True)
class NeededFiles(ABC):
    """The files of one of NSD's stimulus sets that are needed for a choice of subjects and betas.

    Attributes
    ----------
    choice : Choice
    subjects : list of int, optional
        Default: all of NSD's.
    """

    choice: Choice
    subjects: list[int] | None = None

    @property
    def numbers(self) -> list[int]:
        """The subjects, 1-based."""
        return self.subjects or list(range(1, len(SESSIONS) + 1))

    @property
    def folders(self) -> set[str]:
        """Folders of the betas, relative to the root or the bucket."""
        return {self.prefix(subject) for subject in self.numbers}

    @abstractmethod
    def prefix(self, subject: int) -> str:
        """Return the folder of a subject's betas."""

    @abstractmethod
    def lacks(self, root: Path) -> str | None:
        """Describe what a local copy lacks; None where nothing must be fetched."""

    @abstractmethod
    def needed(self, bucket: Bucket) -> list[Need]:
        """List the files of the bucket that are needed, small ones first.

        Raises
        ------
        MissingError
            When one is not in the bucket.
        """


@dataclass(frozen=True)
class CoreFiles(NeededFiles):
    """The files that are needed of NSD itself.

    Attributes
    ----------
    sessions : list of int, optional
        Default: all.
    """

    sessions: list[int] | None = None

    def prefix(self, subject: int) -> str:
        """Return the folder of a subject's betas."""
        return betas_prefix(subject, self.choice)

    def lacks(self, root: Path) -> str | None:
        """Describe what a local copy lacks; None where nothing must be fetched.

        Without a choice of sessions, a copy that ends before the last session is accepted, because
        older copies have fewer sessions.
        """
        if not (root / "nsddata").is_dir():
            return f"{root} holds no nsddata/"
        for key in (DESIGN, STIMULI):
            if not (root / key).exists():
                return f"{root / key} is not there"
        is_open = self.subjects is None or self.sessions is None  # which are there is not enough
        if is_open and (said := interrupted(root, self.folders)):
            return said
        nsd = NSD(root)
        for subject in self.subjects or nsd.subjects or [1]:
            here = sorted(nsd.session_files(subject, self.choice))
            wanted = self.sessions or list(range(1, max(here, default=1) + 1))
            absent = sorted(set(wanted) - set(here))
            if absent:
                return f"{root}: session {absent[0]} of subject {subject} is not there"
            if not SubjectVoxels(nsd, subject, self.choice).collections():
                return f"{root}: the ROIs of subject {subject} are not there"
        return None

    def needed(self, bucket: Bucket) -> list[Need]:
        """List the files of the bucket that are needed: see `files_needed`."""
        return files_needed(bucket, self.numbers, self.sessions, self.choice)
