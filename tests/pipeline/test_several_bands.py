"""A model that sees images through several bands, end to end, on few images."""

from __future__ import annotations

import shutil
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import QUIET
from PIL import Image
from sealing import change_sealed, reseal_bundle

from synbrain_cli import load_model
from synbrain_cli.bands import join_bands
from synbrain_cli.datasets.table import Experiment
from synbrain_cli.errors import InputError
from synbrain_cli.evaluation.settings import EvaluateSettings
from synbrain_cli.io.arrays import load_arrays, save_arrays
from synbrain_cli.io.bundle import fingerprint
from synbrain_cli.io.files import read_json
from synbrain_cli.io.token_store import TokenStore
from synbrain_cli.io.workspace import Workspace
from synbrain_cli.pipeline.evaluate import evaluate
from synbrain_cli.pipeline.prepare import prepare_table
from synbrain_cli.pipeline.preparing import Target
from synbrain_cli.pipeline.train import TrainSettings, train
from synbrain_cli.run import RunContext
from synbrain_cli.tokens import Tokens
from synbrain_cli.training.examples import load_examples

ENCODERS = ("gabor", "efficientnet@4,5", "pixels")
SPECS = ["gabor", "efficientnet@4", "efficientnet@5", "pixels"]
SHAPES = ((256, 48), (196, 120), (49, 352), (256, 3))
N_IMAGES, N_REPEATS, N_VOXELS = 50, 2, 15
RUN = RunContext(device=torch.device("cpu"), progress=QUIET)
FEW = EvaluateSettings(n_draws=20, latent=False, n_boot=20)


def write_raw(folder):
    """Pictures of two colours and gratings, and responses to each of these."""
    rng = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    wave = np.sin(np.arange(64) / 64 * 2 * np.pi * 8)
    known = rng.uniform(0, 1, (N_IMAGES, 3))
    for i, (across, red, blue) in enumerate(known):
        grey = 128 + 50 * across * wave[None] * np.ones((64, 1))
        colour = np.stack([grey + 60 * red - 30, grey, grey + 60 * blue - 30], 2)
        Image.fromarray(colour.clip(0, 255).astype(np.uint8)).save(folder / f"images/i{i:02d}.png")
    image = np.tile(np.arange(N_IMAGES), N_REPEATS)
    signal = (known - known.mean(0)) / known.std(0) @ rng.normal(size=(3, N_VOXELS))
    betas = signal[image] + rng.normal(size=(len(image), N_VOXELS))
    np.save(folder / "responses.npy", betas.astype(np.float32))
    table = pd.DataFrame({"image": [f"i{i:02d}.png" for i in image]})
    table.to_csv(folder / "trials.tsv", sep="\t", index=False)


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    folder = tmp_path_factory.mktemp("raw")
    write_raw(folder)
    return folder


@pytest.fixture(scope="module")
def bands(raw, tmp_path_factory):
    """A prepared subject, its tokens under four bands, and its linear model."""
    workspace = Workspace(tmp_path_factory.mktemp("bands"))
    experiment = Experiment(
        trials=(raw / "trials.tsv",),
        images=raw / "images",
        responses=(raw / "responses.npy",),
        test_share=0.3,
    )
    result = prepare_table(Target(workspace, "own", ENCODERS), experiment, "01", RUN)
    subject, store = result.subjects[0], workspace.find_tokens("own", None, QUIET.info)
    made = train(workspace, subject, store, TrainSettings("linear"), RUN)
    return SimpleNamespace(
        workspace=workspace, subject=subject, store=store, folder=made.folder, images=raw / "images"
    )


@pytest.fixture(scope="module")
def brain(bands):
    return load_model(bands.folder, "cpu")


@pytest.fixture
def tokens(bands):
    return bands.store.take(bands.store.images[:4])


