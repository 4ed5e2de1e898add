"""Maps of many images, each beside its stimulus, on one colour scale."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from synbrain_cli.errors import InputError
from synbrain_cli.io.surface import HEMISPHERES
from synbrain_cli.plotting.figure import (
    SIDE,
    check_image,
    check_maps,
    check_rois,
    colour_limits,
    colours,
    draw_colour_bar,
    frame,
)
from synbrain_cli.plotting.flatmap import draw_panel, panel_window

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_WIDTH = 13.0  # inches
_COLUMNS = 5
_TITLE = 0.32  # inches over a panel
_STIMULUS = 0.6  # inches


def plot_sheet(
    maps: Sequence[Mapping[str, ArrayLike]],
    names: Sequence[str],
    *,
    title: str,
    unit: str,
    images: Sequence[ArrayLike | None] | None = None,
    rois: Mapping[str, Any] | None = None,
    vmax: float | None = None,
    note: str | None = None,
) -> Figure:
    """Draw a flatmap for each image, five in a row, with one colour bar.

    Parameters
    ----------
    maps : sequence of dict of float arrays of shape (n_vertices,)
        ``left`` and ``right`` of each image.
    names : sequence of str
    images : sequence of uint8 array of shape (height, width, 3) or None, optional
        The stimuli, shown beside their names.
    title, unit, rois, vmax, note
        As `synbrain_cli.plotting.flatmap.plot_flatmap` takes them; outlines have no names here.

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
    mappable = colours(colour_limits(data, vmax=vmax))
    window, aspect = panel_window(data[0])
    outlines = check_rois(rois or {}, data.shape[1] // 2)
    n_columns = min(_COLUMNS, len(maps))
    n_rows = math.ceil(len(maps) / n_columns)
    place = (_WIDTH - 2 * SIDE) / _COLUMNS
    width = place - 0.1
    top = _TITLE if images is None else _STIMULUS + 0.08
    height = width * aspect
    framed = frame(_WIDTH, n_rows * (height + top + 0.12), title=title, note=note)
    for k, (values, name) in enumerate(zip(data, names, strict=True)):
        row, column = divmod(k, n_columns)
        left = SIDE + column * place
        bottom = (n_rows - 1 - row) * (height + top + 0.12)
        axes = framed.figure.add_axes(framed.box(left, bottom, width, height), label=name)
        draw_panel(axes, values, window, mappable, outlines, n_columns=480)
        stimulus = None if images is None else check_image(images[k])
        beside = 0.0
        if stimulus is not None:
            beside = min(_STIMULUS * stimulus.shape[1] / stimulus.shape[0], 0.5 * width)
            corner = framed.figure.add_axes(
                framed.box(left, bottom + height + 0.04, beside, _STIMULUS),
                label=f"stimulus {k}",
            )
            corner.imshow(stimulus)
            corner.set_anchor("W")
            corner.axis("off")
        axes.text(
            (beside + 0.07) / width if beside else 0.0,
            1 + 0.06 / height,
            "\n".join(textwrap.wrap(name, 22 if not beside else 14)[:3]),
            transform=axes.transAxes,
            fontsize=10,
            va="bottom",
            parse_math=False,
            gid="name",
        )
    draw_colour_bar(framed, mappable, data, unit)
    return framed.figure
