"""Standardisation of image tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from synbrain_cli.memory import release
from synbrain_cli.tokens import Tokens

BATCH = 256  # images in memory at a time, where all would not fit
FEW = 4  # images whose tokens stay in the processor's cache


@dataclass(frozen=True)
class BandScaler:
    """Standardisation of the token features of a band over training images (z-score).

    Ours: the published model takes raw CLIP tokens (``mean`` 0 and ``sd`` 1). With raw tokens, the
    contrastive loss compares what all images share as much as what distinguishes them.

    Attributes
    ----------
    mean : float32 array of shape (n_tokens, n_dims)
    sd : float32 array of shape (n_dims,)
        Standard deviation over images and tokens, after subtraction of the mean.
    """

    mean: np.ndarray
    sd: np.ndarray

    @classmethod
    def none(cls, n_tokens: int, n_dims: int) -> BandScaler:
        """Return the scaler that leaves tokens as they are."""
        return cls(np.zeros((n_tokens, n_dims), np.float32), np.ones(n_dims, np.float32))

    @classmethod
    def fit(cls, store: np.ndarray, rows: np.ndarray | None = None) -> BandScaler:
        """Compute mean and SD over rows of a store of tokens, which are read in batches.

        Parameters
        ----------
        store : float array of shape (n_stored, n_tokens, n_dims)
            May be a memory map.
        rows : int array of shape (n_images,), optional
            Rows of the images; all by default.
        """
        rows = np.arange(len(store)) if rows is None else rows
        parts = [rows[first : first + BATCH] for first in range(0, len(rows), BATCH)]
        mean, variance = np.zeros(store.shape[1:]), np.zeros(store.shape[2])
        for part in parts:
            mean += store[part].sum(0, dtype=np.float64) / len(rows)
            release(store)
        for part in parts:
            for row in part:
                variance += ((store[row] - mean) ** 2).mean(0) / len(rows)
            release(store)
        sd = np.sqrt(variance)
        return cls(mean.astype(np.float32), np.where(sd > 1e-8, sd, 1).astype(np.float32))

    def __call__(self, tokens: np.ndarray) -> np.ndarray:
        """Return standardised tokens (..., n_tokens, n_dims), float32 of the same shape."""
        scaled = np.empty(tokens.shape, np.float32)
        shape = (-1, *self.mean.shape)
        # One image at a time, which stays in the processor's cache
        for own, image in zip(scaled.reshape(shape), tokens.reshape(shape), strict=True):
            np.subtract(image, self.mean, out=own)
            own /= self.sd
        return scaled


@dataclass(frozen=True)
class TokenScaler:
    """Standardisation of the tokens of every band.

    Attributes
    ----------
    bands : tuple of BandScaler
    """

    bands: tuple[BandScaler, ...]

    @classmethod
    def fit(cls, bands: Sequence[tuple[np.ndarray, np.ndarray]]) -> TokenScaler:
        """Fit every band: to its store and the rows of the training images in it."""
        return cls(tuple(BandScaler.fit(store, rows) for store, rows in bands))

    def only(self, bands: Sequence[int]) -> TokenScaler:
        """Return the scaler of some of the bands."""
        return TokenScaler(tuple(self.bands[band] for band in bands))

    @property
    def shapes(self) -> tuple[tuple[int, int], ...]:
        """Shape (n_tokens, n_dims) of each band."""
        return tuple((band.mean.shape[0], band.mean.shape[1]) for band in self.bands)

    def __call__(self, tokens: Tokens) -> Tokens:
        """Return standardised tokens, float32."""
        return Tokens(tuple(one(band) for one, band in zip(self.bands, tokens.bands, strict=True)))

    def arrays(self) -> dict[str, np.ndarray]:
        """Return named arrays, for a file."""
        return {
            f"{name}.{k}": getattr(band, part)
            for k, band in enumerate(self.bands)
            for name, part in (("token_mean", "mean"), ("token_sd", "sd"))
        }

    @classmethod
    def from_arrays(cls, named: dict[str, np.ndarray], n_bands: int) -> TokenScaler:
        """Rebuild from the named arrays of a file."""
        return cls(
            tuple(
                BandScaler(named[f"token_mean.{k}"], named[f"token_sd.{k}"]) for k in range(n_bands)
            )
        )


@dataclass(frozen=True)
class StandardBand:
    """Tokens of images under one band, standardised when they are read.

    Tokens of 9,000 images (256 × 1664) take 15 GB, and are therefore not held in memory.

    Attributes
    ----------
    store : float16 or float32 array of shape (n_stored, n_tokens, n_dims)
        Tokens as computed by the encoder; a memory map.
    rows : int array of shape (n_images,)
        Rows of the images in the store.
    scaler : BandScaler
    """

    store: np.ndarray
    rows: np.ndarray
    scaler: BandScaler

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape (n_images, n_tokens, n_dims)."""
        return len(self.rows), *self.store.shape[1:]

    def __getitem__(self, images: slice | np.ndarray) -> np.ndarray:
        """Return standardised tokens of some images, in memory: float32 (n, n_tokens, n_dims)."""
        return self.scaler(self.store[self.rows[images]])

    def part(self, images: slice | np.ndarray) -> StandardBand:
        """Return some of the images, unread."""
        return StandardBand(self.store, self.rows[images], self.scaler)

    def batches(self, size: int = BATCH) -> Iterator[np.ndarray]:
        """Yield standardised tokens of all images, a few at a time."""
        for first in range(0, len(self), size):
            yield self[first : first + size]
            release(self.store)

    def raw(self) -> np.ndarray:
        """Return the tokens as encoded, in memory: float32 (n_images, n_tokens, n_dims)."""
        return np.asarray(self.store[self.rows], np.float32)


@dataclass(frozen=True)
class StandardTokens:
    """Tokens of images under every band, standardised when they are read.

    Attributes
    ----------
    bands : tuple of StandardBand
        Of the same images.
    """

    bands: tuple[StandardBand, ...]

    def __len__(self) -> int:
        return len(self.bands[0])

    def only(self, bands: Sequence[int]) -> StandardTokens:
        """Return some of the bands."""
        return StandardTokens(tuple(self.bands[band] for band in bands))

    def part(self, images: slice | np.ndarray) -> StandardTokens:
        """Return some of the images, unread."""
        return StandardTokens(tuple(band.part(images) for band in self.bands))

    def __getitem__(self, images: slice | np.ndarray) -> Tokens:
        """Return standardised tokens of some images, in memory, float32."""
        return Tokens(tuple(band[images] for band in self.bands))

    def batches(self, size: int = BATCH) -> Iterator[Tokens]:
        """Yield standardised tokens of all images, a few at a time."""
        return map(Tokens, zip(*(band.batches(size) for band in self.bands), strict=True))

    def raw(self) -> Tokens:
        """Return the tokens as encoded, in memory, float32."""
        return Tokens(tuple(band.raw() for band in self.bands))
