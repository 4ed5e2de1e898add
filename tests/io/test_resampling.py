"""Voxels arrive where they lie, on surfaces and in MNI; wrong transforms are seen to be wrong."""

from __future__ import annotations

from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
from conftest import SMALL
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from nibabel.affines import apply_affine
from scipy.ndimage import binary_dilation, map_coordinates
from scipy.sparse import csr_array

from synbrain_cli.datasets.simulated import SimulationConfig
from synbrain_cli.datasets.simulated_cortex import build_anatomy, functional_layout, mni_coordinates
from synbrain_cli.errors import InputError, MissingError
from synbrain_cli.io.resampling_weights import interpolation
from synbrain_cli.io.surface import HEMISPHERES, N_FSAVERAGE, fsaverage
from synbrain_cli.io.surface_resampling import SURFACE_SPACES, SurfaceResampling
from synbrain_cli.io.volume import read_volume
from synbrain_cli.io.volume_resampling import VolumeResampling

# Interpolation ------------------------------------------------------------------------------------


def reference(values, mask, coordinates):
    """Trilinear values over the voxels of the mask, NaN outside, by scipy."""

    def at(volume):
        return map_coordinates(volume, coordinates.T, order=1, mode="grid-constant", cval=0.0)

    weight = at(mask.astype(float))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(weight >= 0.5, at(np.where(mask, values, 0)) / weight, np.nan)


def interpolated(values, mask, coordinates):
    weights = interpolation(mask, coordinates)
    return np.where(np.diff(weights.indptr) > 0, weights @ values[mask], np.nan)


@pytest.mark.parametrize("share", [1.0, 0.7])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, ">f4"])
def test_interpolation_is_scipys(rng, share, dtype):
    mask = rng.random((7, 5, 9)) <= share
    values = rng.normal(size=mask.shape)
    coordinates = rng.uniform(-1, np.add(mask.shape, 0.5), (4000, 3)).astype(dtype)
    found = interpolated(values, mask, coordinates)
    on_grid = ((coordinates >= -0.5) & (coordinates < np.subtract(mask.shape, 0.5))).all(1)
    expected = np.where(on_grid, reference(values, mask, coordinates.astype(float)), np.nan)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert 0.1 < np.isnan(found).mean() < 0.9


def test_inside_a_whole_volume_nothing_is_scaled(rng):
    values = rng.normal(size=(6, 7, 8))
    coordinates = rng.uniform(0, np.subtract(values.shape, 1), (500, 3))
    found = interpolated(values, np.ones(values.shape, bool), coordinates)
    np.testing.assert_allclose(found, map_coordinates(values, coordinates.T, order=1), atol=1e-6)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_weights_sum_to_one_or_the_point_is_outside(data):
    mask = data.draw(arrays.arrays(bool, arrays.array_shapes(min_dims=3, max_dims=3, max_side=4)))
    mask[0, 0, 0] = True
    near = st.floats(-2, 6, width=32) | st.sampled_from([np.nan, np.inf, 9998.0, -0.5, 0.5])
    coordinates = np.array(data.draw(st.lists(st.tuples(near, near, near), max_size=20)))
    coordinates = coordinates.reshape(-1, 3)
    weights = interpolation(mask, coordinates)
    assert weights.dtype == np.float32
    assert weights.shape == (len(coordinates), mask.sum())
    assert (weights.data > 0).all()
    total = weights.sum(1)
    inside = np.diff(weights.indptr) > 0
    np.testing.assert_allclose(total[inside], 1, atol=1e-6)
    assert (total[~inside] == 0).all()
    # Voxels that a point reads are less than one voxel away.
    row = np.repeat(np.arange(len(coordinates)), np.diff(weights.indptr))
    assert (np.abs(np.argwhere(mask)[weights.indices] - coordinates[row]) <= 1).all()


def test_many_points_go_through_in_blocks(rng, monkeypatch):
    mask = rng.random((8, 9, 10)) < 0.5
    coordinates = rng.uniform(-1, 10, (1000, 3))
    whole = interpolation(mask, coordinates)
    monkeypatch.setattr("synbrain_cli.io.resampling_weights._BLOCK", 77)
    blocks = interpolation(mask, coordinates)
    assert (whole != blocks).nnz == 0
    assert interpolation(mask, coordinates[:0]).shape == (0, mask.sum())


def test_the_edge_of_the_mask_is_not_blended_with_zeros():
    mask = np.zeros((4, 1, 1), bool)
    mask[1:3] = True
    weights = interpolation(mask, [[0.4, 0, 0], [0.5, 0, 0], [0.9, 0, 0], [1.25, 0, 0]])
    np.testing.assert_allclose(weights.toarray(), [[0, 0], [1, 0], [1, 0], [0.75, 0.25]])


@pytest.mark.parametrize("wrong", [np.zeros((5, 2)), np.zeros(3), np.array([["a", "b", "c"]])])
def test_coordinates_that_are_none_are_refused(wrong):
    with pytest.raises(InputError, match="n_points, 3"):
        interpolation(np.ones((2, 2, 2), bool), wrong)


