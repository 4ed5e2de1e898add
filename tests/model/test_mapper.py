"""The mapper: starts from nothing, learns, and fine-tunes its MLPs alone."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from msgspec.structs import replace

from synbrain_cli.config import MapperConfig
from synbrain_cli.errors import InputError
from synbrain_cli.model.layers import sinusoidal_positions
from synbrain_cli.model.mapper import Mapper

TINY = MapperConfig(n_tokens=16, n_dims=52, depth=2, n_heads=4)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def tokens():
    return torch.randn(3, 16, 52, generator=seeded(1))


def busy(config: MapperConfig) -> Mapper:
    """A mapper none of whose weights is zero."""
    network = Mapper(config, seeded(0))
    generator = seeded(5)
    with torch.no_grad():
        for p in network.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=generator))
    return network


@torch.no_grad()
def test_starts_from_nothing(tokens):
    assert torch.equal(Mapper(TINY)(tokens), torch.zeros_like(tokens))
    untrained = Mapper(replace(TINY, prediction="v"))
    assert torch.equal(untrained(tokens), tokens)


@torch.no_grad()
def test_prediction_v_adds_the_tokens(tokens):
    x, v = busy(TINY), busy(replace(TINY, prediction="v"))
    torch.testing.assert_close(v(tokens), tokens + x(tokens))


@torch.no_grad()
def test_images_do_not_mix(tokens):
    network = busy(TINY)
    alone = torch.cat([network(image[None]) for image in tokens])
    torch.testing.assert_close(network(tokens), alone, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_order_of_tokens_matters(tokens):
    network = busy(TINY)
    assert not torch.allclose(network(tokens.flip(1)).flip(1), network(tokens), atol=1e-3)


def test_initial_weights_depend_on_the_generator_alone():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = Mapper(TINY, seeded(7)).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    again, other = Mapper(TINY, seeded(7)).state_dict(), Mapper(TINY, seeded(8)).state_dict()
    assert all(torch.equal(first[k], again[k]) for k in first)
    drawn = {f"blocks.{i}.{name}.weight" for i in range(2) for name in ("qkv", "mlp.0")}
    assert {k for k in first if not torch.equal(first[k], other[k])} == drawn


def test_gradients_reach_what_zeros_do_not_block(tokens):
    network = Mapper(TINY, seeded(0))
    F.mse_loss(network(tokens), tokens).backward()
    reached = {n for n, p in network.named_parameters() if p.grad.any()}
    assert reached == {"last.weight", "last.bias"}  # the rest is behind the last layer's zeros
    network = busy(TINY)
    F.mse_loss(network(tokens), tokens).backward()
    assert all(p.grad.any() for p in network.parameters())


def test_learns(tokens):
    network = Mapper(replace(TINY, depth=1), seeded(0))
    target = tokens.flip(0).roll(3, 1)
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    losses = []
    for _ in range(40):
        loss = F.mse_loss(network(tokens), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]


def test_mlp_parameters():
    network = Mapper(TINY)
    names = {id(p): name for name, p in network.named_parameters()}
    assert [names[id(p)] for p in network.mlp_parameters()] == [
        f"blocks.{i}.mlp.{j}.{kind}"
        for i in range(2)
        for j in (0, 2)
        for kind in ("weight", "bias")
    ]


def test_positions():
    positions = sinusoidal_positions(16, 52)
    assert torch.equal(positions[0], torch.tensor([0.0] * 26 + [1.0] * 26))
    torch.testing.assert_close(positions[:, 0], torch.arange(16.0).sin())
    torch.testing.assert_close(positions[:, 27], (torch.arange(16) * 10000 ** (-1 / 26)).cos())


@torch.no_grad()
def test_weights_load_into_a_network_without_values(tokens):
    with torch.device("meta"):
        empty = Mapper(TINY)
    network = busy(TINY)
    empty.load_state_dict(network.state_dict(), assign=True)
    assert torch.equal(empty(tokens), network(tokens))


@pytest.mark.parametrize("shape", [(16, 52), (2, 15, 52), (2, 16, 51), (2, 3, 16, 52)])
def test_wrong_tokens(shape):
    with pytest.raises(InputError, match=r"\(batch, 16, 52\), found .*image encoder"):
        Mapper(TINY)(torch.zeros(shape))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prediction": "eps"}, "'x' or 'v', found 'eps'"),
        ({"n_heads": 5}, r"n_dims \(52\) to be a multiple of n_heads, found 5"),
        ({"n_dims": 51, "n_heads": 3}, "even n_dims"),
    ],
)
def test_settings_that_do_not_fit(change, message):
    with pytest.raises(InputError, match=message):
        replace(TINY, **change)
