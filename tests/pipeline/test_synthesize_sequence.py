"""Whole sessions in order, as typed and from Python."""

import json
import shutil

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file
from sealing import change_sealed, reseal_bundle
from test_bids import AUTHORS, validate

from synbrain_cli.brain import load_model
from synbrain_cli.errors import InputError
from synbrain_cli.io.bundle import read_config
from synbrain_cli.model.sequence import time_covariance
from synbrain_cli.pipeline import synthesize_sequence as module

ARRAY = "sub-01/func/sub-01_desc-draws_betas.npy"


@pytest.fixture(scope="module")
def place(linear_bundles, tmp_path_factory):
    """A workspace with a model of which drift, repetition and serial effect are known."""
    folder = tmp_path_factory.mktemp("ordered")
    rng = np.random.default_rng(0)
    bundle = folder / "weights/sub-01_linear"
    shutil.copytree(linear_bundles["1"], bundle)
    path = bundle / "sequence.safetensors"
    named = load_file(path)
    n_voxels = len(named["serial"])
    noise = load_file(bundle / "readout.safetensors")
    variance = (noise["noise_loadings"] ** 2).sum(1) + noise["noise_private"] ** 2
    named["drift_loadings"] = (np.sqrt(0.4 * variance)[:, None]).astype(np.float32)
    named["drift_private"] = np.zeros(n_voxels, np.float32)
    named["drift_time_constant"] = np.array([20], np.float32)
    named["rest_loadings"] = np.zeros((n_voxels, 0), np.float32)
    named["rest_private"] = np.sqrt(0.6 * variance).astype(np.float32)
    named["serial"] = np.full(n_voxels, 0.2, np.float32)
    named["repetition_offset"] = np.array([[0.5], [-0.5]], np.float32).repeat(n_voxels, 1)
    named["repetition_gain"] = np.zeros((2, n_voxels), np.float32)
    save_file(named, path)
    training = json.loads((bundle / "config.json").read_text())["training"]
    training["sequence"] |= {"kept": ["drift", "repetition", "serial"], "time_constant": 20.0}
    reseal_bundle(bundle, training=training)
    images = folder / "images"
    images.mkdir()
    for k in range(6):
        pixels = rng.integers(0, 256, (16, 16, 3), np.uint8)
        Image.fromarray(pixels).save(images / f"im{k}.png")
    order = rng.permutation(np.repeat(np.arange(6), 8))
    table = pd.DataFrame(
        {"session": ["a"] * 20 + ["b"] * 28, "image": [f"im{k}" for k in order], "kind": "x"}
    )
    table.to_csv(folder / "day.tsv", sep="\t", index=False)
    table["image"] = "images/" + table["image"] + ".png"
    table.to_csv(folder / "paths.csv", index=False)
    return folder


def typed(synbrain, place, tmp_path, *words, table="day.tsv", images=True):
    shown = [place / "images"] if images else []
    return synbrain(
        *("synthesize", *shown, "--sequence", place / table, "-w", place, "--device", "cpu"),
        *("-o", tmp_path / "out", *words),
    )


def test_training_fits_the_order(linear_bundles):
    config = read_config(linear_bundles["1"])
    summary = config.training.sequence
    assert summary is not None
    assert summary.is_fitted
    assert set(summary.gains) == {"drift", "repetition", "serial"}
    card = (linear_bundles["1"] / "card.md").read_text("utf-8")
    for line in summary.describe():
        assert line in card
    # What is not kept is not in the arrays
    named = load_file(linear_bundles["1"] / "sequence.safetensors")
    assert named["serial"].any() == ("serial" in summary.kept)
    assert named["repetition_offset"].any() == ("repetition" in summary.kept)
    assert named["drift_private"].any() == ("drift" in summary.kept)


