"""The benchmark's plain implementation of the published recipe computes what our networks do."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from synbrain_cli.config import LossConfig, MapperConfig, VAEConfig
from synbrain_cli.model.losses import brainvae_loss
from synbrain_cli.model.mapper import Mapper
from synbrain_cli.model.published import (
    mapper_state_from_published,
    published_mapper_shapes,
    published_vae_shapes,
    vae_state_from_published,
)
from synbrain_cli.model.vae import BrainVAE, Posterior, VAEOutput

FILE = Path(__file__).parents[2] / "benchmarks" / "published_recipe.py"
SPEC = importlib.util.spec_from_file_location("published_recipe", FILE)
recipe = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(recipe)

VAE = VAEConfig(
    n_tokens=8, n_dims=20, channels=32, multipliers=(1, 2, 2), ada_length=64, projector_width=24
)
MAPPER = MapperConfig(n_tokens=8, n_dims=20, depth=2, n_heads=2)
BATCH, N_VOXELS = 3, 150


def random_state(shapes):
    generator = torch.Generator().manual_seed(0)
    return {
        key: torch.randn(shape, generator=generator) / max(1, torch.Size(shape[1:]).numel()) ** 0.5
        for key, shape in shapes.items()
    }


@pytest.fixture(scope="module")
def vaes():
    state = random_state(published_vae_shapes(VAE))
    theirs, ours = recipe.BrainVAE(VAE), BrainVAE(VAE)
    theirs.load_state_dict(state)
    ours.load_state_dict(vae_state_from_published(theirs.state_dict()))
    return theirs, ours


@pytest.fixture(scope="module")
def mappers():
    state = random_state(published_mapper_shapes(MAPPER))
    theirs, ours = recipe.Mapper(MAPPER), Mapper(MAPPER)
    theirs.load_state_dict(state)
    ours.load_state_dict(mapper_state_from_published(theirs.state_dict()))
    return theirs, ours


@pytest.fixture(scope="module")
def batch():
    generator = torch.Generator().manual_seed(1)
    y = torch.randn(BATCH, N_VOXELS, generator=generator)
    tokens, noise = torch.randn(2, BATCH, VAE.n_tokens, VAE.n_dims, generator=generator)
    return y, tokens, noise


def agree(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("n_scales", [0, 1, 2, 3])
def test_vae_keys_and_shapes(n_scales):
    config = VAEConfig(n_scales=n_scales)
    with torch.device("meta"):
        state = recipe.BrainVAE(config).state_dict()
    assert {key: tuple(weight.shape) for key, weight in state.items()} == published_vae_shapes(
        config
    )


def test_parameters_at_paper_size():
    with torch.device("meta"):
        vae, mapper = recipe.BrainVAE(VAEConfig()), recipe.Mapper(MapperConfig())
    assert sum(p.numel() for p in vae.parameters()) == 78_311_937
    assert sum(p.numel() for p in mapper.parameters()) == 410_856_576


def test_vae(vaes, batch):
    theirs, ours = vaes
    y, tokens, _ = batch
    for found, expected in zip(theirs.encode(y), ours.encode(y), strict=True):
        agree(found, expected)
    agree(theirs.decode(tokens, N_VOXELS), ours.decode(tokens, N_VOXELS))


def test_mapper(mappers, batch):
    theirs, ours = mappers
    agree(theirs(batch[1]), ours(batch[1]))


def test_vae_loss_is_ours_over_the_number_of_voxels(vaes, batch):
    theirs, ours = vaes
    y, tokens, noise = batch
    config = LossConfig(
        kl=recipe.KL_WEIGHT * tokens[0].numel() / N_VOXELS, clip=recipe.CLIP_WEIGHT / N_VOXELS
    )
    posterior: Posterior = ours.encode(y)
    latent = posterior.mean + posterior.sd * noise
    output = VAEOutput(ours.decode(latent, N_VOXELS), posterior, latent)
    expected, _ = brainvae_loss(output, y, tokens, config)
    agree(recipe.vae_loss(theirs, y, tokens, noise) / N_VOXELS, expected)


def test_mapper_loss_meets_the_posterior_mean(vaes, mappers, batch):
    y, tokens, _ = batch
    found = recipe.mapper_loss(mappers[0], vaes[0], y, tokens)
    agree(found, F.mse_loss(mappers[1](tokens), vaes[1].encode(y).mean))


def test_steps_learn(batch):
    """Both losses fall on one batch; the average hardly moves, the frozen encoder not at all."""
    torch.manual_seed(0)
    y, tokens, noise = batch
    vae, mapper = recipe.BrainVAE(VAE), recipe.Mapper(MAPPER)
    stage1 = recipe.VAETraining(vae)
    losses = [float(stage1.step(y, tokens, noise)) for _ in range(20)]
    assert losses[-1] < losses[0]

    stage2 = recipe.MapperTraining(mapper, vae)
    frozen = [p.clone() for p in vae.parameters()]
    weight = mapper.final_layer.linear.weight
    before = weight.detach().clone()
    first = float(stage2.step(y, tokens))
    moved = stage2.average.final_layer.linear.weight - before
    ratio = moved.norm() / (weight - before).norm()
    assert 0.5e-4 < ratio.item() < 2e-4  # 1e-4, of steps near float32's resolution
    assert [stage2.step(y, tokens) for _ in range(20)][-1].item() < first
    assert all(map(torch.equal, frozen, vae.parameters()))
