"""Betas are read alike from every kind of file, and a file that is not whole is named."""

from __future__ import annotations

import gzip
import os
from functools import partial

import h5py
import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from synbrain_cli.errors import InputError, MissingError, SynbrainError
from synbrain_cli.io.betas import (
    n_trials_of,
    n_vertices_of,
    read_array,
    read_at_vertices,
    read_map,
    read_masked,
)
from synbrain_cli.io.surface import write_gifti
from synbrain_cli.io.volume import unmask
from synbrain_cli.io.voxel_space import Vertices, Volume, load_geometry

GRID, N_TRIALS, N_VERTICES = (7, 5, 4), 6, 60
AFFINE = np.array([[-2.0, 0, 0, 90], [0, 2, 0, -126], [0, 0, 2, -72], [0, 0, 0, 1]])
VERTICES = np.array([0, 3, 4, 20, 41, 59])


@pytest.fixture
def mask(rng):
    mask = rng.random(GRID) < 0.4
    mask[2] = False  # a slice without voxels
    return mask


def integers(rng, shape=(*GRID, N_TRIALS)):
    return rng.integers(-3000, 3000, shape).astype(np.int16)


def nifti(path, values):
    nib.save(nib.Nifti1Image(values, AFFINE, dtype=values.dtype), path)
    return path


def hdf5(path, values, name="betas", **options):
    with h5py.File(path, "w") as file:
        file.create_dataset(name, data=values, **options)
    return path


def mgh(path, values):
    """Values (n_trials, n_vertices), as FreeSurfer has them."""
    stored = np.asarray(values).T.reshape(values.shape[1], 1, 1, len(values))
    nib.save(nib.MGHImage(stored[..., 0] if len(values) == 1 else stored, np.eye(4)), path)
    return path


# ------------------------------------------------------------------------------- volumes

VOLUMES = [
    (".nii", {}),
    (".nii.gz", {}),
    ("forward.hdf5", {"chunks": (1, 1, 1, N_TRIALS)}),
    ("forward.hdf5", {"chunks": (1, 1, 1, N_TRIALS), "compression": "gzip"}),
    ("forward.hdf5", {"chunks": (1, 1, 1, N_TRIALS), "shuffle": True}),
    ("forward.hdf5", {"chunks": (1, 1, 1, N_TRIALS), "fletcher32": True}),
    ("forward.hdf5", {"chunks": (1, 1, 1, N_TRIALS), "compression": "lzf"}),
    ("forward.hdf5", {"chunks": (1, 1, 1, N_TRIALS), "maxshape": (*GRID, None)}),
    ("forward.hdf5", {"chunks": (1, 1, 1, 2)}),
    ("forward.hdf5", {"chunks": (3, 2, 4, 4), "compression": "gzip", "shuffle": True}),
    ("forward.hdf5", {}),
    ("backward.hdf5", {"chunks": (N_TRIALS, 1, 1, 1)}),
    ("backward.hdf5", {"chunks": (N_TRIALS, 1, 1, 1), "compression": "gzip"}),
    ("backward.hdf5", {"chunks": (N_TRIALS, 1, 1, 1), "shuffle": True}),
    ("backward.hdf5", {"chunks": (1, 4, 5, 7), "compression": "gzip"}),
    ("backward.h5", {}),
    ("forward.h5", {"name": "betasmd"}),
]


def write_volume(path, values, options):
    if path.suffix not in (".hdf5", ".h5"):
        return nifti(path, values)
    return hdf5(path, values.T if "backward" in path.name else values, **options)


@pytest.mark.parametrize("dtype", ["<i2", ">i2", "<f4", ">f8"])
@pytest.mark.parametrize(("name", "options"), VOLUMES)
def test_every_kind_of_volume_is_read_alike(tmp_path, rng, mask, name, options, dtype):
    values = integers(rng).astype(dtype)
    path = write_volume(tmp_path / f"betas_{name}", values, options)
    found = read_masked(path, mask)
    np.testing.assert_array_equal(found, values[mask].T)
    assert found.shape == (N_TRIALS, mask.sum())
    assert found.dtype == np.dtype(dtype).newbyteorder("=")
    assert n_trials_of(path, mask) == N_TRIALS


