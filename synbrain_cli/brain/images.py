"""Images → tokens, with a digest of what each image shows."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import islice
from typing import Any

import numpy as np

from synbrain_cli.errors import InputError
from synbrain_cli.features.encoder import Encoder
from synbrain_cli.features.images import ImageSet, image_digest
from synbrain_cli.prefetch import prefetch
from synbrain_cli.tokens import Tokens


def token_digest(token: Tokens) -> str:
    """Digest that stands for an image's content where its tokens are given."""
    digest = hashlib.sha256()
    for band in token.bands:
        digest.update(np.ascontiguousarray(band, np.float32).tobytes())
    return digest.hexdigest()


def given_tokens(images: Any) -> Tokens | None:
    """Return images that were given as tokens: `Tokens`, or an array of a single band's.

    Returns
    -------
    Tokens, or None
        None for images of any other kind.
    """
    if isinstance(images, Tokens):
        return images
    if isinstance(images, np.ndarray) and images.dtype.kind == "f":
        return Tokens.of(images)
    return None


def stream_tokens(
    images: Any, encoder: Encoder | None, rows: Sequence[int] | None, batch: int
) -> Iterator[tuple[Tokens, list[str]]]:
    """Yield tokens and digests of the images' content, some images at a time.

    Every batch has the same size: the last one is filled up with images without a digest, as on a
    GPU another shape would round differently.

    Parameters
    ----------
    images
        Folder, path, list of paths, PIL images, uint8 array (n_images, height, width, 3), or
        `Tokens`.
    encoder : Encoder, optional
        Not needed where tokens are given.
    rows : sequence of int, optional
        Which images, and in which order; default: all.
    batch : int
        Images that the encoder sees together.

    Yields
    ------
    tokens : Tokens
        Of ``batch`` images, float32.
    digests : list of str
        As many as the batch has images of its own.

    Raises
    ------
    InputError
        When an image cannot be read.
    """
    given = given_tokens(images)
    chosen: Any = ImageSet.of(images) if given is None else given

    def look(row: int) -> tuple[str, Any]:
        if given is None:
            return image_digest(chosen[row]), chosen[row]
        one = given[row : row + 1].astype(np.float32)
        return token_digest(one), one

    def batches(seen: Iterator[tuple[str, np.ndarray]]) -> Iterator[tuple[list[str], list]]:
        while some := list(islice(seen, batch)):
            digests, found = map(list, zip(*some, strict=True))
            yield digests, found + found[-1:] * (batch - len(found))

    with closing(prefetch(look, range(len(chosen)) if rows is None else rows)) as seen:
        if encoder is None:
            for digests, found in batches(seen):
                yield Tokens.concatenate(found), digests
        else:
            for digests, tokens in encoder.stream(batches(seen)):
                yield tokens.astype(np.float32), digests


def check_token_shapes(tokens: Tokens, expected: tuple[tuple[int, int], ...], encoder: str) -> None:
    """Refuse tokens of other bands than the model's.

    Raises
    ------
    InputError
    """
    if tokens.shapes != expected:

        def shown(shapes: tuple[tuple[int, int], ...]) -> str:
            return ", ".join(f"(n_images, {n_tokens}, {n_dims})" for n_tokens, n_dims in shapes)

        raise InputError(
            f"expected tokens of shape {shown(expected)} for this model's encoder {encoder}, found "
            f"{shown(tokens.shapes)}"
        )
