"""`synbrain prepare`: data → prepared subjects, and tokens of their images."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from itertools import chain, islice, pairwise
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd

from synbrain_cli.config import EncoderIdentity
from synbrain_cli.datasets import algonauts, nsd_bucket
from synbrain_cli.datasets.download import check_space, fetch, missing
from synbrain_cli.datasets.nsd import prepare_subject
from synbrain_cli.datasets.nsd_choice import Choice
from synbrain_cli.datasets.nsd_design import SESSIONS
from synbrain_cli.datasets.nsd_files import NSD
from synbrain_cli.datasets.s3 import Bucket
from synbrain_cli.datasets.simulated import SimulationConfig, simulate
from synbrain_cli.datasets.table import prepare_experiment
from synbrain_cli.datasets.table_experiment import Experiment
from synbrain_cli.datasets.table_trials import TrialTable
from synbrain_cli.distributed import SINGLE_PROCESS, Processes
from synbrain_cli.errors import InputError, MissingError
from synbrain_cli.features.encoder import Encoder, kept_dtype, precision_here
from synbrain_cli.features.loading import load_encoder
from synbrain_cli.io.files import (
    atomic,
    create_array,
    is_simulated,
    locked,
    read_json,
    write_at,
    write_json,
)
from synbrain_cli.io.prepared import PreparedSubject
from synbrain_cli.io.records import write_record
from synbrain_cli.io.token_store import ENCODER, TokenStore
from synbrain_cli.io.workspace import Workspace
from synbrain_cli.prefetch import prefetch
from synbrain_cli.progress import Progress

Read = Callable[[list[str]], Iterable[np.ndarray]]

BATCHES_A_ROUND = 16  # of the encoder and a process: what an interruption may cost
READ_TOGETHER = 64  # images that a thread reads at a time
PICTURE_BYTES = 425 * 425 * 3  # NSD's


class Ask(Protocol):
    """Who is asked before anything is fetched; refuses by raising `SynbrainError`."""

    def terms(self, terms: str, form: str) -> None:
        """Accept NSD's terms?"""

    def fetch(self, table: pd.DataFrame, root: Path) -> None:
        """Fetch these?"""


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
    precision: str = "auto",
    overwrite: bool = False,
    progress: Progress | None = None,
    processes: Processes = SINGLE_PROCESS,
) -> PrepareResult:
    """Simulate subjects in ``<workspace>/simulated`` and prepare them like NSD's.

    A simulation with other settings that is already there is an error unless ``overwrite``.
    """
    progress = progress or Progress()
    config = config or SimulationConfig()
    root = workspace.root / "simulated"
    processes.on_main(lambda: _simulate(root, config, overwrite, progress))
    return prepare_nsd(
        workspace,
        root,
        download=False,
        dataset="simulated",
        encoder=encoder,
        device=device,
        precision=precision,
        overwrite=overwrite,
        progress=progress,
        processes=processes,
    )


def _simulate(root: Path, config: SimulationConfig, overwrite: bool, progress: Progress) -> None:
    record = root / "dataset_description.json"
    with locked(root, "a simulation"):
        if record.exists() and read_json(record)["Simulation"] == config.to_dict():
            progress.info(f"simulated subjects: already in {root}")
        elif record.exists() and not overwrite:
            raise InputError(
                f"{root} holds a simulation with other settings: pass --overwrite to replace it, "
                "or use another --workspace"
            )
        else:
            record.unlink(missing_ok=True)
            with progress.bar("simulating", 1 + config.n_subjects) as bar:
                simulate(root, config, lambda message: bar(message))


