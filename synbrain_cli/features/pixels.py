"""Coarse pixels: luminance and opponent colours on a grid, tokens that need no weights.

Early visual areas respond to luminance and hue themselves, beside contrast. A band of its own lets
each voxel weigh them by a penalty of its own.
"""

from __future__ import annotations

import torch
from torch import Tensor

from synbrain_cli.features.encoder import Encoder, EncoderBand
from synbrain_cli.features.gabor import OPPONENT

GRID = 16  # tokens per side, as those of gabor


class Pixels(Encoder):
    """Tokens of shape (256, 3): luminance, red − green and blue − yellow of 16 × 16 pixels.

    Images are resized to 16 × 16 pixels (bicubic, antialiased), in gamma-encoded sRGB, and rotated
    to the opponent colours of `synbrain_cli.features.gabor`.
    """

    is_small = True

    def __init__(self, device: str | torch.device = "cpu") -> None:
        identity = {
            "name": "pixels",
            "version": 1,
            "image_size": GRID,
            "n_tokens": GRID**2,
            "n_dims": len(OPPONENT),
            "weights": None,
        }
        self.bands = (EncoderBand("pixels", "pixels", identity),)
        super().__init__(device)
        self._opponent = torch.tensor(OPPONENT, device=device)

    def _tokens(self, images: Tensor) -> list[Tensor]:
        return [torch.einsum("oc,nchw->nhwo", self._opponent, images).flatten(1, 2)]
