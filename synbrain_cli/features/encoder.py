"""Base class of image encoders: computation of tokens, identity, and precision.

Importing this module does not import torch; loading an encoder
(`synbrain_cli.features.loading`) does.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from synbrain_cli.errors import InputError, InputTypeError
from synbrain_cli.features.images import resize
from synbrain_cli.threads import one_thread

if TYPE_CHECKING:
    import torch

T = TypeVar("T")
PRECISIONS = ("float32", "fp16", "bf16")


class Encoder(ABC):
    """Base class of image encoders. An encoder is called on images and returns their tokens.

    Attributes
    ----------
    spec : str
        Name by which the encoder was loaded.
    slug : str
        Name for a folder, unique to `identity`.
    identity : dict
        ``name``, ``version``, ``image_size``, ``n_tokens``, ``n_dims`` and ``weights`` (SHA-256
        or None), in types of JSON. Tokens of equal identity can be exchanged. The precision is not
        part of the identity.
    device : torch.device
    precision : {"float32", "fp16", "bf16"}
        Precision of the computation.
    is_small : bool
        Whether an image is too little work for several threads.
    batch_size : int
        Number of images computed at once. On a GPU it is halved while memory does not suffice.
    """

    spec: str
    slug: str
    identity: dict[str, Any]
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
    def n_tokens(self) -> int:
        """Number of tokens per image."""
        return self.identity["n_tokens"]

    @property
    def n_dims(self) -> int:
        """Number of dimensions of a token."""
        return self.identity["n_dims"]

    def __call__(self, images: Sequence[np.ndarray] | np.ndarray) -> np.ndarray:
        """Compute the tokens of images. Apart from rounding, images do not affect one another.

        Parameters
        ----------
        images : sequence of uint8 arrays (h, w, 3), uint8 array of shape (n, h, w, 3), or ImageSet
            Images of any size, of which the largest centred square is used.

        Returns
        -------
        array of shape (n_images, n_tokens, n_dims), float32
            Tokens row by row from the top left.

        Raises
        ------
        InputTypeError
            When an element is not an image.
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
        """Yield the tokens of batches of images, in order, while the next batch is computed.

        On a GPU, the tokens of one batch are copied and written while those of the next are
        computed. Images should be read with `synbrain_cli.prefetch.prefetch`.

        Parameters
        ----------
        batches : iterable of (key, images)
            A key that identifies the batch for the caller, and uint8 arrays (h, w, 3).

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

    def _launch(self, images: Sequence[np.ndarray]) -> Callable[[], np.ndarray]:
        """As `_start`, at the present batch size."""
        import torch

        shape = (len(images), self.n_tokens, self.n_dims)
        kept = getattr(torch, kept_dtype(self.precision).name)
        tokens = torch.empty(shape, dtype=kept, pin_memory=self.on_gpu)
        finite = torch.empty(len(images), dtype=torch.bool, pin_memory=self.on_gpu)
        threads = one_thread() if self.is_small and not self.on_gpu else nullcontext()
        with torch.inference_mode(), threads:
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
        # They are not computed again in another precision, because all tokens of a store have the
        # same precision, and the float32 weights are no longer in memory.
        found = f"{self.spec}: tokens of {n} images of a batch of {of} are not finite"
        if self.precision == "fp16":
            return f"{found} in fp16, which ends at 65,504: use --precision bf16 or float32"
        return f"{found}: its weights are damaged; copy or download them again"

    @abstractmethod
    def _tokens(self, images: torch.Tensor) -> torch.Tensor:
        """Compute tokens (n, n_tokens, n_dims) of images (n, 3, size, size), float32 in [0, 1]."""


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
    """Return whether two identities agree.

    Any weights agree with ``wanted`` where its entry ``weights`` is None: published models do not
    record the checksum of the weights of their encoder.

    Parameters
    ----------
    wanted, found : dict
        Identities, as `Encoder.identity`.
    """
    if wanted.get("weights") is None:
        found = {**found, "weights": None}
    return wanted == found


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
