"""The objective: what lowers it, what raises it, and its balance at any number of voxels."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from synbrain_cli.config import LossConfig
from synbrain_cli.errors import InputError
from synbrain_cli.model.losses import brainvae_loss, soft_clip
from synbrain_cli.model.vae import Posterior, VAEOutput


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def tokens():
    return normal(8, 16, 12)


def case(n_voxels: int, scale: float = 1.0):
    """Network output, y of standard deviation ``scale``, and tokens of 16 trials."""
    y = scale * normal(16, n_voxels, seed=1)
    posterior = Posterior(normal(16, 4, 6, seed=2), normal(16, 4, 6, seed=3))
    output = VAEOutput(torch.zeros_like(y), posterior, posterior.mean)
    return output, y, normal(16, 4, 6, seed=4)


def test_soft_clip_is_lowest_where_latents_are_the_tokens(tokens):
    best = soft_clip(tokens, tokens)
    c = F.normalize(tokens.flatten(1), dim=1)
    entropy = torch.distributions.Categorical(logits=c @ c.T / 0.125).entropy().mean()
    torch.testing.assert_close(best, entropy)
    for seed in range(1, 20):
        assert soft_clip(tokens + 0.3 * normal(8, 16, 12, seed=seed), tokens) > best


def test_soft_clip_worsens_when_images_are_shuffled(tokens):
    latent = tokens + normal(8, 16, 12, seed=1)
    assert soft_clip(latent.roll(1, 0), tokens) > soft_clip(latent, tokens) + 1
    together = torch.randperm(8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        soft_clip(latent[together], tokens[together]), soft_clip(latent, tokens)
    )


def test_soft_clip_ignores_the_norm(tokens):
    latent = tokens + normal(8, 16, 12, seed=1)
    torch.testing.assert_close(soft_clip(5 * latent, tokens), soft_clip(latent, tokens))


def test_soft_clip_shares_its_target_between_repeats_of_an_image(tokens):
    repeated = tokens[[0, 0, 1, 1]]
    swapped = repeated[[1, 0, 3, 2]] + 0.1 * normal(4, 16, 12, seed=1)
    torch.testing.assert_close(
        soft_clip(swapped, repeated), soft_clip(swapped[[1, 0, 3, 2]], repeated)
    )


def test_soft_clip_is_single_precision_under_autocast(tokens):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = soft_clip(tokens, tokens)
    torch.testing.assert_close(loss, soft_clip(tokens, tokens))


def test_total_is_the_weighted_sum_of_the_parts():
    config = LossConfig(kl=0.3, clip=0.7)
    output, y, tokens = case(50)
    total, parts = brainvae_loss(output, y, tokens, config, 2.0)
    expected = {
        "reconstruction": y.square().mean() / 2,
        "kl": output.posterior.kl().mean() / 24,
        "clip": soft_clip(output.latent, tokens, config.temperature),
    }
    assert parts.keys() == expected.keys()
    for name in parts:
        torch.testing.assert_close(parts[name], expected[name])
    torch.testing.assert_close(
        total, parts["reconstruction"] + 0.3 * parts["kl"] + 0.7 * parts["clip"]
    )


def test_balance_is_the_same_for_any_number_of_voxels():
    few, many = (brainvae_loss(*case(n), LossConfig())[1] for n in (300, 20_000))
    for part in ("kl", "clip"):
        ratios = [(p[part] / p["reconstruction"]).item() for p in (few, many)]
        assert ratios[0] == pytest.approx(ratios[1], rel=0.05)


def test_balance_is_the_same_in_any_unit():
    one = brainvae_loss(*case(300), LossConfig())[0]
    percent = brainvae_loss(*case(300, scale=0.37), LossConfig(), voxel_variance=0.37**2)[0]
    torch.testing.assert_close(one, percent)


def test_balance_is_the_published_one_at_the_published_size():
    n_voxels, n_latent, variance = 15_724, 256 * 1664, 0.135
    config = LossConfig()
    assert config.kl == pytest.approx(0.001 * n_latent / (n_voxels * variance), rel=0.01)
    assert config.clip == pytest.approx(1000 / (n_voxels * variance), rel=0.01)


def test_parts_carry_no_gradient():
    output, y, tokens = case(50)
    output.reconstruction.requires_grad_()
    total, parts = brainvae_loss(output, y, tokens, LossConfig())
    assert total.requires_grad
    assert not any(part.requires_grad for part in parts.values())


def test_shapes_that_do_not_match(tokens):
    with pytest.raises(InputError, match=r"\(8, 16, 12\), found \(3, 16, 12\)"):
        soft_clip(tokens[:3], tokens)
    output, y, tokens = case(50)
    narrow = output._replace(reconstruction=output.reconstruction[:, :1])
    with pytest.raises(InputError, match=r"\(16, 50\), found \(16, 1\)"):
        brainvae_loss(narrow, y, tokens, LossConfig())
