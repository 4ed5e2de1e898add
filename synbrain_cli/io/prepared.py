"""The prepared subject: one format that every reader writes and everything else reads.

``prepared/<dataset>/sub-01/``

``betas.npy``               float32 (n_trials, n_voxels), standardised; memory-mapped
``trials.tsv``              trial, session, image, repeat, split
``voxels.tsv``              position (i, j, k in a volume; hemisphere, vertex on a surface), ncsnr
                            (given, or from the repeats), ncsnr_recomputed, then one column of
                            labels per ROI collection
``mask.nii.gz``             the voxels, in C order; or ``vertices.npz``, on a surface; or neither
``sampling.npz``            how voxels reach cortical surfaces, where known
``mni.npz``                 how voxels reach MNI, where known
``standardization.npz``     sessions (n_sessions,), mean and sd (n_sessions, n_voxels): session
                            s's betas in the unit they came in are ``betas * sd[s] + mean[s]``
``dataset_description.json``  unit, sources with checksums, versions, options, simulated or not

Beside the subjects: ``features/<encoder>/tokens.npy`` (n_images, n_tokens, n_dims), with
``images.tsv`` (row order) and ``encoder.json``; and ``stimuli.tsv``, what is known of the images.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from synbrain_cli.errors import InputError, MissingError, SynbrainError
from synbrain_cli.io.files import (
    atomic,
    create_array,
    read_json,
    read_table,
    replace_folder,
    versions,
    write_at,
    write_json,
)
from synbrain_cli.io.resampling import SurfaceResampling, VolumeResampling
from synbrain_cli.io.voxel_space import POSITION_COLUMNS, Geometry, VoxelSpace

SPLITS = ("train", "val", "test")
TRIAL_COLUMNS = ("trial", "session", "image", "repeat", "split")
# How betas are standardised, and what one then is.
STANDARDIZATIONS = {
    "session": "z-score within session (over all its trials, test trials included)",
    "train": "z-score by the training trials of all sessions",
    "none": "as recorded",
}


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
    def description(self) -> dict[str, Any]:
        return read_json(self.folder / "dataset_description.json")

    @property
    def dataset(self) -> str:
        return self.folder.parent.name

    @property
    def subject(self) -> str:
        """Label without ``sub-``: "01"."""
        return self.folder.name.removeprefix("sub-")

    @property
    def simulated(self) -> bool:
        return bool(self.description["Simulated"])

    @cached_property
    def betas(self) -> np.ndarray:
        path = self.folder / "betas.npy"
        try:
            return np.load(path, mmap_mode="r", allow_pickle=False)
        except FileNotFoundError as error:
            raise MissingError(f"{path} does not exist: run `synbrain prepare` again") from error
        except (ValueError, EOFError, OSError) as error:
            raise InputError(
                f"{path}: truncated or damaged ({error}): run `synbrain prepare --overwrite`"
            ) from error

    @cached_property
    def trials(self) -> pd.DataFrame:
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
        return read_voxels(self.folder / "voxels.tsv")

    @cached_property
    def voxel_space(self) -> VoxelSpace:
        """Mask or vertices, and resampling to other spaces."""
        return VoxelSpace(self.folder)

    @property
    def n_voxels(self) -> int:
        return self.betas.shape[1]

    @cached_property
    def sessions(self) -> list[int]:
        """Sessions in the order recorded."""
        return sorted(int(s) for s in self.trials["session"].unique())

    def standardization(self, sessions: Iterable[int]) -> tuple[np.ndarray, np.ndarray]:
        """Mean and deviation (n_voxels,), in the unit betas came in, averaged over ``sessions``."""
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
        if self.description["Standardization"] == "none":
            return trials.betas
        with np.load(self.folder / "standardization.npz", allow_pickle=False) as file:
            row = np.searchsorted(file["sessions"], trials.session)
            return np.float32(trials.betas * file["sd"][row] + file["mean"][row])

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


class PreparedWriter:
    """Writes a prepared subject session by session; a stopped run goes on where it was.

    Everything is written in ``.sub-01.partial`` beside the final folder, which takes its name
    when `finish` is called. Sessions may be written in any order, by several threads; memory does
    not grow with their number.

    Parameters
    ----------
    folder : Path
        Final folder.
    options : dict
        What the content depends on (sources, options). A partial folder made with others is
        dropped.
    trials : DataFrame
        ``trials.tsv``; the trials of a session follow one another.
    n_voxels : int
    standardize : {"session", "train", "none"}
        z-score each voxel within session, over all its trials (usual for NSD; it uses the test
        trials' responses, though not their images); or by mean and deviation of the training
        trials of all sessions; or leave betas as they come.
    """

    def __init__(
        self,
        folder: Path,
        options: dict[str, Any],
        trials: pd.DataFrame,
        n_voxels: int,
        standardize: str = "session",
    ) -> None:
        if standardize not in STANDARDIZATIONS:
            raise InputError(
                f"standardize: expected one of {', '.join(STANDARDIZATIONS)}, found {standardize!r}"
            )
        self.folder = Path(folder)
        self.partial = self.folder.with_name(f".{self.folder.name}.partial")
        self.trials = trials
        self.n_voxels = n_voxels
        self.standardize = standardize
        self._train = (trials["split"] == "train").to_numpy()
        self._options = json.loads(
            json.dumps(
                {
                    **options,
                    "standardize": standardize,
                    "trials": hashlib.sha256(trials.to_csv().encode()).hexdigest(),
                    "n_voxels": n_voxels,
                }
            )
        )
        session = trials["session"].to_numpy()
        starts = np.flatnonzero(np.r_[True, session[1:] != session[:-1]])
        self.rows = {
            int(session[start]): slice(int(start), int(stop))
            for start, stop in zip(starts, [*starts[1:], len(session)], strict=True)
        }
        if len(self.rows) != len(starts):
            raise InputError("trials: expected the trials of a session to follow one another")
        self._lock = threading.Lock()
        self._progress = self.partial / "progress.json"
        self._betas = self.partial / "unfinished.npy"
        if not self._go_on():
            shutil.rmtree(self.partial, ignore_errors=True)
            self.partial.mkdir(parents=True)
            self.done: dict[int, str] = {}
            self._start = create_array(self._betas, np.float32, (len(trials), n_voxels))
            self._note_progress()

    def _go_on(self) -> bool:
        """Take up what an interrupted run with the same options left."""
        if not self._progress.exists():
            return False
        record = read_json(self._progress)
        if record["options"] != self._options:
            return False
        self.done = {int(session): digest for session, digest in record["done"].items()}
        self._start = record["start"]
        return self._betas.exists()

    def _note_progress(self) -> None:
        write_json(
            self._progress, {"options": self._options, "start": self._start, "done": self.done}
        )

    def write_session(self, session: int, betas: np.ndarray, source: str = "") -> None:
        """Standardise one session's betas (in the unit they came in) and keep them.

        Voxels that are constant or not finite are marked, and left out by `finish`.

        Parameters
        ----------
        session : int
        betas : array of shape (n_trials of the session, n_voxels)
            In the unit they came in; unchanged.
        source : str
            The file, for messages.

        Raises
        ------
        InputError
            Another shape; a trial without a single finite value; the same betas as another
            session's.
        """
        rows = self.rows[session]
        expected = (rows.stop - rows.start, self.n_voxels)
        if betas.shape != expected:
            raise InputError(
                f"{source or f'session {session}'}: expected {expected[0]} trials (the design) × "
                f"{expected[1]} voxels, found {betas.shape[0]} × {betas.shape[1]}"
            )
        digest = hashlib.blake2b(np.ascontiguousarray(betas), digest_size=16).hexdigest()
        betas = np.asarray(betas, np.float32)
        with np.errstate(invalid="ignore", over="ignore"):
            mean, sd = _moments(betas)
        usable = np.isfinite(sd) & (sd > 0)
        if not usable.all():
            _check_trials(betas, rows.start, source or f"session {session}")
        arrays = {"mean": mean, "sd": sd, "usable": usable}
        if self.standardize == "session":
            with np.errstate(invalid="ignore", over="ignore"):
                betas = _standardize(betas, mean, sd)
        elif self.standardize == "train":
            chosen = self._train[rows]
            arrays["n_train"] = np.array(chosen.sum())
            if chosen.any():
                with np.errstate(invalid="ignore", over="ignore"):
                    arrays["train_mean"], arrays["train_sd"] = _moments(betas[chosen])
        try:
            with self._betas.open("r+b") as file:
                write_at(file.fileno(), betas, self._start + rows.start * 4 * self.n_voxels)
        except OSError as error:
            raise SynbrainError(
                f"cannot write {self._betas}: {error.strerror or error}: sessions done stay; free "
                "some space, then the same command goes on"
            ) from error
        with atomic(self._moments_file(session)) as path, path.open("wb") as file:
            np.savez(file, **arrays)
        with self._lock:
            for other, known in self.done.items():
                if known == digest and other != session:
                    # Which of the two is the copy is not known: both are read again.
                    del self.done[other]
                    self._note_progress()
                    raise InputError(
                        f"{source or f'session {session}'}: the same betas as session {other}: "
                        "one of the two files is a copy of the other; copy or download it again"
                    )
            self.done[session] = digest
            self._note_progress()

    def _moments_file(self, session: int) -> Path:
        return self.partial / f"session{session:02d}.npz"

    def _load_moments(self) -> dict[int, dict[str, np.ndarray]]:
        return {s: dict(np.load(self._moments_file(s), allow_pickle=False)) for s in self.rows}

    def read_standardized(self, rows: np.ndarray) -> np.ndarray:
        """Some trials, z-scored within session whatever the standardisation: float32 (n, n_voxels).

        For what must be computed over all sessions (ncsnr), before `finish`.
        """
        out = np.empty((len(rows), self.n_voxels), np.float32)
        with self._betas.open("rb") as file:
            for one, row in zip(out, rows, strict=True):
                os.preadv(file.fileno(), [one], self._start + int(row) * one.nbytes)
        if self.standardize != "session":
            for session, moments in self._load_moments().items():
                span = self.rows[session]
                inside = (rows >= span.start) & (rows < span.stop)
                scale = np.where(moments["usable"], moments["sd"], 1)
                with np.errstate(invalid="ignore", over="ignore"):  # voxels that are left out
                    out[inside] = (out[inside] - moments["mean"]) / scale
        return out

    def usable(self) -> np.ndarray:
        """Boolean (n_voxels,): finite and not constant in every session."""
        usable = np.all([m["usable"] for m in self._load_moments().values()], axis=0)
        if not usable.any():
            raise InputError(
                f"{self.folder.name}: every voxel is constant or not finite in some session: "
                "is the mask that of these betas?"
            )
        return usable

    def finish(
        self,
        voxels: pd.DataFrame,
        place: Geometry | None,
        samplings: dict[str, SurfaceResampling | VolumeResampling],
        description: dict[str, Any],
    ) -> int:
        """Drop unusable voxels, write the tables, and give the folder its name.

        Parameters
        ----------
        voxels : DataFrame
            One row a voxel: what is known of it beside its place.
        place : Geometry, optional
            Of as many voxels.
        samplings : dict
            File name → how voxels reach another space.
        description : dict
            Goes into ``dataset_description.json`` with what is known here: ``Name``,
            ``Simulated``, ``Space``, ``UnitBeforeStandardization``, ``Options``, ``Sources``, ….

        Returns
        -------
        int
            Voxels left out because they were constant or not finite in some session.
        """
        moments = self._load_moments()
        usable = self.usable()
        mean = np.stack([m["mean"] for m in moments.values()])
        sd = np.stack([m["sd"] for m in moments.values()])
        if self.standardize == "train":
            pooled = _pool([m for m in moments.values() if m["n_train"] > 0])
            # A voxel that training trials alone leave constant cannot be standardised by them.
            usable &= np.isfinite(pooled[1]) & (pooled[1] > 0)
            mean, sd = (np.broadcast_to(x, mean.shape) for x in pooled)
        elif self.standardize == "none":
            mean, sd = np.zeros_like(mean), np.ones_like(sd)
        n_dropped = int((~usable).sum())
        with (self.partial / "standardization.npz").open("wb") as file:
            np.savez(
                file,
                sessions=np.array(list(self.rows)),
                mean=mean[:, usable].astype(np.float32),
                sd=sd[:, usable].astype(np.float32),
            )
        table = voxels if place is None else pd.concat([place.table(), voxels], axis=1)
        table[usable].to_csv(
            self.partial / "voxels.tsv", sep="\t", index=False, float_format="%.5g"
        )
        self.trials.to_csv(self.partial / "trials.tsv", sep="\t", index=False)
        if place is not None:
            place.keep(usable).save(self.partial)
        for name, sampling in samplings.items():
            sampling.keep(usable).save(self.partial / name)
        left_out = {
            str(s): int((~m["usable"]).sum()) for s, m in moments.items() if not m["usable"].all()
        }
        write_json(
            self.partial / "dataset_description.json",
            {
                "Name": description["Name"],
                "BIDSVersion": "1.9.0",
                "DatasetType": "derivative",
                "GeneratedBy": [{"Name": "synbrain", "Version": versions()["synbrain"]}],
                **description,
                "Unit": STANDARDIZATIONS[self.standardize],
                "Standardization": self.standardize,
                "BetasBLAKE2b": {str(s): self.done[s] for s in self.rows},
                "VoxelsLeftOut": n_dropped,
                "VoxelsLeftOutBySession": left_out,
                "Versions": versions(),
            },
        )
        self._write_betas(usable, mean[0], sd[0])
        for session in self.rows:
            self._moments_file(session).unlink()
        self._betas.unlink(missing_ok=True)
        self._progress.unlink()
        replace_folder(self.partial, self.folder)
        return n_dropped

    def _write_betas(self, usable: np.ndarray, mean: np.ndarray, sd: np.ndarray) -> None:
        """``betas.npy``: as written, or in a second pass where voxels or scale change."""
        if usable.all() and self.standardize != "train":
            self._betas.replace(self.partial / "betas.npy")
            return
        n_trials, n_kept = len(self.trials), int(usable.sum())
        shift, scale = mean[usable].astype(np.float32), sd[usable].astype(np.float32)
        block = np.empty((1024, self.n_voxels), np.float32)
        with atomic(self.partial / "betas.npy") as path:
            offset = create_array(path, np.float32, (n_trials, n_kept))
            with self._betas.open("rb") as source, path.open("r+b") as target:
                source.seek(self._start)
                for start in range(0, n_trials, len(block)):
                    some = block[: n_trials - start]
                    source.readinto(some)
                    values = some[:, usable]
                    if self.standardize == "train":
                        values -= shift
                        values /= scale
                    write_at(target.fileno(), values, offset + start * 4 * n_kept)


def _moments(betas: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation over trials (n_voxels,), in float64 and bounded memory."""
    mean, sd = np.empty(betas.shape[1]), np.empty(betas.shape[1])
    for some in _columns(betas):
        mean[some] = betas[:, some].mean(0, dtype=np.float64)
        sd[some] = betas[:, some].std(0, dtype=np.float64)
        # Of a constant, rounding may leave a deviation.
        sd[some][np.ptp(betas[:, some], axis=0) == 0] = 0
    return mean, sd


def _standardize(betas: np.ndarray, mean: np.ndarray, sd: np.ndarray) -> np.ndarray:
    """z-scores in float32, computed in float64; 0 where the deviation is none."""
    out = np.zeros_like(betas)
    usable = np.isfinite(sd) & (sd > 0)
    for some in _columns(betas):
        z = (betas[:, some] - mean[some]) / np.where(usable[some], sd[some], 1)
        out[:, some] = np.where(usable[some], z, 0)
    return out


def _columns(betas: np.ndarray) -> Iterator[slice]:
    """Voxels, so many at a time that float64 copies of them take 8 MB."""
    step = max(1, (1 << 20) // len(betas))
    for start in range(0, betas.shape[1], step):
        yield slice(start, start + step)


def _pool(parts: list[dict[str, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation of training trials of all sessions together (Chan et al. 1979)."""
    if not parts:
        raise InputError("no training trial to take mean and deviation from: check the splits")
    n = np.array([float(part["n_train"]) for part in parts])[:, None]
    means = np.stack([part["train_mean"] for part in parts])
    variances = np.stack([part["train_sd"] for part in parts]) ** 2
    with np.errstate(invalid="ignore", over="ignore"):  # voxels that are left out
        mean = (n * means).sum(0) / n.sum()
        return mean, np.sqrt((n * (variances + (means - mean) ** 2)).sum(0) / n.sum())


def _check_trials(betas: np.ndarray, first: int, source: str) -> None:
    """A trial that lacks all its values would cost every voxel: name it instead."""
    empty = np.flatnonzero(~np.isfinite(betas).any(1))
    if len(empty) and np.isfinite(betas).any():
        raise InputError(
            f"{source}: {len(empty)} trials have no finite value (first: trial {first + empty[0]}, "
            "counted from 0): leave those trials out of the table and of the responses"
        )


def find_prepared(root: Path) -> list[PreparedSubject]:
    """Prepared subjects below ``root`` (a workspace's ``prepared/``), sorted."""
    return [
        PreparedSubject(path.parent)
        for path in sorted(Path(root).glob("*/sub-*/dataset_description.json"))
    ]


# ------------------------------------------------------------------------------ tokens


@dataclass(frozen=True)
class TokenStore:
    """Image tokens of a dataset under one encoder: ``prepared/<dataset>/features/<encoder>/``."""

    folder: Path

    @cached_property
    def identity(self) -> dict[str, Any]:
        return read_json(self.folder / "encoder.json")

    @cached_property
    def _table(self) -> pd.DataFrame:
        path = self.folder / "images.tsv"
        if not path.exists():
            return pd.DataFrame({"image": [], "pixels": []}, dtype=str)
        return read_table(path, ("image", "pixels"))

    @property
    def precision(self) -> str:
        """What the tokens were computed in: "float32" (of older stores, too), "fp16", "bf16"."""
        return self.identity.get("precision", "float32")

    @property
    def images(self) -> list[str]:
        """Name of each row."""
        return self._table["image"].tolist()

    @property
    def digests(self) -> list[str]:
        """Checksum of the pixels that each row came from; empty where names are NSD's."""
        return self._table["pixels"].tolist()

    @cached_property
    def tokens(self) -> np.ndarray:
        """Memory-mapped (n_images, n_tokens, n_dims): float32, or float16 of half `precision`."""
        return np.load(self.folder / "tokens.npy", mmap_mode="r", allow_pickle=False)

    def take(self, images: Iterable[str]) -> np.ndarray:
        """Tokens of the named images, in their order: float32 (n_images, n_tokens, n_dims).

        Raises
        ------
        MissingError
            When some have not been extracted.
        """
        return np.asarray(self.tokens[self.rows_of(images)], np.float32)

    def rows_of(self, images: Iterable[str]) -> np.ndarray:
        """Which row of ``tokens`` each named image is: int64 (n_images,).

        Raises
        ------
        MissingError
            When some have not been extracted.
        """
        row = {image: i for i, image in enumerate(self.images)}
        images = list(images)
        missing = [image for image in images if image not in row]
        if missing:
            raise MissingError(
                f"{self.folder}: no tokens of {len(missing)} images (first: {missing[0]}): "
                "run `synbrain prepare` again with this encoder"
            )
        return np.array([row[image] for image in images], np.int64)
