"""Maps on the flattened cortex of fsaverage or fsLR, plotted with matplotlib's object API.

They need no display, leave the state of pyplot alone, and figures need no closing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from synbrain_cli.errors import InputError
from synbrain_cli.io.surface import HEMISPHERES, surface_folds, surface_mesh
from synbrain_cli.plotting.categories import AnyColours, AnyScale
from synbrain_cli.plotting.colours import Colours, ColourScale
from synbrain_cli.plotting.figure import SIDE, WIDTH, current_style
from synbrain_cli.plotting.label_placement import Box, Canvas, Placement, Region, place_labels
from synbrain_cli.plotting.labels import EARLY_AREAS, Labels
from synbrain_cli.plotting.mesh_raster import Raster, Window, barycentric, plot_over, underlay
from synbrain_cli.plotting.named_maps import frame_named_maps
from synbrain_cli.plotting.roi_outlines import (
    Traced,
    add_names,
    add_outline,
    name_size,
    trace,
)
from synbrain_cli.plotting.validation import DENSITIES, check_maps, check_rois

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_GAP = 12.0  # mm between the hemispheres
_LONGEST_EDGE = 3.7  # times the usual one; only triangles that bridge a cut exceed this
_MARGIN = 14.0  # mm of cortex around the data when zoomed
_PIXELS = 2100  # raster columns: one per pixel at 200 dpi
_PIXELS_ROI = 700
_BETWEEN = 0.1  # inches between hemispheres above each other


class _Flat(NamedTuple):
    """Both patches as they are plotted, left vertices first."""

    xy: NDArray[np.float64]  # (2 · n_vertices, 2), mm; x < 0 on the left hemisphere
    faces: NDArray[np.int32]  # (n_faces, 3)
    curvature: NDArray[np.float32]  # (2 · n_vertices,), 1/mm, positive in sulci


class _Lettering(NamedTuple):
    """Sizes of what is written on a map, points."""

    name: float  # of a region
    letter: float  # L and R
    outline: float  # width
    leaders: bool  # whether lines lead to names beside their regions
    arrows: bool  # whether L and R are above, and arrows to anterior and dorsal below


_LARGE = _Lettering(11, 20, 1.3, leaders=True, arrows=True)
_MEDIUM = _Lettering(9, 14, 0.9, leaders=True, arrows=False)  # of panels
_SMALL = _Lettering(7, 10, 0.5, leaders=False, arrows=False)  # of panels narrower than this:
_NARROW = 4.0  # inches


class NamedOutlines(NamedTuple):
    """Outlines of regions on a view of the patches, and where their names are."""

    lines: list[tuple[str, list[NDArray]]]  # hemisphere, outlines
    names: Placement
    sizes: _Lettering


class _Part(NamedTuple):
    """What one pair of axes shows: both hemispheres, or one of them."""

    label: str
    window: Window
    hemispheres: tuple[str, ...]


def plot_flatmap(
    maps: Mapping[str, ArrayLike],
    labels: Labels,
    scale: AnyScale | None = None,
    *,
    view: str | None = None,
    background: str = "white",
) -> Figure:
    """Plot a surface map on both flattened hemispheres of fsaverage.

    The left hemisphere is on the left. The occipital poles face each other in the middle, anterior
    points outward, dorsal up (the orientation of the fsaverage patches, and pycortex's). Underneath
    lies curvature in light greys, sulci darker. Values are interpolated within triangles, not
    smoothed; ROI outlines are, by 1.5 mm. Triangles that bridge a cut of the patch are left out, as
    are the vertices that the patch lacks (the medial wall). In a narrow style the left hemisphere
    is above the right one.

    Parameters
    ----------
    maps : dict of float arrays of shape (n_vertices,)
        ``left`` and ``right``, of fsaverage5 (10,242 vertices), fsaverage6 (40,962) or fsaverage
        (163,842); NaN where there are no data.
    labels : Labels
        Title, unit, and what else is to be shown of ROIs, stimulus and note.
    scale : ColourScale, Categories or Wheel, optional
        How values become colours; by default from blue over white at 0 to red. Of categories, a
        pixel has the one with the largest share of the vertices around it, interpolated likewise.
    view : {"cortex", "data"}, optional
        Whole hemispheres, or the part with data, the same on both sides. By default the part, if
        data cover less than 40 % of the patch.
    background : str
        Colour of the figure.

    Returns
    -------
    matplotlib.figure.Figure
        11 inches wide, or as the style has it. ``save_figure`` writes it.

    Raises
    ------
    InputError, InputTypeError
        When a map has another length or no values, or an option does not fit.
    MissingError
        When the geometry is not on this machine: only fsaverage5 comes with nilearn.

    Examples
    --------
    >>> maps = {"left": np.linspace(-1, 1, 10242), "right": np.full(10242, np.nan)}
    >>> figure = plot_flatmap(maps, Labels("Left only", "z"), view="cortex")
    >>> [axes.get_label() for axes in figure.axes]
    ['flatmap', 'colorbar']
    """
    data = check_maps(maps)
    n_vertices = len(data) // 2
    outlines = check_rois(labels.rois or {}, n_vertices)
    if view not in (None, "cortex", "data"):
        raise InputError(f"view: expected cortex or data, found {view!r}")
    colours = (scale or ColourScale()).fit(data)
    parts = _parts(_window(_with_around(data, labels), view))
    width = current_style().width(WIDTH) - 2 * SIDE
    height = width * _aspect(parts[0].window)
    planned = len(parts) * (height + _BETWEEN) - _BETWEEN

    def place_names(share: float) -> tuple[list[NamedOutlines], list[Placement]]:
        regions = _named_parts(parts, outlines, n_vertices, share * width)
        return regions, [one.names for one in regions]

    key = colours.key_height(width, labels.unit)
    placed = frame_named_maps(
        WIDTH, (width, planned), labels, place_names, key=key, background=background
    )
    framed, share = placed.framed, placed.share
    for row, (part, named) in enumerate(zip(reversed(parts), reversed(placed.named), strict=True)):
        low = placed.bottom + row * share * (height + _BETWEEN)
        axes = framed.figure.add_axes(
            framed.box(placed.left, low, share * width, share * height), label=part.label
        )
        _plot_map(axes, data, part.window, colours, _PIXELS)
        _plot_rois(axes, named)
        size = (share * width, share * height)
        _plot_orientation(axes, part, size, framed.ink, background)
    colours.add_key(framed, labels.unit)
    return framed.figure


def plot_panel(
    axes: Axes,
    data: NDArray[np.float64],
    window: Window,
    colours: Colours,
    regions: NamedOutlines,
    n_columns: int = 600,
) -> None:
    """Plot a small flatmap, one of several in a figure.

    Parameters
    ----------
    axes : matplotlib.axes.Axes
    data : float array of shape (2 · n_vertices,)
        As `synbrain_cli.plotting.validation.check_maps` returns it.
    window
        As `panel_window` returns it: the same for all panels.
    colours : Colours
    regions
        As `panel_regions` returns them: the same for all panels.
    n_columns : int
        Of the raster.
    """
    from matplotlib.patheffects import withStroke

    _plot_map(axes, data, window, colours, n_columns)
    _plot_rois(axes, regions)
    for letter, x in (("L", 0), ("R", 1)):  # below: letters of panels are above
        axes.annotate(
            letter, (x, 0), (2 - 4 * x, 2), xycoords="axes fraction", textcoords="offset points",
            fontsize=regions.sizes.letter, fontweight="bold", ha="right" if x else "left",
            va="bottom", zorder=5, gid="hemisphere",
            path_effects=[withStroke(linewidth=2, foreground="white")],
        )  # fmt: skip


def panel_regions(
    outlines: Mapping[str, Mapping[str, NDArray[np.bool_]]], window: Window, width: float
) -> NamedOutlines:
    """Return outlines of regions on panels of a window, and where their names have room.

    Parameters
    ----------
    outlines
        As `synbrain_cli.plotting.validation.check_rois` returns them.
    window
        As `panel_window` returns it.
    width : float
        Of a panel, inches.
    """
    given = [member for named in outlines.values() for member in named.values()]
    sizes = _SMALL if width < _NARROW else _MEDIUM
    sizes = sizes._replace(name=name_size(sizes.name))
    part = _Part("panel", window, HEMISPHERES)
    return _named(outlines, len(given[0]) if given else 0, part, width, sizes)


def panel_window(data: NDArray[np.float64], labels: Labels) -> tuple[Window, float]:
    """Return the part of the patches that a panel shows, and its height over its width.

    Parameters
    ----------
    data : float array of shape (2 · n_vertices,)
        As `synbrain_cli.plotting.validation.check_maps` returns it. The part with data is shown,
        or whole patches where data cover 40 % of them or more.
    labels : Labels
        What the view also holds (``around``).
    """
    window = _window(_with_around(data, labels), None, margin=5, steepest=2)
    return window, _aspect(window)


# Geometry -----------------------------------------------------------------------------------------


@lru_cache(maxsize=2)
def _flat_cortex(n_vertices: int) -> _Flat:
    """Both patches of a flattened cortex, side by side around x = 0."""
    density = DENSITIES[n_vertices]
    meshes, curvature = surface_mesh("flat", density), surface_folds(density)
    patches = []
    for first, hemisphere in zip((0, n_vertices), HEMISPHERES, strict=True):
        mesh = meshes[hemisphere]
        xy, faces = np.array(mesh.coordinates[:, :2], dtype=np.float64), np.asarray(mesh.faces)
        edges = np.linalg.norm(xy[faces] - xy[np.roll(faces, 1, axis=1)], axis=2)
        faces = faces[edges.max(1) <= _LONGEST_EDGE * np.median(edges)]
        # Posterior is +x on the left patch and −x on the right one: a shift makes them face
        x = xy[np.unique(faces), 0]
        xy[:, 0] -= x.max() + _GAP / 2 if hemisphere == "left" else x.min() - _GAP / 2
        patches.append(_Flat(xy, faces + first, curvature[hemisphere]))
    return _Flat(*(np.concatenate(parts) for parts in zip(*patches, strict=True)))


def _with_around(data: NDArray, labels: Labels) -> NDArray:
    """Data with 0 where the view has to show vertices that have none."""
    if labels.around is None:
        return data
    around = np.concatenate([labels.around[hemisphere] for hemisphere in HEMISPHERES])
    if around.shape != data.shape:
        raise InputError(
            f"around: expected {len(data) // 2:,} vertices a hemisphere, as the maps have, found "
            f"{len(around) // 2:,}"
        )
    return np.where(around & np.isnan(data), 0.0, data)


def _window(
    data: NDArray, view: str | None, margin: float = _MARGIN, steepest: float = 1.25
) -> Window:
    """The part of the patches that is shown, symmetric about x = 0.

    ``steepest`` is the largest height / half-width of a view of data.
    """
    flat = _flat_cortex(len(data) // 2)
    used = np.unique(flat.faces)
    shown = used[np.isfinite(data[used])]
    if len(shown) == 0:
        raise InputError("maps: the flat patch has no vertex with data: all are on the medial wall")
    half, bottom, top = _extent(flat.xy[used], 2)
    if view == "data" or (view is None and len(shown) < 0.4 * len(used)):
        most = half
        half, low, high = _extent(flat.xy[shown], margin)
        bottom, top = max(bottom, low), min(top, high)
        half = min(max(half, 50, (top - bottom) / steepest), most)
        lacking = max(0.0, 0.8 * half - (top - bottom))  # no slit
        bottom, top = bottom - lacking / 2, top + lacking / 2
    return -half, half, bottom, top


def _parts(window: Window) -> list[_Part]:
    """The axes of a figure, from the top: hemispheres are above each other where it is narrow."""
    if not current_style().narrow:
        return [_Part("flatmap", window, HEMISPHERES)]
    left, right, bottom, top = window
    return [
        _Part("flatmap-left", (left, -_GAP / 4, bottom, top), ("left",)),
        _Part("flatmap-right", (_GAP / 4, right, bottom, top), ("right",)),
    ]


def _extent(xy: NDArray, margin: float) -> tuple[float, float, float]:
    x, y = np.abs(xy[:, 0]).max(), xy[:, 1]
    return float(x + margin), float(y.min() - margin), float(y.max() + margin)


def _aspect(window: Window) -> float:
    left, right, bottom, top = window
    return (top - bottom) / (right - left)


def _point(window: Window, width: float) -> float:
    """Length of a point of the page, mm, on a view that is ``width`` inches wide."""
    return (window[1] - window[0]) / width / 72


def _grid(window: Window, n_columns: int) -> tuple[NDArray, NDArray]:
    """Centres of square pixels: x of the columns, y of the rows."""
    left, right, bottom, top = window
    n_rows = round(n_columns * (top - bottom) / (right - left))
    return (
        left + (right - left) * (np.arange(n_columns) + 0.5) / n_columns,
        bottom + (top - bottom) * (np.arange(n_rows) + 0.5) / n_rows,
    )


@lru_cache(maxsize=6)
def _raster(n_vertices: int, window: Window, n_columns: int) -> Raster:
    """The pixels of a view and the triangles they lie in."""
    from PIL import Image, ImageDraw

    flat = _flat_cortex(n_vertices)
    x, y = _grid(window, n_columns)
    corners = ((flat.xy - [x[0], y[0]]) / (x[1] - x[0]))[flat.faces]  # (n_faces, 3, 2), pixels
    shown = (corners.max(1) >= 0).all(1) & (corners.min(1) <= [len(x), len(y)]).all(1)
    # On a plane no triangle hides another: Pillow fills each with its number.
    numbers = Image.new("I", (len(x), len(y)), -1)
    pen = ImageDraw.Draw(numbers)
    for face in np.flatnonzero(shown):
        pen.polygon(corners[face].ravel().tolist(), fill=int(face))
    face = np.asarray(numbers)
    row, column = np.nonzero(face >= 0)
    number = face[row, column]
    weights = barycentric(corners, number, np.stack([column, row], axis=1))
    return Raster(face >= 0, flat.faces[number], weights)


@lru_cache(maxsize=6)
def _underlay(n_vertices: int, window: Window, n_columns: int) -> NDArray[np.uint8]:
    """Curvature of a view."""
    return underlay(_raster(n_vertices, window, n_columns), _flat_cortex(n_vertices).curvature)


# Plotting -----------------------------------------------------------------------------------------


def _plot_map(
    axes: Axes, data: NDArray, window: Window, colours: AnyColours, n_columns: int
) -> None:
    """Plot the values over curvature."""
    n_vertices = len(data) // 2
    cortex = _underlay(n_vertices, window, n_columns)
    picture = colours.picture(_raster(n_vertices, window, n_columns), data)
    plot_over(axes, cortex, picture, window, colours)


def _plot_rois(axes: Axes, regions: NamedOutlines) -> None:
    """Outline ROIs and name them."""
    for hemisphere, lines in regions.lines:
        add_outline(axes, lines, hemisphere, regions.sizes.outline)
    add_names(axes, regions.names, regions.sizes.name)


def _named_parts(
    parts: list[_Part],
    outlines: Mapping[str, Mapping[str, NDArray[np.bool_]]],
    n_vertices: int,
    width: float,
) -> list[NamedOutlines]:
    """Outlines and names on each part of a figure, whose numbers have one legend."""
    sizes = _LARGE._replace(letter=_letter_size())
    found: list[NamedOutlines] = []
    known: dict[str, int] = {}
    for part in parts:
        found.append(_named(outlines, n_vertices, part, width, sizes, tuple(known.items())))
        known |= found[-1].names.numbers
    return found


def _named(
    outlines: Mapping[str, Mapping[str, NDArray[np.bool_]]],
    n_vertices: int,
    part: _Part,
    width: float,
    sizes: _Lettering,
    known: tuple[tuple[str, int], ...] = (),
) -> NamedOutlines:
    """Outlines on a part that is ``width`` inches wide, and places of their names.

    ``known`` are names that have numbers already, and these.
    """
    members = tuple(
        (hemisphere, name, member.tobytes())
        for hemisphere, named in outlines.items()
        for name, member in named.items()
        if hemisphere in part.hemispheres
    )
    taken = _marks(part, width, sizes)
    canvas = Canvas(part.window, _point(part.window, width), taken, sizes.leaders)
    return _traced_and_placed(members, n_vertices, canvas, sizes, known)


@lru_cache(maxsize=8)
def _traced_and_placed(
    members: tuple[tuple[str, str, bytes], ...],
    n_vertices: int,
    canvas: Canvas,
    sizes: _Lettering,
    known: tuple[tuple[str, int], ...],
) -> NamedOutlines:
    """Trace regions, whose members are bytes of bool arrays (n_vertices,), and place names."""
    lines, regions, unseen = [], [], []
    for hemisphere, name, member in members:
        traced = _outline(n_vertices, canvas.window, hemisphere, member)
        if traced is None:  # smaller than an islet, or not on the part of the patch that is shown
            unseen += [(name, hemisphere)] if any(member) else []
            continue
        lines.append((hemisphere, traced.lines))
        regions.append(Region(name, hemisphere, traced.x, traced.y, traced.depth))
    names = place_labels(regions, canvas, sizes.name, EARLY_AREAS, dict(known))
    return NamedOutlines(lines, replace(names, left_out=(*names.left_out, *unseen)), sizes)


@lru_cache(maxsize=512)
def _outline(n_vertices: int, window: Window, hemisphere: str, member: bytes) -> Traced | None:
    """Outline of an ROI, as bytes of a bool array (n_vertices,)."""
    raster = _raster(n_vertices, window, _PIXELS_ROI)
    both = np.zeros((2, n_vertices))
    both[HEMISPHERES.index(hemisphere)] = np.frombuffer(member, bool)
    return trace(raster.interpolate(both.ravel()), *_grid(window, _PIXELS_ROI))


def _letter_size() -> float:
    """Size of L and R on a large map, points."""
    return current_style().title + 4


def _marks(part: _Part, width: float, sizes: _Lettering) -> tuple[Box, ...]:
    """Where L and R and the arrows are, which no name may cover."""
    left, right, bottom, top = part.window
    point = _point(part.window, width)
    side, arrows = 1.4 * sizes.letter * point, (110 * point, 54 * point)
    low, high = (top - side, top) if sizes.arrows else (bottom, bottom + side)
    taken = []
    if "left" in part.hemispheres:
        taken.append(Box(left, left + side, low, high))
        if sizes.arrows:
            taken.append(Box(left, left + arrows[0], bottom, bottom + arrows[1]))
    if "right" in part.hemispheres:
        taken.append(Box(right - side, right, low, high))
        if sizes.arrows:
            taken.append(Box(right - arrows[0], right, bottom, bottom + arrows[1]))
    return tuple(taken)


def _plot_orientation(
    axes: Axes, part: _Part, size: tuple[float, float], ink: str, background: str
) -> None:
    """Write L and R in the upper corners; point to anterior and dorsal in the lower ones."""
    from matplotlib.patheffects import withStroke

    halo = [withStroke(linewidth=3, foreground=background)]
    style = {
        "xycoords": "axes fraction", "textcoords": "offset points", "color": ink, "zorder": 5,
        "path_effects": halo,
    }  # fmt: skip
    arrow = {"arrowstyle": "-|>", "color": ink, "linewidth": 1.2, "shrinkA": 0, "shrinkB": 0}
    width, height = size  # inches
    for hemisphere, letter, x, inward in (("left", "L", 0, 1), ("right", "R", 1, -1)):
        if hemisphere not in part.hemispheres:
            continue
        align = "left" if inward > 0 else "right"
        axes.annotate(
            letter, (x, 1), (6 * inward, -6), fontsize=_letter_size(), fontweight="bold",
            ha=align, va="top", **style,
        )  # fmt: skip
        axes.annotate(
            "anterior", (x, 0), (56 * inward, 10), fontsize=9, ha=align, va="center", **style
        )
        axes.annotate("dorsal", (x, 0), (50 * inward, 46), fontsize=9, ha="center", **style)
        at = (x + inward * 50 / 72 / width, 10 / 72 / height)
        for tip in ((at[0] - inward * 0.45 / width, at[1]), (at[0], at[1] + 0.45 / height)):
            axes.annotate(
                "", tip, at, xycoords="axes fraction", arrowprops=arrow, zorder=5
            ).arrow_patch.set_path_effects(halo)
