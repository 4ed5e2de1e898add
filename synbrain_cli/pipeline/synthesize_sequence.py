"""`synbrain synthesize --sequence`: a table of trials → whole sessions on disk, trial by trial."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from synbrain_cli.bands import is_own
from synbrain_cli.brain import Brain
from synbrain_cli.brain.drawing import Drawing
from synbrain_cli.brain.sequence import (
    SequenceDrawer,
    ShownImages,
    predict_images,
    require_sequence,
    session_labels,
    settle_sequence,
    shown_images,
)
from synbrain_cli.errors import InputError
from synbrain_cli.features.images import ImageSet
from synbrain_cli.io.arrays import map_array
from synbrain_cli.io.bids import func_file, func_folder
from synbrain_cli.io.events import ADDED, Events
from synbrain_cli.io.files import array_header, create_array, holds_array, sha256, write_at
from synbrain_cli.io.records import write_record
from synbrain_cli.io.responses import ResponseImage, SequenceSettings, SequenceSidecar
from synbrain_cli.io.surface import space_entity, write_hemispheres
from synbrain_cli.io.volume import save_volumes
from synbrain_cli.io.voxel_space import Vertices, Volume
from synbrain_cli.io.workfolder import FolderKind, WorkFolder, work_folder
from synbrain_cli.io.workspace import Workspace
from synbrain_cli.labels import derived_name
from synbrain_cli.memory import require_disk
from synbrain_cli.model.error_fields import N_FREQUENCIES
from synbrain_cli.model.uncertainty import Doubt
from synbrain_cli.pipeline.images_done import SIZE, ImagesDone
from synbrain_cli.pipeline.map_writer import MapWriter, sidecar_of
from synbrain_cli.pipeline.synthesize import Output
from synbrain_cli.run import RunContext

FOLDER = FolderKind("sessions", "--output")
MOST_VOLUMES = 32_767  # of a NIfTI file (its header counts in 16 bits)
NOTED = 64  # rows between two notes of what is done: what an interruption may cost


@dataclass(frozen=True)
class SequenceResult:
    """What was written.

    Attributes
    ----------
    folder : Path
    draws : Path
        ``.npy``, float32 (n_trials, n_draws, n_voxels).
    events : Path
        ``events.tsv``: a row per trial.
    files : list of Path
        Maps of each session and sequence.
    """

    folder: Path
    draws: Path
    events: Path
    files: list[Path]


@dataclass(frozen=True, eq=False)
class _Task:
    """What is drawn, and where it is written.

    Attributes
    ----------
    brain : Brain
    events : Events
    images : ImageSet
        Of all images, in any order.
    used : list of int
        Those that are shown.
    image : int array of shape (n_trials,)
        Place in ``used`` of each trial's image.
    drawing : Drawing
    maps : bool
        Whether sessions have files of their own beside the array.
    """

    brain: Brain
    events: Events
    images: ImageSet
    used: list[int]
    image: np.ndarray
    drawing: Drawing
    maps: bool

    def name(self, what: str) -> str:
        """Path in the folder of a file, by the end of its name."""
        return func_file(self.brain.subject, what)

    @property
    def array(self) -> str:
        """Path of the array of draws in the folder."""
        return self.name("desc-draws_betas.npy")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Trials, sequences, voxels."""
        return len(self.image), self.drawing.n_draws, self.brain.n_voxels

    def files(self) -> Iterator[tuple[str, slice, int]]:
        """Path up to the session, trials and sequence of each file of maps."""
        first = 0
        lengths = np.bincount(self.events.session)
        for label, length in zip(session_labels(self.events), lengths, strict=True):
            trials = slice(first, first + int(length))
            first += int(length)
            for k in range(self.drawing.n_draws):
                yield self.name(f"ses-{label}"), trials, k


