"""Volumes: masks, ROIs and maps. `unmask` is the inverse of `synbrain_cli.io.betas.read_masked`."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
from isal import igzip, isal_zlib
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError

from synbrain_cli.errors import DAMAGED, InputError, MissingError
from synbrain_cli.io.files import atomic

# Exceptions of nibabel for an image that is truncated or altered.
DAMAGED_IMAGE = (*DAMAGED, isal_zlib.error, HeaderDataError, ImageFileError)


def load_image(path: Path | str) -> nib.spatialimages.SpatialImage:
    """Open an image with nibabel; its data stay on disk until they are used.

    Raises
    ------
    MissingError, InputError
        When the file is absent or is not an image.
    """
    try:
        return nib.load(path)
    except FileNotFoundError as error:
        raise MissingError(f"{path} does not exist: check the path") from error
    except DAMAGED_IMAGE as error:
        raise InputError(
            f"{path}: expected a NIfTI or MGH image, found something that cannot be read "
            f"({error}): copy or download the file again"
        ) from error


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
    image = load_image(path)
    try:
        return np.asarray(image.dataobj), image
    except DAMAGED_IMAGE as error:
        raise damaged(path, error) from error


def damaged(path: Path | str, error: Exception) -> InputError:
    """Return the error for a file that cannot be read to its end."""
    return InputError(f"{path}: truncated or damaged ({error}): copy or download the file again")


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
    if not np.allclose(image.affine, mask_image.affine, atol=1e-3):
        raise InputError(
            f"{path}: its affine is not that of {mask_path}: resample one of them, "
            "or use files of the same subject and space"
        )


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

    The same values always give the same bytes on one machine, because ``.nii.gz`` files are
    written without time and name.
    """
    with atomic(path) as temporary:
        if isinstance(image, nib.Nifti1Image) and temporary.name.endswith(".nii.gz"):
            # zlib would take nine tenths of the time; isal's fastest level is ten times faster.
            with temporary.open("wb") as raw, igzip.IGzipFile("", "wb", 1, raw, mtime=0) as file:
                image.to_stream(file)
        else:
            nib.save(image, temporary)
