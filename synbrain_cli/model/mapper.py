"""S2N mapper: image tokens → the latent that BrainVAE decodes.

The mapper of Mai et al. (2025) is a SiT whose diffusion time is always 0. Its modulation by time
is then a constant and folds into the neighbouring weights, which leaves the plain pre-LayerNorm
Transformer below (see `synbrain_cli.model.published`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import cast

import torch
from torch import Tensor, nn

from synbrain_cli.config import MapperConfig
from synbrain_cli.errors import InputError
from synbrain_cli.model.layers import (
    TransformerBlock,
    default_init_,
    materialise,
    sinusoidal_positions,
    uniform_,
)


class Mapper(nn.Module):
    """Transformer from image tokens to the mean of BrainVAE's posterior (Mai et al., section 3.3).

    Parameters
    ----------
    config : MapperConfig
        Shape of the network.
    generator : torch.Generator, optional
        Initial weights are a function of its state alone; a CPU generator of seed 0 by default.
        Under ``torch.device("meta")`` nothing is drawn and the network has no values.

    Raises
    ------
    InputError
        When the settings do not fit together.
    """

    positions: Tensor

    def __init__(self, config: MapperConfig, generator: torch.Generator | None = None):
        super().__init__()
        self.config = config
        with torch.device("meta"):
            self.register_buffer("positions", torch.empty(config.n_tokens, config.n_dims))
            self.blocks = nn.ModuleList(
                TransformerBlock(config.n_dims, config.n_heads, config.mlp_ratio)
                for _ in range(config.depth)
            )
            self.norm = nn.LayerNorm(config.n_dims, eps=1e-6)
            self.last = nn.Linear(config.n_dims, config.n_dims)
        if materialise(self):
            self.initialise(generator or torch.Generator("cpu").manual_seed(0))

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """Set every weight, in the order of definition, as DiT does (Peebles & Xie 2023).

        Linear weights are U(±√(6 / (fan_in + fan_out))) and biases 0. What writes to the residual
        stream is 0 (the published gates, folded), and so is the last layer: an untrained mapper
        returns 0 ('x') or the tokens ('v').
        """
        self.positions.copy_(sinusoidal_positions(*self.positions.shape))
        writers: set[nn.Module] = {self.last}
        for block in self._blocks():
            writers |= {block.proj, block.mlp[-1]}
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                layer.bias.zero_()
                if layer in writers:
                    layer.weight.zero_()
                else:
                    uniform_(layer.weight, math.sqrt(6 / sum(layer.weight.shape)), generator)
            else:
                default_init_(layer, generator)

    def forward(self, tokens: Tensor) -> Tensor:
        """Predict the latent of images.

        Parameters
        ----------
        tokens : Tensor of shape (batch, n_tokens, n_dims)
            Image tokens of the encoder the mapper was trained with.

        Returns
        -------
        Tensor of shape (batch, n_tokens, n_dims)
            The transformer's output ('x'), or the tokens plus it ('v').
        """
        if tokens.ndim != 3 or tokens.shape[1:] != self.positions.shape:
            raise InputError(
                f"expected tokens of shape (batch, {self.config.n_tokens}, {self.config.n_dims}), "
                f"found {tuple(tokens.shape)}: use the image encoder the model was trained with"
            )
        x = tokens + self.positions  # (B, N, D)
        for block in self.blocks:
            x = block(x)
        x = self.last(self.norm(x))
        return tokens + x if self.config.prediction == "v" else x

    def mlp_parameters(self) -> Iterator[nn.Parameter]:
        """Yield the MLPs' weights and biases, which the paper fine-tunes for a new subject.

        The second LayerNorm is not among them: it holds what the published network keeps in its
        modulation, which stays frozen there.
        """
        for block in self._blocks():
            yield from block.mlp.parameters()

    def _blocks(self) -> list[TransformerBlock]:
        return cast("list[TransformerBlock]", list(self.blocks))
