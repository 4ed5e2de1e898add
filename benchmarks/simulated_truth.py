"""The truth of a simulated subject, in the unit of its prepared responses."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from synbrain_cli.datasets.nsd import NSD
from synbrain_cli.datasets.nsd_design import image_id
from synbrain_cli.io.prepared import PreparedSubject


@dataclass(frozen=True)
class SimulatedTruth:
    """What a simulation wrote of a subject's true responses.

    Attributes
    ----------
    root : path
        Workspace of `synbrain demo`.
    subject : PreparedSubject
    """

    root: Path
    subject: PreparedSubject

    @cached_property
    def file(self) -> dict[str, NDArray]:
        """Arrays of `synbrain_cli.datasets.simulated_responses.Responses`."""
        with np.load(self._path()) as file:
            return dict(file)

    def _path(self, of: str = "") -> Path:
        return self.root / f"simulated/truth/subj{self.subject.subject}{of}.npz"

    @cached_property
    def _row(self) -> dict[int, int]:
        own = NSD(self.root / "simulated").design.subject_images[int(self.subject.subject) - 1]
        return {image: row for row, image in enumerate(own)}

    def rows(self, images: Iterable[str]) -> NDArray[np.intp]:
        """Rows of images in the arrays of ``file``."""
        return np.array([self._row[image_id(name)] for name in images])

    def photographs(self, images: Iterable[str]) -> NDArray[np.integer]:
        """Photograph that each image is a view of."""
        with np.load(self.root / "simulated/truth/views.npz") as file:
            photograph: NDArray[np.integer] = file["photograph"]
        return photograph[[image_id(name) for name in images]]

    @cached_property
    def unit(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Factor and offset, by voxel, from the simulation's unit to standardised responses.

        Each session was standardised by mean and SD of its own, which are known; these are means
        over the sessions.
        """
        sessions = np.array(self.subject.sessions)
        mean, sd = self.subject.session_scale(sessions)
        fields, courses = self._drift
        shift = np.stack([own.mean(0) for own in courses])[sessions - 1] @ fields.T
        return (1 / sd).mean(0), ((shift - mean) / sd).mean(0)

    @cached_property
    def _drift(self) -> tuple[NDArray[np.float64], list[NDArray[np.float64]]]:
        """Fields (n_voxels, n_fields) and courses (n_trials, n_fields) of every session."""
        with np.load(self._path("_drift")) as file:
            fields, courses = (file[name].astype(float) for name in ("fields", "courses"))
        return fields, np.split(courses, NSD(self.root / "simulated").design.n_sessions)

    @cached_property
    def drift_within(self) -> NDArray[np.float64]:
        """Drift within sessions, standardised, as factors (n_voxels, n_fields) of trial noise.

        Sessions were standardised, so that what drifts between them is not in their responses.
        """
        fields, courses = self._drift
        within = np.concatenate([own - own.mean(0) for own in courses])
        root = np.linalg.cholesky(within.T @ within / len(within))
        factors: NDArray[np.float64] = fields * self.unit[0][:, None] @ root
        return factors

    def standardised(self, name: str, images: Iterable[str]) -> NDArray[np.float64]:
        """``mean`` or ``driven`` responses to images: (n_images, n_voxels)."""
        factor, offset = self.unit
        return self.file[name][self.rows(images)].astype(float) * factor + offset
