"""Responses of the simulated subjects: image features, tuning of voxels, single trials."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter1d

from synbrain_cli.datasets.simulated_cortex import Anatomy, Layout, smooth_fields
from synbrain_cli.io.surface import HEMISPHERES, fsaverage

# SD of the Gaussian derivatives in pixels of the finest scale (half the resolution of the image),
# which prefer about 13, 6 and 3 cycles per image.
SIGMA = 0.8


def contrast_energy(images: np.ndarray) -> np.ndarray:
    """Compute the local energies to which the simulated early areas respond.

    These are energies of quadrature pairs of Gaussian derivatives of luminance (first and second
    derivative; Freeman & Adelson 1991) at three scales, from half the resolution of the image on,
    and four orientations, and the squares of two opponent colours. They are averaged in a 16 × 16
    grid of cells.

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


def zscore(values: np.ndarray) -> np.ndarray:
    """Scale each column to mean 0 and standard deviation 1; constant columns become 0."""
    return (values - values.mean(0)) / (values.std(0) + 1e-9)


@dataclass(frozen=True)
class Responses:
    """Response distribution of one subject; percent signal change.

    Attributes
    ----------
    mean : array of shape (n_images, n_voxels)
        Noise-free response.
    scale : array of shape (n_images, n_voxels)
        Factor of the noise, which has the covariance ``loadings @ loadings.T + diag(private²)``.
    loadings : array of shape (n_voxels, n_factors)
    private : array of shape (n_voxels,)
    explained : array of shape (n_voxels,)
        Share of the response's variance that image features explain.
    offset, gain : arrays of shape (n_voxels,)
        Mean over images, and the standard deviation of the noise (the unit of the drift).
    """

    mean: np.ndarray
    scale: np.ndarray
    loadings: np.ndarray
    private: np.ndarray
    explained: np.ndarray
    offset: np.ndarray
    gain: np.ndarray


@dataclass(frozen=True)
class _CorticalFields:
    """Smooth random fields over the voxels of a subject, with a common and an individual part.

    Attributes
    ----------
    positions : array of shape (n_voxels, 3)
        Positions on the sphere of fsaverage5, with the hemispheres 400 units apart.
    common, own : Generator
        Generators of the common part, which is the same for all subjects, and of the individual
        part.
    """

    positions: np.ndarray
    common: np.random.Generator
    own: np.random.Generator

    def draw(self, n_fields: int, length: float, individual: float) -> np.ndarray:
        """Sample fields (n_voxels, n_fields), in which ``individual`` is a share of variance."""
        shared = smooth_fields(self.positions, n_fields, length, self.common)
        private = smooth_fields(self.positions, n_fields, length, self.own)
        return np.sqrt(1 - individual) * shared + np.sqrt(individual) * private


