"""Small flatmaps of many images, each beside its stimulus, on one colour scale."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from synbrain_cli.errors import InputError
from synbrain_cli.io.surface import HEMISPHERES
from synbrain_cli.plotting.colours import ColourScale, add_colour_bar
from synbrain_cli.plotting.figure import SIDE, Frame, add_letters, current_style, frame
from synbrain_cli.plotting.flatmap import panel_regions, panel_window, plot_panel
from synbrain_cli.plotting.labels import Labels
from synbrain_cli.plotting.roi_outlines import add_legend, legend_height, legend_lines
from synbrain_cli.plotting.validation import check_maps, check_rois, check_stimulus

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WIDTH = 13.0  # inches
_COLUMNS = 5
_TITLE = 0.32  # inches over a panel
_STIMULUS = 0.6  # inches


def plot_sheet(
    maps: Sequence[Mapping[str, ArrayLike]],
    names: Sequence[str],
    labels: Labels,
    images: Sequence[ArrayLike | None] | None = None,
    *,
    vmax: float | None = None,
) -> Figure:
    """Plot a flatmap for each image, five in a row, with one colour bar.

    Parameters
    ----------
    maps : sequence of dict of float arrays of shape (n_vertices,)
        ``left`` and ``right`` of each image.
    names : sequence of str
        Of the images.
    labels : Labels
        As `synbrain_cli.plotting.flatmap.plot_flatmap` takes them, for the whole figure.
    images : sequence of uint8 array of shape (height, width, 3) or None, optional
        The stimuli, shown beside their names.
    vmax : float, optional
        Upper end of the colours; by default the 99th percentile of the magnitude of all values.

    Returns
    -------
    matplotlib.figure.Figure
        13 inches wide.

    Raises
    ------
    InputError, InputTypeError
        When there are no maps, or not as many names or images as maps.
    """
    if not maps or not len(maps) == len(names) == len(images or names):
        raise InputError(
            f"expected as many names and images as maps, one or more; found {len(maps)} maps, "
            f"{len(names)} names, {len(images or names)} images"
        )
    data = np.stack([check_maps({h: one[h] for h in HEMISPHERES}) for one in maps])
    colours = ColourScale(vmax=vmax).fit(data)
    window, aspect = panel_window(data[0], labels)
    outlines = check_rois(labels.rois or {}, data.shape[1] // 2)
    most = 2 if current_style().narrow else _COLUMNS
    n_columns = min(most, len(maps))
    n_rows = math.ceil(len(maps) / n_columns)
    pitch = (current_style().width(_WIDTH) - 2 * SIDE) / most  # inches from panel to panel
    width = pitch - 0.1
    top = _TITLE if images is None else _STIMULUS + 0.08
    height = width * aspect
    regions = panel_regions(outlines, window, width)
    legend = legend_lines([regions.names], current_style().width(_WIDTH) - 2 * SIDE)
    below = legend_height(legend)
    framed = frame(_WIDTH, n_rows * (height + top + 0.12) + below, labels, slide=False)
    add_legend(framed, legend)
    panels = []
    for k, (values, name) in enumerate(zip(data, names, strict=True)):
        row, column = divmod(k, n_columns)
        left = SIDE + column * pitch
        bottom = below + (n_rows - 1 - row) * (height + top + 0.12)
        axes = framed.figure.add_axes(framed.box(left, bottom, width, height), label=name)
        plot_panel(axes, values, window, colours, regions, n_columns=480)
        panels.append(axes)
        stimulus = None if images is None else check_stimulus(images[k])
        beside = 0.0
        if stimulus is not None:
            beside = min(_STIMULUS * stimulus.shape[1] / stimulus.shape[0], 0.5 * width)
            corner = framed.box(left, bottom + height + 0.04, beside, _STIMULUS)
            _show_stimulus(framed, stimulus, corner, f"stimulus {k}")
        _write_name(axes, name, beside, (width, height))
    add_letters(panels, left=-2, above=-2)  # names and stimuli are above the maps
    add_colour_bar(framed, colours, labels.unit)
    return framed.figure


def _show_stimulus(
    framed: Frame, stimulus: NDArray[np.uint8], box: tuple[float, float, float, float], label: str
) -> None:
    corner = framed.figure.add_axes(box, label=label)
    corner.imshow(stimulus)
    corner.set_anchor("W")
    corner.axis("off")


def _write_name(axes: Axes, name: str, beside: float, size: tuple[float, float]) -> None:
    """Write the name of an image above its map, right of a stimulus ``beside`` inches wide."""
    width, height = size  # inches
    axes.text(
        (beside + 0.07) / width if beside else 0.0, 1 + 0.06 / height,
        "\n".join(textwrap.wrap(name, 22 if not beside else 14)[:3]),
        transform=axes.transAxes, fontsize=10, va="bottom", parse_math=False, gid="name",
    )  # fmt: skip
