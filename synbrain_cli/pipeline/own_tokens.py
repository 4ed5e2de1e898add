"""Tokens that the user computed: taken over into the store of a dataset."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

from synbrain_cli.config import Band
from synbrain_cli.errors import InputError, SynbrainError
from synbrain_cli.features.encoder import kept_dtype
from synbrain_cli.io.files import create_array
from synbrain_cli.io.records import write_sealed
from synbrain_cli.io.token_files import TokenFile, TokenRows
from synbrain_cli.io.token_store import ENCODER, BandStore, row_checksum
from synbrain_cli.io.workfolder import WorkFolder, tidy_finished, work_folder
from synbrain_cli.labels import derived_name
from synbrain_cli.memory import require_disk
from synbrain_cli.pipeline.extract_tokens import TOKENS, write_rows
from synbrain_cli.run import RunContext

TOGETHER = 64  # images that are taken over at a time


def require_own_tokens(files: Sequence[TokenFile], rows: Sequence[TokenRows]) -> None:
    """Refuse files of tokens of one name; read all numbers once, which finds those not finite.

    Raises
    ------
    InputError
    """
    names = [file.name for file in files]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise InputError(f"--tokens {twice[0]}: given twice: give each file a name, NAME=FILE")
    for one in rows:
        _ = one.identity


def keep_own_tokens(
    dataset: Path, images: Sequence[str], queries: Sequence[str], rows: TokenRows, run: RunContext
) -> BandStore:
    """Take tokens of images over from a file of the user's, as one band.

    Images that the store has already, of other subjects of the dataset, stay. An interrupted run
    begins again.

    Parameters
    ----------
    dataset : path
        ``prepared/<dataset>``.
    images : sequence of str
        Names, as in tables of trials.
    queries : sequence of str
        By what each of them is found in the file: its path, or its name.
    rows : TokenRows
    run : RunContext
        Its main process does it alone.

    Raises
    ------
    MissingError, InputError
        An image without tokens; tokens of another file under the same name.
    """
    folder = dataset / "features" / derived_name(f"tokens-{rows.file.name}")
    run.processes.on_main(lambda: _keep(folder, images, queries, rows, run))
    return BandStore(folder)


def _keep(
    folder: Path, images: Sequence[str], queries: Sequence[str], rows: TokenRows, run: RunContext
) -> None:
    file = rows.file
    own = dict(zip(images, rows.rows_of(queries), strict=True))
    band = Band(file.spec, rows.identity, file.precision)
    before = BandStore(folder)
    if (folder / ENCODER).exists():
        if before.band != band:
            raise InputError(
                f"{folder}: holds tokens {file.name} of another file, {file.path} has others, or "
                "names other images: subjects of one dataset share one file of each name; put the "
                "tokens of all images into one file, choose another name (--tokens NAME="
                f"{file.path}), or move that folder away"
            )
        if set(own) <= set(before.images):
            _ = before.tokens  # a file that is absent or truncated is said here
            tidy_finished(folder, TOKENS)
            run.progress.info(f"{folder}: tokens of {len(before.images):,} images, already there")
            return
        # Names of images are those of their rows: see the identity
        known = [name for name in before.images if name not in own]
        own = dict(zip(known, _rows_before(rows, before, known), strict=True)) | own
    with work_folder(folder, TOKENS, msgspec.to_builtins(band), progress=run.progress) as work:
        _write(work, own, rows, band, run)
        work.put_in_place()


def _rows_before(rows: TokenRows, before: BandStore, names: list[str]) -> list[int]:
    try:
        return rows.rows_of(names)
    except SynbrainError as error:
        raise InputError(f"{before.folder}: {error}") from error


def _write(
    work: WorkFolder, own: dict[str, int], rows: TokenRows, band: Band, run: RunContext
) -> None:
    """Write the rows of a store: ``own`` has the row in the file of each image."""
    names, dtype = list(own), kept_dtype(band.precision)
    shape = (len(names), *band.token_shape)
    require_disk(
        float(np.prod(shape, dtype=np.float64) * dtype.itemsize),
        work.partial,
        f"a copy of {rows.file.path}",
        "save the tokens as float16",
    )
    path = work.partial / "tokens.npy"
    path.unlink(missing_ok=True)
    create_array(path, dtype, shape)
    kept = np.load(path, mmap_mode="r+")
    checksums: list[str] = []
    with run.progress.bar(f"tokens of your own, {rows.file.name}", len(names)) as bar:
        for first in range(0, len(names), TOGETHER):
            some = names[first : first + TOGETHER]
            values = rows.file.read([own[name] for name in some]).astype(dtype)
            kept[first : first + len(some)] = values
            checksums += [row_checksum(n, "", v) for n, v in zip(some, values, strict=True)]
            bar.to(first + len(some))
    kept.flush()
    write_sealed(work.partial / ENCODER, band)
    write_rows(work.partial, names, [""] * len(names), checksums)
