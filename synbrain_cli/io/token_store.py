"""Image tokens of a dataset: ``prepared/<dataset>/features/<band>/``, one folder per band.

``tokens.npy``    (n_images, n_tokens, n_dims), float32 or float16; memory-mapped
``images.tsv``    image of each row, a checksum of its pixels (empty in bands that the user
                  computed), and one of the row: its name, that checksum and its tokens
``encoder.json``  `synbrain_cli.config.Band`, sealed

The tokens of an image are compared with their checksum when they are first read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from synbrain_cli.bands import join_bands, split_layers, split_width
from synbrain_cli.config import Band
from synbrain_cli.errors import DAMAGED, InputError, MissingError, SynbrainError
from synbrain_cli.io.arrays import map_array
from synbrain_cli.io.records import read_sealed
from synbrain_cli.io.tables import read_table
from synbrain_cli.memory import release
from synbrain_cli.paths import require_regular_file
from synbrain_cli.tokens import Tokens

ENCODER = "encoder.json"
COLUMNS = ("image", "pixels", "checksum")
TOGETHER = 256  # rows after which memory is given back
EXTRACT_AGAIN = "move the folder away, and run `synbrain prepare` to extract them again"


def pixels_checksum(pixels: np.ndarray) -> str:
    """Checksum of an image, as stores have it: 32 hexadecimal digits.

    BLAKE2b, as SHA-256 would be slower than some encoders.

    Parameters
    ----------
    pixels : uint8 array of shape (height, width, 3)
    """
    content = hashlib.blake2b(repr(pixels.shape).encode(), digest_size=16)
    content.update(np.ascontiguousarray(pixels).data)
    return content.hexdigest()


def row_checksum(image: str, pixels: str, tokens: np.ndarray) -> str:
    """Checksum of one row of a store: 32 hexadecimal digits.

    Parameters
    ----------
    image : str
        Name of the image.
    pixels : str
        Checksum of its pixels; empty where there is none.
    tokens : array of shape (n_tokens, n_dims)
        As they are stored.
    """
    digest = hashlib.sha256(f"{image}\t{pixels}\t".encode("utf-8", "surrogateescape"))
    digest.update(np.ascontiguousarray(tokens).data)
    return digest.hexdigest()[:32]


@dataclass(frozen=True)
class BandStore:
    """Image tokens of a dataset under one band.

    Attributes
    ----------
    folder : Path
        ``prepared/<dataset>/features/<band>/``.
    """

    folder: Path

    @cached_property
    def band(self) -> Band:
        """Content of ``encoder.json``.

        Raises
        ------
        MissingError, InputError
            The file is absent; a field is missing, unknown or of another type; it was changed.
        """
        return read_sealed(self.folder / ENCODER, Band, EXTRACT_AGAIN)

    @cached_property
    def _table(self) -> pd.DataFrame:
        path = self.folder / "images.tsv"
        if not path.exists():
            return pd.DataFrame({name: [] for name in COLUMNS}, dtype=str)
        return read_table(path, COLUMNS, again=EXTRACT_AGAIN)

    @property
    def precision(self) -> str:
        """Precision in which the tokens were computed: "float32", "fp16" or "bf16"."""
        return self.band.precision

    @property
    def images(self) -> list[str]:
        """Name of the image of each row."""
        return self._table["image"].tolist()

    @property
    def digests(self) -> list[str]:
        """Checksum of the pixels of each row's image; empty of the user's own tokens."""
        return self._table["pixels"].tolist()

    @property
    def checksums(self) -> list[str]:
        """Checksum of each row (`row_checksum`)."""
        return self._table["checksum"].tolist()

    @cached_property
    def tokens(self) -> np.ndarray:
        """Memory map (n_images, n_tokens, n_dims): float32, or float16 for half `precision`.

        Rows are known to be what was written once `rows_of` has returned them.

        Raises
        ------
        MissingError, InputError
            The file is absent, truncated, or of another shape or type than ``encoder.json`` says.
        """
        path = require_regular_file(self.folder / "tokens.npy", "image tokens", EXTRACT_AGAIN)
        try:
            tokens = map_array(path)
        except DAMAGED as error:
            raise InputError(f"{path}: truncated or damaged ({error}): {EXTRACT_AGAIN}") from error
        dtype = np.dtype(np.float32 if self.precision == "float32" else np.float16)
        shape = (len(self.images), *self.band.token_shape)
        # While a store is filled, its table names the rows that are whole.
        if tokens.dtype != dtype or tokens.shape[1:] != shape[1:] or len(tokens) < len(self.images):
            raise InputError(
                f"{path}: expected {dtype} of shape {shape}, found {tokens.dtype} of shape "
                f"{tokens.shape}: {EXTRACT_AGAIN}"
            )
        return tokens

    @cached_property
    def _row(self) -> dict[str, int]:
        return {image: i for i, image in enumerate(self.images)}

    @cached_property
    def _checked(self) -> np.ndarray:
        """Whether each row has been compared with its checksum: bool (n_images,)."""
        return np.zeros(len(self.images), bool)

    def take(self, images: Iterable[str]) -> np.ndarray:
        """Return the tokens of images, in the order given: float32 (n_images, n_tokens, n_dims).

        Parameters
        ----------
        images : iterable of str
            Names of the images.

        Raises
        ------
        MissingError, InputError
            When the tokens of an image have not been extracted, or were changed since.
        """
        tokens = np.asarray(self.tokens[self.rows_of(images)], np.float32)
        release(self.tokens)
        return tokens

    def rows_of(self, images: Iterable[str]) -> np.ndarray:
        """Return the row of ``tokens`` of each image, once the rows are known to be whole.

        Parameters
        ----------
        images : iterable of str
            Names of the images.

        Returns
        -------
        int64 array of shape (n_images,)

        Raises
        ------
        MissingError, InputError
            When the tokens of an image have not been extracted, or were changed since.
        """
        images = list(images)
        missing = [image for image in images if image not in self._row]
        if missing:
            raise MissingError(
                f"{self.folder}: no tokens for {len(missing)} images (first: {missing[0]}): "
                "run `synbrain prepare` again with this encoder"
            )
        rows = np.array([self._row[image] for image in images], np.int64)
        unread = np.unique(rows[~self._checked[rows]])
        changed = self._changed(unread)
        if len(changed):
            raise InputError(
                f"{self.folder / 'tokens.npy'}: the tokens of {len(changed)} images are not those "
                f"that were written (first: {self.images[changed[0]]}): {EXTRACT_AGAIN}"
            )
        self._checked[unread] = True
        return rows

    def _changed(self, rows: np.ndarray) -> list[int]:
        """Those of some rows whose checksum is another; they are read one by one, in order."""
        images, digests, checksums = self.images, self.digests, self.checksums
        changed = []
        for n_read, row in enumerate(rows.tolist(), 1):
            if row_checksum(images[row], digests[row], self.tokens[row]) != checksums[row]:
                changed.append(row)
            if n_read % TOGETHER == 0:
                release(self.tokens)
        return changed

    def find_faults(self) -> list[str]:
        """Compare every row with its checksum, and the files with each other; a line per fault."""
        try:
            n_rows, images = len(self.tokens), self.images
            if n_rows != len(images) or len(self._row) != n_rows:
                return [
                    f"{self.folder / 'images.tsv'}: expected the names of {n_rows} images, found "
                    f"{len(self._row)}: {EXTRACT_AGAIN}"
                ]
            self.rows_of(images)
        except SynbrainError as error:
            return [str(error)]
        return []


def finest_scale(bands: Sequence[Band]) -> tuple[int, ...]:
    """Return the bands whose encoder sees no wider images for another of them.

    ``efficientnet:112@4`` beside ``efficientnet@4`` is of a coarser scale.

    Returns
    -------
    tuple of int
        Their numbers, ascending.
    """
    widest: dict[str, int] = {}
    seen = []
    for k, band in enumerate(bands):
        encoder, _ = split_width(split_layers(band.spec)[0])
        # Tokens of the user's own have no width, and each of their bands a name of its own
        width: int = band.identity.get("image_size", 0)
        widest[encoder] = max(widest.get(encoder, 0), width)
        seen.append((k, encoder, width))
    return tuple(k for k, encoder, width in seen if width == widest[encoder])


@dataclass(frozen=True)
class TokenStore:
    """Image tokens of a dataset under several bands.

    Attributes
    ----------
    stores : tuple of BandStore
        One or more.
    """

    stores: tuple[BandStore, ...]

    @cached_property
    def bands(self) -> tuple[Band, ...]:
        """What the tokens are of, in the order of `Tokens.bands`."""
        return tuple(store.band for store in self.stores)

    def at_finest_scale(self) -> TokenStore:
        """Return the tokens without those of coarser scales (`finest_scale`)."""
        return TokenStore(tuple(self.stores[k] for k in finest_scale(self.bands)))

    @property
    def spec(self) -> str:
        """Names of the bands."""
        return join_bands([band.spec for band in self.bands])

    @property
    def folders(self) -> str:
        """Folders of the bands, for messages."""
        return ", ".join(str(store.folder) for store in self.stores)

    @cached_property
    def images(self) -> list[str]:
        """Images that have tokens of every band, in the order of the first."""
        others = [set(store.images) for store in self.stores[1:]]
        return [name for name in self.stores[0].images if all(name in one for one in others)]

    @cached_property
    def digests(self) -> list[str]:
        """Checksum of the pixels of each image; empty of tokens that the user computed.

        Of a band that was computed from pixels, where there is one.
        """
        first = next((store for store in self.stores if any(store.digests)), self.stores[0])
        by_name = dict(zip(first.images, first.digests, strict=True))
        return [by_name[name] for name in self.images]

    def take(self, images: Iterable[str]) -> Tokens:
        """Return the tokens of images, in the order given, float32: see `BandStore.take`."""
        images = list(images)
        return Tokens(tuple(store.take(images) for store in self.stores))

    def require(self, images: Iterable[str]) -> None:
        """Refuse images whose tokens are missing or were changed: see `BandStore.rows_of`."""
        images = list(images)
        for store in self.stores:
            store.rows_of(images)


def find_stores(dataset: Path) -> list[BandStore]:
    """Return the stores of a dataset (``prepared/<dataset>``), one per band, sorted by name."""
    return [BandStore(path.parent) for path in sorted(dataset.glob(f"features/[!.]*/{ENCODER}"))]
