"""Maps of population receptive fields, and their sizes over eccentricities."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from synbrain_cli.brain import Brain
from synbrain_cli.plotting.figure import FOOTER, SIDE, current_style, frame
from synbrain_cli.plotting.labels import Labels, plotted_rois, simulated_note
from synbrain_cli.plotting.maps import BrainMap
from synbrain_cli.plotting.wheels import Wheel

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_WIDTH, _HEIGHT = 7.0, 3.6  # inches
_LEFT, _BOTTOM = 0.8, 0.65  # inches, of the axes
_KEY = 1.5  # inches, on the right
_BINS = 5  # of eccentricity
_FEWEST = 20  # voxels of a region that has a line
_MOST = 6  # regions
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9")


class Fields(Protocol):
    """Receptive fields of voxels, float arrays (n_voxels,) in degrees of visual angle."""

    @property
    def angle(self) -> NDArray[np.float64]:
        """Counterclockwise from the right, degrees from 0 to 360."""

    @property
    def eccentricity(self) -> NDArray[np.float64]:
        """Of the centre."""

    @property
    def size(self) -> NDArray[np.float64]:
        """SD over the root of the exponent."""

    @property
    def r2(self) -> NDArray[np.float64]:
        """Share of variance."""


@dataclass(frozen=True)
class ShownFields:
    """Fields, and which of them are shown.

    Attributes
    ----------
    fields : Fields
    min_r2 : float
        R² from which on a field counts.
    degrees : float
        Width of the pictures.
    """

    fields: Fields
    min_r2: float
    degrees: float

    @property
    def good(self) -> NDArray[np.bool_]:
        """Voxels whose field counts."""
        return self.fields.r2 >= self.min_r2


def retinotopic_maps(brain: Brain, shown: ShownFields) -> Iterator[BrainMap]:
    """Yield maps of angle, eccentricity and size, where fields count, and of R².

    Parameters
    ----------
    brain : Brain
    shown : ShownFields
    """
    fields, where = shown.fields, f"R² ≥ {shown.min_r2:.2f}"
    reach, base = shown.degrees / 2, f"sub-{brain.subject}_stat"
    angle = BrainMap(
        f"{base}-angle",
        f"Polar angle of receptive fields, {brain.name}",
        f"polar angle ({where})",
        np.where(shown.good, fields.angle, np.nan),
        wheel=Wheel("angle", reach),
    )
    size = replace(
        angle,
        name=f"{base}-size",
        title=f"Size of receptive fields, {brain.name}",
        unit=f"degrees of visual angle ({where})",
        values=np.where(shown.good, fields.size, np.nan),
        symmetric=False,
        vmin=0.0,
        wheel=None,
    )
    yield angle
    yield replace(
        size,
        name=f"{base}-eccentricity",
        title=f"Eccentricity of receptive fields, {brain.name}",
        values=np.where(shown.good, fields.eccentricity, np.nan),
        wheel=Wheel("eccentricity", reach),
    )
    yield size
    yield replace(
        size,
        name=f"{base}-r2",
        title=f"Responses that receptive fields explain, {brain.name}",
        unit="R² over apertures",
        values=fields.r2,
    )


def plot_sizes(brain: Brain, shown: ShownFields) -> Figure | None:
    """Plot the median size over eccentricity, by region; None where no region has enough voxels.

    Parameters
    ----------
    brain : Brain
    shown : ShownFields
    """
    fields = shown.fields
    good = shown.good & (fields.eccentricity <= shown.degrees / 2)
    rois = brain.rois()
    masks = {name: rois[name] & good for name in plotted_rois(brain) if name in rois}
    masks = {name: mask for name, mask in masks.items() if mask.sum() >= _FEWEST}
    if not masks:
        return None
    framed = frame(
        _WIDTH,
        _HEIGHT,
        Labels(f"Receptive fields by region, {brain.name}", "", note=simulated_note(brain)),
    )
    width = current_style().width(_WIDTH) - _LEFT - _KEY - SIDE
    axes = framed.figure.add_axes(
        framed.box(_LEFT, _BOTTOM - FOOTER, width, _HEIGHT + FOOTER - _BOTTOM - 0.2), label="sizes"
    )
    for (name, mask), colour in zip(list(masks.items())[:_MOST], _COLOURS, strict=False):
        at, size = fields.eccentricity[mask], fields.size[mask]
        order = np.array_split(np.argsort(at, kind="stable"), min(_BINS, mask.sum() // 4))
        axes.plot(
            [np.median(at[part]) for part in order],
            [np.median(size[part]) for part in order],
            color=colour, marker="o", markersize=4, linewidth=1.5, label=f"{name} ({mask.sum()})",
        )  # fmt: skip
    axes.set_xlim(0, None)
    axes.set_ylim(0, None)
    axes.set_xlabel("eccentricity, degrees", fontsize=11)
    axes.set_ylabel("size, degrees", fontsize=11)
    axes.tick_params(labelsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(
        fontsize=9, frameon=False, title="region (voxels)", title_fontsize=9, loc="upper left",
        bbox_to_anchor=(1.0, 1.0),
    )  # fmt: skip
    return framed.figure
