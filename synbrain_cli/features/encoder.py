"""What every image encoder has: pictures → tokens, its identity, and its precision.

Importing this module does not import torch; making an encoder does
(`synbrain_cli.features.loading`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from synbrain_cli.errors import InputError, InputTypeError
from synbrain_cli.features.images import resize

if TYPE_CHECKING:
    import torch

T = TypeVar("T")
PRECISIONS = ("float32", "fp16", "bf16")


class Encoder(ABC):
    """What every encoder has. Call it on images to get their tokens.

    Attributes
    ----------
    spec : str
        The name it was loaded by.
    slug : str
        Name for a folder, unique to `identity`.
    identity : dict
        ``name``, ``version``, ``image_size``, ``n_tokens``, ``n_dims`` and ``weights`` (SHA-256
        or None). JSON-able. A model and its data agree when their identities are equal: the
        precision is no part of it.
    device : torch.device
    precision : str
        "float32", "fp16" or "bf16": what the tower computes in.
    batch_size : int
        Images computed at once. It bounds memory; on a GPU it is halved where that is not enough.
    """

    spec: str
    slug: str
    identity: dict[str, Any]

    def __init__(self, device: str | torch.device = "cpu", precision: str = "float32") -> None:
        import torch

        self.device = torch.device(device)
        self.precision = precision
        # For a GPU more than a small one holds: where memory is short, it is halved.
        self.batch_size = 256 if self.on_gpu else 16

    @property
    def on_gpu(self) -> bool:
        """Whether it computes on a GPU."""
        return self.device.type == "cuda"

    @property
    def n_tokens(self) -> int:
        """Tokens of an image."""
        return self.identity["n_tokens"]

    @property
    def n_dims(self) -> int:
        """Dimensions of a token."""
        return self.identity["n_dims"]

    def __call__(self, images: Sequence[np.ndarray] | np.ndarray) -> np.ndarray:
        """Tokens of some images. But for rounding, an image's do not depend on the others.

        Parameters
        ----------
        images : sequence of uint8 arrays (h, w, 3), uint8 array of shape (n, h, w, 3), or ImageSet
            Of any size; the largest centred square is seen.

        Returns
        -------
        array of shape (n_images, n_tokens, n_dims), float32
            Tokens row by row from the top left.

        Raises
        ------
        InputTypeError
            Of what is no image.
        InputError
            When tokens are not finite.
        """
        tokens = np.empty((len(images), self.n_tokens, self.n_dims), np.float32)
        size = self.batch_size
        parts = [slice(i, min(i + size, len(images))) for i in range(0, len(images), size)]
        batches = (
            (part, [_checked(images[i], i) for i in range(part.start, part.stop)]) for part in parts
        )
        for part, found in self.stream(batches):
            tokens[part] = found
        return tokens

    def stream(
        self, batches: Iterable[tuple[T, Sequence[np.ndarray]]]
    ) -> Iterator[tuple[T, np.ndarray]]:
        """Tokens of batches of images, in order, with one batch in work ahead.

        On a GPU, the tokens of one batch are copied, handed over and written while the next is
        computed; images are best read by `synbrain_cli.prefetch.prefetch`.

        Parameters
        ----------
        batches : iterable of (key, images)
            By what the caller knows the batch, and uint8 arrays (h, w, 3).

        Yields
        ------
        key, array of shape (n_images, n_tokens, n_dims), of `kept_dtype`

        Raises
        ------
        InputError
            When tokens are not finite.
        """
        before: tuple[T, Callable[[], np.ndarray]] | None = None
        for key, images in batches:
            started = key, self._start(images)
            if before is not None:
                yield before[0], before[1]()
            before = started
        if before is not None:
            yield before[0], before[1]()

    def _start(self, images: Sequence[np.ndarray]) -> Callable[[], np.ndarray]:
        """Start computing the tokens of some images; the call that waits for them."""
        import torch

        while True:
            try:
                return self._launch(images)
            except torch.OutOfMemoryError:
                if self.batch_size == 1:
                    raise
            # Only here has the error let go of the tensors that did fit.
            self.batch_size //= 2
            torch.cuda.empty_cache()

    def _launch(self, images: Sequence[np.ndarray]) -> Callable[[], np.ndarray]:
        """As `_start`, at the present batch size."""
        import torch

        shape = (len(images), self.n_tokens, self.n_dims)
        kept = getattr(torch, kept_dtype(self.precision).name)
        tokens = torch.empty(shape, dtype=kept, pin_memory=self.on_gpu)
        finite = torch.empty(len(images), dtype=torch.bool, pin_memory=self.on_gpu)
        with torch.inference_mode():
            for start in range(0, len(images), self.batch_size):
                part = slice(start, start + self.batch_size)
                x = resize(images[part], self.identity["image_size"], self.device)
                found = self._tokens(x).to(kept)
                tokens[part].copy_(found, non_blocking=True)
                finite[part].copy_(found.isfinite().flatten(1).all(1), non_blocking=True)
        done = torch.cuda.current_stream(self.device).record_event() if self.on_gpu else None

        def wait() -> np.ndarray:
            if done is not None:
                done.synchronize()
            if not finite.all():
                raise InputError(self._not_finite(int((~finite).sum()), len(images)))
            return tokens.numpy()

        return wait

    def _not_finite(self, n: int, of: int) -> str:
        # Not computed again by stealth: tokens of one store are all made the same way, and the
        # weights of full precision were given up to save their memory.
        found = f"{self.spec}: tokens of {n} images of a batch of {of} are not finite"
        if self.precision == "fp16":
            return f"{found} in fp16, which ends at 65,504: use --precision bf16, or float32"
        return f"{found}: its weights are damaged; copy or download them again"

    @abstractmethod
    def _tokens(self, images: torch.Tensor) -> torch.Tensor:
        """Tokens (n, n_tokens, n_dims) of images (n, 3, size, size), float32 in [0, 1]."""


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


def same_encoder(wanted: dict[str, Any], found: dict[str, Any]) -> bool:
    """Whether two identities agree; of ``wanted``, weights that are None may be any.

    Published models do not say which bytes their encoder's weights were.
    """
    if wanted.get("weights") is None:
        found = {**found, "weights": None}
    return wanted == found


def precision_here(recorded: str, device: str | torch.device) -> str:
    """What an encoder computes in on a device, to go with tokens of the ``recorded`` precision.

    Half precision only on a GPU: most CPUs but emulate it, and float32 tokens differ from those
    by no more than they do by their own rounding.
    """
    return recorded if str(device).startswith("cuda") else "float32"


def kept_dtype(precision: str) -> np.dtype:
    """Of tokens as they are kept: float32, or float16 where they were computed in half precision.

    That loses nothing of fp16, which is the same format; and of bf16 nothing either from 6e-5 to
    65,504: it has 8 significant bits, float16 has 11. Smaller tokens move by 3e-8 at most, where
    most are near 1 (they come out of a LayerNorm).
    """
    return np.dtype(np.float32 if precision == "float32" else np.float16)
