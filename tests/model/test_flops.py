"""Operations of the networks at the published size, against the figures for the published ones."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from synbrain_cli.config import MapperConfig, VAEConfig

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def found():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        flops = importlib.import_module("flops")
    return flops.gigaflops(VAEConfig(), MapperConfig(), 15_724)


# GFLOP of one item, 15,724 voxels. A training step is three forward passes, but that the published
# mapper's also has the linear layers of its time (0.3 GFLOP each way), and a frozen encoding.
@pytest.mark.parametrize(
    ("what", "gigaflops"),
    [
        ("encode", 158),
        ("decode", 240),
        ("map", 141),
        ("synthesis", 381),
        ("vae/recipe", 1193),
        ("vae/ours", 1193),
        ("s2n/recipe", 583),
        ("s2n/ours", 583 - 158),
    ],
)
def test_published_figures(found, what, gigaflops):
    assert found[what] == pytest.approx(gigaflops, rel=0.01)


def test_response_loss_costs_a_decoding_and_its_gradient_in_the_latent(found):
    """The decoder is frozen: its backward pass leaves out the gradient of its weights."""
    assert found["s2n/response"] - found["s2n/ours"] == pytest.approx(2 * 240, rel=0.1)
