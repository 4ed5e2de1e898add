"""Colours of polar angle and eccentricity, with a disc of the visual field as their key."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from synbrain_cli.plotting.colours import ColourScale
from synbrain_cli.plotting.figure import FOOTER

if TYPE_CHECKING:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Colormap

    from synbrain_cli.plotting.figure import Frame
    from synbrain_cli.plotting.mesh_raster import Raster

_DISC = 1.0  # inches across
_ABOVE, _BELOW = 0.12, 0.42  # inches, of the disc
_PIXELS = 240
_TICK, _CAPTION = 9.0, 11.0  # points


@dataclass(frozen=True)
class Wheel:
    """Colours of what lies around or away from the point that the eyes rest on.

    Attributes
    ----------
    of : {"angle", "eccentricity"}
        Angles run from 0 to 360 degrees, counterclockwise from the right, and have neither a
        lowest nor a highest value; their colours go round in a circle.
    reach : float
        Eccentricity of the rim.
    """

    of: Literal["angle", "eccentricity"]
    reach: float

    def fit(self, values: NDArray) -> WheelColours:
        """Return the colours, as `ColourScale.fit` does: they do not depend on values."""
        from matplotlib import colormaps
        from matplotlib.cm import ScalarMappable
        from matplotlib.colors import Normalize

        end = 360.0 if self.of == "angle" else self.reach
        name = "hsv" if self.of == "angle" else "turbo"  # as is usual in retinotopy
        return WheelColours(self, ScalarMappable(Normalize(0, end, clip=True), colormaps[name]))


@dataclass(frozen=True)
class WheelColours:
    """Colours of a wheel on a map: what `Colours` are for a scale.

    Attributes
    ----------
    wheel : Wheel
    mappable : matplotlib.cm.ScalarMappable
    """

    wheel: Wheel
    mappable: ScalarMappable
    interpolation: ClassVar[str] = "nearest"  # of pixels: between 359° and 1° lies 0°
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

    def picture(self, raster: Raster, values: NDArray) -> NDArray[np.float32]:
        """Return values of vertices at the pixels of a view, angles interpolated on the circle."""
        if self.wheel.of == "eccentricity":
            return raster.interpolate(values)
        turn = np.deg2rad(values)
        up, right = raster.interpolate(np.sin(turn)), raster.interpolate(np.cos(turn))
        angle: NDArray[np.float32] = np.rad2deg(np.arctan2(up, right)) % np.float32(360)
        return angle

    def key_height(self, width: float, unit: str) -> float:
        """Return the height that the disc needs beyond the footer, inches."""
        return _ABOVE + _DISC + _BELOW - FOOTER

    def add_key(self, framed: Frame, unit: str) -> None:
        """Add the disc of the visual field, and the unit below it."""
        across = np.linspace(-1, 1, _PIXELS)
        x, y = np.meshgrid(across, across)
        radius = np.hypot(x, y)
        if self.wheel.of == "angle":
            shown = np.rad2deg(np.arctan2(y, x)) % 360
        else:
            shown = radius * self.wheel.reach
        left = framed.width / 2 - _DISC / 2
        place = (left / framed.width, _BELOW / framed.height)
        size = (_DISC / framed.width, _DISC / framed.height)
        axes = framed.figure.add_axes((*place, *size), label="wheel")
        axes.imshow(
            np.ma.masked_where(radius > 1, shown), origin="lower", cmap=self.cmap,
            norm=self.mappable.norm, interpolation="nearest", extent=(-1, 1, -1, 1),
        )  # fmt: skip
        axes.axis("off")
        if self.wheel.of == "angle":
            marks = {"0°": (1.1, 0), "180°": (-1.1, 0)}
        else:
            marks = {f"{self.wheel.reach:g}°": (1.1, 0)}
        for text, (at, level) in marks.items():
            axes.annotate(
                text, (at, level), ha="left" if at > 0 else "right", va="center_baseline",
                fontsize=_TICK, color=framed.ink, annotation_clip=False,
            )  # fmt: skip
        framed.figure.text(
            0.5, (_BELOW - 0.1) / framed.height, unit, fontsize=_CAPTION, color=framed.ink,
            ha="center", va="top", parse_math=False,
        )  # fmt: skip
