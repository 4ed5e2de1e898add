"""Cortex of the simulated subjects: functional layout on fsaverage5, and individual anatomy.

The functional layout is schematic (log-polar V1, mirror-reversed V2 and V3, discs for higher
areas). It resembles visual cortex, but is not an atlas.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import nibabel as nib
import numpy as np
from scipy.ndimage import distance_transform_edt
from scipy.spatial import cKDTree

from synbrain_cli.io.surface import HEMISPHERES, fsaverage

VISUAL_ROIS = ("V1v", "V1d", "V2v", "V2d", "V3v", "V3d", "hV4")  # NSD's labels 1 to 7
STREAMS = ("early", "midventral", "midlateral", "midparietal", "ventral", "lateral", "parietal")
EARLY_KIND = "energy"  # of VISUAL_ROIS


class Area(NamedTuple):
    """A higher area: a disc on fsaverage, the same in both hemispheres.

    Attributes
    ----------
    centre : tuple of float
        On the white surface of fsaverage in mm (|x|, y, z).
    radius : float
        In mm.
    collection : pair of str and int
        NSD's collection of ROIs, and the code of the area in it.
    stream : str
        One of `STREAMS`.
    kind : str
        What it responds to (`synbrain_cli.datasets.simulated_areas`): ``pooled``, ``tolerant``,
        ``routed``, ``category`` or ``linear``.
    """

    centre: tuple[float, float, float]
    radius: float
    collection: tuple[str, int]
    stream: str
    kind: str


# Centres are approximate peaks from reviews of category-selective cortex and from the atlas of Wang
# et al. (2015), which NSD calls Kastner2015.
HIGHER_AREAS = {
    "OFA": Area((40, -78, -10), 10, ("floc-faces", 1), "midventral", "pooled"),
    "FFA-1": Area((40, -56, -18), 10, ("floc-faces", 2), "ventral", "category"),
    "EBA": Area((46, -72, 6), 11, ("floc-bodies", 1), "lateral", "tolerant"),
    "OPA": Area((34, -80, 22), 10, ("floc-places", 1), "midlateral", "pooled"),
    "PPA": Area((27, -46, -8), 10, ("floc-places", 2), "ventral", "category"),
    "IPS0": Area((24, -74, 34), 10, ("Kastner2015", 18), "midparietal", "routed"),
    "VWFA-1": Area((48, -64, -12), 9, ("floc-words", 2), "ventral", "category"),
    "V3A": Area((16, -86, 28), 10, ("Kastner2015", 17), "midparietal", "linear"),
}


@dataclass(frozen=True)
class Layout:
    """Functional properties of the vertices of one hemisphere of fsaverage5.

    Attributes
    ----------
    visual, higher : int16 arrays of shape (10,242,)
        Code of `VISUAL_ROIS` (1 to 7) and of `HIGHER_AREAS` (1, 2, …); 0 elsewhere.
    x, y, size : float arrays of shape (10,242,)
        Centre and radius of the receptive field of early areas in half-widths of the image, which
        spans −1 to 1 with y upwards.
    """

    visual: np.ndarray
    higher: np.ndarray
    x: np.ndarray
    y: np.ndarray
    size: np.ndarray

    @property
    def responsive(self) -> np.ndarray:
        """Vertices that belong to any area: bool (n_vertices,)."""
        return (self.visual > 0) | (self.higher > 0)


def functional_layout(hemisphere: str) -> Layout:
    """Define retinotopic and higher areas on one hemisphere of fsaverage5.

    V1 follows the calcarine sulcus from the occipital pole (fovea). The eccentricity at distance d
    is 0.75 (exp(d / 17.3 mm) − 1) degrees (Horton & Hoyt 1991). The polar angle varies across the
    sulcus, and reverses in V2 and again in V3. The image spans 8.4 degrees, as in NSD.

    Parameters
    ----------
    hemisphere : {"left", "right"}
    """
    white = fsaverage("white")[hemisphere][0]
    sphere = fsaverage("sphere")[hemisphere][0].astype(float)
    sphere /= np.linalg.norm(sphere, axis=1, keepdims=True)
    side = -1 if hemisphere == "left" else 1

    def nearest(point: tuple[float, float, float]) -> np.ndarray:
        target = np.array(point) * (side, 1, 1)
        return sphere[np.argmin(((white - target) ** 2).sum(1))]

    # Coordinates in the plane that touches the sphere at the fovea: `along` the calcarine sulcus
    # and `across` it (dorsal positive). 100 units of the sphere are about 75 mm of cortex.
    fovea, anterior, dorsal = nearest((12, -99, -2)), nearest((16, -62, 7)), nearest((10, -88, 28))
    e1 = anterior - fovea * (anterior @ fovea)
    e1 /= np.linalg.norm(e1)
    e2 = np.cross(fovea, e1)
    e2 *= np.sign(e2 @ dorsal)
    angle = np.arccos(np.clip(sphere @ fovea, -1, 1))
    direction = np.arctan2(sphere @ e2, sphere @ e1)
    along, across = 75 * angle * np.cos(direction), 75 * angle * np.sin(direction)

    # Bands across the calcarine: V1 to 11 mm, V2 to 20, V3 to 28 (ventral: then hV4), narrowing
    # towards the fovea.
    near = along > -2
    taper = 1 - 0.55 * np.exp(-np.clip(along, 0, None) / 10)
    t = np.abs(across) / taper
    upper = across < 0  # the ventral bank sees the upper field
    within = near & (along < 46) & (angle < 1.2)
    visual = np.zeros(len(white), np.int16)
    for band, (ventral, dorsal_label) in zip(
        ((0, 11), (11, 20), (20, 28)), ((1, 2), (3, 4), (5, 6)), strict=True
    ):
        chosen = within & (t >= band[0]) & (t < band[1])
        visual[chosen] = np.where(upper[chosen], ventral, dorsal_label)
    hv4 = within & upper & (t >= 28) & (t < 40) & (along < 26)
    visual[hv4] = 7

    # Degrees from the horizontal meridian, 0 to 90.
    meridian = np.select(
        [t < 11, t < 20, t < 28],
        [90 * t / 11, 90 * (20 - t) / 9, 90 * (t - 20) / 8],
        np.clip(180 * (t - 28) / 12 - 90, -90, 90),
    )
    vertical = np.where(upper, 1, -1) * np.radians(meridian)
    eccentricity = 0.75 * (np.exp(np.clip(along, 0, None) / 17.3) - 1) + 0.15
    x = -side * eccentricity * np.cos(vertical) / 4.2  # the left hemisphere sees the right field
    y = eccentricity * np.sin(vertical) / 4.2
    relative_size = np.select([visual <= 2, visual <= 4, visual <= 6], [1.0, 1.5, 2.0], 3.0)
    size = relative_size * (0.08 + 0.10 * eccentricity / 4.2)

    higher = np.zeros(len(white), np.int16)
    for code, area in enumerate(HIGHER_AREAS.values(), start=1):
        # The distance is that on the sphere, so that a disc does not extend across a sulcus.
        distance = 75 * np.arccos(np.clip(sphere @ nearest(area.centre), -1, 1))
        higher[(distance < area.radius) & (visual == 0) & (higher == 0)] = code
    return Layout(visual, higher, x, y, size)


def smooth_fields(
    positions: np.ndarray, n_fields: int, length: float, generator: np.random.Generator
) -> np.ndarray:
    """Sample Gaussian random fields of unit variance at points, by random Fourier features.

    Parameters
    ----------
    positions : array of shape (n_points, 3)
    n_fields : int
        Number of independent fields.
    length : float
        Length scale of the squared-exponential covariance, in the unit of the positions.
    generator : numpy Generator

    Returns
    -------
    array of shape (n_points, n_fields)
    """
    return random_fields(n_fields, length, generator)(positions)


def random_fields(
    n_fields: int, length: float, generator: np.random.Generator
) -> Callable[[np.ndarray], np.ndarray]:
    """Sample the fields of `smooth_fields` as functions that can be evaluated at any position.

    Parameters
    ----------
    n_fields, length, generator
        As in `smooth_fields`.

    Returns
    -------
    callable
        Positions (n_points, 3), float32 or float64, → fields (n_points, n_fields) in that dtype.
    """
    n_waves = 128
    waves = generator.normal(0, 1 / length, (3, n_waves))
    phases = generator.uniform(0, 2 * np.pi, n_waves)
    weights = generator.normal(0, np.sqrt(2 / n_waves), (n_waves, n_fields))

    def evaluate(positions: np.ndarray) -> np.ndarray:
        w, p, a = (array.astype(positions.dtype) for array in (waves, phases, weights))
        return np.cos(positions @ w + p) @ a

    return evaluate


@dataclass(frozen=True)
class Anatomy:
    """One simulated brain: its voxel grid, and the positions of fsaverage5's vertices in it.

    Attributes
    ----------
    affine : array of shape (4, 4)
        Maps 0-based voxel coordinates to scanner coordinates in mm.
    mask : bool array of shape (x, y, z)
        Voxels of responsive cortex.
    layers : dict of arrays of shape (3, 10,242, 3)
        Per hemisphere, 1-based voxel coordinates of the vertices at three depths.
    owner : int array of shape (n_voxels,)
        Vertex that determines the function of each voxel of the mask, counted over the left and
        then the right hemisphere.
    deform : callable
        Maps positions (n, 3) on fsaverage to scanner coordinates of this brain, in mm.
    """

    affine: np.ndarray
    mask: np.ndarray
    layers: dict[str, np.ndarray]
    owner: np.ndarray
    deform: Callable[[np.ndarray], np.ndarray]


def build_anatomy(
    layouts: Mapping[str, Layout], voxel_size: float, seed: np.random.SeedSequence
) -> Anatomy:
    """Scale, rotate and deform fsaverage5 into an individual brain, with a voxel grid.

    Parameters
    ----------
    layouts : dict of Layout
        Functional layout of each hemisphere. The mask holds the voxels that contain responsive
        cortex.
    voxel_size : float
        Side of a voxel in mm.
    seed : SeedSequence
        Seed of the size, the pose and the shape of the brain.
    """
    generator = np.random.default_rng(seed)
    scale = 1 + generator.uniform(-0.07, 0.07, 3)
    turn = generator.normal(0, 0.04, 3)
    rotation = np.eye(3) + np.cross(np.eye(3), turn)  # small angles
    bend = random_fields(3, 40.0, generator)

    def deform(points: np.ndarray) -> np.ndarray:
        return (points + 1.5 * bend(points)) * scale @ rotation.T  # millimetres

    points = _cortex()
    cloud = deform(np.concatenate([points[h].reshape(-1, 3) for h in HEMISPHERES]))
    low, high = cloud.min(0) - 2 * voxel_size, cloud.max(0) + 2 * voxel_size
    shape = tuple(np.ceil((high - low) / voxel_size).astype(int))
    affine = np.diag([voxel_size] * 3 + [1.0])
    affine[:3, 3] = low
    coordinates = (cloud - low) / voxel_size
    n = points["left"].shape[1]
    layers = {
        h: coordinates[k * 3 * n : (k + 1) * 3 * n].reshape(3, n, 3)
        for k, h in enumerate(HEMISPHERES)
    }
    # Each voxel that contains responsive cortex belongs to its nearest vertex.
    mask = np.zeros(shape, bool)
    owners, where = [], []
    for k, h in enumerate(HEMISPHERES):
        chosen = np.flatnonzero(layouts[h].responsive)
        hits = np.rint(layers[h][:, chosen]).astype(int)
        mask[tuple(hits.reshape(-1, 3).T)] = True
        where.append(layers[h][1, chosen])
        owners.append(chosen + k * n)
    _, nearest = cKDTree(np.concatenate(where)).query(np.argwhere(mask))
    owner = np.concatenate(owners)[nearest]
    return Anatomy(affine, mask, {h: v + 1 for h, v in layers.items()}, owner, deform)


def _cortex() -> dict[str, np.ndarray]:
    """Three depths of fsaverage5's cortex, (3, 10,242, 3) per hemisphere, in mm."""
    white, pial = fsaverage("white"), fsaverage("pial")
    return {
        h: np.stack(
            [white[h][0] + depth * (pial[h][0] - white[h][0]) for depth in (0.25, 0.5, 0.75)]
        ).astype(float)
        for h in HEMISPHERES
    }


