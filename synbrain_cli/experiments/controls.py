"""Controls of a contrast: pictures without their phases, and what simple statistics explain."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

LOW_LEVEL = ("luminance", "contrast", "spatial_frequency", "saturation")


def phase_scrambled(image: NDArray[np.uint8], generator: np.random.Generator) -> NDArray[np.uint8]:
    """Give a picture random phases, and leave its amplitude spectrum as it is.

    All colour channels are turned by the same phases, which keeps the correlations between them.
    Values beyond 0 and 255 are cut.

    Parameters
    ----------
    image : uint8 array of shape (height, width, 3)
    generator : numpy Generator

    Returns
    -------
    uint8 array of shape (height, width, 3)
    """
    height, width, _ = image.shape
    noise = np.fft.rfft2(generator.standard_normal((height, width)))
    phase = noise / np.maximum(np.abs(noise), 1e-12)
    phase[0, 0] = 1  # the mean stays
    spectrum = np.fft.rfft2(image.astype(np.float64), axes=(0, 1))
    turned = np.fft.irfft2(spectrum * phase[..., None], (height, width), axes=(0, 1))
    return np.clip(turned, 0, 255).round().astype(np.uint8)


def low_level_statistics(images: Iterable[NDArray[np.uint8]]) -> NDArray[np.float64]:
    """Compute what is simple about pictures, the columns of `LOW_LEVEL`.

    Luminance: mean, from 0 to 1 (weights of Rec. 601). Contrast: its SD over pixels. Spatial
    frequency: logarithm of the frequency, cycles per picture, below which half of the amplitude
    over 1/f is (ours). Saturation: mean range of the colour channels, from 0 to 1.

    Parameters
    ----------
    images : iterable of uint8 arrays of shape (height, width, 3)

    Returns
    -------
    float64 array of shape (n_images, 4)
    """
    return np.array([_statistics(image) for image in images]).reshape(-1, len(LOW_LEVEL))


def _statistics(image: NDArray[np.uint8]) -> tuple[float, float, float, float]:
    pixels = image / 255
    grey = pixels @ np.array([0.299, 0.587, 0.114])
    spread = grey.std()
    return float(grey.mean()), float(spread), _frequency(grey), float(np.ptp(pixels, axis=2).mean())


def _frequency(grey: NDArray[np.float64]) -> float:
    """Median of log frequency, weighted by amplitude."""
    height, width = grey.shape
    down = np.fft.fftfreq(height)[:, None] * height
    across = np.fft.rfftfreq(width)[None] * width
    frequency = np.hypot(down, across)
    inside = (frequency >= 1) & (frequency <= min(height, width) / 2)
    if not inside.any():
        return 0.0
    amplitude = np.abs(np.fft.rfft2(grey - grey.mean()))[inside]
    order = np.argsort(frequency[inside])
    # As many frequencies lie on a ring as it is wide: a picture of 1/f has equal shares per octave
    share = np.cumsum(amplitude[order] / frequency[inside][order])
    if share[-1] <= 0:
        return 0.0
    return float(np.log(frequency[inside][order][np.searchsorted(share, share[-1] / 2)]))