def test_the_record_names_every_band(bands, brain):
    config = read_json(bands.folder / "config.json")
    assert [band["spec"] for band in config["bands"]] == SPECS
    assert brain.config.token_shapes == SHAPES
    assert brain.config.encoder == "gabor + efficientnet@4,5 + pixels"
    assert brain.config.encoder in repr(brain)
    assert brain.config.encoder in (bands.folder / "card.md").read_text()
    arrays = load_arrays(bands.folder / "arrays.safetensors")
    for k, (n_tokens, n_dims) in enumerate(SHAPES):
        assert arrays[f"token_mean.{k}"].shape == (n_tokens, n_dims)
        assert arrays[f"token_sd.{k}"].shape == (n_dims,)


def test_images_are_seen_through_every_band(bands, brain, tokens):
    """Pictures, their tokens, and tokens that were prepared give one response."""
    paths = [bands.images / f"{name}.png" for name in bands.store.images[:4]]
    expected = brain.mean(paths)
    assert expected.shape == (4, N_VOXELS)
    np.testing.assert_allclose(brain.mean(tokens), expected, atol=1e-4)
    pixels = [np.asarray(Image.open(path)) for path in paths]
    np.testing.assert_allclose(brain.mean(brain.encoder(pixels)), expected, atol=1e-4)
    draws = brain.draw(tokens, 3, seed=1)
    assert draws.shape == (4, 3, N_VOXELS)
    np.testing.assert_array_equal(brain.draw(tokens[[2, 0]], 3, seed=1), draws[[2, 0]])


def test_every_band_counts(brain, tokens):
    whole = brain.mean(tokens, "z")
    for k, band in enumerate(tokens.bands):
        others = [0 * one if j == k else one for j, one in enumerate(tokens.bands)]
        if brain.predictors.linear.by_band()[k].any():
            assert not np.allclose(brain.mean(Tokens.of(*others), "z"), whole), band.shape
    assert (brain.predictors.linear.by_band().sum(1) > 0).sum() >= 3


def test_draws_depend_on_what_every_band_shows(brain, tokens):
    """Bit by bit: the digest of an image's tokens is of all bands."""
    last = tokens.bands[3].copy()
    last[0, 7, 1] = np.nextafter(last[0, 7, 1], 1, dtype=np.float32)
    other = Tokens.of(*tokens.bands[:3], last)
    one, two = brain.draw(tokens[:1], 2), brain.draw(other[:1], 2)
    assert np.abs(one - two).max() > 0.1


def wrong(tokens):
    """Tokens that are none of the model's, and what is said of them."""
    first, *others = tokens.bands
    yield Tokens.of(first), r"found \(n_images, 256, 48\)$"
    yield first, r"found \(n_images, 256, 48\)$"
    yield Tokens.of(*others, first), r"found \(n_images, 196, 120\), .*, \(n_images, 256, 48\)$"
    yield Tokens.of(first[..., :47], *others), r"found \(n_images, 256, 47\), "
    yield Tokens.of(*tokens.bands, first), r"found .*\(n_images, 256, 3\), \(n_images, 256, 48\)$"


def test_tokens_of_other_bands_are_refused(brain, tokens):
    for others, found in wrong(tokens):
        message = (
            r"expected tokens of shape \(n_images, 256, 48\), \(n_images, 196, 120\).*encoder "
        )
        with pytest.raises(
            InputError, match=rf"{message}gabor \+ efficientnet@4,5 \+ pixels, {found}"
        ):
            brain.mean(others)


def test_it_is_evaluated_against_prepared_tokens(bands, brain, unpainted):
    result = evaluate(bands.workspace, brain, bands.subject, bands.store, FEW, run=RUN)
    scores = result.metrics.overall.voxelwise_correlation
    assert scores.model > 0.3 > abs(scores.shuffled)
    assert result.metrics.retrieval.linear_decoder.raw > 2 / 15


@pytest.mark.parametrize("encoders", [["gabor"], ["efficientnet", "gabor", "pixels"]])
def test_other_bands_than_the_models_are_refused(bands, brain, encoders):
    """Fewer of them, or in another order."""
    store = bands.workspace.find_tokens("own", encoders, QUIET.info)
    with pytest.raises(InputError, match=r"-01_linear was trained on .*pass its --encoder"):
        evaluate(bands.workspace, brain, bands.subject, store, FEW, run=RUN)


