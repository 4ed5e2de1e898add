"""The average brain's geometry is what it should be, and files come back as they were."""

import nibabel as nib
import numpy as np
import pytest

from synbrain_cli.errors import InputError, MissingError
from synbrain_cli.io.surface import (
    HEMISPHERES,
    N_FSAVERAGE,
    fsaverage,
    fsaverage_map,
    read_mgh_vertices,
    to_gifti,
    write_gifti,
)

N_FSAVERAGE5 = N_FSAVERAGE["fsaverage5"]

# Geometry -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("surface", ["flat", "inflated", "pial", "sphere", "white"])
def test_fsaverage5_geometry(surface):
    meshes = fsaverage(surface)
    assert list(meshes) == ["left", "right"]
    for mesh in meshes.values():
        assert mesh.coordinates.shape == (N_FSAVERAGE5, 3)
        assert mesh.faces.shape[1] == 3
        assert mesh.faces.max() < N_FSAVERAGE5
    if surface in ("pial", "white"):
        assert meshes["left"].coordinates[:, 0].mean() < -20
        assert meshes["right"].coordinates[:, 0].mean() > 20


@pytest.mark.parametrize("name", ["area", "curvature", "sulcal", "thickness"])
def test_fsaverage5_maps(name):
    for values in fsaverage_map(name).values():
        assert values.shape == (N_FSAVERAGE5,)
        assert np.isfinite(values).all()


def test_what_is_not_there_is_not_downloaded(monkeypatch, tmp_path):
    monkeypatch.setenv("NILEARN_DATA", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(MissingError, match="fsaverage6"):
        fsaverage("flat", "fsaverage6")
    with pytest.raises(InputError, match="one of flat"):
        fsaverage("flattened")
    assert not list(tmp_path.iterdir())
    (tmp_path / "fsaverage6").mkdir()
    for h in HEMISPHERES:
        write_gifti(tmp_path / "fsaverage6" / f"sulc_{h}.gii", np.arange(5), h)
        nib.load(tmp_path / "fsaverage6" / f"sulc_{h}.gii").to_filename(
            tmp_path / "fsaverage6" / f"sulc_{h}.gii.gz"
        )
    assert fsaverage_map("sulcal", "fsaverage6")["left"].tolist() == [0, 1, 2, 3, 4]


# Files --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((40, 1, 1), (40, 1)), ((40, 3, 1), (40, 3)), ((40, 1, 1, 7), (40, 7)), ((1, 40, 1), (40, 1))],
)
@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_mgh_vertices(tmp_path, shape, expected, dtype):
    values = np.arange(np.prod(shape), dtype=dtype).reshape(shape)
    nib.MGHImage(values, np.eye(4)).to_filename(tmp_path / "lh.test.mgz")
    read = read_mgh_vertices(tmp_path / "lh.test.mgz")
    assert read.shape == expected
    assert read.dtype == dtype
    np.testing.assert_array_equal(read, values.reshape(expected))


def test_mgh_that_is_no_surface_is_refused(tmp_path):
    with pytest.raises(MissingError):
        read_mgh_vertices(tmp_path / "lh.absent.mgh")
    nib.MGHImage(np.ones((4, 5, 6), np.float32), np.eye(4)).to_filename(tmp_path / "volume.mgz")
    with pytest.raises(InputError, match="not a volume"):
        read_mgh_vertices(tmp_path / "volume.mgz")
    (tmp_path / "broken.mgh").write_bytes((tmp_path / "volume.mgz").read_bytes()[:100])
    with pytest.raises(InputError, match="broken"):
        read_mgh_vertices(tmp_path / "broken.mgh")


@pytest.mark.parametrize("n_maps", [None, 1, 4])
def test_gifti_round_trip(tmp_path, n_maps):
    values = np.random.default_rng(0).normal(size=(n_maps or 1, 12))
    values[0, 3] = np.nan
    path = tmp_path / "sub-01_hemi-R_statmap.func.gii"
    write_gifti(path, values if n_maps else values[0], "right", {"unit": "z", "n_draws": 8})
    image = nib.load(path)
    assert dict(image.meta) == {
        "unit": "z", "n_draws": "8", "AnatomicalStructurePrimary": "CortexRight"
    }  # fmt: skip
    assert [a.data.dtype for a in image.darrays] == [np.float32] * (n_maps or 1)
    np.testing.assert_array_equal([a.data for a in image.darrays], values.astype(np.float32))
    before = path.read_bytes()
    write_gifti(path, values if n_maps else values[0], "right", {"unit": "z", "n_draws": 8})
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_gifti_refuses(tmp_path):
    with pytest.raises(InputError, match="hemisphere"):
        to_gifti(np.ones(3), "lh")
    with pytest.raises(InputError, match="n_maps, n_vertices"):
        to_gifti(np.ones((2, 3, 4)), "left")
    with pytest.raises(InputError, match=r"\.gii"):
        write_gifti(tmp_path / "map.nii", np.ones(3), "left")
    assert not list(tmp_path.iterdir())
