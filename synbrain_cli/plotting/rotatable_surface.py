"""A rotatable map on the cortex of fsaverage or fsLR: HTML, made with nilearn and plotly."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from synbrain_cli.errors import InputError
from synbrain_cli.io.surface import HEMISPHERES, Mesh, surface_folds, surface_mesh
from synbrain_cli.plotting.colours import Colours, ColourScale
from synbrain_cli.plotting.figure import NOTE_BACKGROUND
from synbrain_cli.plotting.labels import Labels
from synbrain_cli.plotting.mesh_raster import FOLDS
from synbrain_cli.plotting.surface import density_of, normals
from synbrain_cli.plotting.validation import check_maps, check_rois

_LIFT = 0.4  # mm of outlines above the surface, which would hide half of them
_NAME_LIFT = 8.0  # mm of names, which are upright and would be cut off by what bulges
_SMOOTHINGS = 3  # of outlines, over the places next to each other
_APART = 1.0  # mm between the hemispheres; what nilearn leaves


def view_surface(
    maps: Mapping[str, ArrayLike],
    labels: Labels,
    scale: ColourScale | None = None,
    *,
    surface: str = "inflated",
) -> str:
    """Return an HTML page with a rotatable cortex, made by nilearn's ``view_surf``.

    Parameters
    ----------
    maps, labels, scale, surface
        As in `synbrain_cli.plotting.surface.plot_surface`. Of the labels, title, unit, ROIs and
        note are shown. Outlines run through the triangles at the border, smoothed.

    Returns
    -------
    str
        HTML that holds all it needs and makes no request to any network: 2.8 MB for fsaverage5,
        half of it the plotting library; 21 MB for fsaverage. Vertices without data, and those
        nearer to 0 than the threshold, show curvature.

    Raises
    ------
    InputError, InputTypeError, MissingError
        As ``plot_surface``.

    Examples
    --------
    >>> maps = {"left": np.linspace(-1, 1, 10242), "right": np.full(10242, np.nan)}
    >>> view_surface(maps, Labels("Left only", "z"))[:15]
    '<!DOCTYPE html>'
    """
    from nilearn.plotting import view_surf
    from nilearn.surface import InMemoryMesh, PolyMesh, SurfaceImage

    data = check_maps(maps)
    outlines = check_rois(labels.rois or {}, len(data) // 2)
    density = density_of(data, surface)
    colours = (scale or ColourScale()).fit(data)
    (low, high), symmetric = colours.limits, colours.scale.symmetric
    meshes = surface_mesh(surface, density)
    mesh = PolyMesh(**{h: InMemoryMesh(*part) for h, part in meshes.items()})
    folds = np.concatenate(list(surface_folds(density).values()))

    def on_mesh(values: NDArray) -> SurfaceImage:
        return SurfaceImage(mesh, dict(zip(HEMISPHERES, np.split(values, 2), strict=True)))

    try:
        page = view_surf(
            surf_map=on_mesh(colours.visible(data).astype(np.float32)),
            bg_map=on_mesh(0.32 + 0.1 * np.tanh(FOLDS * folds)),  # of nilearn's Greys, 0 white
            hemi="both", cmap=colours.cmap,
            vmax=high, vmin=None if symmetric else low, symmetric_cmap=symmetric,
            colorbar_height=0.6, colorbar_fontsize=15, view="back",
        ).html  # fmt: skip
    except ImportError as error:
        raise InputError(f"view_surface: {error} pip install plotly") from error
    # nilearn's page asks for an icon on the network.
    page = re.sub(r"<link\b[^>]*>", "", page, count=1)
    page = re.sub(r"<title>.*?</title>", "<title></title>", page, count=1, flags=re.DOTALL)
    page = page.replace("<title>", f"<title>{html.escape(labels.title)}", 1)
    page = page.replace("<body>", f"<body>{_header(labels)}", 1)
    scripts = _colour_bar(colours, labels.unit) + _roi_traces(meshes, outlines)
    return page.replace("</body>", f"{scripts}</body>", 1)


def _header(labels: Labels) -> str:
    """Title and note over the cortex, where they do not catch the mouse."""
    note = f"<b>{html.escape(labels.note)}</b>" if labels.note else ""
    return (
        "<style>header { position: absolute; z-index: 1; left: 12px; right: 12px; top: 8px; "
        "display: flex; flex-wrap: wrap-reverse; justify-content: space-between; gap: 4px 12px; "
        "font: 17px sans-serif; pointer-events: none } "
        f"header b {{ background: {NOTE_BACKGROUND}; padding: 4px }} "
        "@media (max-width: 500px) { "
        "header { font-size: 14px } #surface-plot { margin-top: 48px } }"
        "</style>"
        f"<header><span>{html.escape(labels.title)}</span>{note}</header>"
    )


def _colour_bar(colours: Colours, unit: str) -> str:
    """What nilearn leaves out of the bar: unit, threshold and the ends of the range."""
    (low, high), (below, above) = colours.limits, colours.beyond
    ticks = {low: "≤ " * below, high: "≥ " * above}
    if low < 0 < high:
        ticks[0.0] = ""
    style = {
        "colorbar.title.text": html.escape(colours.caption(unit)),
        "colorbar.title.side": "right",
        "colorbar.title.font.size": 16,
        "colorbar.title.font.color": "black",
        "colorbar.thickness": 18,
        "colorbar.tickvals": [list(ticks)],
        "colorbar.ticktext": [
            [f"{text}{tick:.3g}".replace("-", "−") for tick, text in ticks.items()]
        ],
    }
    return f'<script>$(() => Plotly.restyle("surface-plot", {_script(style)}, [1]))</script>'


def _script(value: object) -> str:
    """JSON that cannot end a script."""
    return json.dumps(value, separators=(",", ":")).replace("<", "\\u003c")


# Outlines -----------------------------------------------------------------------------------------


def _roi_traces(
    meshes: Mapping[str, Mesh], outlines: Mapping[str, Mapping[str, NDArray[np.bool_]]]
) -> str:
    """Outlines and names of ROIs, and L and R, for plotly."""
    offset = dict.fromkeys(HEMISPHERES, 0.0)
    left, right = (meshes[hemisphere].coordinates[:, 0] for hemisphere in HEMISPHERES)
    offset["right"] = float(left.max() - right.min()) + _APART
    lines: list[NDArray] = []
    names: list[tuple[str, NDArray]] = []
    for hemisphere, mesh in meshes.items():
        shift = np.array([offset[hemisphere], 0, 0])
        outward = normals(mesh)
        top = mesh.coordinates[mesh.coordinates[:, 2].argmax()] + [0, 0, 2 * _NAME_LIFT] + shift
        names.append((hemisphere[0].upper(), top))
        for name, member in outlines.get(hemisphere, {}).items():
            if not member.any():
                continue
            lines += [line + shift for line in _borders(mesh, outward, member)]
            inside = np.flatnonzero(member)
            middle = mesh.coordinates[inside].mean(0)
            nearest = inside[np.linalg.norm(mesh.coordinates[inside] - middle, axis=1).argmin()]
            names.append((name, mesh.coordinates[nearest] + _NAME_LIFT * outward[nearest] + shift))
    gap = np.full((1, 3), np.nan)
    path = np.concatenate([part for line in lines for part in (line, gap)] or [gap])
    shared = {"type": "scatter3d", "hoverinfo": "skip"}
    traces = [
        {**shared, **_xyz(path), "mode": "lines", "line": {"color": "black", "width": 4}},
        {
            **shared, **_xyz(np.array([place for _, place in names])), "mode": "text",
            "text": [f"<b>{html.escape(name)}</b>" for name, _ in names],
            "textfont": {"size": 13, "color": "black"},
        },
    ]  # fmt: skip
    return f'<script>$(() => Plotly.addTraces("surface-plot", {_script(traces)}))</script>'


def _xyz(points: NDArray) -> dict[str, list[float | None]]:
    """Coordinates to 0.01 mm, and null between lines."""
    return {
        axis: [None if np.isnan(value) else round(float(value), 2) for value in column]
        for axis, column in zip("xyz", points.T, strict=True)
    }


def _borders(
    mesh: Mesh, outward: NDArray[np.float64], member: NDArray[np.bool_]
) -> list[NDArray[np.float64]]:
    """Lines through the middles of the edges between members and others, above the surface."""
    edges = np.sort(mesh.faces[:, [[0, 1], [1, 2], [2, 0]]], axis=2)  # (n_faces, 3, 2)
    crossed = member[edges[..., 0]] != member[edges[..., 1]]  # two of a triangle's, or none
    some = crossed.any(1)
    pairs = edges[some][crossed[some]].reshape(-1, 2, 2)  # (n_steps, 2 edges, 2 vertices)
    places, step = np.unique(pairs.reshape(-1, 2), axis=0, return_inverse=True)
    points = mesh.coordinates[places].mean(1) + _LIFT * outward[places].mean(1)
    return [_smooth(points[line]) for line in _chains(step.reshape(-1, 2).tolist())]


def _smooth(line: NDArray[np.float64]) -> NDArray[np.float64]:
    """Take off the zigzag of the triangles from a closed line."""
    if (line[0] != line[-1]).any():
        return line
    ring = line[:-1]
    for _ in range(_SMOOTHINGS):
        ring = (np.roll(ring, 1, axis=0) + 2 * ring + np.roll(ring, -1, axis=0)) / 4
    return np.concatenate([ring, ring[:1]])


def _chains(steps: list[list[int]]) -> list[list[int]]:
    """Join steps from place to place, each of which is in one or two of them, to lines."""
    ways: dict[int, list[int]] = {}
    for number, step in enumerate(steps):
        for place in step:
            ways.setdefault(place, []).append(number)
    free, lines = set(range(len(steps))), []
    # Open lines, which end where the mesh does, from one of their ends
    starts = [place for place, numbers in ways.items() if len(numbers) == 1]
    for start in [*starts, *ways]:
        line = [start]
        while (number := next((n for n in ways[line[-1]] if n in free), None)) is not None:
            free.remove(number)
            first, second = steps[number]
            line.append(second if line[-1] == first else first)
        if len(line) > 1:
            lines.append(line)
    return lines
