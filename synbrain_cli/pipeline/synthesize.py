"""`synbrain synthesize`: images → single-trial responses on disk."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from synbrain_cli.brain import BATCH, Brain, Drawing, load_model
from synbrain_cli.distributed import SINGLE_PROCESS, Processes
from synbrain_cli.errors import InputError
from synbrain_cli.features.images import ImageSet
from synbrain_cli.io.bids import bids_label
from synbrain_cli.io.files import (
    create_array,
    locked,
    read_json,
    replace_folder,
    sha256,
    versions,
    write_at,
    write_json,
)
from synbrain_cli.io.surface import write_gifti
from synbrain_cli.io.volume import save_image
from synbrain_cli.io.voxel_space import Vertices, Volume
from synbrain_cli.io.workspace import Workspace
from synbrain_cli.prefetch import prefetch
from synbrain_cli.progress import Progress

BATCHES_A_ROUND = 2  # of images and a process: what an interruption may cost
DEFAULT_SPACES = ("fsaverage5",)
MNI_NAME = "MNI152NLin6Asym"  # FSL's MNI152, as templates are named in BIDS


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
    *,
    n_draws: int = 1,
    seed: int = 0,
    sampling: str = "calibrated",
    signal: str = "shared",
    noise_factor: float | None = None,
    unit: str = "recorded",
    output: Path | None = None,
    spaces: Sequence[str] | None = None,
    device: str = "auto",
    overwrite: bool = False,
    progress: Progress | None = None,
    processes: Processes = SINGLE_PROCESS,
) -> SynthesizeResult:
    """Draw responses to images and write them as arrays, volumes and surfaces.

    Works image by image in constant memory, while threads read images ahead and write files
    behind. Everything is written in a hidden folder beside ``output`` that takes its name at the
    end; a stopped run goes on where it was when the same command is given again, with any number
    of processes: what is written does not depend on it (`Brain.draw`).

    Parameters
    ----------
    workspace : Workspace
    model : path
        Bundle.
    images
        Folder or list of paths.
    n_draws, seed, sampling, signal, noise_factor, unit
        As in `synbrain_cli.brain.Brain.draw`.
    output : path, optional
        Default ``outputs/<model>_<folder of images>``.
    spaces : sequence of str, optional
        Spaces to bring mean and deviation to, beside the subject's own: fsaverage5, fsaverage6,
        fsaverage, fsnative (GIFTI), MNI (NIfTI). Default: fsaverage5 where there is a way.
    device : str
    overwrite : bool
        Replace a finished output of other settings.
    progress : Progress, optional
    processes : Processes
        Processes that share the images out, and see one disk.

    Raises
    ------
    SynbrainError
    """
    progress = progress or Progress()
    drawing = Drawing(n_draws, seed, sampling, signal, noise_factor, unit)
    pictures = ImageSet.of(images)
    brain = load_model(model, device)
    drawing = brain.settle(drawing)
    spaces = _spaces(brain, spaces)
    stem = Path(images).resolve().name if isinstance(images, (str, Path)) else "images"
    folder = Path(output) if output else workspace.outputs / f"{brain.name}_{Path(stem).stem}"
    prefix = f"sub-{brain.subject}"
    settings = processes.on_main(
        lambda: {
            "model": brain.name,
            "model_folder": str(Path(model).resolve()),
            "model_fingerprint": brain.config["fingerprint"],
            **asdict(drawing),
            "spaces": spaces,
            "images": [
                {"name": name, "source": str(Path(source).resolve()), "sha256": sha256(source)}
                for name, source in zip(pictures.names, pictures.sources, strict=True)
            ],
        }
    )
    unfinished = folder.with_name(f".{folder.name}.partial")
    array = unfinished / f"{prefix}_desc-draws_betas.npy"
    shape = (len(pictures), n_draws, brain.n_voxels)

    def begin() -> int | None:
        """Images done before; None: all of them."""
        if (folder / "settings.json").exists():
            if read_json(folder / "settings.json") == settings and not overwrite:
                progress.info(f"{folder}: already there, made with the same settings")
                return None
            if not overwrite:
                raise InputError(
                    f"{folder} holds responses made with other settings or images: pass "
                    "--overwrite to replace them, or --output for another folder"
                )
        elif folder.exists() and any(folder.iterdir()):
            raise InputError(
                f"{folder} exists and was not written by synthesize: choose another --output"
            )
        done = _open_partial(unfinished, settings)
        if not (array.exists() and done):
            create_array(array, np.float32, shape)
        return done

    def finish() -> None:
        _write_records(unfinished, prefix, brain, pictures, settings)
        (unfinished / "progress.json").unlink(missing_ok=True)
        replace_folder(unfinished, folder)

    with processes.held(lambda: locked(folder, "responses")):
        done = processes.on_main(begin)
        if done is None:
            return _result(folder, prefix)
        _draw(brain, pictures, drawing, done, array, spaces, progress, processes)
        processes.on_main(finish)
    progress.info(f"wrote {folder}: {shape[0]} images × {n_draws} draws × {shape[2]:,} voxels")
    return _result(folder, prefix)


def _draw(
    brain: Brain,
    pictures: ImageSet,
    drawing: Drawing,
    done: int,
    array: Path,
    spaces: list[str],
    progress: Progress,
    processes: Processes,
) -> None:
    """Write the draws of all images from ``done`` on, each process those of its batches."""
    batches = [range(i, min(i + BATCH, len(pictures))) for i in range(done, len(pictures), BATCH)]
    rounds = list(processes.deal(batches, BATCHES_A_ROUND))
    own = [row for _, part in rounds for batch in part for row in batch]
    offset, record = np.load(array, mmap_mode="r").offset, array.with_name("progress.json")
    image_bytes = 4 * drawing.n_draws * brain.n_voxels

    def write(drawn: tuple[int, np.ndarray]) -> None:
        row, draws = drawn
        if not np.isfinite(draws).all():
            raise InputError(
                f"{brain.folder}: its responses to {pictures.names[row]} are not finite: "
                "the weights are damaged, or the noise factor is too large"
            )
        write_at(file.fileno(), draws, offset + row * image_bytes)
        name, unit = pictures.names[row], drawing.unit
        _write_maps(array.parent, f"sub-{brain.subject}", name, brain, draws, unit, spaces)

    with (
        progress.bar("drawing", len(pictures), done) as bar,
        array.open("r+b") as file,
        closing(brain.stream(pictures, drawing, own)) as drawn,
        closing(
            prefetch(write, zip(own, drawn, strict=True), _map_bytes(brain, drawing))
        ) as written,
    ):
        for whole, part in rounds:
            for row, _ in zip(chain.from_iterable(part), written, strict=False):
                bar.to(row + 1, len(pictures))
            os.fsync(file.fileno())
            processes.wait()
            processes.on_main(partial(write_json, record, {"done": whole[-1].stop}))


def _map_bytes(brain: Brain, drawing: Drawing) -> int:
    """Memory that one image's draws take while they are written: twice on their grid."""
    n_points = brain.place.inside.size if isinstance(brain.place, Volume) else brain.n_voxels
    return 2 * 4 * drawing.n_draws * n_points


