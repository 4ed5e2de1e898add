"""`synbrain prepare`: data → prepared subjects, and tokens of their images."""

from __future__ import annotations

import hashlib
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd

from synbrain_cli.datasets import algonauts, nsd_bucket
from synbrain_cli.datasets.download import Bucket, check_space, fetch, missing
from synbrain_cli.datasets.nsd import NSD, SESSIONS, Choice, prepare_subject
from synbrain_cli.datasets.simulated import SimulationConfig, simulate
from synbrain_cli.datasets.table import Experiment, prepare_experiment
from synbrain_cli.errors import InputError, MissingError
from synbrain_cli.features.encoders import load_encoder
from synbrain_cli.io.files import (
    atomic,
    create_array,
    is_simulated,
    locked,
    read_json,
    write_json,
)
from synbrain_cli.io.prepared import PreparedSubject, TokenStore
from synbrain_cli.pipeline.progress import Bar, Report
from synbrain_cli.pipeline.workspace import Workspace

TOKEN_BATCH = 64
READ_AHEAD = 2 * TOKEN_BATCH  # images waiting for the encoder: 70 MB of NSD's


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
        download=False,
        dataset="simulated",
        encoder=encoder,
        device=device,
        overwrite=overwrite,
        report=report,
    )


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
    overwrite: bool = False,
    report: Report | None = None,
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
    overwrite : bool
        Prepare again what is there already.
    report : Report, optional

    Raises
    ------
    SynbrainError
        What is wrong with the data, the connection or the folder; subjects finished before stay.
    """
    report = report or Report()
    choice = choice or Choice()
    if root is not None and not download and not (Path(root) / "nsddata").is_dir():
        raise MissingError(
            f"--root {root}: expected a folder that holds nsddata/, nsddata_betas/ and "
            "nsddata_stimuli/: check the path, or pass --download to make a copy there"
        )
    root = Path(root) if root is not None else workspace.root / "nsd"
    if is_simulated(root):  # not to be mixed with anybody's data
        if download:
            raise InputError(f"--root {root} is simulated: NSD's files do not belong there")
        download = False
    lacking = None if download is False else nsd_bucket.lacks(root, subjects, sessions, choice)
    if download or (download is None and lacking):
        download_nsd(workspace, root, subjects, sessions, choice, lacking, ask, report)
    nsd = NSD(root)
    numbers = subjects or nsd.subjects
    if not numbers:
        raise MissingError(f"{nsd.root / 'nsddata_betas/ppdata'}: no subject with betas")

    def wanted(number: int) -> dict[str, Any]:
        # Sessions that came since it was prepared are not passed over in silence.
        here = sorted(sessions or nsd.session_files(number, choice))
        return {**choice.to_dict(), **({"sessions": here} if here else {})}

    def prepare(number: int, folder: Path, bar: Bar) -> PreparedSubject:
        return prepare_subject(
            nsd,
            number,
            folder,
            choice=choice,
            sessions=sessions,
            workers=workers,
            progress=bar.to,
            say=report.say,
        )

    prepared = [
        _prepare_one(
            workspace, dataset, f"{n:02d}", wanted(n), partial(prepare, n), overwrite, report
        )
        for n in numbers
    ]
    result = _with_tokens(workspace, dataset, prepared, nsd.read_images, encoder, device, report)
    _write_stimuli(workspace.prepared / dataset, nsd, result.subjects, report)
    return result


def download_nsd(
    workspace: Workspace,
    root: Path,
    subjects: list[int] | None,
    sessions: list[int] | None,
    choice: Choice,
    lacking: str | None,
    ask: Ask | None,
    report: Report,
) -> None:
    """Bring what a choice needs from NSD's bucket, after its terms were accepted.

    Files already whole in ``root`` stay; broken downloads go on; each file is verified.
    """
    if lacking:
        report.say(lacking)
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
        report.say(f"s3://{bucket.name}: listing what is needed")
        numbers = subjects or list(range(1, len(SESSIONS) + 1))
        needs = nsd_bucket.files_needed(bucket, numbers, sessions, choice)
        files = missing([need.file for need in needs], root)
        if not files:
            report.say(f"{root}: nothing to fetch")
            return
        check_space(files, root, extra=_prepared_bytes(needs))
        ask.fetch(nsd_bucket.fetch_table(needs, root), root)
        with (
            nsd_bucket.unfinished(root, numbers, choice),
            report.bar("download", sum(file.size for file in files), unit="B") as bar,
        ):
            fetch(bucket, files, root, progress=bar.to)
        report.say(f"{root}: {len(files)} files fetched and verified")


def _prepared_bytes(needs: list[nsd_bucket.Need]) -> int:
    """Room for the prepared subjects: 750 trials × some 18,000 voxels × 4 bytes a session."""
    return 750 * 18_000 * 4 * sum(need.group.endswith("betas") for need in needs)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _write_stimuli(folder: Path, nsd: NSD, subjects: list[PreparedSubject], report: Report) -> None:
    """``stimuli.tsv``: what NSD's table, and captions where they are, say of the images shown."""
    images = sorted({image for subject in subjects for image in subject.trials["image"]})
    table = nsd.stimuli(images)
    if table is not None:
        with atomic(folder / "stimuli.tsv") as path:
            table.to_csv(path, sep="\t", index=False)
        report.say(f"{folder / 'stimuli.tsv'}: {len(table):,} images")


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
    overwrite: bool = False,
    report: Report | None = None,
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
    dataset, encoder, device, overwrite, report
        As in `prepare_nsd`.

    Raises
    ------
    SynbrainError
    """
    report = report or Report()
    challenge = algonauts.Challenge(Path(root))
    wanted = {
        "standardize": standardize,
        "test_share": test_share,
        "validation_share": validation_share,
        "seed": seed,
    }

    def prepare(number: int, folder: Path, bar: Bar) -> PreparedSubject:
        return algonauts.prepare_subject(challenge, number, folder, **wanted)

    prepared = [
        _prepare_one(workspace, dataset, f"{n:02d}", wanted, partial(prepare, n), overwrite, report)
        for n in subjects or sorted(challenge.folders)
    ]
    read = challenge.read_images
    return _with_tokens(workspace, dataset, prepared, read, encoder, device, report)


def prepare_table(
    workspace: Workspace,
    experiment: Experiment,
    *,
    subject: str,
    dataset: str,
    encoder: str = "gabor",
    device: str = "cpu",
    overwrite: bool = False,
    report: Report | None = None,
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
    encoder, device, overwrite, report
        As in `prepare_nsd`.

    Raises
    ------
    SynbrainError
    """
    report = report or Report()

    def prepare(folder: Path, bar: Bar) -> PreparedSubject:
        return prepare_experiment(experiment, subject, folder, progress=bar.to, say=report.say)

    wanted = {k: v for k, v in experiment.options().items() if k != "sources"}
    one = _prepare_one(workspace, dataset, subject, wanted, prepare, overwrite, report)
    read = experiment.read_images
    return _with_tokens(workspace, dataset, [one], read, encoder, device, report, check_pixels=True)


