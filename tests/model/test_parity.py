"""Agreement with the published networks: every key, every number."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from synbrain_cli.config import LossConfig, MapperConfig, VAEConfig
from synbrain_cli.errors import InputError
from synbrain_cli.model.layers import sinusoidal_positions
from synbrain_cli.model.losses import brainvae_loss, soft_clip
from synbrain_cli.model.mapper import Mapper
from synbrain_cli.model.published import (
    mapper_config_from_published,
    mapper_state_from_published,
    vae_config_from_published,
    vae_state_from_published,
)
from synbrain_cli.model.vae import BrainVAE

SHARED = Path(
    os.environ.get("SYNBRAIN_SHARED", Path(__file__).resolve().parents[2].parent / "shared")
)
PARITY = SHARED / "parity"
pytestmark = pytest.mark.skipif(
    not PARITY.is_dir(), reason=f"no reference network in {PARITY} (set SYNBRAIN_SHARED)"
)


@pytest.fixture(scope="module")
def vectors():
    with np.load(PARITY / "tiny_vectors.npz") as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


@pytest.fixture(scope="module")
def published_vae():
    return torch.load(PARITY / "tiny_brainvae_last.pth", weights_only=True)["model"]


@pytest.fixture(scope="module")
def published_mapper():
    with torch.serialization.safe_globals([argparse.Namespace]):
        return torch.load(PARITY / "tiny_s2n_last.pt", weights_only=True)


@pytest.fixture(scope="module")
def vae(published_vae):
    network = BrainVAE(vae_config_from_published(published_vae)).eval()
    network.load_state_dict(vae_state_from_published(published_vae))
    return network.requires_grad_(False)


def mapper(published, prediction: str) -> Mapper:
    config = mapper_config_from_published(
        published["ema"], published["args"].model_head, prediction
    )
    network = Mapper(config).eval()
    network.load_state_dict(mapper_state_from_published(published["ema"]))
    return network.requires_grad_(False)


def agree(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_architecture_is_read_from_the_weights(published_vae, published_mapper):
    tiny = json.loads((PARITY / "tiny_config.json").read_text())
    theirs = tiny["brainvae"]
    assert theirs["num_down_blocks"] == theirs["num_up_blocks"]
    config = vae_config_from_published(published_vae)
    assert config == VAEConfig(
        n_tokens=theirs["z_channels"],
        n_dims=theirs["embed_dim"],
        channels=theirs["ch"],
        multipliers=tuple(theirs["ch_mult"]),
        n_res_blocks=theirs["num_res_blocks"],
        n_scales=theirs["num_down_blocks"],
        ada_length=theirs["ada_length"],
        projector_width=theirs["linear_dim"],
    )
    assert config.hidden_length == theirs["hidden_dim"]
    theirs = tiny["s2n"]
    assert mapper_config_from_published(published_mapper["ema"], 4) == MapperConfig(
        n_tokens=theirs["n_tokens"],
        n_dims=theirs["embed_dim"],
        depth=theirs["depth"],
        n_heads=theirs["n_heads"],
        mlp_ratio=theirs["mlp_ratio"],
        prediction=theirs["prediction"],
    )


@pytest.mark.parametrize("name", ["y", "y2"])  # 300 and 97 voxels
def test_encode(vae, vectors, name):
    posterior = vae.encode(vectors[name].squeeze(1))
    agree(posterior.mean, vectors[f"{name}_mean"])
    agree(posterior.log_variance, vectors[f"{name}_logvar"])


@pytest.mark.parametrize(
    ("latent", "expected"),
    [("y_mean", "recon_300"), ("s2n_latent", "synth_300"), ("s2n_latent", "synth_211")],
)
def test_decode(vae, vectors, latent, expected):
    expected = vectors[expected].squeeze(1)
    agree(vae.decode(vectors[latent], expected.shape[1]), expected)


@pytest.mark.parametrize(("prediction", "name"), [("x", "s2n_latent"), ("v", "s2n_latent_v")])
def test_mapper(published_mapper, vectors, prediction, name):
    agree(mapper(published_mapper, prediction)(vectors["clip_tokens"]), vectors[name])


@pytest.mark.parametrize(("n_voxels", "name"), [(300, "synth_300"), (211, "synth_211")])
def test_image_to_voxels(vae, published_mapper, vectors, n_voxels, name):
    latent = mapper(published_mapper, "x")(vectors["clip_tokens"])
    agree(vae.decode(latent, n_voxels), vectors[name].squeeze(1))


def test_losses(vae, vectors):
    y, tokens = vectors["y"].squeeze(1), vectors["clip_tokens"]
    output = vae(y)
    _, posterior, latent = output
    torch.testing.assert_close(posterior.kl(), vectors["kl"], rtol=1e-5, atol=1e-5)
    agree(soft_clip(vectors["y_mean"], tokens, 0.125), vectors["clip_loss"])
    # the published sums are ours, undivided
    _, parts = brainvae_loss(output, y, tokens, LossConfig())
    agree(parts["reconstruction"] * y.shape[1], vectors["mse_loss"])
    agree(parts["kl"] * latent[0].numel(), vectors["kl"].mean())
    agree(parts["clip"], vectors["clip_loss"])


def test_positions(published_mapper):
    theirs = published_mapper["ema"]["pos_embed"].squeeze(0)
    agree(sinusoidal_positions(*theirs.shape), theirs)


def test_conversion_keeps_dtype_and_leaves_input_alone(published_mapper):
    ema = {k: v.double() for k, v in published_mapper["ema"].items()}
    before = {k: v.clone() for k, v in ema.items()}
    folded = mapper_state_from_published(ema)
    assert {v.dtype for v in folded.values()} == {torch.float64}
    assert all(torch.equal(ema[k], before[k]) for k in ema)


def broken(state, change):
    state = dict(state)
    change(state)
    return state


VAE_KEY, MAPPER_KEY = "module.decoder.up.1.block.2.conv2.bias", "blocks.1.mlp.fc2.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop(VAE_KEY), r"missing keys \['decoder\.up\.1\.block\.2\.conv2\.bias'\]"),
        (lambda s: s.pop("module.encoder.conv_in.weight"), r"encoder\.conv_in\.weight"),
        (lambda s: s.update(extra=torch.zeros(1)), r"unknown keys \['extra'\]"),
        (lambda s: s.update({VAE_KEY: torch.zeros(3)}), r"up\.1\.block\.2\.conv2\.bias of shape"),
        (
            lambda s: s.update({"module.encoder.mid.attn_1.k.weight": torch.zeros(3, 128, 1)}),
            r"attn_1\.k\.weight of shape \(128, 128, 1\), found \(3, 128, 1\)",
        ),
        (lambda s: s.clear(), "found 0 keys"),
    ],
)
def test_vae_accounts_for_every_key(published_vae, change, message):
    with pytest.raises(InputError, match=message):
        vae_state_from_published(broken(published_vae, change))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop(MAPPER_KEY), r"missing keys \['blocks\.1\.mlp\.fc2\.weight'\]"),
        (lambda s: s.update(extra=torch.zeros(1)), r"unknown keys \['extra'\]"),
        (lambda s: s.update({MAPPER_KEY: torch.zeros(3)}), r"fc2\.weight of shape \(52, 208\)"),
        (lambda s: s.pop("pos_embed"), "pos_embed"),
    ],
)
def test_mapper_accounts_for_every_key(published_mapper, change, message):
    with pytest.raises(InputError, match=message):
        mapper_state_from_published(broken(published_mapper["ema"], change))


def test_number_of_heads_is_asked_for_where_unknown(published_mapper):
    with pytest.raises(InputError, match="pass n_heads"):
        mapper_config_from_published(published_mapper["ema"])


# --- paper size, without memory: the meta device ---------------------------------------------


def paper_state(file: str) -> dict[str, torch.Tensor]:
    rows = [line.split("\t") for line in (PARITY / "checkpoint_keys.tsv").read_text().splitlines()]
    return {
        key: torch.empty([int(n) for n in shape.split("x")], device="meta")
        for name, _, key, shape in rows[1:]
        if name.startswith(file)
    }


def test_paper_size_vae():
    state = paper_state("brainvae")
    assert vae_config_from_published(state) == VAEConfig()
    with torch.device("meta"):
        network = BrainVAE(VAEConfig())
    assert sum(p.numel() for p in network.parameters()) == 78_311_937
    assert sum(p.numel() for p in state.values()) == 78_311_937
    network.load_state_dict(vae_state_from_published(state), strict=True, assign=True)


@pytest.mark.parametrize(("n_scales", "millions"), [(2, 69.4), (3, 65.4)])
def test_paper_variants(n_scales, millions):
    with torch.device("meta"):
        network = BrainVAE(VAEConfig(n_scales=n_scales))
    n_parameters = sum(p.numel() for p in network.parameters())
    assert n_parameters / 1e6 == pytest.approx(millions, abs=0.05)


@torch.no_grad()
def test_paper_size_work():
    with torch.device("meta"):
        vae, mapper = BrainVAE(VAEConfig()), Mapper(MapperConfig())
        y, tokens = torch.empty(1, 15_724), torch.empty(1, 256, 1664)
    for gigaflops, call in (
        (158, lambda: vae.encode(y)),
        (240, lambda: vae.decode(tokens, y.shape[1])),
        (141, lambda: mapper(tokens)),
    ):
        with FlopCounterMode(display=False) as counter:
            call()
        assert round(counter.get_total_flops() / 1e9) == gigaflops


def test_paper_size_mapper():
    state = paper_state("s2n")
    assert mapper_config_from_published(state) == MapperConfig()
    with torch.device("meta"):
        network = Mapper(MapperConfig())
    network.load_state_dict(mapper_state_from_published(state), strict=True, assign=True)
    published = sum(p.numel() for p in state.values())
    assert published == 410_856_576
    kept = sum(p.numel() for p in network.parameters()) + network.positions.numel()
    assert round(100 * (1 - kept / published), 1) == 34.5