def prepare_nsd(
    workspace: Workspace,
    root: Path | None = None,
    *,
    subjects: list[int] | None = None,
    sessions: list[int] | None = None,
    choice: Choice | None = None,
    download: bool | None = None,
    ask: Ask | None = None,
    dataset: str = "nsd",
    encoder: str = "gabor",
    workers: int | None = None,
    device: str = "cpu",
    precision: str = "auto",
    overwrite: bool = False,
    progress: Progress | None = None,
    processes: Processes = SINGLE_PROCESS,
) -> PrepareResult:
    """Prepare subjects of NSD, from its public bucket or a local copy.

    Parameters
    ----------
    workspace : Workspace
    root : path, optional
        Folder that holds ``nsddata/``; default ``<workspace>/nsd``.
    subjects, sessions : list of int, optional
        1-based; default: all that are there.
    choice : Choice
        Space, betas, ROIs, standardisation and splits.
    download : bool, optional
        True: fetch whatever the bucket has of the choice and ``root`` lacks. False: never.
        Default: only where ``root`` is not enough.
    ask : Ask, optional
        Shows what will be fetched and asks for leave; without it, nothing is fetched.
    dataset : str
        Name below ``prepared/``.
    encoder : str
        Image encoder whose tokens are extracted.
    workers : int, optional
        Sessions read at once; default: one a core.
    device : str
        Of the encoder.
    precision : str
        Of the encoder (`synbrain_cli.features.loading.load_encoder`).
    overwrite : bool
        Prepare again what is there already.
    progress : Progress, optional
    processes : Processes
        Processes that extract the tokens together; all else is done by the main one.

    Raises
    ------
    SynbrainError
        What is wrong with the data, the connection or the folder; subjects finished before stay.
    """
    progress = progress or Progress()
    choice = choice or Choice()
    if root is not None and not download and not (Path(root) / "nsddata").is_dir():
        raise MissingError(
            f"--root {root}: expected a folder that holds nsddata/, nsddata_betas/ and "
            "nsddata_stimuli/: check the path, or pass --download to make a copy there"
        )
    root = Path(root) if root is not None else workspace.root / "nsd"

    def complete() -> None:
        may = download
        if is_simulated(root):  # not to be mixed with anybody's data
            if download:
                raise InputError(f"--root {root} is simulated: NSD's files do not belong there")
            may = False
        lacking = None if may is False else nsd_bucket.lacks(root, subjects, sessions, choice)
        if may or (may is None and lacking):
            download_nsd(workspace, root, subjects, sessions, choice, lacking, ask, progress)

    processes.on_main(complete)
    nsd = NSD(root)
    numbers = subjects or nsd.subjects
    if not numbers:
        raise MissingError(f"{nsd.root / 'nsddata_betas/ppdata'}: no subject with betas")

    def wanted(number: int) -> dict[str, Any]:
        # Sessions that came since it was prepared are not passed over in silence.
        here = sorted(sessions or nsd.session_files(number, choice))
        return {**choice.to_dict(), **({"sessions": here} if here else {})}

    def prepare(number: int, folder: Path) -> PreparedSubject:
        return prepare_subject(
            nsd,
            number,
            folder,
            choice=choice,
            sessions=sessions,
            workers=workers,
            progress=progress,
        )

    prepared = _by_main(
        processes,
        lambda: [
            _prepare_one(
                workspace, dataset, f"{n:02d}", wanted(n), partial(prepare, n), overwrite, progress
            )
            for n in numbers
        ],
    )
    result = _with_tokens(
        workspace,
        dataset,
        prepared,
        nsd.read_images,
        encoder,
        device,
        precision,
        processes,
        progress,
    )
    processes.on_main(
        lambda: _write_stimuli(workspace.prepared / dataset, nsd, result.subjects, progress)
    )
    return result


def download_nsd(
    workspace: Workspace,
    root: Path,
    subjects: list[int] | None,
    sessions: list[int] | None,
    choice: Choice,
    lacking: str | None,
    ask: Ask | None,
    progress: Progress,
) -> None:
    """Bring what a choice needs from NSD's bucket, after its terms were accepted.

    Files already whole in ``root`` stay; broken downloads go on; each file is verified.
    """
    if lacking:
        progress.info(lacking)
    if ask is None:
        raise MissingError(f"downloading needs NSD's terms accepted: {nsd_bucket.TERMS}")
    accepted = workspace.root / "nsd_terms.json"
    terms_known = accepted.exists()
    if not terms_known:
        ask.terms(nsd_bucket.TERMS, nsd_bucket.FORM)
        record = {"terms": nsd_bucket.TERMS, "form": nsd_bucket.FORM, "accepted": _now()}
        write_json(accepted, record)
    with locked(root, "a copy of NSD"):
        bucket = Bucket()
        progress.info(f"s3://{bucket.name}: listing what is needed")
        numbers = subjects or list(range(1, len(SESSIONS) + 1))
        needs = nsd_bucket.files_needed(bucket, numbers, sessions, choice)
        files = missing([need.file for need in needs], root)
        if not files:
            progress.info(f"{root}: nothing to fetch")
            return
        check_space(files, root, extra=_prepared_bytes(needs))
        ask.fetch(nsd_bucket.fetch_table(needs, root), root)
        with (
            nsd_bucket.unfinished(root, numbers, choice),
            progress.bar("download", sum(file.size for file in files), unit="B") as bar,
        ):
            fetch(bucket, files, root, progress=bar.to)
        progress.info(f"{root}: {len(files)} files fetched and verified")


