"""`synbrain synthesize`: images → single-trial responses on disk."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from synbrain_cli.brain import Brain, check_drawing, load_model
from synbrain_cli.errors import InputError
from synbrain_cli.features.images import ImageSet
from synbrain_cli.io.files import locked, read_json, replace_folder, sha256, versions, write_json
from synbrain_cli.io.surface import write_gifti
from synbrain_cli.io.volume import save_image
from synbrain_cli.pipeline.progress import Report
from synbrain_cli.pipeline.workspace import Workspace

UNIT_NAMES = {"psc": "percent signal change", "z": "standard deviations (z-score within session)"}


@dataclass(frozen=True)
class SynthesizeResult:
    """What was written.

    Attributes
    ----------
    folder : Path
    draws : Path
        ``.npy``, float32 (n_images, n_draws, n_voxels).
    images : DataFrame
        ``images.tsv``: index, image, source, nifti.
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
    sampling: str = "latent",
    noise_factor: float | None = None,
    unit: str = "psc",
    output: Path | None = None,
    surfaces: bool = True,
    device: str = "auto",
    overwrite: bool = False,
    report: Report | None = None,
) -> SynthesizeResult:
    """Draw responses to images and write them as arrays, volumes and surfaces.

    Works batch by batch in constant memory. Everything is written in a hidden folder beside
    ``output`` that takes its name at the end; a stopped run goes on where it was when the same
    command is given again.

    Parameters
    ----------
    workspace : Workspace
    model : path
        Bundle.
    images
        Folder or list of paths.
    n_draws, seed, sampling, noise_factor, unit
        As in `synbrain_cli.brain.Brain.draw`.
    output : path, optional
        Default ``outputs/<model>_<folder of images>``.
    surfaces : bool
        Also write fsaverage5 GIFTI maps of the mean and deviation.
    device : str
    overwrite : bool
        Replace a finished output of other settings.
    report : Report, optional

    Raises
    ------
    SynbrainError
    """
    report = report or Report()
    check_drawing(n_draws, sampling, noise_factor, unit)
    pictures = ImageSet.of(images)
    brain = load_model(model, device)
    stem = Path(images).resolve().name if isinstance(images, (str, Path)) else "images"
    folder = Path(output) if output else workspace.outputs / f"{brain.name}_{Path(stem).stem}"
    prefix = f"sub-{brain.subject}"
    settings = {
        "model": brain.name,
        "model_folder": str(Path(model).resolve()),
        "model_fingerprint": brain.config["fingerprint"],
        "sampling": sampling,
        "noise_factor": noise_factor,
        "n_draws": n_draws,
        "seed": seed,
        "unit": unit,
        "surfaces": surfaces,
        "images": [
            {"name": name, "source": str(Path(source).resolve()), "sha256": sha256(source)}
            for name, source in zip(pictures.names, pictures.sources, strict=True)
        ],
    }
    partial = folder.with_name(f".{folder.name}.partial")
    shape = (len(pictures), n_draws, brain.n_voxels)
    with locked(folder, "responses"):
        if (folder / "settings.json").exists():
            if read_json(folder / "settings.json") == settings and not overwrite:
                report.say(f"{folder}: already there, made with the same settings")
                return _result(folder, prefix)
            if not overwrite:
                raise InputError(
                    f"{folder} holds responses made with other settings or images: pass "
                    "--overwrite to replace them, or --output for another folder"
                )
        elif folder.exists() and any(folder.iterdir()):
            raise InputError(
                f"{folder} exists and was not written by synthesize: choose another --output"
            )
        done = _open_partial(partial, settings)
        array = partial / f"{prefix}_desc-draws_betas.npy"
        mode = "r+" if array.exists() and done else "w+"
        store = (
            np.lib.format.open_memmap(array, mode)
            if mode == "r+"
            else np.lib.format.open_memmap(array, mode, np.float32, shape)
        )
        with report.bar("drawing", len(pictures), done) as bar:
            for where, draws in brain.stream(
                pictures, n_draws, seed, sampling, noise_factor, unit, start=done
            ):
                if not np.isfinite(draws).all():
                    raise InputError(
                        f"{model}: its responses to {pictures.names[where.start]} are not finite: "
                        "the weights are damaged, or the noise factor is too large"
                    )
                store[where] = draws
                for i, one in zip(range(where.start, where.stop), draws, strict=True):
                    _write_maps(partial, prefix, pictures.names[i], brain, one, unit, surfaces)
                store.flush()
                write_json(partial / "progress.json", {"done": where.stop})
                bar.to(where.stop, len(pictures))
        del store
        _write_records(partial, prefix, brain, pictures, settings)
        (partial / "progress.json").unlink(missing_ok=True)
        replace_folder(partial, folder)
    report.say(f"wrote {folder}: {shape[0]} images × {n_draws} draws × {shape[2]:,} voxels")
    return _result(folder, prefix)


