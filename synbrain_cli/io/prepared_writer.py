"""Writing a prepared subject session by session, with standardisation in bounded memory."""

from __future__ import annotations

import hashlib
import io
import os
import threading
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import msgspec
import numpy as np
import pandas as pd

from synbrain_cli.errors import InputError, SynbrainError
from synbrain_cli.io.arrays import map_array
from synbrain_cli.io.files import (
    array_header,
    atomic,
    create_array,
    holds_array,
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
from synbrain_cli.io.records import read_sealed, write_sealed
from synbrain_cli.io.seal import checksums_of, file_checksum
from synbrain_cli.io.standardization import (
    RunningMoments,
    check_magnitudes,
    check_trials,
    pool,
    z_score,
)
from synbrain_cli.io.surface_resampling import SurfaceResampling
from synbrain_cli.io.volume_resampling import VolumeResampling
from synbrain_cli.io.voxel_space import Geometry
from synbrain_cli.io.workfolder import FolderKind, work_folder
from synbrain_cli.progress import Progress

# `synbrain prepare` decides whether a finished subject is kept before its files are read.
PREPARED = FolderKind("a prepared subject", "--dataset", remakes=True)
STARTED = "betas.json"  # record in the work folder's recovery


class SessionDone(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Checksums of a session that was written.

    Attributes
    ----------
    recorded : str
        Of its recorded betas.
    written : str
        Of what an interrupted run takes up again: its standardised betas, and its moments.
    """

    recorded: str
    written: str


class SessionsDone(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Sessions that an interrupted run has written, by number."""

    done: dict[int, SessionDone]


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
        Session → its checksums, for the sessions written so far.

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
        self.done: dict[int, SessionDone] = {}
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
        shape = (len(self.trials), self.n_voxels)
        self._start = len(array_header(np.float32, shape))
        self.done = self._sessions_kept(shape)
        if not self.done:
            create_array(self._betas, np.float32, shape)
        self._note_sessions()
        return self

    def __exit__(self, *exception: object) -> None:
        self._context.close()

    def _note_sessions(self) -> None:
        write_sealed(self._work.recovery / STARTED, SessionsDone(self.done))

    def _sessions_kept(self, shape: tuple[int, int]) -> dict[int, SessionDone]:
        """Sessions of an interrupted run that are as it wrote them; the others are read again."""
        started = self._work.recovery / STARTED
        if not (started.exists() and self._betas.exists()):
            return {}
        try:
            done = read_sealed(started, SessionsDone, "its sessions are read again").done
        except SynbrainError as error:
            self._work.say(str(error))
            return {}
        is_whole = holds_array(self._betas, np.float32, shape)
        kept = {s: known for s, known in done.items() if is_whole and self._is_kept(s, known)}
        if lost := sorted(done.keys() - kept.keys()):
            sessions = f"session{'s' if len(lost) > 1 else ''} {', '.join(map(str, lost))}"
            self._work.say(
                f"{self._betas}: damaged since the run was interrupted: {sessions} of "
                f"{self.folder.name} read again"
            )
        return kept

    def _is_kept(self, session: int, known: SessionDone) -> bool:
        moments = self._moments_file(session)
        if session not in self.rows or not moments.is_file():
            return False
        values = map_array(self._betas)[self.rows[session]]
        return _digest(values, moments.read_bytes()) == known.written

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
        self.write_blocks(session, [betas], source)

    def write_blocks(self, session: int, blocks: Iterable[np.ndarray], source: str = "") -> None:
        """Write the betas of one session that come in blocks: memory holds one block.

        Parameters
        ----------
        session : int
        blocks : iterable of arrays of shape (n_trials, n_voxels)
            Betas in the recorded unit, in the order of the session's trials. A session that is
            standardised by all of its trials must come as one block.
        source : str
            As in `write_session`.

        Raises
        ------
        InputError, SynbrainError
            As `write_session`.
        """
        rows, where = self.rows[session], source or f"session {session}"
        recorded, kept = _hash(), _hash()
        moments, train, n = RunningMoments(), RunningMoments(), 0
        trials = self.trials["trial"].to_numpy()[rows]
        for block in blocks:
            recorded.update(np.ascontiguousarray(block).data)
            span = slice(n, n + len(block))
            n += len(block)
            betas = np.asarray(block, np.float32)
            if n > len(trials) or (self.standardize == "session" and len(betas) < len(trials)):
                raise InputError(
                    f"{where}: expected {len(trials)} trials"
                    + (" in one block" if self.standardize == "session" else "")
                    + f", found {n} or more"
                )
            check_magnitudes(betas, trials[span], where, session)
            with np.errstate(invalid="ignore", over="ignore"):
                moments.add(betas)
                if not (np.isfinite(moments.sd) & (moments.sd > 0)).all():
                    check_trials(betas, rows.start + span.start, where)
                chosen = self._train[rows][span]
                if self.standardize == "train" and chosen.any():
                    train.add(betas[chosen])
                elif self.standardize == "session":
                    betas = z_score(betas, moments.mean, moments.sd)
            self._write_rows(rows.start + span.start, betas)
            kept.update(np.ascontiguousarray(betas).data)
        if n != len(trials):
            raise InputError(f"{where}: expected {len(trials)} trials, found {n}")
        usable = np.isfinite(moments.sd) & (moments.sd > 0)
        arrays: dict[str, Any] = {"mean": moments.mean, "sd": moments.sd, "usable": usable}
        if self.standardize == "train":
            arrays["n_train"] = np.array(train.n)
            if train.n:
                arrays |= {"train_mean": train.mean, "train_sd": train.sd}
        self._note_session(session, arrays, recorded.hexdigest(), kept, where)

    def _write_rows(self, first: int, betas: np.ndarray) -> None:
        """Write trials from a row of the table on."""
        try:
            with self._betas.open("r+b") as file:
                write_at(file.fileno(), betas, self._start + first * 4 * self.n_voxels)
        except OSError as error:
            raise SynbrainError(
                f"cannot write {self._betas}: {error.strerror or error}: free some space and run "
                "the same command again; finished sessions are kept"
            ) from error

    def _note_session(
        self,
        session: int,
        arrays: dict[str, Any],
        digest: str,
        kept: hashlib.blake2b,
        source: str,
    ) -> None:
        """Write the moments of a session, and note that it is done."""
        moments = io.BytesIO()
        np.savez(moments, **arrays)
        with atomic(self._moments_file(session)) as path:
            path.write_bytes(moments.getvalue())
        kept.update(moments.getvalue())
        with self._lock:
            for other, known in self.done.items():
                if known.recorded == digest and other != session:
                    # Either of the two may be the copy, so both are read again.
                    del self.done[other]
                    self._note_sessions()
                    raise InputError(
                        f"{source}: the same betas as session {other}: "
                        "one of the two files is a copy of the other; copy or download it again"
                    )
            self.done[session] = SessionDone(digest, kept.hexdigest())
            self._note_sessions()

    def _moments_file(self, session: int) -> Path:
        return self._work.recovery / f"session{session:02d}.npz"

    def _load_moments(self) -> dict[int, dict[str, np.ndarray]]:
        return {session: self._read_moments(session) for session in self.rows}

    def _read_moments(self, session: int) -> dict[str, np.ndarray]:
        with np.load(self._moments_file(session), allow_pickle=False) as file:
            return dict(file)

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
            pooled = pool([m for m in moments.values() if m["n_train"] > 0])
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
            betas_blake2b={s: self.done[s].recorded for s in self.rows},
            voxels_left_out=n_dropped,
            voxels_left_out_by_session={s: n for s, n in left_out.items() if n},
            versions=versions(),
            generated_by=[{"Name": "synbrain", "Version": versions()["synbrain"]}],
            checksums={
                # An interrupted run may have left its betas.
                **checksums_of(self._work.partial, but=(DESCRIPTION, BETAS)),
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


def _digest(values: np.ndarray, *more: bytes) -> str:
    """Checksum of an array's values, and of what belongs to them (BLAKE2b: fast)."""
    digest = _hash()
    digest.update(np.ascontiguousarray(values).data)
    for content in more:
        digest.update(content)
    return digest.hexdigest()


def _hash() -> hashlib.blake2b:
    return hashlib.blake2b(digest_size=16)
