"""BrainVAE: any number of voxels, honest posteriors, reproducible weights."""

from __future__ import annotations

import pytest
import torch
from msgspec.structs import replace
from torch.distributions import Normal, kl_divergence

from synbrain_cli.config import VAEConfig
from synbrain_cli.errors import InputError
from synbrain_cli.model.vae import BrainVAE, Posterior

TINY = VAEConfig(
    n_tokens=16,
    n_dims=52,
    channels=32,
    multipliers=(2, 2),
    n_res_blocks=1,
    n_scales=1,
    ada_length=64,
    projector_width=48,
)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def vae():
    return BrainVAE(TINY, seeded(0)).eval()


@pytest.fixture
def posterior():
    shape, generator = (5, 16, 52), seeded(1)
    return Posterior(
        torch.randn(shape, generator=generator), torch.randn(shape, generator=generator)
    )


@torch.no_grad()
@pytest.mark.parametrize("n_voxels", [1, 97, 128, 300, 1196, 3000])
def test_any_number_of_voxels(vae, n_voxels):
    y = torch.randn(2, n_voxels, generator=seeded(1))
    reconstruction, posterior, latent = vae(y)
    assert reconstruction.shape == y.shape
    assert posterior.mean.shape == posterior.log_variance.shape == latent.shape == (2, 16, 52)
    assert vae.decode(latent, 211).shape == (2, 211)  # another brain's number
    assert reconstruction.isfinite().all()


@torch.no_grad()
@pytest.mark.parametrize("n_scales", [0, 1, 2])
def test_any_number_of_scales(n_scales):
    config = replace(TINY, n_scales=n_scales)
    network = BrainVAE(config)
    assert network.encoder(torch.zeros(1, 1, 97)).shape == (1, 16, config.hidden_length)
    assert network(torch.zeros(1, 97))[0].shape == (1, 97)


@torch.no_grad()
def test_trials_do_not_mix(vae):
    y = torch.randn(4, 150, generator=seeded(1))
    together, alone = vae(y)[0], torch.cat([vae(row[None])[0] for row in y])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_forward_draws_only_with_noise(vae):
    y = torch.randn(2, 97, generator=seeded(1))
    _, posterior, latent = vae(y)
    assert torch.equal(latent, posterior.mean)
    noise = torch.randn(latent.shape, generator=seeded(3))
    draw = vae(y, noise)[2]
    assert torch.equal(draw, posterior.mean + posterior.sd * noise)
    assert torch.equal(vae(y, 0 * noise)[2], posterior.mean)


def test_initial_weights_depend_on_the_generator_alone():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = BrainVAE(TINY, seeded(7)).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    again, other = BrainVAE(TINY, seeded(7)).state_dict(), BrainVAE(TINY, seeded(8)).state_dict()
    assert all(torch.equal(first[k], again[k]) for k in first)
    drawn = [k for k in first if "norm" not in k and "to_" not in k and "from_" not in k]
    assert not any(torch.equal(first[k], other[k]) for k in drawn)
    default, zero = BrainVAE(TINY).state_dict(), BrainVAE(TINY, seeded(0)).state_dict()
    assert all(torch.equal(default[k], zero[k]) for k in default)


def test_initial_weights_follow_the_standard_distribution():
    ours = BrainVAE(TINY, seeded(0)).encoder.levels[0][0].conv2
    bound = (64 * 3) ** -0.5  # PyTorch: U(±1/√fan_in)
    assert ours.weight.abs().max() <= bound
    assert ours.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.03)


def test_weights_load_into_a_network_without_values(vae):
    y = torch.randn(2, 97, generator=seeded(1))
    with torch.device("meta"):
        empty = BrainVAE(TINY)
    assert all(p.is_meta for p in empty.parameters())
    empty.load_state_dict(vae.state_dict(), assign=True)
    assert torch.equal(empty.eval()(y)[0], vae(y)[0])


def test_gradients_reach_every_weight():
    network = BrainVAE(TINY, seeded(0))
    noise = torch.randn(3, TINY.n_tokens, TINY.n_dims, generator=seeded(2))
    reconstruction, posterior, _ = network(torch.randn(3, 97, generator=seeded(1)), noise)
    (reconstruction.square().mean() + posterior.kl().mean()).backward()
    blocked = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert blocked == []


def test_kl_agrees_with_torch_distributions(posterior):
    expected = kl_divergence(Normal(posterior.mean, posterior.sd), Normal(0.0, 1.0))
    torch.testing.assert_close(posterior.kl(), expected.sum((1, 2)))


def test_kl_is_zero_for_the_prior_alone(posterior):
    zeros = torch.zeros(2, 3, 4)
    assert torch.equal(Posterior(zeros, zeros).kl(), torch.zeros(2))
    assert (posterior.kl() > 0).all()


def test_kl_of_half_precision_is_summed_in_single(posterior):
    half = Posterior(*(x.bfloat16() for x in posterior))
    assert half.kl().dtype == torch.float32
    torch.testing.assert_close(half.kl(), Posterior(*(x.float() for x in half)).kl())


def test_samples_have_the_posterior_s_moments():
    n = 200_000
    posterior = Posterior(torch.full((n, 1, 1), 2.0), torch.full((n, 1, 1), 0.25).log())
    z = posterior.sample(torch.randn(n, 1, 1, generator=seeded(0)))
    assert z.mean().item() == pytest.approx(2.0, abs=0.01)
    assert z.std().item() == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (torch.zeros(97), "found torch.float32 of shape \\(97,\\)"),
        (torch.zeros(2, 1, 97), "one row per trial"),
        (torch.zeros(2, 0), "found torch.float32 of shape \\(2, 0\\)"),
        (torch.zeros(2, 97, dtype=torch.int16), "found torch.int16"),
    ],
)
def test_wrong_responses(vae, y, message):
    with pytest.raises(InputError, match=message):
        vae.encode(y)


@pytest.mark.parametrize(
    ("shape", "n_voxels", "message"),
    [
        ((2, 52, 16), 97, r"\(batch, 16, 52\), found \(2, 52, 16\)"),
        ((16, 52), 97, r"found \(16, 52\)"),
        ((2, 16, 52), 0, "at least one voxel"),
    ],
)
def test_wrong_latents(vae, shape, n_voxels, message):
    with pytest.raises(InputError, match=message):
        vae.decode(torch.zeros(shape), n_voxels)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"channels": 48}, r"multiples of 32 at every level, found \[48, 96, 96\]"),
        ({"n_scales": 3}, r"number of levels \(2\), found 3"),
        ({"ada_length": 63}, "multiple of 2 .*, found 63"),
        ({"n_res_blocks": 0}, "at least one residual block"),
    ],
)
def test_settings_that_do_not_fit(change, message):
    with pytest.raises(InputError, match=message):
        replace(TINY, **change)
