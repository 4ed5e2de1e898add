"""Maps as pictures of a report, with alternative texts that give the means of regions."""

from __future__ import annotations

import functools
from collections.abc import Iterable

import numpy as np

from synbrain_cli.brain import Brain
from synbrain_cli.errors import InputError
from synbrain_cli.plotting.labels import plotted_rois
from synbrain_cli.plotting.map_plotter import Look, MapPlotter
from synbrain_cli.plotting.maps import BrainMap
from synbrain_cli.plotting.reliability import Reliability
from synbrain_cli.plotting.report.page import Picture, plotted
from synbrain_cli.progress import Progress


class MapPictures:
    """Makes pictures of a model's maps.

    Parameters
    ----------
    brain : Brain
    reliability : Reliability
        Which voxels are shown.
    progress : Progress

    Attributes
    ----------
    reliability : Reliability
    why_none : str, optional
        Why no map can be plotted.
    """

    def __init__(self, brain: Brain, reliability: Reliability, progress: Progress) -> None:
        self.brain, self.reliability = brain, reliability
        self._masks = plotted_rois(brain)
        self._plot: MapPlotter | None = None
        self.why_none: str | None = None
        try:
            self._plot = MapPlotter(brain, "flatmap", Look(), progress)
        except InputError as error:
            self.why_none = str(error).removeprefix(f"{brain.folder}: ")

    @property
    def are_flatmaps(self) -> bool:
        """Whether maps are flatmaps; else they are slices, or there are none."""
        return self._plot is not None and self._plot.kind == "flatmap"

    def common_vmax(self, maps: Iterable[BrainMap], n_maps: int) -> float:
        """Return the upper end of colours that maps share: see `MapPlotter.common_vmax`."""
        return self._plotter.common_vmax(map(self.reliability.map, maps), n_maps)

    def picture(self, shown: BrainMap, caption: str, vmax: float | None = None) -> Picture:
        """Return a flatmap or slices.

        Parameters
        ----------
        shown : BrainMap
        caption : str
        vmax : float, optional
            Upper end of the colours.
        """
        shown = self.reliability.map(shown)
        plot = functools.partial(self._plotter, shown, vmax)
        return plotted(plot, self._alternative(shown), self._captioned(caption))

    def pair(self, first: BrainMap, second: BrainMap, caption: str) -> list[Picture]:
        """Return two maps on one colour scale: flatmaps side by side, or slices in two pictures.

        Parameters
        ----------
        first, second : BrainMap
        caption : str
            Of both.
        """
        maps = self.reliability.map(first), self.reliability.map(second)
        vmax = self._plotter.common_vmax(maps, 2)
        if not self.are_flatmaps:
            return [self.picture(one, caption, vmax) for one in (first, second)]
        plot = functools.partial(self._plotter.pair, maps, vmax)
        alternative = " ".join(map(self._alternative, maps))
        return [plotted(plot, alternative, self._captioned(caption), 100)]

    @property
    def _plotter(self) -> MapPlotter:
        assert self._plot is not None, self.why_none
        return self._plot

    def _captioned(self, caption: str) -> str:
        return caption + self.reliability.caption

    def _alternative(self, shown: BrainMap) -> str:
        kind = "Flatmap" if self.are_flatmaps else "Slices"
        return f"{kind}: {shown.title}. {self._means(shown)}"

    def _means(self, shown: BrainMap) -> str:
        """ROI means, largest first, as the alternative to seeing the map."""
        if shown.categories is not None:
            return self._most(shown)
        means = {
            name: float(np.nanmean(shown.values[mask]))
            for name, mask in self._masks.items()
            if np.isfinite(shown.values[mask]).any()
        }
        ranked = sorted(means.items(), key=lambda item: -item[1])
        listed = ", ".join(f"{name} {value:.2f}".replace("-", "−") for name, value in ranked)
        return f"Means by region, in {shown.unit}: {listed}." if listed else ""

    def _most(self, shown: BrainMap) -> str:
        """The category of most voxels of each region, as the alternative to seeing the map."""
        most = []
        for name, mask in self._masks.items():
            found = shown.values[mask]
            found = found[np.isfinite(found)].astype(int)
            if len(found):
                most.append(f"{name} {shown.categories.names[np.bincount(found).argmax()]}")
        return f"That of most voxels by region: {', '.join(most)}." if most else ""
