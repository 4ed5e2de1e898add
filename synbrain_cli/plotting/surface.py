"""Maps on the folded or inflated cortex of fsaverage: four views, and a page to turn it by hand."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from synbrain_cli.errors import InputError
from synbrain_cli.io.surface import HEMISPHERES, Mesh, fsaverage, fsaverage_map
from synbrain_cli.plotting.figure import (
    BAND,
    DENSITIES,
    SIDE,
    WIDTH,
    check_maps,
    check_rois,
    colour_limits,
    colours,
    draw_colour_bar,
    frame,
    hidden,
)
from synbrain_cli.plotting.outlines import Traced, draw_name, draw_outline, trace
from synbrain_cli.plotting.raster import FOLDS, Raster, Window, draw_over, rasterise, underlay

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SURFACES = ("inflated", "pial", "white")
_RIGHT, _ANTERIOR, _UP = np.eye(3)  # RAS
# What is to the right and what is up on the picture. The ventral view is that of a brain whose
# occipital poles are tipped up, so that the left hemisphere stays on the left.
_VIEWS = {
    "lateral": {"left": (-_ANTERIOR, _UP), "right": (_ANTERIOR, _UP)},
    "medial": {"left": (_ANTERIOR, _UP), "right": (-_ANTERIOR, _UP)},
    "posterior": {"left": (_RIGHT, _UP), "right": (_RIGHT, _UP)},
    "ventral": {"left": (_RIGHT, -_ANTERIOR), "right": (_RIGHT, -_ANTERIOR)},
}
_PIXELS_PER_MM = 4.0  # of a raster; 3.3 reach the page at 200 dpi
_COARSER = 2  # pixels of a raster per pixel of an outline
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
    shade: NDArray[np.uint8]  # black, the more opaque the more a place is turned away, RGBA


def plot_surface(
    maps: Mapping[str, ArrayLike],
    *,
    title: str,
    unit: str,
    threshold: float | None = None,
    vmax: float | None = None,
    vmin: float | None = None,
    cmap: str | None = None,
    symmetric: bool = True,
    surface: str = "inflated",
    rois: Mapping[str, Any] | None = None,
    image: ArrayLike | None = None,
    note: str | None = None,
) -> Figure:
    """Draw a surface map on fsaverage: lateral, medial, posterior and ventral.

    The left hemisphere is on the left of each view, also of the ventral one, whose posterior end is
    up. All views have one scale and one colour bar. Underneath lies curvature, sulci darker. Values
    are interpolated within triangles, not smoothed; ROI outlines are, by 1.5 mm. Places that face
    the viewer have the colours of the bar, others are shaded by the cosine of their slope (ours).

    Parameters
    ----------
    maps : dict of float arrays of shape (n_vertices,)
        ``left`` and ``right``, of fsaverage5 (10,242 vertices), fsaverage6 (40,962) or fsaverage
        (163,842); NaN where there are no data.
    title : str
        Any length: wrapped.
    unit : str
        Of the values, under the colour bar.
    threshold, vmax, vmin, cmap, symmetric
        As in ``plot_flatmap``: a map has the same colours in both.
    surface : {"inflated", "pial", "white"}
        What the map lies on.
    rois : dict, optional
        As in ``plot_flatmap``. Outlined wherever seen, named in the view that shows most of it.
    image : uint8 array of shape (height, width, 3), optional
        The stimulus, shown in the upper left corner.
    note : str, optional
        A label that must not be overlooked, such as "simulated".

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
    >>> figure = plot_surface(maps, title="Left only", unit="z")
    >>> [axes.get_label() for axes in figure.axes][:3]
    ['lateral-left', 'lateral-right', 'medial-left']
    """
    data = check_maps(maps)
    outlines = check_rois(rois or {}, len(data) // 2)
    density = _density(data, surface)
    mappable = colours(
        colour_limits(data, vmin, vmax, threshold, symmetric), threshold, symmetric, cmap
    )
    scenes = {
        (view, hemisphere): _scene(surface, density, view, hemisphere)
        for view in _VIEWS
        for hemisphere in HEMISPHERES
    }
    corners, (width, height) = _layout(scenes)
    scale = (WIDTH - 2 * SIDE) / width  # inches per mm
    framed = frame(WIDTH, height * scale, title=title, image=image, note=note)
    values = dict(zip(HEMISPHERES, np.split(data, 2), strict=True))
    axes = {}
    for place, scene in scenes.items():
        left, right, bottom, top = scene.window
        x, y = corners[place]
        box = framed.box(
            SIDE + x * scale, y * scale, (right - left) * scale, (top - bottom) * scale
        )
        axes[place] = framed.figure.add_axes(box, label="-".join(place))
        picture = scene.raster.draw(values[place[1]])
        draw_over(axes[place], scene.cortex, picture, scene.window, mappable, threshold, symmetric)
        axes[place].imshow(
            scene.shade, gid="shade", zorder=3, extent=scene.window, origin="lower", aspect="auto"
        )
    _name_views(axes)
    _draw_rois(axes, scenes, outlines)
    draw_colour_bar(framed, mappable, data, unit, threshold=threshold, symmetric=symmetric)
    return framed.figure


def view_surface(
    maps: Mapping[str, ArrayLike],
    *,
    title: str,
    unit: str,
    threshold: float | None = None,
    vmax: float | None = None,
    symmetric: bool = True,
    cmap: str | None = None,
    surface: str = "inflated",
    note: str | None = None,
) -> str:
    """Put a surface map on a page where the cortex can be turned, by nilearn's ``view_surf``.

    Parameters
    ----------
    maps, title, unit, threshold, vmax, symmetric, cmap, surface, note
        As in ``plot_surface``.

    Returns
    -------
    str
        HTML that holds all it needs and asks nothing of any network: 2.8 MB for fsaverage5, half
        of it the drawing library; 21 MB for fsaverage. Vertices without data, and those nearer to
        0 than the threshold, show curvature.

    Raises
    ------
    InputError, InputTypeError, MissingError
        As ``plot_surface``.

    Examples
    --------
    >>> maps = {"left": np.linspace(-1, 1, 10242), "right": np.full(10242, np.nan)}
    >>> view_surface(maps, title="Left only", unit="z")[:15]
    '<!DOCTYPE html>'
    """
    from nilearn.plotting import view_surf
    from nilearn.surface import InMemoryMesh, PolyMesh, SurfaceImage

    data = check_maps(maps)
    density = _density(data, surface)
    low, high = colour_limits(data, None, vmax, threshold, symmetric)
    mesh = PolyMesh(**{h: InMemoryMesh(*part) for h, part in fsaverage(surface, density).items()})
    folds = np.concatenate([fsaverage_map("curvature", density)[h] for h in HEMISPHERES])

    def on_mesh(values: NDArray) -> SurfaceImage:
        return SurfaceImage(mesh, dict(zip(HEMISPHERES, np.split(values, 2), strict=True)))

    shown = np.where(hidden(data, threshold, symmetric), np.nan, data)
    try:
        page = view_surf(
            surf_map=on_mesh(shown.astype(np.float32)),
            bg_map=on_mesh(0.32 + 0.1 * np.tanh(FOLDS * folds)),  # of nilearn's Greys, 0 white
            hemi="both", cmap=colours((low, high), threshold, symmetric, cmap).cmap,
            vmax=high, vmin=None if symmetric else low, symmetric_cmap=symmetric,
            colorbar_height=0.6, colorbar_fontsize=15, view="back",
        ).html  # fmt: skip
    except ImportError as error:
        raise InputError(f"view_surface: {error} pip install plotly") from error
    # nilearn's page asks for an icon on the network.
    page = re.sub(r"<link\b[^>]*>", "", page, count=1)
    page = re.sub(r"<title>.*?</title>", "<title></title>", page, count=1, flags=re.DOTALL)
    page = page.replace("<title>", f"<title>{html.escape(title)}", 1)
    page = page.replace("<body>", f"<body>{_header(title, note)}", 1)
    bar = _colour_bar(data, (low, high), unit, threshold, symmetric)
    return page.replace("</body>", f"{bar}</body>", 1)


def _header(title: str, note: str | None) -> str:
    """Title and label over the cortex, where they do not catch the mouse."""
    label = f'<b style="background: {BAND}; padding: 4px; float: right">{html.escape(note or "")}'
    return (
        '<header style="position: absolute; z-index: 1; left: 12px; right: 12px; top: 8px; '
        f'font: 17px sans-serif; pointer-events: none">{f"{label}</b>" if note else ""}'
        f"{html.escape(title)}</header>"
    )


def _colour_bar(
    data: NDArray,
    limits: tuple[float, float],
    unit: str,
    threshold: float | None,
    symmetric: bool,
) -> str:
    """What nilearn leaves out of the bar: unit, threshold and the ends of the range."""
    low, high = limits
    ticks = {low: "≤ " * bool(np.nanmin(data) < low), high: "≥ " * bool(np.nanmax(data) > high)}
    if low < 0 < high:
        ticks[0.0] = ""
    if threshold:
        unit += f"  (shown: {'|value|' if symmetric else 'value'} ≥ {threshold:g})"
    style = {
        "colorbar.title.text": html.escape(unit),
        "colorbar.title.side": "right",
        "colorbar.title.font.size": 16,
        "colorbar.title.font.color": "black",
        "colorbar.thickness": 18,
        "colorbar.tickvals": [list(ticks)],
        "colorbar.ticktext": [
            [f"{text}{tick:.3g}".replace("-", "−") for tick, text in ticks.items()]
        ],
    }
    change = json.dumps(style).replace("<", "\\u003c")
    return f'<script>$(() => Plotly.restyle("surface-plot", {change}, [1]))</script>'


# Geometry -----------------------------------------------------------------------------------------


def _density(data: NDArray, surface: str) -> str:
    if surface not in SURFACES:
        raise InputError(
            f"surface: expected {', '.join(SURFACES)}, found {surface!r}"
            + (": plot_flatmap draws on the flattened cortex" * (surface == "flat"))
        )
    return DENSITIES[len(data) // 2]


@lru_cache(maxsize=2 * len(_VIEWS))
def _scene(surface: str, density: str, view: str, hemisphere: str) -> _Scene:
    """Orthographic projection of one hemisphere, seen from far away."""
    meshes = fsaverage(surface, density)
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

    facing = np.clip(np.nan_to_num(raster.draw(_normals(mesh) @ towards)), 0, 1)
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
        underlay(raster, fsaverage_map("curvature", density)[hemisphere]),
        shade,
    )


def _normals(mesh: Mesh) -> NDArray[np.float64]:
    """Unit vectors that point out of the surface, the mean of a vertex's triangles by area."""
    a, b, c = mesh.coordinates[mesh.faces].astype(np.float64).transpose(1, 0, 2)
    normals = np.zeros(mesh.coordinates.shape)
    np.add.at(normals, mesh.faces, np.cross(b - a, c - a)[:, None])
    return normals / np.linalg.norm(normals, axis=1, keepdims=True)


