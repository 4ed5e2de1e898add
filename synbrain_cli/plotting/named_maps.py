"""The figure of maps with names on them: where maps lie, and the legend of their names.

Names are placed at the size at which maps are printed, the legend depends on the names, and the
height that is left for maps on the legend, where a style says how high a figure is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

from synbrain_cli.plotting.figure import SIDE, Frame, current_style, frame
from synbrain_cli.plotting.label_placement import Placement
from synbrain_cli.plotting.labels import Labels
from synbrain_cli.plotting.roi_outlines import add_legend, legend_height, legend_lines

Named = TypeVar("Named")


@dataclass(frozen=True)
class NamedMaps(Generic[Named]):
    """A figure in which maps are to be plotted, and the names on them.

    Attributes
    ----------
    framed : Frame
        With the legend at the foot of the maps.
    named : object
        What ``place_names`` returned for the size at which maps are printed.
    left, bottom : float
        Lower left corner of the maps as `Frame.box` counts it, inches.
    share : float
        What the size of maps is multiplied by; 1 where they have the height that was planned.
    """

    framed: Frame
    named: Named
    left: float
    bottom: float
    share: float


def frame_named_maps(
    designed: float,
    size: tuple[float, float],
    labels: Labels,
    place_names: Callable[[float], tuple[Named, Iterable[Placement]]],
    *,
    fixed: float = 0.0,
    key: float = 0.0,
    background: str = "white",
) -> NamedMaps[Named]:
    """Make the figure of maps, with a legend of the names that are not on them.

    Parameters
    ----------
    designed : float
        Width of the figure as designed, inches.
    size : tuple of float
        Width and height of all maps as planned, inches.
    labels : Labels
    place_names : callable
        What the size of maps is multiplied by → whatever the caller keeps of the names, and where
        they are on each map.
    fixed : float
        Height beside that of the maps which is not made smaller, such as titles, inches.
    key : float
        Height of a key of colours under the legend, inches; it is left empty.
    background : str
        Colour of the figure.
    """
    page = current_style().width(designed) - 2 * SIDE
    share = planned = 1.0
    while True:
        named, placements = place_names(share)
        legend = legend_lines(placements, page)
        below = legend_height(legend) + key
        framed = frame(designed, size[1] + fixed + below, labels, background)
        left, bottom, share = framed.fit(*size, fixed + below)
        if share == planned or planned < 1:  # smaller maps are named once more, and not again
            break
        planned = share
    add_legend(framed, legend, key)
    return NamedMaps(framed, named, left, below + bottom, share)
