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
from synbrain_cli.metrics.accuracy import average_repeats


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
        with np.load(self.root / f"simulated/truth/subj{self.subject.subject}.npz") as file:
            return dict(file)

    @cached_property
    def _row(self) -> dict[int, int]:
        own = NSD(self.root / "simulated").design.subject_images[int(self.subject.subject) - 1]
        return {image: row for row, image in enumerate(own)}

    def rows(self, images: Iterable[str]) -> NDArray[np.intp]:
        """Rows of images in the arrays of ``file``."""
        return np.array([self._row[image_id(name)] for name in images])

    @cached_property
    def unit(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Factor and offset, by voxel, from the simulation's unit to standardised responses.

        By least squares from true means to training averages, whose noise does not bias it.
        """
        train = self.subject.select("train")
        averages, index, _ = average_repeats(train.betas, train.image_index)
        true = self.file["mean"][self.rows(train.images[index])].astype(float)
        centred = true - true.mean(0)
        factor = (centred * (averages - averages.mean(0))).sum(0) / np.square(centred).sum(0)
        return factor, averages.mean(0) - factor * true.mean(0)

    def standardised(self, name: str, images: Iterable[str]) -> NDArray[np.float64]:
        """``mean`` or ``driven`` responses to images: (n_images, n_voxels)."""
        factor, offset = self.unit
        return self.file[name][self.rows(images)].astype(float) * factor + offset
