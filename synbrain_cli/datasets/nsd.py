"""The Natural Scenes Dataset in a local folder → prepared subjects.

The folder is `nsd_files`, what is taken of it `nsd_choice`, the experiment `nsd_design`, a
subject's voxels `nsd_voxels`, and the public bucket it can be fetched from `nsd_bucket`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from synbrain_cli.datasets.nsd_choice import SPLIT_RULES, Choice
from synbrain_cli.datasets.nsd_design import Design, image_name
from synbrain_cli.datasets.nsd_files import NSD
from synbrain_cli.datasets.nsd_voxels import SubjectVoxels
from synbrain_cli.datasets.sessions import add_ncsnr, describe_ncsnr, in_parallel
from synbrain_cli.datasets.splits import check_splits, read_split_list, split_trials
from synbrain_cli.errors import InputError, MissingError
from synbrain_cli.io.betas import read_at_vertices, read_masked
from synbrain_cli.io.prepared import Origin, PreparedSubject
from synbrain_cli.io.prepared_writer import PreparedWriter
from synbrain_cli.io.surface import HEMISPHERES
from synbrain_cli.io.voxel_space import Geometry, Vertices
from synbrain_cli.progress import Progress

BETA_SCALE = 300.0  # int16 = percent signal change × 300; float32 (fsaverage) is not scaled


def choose_sessions(
    nsd: NSD, subject: int, choice: Choice, sessions: list[int] | None
) -> list[int]:
    """Sessions to read: those asked for, or all that are here, which must have no gap.

    Raises
    ------
    MissingError, InputError
        One is not here, not in the design, or asked for twice.
    """
    files = nsd.session_files(subject, choice)
    what = f"{choice.space}/{choice.preparation}"
    if not files:
        raise MissingError(
            f"{nsd.betas_folder(subject, choice)}: no betas of subject {subject} there: copy them, "
            "let --download fetch them, or choose another --space or --preparation"
        )
    if sessions is None:
        here = sorted(files)
        if here != list(range(1, len(here) + 1)):
            raise MissingError(
                f"{nsd.root}: subject {subject} has the sessions {here} of {what}; expected "
                "1, 2, … without a gap: copy the missing ones, or choose with --sessions"
            )
        sessions = here
    if len(set(sessions)) != len(sessions):
        raise InputError(f"--sessions {sessions}: a session is named twice")
    absent = sorted(set(sessions) - set(files))
    if absent:
        raise MissingError(
            f"{nsd.root}: subject {subject}: no betas of session {absent[0]} in {what}; here are "
            f"{sorted(files)}"
        )
    if max(sessions) > nsd.design.n_sessions:
        raise InputError(
            f"{files[max(sessions)][0]}: session {max(sessions)} is beyond the design's "
            f"{nsd.design.n_sessions} sessions"
        )
    return sorted(sessions)


def split_design(design: Design, subject: int, sessions: list[int], choice: Choice) -> np.ndarray:
    """Split of each trial of the sessions, as `Choice.split` has it."""
    shown = design.shown(subject, sessions)
    shared = {image_name(i) for i in design.subject_images[subject - 1, : design.n_shared]}
    test, validation = shared, set()
    if choice.split == "shared515":
        test = {image_name(i) for i in design.complete_images()}
        validation = (shared - test) & set(shown)
    elif choice.split not in SPLIT_RULES:
        test, validation = read_split_list(Path(choice.split), shown)
    return split_trials(shown, test, validation, share=choice.validation_share, seed=choice.seed)


def prepare_subject(
    nsd: NSD,
    subject: int,
    folder: Path,
    *,
    choice: Choice | None = None,
    sessions: list[int] | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
) -> PreparedSubject:
    """Read one subject's sessions into a prepared subject.

    Sessions are streamed, one a worker; memory does not depend on their number.

    Parameters
    ----------
    nsd : NSD
    subject : int
        1-based, as in NSD.
    folder : path
        ``prepared/<dataset>/sub-01``. An interrupted run goes on where it stopped.
    choice : Choice
    sessions : list of int, optional
        1-based; default: all that are here, which must be a first part of the experiment.
    workers : int, optional
        Sessions read at once; default: one a core.
    progress : Progress, optional
        Shows the sessions done, and what was found.

    Raises
    ------
    MissingError, InputError
        Unknown subject, missing session, wrong trial count, another grid, damaged files.
    """
    choice, progress = choice or Choice(), progress or Progress(quiet=True)
    if subject not in nsd.subjects:
        raise MissingError(
            f"{nsd.root}: no betas of subject {subject}; here are {nsd.subjects or 'none'}"
        )
    sessions = choose_sessions(nsd, subject, choice, sessions)
    every = nsd.session_files(subject, choice)
    files = {session: every[session] for session in sessions}
    known = SubjectVoxels(nsd, subject, choice)
    inside, voxel_space = known.mask()
    voxels = known.voxel_table(inside)
    resamplings = known.resamplings(inside, voxel_space)
    shown = nsd.design.shown(subject, sessions)
    split = split_design(nsd.design, subject, sessions, choice)
    check_splits(split, shown, "take more sessions, or another --split")
    trials = nsd.design.trials(subject, sessions, split)
    options = {"subject": subject, "sessions": sessions, **choice.to_dict()}
    sources = {
        str(path.relative_to(nsd.root)): path.stat().st_size
        for paths in files.values()
        for path in paths
    }
    # Files of one format have one size: an altered one is known by its time.
    times = [path.stat().st_mtime_ns for paths in files.values() for path in paths]
    with PreparedWriter(
        folder,
        {**options, "sources": sources, "times": times},
        trials,
        voxel_space.n_voxels,
        choice.standardize,
        progress,
    ) as writer:

        def read(session: int) -> None:
            paths = files[session]
            betas = read_session(paths, inside, voxel_space)
            writer.write_session(session, betas, str(paths[0]))

        with progress.bar(f"subject {subject}: sessions") as bar:
            in_parallel(read, sessions, writer.done, workers, bar.to)
        voxels, reliability = add_ncsnr(voxels, writer)
        progress.info(f"subject {subject}: {describe_ncsnr(reliability)}")
        writer.finish(
            voxels,
            voxel_space,
            resamplings,
            Origin(
                name=f"{'Simulated' if nsd.simulated else 'NSD'} subject {subject}, prepared",
                simulated=nsd.simulated,
                space=choice.space,
                unit_before_standardization="percent signal change",
                options=options,
                sources={name: {"bytes": size} for name, size in sources.items()},
                noise_ceiling_snr=reliability,
            ),
        )
    return PreparedSubject(folder)


def read_session(paths: tuple[Path, ...], inside: np.ndarray, voxel_space: Geometry) -> np.ndarray:
    """Betas of one session in percent signal change: float32 (n_trials, n_voxels)."""
    if isinstance(voxel_space, Vertices):
        stored = np.concatenate(
            [
                read_at_vertices(path, getattr(voxel_space, h), voxel_space.n_vertices[h])
                for h, path in zip(HEMISPHERES, paths, strict=True)
            ],
            axis=1,
        )
    else:
        stored = read_masked(paths[0], inside)
        if stored.dtype.kind != "i":
            raise InputError(
                f"{paths[0]}: expected integers (percent signal change × {BETA_SCALE:.0f}), found "
                f"{stored.dtype}: is this an NSD betas file?"
            )
    betas = stored.astype(np.float32)
    # What NSD keeps as integers is scaled (volumes, native surfaces); floats (fsaverage) are not.
    if stored.dtype.kind == "i":
        betas /= np.float32(BETA_SCALE)
    return betas
