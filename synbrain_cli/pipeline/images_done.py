"""Which images an interrupted synthesis had finished: a checksum of what it wrote for each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from synbrain_cli.io.arrays import map_array
from synbrain_cli.io.files import array_header, create_array, holds_array, write_at

SIZE = 16  # bytes of a checksum


@dataclass(frozen=True)
class ImagesDone:
    """A file with one row per image, so that noting an image takes no longer the more there are.

    A row is the checksum of what was written for its image, or 0 until then. A row that was damaged
    is no longer that of its image, which is drawn again: the file needs no checksum of its own.

    Attributes
    ----------
    path : Path
        ``.npy``, uint8 (n_images, 16).
    n_images : int
    """

    path: Path
    n_images: int

    def create(self) -> None:
        """Begin with no image done."""
        create_array(self.path, np.uint8, self._shape)

    def read(self) -> np.ndarray | None:
        """Return the checksums, uint8 (n_images, 16); None where the file is not as it was made."""
        if not holds_array(self.path, np.uint8, self._shape):
            return None
        return np.array(map_array(self.path))

    def note(self, found: Mapping[int, bytes]) -> None:
        """Note the checksums of what was written for some images."""
        start = len(array_header(np.uint8, self._shape))
        with self.path.open("r+b") as file:
            for row, digest in found.items():
                write_at(file.fileno(), np.frombuffer(digest, np.uint8), start + row * SIZE)

    @property
    def _shape(self) -> tuple[int, int]:
        return self.n_images, SIZE
