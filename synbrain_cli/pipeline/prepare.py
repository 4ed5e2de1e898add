"""`synbrain prepare`: data → prepared subjects, and tokens of their images: a recipe per source."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import pandas as pd

from synbrain_cli.datasets import algonauts, nsd_bucket
from synbrain_cli.datasets.download import check_space, fetch, missing
from synbrain_cli.datasets.glmsingle import COUPLED, TYPES, Fits, FitTrials, prepare_fits
from synbrain_cli.datasets.nsd import prepare_subject
from synbrain_cli.datasets.nsd_choice import COUPLED as COUPLED_NSD
from synbrain_cli.datasets.nsd_choice import Choice
from synbrain_cli.datasets.nsd_design import N_IMAGES, SESSIONS, image_name
from synbrain_cli.datasets.nsd_files import NSD
from synbrain_cli.datasets.s3 import Bucket
from synbrain_cli.datasets.simulated import SimulationConfig, simulate
from synbrain_cli.datasets.table import prepare_experiment
from synbrain_cli.datasets.table_experiment import Experiment
from synbrain_cli.datasets.table_trials import TrialTable
from synbrain_cli.errors import InputError, MissingError
from synbrain_cli.io.files import atomic, is_simulated, write_json
from synbrain_cli.io.locks import locked
from synbrain_cli.io.prepared import PreparedSubject
from synbrain_cli.io.token_files import TokenRows
from synbrain_cli.io.workfolder import FolderKind, work_folder
from synbrain_cli.io.workspace import Workspace
from synbrain_cli.labels import subject_label
from synbrain_cli.pipeline.preparing import (
    PrepareResult,
    Shown,
    Target,
    by_main,
    coupled,
    own_images,
    own_rows,
    prepare_one,
    with_tokens,
)
from synbrain_cli.progress import Progress
from synbrain_cli.run import RunContext

SIMULATION = FolderKind("a simulation", "--workspace")


class Consent(Protocol):
    """Asks before anything is downloaded; a refusal is a `SynbrainError`."""

    def terms(self, terms: str, form: str) -> None:
        """Ask whether NSD's terms are accepted."""

    def fetch(self, table: pd.DataFrame, root: Path) -> None:
        """Ask whether these files may be downloaded."""


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
    """

    root: Path | None = None
    subjects: list[int] | None = None
    sessions: list[int] | None = None
    choice: Choice = field(default_factory=Choice)
    download: bool | None = None
    ask: Consent | None = None
    workers: int | None = None

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


def prepare_simulated(
    target: Target, config: SimulationConfig | None = None, run: RunContext | None = None
) -> PrepareResult:
    """Simulate subjects in ``<workspace>/simulated`` and prepare them like NSD's.

    Parameters
    ----------
    target : Target
    config : SimulationConfig, optional
    run : RunContext, optional

    Raises
    ------
    InputError
        Where a simulation with other settings is, unless the target is overwritten.
    """
    config, run = config or SimulationConfig(), run or RunContext()
    root = target.workspace.root / "simulated"
    run.processes.on_main(lambda: _simulate(root, config, target.overwrite, run.progress))
    return prepare_nsd(target, NSDSource(root, download=False), run)


def prepare_nsd(
    target: Target, source: NSDSource | None = None, run: RunContext | None = None
) -> PrepareResult:
    """Prepare subjects of NSD, from its public bucket or a local copy.

    Parameters
    ----------
    target : Target
    source : NSDSource, optional
    run : RunContext, optional
        Its processes extract the tokens together; the main one does all else.

    Raises
    ------
    SynbrainError
        What is wrong with the data, the connection or the folder; subjects finished before stay.
    """
    source, run = source or NSDSource(), run or RunContext()
    root = source.folder(target.workspace)
    run.processes.on_main(lambda: _complete_copy(target.workspace, root, source, run.progress))
    nsd, choice = NSD(root), source.choice
    if choice.preparation == COUPLED_NSD and not nsd.simulated:
        run.progress.info(coupled(f"{COUPLED_NSD} (b3)", "betas_fithrf", "--preparation b2"))
    numbers = source.subjects or nsd.subjects
    if not numbers:
        raise MissingError(f"{nsd.root / 'nsddata_betas/ppdata'}: no subject with betas")

    own = own_rows(target, [image_name(k) for k in range(N_IMAGES)], "NSD's images", run)

    def wanted(number: int) -> dict[str, Any]:
        # Sessions that came since it was prepared are not passed over in silence.
        here = sorted(source.sessions or nsd.session_files(number, choice))
        return {**choice.to_dict(), **({"sessions": here} if here else {})}

    def prepare(number: int, folder: Path) -> PreparedSubject:
        return prepare_subject(
            nsd,
            number,
            folder,
            choice=choice,
            sessions=source.sessions,
            workers=source.workers,
            progress=run.progress,
        )

    prepared = by_main(
        run.processes,
        lambda: [
            prepare_one(target, f"{n:02d}", wanted(n), partial(prepare, n), run.progress)
            for n in numbers
        ],
    )
    result = with_tokens(target, prepared, Shown(nsd.read_images, own=own), run)
    run.processes.on_main(lambda: _write_stimuli(target.folder, nsd, prepared, run.progress))
    return result


def prepare_algonauts(
    target: Target,
    root: Path,
    choice: algonauts.Choice | None = None,
    subjects: list[int] | None = None,
    run: RunContext | None = None,
) -> PrepareResult:
    """Prepare subjects of the Algonauts 2023 challenge's folders.

    Parameters
    ----------
    target : Target
    root : path
        Folder that holds ``subj01/``, …
    choice : Choice of `synbrain_cli.datasets.algonauts`, optional
        Standardisation and splits.
    subjects : list of int, optional
        Default: all that are there.
    run : RunContext, optional

    Raises
    ------
    SynbrainError
    """
    choice, run = choice or algonauts.Choice(), run or RunContext()
    challenge = algonauts.Challenge(Path(root))
    own: tuple[TokenRows, ...] = ()
    if target.tokens:
        every = sorted({name for n in challenge.folders for name in challenge.image_files(n)})
        own = own_rows(target, every, f"the training images of all subjects in {root}", run)

    def prepare(number: int, folder: Path) -> PreparedSubject:
        return algonauts.prepare_subject(challenge, number, folder, choice)

    prepared = by_main(
        run.processes,
        lambda: [
            prepare_one(target, f"{n:02d}", choice.to_dict(), partial(prepare, n), run.progress)
            for n in subjects or sorted(challenge.folders)
        ],
    )
    return with_tokens(target, prepared, Shown(challenge.read_images, own=own), run)


def prepare_table(
    target: Target, experiment: Experiment, subject: str, run: RunContext | None = None
) -> PrepareResult:
    """Prepare a subject of any experiment: a table of trials, responses and images.

    Parameters
    ----------
    target : Target
    experiment : Experiment
        Its files, and how they are to be prepared.
    subject : str
        Label.
    run : RunContext, optional

    Raises
    ------
    SynbrainError
    """
    run, subject = run or RunContext(), subject_label(subject)
    shown = own_images(target, TrialTable(experiment), run)

    def prepare(folder: Path) -> PreparedSubject:
        return prepare_experiment(experiment, subject, folder, progress=run.progress)

    wanted = {k: v for k, v in experiment.options().items() if k != "sources"}
    prepared = by_main(
        run.processes,
        lambda: [prepare_one(target, subject, wanted, prepare, run.progress)],
    )
    return with_tokens(target, prepared, shown, run)


def prepare_glmsingle(
    target: Target, fits: Fits, subject: str, run: RunContext | None = None
) -> PrepareResult:
    """Prepare a subject of any experiment from what GLMsingle left behind.

    Parameters
    ----------
    target : Target
    fits : Fits
        Its files, and how they are to be prepared.
    subject : str
        Label.
    run : RunContext, optional

    Raises
    ------
    SynbrainError
    """
    run, subject = run or RunContext(), subject_label(subject)
    shown = own_images(target, FitTrials.of(fits), run)

    def prepare(folder: Path) -> PreparedSubject:
        return prepare_fits(fits, subject, folder, progress=run.progress)

    wanted = {k: v for k, v in fits.options().items() if k != "sources"}
    if fits.preparation == TYPES[COUPLED]:
        run.progress.info(coupled(fits.preparation, "type B", "--preparation typeb"))
    prepared = by_main(
        run.processes,
        lambda: [prepare_one(target, subject, wanted, prepare, run.progress)],
    )
    return with_tokens(target, prepared, shown, run)


def _simulate(root: Path, config: SimulationConfig, overwrite: bool, progress: Progress) -> None:
    """Simulate an NSD folder, or keep the one that is there."""
    with work_folder(
        root, SIMULATION, config.recorded(), overwrite=overwrite, progress=progress
    ) as work:
        if work.is_finished:
            progress.info(f"simulated subjects: already in {root}")
            return
        with progress.bar("simulating", 1 + config.n_subjects) as bar:
            simulate(work.partial, config, lambda message: bar(message))
        work.put_in_place()


# ---------------------------------------------------------------------------- NSD's own files


def _complete_copy(workspace: Workspace, root: Path, source: NSDSource, progress: Progress) -> None:
    """Download what the copy of NSD lacks, where that is wanted."""
    wanted = source.download
    if is_simulated(root):  # recorded data do not belong beside it
        if wanted:
            raise InputError(f"--root {root} is simulated: NSD's files do not belong there")
        wanted = False
    lacking = None
    if wanted is not False:
        lacking = nsd_bucket.lacks(root, source.subjects, source.sessions, source.choice)
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
        numbers = source.subjects or list(range(1, len(SESSIONS) + 1))
        needs = nsd_bucket.files_needed(bucket, numbers, source.sessions, source.choice)
        files = missing([need.file for need in needs], root)
        if not files:
            progress.info(f"{root}: nothing to download")
            return
        check_space(files, root, extra=_prepared_bytes(needs))
        source.ask.fetch(nsd_bucket.fetch_table(needs, root), root)
        n_bytes = sum(file.size for file in files)
        with (
            nsd_bucket.unfinished(root, numbers, source.choice),
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


def _write_stimuli(
    folder: Path, nsd: NSD, subjects: list[PreparedSubject], progress: Progress
) -> None:
    """Write ``stimuli.tsv``: what NSD's table, and captions where they are, say of the images."""
    images = sorted({image for subject in subjects for image in subject.trials["image"]})
    table = nsd.stimuli(images)
    if table is not None:
        with atomic(folder / "stimuli.tsv") as path:
            table.to_csv(path, sep="\t", index=False)
        progress.info(f"{folder / 'stimuli.tsv'}: {len(table):,} images")
