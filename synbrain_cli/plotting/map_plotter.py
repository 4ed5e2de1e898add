"""Maps of one subject as flatmaps, surface views or slices."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from synbrain_cli.brain import Brain
from synbrain_cli.errors import InputError
from synbrain_cli.plotting.categories import AnyScale
from synbrain_cli.plotting.colours import ColourScale
from synbrain_cli.plotting.figure import FORMATS, STYLES
from synbrain_cli.plotting.labels import Labels, simulated_note, subject_labels
from synbrain_cli.plotting.maps import BrainMap
from synbrain_cli.plotting.reliability import known_on_surface
from synbrain_cli.plotting.wheels import angles_of, directions
from synbrain_cli.progress import Progress

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_POOLED = 2_000_000  # values from which the ends of shared colours are taken
SPACES = ("fsaverage5", "fsaverage6", "fsaverage", "fsLR")


@dataclass(frozen=True)
class Look:
    """How figures are plotted and written.

    Attributes
    ----------
    space : str, optional
        Surface on which maps are plotted; default the subject's (`VoxelSpace.surface`).
    threshold, vmax : float, optional
        Limits of the colours, in the map's unit.
    format : {"png", "svg", "pdf"}
    dpi : int, optional
        Dots per inch; default those of the style.
    pycortex : bool
        Whether pycortex plots the flatmaps.
    min_ncsnr : float, optional
        Voxels with a lower ncsnr are left grey; default none.
    style : str, optional
        A name in `synbrain_cli.plotting.figure.STYLES`; default the current style.

    Raises
    ------
    InputError
        When there is no such format or space, or a limit is not above 0, or not finite.
    """

    space: str | None = None
    threshold: float | None = None
    vmax: float | None = None
    format: str = "png"
    dpi: int | None = None
    pycortex: bool = False
    min_ncsnr: float | None = None
    style: str | None = None

    def __post_init__(self) -> None:
        for option, value, choices in (
            ("--format", self.format, FORMATS),
            ("--space", self.space, (None, *SPACES)),
            ("--style", self.style, (None, *STYLES)),
        ):
            if value not in choices:
                named = ", ".join(choice for choice in choices if choice)
                raise InputError(f"{option} {value}: expected one of {named}")
        if self.vmax is not None and not 0 < self.vmax < math.inf:
            raise InputError(f"--vmax {self.vmax:g}: expected more than 0, and a finite number")
        if self.threshold is not None and not 0 <= self.threshold < math.inf:
            raise InputError(f"--threshold {self.threshold:g}: expected 0 or more, and finite")


class MapPlotter:
    """Plots a subject's maps one after another; the ROI outlines are computed once.

    Parameters
    ----------
    brain : Brain
    kind : {"flatmap", "surface"}
    look : Look
    progress : Progress

    Attributes
    ----------
    kind : str
        "slices" where the subject has no transform to a surface.

    Raises
    ------
    InputError
        When there is neither a surface nor a volume to plot on, or not the space asked for.
    """

    def __init__(self, brain: Brain, kind: str, look: Look, progress: Progress) -> None:
        self.brain, self.kind, self._look = brain, kind, look
        where = brain.voxel_space
        self._space = look.space or where.surface
        if self._space in where.other_spaces:
            self._labels = subject_labels(brain, "", self._space)
            return
        if where.surface_resampling is not None:
            others = ", ".join(s for s in where.other_spaces if s in SPACES)
            raise InputError(
                f"{brain.folder}: no transform to {self._space} (--space); there are: "
                f"{others or 'none to fsaverage or fsLR'}"
            )
        if not where.is_volume:
            raise InputError(
                f"{brain.folder}: the position of its voxels is not known, so there is no map to "
                "plot: look at `synbrain plot rois` or at the arrays"
            )
        progress.info(
            f"{brain.name} was prepared without transforms to fsaverage: slices of its own volume "
            "are plotted instead"
        )
        self.kind = "slices"
        self._labels = Labels("", brain.unit, note=simulated_note(brain))

    def __call__(self, shown: BrainMap, vmax: float | None = None) -> Figure:
        """Plot one map.

        Parameters
        ----------
        shown : BrainMap
            Voxels without a value are grey.
        vmax : float, optional
            Upper end of the colours; default that of the look.
        """
        labels = replace(self._labels, title=shown.title, unit=shown.unit, stimulus=shown.stimulus)
        scale = self._scale(shown, vmax)
        if self.kind == "slices":
            from synbrain_cli.plotting.slices import plot_slices

            mask = self.brain.to_nifti(np.ones(self.brain.n_voxels))
            return plot_slices(self.brain.to_nifti(shown.values), labels, scale, mask=mask)
        maps = self._on_surface(shown)
        if self.kind == "surface":
            from synbrain_cli.plotting.surface import plot_surface

            return plot_surface(maps, labels, scale)
        if self._look.pycortex:
            from synbrain_cli.plotting.pycortex import plot_with_pycortex

            return plot_with_pycortex(maps, labels, scale)
        from synbrain_cli.plotting.flatmap import plot_flatmap

        return plot_flatmap(maps, labels, scale)

    def shows(self, shown: BrainMap) -> bool:
        """Whether a map has a value anywhere: vertices between voxels without one have none."""
        if self.kind == "slices":
            return bool(np.isfinite(shown.values).any())
        return any(np.isfinite(values).any() for values in self._on_surface(shown).values())

    @property
    def plots_pairs(self) -> bool:
        """Whether two maps can stand side by side: flatmaps by matplotlib."""
        return self.kind == "flatmap" and not self._look.pycortex

    def pair(self, maps: tuple[BrainMap, BrainMap], vmax: float | None = None) -> Figure:
        """Plot two flatmaps of one unit side by side, with one colour bar.

        Parameters
        ----------
        maps : tuple of BrainMap
            Each has its title above it.
        vmax : float, optional
            Upper end of the colours; default that of the look.
        """
        from synbrain_cli.plotting.flatmap_pair import plot_pair

        surfaces = [known_on_surface(self.brain, one.values, self._space) for one in maps]
        titles = [one.title for one in maps]
        labels = replace(self._labels, title="", unit=maps[0].unit)
        return plot_pair(surfaces, titles, labels, self._scale(maps[0], vmax))

    def common_vmax(self, maps: Iterable[BrainMap], n_maps: int) -> float:
        """Return the upper end of colours that maps share, from the values that they show.

        Parameters
        ----------
        maps : iterable of BrainMap
            Of one unit, `n_maps` of them.
        n_maps : int

        Returns
        -------
        float
            That of the look where it is given. Else as of one map that shows the values of all:
            see `ColourScale`. Of many maps every n-th value is taken.
        """
        if self._look.vmax is not None:
            return self._look.vmax
        values, scale = [], ColourScale()
        for one in maps:
            scale = self._scale(one, None)
            shown = one.values
            if self.kind != "slices":
                on_surface = known_on_surface(self.brain, one.values, self._space)
                shown = np.concatenate(list(on_surface.values()))
            shown = shown[np.isfinite(shown)]
            values.append(shown[:: max(1, n_maps * len(shown) // _MOST_POOLED)])
        return scale.limits(np.concatenate(values))[1]

    def _on_surface(self, shown: BrainMap) -> dict[str, np.ndarray]:
        """Values of vertices; of categories, the one of most of the voxels that a vertex is of."""
        if shown.wheel is not None and shown.wheel.of == "angle":
            around = known_on_surface(self.brain, directions(shown.values), self._space)
            return {side: angles_of(found) for side, found in around.items()}
        if shown.categories is None:
            return known_on_surface(self.brain, shown.values, self._space)
        members = np.arange(len(shown.categories.names))[:, None] == shown.values
        shares = known_on_surface(
            self.brain,
            np.where(np.isfinite(shown.values), members, np.float32(np.nan)),
            self._space,
        )
        return {
            hemisphere: np.where(np.isnan(share).any(0), np.nan, share.argmax(0))
            for hemisphere, share in shares.items()
        }

    def _scale(self, shown: BrainMap, vmax: float | None) -> AnyScale:
        if shown.categories is not None:
            return shown.categories
        if shown.wheel is not None:
            return shown.wheel
        return ColourScale(
            threshold=self._look.threshold,
            vmax=self._look.vmax if vmax is None else vmax,
            vmin=shown.vmin,
            symmetric=shown.symmetric,
        )
