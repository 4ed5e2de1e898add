"""Voxels reach the right vertices, and files come back as they were."""

import nibabel as nib
import numpy as np
import pytest

from synbrain_cli.errors import InputError, MissingError
from synbrain_cli.io.surface import (
    HEMISPHERES,
    N_FSAVERAGE5,
    SurfaceSampling,
    fsaverage,
    fsaverage_map,
    read_mgh_vertices,
    to_gifti,
    write_gifti,
)

SHAPE = (13, 17, 11)
N_NATIVE = {"left": 700, "right": 650}


@pytest.fixture
def transforms():
    """A mask, NSD-like transforms, and the 0-based voxel that each vertex and depth must read."""
    rng = np.random.default_rng(0)
    mask = rng.random(SHAPE) < 0.8
    layers, to_fsaverage, expected = {}, {}, {}
    for h in HEMISPHERES:
        # The left hemisphere fills x < 6, the right x ≥ 7
        x = rng.integers(0, 6, (3, N_NATIVE[h])) + (7 if h == "right" else 0)
        voxel = np.stack([x, *(rng.integers(0, n, x.shape) for n in SHAPE[1:])], axis=-1)
        layers[h] = voxel + 1 + rng.uniform(-0.49, 0.49, voxel.shape)
        layers[h][:, ::9] = 9999
        layers[h][0, 1::9] = 9999
        to_fsaverage[h] = rng.integers(1, N_NATIVE[h] + 1, 163842).astype(np.int32)
        vertex = to_fsaverage[h][:N_FSAVERAGE5] - 1
        inside = (layers[h][..., 0] < 9999) & mask[tuple(np.moveaxis(voxel, -1, 0))]
        expected[h] = voxel[:, vertex], inside[:, vertex]
    return mask, layers, to_fsaverage, expected


def test_an_analytic_field_arrives_at_its_vertices(transforms):
    mask, layers, to_fsaverage, expected = transforms
    sampling = SurfaceSampling.from_layers(mask, layers, to_fsaverage)
    assert sampling.left.dtype == sampling.right.dtype == np.int32
    assert sampling.left.shape == (N_FSAVERAGE5, 3)
    assert sampling.n_voxels == mask.sum()

    def field(voxel):  # no symmetry, no two voxels alike: any slip, flip or swap of axes shows
        x, y, z = np.moveaxis(np.asarray(voxel, dtype=float), -1, 0)
        return x + 100 * y + 10000 * z + 0.25 * x * y

    values = field(np.moveaxis(np.indices(SHAPE), 0, -1))[mask]
    maps = sampling.project(values)
    for h in HEMISPHERES:
        voxel, inside = expected[h]
        n_inside = inside.sum(0)
        with np.errstate(invalid="ignore"):
            mean = np.where(inside, field(voxel), 0).sum(0) / n_inside
        assert maps[h].dtype == np.float32
        np.testing.assert_allclose(maps[h], mean, rtol=1e-6)
        np.testing.assert_array_equal(np.isnan(maps[h]), n_inside == 0)
        assert 0 < np.isnan(maps[h]).mean() < 1


def test_left_stays_left(transforms):
    mask, layers, to_fsaverage, _ = transforms
    maps = SurfaceSampling.from_layers(mask, layers, to_fsaverage).project(np.nonzero(mask)[0])
    assert np.nanmax(maps["left"]) < 6
    assert np.nanmin(maps["right"]) > 6


def test_coordinates_are_one_based_and_nearest():
    mask = np.ones((3, 3, 3), dtype=bool)
    at = [
        [1, 1, 1],
        [3, 3, 3],
        [1.4, 2.6, 1],
        [1.5, 1, 1],
        [0.4, 1, 1],
        [3.5, 1, 1],
        [1, np.nan, 1],
    ]
    layer = np.array([at], dtype=np.float32)
    nearest = np.r_[np.arange(len(at)) + 1, np.ones(N_FSAVERAGE5 - len(at))]
    sampling = SurfaceSampling.from_layers(
        mask, dict.fromkeys(HEMISPHERES, layer), dict.fromkeys(HEMISPHERES, nearest)
    )
    assert sampling.left[: len(at), 0].tolist() == [0, 26, 6, 9, -1, -1, -1]


def test_leading_axes_and_missing_voxels(transforms):
    mask, *rest, _ = transforms
    sampling = SurfaceSampling.from_layers(mask, *rest)
    values = np.random.default_rng(0).normal(size=(2, 4, mask.sum())).astype(np.float32)
    maps = sampling.project(values)
    assert maps["right"].shape == (2, 4, N_FSAVERAGE5)
    np.testing.assert_array_equal(maps["right"][1, 2], sampling.project(values[1, 2])["right"])
    values[..., 5] = np.nan
    reads_5 = (sampling.left == 5).any(1)
    changed = np.isnan(sampling.project(values)["left"][0, 0]) & ~np.isnan(maps["left"][0, 0])
    np.testing.assert_array_equal(changed, reads_5)
    assert reads_5.any()