def test_sessions_as_typed(synbrain, place, tmp_path):
    code, out, err = typed(synbrain, place, tmp_path, "--samples", "2", "--seed", "3")
    assert code == 0, err
    folder = tmp_path / "out"
    printed = out.splitlines()
    assert printed[:2] == [
        str(folder / ARRAY),
        str(folder / "events.tsv"),
    ]
    draws = np.load(printed[0])
    assert draws.shape[:2] == (48, 2)
    assert draws.dtype == np.float32
    events = pd.read_csv(folder / "events.tsv", sep="\t")
    asked = pd.read_csv(place / "day.tsv", sep="\t")
    pd.testing.assert_frame_equal(events[asked.columns.tolist()], asked)
    assert events["presentation"].max() == 8
    assert (events.groupby("session")["presentation_in_session"].max() <= 8).all()
    model = load_model(place / "weights/sub-01_linear", "cpu")
    for k in range(2):
        first = nib.load(folder / f"sub-01/func/sub-01_ses-a_desc-draw{k + 1}_betas.nii.gz")
        second = nib.load(folder / f"sub-01/func/sub-01_ses-b_desc-draw{k + 1}_betas.nii.gz")
        assert (first.shape[3], second.shape[3]) == (20, 28)
        expected = model.to_nifti(draws[20:, k])
        np.testing.assert_array_equal(second.get_fdata(), expected.get_fdata())
        np.testing.assert_array_equal(second.affine, expected.affine)
        assert (folder / f"sub-01/func/sub-01_desc-draw{k + 1}_betas.json").exists()
    sidecar = json.loads((folder / "sub-01/func/sub-01_desc-draws_betas.json").read_text())
    assert sidecar["Modelled"] == ["drift", "repetition", "serial"]
    assert sidecar["DriftTimeConstant"] == 20
    assert sidecar["Simulated"] is True
    # The same from Python, and with paths in the table
    again = model.draw_sequence(place / "paths.csv", n_draws=2, seed=3)
    np.testing.assert_array_equal(again, draws)
    table = pd.read_csv(place / "day.tsv", sep="\t")
    again = model.draw_sequence(table, place / "images", n_draws=1, seed=3)
    np.testing.assert_array_equal(again[:, 0], draws[:, 0])


def test_sessions_are_a_derivative_of_bids(synbrain, place, tmp_path):
    code, _, err = typed(synbrain, place, tmp_path)
    assert code == 0, err
    (mask,) = (tmp_path / "out").rglob("*_desc-voxels_mask.nii.gz")
    own = nib.load(place / "weights/sub-01_linear/mask.nii.gz")
    np.testing.assert_array_equal(nib.load(mask).get_fdata() > 0, own.get_fdata() > 0)
    assert set(validate(tmp_path / "out")) == {f"warning {AUTHORS}"}


def test_table_with_paths_needs_no_images(synbrain, place, tmp_path):
    code, _, err = typed(synbrain, place, tmp_path, "--no-maps", table="paths.csv", images=False)
    assert code == 0, err
    (mask,) = (tmp_path / "out").rglob("*.nii.gz")  # which voxels the array's last axis is
    assert mask.name.endswith("desc-voxels_mask.nii.gz")
    assert np.asarray(nib.load(mask).dataobj).sum() == np.load(tmp_path / "out" / ARRAY).shape[-1]