def _layout(
    scenes: Mapping[tuple[str, str], _Scene],
) -> tuple[dict[tuple[str, str], tuple[float, float]], tuple[float, float]]:
    """Lower left corner of each panel and the size of the whole, mm.

    Lateral and posterior above, medial and ventral below.
    """
    sizes = {
        place: (scene.window[1] - scene.window[0], scene.window[3] - scene.window[2])
        for place, scene in scenes.items()
    }
    corners = {}
    columns = (("lateral", "medial"), ("posterior", "ventral"))
    rows = list(zip(*columns, strict=True))
    heights = [max(sizes[view, "left"][1] for view in row) for row in rows]
    total = sum(heights) + _LABEL * len(rows)
    x = 0.0
    for column in columns:
        width = max(sizes[view, "left"][0] for view in column)
        top = total
        for view, height in zip(column, heights, strict=True):
            top -= _LABEL + height
            for k, hemisphere in enumerate(HEMISPHERES):
                own = sizes[view, hemisphere]
                corners[view, hemisphere] = (x + k * (width + _APART), top + (height - own[1]) / 2)
        x += 2 * width + _APART + _BETWEEN
    return corners, (x - _BETWEEN, total)


# Drawing ------------------------------------------------------------------------------------------


def _name_views(axes: Mapping[tuple[str, str], Axes]) -> None:
    """The view between L and R, above its hemispheres."""
    figure = next(iter(axes.values())).figure
    for view in _VIEWS:
        left, right = (axes[view, hemisphere].get_position() for hemisphere in HEMISPHERES)
        y = left.y1 + 4 / 72 / figure.get_size_inches()[1]
        name = view + (" (anterior down)" if view == "ventral" else "")
        for x, text, align, style in (
            (left.x0, "L", "left", {"fontsize": 16, "fontweight": "bold"}),
            ((left.x0 + right.x1) / 2, name, "center", {"fontsize": 12}),
            (right.x1, "R", "right", {"fontsize": 16, "fontweight": "bold"}),
        ):
            figure.text(x, y, text, ha=align, va="baseline", gid=f"view-{view}", **style)