def _prepare_one(
    workspace: Workspace,
    dataset: str,
    label: str,
    wanted: dict[str, Any],
    prepare: Callable[[Path, Bar], PreparedSubject],
    overwrite: bool,
    report: Report,
) -> PreparedSubject:
    """Prepare one subject, unless it is there already with the options wanted."""
    folder = workspace.prepared / dataset / f"sub-{label}"
    with locked(folder, "a prepared subject"):
        if (folder / "dataset_description.json").exists() and not overwrite:
            options = PreparedSubject(folder).description["Options"]
            other = [f"{k} {options.get(k)!r}" for k, v in wanted.items() if options.get(k) != v]
            if other:
                raise InputError(
                    f"{folder} was prepared with other options ({', '.join(other)}): pass "
                    "--overwrite to prepare it again, or --dataset for another name"
                )
            report.say(f"{folder}: already prepared")
            return PreparedSubject(folder)
        with report.bar(f"sub-{label}: sessions") as bar:
            subject = prepare(folder, bar)
        left_out = subject.description["VoxelsLeftOut"]
        report.say(
            f"{folder}: {len(subject.trials):,} trials, {subject.n_voxels:,} voxels"
            + (f"; {left_out:,} constant or not finite ones left out" if left_out else "")
        )
        return subject


