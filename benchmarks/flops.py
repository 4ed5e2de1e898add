"""Operations of the networks, by torch's counter on the meta device: no memory, no weights.

A multiplication with its addition counts as two. Counted are matrix products, convolutions and
attention, forward and backward; not normalisation, activations, losses and optimisers, which move
bytes rather than multiply.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import published_recipe as recipe
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from synbrain_cli.config import MapperConfig, VAEConfig
from synbrain_cli.model.mapper import Mapper
from synbrain_cli.model.vae import BrainVAE


def gigaflops(
    vae_config: VAEConfig, mapper_config: MapperConfig, n_voxels: int, encoder: str | None = None
) -> dict[str, float]:
    """GFLOP of one item: a trial, or an image.

    Parameters
    ----------
    vae_config, mapper_config
    n_voxels : int
    encoder : str, optional
        open_clip's name of the image encoder, to count that, too.

    Returns
    -------
    dict
        ``encode``, ``decode``, ``map``, ``synthesis`` (tokens → responses), ``vae`` and ``s2n``
        (training steps of both versions: "/recipe", "/ours"; "s2n/response" decodes every image
        for the response loss), ``tokens``.
    """
    with torch.device("meta"):
        their_vae, their_mapper = recipe.BrainVAE(vae_config), recipe.Mapper(mapper_config)
        vae, mapper = BrainVAE(vae_config), Mapper(mapper_config)
        y = torch.empty(1, n_voxels)
        tokens, noise = (torch.empty(1, vae_config.n_tokens, vae_config.n_dims) for _ in range(2))
    found = {
        "encode": count(lambda: vae.encode(y)),
        "decode": count(lambda: vae.decode(tokens, n_voxels)),
        "map": count(lambda: mapper(tokens)),
        "synthesis": count(lambda: vae.decode(mapper(tokens), n_voxels)),
    }

    def our_vae() -> None:
        reconstruction, posterior, latent = vae(y, noise)
        # The objective's terms; autocast, which `brainvae_loss` turns off, knows no meta device.
        clip = recipe.soft_clip(latent, tokens)
        (F.mse_loss(reconstruction, y) + posterior.kl().mean() + clip).backward()

    def our_mapper(response: float) -> None:
        latent = mapper(tokens)
        loss = F.mse_loss(latent, noise)
        if response:
            loss = loss + F.mse_loss(vae.decode(latent, n_voxels), y)
        loss.backward()

    found["vae/recipe"] = count(lambda: recipe.vae_loss(their_vae, y, tokens, noise).backward())
    found["vae/ours"] = count(our_vae)
    for frozen in (their_vae, vae):
        frozen.requires_grad_(False)
    found["s2n/recipe"] = count(
        lambda: recipe.mapper_loss(their_mapper, their_vae, y, tokens).backward()
    )
    found["s2n/ours"] = count(lambda: our_mapper(0.0))
    found["s2n/response"] = count(lambda: our_mapper(1.0))
    if encoder:
        import open_clip  # slow, and for this alone

        size = open_clip.get_model_config(encoder)["vision_cfg"]["image_size"]
        with torch.device("meta"):
            tower, image = recipe.vision_tower(encoder), torch.empty(1, 3, size, size)
        found["tokens"] = count(lambda: tower(image))
    return found


def count(work: Callable[[], Any]) -> float:
    """GFLOP of a call."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops() / 1e9