def test_big_endian_nifti_is_read_in_the_machines_order(tmp_path, rng, mask):
    values = integers(rng)
    header = nib.Nifti1Header(endianness=">")
    header.set_data_dtype(np.int16)
    nib.save(nib.Nifti1Image(values, AFFINE, header), tmp_path / "betas.nii.gz")
    assert nib.load(tmp_path / "betas.nii.gz").header.endianness == ">"
    found = read_masked(tmp_path / "betas.nii.gz", mask)
    np.testing.assert_array_equal(found, values[mask].T)
    assert found.dtype == np.dtype("=i2")


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.float64])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_a_scaled_nifti_gives_scaled_float32(tmp_path, rng, mask, suffix, dtype):
    stored = rng.integers(0, 200, (*GRID, N_TRIALS)).astype(dtype)
    path = tmp_path / f"betas{suffix}"
    image = nib.Nifti1Image(stored, AFFINE)
    image.header.set_data_dtype(dtype)
    raw = bytearray(image.to_bytes())
    raw[112:120] = np.array([0.25, -3.5], "<f4").tobytes()  # scl_slope, scl_inter
    path.write_bytes(gzip.compress(raw) if suffix.endswith("gz") else raw)
    found = read_masked(path, mask)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, stored[mask].T * 0.25 - 3.5, rtol=1e-6)
    np.testing.assert_allclose(found, np.asarray(nib.load(path).dataobj)[mask].T, rtol=1e-6)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_a_volume_alone_is_one_trial(tmp_path, rng, mask, suffix):
    values = integers(rng, GRID)
    path = nifti(tmp_path / f"beta_0001{suffix}", values)
    assert n_trials_of(path, mask) == 1
    np.testing.assert_array_equal(read_masked(path, mask), values[mask][None])


def test_chunks_never_written_hold_the_fill_value(tmp_path, mask):
    with h5py.File(tmp_path / "betas.hdf5", "w") as file:
        betas = file.create_dataset(
            "betas", (*GRID, N_TRIALS), "f4", chunks=(1, 1, 1, N_TRIALS), fillvalue=7
        )
        first = tuple(np.argwhere(mask)[0])
        betas[first] = np.arange(N_TRIALS)
    found = read_masked(tmp_path / "betas.hdf5", mask)
    np.testing.assert_array_equal(found[:, 0], np.arange(N_TRIALS))
    assert (found[:, 1:] == 7).all()


@settings(max_examples=40, deadline=None)
@given(
    mask=arrays.arrays(bool, arrays.array_shapes(min_dims=3, max_dims=3, max_side=5)),
    n_trials=st.integers(1, 3),
    suffix=st.sampled_from([".nii", ".nii.gz", ".hdf5"]),
    seed=st.integers(0, 9),
)
def test_unmasking_and_reading_masked_returns_the_values(
    tmp_path_factory, mask, n_trials, suffix, seed
):
    mask.flat[0] = True
    values = np.random.default_rng(seed).standard_normal((n_trials, mask.sum())).astype(np.float32)
    image = unmask(values, nib.Nifti1Image(mask.astype(np.uint8), AFFINE))
    path = tmp_path_factory.getbasetemp() / f"round_trip{suffix}"
    if suffix == ".hdf5":
        assume(image.shape[:3] != image.shape[:0:-1])  # not told apart, and so refused
        hdf5(path, np.asarray(image.dataobj), chunks=(1, 1, 1, n_trials))
    else:
        nib.save(image, path)
    np.testing.assert_array_equal(read_masked(path, mask), values)


# ------------------------------------------------------------------------------ surfaces

SURFACES = [
    (".mgh", {}),
    (".mgz", {}),
    (".npy", {}),
    (".gii", {}),
    (".func.gii", {}),
    (".hdf5", {"chunks": (N_TRIALS, 1)}),
    (".hdf5", {"chunks": (N_TRIALS, 1), "compression": "gzip"}),
    (".hdf5", {"chunks": (N_TRIALS, 1), "fletcher32": True}),
    (".hdf5", {"chunks": (2, 7)}),
    (".hdf5", {}),
    (".h5", {"name": "betasmd"}),
]


def write_surface(path, values, options):
    if path.suffix == ".gii":
        write_gifti(path, values, "left")
    elif path.suffix == ".npy":
        np.save(path, values)
    elif path.suffix in (".hdf5", ".h5"):
        hdf5(path, values, **options)
    else:
        mgh(path, values)
    return path


