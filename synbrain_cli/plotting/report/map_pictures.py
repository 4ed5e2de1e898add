"""Maps as pictures of a report, with alternative texts that give the means of regions."""

from __future__ import annotations

import numpy as np

from synbrain_cli.brain import Brain
from synbrain_cli.errors import InputError
from synbrain_cli.plotting.labels import plotted_rois
from synbrain_cli.plotting.map_plotter import Look, MapPlotter
from synbrain_cli.plotting.maps import BrainMap
from synbrain_cli.plotting.report.page import Picture, figure_png
from synbrain_cli.progress import Progress


class MapPictures:
    """Makes pictures of a model's maps.

    Parameters
    ----------
    brain : Brain
    progress : Progress

    Attributes
    ----------
    why_none : str, optional
        Why no map can be plotted.
    """

    def __init__(self, brain: Brain, progress: Progress) -> None:
        self.brain = brain
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

    def picture(self, shown: BrainMap, caption: str, vmax: float | None = None) -> Picture:
        """Return a flatmap or slices.

        Parameters
        ----------
        shown : BrainMap
        caption : str
        vmax : float, optional
            Upper end of the colours.
        """
        assert self._plot is not None, self.why_none
        kind = "Flatmap" if self.are_flatmaps else "Slices"
        figure = self._plot(shown, vmax)
        return Picture(figure_png(figure), f"{kind}: {shown.title}. {self._means(shown)}", caption)

    def _means(self, shown: BrainMap) -> str:
        """ROI means, largest first, as the alternative to seeing the map."""
        means = {
            name: float(np.nanmean(shown.values[mask]))
            for name, mask in self._masks.items()
            if np.isfinite(shown.values[mask]).any()
        }
        ranked = sorted(means.items(), key=lambda item: -item[1])
        listed = ", ".join(f"{name} {value:.2f}".replace("-", "−") for name, value in ranked)
        return f"Means by region, in {shown.unit}: {listed}." if listed else ""