def synthesize_sequence(
    workspace: Workspace,
    model: Path,
    events: Path,
    images: Any = None,
    drawing: Drawing | None = None,
    output: Output | None = None,
    run: RunContext | None = None,
) -> SequenceResult:
    """Draw the trials of a table in order, and write them as an array and as volumes by session.

    Memory does not grow with the number of trials. A stopped run goes on where it stopped.

    Parameters
    ----------
    workspace : Workspace
    model : path
        Bundle.
    events : path
        Table of trials (`synbrain_cli.io.events.Events.read`).
    images : path, or list of paths, optional
        Folder of images, or image files; by default the table has paths, relative to its folder.
    drawing : Drawing, optional
        ``n_draws`` are whole sequences.
    output : Output, optional
    run : RunContext, optional

    Raises
    ------
    MissingError, InputError
        The model does not know what order does; the table is no table of trials, or names an image
        that is not there; draws that are not calibrated; maps of statistics are asked for; an
        output of other settings.
    BusyError
        Another process is writing the output.
    """
    # Set up
    output, run = output or Output(), run or RunContext()
    drawing = settle_sequence(drawing or Drawing())
    if run.processes.size > 1:
        raise InputError(f"--sequence: expected one process, found {run.processes.size}")
    if output.spaces:
        raise InputError("--space and --sequence: maps of sequences are in the subject's own space")
    table = Events.read(events)
    pictures, place = shown_images(table, images)
    brain = Brain(Path(model), run.device)
    _require_pictures(brain)
    require_sequence(brain)
    used, image = np.unique(place, return_inverse=True)
    task = _Task(brain, table, pictures, used.tolist(), image, drawing, output.maps)
    _require_names_and_lengths(task)
    settings = _recorded(task, Path(events), run)
    folder = output.folder or workspace.output_of(brain.name, derived_name(Path(events).stem))
    with work_folder(
        folder,
        FOLDER,
        msgspec.to_builtins(settings),
        overwrite=output.overwrite,
        progress=run.progress,
    ) as work:
        if work.is_finished:
            run.progress.info(f"{folder}: already there, made with the same settings")
            return _result(task, folder)
        func_folder(work.partial, brain.subject).mkdir(parents=True, exist_ok=True)
        _require_disk(task, work)

        # Predict the mean response to every image
        shown = _predict(task, work, run)

        # Draw the trials in order
        drawer = SequenceDrawer(brain, table, image, shown, drawing)
        if drawer.beyond:
            run.progress.info(
                f"{drawer.beyond:,} trials show an image more often than in training: what the "
                f"{len(drawer.sequence.offset)}. presentation does is taken for them"
            )
        _draw(task, drawer, work, run)

        # Write maps and records
        if task.maps:
            with run.progress.bar("maps", len(list(task.files()))) as bar:
                for base, trials, k in task.files():
                    _write_maps(task, work.partial, base, (trials, k))
                    bar()
        _write_records(task, drawer, work.partial, run.command)
        work.put_in_place()
    n_trials, n_draws, n_voxels = task.shape
    run.progress.info(
        f"wrote {folder}: {n_trials:,} trials in {len(table.sessions)} sessions × {n_draws} "
        f"sequences × {n_voxels:,} voxels"
    )
    return _result(task, folder)


def _require_pictures(brain: Brain) -> None:
    """Refuse models that need tokens of the user's own.

    Raises
    ------
    InputError
    """
    own = [band.spec for band in brain.config.bands if is_own(band.spec)]
    if own:
        raise InputError(
            f"{brain.name} predicts from {', '.join(own)}, tokens of your own, which --sequence "
            "does not take: draw in Python, load_model(…, tokens={…}).draw_sequence(…)"
        )


def _require_names_and_lengths(task: _Task) -> None:
    """Refuse sessions that cannot have files of their own.

    Raises
    ------
    InputError
    """
    labels, lengths = session_labels(task.events), np.bincount(task.events.session)
    is_long = task.maps and task.brain.voxel_space.is_volume and lengths.max() > MOST_VOLUMES
    if is_long:
        raise InputError(
            f"{task.events.name}: expected at most {MOST_VOLUMES:,} trials in a session, which is "
            f"one NIfTI file, found {lengths.max():,} in {labels[int(lengths.argmax())]}: name "
            "sessions in a column session, or pass --no-maps"
        )


def _recorded(task: _Task, events: Path, run: RunContext) -> SequenceSettings:
    """Return what the sessions depend on, for ``settings.json``."""
    images = []
    with run.progress.bar("checksums of the images", len(task.used)) as bar:
        for row in task.used:
            source = task.images.sources[row]
            path = str(Path(source).resolve())
            images.append(
                ResponseImage(name=task.images.names[row], source=path, sha256=sha256(source))
            )
            bar()
    return SequenceSettings(
        model=task.brain.name,
        model_folder=str(task.brain.folder.resolve()),
        model_fingerprint=task.brain.config.fingerprint,
        sequence_sha256=task.brain.config.checksums["sequence.safetensors"],
        events=str(events.resolve()),
        events_sha256=sha256(events),
        images=images,
        maps=task.maps,
        **{k: v for k, v in asdict(task.drawing).items() if k != "noise_factor"},
    )


