"""The pretrained encoder whose features drive the category areas of the simulated subjects."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from synbrain_cli.features.images import resize
from synbrain_cli.features.timm_towers import EfficientNet

LAYER = 5  # the last: 352 features
SIZE = 128  # side of the images that it sees, in pixels: that of the stimuli by default
BATCH = 16  # images at once


class _Average(EfficientNet):
    """EfficientNet-Lite2's last layer, averaged over the positions of an image of any size."""

    def __init__(self) -> None:
        super().__init__(layers=(LAYER,))
        # In this order of memory, convolutions take half the time on a CPU.
        self._tower = self._tower.to(memory_format=torch.channels_last)

    @torch.inference_mode()
    def average(self, pixels: Tensor) -> np.ndarray:
        """Return features, float32 (n, 352), of pixels, float32 (n, 3, size, size) in [0, 1]."""
        tokens = self._tokens(pixels.contiguous(memory_format=torch.channels_last))
        return tokens[0].mean(1).numpy()


def average_features(images: np.ndarray) -> np.ndarray:
    """Average the last layer of EfficientNet-Lite2 over positions.

    The tokens of `efficientnet` are computed at 224 pixels, and therefore differ from these.

    Parameters
    ----------
    images : uint8 array of shape (n_images, size, size, 3)

    Returns
    -------
    float32 array of shape (n_images, 352)
    """
    encoder = _Average()
    parts = (images[start : start + BATCH] for start in range(0, len(images), BATCH))
    return np.concatenate([encoder.average(resize(part, SIZE)) for part in parts])
