"""Images → tokens, with a digest of what each image shows."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from synbrain_cli.brain.token_source import TokenSource
from synbrain_cli.errors import InputError
from synbrain_cli.features.images import ImageSet, image_digest
from synbrain_cli.io.token_files import TokenFile, is_token_file
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
        None for images of any other kind. An array (n_images, n_features) is one token per image.

    Raises
    ------
    InputError
        When numbers of an array are not finite.
    """
    if isinstance(images, Tokens):
        return images
    if isinstance(images, np.ndarray) and images.dtype.kind == "f":
        wrong = np.flatnonzero(~np.isfinite(images).reshape(len(images), -1).all(1))
        if len(wrong):
            raise InputError(
                f"tokens: expected finite numbers, found NaN or infinity in row {wrong[0] + 1}"
            )
        return Tokens.of(images[:, None] if images.ndim == 2 else images)
    return None


def named_images(images: Any) -> ImageSet | None:
    """Return images that are given by a file of tokens, without pictures; None for others.

    They have the names that the file says, else image-0001, image-0002, ….

    Parameters
    ----------
    images
        Path of a file of tokens, `TokenFile`, or images of any other kind.
    """
    if isinstance(images, str | Path) and is_token_file(images):
        images = TokenFile.parse(str(images))
    if not isinstance(images, TokenFile):
        return None
    names = images.listed or [f"image-{i:04d}" for i in range(1, len(images) + 1)]
    return ImageSet.unseen(names, images.path)


def shown_images(
    images: Any, tokens: Sequence[TokenFile]
) -> tuple[ImageSet, Any, tuple[TokenFile, ...]]:
    """Return the images that a model is shown, what names them, and their tokens in files.

    Parameters
    ----------
    images
        In any accepted form; a file of tokens; None where ``tokens`` name the images.
    tokens : sequence of TokenFile

    Raises
    ------
    InputError
        When there are neither images nor tokens.
    """
    if images is None and not tokens:
        raise InputError("expected images, or a file of their tokens (--tokens), found neither")
    if images is None:
        unseen, images = named_images(tokens[0]), tokens[0].path
    else:
        unseen = named_images(images)
        if unseen is not None:
            tokens = (TokenFile.parse(str(images)), *tokens)
    return ImageSet.of(images) if unseen is None else unseen, images, tuple(tokens)


def stream_tokens(
    images: Any, source: TokenSource, rows: Sequence[int] | None, batch: int
) -> Iterator[tuple[Tokens, list[str]]]:
    """Yield tokens and digests of the images' content, some images at a time.

    Every batch has the same size: the last one is filled up with images without a digest, as on a
    GPU another shape would round differently. The digest of an image is that of its pixels, or of
    its tokens where the model sees no pixels.

    Parameters
    ----------
    images
        Folder, path, list of paths, PIL images, uint8 array (n_images, height, width, 3),
        `ImageSet`, or `Tokens`.
    source : TokenSource
        Where tokens come from; not asked where they are given.
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
        When an image cannot be read, or a band has no tokens of it.
    """
    given = given_tokens(images)
    pictures = ImageSet.of(images) if given is None else None
    own = source.own_of(pictures) if pictures is not None else None

    def look(row: int) -> tuple[str, np.ndarray | None, Tokens | None]:
        if given is not None:
            tokens: Tokens | None = given[row : row + 1].astype(np.float32)
        else:
            assert own is not None
            tokens = own.of(row)
        if given is None and source.needs_pictures:
            pixels = pictures[row]
            return image_digest(pixels), pixels, tokens
        assert tokens is not None
        return token_digest(tokens), None, tokens

    def batches(seen: Iterator[Any]) -> Iterator[tuple[list[str], list[Any], Tokens | None]]:
        while some := list(islice(seen, batch)):
            digests, found, tokens = map(list, zip(*some, strict=True))
            left = batch - len(found)
            known = None if tokens[0] is None else Tokens.concatenate(tokens + tokens[-1:] * left)
            yield digests, found + found[-1:] * left, known

    n_images = len(given) if given is not None else len(pictures)
    with closing(prefetch(look, range(n_images) if rows is None else rows)) as seen:
        if given is not None or source.encoder is None:
            for digests, _, tokens in batches(seen):
                yield tokens if given is not None else source.merge(None, tokens), digests
        else:
            keyed = (((digests, own), found) for digests, found, own in batches(seen))
            for (digests, known), computed in source.encoder.stream(keyed):
                yield source.merge(computed.astype(np.float32), known), digests


def in_batches(
    stream: Iterable[tuple[Tokens, list[str]]], size: int
) -> Iterator[tuple[Tokens, list[str]]]:
    """Join images that were encoded by themselves, as on a CPU, for predictors to see together.

    A predictor reads all of its weights for every batch, whatever its size. Rows are rounded
    otherwise than by themselves, so that draws, which repeat to the last digit, cannot be made
    around these predictions.

    Parameters
    ----------
    stream : iterable of (Tokens, list of str)
        `stream_tokens`.
    size : int
        Images of a batch. Where the encoder saw as many, its batches stay as they are.
    """
    waiting: list[tuple[Tokens, list[str]]] = []

    def joined() -> tuple[Tokens, list[str]]:
        parts, digests = zip(*waiting, strict=True)
        waiting.clear()
        return Tokens.concatenate(parts), [digest for own in digests for digest in own]

    for tokens, digests in stream:
        if len(tokens) >= size:
            yield tokens, digests
            continue
        waiting.append((tokens[: len(digests)], digests))
        if sum(len(own) for _, own in waiting) >= size:
            yield joined()
    if waiting:
        yield joined()


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
