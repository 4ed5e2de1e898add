"""Volumes: masks, ROIs and maps. `unmask` is the inverse of `synbrain_cli.io.betas.read_masked`.

nibabel reads the files. It repairs or passes over much of what a header may say wrongly, and stops
reading at the last voxel. Headers are therefore checked here before, and streams read to their end,
where gzip keeps its checksum.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterable
from pathlib import Path

import nibabel as nib
import numpy as np
from isal import igzip

from synbrain_cli.errors import InputError
from synbrain_cli.io.files import atomic
from synbrain_cli.io.reading import AGAIN, reading

_TAGS = 1 << 16  # bytes
_PIECE = 1 << 20  # bytes of a stream that are read at once
_SAVE_AGAIN = "save the image again with the program that made it, or copy the file again"


def load_image(path: Path | str) -> nib.spatialimages.SpatialImage:
    """Open an image with nibabel; its data stay on disk until they are used.

    Raises
    ------
    MissingError, InputError
        When the file is absent or is no NIfTI or MGH image of real numbers; when its header
        contradicts itself or the length of the file.
    """
    path = Path(path)
    with reading(path, "a NIfTI or MGH image"), np.errstate(all="ignore"):
        header = _nifti_header(path)
        if header is not None:
            _check_nifti(path, header)
        image = nib.load(path)
        if not isinstance(image, nib.Nifti1Pair | nib.MGHImage):
            raise InputError(
                f"{path}: expected a NIfTI or MGH image, found {type(image).__name__}: convert it "
                "to NIfTI"
            )
        _check_numbers(path, image.get_data_dtype(), image.shape)
        # MGH files of a surface need no affine that places anything.
        _check_affine(path, image.affine, places=isinstance(image, nib.Nifti1Pair))
        data = Path(image.file_map["image"].filename)
        if not _is_compressed(data):
            _check_length(data, data.stat().st_size, image)
    return image


def _nifti_header(path: Path) -> nib.Nifti1Header | None:
    """Return a NIfTI header as it is in the file, before nibabel repairs it; None for others."""
    with open_stream(path.with_suffix(".hdr") if path.suffix == ".img" else path) as file:
        start = file.read(nib.Nifti2Header.sizeof_hdr)
    for kind in (nib.Nifti2Header, nib.Nifti1Header):
        if kind.may_contain_header(start):
            return kind(start[: kind.sizeof_hdr], check=False)
    return None


def _check_nifti(path: Path, header: nib.Nifti1Header) -> None:
    """Check fields of a NIfTI header that nibabel repairs, or takes as they are."""
    n_axes = int(header["dim"][0])
    axes = [int(n) for n in header["dim"][1 : max(n_axes, 0) + 1]]
    if not 1 <= n_axes <= 7 or min(axes) < 1:
        raise InputError(
            f"{path}: expected 1 to 7 axes of 1 or more in dim of its header, found {n_axes} axes "
            f"{axes}: {_SAVE_AGAIN}"
        )
    dtype = header.get_data_dtype()
    _check_numbers(path, dtype, tuple(axes))
    if int(header["bitpix"]) != 8 * dtype.itemsize:
        raise InputError(
            f"{path}: its header contradicts itself: datatype is {dtype.name}, bitpix "
            f"{int(header['bitpix'])}: {_SAVE_AGAIN}"
        )
    scaling = np.array([float(header["scl_slope"]), float(header["scl_inter"])])
    if not (np.isfinite(scaling).all() or np.isnan(scaling).all()):  # nibabel: NaN is no scaling
        raise InputError(
            f"{path}: expected finite numbers as scl_slope and scl_inter of its header, found "
            f"{scaling[0]} and {scaling[1]}: {_SAVE_AGAIN}"
        )
    offset = float(header["vox_offset"])
    one_file = path.suffix not in (".hdr", ".img")
    least = header.single_vox_offset if one_file else 0
    if not (np.isfinite(offset) and offset >= least and offset % 1 == 0):
        raise InputError(
            f"{path}: expected the data from byte {least} on, found vox_offset {offset:g} in its "
            f"header: {_SAVE_AGAIN}"
        )


def _check_numbers(path: Path, dtype: np.dtype, shape: tuple[int, ...]) -> None:
    """Check that an image holds real numbers, and at least one."""
    if dtype.kind not in "biuf" or dtype.itemsize > 8:
        found = {"V": "colours", "c": "complex numbers"}.get(dtype.kind, str(dtype))
        raise InputError(
            f"{path}: expected real numbers of up to 64 bits, found {found}: save the values that "
            "are meant as float32"
        )
    if not shape or min(shape) < 1:
        raise InputError(f"{path}: expected an image with values, found shape {shape}: {AGAIN}")


def _check_affine(path: Path, affine: np.ndarray, *, places: bool) -> None:
    if not np.isfinite(affine).all() or (places and np.linalg.det(affine[:3, :3]) == 0):
        raise InputError(
            f"{path}: its affine cannot place voxels, because it is not finite or has an axis of "
            "length 0: save the image with the affine of an image on the same grid"
        )


def _check_length(path: Path, found: int, image: nib.spatialimages.SpatialImage) -> None:
    """Check the length of the data, decompressed.

    FreeSurfer writes tags after the values of MGH, which are shorter than these or than `_TAGS`.
    """
    size = math.prod(image.shape) * image.get_data_dtype().itemsize
    expected = int(image.dataobj.offset) + size
    more = 0 if isinstance(image, nib.Nifti1Pair) else max(size, _TAGS) - 1
    if not expected <= found <= expected + more:
        raise InputError(
            f"{path}: expected {expected:,} bytes for the shape {image.shape} and the type "
            f"{image.get_data_dtype().name} of its header, found {found:,}: truncated or damaged: "
            f"{AGAIN}"
        )


def _is_compressed(path: Path) -> bool:
    return path.suffix.lower() in (".gz", ".mgz")


def open_stream(path: Path) -> io.BufferedIOBase:
    """Open a file of bytes, which are decompressed where its suffix is .gz or .mgz."""
    return igzip.open(path, "rb") if _is_compressed(path) else path.open("rb")


def read_to_end(path: Path, file: io.BufferedIOBase, image: nib.spatialimages.SpatialImage) -> None:
    """Read what follows the values in a stream, up to the checksum of gzip, which is verified.

    Parameters
    ----------
    path : path
        For messages.
    file : file
        The stream, read so far in any way.
    image : SpatialImage
        Says how long the stream should be.

    Raises
    ------
    InputError
        When the stream is longer or shorter.
    """
    while file.read(_PIECE):
        pass
    _check_length(path, file.tell(), image)


def read_volume(path: Path | str) -> tuple[np.ndarray, nib.spatialimages.SpatialImage]:
    """Read all values of a volume (a mask, ROIs, ncsnr).

    Returns
    -------
    array of shape (x, y, z) or (x, y, z, n)
        Values, with the scaling of the header applied.
    nibabel.spatialimages.SpatialImage
        The image, with affine and header.

    Raises
    ------
    MissingError, InputError
        When the file is absent, damaged, or not an image.
    """
    path = Path(path)
    image = load_image(path)
    with reading(path, "a NIfTI or MGH image"), np.errstate(all="ignore"):
        data = Path(image.file_map["image"].filename)
        if _is_compressed(data):
            with open_stream(data) as file:
                read_to_end(path, file, image)
        return np.asarray(image.dataobj), image


def read_3d(path: Path) -> tuple[np.ndarray, nib.spatialimages.SpatialImage]:
    """Read a mask or an ROI.

    Parameters
    ----------
    path : path
        A 3-D image, or one of several axes that holds one volume.

    Returns
    -------
    array of shape (x, y, z)
    nibabel.spatialimages.SpatialImage
        The image, with its affine.

    Raises
    ------
    MissingError, InputError
        When the file is absent, damaged, or not a 3-D volume with an affine.
    """
    if path.suffix in (".npy", ".npz", ".mat"):
        raise InputError(
            f"{path}: expected a volume with an affine in its header (NIfTI), found an array: save "
            "it with nibabel, with the affine of an image on the same grid"
        )
    values, image = read_volume(path)
    if values.ndim < 3 or values.size != np.prod(values.shape[:3]):
        raise InputError(f"{path}: expected one 3-D volume, found {values.shape}")
    return values.reshape(values.shape[:3]), image


def check_same_grid(
    path: Path | str,
    image: nib.spatialimages.SpatialImage,
    mask_path: Path | str,
    mask_image: nib.spatialimages.SpatialImage,
) -> None:
    """Check that an image has the grid of a mask: its first three axes and its affine.

    Raises
    ------
    InputError
        When shape or affine differ (affines by more than 0.001).
    """
    if image.shape[:3] != mask_image.shape[:3]:
        raise InputError(
            f"{path}: expected the grid {mask_image.shape[:3]} of {mask_path}, "
            f"found {image.shape[:3]}: is it of the same subject and space?"
        )
    if np.allclose(image.affine, mask_image.affine, atol=1e-3):
        return
    for one, found in ((path, image), (mask_path, mask_image)):
        if fault := _no_position(found):
            other = mask_path if one is path else path
            raise InputError(
                f"{one}: {fault}, so that it cannot be told whether its voxels are those of "
                f"{other}: if they are, save it with the affine of {other}"
            )
    axes, expected = ("".join(nib.aff2axcodes(i.affine)) for i in (image, mask_image))
    differ = (
        f"its axes run to {axes}, those of the mask to {expected}"
        if axes != expected
        else f"they differ by up to {np.abs(image.affine - mask_image.affine).max():.3g}"
    )
    raise InputError(
        f"{path}: its affine is not that of {mask_path} ({differ}): resample one of them, "
        "or use files of the same subject and space"
    )


def _no_position(image: nib.spatialimages.SpatialImage) -> str:
    """Say why an affine does not place the voxels; empty where it does."""
    if isinstance(image, nib.Nifti1Pair) and not (
        int(image.header["qform_code"]) or int(image.header["sform_code"])
    ):
        return "its header holds no affine (the codes of qform and sform are 0)"
    if np.array_equal(image.affine, np.eye(4)):
        return "its affine is the identity"
    return ""


def unmask(
    values: np.ndarray,
    mask_image: nib.Nifti1Image,
    *,
    description: str = "",
    fill: float = 0.0,
) -> nib.Nifti1Image:
    """Place masked values on their grid.

    Parameters
    ----------
    values : array of shape (n_voxels,) or (n_maps, n_voxels)
        Values in C order of the mask, in any unit.
    mask_image : Nifti1Image
        Mask of the subject, whose affine and header codes are kept.
    description : str
        Text for ``descrip`` in the header (80 bytes).
    fill : float
        Value outside the mask.

    Returns
    -------
    Nifti1Image
        float32, 3-D or 4-D, without scaling.

    Raises
    ------
    InputError
        When the values do not fit the mask.
    """
    mask = np.asarray(mask_image.dataobj) > 0
    values = np.asarray(values, np.float32)
    if values.shape[-1] != mask.sum() or values.ndim > 2:
        raise InputError(
            f"values: expected shape (n_maps, {mask.sum()}) for this mask, found {values.shape}: "
            "pass values of the masked voxels"
        )
    # The first axis varies fastest, as in the file, so that writing needs no transposition.
    volume = np.full(mask.shape + values.shape[:-1], fill, np.float32, order="F")
    volume[mask] = values.T
    header = mask_image.header.copy()
    header.set_data_dtype(np.float32)
    header.set_slope_inter(1.0, 0.0)
    header["cal_min"] = header["cal_max"] = 0
    header["descrip"] = description.encode("ascii", "replace")[:79]
    return nib.Nifti1Image(volume, mask_image.affine, header)


def save_image(image: nib.spatialimages.SpatialImage, path: Path | str) -> None:
    """Save a volume atomically, in the format of the suffix.

    The same values give the same bytes on one machine, as ``.nii.gz`` files are written without
    time and name; once, under heavy load, one was a byte longer for a cause that is not known.
    """
    with atomic(path) as temporary:
        if isinstance(image, nib.Nifti1Image) and temporary.name.endswith(".nii.gz"):
            # zlib would take nine tenths of the time; isal's fastest level is ten times faster.
            with temporary.open("wb") as raw, igzip.IGzipFile("", "wb", 1, raw, mtime=0) as file:
                image.to_stream(file)
        else:
            nib.save(image, temporary)


def save_volumes(images: Iterable[nib.Nifti1Image], n_volumes: int, path: Path) -> None:
    """Save 3-D volumes as one 4-D ``.nii.gz``, one after the other, in the memory of one.

    Parameters
    ----------
    images : iterable of Nifti1Image
        float32, of one grid.
    n_volumes : int
        Their number.
    path : path
    """
    with (
        atomic(path) as temporary,
        temporary.open("wb") as raw,
        igzip.IGzipFile("", "wb", 1, raw, mtime=0) as file,
    ):
        for k, image in enumerate(images):
            if k == 0:
                header = image.header.copy()
                header.set_data_shape((*image.shape, n_volumes))
                header["magic"], header["vox_offset"] = b"n+1", 352
                file.write(header.binaryblock)
                file.write(b"\0" * 4)  # no extensions
            file.write(np.asarray(image.dataobj, header.get_data_dtype()).tobytes(order="F"))