def test_real_positions(shared, rng):
    values, image = read_volume(shared / "data/nsd_metadata/subj01_brain_mask.nii.gz")
    mask = values > 0
    inside = np.argwhere(mask)
    coordinates = inside[rng.choice(len(inside), 3000)] + rng.uniform(-0.5, 0.5, (3000, 3))
    positions = apply_affine(image.affine, np.moveaxis(np.indices(mask.shape), 0, -1))
    whole = map_coordinates(mask.astype(float), coordinates.T, order=1) > 1 - 1e-9
    assert whole.mean() > 0.5
    for axis in range(3):
        found = interpolated(positions[..., axis], mask, coordinates)
        np.testing.assert_allclose(
            found[whole], apply_affine(image.affine, coordinates)[whole, axis], atol=1e-3
        )
        expected = reference(positions[..., axis], mask, coordinates)
        np.testing.assert_allclose(found, expected, atol=1e-3)


# Simulated anatomy: positions in the scanner arrive at their own vertices -------------------------

# Left to right, back to front, down to up, and a mixture; shares sum to 1.
DIRECTIONS = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [0.2, -0.3, 0.5]])


@pytest.fixture(scope="module", params=[SMALL.voxel_size, 1.8])
def brain(request):
    """A simulated brain, and where its vertices lie by the deformation it was made with."""
    config = SimulationConfig(voxel_size=request.param)
    layouts = {h: functional_layout(h) for h in HEMISPHERES}
    anatomy = build_anatomy(layouts, config.voxel_size, np.random.SeedSequence(3))
    white, pial = fsaverage("white"), fsaverage("pial")
    positions = {}
    for h in HEMISPHERES:
        depths = [
            white[h].coordinates + share * (pial[h].coordinates - white[h].coordinates)
            for share in (0.25, 0.5, 0.75)
        ]
        positions[h] = np.stack([anatomy.deform(depth.astype(float)) for depth in depths])
    nearest = {h: np.arange(10242) + 1 for h in HEMISPHERES}
    layers = {h: layer.astype(np.float32) for h, layer in anatomy.layers.items()}
    # Of fsaverage5's few vertices, 1.8 mm makes islands: their surroundings join them.
    fine = request.param < 2
    visual = binary_dilation(anatomy.mask, iterations=2) if fine else anatomy.mask
    return SimpleNamespace(
        anatomy=anatomy,
        visual=visual,
        affine=anatomy.affine,
        size=request.param,
        layers=layers,
        nearest=nearest,
        positions=positions,
        mni=mni_coordinates(anatomy),
    )


def fields(affine, mask):
    """Positions of a mask's voxels in mm along `DIRECTIONS`, (4, n_voxels)."""
    return DIRECTIONS @ apply_affine(affine, np.argwhere(mask)).T


def whole_cells(mask, coordinates):
    """Whether all voxels around each 0-based coordinate (n, 3) are in the mask, and enough are."""
    share = map_coordinates(mask.astype(float), coordinates.T, order=1, mode="grid-constant")
    return share > 1 - 1e-4, share >= 0.5


def misplaced(maps, brain):
    """Median and largest error in mm over the vertices reached, a whole volume being known."""
    errors = np.concatenate(
        [np.abs(maps[h] - DIRECTIONS @ brain.positions[h].mean(0).T) for h in HEMISPHERES], axis=1
    )
    return np.nanmedian(errors), np.nanmax(errors)


@pytest.mark.parametrize("space", ["fsaverage5", "fsnative"])
def test_positions_arrive_at_each_vertex(brain, space):
    mask = np.ones(brain.anatomy.mask.shape, bool)
    resampling = SurfaceResampling.from_layers(mask, brain.layers, brain.nearest)
    maps = resampling.project(fields(brain.affine, mask), space)
    assert not any(np.isnan(values).any() for values in maps.values())
    assert misplaced(maps, brain)[1] < 1e-3


def test_positions_arrive_through_the_visual_mask(brain):
    mask = brain.visual
    resampling = SurfaceResampling.from_layers(mask, brain.layers, brain.nearest)
    maps = resampling.project(fields(brain.affine, mask))
    n_exact = 0
    for h in HEMISPHERES:
        cells = [whole_cells(mask, depth - 1) for depth in brain.layers[h].astype(float)]
        whole, inside = (np.stack(parts) for parts in zip(*cells, strict=True))
        reached = inside.any(0)
        np.testing.assert_array_equal(reached, ~np.isnan(maps[h][0]))
        expected = (brain.positions[h] * inside[..., None]).sum(0)[reached]
        expected /= inside.sum(0)[reached, None]
        error = np.abs(maps[h][:, reached] - DIRECTIONS @ expected.T)
        exact = (whole == inside).all(0)[reached]
        assert error[:, exact].max() < 1e-3
        assert error.max() < brain.size
        n_exact += exact.sum()
    assert n_exact > 100


