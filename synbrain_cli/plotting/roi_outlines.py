"""Outlines of regions of interest, their names on the map, and the legend of numbers."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from synbrain_cli.plotting.figure import SIDE, Frame, current_style, text_width
from synbrain_cli.plotting.label_placement import NUMBER, Placement

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Pieces of a region, and holes in it, that are smaller than this have neither outline nor name.
# They are some four vertices of fsaverage5 or eight voxels of 1.8 mm: whether so few belong to a
# region is decided by resampling, and the line around them would hide what they show.
ISLET = 25.0  # mm²
_SMOOTHING = 1.5  # mm: takes off the zigzag of the triangles
_LEGEND_SIZE = 10.0  # points
_LEGEND_LINE = 0.19  # inches
_MOST_LISTED = 24  # names of regions that a map does not name


class Traced(NamedTuple):
    """A region as it is seen in a picture, without its islets."""

    lines: list[NDArray]  # outlines, each (n_points, 2), mm
    x: NDArray[np.float64]  # columns and rows of ``depth``, mm
    y: NDArray[np.float64]
    depth: NDArray[np.float64]  # distance from the edge, mm; 0 outside


def trace(picture: NDArray, x: NDArray, y: NDArray) -> Traced | None:
    """Outline the ROI in a picture that holds 1 inside it and 0 or NaN elsewhere, smoothed.

    Parameters
    ----------
    picture : float array of shape (n_rows, n_columns)
    x, y : float arrays
        Positions of its columns and rows, mm, ascending.

    Returns
    -------
    Traced, optional
        None where the picture holds no piece of the ROI of the size of `ISLET` or more.
    """
    from contourpy import contour_generator
    from scipy import ndimage

    rows, columns = np.nonzero(np.nan_to_num(picture))
    if len(rows) == 0:
        return None
    step = float(x[1] - x[0])
    rim = math.ceil(4 * _SMOOTHING / step) + 1  # as far as smoothing reaches
    some = np.s_[
        max(rows.min() - rim, 0) : rows.max() + rim + 1,
        max(columns.min() - rim, 0) : columns.max() + rim + 1,
    ]
    y, x = y[some[0]], x[some[1]]
    share = ndimage.gaussian_filter(np.nan_to_num(picture[some]), _SMOOTHING / step)
    pieces, n_pieces = ndimage.label(share >= 0.5)
    size = np.bincount(pieces.ravel(), minlength=n_pieces + 1) * step * float(y[1] - y[0])
    large = size >= ISLET
    large[0] = False
    inside = large[pieces]
    if not inside.any():
        return None
    depth = step * ndimage.distance_transform_edt(np.pad(inside, 1))[1:-1, 1:-1]
    lines = contour_generator(x, y, share).lines(0.5)
    return Traced([line for line in lines if enclosed(line) >= ISLET], x, y, depth)


def enclosed(line: NDArray) -> float:
    """Return the area in an outline, closed by a straight line where it ends elsewhere: mm²."""
    (x, y), (x_next, y_next) = line.T, np.roll(line, -1, axis=0).T
    return float(abs((x * y_next - y * x_next).sum()) / 2)


def name_size(designed: float) -> float:
    """Return the size of names on a map, points: so large that numbers can be read in the style."""
    return max(designed, current_style().least / NUMBER)


def add_outline(axes: Axes, lines: list[NDArray], hemisphere: str, width: float = 1.2) -> None:
    """Add black lines that can also be seen on dark colours; ``width`` in points."""
    from matplotlib.collections import LineCollection
    from matplotlib.patheffects import withStroke

    axes.add_collection(
        LineCollection(
            lines, colors="black", linewidths=width, zorder=4, gid=f"outline-{hemisphere}",
            path_effects=[withStroke(linewidth=2.2 * width, foreground="white", alpha=0.8)],
        ),
        autolim=False,
    )  # fmt: skip


def add_names(axes: Axes, placed: Placement, size: float) -> None:
    """Add the names of ROIs, or their numbers, and leader lines; ``size`` of names in points."""
    from matplotlib.patheffects import withStroke

    thin, thick = (
        [withStroke(linewidth=width * size, foreground="white", alpha=0.9)] for width in (0.2, 0.22)
    )
    numbers = set(map(str, placed.numbers.values()))
    for label in placed.labels:
        if label.tip is not None:
            axes.plot(
                *np.transpose([label.start, label.tip]), color="black", linewidth=0.07 * size,
                zorder=5, marker="o", markersize=0.28 * size, markevery=[1], clip_on=False,
                gid=f"leader-{label.group}", path_effects=thin, scalex=False, scaley=False,
            )  # fmt: skip
        axes.text(
            *label.box.centre, label.text, ha="center", va="center", fontweight="bold", zorder=6,
            fontsize=size if label.text not in numbers else NUMBER * size, parse_math=False,
            gid=f"roi-{label.group}", path_effects=thick,
        )  # fmt: skip


def legend_lines(placements: Iterable[Placement], width: float) -> list[str]:
    """Return the legend of a figure, wrapped to a width in inches; no lines where none is needed.

    It names the regions that numbers stand for, and those that the maps do not name: smaller than
    `ISLET`, or without room for a number.

    Parameters
    ----------
    placements : iterable of Placement
        Of all maps of the figure.
    width : float
    """
    numbers: dict[str, int] = {}
    left_out: dict[str, list[str]] = {}
    for one in placements:
        numbers |= one.numbers
        for name, hemisphere in one.left_out:
            left_out.setdefault(name, []).append(hemisphere[0].upper())
    in_order = sorted(numbers.items(), key=lambda item: item[1])
    text = "   ".join(f"{number} {name}".replace(" ", "\u00a0") for name, number in in_order)
    if left_out:
        listed = [f"{name} ({' and '.join(sorted(side))})" for name, side in left_out.items()]
        rest = len(listed) - _MOST_LISTED
        listed[_MOST_LISTED:] = [f"and {rest} more"] if rest > 0 else []
        text += f"   not named: {', '.join(listed)}".replace(" (", "\u00a0(")
    text = text.strip()
    if not text:
        return []
    n_letters = max(8, int(0.95 * len(text) * width / text_width(text, _LEGEND_SIZE)))
    return textwrap.wrap(text, n_letters, break_long_words=False, break_on_hyphens=False)


def legend_height(lines: list[str]) -> float:
    """Return the height of a legend, inches."""
    return _LEGEND_LINE * len(lines) + (0.1 if lines else 0.0)


def add_legend(framed: Frame, lines: list[str], below: float = 0.0) -> None:
    """Add a legend at the foot of the maps, above the colour bar.

    Parameters
    ----------
    framed : Frame
    lines : list of str
        As `legend_lines` returns them.
    below : float
        What lies between the legend and the footer, inches.
    """
    if not lines:
        return
    left, top = framed.box(SIDE, below + legend_height(lines) - 0.1, 0, 0)[:2]
    framed.figure.text(
        left, top, "\n".join(lines), fontsize=_LEGEND_SIZE, color=framed.ink, va="top", ha="left",
        linespacing=1.3, gid="legend", parse_math=False,
    )  # fmt: skip