def test_draws_have_the_effects_of_the_model(place):
    """Averaged over many sequences; and the drift's course over the trials of a session."""
    model = load_model(place / "weights/sub-01_linear", "cpu")
    table = pd.read_csv(place / "day.tsv", sep="\t")
    readout, n_voxels = model.distribution.readout, model.n_voxels
    draws = model.draw_sequence(table, place / "images", n_draws=150, signal="fresh", unit="z")
    events_image = table["image"].str[2:].astype(int).to_numpy()
    mean = model.mean(place / "images", unit="z")[events_image]
    # The curve Q is of long tails: compare through what it does to the mean of normal variables
    left = (draws - mean[:, None]).mean((1, 2))
    x = np.clip((mean - readout.centre) / readout.spread, -3, 3).mean(1)
    first = ~table["image"].duplicated().to_numpy()
    starts = ~table["session"].duplicated().to_numpy()
    before = np.where(starts, 0, np.r_[0, x[:-1]])
    expected = np.where(first, 0.5, -0.5) + 0.2 * before
    assert np.corrcoef(left, expected)[0, 1] > 0.9
    shared = (draws - draws.mean(1, keepdims=True)).mean(2)[20:]  # of all voxels, session b
    over_time = np.corrcoef(shared)
    wanted = time_covariance(28, 20.0)
    upper = np.triu_indices(28, 1)
    assert np.corrcoef(over_time[upper], wanted[upper])[0, 1] > 0.9
    assert n_voxels == draws.shape[2]


def test_single_trials_vary_as_those_of_ordinary_draws(place):
    """Drift and rest together are the trial noise; without effects on the mean, to the letter."""
    model = load_model(place / "weights/sub-01_linear", "cpu")
    table = pd.DataFrame({"image": ["im0", "im1"]})
    ordered = model.draw_sequence(table, place / "images", 3000, signal="fresh", unit="z")
    alone = model.draw(place / "images", 3000, signal="fresh", unit="z")[:2]
    ratio = ordered.var(1) / alone.var(1)
    # The drift is one course of all voxels: their variances err together, by some 3 %
    assert abs(np.median(ratio) - 1) < 0.1


def test_a_sequence_does_not_depend_on_the_others(place):
    model = load_model(place / "weights/sub-01_linear", "cpu")
    table = pd.read_csv(place / "day.tsv", sep="\t")
    three = model.draw_sequence(table, place / "images", 3, seed=1)
    one = model.draw_sequence(table, place / "images", 1, seed=1)
    np.testing.assert_array_equal(three[:, :1], one)
    assert (three[:, 0] != three[:, 1]).mean() > 0.99
    # What is appended later changes nothing before it
    begun = model.draw_sequence(table[:20], place / "images", 1, seed=1)
    np.testing.assert_array_equal(begun, one[:20])


def test_a_stopped_run_goes_on(synbrain, place, tmp_path, monkeypatch):
    typed(synbrain, place, tmp_path / "whole", "--samples", "2")
    drawn, real = [], module.SequenceDrawer._trial

    def breaking(self, row, drift):
        if row == 30 and not drawn:
            raise KeyboardInterrupt
        return real(self, row, drift)

    def counting(self, row, drift):
        drawn.append(row)
        return real(self, row, drift)

    monkeypatch.setattr(module.SequenceDrawer, "_trial", breaking)
    code, _, _ = typed(synbrain, place, tmp_path / "again", "--samples", "2")
    assert code != 0
    assert not (tmp_path / "again/out").exists()
    monkeypatch.setattr(module.SequenceDrawer, "_trial", counting)
    code, _, err = typed(synbrain, place, tmp_path / "again", "--samples", "2")
    assert code == 0, err
    assert drawn == list(range(30, 48))
    for path in (tmp_path / "whole/out/sub-01/func").glob("sub-*.n*"):
        again = tmp_path / "again/out/sub-01/func" / path.name
        assert path.read_bytes() == again.read_bytes()


@pytest.mark.parametrize("damaged", ["array", "record"])
def test_what_was_damaged_meanwhile_is_drawn_again(synbrain, place, tmp_path, monkeypatch, damaged):
    typed(synbrain, place, tmp_path / "whole", "--no-maps")
    real = module.SequenceDrawer._trial

    def breaking(self, row, drift):
        if row == 30:
            raise KeyboardInterrupt
        return real(self, row, drift)

    monkeypatch.setattr(module.SequenceDrawer, "_trial", breaking)
    typed(synbrain, place, tmp_path, "--no-maps")
    monkeypatch.setattr(module.SequenceDrawer, "_trial", real)
    name = "*_desc-draws_betas.npy" if damaged == "array" else "trials_done.npy"
    (path,) = (file for file in tmp_path.rglob(name) if "whole" not in file.parts)
    content = bytearray(path.read_bytes())
    content[200:204] = b"\xff\xff\xff\xff"  # of the first trial
    path.write_bytes(content if damaged == "array" else content[:-5])
    code, _, err = typed(synbrain, place, tmp_path, "--no-maps")
    assert code == 0, err
    assert err.count("damaged since the run was interrupted") == 1
    arrays = (np.load(tmp_path / folder / ARRAY) for folder in ("out", "whole/out"))
    np.testing.assert_array_equal(*arrays)


