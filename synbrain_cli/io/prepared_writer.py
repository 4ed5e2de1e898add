"""Writing a prepared subject session by session, with standardisation in bounded memory."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import msgspec
import numpy as np
import pandas as pd

from synbrain_cli.errors import DAMAGED, InputError, SynbrainError
from synbrain_cli.io.files import (
    atomic,
    create_array,
    versions,
    write_at,
)
from synbrain_cli.io.prepared import (
    BETAS,
    DESCRIPTION,
    STANDARDIZATIONS,
    Origin,
    PreparedDescription,
    Standardization,
)
from synbrain_cli.io.records import read_record, write_record, write_sealed
from synbrain_cli.io.seal import checksums_of, file_checksum
from synbrain_cli.io.surface_resampling import SurfaceResampling
from synbrain_cli.io.volume_resampling import VolumeResampling
from synbrain_cli.io.voxel_space import Geometry
from synbrain_cli.io.workfolder import FolderKind, work_folder
from synbrain_cli.progress import Progress

# `synbrain prepare` decides whether a finished subject is kept before its files are read.
PREPARED = FolderKind("a prepared subject", "--dataset", remakes=True)
STARTED = "betas.json"  # record in the work folder's recovery
# A value is impossible if it is IMPOSSIBLE times as far from the median of its voxel as the
# typical trial of that session (ours). float32 has 24 bits: beside such a value, once the voxel is
# z-scored, less than one bit is left for the differences between other trials. Values of
# heavy-tailed noise, at most some thousand times as far, are kept.
IMPOSSIBLE = 2.0**23


class SessionsDone(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Sessions that an interrupted run has written.

    Attributes
    ----------
    start : int
        Byte at which the values of the unfinished array begin.
    done : dict
        Session → checksum of its recorded betas.
    """

    start: int
    done: dict[int, str]


