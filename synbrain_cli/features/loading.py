"""Image encoders by name.

Importing this module does not import torch; loading an encoder does.

>>> encoder = load_encoder("gabor")
>>> encoder.bands[0].slug, encoder.bands[0].shape
('gabor', (256, 48))
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from synbrain_cli.bands import OWN, group_bands, is_own, split_width
from synbrain_cli.errors import InputError
from synbrain_cli.features.encoder import PRECISIONS, Encoder, SideBySide, precision_here

if TYPE_CHECKING:
    import torch

FLOAT32_ONLY = ("gabor", "pixels")
SPECS = (
    "gabor",
    "pixels",
    "efficientnet@LAYERS (as efficientnet@3,4,5; efficientnet:112@3,4,5 at a width of 112 pixels)",
    "openclip:ARCH/PRETRAINED (as openclip:ViT-bigG-14/laion2b_s39b_b160k)",
    "openclip:ARCH/FILE (as openclip:ViT-B-32//data/weights.safetensors)",
    "timm:ARCH/TAG or FILE@LAYERS (as timm:vit_base_patch14_dinov2/lvd142m@3,6,9,12)",
)


def load_encoder(
    specs: str | Sequence[str], device: str | torch.device = "cpu", precision: str = "auto"
) -> Encoder:
    """Load an image encoder, or several side by side, by name.

    Parameters
    ----------
    specs : str or sequence of str
        ``gabor``, ``pixels``, ``efficientnet``, ``openclip:ARCH/PRETRAINED-or-file`` or
        ``timm:ARCH/TAG-or-file``, each with layers (``@3,6,9``) where it has some: see
        `synbrain_cli.bands`. What follows the first slash is a pretrained tag or a local
        file. ``efficientnet`` and ``timm:`` may end in the width of their images (``:112``).
    device : str or torch.device
        Device of the computation; tokens are returned as numpy arrays.
    precision : {"auto", "float32", "fp16", "bf16"}
        Precision of towers. Their images are resized and standardised in float32
        in any case. "auto" is fp16 on a GPU, and float32 elsewhere (`precision_here`). fp16 has 8
        times smaller rounding errors than bf16, which has the range of float32. ``gabor`` and
        ``pixels`` are always computed in float32.

    Returns
    -------
    Encoder

    Raises
    ------
    InputError
        When an encoder is unknown, has no such layer, or does not support the precision.
    """
    if precision not in ("auto", *PRECISIONS):
        raise InputError(
            f"expected a precision of auto, {', '.join(PRECISIONS)}; found {precision}"
        )
    groups = group_bands([specs] if isinstance(specs, str) else specs)
    fixed = [name for name, _ in groups if name in FLOAT32_ONLY]
    if len(fixed) == len(groups) and precision not in ("auto", "float32"):
        raise InputError(
            f"{fixed[0]} is computed in float32, not in {precision}: leave --precision out"
        )
    loaded = [_load_one(name, layers, device, precision) for name, layers in groups]
    return loaded[0] if len(loaded) == 1 else SideBySide(loaded)


def _load_one(
    spec: str, layers: tuple[int, ...], device: str | torch.device, precision: str
) -> Encoder:
    """Load one encoder; without torch where its name is of none."""
    if spec in FLOAT32_ONLY:
        if layers:
            raise InputError(f"{spec}@{layers[0]}: {spec} has no layers: leave them out")
        if spec == "gabor":
            from synbrain_cli.features.gabor import Gabor

            return Gabor(device)
        from synbrain_cli.features.pixels import Pixels

        return Pixels(device)
    if precision == "auto":
        precision = precision_here("fp16", device)
    kind, _, rest = spec.partition(":")
    if (named := split_width(spec))[0] == "efficientnet":
        from synbrain_cli.features.timm_towers import EfficientNet

        return EfficientNet(device, precision, layers, named[1])
    if kind == "openclip":
        from synbrain_cli.features.openclip import OpenCLIP

        return OpenCLIP(rest, device, precision, layers)
    if kind == "timm":
        from synbrain_cli.features.timm_towers import Timm

        return Timm(rest, device, precision, layers)
    if is_own(spec):
        raise InputError(
            f"{spec}: tokens of your own are in a file, which no encoder computes: pass "
            f"--tokens {spec.removeprefix(OWN)}=FILE"
        )
    raise InputError(f"no image encoder is called {spec!r}: choose one of {'; '.join(SPECS)}")
