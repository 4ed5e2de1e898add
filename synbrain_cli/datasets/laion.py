"""Reading LAION-fMRI from a local folder into prepared subjects.

Five subjects, 25,052 images, about thirty sessions each. The files are described in `laion_files`.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from synbrain_cli.datasets.laion_files import (
    SPLIT_RULES,
    LaionCopy,
    assign_splits,
    betas_key,
    mask_key,
    rois_prefix,
    trials_table,
)
from synbrain_cli.datasets.sessions import add_ncsnr, describe_ncsnr, in_parallel
from synbrain_cli.datasets.splits import check_splits, draw_images
from synbrain_cli.errors import InputError, MissingError
from synbrain_cli.io.betas import n_trials_of, read_masked
from synbrain_cli.io.files import is_simulated, sha256
from synbrain_cli.io.prepared import STANDARDIZATIONS, Origin, PreparedSubject
from synbrain_cli.io.prepared_writer import PreparedWriter
from synbrain_cli.io.reading import AGAIN
from synbrain_cli.io.values import as_float32
from synbrain_cli.io.volume import check_same_grid, load_image, read_3d
from synbrain_cli.io.voxel_space import Volume
from synbrain_cli.paths import is_there, require_regular_file
from synbrain_cli.progress import Progress

UNIT = "percent signal change, shrunk by ridge regression"  # GLMsingle's fourth version of betas


@dataclass(frozen=True)
class Choice:
    """How LAION-fMRI's data are prepared.

    Attributes
    ----------
    rois : tuple of str
        ROIs, the union of which within the subject's mask is modelled; without any, the mask
        itself: voxels of which stimuli explain more than 15 % of the variance, on average over
        sessions.
    standardize : {"session", "train", "none"}
        Standardisation, as in `synbrain_cli.io.prepared_writer.PreparedWriter`, over the trials
        that are kept.
    split : str
        As in `synbrain_cli.datasets.laion_files.assign_splits`.
    validation_share : float
        Share of validation images among training images, where the split names none (ours).
    seed : int
        Seed of the random choice of validation images.

    Raises
    ------
    InputError
        When an option is unknown, or the split is neither a rule nor a file.
    """

    rois: tuple[str, ...] = ()
    standardize: str = "session"
    split: str = SPLIT_RULES[0]
    validation_share: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.standardize not in STANDARDIZATIONS:
            raise InputError(
                f"--standardize {self.standardize}: expected one of {', '.join(STANDARDIZATIONS)}"
            )
        if self.split not in SPLIT_RULES and not is_there(self.split):
            raise InputError(
                f"--split {self.split}: expected {', '.join(SPLIT_RULES)}, a split of LAION-fMRI's "
                "package (sub-01/tau.json) or a table with the columns image and split"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return the options for the record, with the checksum of a split file."""
        options: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        if self.split not in SPLIT_RULES:
            options["split"] = f"{Path(self.split).name} (sha256 {sha256(self.split)})"
        return options


def choose_sessions(copy: LaionCopy, subject: int, sessions: list[int] | None) -> list[int]:
    """Return the sessions to read: those requested, or all in the local copy.

    Raises
    ------
    MissingError, InputError
        When a session is not in the local copy, or is requested twice.
    """
    here = copy.sessions(subject)
    if not here:
        raise MissingError(
            f"{copy.root / betas_key(subject, 1)}: no such betas, nor of another session of "
            f"subject {subject} (here are the subjects {copy.subjects or 'none'}): copy them, or "
            "fetch them with --download"
        )
    if sessions is None:
        return here
    if len(set(sessions)) != len(sessions):
        raise InputError(f"--sessions {sessions}: a session is named twice: name each one once")
    absent = sorted(set(sessions) - set(here))
    if absent:
        raise MissingError(
            f"{copy.root / betas_key(subject, absent[0])} does not exist: of subject {subject} "
            f"there are the sessions {here}"
        )
    return sorted(sessions)


