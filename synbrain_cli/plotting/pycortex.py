"""Flatmaps by pycortex (Gao et al. 2015, Frontiers in Neuroinformatics 9:23), where installed."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from synbrain_cli.errors import InputError, MissingError
from synbrain_cli.io.surface import HEMISPHERES, N_FSAVERAGE
from synbrain_cli.plotting.colours import ColourScale, add_colour_bar
from synbrain_cli.plotting.figure import SIDE, WIDTH, current_style
from synbrain_cli.plotting.label_placement import Canvas, Placement, Region, place_labels
from synbrain_cli.plotting.labels import EARLY_AREAS, Labels
from synbrain_cli.plotting.named_maps import frame_named_maps
from synbrain_cli.plotting.roi_outlines import (
    Traced,
    add_names,
    add_outline,
    name_size,
    trace,
)
from synbrain_cli.plotting.validation import check_hemispheres, check_rois

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_ROWS = 1024  # of the picture, pycortex's default
_COARSER = 2  # pixels of the picture per pixel of an outline
_NAME = 9.0  # points, of the names of regions


def plot_with_pycortex(
    maps: Mapping[str, ArrayLike],
    labels: Labels,
    scale: ColourScale | None = None,
    *,
    subject: str = "fsaverage",
) -> Figure:
    """Plot a surface map on a flattened subject of pycortex's, with its cuts and curvature.

    Left is on the left. Pycortex gives each pixel the value of the nearest vertex, and keeps what
    it computes (which vertex a pixel shows, curvature) in its own folder.

    Parameters
    ----------
    maps : dict of float arrays of shape (n_vertices,)
        ``left`` and ``right``; NaN where there are no data. One value per vertex of the pycortex
        subject. Where both are of fsaverage and differ in density, vertices beyond the coarser
        one's have the value of the nearest along the surface.
    labels, scale
        As in `synbrain_cli.plotting.flatmap.plot_flatmap`: a map has the same colours in both.
    subject : str
        Name in pycortex's filestore.

    Returns
    -------
    matplotlib.figure.Figure
        11 inches wide. ``save_figure`` writes it.

    Raises
    ------
    InputError, InputTypeError
        When pycortex is not installed, a map has another length or no values, or an option does
        not fit.
    MissingError
        When pycortex's filestore has no such subject, or no flat surface of it.

    Examples
    --------
    >>> maps = {"left": np.zeros(10242), "right": np.ones(10242)}
    >>> plot_with_pycortex(maps, Labels("Right only", "z"))           # doctest: +SKIP
    """
    cortex = _pycortex()
    surfaces = _surfaces(cortex, subject)
    maps = _check_maps(maps, surfaces)
    outlines = {
        hemisphere: check_rois({hemisphere: given}, len(maps.get(hemisphere, ())))[hemisphere]
        for hemisphere, given in (labels.rois or {}).items()
    }
    # Vertex of the maps that each vertex of the pycortex subject shows
    vertices = {
        hemisphere: _vertices(len(maps[hemisphere]), *surface)
        for hemisphere, surface in surfaces.items()
    }

    def carried(parts: Mapping[str, NDArray]) -> NDArray[np.float64]:
        return np.concatenate([np.asarray(parts[h], np.float64)[vertices[h]] for h in HEMISPHERES])

    values = carried(maps)
    colours = (scale or ColourScale()).fit(values)
    vmin, vmax = colours.limits

    with contextlib.redirect_stdout(sys.stderr):  # pycortex prints what it computes
        view = cortex.Vertex(
            colours.visible(values), subject, cmap=colours.cmap, vmin=vmin, vmax=vmax
        )
        _, window = cortex.quickflat.utils.get_flatmask(subject, height=_ROWS)
        left, right, bottom, top = map(float, window)
        width = current_style().width(WIDTH) - 2 * SIDE
        height = width * (top - bottom) / (right - left)
        traced = _traced(cortex, subject, outlines, carried, tuple(map(float, window)))
        regions = [Region(name, h, one.x, one.y, one.depth) for h, name, one in traced]
        size = name_size(_NAME)

        def place_names(share: float) -> tuple[Placement, list[Placement]]:
            canvas = Canvas((left, right, bottom, top), (right - left) / (share * width) / 72)
            names = place_labels(regions, canvas, size, EARLY_AREAS)
            return names, [names]

        placed = frame_named_maps(WIDTH, (width, height), labels, place_names)
        framed, share = placed.framed, placed.share
        axes = framed.figure.add_axes(
            framed.box(placed.left, placed.bottom, share * width, share * height), label="pycortex"
        )
        cortex.quickshow(
            view, fig=axes, height=_ROWS, with_rois=False, with_labels=False, with_colorbar=False,
            with_curvature=True, curvature_brightness=0.8, curvature_contrast=0.3,
            curvature_threshold=False,
        )  # fmt: skip
        for hemisphere, _, one in traced:
            add_outline(axes, one.lines, hemisphere)
        add_names(axes, placed.named, size)
    for letter, x, side in (("L", 0, "left"), ("R", 1, "right")):
        axes.annotate(
            letter, (x, 1), xycoords="axes fraction", fontsize=20, fontweight="bold", ha=side,
            va="top",
        )  # fmt: skip
    add_colour_bar(framed, colours, labels.unit)
    return framed.figure


def _traced(
    cortex: ModuleType,
    subject: str,
    outlines: Mapping[str, Mapping[str, NDArray[np.bool_]]],
    carried: Callable[[Mapping[str, NDArray]], NDArray[np.float64]],
    window: tuple[float, ...],
) -> list[tuple[str, str, Traced]]:
    """Hemisphere, name and outline of each ROI in a picture by pycortex that holds 1 inside it.

    ``carried`` takes values of both hemispheres to the vertices of the subject.
    """
    found = []
    for hemisphere, named in outlines.items():
        for name, member in named.items():
            empty = {h: np.zeros(len(member)) for h in HEMISPHERES}
            indicator = cortex.Vertex(carried(empty | {hemisphere: member}), subject)
            picture, _ = cortex.quickflat.make_flatmap_image(indicator, height=_ROWS)
            picture = picture[::-1][::_COARSER, ::_COARSER]  # rows from the bottom up
            x, y = (
                np.linspace(*limits, n)
                for limits, n in ((window[:2], picture.shape[1]), (window[2:], picture.shape[0]))
            )
            one = trace(picture, x, y)
            if one is not None:
                found.append((hemisphere, name, one))
    return found


def _pycortex() -> ModuleType:
    try:
        with contextlib.redirect_stdout(sys.stderr):
            import cortex
    except ImportError as error:
        raise InputError(
            f"pycortex is not installed ({error}): pip install 'synbrain[pycortex]' (a C compiler "
            "is needed), or plot the flatmap without it"
        ) from error
    return cortex


def _surfaces(cortex: ModuleType, subject: str) -> dict[str, tuple[NDArray, NDArray]]:
    """Vertices (n, 3), mm, and triangles (n_faces, 3) of each hemisphere."""
    store = cortex.db.filestore
    cortex.db.reload_subjects()
    if subject not in cortex.db.subjects:
        hint = (
            f"cortex.download_subject({subject!r})"
            if subject == "fsaverage"
            else "import it, or choose another"
        )
        raise MissingError(f"pycortex has no subject {subject!r} in its folder {store}: {hint}")
    try:
        cortex.db.get_surf(subject, "flat")
        return dict(zip(HEMISPHERES, cortex.db.get_surf(subject, "fiducial"), strict=True))
    except OSError as error:
        raise MissingError(
            f"pycortex's subject {subject!r} in {store} lacks a surface: {error}: flatten it first"
        ) from error


def _check_maps(
    maps: Mapping[str, ArrayLike], surfaces: Mapping[str, tuple[NDArray, NDArray]]
) -> dict[str, NDArray[np.float64]]:
    checked = check_hemispheres(maps)
    for hemisphere, values in checked.items():
        n = len(surfaces[hemisphere][0])
        both_fsaverage = {len(values), n} <= set(N_FSAVERAGE.values()) if values.ndim else False
        if values.ndim != 1 or not (len(values) == n or both_fsaverage):
            raise InputError(
                f"{hemisphere} map: expected one value for each of the {n} vertices of the "
                f"pycortex subject, found shape {values.shape}"
            )
    return checked


def _vertices(n_values: int, points: NDArray, faces: NDArray) -> NDArray[np.int64]:
    """Which value each vertex of a surface shows: its own, or that of the nearest that has one.

    The vertices of a coarser fsaverage are the first of a finer one's.
    """
    if n_values >= len(points):
        return np.arange(len(points))
    return _nearest(points, faces, n_values)


def _nearest(points: NDArray, faces: NDArray, n_first: int) -> NDArray[np.int64]:
    """Which of the first vertices is nearest to each, along the edges of the surface."""
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import dijkstra

    a, b = faces[:, [0, 1, 2, 1, 2, 0]].reshape(-1, 2, 3).transpose(1, 0, 2).reshape(2, -1)
    edges = np.unique(np.sort(np.stack([a, b]), axis=0), axis=1)
    lengths = np.linalg.norm(points[edges[0]] - points[edges[1]], axis=1)
    graph = csr_array((lengths, tuple(edges)), shape=(len(points), len(points)))
    _, _, nearest = dijkstra(
        graph, directed=False, indices=np.arange(n_first), min_only=True, return_predecessors=True
    )
    return nearest
