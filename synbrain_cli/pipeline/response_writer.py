"""Responses on disk while they are written: arrays, maps and sidecars."""

from __future__ import annotations

import hashlib
import math
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import msgspec
import numpy as np
import pandas as pd

from synbrain_cli.brain import Brain
from synbrain_cli.brain.drawing import ImageResponse
from synbrain_cli.config import a_trial
from synbrain_cli.errors import InputError
from synbrain_cli.features.images import ImageSet
from synbrain_cli.io.arrays import map_array
from synbrain_cli.io.bids import bids_labels, func_file, func_folder
from synbrain_cli.io.files import array_header, create_array, holds_array, write_at
from synbrain_cli.io.records import write_record
from synbrain_cli.io.responses import MAP_AXES, ResponseSettings, ResponseSidecar
from synbrain_cli.io.surface import space_entity, write_hemispheres
from synbrain_cli.io.volume import save_image
from synbrain_cli.io.voxel_space import Vertices, Volume
from synbrain_cli.io.workfolder import WorkFolder
from synbrain_cli.memory import release
from synbrain_cli.pipeline.images_done import SIZE, ImagesDone
from synbrain_cli.pipeline.map_writer import MapWriter, map_sidecar, sidecar_of
from synbrain_cli.progress import Progress

MNI_NAME = "MNI152NLin6Asym"  # FSL's MNI152, as templates are named in BIDS
DONE = "images_done.npy"  # in the work folder's recovery
BLOCK = 4096  # bytes that files take a multiple of, on most disks
CHECKED = 64  # images between two returns of the memory of arrays that are read back


def _digest(values: Iterable[np.ndarray], folder: Path, maps: Iterable[str]) -> bytes:
    """Checksum of what was written for an image: its arrays and its maps (BLAKE2b: fast)."""
    digest = hashlib.blake2b(digest_size=SIZE)
    for array in values:
        digest.update(np.ascontiguousarray(array).data)
    for name in sorted(maps):
        digest.update(name.encode())
        digest.update((folder / name).read_bytes())
    return digest.digest()


