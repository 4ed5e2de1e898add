"""Resampling from voxels to MNI space with NSD's transforms: `mni_resampling.npz`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import nibabel as nib
import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array

from synbrain_cli.errors import InputError
from synbrain_cli.io.resampling_weights import (
    NothingReached,
    arrays_of,
    check_choice,
    check_values,
    checked_weights,
    interpolation,
    load_weights,
    matrix_of,
    rescaled,
    save_weights,
    weighted_sums,
)

# Voxel size in mm of FSL's MNI152 grids, by their shape. In both grids voxel (0, 0, 0) is at
# (90, −126, −72) mm, and the first axis runs from right to left.
_MNI_GRIDS = {(182, 218, 182): 1.0, (91, 109, 91): 2.0}
_MNI_ORIGIN = (90.0, -126.0, -72.0)


@dataclass(frozen=True, eq=False)
class VolumeResampling:
    """Resampling of the voxels of a mask to another volume, in MNI space.

    Attributes
    ----------
    weights : csr_array of shape (n_inside, n_voxels), float32
        Weights of the masked voxels (C order of the mask) at the target voxels inside the mask.
        Rows sum to 1.
    index : int64 array of shape (n_inside,)
        Flat indices (C order) of these target voxels in the target grid, ascending.
    shape : tuple of int
        Shape (x, y, z) of the target grid.
    affine : float64 array of shape (4, 4)
        Maps 0-based voxel indices of the target grid to mm.

    Raises
    ------
    InputError
        When shapes disagree, indices are out of range, or the matrix does not hold interpolation
        weights.
    """

    weights: csr_array
    index: NDArray[np.int64]
    shape: tuple[int, int, int]
    affine: NDArray[np.float64]

    def __post_init__(self) -> None:
        weights = checked_weights(self.weights, "volume resampling")
        index, affine = np.asarray(self.index), np.asarray(self.affine, dtype=np.float64)
        shape = tuple(int(n) for n in self.shape)
        if index.dtype.kind not in "iu" or index.shape != (weights.shape[0],):
            raise InputError(
                f"volume resampling: expected {weights.shape[0]} whole target voxels, found "
                f"{index.dtype} of shape {index.shape}"
            )
        if len(shape) != 3 or affine.shape != (4, 4) or not _is_grid(affine):
            raise InputError(
                "volume resampling: expected a 3-D grid and its affine (4, 4), of three different "
                f"axes, found the grid {shape} and the affine {affine.tolist()}"
            )
        if index.min() < 0 or index.max() >= np.prod(shape) or (np.diff(index) <= 0).any():
            raise InputError(
                f"volume resampling: expected ascending voxels of the grid {shape}, found "
                f"{index.min()} to {index.max()}"
            )
        if not np.diff(weights.indptr).all():
            raise InputError("volume resampling: expected weights for each target voxel")
        for name, value in (
            ("weights", weights),
            ("index", index.astype(np.int64)),
            ("shape", shape),
            ("affine", affine),
        ):
            object.__setattr__(self, name, value)

    @classmethod
    def from_mni(cls, mask: ArrayLike, coordinates: ArrayLike) -> Self:
        """Compute weights from NSD's transform to MNI space.

        NSD stores the transform on FSL's MNI152 grid, the first axis of which runs from right to
        left. The header of the file is not reliable, so that the grid is identified by its shape.
        The target grid here is flipped, so that x increases with the first index, as in files of
        ``nsd_mapdata`` (nsdcode: origin ``[183-91 127 73]``, 1-based).

        Parameters
        ----------
        mask : bool array of shape (x, y, z)
            The voxels in use.
        coordinates : array of shape (182, 218, 182, 3) or (91, 109, 91, 3)
            For each voxel of the 1 mm or 2 mm grid, the *1-based* voxel coordinate in the volume
            of the mask (``func1pt8-to-MNI.nii.gz``). 9999, NaN and coordinates outside the grid
            mark voxels outside.

        Raises
        ------
        InputError
            When the grid is another.
        NothingReached
            When no target voxel lies in the mask.
        """
        coordinates = np.asarray(coordinates)
        shape = coordinates.shape[:3]
        if shape not in _MNI_GRIDS or coordinates.shape[3:] != (3,):
            grids = " or ".join(str((*grid, 3)) for grid in _MNI_GRIDS)
            raise InputError(
                f"coordinates: expected shape {grids}, as in NSD's transform to FSL's MNI152 grid "
                f"of 1 or 2 mm, found {coordinates.shape}"
            )
        size = _MNI_GRIDS[shape]
        affine = np.diag([size, size, size, 1.0])
        affine[:3, 3] = _MNI_ORIGIN
        affine[0, 3] -= size * (shape[0] - 1)
        # The only copy of the array, 87 MB at 1 mm.
        flipped = np.subtract(coordinates[::-1], 1, order="C")
        weights = interpolation(mask, flipped.reshape(-1, 3))
        index = np.flatnonzero(np.diff(weights.indptr))
        if not len(index):
            raise NothingReached(
                f"volume resampling: no MNI voxel lies in the mask of shape {np.shape(mask)}: "
                "expected 1-based voxel coordinates of the same subject and resolution as the mask"
            )
        return cls(weights[index], index, shape, affine)

    @property
    def n_voxels(self) -> int:
        """Number of voxels in the mask."""
        return self.weights.shape[1]

    def project(self, values: ArrayLike) -> nib.Nifti1Image:
        """Resample voxel values to the target grid.

        Parameters
        ----------
        values : array of shape (n_voxels,) or (n_maps, n_voxels)
            Real values. Target voxels that depend on a NaN voxel are NaN.

        Returns
        -------
        Nifti1Image
            float32, 3-D or 4-D, 0 outside; qform and sform codes 4 (MNI152), mm.

        Raises
        ------
        InputError
            When the number of voxels is another, or the array has more than two axes.
        """
        values = check_values(values, self.n_voxels)
        if values.ndim > 2:
            raise InputError(
                f"values: expected (n_voxels,) or (n_maps, n_voxels), found shape {values.shape}"
            )
        volume = np.zeros((*values.shape[:-1], np.prod(self.shape)), dtype=np.float32)
        volume[..., self.index] = weighted_sums(self.weights, values)
        volume = volume.reshape(*values.shape[:-1], *self.shape)
        image = nib.Nifti1Image(np.moveaxis(volume, 0, -1) if values.ndim == 2 else volume, None)
        image.set_qform(self.affine, 4)
        image.set_sform(self.affine, 4)
        image.header.set_xyzt_units("mm")
        return image

    def keep(self, voxels: ArrayLike) -> Self:
        """Return the resampling for a mask with fewer voxels.

        Parameters
        ----------
        voxels : bool array of shape (n_voxels,)
            True for voxels that are kept. A target voxel that loses more than half of its weight
            is outside the new mask; the weights of other voxels are scaled to sum to 1 again.

        Raises
        ------
        InputError
            When it is not a boolean array of this shape, or no voxel is kept.
        """
        weights = rescaled(self.weights[:, check_choice(voxels, self.n_voxels)])
        inside = np.diff(weights.indptr) > 0
        return type(self)(weights[inside], self.index[inside], self.shape, self.affine)

    def save(self, path: Path | str) -> None:
        """Write a ``.npz`` file atomically; `load` reads it."""
        arrays = {"index": self.index, "shape": np.array(self.shape), "affine": self.affine}
        save_weights(path, arrays_of(mni=self.weights) | arrays)

    @staticmethod
    def load(path: Path | str) -> VolumeResampling:
        """Read a file that `save` wrote.

        Raises
        ------
        MissingError, InputError
            When the file is absent, damaged, or holds something else.
        """

        def build(stored: Mapping[str, NDArray[Any]]) -> VolumeResampling:
            x, y, z = (int(n) for n in stored["shape"])
            weights = matrix_of(stored, "mni")
            return VolumeResampling(weights, stored["index"], (x, y, z), stored["affine"])

        return load_weights(path, build, "a volume resampling (.npz with mni_weights, index, …)")


def _is_grid(affine: NDArray[np.float64]) -> bool:
    """Whether an affine is finite and places voxels along three different axes."""
    return bool(np.isfinite(affine).all() and np.linalg.matrix_rank(affine) == 4)
