"""Standardisation of image tokens."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from synbrain_cli.memory import release

BATCH = 256  # images in memory at a time, where all would not fit
FEW = 4  # images whose tokens stay in the processor's cache


@dataclass(frozen=True)
class TokenScaler:
    """Standardisation of every token feature over training images (z-score).

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
    def fit(cls, store: np.ndarray, rows: np.ndarray | None = None) -> TokenScaler:
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
class StandardTokens:
    """Tokens of images that are standardised when they are read.

    Tokens of 9,000 images (256 × 1664) take 15 GB, and are therefore not held in memory.

    Attributes
    ----------
    store : float16 or float32 array of shape (n_stored, n_tokens, n_dims)
        Tokens as computed by the encoder; a memory map.
    rows : int array of shape (n_images,)
        Rows of the images in the store.
    scaler : TokenScaler
    """

    store: np.ndarray
    rows: np.ndarray
    scaler: TokenScaler

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape (n_images, n_tokens, n_dims)."""
        return len(self.rows), *self.store.shape[1:]

    def __getitem__(self, images: slice | np.ndarray) -> np.ndarray:
        """Return standardised tokens of some images, in memory: float32 (n, n_tokens, n_dims)."""
        return self.scaler(self.store[self.rows[images]])

    def batches(self, size: int = BATCH) -> Iterator[np.ndarray]:
        """Yield standardised tokens of all images, a few at a time."""
        for first in range(0, len(self), size):
            yield self[first : first + size]
            release(self.store)

    def raw(self) -> np.ndarray:
        """Return the tokens as encoded, in memory: float32 (n_images, n_tokens, n_dims)."""
        return np.asarray(self.store[self.rows], np.float32)
