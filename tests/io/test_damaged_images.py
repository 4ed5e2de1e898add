"""An image, array or HDF5 file that contradicts itself is refused in one line that names it."""

from __future__ import annotations

import contextlib
import os
import struct
import subprocess
import sys
import warnings

import h5py
import nibabel as nib
import numpy as np
import pytest
from nibabel.freesurfer.mghformat import MGHImage

from synbrain_cli.errors import InputError, SynbrainError
from synbrain_cli.io.betas import read_array, read_at_vertices, read_map, read_masked
from synbrain_cli.io.surface import read_mgh_vertices, write_gifti
from synbrain_cli.io.volume import check_same_grid, load_image, read_3d, read_volume

AFFINE = np.diag([2.0, 2, 2, 1])
MASK = np.ones((3, 4, 5), bool)


@pytest.fixture
def volume(tmp_path, rng):
    values = rng.standard_normal((3, 4, 5, 6)).astype(np.float32)
    nib.save(nib.Nifti1Image(values, AFFINE), tmp_path / "betas.nii")
    return tmp_path / "betas.nii"


def put(path, at, form, *values):
    """Replace numbers of a header."""
    content = bytearray(path.read_bytes())
    content[at : at + struct.calcsize(form)] = struct.pack(form, *values)
    path.write_bytes(content)


HEADERS = {
    "data in the header": (108, "<f", 0, "from byte 352 on, found vox_offset 0"),
    "data far off": (108, "<f", 1e6, "expected 1,001,440 bytes|only 0 of 6 volumes"),
    "data nowhere": (108, "<f", np.inf, "from byte 352 on, found vox_offset inf"),
    "data at no number": (108, "<f", np.nan, "found vox_offset nan"),
    "data before": (108, "<f", -352, "found vox_offset -352"),
    "data at half a byte": (108, "<f", 352.5, "found vox_offset 352.5"),
    "another bitpix": (72, "<h", 16, "datatype is float32, bitpix 16"),
    "another datatype": (70, "<h", 4, "datatype is int16, bitpix 32"),
    "an unknown datatype": (70, "<h", 77, "not a NIfTI or MGH image"),
    "colours": (70, "<hh", (128, 24), "found colours"),
    "complex": (70, "<hh", (32, 64), "found complex numbers"),
    "slope": (112, "<f", np.inf, "scl_slope and scl_inter of its header, found inf"),
    "intercept": (116, "<f", np.nan, "found 1.0 and nan"),
    "no axes": (40, "<h", 0, "1 to 7 axes"),
    "many axes": (40, "<h", 9, "1 to 7 axes"),
    "an axis of length 0": (44, "<h", 0, r"found 4 axes \[3, 0, 5, 6\]"),
    "a negative axis": (44, "<h", -4, r"found 4 axes \[3, -4, 5, 6\]"),
    "another length": (48, "<h", 7, "expected 2,032 bytes .* found 1,792|only 6 of 7 volumes"),
    "fewer volumes": (48, "<h", 4, "expected 1,312 bytes .*, found 1,792"),
    "affine": (280, "<f", np.nan, "its affine cannot place voxels"),
    "affine of rank 2": (280, "<f", 0, "its affine cannot place voxels"),
}


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("fault", HEADERS)
def test_a_header_that_contradicts_itself(volume, capfd, fault, compressed):
    at, form, values, message = HEADERS[fault]
    put(volume, at, form, *np.atleast_1d(values).tolist())
    if compressed:
        nib.openers.Opener(volume.with_suffix(".nii.gz"), "wb").write(volume.read_bytes())
        volume = volume.with_suffix(".nii.gz")
    for read in (read_volume, lambda path: read_masked(path, MASK)):
        with pytest.raises(InputError, match=message) as raised:
            read(volume)
        assert str(volume) in str(raised.value)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("byte", range(352))
def test_every_byte_of_a_header(volume, capfd, byte):
    """Only the scaling may change values unnoticed: any finite number is one."""
    good = read_masked(volume, MASK)
    content = volume.read_bytes()
    for value in {0, 1, 127, 128, 255} - {content[byte]}:
        volume.write_bytes(content[:byte] + bytes([value]) + content[byte + 1 :])
        with contextlib.suppress(SynbrainError), warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)
            found = read_masked(volume, MASK)
            if byte not in range(112, 120):
                np.testing.assert_array_equal(found, good)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("place", [-8, -5, -4, -1])