def test_sessions_that_no_file_could_hold(synbrain, place, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MOST_VOLUMES", 27)
    code, _, err = typed(synbrain, place, tmp_path)
    assert code == 1
    assert "expected at most 27 trials in a session" in err
    assert "found 28 in b" in err
    assert not list(tmp_path.iterdir())
    code, _, err = typed(synbrain, place, tmp_path, "--no-maps")
    assert code == 0, err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--sampling", "mean"), "expected calibrated with --sequence"),
        (("--sampling", "latent"), "expected calibrated with --sequence"),
        (("--space", "MNI"), "maps of sequences are in the subject's own space"),
    ],
)
def test_what_sequences_do_not_have(synbrain, place, tmp_path, words, message):
    code, _, err = typed(synbrain, place, tmp_path, *words)
    assert code == 1
    assert message in err
    assert not list(tmp_path.iterdir())


def test_an_image_that_is_not_there(synbrain, place, tmp_path):
    (tmp_path / "other.tsv").write_text("image\nim0\nim9\n")
    code, _, err = typed(synbrain, place, tmp_path, table=tmp_path / "other.tsv")
    assert code == 1
    assert "row 3: expected one of the 6 images" in err
    code, _, err = typed(synbrain, place, tmp_path, table=tmp_path / "other.tsv", images=False)
    assert code == 1
    assert "im0" in err
    assert not (tmp_path / "out").exists()


def test_neither_images_nor_table(synbrain, place):
    code, _, err = synbrain("synthesize", "-w", place)
    assert code == 2
    assert "Missing argument 'images' (or pass --tokens or --sequence)" in err


def test_a_model_of_an_earlier_version(synbrain, place, tmp_path):
    """It draws as before, and says what it lacks."""
    old = tmp_path / "old"
    bundle = old / "weights/sub-01_linear"
    shutil.copytree(place / "weights/sub-01_linear", bundle)
    (bundle / "sequence.safetensors").unlink()
    training = json.loads((bundle / "config.json").read_text())["training"]
    del training["sequence"]
    reseal_bundle(bundle, training=training)
    before = load_model(place / "weights/sub-01_linear", "cpu").draw(place / "images", 2)
    np.testing.assert_array_equal(load_model(bundle, "cpu").draw(place / "images", 2), before)
    with pytest.raises(InputError, match="train it again"):
        load_model(bundle, "cpu").draw_sequence(place / "paths.csv")
    code, _, err = synbrain(
        *("synthesize", place / "images", "--sequence", place / "day.tsv", "-w", old),
        *("-o", tmp_path / "out"),
    )
    assert code == 1
    assert "made by an earlier version" in err
    assert not (tmp_path / "out").exists()


def test_a_bundle_without_the_file_that_it_names(place, tmp_path):
    bundle = tmp_path / "sub-01_linear"
    shutil.copytree(place / "weights/sub-01_linear", bundle)
    (bundle / "sequence.safetensors").unlink()
    change_sealed(
        bundle / "config.json",
        checksums={
            k: v
            for k, v in json.loads((bundle / "config.json").read_text())["checksums"].items()
            if k != "sequence.safetensors"
        },
    )
    with pytest.raises(InputError, match=r"sequence\.safetensors"):
        load_model(bundle, "cpu")
