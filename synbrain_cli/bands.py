"""Names of image encoders and of their bands.

A band is one layer of one encoder, named ``ENCODER@LAYER``; encoders of a single layer are named
without it. ``ENCODER@3,6,9`` names several bands of one encoder at once. ``ENCODER:112@3,6,9`` are
those of images of 112 pixels, where an encoder sees images of any width (`split_width`).
``tokens:NAME`` is a band that the user computed (`synbrain prepare --tokens NAME=FILE`).

>>> split_layers("openclip:ViT-B-16/laion2b_s34b_b88k@3,6")
('openclip:ViT-B-16/laion2b_s34b_b88k', (3, 6))
>>> join_bands(["gabor", "efficientnet@3", "efficientnet@4", "pixels"])
'gabor + efficientnet@3,4 + pixels'
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from synbrain_cli.errors import InputError

OWN = "tokens:"  # begins the names of bands that the user computed
# Features at two scales, an octave apart: on recordings of V4 they predict better than at the finer
# one alone (docs/evaluation.md).
DEFAULT = ("gabor", "efficientnet@3,4,5", "efficientnet:112@3,4,5", "pixels")
# Of simulated subjects, some of whose areas respond to features of efficientnet at 128 pixels: the
# coarser scale would all but give their responses away.
SIMULATED = ("gabor", "efficientnet@3,4,5", "pixels")
_WIDTH = re.compile(r"^(?P<encoder>.*[^:]):(?P<width>\d+)$")
_LAYERS = re.compile(r"^(?P<encoder>.*[^@])@(?P<layers>\d+(,\d+)*)$")


def split_layers(spec: str) -> tuple[str, tuple[int, ...]]:
    """Split a name into the encoder and the layers, in ascending order; none where none are named.

    Raises
    ------
    InputError
        When a layer is named twice, or is 0.
    """
    found = _LAYERS.match(spec)
    if found is None:
        return spec, ()
    layers = [int(layer) for layer in found["layers"].split(",")]
    if len(set(layers)) < len(layers) or min(layers) < 1:
        raise InputError(f"{spec}: expected layers from 1 on, each once, found {found['layers']}")
    return found["encoder"], tuple(sorted(layers))


def split_width(encoder: str) -> tuple[str, int | None]:
    """Split an encoder's name, without layers, into the network and the width of its images.

    >>> split_width("timm:tf_efficientnet_lite2/random:112"), split_width("efficientnet")
    (('timm:tf_efficientnet_lite2/random', 112), ('efficientnet', None))
    """
    found = _WIDTH.match(encoder)
    return (encoder, None) if found is None else (found["encoder"], int(found["width"]))


def is_own(spec: str) -> bool:
    """Return whether a band's tokens come from a file of the user's, and no encoder computes them.

    >>> is_own("tokens:clip"), is_own("gabor")
    (True, False)
    """
    return spec.startswith(OWN)


def band_spec(encoder: str, layer: int | None) -> str:
    """Return the name of one band."""
    return encoder if layer is None else f"{encoder}@{layer}"


def group_bands(specs: Sequence[str]) -> list[tuple[str, tuple[int, ...]]]:
    """Gather the layers of each encoder, in the order in which encoders are first named.

    Raises
    ------
    InputError
        When nothing is named, or a band is named twice.
    """
    layers: dict[str, tuple[int, ...]] = {}
    for spec in specs:
        encoder, own = split_layers(spec)
        before = layers.get(encoder)
        if before is not None and (not own or not before or set(own) & set(before)):
            raise InputError(f"image encoder {spec}: named twice: name each band once")
        layers[encoder] = tuple(sorted((*(before or ()), *own)))
    if not layers:
        raise InputError("expected an image encoder, found none: leave --encoder out, or name one")
    return list(layers.items())


def join_bands(specs: Sequence[str]) -> str:
    """Return one name for several bands, with the layers of each encoder together."""
    return " + ".join(
        encoder + ("@" + ",".join(map(str, layers)) if layers else "")
        for encoder, layers in group_bands(specs)
    )
