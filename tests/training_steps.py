"""Training steps of small networks, and batches for them."""

from __future__ import annotations

import torch

from synbrain_cli.config import LossConfig, MapperConfig, VAEConfig
from synbrain_cli.model.mapper import Mapper
from synbrain_cli.model.step import MapperStep, VAEStep
from synbrain_cli.model.vae import BrainVAE

TOKENS, DIMS, VOXELS, BATCH = 16, 24, 150, 8
VAE = VAEConfig(
    n_tokens=TOKENS,
    n_dims=DIMS,
    channels=32,
    multipliers=(1,),
    n_res_blocks=1,
    ada_length=64,
    projector_width=32,
)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed):
    return torch.randn(shape, generator=seeded(seed))


def vae_step():
    step = VAEStep(BrainVAE(VAE, seeded(0)), LossConfig())
    batch = normal(BATCH, VOXELS, seed=1), normal(BATCH, TOKENS, DIMS, seed=2)
    return step, step.vae, (*batch, normal(BATCH, TOKENS, DIMS, seed=3))


def mapper_step(every=1, response=1.0, depth=2):
    mapper = Mapper(MapperConfig(TOKENS, DIMS, depth=depth, n_heads=2), seeded(1))
    with torch.no_grad():  # it begins at 0, where gradients vanish
        for parameter in mapper.parameters():
            parameter += 0.05 * normal(*parameter.shape, seed=2)
    vae = BrainVAE(VAE, seeded(0)).requires_grad_(False)
    config = LossConfig(response=response, response_every=every)
    sd = torch.full((TOKENS, DIMS), 0.5)
    step = MapperStep(mapper, vae, config, torch.tensor(0.8), sd, VOXELS)
    tokens, targets, noise = (normal(BATCH, TOKENS, DIMS, seed=s) for s in (3, 4, 5))
    return step, mapper, (tokens, targets, normal(BATCH, VOXELS, seed=6), noise)


STEPS = {"BrainVAE": vae_step, "mapper": mapper_step, "every third": lambda: mapper_step(3)}


def gradient(step, network, batch):
    network.zero_grad()
    loss = step(*batch)
    loss.backward()
    return loss.detach(), torch.cat([p.grad.flatten() for p in network.parameters()])


def relative(a, b):
    return float((a - b).norm() / b.norm())