def _require_disk(task: _Task, work: WorkFolder) -> None:
    n_trials, n_draws, n_voxels = task.shape
    needed = 0.0 if (work.partial / task.array).exists() else 4.0 * np.prod(task.shape)
    needed += 8.0 * len(task.used) * n_voxels
    if task.maps:
        needed += 4.0 * np.prod(task.shape)  # compressed; what is outside the mask is next to none
    require_disk(
        needed,
        work.partial,
        f"drawing {n_trials:,} trials × {n_draws} sequences × {n_voxels:,} voxels",
        "fewer --samples or trials, --no-maps, or an --output on another disk",
    )


class _Rows:
    """Rows of arrays that are written one by one, and noted once they are on the disk.

    Those of an interrupted run are ``known``, bool (n_rows,), but for damaged ones, of which
    ``log`` is told.
    """

    def __init__(
        self,
        done: ImagesDone,
        arrays: dict[Path, tuple[int, ...]],
        log: Callable[[str], None],
    ) -> None:
        self._done, self._arrays = done, arrays
        noted = done.read()
        whole = all(holds_array(path, np.float32, shape) for path, shape in arrays.items())
        if noted is None or not whole:
            damaged = done.path.exists()
            done.create()
            for path, shape in arrays.items():
                create_array(path, np.float32, shape)
            noted = np.zeros((done.n_images, SIZE), np.uint8)
        else:
            damaged = False
        self.known = self._intact(noted)
        if damaged or (noted.any(1) & ~self.known).any():
            log(
                f"{min(arrays).parent}: damaged since the run was interrupted: what was is made "
                "again"
            )
        self._files = [path.open("r+b") for path in arrays]
        self._noted: dict[int, bytes] = {}

    def _intact(self, noted: np.ndarray) -> np.ndarray:
        """Rows that are as they were noted: bool (n_rows,)."""
        mapped = [map_array(path) for path in self._arrays]
        return np.array(
            [
                note.any() and self._digest([one[row] for one in mapped]) == note.tobytes()
                for row, note in enumerate(noted)
            ],
            bool,
        )

    @staticmethod
    def _digest(values: list[np.ndarray]) -> bytes:
        digest = hashlib.blake2b(digest_size=SIZE)
        for one in values:
            digest.update(np.ascontiguousarray(one).data)
        return digest.digest()

    def write(self, row: int, *values: np.ndarray) -> None:
        """Write a row of every array."""
        for file, own, shape in zip(self._files, values, self._arrays.values(), strict=True):
            write_at(file.fileno(), own, len(array_header(np.float32, shape)) + row * own.nbytes)
        self._noted[row] = self._digest(list(values))
        if len(self._noted) >= NOTED:
            self.note()

    def note(self) -> None:
        """Note the rows that were written."""
        for file in self._files:
            os.fsync(file.fileno())
        self._done.note(self._noted)
        self._noted = {}

    def close(self) -> None:
        """Note what is left, and close the files."""
        self.note()
        for file in self._files:
            file.close()


def _predict(task: _Task, work: WorkFolder, run: RunContext) -> ShownImages:
    """Predict what is expected of every image, on disk."""
    n_images = len(task.used)
    shapes: dict[str, tuple[int, ...]] = {"mean": (n_images, task.brain.n_voxels)}
    uncertainty = task.brain.distribution.uncertainty
    if uncertainty is not None:
        shapes |= {"relative": shapes["mean"], "distance": (n_images, 1)}
        if uncertainty.is_shared:
            shapes["features"] = (n_images, N_FREQUENCIES, 2)
    paths = {work.recovery / f"{name}.npy": shape for name, shape in shapes.items()}
    done = ImagesDone(work.recovery / "images_done.npy", len(task.used))
    digests = [task.images.digest(row) for row in task.used]
    with closing(_Rows(done, paths, run.progress.info)) as rows:
        left = np.flatnonzero(~rows.known)
        found = predict_images(task.brain, task.images, [task.used[k] for k in left])
        with run.progress.bar("predicting images", len(task.used), len(task.used) - len(left)) as b:
            for k, (mean, doubt, _) in zip(left, found, strict=True):
                known = {"mean": mean} | ({} if doubt is None else vars(doubt))
                rows.write(int(k), *(np.asarray(known[name], np.float32) for name in shapes))
                b()
    found_in = {path.stem: map_array(path) for path in paths}
    doubt = None
    if "relative" in found_in:
        distance = found_in["distance"][:, 0]
        doubt = Doubt(found_in["relative"], distance, found_in.get("features"))
    return ShownImages(found_in["mean"], doubt, digests)


