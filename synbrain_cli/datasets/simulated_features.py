"""Features of the stimuli, from which the areas of the simulated subjects compute responses."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter1d

# SD of the Gaussian derivatives in pixels of the finest scale (half the resolution of the image),
# which prefer about 13, 6 and 3 cycles per image.
SIGMA = 0.8
ORIENTED = 12  # channels of contrast_energy with an orientation: 3 scales × 4 orientations


@dataclass(frozen=True)
class StimulusFeatures:
    """Features of all stimuli.

    Attributes
    ----------
    n_known : int
        Stimuli over which scales are computed, in front. Those behind are shown to the same
        subjects in another experiment, which does not change what the first one is.
    energy : float32 array of shape (n_images, 16, 16, 14)
        From `contrast_energy`, divided by the mean of the channel over stimuli and positions.
    gabor : float32 array of shape (n_images, 8, 8, 48)
        From `gabor_grid`.
    encoder : float32 array of shape (n_images, n_dims)
        From `synbrain_cli.datasets.simulated_encoder.average_features`.
    """

    n_known: int
    energy: np.ndarray
    gabor: np.ndarray
    encoder: np.ndarray

    @classmethod
    def of(cls, stimuli: np.ndarray, n_known: int | None = None) -> StimulusFeatures:
        """Compute the features of stimuli, uint8 (n_images, size, size, 3)."""
        n_known = n_known or len(stimuli)
        # Imported here, as it imports torch and timm.
        from synbrain_cli.datasets.simulated_encoder import average_features

        energy = contrast_energy(stimuli)
        energy /= energy[:n_known].mean((0, 1, 2)) + np.float32(1e-12)
        return cls(n_known, energy, gabor_grid(stimuli), average_features(stimuli))


def contrast_energy(images: np.ndarray) -> np.ndarray:
    """Compute the local energies to which most of the simulated areas respond.

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


def gabor_grid(images: np.ndarray) -> np.ndarray:
    """Compute `gabor` tokens, averaged in squares of 2 × 2 tokens.

    Parameters
    ----------
    images : uint8 array of shape (n_images, size, size, 3)

    Returns
    -------
    float32 array of shape (n_images, 8, 8, 48)
        A linear function of the tokens of `synbrain_cli.features.gabor.Gabor`.
    """
    from synbrain_cli.features.gabor import GRID, Gabor

    encoder = Gabor()
    parts = []
    for start in range(0, len(images), 256):  # all tokens of all images would not be small
        tokens = encoder(images[start : start + 256]).bands[0]
        parts.append(_block_mean(tokens.reshape(len(tokens), GRID, GRID, -1), 2))
    return np.concatenate(parts)
