"""Tokens of images: what a model sees of them, one array per band."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from synbrain_cli.errors import InputError


@dataclass(frozen=True, eq=False)
class Tokens:
    """Tokens of some images under the bands of an encoder.

    A band is one layer of one encoder, with a grid of tokens of its own.

    Attributes
    ----------
    bands : tuple of float arrays of shape (n_images, n_tokens, n_dims)
        ``n_tokens`` and ``n_dims`` are each band's own.

    Raises
    ------
    InputError
        When there is no band, or the bands are of different numbers of images.
    """

    bands: tuple[np.ndarray, ...]

    def __post_init__(self) -> None:
        lengths = {len(band) for band in self.bands}
        if len(lengths) != 1 or any(band.ndim != 3 for band in self.bands):
            raise InputError(
                "expected tokens of the same images in every band, each (n_images, n_tokens, "
                f"n_dims), found {', '.join(str(band.shape) for band in self.bands) or 'none'}"
            )

    @classmethod
    def of(cls, *bands: np.ndarray) -> Tokens:
        """Tokens of the bands given."""
        return cls(bands)

    @classmethod
    def concatenate(cls, parts: Sequence[Tokens]) -> Tokens:
        """Put images one after the other."""
        return cls(tuple(map(np.concatenate, zip(*(part.bands for part in parts), strict=True))))

    def __len__(self) -> int:
        return len(self.bands[0])

    def __getitem__(self, images: slice | np.ndarray | list[int]) -> Tokens:
        """Return the tokens of some images."""
        return Tokens(tuple(band[images] for band in self.bands))

    @property
    def shapes(self) -> tuple[tuple[int, int], ...]:
        """Shape (n_tokens, n_dims) of each band."""
        return tuple((band.shape[1], band.shape[2]) for band in self.bands)

    def only(self, bands: Sequence[int]) -> Tokens:
        """Return some of the bands."""
        return Tokens(tuple(self.bands[band] for band in bands))

    def one_by_one(self) -> Iterator[Tokens]:
        """Yield the tokens of each image by itself."""
        return (self[i : i + 1] for i in range(len(self)))

    def astype(self, dtype: type) -> Tokens:
        """Return the tokens as another type; the same arrays where they have it."""
        return Tokens(tuple(band.astype(dtype, copy=False) for band in self.bands))
