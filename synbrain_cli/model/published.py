"""Exact conversion of the weights of the authors' release to weights of the networks here.

The functions take the state dictionaries in the files of a release (``model`` of BrainVAE, ``ema``
of the mapper) and read the architecture from names and shapes. Every key is used: no weight is
ignored, and none is left at its initial value.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from synbrain_cli.config import MapperConfig, VAEConfig
from synbrain_cli.errors import InputError
from synbrain_cli.model.vae import BrainVAE

State = Mapping[str, Tensor]


def vae_config_from_published(state: State) -> VAEConfig:
    """Shape of a published BrainVAE, read from its weights.

    Parameters
    ----------
    state : mapping of str to Tensor
        ``last.pth``'s ``model``, with or without the prefix ``module.``.

    Raises
    ------
    InputError
        When a weight that tells the shape is missing.
    """
    state = _without_prefix(state)
    width = _shape(state, "encoder.conv_in.weight")[0]
    n_levels = _count(state, r"encoder\.down\.(\d+)\.")
    n_scales = _count(state, r"encoder\.down\.(\d+)\.downsample\.")
    return VAEConfig(
        n_tokens=_shape(state, "encoder.conv_out.weight")[0],
        n_dims=_shape(state, "post_projector.0.weight")[0],
        channels=width,
        multipliers=tuple(
            _shape(state, f"encoder.down.{i}.block.0.conv1.weight")[0] // width
            for i in range(n_levels)
        ),
        n_res_blocks=_count(state, r"encoder\.down\.0\.block\.(\d+)\."),
        n_scales=n_scales,
        ada_length=_shape(state, "pre_projector_mean.0.weight")[0] * 2**n_scales,
        projector_width=_shape(state, "post_projector.2.weight")[0],
    )


def vae_state_from_published(state: State) -> dict[str, Tensor]:
    """Weights of a published BrainVAE under our names.

    Parameters
    ----------
    state : mapping of str to Tensor
        ``last.pth``'s ``model``, with or without the prefix ``module.``.

    Returns
    -------
    dict of str to Tensor
        Complete for ``BrainVAE(vae_config_from_published(state))``; values unchanged (the
        attention's q, k and v are joined, its 1×1 convolutions become linear maps).

    Raises
    ------
    InputError
        When keys are missing or unknown, or a weight has another shape; they are named.
    """
    state = _without_prefix(state)
    config = vae_config_from_published(state)
    _check_state(state, published_vae_shapes(config))
    renamed = {}
    for name, weight in _our_vae(config).items():
        parts = [state[key] for key in _published_names(name, config)]
        renamed[name] = (torch.cat(parts) if len(parts) > 1 else parts[0]).reshape(weight.shape)
    return renamed


def published_vae_shapes(config: VAEConfig) -> dict[str, tuple[int, ...]]:
    """Every key of a published BrainVAE of this shape (without ``module.``), with its shape."""
    shapes = {}
    for name, weight in _our_vae(config).items():
        keys = _published_names(name, config)
        part = (weight.shape[0] // len(keys), *weight.shape[1:])
        for key in keys:
            shapes[key] = (*part, 1) if ".attn_1." in key and len(part) == 2 else part
    return shapes


def _our_vae(config: VAEConfig) -> dict[str, Tensor]:
    with torch.device("meta"):
        return BrainVAE(config).state_dict()


def mapper_config_from_published(
    state: State, n_heads: int | None = None, prediction: Literal["x", "v"] = "x"
) -> MapperConfig:
    """Shape of a published mapper, read from its weights.

    Parameters
    ----------
    state : mapping of str to Tensor
        ``last.pt``'s ``ema``.
    n_heads : int, optional
        ``args.model_head`` in the file, which no weight tells; by default heads of 128.
    prediction : {"x", "v"}
        ``args.prediction`` in the file.

    Raises
    ------
    InputError
        When a weight that tells the shape is missing, or the number of heads cannot be guessed.
    """
    state = _without_prefix(state)
    n_tokens, n_dims = _shape(state, "pos_embed")[-2:]
    if n_heads is None and n_dims % 128:
        raise InputError(
            f"expected n_dims in multiples of 128 (one head each), found {n_dims}: "
            "pass n_heads, which the file keeps as args.model_head"
        )
    return MapperConfig(
        n_tokens=n_tokens,
        n_dims=n_dims,
        depth=_count(state, r"blocks\.(\d+)\."),
        n_heads=n_heads or n_dims // 128,
        mlp_ratio=_shape(state, "blocks.0.mlp.fc1.weight")[0] / n_dims,
        prediction=prediction,
    )


def mapper_state_from_published(state: State) -> dict[str, Tensor]:
    """Weights of a published mapper, its modulation at t = 0 folded into a plain Transformer's.

    With shift b, scale a and gate g the constants the modulation gives at t = 0, and W, w the
    weight and bias of a projection:

        LN(x)·(1 + a) + b         =  LayerNorm with weight 1 + a and bias b,
        g ⊙ (W·h + w)             =  (diag(g)·W)·h + g ⊙ w.

    Parameters
    ----------
    state : mapping of str to Tensor
        ``last.pt``'s ``ema``, with or without the prefix ``module.``.

    Returns
    -------
    dict of str to Tensor
        Complete for ``Mapper(mapper_config_from_published(state))``; folded in float64, in the
        dtype of the input.

    Raises
    ------
    InputError
        When keys are missing or unknown, or a weight has another shape; they are named.
    """
    state = _without_prefix(state)
    config = mapper_config_from_published(state, n_heads=1)
    _check_state(state, published_mapper_shapes(config))

    dtype = state["final_layer.linear.weight"].dtype
    folded = {"positions": state["pos_embed"].squeeze(0).to(dtype)}
    condition = F.silu(_time_embedding(state))  # (D,)

    def modulation(key: str, n: int) -> tuple[Tensor, ...]:
        return _linear(state, f"{key}.adaLN_modulation.1", condition).chunk(n)  # n × (D,)

    def norm(name: str, shift: Tensor, scale: Tensor) -> None:
        folded[f"{name}.weight"] = (1 + scale).to(dtype)
        folded[f"{name}.bias"] = shift.to(dtype)

    def linear(name: str, key: str, gate: Tensor | None = None) -> None:
        weight, bias = state[f"{key}.weight"], state[f"{key}.bias"]
        if gate is not None:
            weight, bias = gate[:, None] * weight, gate * bias  # float64
        folded[f"{name}.weight"], folded[f"{name}.bias"] = weight.to(dtype), bias.to(dtype)

    for i in range(config.depth):
        block = f"blocks.{i}"
        shift1, scale1, gate1, shift2, scale2, gate2 = modulation(block, 6)
        norm(f"{block}.norm1", shift1, scale1)
        linear(f"{block}.qkv", f"{block}.attn.qkv")
        linear(f"{block}.proj", f"{block}.attn.proj", gate1)
        norm(f"{block}.norm2", shift2, scale2)
        linear(f"{block}.mlp.0", f"{block}.mlp.fc1")
        linear(f"{block}.mlp.2", f"{block}.mlp.fc2", gate2)
    norm("norm", *modulation("final_layer", 2))
    linear("last", "final_layer.linear")
    return folded


def _published_names(name: str, config: VAEConfig) -> tuple[str, ...]:
    """The published keys, in order, whose values make our weight ``name`` of BrainVAE."""

    def level(match: re.Match[str]) -> str:
        side, i, j = match[1], int(match[2]), int(match[3])
        decoding = side == "decoder"
        n_blocks = config.n_res_blocks + decoding
        i = len(config.multipliers) - 1 - i if decoding else i  # they count from the output
        resample = "upsample.trans_conv" if decoding else "downsample.conv"
        part = f"block.{j}" if j < n_blocks else resample
        return f"{side}.{'up' if decoding else 'down'}.{i}.{part}."

    name = re.sub(r"^(encoder|decoder)\.levels\.(\d+)\.(\d+)\.", level, name)
    for ours, theirs in (
        ("to_mean.", "pre_projector_mean."),
        ("to_log_variance.", "pre_projector_logvar."),
        ("from_latent.", "post_projector."),
        (".first.", ".conv_in."),
        (".last.", ".conv_out."),
        ("coder.norm.", "coder.norm_out."),
        (".middle.0.", ".mid.block_1."),
        (".middle.1.", ".mid.attn_1."),
        (".middle.2.", ".mid.block_2."),
        (".shortcut.", ".nin_shortcut."),
        (".proj.", ".proj_out."),
    ):
        name = name.replace(ours, theirs)
    return tuple(name.replace(".qkv.", f".{x}.") for x in "qkv") if ".qkv." in name else (name,)


def published_mapper_shapes(config: MapperConfig) -> dict[str, tuple[int, ...]]:
    """Every key of a published mapper of this shape, with its shape."""
    d, hidden = config.n_dims, round(config.n_dims * config.mlp_ratio)
    linears = {
        "t_embedder.mlp.0": (d, 256),
        "t_embedder.mlp.2": (d, d),
        "final_layer.linear": (d, d),
        "final_layer.adaLN_modulation.1": (2 * d, d),
    }
    for i in range(config.depth):
        linears |= {
            f"blocks.{i}.attn.qkv": (3 * d, d),
            f"blocks.{i}.attn.proj": (d, d),
            f"blocks.{i}.mlp.fc1": (hidden, d),
            f"blocks.{i}.mlp.fc2": (d, hidden),
            f"blocks.{i}.adaLN_modulation.1": (6 * d, d),
        }
    shapes: dict[str, tuple[int, ...]] = {"pos_embed": (1, config.n_tokens, d)}
    for name, shape in linears.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    return shapes


def _time_embedding(state: State, t: float = 0.0) -> Tensor:
    """MLP([cos, sin] of t·10000^(−i/128)), float64 of shape (n_dims,)."""
    device = state["t_embedder.mlp.0.weight"].device
    i = torch.arange(128, dtype=torch.float64, device=device)
    angle = t * torch.exp(-math.log(10000) * i / 128)  # (128,)
    embedding = torch.cat([angle.cos(), angle.sin()])  # (256,)
    hidden = F.silu(_linear(state, "t_embedder.mlp.0", embedding))
    return _linear(state, "t_embedder.mlp.2", hidden)


def _linear(state: State, name: str, x: Tensor) -> Tensor:
    return F.linear(x, state[f"{name}.weight"].double(), state[f"{name}.bias"].double())


def _without_prefix(state: State) -> dict[str, Tensor]:
    return {key.removeprefix("module."): weight for key, weight in state.items()}


def _shape(state: State, key: str) -> tuple[int, ...]:
    if key not in state:
        raise InputError(
            f"published weights: expected the key {key}, found {len(state)} keys without it: "
            "pass the 'model' of BrainVAE's last.pth, or the 'ema' of the mapper's last.pt"
        )
    return tuple(state[key].shape)


def _check_state(state: State, expected: Mapping[str, tuple[int, ...]]) -> None:
    if state.keys() != expected.keys():
        missing, unknown = sorted(expected.keys() - state), sorted(state.keys() - expected)
        raise InputError(
            f"published weights: missing keys {missing}, unknown keys {unknown}: "
            "is the file whole, and of the published architecture?"
        )
    for key, shape in expected.items():
        if (found := _shape(state, key)) != shape:
            raise InputError(
                f"published weights: expected {key} of shape {shape}, found {found}: "
                "is the file one network's, and whole?"
            )


def _count(state: State, pattern: str) -> int:
    return len({match[1] for key in state if (match := re.match(pattern, key))})
