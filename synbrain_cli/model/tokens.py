"""Standardisation of image tokens."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class TokenScaler:
    """z-score of every token feature over training images.

    Ours: the published model takes raw CLIP tokens (``mean`` 0, ``sd`` 1 would say so). Raw, the
    contrastive loss compares what all images share as much as what tells them apart.

    Attributes
    ----------
    mean : float32 array of shape (n_tokens, n_dims)
    sd : float32 array of shape (n_dims,)
        Over images and tokens, after the mean is taken away.
    """

    mean: np.ndarray
    sd: np.ndarray

    @classmethod
    def fit(cls, tokens: np.ndarray) -> TokenScaler:
        """Parameters: tokens, float array of shape (n_images, n_tokens, n_dims)."""
        mean = tokens.mean(0, dtype=np.float64)
        variance = np.mean([((t - mean) ** 2).mean(0) for t in tokens], axis=0)  # small memory
        sd = np.sqrt(variance)
        return cls(mean.astype(np.float32), np.where(sd > 1e-8, sd, 1).astype(np.float32))

    def __call__(self, tokens: np.ndarray) -> np.ndarray:
        """Return standardised tokens, float32 of the same shape."""
        return ((tokens - self.mean) / self.sd).astype(np.float32)

    def undo(self, tokens: np.ndarray) -> np.ndarray:
        """Return standardised tokens to what the encoder gave, float32 of the same shape."""
        return (tokens * self.sd + self.mean).astype(np.float32)