def test_a_layer_is_not_taken_for_another(bands, brain, tmp_path):
    folder = shutil.copytree(bands.folder, tmp_path / "other")
    config = read_json(folder / "config.json")
    config["bands"][2]["spec"] = config["bands"][2]["spec"].replace("@5", "@3")
    change_sealed(folder / "config.json", bands=config["bands"])
    with pytest.raises(InputError, match="trained with the image encoder"):
        _ = load_model(folder, "cpu").encoder


def test_a_band_whose_arrays_are_missing_is_told(bands, tmp_path):
    folder = shutil.copytree(bands.folder, tmp_path / "short")
    arrays = load_arrays(folder / "arrays.safetensors")
    del arrays["token_mean.2"]
    save_arrays(folder / "arrays.safetensors", arrays)
    reseal_bundle(folder, fingerprint=fingerprint(folder))
    with pytest.raises(InputError, match=r"arrays\.safetensors.*token_mean\.2"):
        load_model(folder, "cpu")


def test_trained_again_it_is_the_same(bands, tmp_path):
    workspace = Workspace(tmp_path)
    made = train(workspace, bands.subject, bands.store, TrainSettings("linear"), RUN)
    for name in ("linear", "arrays", "readout"):
        one, other = (load_arrays(f / f"{name}.safetensors") for f in (bands.folder, made.folder))
        assert one.keys() == other.keys()
        for key, array in one.items():
            np.testing.assert_array_equal(other[key], array, err_msg=key)
    assert (
        read_json(made.folder / "config.json")["fingerprint"]
        == load_model(bands.folder, "cpu").config.fingerprint
    )


def test_bands_in_another_order_are_another_model(bands):
    stores = TokenStore(tuple(reversed(bands.store.stores)))
    with pytest.raises(InputError, match=r"made with other settings \(bands"):
        train(bands.workspace, bands.subject, stores, TrainSettings("linear"), RUN)


def test_examples_hold_every_band_of_the_same_images(bands):
    examples = load_examples(bands.subject, bands.store)
    assert examples.scaler.shapes == SHAPES
    raw = examples.both.tokens.raw()
    expected = bands.store.take(examples.images)
    for one, other in zip(raw.bands, expected.bands, strict=True):
        np.testing.assert_array_equal(one, other)
    standard = examples.scaler(raw)
    for one, other in zip(examples.both.tokens[:].bands, standard.bands, strict=True):
        np.testing.assert_array_equal(one, other)
    part = examples.both.tokens.part(np.array([3, 1]))
    for one, other in zip(part.raw().bands, raw.bands, strict=True):
        np.testing.assert_array_equal(one, other[[3, 1]])


# Networks on several bands -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def full(bands):
    """Model with the response network and the published networks."""
    settings = TrainSettings("full", preset="test")
    made = train(bands.workspace, bands.subject, bands.store, settings, RUN)
    return load_model(made.folder, "cpu")


def test_networks_see_the_bands_as_one(full, tokens):
    assert full.predictors.names == ("linear", "network", "deep")
    joint = full.networks.joint
    assert len(joint.axes) == 4
    n_dims = sum(axes.shape[1] for axes in joint.axes)
    assert (full.config.mapper.n_tokens, full.config.mapper.n_dims) == (64, n_dims)
    assert full.networks.latent_readout.sd.shape == (64, n_dims)
    parts = [full.predict(name, tokens, "z") for name in full.predictors.names]
    expected = sum(w * p for w, p in zip(full.predictors.stack, parts, strict=True))
    np.testing.assert_allclose(full.mean(tokens, "z"), expected, atol=1e-4)
    assert all(part.shape == (4, N_VOXELS) and np.isfinite(part).all() for part in parts)
    # One by one or together
    alone = np.concatenate([full.predict("deep", one, "z") for one in tokens.one_by_one()])
    np.testing.assert_allclose(alone, parts[2], atol=1e-4)


def test_the_papers_sampling_takes_the_joint_tokens(full, tokens):
    silent = full.draw(tokens, 2, sampling="latent", noise_factor=0)
    deep = full.predict("deep", tokens)
    np.testing.assert_allclose(silent[:, 0], deep, atol=1e-3)
    assert full.draw(tokens, 2, sampling="latent").std(1).mean() > 0


