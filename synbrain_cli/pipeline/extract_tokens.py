"""Extraction of image tokens: once per image and band, whichever subjects saw it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice, pairwise
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import numpy as np
import pandas as pd

from synbrain_cli.bands import group_bands
from synbrain_cli.config import Band
from synbrain_cli.errors import InputError, SynbrainError
from synbrain_cli.features.encoder import Encoder, EncoderBand, kept_dtype, precision_here
from synbrain_cli.features.loading import FLOAT32_ONLY, load_encoder
from synbrain_cli.io.files import atomic, create_array, half_written, holds_array, write_at
from synbrain_cli.io.records import write_sealed
from synbrain_cli.io.token_store import (
    COLUMNS,
    ENCODER,
    BandStore,
    TokenStore,
    pixels_checksum,
    row_checksum,
)
from synbrain_cli.io.workfolder import (
    FolderKind,
    WorkFolder,
    partial_folder,
    tidy_finished,
    work_folder,
)
from synbrain_cli.prefetch import prefetch
from synbrain_cli.progress import Progress
from synbrain_cli.run import RunContext

# Names → pixels, uint8 (height, width, 3), in the same order; called by several threads.
ReadImages = Callable[[list[str]], Iterable[np.ndarray]]

# A store grows: what is there is taken over into the next one.
TOKENS = FolderKind("image tokens", "", remakes=True)
BATCHES_PER_ROUND = 16  # of the encoder, in each process: what an interruption may cost
SHORTER = "a smaller --encoder, or a GPU (--device cuda)"
READ_TOGETHER = 64  # images that a thread reads at a time
PICTURE_BYTES = 425 * 425 * 3  # NSD's


@dataclass(frozen=True)
class TokenRequest:
    """With which encoders tokens are extracted.

    Attributes
    ----------
    encoders : tuple of str
        As ``--encoder`` takes them.
    precision : str
        As in `load_encoder`; "auto" continues in that of tokens that are there.
    check_pixels : bool
        Compare images that are there by name with the pixels their tokens came from: subjects of
        one dataset may come with image folders of their own.
    """

    encoders: tuple[str, ...]
    precision: str = "auto"
    check_pixels: bool = False


def extract_tokens(
    dataset: Path, images: list[str], read: ReadImages, request: TokenRequest, run: RunContext
) -> TokenStore:
    """Extract the tokens of images that have none yet, under every band of the encoders.

    Threads prefetch images and the encoder works a batch ahead of the disk, so that it never
    waits. Batches are cut at fixed rows, multiples of their size, and dealt to the processes: on a
    CPU the tokens are the same to the last bit for any number of processes, and wherever a run was
    interrupted. On a GPU they are so as long as the batch size is: one that was halved for want of
    memory may round otherwise, by what the precision allows (1e-3 of a token in fp16).

    An interrupted run continues after its last finished round: ``images.tsv`` of the partial
    folder names the rows that are whole. Layers of one encoder are computed together.

    Parameters
    ----------
    dataset : path
        ``prepared/<dataset>``.
    images : list of str
    read : callable
    request : TokenRequest
    run : RunContext
        Its processes share the images out, and see one disk.

    Raises
    ------
    InputError
        Tokens of another encoder or precision; another image under the same name.
    """
    stores: list[BandStore] = []
    for name, layers in group_bands(request.encoders):
        spec = name + ("@" + ",".join(map(str, layers)) if layers else "")
        stores += _extract(dataset / "features", images, read, spec, request, run)
    return TokenStore(tuple(stores))


def _extract(
    features: Path,
    images: list[str],
    read: ReadImages,
    spec: str,
    request: TokenRequest,
    run: RunContext,
) -> list[BandStore]:
    """As `extract_tokens`, with one encoder, of one or several layers."""
    precision = request.precision
    if precision != "auto" and spec in FLOAT32_ONLY and len(request.encoders) > 1:
        precision = "auto"  # it was meant for the encoders beside it
    encoder = load_encoder(spec, run.device, precision)
    folders = [features / band.slug for band in encoder.bands]
    recorded = run.processes.on_main(
        lambda: _recorded_precision(folders, encoder.bands, request, precision)
    )
    here = precision_here(recorded, run.device)
    if precision == "auto" and encoder.bands[0].precision != here:
        encoder = load_encoder(spec, run.device, here)
    finished = [BandStore(folder) for folder in folders]
    missing = []
    for k, store in enumerate(finished):
        if run.processes.on_main(partial(_are_known, store, images, read, request)):
            run.processes.on_main(partial(tidy_finished, folders[k], TOKENS))
            run.progress.info(
                f"{folders[k]}: tokens of {len(store.images):,} images, already there"
            )
        else:
            missing.append(k)
    if not missing:
        return finished
    encoder, bands = encoder.only(missing), []
    with ExitStack() as stack:
        works = []
        for k, band in zip(missing, encoder.bands, strict=True):
            bands.append(Band(band.spec, band.identity, recorded))
            settings = msgspec.to_builtins(bands[-1])
            work = work_folder(
                folders[k], TOKENS, settings, processes=run.processes, progress=run.progress
            )
            works.append(stack.enter_context(work))
        begun = run.processes.on_main(
            lambda: [
                _open_store(work, images, band, run.progress)
                for work, band in zip(works, bands, strict=True)
            ]
        )
        # Layers of which the same images are missing are computed together.
        together: dict[int, list[int]] = {}
        for k, state in enumerate(begun):
            together.setdefault(begun.index(state), []).append(k)
        for first, own in together.items():
            places = [works[k].partial for k in own]
            _fill(places, *begun[first], read, encoder.only(own), run)
        for work in works:
            run.processes.on_main(work.put_in_place)
    return [BandStore(folder) for folder in folders]


def _recorded_precision(
    folders: list[Path], bands: Sequence[EncoderBand], request: TokenRequest, asked: str
) -> str:
    """Precision of the tokens that are there, or else of the encoder.

    Raises
    ------
    InputError
        When they are of another encoder, or of another precision than was asked for.
    """
    recorded = ""
    for folder, band in zip(folders, bands, strict=True):
        finished, begun = BandStore(folder), BandStore(partial_folder(folder))
        store = next((store for store in (finished, begun) if _has_images(store, finished)), None)
        if store is None:
            continue
        if store.band.identity != band.identity:
            raise InputError(
                f"{store.folder}: holds tokens of {store.band.identity}, the encoder is now "
                f"{band.identity}: move that folder away to extract them again"
            )
        if asked not in ("auto", store.precision) or recorded not in ("", store.precision):
            raise InputError(
                f"{store.folder}: holds tokens computed in {store.precision}, --precision is "
                f"{recorded or request.precision}: leave it out to continue with them, or move "
                "that folder away to extract them again"
            )
        recorded = store.precision
    return recorded or bands[0].precision


def _has_images(store: BandStore, finished: BandStore) -> bool:
    """Whether a store has images; one that was not finished, and cannot be read, has none."""
    try:
        return bool(store.images and store.band)
    except SynbrainError:
        if store is finished:
            raise
        return False


def _are_known(
    store: BandStore, images: list[str], read: ReadImages, request: TokenRequest
) -> bool:
    """Whether the store has all images, under the names of the same pixels where that is asked.

    Raises
    ------
    MissingError, InputError
        Another image under the same name; no array of tokens of these images.
    """
    if request.check_pixels:
        _check_pixels(store, images, read)
    if not set(images) <= set(store.images):
        return False
    _ = store.tokens  # a file that is absent or truncated is said here, not first in training
    return True


def _open_store(
    work: WorkFolder,
    images: list[str],
    band: Band,
    progress: Progress,
) -> tuple[list[str], int]:
    """Make room for the images that have no tokens yet.

    Returns
    -------
    rows : list of str
        Image of every row.
    n_done : int
        Rows that are finished: those of an interrupted run, or of the finished store.
    """
    begun = _rows_begun(work.partial, progress)
    before = begun or BandStore(work.target)
    before.rows_of(before.images)  # damaged tokens are said here, and not copied
    known = set(before.images)
    rows = before.images + [image for image in images if image not in known]
    shape = (len(rows), *band.token_shape)
    old = before.tokens if known else None
    dtype = kept_dtype(band.precision)
    _grow(work.partial / "tokens.npy", old, begun is not None, len(known), shape, dtype)
    write_sealed(work.partial / ENCODER, band)
    write_rows(work.partial, before.images, before.digests, before.checksums)
    return rows, len(known)


def _rows_begun(folder: Path, progress: Progress) -> BandStore | None:
    """Store of an interrupted run, if it has rows; one that is damaged is begun again."""
    store = BandStore(folder)
    try:
        store.rows_of(store.images)
        return store if store.images else None
    except SynbrainError as error:
        progress.info(f"extracting tokens from the beginning: {error}")
        for name in ("images.tsv", "tokens.npy"):
            (folder / name).unlink(missing_ok=True)
        return None


def _fill(
    folders: list[Path],
    rows: list[str],
    n_done: int,
    read: ReadImages,
    encoder: Encoder,
    run: RunContext,
) -> None:
    """Compute the rows of token stores, one per band, from ``n_done`` on; name them in each."""
    processes, n_new = run.processes, len(rows) - n_done
    columns = [_Columns(BandStore(folder), n_new) for folder in folders]
    size = encoder.batch_size
    edges = [n_done, *range((n_done // size + 1) * size, len(rows), size), len(rows)]
    # None where an interrupted run had finished all rows.
    batches = [slice(start, stop) for start, stop in pairwise(edges) if start < stop]
    rounds = list(processes.deal(batches, BATCHES_PER_ROUND))
    own = [batch for _, part in rounds for batch in part]
    own_rows = [row for batch in own for row in range(batch.start, batch.stop)]

    def look(part: list[int]) -> list[tuple[np.ndarray, str]]:
        pictures = read([rows[row] for row in part])
        return [(p, pixels_checksum(p)) for p in pictures]

    def filled(seen: Iterator[tuple[np.ndarray, str]]) -> Iterator[tuple[Any, list[np.ndarray]]]:
        for batch in own:
            pixels, found = zip(*islice(seen, batch.stop - batch.start), strict=True)
            yield (batch, found), list(pixels)

    parts = [own_rows[i : i + READ_TOGETHER] for i in range(0, len(own_rows), READ_TOGETHER)]
    title = f"image tokens, {encoder.spec}"
    with (
        run.progress.bar(title, len(rows), n_done, shorter=SHORTER) as bar,
        closing(prefetch(look, parts, READ_TOGETHER * PICTURE_BYTES)) as seen,
        ExitStack() as stack,
    ):
        files = [stack.enter_context((f / "tokens.npy").open("r+b")) for f in folders]
        computed = encoder.stream(filled(chain.from_iterable(seen)))
        for whole, part in rounds:
            mine = []
            for (batch, found), tokens in islice(computed, len(part)):
                seals = [
                    one.write(file, batch, rows[batch], found, band)
                    for one, file, band in zip(columns, files, tokens.bands, strict=True)
                ]
                mine.append((batch, found, seals))
                bar.to(batch.stop, len(rows))
            for file in files:
                os.fsync(file.fileno())
            for batch, found, seals in chain.from_iterable(processes.collect(mine)):
                for one, own_seals in zip(columns, seals, strict=True):
                    one.digests[batch], one.checksums[batch] = found, own_seals
            stop = whole[-1].stop
            for folder, one in zip(folders, columns, strict=True):
                named = rows[:stop], one.digests[:stop], one.checksums[:stop]
                processes.on_main(partial(write_rows, folder, *named))


class _Columns:
    """Checksums of the rows of one store, and where its rows lie in the file."""

    def __init__(self, store: BandStore, n_new: int) -> None:
        self.digests, self.checksums = (
            column + [""] * n_new for column in (store.digests, store.checksums)
        )
        tokens = store.tokens
        self.offset, self.row_bytes, self.dtype = tokens.offset, tokens[0].nbytes, tokens.dtype

    def write(
        self,
        file: BinaryIO,
        batch: slice,
        names: list[str],
        digests: Sequence[str],
        tokens: np.ndarray,
    ) -> list[str]:
        """Write the rows of a batch; return their checksums."""
        values = tokens.astype(self.dtype, copy=False)
        write_at(file.fileno(), values, self.offset + batch.start * self.row_bytes)
        return list(map(row_checksum, names, digests, values))


def _check_pixels(store: BandStore, images: list[str], read: ReadImages) -> None:
    known = dict(zip(store.images, store.digests, strict=True))
    again = [image for image in images if image in known]
    for image, pixels in zip(again, read(again), strict=True):
        if pixels_checksum(pixels) != known[image]:
            raise InputError(
                f"{store.folder}: another image is known there by the name {image}: subjects of "
                "one dataset share their images; rename it, or choose another --dataset"
            )


def _grow(
    path: Path,
    old: np.ndarray | None,
    is_begun: bool,
    n_kept: int,
    shape: tuple[int, ...],
    dtype: np.dtype,
) -> None:
    """Make an array of that shape at ``path`` with the first rows of an old one.

    Where the old one is the array at ``path``, which an interrupted run began, and has the shape,
    it stays.
    """
    if is_begun and holds_array(path, dtype, shape):
        return
    grown = half_written(path)
    create_array(grown, dtype, shape)
    if old is not None:
        new = np.load(grown, mmap_mode="r+")
        for start in range(0, n_kept, 1024):
            some = slice(start, min(start + 1024, n_kept))
            new[some] = old[some]
        new.flush()
    grown.replace(path)


def write_rows(folder: Path, rows: list[str], digests: list[str], checksums: list[str]) -> None:
    """Write the table of a store: the image of each row, and its checksums."""
    with atomic(folder / "images.tsv") as path:
        table = pd.DataFrame(dict(zip(COLUMNS, (rows, digests, checksums), strict=True)))
        table.to_csv(path, sep="\t", index=False)
