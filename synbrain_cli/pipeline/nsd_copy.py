"""A local copy of NSD, completed from its public bucket where files are missing."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, Protocol

import pandas as pd

from synbrain_cli.datasets import nsd_bucket
from synbrain_cli.datasets.download import check_space, fetch, missing
from synbrain_cli.datasets.nsd_choice import Choice
from synbrain_cli.datasets.nsd_synthetic import SyntheticFiles
from synbrain_cli.datasets.s3 import Bucket
from synbrain_cli.errors import InputError, MissingError
from synbrain_cli.io.files import is_simulated, write_json
from synbrain_cli.io.locks import locked
from synbrain_cli.io.workspace import Workspace
from synbrain_cli.progress import Progress


class Consent(Protocol):
    """Asks before anything is downloaded; a refusal is a `SynbrainError`."""

    def terms(self, terms: str, form: str) -> None:
        """Ask whether NSD's terms are accepted."""

    def fetch(self, table: pd.DataFrame, root: Path) -> None:
        """Ask whether these files may be downloaded."""


class NeededFiles(Protocol):
    """The files of one of NSD's stimulus sets that are needed."""

    @property
    def folders(self) -> set[str]:
        """Folders of their betas, relative to the root or the bucket."""

    def lacks(self, root: Path) -> str | None:
        """Describe what a local copy lacks; None where nothing must be fetched."""

    def needed(self, bucket: Bucket) -> list[nsd_bucket.Need]:
        """List the files of the bucket that are needed."""


StimulusSet = Literal["core", "synthetic"]


@dataclass(frozen=True)
class NSDSource:
    """Which data of NSD are prepared, and where they come from.

    Attributes
    ----------
    root : path, optional
        Folder that holds ``nsddata/``; default ``<workspace>/nsd``.
    subjects, sessions : list of int, optional
        1-based; default: all that are there.
    choice : Choice
        Space, betas, ROIs, standardisation and splits.
    download : bool, optional
        True: download whatever the bucket has of the choice and ``root`` lacks. False: never.
        Default: only where ``root`` is not enough.
    ask : Consent, optional
        Shows what will be downloaded and asks for consent; without it, nothing is downloaded.
    workers : int, optional
        Sessions read at once; default: one per core.
    stimulus_set : {"core", "synthetic"}
        NSD's 73,000 natural scenes, or the artificial images of NSD-synthetic
        (`synbrain_cli.datasets.nsd_synthetic`).
    """

    root: Path | None = None
    subjects: list[int] | None = None
    sessions: list[int] | None = None
    choice: Choice = field(default_factory=Choice)
    download: bool | None = None
    ask: Consent | None = None
    workers: int | None = None
    stimulus_set: StimulusSet = "core"

    @property
    def files(self) -> NeededFiles:
        """The files that are needed."""
        if self.stimulus_set == "synthetic":
            return SyntheticFiles(self.choice, self.subjects)
        return nsd_bucket.CoreFiles(self.choice, self.subjects, self.sessions)

    def folder(self, workspace: Workspace) -> Path:
        """Return the copy of NSD.

        Raises
        ------
        MissingError
            When the folder that was named is no copy of NSD.
        """
        if self.root is None:
            return workspace.root / "nsd"
        if not self.download and not (Path(self.root) / "nsddata").is_dir():
            raise MissingError(
                f"--root {self.root}: expected a folder that holds nsddata/, nsddata_betas/ and "
                "nsddata_stimuli/: check the path, or pass --download to make a copy there"
            )
        return Path(self.root)


def complete_copy(workspace: Workspace, root: Path, source: NSDSource, progress: Progress) -> None:
    """Download what the copy of NSD lacks, where that is wanted."""
    wanted = source.download
    if is_simulated(root):  # recorded data do not belong beside it
        if wanted:
            raise InputError(f"--root {root} is simulated: NSD's files do not belong there")
        wanted = False
    lacking = None
    if wanted is not False:
        lacking = source.files.lacks(root)
    if wanted or lacking:
        if lacking:
            progress.info(lacking)
        _download(workspace, root, source, progress)


def _download(workspace: Workspace, root: Path, source: NSDSource, progress: Progress) -> None:
    """Download what a choice needs from NSD's bucket, after its terms were accepted.

    Files already whole in ``root`` stay; broken downloads go on; each file is verified.
    """
    if source.ask is None:
        raise MissingError(f"downloading needs NSD's terms accepted: {nsd_bucket.TERMS}")
    _accept_terms(workspace, source.ask)
    with locked(root, "a copy of NSD"):
        bucket = Bucket()
        progress.info(f"s3://{bucket.name}: listing what is needed")
        needs = source.files.needed(bucket)
        files = missing([need.file for need in needs], root)
        if not files:
            progress.info(f"{root}: nothing to download")
            return
        check_space(files, root, extra=_prepared_bytes(needs))
        source.ask.fetch(nsd_bucket.fetch_table(needs, root), root)
        n_bytes = sum(file.size for file in files)
        with (
            nsd_bucket.unfinished(root, source.files.folders),
            progress.bar("download", n_bytes, unit="B", shorter="fewer --sessions") as bar,
        ):
            fetch(bucket, files, root, progress=bar.to)
        progress.info(f"{root}: {len(files)} files downloaded and verified")


def _accept_terms(workspace: Workspace, ask: Consent) -> None:
    """Ask once in a workspace, and record the answer."""
    accepted = workspace.root / "nsd_terms.json"
    if not accepted.exists():
        ask.terms(nsd_bucket.TERMS, nsd_bucket.FORM)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        write_json(accepted, {"terms": nsd_bucket.TERMS, "form": nsd_bucket.FORM, "accepted": now})


def _prepared_bytes(needs: Iterable[nsd_bucket.Need]) -> int:
    """Room for the prepared subjects: 750 trials × some 18,000 voxels × 4 bytes a session."""
    return 750 * 18_000 * 4 * sum(need.group.endswith("betas") for need in needs)
