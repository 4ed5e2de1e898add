"""`synbrain prepare`: data → prepared subjects, and tokens of their images: a recipe per source."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from synbrain_cli.datasets import algonauts, nsd_synthetic
from synbrain_cli.datasets.glmsingle import COUPLED, TYPES, Fits, FitTrials, prepare_fits
from synbrain_cli.datasets.nsd import prepare_subject
from synbrain_cli.datasets.nsd_choice import COUPLED as COUPLED_NSD
from synbrain_cli.datasets.nsd_choice import Choice
from synbrain_cli.datasets.nsd_design import N_IMAGES, image_name
from synbrain_cli.datasets.nsd_files import NSD
from synbrain_cli.datasets.nsd_synthetic import SyntheticFiles
from synbrain_cli.datasets.simulated import SimulationConfig, simulate, simulate_artificial
from synbrain_cli.datasets.table import prepare_experiment
from synbrain_cli.datasets.table_experiment import Experiment
from synbrain_cli.datasets.table_trials import TrialTable
from synbrain_cli.errors import MissingError
from synbrain_cli.io.files import atomic
from synbrain_cli.io.locks import locked
from synbrain_cli.io.prepared import PreparedSubject
from synbrain_cli.io.token_files import TokenRows
from synbrain_cli.io.workfolder import FolderKind, work_folder
from synbrain_cli.labels import subject_label
from synbrain_cli.pipeline.nsd_copy import NSDSource, complete_copy
from synbrain_cli.pipeline.preparing import (
    PrepareResult,
    Shown,
    Target,
    coupled,
    own_images,
    own_rows,
    prepare_each,
    with_tokens,
)
from synbrain_cli.progress import Progress
from synbrain_cli.run import RunContext

SIMULATION = FolderKind("a simulation", "--workspace")


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


def prepare_simulated_artificial(
    target: Target, config: SimulationConfig | None = None, run: RunContext | None = None
) -> PrepareResult:
    """Show artificial images to the subjects in ``<workspace>/simulated``, and prepare the trials.

    The counterpart of NSD-synthetic. Where there are no simulated subjects yet, they are made.

    Parameters
    ----------
    target : Target
        Overwritten are the trials of artificial images, never the subjects.
    config : SimulationConfig, optional
        Of the subjects.
    run : RunContext, optional

    Raises
    ------
    InputError
        Where a simulation with other settings is.
    """
    config, run = config or SimulationConfig(), run or RunContext()
    root = target.workspace.root / "simulated"

    def show() -> None:
        _simulate(root, config, False, run.progress)
        with locked(root, SIMULATION.what):
            files = SyntheticFiles(Choice(), list(range(1, config.n_subjects + 1)))
            if files.lacks(root) is None and not target.overwrite:
                run.progress.info(f"artificial images: already in {root}")
                return
            with run.progress.bar("artificial images", 2 + config.n_subjects) as bar:
                simulate_artificial(root, lambda message: bar(message))

    run.processes.on_main(show)
    source = NSDSource(root, download=False, stimulus_set="synthetic")
    return prepare_nsd_synthetic(target, source, run)


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
    run.processes.on_main(lambda: complete_copy(target.workspace, root, source, run.progress))
    nsd, choice = NSD(root), source.choice
    _say_coupled(nsd, choice, run.progress)
    numbers = source.subjects or nsd.subjects
    if not numbers:
        raise MissingError(f"{nsd.root / 'nsddata_betas/ppdata'}: no subject with betas")

    own = own_rows(target, [image_name(k) for k in range(N_IMAGES)], "NSD's images", run)

    def wanted(number: int) -> dict[str, Any]:
        # Sessions that came since it was prepared are not passed over in silence.
        here = sorted(source.sessions or nsd.session_files(number, choice))
        return {**choice.to_dict(), **({"sessions": here} if here else {})}

    prepare = partial(
        prepare_subject,
        nsd,
        choice=choice,
        sessions=source.sessions,
        workers=source.workers,
        progress=run.progress,
    )
    prepared = prepare_each(target, numbers, wanted, prepare, run)
    result = with_tokens(target, prepared, Shown(nsd.read_images, own=own), run)
    run.processes.on_main(lambda: _write_stimuli(target.folder, nsd, prepared, run.progress))
    return result


def prepare_nsd_synthetic(
    target: Target, source: NSDSource, run: RunContext | None = None
) -> PrepareResult:
    """Prepare subjects' sessions with NSD-synthetic's artificial images, all of them for tests.

    Parameters
    ----------
    target : Target
    source : NSDSource
        With the stimulus set "synthetic".
    run : RunContext, optional

    Raises
    ------
    SynbrainError
        As `prepare_nsd`.
    """
    run, choice = run or RunContext(), source.choice
    nsd_synthetic.check_choice(choice)
    root = source.folder(target.workspace)
    run.processes.on_main(lambda: complete_copy(target.workspace, root, source, run.progress))
    nsd = NSD(root)
    _say_coupled(nsd, choice, run.progress)
    numbers = source.subjects or nsd_synthetic.subjects_of(nsd, choice)
    if not numbers:
        how = (
            "`synbrain prepare simulated --set synthetic` makes them"
            if nsd.simulated
            else ("copy them, or fetch them with --download")
        )
        raise MissingError(
            f"{nsd.root / 'nsddata_betas/ppdata'}: no subject with betas of NSD-synthetic: {how}"
        )

    every = nsd_synthetic.all_images()
    own = own_rows(target, every, "NSD-synthetic's images of all subjects", run)
    prepare = partial(nsd_synthetic.prepare_subject, nsd, choice=choice, progress=run.progress)
    wanted = nsd_synthetic.recorded_options(choice)
    prepared = prepare_each(target, numbers, lambda _: wanted, prepare, run)
    read = partial(nsd_synthetic.read_images, nsd)
    return with_tokens(target, prepared, Shown(read, own=own), run)


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
    prepare = partial(algonauts.prepare_subject, challenge, choice=choice)
    numbers = subjects or sorted(challenge.folders)
    prepared = prepare_each(target, numbers, lambda _: choice.to_dict(), prepare, run)
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
    run = run or RunContext()
    prepare = partial(prepare_experiment, experiment, progress=run.progress)
    return _prepare_own(target, TrialTable(experiment), subject, prepare, run)


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
    run = run or RunContext()
    if fits.preparation == TYPES[COUPLED]:
        run.progress.info(coupled(fits.preparation, "type B", "--preparation typeb"))
    prepare = partial(prepare_fits, fits, progress=run.progress)
    return _prepare_own(target, FitTrials.of(fits), subject, prepare, run)


def _prepare_own(
    target: Target,
    table: TrialTable,
    subject: str,
    prepare: Callable[[str, Path], PreparedSubject],
    run: RunContext,
) -> PrepareResult:
    """Prepare a subject of an experiment of the user's own."""
    subject = subject_label(subject)
    shown = own_images(target, table, run)

    def wanted(_: str) -> dict[str, Any]:
        return {k: v for k, v in table.experiment.options().items() if k != "sources"}

    prepared = prepare_each(target, [subject], wanted, prepare, run)
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


# ------------------------------------------------------------------------------------ NSD


def _say_coupled(nsd: NSD, choice: Choice, progress: Progress) -> None:
    """Say what b3 does to estimates of noise; simulated betas are not regularised."""
    if choice.preparation == COUPLED_NSD and not nsd.simulated:
        progress.info(coupled(f"{COUPLED_NSD} (b3)", "betas_fithrf", "--preparation b2"))


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
