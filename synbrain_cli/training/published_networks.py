"""The networks in the checkpoints that SynBrain's authors publish, read, checked and renamed."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from synbrain_cli.checkpoints import plain_weights
from synbrain_cli.config import MapperConfig, VAEConfig
from synbrain_cli.errors import InputError
from synbrain_cli.io.bundle import CheckpointEntry
from synbrain_cli.io.published_checkpoint import read_checkpoint
from synbrain_cli.model.mapper import Mapper
from synbrain_cli.model.published import (
    mapper_config_from_published,
    mapper_state_from_published,
    vae_config_from_published,
    vae_state_from_published,
)
from synbrain_cli.model.vae import BrainVAE
from synbrain_cli.progress import Progress
from synbrain_cli.text import one_line

T = TypeVar("T")


@dataclass(frozen=True)
class PublishedNetworks:
    """Both networks of a published model.

    Attributes
    ----------
    tensors : dict of float32 arrays
        By their names in a bundle: ``vae.…``, ``mapper.…``.
    vae : VAEConfig
    mapper : MapperConfig
    checkpoints : dict
        "brainvae", "s2n": which weights were taken, and which were not.
    """

    tensors: dict[str, np.ndarray]
    vae: VAEConfig
    mapper: MapperConfig
    checkpoints: dict[str, CheckpointEntry]


def read_published_networks(brainvae: Path, s2n: Path, progress: Progress) -> PublishedNetworks:
    """Read both checkpoints.

    Parameters
    ----------
    brainvae, s2n : path
        ``last.pth`` of BrainVAE and ``last.pt`` of the mapper. Averaged weights (``ema``) are taken
        where there are any.
    progress : Progress

    Raises
    ------
    InputError
        A file is no checkpoint, is truncated, holds other things than data, lacks keys or has
        unknown ones; the two do not belong together.
    """
    progress.info(f"reading {brainvae} and {s2n}")
    vae_config, vae, vae_entry = _read_vae(brainvae)
    mapper_config, mapper, mapper_entry = _read_mapper(s2n, progress)
    shapes = [(c.n_tokens, c.n_dims) for c in (vae_config, mapper_config)]
    if shapes[0] != shapes[1]:
        raise InputError(
            f"{s2n}: maps to latents of {shapes[1]} (tokens, dims), {brainvae} decodes "
            f"those of {shapes[0]}: pass two checkpoints of one model"
        )
    tensors = {f"vae.{k}": v.numpy() for k, v in vae.items()}
    tensors |= {f"mapper.{k}": v.numpy() for k, v in mapper.items()}
    checkpoints = {"brainvae": vae_entry, "s2n": mapper_entry}
    return PublishedNetworks(tensors, vae_config, mapper_config, checkpoints)


def _read_vae(path: Path) -> tuple[VAEConfig, dict[str, Tensor], CheckpointEntry]:
    state, entry = _read_weights(path, read_checkpoint(path))
    config = _naming(path, lambda: vae_config_from_published(state))
    tensors = _naming(path, lambda: _complete(BrainVAE, config, vae_state_from_published(state)))
    return config, tensors, entry


def _read_mapper(
    path: Path, progress: Progress
) -> tuple[MapperConfig, dict[str, Tensor], CheckpointEntry]:
    checkpoint = read_checkpoint(path)
    state, entry = _read_weights(path, checkpoint)
    arguments = checkpoint.get("args", {})
    arguments = vars(arguments) if isinstance(arguments, argparse.Namespace) else arguments
    if not isinstance(arguments, dict) or not {"model_head", "prediction"} <= set(arguments):
        progress.info(
            f"{path}: does not record attention heads and prediction: the paper's are assumed, "
            "heads of width 128 and prediction x"
        )
        arguments = arguments if isinstance(arguments, dict) else {}
    heads, prediction = arguments.get("model_head"), arguments.get("prediction", "x")
    if not (heads is None or (type(heads) is int and heads > 0)) or prediction not in ("x", "v"):
        raise InputError(
            f"{path}: expected in its args a number of heads (model_head), and the prediction x or "
            f"v, found {heads!r:.40} and {prediction!r:.40}: is it the authors' file?"
        )
    config = _naming(path, lambda: mapper_config_from_published(state, heads, prediction))
    tensors = _naming(path, lambda: _complete(Mapper, config, mapper_state_from_published(state)))
    return config, tensors, entry


def _read_weights(
    path: Path, checkpoint: dict[str, Any]
) -> tuple[dict[str, Tensor], CheckpointEntry]:
    """Averaged weights where there are any, float32, and which entry of the file they are."""
    name = next((e for e in ("ema", "model") if isinstance(checkpoint.get(e), dict)), None)
    if name is None or not checkpoint[name]:
        entries = ", ".join(one_line(str(key))[:40] for key in list(checkpoint)[:8])
        raise InputError(
            f"{path}: expected weights in the entry 'ema' or 'model', found the entries "
            f"{entries or 'none'}: pass the authors' last.pth (BrainVAE) and last.pt (S2N)"
        )
    state = plain_weights(path, name, checkpoint[name])
    left_out = [one_line(str(key))[:80] for key in checkpoint if key != name]
    counts = {key: checkpoint.get(key) for key in ("epoch", "steps")}
    known = {k: n for k, n in counts.items() if type(n) is int and 0 <= n < 2**53}
    return state, CheckpointEntry(taken=name, left_out=left_out, **known)


def _complete(network: type[nn.Module], config: Any, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the state, once it is known to fill a network of this shape."""
    with torch.device("meta"):
        network(config).load_state_dict(state, assign=True)
    return state


def _naming(path: Path, make: Callable[[], T]) -> T:
    """Return what ``make`` makes; errors about the weights name the file."""
    try:
        return make()
    except (InputError, ValueError, TypeError, IndexError, ArithmeticError, RuntimeError) as error:
        reason = str(error) if isinstance(error, InputError) else "its weights have other shapes"
        raise InputError(f"{path}: {reason}") from error
