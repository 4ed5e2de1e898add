"""Simulated subjects: a known response distribution, written in NSD's own files.

Their visual cortex lies on the fsaverage5 geometry that nilearn ships. They look at real
photographs (`photographs`), and respond, in trial k of image i at voxel v, with

    y_ikv = a_v + g_v · [ s_iv + c_iv · n_ikv + d_kv ]      (percent signal change)

    s_iv = sqrt(1 − q_v) · f_v(image i) + sqrt(q_v) · h_iv   the noise-free response (unit variance)
    f_v    V1, V2, V3, hV4: contrast energy in the voxel's receptive field; higher areas: pooled
           rectified projections of log energies. Neither uses an encoder of ours
    h_iv   low-rank response that no feature of the image explains, the same on every repeat
    n_ikv  trial noise: low-rank and shared by voxels, plus private
    c_iv   grows with the response: sd_v · (1 + 0.25 tanh s_iv)
    d_kv   slow drift within and between sessions, low-rank

All functional properties are smooth functions of fsaverage5 position common to the subjects, to
which each adds variations of its own; brains differ in size, pose and voxel grid. fsaverage's
coordinates stand for MNI's (the two differ by a few millimetres). The truth is kept in ``truth/``
for tests and the documentation; no command reads it.

The functional layout is schematic (log-polar V1, mirror-reversed V2 and V3, discs for higher
areas): good enough to look like a visual cortex, no atlas.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import h5py
import nibabel as nib
import numpy as np
import scipy.io
from msgspec.structs import replace
from scipy.ndimage import distance_transform_edt, gaussian_filter1d
from scipy.spatial import cKDTree

from synbrain_cli.config import JSONSettings
from synbrain_cli.datasets.photographs import crop_photographs, load_photographs
from synbrain_cli.errors import InputError
from synbrain_cli.io.files import atomic, versions, write_json
from synbrain_cli.io.surface import fsaverage
from synbrain_cli.io.volume import save_image
from synbrain_cli.metrics.noise_ceiling import ncsnr as recorded_ncsnr

BETAS = "betas_fithrf_GLMdenoise_RR"
HEMISPHERES = ("left", "right")


class SimulationConfig(JSONSettings, frozen=True):
    """What is simulated. The defaults are the demo's.

    Attributes
    ----------
    n_subjects : int
    n_shared, n_unique : int
        Images every subject sees (the test set), and images of each subject's own.
    n_repeats : int
    n_sessions : int
        Trials (images × repeats) are dealt evenly to sessions.
    image_size : int
        Pixels, a multiple of 64 (NSD: 425).
    voxel_size : float
        Millimetres (NSD: 1.8; coarser here, so that a whole visual cortex is a small problem).
    unexplained : float
        Mean share of a voxel's response that no image feature explains.
    seed : int
    """

    n_subjects: int = 3
    n_shared: int = 200
    n_unique: int = 800
    n_repeats: int = 3
    n_sessions: int = 4
    image_size: int = 128
    voxel_size: float = 5.0
    unexplained: float = 0.15
    seed: int = 0

    @classmethod
    def of_sessions(cls, n_sessions: int, seed: int = 0) -> SimulationConfig:
        """Sessions of 750 trials, as NSD's: more of them are more images of each subject's own."""
        default = cls(n_sessions=n_sessions, seed=seed)
        n_images = n_sessions * 750 // default.n_repeats
        return replace(default, n_unique=n_images - default.n_shared)

    @property
    def n_images(self) -> int:
        """Images of one subject."""
        return self.n_shared + self.n_unique

    @property
    def n_trials(self) -> int:
        """Trials of one subject."""
        return self.n_images * self.n_repeats


# ------------------------------------------------------------------- functional layout


VISUAL_ROIS = ("V1v", "V1d", "V2v", "V2d", "V3v", "V3d", "hV4")  # NSD's labels 1 to 7
STREAMS = ("early", "midventral", "midlateral", "midparietal", "ventral", "lateral", "parietal")
# Centres in fsaverage's white-surface millimetres (|x|, y, z), radius, NSD collection and label,
# stream. Approximate peaks as printed in reviews of category-selective cortex.
HIGHER_AREAS = {
    "OFA": ((40, -78, -10), 11, ("floc-faces", 1), "midventral"),
    "FFA-1": ((40, -56, -18), 10, ("floc-faces", 2), "ventral"),
    "EBA": ((46, -72, 6), 13, ("floc-bodies", 1), "lateral"),
    "OPA": ((34, -80, 22), 12, ("floc-places", 1), "midlateral"),
    "PPA": ((27, -46, -8), 11, ("floc-places", 2), "ventral"),
    "IPS0": ((24, -74, 34), 11, None, "midparietal"),
}


@dataclass
class Layout:
    """Functional properties of the vertices of one fsaverage5 hemisphere (10,242 each).

    ``x, y`` are receptive-field centres and ``size`` their radii in image half-widths (the image
    spans −1 to 1, y up); ``visual`` codes `VISUAL_ROIS` (1 to 7), ``higher`` `HIGHER_AREAS`
    (1, 2, …), 0 elsewhere.
    """

    visual: np.ndarray
    higher: np.ndarray
    x: np.ndarray
    y: np.ndarray
    size: np.ndarray

    @property
    def responsive(self) -> np.ndarray:
        return (self.visual > 0) | (self.higher > 0)


def functional_layout(hemisphere: str) -> Layout:
    """Lay retinotopic and higher areas on one hemisphere of fsaverage5.

    V1 follows the calcarine sulcus from the occipital pole (fovea); eccentricity E at distance d
    is 0.75 (exp(d / 17.3 mm) − 1) degrees (Horton & Hoyt 1991); polar angle runs across it,
    reversing in V2 and again in V3. The image spans 8.4 degrees, as in NSD.
    """
    white = fsaverage("white")[hemisphere][0]
    sphere = fsaverage("sphere")[hemisphere][0].astype(float)
    sphere /= np.linalg.norm(sphere, axis=1, keepdims=True)
    side = -1 if hemisphere == "left" else 1

    def nearest(point: tuple[float, float, float]) -> np.ndarray:
        target = np.array(point) * (side, 1, 1)
        return sphere[np.argmin(((white - target) ** 2).sum(1))]

    # Plane tangent to the sphere at the fovea: `along` the calcarine sulcus, `across` it (dorsal
    # positive). 100 sphere units are some 75 mm of cortex.
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
    growth = np.select([visual <= 2, visual <= 4, visual <= 6], [1.0, 1.5, 2.0], 3.0)
    size = growth * (0.08 + 0.10 * eccentricity / 4.2)

    higher = np.zeros(len(white), np.int16)
    for code, (centre, radius, _, _) in enumerate(HIGHER_AREAS.values(), start=1):
        # Distance over the sphere, so that a disc does not jump across a sulcus.
        distance = 75 * np.arccos(np.clip(sphere @ nearest(centre), -1, 1))
        higher[(distance < radius) & (visual == 0) & (higher == 0)] = code
    return Layout(visual, higher, x, y, size)


def smooth_fields(
    positions: np.ndarray, n_fields: int, length: float, generator: np.random.Generator
) -> np.ndarray:
    """Gaussian random fields over points in space, unit variance (random Fourier features).

    Parameters
    ----------
    positions : array of shape (n_points, 3)
    length : float
        Length scale of the squared-exponential covariance, in the positions' unit.

    Returns
    -------
    array of shape (n_points, n_fields)
    """
    return random_fields(n_fields, length, generator)(positions)


def random_fields(
    n_fields: int, length: float, generator: np.random.Generator
) -> Callable[[np.ndarray], np.ndarray]:
    """Draw the fields of `smooth_fields` once, to be evaluated at any positions.

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


