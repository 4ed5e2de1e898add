"""Sparse weights for resampling the values of masked voxels at other points, and their files.

Values are interpolated linearly in three dimensions at each vertex or target voxel. The weights
are a sparse matrix (n_points, n_voxels). Its rows sum to 1, and are empty for points outside the
mask.

NSD's own code (nsdcode, ``nsd_mapdata``) interpolates the whole volume with cubic weights. Here
only the voxels of the mask are known, and cubic weights would need values up to two voxels outside
it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array

from synbrain_cli.errors import DAMAGED, InputError, MissingError
from synbrain_cli.io.files import atomic

_ROUNDING = 1e-6  # rounding error of a sum of float32 weights
_BLOCK = 1 << 16  # points interpolated at once
_CORNERS = np.array(list(itertools.product((False, True), repeat=3)))  # of a cell, C order
_T = TypeVar("_T")


class NothingReached(InputError):
    """No point of the target space lies in the mask.

    Either the transform belongs to another subject or resolution, or the mask contains no cortex.
    """


def interpolation(mask: ArrayLike, coordinates: ArrayLike) -> csr_array:
    """Compute weights for trilinear interpolation of masked values at points of the voxel grid.

    A point receives weights of up to eight surrounding voxels. Voxels outside the mask have no
    value. A point is outside where less than half of its weight lies in the mask; otherwise the
    weights in the mask are scaled to sum to 1, so that no zeros are averaged in at the edge of the
    mask (ours).

    Parameters
    ----------
    mask : bool array of shape (x, y, z)
        The voxels in use.
    coordinates : array of shape (n_points, 3)
        *0-based* voxel coordinates; integers are voxel centres. Points outside are NaN or not on
        the grid, that is below −0.5 or from the length of the axis − 0.5 on; this includes NSD's
        code 9999.

    Returns
    -------
    csr_array of shape (n_points, n_voxels), float32
        Voxels in C order of the mask. Rows of points outside are empty.

    Raises
    ------
    InputError
        When the mask or the coordinates have another shape or dtype.

    Examples
    --------
    >>> interpolation(np.ones((2, 1, 1), bool), [[0.25, 0, 0], [9999, 0, 0]]).toarray().tolist()
    [[0.75, 0.25], [0.0, 0.0]]
    """
    mask, coordinates = np.asarray(mask), np.asarray(coordinates)
    if mask.ndim != 3 or mask.dtype != bool or not mask.any():
        raise InputError(
            f"mask: expected a 3-D boolean array with voxels in it, found {mask.dtype} "
            f"of shape {mask.shape} with {np.count_nonzero(mask)} voxels"
        )
    if coordinates.ndim != 2 or coordinates.shape[1] != 3 or coordinates.dtype.kind not in "iuf":
        raise InputError(
            f"coordinates: expected numbers (n_points, 3), found {coordinates.dtype} of shape "
            f"{coordinates.shape}"
        )
    occupied = np.argwhere(mask)
    low = np.maximum(occupied.min(0) - 1, -0.5)
    high = np.minimum(occupied.max(0) + 1, np.array(mask.shape) - 0.5)
    # A border of −1 stands for neighbours outside the grid.
    order = np.full(tuple(n + 2 for n in mask.shape), -1, dtype=np.int32)
    order[1:-1, 1:-1, 1:-1][mask] = np.arange(len(occupied), dtype=np.int32)
    _, n_y, n_z = order.shape
    strides = np.array([n_y * n_z, n_z, 1])
    flat = order.ravel()
    counts = np.zeros(len(coordinates) + 1, dtype=np.int32)
    weights, voxels = [np.empty(0)], [np.empty(0, np.int32)]
    for start in range(0, len(coordinates), _BLOCK):
        block = coordinates[start : start + _BLOCK].astype(np.float64)
        near = np.flatnonzero(((block >= low) & (block < high)).all(1))
        cell = np.floor(block[near])  # (n_near, 3)
        fraction = (block[near] - cell)[:, None]
        weight = np.where(_CORNERS, fraction, 1 - fraction).prod(2)  # (n_near, 8)
        voxel = flat[((cell.astype(np.int64) + 1) @ strides)[:, None] + _CORNERS @ strides]
        reached = (voxel >= 0) & (weight > 0)
        counts[start + 1 + near] = reached.sum(1)
        weights.append(weight[reached])
        voxels.append(voxel[reached])
    return rescaled(
        csr_array(
            (np.concatenate(weights), np.concatenate(voxels), np.cumsum(counts, dtype=np.int32)),
            shape=(len(coordinates), len(occupied)),
        )
    )


def rescaled(weights: csr_array) -> csr_array:
    """Scale the rows of weights to sum to 1, in float32; empty rows that sum to less than ½.

    Rows that sum to 1 within the rounding error of float32 are unchanged.
    """
    total = weights.sum(axis=1, dtype=np.float64)
    scale = np.divide(1, total, out=np.zeros_like(total), where=total >= 0.5 - _ROUNDING)
    scale[np.abs(total - 1) < _ROUNDING] = 1
    data = (weights.data * np.repeat(scale, np.diff(weights.indptr))).astype(np.float32)
    rescaled = csr_array((data, weights.indices, weights.indptr), shape=weights.shape)
    rescaled.eliminate_zeros()
    return rescaled


def weighted_sums(weights: csr_array, values: NDArray[Any]) -> NDArray[Any]:
    """Return the weighted sums of values: (..., n_voxels) → (..., n_rows)."""
    columns = values.reshape(-1, values.shape[-1]).T
    sums = weights @ columns.astype(np.result_type(values, np.float32), copy=False)
    return sums.T.reshape(*values.shape[:-1], weights.shape[0])


def checked_weights(weights: Any, name: str) -> csr_array:
    """Return the weights as float32.

    Parameters
    ----------
    weights : object
        What should be weights: a csr_array of shape (n_points, n_voxels).
    name : str
        Name of the weights, for messages.

    Raises
    ------
    InputError
        When they are not interpolation weights.
    """
    if not isinstance(weights, csr_array) or weights.ndim != 2 or 0 in weights.shape:
        raise InputError(
            f"{name}: expected a csr_array (n_points, n_voxels), found {type(weights).__name__} "
            f"of shape {np.shape(weights)}"
        )
    indices, n_voxels = weights.indices, weights.shape[1]
    if indices.size and (indices.min() < 0 or indices.max() >= n_voxels):
        raise InputError(
            f"{name}: expected voxels 0 to {n_voxels - 1}, found {indices.min()} to "
            f"{indices.max()}: the weights belong to another mask or are damaged; prepare the "
            "subject again"
        )
    if (np.diff(weights.indptr) < 0).any():
        raise InputError(
            f"{name}: expected row pointers that ascend, found others: the weights are damaged; "
            "prepare the subject again"
        )
    total = weights.sum(axis=1, dtype=np.float64)[np.diff(weights.indptr) > 0]
    if not (weights.data > 0).all() or not np.allclose(total, 1, rtol=0, atol=1e-3):
        raise InputError(
            f"{name}: expected weights above 0 that sum to 1 at each point inside, found other "
            "values: the weights are damaged; prepare the subject again"
        )
    return weights.astype(np.float32, copy=False)


def check_values(values: ArrayLike, n_voxels: int) -> NDArray[Any]:
    """Return the values as an array (..., n_voxels).

    Raises
    ------
    InputError
        When the last axis has another number of voxels.
    """
    values = np.asarray(values)
    if values.ndim == 0 or values.shape[-1] != n_voxels:
        raise InputError(
            f"values: expected {n_voxels} voxels on the last axis, found shape "
            f"{values.shape}: pass values of the mask for which this resampling was made"
        )
    return values


def check_choice(voxels: ArrayLike, n_voxels: int) -> NDArray[np.bool_]:
    """Return which voxels are kept: bool (n_voxels,).

    Raises
    ------
    InputError
        When it is not a boolean array of this shape, or no voxel is kept.
    """
    voxels = np.asarray(voxels)
    if voxels.dtype != bool or voxels.shape != (n_voxels,) or not voxels.any():
        raise InputError(
            f"voxels: expected one boolean for each of {n_voxels} voxels, at least one of them "
            f"True; found {voxels.dtype} of shape {voxels.shape} with "
            f"{np.count_nonzero(voxels)} True"
        )
    return voxels


# Files --------------------------------------------------------------------------------------------


def arrays_of(**matrices: csr_array) -> dict[str, NDArray[Any]]:
    """Return the arrays, by name, by which sparse matrices are stored; `matrix_of` reads them."""
    arrays: dict[str, NDArray[Any]] = {}
    for name, matrix in matrices.items():
        arrays["n_voxels"] = np.array(matrix.shape[1], np.int64)
        arrays[f"{name}_weights"] = matrix.data
        arrays[f"{name}_voxels"] = matrix.indices.astype(np.int32)
        arrays[f"{name}_counts"] = np.diff(matrix.indptr).astype(np.int32)
    return arrays


def matrix_of(stored: Mapping[str, NDArray[Any]], name: str) -> csr_array:
    """Rebuild a sparse matrix from the arrays that `arrays_of` returned.

    Parameters
    ----------
    stored : mapping of str to array
    name : str
        Name of the matrix.

    Raises
    ------
    InputError
        When the arrays do not describe a sparse matrix.
    """
    parts = [stored[f"{name}_{part}"] for part in ("weights", "voxels", "counts")]
    weights, voxels, counts = parts
    if (
        any(part.ndim != 1 for part in parts)
        or [part.dtype.kind for part in parts] != ["f", "i", "i"]
        or len(weights) != len(voxels)
        or counts.min(initial=0) < 0
        or counts.sum() != len(weights)
    ):
        raise InputError(
            f"{name} resampling: expected the parts of a sparse matrix, found "
            + ", ".join(f"{part.dtype} {part.shape}" for part in parts)
        )
    rows = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    return csr_array((weights, voxels, rows), shape=(len(counts), int(stored["n_voxels"])))


def save_weights(path: Path | str, arrays: Mapping[str, Any]) -> None:
    """Write arrays as compressed ``.npz``, atomically."""
    with atomic(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)


def load_weights(
    path: Path | str, build: Callable[[Mapping[str, NDArray[Any]]], _T], expected: str
) -> _T:
    """Build an object from the arrays of a file.

    Parameters
    ----------
    path : path
    build : callable
        Function from arrays by name to the object that they describe.
    expected : str
        Content of the file, for messages.

    Returns
    -------
    object
        What ``build`` returns.

    Raises
    ------
    MissingError, InputError
        When the file is absent, damaged, or holds something else.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            return build(stored)
    except FileNotFoundError as error:
        raise MissingError(
            f"{path} does not exist: prepare the subject again to make it"
        ) from error
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    # np.load takes a file that is not an archive for a single array or for a pickle.
    except DAMAGED as error:
        raise InputError(
            f"{path}: expected {expected}, found something else or a damaged file ({error}): "
            "prepare the subject again"
        ) from error
