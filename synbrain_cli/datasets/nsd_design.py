"""NSD's experimental design: which image each trial shows, and how images are named."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from synbrain_cli.errors import InputError, MissingError
from synbrain_cli.io.mat import read_mat
from synbrain_cli.io.reading import reading
from synbrain_cli.io.tables import LARGEST

SESSIONS = (40, 40, 32, 30, 40, 32, 40, 30)  # of subjects 1 to 8, all released
N_IMAGES = 73_000


@dataclass(frozen=True)
class Design:
    """NSD's experimental design.

    Attributes
    ----------
    ordering : int array of shape (n_trials,)
        0-based position of the image of each trial in the list of the subject; the same for all
        subjects.
    subject_images : int array of shape (n_subjects, n_images)
        List of images of each subject, as 0-based 73k ids.
    n_shared : int
        The first ``n_shared`` images of each list were shown to all subjects.
    trials_per_session : int
    """

    ordering: np.ndarray
    subject_images: np.ndarray
    n_shared: int
    trials_per_session: int

    @classmethod
    def read(cls, path: Path) -> Design:
        """Read ``nsd_expdesign.mat``.

        Indices in the file are 1-based and of several dtypes; here they are 0-based int64.

        Raises
        ------
        MissingError, InputError
            When the file is absent, damaged, or not NSD's design.
        """
        if not path.exists():
            raise MissingError(
                f"{path} does not exist: --root must be the folder that holds nsddata/"
            )
        with reading(path, "a .mat file of numbers", "copy it again"):
            mat = read_mat(path)
            for variable in ("masterordering", "subjectim", "sharedix", "stimpattern"):
                if variable not in mat or not np.size(mat[variable]):
                    raise InputError(
                        f"{path}: expected numbers in the variable {variable} of NSD's design, "
                        "found none: copy it again"
                    )
            ordering = _indices(mat["masterordering"]).ravel()
            subject_images = _indices(mat["subjectim"])
            n_shared, n_sessions = mat["sharedix"].size, len(mat["stimpattern"])
        n_trials = len(ordering)
        if subject_images.ndim != 2 or not 0 < n_shared <= subject_images.shape[1]:
            raise InputError(
                f"{path}: expected one list of images per subject in subjectim, of which the first "
                f"are shared, found {subject_images.shape} with {n_shared} shared: copy it again"
            )
        if n_trials % n_sessions or ordering.min() < 0 or ordering.max() >= subject_images.shape[1]:
            raise InputError(
                f"{path}: expected {n_sessions} sessions of equal length that show the images 1 to "
                f"{subject_images.shape[1]} of each subject, found {n_trials} trials of the images "
                f"{ordering.min() + 1} to {ordering.max() + 1}: copy it again"
            )
        if subject_images.min() < 0 or subject_images.max() >= N_IMAGES:
            raise InputError(
                f"{path}: expected image ids from 1 to {N_IMAGES:,}, found "
                f"{subject_images.min() + 1} to {subject_images.max() + 1}: copy it again"
            )
        return cls(ordering, subject_images, n_shared, n_trials // n_sessions)

    def images(self, subject: int) -> np.ndarray:
        """Return the 0-based 73k id of the image of every trial of a subject (counted from 1).

        Raises
        ------
        InputError
            When the design does not have the subject.
        """
        if subject > len(self.subject_images):
            raise InputError(
                f"subject {subject}: the design (nsd_expdesign.mat) has {len(self.subject_images)} "
                "subjects: is it of the same experiment as the betas?"
            )
        return self.subject_images[subject - 1, self.ordering]

    def is_shared(self) -> np.ndarray:
        """Return whether the image of each trial was shown to all subjects: bool (n_trials,)."""
        return self.ordering < self.n_shared

    @property
    def n_sessions(self) -> int:
        """Number of sessions of the longest experiment, 40 in NSD."""
        return len(self.ordering) // self.trials_per_session

    def complete_images(self) -> np.ndarray:
        """Return the shared images that every subject saw three times, 515 in NSD.

        The order of trials is the same for all subjects. These are therefore the shared images
        with three repeats in the sessions of the shortest experiment.

        Returns
        -------
        int array of shape (n_complete,)
            0-based 73k ids.
        """
        n_sessions = min(min(SESSIONS), self.n_sessions)
        seen = self.ordering[: n_sessions * self.trials_per_session]
        counts = np.bincount(seen, minlength=self.n_shared)[: self.n_shared]
        return self.subject_images[0, : self.n_shared][counts >= 3]

    def trials(self, subject: int, sessions: list[int], split: np.ndarray) -> pd.DataFrame:
        """Return ``trials.tsv`` of the sessions of a subject: see `synbrain_cli.io.prepared`.

        Parameters
        ----------
        subject : int
        sessions : list of int
        split : array of str of shape (n_trials,)
            Split of each trial, in the order of `shown`.
        """
        rows = self.rows(sessions)
        table = pd.DataFrame(
            {
                "trial": np.arange(len(rows)),
                "session": rows // self.trials_per_session + 1,
                "image": self.shown(subject, sessions),
                "split": split,
            }
        )
        table.insert(3, "repeat", table.groupby("image").cumcount() + 1)
        return table

    def rows(self, sessions: list[int]) -> np.ndarray:
        """Return the trials of the sessions, as 0-based rows of the experiment."""
        n = self.trials_per_session
        return np.concatenate([np.arange((s - 1) * n, s * n) for s in sessions])

    def shown(self, subject: int, sessions: list[int]) -> np.ndarray:
        """Return the name of the image of each trial of the sessions."""
        return np.array([image_name(i) for i in self.images(subject)[self.rows(sessions)]])


def _indices(values: np.ndarray) -> np.ndarray:
    """Convert 1-based whole numbers of any dtype to 0-based int64."""
    if np.any(values != np.floor(values)) or np.abs(values).max() > LARGEST:
        raise ValueError("indices that are not whole numbers")
    return values.astype(np.int64) - 1


def image_name(index: int) -> str:
    """Return the name of an image from its 0-based 73k id; names count from 1, as in NSD."""
    return f"nsd{index + 1:05d}"


def image_id(name: str) -> int:
    """Return the 0-based 73k id of an image from its name."""
    return int(name.removeprefix("nsd")) - 1