# --------------------------------------------------------------------- image features


# Of the Gaussian derivatives, in pixels of the finest scale (half the image's resolution): they
# prefer some 13, 6 and 3 cycles per image.
SIGMA = 0.8


def contrast_energy(images: np.ndarray) -> np.ndarray:
    """Local energies that drive the simulated early areas.

    Gaussian-derivative quadrature pairs (first and second derivative; Freeman & Adelson 1991) of
    luminance at three scales (from half the image's resolution on) and four
    orientations, and the squares of two opponent colours, averaged in a 16 × 16 grid of cells.

    Parameters
    ----------
    images : uint8 array of shape (n_images, size, size, 3)

    Returns
    -------
    float32 array of shape (n_images, 16, 16, 14)
    """
    n_cells, angles = 16, np.arange(4) * np.pi / 4

    def pool(maps: np.ndarray) -> np.ndarray:  # (n, size, size) -> (n, 16, 16)
        return _block_mean(maps, maps.shape[1] // n_cells)

    out = np.empty((len(images), n_cells, n_cells, 14), np.float32)
    for start in range(0, len(images), 32):
        rgb = _block_mean(images[start : start + 32].astype(np.float32) / 255, 2)
        luminance = rgb.mean(3)
        channels = []
        for scale in range(3):
            dx, dy, dxx, dyy, dxy = _derivatives(luminance)
            for angle in angles:
                c, s = np.float32(np.cos(angle)), np.float32(np.sin(angle))
                odd = c * dx + s * dy
                even = c * c * dxx + 2 * c * s * dxy + s * s * dyy
                channels.append(pool(odd**2 + even**2))
            if scale < 2:
                luminance = _block_mean(luminance, 2)
        red_green, blue_yellow = rgb[..., 0] - rgb[..., 1], rgb[..., 2] - rgb.mean(3)
        channels += [pool(red_green**2), pool(blue_yellow**2)]
        out[start : start + 32] = np.stack(channels, -1)
    return out


def _block_mean(maps: np.ndarray, size: int) -> np.ndarray:
    """Average size × size squares of pixels: (n, h, w, …) -> (n, h / size, w / size, …)."""
    corners = [(i, j) for i in range(size) for j in range(size)]
    return sum(maps[:, i::size, j::size] for i, j in corners) / np.float32(size * size)


def _derivatives(luminance: np.ndarray) -> list[np.ndarray]:
    """First and second Gaussian derivatives: x, y, xx, yy, xy."""
    rows = [gaussian_filter1d(luminance, SIGMA, axis=1, order=order) for order in (0, 1, 2)]
    return [
        gaussian_filter1d(rows[0], SIGMA, axis=2, order=1),
        gaussian_filter1d(rows[1], SIGMA, axis=2),
        gaussian_filter1d(rows[0], SIGMA, axis=2, order=2),
        gaussian_filter1d(rows[2], SIGMA, axis=2),
        gaussian_filter1d(rows[1], SIGMA, axis=2, order=1),
    ]


def _zscore(values: np.ndarray) -> np.ndarray:
    return (values - values.mean(0)) / (values.std(0) + 1e-9)


# --------------------------------------------------------------------------- subjects


@dataclass
class Anatomy:
    """One simulated brain: its voxel grid, and where fsaverage5's vertices lie in it.

    ``layers[hemisphere]`` is (3 depths, 10,242, 3), 1-based voxel coordinates, 9999 outside;
    ``owner`` (n_voxels,) is the vertex each voxel of the mask takes its function from, counted
    through the left hemisphere, then the right. ``deform`` takes fsaverage's positions (n, 3) in mm
    to this brain's in the scanner, in mm; ``affine`` leads there from 0-based voxels.
    """

    affine: np.ndarray
    mask: np.ndarray
    layers: dict[str, np.ndarray]
    owner: np.ndarray
    deform: Callable[[np.ndarray], np.ndarray]


def build_anatomy(
    subject: int, layouts: dict[str, Layout], config: SimulationConfig, seed: np.random.SeedSequence
) -> Anatomy:
    """Resize, turn and bend fsaverage5 into a head of its own, and lay a voxel grid over it."""
    generator = np.random.default_rng(seed)
    scale = 1 + generator.uniform(-0.07, 0.07, 3)
    turn = generator.normal(0, 0.04, 3)
    rotation = np.eye(3) + np.cross(np.eye(3), turn)  # small angles
    bend = random_fields(3, 40.0, generator)

    def deform(points: np.ndarray) -> np.ndarray:
        return (points + 1.5 * bend(points)) * scale @ rotation.T  # millimetres

    points = _cortex()
    cloud = deform(np.concatenate([points[h].reshape(-1, 3) for h in HEMISPHERES]))
    low, high = cloud.min(0) - 2 * config.voxel_size, cloud.max(0) + 2 * config.voxel_size
    shape = tuple(np.ceil((high - low) / config.voxel_size).astype(int))
    affine = np.diag([config.voxel_size] * 3 + [1.0])
    affine[:3, 3] = low
    coordinates = (cloud - low) / config.voxel_size
    n = points["left"].shape[1]
    layers = {
        h: coordinates[k * 3 * n : (k + 1) * 3 * n].reshape(3, n, 3)
        for k, h in enumerate(HEMISPHERES)
    }
    # Each voxel that responsive cortex passes through belongs to its nearest vertex.
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
OUTSIDE = 9999  # NSD's coordinate of what has none


@functools.cache
def _near_cortex() -> np.ndarray:
    """Voxels of the MNI grid within 8 mm of cortex: 0-based indices (n, 3)."""
    points = np.concatenate([layers[1] for layers in _cortex().values()])
    away = np.ones(MNI_SHAPE, bool)
    voxels = nib.affines.apply_affine(np.linalg.inv(MNI_AFFINE), points)
    away[tuple(np.rint(voxels).astype(int).T)] = False
    return np.argwhere(distance_transform_edt(away, sampling=2) <= 8)


def mni_coordinates(anatomy: Anatomy) -> np.ndarray:
    """Where the voxels of the MNI grid lie in a simulated brain, as NSD tells it.

    Returns
    -------
    float32 array of shape (91, 109, 91, 3)
        1-based voxel coordinates of ``anatomy``, 9999 farther than 8 mm from cortex and off its
        grid. The first axis runs from right to left.
    """
    near = _near_cortex()
    positions = nib.affines.apply_affine(MNI_AFFINE, near).astype(np.float32)
    # In float32 (good to 1e-4 mm) and in pieces: there are 200,000.
    places = np.concatenate(
        [anatomy.deform(part) for part in np.array_split(positions, len(positions) // 8192 + 1)]
    )
    voxels = nib.affines.apply_affine(np.linalg.inv(anatomy.affine), places)
    inside = ((voxels > -0.5) & (voxels < np.array(anatomy.mask.shape) - 0.5)).all(1)
    coordinates = np.full((*MNI_SHAPE, 3), OUTSIDE, np.float32)
    coordinates[tuple(near[inside].T)] = voxels[inside] + 1
    return coordinates


@dataclass
class Responses:
    """Response distribution of one subject; percent signal change.

    ``mean`` (n_images, n_voxels); ``scale`` (n_images, n_voxels) multiplies noise of covariance
    ``loadings @ loadings.T + diag(private²)``.
    """

    mean: np.ndarray
    scale: np.ndarray
    loadings: np.ndarray
    private: np.ndarray
    explained: np.ndarray
    offset: np.ndarray
    gain: np.ndarray


def build_responses(
    energy: np.ndarray,
    rows: np.ndarray,
    layouts: dict[str, Layout],
    anatomy: Anatomy,
    config: SimulationConfig,
    common_seed: np.random.SeedSequence,
    own_seed: np.random.SeedSequence,
) -> Responses:
    """Give every voxel its tuning, its unexplained response and its noise (see the module).

    Parameters
    ----------
    energy : array of shape (n_all_images, 16, 16, n_channels)
        Of every stimulus: scales are set by all of them, alike for every subject.
    rows : int array of shape (n_images,)
        The images of this subject, in the order of ``subjectim``.
    """
    common, own = np.random.default_rng(common_seed), np.random.default_rng(own_seed)
    joined = {
        name: np.concatenate([getattr(layouts[h], name) for h in HEMISPHERES])[anatomy.owner]
        for name in ("visual", "higher", "x", "y", "size")
    }
    early = joined["visual"] > 0
    grid, n_channels = energy.shape[1], energy.shape[-1]
    n_images = len(rows)
    n_voxels = len(anatomy.owner)
    positions = np.concatenate([fsaverage("sphere")[h][0] for h in HEMISPHERES]).astype(float)
    positions[len(positions) // 2 :, 0] += 400  # the hemispheres' spheres overlap
    positions = positions[anatomy.owner]

    def organised(n_fields: int, length: float, individual: float) -> np.ndarray:
        """Fields shared by the subjects, mixed with a share of the subject's own."""
        shared = smooth_fields(positions, n_fields, length, common)
        private = smooth_fields(positions, n_fields, length, own)
        return np.sqrt(1 - individual) * shared + np.sqrt(individual) * private

    # Early areas: square root of tuned contrast energy in the receptive field.
    tuning = np.exp(0.8 * organised(n_channels, 12.0, 0.25))
    centre = (np.arange(grid) + 0.5) / grid * 2 - 1
    x0 = joined["x"] + own.normal(0, 0.03, n_voxels)
    y0 = joined["y"] + own.normal(0, 0.03, n_voxels)
    field = np.exp(
        -((centre[None, None, :] - x0[:, None, None]) ** 2)
        / (2 * joined["size"][:, None, None] ** 2)
        - ((-centre[None, :, None] - y0[:, None, None]) ** 2)
        / (2 * joined["size"][:, None, None] ** 2)
    ).reshape(n_voxels, -1)
    field /= field.sum(1, keepdims=True) + 1e-12
    normal = energy / (energy.mean((0, 1, 2)) + 1e-12)
    f = np.empty((n_images, n_voxels), np.float32)
    flat = normal[rows].reshape(n_images, -1).astype(np.float32)
    for start in range(0, n_voxels, 256):
        part = slice(start, start + 256)
        filters = field[part, :, None] * tuning[part, None, :]
        f[:, part] = np.sqrt(flat @ filters.reshape(len(filters), -1).T.astype(np.float32))

    # Higher areas: rectified projections of log energies in 4 × 4 regions, pooled.
    n_units = 24
    pooled = normal.reshape(-1, 4, grid // 4, 4, grid // 4, n_channels).mean((2, 4))
    pooled = _zscore(np.log(pooled + 0.05).reshape(len(pooled), -1))
    scores = pooled @ np.linalg.svd(pooled, full_matrices=False)[2][:12].T
    units = _zscore(np.maximum(_zscore(scores) @ common.normal(0, 0.4, (12, n_units)) + 0.3, 0))
    preference = organised(n_units, 20.0, 0.25)
    f[:, ~early] = units[rows] @ preference[~early].T
    f = _zscore(f)

    # What no image feature explains: random per image, low-rank over voxels.
    rank = 8
    hidden = own.normal(0, 1, (n_images, rank))
    h = _zscore(hidden @ organised(rank, 25.0, 0.5).T)
    q = np.clip(config.unexplained * np.exp(0.4 * own.normal(0, 1, n_voxels)), 0.02, 0.6)
    s = np.sqrt(1 - q) * f + np.sqrt(q) * h

    # Signal-to-noise: log-normal, as in NSD's visual voxels (median 0.42, 5-95 % 0.20 to 0.82),
    # lower where the receptive field leaves the picture.
    outside = np.clip(np.hypot(joined["x"], joined["y"]) - 0.9, 0, None) * early
    snr = 0.48 * np.exp(0.38 * organised(1, 10.0, 0.5)[:, 0] - outside)
    noise_sd = 1 / np.clip(snr, 0.1, 1.4)
    loadings = organised(6, 30.0, 0.5)
    loadings /= np.linalg.norm(loadings, axis=1, keepdims=True)
    share = 0.3  # of the noise's variance, shared by voxels
    gain = np.exp(0.3 * own.normal(0, 1, n_voxels)) * 0.7
    offset = 0.6 + 0.5 * organised(1, 15.0, 0.5)[:, 0]
    return Responses(
        mean=offset + gain * s,
        scale=gain * noise_sd * (1 + 0.25 * np.tanh(s)),
        loadings=np.sqrt(share) * loadings,
        private=np.full(n_voxels, np.sqrt(1 - share)),
        explained=1 - q,
        offset=offset,
        gain=gain * noise_sd,
    )


def draw_session(
    responses: Responses,
    images: np.ndarray,
    drift_fields: np.ndarray,
    generator: np.random.Generator,
) -> np.ndarray:
    """Draw the single trials of one session, with its drift.

    Parameters
    ----------
    images : int array of shape (n_trials,)
        Rows of ``responses.mean``.
    drift_fields : array of shape (n_voxels, n_fields)

    Returns
    -------
    array of shape (n_trials, n_voxels), percent signal change
    """
    n_trials, n_voxels = len(images), responses.mean.shape[1]
    shared = generator.normal(0, 1, (n_trials, responses.loadings.shape[1]))
    noise = shared @ responses.loadings.T
    noise += responses.private * generator.normal(0, 1, (n_trials, n_voxels))
    time = np.linspace(-1, 1, n_trials)[:, None]
    slow = generator.normal(0, 0.12, drift_fields.shape[1]) + generator.normal(
        0, 0.08, drift_fields.shape[1]
    ) * np.concatenate([time, np.sin(3 * np.pi * time), np.cos(2 * np.pi * time)], 1)
    drift = slow @ drift_fields.T * responses.gain
    return responses.mean[images] + responses.scale[images] * noise + drift


# ----------------------------------------------------------------------------- writing


def simulate(
    root: Path,
    config: SimulationConfig | None = None,
    progress: Callable[[str], None] = lambda message: None,
) -> Path:
    """Write simulated subjects as an NSD folder.

    Parameters
    ----------
    root : path
        Folder to make. Nothing is done when it holds the same simulation already.
    config : SimulationConfig
    progress : callable
        Told what is being done.

    Returns
    -------
    path
        ``root``, with ``nsddata/``, ``nsddata_betas/``, ``nsddata_stimuli/``, ``truth/`` (one
        ``.npz`` a subject: ``mean``, ``scale``, ``loadings``, ``private``, ``explained``; see
        `Responses`) and, written last,
        ``dataset_description.json``.
    """
    config = config or SimulationConfig()
    if config.image_size % 64 or config.image_size < 128 or config.n_trials % config.n_sessions:
        raise InputError(
            "expected an image size in multiples of 64, 128 at least, and images × repeats that "
            f"divide into the sessions; found {config}"
        )
    root = Path(root)
    record = root / "dataset_description.json"
    seeds = np.random.SeedSequence(config.seed).spawn(3 + config.n_subjects)
    design_seed, image_seed, common_seed, *subject_seeds = seeds

    progress("photographs")
    n_all = config.n_shared + config.n_subjects * config.n_unique
    generator = np.random.default_rng(image_seed)
    photographs = load_photographs()
    size = config.image_size
    shared = crop_photographs(*photographs, config.n_shared, size, "shared", generator)
    unique = crop_photographs(*photographs, n_all - config.n_shared, size, "unique", generator)
    # NSD's shared images are scattered among the 73,000: so here, from the design's generator.
    generator = np.random.default_rng(design_seed)
    scatter = generator.permutation(n_all)
    stimuli = np.empty((n_all, *shared.shape[1:]), np.uint8)
    stimuli[scatter[: config.n_shared]] = shared
    stimuli[scatter[config.n_shared :]] = unique
    subject_images = np.stack(
        [
            np.concatenate([scatter[: config.n_shared], own])
            for own in scatter[config.n_shared :].reshape(config.n_subjects, -1)
        ]
    )
    ordering = generator.permutation(np.repeat(np.arange(config.n_images), config.n_repeats))
    _write_stimuli(root, stimuli)
    _write_design(root, subject_images, ordering, config)

    energy = contrast_energy(stimuli)
    layouts = {h: functional_layout(h) for h in HEMISPHERES}
    for index, seed in enumerate(subject_seeds):
        progress(f"subject {index + 1} of {config.n_subjects}")
        anatomy_seed, tuning_seed, noise_seed = seed.spawn(3)
        anatomy = build_anatomy(index + 1, layouts, config, anatomy_seed)
        responses = build_responses(
            energy, subject_images[index], layouts, anatomy, config, common_seed, tuning_seed
        )
        _write_subject(root, index + 1, layouts, anatomy, responses, ordering, config, noise_seed)
    write_json(
        record,
        {
            "Name": "Simulated subjects in the layout of the Natural Scenes Dataset",
            "BIDSVersion": "1.9.0",
            "DatasetType": "raw",
            "Simulated": True,
            "GeneratedBy": [{"Name": "synbrain", "Version": versions()["synbrain"]}],
            "Simulation": config.to_dict(),
        },
    )
    return root


def _write_stimuli(root: Path, stimuli: np.ndarray) -> None:
    with (
        atomic(root / "nsddata_stimuli/stimuli/nsd/nsd_stimuli.hdf5") as path,
        h5py.File(path, "w") as file,
    ):
        file.create_dataset("imgBrick", data=stimuli)


def _write_design(
    root: Path, subject_images: np.ndarray, ordering: np.ndarray, config: SimulationConfig
) -> None:
    per_session = len(ordering) // config.n_sessions
    pattern = np.zeros((config.n_sessions, 12, 75), np.uint8)
    for session in pattern:  # NSD's runs hold 62 or 63 trials
        for run in range(12):
            session[run, : per_session // 12 + (run < per_session % 12)] = 1
    seen = [ordering[: (s + 1) * per_session] for s in range(config.n_sessions)]
    counts = np.array([[np.sum(np.bincount(o) >= r) for o in seen] for r in (1, 2, 3)], np.uint16)
    with atomic(root / "nsddata/experiments/nsd/nsd_expdesign.mat") as path:
        scipy.io.savemat(
            path,
            {
                "masterordering": (ordering[None] + 1).astype(np.uint16),
                "subjectim": (subject_images + 1).astype(np.int32),
                "sharedix": np.sort(subject_images[:1, : config.n_shared] + 1).astype(np.int32),
                "stimpattern": pattern,
                "basiccnt": counts,
            },
            appendmat=False,
        )


def _write_subject(
    root: Path,
    number: int,
    layouts: dict[str, Layout],
    anatomy: Anatomy,
    responses: Responses,
    ordering: np.ndarray,
    config: SimulationConfig,
    seed: np.random.SeedSequence,
) -> None:
    name = f"subj{number:02d}"
    base = root / "nsddata/ppdata" / name
    generator = np.random.default_rng(seed)

    def volume(values: np.ndarray, path: Path, dtype: type, fill: float = 0) -> None:
        data = np.full(anatomy.mask.shape + values.shape[:-1], fill, dtype)
        data[anatomy.mask] = values.T
        image = nib.Nifti1Image(data, anatomy.affine, dtype=dtype)
        image.header["descrip"] = b"simulated by synbrain"
        image.header.set_xyzt_units("mm", "sec")
        save_image(image, path)

    # Masks and ROIs: NSD's collections, -1 outside the region covered.
    roi = base / "func1pt8mm/roi"
    joined = {
        key: np.concatenate([getattr(layouts[h], key) for h in HEMISPHERES])[anatomy.owner]
        for key in ("visual", "higher")
    }
    areas = list(HIGHER_AREAS.items())
    streams = np.where(joined["visual"] > 0, 1, 0)
    streams[joined["visual"] == 7] = 1 + STREAMS.index("midventral")
    floc: dict[str, np.ndarray] = {}
    labels: dict[str, dict[int, str]] = {
        "nsdgeneral": {1: "nsdgeneral"},
        "prf-visualrois": dict(enumerate(VISUAL_ROIS, start=1)),
        "streams": dict(enumerate(STREAMS, start=1)),
    }
    for code, (area, (_, _, collection, stream)) in enumerate(areas, start=1):
        streams[joined["higher"] == code] = 1 + STREAMS.index(stream)
        if collection:
            values = floc.setdefault(collection[0], np.zeros_like(joined["higher"]))
            values[joined["higher"] == code] = collection[1]
            labels.setdefault(collection[0], {})[collection[1]] = area
    collections = {
        "nsdgeneral": np.ones_like(streams),
        "prf-visualrois": joined["visual"],
        "streams": streams,
        **floc,
    }
    for collection, values in collections.items():
        volume(values, roi / f"{collection}.nii.gz", np.int16, fill=-1)
        with atomic(root / f"nsddata/freesurfer/{name}/label/{collection}.mgz.ctab") as path:
            path.write_text(
                "".join(
                    f"{code} {label}\n"
                    for code, label in {0: "Unknown", **labels[collection]}.items()
                )
            )

    # Transforms: 1-based coordinates and indices, as NSD's.
    n_vertices = len(layouts["left"].visual)
    for hemisphere, short in zip(HEMISPHERES, ("lh", "rh"), strict=True):
        for depth in range(3):
            values = anatomy.layers[hemisphere][depth].astype(np.float32)
            _write_mgh(base / f"transforms/{short}.func1pt8-to-layerB{depth + 1}.mgz", values)
        # The native surface has fsaverage5's vertices, so this is the identity.
        _write_mgh(
            base / f"transforms/{short}.white-to-fsaverage.mgz",
            np.arange(1, n_vertices + 1, dtype=np.int32)[:, None],
        )
    # As in NSD, the header does not say how the grid lies.
    save_image(
        nib.Nifti1Image(mni_coordinates(anatomy), np.eye(4)),
        base / "transforms/func1pt8-to-MNI.nii.gz",
    )

    # Betas: int16, percent signal change × 300.
    folder = root / f"nsddata_betas/ppdata/{name}/func1pt8mm/{BETAS}"
    positions = np.argwhere(anatomy.mask) * config.voxel_size
    drift_fields = smooth_fields(positions, 3, 40.0, generator)
    per_session = len(ordering) // config.n_sessions
    everything = []
    for session in range(config.n_sessions):
        images = ordering[session * per_session : (session + 1) * per_session]
        betas = draw_session(responses, images, drift_fields, generator)
        stored = np.clip(np.rint(betas * 300), -32768, 32767).astype(np.int16)
        volume(stored, folder / f"betas_session{session + 1:02d}.nii.gz", np.int16)
        everything.append(stored / np.float32(300))
    snr = recorded_ncsnr(np.concatenate([_zscore(b) for b in everything]), ordering)
    volume(np.asarray(snr), folder / "ncsnr.nii.gz", np.float32)

    with atomic(root / f"truth/{name}.npz") as path, path.open("wb") as file:
        np.savez(
            file,
            mean=responses.mean.astype(np.float32),
            scale=responses.scale.astype(np.float32),
            loadings=responses.loadings.astype(np.float32),
            private=responses.private.astype(np.float32),
            explained=responses.explained.astype(np.float32),
        )


def _write_mgh(path: Path, values: np.ndarray) -> None:
    """Save (n_vertices, k) values as NSD does: an MGH of shape (n_vertices, 1, 1[, k])."""
    data = values[:, None, None, :] if values.shape[1] > 1 else values[:, :, None]
    save_image(nib.MGHImage(data, np.eye(4)), path)