def build_responses(
    energy: np.ndarray,
    rows: np.ndarray,
    layouts: Mapping[str, Layout],
    anatomy: Anatomy,
    unexplained: float,
    seeds: tuple[np.random.SeedSequence, np.random.SeedSequence],
) -> Responses:
    """Generate the tuning, the unexplained response and the noise of every voxel.

    The formula is given in `synbrain_cli.datasets.simulated`.

    Parameters
    ----------
    energy : array of shape (n_all_images, 16, 16, n_channels)
        Energies of all stimuli, from `contrast_energy`. Scales are computed over all stimuli, so
        that they are the same for every subject.
    rows : int array of shape (n_images,)
        Stimuli that are shown to this subject, in the order of ``subjectim``.
    layouts : dict of Layout
        Functional layout of each hemisphere.
    anatomy : Anatomy
    unexplained : float
        Mean share of a voxel's response that no image feature explains.
    seeds : pair of SeedSequence
        Common to the subjects, and this subject's own.
    """
    common, own = (np.random.default_rng(seed) for seed in seeds)
    function = {
        name: np.concatenate([getattr(layouts[h], name) for h in HEMISPHERES])[anatomy.owner]
        for name in ("visual", "higher", "x", "y", "size")
    }
    early = function["visual"] > 0
    n_images, n_voxels = len(rows), len(anatomy.owner)
    positions = np.concatenate([fsaverage("sphere")[h][0] for h in HEMISPHERES]).astype(float)
    positions[len(positions) // 2 :, 0] += 400  # the hemispheres' spheres overlap
    fields = _CorticalFields(positions[anatomy.owner], common, own)
    normal = energy / (energy.mean((0, 1, 2)) + 1e-12)
    f = _early_responses(normal[rows], function, fields)
    f[:, ~early] = _higher_responses(normal, rows, fields, ~early)
    f = zscore(f)

    # Response that no image feature explains, random over images and low-rank over voxels.
    rank = 8
    hidden = own.normal(0, 1, (n_images, rank))
    h = zscore(hidden @ fields.draw(rank, 25.0, 0.5).T)
    q = np.clip(unexplained * np.exp(0.4 * own.normal(0, 1, n_voxels)), 0.02, 0.6)
    s = np.sqrt(1 - q) * f + np.sqrt(q) * h

    # Signal-to-noise: log-normal, as in NSD's visual voxels (median 0.42, 5-95 % 0.20 to 0.82),
    # lower where the receptive field leaves the picture.
    outside = np.clip(np.hypot(function["x"], function["y"]) - 0.9, 0, None) * early
    snr = 0.48 * np.exp(0.38 * fields.draw(1, 10.0, 0.5)[:, 0] - outside)
    noise_sd = 1 / np.clip(snr, 0.1, 1.4)
    loadings = fields.draw(6, 30.0, 0.5)
    loadings /= np.linalg.norm(loadings, axis=1, keepdims=True)
    share = 0.3  # of the noise's variance, shared by voxels
    gain = np.exp(0.3 * own.normal(0, 1, n_voxels)) * 0.7
    offset = 0.6 + 0.5 * fields.draw(1, 15.0, 0.5)[:, 0]
    return Responses(
        mean=offset + gain * s,
        scale=gain * noise_sd * (1 + 0.25 * np.tanh(s)),
        loadings=np.sqrt(share) * loadings,
        private=np.full(n_voxels, np.sqrt(1 - share)),
        explained=1 - q,
        offset=offset,
        gain=gain * noise_sd,
    )


def _early_responses(
    energy: np.ndarray, function: Mapping[str, np.ndarray], fields: _CorticalFields
) -> np.ndarray:
    """Root of the tuned contrast energy in receptive fields: float32 (n_images, n_voxels).

    ``energy`` is (n_images, 16, 16, n_channels), ``function`` a `Layout`'s properties by voxel.
    """
    grid, n_channels = energy.shape[1], energy.shape[-1]
    n_voxels = len(function["x"])
    tuning = np.exp(0.8 * fields.draw(n_channels, 12.0, 0.25))
    centre = (np.arange(grid) + 0.5) / grid * 2 - 1
    x0 = function["x"] + fields.own.normal(0, 0.03, n_voxels)
    y0 = function["y"] + fields.own.normal(0, 0.03, n_voxels)
    field = np.exp(
        -((centre[None, None, :] - x0[:, None, None]) ** 2)
        / (2 * function["size"][:, None, None] ** 2)
        - ((-centre[None, :, None] - y0[:, None, None]) ** 2)
        / (2 * function["size"][:, None, None] ** 2)
    ).reshape(n_voxels, -1)
    field /= field.sum(1, keepdims=True) + 1e-12
    f = np.empty((len(energy), n_voxels), np.float32)
    flat = energy.reshape(len(energy), -1).astype(np.float32)
    for start in range(0, n_voxels, 256):
        part = slice(start, start + 256)
        filters = field[part, :, None] * tuning[part, None, :]
        f[:, part] = np.sqrt(flat @ filters.reshape(len(filters), -1).T.astype(np.float32))
    return f


def _higher_responses(
    energy: np.ndarray, rows: np.ndarray, fields: _CorticalFields, voxels: np.ndarray
) -> np.ndarray:
    """Rectified projections of log energies in 4 × 4 regions, pooled: (n_images, n_chosen).

    ``energy`` is that of all stimuli, ``voxels`` a boolean (n_voxels,).
    """
    n_units, (grid, n_channels) = 24, energy.shape[2:]
    pooled = energy.reshape(-1, 4, grid // 4, 4, grid // 4, n_channels).mean((2, 4))
    pooled = zscore(np.log(pooled + 0.05).reshape(len(pooled), -1))
    scores = pooled @ np.linalg.svd(pooled, full_matrices=False)[2][:12].T
    weights = fields.common.normal(0, 0.4, (12, n_units))
    units = zscore(np.maximum(zscore(scores) @ weights + 0.3, 0))
    preference = fields.draw(n_units, 20.0, 0.25)
    return units[rows] @ preference[voxels].T


def draw_session(
    responses: Responses,
    images: np.ndarray,
    drift_fields: np.ndarray,
    generator: np.random.Generator,
) -> np.ndarray:
    """Draw the single trials of one session, including its drift.

    Parameters
    ----------
    responses : Responses
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
