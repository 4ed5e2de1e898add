"""Colours of polar angle and eccentricity, with a disc of the visual field as their key."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from synbrain_cli.plotting.colours import FixedColours
from synbrain_cli.plotting.figure import FOOTER

if TYPE_CHECKING:
    from synbrain_cli.plotting.figure import Frame
    from synbrain_cli.plotting.mesh_raster import Raster

_DISC = 1.0  # inches across
_ABOVE, _BELOW = 0.12, 0.42  # inches, of the disc
_PIXELS = 240
_TICK, _CAPTION = 9.0, 11.0  # points


def directions(angles: NDArray) -> NDArray:
    """Return angles (n,), degrees, as cosines and sines (2, n): these can be averaged."""
    turn = np.deg2rad(angles)
    return np.stack([np.cos(turn), np.sin(turn)])


def angles_of(directions: NDArray) -> NDArray:
    """Return cosines and sines (2, n), of any length, as angles (n,): degrees from 0 to 360."""
    right, up = directions
    return np.rad2deg(np.arctan2(up, right)) % 360


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
        return WheelColours(ScalarMappable(Normalize(0, end, clip=True), colormaps[name]), self)


@dataclass(frozen=True)
class WheelColours(FixedColours):
    """Colours of a wheel on a map: what `Colours` are for a scale.

    Attributes
    ----------
    wheel : Wheel
    """

    wheel: Wheel

    def picture(self, raster: Raster, values: NDArray) -> NDArray[np.float32]:
        """Return values of vertices at the pixels of a view, angles interpolated on the circle."""
        if self.wheel.of == "eccentricity":
            return raster.interpolate(values)
        return angles_of(np.stack([*map(raster.interpolate, directions(values))]))

    def key_height(self, width: float, unit: str) -> float:
        """Return the height that the disc needs beyond the footer, inches."""
        return _ABOVE + _DISC + _BELOW - FOOTER

    def add_key(self, framed: Frame, unit: str) -> None:
        """Add the disc of the visual field, and the unit below it."""
        across = np.linspace(-1, 1, _PIXELS)
        x, y = np.meshgrid(across, across)
        radius = np.hypot(x, y)
        if self.wheel.of == "angle":
            shown = angles_of(np.stack([x, y]))
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
