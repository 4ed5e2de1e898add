"""A local copy of NSD, completed from its public bucket where files are missing."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, Protocol

from synbrain_cli.datasets import nsd_bucket
from synbrain_cli.datasets.nsd_choice import Choice
from synbrain_cli.datasets.nsd_synthetic import SyntheticFiles
from synbrain_cli.datasets.s3 import Bucket
from synbrain_cli.errors import InputError, MissingError
from synbrain_cli.io.files import is_simulated, write_json
from synbrain_cli.io.workspace import Workspace
from synbrain_cli.pipeline.downloading import AskFetch, Wanted, download
from synbrain_cli.progress import Progress

BYTES_A_SESSION = 750 * 18_000 * 4  # of a prepared session: trials × voxels × float32


class Consent(AskFetch, Protocol):
    """Asks before anything is downloaded; a refusal is a `SynbrainError`."""

    def terms(self, terms: str, form: str) -> None:
        """Ask whether NSD's terms are accepted."""


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
    def files(self) -> nsd_bucket.NeededFiles:
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
    """Download what a choice needs from NSD's bucket, after its terms were accepted."""
    if source.ask is None:
        raise MissingError(f"downloading needs NSD's terms accepted: {nsd_bucket.TERMS}")
    _accept_terms(workspace, source.ask)
    files = source.files
    wanted = Wanted("NSD", files.needed, sorted(files.folders), BYTES_A_SESSION)
    download(Bucket(), root, wanted, source.ask, progress)


def _accept_terms(workspace: Workspace, ask: Consent) -> None:
    """Ask once in a workspace, and record the answer."""
    accepted = workspace.root / "nsd_terms.json"
    if not accepted.exists():
        ask.terms(nsd_bucket.TERMS, nsd_bucket.FORM)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        write_json(accepted, {"terms": nsd_bucket.TERMS, "form": nsd_bucket.FORM, "accepted": now})