def test_labels_go_by_majority():
    index = np.array([[0, 1, 2], [0, 1, 3], [-1, 1, -1], [-1, -1, -1], [3, -1, 2]])
    sampling = SurfaceSampling(index, index[::-1], 4)
    maps = sampling.project_labels(np.array([7, 0, 0, 7]), outside=-5)
    assert maps["left"].tolist() == [0, 7, 0, -5, 7]
    assert maps["right"].tolist() == [7, -5, 0, 7, 0]
    with pytest.raises(InputError, match="integers"):
        sampling.project_labels(np.ones(4))


def test_save_and_load(transforms, tmp_path):
    mask, *rest, _ = transforms
    sampling = SurfaceSampling.from_layers(mask, *rest)
    sampling.save(tmp_path / "surface.npz")
    again = SurfaceSampling.load(tmp_path / "surface.npz")
    np.testing.assert_array_equal(again.left, sampling.left)
    np.testing.assert_array_equal(again.right, sampling.right)
    assert again.left.dtype == np.int32
    assert again.n_voxels == sampling.n_voxels
    assert [p.name for p in tmp_path.iterdir()] == ["surface.npz"]


def test_damaged_or_foreign_files_are_refused(tmp_path):
    path = tmp_path / "surface.npz"
    with pytest.raises(MissingError, match="does not exist"):
        SurfaceSampling.load(path)
    index = np.arange(300).reshape(100, 3)
    SurfaceSampling(index, index, 300).save(path)
    whole = path.read_bytes()
    for content in (b"", whole[: len(whole) // 2], whole[:-4], b"not an archive at all"):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"surface\.npz"):
            SurfaceSampling.load(path)
    np.savez(path, left=index, right=index)
    with pytest.raises(InputError, match="n_voxels"):
        SurfaceSampling.load(path)
    np.savez(path, left=index, right=index, n_voxels=299)  # an index out of range
    with pytest.raises(InputError, match=r"surface\.npz.*expected voxels −1 to 298"):
        SurfaceSampling.load(path)
    np.savez(path, left=np.array([{}], dtype=object), right=index, n_voxels=300)  # a pickle inside
    with pytest.raises(InputError, match=r"surface\.npz"):
        SurfaceSampling.load(path)
    np.save(tmp_path / "array.npy", index)
    with pytest.raises(InputError, match=r"array\.npy"):
        SurfaceSampling.load(tmp_path / "array.npy")


def test_bad_transforms_are_refused(transforms):
    mask, layers, to_fsaverage, _ = transforms

    def refused(match, mask=mask, layers=layers, to_fsaverage=to_fsaverage):
        with pytest.raises(InputError, match=match):
            SurfaceSampling.from_layers(mask, layers, to_fsaverage)

    refused("3-D boolean", mask=mask.astype(int))
    refused("3-D boolean", mask=mask[0])
    refused("with 0 voxels", mask=np.zeros(SHAPE, bool))
    refused("keys left and right", layers={"left": layers["left"]})
    refused("keys left and right", layers={"lh": layers["left"], "rh": layers["right"]})
    refused("disagree", layers=layers | {"right": layers["right"][:2]})
    refused("disagree", to_fsaverage=to_fsaverage | {"right": to_fsaverage["right"][:10242]})
    refused("n_depths, n_native, 3", layers={h: a[..., :2] for h, a in layers.items()})
    refused("vertices, one number", to_fsaverage={h: a[:5000] for h, a in to_fsaverage.items()})
    refused("1-based", to_fsaverage={h: a - 1 for h, a in to_fsaverage.items()})
    refused("1-based", to_fsaverage={h: a + 1 for h, a in to_fsaverage.items()})
    refused("1-based", to_fsaverage={h: a + 0.5 for h, a in to_fsaverage.items()})
    swapped = dict(zip(HEMISPHERES, (to_fsaverage["right"], to_fsaverage["left"]), strict=True))
    refused("swapped", to_fsaverage=swapped)
    refused("no vertex lands", layers={h: a * 0 + 9999 for h, a in layers.items()})


def test_bad_indices_and_values_are_refused():
    index = np.zeros((4, 2), dtype=np.int32)
    with pytest.raises(InputError, match="one shape"):
        SurfaceSampling(index, index[:3], 1)
    for broken in (index - 2, index + 1):
        with pytest.raises(InputError, match="right sampling: expected voxels −1 to 0"):
            SurfaceSampling(index, broken, 1)
    with pytest.raises(InputError, match="integers"):
        SurfaceSampling(index, index.astype(float), 1)
    for values in (np.zeros(2), np.float64(1), np.zeros((1, 2))):
        with pytest.raises(InputError, match="expected 1 voxels"):
            SurfaceSampling(index, index, 1).project(values)


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
    with pytest.raises(InputError, match="is it a volume"):
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
