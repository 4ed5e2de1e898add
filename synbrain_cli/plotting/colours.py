"""Colours of maps and of predictors: how values become colours, and the colour bar."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from synbrain_cli.errors import InputError

if TYPE_CHECKING:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Colormap

    from synbrain_cli.plotting.figure import Frame
    from synbrain_cli.plotting.mesh_raster import Raster

# Of the palette of Okabe & Ito (2008), whose colours can be told apart without colour vision
PREDICTOR_COLOURS = {
    "model": "#0072B2",
    "linear": "#E69F00",
    "mean_pattern": "#999999",
    "shuffled": "#CC79A7",
    "latent": "#D55E00",
    "recorded": "#000000",
    "ceiling": "#009E73",
}


@dataclass(frozen=True)
class ColourScale:
    """Mapping of values to colours; settings that are not given are chosen from the values.

    Attributes
    ----------
    threshold : float, optional
        Values nearer to 0 than this (below it, when not ``symmetric``) are left transparent.
    vmax : float, optional
        Upper end of the colours; by default the 99th percentile of the values (of their
        magnitude, when ``symmetric``). Arrows on the colour bar show that values lie beyond.
    vmin : float, optional
        Lower end when not ``symmetric``; by default 0, or the 1st percentile if that is negative.
    cmap : str, optional
        Name of a matplotlib colour map; by default ``RdBu_r``, or ``inferno`` when not
        ``symmetric``.
    symmetric : bool
        Colours centred on 0.
    """

    threshold: float | None = None
    vmax: float | None = None
    vmin: float | None = None
    cmap: str | None = None
    symmetric: bool = True

    def hides(self, values: NDArray[np.floating]) -> NDArray[np.bool_]:
        """Return where values are nearer to 0 than the threshold (below it, if not symmetric)."""
        if not self.threshold:
            return np.zeros(values.shape, bool)
        return (np.abs(values) if self.symmetric else values) < self.threshold

    def limits(self, values: NDArray) -> tuple[float, float]:
        """Return the ends of the colours, with the threshold between them.

        By default ±, or 0 to, the 99th percentile of the values' magnitude, two significant
        digits.

        Parameters
        ----------
        values : float array
            All that is plotted with these colours, NaN where there are no data.

        Raises
        ------
        InputError
            When a threshold or limit leaves nothing to plot.
        """
        values = values[np.isfinite(values)]
        size = np.abs(values) if self.symmetric else values
        if self.symmetric and self.vmin is not None:
            raise InputError("vmin: symmetric colours run from −vmax to vmax: leave vmin out")
        high = float(self.vmax) if self.vmax is not None else self._upper(size)
        if self.symmetric:
            low = -high
        elif self.vmin is not None:
            low = float(self.vmin)
        else:
            low = min(0.0, -_round(-np.percentile(values, 1)))
        if self.threshold is not None and not 0 <= self.threshold < high:
            raise InputError(
                f"threshold: expected 0 or more and less than {high:g}, the upper end of the "
                f"colours; found {self.threshold:g}; the largest value is {size.max():g}"
            )
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise InputError(
                f"colours: expected finite limits, vmin < vmax; found {low:g}, {high:g}"
            )
        return low, high

    def _upper(self, size: NDArray) -> float:
        """Upper end for these values: their 99th percentile, or more where that is hidden."""
        high = _round(np.percentile(size, 99))
        if high <= (self.threshold or 0):
            high = _round(size.max())
        if self.threshold is None and high <= 0:
            high = 0.0 if size.min() < 0 else 1.0
        return high

    def fit(self, values: NDArray) -> Colours:
        """Return the colours of these values: grey, as cortex is, below the threshold.

        Parameters
        ----------
        values : float array
            All that is plotted with these colours, NaN where there are no data.

        Raises
        ------
        InputError
            When there is no such colour map, or a threshold or limit leaves nothing to plot.
        """
        from matplotlib import colormaps
        from matplotlib.cm import ScalarMappable
        from matplotlib.colors import ListedColormap, Normalize

        limits = self.limits(values)
        name = self.cmap or ("RdBu_r" if self.symmetric else "inferno")
        if name not in colormaps:
            raise InputError(f"cmap: expected the name of a matplotlib colour map, found {name!r}")
        levels = np.linspace(*limits, 1024)
        rgba = colormaps[name](np.linspace(0, 1, len(levels)))
        rgba[self.hides(levels)] = (0.8, 0.8, 0.8, 1)
        return Colours(self, values, ScalarMappable(Normalize(*limits), ListedColormap(rgba)))


@dataclass(frozen=True)
class Colours:
    """A colour scale fitted to values.

    Attributes
    ----------
    scale : ColourScale
    values : float array
        All that is plotted with these colours.
    mappable : matplotlib.cm.ScalarMappable
        The colour map and its limits.
    """

    scale: ColourScale
    values: NDArray
    mappable: ScalarMappable
    interpolation: ClassVar[str | None] = None  # of pixels: matplotlib's default

    @property
    def cmap(self) -> Colormap:
        """The colour map, grey below the threshold."""
        return self.mappable.cmap

    @property
    def limits(self) -> tuple[float, float]:
        """Ends of the colours."""
        return self.mappable.get_clim()

    @property
    def beyond(self) -> tuple[bool, bool]:
        """Whether values lie below the lower end of the colours, and above the upper one."""
        low, high = self.limits
        return bool(np.nanmin(self.values) < low), bool(np.nanmax(self.values) > high)

    def visible(self, values: NDArray) -> NDArray:
        """Return the values, with NaN where the threshold hides them."""
        return np.where(self.scale.hides(values), np.nan, values)

    def picture(self, raster: Raster, values: NDArray) -> NDArray[np.float32]:
        """Return values of vertices at the pixels of a view, interpolated within triangles."""
        return raster.interpolate(values)

    def key_height(self, width: float, unit: str) -> float:
        """Return the height that the colour bar needs beyond the footer: none."""
        return 0.0

    def add_key(self, framed: Frame, unit: str) -> None:
        """Add the colour bar: see `add_colour_bar`."""
        add_colour_bar(framed, self, unit)

    def caption(self, unit: str) -> str:
        """Return the unit, and the range of values that the threshold leaves visible."""
        if not self.scale.threshold:
            return unit
        value = "|value|" if self.scale.symmetric else "value"
        return f"{unit}  (shown: {value} ≥ {self.scale.threshold:g})"


@dataclass(frozen=True)
class FixedColours:
    """Colours that do not depend on the values of a map, and hide none of them.

    Attributes
    ----------
    mappable : matplotlib.cm.ScalarMappable
        The colour map and its limits.
    """

    mappable: ScalarMappable
    interpolation: ClassVar[str] = "nearest"  # of pixels: there may be nothing between two colours
    scale: ClassVar[ColourScale] = ColourScale()  # without a threshold

    @property
    def cmap(self) -> Colormap:
        """The colour map."""
        return self.mappable.cmap

    @property
    def limits(self) -> tuple[float, float]:
        """Ends of the colours."""
        return self.mappable.get_clim()

    def visible(self, values: NDArray) -> NDArray:
        """Return the values: none are hidden."""
        return values


def add_colour_bar(
    framed: Frame, colours: Colours, unit: str, centre: float = 0.5, width: float = 0.34
) -> None:
    """Add a colour bar with its unit, range and threshold in the footer of a figure.

    Parameters
    ----------
    framed : Frame
    colours : Colours
        Arrows at its ends show that values lie beyond.
    unit : str
    centre, width : float
        As shares of the figure's width.
    """
    low, high = colours.limits
    below, above = colours.beyond
    extend = ("both" if above else "min") if below else ("max" if above else "neither")
    ticks, threshold = {low, high}, colours.scale.threshold
    if threshold:
        if threshold > 0.12 * (high - low):  # nearer, numbers would run into each other
            ticks |= {-threshold, threshold} if colours.scale.symmetric else {threshold}
    else:
        ticks.add(0.0 if low < 0 < high else (low + high) / 2)
    slot = framed.figure.add_axes(
        (centre - width / 2, 0.62 / framed.height, width, 0.17 / framed.height), label="colorbar"
    )
    bar = framed.figure.colorbar(
        colours.mappable, cax=slot, orientation="horizontal", extend=extend
    )
    bar.set_ticks(sorted(ticks), labels=[f"{tick:.3g}".replace("-", "−") for tick in sorted(ticks)])
    bar.ax.tick_params(labelsize=11, color=framed.ink, labelcolor=framed.ink, length=3)
    bar.outline.set_visible(False)
    bar.set_label(colours.caption(unit), fontsize=12, color=framed.ink, parse_math=False)


def _round(value: float) -> float:
    """Two significant digits, away from zero for positive values, so that the range reads well."""
    if value == 0:
        return 0.0
    unit = 10.0 ** (math.floor(math.log10(abs(value))) - 1)
    return float(f"{math.ceil(value / unit - 1e-9) * unit:.2g}")
