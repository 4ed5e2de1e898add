"""Maps on the folded or inflated cortex of fsaverage or fsLR: four views."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from synbrain_cli.errors import InputError
from synbrain_cli.io.surface import HEMISPHERES, Mesh, surface_folds, surface_mesh
from synbrain_cli.plotting.colours import ColourScale, add_colour_bar
from synbrain_cli.plotting.figure import SIDE, WIDTH, add_letters, current_style
from synbrain_cli.plotting.label_placement import Box, Canvas, Placement, Region, place_labels
from synbrain_cli.plotting.labels import EARLY_AREAS, Labels
from synbrain_cli.plotting.mesh_raster import (
    Raster,
    Window,
    plot_over,
    rasterise,
    underlay,
)
from synbrain_cli.plotting.named_maps import frame_named_maps
from synbrain_cli.plotting.roi_outlines import (
    Traced,
    add_names,
    add_outline,
    enclosed,
    name_size,
    trace,
)
from synbrain_cli.plotting.validation import DENSITIES, check_maps, check_rois

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SURFACES = ("inflated", "pial", "white")
_RIGHT, _ANTERIOR, _UP = np.eye(3)  # RAS
# Directions to the right and upwards in each view. In the ventral view the occipital poles are up,
# so that the left hemisphere remains on the left.
_VIEWS = {
    "lateral": {"left": (-_ANTERIOR, _UP), "right": (_ANTERIOR, _UP)},
    "medial": {"left": (_ANTERIOR, _UP), "right": (-_ANTERIOR, _UP)},
    "posterior": {"left": (_RIGHT, _UP), "right": (_RIGHT, _UP)},
    "ventral": {"left": (_RIGHT, -_ANTERIOR), "right": (_RIGHT, -_ANTERIOR)},
}
_PIXELS_PER_MM = 4.0  # of a raster; 3.3 reach the page at 200 dpi
_COARSER = 2  # pixels of a raster per pixel of an outline
_NAME = 9.0  # points, of the names of regions
_SIDE = 14.0  # points, of L and R
_SLIVER = 0.1  # of the largest piece of an ROI in any view; what is smaller has no outline
_BORDER = 2.0  # mm around a hemisphere
_APART = 5.0  # mm between the hemispheres of a view
_LABEL = 17.0  # mm above a view, for its name
_BETWEEN = 22.0  # mm between views side by side
_SHADE = 0.45  # of what is seen edge on


class _Scene(NamedTuple):
    """One hemisphere as one view shows it."""

    window: Window
    raster: Raster
    coarse: Raster  # every other pixel of it
    cortex: NDArray[np.uint8]  # curvature, RGBA
    shade: NDArray[np.uint8]  # black, more opaque where the surface is turned away, RGBA


def plot_surface(
    maps: Mapping[str, ArrayLike],
    labels: Labels,
    scale: ColourScale | None = None,
    *,
    surface: str = "inflated",
) -> Figure:
    """Plot a surface map on fsaverage: lateral, medial, posterior and ventral.

    The left hemisphere is on the left of each view, also of the ventral one, whose posterior end is
    up. All views have one scale and one colour bar. Underneath lies curvature, sulci darker. Values
    are interpolated within triangles, not smoothed; ROI outlines are, by 1.5 mm. Cortex that faces
    the viewer has the colours of the bar; the rest is shaded by the cosine of its slope (ours).

    Parameters
    ----------
    maps : dict of float arrays of shape (n_vertices,)
        ``left`` and ``right``, of fsaverage5 (10,242 vertices), fsaverage6 (40,962) or fsaverage
        (163,842); NaN where there are no data.
    labels : Labels
        Title, unit, and what else is to be shown of ROIs, stimulus and note. ROIs are outlined
        in every view that shows them, and named in the view that shows most of them.
    scale : ColourScale, optional
        As in ``plot_flatmap``: a map has the same colours in both.
    surface : {"inflated", "pial", "white"}
        What the map lies on.

    Returns
    -------
    matplotlib.figure.Figure
        11 inches wide. ``save_figure`` writes it.

    Raises
    ------
    InputError, InputTypeError
        When a map has another length or no values, or an option does not fit.
    MissingError
        When the geometry is not on this machine: only fsaverage5 comes with nilearn.

    Examples
    --------
    >>> maps = {"left": np.linspace(-1, 1, 10242), "right": np.full(10242, np.nan)}
    >>> figure = plot_surface(maps, Labels("Left only", "z"))
    >>> [axes.get_label() for axes in figure.axes][:3]
    ['lateral-left', 'lateral-right', 'medial-left']
    """
    data = check_maps(maps)
    outlines = check_rois(labels.rois or {}, len(data) // 2)
    density = density_of(data, surface)
    colours = (scale or ColourScale()).fit(data)
    scenes = {
        (view, hemisphere): _scene(surface, density, view, hemisphere)
        for view in _VIEWS
        for hemisphere in HEMISPHERES
    }
    _, (width, height) = _layout(scenes, _LABEL)
    page = current_style().width(WIDTH) - 2 * SIDE
    planned = page / width  # inches per mm
    titles = len(_columns()[0]) * _LABEL * planned

    def place_names(share: float) -> tuple[_NamedRois, Iterable[Placement]]:
        seen, names = _named_rois(scenes, outlines, 1 / (share * planned) / 72)
        return (seen, names), list(names.values())

    size = (page, height * planned - titles)
    placed = frame_named_maps(WIDTH, size, labels, place_names, fixed=titles)
    framed, (seen, names) = placed.framed, placed.named
    inches = placed.share * planned
    corners, _ = _layout(scenes, _LABEL / placed.share)
    values = dict(zip(HEMISPHERES, np.split(data, 2), strict=True))
    axes = {}
    for panel, scene in scenes.items():
        left, right, bottom, top = scene.window
        x, y = corners[panel]
        box = framed.box(
            placed.left + x * inches,
            placed.bottom + y * inches,
            (right - left) * inches,
            (top - bottom) * inches,
        )
        axes[panel] = framed.figure.add_axes(box, label="-".join(panel))
        picture = scene.raster.interpolate(values[panel[1]])
        plot_over(axes[panel], scene.cortex, picture, scene.window, colours)
        axes[panel].imshow(
            scene.shade, gid="shade", zorder=3, extent=scene.window, origin="lower", aspect="auto"
        )
        for lines in seen[panel].lines:
            add_outline(axes[panel], lines, panel[1])
        add_names(axes[panel], names[panel], name_size(_NAME))
    _name_views(axes)
    add_letters(axes[view, "left"] for row in zip(*_columns(), strict=True) for view in row)
    add_colour_bar(framed, colours, labels.unit)
    return framed.figure


# Geometry -----------------------------------------------------------------------------------------


def density_of(data: NDArray, surface: str) -> str:
    """Return which space has as many vertices, for a surface that can be shown.

    Raises
    ------
    InputError
        When the surface is another.
    """
    if surface not in SURFACES:
        raise InputError(
            f"surface: expected {', '.join(SURFACES)}, found {surface!r}"
            + (": plot_flatmap shows the flattened cortex" * (surface == "flat"))
        )
    return DENSITIES[len(data) // 2]


@lru_cache(maxsize=2 * len(_VIEWS))
def _scene(surface: str, density: str, view: str, hemisphere: str) -> _Scene:
    """Orthographic projection of one hemisphere, seen from far away."""
    meshes = surface_mesh(surface, density)
    mesh = meshes[hemisphere]
    right, up = _VIEWS[view][hemisphere]
    towards = np.cross(right, up)
    axes = np.stack([right, up, towards], axis=1)
    projected = mesh.coordinates.astype(np.float64) @ axes  # (n_vertices, 3), mm
    # Both hemispheres get panels of one size.
    size = np.max([np.ptp(part.coordinates @ axes, axis=0) for part in meshes.values()], axis=0)
    middle = (projected.min(0) + projected.max(0)) / 2
    n_columns, n_rows = np.ceil((size[:2] + 2 * _BORDER) * _PIXELS_PER_MM).astype(int)
    size[:2] = n_columns / _PIXELS_PER_MM, n_rows / _PIXELS_PER_MM
    low, high = middle - size / 2, middle + size / 2
    pixels = (projected - low) * _PIXELS_PER_MM - 0.5  # the first pixel's centre is at 0
    raster = rasterise(pixels, mesh.faces, n_rows, n_columns)

    facing = np.clip(np.nan_to_num(raster.interpolate(normals(mesh) @ towards)), 0, 1)
    shade = np.zeros((*raster.inside.shape, 4), np.uint8)
    shade[..., 3] = np.round(255 * _SHADE * (1 - facing)) * raster.inside
    fewer = np.zeros_like(raster.inside)
    fewer[::_COARSER, ::_COARSER] = True
    fewer = fewer[raster.inside]
    return _Scene(
        (low[0], high[0], low[1], high[1]),
        raster,
        Raster(
            raster.inside[::_COARSER, ::_COARSER], raster.vertices[fewer], raster.weights[fewer]
        ),
        underlay(raster, surface_folds(density)[hemisphere]),
        shade,
    )


def normals(mesh: Mesh) -> NDArray[np.float64]:
    """Return unit vectors that point outwards, the mean of a vertex's triangles by area."""
    a, b, c = mesh.coordinates[mesh.faces].astype(np.float64).transpose(1, 0, 2)
    total = np.zeros(mesh.coordinates.shape)
    np.add.at(total, mesh.faces, np.cross(b - a, c - a)[:, None])
    return total / np.linalg.norm(total, axis=1, keepdims=True)