def _prepared_bytes(needs: list[nsd_bucket.Need]) -> int:
    """Room for the prepared subjects: 750 trials × some 18,000 voxels × 4 bytes a session."""
    return 750 * 18_000 * 4 * sum(need.group.endswith("betas") for need in needs)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _write_stimuli(
    folder: Path, nsd: NSD, subjects: list[PreparedSubject], progress: Progress
) -> None:
    """``stimuli.tsv``: what NSD's table, and captions where they are, say of the images shown."""
    images = sorted({image for subject in subjects for image in subject.trials["image"]})
    table = nsd.stimuli(images)
    if table is not None:
        with atomic(folder / "stimuli.tsv") as path:
            table.to_csv(path, sep="\t", index=False)
        progress.info(f"{folder / 'stimuli.tsv'}: {len(table):,} images")


def prepare_algonauts(
    workspace: Workspace,
    root: Path,
    *,
    subjects: list[int] | None = None,
    standardize: str = "train",
    test_share: float = 0.1,
    validation_share: float = 0.1,
    seed: int = 0,
    dataset: str = "algonauts",
    encoder: str = "gabor",
    device: str = "cpu",
    precision: str = "auto",
    overwrite: bool = False,
    progress: Progress | None = None,
    processes: Processes = SINGLE_PROCESS,
) -> PrepareResult:
    """Prepare subjects of the Algonauts 2023 challenge's folders.

    Parameters
    ----------
    workspace : Workspace
    root : path
        Folder that holds ``subj01/``, …
    subjects : list of int, optional
        Default: all that are there.
    standardize, test_share, validation_share, seed
        As in `synbrain_cli.datasets.algonauts.prepare_subject`.
    dataset, encoder, device, precision, overwrite, progress, processes
        As in `prepare_nsd`.

    Raises
    ------
    SynbrainError
    """
    progress = progress or Progress()
    challenge = algonauts.Challenge(Path(root))
    wanted = {
        "standardize": standardize,
        "test_share": test_share,
        "validation_share": validation_share,
        "seed": seed,
    }

    def prepare(number: int, folder: Path) -> PreparedSubject:
        return algonauts.prepare_subject(challenge, number, folder, **wanted)

    prepared = _by_main(
        processes,
        lambda: [
            _prepare_one(
                workspace, dataset, f"{n:02d}", wanted, partial(prepare, n), overwrite, progress
            )
            for n in subjects or sorted(challenge.folders)
        ],
    )
    read = challenge.read_images
    return _with_tokens(
        workspace, dataset, prepared, read, encoder, device, precision, processes, progress
    )


def prepare_table(
    workspace: Workspace,
    experiment: Experiment,
    *,
    subject: str,
    dataset: str,
    encoder: str = "gabor",
    device: str = "cpu",
    precision: str = "auto",
    overwrite: bool = False,
    progress: Progress | None = None,
    processes: Processes = SINGLE_PROCESS,
) -> PrepareResult:
    """Prepare a subject of anybody's experiment.

    Parameters
    ----------
    workspace : Workspace
    experiment : Experiment
        Its files, and how they are to be prepared.
    subject : str
        Label.
    dataset : str
        Name below ``prepared/``: the subjects of one dataset share their images.
    encoder, device, precision, overwrite, progress, processes
        As in `prepare_nsd`.

    Raises
    ------
    SynbrainError
    """
    progress = progress or Progress()

    def prepare(folder: Path) -> PreparedSubject:
        return prepare_experiment(experiment, subject, folder, progress=progress)

    wanted = {k: v for k, v in experiment.options().items() if k != "sources"}
    prepared = _by_main(
        processes,
        lambda: [_prepare_one(workspace, dataset, subject, wanted, prepare, overwrite, progress)],
    )
    return _with_tokens(
        workspace,
        dataset,
        prepared,
        TrialTable(experiment).read_images,
        encoder,
        device,
        precision,
        processes,
        progress,
        check_pixels=True,
    )


def _prepare_one(
    workspace: Workspace,
    dataset: str,
    label: str,
    wanted: dict[str, Any],
    prepare: Callable[[Path], PreparedSubject],
    overwrite: bool,
    progress: Progress,
) -> PreparedSubject:
    """Prepare one subject, unless it is there already with the options wanted."""
    folder = workspace.prepared / dataset / f"sub-{label}"
    with locked(folder, "a prepared subject"):
        if (folder / "dataset_description.json").exists() and not overwrite:
            options = PreparedSubject(folder).description.options
            other = [f"{k} {options.get(k)!r}" for k, v in wanted.items() if options.get(k) != v]
            if other:
                raise InputError(
                    f"{folder} was prepared with other options ({', '.join(other)}): pass "
                    "--overwrite to prepare it again, or --dataset for another name"
                )
            progress.info(f"{folder}: already prepared")
            return PreparedSubject(folder)
        subject = prepare(folder)
        left_out = subject.description.voxels_left_out
        progress.info(
            f"{folder}: {len(subject.trials):,} trials, {subject.n_voxels:,} voxels"
            + (f"; {left_out:,} constant or not finite ones left out" if left_out else "")
        )
        return subject