# FSL's MNI152 grid of 2 mm: its first axis runs from right to left, as NSD stores it.
MNI_SHAPE = (91, 109, 91)
MNI_AFFINE = np.array([[-2.0, 0, 0, 90], [0, 2, 0, -126], [0, 0, 2, -72], [0, 0, 0, 1]])
OUTSIDE = 9999  # NSD's code for points without a coordinate


@functools.cache
def _near_cortex() -> np.ndarray:
    """Voxels of the MNI grid within 8 mm of cortex: 0-based indices (n, 3)."""
    points = np.concatenate([layers[1] for layers in _cortex().values()])
    away = np.ones(MNI_SHAPE, bool)
    voxels = nib.affines.apply_affine(np.linalg.inv(MNI_AFFINE), points)
    away[tuple(np.rint(voxels).astype(int).T)] = False
    return np.argwhere(distance_transform_edt(away, sampling=2) <= 8)


def mni_coordinates(anatomy: Anatomy) -> np.ndarray:
    """Return the voxel coordinates of the MNI grid in a simulated brain, in NSD's format.

    Returns
    -------
    float32 array of shape (91, 109, 91, 3)
        1-based voxel coordinates of ``anatomy``; 9999 at more than 8 mm from cortex and outside the
        voxel grid. The first axis runs from right to left.
    """
    near = _near_cortex()
    positions = nib.affines.apply_affine(MNI_AFFINE, near).astype(np.float32)
    # Computed in float32 (accurate to 1e-4 mm) and in pieces, as there are 200,000 points.
    points = np.concatenate(
        [anatomy.deform(part) for part in np.array_split(positions, len(positions) // 8192 + 1)]
    )
    voxels = nib.affines.apply_affine(np.linalg.inv(anatomy.affine), points)
    inside = ((voxels > -0.5) & (voxels < np.array(anatomy.mask.shape) - 0.5)).all(1)
    coordinates = np.full((*MNI_SHAPE, 3), OUTSIDE, np.float32)
    coordinates[tuple(near[inside].T)] = voxels[inside] + 1
    return coordinates