def test_left_and_right_of_the_average_brain_stay_apart(brain):
    """Voxels carry the fsaverage coordinate of the vertex that owns them."""
    white = fsaverage("white")
    own = np.concatenate([white[h].coordinates for h in HEMISPHERES])[brain.anatomy.owner]
    resampling = SurfaceResampling.from_layers(brain.anatomy.mask, brain.layers, brain.nearest)
    maps = resampling.project(own.T)
    for axis in range(3):
        found = np.concatenate([maps[h][axis] for h in HEMISPHERES])
        expected = np.concatenate([white[h].coordinates[:, axis] for h in HEMISPHERES])
        reached = ~np.isnan(found)
        assert np.corrcoef(found[reached], expected[reached])[0, 1] > 0.99
    for h, side in (("left", -1), ("right", 1)):
        far = np.abs(white[h].coordinates[:, 0]) > 2 * brain.size
        values = maps[h][0][far]
        assert (np.sign(values[~np.isnan(values)]) == side).all()
    # The same through MNI, whose x fsaverage's stands for.
    image = VolumeResampling.from_mni(brain.anatomy.mask, brain.mni).project(own.T)
    found = np.asarray(image.dataobj)
    reached = np.argwhere(found.any(-1))
    positions = apply_affine(image.affine, reached)
    far = np.abs(positions[:, 0]) > 2 * brain.size
    values = found[tuple(reached.T)]
    assert (np.sign(values[far, 0]) == np.sign(positions[far, 0])).all()
    for axis in range(3):
        assert np.corrcoef(values[:, axis], positions[:, axis])[0, 1] > 0.985


def test_axes_of_the_average_brain(brain):
    """Scanner x, y, z reach fsaverage5 as its own x, y, z: heads are turned but a little."""
    mask = np.ones(brain.anatomy.mask.shape, bool)
    resampling = SurfaceResampling.from_layers(mask, brain.layers, brain.nearest)
    maps = resampling.project(fields(brain.affine, mask)[:3])
    white = fsaverage("white")
    expected = np.concatenate([white[h].coordinates.T for h in HEMISPHERES], axis=1)
    found = np.concatenate([maps[h] for h in HEMISPHERES], axis=1)
    for axis in range(3):
        assert np.corrcoef(found[axis], expected[axis])[0, 1] > 0.99


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda layers: {h: a - 1 for h, a in layers.items()}, id="counted from 0"),
        pytest.param(lambda layers: {h: a + np.eye(3)[0] for h, a in layers.items()}, id="one off"),
        pytest.param(lambda layers: {h: a[..., [1, 0, 2]] for h, a in layers.items()}, id="x is y"),
        pytest.param(lambda layers: {h: a[..., [0, 2, 1]] for h, a in layers.items()}, id="y is z"),
        pytest.param(
            lambda layers: {"left": layers["right"], "right": layers["left"]}, id="hemispheres"
        ),
        pytest.param(lambda layers: {h: a[:, ::-1] for h, a in layers.items()}, id="reversed"),
    ],
)
def test_wrong_surface_transforms_are_seen(brain, spoil):
    mask = np.ones(brain.anatomy.mask.shape, bool)
    resampling = SurfaceResampling.from_layers(mask, spoil(brain.layers), brain.nearest)
    _, largest = misplaced(resampling.project(fields(brain.affine, mask)), brain)
    assert largest > 0.9 * brain.size


def mni_errors(resampling, mask, brain):
    """Errors in mm (4, n) at some of the MNI voxels reached, and their 0-based coordinates."""
    image = resampling.project(fields(brain.affine, mask))
    reached = np.stack(np.unravel_index(resampling.index, resampling.shape), axis=1)[::5]
    places = brain.anatomy.deform(apply_affine(image.affine, reached))
    found = np.asarray(image.dataobj)[tuple(reached.T)]
    coordinates = apply_affine(np.linalg.inv(brain.affine), places)
    return np.abs(found.T - DIRECTIONS @ places.T), coordinates


def test_positions_arrive_in_mni(brain):
    for mask in (np.ones(brain.anatomy.mask.shape, bool), brain.visual):
        errors, places = mni_errors(VolumeResampling.from_mni(mask, brain.mni), mask, brain)
        whole, inside = whole_cells(mask, places)
        assert inside.mean() > 0.999
        assert whole.sum() > 50
        assert errors[:, whole].max() < 1e-3
        assert errors.max() < brain.size + 1e-3


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda mni: mni[::-1], id="left is right"),
        pytest.param(lambda mni: mni - 1, id="counted from 0"),
        pytest.param(lambda mni: mni[..., [1, 0, 2]], id="x is y"),
        pytest.param(lambda mni: np.roll(mni, 4, axis=2), id="grid moved"),
        pytest.param(lambda mni: np.swapaxes(mni, 0, 2), id="grid turned"),
    ],
)
def test_wrong_mni_transforms_are_seen(brain, spoil):
    mask = np.ones(brain.anatomy.mask.shape, bool)
    errors, _ = mni_errors(VolumeResampling.from_mni(mask, spoil(brain.mni)), mask, brain)
    assert errors.max() > min(0.9 * brain.size, 7)


# Any transforms -----------------------------------------------------------------------------------

SHAPE = (13, 17, 11)
N_NATIVE = {"left": 700, "right": 650}


