"""Voxel order along BrainVAE's convolution axis, and voxel positions on the cortical sheet."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from synbrain_cli.errors import InputError
from synbrain_cli.io.fslr import FSLR
from synbrain_cli.io.prepared import PreparedSubject
from synbrain_cli.io.prepared_tables import roi_collections
from synbrain_cli.io.surface import HEMISPHERES, N_VERTICES, fsaverage, surface_mesh
from synbrain_cli.io.surface_resampling import SurfaceResampling
from synbrain_cli.io.voxel_space import Vertices, Volume
from synbrain_cli.model.order import ORDERS, UnknownPlacesError, voxel_order

if TYPE_CHECKING:
    from synbrain_cli.brain import Brain

DEFAULT_ORDERS = ("surface", "region", "curve")  # best first, by measurement: docs/evaluation.md
SHEET = "fsaverage5"  # the sphere that nilearn ships


def subject_order(subject: PreparedSubject, kind: str) -> np.ndarray:
    """Order a subject's voxels along the convolution axis (`synbrain_cli.model.order`).

    Parameters
    ----------
    subject : PreparedSubject
    kind : str
        "file", "curve", "region" or "surface".

    Returns
    -------
    int64 array of shape (n_voxels,)

    Raises
    ------
    UnknownPlacesError
        When the subject's voxels have no known position, region or vertex, which that order needs.
    MissingError, InputError
        When one of the subject's files is absent or damaged.
    """
    if kind not in ORDERS:
        raise InputError(f"--voxel-order {kind}: expected auto or one of {', '.join(ORDERS)}")
    if kind == "file":
        return voxel_order("file", subject.n_voxels)
    try:
        try:
            points, hemisphere = _points(subject)
        except UnknownPlacesError:
            if kind != "region":  # regions alone need no geometry
                raise
            points = hemisphere = None
        sheet = None
        if kind == "surface":
            sheet, hemisphere = _known_sphere_positions(subject)
        regions = _regions(subject) if kind == "region" else None
        return voxel_order(
            kind,
            subject.n_voxels,
            points=points,
            regions=regions,
            sheet=sheet,
            hemisphere=hemisphere,
        )
    except UnknownPlacesError as error:
        raise UnknownPlacesError(
            f"--voxel-order {kind}: {subject.folder} does not say enough of where its voxels are "
            f"({error}): pass --voxel-order file, or leave the option out"
        ) from error


def default_order(subject: PreparedSubject) -> str:
    """The first of `DEFAULT_ORDERS` that the subject's files allow; "file" at the latest."""
    for kind in DEFAULT_ORDERS:
        try:
            subject_order(subject, kind)
        except UnknownPlacesError:
            continue
        return kind
    return "file"


def _points(subject: PreparedSubject) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Positions in mm (n_voxels, 3), and hemispheres of a surface's vertices."""
    geometry = subject.voxel_space.geometry
    if isinstance(geometry, Volume):
        grid = subject.voxels[["i", "j", "k"]].to_numpy(float)
        affine = geometry.mask.affine
        return grid @ affine[:3, :3].T + affine[:3, 3], None
    if isinstance(geometry, Vertices):
        hemisphere = subject.voxels["hemisphere"].to_numpy(str)
        return _of_vertices(geometry, "white"), hemisphere
    return None, None


def sphere_positions(subject: PreparedSubject | Brain) -> tuple[np.ndarray, np.ndarray]:
    """Return the positions of a subject's voxels on the average cortical sphere (`sphere_of`).

    Returns
    -------
    positions : float array of shape (n_voxels, 3)
        On a sphere of radius 100 mm; NaN where unknown.
    side : int array of shape (n_voxels,)
        0 left, 1 right.
    """
    try:
        positions, hemisphere = _known_sphere_positions(subject)
    except UnknownPlacesError:
        positions = None
    if positions is None:
        return np.full((subject.n_voxels, 3), np.nan), np.zeros(subject.n_voxels, int)
    return positions, (np.asarray(hemisphere) == HEMISPHERES[1]).astype(int)


def sphere_of(subject: PreparedSubject | Brain) -> str | None:
    """Return the sphere that `sphere_positions` are on: fsaverage or fsLR; None without any.

    The two are registered to other averages: one position is another place on each.
    """
    geometry, resampling = subject.voxel_space.geometry, subject.voxel_space.surface_resampling
    if isinstance(geometry, Vertices):
        if geometry.space not in N_VERTICES:
            return None
        return FSLR if geometry.space == FSLR else "fsaverage"
    return None if resampling is None or SHEET not in resampling.spaces else "fsaverage"


def _known_sphere_positions(
    subject: PreparedSubject | Brain,
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Coordinates on the average sphere (n_voxels, 3), NaN off it, and the hemisphere of each.

    None, None without a resampling to fsaverage.
    """
    space = subject.voxel_space
    if isinstance(space.geometry, Vertices):
        hemisphere = subject.voxels["hemisphere"].to_numpy(str)
        return _of_vertices(space.geometry, "sphere"), hemisphere
    if space.surface_resampling is None or SHEET not in space.surface_resampling.spaces:
        return None, None
    return _through_transforms(space.surface_resampling)


def _of_vertices(vertices: Vertices, surface: str) -> np.ndarray:
    if vertices.space not in N_VERTICES:
        raise UnknownPlacesError(f"the geometry of its surface, {vertices.space}, is not known")
    meshes = surface_mesh(surface, vertices.space)
    parts = [meshes[h].coordinates[getattr(vertices, h)] for h in HEMISPHERES]
    return np.concatenate(parts).astype(np.float64)


def _through_transforms(resampling: SurfaceResampling) -> tuple[np.ndarray, np.ndarray]:
    """Average position of the vertices that a voxel reaches, by weight, in its hemisphere."""
    sphere = fsaverage("sphere", SHEET)
    weights = resampling.weights_to(SHEET)
    mass = np.stack([np.asarray(weights[h].sum(0)).ravel() for h in HEMISPHERES])
    where = [weights[h].T @ sphere[h].coordinates.astype(np.float64) for h in HEMISPHERES]
    side = mass.argmax(0)
    with np.errstate(divide="ignore", invalid="ignore"):
        sheet = np.where(side[:, None] == 0, *where) / mass.max(0)[:, None]
    reached = mass.max(0) > 0
    sheet[~reached] = np.nan
    return sheet, np.where(reached, np.array(HEMISPHERES)[side], "")


def _regions(subject: PreparedSubject) -> np.ndarray | None:
    """1, 2, … for the labels of the first collections that hold any; 0 for none."""
    collections = roi_collections(subject.voxels)
    if not collections:
        return None
    regions = np.zeros(subject.n_voxels, np.int64)
    for collection in collections:
        labels = subject.voxels[collection].to_numpy(str)
        for label in sorted(set(labels) - {""}):
            regions[(labels == label) & (regions == 0)] = regions.max() + 1
    return regions