def _columns() -> tuple[tuple[str, ...], ...]:
    """Views below each other: lateral and posterior above, medial and ventral below."""
    if current_style().narrow:
        return (("lateral", "posterior", "medial", "ventral"),)
    return (("lateral", "medial"), ("posterior", "ventral"))


def _layout(
    scenes: Mapping[tuple[str, str], _Scene], label: float
) -> tuple[dict[tuple[str, str], tuple[float, float]], tuple[float, float]]:
    """Lower left corner of each panel and the size of the whole, mm; ``label`` is above a view."""
    sizes = {
        panel: (scene.window[1] - scene.window[0], scene.window[3] - scene.window[2])
        for panel, scene in scenes.items()
    }
    corners = {}
    columns = _columns()
    rows = list(zip(*columns, strict=True))
    heights = [max(sizes[view, "left"][1] for view in row) for row in rows]
    total = sum(heights) + label * len(rows)
    x = 0.0
    for column in columns:
        width = max(sizes[view, "left"][0] for view in column)
        top = total
        for view, height in zip(column, heights, strict=True):
            top -= label + height
            for k, hemisphere in enumerate(HEMISPHERES):
                own = sizes[view, hemisphere]
                corners[view, hemisphere] = (x + k * (width + _APART), top + (height - own[1]) / 2)
        x += 2 * width + _APART + _BETWEEN
    return corners, (x - _BETWEEN, total)


