"""The Natural Scenes Dataset in a local folder → prepared subjects.

File names, index bases and scales: the NSD data manual (Allen et al. 2022, Nat. Neurosci. 25:116).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import scipy.io

from synbrain_cli.datasets.sessions import add_ncsnr, describe_ncsnr, in_parallel
from synbrain_cli.datasets.splits import check_splits, read_split_list, split_trials
from synbrain_cli.errors import InputError, MissingError
from synbrain_cli.io.betas import read_at_vertices, read_masked
from synbrain_cli.io.files import is_simulated, read_json, sha256
from synbrain_cli.io.prepared import STANDARDIZATIONS, Origin, PreparedSubject, roi_name
from synbrain_cli.io.prepared_writer import PreparedWriter
from synbrain_cli.io.resampling_weights import NothingReached
from synbrain_cli.io.surface import HEMISPHERES, read_mgh_vertices
from synbrain_cli.io.surface_resampling import SurfaceResampling
from synbrain_cli.io.volume import check_same_grid, load_image, read_volume
from synbrain_cli.io.volume_resampling import VolumeResampling
from synbrain_cli.io.voxel_space import (
    MNI_RESAMPLING,
    SURFACE_RESAMPLING,
    Geometry,
    Vertices,
    Volume,
)

SESSIONS = (40, 40, 32, 30, 40, 32, 40, 30)  # of subjects 1 to 8, all released
N_IMAGES = 73_000
SPACES = ("func1pt8mm", "func1mm", "fsaverage", "nativesurface")
PREPARATIONS = ("betas_fithrf_GLMdenoise_RR", "betas_fithrf", "betas_assumehrf")
SPLIT_RULES = ("shared1000", "shared515")
BETA_SCALE = 300.0  # int16 = percent signal change × 300; float32 (fsaverage) is not scaled
SHORT = dict(zip(HEMISPHERES, ("lh", "rh"), strict=True))
TRANSFORM_NAMES = {"func1pt8mm": "func1pt8", "func1mm": "func1pt0"}

DESIGN = "nsddata/experiments/nsd/nsd_expdesign.mat"
STIMULI = "nsddata_stimuli/stimuli/nsd/nsd_stimuli.hdf5"
STIMULUS_TABLE = "nsddata/experiments/nsd/nsd_stim_info_merged.csv"


@dataclass(frozen=True)
class Choice:
    """What is taken of NSD, and how it is prepared.

    Attributes
    ----------
    space : str
        Of `SPACES`.
    preparation : str
        Of `PREPARATIONS` (NSD's b3, b2, b1).
    rois : tuple of str
        Their union is the mask. Each is a collection ("nsdgeneral", "streams": all its labels), a
        label ("V1v", "FFA-1"; "V1" joins V1v and V1d), both ("streams:ventral"), or a mask file
        on the subject's grid.
    standardize : {"session", "train", "none"}
    split : str
        "shared1000": test images are the 1,000 shared ones. "shared515": the 515 of them that
        every subject saw three times; the others are for validation (calibration). Or a table
        (`read_split_list`).
    validation_share : float
        Of the training images, where the split names no validation images.
    seed : int
        Draws the validation images.
    """

    space: str = SPACES[0]
    preparation: str = PREPARATIONS[0]
    rois: tuple[str, ...] = ("nsdgeneral",)
    standardize: str = "session"
    split: str = SPLIT_RULES[0]
    validation_share: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value, known in (
            ("--space", self.space, SPACES),
            ("--preparation", self.preparation, PREPARATIONS),
            ("--standardize", self.standardize, STANDARDIZATIONS),
        ):
            if value not in known:
                raise InputError(f"{name} {value}: expected one of {', '.join(known)}")
        if self.space == "func1mm" and self.preparation == "betas_assumehrf":
            raise InputError(
                "--preparation betas_assumehrf: NSD has it for func1pt8mm, not func1mm"
            )
        if self.split not in SPLIT_RULES and not Path(self.split).exists():
            raise InputError(
                f"--split {self.split}: expected {', '.join(SPLIT_RULES)} or a table with the "
                "columns image and split"
            )

    @property
    def volume(self) -> bool:
        return self.space.startswith("func")

    def to_dict(self) -> dict[str, Any]:
        """Options for the record; a split list and mask files by their content."""
        options = json.loads(json.dumps(asdict(self)))
        options["rois"] = [
            f"{Path(roi).name} (sha256 {sha256(roi)})" if Path(roi).is_file() else roi
            for roi in self.rois
        ]
        if self.split not in SPLIT_RULES:
            options["split"] = f"{Path(self.split).name} (sha256 {sha256(self.split)})"
        return options


@dataclass(frozen=True)
class Labels:
    """One ROI collection on a subject's grid.

    Attributes
    ----------
    values : array of shape (x, y, z), or (n_left + n_right,) on a surface
        Code of each voxel: above 0 within the collection.
    names : dict
        Code → label.
    """

    values: np.ndarray
    names: dict[int, str]


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
        n_trials = len(ordering)
        if n_trials % n_sessions or ordering.min() < 0 or ordering.max() >= subject_images.shape[1]:
            raise InputError(
                f"{path}: expected {n_sessions} sessions of equal length that show the images 1 to "
                f"{subject_images.shape[1]} of each subject, found {n_trials} trials of the images "
                f"{ordering.min() + 1} to {ordering.max() + 1}: copy it again"
            )
        if subject_images.min() < 0 or subject_images.max() >= N_IMAGES:
            raise InputError(
                f"{path}: expected image ids from 1 to {N_IMAGES:,}, found "
                f"{subject_images.min() + 1} to {subject_images.max() + 1}: copy it again"
            )
        return cls(ordering, subject_images, n_shared, n_trials // n_sessions)

    def images(self, subject: int) -> np.ndarray:
        """0-based 73k id of every trial of a subject (1-based number)."""
        return self.subject_images[subject - 1, self.ordering]

    def is_shared(self) -> np.ndarray:
        """Whether each trial shows an image that every subject saw."""
        return self.ordering < self.n_shared

    @property
    def n_sessions(self) -> int:
        """Sessions of the longest experiment: NSD's 40."""
        return len(self.ordering) // self.trials_per_session

    def complete_images(self) -> np.ndarray:
        """0-based 73k ids of the shared images that every subject saw three times: NSD's 515.

        The order of trials is the same for all subjects, so these are the shared images whose
        repeats lie in the sessions of the shortest experiment.
        """
        n_sessions = min(min(SESSIONS), self.n_sessions)
        seen = self.ordering[: n_sessions * self.trials_per_session]
        counts = np.bincount(seen, minlength=self.n_shared)[: self.n_shared]
        return self.subject_images[0, : self.n_shared][counts >= 3]

    def trials(self, subject: int, sessions: list[int], split: np.ndarray) -> pd.DataFrame:
        """``trials.tsv`` of a subject's sessions: see `synbrain_cli.io.prepared`.

        Parameters
        ----------
        subject : int
        sessions : list of int
        split : array of str
            Of each of the trials (`shown`).
        """
        rows = self.rows(sessions)
        table = pd.DataFrame(
            {
                "trial": np.arange(len(rows)),
                "session": rows // self.trials_per_session + 1,
                "image": self.shown(subject, sessions),
                "split": split,
            }
        )
        table.insert(3, "repeat", table.groupby("image").cumcount() + 1)
        return table

    def rows(self, sessions: list[int]) -> np.ndarray:
        """Which trials of the experiment the sessions hold."""
        n = self.trials_per_session
        return np.concatenate([np.arange((s - 1) * n, s * n) for s in sessions])

    def shown(self, subject: int, sessions: list[int]) -> np.ndarray:
        """Name of the image that each trial of the sessions shows."""
        return np.array([image_name(i) for i in self.images(subject)[self.rows(sessions)]])


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
        return Design.read(self.root / DESIGN)

    @property
    def simulated(self) -> bool:
        """Whether the folder was made by `synbrain prepare simulated`."""
        return is_simulated(self.root)

    @property
    def subjects(self) -> list[int]:
        """Subjects with betas here."""
        folders = sorted((self.root / "nsddata_betas/ppdata").glob("subj[0-9][0-9]"))
        return [int(folder.name[4:]) for folder in folders]

    # -------------------------------------------------------------------------- folders

    def betas_folder(self, subject: int, choice: Choice) -> Path:
        return self.root / betas_prefix(subject, choice)

    def transforms_folder(self, subject: int) -> Path:
        return self.root / f"nsddata/ppdata/subj{subject:02d}/transforms"

    def label_folder(self, subject: int) -> Path:
        return self.root / f"nsddata/freesurfer/subj{subject:02d}/label"

    def roi_folder(self, subject: int, choice: Choice) -> Path:
        """Of the ROI volumes, or of the ROIs on the native surface."""
        if choice.volume:
            return self.root / f"nsddata/ppdata/subj{subject:02d}/{choice.space}/roi"
        return self.label_folder(subject)

    def session_files(self, subject: int, choice: Choice) -> dict[int, tuple[Path, ...]]:
        """Session → its betas file, or the two hemispheres' files: those that are here.

        Of a volume's two formats, the HDF5 file is taken: of it the mask alone is read.
        """
        folder = self.betas_folder(subject, choice)
        files: dict[int, tuple[Path, ...]] = {}
        for number in range(1, max(self.design.n_sessions, *SESSIONS) + 1):
            name = f"betas_session{number:02d}"
            stems = [name] if choice.volume else [f"{short}.{name}" for short in SHORT.values()]
            suffixes = (".hdf5", ".nii.gz", ".nii") if choice.volume else (".hdf5", ".mgh", ".mgz")
            for suffix in suffixes:
                paths = tuple(folder / f"{stem}{suffix}" for stem in stems)
                if all(path.exists() for path in paths):
                    files[number] = paths
                    break
        return files

    # --------------------------------------------------------------------------- images

    def read_images(self, images: list[str]) -> Iterator[np.ndarray]:
        """Yield uint8 (425, 425, 3) pixels of images named as in ``trials.tsv``, one at a time.

        Raises
        ------
        MissingError, InputError
        """
        path = self.root / STIMULI
        if not path.exists():
            raise MissingError(f"{path} does not exist: the images are needed for their tokens")
        try:
            with h5py.File(path, "r") as file:
                bricks = file["imgBrick"]
                for image in images:
                    if image_id(image) >= len(bricks):
                        raise InputError(
                            f"{path}: expected {image} among its images, found {len(bricks)}: is "
                            "it of the same experiment as the design?"
                        )
                    yield bricks[image_id(image)]
        except InputError:
            raise
        except (OSError, KeyError, ValueError) as error:
            raise InputError(f"{path}: truncated or damaged ({error}): copy it again") from error

    def stimuli(self, images: list[str]) -> pd.DataFrame | None:
        """What is known of images: NSD's stimulus table, and captions; None where nothing is.

        Captions are read from COCO's ``captions_train2017.json`` and ``captions_val2017.json``
        (not part of NSD) where they lie in ``nsddata_stimuli``.

        Returns
        -------
        DataFrame
            ``image``, NSD's columns, and ``captions`` (a JSON list).
        """
        path = self.root / STIMULUS_TABLE
        if not path.exists():
            return None
        table = pd.read_csv(path, index_col=0)
        if "nsdId" not in table or "cocoId" not in table:
            raise InputError(
                f"{path}: expected the columns nsdId and cocoId, found {list(table.columns[:6])}"
            )
        table = table.set_index(table["nsdId"].map(image_name))
        absent = sorted(set(images) - set(table.index))
        if absent:
            raise InputError(
                f"{path}: no row of {absent[0]}, which the design shows: copy it again"
            )
        table = table.loc[images].rename_axis("image").reset_index()
        captions = self._captions()
        if captions:
            table["captions"] = [
                json.dumps(captions.get(int(coco), []), ensure_ascii=False)
                for coco in table["cocoId"]
            ]
        return table

    def _captions(self) -> dict[int, list[str]]:
        """COCO image id → its captions."""
        captions: dict[int, list[str]] = {}
        for path in sorted((self.root / "nsddata_stimuli").rglob("captions_*2017.json")):
            for annotation in read_json(path)["annotations"]:
                captions.setdefault(annotation["image_id"], []).append(
                    annotation["caption"].strip()
                )
        return captions

    # ----------------------------------------------------------------------- ROIs, voxels

    def collections(self, subject: int, choice: Choice) -> list[str]:
        """ROI collections that are here, both hemispheres in one."""
        folder = self.roi_folder(subject, choice)
        if choice.volume:
            names = {path.name.removesuffix(".nii.gz") for path in folder.glob("*.nii.gz")}
            return sorted(name for name in names if not name.startswith(("lh.", "rh.")))
        left, right = (
            {path.name[3:].removesuffix(".mgz") for path in folder.glob(f"{short}.*.mgz")}
            for short in SHORT.values()
        )
        # Maps (prfangle, R2, …) lie in the same folder: collections are those with a label table.
        return sorted(
            name
            for name in left & right
            if name == "nsdgeneral" or self._label_names(subject, name)
        )

    def labels(self, subject: int, choice: Choice, collection: str) -> Labels:
        """Read one ROI collection on the subject's grid.

        On fsaverage, a vertex has the label of the native vertex nearest to it.
        """
        names = self._label_names(subject, collection)
        folder = self.roi_folder(subject, choice)
        if choice.volume:
            values, image = read_volume(folder / f"{collection}.nii.gz")
            reference = self.grid(subject, choice)
            check_same_grid(folder / f"{collection}.nii.gz", image, *reference)
            return Labels(values, names)
        parts = []
        for hemisphere, short in SHORT.items():
            values = read_mgh_vertices(folder / f"{short}.{collection}.mgz")[:, 0]
            if choice.space == "fsaverage":
                values = values[self._to_fsaverage(subject, hemisphere) - 1]
            parts.append(values)
        return Labels(np.concatenate(parts), names)

    def grid(self, subject: int, choice: Choice) -> tuple[Path, Any]:
        """The volume whose grid all others of a subject must have: nsdgeneral, or the first ROI."""
        folder = self.roi_folder(subject, choice)
        paths = [folder / "nsdgeneral.nii.gz", *sorted(folder.glob("[!lr]*.nii.gz"))]
        path = next((path for path in paths if path.exists()), paths[0])
        return path, load_image(path)

    def _to_fsaverage(self, subject: int, hemisphere: str) -> np.ndarray:
        """1-based native vertex nearest to each fsaverage vertex."""
        path = self.transforms_folder(subject) / f"{SHORT[hemisphere]}.white-to-fsaverage.mgz"
        return read_mgh_vertices(path)[:, 0].astype(np.int64)

    def _label_names(self, subject: int, collection: str) -> dict[int, str]:
        """Code → label, of the collection's colour table: one line a label, "code name"."""
        tables = (
            self.label_folder(subject) / f"{collection}.mgz.ctab",
            self.root / f"nsddata/freesurfer/fsaverage/label/{collection}.mgz.ctab",
            self.root / f"nsddata/templates/{collection}.ctab",
        )
        path = next((path for path in tables if path.exists()), None)
        if path is None:
            return {}
        rows = [line.split() for line in path.read_text().splitlines() if line.strip()]
        try:
            return {int(row[0]): row[1] for row in rows if int(row[0]) > 0}
        except (ValueError, IndexError) as error:
            raise InputError(
                f"{path}: expected lines of a code and a label, found {error}: copy it again"
            ) from error

    def mask(self, subject: int, choice: Choice) -> tuple[np.ndarray, Geometry]:
        """Voxels in any of the chosen ROIs: boolean array on the grid, and their place.

        Raises
        ------
        MissingError, InputError
            No such collection, label or file; on another grid; no voxel in it.
        """
        inside: np.ndarray | None = None
        for roi in choice.rois:
            found = self._roi(subject, choice, roi)
            if not found.any():
                raise InputError(f"--roi {roi}: no voxel of subject {subject} is in it")
            inside = found if inside is None else inside | found
        if inside is None:
            raise InputError("expected at least one ROI, found none")
        if choice.volume:
            return inside, Volume.of(inside, self.grid(subject, choice)[1])
        n_left = self._n_left(subject, choice)
        space = "fsnative" if choice.space == "nativesurface" else _fsaverage_name(n_left)
        return inside, Vertices(
            np.flatnonzero(inside[:n_left]),
            np.flatnonzero(inside[n_left:]),
            {"left": n_left, "right": len(inside) - n_left},
            space,
        )

    def _n_left(self, subject: int, choice: Choice) -> int:
        if choice.space == "fsaverage":
            return len(self._to_fsaverage(subject, "left"))
        collection = self.collections(subject, choice)[0]
        return len(read_mgh_vertices(self.label_folder(subject) / f"lh.{collection}.mgz"))

    def _roi(self, subject: int, choice: Choice, roi: str) -> np.ndarray:
        """Boolean array on the grid: voxels of one ROI of `Choice.rois`."""
        if choice.volume and roi.endswith((".nii", ".nii.gz")):
            values, image = read_volume(roi)
            check_same_grid(roi, image, *self.grid(subject, choice))
            return values > 0
        collections = self.collections(subject, choice)
        if not collections:
            folder = self.roi_folder(subject, choice)
            raise MissingError(
                f"{folder / 'nsdgeneral.nii.gz'} does not exist, nor any other ROI file there"
                if choice.volume
                else f"{folder}: no ROI file such as lh.nsdgeneral.mgz"
            )
        if roi in collections:
            return self.labels(subject, choice, roi).values > 0  # not != -1: that is the whole slab
        wanted, _, label = roi.partition(":")
        searched = [wanted] if label else collections
        label = label or roi
        found: np.ndarray | None = None
        for collection in sorted(set(searched) & set(collections)):
            codes = [
                code
                for code, name in self._label_names(subject, collection).items()
                if label in (name, roi_name(name))
            ]
            if codes:
                inside = np.isin(self.labels(subject, choice, collection).values, codes)
                found = inside if found is None else found | inside
        if found is None:
            listing = []
            for collection in collections:
                names = list(self._label_names(subject, collection).values())
                some = ", ".join(names[:8]) + (", …" if len(names) > 8 else "")
                listing.append(f"{collection} ({some})" if names else collection)
            raise MissingError(
                f"--roi {roi}: no such collection or label in {self.roi_folder(subject, choice)}; "
                f"there are {'; '.join(listing)}"
            )
        return found

    def voxel_table(self, subject: int, choice: Choice, inside: np.ndarray) -> pd.DataFrame:
        """One row a voxel of the mask: NSD's ncsnr, and its label in every ROI collection."""
        table = pd.DataFrame({"ncsnr": self._ncsnr(subject, choice, inside)})
        for collection in self.collections(subject, choice):
            labels = self.labels(subject, choice, collection)
            codes = np.nan_to_num(labels.values[inside], nan=-1).astype(int)
            if collection == "nsdgeneral" or not (codes > 0).any():
                continue
            table[collection] = [
                labels.names.get(code, f"{collection}-{code}") if code > 0 else ""
                for code in codes.tolist()
            ]
        return table

    def _ncsnr(self, subject: int, choice: Choice, inside: np.ndarray) -> np.ndarray:
        """NSD's own ncsnr of the masked voxels; NaN where the file is not here."""
        folder = self.betas_folder(subject, choice)
        if choice.volume:
            path = folder / "ncsnr.nii.gz"
            if not path.exists():
                return np.full(int(inside.sum()), np.nan)
            values, image = read_volume(path)
            check_same_grid(path, image, *self.grid(subject, choice))
            return values[inside]
        paths = [folder / f"{short}.ncsnr.mgh" for short in SHORT.values()]
        if not all(path.exists() for path in paths):
            return np.full(int(inside.sum()), np.nan)
        return np.concatenate([read_mgh_vertices(path)[:, 0] for path in paths])[inside]

    # --------------------------------------------------------------------------- spaces

    def resamplings(
        self, subject: int, choice: Choice, inside: np.ndarray, place: Geometry
    ) -> dict[str, SurfaceResampling | VolumeResampling]:
        """How the masked voxels reach cortical surfaces and MNI, as far as transforms are here."""
        folder = self.transforms_folder(subject)
        found: dict[str, SurfaceResampling | VolumeResampling] = {}
        tables = [folder / f"{short}.white-to-fsaverage.mgz" for short in SHORT.values()]
        nearest = (
            {h: self._to_fsaverage(subject, h) for h in HEMISPHERES}
            if all(path.exists() for path in tables)
            else None
        )
        if isinstance(place, Vertices):
            vertices = {h: getattr(place, h) for h in HEMISPHERES}
            own = place.space == "fsnative"
            if nearest is not None or not own:
                found[SURFACE_RESAMPLING] = SurfaceResampling.from_vertices(
                    vertices, place.n_vertices, nearest if own else None
                )
            return found
        stem = TRANSFORM_NAMES[choice.space]
        layers = {
            hemisphere: [folder / f"{short}.{stem}-to-layerB{depth}.mgz" for depth in (1, 2, 3)]
            for hemisphere, short in SHORT.items()
        }
        if nearest is not None and all(p.exists() for paths in layers.values() for p in paths):
            depths = {h: np.stack([read_mgh_vertices(p) for p in ps]) for h, ps in layers.items()}
            try:
                found[SURFACE_RESAMPLING] = SurfaceResampling.from_layers(inside, depths, nearest)
            except NothingReached:
                # A mask of subcortical voxels reaches no surface, and needs none; cortex must.
                if choice.rois == Choice.rois:
                    raise
        mni = folder / f"{stem}-to-MNI.nii.gz"
        if mni.exists():
            found[MNI_RESAMPLING] = VolumeResampling.from_mni(inside, read_volume(mni)[0])
        return found


def betas_prefix(subject: int, choice: Choice) -> str:
    """Folder of a subject's betas, below the root and in the bucket alike."""
    return f"nsddata_betas/ppdata/subj{subject:02d}/{choice.space}/{choice.preparation}"


def image_name(index: int) -> str:
    """Name of an image from its 0-based 73k id: 1-based with five digits, as in NSD's files."""
    return f"nsd{index + 1:05d}"


def image_id(name: str) -> int:
    """0-based 73k id of a named image."""
    return int(name.removeprefix("nsd")) - 1


def _fsaverage_name(n_vertices: int) -> str:
    return {10_242: "fsaverage5", 40_962: "fsaverage6"}.get(n_vertices, "fsaverage")


def choose_sessions(
    nsd: NSD, subject: int, choice: Choice, sessions: list[int] | None
) -> list[int]:
    """Sessions to read: those asked for, or all that are here, which must have no gap.

    Raises
    ------
    MissingError, InputError
        One is not here, not in the design, or asked for twice.
    """
    files = nsd.session_files(subject, choice)
    what = f"{choice.space}/{choice.preparation}"
    if not files:
        raise MissingError(
            f"{nsd.betas_folder(subject, choice)}: no betas of subject {subject} there: copy them, "
            "let --download fetch them, or choose another --space or --preparation"
        )
    if sessions is None:
        here = sorted(files)
        if here != list(range(1, len(here) + 1)):
            raise MissingError(
                f"{nsd.root}: subject {subject} has the sessions {here} of {what}; expected "
                "1, 2, … without a gap: copy the missing ones, or choose with --sessions"
            )
        sessions = here
    if len(set(sessions)) != len(sessions):
        raise InputError(f"--sessions {sessions}: a session is named twice")
    absent = sorted(set(sessions) - set(files))
    if absent:
        raise MissingError(
            f"{nsd.root}: subject {subject}: no betas of session {absent[0]} in {what}; here are "
            f"{sorted(files)}"
        )
    if max(sessions) > nsd.design.n_sessions:
        raise InputError(
            f"{files[max(sessions)][0]}: session {max(sessions)} is beyond the design's "
            f"{nsd.design.n_sessions} sessions"
        )
    return sorted(sessions)


def split_design(design: Design, subject: int, sessions: list[int], choice: Choice) -> np.ndarray:
    """Split of each trial of the sessions, as `Choice.split` has it."""
    shown = design.shown(subject, sessions)
    shared = {image_name(i) for i in design.subject_images[subject - 1, : design.n_shared]}
    test, validation = shared, set()
    if choice.split == "shared515":
        test = {image_name(i) for i in design.complete_images()}
        validation = (shared - test) & set(shown)
    elif choice.split not in SPLIT_RULES:
        test, validation = read_split_list(Path(choice.split), shown)
    return split_trials(shown, test, validation, share=choice.validation_share, seed=choice.seed)


def prepare_subject(
    nsd: NSD,
    subject: int,
    folder: Path,
    *,
    choice: Choice | None = None,
    sessions: list[int] | None = None,
    workers: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    log: Callable[[str], None] = lambda message: None,
) -> PreparedSubject:
    """Read one subject's sessions into a prepared subject.

    Sessions are streamed, one a worker; memory does not depend on their number.

    Parameters
    ----------
    nsd : NSD
    subject : int
        1-based, as in NSD.
    folder : path
        ``prepared/<dataset>/sub-01``. An interrupted run goes on where it stopped.
    choice : Choice
    sessions : list of int, optional
        1-based; default: all that are here, which must be a first part of the experiment.
    workers : int, optional
        Sessions read at once; default: one a core.
    progress : callable
        Told sessions done and their number.
    log : callable
        Told what was found.

    Raises
    ------
    MissingError, InputError
        Unknown subject, missing session, wrong trial count, another grid, damaged files.
    """
    choice = choice or Choice()
    if subject not in nsd.subjects:
        raise MissingError(
            f"{nsd.root}: no betas of subject {subject}; here are {nsd.subjects or 'none'}"
        )
    sessions = choose_sessions(nsd, subject, choice, sessions)
    every = nsd.session_files(subject, choice)
    files = {session: every[session] for session in sessions}
    inside, place = nsd.mask(subject, choice)
    voxels = nsd.voxel_table(subject, choice, inside)
    resamplings = nsd.resamplings(subject, choice, inside, place)
    shown = nsd.design.shown(subject, sessions)
    split = split_design(nsd.design, subject, sessions, choice)
    check_splits(split, shown, "take more sessions, or another --split")
    trials = nsd.design.trials(subject, sessions, split)
    options = {"subject": subject, "sessions": sessions, **choice.to_dict()}
    sources = {
        str(path.relative_to(nsd.root)): path.stat().st_size
        for paths in files.values()
        for path in paths
    }
    # Files of one format have one size: an altered one is known by its time.
    times = [path.stat().st_mtime_ns for paths in files.values() for path in paths]
    writer = PreparedWriter(
        folder,
        {**options, "sources": sources, "times": times},
        trials,
        place.n_voxels,
        choice.standardize,
    )

    def read(session: int) -> None:
        paths = files[session]
        betas = read_session(paths, choice, inside, place)
        writer.write_session(session, betas, str(paths[0]))

    in_parallel(read, sessions, writer.done, workers, progress)
    voxels, reliability = add_ncsnr(voxels, writer)
    log(f"subject {subject}: {describe_ncsnr(reliability)}")
    writer.finish(
        voxels,
        place,
        resamplings,
        Origin(
            name=f"{'Simulated' if nsd.simulated else 'NSD'} subject {subject}, prepared",
            simulated=nsd.simulated,
            space=choice.space,
            unit_before_standardization="percent signal change",
            options=options,
            sources={name: {"bytes": size} for name, size in sources.items()},
            noise_ceiling_snr=reliability,
        ),
    )
    return PreparedSubject(folder)


def read_session(
    paths: tuple[Path, ...], choice: Choice, inside: np.ndarray, place: Geometry
) -> np.ndarray:
    """Betas of one session in percent signal change: float32 (n_trials, n_voxels)."""
    if isinstance(place, Vertices):
        stored = np.concatenate(
            [
                read_at_vertices(path, getattr(place, h), place.n_vertices[h])
                for h, path in zip(HEMISPHERES, paths, strict=True)
            ],
            axis=1,
        )
    else:
        stored = read_masked(paths[0], inside)
        if stored.dtype.kind != "i":
            raise InputError(
                f"{paths[0]}: expected integers (percent signal change × {BETA_SCALE:.0f}), found "
                f"{stored.dtype}: is this an NSD betas file?"
            )
    betas = stored.astype(np.float32)
    # What NSD keeps as integers is scaled (volumes, native surfaces); floats (fsaverage) are not.
    if stored.dtype.kind == "i":
        betas /= np.float32(BETA_SCALE)
    return betas
