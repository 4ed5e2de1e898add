"""Building blocks of BrainVAE and of the mapper.

Convolutional blocks take and return ``(batch, channels, length)``; transformer blocks
``(batch, n_tokens, n_dims)``. In shape comments B is the batch, C channels, L length, N tokens,
D dims and H heads. The blocks follow their inputs' dtype and device and check nothing: the two
networks check at their boundary.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def group_norm(channels: int) -> nn.GroupNorm:
    """GroupNorm with the 32 groups and the epsilon of the published network."""
    return nn.GroupNorm(32, channels, eps=1e-6)


class ResidualBlock(nn.Module):
    """Residual block: twice (GroupNorm, SiLU, convolution of width 3), plus the input.

    ``(B, in_channels, L)`` becomes ``(B, out_channels, L)``; a 1×1 convolution carries the input
    across when the two differ.
    """

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.norm1 = group_norm(in_channels)
        self.conv1 = nn.Conv1d(in_channels, out_channels, 3, padding=1)
        self.norm2 = group_norm(out_channels)
        self.conv2 = nn.Conv1d(out_channels, out_channels, 3, padding=1)
        same = in_channels == out_channels
        self.shortcut = nn.Identity() if same else nn.Conv1d(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in_channels, L) to (B, out_channels, L)."""
        h = self.conv1(F.silu(self.norm1(x)))  # (B, in, L) → (B, out, L)
        h = self.conv2(F.silu(self.norm2(h)))
        return self.shortcut(x) + h


class AttentionBlock(nn.Module):
    """Self-attention over the length axis with one head of width C, plus the input.

    softmax(q·kᵀ / √C)·v. The four 1×1 convolutions of the published network are linear maps on the
    channels, and its q, k and v are one.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.norm = group_norm(channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, L) to (B, C, L)."""
        h = self.norm(x).transpose(1, 2)  # (B, C, L) → (B, L, C)
        q, k, v = self.qkv(h).unsqueeze(1).chunk(3, dim=-1)  # each (B, 1, L, C)
        h = F.scaled_dot_product_attention(q, k, v).squeeze(1)  # (B, L, C)
        return x + self.proj(h).transpose(1, 2)  # (B, C, L)


def downsample(channels: int) -> nn.Conv1d:
    """Return a convolution that halves an even length."""
    return nn.Conv1d(channels, channels, 7, stride=2, padding=3)


def upsample(channels: int) -> nn.ConvTranspose1d:
    """Return a transposed convolution that doubles the length."""
    return nn.ConvTranspose1d(channels, channels, 7, stride=2, padding=3, output_padding=1)


def projector(in_length: int, width: int, out_length: int) -> nn.Sequential:
    """Return three times (LayerNorm, GELU, linear), from (…, in_length) to (…, out_length)."""
    lengths = (in_length, width, width, out_length)
    return nn.Sequential(
        *(
            layer
            for n_in, n_out in pairwise(lengths)
            for layer in (nn.LayerNorm(n_in), nn.GELU(), nn.Linear(n_in, n_out))
        )
    )


class TransformerBlock(nn.Module):
    """Pre-LayerNorm attention and MLP, each added to the stream ``(B, N, D)``."""

    def __init__(self, n_dims: int, n_heads: int, mlp_ratio: float):
        super().__init__()
        self.n_heads = n_heads
        hidden = round(n_dims * mlp_ratio)
        self.norm1 = nn.LayerNorm(n_dims, eps=1e-6)
        self.qkv = nn.Linear(n_dims, 3 * n_dims)
        self.proj = nn.Linear(n_dims, n_dims)
        self.norm2 = nn.LayerNorm(n_dims, eps=1e-6)
        self.mlp = nn.Sequential(
            nn.Linear(n_dims, hidden), nn.GELU(approximate="tanh"), nn.Linear(hidden, n_dims)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, N, D) to (B, N, D)."""
        qkv = self.qkv(self.norm1(x)).unflatten(-1, (3, self.n_heads, -1))  # (B, N, 3, H, D/H)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (B, H, N, D/H)
        h = F.scaled_dot_product_attention(q, k, v)
        x = x + self.proj(h.transpose(1, 2).flatten(2))  # (B, H, N, D/H) → (B, N, D)
        return x + self.mlp(self.norm2(x))


def sinusoidal_positions(n_tokens: int, n_dims: int) -> Tensor:
    """[sin(n·ω), cos(n·ω)] with ω_i = 10000^(−i / (n_dims/2)) (Vaswani et al. 2017, as in DiT).

    Returns
    -------
    Tensor of shape (n_tokens, n_dims)
        float32, computed in float64, on the CPU.
    """
    half = n_dims // 2
    frequency = 10000.0 ** (-torch.arange(half, dtype=torch.float64, device="cpu") / half)
    position = torch.arange(n_tokens, dtype=torch.float64, device="cpu")
    angle = position[:, None] * frequency  # (N, D/2)
    return torch.cat([angle.sin(), angle.cos()], dim=1).float()  # (N, D)


def at_least_float32(x: Tensor) -> Tensor:
    """Return ``x``, in float32 if it is of half precision: for sums and exponentials."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def materialise(network: nn.Module) -> bool:
    """Give memory to a network built on the meta device; say whether it has values to set.

    Networks are built on the meta device so that no weight is drawn twice and the global random
    state is neither read nor moved. Where the caller asks for the meta device (to count
    parameters, or to load weights with ``assign=True``) they stay there, without values.
    """
    device = torch.get_default_device()
    network.to_empty(device=device)
    return device.type != "meta"


def uniform_(weight: Tensor, bound: float, generator: torch.Generator) -> None:
    """Fill from U(−bound, bound): float32 draws made on the generator's device."""
    draws = torch.empty(weight.shape, dtype=torch.float32, device=generator.device)
    weight.copy_(draws.uniform_(-bound, bound, generator=generator))


def default_init_(layer: nn.Module, generator: torch.Generator) -> None:
    """Initialise one layer as PyTorch does: U(±1/√fan_in), norms 1 and 0."""
    if isinstance(layer, nn.GroupNorm | nn.LayerNorm):
        layer.weight.fill_(1.0)
        layer.bias.fill_(0.0)
    elif isinstance(layer, nn.Linear | nn.Conv1d | nn.ConvTranspose1d):
        bound = 1 / math.sqrt(layer.weight[0].numel())
        uniform_(layer.weight, bound, generator)
        if layer.bias is not None:
            uniform_(layer.bias, bound, generator)