def _open_partial(partial: Path, settings: dict[str, Any]) -> int:
    """Images that an interrupted run with these settings finished; else a clean folder."""
    record, images_done = partial / "settings.json", partial / "progress.json"
    if record.exists() and images_done.exists() and read_json(record) == settings:
        for half_written in partial.glob(".*"):
            half_written.unlink()
        return read_json(images_done)["done"]
    shutil.rmtree(partial, ignore_errors=True)
    write_json(record, settings)
    return 0


def _spaces(brain: Brain, asked: Sequence[str] | None) -> list[str]:
    """The spaces asked for, checked to be within reach; or those of the default that are."""
    if asked is None:
        return [space for space in DEFAULT_SPACES if space in brain.spaces]
    for space in asked:
        if space not in brain.spaces:
            reach = ", ".join(brain.spaces) or "none: it was prepared without transforms"
            raise InputError(f"--space {space}: {brain.name} can be brought to {reach}")
    return list(dict.fromkeys(asked))


def _write_maps(
    folder: Path,
    prefix: str,
    name: str,
    brain: Brain,
    draws: np.ndarray,
    unit: str,
    spaces: list[str],
) -> None:
    """Draws, mean and deviation of one image in the subject's own space; the latter in others."""
    base = f"{prefix}_stim-{bids_label(name)}"
    maps = {"mean": draws.mean(0)}
    if len(draws) > 1:
        maps["std"] = draws.std(0, ddof=1)
    meta = {"Unit": brain.unit_name(unit), "Simulated": str(brain.simulated)}

    def write_surface(values: dict[str, np.ndarray], space: str, suffix: str) -> None:
        for hemisphere, data in values.items():
            file = f"{base}_hemi-{hemisphere[0].upper()}_space-{space}_{suffix}.func.gii"
            write_gifti(folder / file, data, hemisphere, meta)

    if isinstance(brain.place, Volume):
        save_image(brain.to_nifti(draws), folder / f"{base}_desc-draws_betas.nii.gz")
    elif isinstance(brain.place, Vertices):
        write_surface(brain.place.to_full(draws), brain.place.space, "desc-draws_betas")
    for stat, values in maps.items():
        if isinstance(brain.place, Volume):
            save_image(brain.to_nifti(values), folder / f"{base}_stat-{stat}_statmap.nii.gz")
        for space in spaces:
            if space == "MNI":
                file = f"{base}_space-{MNI_NAME}_stat-{stat}_statmap.nii.gz"
                save_image(brain.to_mni(values), folder / file)
            else:
                surfaces = brain.to_surface(values, space)
                write_surface(surfaces, space, f"stat-{stat}_statmap")


