"""`synbrain prepare`: data → prepared subjects, and tokens of their images."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from synbrain_cli.datasets.nsd import NSD, prepare_subject
from synbrain_cli.datasets.simulated import SimulationConfig, simulate
from synbrain_cli.errors import InputError, MissingError
from synbrain_cli.features.encoders import load_encoder
from synbrain_cli.io.files import atomic, locked, read_json, write_json
from synbrain_cli.io.prepared import PreparedSubject, TokenStore
from synbrain_cli.pipeline.progress import Report
from synbrain_cli.pipeline.workspace import Workspace

TOKEN_BATCH = 64


@dataclass(frozen=True)
class PrepareResult:
    """Prepared subjects, and where the tokens of their images are."""

    subjects: list[PreparedSubject]
    tokens: Path


def prepare_simulated(
    workspace: Workspace,
    *,
    config: SimulationConfig | None = None,
    encoder: str = "gabor",
    device: str = "cpu",
    overwrite: bool = False,
    report: Report | None = None,
) -> PrepareResult:
    """Simulate subjects in ``<workspace>/simulated`` and prepare them like NSD's.

    A simulation with other settings that is already there is an error unless ``overwrite``.
    """
    report = report or Report()
    config = config or SimulationConfig()
    root = workspace.root / "simulated"
    record = root / "dataset_description.json"
    with locked(root, "a simulation"):
        if record.exists() and read_json(record)["Simulation"] == config.to_dict():
            report.say(f"simulated subjects: already in {root}")
        elif record.exists() and not overwrite:
            raise InputError(
                f"{root} holds a simulation with other settings: pass --overwrite to replace it, "
                "or use another --workspace"
            )
        else:
            record.unlink(missing_ok=True)
            with report.bar("simulating", 1 + config.n_subjects) as bar:
                simulate(root, config, lambda message: bar(message))
    return prepare_nsd(
        workspace,
        root,
        dataset="simulated",
        encoder=encoder,
        device=device,
        overwrite=overwrite,
        report=report,
    )


def prepare_nsd(
    workspace: Workspace,
    root: Path,
    *,
    subjects: list[int] | None = None,
    sessions: list[int] | None = None,
    dataset: str = "nsd",
    encoder: str = "gabor",
    validation_share: float = 0.1,
    seed: int = 0,
    device: str = "cpu",
    overwrite: bool = False,
    report: Report | None = None,
) -> PrepareResult:
    """Prepare subjects of a local NSD folder, streaming a session at a time.

    Parameters
    ----------
    workspace : Workspace
    root : path
        Folder that holds ``nsddata/``.
    subjects, sessions : list of int, optional
        1-based; default: all that are there.
    dataset : str
        Name below ``prepared/``.
    encoder : str
        Image encoder whose tokens are extracted.
    validation_share : float
        Part of the training images kept for validation.
    seed : int
        Of the validation split.
    device : str
        Of the encoder.
    overwrite : bool
        Prepare again what is there already.
    report : Report, optional

    Raises
    ------
    SynbrainError
        What is wrong with the data or the folder; subjects finished before stay.
    """
    report = report or Report()
    nsd = NSD(Path(root))
    numbers = subjects or nsd.subjects
    if not numbers:
        raise MissingError(f"{nsd.root / 'nsddata_betas/ppdata'}: no subject with betas")
    prepared = []
    for number in numbers:
        folder = workspace.prepared / dataset / f"sub-{number:02d}"
        with locked(folder, "a prepared subject"):
            if (folder / "dataset_description.json").exists() and not overwrite:
                options = PreparedSubject(folder).description["Options"]
                wanted = {"validation_share": validation_share, "seed": seed}
                if sessions is not None:
                    wanted["sessions"] = sessions
                if any(options[k] != v for k, v in wanted.items()):
                    raise InputError(
                        f"{folder} was prepared with other options ({options}): pass --overwrite "
                        "to prepare it again"
                    )
                report.say(f"{folder}: already prepared")
                prepared.append(PreparedSubject(folder))
                continue
            with report.bar(f"sub-{number:02d}: sessions") as bar:
                subject = prepare_subject(
                    nsd,
                    number,
                    folder,
                    sessions=sessions,
                    validation_share=validation_share,
                    seed=seed,
                    progress=bar.to,
                )
            left_out = subject.description["VoxelsLeftOut"]
            report.say(
                f"{folder}: {len(subject.trials):,} trials, {subject.n_voxels:,} voxels"
                + (f" ({left_out} constant or not finite ones left out)" if left_out else "")
            )
            prepared.append(subject)
    images = sorted({image for subject in prepared for image in subject.trials["image"]})
    store = extract_tokens(
        workspace.prepared / dataset, images, nsd.read_images, encoder, device, report
    )
    return PrepareResult(prepared, store.folder)


def extract_tokens(
    dataset: Path,
    images: list[str],
    read: Callable[[list[str]], Iterable[np.ndarray]],
    spec: str,
    device: str,
    report: Report,
) -> TokenStore:
    """Extract the tokens of images that have none yet, once per image, whoever saw it.

    Finished batches survive an interruption: the array is written in place behind the rows that
    ``images.tsv`` names, and rows are named only once they are whole.

    Parameters
    ----------
    dataset : path
        ``prepared/<dataset>``.
    images : list of str
    read : callable
        Names → pixels, uint8 (height, width, 3), in the same order.
    spec, device : str
        Image encoder.
    """
    encoder = load_encoder(spec, device=device)
    folder = dataset / "features" / encoder.slug
    with locked(folder, "image tokens"):
        store = TokenStore(folder)
        if (folder / "encoder.json").exists() and store.identity["identity"] != encoder.identity:
            raise InputError(
                f"{folder}: holds tokens of {store.identity['identity']}, the encoder is now "
                f"{encoder.identity}: move that folder away to extract them again"
            )
        known = set(store.images)
        rows = store.images + [image for image in images if image not in known]
        done = len(store.images)
        if done == len(rows):
            report.say(f"{folder}: tokens of {done:,} images, already there")
            return store
        folder.mkdir(parents=True, exist_ok=True)
        tokens = _grown(folder / "tokens.npy", done, (len(rows), encoder.n_tokens, encoder.n_dims))
        write_json(folder / "encoder.json", {"spec": spec, "identity": encoder.identity})
        with report.bar("image tokens", len(rows), done) as bar:
            pixels = iter(read(rows[done:]))
            for start in range(done, len(rows), TOKEN_BATCH):
                stop = min(start + TOKEN_BATCH, len(rows))
                tokens[start:stop] = encoder([next(pixels) for _ in range(start, stop)])
                if stop == len(rows) or (stop - done) % (16 * TOKEN_BATCH) == 0:
                    tokens.flush()
                    _write_rows(folder, rows[:stop])
                bar.to(stop, len(rows))
    return TokenStore(folder)


def _grown(path: Path, done: int, shape: tuple[int, ...]) -> np.ndarray:
    """Open ``path`` for writing with ``shape``, keeping its first ``done`` rows."""
    if path.exists() and done:
        old = np.load(path, mmap_mode="r")
        if old.shape == shape:
            return np.lib.format.open_memmap(path, "r+")
        grown = path.with_name(".tokens.npy")
        new = np.lib.format.open_memmap(grown, "w+", np.float32, shape)
        for start in range(0, done, 1024):
            new[start : min(start + 1024, done)] = old[start : min(start + 1024, done)]
        new.flush()
        del old, new
        grown.replace(path)
        return np.lib.format.open_memmap(path, "r+")
    return np.lib.format.open_memmap(path, "w+", np.float32, shape)


def _write_rows(folder: Path, rows: list[str]) -> None:
    with atomic(folder / "images.tsv") as path:
        pd.DataFrame({"image": rows}).to_csv(path, sep="\t", index=False)


def describe(result: PrepareResult) -> list[dict[str, Any]]:
    """One row a subject: name, trials, sessions, images by split, voxels, median ncsnr."""
    rows = []
    for subject in result.subjects:
        images = subject.trials.drop_duplicates("image")["split"].value_counts()
        rows.append(
            {
                "subject": f"{subject.dataset}/sub-{subject.subject}",
                "sessions": len(subject.sessions),
                "trials": len(subject.trials),
                **{
                    f"{split} images": int(images.get(split, 0))
                    for split in ("train", "val", "test")
                },
                "voxels": subject.n_voxels,
                "median ncsnr": round(float(subject.voxels["ncsnr"].median()), 2),
            }
        )
    return rows