class PreparedWriter:
    """Writes a prepared subject session by session; an interrupted run can be resumed.

    It is a context manager: the work folder (`synbrain_cli.io.workfolder`) is open inside the
    block, and takes its final name when `finish` is called. Sessions may be written in any order
    and by several threads; memory does not increase with their number.

    Parameters
    ----------
    folder : Path
        Final folder.
    options : dict
        Sources and options on which the content depends.
    trials : DataFrame
        Content of ``trials.tsv``, in which the trials of a session are consecutive.
    n_voxels : int
    standardize : {"session", "train", "none"}
        "session" z-scores each voxel over all trials of a session, as is usual for NSD; this uses
        the responses of test trials, but not their images. "train" uses the mean and the standard
        deviation of the training trials of all sessions. "none" leaves betas unchanged.
    progress : Progress, optional
        Shows which options differ when an interrupted run with other options is discarded.

    Attributes
    ----------
    rows : dict
        Session → slice of its trials.
    done : dict
        Session → checksum of its betas, for the sessions written so far.

    Raises
    ------
    InputError
        When the standardisation is unknown, or the trials of a session are not consecutive.
    """

    def __init__(
        self,
        folder: Path,
        options: Mapping[str, Any],
        trials: pd.DataFrame,
        n_voxels: int,
        standardize: Standardization = "session",
        progress: Progress | None = None,
    ) -> None:
        if standardize not in STANDARDIZATIONS:
            raise InputError(
                f"standardize: expected one of {', '.join(STANDARDIZATIONS)}, found {standardize!r}"
            )
        self.folder = Path(folder)
        self.trials = trials
        self.n_voxels = n_voxels
        self.standardize = standardize
        self.done: dict[int, str] = {}
        self._train = (trials["split"] == "train").to_numpy()
        self._settings = {
            **options,
            "standardize": standardize,
            "trials": hashlib.sha256(trials.to_csv().encode()).hexdigest(),
            "n_voxels": n_voxels,
        }
        self._log = progress
        session = trials["session"].to_numpy()
        starts = np.flatnonzero(np.r_[True, session[1:] != session[:-1]])
        self.rows = {
            int(session[start]): slice(int(start), int(stop))
            for start, stop in zip(starts, [*starts[1:], len(session)], strict=True)
        }
        if len(self.rows) != len(starts):
            raise InputError("trials: expected the trials of a session in consecutive rows")
        self._lock = threading.Lock()
        self._context = ExitStack()

    # ------------------------------------------------------------------------- work folder

    def __enter__(self) -> Self:
        folder = work_folder(self.folder, PREPARED, self._settings, progress=self._log)
        self._work = self._context.enter_context(folder)
        self._betas = self._work.recovery / "unfinished.npy"
        started = self._work.recovery / STARTED
        if started.exists() and self._betas.exists():
            record = read_record(started, SessionsDone)
            self._start, self.done = record.start, dict(record.done)
        else:
            shape = (len(self.trials), self.n_voxels)
            self._start, self.done = create_array(self._betas, np.float32, shape), {}
            self._note_sessions()
        return self

    def __exit__(self, *exception: object) -> None:
        self._context.close()

    def _note_sessions(self) -> None:
        write_record(self._work.recovery / STARTED, SessionsDone(self._start, self.done))

    # --------------------------------------------------------------------------- sessions

    def write_session(self, session: int, betas: np.ndarray, source: str = "") -> None:
        """Standardise the betas of one session and write them.

        Voxels that are constant or not finite are marked here and left out by `finish`.

        Parameters
        ----------
        session : int
        betas : array of shape (n_trials, n_voxels)
            Betas of the session in the recorded unit. The array is not changed.
        source : str
            Name of the file, for messages.

        Raises
        ------
        InputError
            When the shape is another, a trial has no finite value, or the betas equal those of
            another session.
        SynbrainError
            When the file cannot be written.
        """
        rows = self.rows[session]
        expected = (rows.stop - rows.start, self.n_voxels)
        if betas.shape != expected:
            raise InputError(
                f"{source or f'session {session}'}: expected {expected[0]} trials (the design) × "
                f"{expected[1]} voxels, found {betas.shape[0]} × {betas.shape[1]}"
            )
        digest = hashlib.blake2b(np.ascontiguousarray(betas).data, digest_size=16).hexdigest()
        betas = np.asarray(betas, np.float32)
        trials = self.trials["trial"].to_numpy()[rows]
        _check_magnitudes(betas, trials, source or f"session {session}", session)
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
                f"cannot write {self._betas}: {error.strerror or error}: free some space and run "
                "the same command again; finished sessions are kept"
            ) from error
        with atomic(self._moments_file(session)) as path, path.open("wb") as file:
            np.savez(file, **arrays)
        with self._lock:
            for other, known in self.done.items():
                if known == digest and other != session:
                    # Either of the two may be the copy, so both are read again.
                    del self.done[other]
                    self._note_sessions()
                    raise InputError(
                        f"{source or f'session {session}'}: the same betas as session {other}: "
                        "one of the two files is a copy of the other; copy or download it again"
                    )
            self.done[session] = digest
            self._note_sessions()

    def _moments_file(self, session: int) -> Path:
        return self._work.recovery / f"session{session:02d}.npz"

    def _load_moments(self) -> dict[int, dict[str, np.ndarray]]:
        return {session: self._read_moments(session) for session in self.rows}

    def _read_moments(self, session: int) -> dict[str, np.ndarray]:
        path = self._moments_file(session)
        try:
            with np.load(path, allow_pickle=False) as file:
                return dict(file)
        except DAMAGED as error:
            raise InputError(
                f"{path}: truncated or damaged ({error}): pass --overwrite, to start again"
            ) from error

    def read_standardized(self, rows: np.ndarray) -> np.ndarray:
        """Read trials z-scored within session, independent of the chosen standardisation.

        It serves statistics over all sessions (ncsnr) that are needed before `finish`.

        Parameters
        ----------
        rows : int array of shape (n,)
            Rows of the table of trials.

        Returns
        -------
        float32 array of shape (n, n_voxels)
        """
        out = np.empty((len(rows), self.n_voxels), np.float32)
        with self._betas.open("rb") as file:
            for one, row in zip(out, rows, strict=True):
                os.preadv(file.fileno(), [one.data], self._start + int(row) * one.nbytes)
        if self.standardize != "session":
            for session, moments in self._load_moments().items():
                span = self.rows[session]
                inside = (rows >= span.start) & (rows < span.stop)
                scale = np.where(moments["usable"], moments["sd"], 1)
                with np.errstate(invalid="ignore", over="ignore"):  # unusable voxels
                    out[inside] = (out[inside] - moments["mean"]) / scale
        return out

    def usable(self) -> np.ndarray:
        """Return which voxels are finite and not constant in every session: bool (n_voxels,).

        Raises
        ------
        InputError
            When there is no such voxel.
        """
        usable = np.all([m["usable"] for m in self._load_moments().values()], axis=0)
        if not usable.any():
            raise InputError(
                f"{self.folder.name}: every voxel is constant or not finite in some session: "
                "is the mask that of these betas?"
            )
        return usable

    # ---------------------------------------------------------------------------- the end

    def finish(
        self,
        voxels: pd.DataFrame,
        voxel_space: Geometry | None,
        resamplings: Mapping[str, SurfaceResampling | VolumeResampling],
        origin: Origin,
    ) -> int:
        """Leave out unusable voxels, write the tables, and give the folder its final name.

        Parameters
        ----------
        voxels : DataFrame
            One row per voxel with its properties other than its position (ncsnr, ROI labels).
        voxel_space : Geometry, optional
            Mask or vertices of these voxels, where they are known.
        resamplings : dict
            File name → resampling to another space.
        origin : Origin
            Origin of the data.

        Returns
        -------
        int
            Number of voxels left out because they were constant or not finite in a session.

        Raises
        ------
        InputError
            When no voxel is usable, or there is no training trial by which to standardise.
        """
        moments = self._load_moments()
        usable = self.usable()
        mean = np.stack([m["mean"] for m in moments.values()])
        sd = np.stack([m["sd"] for m in moments.values()])
        if self.standardize == "train":
            pooled = _pool([m for m in moments.values() if m["n_train"] > 0])
            # A voxel that is constant over the training trials cannot be standardised by them.
            usable &= np.isfinite(pooled[1]) & (pooled[1] > 0)
            mean, sd = (np.broadcast_to(x, mean.shape) for x in pooled)
        elif self.standardize == "none":
            mean, sd = np.zeros_like(mean), np.ones_like(sd)
        n_dropped = int((~usable).sum())
        with (self._work.partial / "standardization.npz").open("wb") as file:
            np.savez(
                file,
                sessions=np.array(list(self.rows)),
                mean=mean[:, usable].astype(np.float32),
                sd=sd[:, usable].astype(np.float32),
            )
        table = voxels
        if voxel_space is not None:
            table = pd.concat([voxel_space.table(), voxels], axis=1)
            voxel_space.keep(usable).save(self._work.partial)
        table[usable].to_csv(
            self._work.partial / "voxels.tsv", sep="\t", index=False, float_format="%.5g"
        )
        self.trials.to_csv(self._work.partial / "trials.tsv", sep="\t", index=False)
        for name, resampling in resamplings.items():
            resampling.keep(usable).save(self._work.partial / name)
        betas = self._finish_betas(usable, mean[0], sd[0])
        left_out = {s: int((~m["usable"]).sum()) for s, m in moments.items()}
        description = PreparedDescription(
            **msgspec.structs.asdict(origin),
            unit=STANDARDIZATIONS[self.standardize],
            standardization=self.standardize,
            betas_blake2b={s: self.done[s] for s in self.rows},
            voxels_left_out=n_dropped,
            voxels_left_out_by_session={s: n for s, n in left_out.items() if n},
            versions=versions(),
            generated_by=[{"Name": "synbrain", "Version": versions()["synbrain"]}],
            checksums={
                **checksums_of(self._work.partial, but=(DESCRIPTION,)),
                BETAS: file_checksum(betas),
            },
        )
        write_sealed(self._work.partial / DESCRIPTION, description)
        betas.replace(self._work.partial / BETAS)
        self._work.put_in_place()
        return n_dropped

    def _finish_betas(self, usable: np.ndarray, mean: np.ndarray, sd: np.ndarray) -> Path:
        """Return the file of the finished betas: written anew where voxels or scale change."""
        if usable.all() and self.standardize != "train":
            return self._betas
        n_trials, n_kept = len(self.trials), int(usable.sum())
        shift, scale = mean[usable].astype(np.float32), sd[usable].astype(np.float32)
        block = np.empty((1024, self.n_voxels), np.float32)
        with atomic(self._work.partial / BETAS) as path:
            offset = create_array(path, np.float32, (n_trials, n_kept))
            with self._betas.open("rb") as source, path.open("r+b") as target:
                source.seek(self._start)
                for start in range(0, n_trials, len(block)):
                    some = block[: n_trials - start]
                    source.readinto(some.data)
                    values = some[:, usable]
                    if self.standardize == "train":
                        values -= shift
                        values /= scale
                    write_at(target.fileno(), values, offset + start * 4 * n_kept)
        return self._work.partial / BETAS


