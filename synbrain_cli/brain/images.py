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


def token_digest(token: np.ndarray) -> str:
    """Digest that stands for an image's content where tokens are given: (n_tokens, n_dims)."""
    return hashlib.sha256(np.ascontiguousarray(token, np.float32).tobytes()).hexdigest()


def are_tokens(images: Any) -> bool:
    """Whether images were given as tokens: an array of floating-point numbers."""
    return isinstance(images, np.ndarray) and images.dtype.kind == "f"


def stream_tokens(
    images: Any, encoder: Encoder | None, rows: Sequence[int] | None, batch: int
) -> Iterator[tuple[np.ndarray, list[str]]]:
    """Yield tokens and digests of the images' content, some images at a time.

    Every batch has the same size: the last one is filled up with images without a digest, as on a
    GPU another shape would round differently.

    Parameters
    ----------
    images
        Folder, path, list of paths, PIL images, uint8 array (n_images, height, width, 3), or tokens
        (n_images, n_tokens, n_dims).
    encoder : Encoder, optional
        Not needed where tokens are given.
    rows : sequence of int, optional
        Which images, and in which order; default: all.
    batch : int
        Images that the encoder sees together.

    Yields
    ------
    tokens : float32 array of shape (batch, n_tokens, n_dims)
    digests : list of str
        As many as the batch has images of its own.

    Raises
    ------
    InputError
        When an image cannot be read.
    """
    given = are_tokens(images)
    chosen = images if given else ImageSet.of(images)
    digest = token_digest if given else image_digest

    def look(row: int) -> tuple[str, np.ndarray]:
        one = np.ascontiguousarray(chosen[row], np.float32) if given else chosen[row]
        return digest(one), one

    def batches(seen: Iterator[tuple[str, np.ndarray]]) -> Iterator[tuple[list[str], list]]:
        while some := list(islice(seen, batch)):
            digests, found = map(list, zip(*some, strict=True))
            yield digests, found + found[-1:] * (batch - len(found))

    with closing(prefetch(look, range(len(chosen)) if rows is None else rows)) as seen:
        if encoder is None:
            for digests, found in batches(seen):
                yield np.stack(found), digests
        else:
            for digests, tokens in encoder.stream(batches(seen)):
                yield tokens.astype(np.float32, copy=False), digests


def check_token_shape(tokens: np.ndarray, expected: tuple[int, int], spec: str) -> None:
    """Refuse tokens of another shape than the model's.

    Raises
    ------
    InputError
    """
    if tokens.ndim != 3 or tokens.shape[1:] != expected:
        raise InputError(
            f"expected tokens of shape (n_images, {expected[0]}, {expected[1]}) for this "
            f"model's encoder {spec}, found {tokens.shape}"
        )