def _by_main(
    processes: Processes, work: Callable[[], list[PreparedSubject]]
) -> list[PreparedSubject]:
    """Subjects that the main process prepares, opened by all."""
    folders = processes.on_main(lambda: [subject.folder for subject in work()])
    return [PreparedSubject(folder) for folder in folders]


def _with_tokens(
    workspace: Workspace,
    dataset: str,
    subjects: list[PreparedSubject],
    read: Read,
    encoder: str,
    device: str,
    precision: str,
    processes: Processes,
    progress: Progress,
    check_pixels: bool = False,
) -> PrepareResult:
    images = sorted({image for subject in subjects for image in subject.trials["image"]})
    store = extract_tokens(
        workspace.prepared / dataset,
        images,
        read,
        encoder,
        device,
        progress,
        precision=precision,
        check_pixels=check_pixels,
        processes=processes,
    )
    return PrepareResult(subjects, store.folder)


def extract_tokens(
    dataset: Path,
    images: list[str],
    read: Read,
    spec: str,
    device: str,
    progress: Progress,
    *,
    precision: str = "auto",
    check_pixels: bool = False,
    processes: Processes = SINGLE_PROCESS,
) -> TokenStore:
    """Extract the tokens of images that have none yet, once per image, whoever saw it.

    Threads read images ahead and the encoder works a batch ahead of the disk, so that it never
    waits. Batches are cut at fixed rows, multiples of their size, and dealt to the processes: on a
    CPU the tokens are the same to the last bit for any number of processes, and wherever a run was
    interrupted. On a GPU they are so as long as the batch size is: one that was halved for want of
    memory may round otherwise, by what the precision allows (1e-3 of a token in fp16).

    Finished rounds survive an interruption: rows are written in place behind those that
    ``images.tsv`` names, and are named only once all of a round are whole.

    Parameters
    ----------
    dataset : path
        ``prepared/<dataset>``.
    images : list of str
    read : callable
        Names → pixels, uint8 (height, width, 3), in the same order; called by several threads.
    spec, device : str
        Image encoder.
    precision : str
        As in `load_encoder`; "auto" goes on in that of tokens that are there.
    check_pixels : bool
        Compare images that are there by name with the pixels their tokens came from: subjects of
        one dataset may come with folders of their own.
    processes : Processes
        Processes that share the images out, and see one disk.

    Raises
    ------
    InputError
        Tokens of another encoder or precision; another image under the same name.
    """
    encoder = load_encoder(spec, device, precision)
    folder = dataset / "features" / encoder.slug
    with processes.held(lambda: locked(folder, "image tokens")):
        kept = processes.on_main(lambda: _kept_precision(folder, encoder, precision))
        recorded = kept or encoder.precision
        if precision == "auto" and encoder.precision != precision_here(recorded, device):
            encoder = load_encoder(spec, device, precision_here(recorded, device))

        def open_store() -> tuple[list[str], int]:
            store = TokenStore(folder)
            if check_pixels:
                _check_pixels(store, images, read)
            known = set(store.images)
            rows = store.images + [image for image in images if image not in known]
            if len(known) == len(rows):
                progress.info(f"{folder}: tokens of {len(rows):,} images, already there")
            else:
                folder.mkdir(parents=True, exist_ok=True)
                for half_written in folder.glob(".*"):
                    half_written.unlink()
                shape = (len(rows), encoder.n_tokens, encoder.n_dims)
                _grow(folder / "tokens.npy", len(known), shape, kept_dtype(recorded))
                record = EncoderIdentity(spec, encoder.identity, recorded)
                write_record(folder / ENCODER, record)
            return rows, len(known)

        rows, done = processes.on_main(open_store)
        if done < len(rows):
            _fill(folder, rows, done, read, encoder, progress, check_pixels, processes)
    return TokenStore(folder)


