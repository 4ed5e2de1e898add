"""Killed with SIGKILL at random moments, the same command again gives the same result."""

from __future__ import annotations

import os
import shutil
import signal
import time
from functools import partial
from pathlib import Path

import killing
import nibabel as nib
import numpy as np
import pytest
from safetensors.numpy import load_file
from tiny import content

from synbrain_cli.io.token_store import BandStore


@pytest.fixture
def run(tmp_path_factory):
    """Run a command in a process of its own, killed when it names its ``kill_at``-th file."""
    return partial(killing.run, tmp_path_factory.mktemp("output"))


def kill_then_finish(run, arguments, final, moments):
    """Kill at each moment in turn, never leaving ``final`` behind, then let it finish."""
    killed = 0
    for moment in moments:
        done = run(*arguments, kill_at=moment)
        if done.returncode == -signal.SIGKILL:
            killed += 1
            assert not final.exists()
        else:
            assert done.returncode == 0, done.stderr
    assert killed > 0
    done = run(*arguments)
    assert done.returncode == 0, done.stderr
    assert final.exists()


def assert_same_files(one: Path, other: Path, patterns):
    for pattern in patterns:
        files = sorted(one.rglob(pattern))
        assert files, pattern
        for file in files:
            assert content(file) == content(other / file.relative_to(one)), file.name


@pytest.mark.slow
def test_prepare(run, prepared, tmp_path, rng):
    moments = rng.integers(1, 9, 2)
    arguments = ["prepare", "nsd", "--root", prepared.root / "simulated", "--workspace", tmp_path]
    arguments += ["--subject", "1", "--device", "cpu", "--encoder", "gabor"]
    target = tmp_path / "prepared/nsd/sub-01"
    for moment in moments:
        done = run(*arguments, kill_at=moment)
        assert done.returncode == -signal.SIGKILL
    assert run(*arguments).returncode == 0
    assert_same_files(
        prepared.prepared / "simulated/sub-01",
        target,
        ("betas.npy", "trials.tsv", "voxels.tsv", "mask.nii.gz"),
    )
    tokens = np.load(tmp_path / "prepared/nsd/features/gabor/tokens.npy")
    names = BandStore(tmp_path / "prepared/nsd/features/gabor").images
    store = prepared.find_tokens("simulated", None, print)
    np.testing.assert_allclose(tokens, store.take(names).bands[0], atol=1e-5)


@pytest.mark.slow
def test_prepare_with_a_second_pass(run, prepared, tmp_path):
    """Killed around the pass that leaves a voxel out and standardises by the training trials."""
    root = shutil.copytree(prepared.root / "simulated", tmp_path / "nsd")
    path = next(root.glob("nsddata_betas/ppdata/subj01/func1pt8mm/*/betas_session02.nii.gz"))
    image = nib.load(path)
    values = np.asarray(image.dataobj).copy()
    values[tuple(np.argwhere(values.std(3) > 0)[4])] = 0
    nib.save(nib.Nifti1Image(values, image.affine, image.header), path)
    arguments = ["prepare", "nsd", "--root", root, "--subject", "1", "--device", "cpu"]
    arguments += ["--standardize", "train", "--encoder", "gabor", "--workspace"]
    whole, target = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, target):
        folder.mkdir()
    assert run(*arguments, whole).returncode == 0
    final = target / "prepared/nsd/sub-01"
    for moment in (8, 3, 2, 4):  # in the first run after all sessions; then step by step
        if final.exists():
            break
        assert run(*arguments, target, kill_at=moment).returncode == -signal.SIGKILL
    assert run(*arguments, target).returncode == 0
    files = ("betas.npy", "trials.tsv", "voxels.tsv", "standardization.npz")
    assert_same_files(whole / "prepared/nsd/sub-01", final, files)


@pytest.mark.slow
def test_train_gives_the_same_weights(run, trained, own, rng):
    moments = [2, int(rng.integers(3, 6)), int(rng.integers(2, 4))]
    arguments = ["train", "--subject", "1", "--preset", "test", "--device", "cpu"]
    arguments += ["--workspace", own.root]
    kill_then_finish(run, arguments, own.weights / "sub-01", moments)
    expected = load_file(trained.weights / "sub-01/networks.safetensors")
    found = load_file(own.weights / "sub-01/networks.safetensors")
    assert expected.keys() == found.keys()
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)


@pytest.mark.slow
def test_synthesize(run, trained, tmp_path, rng):
    images = tmp_path / "images"
    images.mkdir()
    from PIL import Image

    for k in range(20):
        pixels = rng.integers(0, 256, (64, 64, 3), np.uint8)
        Image.fromarray(pixels).save(images / f"image-{k:02d}.png")
    common = ["synthesize", images, "--model", trained.weights / "sub-01", "--samples", "2"]
    common += ["--device", "cpu", "--workspace", tmp_path, "--output"]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert run(*common, whole).returncode == 0
    kill_then_finish(run, [*common, broken], broken, rng.integers(5, 130, 3))
    assert_same_files(whole, broken, ("*.npy", "*.tsv", "*.gii", "settings.json"))
    assert {p.name for p in whole.iterdir()} == {p.name for p in broken.iterdir()}
    assert not list(tmp_path.glob(".broken*"))


@pytest.mark.slow
def test_train_killed_at_random_times(run, trained, own, rng, tmp_path):
    """The same, by the clock: whatever it is doing."""
    arguments = ["train", "--subject", "1", "--preset", "test", "--device", "cpu"]
    arguments += ["--workspace", str(own.root), "--quiet"]
    for delay in rng.uniform(0.1, 1.5, 3):
        started = killing.start(tmp_path, *arguments)
        time.sleep(delay)
        started.process.kill()
        started.finish()
    if not (own.weights / "sub-01").exists():
        assert run(*arguments).returncode == 0
    expected = load_file(trained.weights / "sub-01/networks.safetensors")
    found = load_file(own.weights / "sub-01/networks.safetensors")
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)


def test_ctrl_c_says_how_to_go_on(own, tmp_path):
    arguments = ["train", "--subject", "1", "--preset", "test", "--device", "cpu", "--quiet"]
    arguments += ["--workspace", str(own.root)]
    started = killing.start(tmp_path, *arguments)
    settings = own.weights / ".sub-01.partial/settings.json"
    while not settings.exists() and started.process.is_alive():
        time.sleep(0.05)
    os.kill(started.process.pid, signal.SIGINT)
    done = started.finish()
    assert done.returncode == 130
    assert "the same command goes on where it stopped" in done.stderr
    assert "Traceback" not in done.stderr