def _with_tokens(
    workspace: Workspace,
    dataset: str,
    subjects: list[PreparedSubject],
    read: Callable[[list[str]], Iterable[np.ndarray]],
    encoder: str,
    device: str,
    report: Report,
    check_pixels: bool = False,
) -> PrepareResult:
    images = sorted({image for subject in subjects for image in subject.trials["image"]})
    folder = workspace.prepared / dataset
    store = extract_tokens(folder, images, read, encoder, device, report, check_pixels)
    return PrepareResult(subjects, store.folder)


def extract_tokens(
    dataset: Path,
    images: list[str],
    read: Callable[[list[str]], Iterable[np.ndarray]],
    spec: str,
    device: str,
    report: Report,
    check_pixels: bool = False,
) -> TokenStore:
    """Extract the tokens of images that have none yet, once per image, whoever saw it.

    Images are read in a thread of their own, in order and some ahead, so that the encoder does not
    wait for the disk. Finished batches survive an interruption: the array is written in place
    behind the rows that ``images.tsv`` names, and rows are named only once they are whole.

    Parameters
    ----------
    dataset : path
        ``prepared/<dataset>``.
    images : list of str
    read : callable
        Names → pixels, uint8 (height, width, 3), in the same order.
    spec, device : str
        Image encoder.
    check_pixels : bool
        Compare images that are there by name with the pixels their tokens came from: subjects of
        one dataset may come with folders of their own.

    Raises
    ------
    InputError
        Tokens of another encoder; another image under the same name.
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
        if check_pixels:
            _check_pixels(store, images, read)
        known = set(store.images)
        rows = store.images + [image for image in images if image not in known]
        digests = list(store.digests)
        done = len(store.images)
        if done == len(rows):
            report.say(f"{folder}: tokens of {done:,} images, already there")
            return store
        folder.mkdir(parents=True, exist_ok=True)
        tokens = _grown(folder / "tokens.npy", done, (len(rows), encoder.n_tokens, encoder.n_dims))
        write_json(folder / "encoder.json", {"spec": spec, "identity": encoder.identity})
        with report.bar("image tokens", len(rows), done) as bar:
            start = done
            pictures = ((p, _digest(p) if check_pixels else "") for p in read(rows[done:]))
            for batch in _batches(_ahead(pictures, READ_AHEAD), TOKEN_BATCH):
                stop = start + len(batch)
                tokens[start:stop] = encoder([pixels for pixels, _ in batch])
                digests += [digest for _, digest in batch]
                if stop == len(rows) or (stop - done) % (16 * TOKEN_BATCH) == 0:
                    tokens.flush()
                    _write_rows(folder, rows[:stop], digests)
                bar.to(stop, len(rows))
                start = stop
    return TokenStore(folder)


def _check_pixels(
    store: TokenStore, images: list[str], read: Callable[[list[str]], Iterable[np.ndarray]]
) -> None:
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


def _ahead(items: Iterable[Any], n: int) -> Iterator[Any]:
    """The same items, read by a thread that is up to ``n`` of them ahead."""
    waiting: queue.Queue[Any] = queue.Queue(n)
    end, stop = object(), threading.Event()

    def put(item: Any) -> bool:
        while not stop.is_set():
            try:
                waiting.put(item, timeout=0.1)
            except queue.Full:
                continue
            return True
        return False

    def work() -> None:
        try:
            for item in items:
                if not put(item):
                    return
            put(end)
        except BaseException as error:
            put(error)

    threading.Thread(target=work, daemon=True).start()
    try:
        while (item := waiting.get()) is not end:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stop.set()


def _batches(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Lists of ``size`` items, the last one shorter."""
    items = iter(items)
    while batch := list(islice(items, size)):
        yield batch


def _grown(path: Path, done: int, shape: tuple[int, ...]) -> np.ndarray:
    """Open ``path`` for writing with ``shape``, keeping its first ``done`` rows."""
    old = np.load(path, mmap_mode="r") if path.exists() and done else None
    if old is None or old.shape != shape:
        grown = path.with_name(".tokens.npy")
        create_array(grown, np.float32, shape)
        new = np.load(grown, mmap_mode="r+")
        for start in range(0, done, 1024):
            new[start : min(start + 1024, done)] = old[start : min(start + 1024, done)]
        new.flush()
        del old, new
        grown.replace(path)
    return np.load(path, mmap_mode="r+")


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
