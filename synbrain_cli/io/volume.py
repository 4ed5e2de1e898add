"""Volumes ↔ masked arrays. ``read_masked`` and ``unmask`` are a pair: C order of the mask."""

from __future__ import annotations

import zlib
from pathlib import Path

import nibabel as nib
import numpy as np

from synbrain_cli.errors import InputError, MissingError
from synbrain_cli.io.files import atomic


def load_image(path: Path | str) -> nib.spatialimages.SpatialImage:
    """Open a volume with nibabel; data stay on disk until asked for.

    Raises
    ------
    MissingError, InputError
        When the file is absent or is no image.
    """
    try:
        return nib.load(path)
    except FileNotFoundError as error:
        raise MissingError(f"{path} does not exist") from error
    except (nib.filebasedimages.ImageFileError, EOFError, OSError, TypeError) as error:
        raise InputError(
            f"{path}: expected a NIfTI or MGH image, found something that cannot be read "
            f"({error}): copy or download the file again"
        ) from error


def read_volume(path: Path | str) -> tuple[np.ndarray, nib.spatialimages.SpatialImage]:
    """Read a whole volume (a mask, ROIs, ncsnr) with its image."""
    image = load_image(path)
    try:
        return np.asarray(image.dataobj), image
    except (EOFError, OSError, zlib.error) as error:
        raise InputError(f"{path}: truncated or damaged ({error}): copy the file again") from error


def check_same_grid(
    path: Path | str,
    image: nib.spatialimages.SpatialImage,
    mask_path: Path | str,
    mask_image: nib.spatialimages.SpatialImage,
) -> None:
    """Raise `InputError` unless the first three axes and the affine are those of the mask."""
    if image.shape[:3] != mask_image.shape[:3]:
        raise InputError(
            f"{path}: expected the grid {mask_image.shape[:3]} of {mask_path}, "
            f"found {image.shape[:3]}: is it of the same subject and space?"
        )
    if not np.allclose(image.affine, mask_image.affine, atol=1e-3):
        raise InputError(
            f"{path}: its affine is not that of {mask_path}: resample one of them, "
            "or use files of the same subject and space"
        )


def read_masked(path: Path | str, mask: np.ndarray) -> np.ndarray:
    """Read the masked voxels of a 4-D volume, one time point in memory at once.

    Parameters
    ----------
    path : path
        NIfTI, compressed or not.
    mask : bool array of shape (x, y, z)

    Returns
    -------
    array of shape (n_trials, n_voxels)
        In the file's own dtype and unscaled (NSD's betas have no scl_slope; one that is set
        raises), voxels in C order of the mask.

    Raises
    ------
    MissingError, InputError
        Absent, truncated, of another grid, or scaled in its header.
    """
    image = load_image(path)
    if len(image.shape) != 4 or image.shape[:3] != mask.shape:
        raise InputError(
            f"{path}: expected a 4-D volume on the mask's grid {mask.shape}, found {image.shape}"
        )
    slope, intercept = image.header.get_slope_inter()
    if (slope or 1.0) != 1.0 or (intercept or 0.0) != 0.0:
        raise InputError(
            f"{path}: expected unscaled integers, found scl_slope {slope} and "
            f"scl_inter {intercept}: is this an NSD betas file?"
        )
    dtype = image.header.get_data_dtype()
    n_trials = image.shape[3]
    # NIfTI is stored first axis fastest: index a flat volume in that order.
    index = np.ravel_multi_index(np.nonzero(mask), mask.shape, order="F")
    n_bytes = int(np.prod(mask.shape)) * dtype.itemsize
    out = np.empty((n_trials, index.size), dtype=dtype.newbyteorder("="))
    holder = image.file_map["image"]
    try:
        with holder.get_prepare_fileobj("rb") as file:
            file.seek(image.dataobj.offset)
            for trial in range(n_trials):
                piece = file.read(n_bytes)
                if len(piece) != n_bytes:
                    raise EOFError(f"{trial} of {n_trials} volumes are whole")
                out[trial] = np.frombuffer(piece, dtype)[index]
    except (EOFError, OSError, zlib.error) as error:
        raise InputError(f"{path}: truncated or damaged ({error}): copy the file again") from error
    return out


def unmask(
    values: np.ndarray,
    mask_image: nib.Nifti1Image,
    *,
    description: str = "",
    fill: float = 0.0,
) -> nib.Nifti1Image:
    """Put masked values back on their grid.

    Parameters
    ----------
    values : array of shape (n_voxels,) or (n_maps, n_voxels)
    mask_image : Nifti1Image
        The subject's mask; its affine and header codes are kept.
    description : str
        For the header's ``descrip`` (80 bytes).
    fill : float
        Outside the mask.

    Returns
    -------
    Nifti1Image
        float32, 3-D or 4-D, no scaling.
    """
    mask = np.asarray(mask_image.dataobj) > 0
    values = np.asarray(values, np.float32)
    if values.shape[-1] != mask.sum() or values.ndim > 2:
        raise InputError(
            f"expected (n_maps, {mask.sum()}) values for this mask, found {values.shape}"
        )
    volume = np.full(mask.shape + values.shape[:-1], fill, np.float32)
    volume[mask] = values.T
    header = mask_image.header.copy()
    header.set_data_dtype(np.float32)
    header.set_slope_inter(1.0, 0.0)
    header["cal_min"] = header["cal_max"] = 0
    header["descrip"] = description.encode("ascii", "replace")[:79]
    return nib.Nifti1Image(volume, mask_image.affine, header)


def save_image(image: nib.spatialimages.SpatialImage, path: Path | str) -> None:
    """Save a volume atomically; the format follows the suffix."""
    with atomic(path) as temporary:
        nib.save(image, temporary)
