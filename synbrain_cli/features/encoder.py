"""Base class of image encoders: computation of tokens, identity, and precision.

Importing this module does not import torch; loading an encoder
(`synbrain_cli.features.loading`) does.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar

import numpy as np

from synbrain_cli.bands import join_bands
from synbrain_cli.errors import InputError, InputTypeError
from synbrain_cli.features.images import resize
from synbrain_cli.threads import one_thread
from synbrain_cli.tokens import Tokens

if TYPE_CHECKING:
    import torch

T = TypeVar("T")
PRECISIONS = ("float32", "fp16", "bf16")


@dataclass(frozen=True)
class EncoderBand:
    """One layer of an encoder.

    Attributes
    ----------
    spec : str
        Name by which the band is loaded.
    slug : str
        Name for a folder, unique to ``identity``.
    identity : dict
        ``name``, ``version``, ``image_size``, ``n_tokens``, ``n_dims`` and ``weights`` (SHA-256
        or None), in types of JSON. Tokens of equal identity can be exchanged. The precision is not
        part of the identity.
    precision : {"float32", "fp16", "bf16"}
        Precision of the computation.
    """

    spec: str
    slug: str
    identity: dict[str, Any]
    precision: str = "float32"

    @property
    def shape(self) -> tuple[int, int]:
        """Tokens per image, and dimensions of a token."""
        return self.identity["n_tokens"], self.identity["n_dims"]


class Encoder(ABC):
    """Base class of image encoders. An encoder is called on images and returns their tokens.

    Attributes
    ----------
    bands : tuple of EncoderBand
        In the order of the tokens that are returned.
    device : torch.device
    precision : {"float32", "fp16", "bf16"}
        Precision of the computation; of several encoders, each band has its own.
    is_small : bool
        Whether an image is too little work for several threads.
    batch_size : int
        Number of images computed at once. On a GPU it is halved while memory does not suffice.
    """

    bands: tuple[EncoderBand, ...]
    is_small = False

    def __init__(self, device: str | torch.device = "cpu", precision: str = "float32") -> None:
        import torch

        self.device = torch.device(device)
        self.precision = precision
        # On a small GPU this is too large, and is halved then.
        self.batch_size = 256 if self.on_gpu else 16

    @property
    def on_gpu(self) -> bool:
        """Whether the device is a GPU."""
        return self.device.type == "cuda"

    @property
    def spec(self) -> str:
        """Names of the bands."""
        return join_bands([band.spec for band in self.bands])

    @property
    def image_size(self) -> int:
        """Side, in pixels, to which images are resized."""
        size: int = self.bands[0].identity["image_size"]
        return size

    def only(self, bands: Sequence[int]) -> Self:
        """Return an encoder of some of the bands, which shares the weights."""
        fewer = copy.copy(self)
        fewer.bands = tuple(self.bands[band] for band in bands)
        return fewer

    def __call__(self, images: Sequence[np.ndarray] | np.ndarray) -> Tokens:
        """Compute the tokens of images. Apart from rounding, images do not affect one another.

        Parameters
        ----------
        images : sequence of uint8 arrays (h, w, 3), uint8 array of shape (n, h, w, 3), or ImageSet
            Images of any size, of which the largest centred square is used.

        Returns
        -------
        Tokens
            Of every band, float32; tokens row by row from the top left.

        Raises
        ------
        InputTypeError
            When an element is not an image.
        InputError
            When tokens are not finite.
        """
        size, n_images = self.batch_size, len(images)
        tokens = Tokens(tuple(np.empty((n_images, *b.shape), np.float32) for b in self.bands))
        parts = [slice(i, min(i + size, n_images)) for i in range(0, n_images, size)]
        batches = (
            (part, [_checked(images[i], i) for i in range(part.start, part.stop)]) for part in parts
        )
        for part, found in self.stream(batches):
            for whole, band in zip(tokens.bands, found.bands, strict=True):
                whole[part] = band
        return tokens

    def stream(
        self, batches: Iterable[tuple[T, Sequence[np.ndarray]]]
    ) -> Iterator[tuple[T, Tokens]]:
        """Yield the tokens of batches of images, in order, while the next batch is computed.

        On a GPU, the tokens of one batch are copied and written while those of the next are
        computed. Images should be read with `synbrain_cli.prefetch.prefetch`.

        Parameters
        ----------
        batches : iterable of (key, images)
            A key that identifies the batch for the caller, and uint8 arrays (h, w, 3).

        Yields
        ------
        key, Tokens of `kept_dtype`

        Raises
        ------
        InputError
            When tokens are not finite.
        """
        before: tuple[T, Callable[[], Tokens]] | None = None
        for key, images in batches:
            started = key, self._start(images)
            if before is not None:
                yield before[0], before[1]()
            before = started
        if before is not None:
            yield before[0], before[1]()

    def _start(self, images: Sequence[np.ndarray]) -> Callable[[], Tokens]:
        """Start to compute the tokens of images; return a function that waits for them."""
        import torch

        while True:
            try:
                return self._launch(images)
            except torch.OutOfMemoryError:
                if self.batch_size == 1:
                    raise
            # Outside the handler the error no longer holds tensors in memory.
            self.batch_size //= 2
            torch.cuda.empty_cache()

    def _launch(self, images: Sequence[np.ndarray]) -> Callable[[], Tokens]:
        """As `_start`, at the present batch size."""
        import torch

        kept = getattr(torch, kept_dtype(self.precision).name)
        tokens = [
            torch.empty((len(images), *band.shape), dtype=kept, pin_memory=self.on_gpu)
            for band in self.bands
        ]
        finite = torch.ones((len(images),), dtype=torch.bool, pin_memory=self.on_gpu)
        threads = one_thread() if self.is_small and not self.on_gpu else nullcontext()
        with torch.inference_mode(), threads:
            for start in range(0, len(images), self.batch_size):
                part = slice(start, start + self.batch_size)
                x = resize(images[part], self.image_size, self.device)
                computed = [band.to(kept) for band in self._tokens(x)]
                for whole, band in zip(tokens, computed, strict=True):
                    whole[part].copy_(band, non_blocking=True)
                is_finite = torch.stack([band.isfinite().flatten(1).all(1) for band in computed])
                finite[part].copy_(is_finite.all(0), non_blocking=True)
        done = torch.cuda.current_stream(self.device).record_event() if self.on_gpu else None

        def wait() -> Tokens:
            if done is not None:
                done.synchronize()
            if not finite.all():
                raise InputError(self._not_finite(int((~finite).sum()), len(images)))
            return Tokens(tuple(band.numpy() for band in tokens))

        return wait

    def _not_finite(self, n: int, of: int) -> str:
        # They are not computed again in another precision, because all tokens of a store have the
        # same precision, and the float32 weights are no longer in memory.
        found = f"{self.spec}: tokens of {n} images of a batch of {of} are not finite"
        if self.precision == "fp16":
            return f"{found} in fp16, which ends at 65,504: use --precision bf16 or float32"
        return f"{found}: its weights are damaged; copy or download them again"

    @abstractmethod
    def _tokens(self, images: torch.Tensor) -> Sequence[torch.Tensor]:
        """Compute the tokens of every band, (n, n_tokens, n_dims) each.

        Parameters
        ----------
        images : float32 tensor of shape (n, 3, size, size), in [0, 1]
        """


class SideBySide(Encoder):
    """Several encoders as one: their bands, one after the other.

    Parameters
    ----------
    encoders : sequence of Encoder
        On one device.
    """

    def __init__(self, encoders: Sequence[Encoder]) -> None:
        self.encoders = tuple(encoders)
        self.bands = tuple(band for one in encoders for band in one.bands)
        self.device = encoders[0].device

    @property
    def batch_size(self) -> int:  # type: ignore[override]
        """Number of images computed at once: what all of them can."""
        return min(one.batch_size for one in self.encoders)

    def only(self, bands: Sequence[int]) -> SideBySide:
        """Return an encoder of some of the bands, which shares the weights."""
        fewer, first = [], 0
        for one in self.encoders:
            own = [band - first for band in bands if 0 <= band - first < len(one.bands)]
            fewer += [one.only(own)] if own else []
            first += len(one.bands)
        return SideBySide(fewer)

    def _start(self, images: Sequence[np.ndarray]) -> Callable[[], Tokens]:
        begun = [one._start(images) for one in self.encoders]
        return lambda: Tokens(tuple(band for wait in begun for band in wait().bands))

    def _tokens(self, images: torch.Tensor) -> Sequence[torch.Tensor]:
        raise NotImplementedError  # each encoder resizes images to a size of its own


def _checked(image: Any, i: int) -> np.ndarray:
    if not (
        isinstance(image, np.ndarray)
        and image.dtype == np.uint8
        and image.ndim == 3
        and image.shape[2] == 3
    ):
        raise InputTypeError(
            f"expected images as uint8 arrays (h, w, 3); image {i} is "
            f"{getattr(image, 'dtype', type(image).__name__)} of shape "
            f"{getattr(image, 'shape', None)}: pass them through ImageSet.of"
        )
    return image


class Identified(Protocol):
    """A band with an identity: of an encoder, or as a file names it."""

    identity: dict[str, Any]


def same_bands(wanted: Sequence[Identified], found: Sequence[Identified]) -> bool:
    """Return whether bands are the same ones, in the same order.

    Any weights agree with ``wanted`` where its entry ``weights`` is None: published models do not
    record the checksum of the weights of their encoder.
    """
    return len(wanted) == len(found) and all(
        one.identity
        == (other.identity if one.identity.get("weights") else other.identity | {"weights": None})
        for one, other in zip(wanted, found, strict=True)
    )


def precision_here(recorded: str, device: str | torch.device) -> str:
    """Return the precision in which an encoder computes on a device.

    Half precision is used on a GPU only. Most CPUs merely emulate it, and float32 tokens differ
    from half-precision tokens by no more than the rounding error of the latter.

    Parameters
    ----------
    recorded : str
        Precision of the tokens with which a model was trained.
    device : str or torch.device
    """
    return recorded if str(device).startswith("cuda") else "float32"


def kept_dtype(precision: str) -> np.dtype:
    """Return the dtype in which tokens are stored: float16 for half precision, else float32.

    This is exact for fp16, which is the same format, and for bf16 between 6e-5 and 65,504, because
    bf16 has 8 significant bits and float16 has 11. Smaller values change by at most 3e-8; most
    tokens are near 1, as they are outputs of a LayerNorm.
    """
    return np.dtype(np.float32 if precision == "float32" else np.float16)
