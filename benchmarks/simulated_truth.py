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

        The factor is the SD of training trials over that of the true distribution of the same
        trials. (The slope of averages on true means has an error of 7 %, and noise variances by it
        one of 14 %.)
        """
        train = self.subject.select("train")
        rows = self.rows(train.images)[train.image_index]
        true, scale = (self.file[name][rows].astype(float) for name in ("mean", "scale"))
        noise = np.square(self.file["loadings"].astype(float)).sum(1)
        noise += np.square(self.file["private"].astype(float))
        with np.load(self._path("_drift")) as file:
            drift = np.square(file["fields"]) @ file["courses"].var(0)
        variance = true.var(0) + np.square(scale).mean(0) * noise + drift
        factor = train.betas.std(0) / np.sqrt(variance)
        return factor, train.betas.mean(0) - factor * true.mean(0)

    def standardised(self, name: str, images: Iterable[str]) -> NDArray[np.float64]:
        """``mean`` or ``driven`` responses to images: (n_images, n_voxels)."""
        factor, offset = self.unit
        return self.file[name][self.rows(images)].astype(float) * factor + offset
