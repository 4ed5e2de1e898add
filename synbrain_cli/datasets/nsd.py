"""Reading the Natural Scenes Dataset from a local folder into prepared subjects.

The files are described in `nsd_files`, the choice among them in `nsd_choice`, the experiment in
`nsd_design`, the voxels of a subject in `nsd_voxels`, and the public bucket in `nsd_bucket`.
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
from synbrain_cli.io.reading import AGAIN
from synbrain_cli.io.surface import HEMISPHERES
from synbrain_cli.io.voxel_space import Geometry, Vertices
from synbrain_cli.paths import require_regular_file
from synbrain_cli.progress import Progress

BETA_SCALE = 300.0  # int16 = percent signal change × 300; float32 (fsaverage) is not scaled


def choose_sessions(
    nsd: NSD, subject: int, choice: Choice, sessions: list[int] | None
) -> list[int]:
    """Return the sessions to read: those requested, or all in the local copy.

    Parameters
    ----------
    nsd : NSD
    subject : int
    choice : Choice
    sessions : list of int, optional
        By default all sessions in the local copy, which must have no gap.

    Raises
    ------
    MissingError, InputError
        When a session is not in the local copy, is not in the design, or is requested twice.
    """
    files = nsd.session_files(subject, choice)
    what = f"{choice.space}/{choice.preparation}"
    if not files:
        raise MissingError(
            f"{nsd.betas_folder(subject, choice)}: no betas of subject {subject} there: copy them, "
            "fetch them with --download, or choose another --space or --preparation"
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
        raise InputError(f"--sessions {sessions}: a session is named twice: name each one once")
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
    """Return the split of each trial of the sessions, as `Choice.split` defines it."""
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
    """Read the sessions of one subject into a prepared subject.

    Each worker reads one session at a time; memory does not depend on the number of sessions.

    Parameters
    ----------
    nsd : NSD
    subject : int
        1-based, as in NSD.
    folder : path
        ``prepared/<dataset>/sub-01``. An interrupted run is resumed.
    choice : Choice, optional
    sessions : list of int, optional
        1-based sessions; by default all in the local copy, which must be the first ones of the
        experiment, without a gap.
    workers : int, optional
        Number of sessions read at once; by default the number of cores.
    progress : Progress, optional
        Shows the number of finished sessions, and the reliability.

    Returns
    -------
    PreparedSubject

    Raises
    ------
    MissingError, InputError
        When the subject or a session is absent, the number of trials is wrong, grids differ, or a
        file is damaged.
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
        str(path.relative_to(nsd.root)): require_regular_file(path, "betas").stat().st_size
        for paths in files.values()
        for path in paths
    }
    # Files of one format have the same size, so that a change is noticed by the time stamp.
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

        with progress.bar(f"subject {subject}: sessions", shorter="fewer --sessions") as bar:
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
    """Read the betas of one session.

    Parameters
    ----------
    paths : tuple of Path
        File of the volume, or files of the left and the right hemisphere.
    inside : bool array of shape (x, y, z), or (n_left + n_right,) on a surface
        The mask.
    voxel_space : Geometry
        Volume or vertices of the mask.

    Returns
    -------
    float32 array of shape (n_trials, n_voxels)
        In percent signal change.

    Raises
    ------
    MissingError, InputError
        When a file is absent, damaged, or of another grid or dtype.
    """
    if isinstance(voxel_space, Vertices):
        left, right = (
            read_at_vertices(path, getattr(voxel_space, h), voxel_space.n_vertices[h])
            for h, path in zip(HEMISPHERES, paths, strict=True)
        )
        if len(left) != len(right):
            raise InputError(
                f"{paths[1]}: expected the {len(left)} trials of {paths[0].name}, found "
                f"{len(right)}: {AGAIN}"
            )
        stored = np.concatenate([left, right], axis=1)
    else:
        stored = read_masked(paths[0], inside)
        if stored.dtype.kind != "i":
            raise InputError(
                f"{paths[0]}: expected integers (percent signal change × {BETA_SCALE:.0f}), found "
                f"{stored.dtype}: is this an NSD betas file?"
            )
    betas = stored.astype(np.float32)
    # NSD scales betas stored as integers (volumes, native surfaces), but not floats (fsaverage).
    if stored.dtype.kind == "i":
        betas /= np.float32(BETA_SCALE)
    return betas