def _kept_precision(folder: Path, encoder: Encoder, asked: str) -> str | None:
    """Precision of the tokens that are there, checked to be of this encoder; None: there are none.

    Raises
    ------
    InputError
        When they are of another, or of another precision than was asked for.
    """
    store = TokenStore(folder)
    if not store.images:
        return None
    if store.identity.identity != encoder.identity:
        raise InputError(
            f"{folder}: holds tokens of {store.identity.identity}, the encoder is now "
            f"{encoder.identity}: move that folder away to extract them again"
        )
    if asked not in ("auto", store.precision):
        raise InputError(
            f"{folder}: holds tokens computed in {store.precision}, --precision is {asked}: leave "
            "it out to go on with them, or move that folder away to extract them again"
        )
    return store.precision


def _fill(
    folder: Path,
    rows: list[str],
    done: int,
    read: Read,
    encoder: Encoder,
    progress: Progress,
    with_digests: bool,
    processes: Processes,
) -> None:
    """Compute the rows of a token store from ``done`` on, and name them in ``images.tsv``."""
    store = TokenStore(folder)
    digests = store.digests + [""] * (len(rows) - done)
    offset, row_bytes, dtype = store.tokens.offset, store.tokens[0].nbytes, store.tokens.dtype
    size = encoder.batch_size
    edges = [done, *range((done // size + 1) * size, len(rows), size), len(rows)]
    batches = [slice(*edge) for edge in pairwise(edges)]
    rounds = list(processes.deal(batches, BATCHES_A_ROUND))
    own = [batch for _, part in rounds for batch in part]
    own_rows = [row for batch in own for row in range(batch.start, batch.stop)]

    def look(part: list[int]) -> list[tuple[np.ndarray, str]]:
        pictures = read([rows[row] for row in part])
        return [(p, _digest(p) if with_digests else "") for p in pictures]

    def filled(seen: Iterator[tuple[np.ndarray, str]]) -> Iterator[tuple[Any, list[np.ndarray]]]:
        for batch in own:
            pixels, found = zip(*islice(seen, batch.stop - batch.start), strict=True)
            yield (batch, found), list(pixels)

    parts = [own_rows[i : i + READ_TOGETHER] for i in range(0, len(own_rows), READ_TOGETHER)]
    with (
        progress.bar("image tokens", len(rows), done) as bar,
        closing(prefetch(look, parts, READ_TOGETHER * PICTURE_BYTES)) as seen,
        (folder / "tokens.npy").open("r+b") as file,
    ):
        computed = encoder.stream(filled(chain.from_iterable(seen)))
        for whole, part in rounds:
            mine = []
            for (batch, found), tokens in islice(computed, len(part)):
                values = tokens.astype(dtype, copy=False)
                write_at(file.fileno(), values, offset + batch.start * row_bytes)
                mine.append((batch, found))
                bar.to(batch.stop, len(rows))
            os.fsync(file.fileno())
            for batch, found in chain.from_iterable(processes.collect(mine)):
                digests[batch] = found
            stop = whole[-1].stop
            processes.on_main(partial(_write_rows, folder, rows[:stop], digests[:stop]))


def _check_pixels(store: TokenStore, images: list[str], read: Read) -> None:
    known = dict(zip(store.images, store.digests, strict=True))
    again = [image for image in images if image in known]
    for image, pixels in zip(again, read(again), strict=True):
        if _digest(pixels) != known[image]:
            raise InputError(
                f"{store.folder}: another image is known there by the name {image}: subjects of "
                "one dataset share their images; rename it, or choose another --dataset"
            )


def _digest(pixels: np.ndarray) -> str:
    """Checksum of pixels and their shape (BLAKE2b: SHA-256 would be slower than some encoders)."""
    content = hashlib.blake2b(repr(pixels.shape).encode(), digest_size=16)
    content.update(np.ascontiguousarray(pixels))
    return content.hexdigest()


def _grow(path: Path, done: int, shape: tuple[int, ...], dtype: np.dtype) -> None:
    """Give ``path`` that shape, keeping its first ``done`` rows."""
    old = np.load(path, mmap_mode="r") if path.exists() else None
    if old is not None and old.shape == shape and old.dtype == dtype:
        return
    grown = path.with_name(".tokens.npy")
    create_array(grown, dtype, shape)
    new = np.load(grown, mmap_mode="r+")
    for start in range(0, done, 1024):
        new[start : min(start + 1024, done)] = old[start : min(start + 1024, done)]
    new.flush()
    grown.replace(path)


def _write_rows(folder: Path, rows: list[str], digests: list[str]) -> None:
    with atomic(folder / "images.tsv") as path:
        table = pd.DataFrame({"image": rows, "pixels": digests})
        table.to_csv(path, sep="\t", index=False)


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
                "median ncsnr": _rounded(subject.voxels["ncsnr"].median()),
            }
        )
    return rows


def _rounded(value: float) -> str:
    return f"{value:.2f}" if np.isfinite(value) else "unknown"
