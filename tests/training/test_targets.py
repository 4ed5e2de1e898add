"""The mapper's targets: posterior means of every trial, computed once."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from synbrain_cli.config import VAEConfig
from synbrain_cli.model.tokens import BandScaler, StandardBand
from synbrain_cli.model.vae import BrainVAE
from synbrain_cli.run import RunContext
from synbrain_cli.training.examples import Examples
from synbrain_cli.training.networks import mapper_targets

CONFIG = VAEConfig(
    n_tokens=16,
    n_dims=20,
    channels=32,
    multipliers=(1,),
    n_res_blocks=1,
    ada_length=64,
    projector_width=32,
)


@pytest.fixture
def examples(rng):
    """40 images, seen once to four times, in any order."""
    index = rng.permutation(np.repeat(np.arange(40), rng.integers(1, 5, 40)))
    betas = rng.normal(size=(len(index), 97)).astype(np.float32)
    store = rng.normal(size=(40, 16, 20)).astype(np.float32)
    tokens = StandardBand(store, np.arange(40), BandScaler.fit(store))
    return Examples(betas, index, tokens, np.zeros((40, 97), np.float32))


def test_they_are_averages_over_repeats(examples, tmp_path):
    vae = BrainVAE(CONFIG, torch.Generator().manual_seed(0)).eval()
    run = RunContext()
    targets = mapper_targets(vae, examples, run, tmp_path)
    with torch.inference_mode():
        posterior = vae.encode(torch.from_numpy(examples.betas))
    means = posterior.mean.numpy()
    expected = np.stack([means[examples.image_index == k].mean(0) for k in range(40)])
    np.testing.assert_allclose(targets.latents, expected, rtol=1e-4, atol=1e-5)
    variance = posterior.log_variance.exp().mean(0)
    np.testing.assert_allclose(targets.latent_sd**2, variance.numpy(), rtol=1e-4)
    assert targets.variance == pytest.approx(float(expected.var(0, ddof=1).mean()), rel=1e-4)

    blind = SimpleNamespace(config=CONFIG)  # could not encode once more
    again = mapper_targets(blind, examples, run, tmp_path)
    np.testing.assert_array_equal(again.latents, targets.latents)
    np.testing.assert_array_equal(again.latent_sd, targets.latent_sd)
