"""A loaded model: what goes in, what comes out, and what a draw depends on."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from PIL import Image
from sealing import reseal_bundle

from synbrain_cli import load_model
from synbrain_cli.brain.drawing import Drawing
from synbrain_cli.errors import InputError, InputTypeError, MissingError, SynbrainError
from synbrain_cli.io.files import read_json, write_json


@pytest.fixture(scope="module")
def model(trained):
    return load_model(trained.weights / "sub-01", device="cpu")


@pytest.fixture(scope="module")
def pictures():
    rng = np.random.default_rng(5)
    small = rng.integers(0, 256, (20, 8, 8, 3), np.uint8)
    return np.repeat(np.repeat(small, 10, 1), 10, 2)  # blocks: something for the encoder to see


def test_shapes_and_dtypes(model, pictures):
    draws = model.draw(pictures[:3], n_draws=2, seed=0)
    assert draws.shape == (3, 2, model.n_voxels)
    assert draws.dtype == np.float32
    mean = model.mean(pictures[:3])
    assert mean.shape == (3, model.n_voxels)
    assert mean.dtype == np.float32


def test_every_kind_of_images_gives_the_same(model, pictures, tmp_path):
    for k, picture in enumerate(pictures[:2]):
        Image.fromarray(picture).save(tmp_path / f"{k}.png")
    expected = model.draw(pictures[:2], n_draws=2, seed=1)
    paths = sorted(tmp_path.iterdir())
    for same in (tmp_path, paths, [str(p) for p in paths], [Image.open(p) for p in paths]):
        np.testing.assert_array_equal(model.draw(same, n_draws=2, seed=1), expected)
    tokens = model.encoder(list(pictures[:2]))
    np.testing.assert_allclose(model.mean(tokens), model.mean(pictures[:2]), rtol=0, atol=1e-5)


def test_a_draw_depends_on_the_seed_and_the_number(model, pictures):
    draws = model.draw(pictures[:4], n_draws=3, seed=7)
    spread = draws.std()
    assert np.abs(model.draw(pictures[:4], 1, seed=8)[:, 0] - draws[:, 0]).max() > 0.1 * spread
    assert np.abs(draws[:, 0] - draws[:, 1]).max() > 0.1 * spread


def test_noise_of_draws_differs_between_images_and_draws(model, pictures):
    noise = np.stack(
        [
            d[k]
            for d in model.draw(pictures[:6], 6, unit="z") - model.mean(pictures[:6], "z")[:, None]
            for k in range(6)
        ]
    )
    correlation = np.corrcoef(noise - noise.mean(0))
    assert np.abs(correlation[~np.eye(36, dtype=bool)]).mean() < 0.5
    assert len({row.tobytes() for row in noise}) == 36


def test_the_mean_of_draws_approaches_the_mean(model, pictures):
    mean = model.mean(pictures[:4], "z")
    draws = model.draw(pictures[:4], n_draws=400, signal="fresh", unit="z")
    few = np.abs(draws[:, :2].mean(1) - mean).mean()
    many = np.abs(draws.mean(1) - mean).mean()
    assert many < 0.15 * few


def test_no_noise_is_the_decoded_latent(model, pictures):
    silent = model.draw(pictures[:2], 2, sampling="latent", noise_factor=0.0)
    np.testing.assert_array_equal(silent[:, 0], silent[:, 1])
    np.testing.assert_array_equal(silent[:, 0], model.predict("deep", pictures[:2]))
    mean = model.mean(pictures[:2])
    np.testing.assert_array_equal(model.draw(pictures[:2], 3, sampling="mean")[:, 2], mean)


def test_the_mean_is_the_stack_of_all_predictions(model, pictures):
    assert model.predictors.names == ("linear", "network", "deep")
    stack = model.predictors.stack
    parts = [model.predict(name, pictures[:3], "z") for name in model.predictors.names]
    stacked = sum(weight * part for weight, part in zip(stack, parts, strict=True))
    np.testing.assert_allclose(model.mean(pictures[:3], "z"), stacked, rtol=1e-5, atol=1e-6)
    assert (stack >= 0).all()


def test_draws_of_an_image_share_their_unexplained_signal_or_not(model, pictures):
    """What repeats share: the average over many draws of one image, less its mean."""
    mean = model.mean(pictures[:8], "z")
    shared, fresh = (
        model.draw(pictures[:8], 200, signal=signal, unit="z").mean(1) - mean
        for signal in ("shared", "fresh")
    )
    assert shared.var() > 3 * fresh.var()
    # Draw k has the same trial noise in both.
    both = [model.draw(pictures[:2], 2, signal=s, unit="z") for s in ("shared", "fresh")]
    differences = [(d[:, 1] - d[:, 0]).ravel() for d in both]
    assert np.corrcoef(differences)[0, 1] > 0.5


@pytest.mark.parametrize("sampling", ["calibrated", "latent"])
def test_a_draw_is_the_same_to_the_last_bit_in_any_company(model, pictures, sampling):
    """More images than are processed at a time, in another order, and from the middle."""
    many = [pictures[i % len(pictures)] for i in range(21)]
    draws = model.draw(many, 3, seed=5, sampling=sampling)
    alone = model.draw([many[17]], 1, seed=5, sampling=sampling)
    np.testing.assert_array_equal(draws[17, :1], alone[0])
    np.testing.assert_array_equal(model.draw(many[::-1], 3, seed=5, sampling=sampling)[::-1], draws)
    drawing = Drawing(3, 5, sampling)
    rest = np.stack([one.draws for one in model.stream(many, drawing, range(7, 21))])
    np.testing.assert_array_equal(rest, draws[7:])


def test_calibrated_draws_vary_as_recorded_trials_do(model, trained):
    test = trained.find_subject("1", None, print).select("test")
    store = trained.find_tokens("simulated", None, print)
    draws = model.draw(store.take(test.images), 40, signal="fresh", unit="z")
    ratio = draws.reshape(-1, model.n_voxels).var(0) / test.betas.var(0)
    assert 0.85 < np.median(ratio) < 1.15


def test_more_noise_spreads_more(model, pictures):
    """Small noise: the latents of this barely trained mapper are small, too."""
    spread = [
        model.draw(pictures[:3], 16, sampling="latent", noise_factor=nf, unit="z").std(1).mean()
        for nf in (0.0003, 0.001, 0.003)
    ]
    assert spread[0] < spread[1] < spread[2]


def test_a_model_shows_what_it_is(model):
    assert repr(model) == (
        f"<Brain sub-01: simulated/sub-01 (simulated), {model.n_voxels} voxels in func1pt8mm, "
        "percent signal change; linear + network + deep on gabor, cpu>"
    )


def test_units(model, pictures):
    z, psc = model.mean(pictures[:2], "z"), model.mean(pictures[:2], "recorded")
    np.testing.assert_allclose(z * model.response_sd + model.response_mean, psc, rtol=1e-5)


def test_to_nifti_is_on_the_subjects_grid(model, trained):
    values = np.arange(2 * model.n_voxels, dtype=np.float32).reshape(2, -1)
    image = model.to_nifti(values)
    mask = model.voxel_space.geometry.inside
    np.testing.assert_array_equal(np.asarray(image.dataobj)[mask].T, values)
    assert np.asarray(image.dataobj)[~mask].max() == 0
    np.testing.assert_array_equal(image.affine, model.voxel_space.geometry.mask.affine)
    assert image.header.get_data_dtype() == np.float32
    assert b"simulated" in bytes(image.header["descrip"])
    with pytest.raises(InputError, match="expected"):
        model.to_nifti(values[:, :-1])


@pytest.mark.parametrize(
    ("images", "error"),
    [
        (np.zeros((2, 3, 4), np.float32), InputError),
        (np.zeros((2, 8, 8), np.uint8), SynbrainError),
        (12, InputTypeError),
        ("nowhere", MissingError),
    ],
)
def test_what_is_no_image_is_refused(model, images, error):
    with pytest.raises(error):
        model.mean(images)


@pytest.mark.parametrize(
    "arguments",
    [
        {"n_draws": 0},
        {"sampling": "guess"},
        {"unit": "mm"},
        {"signal": "sometimes"},
        {"sampling": "latent", "noise_factor": -1.0},
        {"noise_factor": 1.0},
    ],
)
def test_impossible_settings_are_refused(model, pictures, arguments):
    with pytest.raises(InputError, match="expected"):
        model.draw(pictures[:1], **arguments)


# --------------------------------------------------------------------------- the bundle


@pytest.fixture
def bundle(trained, tmp_path):
    return shutil.copytree(trained.weights / "sub-01", tmp_path / "sub-01")


@pytest.mark.parametrize(
    "name",
    [
        "networks.safetensors",
        "arrays.safetensors",
        "mask.nii.gz",
        "linear.safetensors",
        "readout.safetensors",
        "sequence.safetensors",
    ],
)
def test_truncated_or_changed_files_are_refused(bundle, name):
    content = (bundle / name).read_bytes()
    (bundle / name).write_bytes(content[:-20])
    with pytest.raises(InputError, match=f"{name}: its checksum"):
        load_model(bundle)
    (bundle / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(InputError, match=f"{name}: its checksum"):
        load_model(bundle)
    (bundle / name).unlink()
    with pytest.raises(MissingError, match=name):
        load_model(bundle)


def test_no_bundle(tmp_path):
    with pytest.raises(MissingError, match="synbrain train"):
        load_model(tmp_path)


def test_another_format_is_refused(bundle):
    config = read_json(bundle / "config.json")
    write_json(bundle / "config.json", {**config, "format": 99})
    with pytest.raises(InputError, match="format"):
        load_model(bundle)


def test_another_encoder_is_refused(bundle, pictures):
    config = read_json(bundle / "config.json")
    config["bands"][0]["identity"]["version"] = 0
    reseal_bundle(bundle, bands=config["bands"])
    with pytest.raises(InputError, match="trained with the image encoder"):
        load_model(bundle, "cpu").mean(pictures[:1])


def test_nothing_in_a_bundle_is_a_pickle(trained):
    for file in (trained.weights / "sub-01").iterdir():
        if file.name == ".bidsignore":
            continue
        assert file.suffix in {".json", ".safetensors", ".gz", ".tsv", ".npz", ".md"}
        assert b"\x80\x04\x95" not in file.read_bytes()[:64]


def test_unknown_device(trained):
    with pytest.raises(InputError, match="--device"):
        load_model(trained.weights / "sub-01", device="quantum")
