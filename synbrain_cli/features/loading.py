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
        Device of the computation; tokens are returned as numpy arrays.
    precision : {"auto", "float32", "fp16", "bf16"}
        Precision of the towers of open_clip. Their images are resized and standardised in float32
        in any case. "auto" is fp16 on a GPU, and float32 elsewhere (`precision_here`). fp16 has 8
        times smaller rounding errors than bf16, which has the range of float32. ``gabor`` is
        always computed in float32.

    Returns
    -------
    Encoder

    Raises
    ------
    InputError
        When the encoder is unknown, or does not support the precision.
    """
    if precision not in ("auto", *PRECISIONS):
        raise InputError(
            f"expected a precision of auto, {', '.join(PRECISIONS)}; found {precision}"
        )
    name, _, rest = str(spec).partition(":")
    if spec == "gabor":
        from synbrain_cli.features.gabor import Gabor

        if precision not in ("auto", "float32"):
            raise InputError(
                f"gabor is computed in float32, not in {precision}: leave --precision out"
            )
        return Gabor(device)
    if name == "openclip":
        from synbrain_cli.features.openclip import OpenCLIP

        if precision == "auto":
            precision = precision_here("fp16", device)
        return OpenCLIP(rest, device, precision)
    raise InputError(f"no image encoder is called {spec!r}: choose one of {'; '.join(SPECS)}")