def _draw(task: _Task, drawer: SequenceDrawer, work: WorkFolder, run: RunContext) -> None:
    """Draw every trial that is not there yet."""
    n_trials = task.shape[0]
    done = ImagesDone(work.recovery / "trials_done.npy", n_trials)
    arrays = {work.partial / task.array: task.shape}
    with closing(_Rows(done, arrays, run.progress.info)) as rows:
        title = "drawing trials"
        with run.progress.bar(title, n_trials, int(rows.known.sum())) as bar:
            for row, values in drawer(rows.known):
                if not np.isfinite(values).all():
                    raise InputError(
                        f"{task.brain.folder}: its responses to {task.events.images[row]} are not "
                        "finite: the weights are damaged"
                    )
                rows.write(row, values)
                bar()


def _write_maps(task: _Task, folder: Path, base: str, which: tuple[slice, int]) -> None:
    """Write one session of one sequence in the subject's own space."""
    trials, k = which
    draws, brain = map_array(folder / task.array), task.brain
    geometry, what = brain.voxel_space.geometry, f"desc-draw{k + 1}_betas"
    if isinstance(geometry, Volume):
        each = (brain.to_nifti(draws[row, k]) for row in range(trials.start, trials.stop))
        save_volumes(each, trials.stop - trials.start, folder / f"{base}_{what}.nii.gz")
    elif isinstance(geometry, Vertices):
        meta = {"Unit": brain.unit_name(task.drawing.unit), "Simulated": str(brain.simulated)}
        whole = geometry.to_full(np.array(draws[trials, k]))
        write_hemispheres(folder / base, f"{space_entity(geometry.space)}_{what}", whole, meta)


def _write_records(task: _Task, drawer: SequenceDrawer, folder: Path, command: str | None) -> None:
    """Write ``events.tsv``, the sidecar and ``dataset_description.json``."""
    table = task.events.table.copy()
    if "session" not in table:
        table.insert(0, "session", "1")
    for column, values in zip(
        ADDED, (drawer.order.presentation, drawer.order.presentation_in_session), strict=True
    ):
        table[column] = values
    table.to_csv(folder / "events.tsv", sep="\t", index=False)
    config, drawing = task.brain.config, task.drawing
    summary = config.training.sequence
    assert summary is not None
    sidecar = SequenceSidecar(
        description="Synthesized responses, single trials of whole sessions in order",
        unit=task.brain.unit_name(drawing.unit),
        bands=config.bands,
        sampling=drawing.sampling,
        signal=drawing.signal,
        number_of_draws=drawing.n_draws,
        seed=drawing.seed,
        modelled=list(summary.kept),
        order=summary.describe(),
        drift_time_constant=summary.time_constant if "drift" in summary.kept else None,
        presentations_counted=summary.count if "repetition" in summary.kept else None,
        command=command,
        **sidecar_of(task.brain),
    )
    # Those of maps hold for every session, by BIDS's inheritance principle
    maps = [f"draw{k + 1}" for k in range(drawing.n_draws)] if task.maps else []
    for name in ("draws", *maps):
        write_record(folder / task.name(f"desc-{name}_betas.json"), sidecar)
    MapWriter(folder, task.brain).describe(
        f"Sessions synthesized by {task.brain.name}",
        f"Single trials of {config.label} of {config.dataset}, whole sessions in order, as the "
        f"model {task.brain.name} draws them. A row of `events.tsv` is a trial, a draw is a "
        "sequence of all sessions.",
    )


def _result(task: _Task, folder: Path) -> SequenceResult:
    files = sorted(folder.glob(task.name("ses-*_betas.*")))
    return SequenceResult(folder, folder / task.array, folder / "events.tsv", files)
