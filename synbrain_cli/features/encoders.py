"""Image encoders: pictures → tokens, by name.

Importing this module does not import torch; loading an encoder does.

>>> encoder = load_encoder("gabor")
>>> encoder.slug, encoder.n_tokens, encoder.n_dims
('gabor', 256, 48)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from synbrain_cli.errors import InputError, InputTypeError
from synbrain_cli.features.images import resize

if TYPE_CHECKING:
    import torch

SPECS = (
    "gabor",
    "openclip:ARCH/PRETRAINED (as openclip:ViT-bigG-14/laion2b_s39b_b160k)",
    "openclip:ARCH/FILE (as openclip:ViT-B-32//data/weights.safetensors)",
)


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
        or None). JSON-able. A model and its data agree when their identities are equal.
    batch_size : int
        Images computed at once: it bounds memory and leaves the tokens unchanged.
    """

    spec: str
    slug: str
    identity: dict[str, Any]
    batch_size: int = 16
    device: str | torch.device = "cpu"

    @property
    def n_tokens(self) -> int:
        return self.identity["n_tokens"]

    @property
    def n_dims(self) -> int:
        return self.identity["n_dims"]

    def __call__(self, images: Sequence[np.ndarray] | np.ndarray) -> np.ndarray:
        """Tokens of some images. An image's tokens do not depend on the others.

        Parameters
        ----------
        images : sequence of uint8 arrays (h, w, 3), uint8 array of shape (n, h, w, 3), or ImageSet
            Of any size; the largest centred square is seen.

        Returns
        -------
        array of shape (n_images, n_tokens, n_dims), float32
            Tokens row by row from the top left.
        """
        import torch

        tokens = np.empty((len(images), self.n_tokens, self.n_dims), np.float32)
        for start in range(0, len(images), self.batch_size):
            stop = min(start + self.batch_size, len(images))
            batch = [images[i] for i in range(start, stop)]
            for i, image in enumerate(batch, start=start):
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
            with torch.inference_mode():
                x = resize(batch, self.identity["image_size"], self.device)
                tokens[start:stop] = self._tokens(x).float().cpu().numpy()
        return tokens

    @abstractmethod
    def _tokens(self, images: torch.Tensor) -> torch.Tensor:
        """Tokens (n, n_tokens, n_dims) of images (n, 3, size, size) in [0, 1]."""


def same_encoder(wanted: dict[str, Any], found: dict[str, Any]) -> bool:
    """Whether two identities agree; of ``wanted``, weights that are None may be any.

    Published models do not say which bytes their encoder's weights were.
    """
    if wanted.get("weights") is None:
        found = {**found, "weights": None}
    return wanted == found


def load_encoder(spec: str, device: str | torch.device = "cpu") -> Encoder:
    """Load an image encoder by name.

    Parameters
    ----------
    spec : str
        ``gabor``, or ``openclip:ARCH/PRETRAINED-or-file``: what follows the first slash is a
        pretrained tag of open_clip or a local ``.pt``/``.safetensors`` file.
    device : str or torch.device
        Where to compute; tokens come back as numpy arrays.

    Raises
    ------
    InputError
        Unknown encoder.
    """
    name, _, rest = str(spec).partition(":")
    if spec == "gabor":
        from synbrain_cli.features.gabor import Gabor

        return Gabor(device)
    if name == "openclip":
        from synbrain_cli.features.openclip import OpenCLIP

        return OpenCLIP(rest, device)
    raise InputError(f"no image encoder is called {spec!r}: choose one of {'; '.join(SPECS)}")
