"""Completing a local copy of a dataset from its public bucket."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pandas as pd

from synbrain_cli.datasets.download import check_space, fetch, missing
from synbrain_cli.datasets.needs import Need, fetch_table, unfinished
from synbrain_cli.datasets.s3 import Bucket
from synbrain_cli.errors import MissingError
from synbrain_cli.io.locks import locked
from synbrain_cli.progress import Progress


class AskFetch(Protocol):
    """Asks before anything is downloaded; a refusal is a `SynbrainError`."""

    def fetch(self, table: pd.DataFrame, root: Path) -> None:
        """Ask whether these files may be downloaded."""


@dataclass(frozen=True)
class Wanted:
    """What is wanted of a dataset.

    Attributes
    ----------
    dataset : str
        Name of the dataset, for messages.
    needed : callable
        Bucket → list of Need; groups of betas end in "betas".
    folders : list of str
        Folders of the betas, which are incomplete while files are downloaded.
    session_bytes : int
        Room that a prepared session takes.
    fewer : str
        Option by which less is fetched.
    """

    dataset: str
    needed: Callable[[Bucket], list[Need]]
    folders: list[str]
    session_bytes: int
    fewer: str = "--sessions"


class Asking(Protocol):
    """Which data are prepared, as far as they are downloaded."""

    @property
    def download(self) -> bool | None:
        """Whether everything is fetched, nothing, or what is needed (None)."""

    @property
    def ask(self) -> AskFetch | None:
        """Asks before; without it, nothing is downloaded."""


def complete_copy(
    bucket: Bucket,
    root: Path,
    source: Asking,
    lacks: Callable[[], str | None],
    wanted: Wanted,
    progress: Progress,
) -> None:
    """Download what a local copy lacks, where that is wanted.

    Parameters
    ----------
    bucket : Bucket
    root : path
    source : Asking
    lacks : callable
        Says what must be fetched; None where nothing must.
    wanted : Wanted
    progress : Progress

    Raises
    ------
    SynbrainError
        As `download`; nobody can be asked.
    """
    lacking = lacks() if source.download is not False else None
    if not (source.download or lacking):
        return
    if lacking:
        progress.info(lacking)
    if source.ask is None:
        raise MissingError(f"{lacking or root}: nothing is downloaded without being asked")
    download(bucket, root, wanted, source.ask, progress)


def download(bucket: Bucket, root: Path, wanted: Wanted, ask: AskFetch, progress: Progress) -> None:
    """Download what a local copy lacks of what is wanted.

    Files already whole in ``root`` stay; broken downloads go on; each file is verified.

    Parameters
    ----------
    bucket : Bucket
    root : path
    wanted : Wanted
    ask : AskFetch
    progress : Progress

    Raises
    ------
    SynbrainError
        What is wrong with the bucket, the connection or the disk; that the user refused.
    """
    with locked(root, f"a copy of {wanted.dataset}"):
        progress.info(f"s3://{bucket.name}: listing what is needed")
        needs = wanted.needed(bucket)
        files = missing([need.file for need in needs], root)
        if files:
            n_sessions = sum(need.group.endswith("betas") for need in needs)
            check_space(files, root, extra=n_sessions * wanted.session_bytes)
            ask.fetch(fetch_table(needs, root), root)
        n_bytes = sum(file.size for file in files)
        with unfinished(root, wanted.folders):
            if not files:
                progress.info(f"{root}: nothing to download")
                return
            with progress.bar(
                "download", n_bytes, unit="B", shorter=f"fewer {wanted.fewer}"
            ) as bar:
                fetch(bucket, files, root, progress=bar.to)
        progress.info(f"{root}: {len(files)} files downloaded and verified")