def prepare_subject(
    copy: LaionCopy,
    subject: int,
    folder: Path,
    *,
    choice: Choice | None = None,
    sessions: list[int] | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
) -> PreparedSubject:
    """Read the sessions of one subject into a prepared subject.

    Each worker reads one session at a time, and of it one trial at a time: memory does not depend
    on the number of sessions, nor on the size of their volumes.

    Parameters
    ----------
    copy : LaionCopy
    subject : int
        1, 3, 5, 6 or 7.
    folder : path
        ``prepared/<dataset>/sub-01``. An interrupted run is resumed.
    choice : Choice, optional
    sessions : list of int, optional
        By default all in the local copy.
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
        When a file is absent or damaged, or files are of other trials or grids.
    """
    choice, progress = choice or Choice(), progress or Progress(quiet=True)
    sessions = choose_sessions(copy, subject, sessions)
    shown = [(session, copy.labels(subject, session)) for session in sessions]
    labels = np.concatenate([of_session for _, of_session in shown])
    assigned = _splits(labels, choice)
    kept = labels[assigned != ""]
    check_splits(assigned[assigned != ""], kept, "take more sessions, or another --split")
    copy.require_images(kept)
    trials = trials_table(shown, assigned)
    inside, image, voxels = _voxels(copy, subject, choice)
    files = {session: copy.root / betas_key(subject, session) for session in sessions}
    for (_, of_session), path in zip(shown, files.values(), strict=True):
        _check_session(path, copy.root / mask_key(subject), image, inside, len(of_session))
    starts = np.cumsum([0, *(len(of_session) for _, of_session in shown)])
    rows = {
        session: np.flatnonzero(assigned[start:stop] != "")
        for session, start, stop in zip(sessions, starts, starts[1:], strict=False)
    }
    left_out = len(labels) - len(kept)
    options = {"subject": subject, "sessions": sessions, **choice.to_dict()}
    sources = {
        str(path.relative_to(copy.root)): require_regular_file(path, "betas").stat().st_size
        for path in files.values()
    }
    times = [path.stat().st_mtime_ns for path in files.values()]
    if left_out:
        progress.info(
            f"subject {subject}: {left_out:,} trials of {len(np.unique(labels[assigned == '']))} "
            "images left out, which the split does not name"
        )
    space = Volume.of(inside, image)
    with PreparedWriter(
        folder,
        {**options, "sources": sources, "times": times},
        trials,
        space.n_voxels,
        choice.standardize,
        progress,
    ) as writer:

        def read(session: int) -> None:
            if len(rows[session]):
                betas = as_float32(read_masked(files[session], inside), files[session])
                writer.write_session(session, betas[rows[session]], str(files[session]))

        some = [session for session in sessions if len(rows[session])]
        with progress.bar(f"subject {subject}: sessions", shorter="fewer --sessions") as bar:
            in_parallel(read, some, writer.done, workers, bar.to)
        voxels, reliability = add_ncsnr(voxels, writer)
        progress.info(f"subject {subject}: {describe_ncsnr(reliability)}")
        writer.finish(
            voxels,
            space,
            {},
            Origin(
                name=f"LAION-fMRI subject {subject}, prepared",
                simulated=is_simulated(copy.root),
                space="T1w",
                unit_before_standardization=UNIT,
                options=options,
                sources={name: {"bytes": size} for name, size in sources.items()},
                noise_ceiling_snr=reliability,
            ),
        )
    return PreparedSubject(folder)


def _splits(labels: np.ndarray, choice: Choice) -> np.ndarray:
    """Split of each trial, "" of those left out; validation images are drawn, or named."""
    assigned, validation = assign_splits(labels, choice.split)
    if not validation:
        train = np.unique(labels[assigned == "train"])
        drawn = draw_images([str(label) for label in train], choice.validation_share, choice.seed)
        assigned[np.isin(labels, list(drawn))] = "val"
    return assigned


def _voxels(copy: LaionCopy, subject: int, choice: Choice) -> tuple[np.ndarray, Any, pd.DataFrame]:
    """Mask (x, y, z), the image with its grid, and the table of labels.

    Raises
    ------
    MissingError, InputError
        When a mask or an ROI is absent, damaged, on another grid or empty.
    """
    path = copy.root / mask_key(subject)
    values, image = read_3d(path)
    inside = values > 0
    files = copy.roi_files(subject)
    masks = {}
    for name, file in files.items():
        roi, own = read_3d(file)
        check_same_grid(file, own, path, image)
        masks[name] = roi > 0
    if choice.rois:
        unknown = [name for name in choice.rois if name not in masks]
        if unknown:
            folder = copy.root / rois_prefix(subject)
            raise MissingError(
                f"--roi {unknown[0]}: no {unknown[0]}.nii.gz in {folder}; there are "
                f"{', '.join(masks) or 'none'}"
            )
        inside &= np.any([masks[name] for name in choice.rois], axis=0)
    if not inside.any():
        raise InputError(
            f"{path}: expected voxels above 0"
            + (f" in {', '.join(choice.rois)}" if choice.rois else "")
            + ", found none: choose another --roi"
        )
    table = pd.DataFrame(index=pd.RangeIndex(int(inside.sum())))
    for name, mask in masks.items():
        if mask[inside].any():
            table[name] = np.where(mask[inside], name, "")
    return inside, image, table


def _check_session(
    path: Path, mask_file: Path, mask: Any, inside: np.ndarray, n_trials: int
) -> None:
    """Refuse betas of another grid, or of another number of trials than their table."""
    check_same_grid(path, load_image(path), mask_file, mask)
    found = n_trials_of(path, inside)
    if found != n_trials:
        raise InputError(
            f"{path}: expected the {n_trials:,} trials of its table, found {found:,}: {AGAIN}"
        )
