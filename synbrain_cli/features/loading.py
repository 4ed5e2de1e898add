"""Image encoders by name.

Importing this module does not import torch; loading an encoder does.

>>> encoder = load_encoder("gabor")
>>> encoder.slug, encoder.n_tokens, encoder.n_dims
('gabor', 256, 48)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from synbrain_cli.errors import InputError
from synbrain_cli.features.encoder import PRECISIONS, Encoder, precision_here

if TYPE_CHECKING:
    import torch

SPECS = (
    "gabor",
    "openclip:ARCH/PRETRAINED (as openclip:ViT-bigG-14/laion2b_s39b_b160k)",
    "openclip:ARCH/FILE (as openclip:ViT-B-32//data/weights.safetensors)",
)


def load_encoder(spec: str, device: str | torch.device = "cpu", precision: str = "auto") -> Encoder:
    """Load an image encoder by name.

    Parameters
    ----------
    spec : str
        ``gabor``, or ``openclip:ARCH/PRETRAINED-or-file``: what follows the first slash is a
        pretrained tag of open_clip or a local ``.pt``/``.safetensors`` file.
    device : str or torch.device
        Where to compute; tokens come back as numpy arrays.
    precision : {"auto", "float32", "fp16", "bf16"}
        Of open_clip's towers; resizing and standardising their images is float32 always. "auto"
        is fp16 on a GPU, and float32 elsewhere (`precision_here`). Of the two halves, fp16 rounds
        8 times more finely, and bf16 has float32's range. ``gabor`` is float32.

    Raises
    ------
    InputError
        Unknown encoder, or a precision that it does not know.
    """
    if precision not in ("auto", *PRECISIONS):
        raise InputError(
            f"expected a precision of auto, {', '.join(PRECISIONS)}; found {precision}"
        )
    name, _, rest = str(spec).partition(":")
    if spec == "gabor":
        from synbrain_cli.features.gabor import Gabor

        if precision not in ("auto", "float32"):
            raise InputError(f"gabor is computed in float32, not in {precision}: leave that out")
        return Gabor(device)
    if name == "openclip":
        from synbrain_cli.features.openclip import OpenCLIP

        if precision == "auto":
            precision = precision_here("fp16", device)
        return OpenCLIP(rest, device, precision)
    raise InputError(f"no image encoder is called {spec!r}: choose one of {'; '.join(SPECS)}")