@pytest.mark.parametrize(("suffix", "options"), SURFACES)
def test_every_kind_of_surface_is_read_alike(tmp_path, rng, suffix, options):
    values = rng.standard_normal((N_TRIALS, N_VERTICES)).astype(np.float32)
    path = write_surface(tmp_path / f"lh.betas{suffix}", values, options)
    found = read_at_vertices(path, VERTICES, N_VERTICES)
    np.testing.assert_array_equal(found, values[:, VERTICES])
    assert found.dtype == np.dtype("=f4")
    assert n_trials_of(path, None) == N_TRIALS
    assert n_vertices_of(path) == N_VERTICES


def test_mgh_is_big_endian_and_its_reader_is_not_fooled(tmp_path, rng):
    values = rng.standard_normal((N_TRIALS, N_VERTICES)).astype(np.float32)
    path = mgh(tmp_path / "lh.betas.mgh", values)
    stored = np.frombuffer(path.read_bytes()[284 : 284 + values.nbytes], ">f4")
    np.testing.assert_array_equal(stored.reshape(values.shape), values)
    np.testing.assert_array_equal(read_at_vertices(path, VERTICES, N_VERTICES), values[:, VERTICES])


@pytest.mark.parametrize("suffix", [".mgh", ".mgz", ".nii.gz", ".gii"])
def test_a_map_alone_is_one_trial(tmp_path, rng, suffix):
    values = rng.standard_normal(N_VERTICES).astype(np.float32)
    path = tmp_path / f"lh.beta{suffix}"
    if suffix == ".gii":
        write_gifti(path, values, "left")
    else:
        kind = nib.Nifti1Image if suffix == ".nii.gz" else nib.MGHImage
        nib.save(kind(values.reshape(-1, 1, 1), np.eye(4)), path)
    assert n_trials_of(path, None) == 1
    np.testing.assert_array_equal(
        read_at_vertices(path, VERTICES, N_VERTICES), values[VERTICES][None]
    )


@pytest.mark.parametrize("suffix", [".mgh", ".npy", ".gii", ".hdf5"])
def test_a_surface_of_another_size_is_refused(tmp_path, rng, suffix):
    values = rng.standard_normal((N_TRIALS, N_VERTICES)).astype(np.float32)
    path = write_surface(tmp_path / f"lh.betas{suffix}", values, {})
    with pytest.raises(InputError, match=r"expected the 61 vertices .* found") as raised:
        read_at_vertices(path, VERTICES, N_VERTICES + 1)
    assert str(path) in str(raised.value)
    assert "60" in str(raised.value)


@pytest.mark.parametrize("suffix", [".mgh", ".mgz", ".npy", ".gii"])
@pytest.mark.parametrize("n_maps", [1, 3])
def test_maps_are_read_vertices_first(tmp_path, rng, suffix, n_maps):
    values = rng.standard_normal((n_maps, N_VERTICES)).astype(np.float32)
    path = write_surface(tmp_path / f"lh.map{suffix}", values, {})
    np.testing.assert_array_equal(read_map(path), values.T)


def test_a_boolean_map_is_one(tmp_path):
    inside = np.arange(N_VERTICES) % 3 == 0
    np.save(tmp_path / "lh.npy", inside)
    np.testing.assert_array_equal(read_map(tmp_path / "lh.npy"), inside)


# ------------------------------------------------------------------------------- damage


def cut(share):
    return lambda content: content[: int(len(content) * share)]


def cut_bytes(n):
    return lambda content: content[:-n]


def message_of(read):
    """Of the fault that reading finds; None where it finds none."""
    try:
        read()
    except SynbrainError as error:
        return str(error)
    return None


def flip(content):
    place = len(content) // 2
    return content[:place] + bytes([content[place] ^ 0x55]) + content[place + 1 :]


DAMAGES = {
    "empty": cut(0),
    "cut at 1 %": cut(0.01),
    "cut at 30 %": cut(0.3),
    "cut at 90 %": cut(0.9),
    "one byte less": cut_bytes(1),
    "text": lambda content: b"404 not found\n" * 30,
}
CHECKED = {  # what has a checksum: gzip's trailer holds it in 4 bytes, and the length in 4
    "cut in the trailer": cut_bytes(5),
    "without the trailer": cut_bytes(8),
    "another checksum": lambda content: content[:-8] + b"abcd" + content[-4:],
    "one byte flipped": flip,
}
VOLUME_FILES = {
    "betas.nii": {},
    "betas.nii.gz": {},
    "forward.hdf5": {"chunks": (1, 1, 1, N_TRIALS)},
    "backward.hdf5": {"chunks": (1, 4, 5, 7), "compression": "gzip"},
}
SURFACE_FILES = ("lh.mgh", "lh.mgz", "lh.npy", "lh.gii", "lh.hdf5")
FAULTS = [
    (name, how)
    for name in (*VOLUME_FILES, *SURFACE_FILES)
    for how in (*DAMAGES, *(CHECKED if name.endswith("z") else ()))
    # MGH has a footer that is not needed; HDF5's betas may end before the file does.
    if not (how == "one byte less" and name.endswith((".mgh", ".hdf5")))
]


