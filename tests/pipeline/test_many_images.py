"""Responses to many images: arrays alone, what they take on the disk, what is kept in memory."""

from __future__ import annotations

import gc
import re
import tracemalloc
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from listening import Listening
from PIL import Image

from synbrain_cli import memory
from synbrain_cli.brain.drawing import Drawing
from synbrain_cli.errors import InputError
from synbrain_cli.io.responses import read_settings
from synbrain_cli.io.workspace import Workspace
from synbrain_cli.pipeline import synthesize as module
from synbrain_cli.pipeline.synthesize import Output, synthesize
from synbrain_cli.run import RunContext

N_IMAGES, N_DRAWS = 4, 3


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for i in range(N_IMAGES):
        pixels = rng.integers(0, 256, (8, 8, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"image{i}.png")
    return folder


def draw(model, images, output, progress=None):
    run = RunContext(device=torch.device("cpu"), progress=progress or Listening())
    return synthesize(Workspace(output.folder.parent), model, images, Drawing(3), output, run)


def test_without_maps_the_arrays_are_the_same(linear_bundles, images, tmp_path):
    model = linear_bundles["1"]
    whole = draw(model, images, Output(tmp_path / "whole"))
    arrays = draw(model, images, Output(tmp_path / "arrays", maps=False))
    for path in (tmp_path / "whole").rglob("*.npy"):
        own = tmp_path / "arrays" / path.relative_to(tmp_path / "whole")
        assert path.read_bytes() == own.read_bytes()
    names = {path.name for path in (tmp_path / "arrays").rglob("*")}
    assert len(list((tmp_path / "arrays").rglob("*.npy"))) == 5  # draws, mean, SD, SE, distance
    assert not [name for name in names if "_stim-" in name]
    assert {path.name for path in (tmp_path / "whole").rglob("*")} - names  # the maps
    assert "nifti" in whole.images
    assert "nifti" not in arrays.images
    assert not read_settings(tmp_path / "arrays" / "settings.json").maps
    with pytest.raises(InputError, match=r"made with other settings.*maps"):
        draw(model, images, Output(tmp_path / "arrays"))


def test_spaces_of_no_maps_are_refused():
    with pytest.raises(InputError, match="--space and --no-maps"):
        Output(spaces=["fsaverage5"], maps=False)
    assert Output(spaces=[], maps=False).maps is False  # --space none


def test_what_does_not_fit_on_the_disk_is_refused_before_it_begins(
    linear_bundles, images, tmp_path, monkeypatch
):
    model, asked = linear_bundles["1"], []
    monkeypatch.setattr(module, "WORTH_SAYING", 0)

    def usage(folder):
        asked.append(folder)
        return SimpleNamespace(free=free)

    monkeypatch.setattr(memory.shutil, "disk_usage", usage)
    free, progress = 5e9, Listening()
    draw(model, images, Output(tmp_path / "fits"), progress)
    said = r"drawing 4 images × 3 draws × [\d,]+ voxels; needs about 0\.\d GB of disk, 5\.0 GB are"
    assert any(re.match(said, message) for message in progress.messages)
    assert asked[0] == tmp_path / ".fits.partial"

    free = 1000
    with pytest.raises(InputError, match=r"pass --no-maps \(0\.\d GB\), fewer --samples"):
        draw(model, images, Output(tmp_path / "full"))
    assert not list((tmp_path / ".full.partial").rglob("*.npy"))
    with pytest.raises(InputError, match="fewer --samples") as refused:
        draw(model, images, Output(tmp_path / "full_arrays", maps=False))
    assert "--no-maps" not in str(refused.value)


def test_the_estimate_is_what_is_written(linear_bundles, images, tmp_path, monkeypatch):
    found = []
    monkeypatch.setattr(
        module, "require_disk", lambda needed, *more: found.append(needed) or "enough"
    )
    draw(linear_bundles["1"], images, Output(tmp_path / "out"))
    files = [p for p in (tmp_path / "out").rglob("*") if p.name.endswith((".npy", ".gz", ".gii"))]
    written = sum(-(-path.stat().st_size // 4096) * 4096 for path in files)
    assert found[0] == pytest.approx(written, rel=0.15)


def test_an_image_adds_little_to_the_memory(linear_bundles, tmp_path, monkeypatch):
    """Names, paths, checksums: under a kilobyte, of which most is the paths of files."""
    few, many = 20, 1020
    pixels = np.zeros((8, 8, 3), np.uint8)
    for i in range(many):
        pixels[0, 0] = i % 256
        Image.fromarray(pixels).save(tmp_path / f"image{i:04d}.png")
    used = []

    def count(*_):
        gc.collect()
        used.append(tracemalloc.get_traced_memory()[0])

    monkeypatch.setattr(module, "_draw", count)
    monkeypatch.setattr(module, "_finish", lambda *_: None)
    monkeypatch.setattr(module, "_result", lambda *_: None)
    paths = sorted(tmp_path.glob("*.png"))
    tracemalloc.start()
    try:
        for n in (few, many) * 3:  # the first two also import and cache
            output = Output(tmp_path / f"out{len(used)}", maps=False)
            draw(linear_bundles["1"], [str(path) for path in paths[:n]], output)
    finally:
        tracemalloc.stop()
    # What images add, they add every time; once, something else in the process may have grown
    growth = min(used[3] - used[2], used[5] - used[4])
    assert 100 < growth / (many - few) < 1200, used
