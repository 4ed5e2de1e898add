"""The published recipe, plainly: what `paper_size.py` measures ours against.

BrainVAE, the S2N mapper, one training step of each, and synthesis from images, written from the
description of Mai et al. (2025) and of their release, in eager float32 and without the shortcuts of
`synbrain_cli`: convolutions are convolutions, BrainVAE's attention holds its whole matrix, the
mapper keeps the time that is always 0, and stage 2 encodes each trial anew at every step. Modules
are named as the published checkpoints name their weights, so that `synbrain_cli.model.published`
reads the state of these networks as it does theirs.

In shape comments B is the batch, V voxels, C channels, L length, N tokens, D dims and H heads.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from synbrain_cli.config import MapperConfig, VAEConfig

KL_WEIGHT, CLIP_WEIGHT, TEMPERATURE = 0.001, 1000.0, 0.125
LEARNING_RATE, VAE_DECAY, MAPPER_DECAY = 1e-4, 0.05, 0.0
CLIP_NORM, EMA_DECAY = 1.0, 0.9999
CLIP_MEAN, CLIP_SD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


# --- BrainVAE ---------------------------------------------------------------------------------


def group_norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(32, channels, eps=1e-6)


class ResidualBlock(nn.Module):
    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.norm1 = group_norm(in_channels)
        self.conv1 = nn.Conv1d(in_channels, out_channels, 3, padding=1)
        self.norm2 = group_norm(out_channels)
        self.dropout = nn.Dropout(0.0)
        self.conv2 = nn.Conv1d(out_channels, out_channels, 3, padding=1)
        if in_channels != out_channels:
            self.nin_shortcut = nn.Conv1d(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))  # (B, in, L) → (B, out, L)
        h = self.conv2(self.dropout(F.silu(self.norm2(h))))
        return (self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x) + h


class Attention(nn.Module):
    """One head over the length axis: softmax(qᵀk / √C), then its product with v."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm = group_norm(channels)
        self.q, self.k, self.v, self.proj_out = (nn.Conv1d(channels, channels, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        q, k, v = self.q(h), self.k(h), self.v(h)  # each (B, C, L)
        weights = torch.bmm(q.transpose(1, 2), k) * q.shape[1] ** -0.5  # (B, L, L)
        weights = F.softmax(weights, dim=2)
        h = torch.bmm(v, weights.transpose(1, 2))  # (B, C, L)
        return x + self.proj_out(h)


class Middle(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.block_1 = ResidualBlock(channels, channels)
        self.attn_1 = Attention(channels)
        self.block_2 = ResidualBlock(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.block_2(self.attn_1(self.block_1(x)))


class Resample(nn.Module):
    """Strided convolution that halves the length, or transposed one that doubles it."""

    def __init__(self, channels: int, up: bool):
        super().__init__()
        if up:
            self.trans_conv = nn.ConvTranspose1d(channels, channels, 7, 2, 3, output_padding=1)
        else:
            self.conv = nn.Conv1d(channels, channels, 7, 2, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.trans_conv(x) if hasattr(self, "trans_conv") else self.conv(x)


class Level(nn.Module):
    def __init__(self, in_channels: int, channels: int, n_blocks: int, resample: str | None):
        super().__init__()
        self.block = nn.ModuleList(
            ResidualBlock(in_channels if i == 0 else channels, channels) for i in range(n_blocks)
        )
        self.resample = resample
        if resample:
            setattr(self, resample, Resample(channels, up=resample == "upsample"))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.block:
            x = block(x)
        return getattr(self, self.resample)(x) if self.resample else x


class Encoder(nn.Module):
    def __init__(self, config: VAEConfig):
        super().__init__()
        widths = [config.channels * m for m in (1, *config.multipliers)]
        self.conv_in = nn.Conv1d(1, config.channels, 7, padding=3)
        self.pool = nn.AdaptiveMaxPool1d(config.ada_length)
        self.down = nn.ModuleList(
            Level(
                widths[i],
                widths[i + 1],
                config.n_res_blocks,
                "downsample" if i < config.n_scales else None,
            )
            for i in range(len(config.multipliers))
        )
        self.mid = Middle(widths[-1])
        self.norm_out = group_norm(widths[-1])
        self.conv_out = nn.Conv1d(widths[-1], config.n_tokens, 7, padding=3)

    def forward(self, y: Tensor) -> Tensor:
        h = self.pool(self.conv_in(y))  # (B, 1, V) → (B, channels, ada_length)
        for level in self.down:
            h = level(h)
        return self.conv_out(F.silu(self.norm_out(self.mid(h))))  # (B, N, hidden_length)


class Decoder(nn.Module):
    def __init__(self, config: VAEConfig):
        super().__init__()
        widths = [config.channels * m for m in config.multipliers]
        n_levels = len(widths)
        self.conv_in = nn.Conv1d(config.n_tokens, widths[-1], 7, padding=3)
        self.mid = Middle(widths[-1])
        # Levels are numbered from the output, and run from the last to the first.
        self.up = nn.ModuleList(
            Level(
                widths[min(i + 1, n_levels - 1)],
                widths[i],
                config.n_res_blocks + 1,
                "upsample" if i >= n_levels - config.n_scales else None,
            )
            for i in range(n_levels)
        )
        self.norm_out = group_norm(widths[0])
        self.conv_out = nn.Conv1d(widths[0], 1, 7, padding=3)

    def forward(self, h: Tensor, n_voxels: int) -> Tensor:
        h = self.mid(self.conv_in(h))  # (B, N, hidden_length) → (B, C, hidden_length)
        for level in reversed(self.up):
            h = level(h)
        h = F.interpolate(h, n_voxels, mode="linear", align_corners=True)  # (B, C, V)
        return self.conv_out(F.silu(self.norm_out(h)))  # (B, 1, V)


def projector(n_in: int, width: int, n_out: int) -> nn.Sequential:
    sizes = (n_in, width, width, n_out)
    return nn.Sequential(
        *(
            layer
            for i in range(3)
            for layer in (nn.LayerNorm(sizes[i]), nn.GELU(), nn.Linear(sizes[i], sizes[i + 1]))
        )
    )


class BrainVAE(nn.Module):
    def __init__(self, config: VAEConfig):
        super().__init__()
        length, width, n_dims = config.hidden_length, config.projector_width, config.n_dims
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.pre_projector_mean = projector(length, width, n_dims)
        self.pre_projector_logvar = projector(length, width, n_dims)
        self.post_projector = projector(n_dims, width, length)

    def encode(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance (B, N, D) of responses (B, V)."""
        h = self.encoder(y.unsqueeze(1))
        return self.pre_projector_mean(h), self.pre_projector_logvar(h)

    def decode(self, latent: Tensor, n_voxels: int) -> Tensor:
        """Responses (B, V) of latents (B, N, D)."""
        return self.decoder(self.post_projector(latent), n_voxels).squeeze(1)


# --- S2N mapper -------------------------------------------------------------------------------


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return x * (1 + scale.unsqueeze(1)) + shift.unsqueeze(1)


class TimeEmbedder(nn.Module):
    def __init__(self, n_dims: int):
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(256, n_dims), nn.SiLU(), nn.Linear(n_dims, n_dims))

    def forward(self, t: Tensor) -> Tensor:
        frequency = torch.exp(-math.log(10_000) * torch.arange(128, device=t.device) / 128)
        angle = t[:, None] * frequency  # (B, 128)
        return self.mlp(torch.cat([angle.cos(), angle.sin()], dim=1))  # (B, D)


class SelfAttention(nn.Module):
    def __init__(self, n_dims: int, n_heads: int):
        super().__init__()
        self.n_heads = n_heads
        self.qkv = nn.Linear(n_dims, 3 * n_dims)
        self.proj = nn.Linear(n_dims, n_dims)

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(x).unflatten(2, (3, self.n_heads, -1))  # (B, N, 3, H, D/H)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        h = F.scaled_dot_product_attention(q, k, v)  # (B, H, N, D/H)
        return self.proj(h.transpose(1, 2).flatten(2))


class MLP(nn.Module):
    def __init__(self, n_dims: int, hidden: int):
        super().__init__()
        self.fc1 = nn.Linear(n_dims, hidden)
        self.fc2 = nn.Linear(hidden, n_dims)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


class Block(nn.Module):
    def __init__(self, config: MapperConfig):
        super().__init__()
        d = config.n_dims
        self.norm1 = nn.LayerNorm(d, eps=1e-6, elementwise_affine=False)
        self.attn = SelfAttention(d, config.n_heads)
        self.norm2 = nn.LayerNorm(d, eps=1e-6, elementwise_affine=False)
        self.mlp = MLP(d, round(d * config.mlp_ratio))
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(d, 6 * d))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.adaLN_modulation(c).chunk(6, dim=1)
        x = x + gate1.unsqueeze(1) * self.attn(modulate(self.norm1(x), shift1, scale1))
        return x + gate2.unsqueeze(1) * self.mlp(modulate(self.norm2(x), shift2, scale2))


class FinalLayer(nn.Module):
    def __init__(self, n_dims: int):
        super().__init__()
        self.norm = nn.LayerNorm(n_dims, eps=1e-6, elementwise_affine=False)
        self.linear = nn.Linear(n_dims, n_dims)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(n_dims, 2 * n_dims))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        return self.linear(modulate(self.norm(x), *self.adaLN_modulation(c).chunk(2, dim=1)))


class Mapper(nn.Module):
    """SiT whose time is always 0."""

    def __init__(self, config: MapperConfig):
        super().__init__()
        shape = (1, config.n_tokens, config.n_dims)
        self.pos_embed = nn.Parameter(torch.zeros(shape), requires_grad=False)
        self.t_embedder = TimeEmbedder(config.n_dims)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.final_layer = FinalLayer(config.n_dims)

    def forward(self, tokens: Tensor) -> Tensor:
        c = self.t_embedder(tokens.new_zeros(len(tokens)))  # (B, D)
        x = tokens + self.pos_embed
        for block in self.blocks:
            x = block(x, c)
        return self.final_layer(x, c)


# --- Losses and steps -------------------------------------------------------------------------


def soft_clip(latent: Tensor, tokens: Tensor) -> Tensor:
    z, c = F.normalize(latent.flatten(1), dim=1), F.normalize(tokens.flatten(1), dim=1)
    target = F.softmax(c @ c.T / TEMPERATURE, dim=1)
    logits = z @ c.T / TEMPERATURE
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def vae_loss(vae: BrainVAE, y: Tensor, tokens: Tensor, noise: Tensor) -> Tensor:
    mean, log_variance = vae.encode(y)
    latent = mean + torch.exp(0.5 * log_variance) * noise
    error = (vae.decode(latent, y.shape[1]) - y).square().sum() / len(y)
    kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum() / len(y)
    return error + KL_WEIGHT * kl + CLIP_WEIGHT * soft_clip(latent, tokens)


def mapper_loss(mapper: Mapper, vae: BrainVAE, y: Tensor, tokens: Tensor) -> Tensor:
    with torch.no_grad():
        target, _ = vae.encode(y)
    return F.mse_loss(mapper(tokens), target)


class VAETraining:
    """``step(y, tokens, noise)``: one step of stage 1."""

    def __init__(self, vae: BrainVAE):
        self.vae = vae.train()
        self.optimizer = torch.optim.AdamW(
            vae.parameters(), lr=LEARNING_RATE, weight_decay=VAE_DECAY
        )

    def step(self, y: Tensor, tokens: Tensor, noise: Tensor) -> Tensor:
        loss = vae_loss(self.vae, y, tokens, noise)
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.vae.parameters(), CLIP_NORM)
        self.optimizer.step()
        return loss.detach()


class MapperTraining:
    """``step(y, tokens)``: one step of stage 2, the encoder frozen."""

    def __init__(self, mapper: Mapper, vae: BrainVAE):
        self.mapper, self.vae = mapper.train(), vae.eval().requires_grad_(False)
        self.average = copy.deepcopy(mapper).requires_grad_(False)
        self.optimizer = torch.optim.AdamW(
            mapper.parameters(), lr=LEARNING_RATE, weight_decay=MAPPER_DECAY
        )

    def step(self, y: Tensor, tokens: Tensor) -> Tensor:
        loss = mapper_loss(self.mapper, self.vae, y, tokens)
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.mapper.parameters(), CLIP_NORM)
        self.optimizer.step()
        with torch.no_grad():
            for a, w in zip(self.average.parameters(), self.mapper.parameters(), strict=True):
                a.mul_(EMA_DECAY).add_(w, alpha=1 - EMA_DECAY)
        return loss.detach()


# --- Images → tokens → responses --------------------------------------------------------------


def vision_tower(arch: str, weights: Path | None = None) -> nn.Module:
    """The image encoder in float32, without its text side; random without weights."""
    import open_clip  # slow, and for this alone
    from open_clip.model import _build_vision_tower

    config = open_clip.get_model_config(arch)
    with torch.device("meta" if weights else torch.get_default_device()):
        tower = _build_vision_tower(config["embed_dim"], config["vision_cfg"])
    if weights:
        tower.load_state_dict(torch.load(weights, weights_only=True), assign=True)
    tower.output_tokens = True
    return tower.float().eval().requires_grad_(False)


@torch.no_grad()
def extract_tokens(tower: nn.Module, images: Sequence[np.ndarray]) -> Tensor:
    """Tokens (n, N, D) of square images, uint8 (h, w, 3)."""
    device = next(tower.parameters()).device
    mean = torch.tensor(CLIP_MEAN, device=device).view(3, 1, 1)
    sd = torch.tensor(CLIP_SD, device=device).view(3, 1, 1)
    pixels = []
    for image in images:
        x = torch.from_numpy(image).to(device).permute(2, 0, 1)[None] / 255  # (1, 3, h, w)
        x = F.interpolate(x, tower.image_size, mode="bicubic", antialias=True).clamp(0, 1)
        pixels.append((x[0] - mean) / sd)
    _, tokens = tower(torch.stack(pixels))
    return tokens


@torch.no_grad()
def synthesize(
    tower: nn.Module,
    mapper: Mapper,
    vae: BrainVAE,
    images: Sequence[np.ndarray],
    n_voxels: int,
    n_draws: int,
    noise_factor: float,
) -> np.ndarray:
    """Responses (n_images, n_draws, V) from latents with noise (Mai et al. 2025, appendix E)."""
    latent = mapper(extract_tokens(tower, images))
    draws = [
        vae.decode(latent + noise_factor * torch.randn_like(latent), n_voxels)
        for _ in range(n_draws)
    ]
    return torch.stack(draws, 1).cpu().numpy()
