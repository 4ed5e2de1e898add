"""Reading any experiment into a prepared subject: a table of trials, responses, and images.

Responses are an array (neurons, voxels of a mask), volumes (single-trial betas of GLMsingle or
of another program) or surface maps, in one file or in several with consecutive trials. Files and
options are in `table_experiment`, the table and the images in `table_trials`, and the responses in
`table_responses`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from synbrain_cli.datasets.sessions import add_ncsnr, describe_ncsnr
from synbrain_cli.datasets.table_experiment import Experiment
from synbrain_cli.datasets.table_responses import ResponseFiles
from synbrain_cli.datasets.table_trials import TrialTable
from synbrain_cli.errors import InputError
from synbrain_cli.io.files import is_simulated
from synbrain_cli.io.prepared import Origin, PreparedSubject
from synbrain_cli.io.prepared_writer import PreparedWriter
from synbrain_cli.progress import Progress


def prepare_experiment(
    experiment: Experiment,
    subject: str,
    folder: Path,
    *,
    progress: Progress | None = None,
) -> PreparedSubject:
    """Write a prepared subject from the files of any experiment.

    Parameters
    ----------
    experiment : Experiment
    subject : str
        Label of the subject.
    folder : path
        ``prepared/<dataset>/sub-01``. An interrupted run is resumed.
    progress : Progress, optional
        Shows the number of finished files, the choice of test images, and the reliability.

    Returns
    -------
    PreparedSubject

    Raises
    ------
    MissingError, InputError
        When the table, the images, the responses or the mask are absent or not valid.
    """
    progress = progress or Progress(quiet=True)
    table, responses = TrialTable(experiment), ResponseFiles(experiment)
    counts = responses.rows_of_files(len(table.table))
    trials = table.prepared(progress.info)
    voxels, resamplings = responses.voxel_table(), responses.resamplings()
    options = {"subject": subject, **experiment.options()}
    with PreparedWriter(
        folder, options, trials, responses.n_voxels, experiment.standardize, progress
    ) as writer:
        with progress.bar(f"sub-{subject}: files") as bar:
            for done in _write_sessions(table, responses, writer, counts):
                bar.to(done, len(counts))
        voxels, reliability = add_ncsnr(voxels, writer, experiment.averaged_over)
        progress.info(f"sub-{subject}: {describe_ncsnr(reliability, experiment.averaged_over)}")
        writer.finish(
            voxels,
            responses.voxel_space,
            resamplings,
            Origin(
                name=f"Subject {subject}, prepared from {experiment.tables[0].name}",
                simulated=is_simulated(experiment.tables[0].parent),
                space=experiment.space,
                unit_before_standardization=experiment.unit,
                options={k: v for k, v in options.items() if k != "sources"},
                sources={name: {"bytes": size} for name, size in options["sources"].items()},
                noise_ceiling_snr=reliability,
                averaged_over=experiment.averaged_over,
            ),
        )
    return PreparedSubject(folder)


def _write_sessions(
    table: TrialTable, responses: ResponseFiles, writer: PreparedWriter, counts: list[int]
) -> Iterator[int]:
    """Read the files in order, and write each session when its last trial has been read.

    Yields the number of finished files, from 0; ``counts`` are the numbers of trials per file.
    """
    order = writer.trials["trial"].to_numpy()
    row_of = np.empty(len(order), int)  # row of the table → row among the sorted trials
    row_of[order] = np.arange(len(order))
    session_of = writer.trials["session"].to_numpy()
    unwritten: dict[int, np.ndarray] = {}
    left = {session: rows.stop - rows.start for session, rows in writer.rows.items()}
    first = 0
    for index, n in enumerate(counts):
        yield index
        rows = row_of[first : first + n]
        above, first = first, first + n
        sessions = [s for s in dict.fromkeys(session_of[rows].tolist()) if s not in writer.done]
        if not sessions:
            continue
        values, source = responses.read(index), responses.source(index)
        _check_finite(values, source, table, above)
        if values.shape[1] != writer.n_voxels:
            raise InputError(
                f"{source}: expected {writer.n_voxels} voxels as in the first file, found "
                f"{values.shape[1]}"
            )
        for session in sessions:
            span = writer.rows[session]
            chosen = session_of[rows] == session
            whole = unwritten.setdefault(
                session, np.empty((span.stop - span.start, writer.n_voxels), np.float32)
            )
            whole[rows[chosen] - span.start] = values[chosen]
            left[session] -= int(chosen.sum())
            if not left[session]:
                writer.write_session(session, unwritten.pop(session), str(source))
    yield len(counts)


def _check_finite(values: np.ndarray, source: Path, table: TrialTable, above: int) -> None:
    """Raise an `InputError` for trials without values; the file begins at row ``above``."""
    empty = np.flatnonzero(~np.isfinite(values).any(1))
    if len(empty) == len(values):
        raise InputError(
            f"{source}: no voxel has a finite value in any of the {len(values)} trials: is the "
            "mask that of these betas?"
        )
    if len(empty):
        raise InputError(
            f"{source}: {len(empty)} trials have no finite value (first: "
            f"{table.row(above + empty[0])}): leave them out of the table and of the responses"
        )
