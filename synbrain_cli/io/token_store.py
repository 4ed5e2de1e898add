"""Image tokens of a dataset under one encoder: ``prepared/<dataset>/features/<encoder>/``.

``tokens.npy``    (n_images, n_tokens, n_dims), float32 or float16; memory-mapped
``images.tsv``    image of each row, and a checksum of its pixels (empty for NSD's images)
``encoder.json``  `synbrain_cli.config.EncoderIdentity`
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from synbrain_cli.config import EncoderIdentity
from synbrain_cli.errors import MissingError
from synbrain_cli.io.records import read_record
from synbrain_cli.io.tables import read_table

ENCODER = "encoder.json"


@dataclass(frozen=True)
class TokenStore:
    """Image tokens of a dataset under one encoder.

    Attributes
    ----------
    folder : Path
        ``prepared/<dataset>/features/<encoder>/``.
    """

    folder: Path

    @cached_property
    def identity(self) -> EncoderIdentity:
        """Content of ``encoder.json``.

        Raises
        ------
        MissingError, InputError
            The file is absent; a field is missing, unknown or of another type.
        """
        return read_record(
            self.folder / ENCODER, EncoderIdentity, "move the folder away to extract them again"
        )

    @cached_property
    def _table(self) -> pd.DataFrame:
        path = self.folder / "images.tsv"
        if not path.exists():
            return pd.DataFrame({"image": [], "pixels": []}, dtype=str)
        return read_table(path, ("image", "pixels"), written_here=True)

    @property
    def precision(self) -> str:
        """Precision in which the tokens were computed: "float32", "fp16" or "bf16"."""
        return self.identity.precision

    @property
    def images(self) -> list[str]:
        """Name of the image of each row."""
        return self._table["image"].tolist()

    @property
    def digests(self) -> list[str]:
        """Checksum of the pixels of each row's image; empty where names are NSD's."""
        return self._table["pixels"].tolist()

    @cached_property
    def tokens(self) -> np.ndarray:
        """Memory map (n_images, n_tokens, n_dims): float32, or float16 for half `precision`."""
        return np.load(self.folder / "tokens.npy", mmap_mode="r", allow_pickle=False)

    def take(self, images: Iterable[str]) -> np.ndarray:
        """Return the tokens of images, in the order given: float32 (n_images, n_tokens, n_dims).

        Parameters
        ----------
        images : iterable of str
            Names of the images.

        Raises
        ------
        MissingError
            When the tokens of an image have not been extracted.
        """
        return np.asarray(self.tokens[self.rows_of(images)], np.float32)

    def rows_of(self, images: Iterable[str]) -> np.ndarray:
        """Return the row of ``tokens`` of each image: int64 (n_images,).

        Parameters
        ----------
        images : iterable of str
            Names of the images.

        Raises
        ------
        MissingError
            When the tokens of an image have not been extracted.
        """
        row = {image: i for i, image in enumerate(self.images)}
        images = list(images)
        missing = [image for image in images if image not in row]
        if missing:
            raise MissingError(
                f"{self.folder}: no tokens for {len(missing)} images (first: {missing[0]}): "
                "run `synbrain prepare` again with this encoder"
            )
        return np.array([row[image] for image in images], np.int64)