def _moments(betas: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation over trials, float64 (n_voxels,) each, in bounded memory."""
    mean, sd = np.empty(betas.shape[1]), np.empty(betas.shape[1])
    for some in _columns(betas):
        mean[some] = betas[:, some].mean(0, dtype=np.float64)
        sd[some] = betas[:, some].std(0, dtype=np.float64)
        # Rounding may leave a constant voxel with a standard deviation above 0.
        sd[some][np.ptp(betas[:, some], axis=0) == 0] = 0
    return mean, sd


def _standardize(betas: np.ndarray, mean: np.ndarray, sd: np.ndarray) -> np.ndarray:
    """Return float32 z-scores, computed in float64; 0 where the standard deviation is 0."""
    out = np.zeros_like(betas)
    usable = np.isfinite(sd) & (sd > 0)
    for some in _columns(betas):
        z = (betas[:, some] - mean[some]) / np.where(usable[some], sd[some], 1)
        out[:, some] = np.where(usable[some], z, 0)
    return out


def _columns(betas: np.ndarray) -> Iterator[slice]:
    """Yield slices of voxels, each of a size that a float64 copy takes 8 MB."""
    step = max(1, (1 << 20) // len(betas))
    for start in range(0, betas.shape[1], step):
        yield slice(start, start + step)


def _pool(parts: list[dict[str, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and SD of the training trials of all sessions together (Chan et al. 1979)."""
    if not parts:
        raise InputError(
            "expected training trials for the mean and the standard deviation, found none: check "
            "the splits"
        )
    n = np.array([float(part["n_train"]) for part in parts])[:, None]
    means = np.stack([part["train_mean"] for part in parts])
    variances = np.stack([part["train_sd"] for part in parts]) ** 2
    with np.errstate(invalid="ignore", over="ignore"):  # unusable voxels are left out later
        mean = (n * means).sum(0) / n.sum()
        return mean, np.sqrt((n * (variances + (means - mean) ** 2)).sum(0) / n.sum())


def _check_trials(betas: np.ndarray, first: int, source: str) -> None:
    """Raise an `InputError` for trials without values, which would make all voxels unusable."""
    empty = np.flatnonzero(~np.isfinite(betas).any(1))
    if len(empty) and np.isfinite(betas).any():
        raise InputError(
            f"{source}: {len(empty)} trials have no finite value (first: trial {first + empty[0]}, "
            "counted from 0): leave those trials out of the table and of the responses"
        )


def _check_magnitudes(betas: np.ndarray, trials: np.ndarray, source: str, session: int) -> None:
    """Raise an `InputError` for a value that is `IMPOSSIBLE` beside the rest of its voxel.

    The typical distance from the median is first estimated from some trials, and computed for the
    voxels that may be at fault. It is the median of distances other than 0, because counts are
    0 in most trials. Voxels that are not finite are left out later, and not looked at.
    """
    some = betas[:: max(1, len(betas) // 64)]
    with np.errstate(all="ignore"):
        for span in _columns(betas):
            typical = np.median(np.abs(some[:, span] - np.median(some[:, span], axis=0)), axis=0)
            reach = np.ptp(betas[:, span], axis=0)
            suspects = np.flatnonzero(np.isfinite(reach) & (reach > IMPOSSIBLE / 4 * typical))
            values = betas[:, suspects + span.start].astype(np.float64)
            distance = np.abs(values - np.median(values, axis=0))
            least = np.where(distance > 0, distance, np.inf).min(0, initial=np.inf)
            for column in np.flatnonzero(distance.max(0, initial=0) > IMPOSSIBLE * least):
                far = distance[:, column]
                usual = np.median(far[far > 0])
                if far.max() <= IMPOSSIBLE * usual:
                    continue
                trial, voxel = far.argmax(), suspects[column] + span.start
                raise InputError(
                    f"{source}: the value {values[trial, column]:.3g} of trial {trials[trial]} and "
                    f"voxel {voxel} (counted from 0) in session {session} is impossible beside the "
                    f"other trials, which differ by {usual:.3g} from the voxel's median: set it to "
                    "NaN, so that the voxel is left out, or leave the trial out of the table and "
                    "of the responses"
                )
