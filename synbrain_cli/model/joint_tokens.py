"""Tokens of all bands on one grid: what BrainVAE's latent is aligned with and the mapper maps from.

The published networks see the tokens of one encoder, of which the latent has the shape. Of several
bands, every band is averaged to one grid and projected to its leading principal components; the
components of all bands stand side by side (ours).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from synbrain_cli.model.fields import channel_axes
from synbrain_cli.model.tokens import BandScaler, StandardBand, StandardTokens
from synbrain_cli.tokens import Tokens

SIDE = 8  # tokens a side of the joint grid
N_DIMS = 96  # of a joint token


@dataclass(frozen=True)
class JointTokens:
    """Tokens of all bands as those of one.

    Attributes
    ----------
    axes : tuple of float32 arrays of shape (n_dims, n_components)
        One per band; the components, over images and positions, have a mean variance of 1. Empty
        for a single band, whose tokens stay as they are.
    """

    axes: tuple[NDArray[np.float32], ...] = ()

    @classmethod
    def fit(cls, tokens: StandardTokens) -> JointTokens:
        """Find the components of every band."""
        if len(tokens.bands) == 1:
            return cls()
        widths = _shares([band.shape[2] for band in tokens.bands])
        axes = []
        for band, width in zip(tokens.bands, widths, strict=True):
            pooled = np.concatenate([on_grid(part) for part in band.batches()])
            own = channel_axes(pooled)[:, :width]
            scale = np.sqrt(np.square(pooled @ own).mean() or 1.0)
            axes.append((own / scale).astype(np.float32))
        return cls(tuple(axes))

    def __call__(self, tokens: Tokens) -> NDArray[np.float32]:
        """Return standardised tokens as those of one band: float32 (n_images, n_tokens, n_dims)."""
        if not self.axes:
            return tokens.bands[0]
        parts = [on_grid(band) @ a for band, a in zip(tokens.bands, self.axes, strict=True)]
        return np.concatenate(parts, 2)

    def all_of(self, tokens: StandardTokens) -> StandardBand:
        """Return all images' tokens as those of one band: of several, in memory."""
        if not self.axes:
            return tokens.bands[0]
        values = np.concatenate([self(part) for part in tokens.batches()])
        plain = BandScaler.none(*values.shape[1:])
        return StandardBand(values, np.arange(len(values)), plain)

    def arrays(self) -> dict[str, NDArray[np.float32]]:
        """Return named arrays, for a file."""
        return {f"joint.{k}": axes for k, axes in enumerate(self.axes)}

    @classmethod
    def from_arrays(cls, named: dict[str, np.ndarray], n_bands: int) -> JointTokens:
        """Rebuild from the named arrays of a file."""
        return cls(tuple(named[f"joint.{k}"] for k in range(n_bands)) if n_bands > 1 else ())


def on_grid(tokens: NDArray[np.float32]) -> NDArray[np.float32]:
    """Average the tokens of a band to `SIDE` × `SIDE`: each cell over the tokens that it overlaps.

    Tokens that are on no square grid have no known place: every cell is the mean of all of them.

    Parameters
    ----------
    tokens : float32 array of shape (n_images, n_tokens, n_dims)
    """
    n_images, n_tokens, n_dims = tokens.shape
    side = round(n_tokens**0.5)
    if side * side != n_tokens:
        mean = tokens.mean(1, keepdims=True, dtype=np.float64).astype(np.float32)
        return np.repeat(mean, SIDE**2, axis=1)
    if side == SIDE:
        return tokens
    low = np.arange(SIDE) / SIDE
    edges = np.arange(side + 1) / side
    overlap = np.minimum(edges[1:], low[:, None] + 1 / SIDE) - np.maximum(edges[:-1], low[:, None])
    weights = np.maximum(overlap, 0)
    weights = (weights / weights.sum(1, keepdims=True)).astype(np.float32)  # (SIDE, side)
    grid = tokens.reshape(n_images, side, side, n_dims)
    averaged = np.einsum("ay,nyxd->naxd", weights, grid, optimize=True)
    return np.einsum("bx,naxd->nabd", weights, averaged, optimize=True).reshape(
        n_images, SIDE**2, n_dims
    )


def _shares(dims: list[int]) -> list[int]:
    """Components of each band: equal shares of `N_DIMS`, of small bands all they have."""
    widths, left = [0] * len(dims), N_DIMS
    for place, k in enumerate(sorted(range(len(dims)), key=dims.__getitem__)):
        widths[k] = min(dims[k], left // (len(dims) - place))
        left -= widths[k]
    if sum(widths) % 2:  # sine and cosine need an even number
        widths[int(np.argmax(widths))] -= 1
    return widths