@pytest.fixture
def transforms():
    """A mask, NSD-like transforms, and the 0-based voxel that each vertex and depth must read."""
    rng = np.random.default_rng(0)
    mask = rng.random(SHAPE) < 0.8
    layers, to_fsaverage, expected = {}, {}, {}
    for h in HEMISPHERES:
        # The left hemisphere fills x < 6, the right x ≥ 7. All lie at voxel centres.
        x = rng.integers(0, 6, (3, N_NATIVE[h])) + (7 if h == "right" else 0)
        voxel = np.stack([x, *(rng.integers(0, n, x.shape) for n in SHAPE[1:])], axis=-1)
        layers[h] = (voxel + 1).astype(np.float32)
        layers[h][:, ::9] = 9999
        layers[h][0, 1::9] = 9999
        to_fsaverage[h] = rng.integers(1, N_NATIVE[h] + 1, 163842).astype(np.int32)
        inside = (layers[h][..., 0] < 9999) & mask[tuple(np.moveaxis(voxel, -1, 0))]
        expected[h] = voxel, inside
    return mask, layers, to_fsaverage, expected


@pytest.mark.parametrize("space", SURFACE_SPACES)
def test_any_field_arrives_at_its_vertices(transforms, space):
    mask, layers, to_fsaverage, expected = transforms
    resampling = SurfaceResampling.from_layers(mask, layers, to_fsaverage)
    assert resampling.spaces == SURFACE_SPACES
    assert resampling.n_voxels == mask.sum()

    def field(voxel):  # no symmetry, no two voxels alike: any slip, flip or swap of axes shows
        x, y, z = np.moveaxis(np.asarray(voxel, dtype=float), -1, 0)
        return x + 100 * y + 10000 * z + 0.25 * x * y

    values = field(np.moveaxis(np.indices(SHAPE), 0, -1))[mask]
    maps = resampling.project(values, space)
    for h in HEMISPHERES:
        voxel, inside = expected[h]
        if space != "fsnative":
            vertex = to_fsaverage[h][: N_FSAVERAGE[space]] - 1
            voxel, inside = voxel[:, vertex], inside[:, vertex]
        n_inside = inside.sum(0)
        with np.errstate(invalid="ignore"):
            mean = np.where(inside, field(voxel), 0).sum(0) / n_inside
        assert maps[h].dtype == np.float32
        np.testing.assert_allclose(maps[h], mean, rtol=1e-6)
        np.testing.assert_array_equal(np.isnan(maps[h]), n_inside == 0)
        assert 0 < np.isnan(maps[h]).mean() < 1


def test_left_stays_left(transforms):
    mask, layers, to_fsaverage, _ = transforms
    maps = SurfaceResampling.from_layers(mask, layers, to_fsaverage).project(np.nonzero(mask)[0])
    assert np.nanmax(maps["left"]) < 5.001
    assert np.nanmin(maps["right"]) > 6.999


def test_coordinates_are_one_based():
    mask = np.ones((3, 3, 3), dtype=bool)
    at = [
        [1, 1, 1],
        [3, 3, 3],
        [1.25, 1, 1],
        [0.5, 1, 1],
        [0.4, 1, 1],
        [3.5, 1, 1],
        [1, np.nan, 1],
    ]
    nearest = np.r_[np.arange(len(at)) + 1, np.ones(10242 - len(at))]  # NSD may store floats
    resampling = SurfaceResampling.from_layers(
        mask,
        dict.fromkeys(HEMISPHERES, np.array([at], dtype=np.float32)),
        dict.fromkeys(HEMISPHERES, nearest),
    )
    maps = resampling.project(np.arange(27.0))
    expected = [0, 26, 2.25, 0, np.nan, np.nan, np.nan]
    np.testing.assert_allclose(maps["left"][: len(at)], expected, rtol=1e-6)


def test_densities_of_fsaverage(transforms):
    mask, layers, to_fsaverage, _ = transforms
    values = np.random.default_rng(0).normal(size=mask.sum())
    dense = SurfaceResampling.from_layers(mask, layers, to_fsaverage)
    whole = dense.project(values, "fsaverage")["left"]
    for n, spaces in (
        (10242, ("fsaverage5", "fsnative")),
        (40962, ("fsaverage5", "fsaverage6", "fsnative")),
    ):
        nearest = {h: table[:n] for h, table in to_fsaverage.items()}
        resampling = SurfaceResampling.from_layers(mask, layers, nearest)
        assert resampling.spaces == spaces
        for space in spaces[:-1]:
            found = resampling.project(values, space)["left"]
            np.testing.assert_array_equal(found, whole[: N_FSAVERAGE[space]])
        with pytest.raises(InputError, match=r"expected fsaverage5.*has no transform to it"):
            resampling.project(values, "fsaverage")
    with pytest.raises(InputError, match=r"found 'fsaverage4'$"):
        dense.project(values, "fsaverage4")


