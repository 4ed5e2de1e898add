"""BrainVAE: single-trial responses ↔ a latent of the shape of the image tokens.

The network of Mai et al. (2025), written from its description. Voxels are a 1-D signal, in the
order of the file or in another (`synbrain_cli.model.order`); an adaptive max-pool before the levels
and a linear interpolation after them make every weight independent of the number of voxels. The
latent's tokens are the convolutions' channels, its dims a projection of their length.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from synbrain_cli.config import VAEConfig
from synbrain_cli.errors import InputError
from synbrain_cli.model.layers import (
    AttentionBlock,
    ResidualBlock,
    at_least_float32,
    default_init_,
    downsample,
    group_norm,
    materialise,
    projector,
    upsample,
)


class Posterior(NamedTuple):
    """Diagonal Gaussian over the latent, one per trial: N(mean, exp(log_variance)).

    Attributes
    ----------
    mean, log_variance : Tensor of shape (batch, n_tokens, n_dims)
        Unitless: the prior is N(0, I).
    """

    mean: Tensor
    log_variance: Tensor

    @property
    def sd(self) -> Tensor:
        """σ = exp(½ log σ²), of shape (batch, n_tokens, n_dims)."""
        return torch.exp(0.5 * self.log_variance)

    def sample(self, noise: Tensor) -> Tensor:
        """Return the latent mean + σ·ε, one draw per trial, differentiable in the posterior.

        ``noise`` is ε ~ N(0, I), of the latent's shape: drawn outside, so that a draw depends
        neither on how a batch is cut into parts nor on whether these are computed twice.
        """
        return self.mean + self.sd * noise

    def kl(self) -> Tensor:
        """KL(posterior ‖ N(0, I)) = ½ Σ (mean² + σ² − 1 − log σ²) (Kingma & Welling 2014, app. B).

        Returns
        -------
        Tensor of shape (batch,)
            In nats, summed over the latent's dimensions; at least float32.
        """
        mean, log_variance = (at_least_float32(x).flatten(1) for x in self)
        return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1)


class VAEOutput(NamedTuple):
    """Output of `BrainVAE` for a batch of trials.

    Attributes
    ----------
    reconstruction : Tensor of shape (batch, n_voxels)
    posterior : Posterior
    latent : Tensor of shape (batch, n_tokens, n_dims)
        The draw or the mean of the posterior that was decoded.
    """

    reconstruction: Tensor
    posterior: Posterior
    latent: Tensor


class Encoder(nn.Module):
    """Voxels to hidden tokens: (B, 1, V) → (B, n_tokens, hidden_length), for any V."""

    def __init__(self, config: VAEConfig):
        super().__init__()
        widths = [config.channels * m for m in config.multipliers]
        self.first = nn.Conv1d(1, config.channels, 7, padding=3)
        self.pool = nn.AdaptiveMaxPool1d(config.ada_length)
        self.levels = nn.ModuleList()
        width = config.channels
        for i, out in enumerate(widths):
            level: list[nn.Module] = [
                ResidualBlock(width if j == 0 else out, out) for j in range(config.n_res_blocks)
            ]
            if i < config.n_scales:
                level.append(downsample(out))
            self.levels.append(nn.Sequential(*level))
            width = out
        self.middle = nn.Sequential(
            ResidualBlock(width, width), AttentionBlock(width), ResidualBlock(width, width)
        )
        self.norm = group_norm(width)
        self.last = nn.Conv1d(width, config.n_tokens, 7, padding=3)

    def forward(self, x: Tensor) -> Tensor:
        """Map voxels (B, 1, V) to hidden tokens (B, n_tokens, hidden_length)."""
        h = self.pool(self.first(x))  # (B, 1, V) → (B, channels, ada_length)
        for level in self.levels:
            h = level(h)  # (B, C, L) → (B, C', L or L/2)
        h = self.middle(h)
        return self.last(F.silu(self.norm(h)))  # (B, C, L) → (B, n_tokens, hidden_length)


class Decoder(nn.Module):
    """Hidden tokens to voxels: (B, n_tokens, hidden_length) → (B, 1, V), for any V."""

    def __init__(self, config: VAEConfig):
        super().__init__()
        widths = [config.channels * m for m in reversed(config.multipliers)]
        width = widths[0]
        self.first = nn.Conv1d(config.n_tokens, width, 7, padding=3)
        self.middle = nn.Sequential(
            ResidualBlock(width, width), AttentionBlock(width), ResidualBlock(width, width)
        )
        self.levels = nn.ModuleList()
        for i, out in enumerate(widths):
            n_blocks = config.n_res_blocks + 1
            level: list[nn.Module] = [
                ResidualBlock(width if j == 0 else out, out) for j in range(n_blocks)
            ]
            if i < config.n_scales:
                level.append(upsample(out))
            self.levels.append(nn.Sequential(*level))
            width = out
        self.norm = group_norm(width)
        self.last = nn.Conv1d(width, 1, 7, padding=3)

    def forward(self, h: Tensor, n_voxels: int) -> Tensor:
        """Map hidden tokens (B, n_tokens, hidden_length) to voxels (B, 1, n_voxels)."""
        h = self.middle(self.first(h))  # (B, n_tokens, hidden_length) → (B, C, hidden_length)
        for level in self.levels:
            h = level(h)  # (B, C, L) → (B, C', L or 2L)
        h = F.interpolate(h, n_voxels, mode="linear", align_corners=True)  # (B, C, V)
        return self.last(F.silu(self.norm(h)))  # (B, C, V) → (B, 1, V)


class BrainVAE(nn.Module):
    """Variational autoencoder of single-trial responses (Mai et al. 2025, section 3.2).

    Parameters
    ----------
    config : VAEConfig
        Shape of the network; the published one has 78,311,937 parameters.
    generator : torch.Generator, optional
        Initial weights are a function of its state alone; a CPU generator of seed 0 by default.
        Under ``torch.device("meta")`` nothing is drawn and the network has no values.

    Attributes
    ----------
    order, position : int64 Tensor of shape (n_voxels,), or None
        Voxel order along the convolution axis, and the position of each voxel in it (the inverse
        permutation). Kept with the weights. None: the order of the input, for any number of voxels.
    gain, offset : float32 Tensor of shape (n_voxels,), or None
        The unit of published weights, which is one for all voxels: they see responses y as
        gain ⊙ y + offset. Kept with the weights. None: responses are taken as they are.
    """

    def __init__(self, config: VAEConfig, generator: torch.Generator | None = None):
        super().__init__()
        self.config = config
        self.register_buffer("order", None)
        self.register_buffer("position", None, persistent=False)
        self.register_buffer("gain", None)
        self.register_buffer("offset", None)
        length, width, n_dims = config.hidden_length, config.projector_width, config.n_dims
        with torch.device("meta"):
            self.encoder = Encoder(config)
            self.to_mean = projector(length, width, n_dims)
            self.to_log_variance = projector(length, width, n_dims)
            self.from_latent = projector(n_dims, width, length)
            self.decoder = Decoder(config)
        if materialise(self):
            self.initialise(generator or torch.Generator("cpu").manual_seed(0))

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """Draw every weight from PyTorch's default distributions, in the order of definition."""
        for layer in self.modules():
            default_init_(layer, generator)

    def lay_out(self, order: Tensor | None) -> None:
        """Set the voxel order along the convolution axis; each subject has its own."""
        self.order = order
        self.position = None if order is None else torch.argsort(order)

    def measure(self, gain: Tensor | None, offset: Tensor | None) -> None:
        """Set the unit in which the weights see responses: both (n_voxels,), or neither."""
        self.gain, self.offset = gain, offset

    def encode(self, y: Tensor) -> Posterior:
        """Return the posterior of the latent given responses.

        Parameters
        ----------
        y : Tensor of shape (batch, n_voxels)
            Single-trial responses in the unit the network was trained in, any number of voxels.

        Returns
        -------
        Posterior
            Of shape (batch, n_tokens, n_dims).
        """
        if y.ndim != 2 or y.shape[1] == 0 or not y.is_floating_point():
            raise InputError(
                "expected floating-point responses of shape (batch, n_voxels), "
                f"found {y.dtype} of shape {tuple(y.shape)}: pass one row per trial"
            )
        if self.gain is not None and self.offset is not None:
            y = y * self.gain + self.offset
        if self.order is not None:
            _check_voxels(y.shape[1], self.order)
            y = y[:, self.order]
        h = self.encoder(y.unsqueeze(1))  # (B, V) → (B, 1, V) → (B, n_tokens, hidden_length)
        return Posterior(self.to_mean(h), self.to_log_variance(h))  # (B, n_tokens, n_dims)

    def decode(self, latent: Tensor, n_voxels: int) -> Tensor:
        """Decode latents to the responses of ``n_voxels`` voxels.

        Parameters
        ----------
        latent : Tensor of shape (batch, n_tokens, n_dims)
        n_voxels : int

        Returns
        -------
        Tensor of shape (batch, n_voxels)
            In the unit the network was trained in.
        """
        expected = (self.config.n_tokens, self.config.n_dims)
        if latent.ndim != 3 or latent.shape[1:] != expected:
            raise InputError(
                f"expected latents of shape (batch, {expected[0]}, {expected[1]}), "
                f"found {tuple(latent.shape)}: do they come from this model's mapper or encoder?"
            )
        if n_voxels < 1:
            raise InputError(f"expected at least one voxel to decode to, found {n_voxels}")
        y = self.decoder(self.from_latent(latent), n_voxels).squeeze(1)  # (B, V)
        if self.position is not None:
            _check_voxels(n_voxels, self.position)
            y = y[:, self.position]
        if self.gain is None or self.offset is None:
            return y
        return (y - self.offset) / self.gain

    def forward(self, y: Tensor, noise: Tensor | None = None) -> VAEOutput:
        """Encode and decode.

        The latent is the draw of the posterior that ``noise`` makes (training), its mean where
        there is none (evaluation). The reconstruction has the shape of ``y``.
        """
        posterior = self.encode(y)
        latent = posterior.mean if noise is None else posterior.sample(noise)
        return VAEOutput(self.decode(latent, y.shape[1]), posterior, latent)


def _check_voxels(n_voxels: int, order: Tensor) -> None:
    if n_voxels != len(order):
        raise InputError(
            f"expected {len(order)} voxels, those laid out for this network, found "
            f"{n_voxels}: lay_out another order first"
        )
