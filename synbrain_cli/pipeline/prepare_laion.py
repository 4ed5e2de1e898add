"""`synbrain prepare laion`: LAION-fMRI → prepared subjects, and tokens of their images."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from synbrain_cli.datasets import laion, laion_files
from synbrain_cli.datasets.laion_files import LaionCopy
from synbrain_cli.datasets.s3 import Bucket
from synbrain_cli.errors import MissingError
from synbrain_cli.io.token_files import TokenRows
from synbrain_cli.io.workspace import Workspace
from synbrain_cli.paths import require_folder
from synbrain_cli.pipeline.downloading import AskFetch, Wanted, complete_copy
from synbrain_cli.pipeline.preparing import (
    PrepareResult,
    Shown,
    Target,
    own_rows,
    prepare_each,
    with_tokens,
)
from synbrain_cli.progress import Progress
from synbrain_cli.run import RunContext

BYTES_A_SESSION = 1_066 * 50_000 * 4  # of a prepared session: trials × voxels × float32


@dataclass(frozen=True)
class LaionSource:
    """Which data of LAION-fMRI are prepared, and where they come from.

    Attributes
    ----------
    images : path
        Folder of the stimuli, for which LAION-fMRI has an agreement of its own.
    root : path, optional
        Folder that holds ``derivatives/``; default ``<workspace>/laion``.
    subjects, sessions : list of int, optional
        Default: all that are there.
    choice : Choice of `synbrain_cli.datasets.laion`
        ROIs, standardisation and splits.
    download : bool, optional
        True: fetch whatever the bucket has of the choice and ``root`` lacks. False: never.
        Default: only where ``root`` is not enough.
    ask : AskFetch, optional
        Shows what will be downloaded and asks; without it, nothing is downloaded.
    workers : int, optional
        Sessions read at once; default: one per core.
    """

    images: Path
    root: Path | None = None
    subjects: list[int] | None = None
    sessions: list[int] | None = None
    choice: laion.Choice = field(default_factory=laion.Choice)
    download: bool | None = None
    ask: AskFetch | None = None
    workers: int | None = None

    def folder(self, workspace: Workspace) -> Path:
        """Return the copy of LAION-fMRI."""
        return workspace.root / "laion" if self.root is None else Path(self.root)


def prepare_laion(
    target: Target, source: LaionSource, run: RunContext | None = None
) -> PrepareResult:
    """Prepare subjects of LAION-fMRI, from its public bucket or a local copy.

    Parameters
    ----------
    target : Target
    source : LaionSource
    run : RunContext, optional

    Raises
    ------
    SynbrainError
        What is wrong with the data, the connection or the folder; subjects finished before stay.
    """
    run, choice = run or RunContext(), source.choice
    root = source.folder(target.workspace)
    require_folder(source.images, "--images")
    run.processes.on_main(lambda: _complete_copy(root, source, run.progress))
    copy = LaionCopy(root, Path(source.images))
    numbers = source.subjects or copy.subjects
    if not numbers:
        raise MissingError(f"{root / 'derivatives/glmsingle-tedana'}: no subject with betas")
    own: tuple[TokenRows, ...] = ()
    if target.tokens:
        own = own_rows(target, copy.image_names(), f"the images in {source.images}", run)

    def wanted(number: int) -> dict[str, Any]:
        here = sorted(source.sessions or copy.sessions(number))
        return {**choice.to_dict(), **({"sessions": here} if here else {})}

    prepare = partial(
        laion.prepare_subject,
        copy,
        choice=choice,
        sessions=source.sessions,
        workers=source.workers,
        progress=run.progress,
    )
    prepared = prepare_each(target, numbers, wanted, prepare, run)
    labels = (
        label
        for subject in prepared
        for session in subject.sessions
        for label in copy.labels(int(subject.subject), session)
    )
    shown = {image for subject in prepared for image in subject.trials["image"]}
    files = copy.require_images(label for label in labels if laion_files.image_name(label) in shown)
    return with_tokens(target, prepared, Shown(partial(copy.read_images, files), own=own), run)


def _complete_copy(root: Path, source: LaionSource, progress: Progress) -> None:
    """Download what the copy lacks, where that is wanted."""
    numbers = source.subjects or list(laion_files.SUBJECTS)
    wanted = Wanted(
        "LAION-fMRI",
        partial(laion_files.files_needed, subjects=numbers, sessions=source.sessions),
        [laion_files.subject_prefix(number) for number in numbers],
        BYTES_A_SESSION,
    )
    bucket = Bucket(laion_files.BUCKET, laion_files.REGION)
    lacks = partial(laion_files.lacks, root, source.subjects, source.sessions)
    complete_copy(bucket, root, source, lacks, wanted, progress)
