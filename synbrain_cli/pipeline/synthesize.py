"""`synbrain synthesize`: images → single-trial responses on disk."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from itertools import chain
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd

from synbrain_cli.brain import Brain
from synbrain_cli.brain.drawing import Drawing
from synbrain_cli.brain.prediction import BATCH
from synbrain_cli.errors import InputError, SynbrainError
from synbrain_cli.features.images import ImageSet, passed_over
from synbrain_cli.io.arrays import map_array
from synbrain_cli.io.bids import bids_labels, derivative_description
from synbrain_cli.io.files import (
    create_array,
    holds_array,
    sha256,
    versions,
    write_at,
    write_json,
)
from synbrain_cli.io.records import read_sealed, write_record, write_sealed
from synbrain_cli.io.responses import (
    ResponseImage,
    ResponseProgress,
    ResponseSettings,
    ResponseSidecar,
)
from synbrain_cli.io.surface import write_gifti
from synbrain_cli.io.tables import read_table, row_in, whole_numbers
from synbrain_cli.io.volume import save_image
from synbrain_cli.io.voxel_space import Vertices, Volume
from synbrain_cli.io.workfolder import FolderKind, WorkFolder, work_folder
from synbrain_cli.io.workspace import Workspace
from synbrain_cli.labels import derived_name
from synbrain_cli.prefetch import prefetch
from synbrain_cli.progress import Progress
from synbrain_cli.run import RunContext

FOLDER = FolderKind("responses", "--output")
BATCHES_PER_ROUND = 2  # of images, in each process: what an interruption may cost
DEFAULT_SPACES = ("fsaverage5",)
MNI_NAME = "MNI152NLin6Asym"  # FSL's MNI152, as templates are named in BIDS
PROGRESS = "images_done"  # record in the work folder's recovery


@dataclass(frozen=True)
class Output:
    """Where responses are written.

    Attributes
    ----------
    folder : path, optional
        Default ``outputs/<model>_<folder of images>``.
    spaces : sequence of str, optional
        Spaces to which mean and standard deviation are resampled, beside the subject's own:
        fsaverage5, fsaverage6, fsaverage, fsnative (GIFTI), MNI (NIfTI). Default: fsaverage5 where
        the subject has transforms to it.
    overwrite : bool
        Replace a finished output of other settings.
    """

    folder: Path | None = None
    spaces: Sequence[str] | None = None
    overwrite: bool = False


@dataclass(frozen=True)
class SynthesizeResult:
    """What was written.

    Attributes
    ----------
    folder : Path
    draws : Path
        ``.npy``, float32 (n_images, n_draws, n_voxels).
    images : DataFrame
        ``images.tsv``: index, image, source, and, of a volume, nifti.
    """

    folder: Path
    draws: Path
    images: pd.DataFrame


def synthesize(
    workspace: Workspace,
    model: Path,
    images: Any,
    drawing: Drawing | None = None,
    output: Output | None = None,
    run: RunContext | None = None,
) -> SynthesizeResult:
    """Draw responses to images and write them as arrays, volumes and surfaces.

    Works image by image in constant memory, while threads prefetch images and write files. What is
    written does not depend on the number of processes (`Brain.draw`), which may also change when a
    stopped run continues.

    Parameters
    ----------
    workspace : Workspace
    model : path
        Bundle.
    images : path, or list of paths
        Folder of images, or image files.
    drawing : Drawing, optional
    output : Output, optional
    run : RunContext, optional
        Its device, processes and progress are used; the seed is that of the drawing.

    Raises
    ------
    MissingError, InputError
        No images, or an image that cannot be read; a damaged model; a space that the subject
        cannot be resampled to; draws that this model cannot make; an output of other settings.
    BusyError
        Another process is writing the output.
    """
    # Set up
    output, run = output or Output(), run or RunContext()
    pictures = ImageSet.of(images)
    if isinstance(images, (str, Path)) and Path(images).is_dir():
        _log_passed_over(Path(images), run.progress)
    brain = Brain(Path(model), run.device)
    drawing = brain.settle(drawing or Drawing())
    spaces = _choose_spaces(brain, output.spaces)
    settings = run.processes.on_main(lambda: _recorded(brain, drawing, pictures, spaces))
    folder = output.folder or workspace.output_of(brain.name, derived_name(_called(images)))
    writer = ResponseWriter(brain, pictures, settings)
    with work_folder(
        folder,
        FOLDER,
        msgspec.to_builtins(settings),
        overwrite=output.overwrite,
        processes=run.processes,
        progress=run.progress,
    ) as work:
        if work.is_finished:
            run.progress.info(f"{folder}: already there, made with the same settings")
            return writer.result(folder)

        # Compute the draws, and write those of each image as soon as they are there
        done = run.processes.on_main(lambda: writer.create(work))
        _draw(writer, drawing, done, work, run)

        # Write the records
        run.processes.on_main(lambda: _finish(writer, work))
    shape = writer.shape
    rows = "" if brain.config.averaged_over == 1 else f"; draws are {brain.config.rows}"
    run.progress.info(
        f"wrote {folder}: {shape[0]} images × {shape[1]} draws × {shape[2]:,} voxels{rows}"
    )
    return writer.result(folder)


def _log_passed_over(folder: Path, progress: Progress) -> None:
    left_out = passed_over(folder)
    if left_out:
        progress.info(left_out)


def _called(images: Any) -> str:
    """Name of a folder of images, or of one image file without its suffix."""
    if not isinstance(images, (str, Path)):
        return "images"
    path = Path(images).resolve()
    return path.name if path.is_dir() else path.stem


def _draw(
    writer: ResponseWriter,
    drawing: Drawing,
    done: dict[int, str],
    work: WorkFolder,
    run: RunContext,
) -> None:
    """Write the draws of all images that are not done; each process those of its batches."""
    brain, pictures, processes = writer.brain, writer.pictures, run.processes
    starts = range(0, len(pictures), BATCH)
    every = [range(i, min(i + BATCH, len(pictures))) for i in starts]
    batches = [batch for batch in every if not done.keys() >= set(batch)]
    rounds = list(processes.deal(batches, BATCHES_PER_ROUND))
    own = [row for _, part in rounds for batch in part for row in batch]
    n_done = len(pictures) - sum(map(len, batches))
    array = work.partial / writer.array
    offset = map_array(array).offset

    def write(drawn: tuple[int, np.ndarray]) -> str:
        row, draws = drawn
        writer.check(row, draws)
        write_at(file.fileno(), draws, offset + row * draws.nbytes)
        return _digest(draws, writer.write_maps(work.partial, row, draws))

    with (
        run.progress.bar("drawing", len(pictures), n_done) as bar,
        array.open("r+b") as file,
        closing(brain.stream(pictures, drawing, own)) as drawn,
        closing(prefetch(write, zip(own, drawn, strict=True), writer.map_bytes)) as written,
    ):
        for whole, part in rounds:
            mine = {}
            for row, digest in zip(chain.from_iterable(part), written, strict=False):
                mine[row] = digest
                bar.to(min(n_done + len(mine) * processes.size, len(pictures)))
            os.fsync(file.fileno())
            for found in processes.collect(mine):
                done.update(found)
            n_done += sum(map(len, whole))
            record = partial(write_sealed, work.recovery / f"{PROGRESS}.json")
            processes.on_main(partial(record, ResponseProgress(done)))


def _digest(draws: np.ndarray, maps: list[Path]) -> str:
    """Checksum of what was written for an image: its draws and its maps (BLAKE2b: fast)."""
    digest = hashlib.blake2b(np.ascontiguousarray(draws).data, digest_size=16)
    for path in sorted(maps):
        digest.update(path.name.encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _finish(writer: ResponseWriter, work: WorkFolder) -> None:
    writer.write_records(work.partial)
    work.put_in_place()


def _recorded(
    brain: Brain, drawing: Drawing, pictures: ImageSet, spaces: list[str]
) -> ResponseSettings:
    """Return what the responses depend on, for ``settings.json``."""
    return ResponseSettings(
        model=brain.name,
        model_folder=str(brain.folder.resolve()),
        model_fingerprint=brain.config.fingerprint,
        **asdict(drawing),
        spaces=spaces,
        images=[
            ResponseImage(name=name, source=str(Path(source).resolve()), sha256=sha256(source))
            for name, source in zip(pictures.names, pictures.sources, strict=True)
        ],
    )


def _choose_spaces(brain: Brain, asked: Sequence[str] | None) -> list[str]:
    """Return the spaces asked for, checked, or those of the default that can be reached.

    Raises
    ------
    InputError
        The subject has no transforms to a space.
    """
    reached = brain.voxel_space.other_spaces
    if asked is None:
        return [space for space in DEFAULT_SPACES if space in reached]
    for space in asked:
        if space not in reached:
            listed = ", ".join(reached) or "none: it was prepared without transforms"
            raise InputError(f"--space {space}: {brain.name} can be resampled to {listed}")
    return list(dict.fromkeys(asked))


@dataclass(frozen=True)
class ResponseWriter:
    """Writes the responses of one subject's model to a folder.

    Attributes
    ----------
    brain : Brain
    pictures : ImageSet
    settings : ResponseSettings
    """

    brain: Brain
    pictures: ImageSet
    settings: ResponseSettings

    @property
    def prefix(self) -> str:
        """BIDS entity of the subject."""
        return f"sub-{self.brain.subject}"

    @cached_property
    def stimuli(self) -> list[str]:
        """BIDS label of each image."""
        return bids_labels(self.pictures.names)

    @property
    def array(self) -> str:
        """Name of the array of draws."""
        return f"{self.prefix}_desc-draws_betas.npy"

    @property
    def shape(self) -> tuple[int, int, int]:
        """Images, draws, voxels."""
        return len(self.pictures), self.settings.n_draws, self.brain.n_voxels

    @property
    def map_bytes(self) -> int:
        """Memory that the draws of one image take while they are written: twice on their grid."""
        geometry = self.brain.voxel_space.geometry
        n_points = geometry.inside.size if isinstance(geometry, Volume) else self.brain.n_voxels
        return 2 * 4 * self.settings.n_draws * n_points

    def create(self, work: WorkFolder) -> dict[int, str]:
        """Create the array, or find it.

        Returns
        -------
        dict
            Number of each image that an interrupted run finished → checksum of what it wrote.
            Images of which something was damaged since are left out.
        """
        array, record = work.partial / self.array, work.recovery / f"{PROGRESS}.json"
        done: dict[int, str] = {}
        if array.exists() and record.exists():
            try:
                done = read_sealed(record, ResponseProgress, "all images are drawn again").done
            except SynbrainError as error:
                work.say(str(error))
        kept = self._kept(done, work.partial) if done else {}
        if lost := len(done) - len(kept):
            images = f"{lost} image{'s' if lost > 1 else ''}"
            work.say(
                f"{work.partial}: damaged since the run was interrupted: the responses to {images} "
                "are drawn again"
            )
        if not kept:
            create_array(array, np.float32, self.shape)
        return kept

    def _kept(self, done: dict[int, str], folder: Path) -> dict[int, str]:
        """Those images whose draws and maps are as they were written."""
        array = folder / self.array
        if not holds_array(array, np.float32, self.shape):
            return {}
        draws, maps = map_array(array), self._find_maps(folder)
        return {
            row: known
            for row, known in done.items()
            if 0 <= row < len(draws) and _digest(draws[row], maps[self.stimuli[row]]) == known
        }

    def _find_maps(self, folder: Path) -> dict[str, list[Path]]:
        """BIDS label of each image → the files of its maps."""
        found: dict[str, list[Path]] = {label: [] for label in self.stimuli}
        begin = f"{self.prefix}_stim-"
        for path in folder.iterdir():
            label = path.name.removeprefix(begin).partition("_")[0]
            if path.name.startswith(begin) and label in found and path.is_file():
                found[label].append(path)
        return found

    def check(self, row: int, draws: np.ndarray) -> None:
        """Refuse draws that are not finite.

        Raises
        ------
        InputError
        """
        if not np.isfinite(draws).all():
            raise InputError(
                f"{self.brain.folder}: its responses to {self.pictures.names[row]} are not finite: "
                "the weights are damaged, or the noise factor is too large"
            )

    def write_maps(self, folder: Path, row: int, draws: np.ndarray) -> list[Path]:
        """Write draws, mean and SD in the subject's own space, and the latter two in others.

        Parameters
        ----------
        folder : path
        row : int
            Of the image.
        draws : float32 array of shape (n_draws, n_voxels)

        Returns
        -------
        list of Path
            The files.
        """
        brain, geometry = self.brain, self.brain.voxel_space.geometry
        written: list[Path] = []
        base = folder / f"{self.prefix}_stim-{self.stimuli[row]}"
        if isinstance(geometry, Volume):
            written.append(Path(f"{base}_desc-draws_betas.nii.gz"))
            save_image(brain.to_nifti(draws), written[-1])
        elif isinstance(geometry, Vertices):
            whole = geometry.to_full(draws)
            written += self._write_surfaces(base, geometry.space, "desc-draws_betas", whole)
        maps = {"mean": draws.mean(0)}
        if len(draws) > 1:
            maps["std"] = draws.std(0, ddof=1)
        for stat, values in maps.items():
            name = f"stat-{stat}_statmap"
            if isinstance(geometry, Volume):
                written.append(Path(f"{base}_{name}.nii.gz"))
                save_image(brain.to_nifti(values), written[-1])
            for space in self.settings.spaces:
                if space == "MNI":
                    written.append(Path(f"{base}_space-{MNI_NAME}_{name}.nii.gz"))
                    save_image(brain.to_mni(values), written[-1])
                else:
                    there = brain.to_surface(values, space)
                    written += self._write_surfaces(base, space, name, there)
        return written

    def _write_surfaces(
        self, base: Path, space: str, name: str, values: dict[str, np.ndarray]
    ) -> Iterator[Path]:
        meta = {
            "Unit": self.brain.unit_name(self.settings.unit),
            "Simulated": str(self.brain.simulated),
        }
        if self.brain.config.averaged_over > 1:
            meta["AveragedOver"] = str(self.brain.config.averaged_over)
        for hemisphere, data in values.items():
            file = f"{base}_hemi-{hemisphere[0].upper()}_space-{space}_{name}.func.gii"
            write_gifti(Path(file), data, hemisphere, meta)
            yield Path(file)

    def write_records(self, folder: Path) -> None:
        """Write ``images.tsv``, the sidecar and ``dataset_description.json``."""
        names = self.pictures.names
        table = pd.DataFrame(
            {
                "index": range(len(names)),
                "image": names,
                "source": [image.source for image in self.settings.images],
            }
        )
        if self.brain.voxel_space.is_volume:
            table["nifti"] = [
                f"{self.prefix}_stim-{label}_desc-draws_betas.nii.gz" for label in self.stimuli
            ]
        table.to_csv(folder / "images.tsv", sep="\t", index=False)
        write_record(folder / f"{self.prefix}_desc-draws_betas.json", self._sidecar())
        write_json(
            folder / "dataset_description.json",
            derivative_description(
                f"Responses synthesized by {self.brain.name}", self.brain.simulated
            ),
        )

    def _sidecar(self) -> ResponseSidecar:
        settings, config = self.settings, self.brain.config
        encoder = msgspec.structs.replace(config.encoder, identity=self.brain.encoder.identity)
        noise_factor: float | str | None = None
        if settings.sampling == "latent":
            noise_factor = settings.noise_factor
            if noise_factor is None:
                noise_factor = "posterior SD, per latent dimension"
        return ResponseSidecar(
            description="Synthesized single-trial responses"
            if config.averaged_over == 1
            else f"Synthesized responses, {config.rows}",
            averaged_over=config.averaged_over,
            unit=self.brain.unit_name(settings.unit),
            simulated=config.simulated,
            subject=config.subject,
            dataset=config.dataset,
            space=config.space,
            encoder=encoder,
            model=settings.model,
            model_fingerprint=settings.model_fingerprint,
            sampling=settings.sampling,
            signal=settings.signal if settings.sampling == "calibrated" else None,
            noise_factor=noise_factor,
            number_of_draws=settings.n_draws,
            seed=settings.seed,
            versions=versions(),
        )

    def result(self, folder: Path) -> SynthesizeResult:
        """Return what a finished folder holds."""
        path = folder / "images.tsv"
        table = read_table(
            path, ("index", "image", "source"), again="synthesize again with --overwrite"
        )
        table["index"] = whole_numbers(table["index"], row_in(path), lowest=0)
        return SynthesizeResult(folder, folder / self.array, table)