@dataclass(frozen=True)
class ResponseWriter:
    """Writes the responses of one subject's model to a folder.

    Attributes
    ----------
    brain : Brain
    pictures : ImageSet
    settings : ResponseSettings
    command : str, optional
        That was typed.
    """

    brain: Brain
    pictures: ImageSet
    settings: ResponseSettings
    command: str | None = None

    @property
    def prefix(self) -> str:
        """BIDS entity of the subject."""
        return f"sub-{self.brain.subject}"

    @cached_property
    def stimuli(self) -> list[str]:
        """BIDS label of each image."""
        return bids_labels(self.pictures.names)

    def name(self, what: str) -> str:
        """Path in the folder of a file of all images, or of one by its ``stim-``."""
        return func_file(self.brain.subject, what)

    @property
    def array(self) -> str:
        """Path of the array of draws in the folder."""
        return self.name("desc-draws_betas.npy")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Images, draws, voxels."""
        return len(self.pictures), self.settings.n_draws, self.brain.n_voxels

    @cached_property
    def arrays(self) -> dict[str, tuple[int, ...]]:
        """Path and shape of each array: draws, means and, where they are known, SDs."""
        n_images, _, n_voxels = self.shape
        stats = [self.name(f"stat-{stat}_statmap.npy") for stat in self.maps]
        arrays = {self.array: self.shape, **dict.fromkeys(stats, (n_images, n_voxels))}
        if "distance" in self.settings.statistics:
            arrays[self.name("distance.npy")] = (n_images, 1)
        return arrays

    @property
    def maps(self) -> list[str]:
        """Statistics of every voxel."""
        return [stat for stat in self.settings.statistics if stat != "distance"]

    @property
    def map_bytes(self) -> int:
        """Memory that the draws of one image take while they are written: twice on their grid."""
        geometry = self.brain.voxel_space.geometry
        n_points = geometry.inside.size if isinstance(geometry, Volume) else self.brain.n_voxels
        return 2 * 4 * self.settings.n_draws * n_points

    def done(self, work: WorkFolder) -> ImagesDone:
        """Return the record of the images that are finished."""
        return ImagesDone(work.recovery / DONE, len(self.pictures))

    def create(self, work: WorkFolder) -> None:
        """Create the arrays, with no image done."""
        self.done(work).create()
        (work.partial / self.array).parent.mkdir(parents=True, exist_ok=True)
        for name, shape in self.arrays.items():
            create_array(work.partial / name, np.float32, shape)

    def find(self, work: WorkFolder, progress: Progress) -> np.ndarray:
        """Find what an interrupted run left.

        Returns
        -------
        bool array of shape (n_images,)
            Images that an interrupted run finished, without those of which something was damaged
            since.
        """
        done = self.done(work)
        known = done.read()
        if known is None:
            if done.path.exists():
                progress.info(
                    f"{done.path}: damaged since the run was interrupted: all images are drawn "
                    "again"
                )
            known = np.zeros((len(self.pictures), SIZE), np.uint8)
        noted = known.any(1)
        kept = self._kept(known, work.partial, progress) if noted.any() else noted
        if lost := int((noted & ~kept).sum()):
            images = f"{lost} image{'s' if lost > 1 else ''}"
            progress.info(
                f"{work.partial}: damaged since the run was interrupted: the responses to {images} "
                "are drawn again"
            )
        return kept

    def _kept(self, known: np.ndarray, folder: Path, progress: Progress) -> np.ndarray:
        """Those images whose arrays and maps are as they were written."""
        kept = np.zeros(len(known), bool)
        if not self._are_allocated(folder):
            return kept
        arrays = [map_array(folder / name) for name in self.arrays]
        maps = self._find_maps(folder)
        rows = np.flatnonzero(known.any(1))
        with progress.bar("checking the interrupted run", len(rows)) as bar:
            for n, row in enumerate(rows, start=1):
                written = _digest((one[row] for one in arrays), folder, maps[self.stimuli[row]])
                kept[row] = written == known[row].tobytes()
                if n % CHECKED == 0:
                    for one in arrays:
                        release(one)
                bar.to(n)
        return kept

    def _are_allocated(self, folder: Path) -> bool:
        return all(holds_array(folder / n, np.float32, s) for n, s in self.arrays.items())

    def bytes_needed(self, work: WorkFolder, n_left: int) -> tuple[float, float]:
        """Disk space that the responses to the images that are left take: arrays, maps.

        Arrays have their space from the beginning. Files of maps are compressed: those of a
        made-up response are written, and measured.

        Parameters
        ----------
        work : WorkFolder
        n_left : int
        """
        arrays = sum(4.0 * math.prod(shape) for shape in self.arrays.values())
        if self._are_allocated(work.partial):
            arrays = 0.0
        if not self.settings.maps:
            return arrays, 0.0
        rng = np.random.default_rng(0)
        shape = (self.settings.n_draws + len(self.maps), self.brain.n_voxels)
        values = rng.standard_normal(shape, np.float32)
        response = ImageResponse(values[len(self.maps) :], *values[: len(self.maps)])
        with tempfile.TemporaryDirectory(dir=work.recovery) as scratch:
            (Path(scratch) / self.array).parent.mkdir(parents=True)
            files = self.write_maps(Path(scratch), 0, response)
            sizes = [-(-file.stat().st_size // BLOCK) * BLOCK for file in files]
        return arrays, float(n_left * sum(sizes))

    def _find_maps(self, folder: Path) -> dict[str, list[str]]:
        """BIDS label of each image → the paths of its maps in the folder."""
        found: dict[str, list[str]] = {label: [] for label in self.stimuli}
        begin = f"{self.prefix}_stim-"
        with os.scandir(func_folder(folder, self.brain.subject)) as entries:
            for entry in entries:
                label = entry.name.removeprefix(begin).partition("_")[0]
                if entry.name.startswith(begin) and label in found and entry.is_file():
                    found[label].append(self.name(entry.name.removeprefix(f"{self.prefix}_")))
        return found

    @contextmanager
    def opened(self, folder: Path) -> Iterator[ArraysWriter]:
        """Open the arrays in a folder for the responses to the images, which threads may write."""
        with ExitStack() as stack:
            files = {n: stack.enter_context((folder / n).open("r+b")) for n in self.arrays}
            yield ArraysWriter(self, folder, {n: file.fileno() for n, file in files.items()})

    def rows(self, row: int, response: ImageResponse) -> dict[str, np.ndarray]:
        """Return what each array holds of one image.

        Raises
        ------
        InputError
            When a response is not finite.
        """
        distance = None if response.distance is None else np.float32([response.distance])
        values = (response.draws, response.mean, response.sd, response.sem, distance)
        known = [one for one in values if one is not None]
        if not all(np.isfinite(one).all() for one in known):
            raise InputError(
                f"{self.brain.folder}: its responses to {self.pictures.names[row]} are not finite: "
                "the weights are damaged, or the noise factor is too large"
            )
        return dict(zip(self.arrays, known, strict=True))

    def write_maps(self, folder: Path, row: int, response: ImageResponse) -> list[Path]:
        """Write draws and statistics in the subject's own space, and the latter in others.

        Where the settings have no maps, nothing is written.

        Parameters
        ----------
        folder : path
        row : int
            Of the image.
        response : ImageResponse

        Returns
        -------
        list of Path
            The files.
        """
        brain, geometry = self.brain, self.brain.voxel_space.geometry
        written: list[Path] = []
        if not self.settings.maps:
            return written
        base = folder / self.name(f"stim-{self.stimuli[row]}")
        meta = self._meta
        if isinstance(geometry, Volume):
            written.append(Path(f"{base}_desc-draws_betas.nii.gz"))
            save_image(brain.to_nifti(response.draws), written[-1])
        elif isinstance(geometry, Vertices):
            whole = geometry.to_full(response.draws)
            what = f"{space_entity(geometry.space)}_desc-draws_betas"
            written += write_hemispheres(base, what, whole, meta)
        known = {"mean": response.mean, "std": response.sd, "sem": response.sem}
        for stat, values in known.items():
            if values is None:
                continue
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
                    written += write_hemispheres(base, f"{space_entity(space)}_{name}", there, meta)
        return written

    @property
    def _meta(self) -> dict[str, str]:
        """What GIFTI files say of themselves."""
        meta = {
            "Unit": self.brain.unit_name(self.settings.unit),
            "Simulated": str(self.brain.simulated),
        }
        if self.brain.config.averaged_over > 1:
            meta["AveragedOver"] = str(self.brain.config.averaged_over)
        return meta

    def write_records(self, folder: Path) -> None:
        """Write ``images.tsv``, the sidecars, and what others read first."""
        names = self.pictures.names
        table = pd.DataFrame(
            {
                "index": range(len(names)),
                "image": names,
                "source": [image.source for image in self.settings.images],
            }
        )
        if self.settings.maps and self.brain.voxel_space.is_volume:
            table["nifti"] = [
                self.name(f"stim-{label}_desc-draws_betas.nii.gz") for label in self.stimuli
            ]
        if "distance" in self.settings.statistics:
            table["distance"] = self.distances(folder)
        table.to_csv(folder / "images.tsv", sep="\t", index=False)
        write_record(folder / self.name("desc-draws_betas.json"), self._sidecar())
        # By BIDS's inheritance principle, these hold for the maps of every image, too
        unit = self.brain.unit_name(self.settings.unit)
        for stat in self.maps:
            shown = _describe(stat, self.settings.sampling, self.brain.config.averaged_over)
            sidecar = map_sidecar(self.brain, shown, unit)
            sidecar = msgspec.structs.replace(sidecar, axes=MAP_AXES)
            write_record(folder / self.name(f"stat-{stat}_statmap.json"), sidecar)
        MapWriter(folder, self.brain).describe(
            f"Responses synthesized by {self.brain.name}",
            f"Responses of {self.prefix} of {self.brain.config.dataset} to {len(names):,} images, "
            f"as the model {self.brain.name} expects and draws them (unit: {unit}). "
            "`images.tsv` lists the images, one row for each row of the arrays.",
        )

    def distances(self, folder: Path) -> np.ndarray:
        """Distance of each image from those of training, in percent: (n_images,)."""
        found: np.ndarray = np.load(folder / self.name("distance.npy"))[:, 0].round(1)
        return found

    def _sidecar(self) -> ResponseSidecar:
        settings, config = self.settings, self.brain.config
        bands = tuple(
            msgspec.structs.replace(band, identity=found)
            for band, found in zip(config.bands, self.brain.source.identities, strict=True)
        )
        noise_factor: float | str | None = None
        if settings.sampling == "latent":
            noise_factor = settings.noise_factor
            if noise_factor is None:
                noise_factor = "posterior SD, per latent dimension"
        description = f"Synthesized responses, {config.rows}"
        if settings.sampling == "mean":
            description = "Expected responses: each draw is the model's prediction m"
        return ResponseSidecar(
            description=description,
            averaged_over=config.averaged_over,
            unit=self.brain.unit_name(settings.unit),
            bands=bands,
            sampling=settings.sampling,
            signal=settings.signal if settings.sampling == "calibrated" else None,
            noise_factor=noise_factor,
            number_of_draws=settings.n_draws,
            seed=settings.seed,
            command=self.command,
            **sidecar_of(self.brain),
        )


def _describe(stat: str, sampling: str, averaged_over: int) -> str:
    """What maps of a statistic show, and what they do not."""
    if stat == "std":
        return (
            f"Predictive standard deviation of {a_trial(averaged_over)} around the expected "
            "response, exact by the model's readout: unexplained signal and trial noise. It is not "
            "the standard deviation over the draws, which may share one unexplained signal. In "
            "other spaces, that of the voxels, resampled"
        )
    if stat == "sem":
        return (
            "Standard error of the expected response: how far the true mean response to this image "
            "is from the model's prediction m, in standard deviations; larger for images unlike "
            "those of training. Trial noise is not in it. In other spaces, that of the voxels, "
            "resampled"
        )
    mean = "Expected response: the model's prediction m, exact, not an average of draws"
    if sampling == "latent":
        return (
            f"{mean}. Draws by noise in the latent scatter about the networks' own prediction; "
            "their standard deviation has no exact form, and no map of it is written"
        )
    return mean


@dataclass(frozen=True)
class ArraysWriter:
    """Writes the responses to images, each into its rows of the open arrays and its own maps.

    Attributes
    ----------
    writer : ResponseWriter
    folder : Path
    files : mapping
        Name of each array → descriptor of its file.
    """

    writer: ResponseWriter
    folder: Path
    files: Mapping[str, int]

    def __call__(self, drawn: tuple[int, ImageResponse]) -> bytes:
        """Write the response to one image, given with its row; return the checksum of all of it."""
        row, response = drawn
        rows = self.writer.rows(row, response)
        for name, values in rows.items():
            start = len(array_header(np.float32, self.writer.arrays[name]))
            write_at(self.files[name], values, start + row * values.nbytes)
        maps = self.writer.write_maps(self.folder, row, response)
        names = [path.relative_to(self.folder).as_posix() for path in maps]
        return _digest(rows.values(), self.folder, names)

    def sync(self) -> None:
        """Bring what was written to the disk."""
        for file in self.files.values():
            os.fsync(file)
