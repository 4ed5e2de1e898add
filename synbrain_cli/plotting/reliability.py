"""Maps of reliable voxels alone: those whose recordings repeat well enough, by their ncsnr."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from synbrain_cli.brain import Brain
from synbrain_cli.errors import InputError
from synbrain_cli.plotting.maps import BrainMap
from synbrain_cli.plotting.trials import ImageTrials


@dataclass(frozen=True, eq=False)
class Reliability:
    """Which voxels maps show.

    Attributes
    ----------
    least : float or None
        Noise ceiling signal-to-noise ratio (ncsnr) of a voxel from which on it is shown; None
        where all are.
    voxels : bool array of shape (n_voxels,)
        Those that are shown.
    """

    least: float | None
    voxels: np.ndarray

    @classmethod
    def of(cls, brain: Brain, least: float | None) -> Reliability:
        """Choose voxels by the ncsnr that a model's bundle records; a missing ncsnr is too low.

        Parameters
        ----------
        brain : Brain
        least : float or None
            None for all voxels.

        Raises
        ------
        InputError
            When the threshold is not above 0, no ncsnr is recorded, or no voxel reaches it.
        """
        if least is None:
            return cls(None, np.ones(brain.n_voxels, bool))
        option, table = f"--min-ncsnr {least:g}", brain.folder / "voxels.tsv"
        if not 0 < least < math.inf:
            raise InputError(f"{option}: expected more than 0, and a finite number")
        ncsnr = brain.voxels["ncsnr"].to_numpy(float) if "ncsnr" in brain.voxels else np.array([])
        if not np.isfinite(ncsnr).any():
            raise InputError(
                f"{option}: expected an ncsnr of the voxels in {table}, found none, because no "
                "image was repeated and the data came without ncsnr: leave the option out, or "
                "prepare the subject with ncsnr (`synbrain prepare table --voxels`) and train again"
            )
        voxels = ncsnr >= least  # not where it is NaN
        if not voxels.any():
            raise InputError(
                f"{option}: no voxel of {table} reaches it, the highest ncsnr is "
                f"{np.nanmax(ncsnr):.2g}: choose a lower one"
            )
        return cls(least, voxels)

    @property
    def described(self) -> str | None:
        """Threshold, and how many voxels it leaves; None where all are shown."""
        if self.least is None:
            return None
        return f"ncsnr ≥ {self.least:g} in {self.voxels.sum():,} of {len(self.voxels):,} voxels"

    @property
    def caption(self) -> str:
        """A sentence for captions; empty where all voxels are shown."""
        if self.least is None:
            return ""
        return (
            f" Voxels with an ncsnr below {self.least:g} are grey: {self.voxels.sum():,} of "
            f"{len(self.voxels):,} remain."
        )

    @property
    def entity(self) -> str:
        """The threshold in names of files: ``ncsnr-0.2_``; empty where all voxels are shown."""
        return "" if self.least is None else f"ncsnr-{self.least:g}_"

    def map(self, one: BrainMap) -> BrainMap:
        """Return a map without the values of other voxels, with a title and a name that say so."""
        if self.least is None:
            return one
        return replace(
            one,
            name=f"{one.name}_{self.entity[:-1]}",
            title=f"{one.title}; {self.described}",
            unit=one.unit if one.categories is None else one.unit + self.caption,
            values=self._known(one.values),
        )

    def trials(self, one: ImageTrials) -> ImageTrials:
        """Return trials without the values of other voxels."""
        if self.least is None:
            return one
        recorded = None if one.recorded is None else self._known(one.recorded)
        draws, expected = self._known(one.draws), self._known(one.expected)
        return replace(one, draws=draws, expected=expected, recorded=recorded)

    def _known(self, values: np.ndarray) -> np.ndarray:
        return np.where(self.voxels, values, np.float32(np.nan))


def known_on_surface(
    brain: Brain, values: np.ndarray, space: str | None = None
) -> dict[str, np.ndarray]:
    """Resample the voxels that have a value, and no others, to a cortical surface.

    Parameters
    ----------
    brain : Brain
    values : float array of shape (..., n_voxels)
        NaN for the same voxels everywhere.
    space : str, optional
        Default: the subject's (`VoxelSpace.surface`).

    Returns
    -------
    dict of float32 arrays of shape (..., n_vertices)
        For ``left`` and ``right``; NaN at vertices without voxels, and at those that lose more
        than half of their weight with the voxels that have no value.
    """
    values = np.asarray(values)
    known = np.isfinite(values).reshape(-1, values.shape[-1]).all(0)
    resampling = brain.voxel_space.surface_resampling
    if resampling is None or known.all() or not known.any():
        return brain.to_surface(values, space)
    return resampling.keep(known).project(values[..., known], space or brain.voxel_space.surface)