@pytest.mark.parametrize(("name", "how"), FAULTS)
def test_a_damaged_file_is_named(tmp_path, rng, mask, name, how):
    path = tmp_path / name
    if name in VOLUME_FILES:
        write_volume(path, rng.standard_normal((*GRID, N_TRIALS)), VOLUME_FILES[name])
    else:
        write_surface(path, rng.standard_normal((N_TRIALS, N_VERTICES)).astype(np.float32), {})
    path.write_bytes((DAMAGES | CHECKED)[how](path.read_bytes()))
    if name in VOLUME_FILES:
        read, others = partial(read_masked, path, mask), [partial(n_trials_of, path, mask)]
    else:
        read = partial(read_at_vertices, path, VERTICES, N_VERTICES)
        others = [partial(n_trials_of, path, None), partial(n_vertices_of, path)]
        others += [partial(read_map, path)] if path.suffix != ".hdf5" else []
    with pytest.raises(InputError) as raised:
        read()
    assert str(path) in str(raised.value)
    for other in others:  # the header may be whole; a fault is never a traceback
        assert str(path) in (message_of(other) or str(path))


def test_a_cut_between_two_volumes_is_noticed(tmp_path, rng, mask):
    values = integers(rng)
    path = nifti(tmp_path / "betas.nii.gz", values)
    raw = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(raw[: -values[..., 0].nbytes]))
    with pytest.raises(InputError, match="5 of 6 volumes are complete"):
        read_masked(path, mask)


@pytest.mark.parametrize("name", ["betas.nii", "betas.hdf5", "lh.mgh", "lh.npy", "lh.gii"])
def test_a_missing_file_is_missing(tmp_path, mask, name):
    path = tmp_path / name
    for read in (
        lambda: read_masked(path, mask),
        lambda: read_at_vertices(path, VERTICES, N_VERTICES),
        lambda: n_trials_of(path, mask),
        lambda: n_vertices_of(path),
        lambda: read_map(path),
        lambda: read_array(path),
    ):
        with pytest.raises(MissingError, match=f"{name} does not exist"):
            read()


OTHER = [
    ("betas.nii.gz", {}, (8, 5, 4, 6), r"grid \(7, 5, 4\), found \(8, 5, 4, 6\)"),
    ("betas.nii.gz", {}, (7, 5, 4, 2, 3), r"4-D.*found \(7, 5, 4, 2, 3\)"),
    ("forward.hdf5", {}, (8, 5, 4, 6), r"grid \(7, 5, 4\), found \(8, 5, 4, 6\)"),
    ("forward.hdf5", {}, (7, 5, 4), r"4-D dataset.*found \(7, 5, 4\)"),
    ("forward.hdf5", {}, (480, 56), r"4-D dataset.*found \(480, 56\)"),
    (
        "forward.hdf5",
        {"name": "data"},
        (7, 5, 4, 6),
        "expected the dataset betas or betasmd, found data",
    ),
]


@pytest.mark.parametrize(("name", "options", "shape", "message"), OTHER)
def test_volumes_that_are_not_the_masks_are_refused(
    tmp_path, rng, mask, name, options, shape, message
):
    path = write_volume(tmp_path / name, rng.standard_normal(shape), options)
    with pytest.raises(InputError, match=message) as raised:
        read_masked(path, mask)
    assert str(path) in str(raised.value)
    if "hdf5" in name or len(shape) > 4:
        with pytest.raises(InputError):
            n_trials_of(path, mask)


def test_hdf5_without_a_dataset_says_what_it_has(tmp_path, mask):
    with h5py.File(tmp_path / "betas.hdf5", "w") as file:
        file.create_group("betas")
        file.create_group("meta")
    with pytest.raises(
        InputError, match="expected the dataset betas or betasmd, found betas, meta"
    ):
        read_masked(tmp_path / "betas.hdf5", mask)
    h5py.File(tmp_path / "empty.hdf5", "w").close()
    with pytest.raises(InputError, match="expected the dataset betas or betasmd, found none"):
        n_trials_of(tmp_path / "empty.hdf5", mask)