def test_layers_of_fsaverage_itself(transforms):
    mask, layers, to_fsaverage, _ = transforms
    chained = SurfaceResampling.from_layers(mask, layers, to_fsaverage)
    direct = SurfaceResampling.from_layers(
        mask, {h: layers[h][:, to_fsaverage[h][:40962] - 1] for h in HEMISPHERES}, None
    )
    assert direct.spaces == ("fsaverage5", "fsaverage6")
    values = np.random.default_rng(0).normal(size=mask.sum())
    for space in direct.spaces:
        for h in HEMISPHERES:
            np.testing.assert_array_equal(
                direct.project(values, space)[h], chained.project(values, space)[h]
            )
    with pytest.raises(InputError, match="needs to_fsaverage"):
        SurfaceResampling.from_layers(mask, layers, None)


def test_leading_axes_and_missing_voxels(transforms):
    mask, *rest, _ = transforms
    resampling = SurfaceResampling.from_layers(mask, *rest)
    values = np.random.default_rng(0).normal(size=(2, 4, mask.sum())).astype(np.float32)
    maps = resampling.project(values)
    assert maps["right"].shape == (2, 4, 10242)
    np.testing.assert_allclose(
        maps["right"][1, 2], resampling.project(values[1, 2])["right"], rtol=1e-6
    )
    assert resampling.project(values[:0])["left"].shape == (0, 4, 10242)
    values[..., 5] = np.nan
    reads_5 = resampling.left[:, [5]].toarray()[rest[1]["left"][:10242] - 1, 0] > 0
    changed = np.isnan(resampling.project(values)["left"][0, 0]) & ~np.isnan(maps["left"][0, 0])
    np.testing.assert_array_equal(changed, reads_5)
    assert reads_5.any()


@pytest.mark.parametrize("dtype", [bool, np.int16, np.uint8, np.float16, np.float32, np.float64])
def test_values_of_any_kind(transforms, dtype):
    mask, *rest, _ = transforms
    resampling = SurfaceResampling.from_layers(mask, *rest)
    values = np.random.default_rng(0).integers(0, 2, mask.sum())
    expected = resampling.project(values.astype(float))["left"]
    np.testing.assert_allclose(
        resampling.project(values.astype(dtype))["left"], expected, rtol=1e-6
    )


def native(left, right=None):
    """Sampling of a small native surface from dense weights."""
    weights = {"left": left, "right": left if right is None else right}
    return SurfaceResampling(
        **{h: csr_array(np.asarray(w, np.float32)) for h, w in weights.items()},
        to_fsaverage=dict.fromkeys(HEMISPHERES, np.zeros(10242, int)),
    )


def test_labels_go_by_weight():
    weights = np.array(
        [
            [0.25, 0.25, 0.25, 0.25],  # 7 and 0 alike: the smaller
            [0.4, 0.3, 0.2, 0.1],  # 7 and 0 alike
            [0, 0.6, 0, 0.4],
            [0, 0, 0, 0],
            [0.35, 0.4, 0, 0.25],  # 0 has the largest weight, 7 the largest sum
        ]
    )
    resampling = native(weights, weights[::-1])
    maps = resampling.project_labels(np.array([7, 0, 0, 7]), outside=-5, space="fsnative")
    assert maps["left"].tolist() == [0, 0, 0, -5, 7]
    assert maps["right"].tolist() == [7, -5, 0, 0, 0]
    assert maps["left"].dtype == np.int32
    assert set(resampling.project_labels(np.array([7, 0, 0, 7]))["left"]) == {0}
    assert resampling.project_labels(np.full(4, -3), space="fsnative")["left"][3] == -1
    with pytest.raises(InputError, match="integers"):
        resampling.project_labels(np.ones(4))


# Subjects recorded on a surface -------------------------------------------------------------------


def test_vertices_stay_what_they_are(rng):
    n = {"left": 40962, "right": 40962}
    vertices = {h: rng.permutation(12000)[:500] for h in HEMISPHERES}
    resampling = SurfaceResampling.from_vertices(vertices, n)
    assert resampling.n_voxels == 1000
    assert resampling.spaces == ("fsaverage5", "fsaverage6")
    values = rng.normal(size=(2, 1000)).astype(np.float32)
    maps = resampling.project(values, "fsaverage6")
    for h, part in (("left", values[:, :500]), ("right", values[:, 500:])):
        np.testing.assert_array_equal(maps[h][:, vertices[h]], part)
        assert np.isfinite(maps[h][0]).sum() == 500
        np.testing.assert_array_equal(resampling.project(values)[h], maps[h][:, :10242])
    labels = resampling.project_labels(np.arange(1000), space="fsaverage6")
    np.testing.assert_array_equal(labels["right"][vertices["right"]], np.arange(500, 1000))


def test_vertices_of_a_native_surface(rng):
    n = {"left": 900, "right": 800}
    vertices = {"left": np.arange(900), "right": np.array([], int)}
    nearest = {h: rng.integers(1, n[h] + 1, 163842) for h in HEMISPHERES}
    resampling = SurfaceResampling.from_vertices(vertices, n, nearest)
    assert resampling.spaces == SURFACE_SPACES
    values = rng.normal(size=900).astype(np.float32)
    maps = resampling.project(values, "fsaverage")
    np.testing.assert_array_equal(maps["left"], values[nearest["left"] - 1])
    assert np.isnan(maps["right"]).all()
    assert resampling.project(values, "fsnative")["right"].shape == (800,)