def test_the_response_network_sees_bands_that_were_chosen(full, bands, tokens):
    core = full.config.network.core
    assert core.bands in ((0, 3), (0, 1, 2, 3))
    assert core.shapes == tuple(SHAPES[k] for k in core.bands)
    assert full.config.network.subjects == ["own/sub-01"]
    unseen = [k for k in range(4) if k not in core.bands]
    changed = [0 * one if k in unseen else one for k, one in enumerate(tokens.bands)]
    np.testing.assert_array_equal(
        full.predict("network", Tokens.of(*changed)), full.predict("network", tokens)
    )
    card = " ".join((full.folder / "card.md").read_text("utf-8").split())
    seen = join_bands([SPECS[k] for k in core.bands])
    how = {1.0: "adds up", 0.5: "is compressed (exponent 0.5)"}[core.exponent]
    assert f"trained on own/sub-01: it sees {seen}, and what a voxel reads" in card
    assert f"within its receptive field {how}, as images" in card


# As typed ----------------------------------------------------------------------------------------


def test_from_a_table_to_responses(raw, synbrain, tmp_path):
    place = ["--device", "cpu", "-w", tmp_path]
    code, _, error = synbrain(
        *("prepare", "table", raw / "trials.tsv", "--images", raw / "images", "--dataset", "own"),
        *("--responses", raw / "responses.npy", "--subject", 1, "--test", 0.3, *place),
        *("--encoder", "pixels", "--encoder", "efficientnet@5"),
    )
    assert code == 0, error
    code, output, error = synbrain("train", "--model", "linear", *place)
    assert code == 0, error
    assert "image tokens: efficientnet@5 + pixels (--encoder chooses)" in error
    code, output, error = synbrain("train", "--model", "linear", "--encoder", "pixels", *place)
    assert code == 1
    assert "made with other settings (bands" in error
    code, output, error = synbrain(
        *("train", "--model", "linear", "--encoder", "pixels", "--name", "pixels", *place)
    )
    assert code == 0, error
    code, output, error = synbrain("weights", "list", "-w", tmp_path)
    listed = output.splitlines()
    assert [line.split()[0] for line in listed[1:]] == ["pixels", "sub-01_linear"]
    assert "efficientnet@5 + pixels" in output
    some = tmp_path / "some"
    some.mkdir()
    for name in ("i00.png", "i01.png"):
        shutil.copy(raw / "images" / name, some)
    code, output, error = synbrain(
        *("synthesize", some, "--model", "sub-01_linear", "--samples", 3, *place)
    )
    assert code == 0, error
    sidecar = next((tmp_path / "outputs").rglob("*desc-draws_betas.json"))
    assert [band["spec"] for band in read_json(sidecar)["Bands"]] == ["efficientnet@5", "pixels"]
    code, output, error = synbrain(
        *("evaluate", "--model", "sub-01_linear", "--draws", 20, "--no-latent", "--no-report"),
        *place,
    )
    assert code == 0, error


@pytest.mark.parametrize(
    ("encoders", "message"),
    [
        (["gabor", "gabor"], "image encoder gabor: named twice"),
        (["efficientnet@3", "efficientnet"], "image encoder efficientnet: named twice"),
        (["efficientnet@9"], "efficientnet@9: expected a layer of 1 to 5, found 9"),
        (["efficientnet@0"], "expected layers from 1 on"),
        (["resnet"], "no image encoder is called 'resnet'"),
        (["pixels@1"], "pixels has no layers"),
    ],
)
def test_one_line_says_what_is_wrong_with_an_encoder(raw, synbrain, tmp_path, encoders, message):
    named = [word for encoder in encoders for word in ("--encoder", encoder)]
    code, output, error = synbrain(
        *("prepare", "table", raw / "trials.tsv", "--images", raw / "images", "--dataset", "own"),
        *("--responses", raw / "responses.npy", "--subject", 1, "--device", "cpu", "-w", tmp_path),
        *named,
    )
    assert (code, output) == (1, "")
    assert error.splitlines()[-1].startswith("synbrain: ")
    assert message in error.splitlines()[-1]
