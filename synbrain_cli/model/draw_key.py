"""The random key of each draw, from which its random numbers are generated.

The key of a draw is a SHA-256 hash of four things, and of nothing else:

- the seed that the user chose;
- a digest of the image's content, not of its name or its position in a list;
- the number of the draw, or the name of what several draws share;
- the fingerprint of the bundle: a checksum of the files that hold its weights.

Any one draw can therefore be made again alone, on any machine, in any order and in any batch. No
two draws or models share random numbers, and no two images but those of random functions, which all
images share: their digest is empty (`synbrain_cli.model.error_fields`).
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from numpy.random.bit_generator import ISeedSequence


def draw_key(seed: int, digest: str, draw: int | str, fingerprint: str) -> int:
    """Return the key of a draw, 128 bits of a SHA-256 hash.

    Parameters
    ----------
    seed : int
        Chosen by the user.
    digest : str
        Of the image's content; empty for what all images share.
    draw : int or str
        Number of the draw, or the name of what several draws share.
    fingerprint : str
        Of the bundle.
    """
    key = hashlib.sha256(f"{seed}/{digest}/{draw}/{fingerprint}".encode()).digest()
    return int.from_bytes(key[:16])


def draw_generator(
    seed: int, digest: str, draw: int | str, fingerprint: str
) -> np.random.Generator:
    """Return the generator of a draw's random numbers: Philox, keyed by `draw_key`."""
    key: Any = _Key(draw_key(seed, digest, draw, fingerprint))
    return np.random.Generator(np.random.Philox(key))


class _Key(ISeedSequence):
    """The key as Philox asks for it; with ``key=…``, NumPy also gathers entropy, and drops it."""

    def __init__(self, key: int) -> None:
        self._words = np.array([key & (2**64 - 1), key >> 64], np.uint64)

    def generate_state(self, n_words: int, dtype: Any = np.uint32) -> np.ndarray:
        """Return the two words of the key."""
        return self._words