def test_axes_that_fit_both_ways_are_not_guessed(tmp_path, rng):
    path = hdf5(tmp_path / "betas.hdf5", rng.standard_normal((6, 5, 5, 6)))
    with pytest.raises(InputError, match="forwards and, as MATLAB writes it, backwards"):
        read_masked(path, np.ones((6, 5, 5), bool))
    with pytest.raises(InputError, match="backwards"):
        n_trials_of(path, np.ones((6, 5, 5), bool))


@pytest.mark.parametrize(
    ("shape", "inside", "expected"),
    [((30, 9), None, 30), ((30, 9), GRID, 30), ((*GRID, 12), GRID, 12)],
)
def test_trials_of_arrays(tmp_path, shape, inside, expected):
    np.save(tmp_path / "a.npy", np.zeros(shape, np.float32))
    assert n_trials_of(tmp_path / "a.npy", None if inside is None else np.ones(inside)) == expected


@pytest.mark.parametrize("shape", [(30,), (7, 5, 5, 12), (2, 3, 4)])
def test_arrays_of_other_axes_are_refused(tmp_path, shape):
    np.save(tmp_path / "a.npy", np.zeros(shape, np.float32))
    with pytest.raises(
        InputError, match=r"a\.npy: expected shape \(n_trials, n_voxels\)"
    ) as raised:
        n_trials_of(tmp_path / "a.npy", np.ones(GRID, bool))
    assert str(shape) in str(raised.value)
    assert "(7, 5, 4, 'n_trials')" in str(raised.value)


def test_a_mesh_is_no_map(tmp_path):
    mesh = [
        nib.gifti.GiftiDataArray(np.zeros((9, 3), np.float32), intent="NIFTI_INTENT_POINTSET"),
        nib.gifti.GiftiDataArray(np.zeros((5, 3), np.int32), intent="NIFTI_INTENT_TRIANGLE"),
    ]
    nib.save(nib.gifti.GiftiImage(darrays=mesh), tmp_path / "lh.pial.gii")
    for read in (read_map, n_vertices_of, lambda path: n_trials_of(path, None)):
        with pytest.raises(InputError, match=r"lh\.pial\.gii.*not a mesh"):
            read(tmp_path / "lh.pial.gii")


