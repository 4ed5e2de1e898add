"""Stimuli that map receptive fields: bars, wedges and rings over textures.

The apertures are the usual ones of retinotopic mapping (Sereno et al. 1995, *Science* 268:889;
Dumoulin & Wandell 2008, *NeuroImage* 39:647). Each is shown over several textures of natural
amplitude spectrum, as responses depend on what is seen, too; the rest of the picture is grey.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SIDE = 256  # pixels of a stimulus
GRID = 64  # cells of an aperture; a cell is SIDE / GRID pixels
GREY = 127
CONTRAST = 55.0  # SD of luminance within an aperture, grey levels (ours)
CHROMA = 0.35  # SD of each colour channel about luminance, of CONTRAST (ours)
N_BARS, N_WEDGES, N_RINGS = 14, 16, 8  # bars of each of four orientations
BAR_WIDTH = 0.25  # in half-widths of the picture
WEDGE_ANGLE = 45.0  # degrees


@dataclass(frozen=True)
class Apertures:
    """Where each stimulus has contrast.

    Attributes
    ----------
    names : tuple of str
        As "bar-45_position-03", "wedge-090", "ring-04".
    masks : float32 array of shape (n_apertures, GRID, GRID)
        1 inside and 0 outside, rows from the top.
    """

    names: tuple[str, ...]
    masks: NDArray[np.float32]


def grid_positions(side: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return x and y of the cells of a grid, each of shape (side, side).

    In half-widths of the picture, which spans −1 to 1: x to the right, y upwards.
    """
    centre = (np.arange(side) + 0.5) / side * 2 - 1
    x, down = np.meshgrid(centre, centre)
    return x, -down


def mapping_apertures() -> Apertures:
    """Return bars of four orientations, wedges and rings, over the whole square picture."""
    x, y = grid_positions(GRID)
    named: dict[str, NDArray[np.bool_]] = {}
    for angle in (0, 45, 90, 135):
        across = x * np.cos(np.deg2rad(angle)) + y * np.sin(np.deg2rad(angle))
        reach = np.abs(across).max()
        for k, centre in enumerate(np.linspace(-reach, reach, N_BARS + 2)[1:-1]):
            named[f"bar-{angle:03d}_position-{k + 1:02d}"] = np.abs(across - centre) < BAR_WIDTH / 2
    radius, turn = np.hypot(x, y), np.rad2deg(np.arctan2(y, x))
    for angle in np.arange(N_WEDGES) * 360 / N_WEDGES:
        away = np.abs((turn - angle + 180) % 360 - 180)
        named[f"wedge-{angle:05.1f}"] = away < WEDGE_ANGLE / 2
    edges = np.linspace(0, np.sqrt(2), N_RINGS + 1) ** 1.5 / 2**0.25  # wider outwards, as in cortex
    for k in range(N_RINGS):
        named[f"ring-{k + 1:02d}"] = (radius >= edges[k]) & (radius < edges[k + 1])
    return Apertures(tuple(named), np.stack(list(named.values())).astype(np.float32))


def textures(n: int, generator: np.random.Generator) -> NDArray[np.float32]:
    """Draw textures with the amplitude spectrum of natural pictures, 1/f (Field 1987).

    Returns
    -------
    float32 array of shape (n, SIDE, SIDE, 3)
        Grey levels away from `GREY`: luminance with an SD of `CONTRAST`, and colour.
    """
    luminance = _pink(n, generator)[..., None]
    colour = np.stack([_pink(n, generator) for _ in range(3)], -1)
    return np.float32(CONTRAST) * (luminance + np.float32(CHROMA) * colour)


def _pink(n: int, generator: np.random.Generator) -> NDArray[np.float32]:
    """1/f noise of mean 0 and SD 1: (n, SIDE, SIDE)."""
    down, across = np.fft.fftfreq(SIDE)[:, None], np.fft.rfftfreq(SIDE)[None]
    frequency = np.hypot(down, across)
    amplitude = np.divide(1.0, frequency, out=np.zeros_like(frequency), where=frequency > 0)
    spectrum = np.fft.rfft2(generator.standard_normal((n, SIDE, SIDE))) * amplitude
    noise = np.fft.irfft2(spectrum, (SIDE, SIDE))
    return (noise / noise.std((1, 2), keepdims=True)).astype(np.float32)


def render(masks: NDArray[np.float32], texture: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Show a texture through apertures, on grey.

    Parameters
    ----------
    masks : float32 array of shape (n, GRID, GRID)
    texture : float32 array of shape (SIDE, SIDE, 3)

    Returns
    -------
    uint8 array of shape (n, SIDE, SIDE, 3)
    """
    cell = SIDE // GRID
    whole = masks.repeat(cell, 1).repeat(cell, 2)[..., None]
    return np.clip(GREY + whole * texture, 0, 255).round().astype(np.uint8)