@pytest.mark.parametrize(
    ("vertices", "n_vertices", "match"),
    [
        ({"left": [0, 1], "right": [5, 5]}, {"left": 10242, "right": 10242}, "right.*once"),
        ({"left": [0, -1], "right": [5]}, {"left": 10242, "right": 10242}, "left.*0 to 10241"),
        ({"left": [0], "right": [10242]}, {"left": 10242, "right": 10242}, "right.*0 to 10241"),
        ({"left": [0.0], "right": [5]}, {"left": 10242, "right": 10242}, "left.*float64"),
        ({"lh": [0], "rh": [5]}, {"left": 10242, "right": 10242}, "vertices.*left and right"),
        ({"left": [0], "right": [5]}, {"left": 10242}, "n_vertices.*left and right"),
        ({"left": [0], "right": [5]}, {"left": 10242, "right": 40962}, "needs to_fsaverage"),
        ({"left": [0], "right": [5]}, {"left": 900, "right": 900}, "needs to_fsaverage"),
    ],
)
def test_impossible_vertices_are_refused(vertices, n_vertices, match):
    with pytest.raises(InputError, match=match):
        SurfaceResampling.from_vertices(vertices, n_vertices)


# MNI ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "size", "origin"),
    # Voxel (0, 0, 0) of FSL's grids is at x = 90; flipped, nsdcode has voxel 92 (1-based) at 0.
    [((182, 218, 182), 1, (-91, -126, -72)), ((91, 109, 91), 2, (-90, -126, -72))],
)
def test_the_mni_grid_is_fsls_flipped(shape, size, origin):
    mask = np.zeros((5, 6, 7), bool)
    mask[2, 3, 4] = mask[2, 3, 5] = True
    coordinates = np.full((*shape, 3), 9999, np.float32)
    coordinates[10, 20, 30] = (3, 4, 5)
    coordinates[10, 20, 31] = (3, 4, 5.5)
    resampling = VolumeResampling.from_mni(mask, coordinates)
    image = resampling.project([8.0, 4.0])
    assert image.shape == shape
    assert image.get_data_dtype() == np.float32
    assert image.affine.tolist() == [
        [size, 0, 0, origin[0]], [0, size, 0, origin[1]], [0, 0, size, origin[2]], [0, 0, 0, 1]
    ]  # fmt: skip
    assert nib.aff2axcodes(image.affine) == ("R", "A", "S")
    assert int(image.header["qform_code"]) == int(image.header["sform_code"]) == 4
    np.testing.assert_array_equal(image.get_qform(), image.affine)
    assert image.header.get_xyzt_units()[0] == "mm"
    values = np.asarray(image.dataobj)
    flipped = shape[0] - 11
    assert np.argwhere(values).tolist() == [[flipped, 20, 30], [flipped, 20, 31]]
    assert values[flipped, 20, 30:32].tolist() == [8, 6]
    # In FSL's own array, the same place in the world.
    fsl = np.diag([-size, size, size, 1.0])
    fsl[:3, 3] = (90, -126, -72)
    np.testing.assert_array_equal(
        apply_affine(image.affine, [flipped, 20, 30]), apply_affine(fsl, [10, 20, 30])
    )


def volume_resampling(rng):
    mask = rng.random((9, 10, 11)) < 0.7
    coordinates = np.full((91, 109, 91, 3), 9999, np.float32)
    coordinates[30:40, 30:40, 30:40] = rng.uniform(0, 12, (10, 10, 10, 3))
    return mask, VolumeResampling.from_mni(mask, coordinates)


def test_several_maps_and_missing_voxels(rng):
    mask, resampling = volume_resampling(rng)
    values = rng.normal(size=(3, mask.sum()))
    image = resampling.project(values)
    assert image.shape == (91, 109, 91, 3)
    np.testing.assert_allclose(
        np.asarray(image.dataobj)[..., 1], np.asarray(resampling.project(values[1]).dataobj)
    )
    values[1, 7] = np.nan
    found = np.asarray(resampling.project(values[1]).dataobj)
    reads_7 = resampling.index[resampling.weights[:, [7]].toarray()[:, 0] > 0]
    np.testing.assert_array_equal(np.flatnonzero(np.isnan(found)), reads_7)
    assert len(reads_7)
    with pytest.raises(InputError, match="n_maps, n_voxels"):
        resampling.project(values[None])
    with pytest.raises(InputError, match=f"expected {mask.sum()} voxels"):
        resampling.project(values[0, 1:])