class Harmful:
    """Unpickling it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_pickled_array_is_refused_unopened_with_glmsingles_way_out(tmp_path):
    path = tmp_path / "TYPED_FITHRF_GLMDENOISE_RR.npy"
    np.save(path, {"betasmd": np.zeros(3), "harm": Harmful(tmp_path / "harm")}, allow_pickle=True)
    with pytest.raises(InputError, match="could run any code") as raised:
        read_array(path)
    assert str(path) in str(raised.value)
    assert "synbrain prepare glmsingle" in str(raised.value)
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (np.array("text"), "found <U4"),
        (np.array(3.0), r"found float64 of shape \(\)"),
        (np.zeros(3, complex), "found complex128"),
    ],
)
def test_arrays_of_other_things_are_refused(tmp_path, content, message):
    np.save(tmp_path / "a.npy", content)
    with pytest.raises(InputError, match=message):
        read_array(tmp_path / "a.npy")


def test_an_archive_named_npy_is_told_as_such(tmp_path):
    np.savez(tmp_path / "a.npz", betas=np.zeros(3))
    (tmp_path / "a.npz").rename(tmp_path / "a.npy")
    with pytest.raises(InputError, match=r"an archive of arrays \(\.npz\): save the array"):
        read_array(tmp_path / "a.npy")


# ---------------------------------------------------------------------------------- place


def surfaces():
    return Vertices(np.array([1, 4, 7]), np.array([0, 9]), {"left": 10, "right": 12}, "fsnative")


def test_a_volume_returns_from_its_file_and_keeps_its_order(tmp_path, rng, mask):
    place = Volume.of(mask, nib.Nifti1Image(np.zeros(GRID), AFFINE))
    place.save(tmp_path)
    found = load_geometry(tmp_path)
    assert isinstance(found, Volume)
    np.testing.assert_array_equal(found.inside, mask)
    np.testing.assert_array_equal(found.mask.affine, AFFINE)
    assert found.n_voxels == mask.sum()
    table = found.table()
    assert table.columns.tolist() == ["i", "j", "k"]
    np.testing.assert_array_equal(table.to_numpy(), np.argwhere(mask))
    values = rng.standard_normal((2, found.n_voxels)).astype(np.float32)
    maps = found.to_nifti(values, "made up")
    np.testing.assert_array_equal(np.asarray(maps.dataobj)[mask].T, values)
    some = rng.random(found.n_voxels) < 0.5
    kept = found.keep(some)
    np.testing.assert_array_equal(kept.table().to_numpy(), table[some].to_numpy())
    maps = np.asarray(kept.to_nifti(values[:, some]).dataobj)
    np.testing.assert_array_equal(maps[kept.inside].T, values[:, some])
    np.testing.assert_array_equal(kept.mask.affine, AFFINE)


def test_vertices_return_from_their_file_and_keep_their_order(tmp_path, rng):
    surfaces().save(tmp_path)
    found = load_geometry(tmp_path)
    assert isinstance(found, Vertices)
    assert found.space == "fsnative"
    assert found.n_vertices == {"left": 10, "right": 12}
    expected = pd.DataFrame({"hemisphere": ["left"] * 3 + ["right"] * 2, "vertex": [1, 4, 7, 0, 9]})
    assert found.table().to_numpy().tolist() == expected.to_numpy().tolist()
    some = np.array([True, False, True, False, True])
    kept = found.keep(some)
    assert kept.table().to_numpy().tolist() == expected[some].to_numpy().tolist()
    values = rng.standard_normal((3, 5)).astype(np.float32)
    maps = found.to_full(values)
    assert {h: m.shape for h, m in maps.items()} == {"left": (3, 10), "right": (3, 12)}
    np.testing.assert_array_equal(maps["left"][:, [1, 4, 7]], values[:, :3])
    np.testing.assert_array_equal(maps["right"][:, [0, 9]], values[:, 3:])
    assert sum(np.isfinite(m).sum() for m in maps.values()) == values.size
    assert maps["left"].dtype == np.float32
    np.testing.assert_array_equal(found.to_full(values[0])["right"], maps["right"][0])


@pytest.mark.parametrize("n", [4, 6])
def test_values_of_other_vertices_are_not_stretched(n):
    with pytest.raises(InputError, match=r"values: expected shape \(\.\.\., 5\)"):
        surfaces().to_full(np.zeros(n))


@pytest.mark.parametrize("left", [[4, 1], [1, 1], [-1, 2], [3, 10]])
def test_vertices_that_are_not_there_are_refused(left):
    with pytest.raises(InputError, match="left vertices: expected ascending numbers from 0 to 9"):
        Vertices(np.array(left), np.array([0]), {"left": 10, "right": 12}, "fsnative")


def test_no_place_is_none(tmp_path):
    assert load_geometry(tmp_path) is None


@pytest.mark.parametrize("name", ["vertices.npz", "mask.nii.gz"])
def test_a_damaged_place_is_named(tmp_path, mask, name):
    """At every cut, and with every byte altered in turn; or it is read as it was."""
    if name == "mask.nii.gz":
        Volume.of(mask, nib.Nifti1Image(np.zeros(GRID), AFFINE)).save(tmp_path)
    else:
        surfaces().save(tmp_path)
    path = tmp_path / name
    whole, expected = path.read_bytes(), load_geometry(tmp_path).table()
    noticed = 0
    every = 1 if len(whole) < 300 else 3
    for place in range(0, len(whole), every):
        altered = whole[:place] + bytes([whole[place] ^ 0x41]) + whole[place + 1 :]
        for content in (whole[:place], altered):
            path.write_bytes(content)
            message = message_of(partial(load_geometry, tmp_path))
            if message is None:
                assert content is altered
                pd.testing.assert_frame_equal(load_geometry(tmp_path).table(), expected)
            else:
                assert str(path) in message
                noticed += 1
    assert noticed > len(whole) / every


def test_vertices_of_something_else_are_named(tmp_path):
    content = {"left": [2, 1], "right": [0], "n_vertices": [3, 3], "space": "fsnative"}
    np.savez(tmp_path / "vertices.npz", **content)
    with pytest.raises(InputError, match=r"vertices\.npz: left vertices: expected ascending"):
        load_geometry(tmp_path)
    np.savez(tmp_path / "vertices.npz", left=np.array([1]))
    with pytest.raises(InputError, match=r"vertices\.npz: truncated or damaged"):
        load_geometry(tmp_path)