def _open_partial(partial: Path, settings: dict[str, Any]) -> int:
    """Images that an interrupted run with these settings finished; else a clean folder."""
    record, progress = partial / "settings.json", partial / "progress.json"
    if record.exists() and progress.exists() and read_json(record) == settings:
        return read_json(progress)["done"]
    shutil.rmtree(partial, ignore_errors=True)
    write_json(record, settings)
    return 0


def _write_maps(
    folder: Path,
    prefix: str,
    name: str,
    brain: Brain,
    draws: np.ndarray,
    unit: str,
    surfaces: bool,
) -> None:
    """Volumes (draws, mean, deviation) and surfaces (mean, deviation) of one image."""
    base = f"{prefix}_stim-{bids_label(name)}"
    maps = {"mean": draws.mean(0)}
    if len(draws) > 1:
        maps["std"] = draws.std(0, ddof=1)
    save_image(brain.to_nifti(draws), folder / f"{base}_desc-draws_betas.nii.gz")
    for stat, values in maps.items():
        save_image(brain.to_nifti(values), folder / f"{base}_stat-{stat}_statmap.nii.gz")
        if surfaces and brain.sampling is not None:
            for hemisphere, data in brain.to_surface(values).items():
                write_gifti(
                    folder / f"{base}_hemi-{hemisphere[0].upper()}_space-fsaverage5"
                    f"_stat-{stat}_statmap.func.gii",
                    data,
                    hemisphere,
                    {"Unit": UNIT_NAMES[unit], "Simulated": str(brain.simulated)},
                )


def _write_records(
    folder: Path, prefix: str, brain: Brain, pictures: ImageSet, settings: dict[str, Any]
) -> None:
    pd.DataFrame(
        {
            "index": range(len(pictures)),
            "image": pictures.names,
            "source": [image["source"] for image in settings["images"]],
            "nifti": [
                f"{prefix}_stim-{bids_label(name)}_desc-draws_betas.nii.gz"
                for name in pictures.names
            ],
        }
    ).to_csv(folder / "images.tsv", sep="\t", index=False)
    sidecar = {
        "Description": "Synthesized single-trial responses",
        "Axes": ["image (rows of images.tsv)", "draw", "voxel (C order of the mask)"],
        "Unit": UNIT_NAMES[settings["unit"]],
        "Simulated": brain.simulated,
        "Subject": brain.subject,
        "Dataset": brain.config["dataset"],
        "Space": brain.config["space"],
        "Encoder": brain.config["encoder"],
        "Model": brain.name,
        "ModelFingerprint": settings["model_fingerprint"],
        "Sampling": settings["sampling"],
        "NoiseFactor": _noise(settings),
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


def bids_label(name: str) -> str:
    """BIDS labels are alphanumeric: drop the rest, with a reminder of what was dropped.

    Two names that differ only in dropped characters get different labels.
    """
    label = "".join(c for c in name if c.isascii() and c.isalnum())
    if label == name:
        return label
    return f"{label}{hashlib.sha256(name.encode()).hexdigest()[:4]}"


def _result(folder: Path, prefix: str) -> SynthesizeResult:
    return SynthesizeResult(
        folder,
        folder / f"{prefix}_desc-draws_betas.npy",
        pd.read_csv(folder / "images.tsv", sep="\t"),
    )