def test_other_grids_are_refused(rng):
    mask = np.ones((5, 5, 5), bool)
    for shape in ((193, 229, 193, 3), (91, 109, 91), (91, 109, 91, 4), (109, 91, 91, 3)):
        with pytest.raises(InputError, match=r"\(182, 218, 182, 3\) or \(91, 109, 91, 3\)"):
            VolumeResampling.from_mni(mask, np.zeros(shape, np.int8))
    with pytest.raises(InputError, match="no MNI voxel lies"):
        VolumeResampling.from_mni(mask, np.full((91, 109, 91, 3), 9999, np.float32))
    _, resampling = volume_resampling(rng)
    parts = resampling.weights, resampling.index, resampling.shape, resampling.affine
    for position, wrong in (
        (1, resampling.index[1:]),
        (1, resampling.index[::-1]),
        (1, resampling.index + 91 * 109 * 91),
        (1, resampling.index.astype(float)),
        (2, (91, 109)),
        (3, np.eye(3)),
        (3, np.full((4, 4), np.nan)),
        (3, np.diag([2.0, 2, 0, 1])),
    ):
        with pytest.raises(InputError, match="volume resampling"):
            VolumeResampling(*parts[:position], wrong, *parts[position + 1 :])


# Fewer voxels -------------------------------------------------------------------------------------


def same(one, two):
    for name in ("left", "right", "weights"):
        if hasattr(one, name):
            a, b = getattr(one, name), getattr(two, name)
            assert a.shape == b.shape
            assert b.dtype == np.float32
            assert (a != b).nnz == 0


def test_fewer_voxels_are_a_smaller_mask(rng):
    mask = np.ones((8, 9, 10), bool)
    layers = {h: rng.uniform(1.5, 7.5, (1, 300, 3)) for h in HEMISPHERES}
    nearest = {h: rng.integers(1, 301, 10242) for h in HEMISPHERES}
    stay = rng.random(mask.sum()) < 0.6
    fewer = mask.copy()
    fewer[mask] = stay
    whole = SurfaceResampling.from_layers(mask, layers, nearest)
    same(whole.keep(np.ones(mask.sum(), bool)), whole)
    kept = whole.keep(stay)
    untouched = whole.left[:, ~stay].sum(1) == 0
    assert untouched.any()
    assert (kept.left[untouched] != whole.left[:, stay][untouched]).nnz == 0
    direct = SurfaceResampling.from_layers(fewer, layers, nearest)
    assert kept.n_voxels == stay.sum()
    values = rng.normal(size=stay.sum())
    for h in HEMISPHERES:
        found = kept.project(values, "fsnative")[h]
        np.testing.assert_allclose(found, direct.project(values, "fsnative")[h], atol=1e-5)
        assert 0.05 < np.isnan(found).mean() < 0.95


def test_fewer_voxels_in_mni(rng):
    mask, resampling = volume_resampling(rng)
    stay = rng.random(mask.sum()) < 0.7
    kept = resampling.keep(stay)
    assert kept.n_voxels == stay.sum()
    assert len(kept.index) < len(resampling.index)
    np.testing.assert_allclose(kept.weights.sum(1), 1, atol=1e-6)
    ones = np.asarray(kept.project(np.ones(stay.sum())).dataobj)
    assert (ones.ravel()[kept.index] > 0.999).all()
    lost = np.setdiff1d(resampling.index, kept.index)
    share = resampling.weights @ stay.astype(float)
    assert (share[np.isin(resampling.index, lost)] < 0.5).all()
    assert (share[np.isin(resampling.index, kept.index)] >= 0.499).all()


@pytest.mark.parametrize("wrong", [np.ones(3, bool), np.zeros(4, bool), np.arange(4)])
def test_a_choice_that_is_none_is_refused(wrong):
    with pytest.raises(InputError, match="one boolean for each of 4"):
        native(np.eye(4)).keep(wrong)


# Files --------------------------------------------------------------------------------------------


def test_save_and_load_surfaces(transforms, tmp_path):
    mask, layers, to_fsaverage, _ = transforms
    for resampling in (
        SurfaceResampling.from_layers(mask, layers, to_fsaverage),
        SurfaceResampling.from_vertices(
            {"left": np.array([3, 1]), "right": np.array([0])}, {"left": 10242, "right": 10242}
        ),
    ):
        resampling.save(tmp_path / "surface_resampling.npz")
        again = SurfaceResampling.load(tmp_path / "surface_resampling.npz")
        same(resampling, again)
        assert again.n_voxels == resampling.n_voxels
        assert again.spaces == resampling.spaces
        if resampling.to_fsaverage is not None:
            for h in HEMISPHERES:
                np.testing.assert_array_equal(again.to_fsaverage[h], to_fsaverage[h] - 1)
                assert again.to_fsaverage[h].dtype == np.int32
    assert [p.name for p in tmp_path.iterdir()] == ["surface_resampling.npz"]


def test_save_and_load_volumes(rng, tmp_path):
    _, resampling = volume_resampling(rng)
    resampling.save(tmp_path / "mni_resampling.npz")
    again = VolumeResampling.load(tmp_path / "mni_resampling.npz")
    same(resampling, again)
    np.testing.assert_array_equal(again.index, resampling.index)
    assert again.shape == resampling.shape
    np.testing.assert_array_equal(again.affine, resampling.affine)
    assert [p.name for p in tmp_path.iterdir()] == ["mni_resampling.npz"]