# Plotting -----------------------------------------------------------------------------------------


def _name_views(axes: Mapping[tuple[str, str], Axes]) -> None:
    """Write the name of each view above it, right of its letter, and L and R at its corners."""
    for view in _VIEWS:
        name = view + (" (anterior down)" if view == "ventral" else "")
        for hemisphere, x, letter in (("left", 0, "L"), ("right", 1, "R")):
            axes[view, hemisphere].annotate(
                letter, (x, 1), (0, -2), xycoords="axes fraction", textcoords="offset points",
                fontsize=_SIDE, fontweight="bold", ha=hemisphere, va="top",
                gid=f"side-{hemisphere}",
            )  # fmt: skip
        axes[view, "left"].annotate(
            name, (0, 1), (18, 5), xycoords="axes fraction", textcoords="offset points",
            fontsize=12, ha="left", va="bottom", gid=f"view-{view}", annotation_clip=False,
        )  # fmt: skip


def _corner(window: Window, hemisphere: str, point: float) -> Box:
    """Where L or R is, which no name may cover; ``point`` is the length of a point, mm."""
    left, right, _, top = window
    side = 1.2 * _SIDE * point
    if hemisphere == "left":
        return Box(left, left + side, top - side, top)
    return Box(right - side, right, top - side, top)


class _Seen(NamedTuple):
    """Regions as one panel shows them: their outlines, and those that are named there."""

    lines: list[list[NDArray]]
    regions: list[Region]


# By panel: what it shows, and where names are
_NamedRois = tuple[dict[tuple[str, str], _Seen], dict[tuple[str, str], Placement]]


def _named_rois(
    scenes: Mapping[tuple[str, str], _Scene],
    outlines: Mapping[str, Mapping[str, NDArray[np.bool_]]],
    point: float,
) -> _NamedRois:
    """Outline ROIs wherever they are seen; name each in the view that shows most of it.

    ``point`` is the length of a point of the page, mm.
    """
    seen = {panel: _Seen([], []) for panel in scenes}
    unseen = []
    for hemisphere, named in outlines.items():
        for name, member in named.items():
            found = {
                view: traced
                for view in _VIEWS
                if (traced := _outline(scenes[view, hemisphere], member)) is not None
            }
            if not found:
                unseen += [(name, hemisphere)] if member.any() else []
                continue
            sizes = {view: sum(map(enclosed, one.lines)) for view, one in found.items()}
            least = _SLIVER * max(enclosed(line) for one in found.values() for line in one.lines)
            for view, one in found.items():
                kept = [line for line in one.lines if enclosed(line) >= least]
                seen[view, hemisphere].lines.append(kept)
            best = max(sizes, key=lambda view: sizes[view])
            _, x, y, depth = found[best]
            seen[best, hemisphere].regions.append(Region(name, hemisphere, x, y, depth))
    numbers: dict[str, int] = {}
    size = name_size(_NAME)
    names = {}
    for panel, one in seen.items():
        canvas = Canvas(
            scenes[panel].window, point, (_corner(scenes[panel].window, panel[1], point),)
        )
        names[panel] = place_labels(one.regions, canvas, size, EARLY_AREAS, numbers)
        numbers |= names[panel].numbers
    first = next(iter(names))
    names[first] = replace(names[first], left_out=(*names[first].left_out, *unseen))
    return seen, names


def _outline(scene: _Scene, member: NDArray[np.bool_]) -> Traced | None:
    if not member[scene.coarse.vertices].any():
        return None
    left, _, bottom, _ = scene.window
    picture = scene.coarse.interpolate(member)
    x, y = (
        start + (_COARSER * np.arange(n) + 0.5) / _PIXELS_PER_MM
        for start, n in ((left, picture.shape[1]), (bottom, picture.shape[0]))
    )
    return trace(picture, x, y)