@pytest.mark.parametrize("suffix", [".nii.gz", ".mgz"])
def test_the_checksum_and_the_length_of_gzip_are_verified(tmp_path, rng, suffix, place):
    path = tmp_path / f"mask{suffix}"
    kind = nib.Nifti1Image if suffix == ".nii.gz" else MGHImage
    nib.save(kind(rng.standard_normal((30, 1, 1)).astype(np.float32), AFFINE), path)
    read_volume(path)
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match=f"mask{suffix}: truncated or damaged"):
        read_volume(path)


def test_the_checksum_of_a_compressed_gifti_is_verified(tmp_path, rng):
    path = tmp_path / "map.gii.gz"
    array = nib.gifti.GiftiDataArray(rng.standard_normal(50).astype(np.float32))
    nib.save(nib.GiftiImage(darrays=[array]), path)
    read_map(path)
    content = bytearray(path.read_bytes())
    content[-6] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"map\.gii\.gz: truncated or damaged"):
        read_map(path)


def test_what_is_no_nifti_is_not_guessed(tmp_path):
    nib.save(nib.Spm99AnalyzeImage(np.ones((3, 4, 5), np.int16), AFFINE), tmp_path / "mask.img")
    with pytest.raises(InputError, match=r"mask\.img: expected a NIfTI or MGH image, found Spm"):
        load_image(tmp_path / "mask.img")


def test_a_pair_of_files_is_read_and_its_length_checked(tmp_path):
    nib.save(nib.Nifti1Pair(MASK.astype(np.uint8), AFFINE), tmp_path / "mask.img")
    for name in ("mask.img", "mask.hdr"):
        np.testing.assert_array_equal(read_volume(tmp_path / name)[0], MASK)
    (tmp_path / "mask.img").write_bytes(bytes(59))
    with pytest.raises(InputError, match=r"mask\.img: expected 60 bytes .* found 59"):
        read_volume(tmp_path / "mask.hdr")


@pytest.mark.parametrize("size", [0, -5])
def test_an_mgh_file_without_vertices(tmp_path, size):
    path = tmp_path / "lh.mgh"
    nib.save(MGHImage(np.ones((30, 1, 1, 2), np.float32), np.eye(4)), path)
    put(path, 4, ">i", size)
    for read in (read_mgh_vertices, lambda path: read_at_vertices(path, np.arange(3), 30)):
        with pytest.raises(InputError, match=r"lh\.mgh"):
            read(path)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_an_mgh_volume_without_position(tmp_path, value):
    path = tmp_path / "mask.mgh"
    nib.save(MGHImage(np.ones((3, 4, 5), np.float32), np.eye(4)), path)
    read_volume(path)
    put(path, 34, ">f", value)  # length of the second axis of a voxel
    with pytest.raises(InputError, match=r"mask\.mgh: its affine cannot place voxels"):
        read_volume(path)


@pytest.mark.parametrize(("code", "shape"), [(0, (200, 200, 1)), (4, (200, 200, 1))])
def test_an_mgh_volume_of_another_type(tmp_path, code, shape):
    """Bytes, or numbers of 16 bits, in place of float32: most of the file would be passed over."""
    path = tmp_path / "map.mgh"
    nib.save(MGHImage(np.ones(shape, np.float32), np.eye(4)), path)
    path.write_bytes(path.read_bytes() + b"tag" * 1000)
    read_volume(path)
    put(path, 20, ">i", code)
    with pytest.raises(InputError, match=r"map\.mgh: expected [\d,]+ bytes"):
        read_volume(path)


def test_one_volume_of_several_axes_is_a_mask(tmp_path):
    for shape in ((3, 4, 5, 1), (3, 4, 5, 1, 1)):
        nib.save(nib.Nifti1Image(np.ones(shape, np.uint8), AFFINE), tmp_path / "mask.nii.gz")
        assert read_3d(tmp_path / "mask.nii.gz")[0].shape == (3, 4, 5)


