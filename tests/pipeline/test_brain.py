"""A loaded model: what goes in, what comes out, and what a draw depends on."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from PIL import Image

from synbrain_cli import load_model
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


def test_a_draw_depends_on_seed_content_and_number_alone(model, pictures):
    everything = model.draw(pictures, n_draws=3, seed=7)
    alone = model.draw(pictures[11:12], n_draws=3, seed=7)
    np.testing.assert_allclose(everything[11], alone[0], rtol=0, atol=1e-4)
    backwards = model.draw(pictures[::-1], n_draws=3, seed=7)
    np.testing.assert_allclose(backwards[::-1], everything, rtol=0, atol=1e-4)
    one = model.draw(pictures[:4], n_draws=1, seed=7)
    np.testing.assert_allclose(one[:, 0], everything[:4, 0], rtol=0, atol=1e-4)
    spread = everything.std()
    assert np.abs(model.draw(pictures[:4], 1, seed=8)[:, 0] - one[:, 0]).max() > 1e-3 * spread
    assert np.abs(everything[:, 0] - everything[:, 1]).max() > 1e-3 * spread


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
    draws = model.draw(pictures[:4], n_draws=64, unit="z")
    few = np.abs(draws[:, :2].mean(1) - mean).mean()
    many = np.abs(draws.mean(1) - mean).mean()
    assert many < 0.6 * few
    assert np.corrcoef(draws.mean(1).ravel(), mean.ravel())[0, 1] > 0.9


def test_no_noise_is_the_decoded_latent(model, pictures):
    silent = model.draw(pictures[:2], 2, noise_factor=0.0)
    np.testing.assert_array_equal(silent[:, 0], silent[:, 1])
    published = model.draw(pictures[:2], 1, sampling="mean", noise_factor=0.0)
    np.testing.assert_allclose(silent[:, :1], published, rtol=0, atol=1e-5)
    mean = model.mean(pictures[:2])
    np.testing.assert_array_equal(model.draw(pictures[:2], 3, sampling="mean")[:, 2], mean)


def test_more_noise_spreads_more(model, pictures):
    """Small noise: the latents of this barely trained mapper are small, too."""
    spread = [
        model.draw(pictures[:3], 16, noise_factor=nf, unit="z").std(1).mean()
        for nf in (0.0003, 0.001, 0.003)
    ]
    assert spread[0] < spread[1] < spread[2]


def test_units(model, pictures):
    z, psc = model.mean(pictures[:2], "z"), model.mean(pictures[:2], "recorded")
    np.testing.assert_allclose(z * model.response_sd + model.response_mean, psc, rtol=1e-5)


def test_to_nifti_is_on_the_subjects_grid(model, trained):
    values = np.arange(2 * model.n_voxels, dtype=np.float32).reshape(2, -1)
    image = model.to_nifti(values)
    mask = model.place.inside
    np.testing.assert_array_equal(np.asarray(image.dataobj)[mask].T, values)
    assert np.asarray(image.dataobj)[~mask].max() == 0
    np.testing.assert_array_equal(image.affine, model.place.mask.affine)
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
    [{"n_draws": 0}, {"sampling": "guess"}, {"unit": "mm"}, {"noise_factor": -1.0}],
)
def test_impossible_settings_are_refused(model, pictures, arguments):
    with pytest.raises(InputError, match="expected"):
        model.draw(pictures[:1], **arguments)


# --------------------------------------------------------------------------- the bundle


@pytest.fixture
def bundle(trained, tmp_path):
    return shutil.copytree(trained.weights / "sub-01", tmp_path / "sub-01")


@pytest.mark.parametrize(
    "name", ["networks.safetensors", "arrays.safetensors", "mask.nii.gz", "linear.safetensors"]
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
    config["encoder"]["identity"]["version"] = 0
    write_json(bundle / "config.json", config)
    with pytest.raises(InputError, match="trained with the image encoder"):
        load_model(bundle, "cpu").mean(pictures[:1])


def test_nothing_in_a_bundle_is_a_pickle(trained):
    for file in (trained.weights / "sub-01").iterdir():
        assert file.suffix in {".json", ".safetensors", ".gz", ".tsv", ".npz", ".md"}
        assert b"\x80\x04\x95" not in file.read_bytes()[:64]


def test_unknown_device(trained):
    with pytest.raises(InputError, match="--device"):
        load_model(trained.weights / "sub-01", device="quantum")
