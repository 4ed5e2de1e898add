"""`synbrain prepare mosaic`: a data set of MOSAIC → prepared subjects, and tokens of its images."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from synbrain_cli.datasets import mosaic, mosaic_files
from synbrain_cli.datasets.mosaic_files import MosaicCopy, MosaicSet
from synbrain_cli.datasets.mosaic_stimuli import Stimuli
from synbrain_cli.datasets.s3 import Bucket
from synbrain_cli.io.token_files import TokenRows
from synbrain_cli.io.workspace import Workspace
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


@dataclass(frozen=True)
class MosaicSource:
    """Which data of MOSAIC are prepared, and where they come from.

    Attributes
    ----------
    of : MosaicSet
        One of `synbrain_cli.datasets.mosaic_files.SETS`.
    images : path
        Folder of the stimuli, from the data set's own authors; of NSD, also ``nsd_stimuli.hdf5``.
    root : path, optional
        Copy of MOSAIC; default ``<workspace>/mosaic``.
    subjects : list of int, optional
        Default: all that are there.
    choice : Choice of `synbrain_cli.datasets.mosaic`
        Vertices, standardisation and splits.
    download : bool, optional
        True: fetch whatever ``root`` lacks. False: never. Default: only where ``root`` is not
        enough.
    ask : AskFetch, optional
        Shows what will be downloaded and asks; without it, nothing is downloaded.
    """

    of: MosaicSet
    images: Path
    root: Path | None = None
    subjects: list[int] | None = None
    choice: mosaic.Choice = field(default_factory=mosaic.Choice)
    download: bool | None = None
    ask: AskFetch | None = None

    def folder(self, workspace: Workspace) -> Path:
        """Return the copy of MOSAIC."""
        return workspace.root / "mosaic" if self.root is None else Path(self.root)


def prepare_mosaic(
    target: Target, source: MosaicSource, run: RunContext | None = None
) -> PrepareResult:
    """Prepare subjects of one of MOSAIC's data sets, from its public bucket or a local copy.

    Parameters
    ----------
    target : Target
    source : MosaicSource
    run : RunContext, optional

    Raises
    ------
    SynbrainError
        What is wrong with the data, the connection or the folder; subjects finished before stay.
    """
    run, choice, of = run or RunContext(), source.choice, source.of
    root = source.folder(target.workspace)
    of.require_subjects(source.subjects or ())
    copy = MosaicCopy(root, of)
    stimuli = Stimuli(Path(source.images), copy)
    n_vertices = mosaic.choose_vertices(choice.rois)[0].n_voxels  # before anything is fetched
    run.processes.on_main(lambda: _complete_copy(root, source, n_vertices, run.progress))
    numbers = source.subjects or copy.subjects
    if not numbers:
        copy.require_betas(1)
    own: tuple[TokenRows, ...] = ()
    if target.tokens:
        own = own_rows(target, sorted(copy.stimuli.index), str(copy.table_file), run)

    def wanted(number: int) -> dict[str, Any]:
        return {"set": of.short, **choice.to_dict()}

    prepare = partial(
        mosaic.prepare_subject,
        copy,
        stimuli,
        choice=choice,
        check=target.check,
        progress=run.progress,
    )
    prepared = prepare_each(target, numbers, wanted, prepare, run)
    found = stimuli.require(image for one in prepared for image in one.trials["image"])
    return with_tokens(target, prepared, Shown(partial(stimuli.read, found), own=own), run)


def _complete_copy(root: Path, source: MosaicSource, n_vertices: int, progress: Progress) -> None:
    """Download what the copy lacks, where that is wanted."""
    of = source.of
    numbers = source.subjects or list(range(1, of.n_subjects + 1))
    wanted = Wanted(
        f"MOSAIC ({of.name})",
        partial(mosaic_files.files_needed, of=of, subjects=numbers),
        [of.betas(number) for number in numbers],
        of.n_trials * n_vertices * 4,
        fewer="--subject",
    )
    bucket = Bucket(mosaic_files.BUCKET, mosaic_files.REGION)
    lacks = partial(mosaic_files.lacks, root, of, source.subjects)
    complete_copy(bucket, root, source, lacks, wanted, progress)
