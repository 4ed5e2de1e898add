"""Two flatmaps side by side on one colour scale, such as accuracy and noise ceiling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from synbrain_cli.errors import InputError
from synbrain_cli.plotting.colours import ColourScale, add_colour_bar
from synbrain_cli.plotting.figure import SIDE, add_letters, current_style, wrap_text
from synbrain_cli.plotting.flatmap import panel_regions, panel_window, plot_panel
from synbrain_cli.plotting.labels import Labels
from synbrain_cli.plotting.named_maps import frame_named_maps
from synbrain_cli.plotting.validation import check_maps, check_rois

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from synbrain_cli.plotting.flatmap import NamedOutlines
    from synbrain_cli.plotting.label_placement import Placement

_WIDTH = 13.0  # inches
_BETWEEN = 0.15  # inches between the maps
_TITLE = 13.0  # points
_TITLE_LINE = 0.24  # inches


def plot_pair(
    maps: Sequence[Mapping[str, ArrayLike]],
    titles: Sequence[str],
    labels: Labels,
    scale: ColourScale | None = None,
) -> Figure:
    """Plot two surface maps beside each other on the flattened cortex, with one colour bar.

    In a narrow style one is above the other.

    Parameters
    ----------
    maps : sequence of two dicts of float arrays of shape (n_vertices,)
        ``left`` and ``right``, of fsaverage5, fsaverage6 or fsaverage; NaN where there are no data.
    titles : sequence of two str
        Above the maps.
    labels : Labels
        As `synbrain_cli.plotting.flatmap.plot_flatmap` takes them.
    scale : ColourScale, optional
        By default from blue over white at 0 to red, with ends from the values of both maps.

    Returns
    -------
    matplotlib.figure.Figure
        13 inches wide.

    Raises
    ------
    InputError, InputTypeError
        When there are not two maps with a title each, or the maps do not fit each other.
    """
    if len(maps) != 2 or len(titles) != 2:
        raise InputError(
            f"expected two maps and their titles, found {len(maps)} maps and {len(titles)} titles"
        )
    checked = [check_maps(one) for one in maps]
    if len(checked[0]) != len(checked[1]):
        raise InputError(
            f"expected maps of as many vertices, found {len(checked[0]) // 2:,} and "
            f"{len(checked[1]) // 2:,} a hemisphere"
        )
    data = np.stack(checked)
    colours = (scale or ColourScale()).fit(data)
    window, aspect = panel_window(np.where(np.isfinite(data).any(0), 0.0, np.nan), labels)
    across = 1 if current_style().narrow else 2
    down = 2 // across
    page = current_style().width(_WIDTH) - 2 * SIDE
    width = (page - (across - 1) * _BETWEEN) / across
    height = width * aspect
    outlines = check_rois(labels.rois or {}, data.shape[1] // 2)
    wrapped = [wrap_text(title, width, _TITLE) for title in titles]
    above = 0.1 + _TITLE_LINE * max(map(len, wrapped))

    def place_names(share: float) -> tuple[NamedOutlines, list[Placement]]:
        regions = panel_regions(outlines, window, share * width)
        return regions, [regions.names]

    size = (page, down * height)
    placed = frame_named_maps(_WIDTH, size, labels, place_names, fixed=down * above)
    framed, regions, share = placed.framed, placed.named, placed.share
    panels = []
    for k, (values, title) in enumerate(zip(data, wrapped, strict=True)):
        row, column = divmod(k, across)
        left = SIDE + column * (width + _BETWEEN) + width * (1 - share) / 2
        bottom = placed.bottom + (down - 1 - row) * (share * height + above)
        box = framed.box(left, bottom, share * width, share * height)
        panels.append(framed.figure.add_axes(box, label=f"flatmap {k + 1}"))
        # From where a map as large as planned would begin: room for the title as it was wrapped
        start = -(1 - share) / (2 * share)
        panels[-1].set_title(
            "\n".join(title), x=start, fontsize=_TITLE, loc="left", pad=6, parse_math=False
        )
        plot_panel(panels[-1], values, window, colours, regions, n_columns=1200)
    add_letters(panels, left=-2, above=-2)  # titles are above the maps
    add_colour_bar(framed, colours, labels.unit)
    return framed.figure
