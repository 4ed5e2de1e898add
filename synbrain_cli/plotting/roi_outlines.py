"""Outlines of regions of interest, and their names."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SMOOTHING = 1.5  # mm: takes off the zigzag of the triangles

Traced = tuple[list[NDArray], tuple[float, float]]  # lines, and the innermost point


def trace(picture: NDArray, x: NDArray, y: NDArray) -> Traced | None:
    """Outline the ROI in a picture that holds 1 inside it and 0 or NaN elsewhere, smoothed.

    Parameters
    ----------
    picture : float array of shape (n_rows, n_columns)
    x, y : float arrays
        Positions of its columns and rows, mm, ascending.

    Returns
    -------
    list of float arrays of shape (n_points, 2), (float, float)
        Lines, and the innermost point; None where the picture holds no pixel of the ROI.
    """
    from contourpy import contour_generator
    from scipy import ndimage

    rows, columns = np.nonzero(np.nan_to_num(picture))
    if len(rows) == 0:
        return None
    rim = math.ceil(4 * _SMOOTHING / (x[1] - x[0])) + 1  # as far as smoothing reaches
    some = np.s_[
        max(rows.min() - rim, 0) : rows.max() + rim + 1,
        max(columns.min() - rim, 0) : columns.max() + rim + 1,
    ]
    y, x = y[some[0]], x[some[1]]
    sharp = np.nan_to_num(picture[some])
    share = ndimage.gaussian_filter(sharp, _SMOOTHING / (x[1] - x[0]))
    if share.max() < 0.5:
        share = sharp  # too small to smooth
    if share.max() < 0.5:
        return None
    depth = ndimage.distance_transform_edt(np.pad(share >= 0.5, 1))[1:-1, 1:-1]
    row, column = np.unravel_index(depth.argmax(), depth.shape)
    return contour_generator(x, y, share).lines(0.5), (float(x[column]), float(y[row]))


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


def add_name(
    axes: Axes, position: tuple[float, float], name: str, hemisphere: str, size: float = 9
) -> None:
    """Add the name of an ROI; ``size`` of the letters in points."""
    from matplotlib.patheffects import withStroke

    axes.text(
        *position, name, fontsize=size, fontweight="bold", ha="center", va="center", clip_on=True,
        zorder=5, gid=f"roi-{hemisphere}", parse_math=False,
        path_effects=[withStroke(linewidth=2.4, foreground="white", alpha=0.9)],
    )  # fmt: skip