def _write_records(
    folder: Path, prefix: str, brain: Brain, pictures: ImageSet, settings: dict[str, Any]
) -> None:
    table = pd.DataFrame(
        {
            "index": range(len(pictures)),
            "image": pictures.names,
            "source": [image["source"] for image in settings["images"]],
        }
    )
    if isinstance(brain.place, Volume):
        table["nifti"] = [
            f"{prefix}_stim-{bids_label(name)}_desc-draws_betas.nii.gz" for name in pictures.names
        ]
    table.to_csv(folder / "images.tsv", sep="\t", index=False)
    sidecar = {
        "Description": "Synthesized single-trial responses",
        "Axes": ["image (rows of images.tsv)", "draw", "voxel (rows of the model's voxels.tsv)"],
        "Unit": brain.unit_name(settings["unit"]),
        "Simulated": brain.simulated,
        "Subject": brain.subject,
        "Dataset": brain.config["dataset"],
        "Space": brain.config["space"],
        "Encoder": brain.config["encoder"] | {"identity": brain.encoder.identity},
        "Model": brain.name,
        "ModelFingerprint": settings["model_fingerprint"],
        "Sampling": settings["sampling"],
        "Signal": settings["signal"] if settings["sampling"] == "calibrated" else None,
        "NoiseFactor": _noise(settings) if settings["sampling"] == "latent" else None,
        "NumberOfDraws": settings["n_draws"],
        "Seed": settings["seed"],
        "Versions": versions(),
    }
    write_json(folder / f"{prefix}_desc-draws_betas.json", sidecar)
    write_json(
        folder / "dataset_description.json",
        {
            "Name": f"Responses synthesized by {brain.name}",
            "BIDSVersion": "1.9.0",
            "DatasetType": "derivative",
            "GeneratedBy": [{"Name": "synbrain", "Version": versions()["synbrain"]}],
            "Simulated": brain.simulated,
        },
    )


def _noise(settings: dict[str, Any]) -> float | str:
    given = settings["noise_factor"]
    return given if given is not None else "posterior deviation, per latent dimension"


def _result(folder: Path, prefix: str) -> SynthesizeResult:
    return SynthesizeResult(
        folder,
        folder / f"{prefix}_desc-draws_betas.npy",
        pd.read_csv(folder / "images.tsv", sep="\t"),
    )
