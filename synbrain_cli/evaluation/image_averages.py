"""How far averages over images that drive alike responses are off, and what draws know of it.

A model errs alike on images that are alike, so that its errors do not average out over them. Draws
of images must share errors to know that (`synbrain_cli.model.error_fields`): single images cannot
tell whether they do. Groups of images are made by predicted patterns, and none is in two of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from synbrain_cli.groups import Groups
from synbrain_cli.io.results.evaluation import AverageScore
from synbrain_cli.metrics.bootstrap import Bootstrap
from synbrain_cli.metrics.calibration import pit

N_ALIKE = 10  # images that are averaged (ours)
LEAST_GROUPS = 3  # that tell anything (ours)
LEVEL = 0.9

Array = NDArray[np.float32]


def alike_groups(
    patterns: Array,
    blocks: Sequence[slice],
    groups: Groups | None = None,
    size: int = N_ALIKE,
) -> list[NDArray[np.intp]]:
    """Group images of alike patterns: an image that is left, and those most correlated with it.

    Parameters
    ----------
    patterns : float32 array of shape (n_images, n_voxels)
        Predicted, less the mean pattern.
    blocks : sequence of slice
        Images that are compared with each other.
    groups : int array of shape (n_images,), optional
        Images that belong together, as views of one photograph: they stay together.
    size : int
        Of a group, or more where images belong together. Images that are left, fewer, are in none.

    Returns
    -------
    list of int arrays of shape (size,), or more
    """
    unit = patterns - patterns.mean(1, keepdims=True)
    unit = unit / np.maximum(np.linalg.norm(unit, axis=1, keepdims=True), 1e-12)
    label = np.arange(len(unit)) if groups is None else groups
    found = []
    for block in blocks:
        left = np.arange(block.start, block.stop)
        while len(left) >= size:
            nearest = np.argsort(-(unit[left] @ unit[left[0]]), kind="stable")
            chosen = np.zeros(len(left), bool)
            for one in dict.fromkeys(label[left[nearest]].tolist()):
                if chosen.sum() < size:
                    chosen |= label[left] == one
            found.append(left[chosen])
            left = left[~chosen]
    return found


@dataclass(frozen=True, eq=False)
class Averages:
    """Recorded and imitated averages over repeats, of some numbers of each image.

    Attributes
    ----------
    recorded : float32 array of shape (n_images, n_numbers)
    imitated : float32 array of shape (n_images, n_recordings, n_numbers)
        Images of one recording share errors.
    """

    recorded: Array
    imitated: Array

    def score(
        self,
        groups: Sequence[NDArray[np.intp]],
        bootstrap: Bootstrap,
        generator: np.random.Generator,
    ) -> AverageScore:
        """Coverage of the averages over groups, beside that of draws whose images share nothing."""
        found, apart = (one.inside(groups, generator) for one in (self, self.apart()))
        of_groups = replace(bootstrap, groups=np.arange(len(groups)))
        return AverageScore(
            nominal=LEVEL,
            n_groups=len(groups),
            model=float(found.mean()),
            ci=of_groups.limits_of_mean(found),
            apart=float(apart.mean()),
            gain_ci=of_groups.limits_of_mean(found - apart),
        )

    def inside(
        self, groups: Sequence[NDArray[np.intp]], generator: np.random.Generator
    ) -> NDArray[np.float64]:
        """Share of numbers whose average over a group is within the central 90 %: (n_groups,)."""
        found = []
        for rows in groups:
            recorded, drawn = self.recorded[rows].mean(0), self.imitated[rows].mean(0)
            rank = pit(recorded[None], drawn, generator)[0]
            found.append((np.abs(rank - 0.5) <= LEVEL / 2).mean())
        return np.array(found)

    def apart(self) -> Averages:
        """Return imitations in which every image is of another one: images share no errors."""
        n_recordings = self.imitated.shape[1]
        rolled = [np.roll(own, k % n_recordings, 0) for k, own in enumerate(self.imitated)]
        return Averages(self.recorded, np.stack(rolled))
