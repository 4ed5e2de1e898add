"""Pictures of meshes: which triangle lies at each pixel, and values interpolated within it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from synbrain_cli.plotting.colours import Colours

FOLDS = 12.0  # mm; times curvature (1/mm): a gyral crown's is some −0.2
Window = tuple[float, float, float, float]  # left, right, bottom, top in mm


class Raster(NamedTuple):
    """Which vertices make up each pixel of a view: ``values[vertices] * weights``, summed."""

    inside: NDArray[np.bool_]  # (n_rows, n_columns), first row at the bottom
    vertices: NDArray[np.int32]  # (n_inside, 3)
    weights: NDArray[np.float32]  # (n_inside, 3)

    def interpolate(self, values: NDArray) -> NDArray[np.float32]:
        """Interpolate values of vertices within triangles.

        Parameters
        ----------
        values : array of shape (n_vertices,)

        Returns
        -------
        float32 array of shape (n_rows, n_columns)
            NaN off the mesh, and where less than half of the weight is on vertices with a value.
        """
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


def underlay(raster: Raster, curvature: NDArray) -> NDArray[np.uint8]:
    """Return curvature as an RGBA picture: sulci darker than gyri, both darker than a zero value.

    Parameters
    ----------
    raster : Raster
    curvature : float array of shape (n_vertices,)
        In 1/mm, positive in sulci.

    Returns
    -------
    uint8 array of shape (n_rows, n_columns, 4)
    """
    folds = np.tanh(FOLDS * np.nan_to_num(raster.interpolate(curvature)))
    grey = np.round(255 * (0.80 - 0.07 * folds)).astype(np.uint8)
    return np.dstack([grey, grey, grey, raster.inside.astype(np.uint8) * 255])


def plot_over(
    axes: Axes,
    cortex: NDArray[np.uint8],
    picture: NDArray[np.floating],
    window: Window,
    colours: Colours,
) -> None:
    """Fill axes with values over curvature.

    Parameters
    ----------
    axes : matplotlib.axes.Axes
    cortex : uint8 array of shape (n_rows, n_columns, 4)
        As `underlay` returns it.
    picture : float array of shape (n_rows, n_columns)
        Transparent where NaN or hidden by the threshold.
    window : (float, float, float, float)
        Left, right, bottom and top of both pictures, mm.
    colours : Colours
    """
    placed = {"extent": window, "origin": "lower", "aspect": "auto"}
    axes.set(xlim=window[:2], ylim=window[2:])
    axes.axis("off")
    axes.imshow(cortex, gid="cortex", zorder=1, **placed)
    axes.imshow(
        np.ma.masked_invalid(colours.visible(picture)), gid="data", zorder=2,
        cmap=colours.cmap, norm=colours.mappable.norm, interpolation=colours.interpolation,
        **placed,
    )  # fmt: skip


def rasterise(pixels: NDArray, faces: NDArray, n_rows: int, n_columns: int) -> Raster:
    """Find the triangle in front at each pixel, by a z-buffer.

    Parameters
    ----------
    pixels : float array of shape (n_vertices, 3)
        Column, row (from the bottom) and depth, which grows towards the viewer; whole numbers are
        the middles of pixels.
    faces : int array of shape (n_faces, 3)
        Counterclockwise seen from outside. Those turned away are left out.
    n_rows, n_columns : int
        Of the picture.

    Returns
    -------
    Raster
    """
    faces = faces[_area(*pixels[faces, :2].transpose(1, 0, 2)) > 1e-9]
    corners = pixels[faces]  # (n_faces, 3, 3)
    low = np.ceil(corners[..., :2].min(1)).astype(int)
    n_wide, n_high = (np.floor(corners[..., :2].max(1)).astype(int) - low + 1).clip(0).T
    # Every pixel of every triangle's bounding box
    n_pixels = n_wide * n_high
    face = np.repeat(np.arange(len(faces)), n_pixels)
    within = np.arange(len(face)) - np.repeat(np.cumsum(n_pixels) - n_pixels, n_pixels)
    position = low[face] + np.stack([within % n_wide[face], within // n_wide[face]], axis=1)
    weights = barycentric(corners[..., :2], face, position)
    covered = (weights > -1e-6).all(1)
    face, position, weights = face[covered], position[covered], weights[covered]
    depth = (weights * corners[face, :, 2]).sum(1)
    nearest = np.full(n_rows * n_columns, -1)
    order = np.argsort(depth, kind="stable")
    nearest[position[order, 1] * n_columns + position[order, 0]] = order  # the last one stays
    seen = nearest[nearest >= 0]
    inside = (nearest >= 0).reshape(n_rows, n_columns)
    return Raster(inside, faces[face[seen]], weights[seen])


def barycentric(triangles: NDArray, face: NDArray, position: NDArray) -> NDArray[np.float32]:
    """Barycentric coordinates of positions, each in one triangle.

    Parameters
    ----------
    triangles : float array of shape (n_faces, 3, 2)
    face : int array of shape (n,)
        The triangle of each position.
    position : array of shape (n, 2)

    Returns
    -------
    float32 array of shape (n, 3)
    """
    a, b, c = triangles.transpose(1, 0, 2)
    area = _area(a, b, c)[:, None]
    ab, ac = (b - a) / area, (c - a) / area
    weights = np.empty((len(face), 3), np.float32)
    # They are linear in the position: three numbers a triangle
    for k, (along, across) in enumerate(((ac[:, 1], -ac[:, 0]), (-ab[:, 1], ab[:, 0])), start=1):
        start = along * a[:, 0] + across * a[:, 1]
        weights[:, k] = along[face] * position[:, 0] + across[face] * position[:, 1] - start[face]
    weights[:, 0] = 1 - weights[:, 1] - weights[:, 2]
    return weights


def _area(a: NDArray, b: NDArray, c: NDArray) -> NDArray[np.float64]:
    """Twice the area of triangles in the plane, positive where counterclockwise."""
    ab, ac = b - a, c - a
    return ab[:, 0] * ac[:, 1] - ab[:, 1] * ac[:, 0]
