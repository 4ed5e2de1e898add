"""The mapper's targets: posterior means of every trial, computed once."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from synbrain_cli.config import VAEConfig
from synbrain_cli.distributed import SINGLE_PROCESS
from synbrain_cli.model.tokens import StandardTokens, TokenScaler
from synbrain_cli.model.vae import BrainVAE
from synbrain_cli.pipeline.train import TrainingRun
from synbrain_cli.training.examples import Examples

CONFIG = VAEConfig(
    n_tokens=16,
    n_dims=20,
    channels=32,
    multipliers=(1,),
    n_res_blocks=1,
    ada_length=64,
    projector_width=32,
)
FULL = {"device_type": "cpu", "dtype": torch.bfloat16, "enabled": False}


@pytest.fixture
def examples(rng):
    """40 images, seen once to four times, in any order."""
    index = rng.permutation(np.repeat(np.arange(40), rng.integers(1, 5, 40)))
    betas = rng.normal(size=(len(index), 97)).astype(np.float32)
    store = rng.normal(size=(40, 16, 20)).astype(np.float32)
    tokens = StandardTokens(store, np.arange(40), TokenScaler.fit(store))
    return Examples(betas, index, tokens, np.zeros((40, 97), np.float32))


def test_they_are_averages_over_repeats(examples, tmp_path):
    vae = BrainVAE(CONFIG, torch.Generator().manual_seed(0)).eval()
    run = TrainingRun(tmp_path / "sub-01", {})
    run.partial.mkdir()
    targets = run.targets(vae, examples, FULL, SINGLE_PROCESS)
    with torch.inference_mode():
        posterior = vae.encode(torch.from_numpy(examples.betas))
    means = posterior.mean.numpy()
    expected = np.stack([means[examples.image_index == k].mean(0) for k in range(40)])
    np.testing.assert_allclose(targets, expected, rtol=1e-4, atol=1e-5)
    variance = posterior.log_variance.exp().mean(0)
    np.testing.assert_allclose(run.latent_sd**2, variance.numpy(), rtol=1e-4)
    assert run.target_variance == pytest.approx(float(expected.var(0, ddof=1).mean()), rel=1e-4)

    blind = SimpleNamespace(config=CONFIG)  # could not encode once more
    again = TrainingRun(tmp_path / "sub-01", {})
    np.testing.assert_array_equal(again.targets(blind, examples, FULL, SINGLE_PROCESS), targets)
    np.testing.assert_array_equal(again.latent_sd, run.latent_sd)
    again.forget_stages()
    assert not list(run.partial.iterdir())