@pytest.mark.parametrize(
    ("affine", "codes", "message"),
    [
        (np.eye(4), 2, "a.nii: its affine is the identity, .* save it with the affine of b.nii"),
        (AFFINE, 0, r"a.nii: its header holds no affine \(the codes of qform and sform are 0\)"),
        (np.diag([-2.0, 2, 2, 1]), 2, r"\(its axes run to LAS, those of the mask to RAS\)"),
        (AFFINE + np.eye(4, k=3) * 0.5, 2, r"\(they differ by up to 0.5\)"),
    ],
)
def test_an_affine_that_is_not_the_masks_says_why(affine, codes, message):
    mask = nib.Nifti1Image(MASK.astype(np.uint8), AFFINE)
    image = nib.Nifti1Image(MASK.astype(np.uint8), affine if codes else None)
    image = nib.Nifti1Image.from_bytes(image.to_bytes())
    with pytest.raises(InputError, match=message):
        check_same_grid("a.nii", image, "b.nii", mask)
    if "a.nii" in message:
        with pytest.raises(InputError, match=message):
            check_same_grid("b.nii", mask, "a.nii", image)


# ------------------------------------------------------------------------------------- arrays


def npy(path, header, content=bytes(480)):
    text = f"{header}".ljust(117) + "\n"
    path.write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode() + content)
    return path


@pytest.mark.parametrize(
    ("shape", "descr", "message"),
    [
        ((-4, 30), "<f4", "truncated or damaged"),
        ((-4, -30), "<f4", "truncated or damaged"),
        ((4, 29), "<f4", "expected .* bytes for float32 of shape .4, 29., as its header says"),
        ((4, 31), "<f4", "truncated or damaged"),
        ((4, 10**12), "<f4", "truncated or damaged"),
        ((4, 10**30), "<f4", "truncated or damaged"),
        ((0, 30), "<f4", "found float32 of shape .0, 30."),
        ((4, 15), "<c8", "found complex64"),
        ((4, 30), "|S4", "found .S4"),
        ((4, 30), [("a", "<f4")], "expected an array of numbers"),
    ],
)
def test_an_array_that_contradicts_its_file(tmp_path, shape, descr, message):
    path = npy(tmp_path / "a.npy", {"descr": descr, "fortran_order": False, "shape": shape})
    with pytest.raises(InputError, match=rf"a\.npy: .*{message}|a\.npy: {message}"):
        read_array(path)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda f: f.create_dataset("betas", data=np.full((3, 4, 5, 6), b"x")), "found text"),
        (lambda f: f.create_dataset("betas", (3, 4, 5, 6), h5py.ref_dtype), "text or references"),
        (lambda f: f.create_dataset("betas", (3, 4, 5, 6), h5py.string_dtype()), "found text"),
        (lambda f: f.create_dataset("betas", (3, 4, 5, 6), [("a", "f4")]), "records"),
        (lambda f: f.create_dataset("betas", (3, 4, 5, 6), "c8"), "found complex64"),
        (lambda f: f.create_dataset("betas", (3, 4, 5, 0), "f4"), "of shape .3, 4, 5, 0."),
        (lambda f: f.create_dataset("betas", dtype="f4"), "expected the dataset betas"),
        (lambda f: f.create_dataset("betas", dtype="f4", shape=()), "expected the dataset betas"),
        (lambda f: f.create_group("betas"), "expected the dataset betas"),
        (lambda f: f.update({"betas": h5py.SoftLink("/nowhere")}), "expected the dataset betas"),
    ],
)
def test_hdf5_of_other_things_than_numbers(tmp_path, write, message):
    with h5py.File(tmp_path / "b.hdf5", "w") as file:
        write(file)
    with pytest.raises(InputError, match=rf"b\.hdf5: .*{message}"):
        read_masked(tmp_path / "b.hdf5", MASK)


@pytest.mark.parametrize("name", ["a.npy", "a.nii.gz", "a.hdf5"])
def test_pipes_are_not_waited_for(tmp_path, name):
    os.mkfifo(tmp_path / name)
    read = read_array if name == "a.npy" else lambda path: read_masked(path, MASK)
    with pytest.raises(InputError, match="found a pipe"):
        read(tmp_path / name)


def test_a_gifti_file_without_its_arrays_is_refused_in_one_line(tmp_path):
    """nibabel warns on stderr, too, that there should be some."""
    path = tmp_path / "map.gii"
    write_gifti(path, np.zeros((3, 50), np.float32), "left")
    content = path.read_text()
    begin, end = content.index("<DataArray"), content.rindex("</DataArray>")
    path.write_text(content[:begin] + content[end + len("</DataArray>") :])
    code = (
        "import sys, numpy as np; from synbrain_cli.io.betas import read_at_vertices\n"
        "try: read_at_vertices(sys.argv[1], np.arange(3), 50)\n"
        "except ValueError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True)
    assert "map.gii: expected arrays with one value per vertex" in done.stdout
    assert done.stderr == ""
