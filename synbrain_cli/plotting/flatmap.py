"""Maps on the flattened cortex of fsaverage5, drawn with matplotlib's object API.

No display is needed, no pyplot state is touched and figures need no closing.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from synbrain_cli.errors import InputError, InputTypeError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

HEMISPHERES = ("left", "right")
N_VERTICES = 10242  # fsaverage5, per hemisphere
_GAP = 12.0  # mm between the hemispheres
_LONGEST_EDGE = 10.0  # mm; the usual edge has 2.7, only triangles that bridge a cut exceed this
_MARGIN = 14.0  # mm of cortex around the data when zoomed
_SMOOTHING = 1.5  # mm, of ROI outlines: takes off the zigzag of the triangles
_WIDTH = 11.0  # inches
_SIDE = 0.25  # inches left free on the left and on the right
_PANEL = _WIDTH - 2 * _SIDE
_PIXELS = 2100  # raster columns: one per pixel at 200 dpi
_PIXELS_ROI = 700

_Window = tuple[float, float, float, float]  # left, right, bottom, top in mm


class _Flat(NamedTuple):
    """Both patches as they are drawn, left vertices first."""

    xy: NDArray[np.float64]  # (2 · 10242, 2), mm; x < 0 on the left hemisphere
    faces: NDArray[np.int32]  # (n_faces, 3)
    sulcal: NDArray[np.float32]  # (2 · 10242,)


class _Raster(NamedTuple):
    """Which vertices make up each pixel of a view: ``values[vertices] * weights``, summed."""

    inside: NDArray[np.bool_]  # (n_rows, n_columns), first row at the bottom
    vertices: NDArray[np.int32]  # (n_inside, 3)
    weights: NDArray[np.float32]  # (n_inside, 3)

    def draw(self, values: NDArray) -> NDArray[np.float32]:
        """Interpolate within triangles; NaN off the patch, and nearer to NaN than to values."""
        known = np.isfinite(values)
        total = self._sum(np.where(known, values, 0))
        if not known.all():
            share = self._sum(known)
            with np.errstate(invalid="ignore", divide="ignore"):
                total = np.where(share >= 0.5, total / share, np.nan)
        picture = np.full(self.inside.shape, np.nan, dtype=np.float32)
        picture[self.inside] = total
        return picture

    def _sum(self, values: NDArray) -> NDArray[np.float32]:
        return np.einsum("pk,pk->p", values.astype(np.float32)[self.vertices], self.weights)


def plot_flatmap(
    maps: Mapping[str, ArrayLike],
    *,
    title: str,
    unit: str,
    rois: Mapping[str, Any] | None = None,
    threshold: float | None = None,
    vmax: float | None = None,
    vmin: float | None = None,
    cmap: str | None = None,
    symmetric: bool = True,
    image: ArrayLike | None = None,
    note: str | None = None,
    view: str | None = None,
    background: str = "white",
) -> Figure:
    """Draw a surface map on both flattened hemispheres of fsaverage5.

    The left hemisphere is on the left. The occipital poles face each other in the middle, anterior
    points outward, dorsal up (the orientation of the fsaverage patches, and pycortex's). Underneath
    lies sulcal depth in light greys, sulci darker. Values are interpolated within triangles, not
    smoothed; ROI outlines are, by 1.5 mm. Triangles that bridge a cut of the patch are left out, as
    are the vertices that the patch lacks (the medial wall).

    Parameters
    ----------
    maps : dict of float arrays of shape (10242,)
        ``left`` and ``right``; NaN where there are no data.
    title : str
        Any length: wrapped.
    unit : str
        Of the values, under the colour bar.
    rois : dict, optional
        ``left`` and ``right``, each one label per vertex (int or str, shape (10242,); 0, negative
        and "" are unlabelled) or a dict from name to a bool array of shape (10242,). Outlined and
        named. A hemisphere may be absent.
    threshold : float, optional
        Values nearer to 0 than this (below it, when not ``symmetric``) are left transparent.
    vmax : float, optional
        Upper end of the colours; by default the 99th percentile of the values (of their
        magnitude, when ``symmetric``). Arrows on the colour bar tell that values lie beyond.
    vmin : float, optional
        Lower end when not ``symmetric``; by default 0, or the 1st percentile if that is negative.
    cmap : str, optional
        Name of a matplotlib colour map; by default ``RdBu_r``, or ``inferno`` when not
        ``symmetric``.
    symmetric : bool
        Colours centred on 0.
    image : uint8 array of shape (height, width, 3), optional
        The stimulus, shown in the upper left corner.
    note : str, optional
        A label that must not be overlooked, such as "simulated".
    view : {"cortex", "data"}, optional
        Whole hemispheres, or the part with data, the same on both sides. By default the part, if
        data cover less than 40 % of the patch.
    background : str
        Colour of the figure.

    Returns
    -------
    matplotlib.figure.Figure
        11 inches wide. ``save_figure`` writes it.

    Raises
    ------
    InputError, InputTypeError
        When a map has another length or no values, or an option does not fit.

    Examples
    --------
    >>> maps = {"left": np.linspace(-1, 1, 10242), "right": np.full(10242, np.nan)}
    >>> figure = plot_flatmap(maps, title="Left only", unit="z", view="cortex")
    >>> [axes.get_label() for axes in figure.axes]
    ['flatmap', 'colorbar']
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import to_rgb
    from matplotlib.figure import Figure

    data = _check_maps(maps)
    outlines = _check_rois(rois or {})
    image = _check_image(image)
    if view not in (None, "cortex", "data"):
        raise InputError(f"view: expected cortex or data, found {view!r}")
    low, high = _limits(data, vmin, vmax, threshold, symmetric)

    red, green, blue = to_rgb(background)
    ink = "black" if 0.3 * red + 0.59 * green + 0.11 * blue > 0.5 else "white"
    picture_width = 0.0
    if image is not None:
        picture_height = min(1.2, 2.4 * image.shape[0] / image.shape[1])
        picture_width = picture_height * image.shape[1] / image.shape[0]
    note_lines = textwrap.wrap(note or "", 36)
    note_width = max((_text_width(line, 13, bold=True) + 0.5 for line in note_lines), default=0)
    title_left = _SIDE + (picture_width + 0.25 if picture_width else 0)
    lines = _wrap(title, _WIDTH - _SIDE - title_left - note_width, 16)
    header = max(
        0.35 + 0.27 * len(lines), 0.35 + 0.22 * len(note_lines), 1.45 if picture_width else 0
    )
    window = _window(data, view)
    panel = _PANEL * (window[3] - window[2]) / (window[1] - window[0])
    footer = 1.0
    height = header + panel + footer

    figure = Figure(figsize=(_WIDTH, height), facecolor=background)
    FigureCanvasAgg(figure)
    axes = figure.add_axes(
        (_SIDE / _WIDTH, footer / height, _PANEL / _WIDTH, panel / height), label="flatmap"
    )
    axes.set(xlim=window[:2], ylim=window[2:])
    axes.axis("off")
    mappable = _draw_map(axes, data, window, (low, high), threshold, symmetric, cmap)
    _draw_rois(axes, outlines, window)
    _draw_orientation(axes, panel, ink, background)
    _draw_colorbar(figure, mappable, data, unit, threshold, symmetric, ink)
    figure.text(
        title_left / _WIDTH, 1 - 0.18 / height, "\n".join(lines), parse_math=False,
        fontsize=16, color=ink, va="top", ha="left", linespacing=1.2, gid="title",
    )  # fmt: skip
    if image is not None:
        corner = figure.add_axes(
            (
                _SIDE / _WIDTH,
                1 - (0.15 + picture_height) / height,
                picture_width / _WIDTH,
                picture_height / height,
            ),
            label="stimulus",
        )
        corner.imshow(image, aspect="auto")
        corner.axis("off")
    if note_lines:
        figure.text(
            1 - (_SIDE + 0.1) / _WIDTH, 1 - 0.2 / height, "\n".join(note_lines), parse_math=False,
            fontsize=13, fontweight="bold", color="black", va="top", ha="right", gid="note",
            bbox={"boxstyle": "round,pad=0.35", "facecolor": "#ffd54d", "edgecolor": "none"},
        )  # fmt: skip
    return figure


# Geometry -----------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def _flat_cortex() -> _Flat:
    """Both patches from nilearn's fsaverage5, side by side around x = 0."""
    from nilearn.datasets import load_fsaverage, load_fsaverage_data

    meshes, sulcal = load_fsaverage("fsaverage5")["flat"], load_fsaverage_data("fsaverage5")
    patches = []
    for first, hemisphere in zip((0, N_VERTICES), HEMISPHERES, strict=True):
        mesh = meshes.parts[hemisphere]
        xy, faces = np.array(mesh.coordinates[:, :2], dtype=np.float64), np.asarray(mesh.faces)
        edges = np.linalg.norm(xy[faces] - xy[np.roll(faces, 1, axis=1)], axis=2)
        faces = faces[edges.max(1) <= _LONGEST_EDGE]
        # Posterior is +x on the left patch and −x on the right one: a shift makes them face
        x = xy[np.unique(faces), 0]
        xy[:, 0] -= x.max() + _GAP / 2 if hemisphere == "left" else x.min() - _GAP / 2
        patches.append(_Flat(xy, faces + first, np.ravel(sulcal.data.parts[hemisphere])))
    return _Flat(*(np.concatenate(parts) for parts in zip(*patches, strict=True)))


def _window(data: NDArray, view: str | None) -> _Window:
    """What is shown: symmetric about x = 0."""
    flat = _flat_cortex()
    used = np.unique(flat.faces)
    shown = used[np.isfinite(data[used])]
    if len(shown) == 0:
        raise InputError("maps: the flat patch has no vertex with data: all are on the medial wall")
    half, bottom, top = _extent(flat.xy[used], 2)
    if view == "data" or (view is None and len(shown) < 0.4 * len(used)):
        most = half
        half, low, high = _extent(flat.xy[shown], _MARGIN)
        bottom, top = max(bottom, low), min(top, high)
        half = min(max(half, 50, 0.8 * (top - bottom)), most)  # a landscape format,
        lacking = max(0.0, 0.8 * half - (top - bottom))  # but no slit
        bottom, top = bottom - lacking / 2, top + lacking / 2
    return -half, half, bottom, top


def _extent(xy: NDArray, margin: float) -> tuple[float, float, float]:
    x, y = np.abs(xy[:, 0]).max(), xy[:, 1]
    return float(x + margin), float(y.min() - margin), float(y.max() + margin)


def _grid(window: _Window, n_columns: int) -> tuple[NDArray, NDArray]:
    """Centres of square pixels: x of the columns, y of the rows."""
    left, right, bottom, top = window
    n_rows = round(n_columns * (top - bottom) / (right - left))
    return (
        left + (right - left) * (np.arange(n_columns) + 0.5) / n_columns,
        bottom + (top - bottom) * (np.arange(n_rows) + 0.5) / n_rows,
    )


@lru_cache(maxsize=4)
def _raster(window: _Window, n_columns: int) -> _Raster:
    """The pixels of a view and the triangles they lie in."""
    from matplotlib.tri import Triangulation

    flat = _flat_cortex()
    x, y = _grid(window, n_columns)
    face = Triangulation(*flat.xy.T, flat.faces).get_trifinder()(*np.meshgrid(x, y))
    rows, columns = np.nonzero(face >= 0)
    # Barycentric coordinates are linear in the position: one 2 × 2 matrix per triangle
    a, b, c = flat.xy[flat.faces].transpose(1, 0, 2)
    inverse = np.linalg.inv(np.stack([b - a, c - a], axis=-1))
    face_inside = face[rows, columns]
    offset = np.stack([x[columns], y[rows]], axis=-1) - a[face_inside]
    second, third = np.einsum("pij,pj->ip", inverse[face_inside], offset)
    weights = np.stack([1 - second - third, second, third], axis=-1).astype(np.float32)
    return _Raster(face >= 0, flat.faces[face_inside], weights)


@lru_cache(maxsize=4)
def _underlay(window: _Window) -> NDArray[np.uint8]:
    """Sulcal depth as an RGBA picture: gyri light, sulci darker, both darker than a zero value."""
    raster = _raster(window, _PIXELS)
    depth = np.nan_to_num(raster.draw(_flat_cortex().sulcal))
    grey = np.round(255 * (0.80 - 0.07 * np.tanh(2.5 * depth))).astype(np.uint8)
    return np.dstack([grey, grey, grey, raster.inside.astype(np.uint8) * 255])


# Drawing ------------------------------------------------------------------------------------------


def _draw_map(
    axes: Axes,
    data: NDArray,
    window: _Window,
    limits: tuple[float, float],
    threshold: float | None,
    symmetric: bool,
    cmap: str | None,
) -> AxesImage:
    """Draw the values over sulcal depth; return what the colour bar describes."""
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap, Normalize

    name = cmap or ("RdBu_r" if symmetric else "inferno")
    if name not in colormaps:
        raise InputError(f"cmap: expected the name of a matplotlib colour map, found {name!r}")
    picture = _raster(window, _PIXELS).draw(data)
    levels = np.linspace(*limits, 1024)
    colors = colormaps[name](np.linspace(0, 1, len(levels)))
    if threshold:
        size = np.abs if symmetric else np.asarray
        picture[size(picture) < threshold] = np.nan
        colors[size(levels) < threshold] = (0.8, 0.8, 0.8, 1)  # the grey of cortex
    placed = {"extent": window, "origin": "lower", "aspect": "auto"}
    axes.imshow(_underlay(window), gid="cortex", zorder=1, **placed)
    return axes.imshow(
        np.ma.masked_invalid(picture), gid="data", zorder=2,
        cmap=ListedColormap(colors), norm=Normalize(*limits), **placed,
    )  # fmt: skip


def _draw_rois(
    axes: Axes, outlines: Mapping[str, Mapping[str, NDArray[np.bool_]]], window: _Window
) -> None:
    """Outline ROIs, and name each at its innermost point."""
    from matplotlib.patheffects import withStroke
    from scipy import ndimage

    if not any(outlines.values()):
        return
    raster = _raster(window, _PIXELS_ROI)
    x, y = _grid(window, _PIXELS_ROI)
    for hemisphere, named in outlines.items():
        for name, member in named.items():
            both = np.zeros((2, N_VERTICES))
            both[HEMISPHERES.index(hemisphere)] = member
            sharp = np.nan_to_num(raster.draw(both.ravel()))
            share = ndimage.gaussian_filter(sharp, _SMOOTHING / (x[1] - x[0]))
            if share.max() < 0.5:
                share = sharp  # too small to smooth
            if share.max() < 0.5:
                continue  # not on the part of the patch that is shown
            axes.contour(
                x, y, share, levels=[0.5], colors="black", linewidths=1.3, zorder=3
            ).set_path_effects([withStroke(linewidth=2.8, foreground="white", alpha=0.8)])
            depth = ndimage.distance_transform_edt(np.pad(share >= 0.5, 1))[1:-1, 1:-1]
            row, column = np.unravel_index(depth.argmax(), depth.shape)
            axes.text(
                x[column], y[row], name, fontsize=11, fontweight="bold", color="black",
                ha="center", va="center", clip_on=True, zorder=4, gid=f"roi-{hemisphere}",
                path_effects=[withStroke(linewidth=2.8, foreground="white", alpha=0.9)],
                parse_math=False,
            )  # fmt: skip


def _draw_orientation(axes: Axes, panel: float, ink: str, background: str) -> None:
    """L and R in the upper corners, and which way is anterior and dorsal in the lower ones."""
    from matplotlib.patheffects import withStroke

    halo = [withStroke(linewidth=3, foreground=background)]
    style = {
        "xycoords": "axes fraction", "textcoords": "offset points", "color": ink, "zorder": 5,
        "path_effects": halo,
    }  # fmt: skip
    arrow = {"arrowstyle": "-|>", "color": ink, "linewidth": 1.2, "shrinkA": 0, "shrinkB": 0}
    for letter, x, inward in (("L", 0, 1), ("R", 1, -1)):
        align = "left" if inward > 0 else "right"
        axes.annotate(
            letter, (x, 1), (6 * inward, -6), fontsize=20, fontweight="bold",
            ha=align, va="top", **style,
        )  # fmt: skip
        axes.annotate(
            "anterior", (x, 0), (56 * inward, 10), fontsize=9, ha=align, va="center", **style
        )
        axes.annotate("dorsal", (x, 0), (50 * inward, 46), fontsize=9, ha="center", **style)
        at = (x + inward * 50 / 72 / _PANEL, 10 / 72 / panel)
        for tip in ((at[0] - inward * 0.45 / _PANEL, at[1]), (at[0], at[1] + 0.45 / panel)):
            axes.annotate(
                "", tip, at, xycoords="axes fraction", arrowprops=arrow, zorder=5
            ).arrow_patch.set_path_effects(halo)


def _draw_colorbar(
    figure: Figure,
    mappable: AxesImage,
    data: NDArray,
    unit: str,
    threshold: float | None,
    symmetric: bool,
    ink: str,
) -> None:
    low, high = mappable.get_clim()
    below, above = np.nanmin(data) < low, np.nanmax(data) > high
    extend = ("both" if above else "min") if below else ("max" if above else "neither")
    ticks = {low, high}
    label = unit
    if threshold:
        ticks |= {-threshold, threshold} if symmetric else {threshold}
        label += f"  (shown: {'|value|' if symmetric else 'value'} ≥ {threshold:g})"
    else:
        ticks.add(0.0 if low < 0 < high else (low + high) / 2)
    height = figure.get_size_inches()[1]
    slot = figure.add_axes((0.33, 0.62 / height, 0.34, 0.17 / height), label="colorbar")
    bar = figure.colorbar(mappable, cax=slot, orientation="horizontal", extend=extend)
    bar.set_ticks(sorted(ticks), labels=[f"{tick:.3g}".replace("-", "−") for tick in sorted(ticks)])
    bar.ax.tick_params(labelsize=11, color=ink, labelcolor=ink, length=3)
    bar.outline.set_visible(False)
    bar.set_label(label, fontsize=12, color=ink, parse_math=False)


def _text_width(text: str, size: float, bold: bool = False) -> float:
    """Width in inches."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextToPath

    font = FontProperties(weight="bold" if bold else "normal", size=size)
    return TextToPath().get_text_width_height_descent(text, font, ismath=False)[0] / 72


def _wrap(text: str, width: float, size: float) -> list[str]:
    """Lines no wider than ``width`` inches."""
    for n_letters in range(max(8, int(160 * width / size)), 7, -2):
        lines = textwrap.wrap(text, n_letters) or [""]
        if max(_text_width(line, size) for line in lines) <= width:
            break
    return lines


# Checks -------------------------------------------------------------------------------------------


def _check_maps(maps: Mapping[str, ArrayLike]) -> NDArray[np.float64]:
    """Both hemispheres in one vector, left first."""
    if not isinstance(maps, Mapping) or set(maps) != set(HEMISPHERES):
        found = sorted(map(str, maps)) if isinstance(maps, Mapping) else type(maps).__name__
        raise InputError(f"maps: expected a dict with left and right, found {found}")
    data = []
    for hemisphere in HEMISPHERES:
        values = np.asarray(maps[hemisphere])
        if values.dtype.kind not in "biuf":
            raise InputTypeError(
                f"{hemisphere} map: expected real numbers, found dtype {values.dtype}"
            )
        if values.shape != (N_VERTICES,):
            raise InputError(
                f"{hemisphere} map: expected {N_VERTICES} values, one per fsaverage5 vertex, "
                f"found shape {values.shape}: plot one map at a time, projected to fsaverage5"
            )
        if np.isinf(values).any():
            raise InputError(
                f"{hemisphere} map: expected finite values or NaN, found infinite ones"
            )
        data.append(values.astype(np.float64))
    if np.isnan(data).all():
        raise InputError("maps: expected values on some vertex, found NaN everywhere")
    return np.concatenate(data)


def _check_rois(rois: Mapping[str, Any]) -> dict[str, dict[str, NDArray[np.bool_]]]:
    """ROIs as hemisphere → name → member."""
    if not set(rois) <= set(HEMISPHERES):
        raise InputError(f"rois: expected the keys left and right, found {sorted(map(str, rois))}")
    checked = {}
    for hemisphere, given in rois.items():
        if isinstance(given, Mapping):
            named = {str(name): np.asarray(member) for name, member in given.items()}
            kinds = "b"
        else:
            labels = np.asarray(given)
            kinds = "b" if labels.dtype.kind not in "iuUSO" else labels.dtype.kind
            if kinds in "iu":
                names = [label for label in np.unique(labels) if label > 0]
            else:
                labels = labels.astype(str)
                names = [label for label in np.unique(labels) if label]
            named = {str(name): labels == name for name in names}
            if kinds == "b" or labels.shape != (N_VERTICES,):
                raise InputError(
                    f"{hemisphere} rois: expected {N_VERTICES} labels (int or str) or a dict from "
                    f"name to bool array, found {labels.dtype} of shape {labels.shape}"
                )
        for name, member in named.items():
            if member.shape != (N_VERTICES,) or member.dtype != bool:
                raise InputError(
                    f"{hemisphere} ROI {name}: expected a bool array of shape ({N_VERTICES},), "
                    f"found {member.dtype} of shape {member.shape}"
                )
        checked[hemisphere] = named
    return checked


def _check_image(image: ArrayLike | None) -> NDArray[np.uint8] | None:
    if image is None:
        return None
    image = np.asarray(image)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise InputError(
            f"image: expected uint8 (height, width, 3), found {image.dtype} of shape {image.shape}"
        )
    return image


def _limits(
    data: NDArray,
    vmin: float | None,
    vmax: float | None,
    threshold: float | None,
    symmetric: bool,
) -> tuple[float, float]:
    """Ends of the colours, with the threshold between them."""
    values = data[np.isfinite(data)]
    size = np.abs(values) if symmetric else values
    if symmetric and vmin is not None:
        raise InputError("vmin: symmetric colours run from −vmax to vmax: leave vmin out")
    if vmax is not None:
        high = float(vmax)
    else:
        high = _round(np.percentile(size, 99))
        if high <= (threshold or 0):
            high = _round(size.max())
        if threshold is None and high <= 0:
            high = 0.0 if size.min() < 0 else 1.0
    if symmetric:
        low = -high
    elif vmin is not None:
        low = float(vmin)
    else:
        low = min(0.0, -_round(-np.percentile(values, 1)))
    if threshold is not None and not 0 <= threshold < high:
        raise InputError(
            f"threshold: expected 0 or more and less than {high:g}, the upper end of the colours; "
            f"found {threshold:g}; the largest value is {size.max():g}"
        )
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise InputError(f"colours: expected finite limits, vmin < vmax; found {low:g}, {high:g}")
    return low, high


def _round(value: float) -> float:
    """Two significant digits, away from zero for positive values, so that the range reads well."""
    if value == 0:
        return 0.0
    unit = 10.0 ** (math.floor(math.log10(abs(value))) - 1)
    return float(f"{math.ceil(value / unit - 1e-9) * unit:.2g}")