def _draw_rois(
    axes: Mapping[tuple[str, str], Axes],
    scenes: Mapping[tuple[str, str], _Scene],
    outlines: Mapping[str, Mapping[str, NDArray[np.bool_]]],
) -> None:
    """Outline ROIs wherever they are seen; name each in the view that shows most of it."""
    for hemisphere, named in outlines.items():
        for name, member in named.items():
            found = {
                view: traced
                for view in _VIEWS
                if (traced := _outline(scenes[view, hemisphere], member)) is not None
            }
            if not found:
                continue
            sizes = {view: [_area(line) for line in lines] for view, (lines, _) in found.items()}
            least = _SLIVER * max(map(max, sizes.values()))
            for view, (lines, _) in found.items():
                kept = [
                    line for line, size in zip(lines, sizes[view], strict=True) if size >= least
                ]
                draw_outline(axes[view, hemisphere], kept, hemisphere)
            best = max(sizes, key=lambda view: sum(sizes[view]))
            draw_name(axes[best, hemisphere], found[best][1], name, hemisphere)


def _outline(scene: _Scene, member: NDArray[np.bool_]) -> Traced | None:
    if not member[scene.coarse.vertices].any():
        return None
    left, _, bottom, _ = scene.window
    picture = scene.coarse.draw(member)
    x, y = (
        start + (_COARSER * np.arange(n) + 0.5) / _PIXELS_PER_MM
        for start, n in ((left, picture.shape[1]), (bottom, picture.shape[0]))
    )
    return trace(picture, x, y)


def _area(line: NDArray) -> float:
    """Area in a closed line."""
    (x, y), (x_next, y_next) = line[:-1].T, line[1:].T
    return abs((x * y_next - y * x_next).sum()) / 2
