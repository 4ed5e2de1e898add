"""Objectives of the two networks' training, as functions of tensors."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from synbrain_cli.config import LossConfig
from synbrain_cli.distributed import SINGLE_PROCESS, Processes
from synbrain_cli.errors import InputError
from synbrain_cli.model.layers import at_least_float32
from synbrain_cli.model.vae import VAEOutput


def soft_clip(
    latent: Tensor,
    tokens: Tensor,
    temperature: float = 0.125,
    processes: Processes = SINGLE_PROCESS,
) -> Tensor:
    """Contrastive loss between latents and tokens, with the tokens' own similarity as target.

    With z and c the flattened latents and tokens over their norms,
    P = softmax(c·cᵀ/τ) by row and H(P, Q) = −Σ_j P_ij log Q_ij averaged over i:

        ½ H(P, softmax(z·cᵀ/τ)) + ½ H(P, softmax(c·zᵀ/τ))

    (Mai et al. 2025; SoftCLIP, Gao et al. 2023). For given tokens it is smallest where z = c, and
    equals their entropy there.

    Parameters
    ----------
    latent, tokens : Tensor of shape (batch, n_tokens, n_dims)
        Row i of both belongs to the same image. Images may repeat: the target shares its mass
        between them.
    temperature : float
        τ; 0.125 in the paper.
    processes : Processes
        Processes that hold parts of the batch: the loss is that of all of it. Its gradient is
        ``processes.size`` times that of the own part, as averaging over processes expects.

    Returns
    -------
    Tensor of shape ()
        In nats, at least float32.
    """
    if latent.shape != tokens.shape:
        raise InputError(
            f"expected latents of the tokens' shape {tuple(tokens.shape)}, "
            f"found {tuple(latent.shape)}: pass one image's tokens per trial"
        )
    z = F.normalize(at_least_float32(latent).flatten(1), dim=1)  # (B, N, D) → (B, N·D)
    c = F.normalize(at_least_float32(tokens).flatten(1), dim=1)
    z, c = processes.gather(z), processes.gather(c)
    with torch.autocast(z.device.type, enabled=False):  # half precision is too coarse for 1/τ
        target = F.softmax(c @ c.T / temperature, dim=1)  # (B, B)
        logits = z @ c.T / temperature  # (B, B)
    loss = 0.5 * (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target))
    return loss if processes.size == 1 else loss + (processes.size - 1) * (loss - loss.detach())


def brainvae_loss(
    output: VAEOutput,
    y: Tensor,
    tokens: Tensor,
    config: LossConfig,
    voxel_variance: float | Tensor = 1.0,
    processes: Processes = SINGLE_PROCESS,
) -> tuple[Tensor, dict[str, Tensor]]:
    """BrainVAE's objective, in the paper's balance for any number of voxels.

    ``mean (ŷ − y)² / s²  +  config.kl · KL per dimension  +  config.clip · SoftCLIP(z, tokens)``.
    The weights are Mai et al.'s, expressed per voxel: see `synbrain_cli.config.LossConfig`.

    Parameters
    ----------
    output : VAEOutput
        Reconstruction ŷ, posterior, and the draw z that was decoded.
    y : Tensor of shape (batch, n_voxels)
        The recorded trials, in the unit of the reconstruction.
    tokens : Tensor of shape (batch, n_tokens, n_dims)
        Of each trial's image.
    config : LossConfig
    voxel_variance : float or Tensor of shape ()
        s², the variance of a voxel over trials (mean over voxels), in the squared unit of ``y``;
        1 for standardised responses.
    processes : Processes
        Processes that hold parts of the batch (`soft_clip`).

    Returns
    -------
    total : Tensor of shape ()
        What is minimised; unitless.
    parts : dict of Tensor of shape ()
        ``reconstruction`` (share of the variance), ``kl`` (nats per dimension) and ``clip``
        (nats), before weighting and detached.
    """
    reconstruction, posterior, latent = output
    if reconstruction.shape != y.shape:
        raise InputError(
            f"expected a reconstruction of the responses' shape {tuple(y.shape)}, "
            f"found {tuple(reconstruction.shape)}: decode to y.shape[1] voxels"
        )
    error = F.mse_loss(at_least_float32(reconstruction), at_least_float32(y)) / voxel_variance
    kl = posterior.kl().mean() / posterior.mean[0].numel()
    clip = soft_clip(latent, tokens, config.temperature, processes)
    total = error + config.kl * kl + config.clip * clip
    return total, {"reconstruction": error.detach(), "kl": kl.detach(), "clip": clip.detach()}