@pytest.mark.parametrize("kind", [SurfaceResampling, VolumeResampling])
def test_damaged_or_foreign_files_are_refused(kind, transforms, rng, tmp_path):
    path = tmp_path / "surface_resampling.npz"
    with pytest.raises(MissingError, match="does not exist"):
        kind.load(path)
    if kind is SurfaceResampling:
        mask, *rest, _ = transforms
        resampling, name = SurfaceResampling.from_layers(mask, *rest), "left"
    else:
        (_, resampling), name = volume_resampling(rng), "mni"
    resampling.save(path)
    whole = path.read_bytes()
    middle = len(whole) // 2
    for content in (
        b"",
        whole[:middle],
        whole[:-4],
        whole[:200] + bytes(50) + whole[250:],
        whole[:middle] + bytes(50) + whole[middle + 50 :],
        b"not an archive at all",
    ):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"resampling\.npz"):
            kind.load(path)
    path.write_bytes(whole)
    with np.load(path) as stored:
        good = dict(stored)
    weights, voxels, counts = (good[f"{name}_{p}"] for p in ("weights", "voxels", "counts"))
    negative = counts.copy()
    negative[:2] = (-1, counts[:2].sum() + 1)
    for change, match in (
        ({"n_voxels": np.int64(voxels.max())}, f"expected voxels 0 to {voxels.max() - 1}"),
        ({"n_voxels": np.arange(2)}, "resampling"),
        ({f"{name}_weights": weights * np.nan}, "sum to 1"),
        ({f"{name}_weights": weights * 2}, "sum to 1"),
        ({f"{name}_weights": -weights}, "sum to 1"),
        ({f"{name}_weights": weights[1:]}, "parts of a sparse matrix"),
        ({f"{name}_voxels": voxels.astype(float)}, "parts of a sparse matrix"),
        ({f"{name}_voxels": voxels - voxels.min() - 1}, "expected voxels 0"),
        ({f"{name}_counts": counts[:-5]}, "parts of a sparse matrix|volume resampling"),
        ({f"{name}_counts": negative}, "parts of a sparse matrix"),
        ({f"{name}_voxels": np.array([{}], dtype=object)}, "resampling"),  # a pickle inside
    ):
        np.savez(path, **(good | change))
        with pytest.raises(InputError, match=rf"resampling\.npz.*({match})"):
            kind.load(path)
    for missing in good:
        if missing == "right_to_fsaverage":
            continue
        np.savez(path, **{key: value for key, value in good.items() if key != missing})
        with pytest.raises(InputError, match=r"resampling\.npz"):
            kind.load(path)
    np.save(tmp_path / "array.npy", voxels)
    with pytest.raises(InputError, match=r"array\.npy"):
        kind.load(tmp_path / "array.npy")


# Wrong input --------------------------------------------------------------------------------------


def test_bad_transforms_are_refused(transforms):
    mask, layers, to_fsaverage, _ = transforms

    def refused(match, mask=mask, layers=layers, to_fsaverage=to_fsaverage):
        with pytest.raises(InputError, match=match):
            SurfaceResampling.from_layers(mask, layers, to_fsaverage)

    refused("3-D boolean", mask=mask.astype(int))
    refused("3-D boolean", mask=mask[0])
    refused("with 0 voxels", mask=np.zeros(SHAPE, bool))
    refused("keys left and right", layers={"left": layers["left"]})
    refused("keys left and right", layers={"lh": layers["left"], "rh": layers["right"]})
    refused("keys left and right", to_fsaverage={"left": to_fsaverage["left"]})
    refused("disagree", layers=layers | {"right": layers["right"][:2]})
    refused("disagree", to_fsaverage=to_fsaverage | {"right": to_fsaverage["right"][:10242]})
    refused("n_depths, n_native, 3", layers={h: a[..., :2] for h, a in layers.items()})
    refused(
        "vertices, with one number each",
        to_fsaverage={h: a[:5000] for h, a in to_fsaverage.items()},
    )
    refused(
        "vertices, with one number each",
        to_fsaverage={h: a[:, None] for h, a in to_fsaverage.items()},
    )
    refused("1-based", to_fsaverage={h: a - 1 for h, a in to_fsaverage.items()})
    refused("1-based", to_fsaverage={h: a + 1 for h, a in to_fsaverage.items()})
    refused("1-based", to_fsaverage={h: a + 0.5 for h, a in to_fsaverage.items()})
    refused("1-based", to_fsaverage={h: a * np.nan for h, a in to_fsaverage.items()})
    swapped = dict(zip(HEMISPHERES, (to_fsaverage["right"], to_fsaverage["left"]), strict=True))
    refused("swapped", to_fsaverage=swapped)
    refused("no vertex lies", layers={h: a * 0 + 9999 for h, a in layers.items()})


def test_bad_weights_and_values_are_refused():
    good = np.eye(4)
    with pytest.raises(InputError, match="hemispheres of one mask"):
        native(good, good[:3, :3])
    for broken in (good * 2, good * -1, good * np.nan):
        with pytest.raises(InputError, match="right resampling: expected weights above 0"):
            native(good, broken)
    with pytest.raises(InputError, match="expected a csr_array"):
        SurfaceResampling(good, good)
    for values in (np.zeros(2), np.float64(1), np.zeros((4, 2))):
        with pytest.raises(InputError, match="expected 4 voxels"):
            native(good).project(values)
