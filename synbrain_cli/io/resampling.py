"""Voxels → cortical surface and MNI space, with NSD's transforms.

Values of a mask's voxels are interpolated linearly in three dimensions at each vertex or target
voxel. The weights are a sparse matrix (n_points, n_voxels) whose rows sum to 1, or are empty
where a point lies outside the mask.

NSD's own maps (nsdcode, ``nsd_mapdata``) are cubic interpolations of the whole volume. Here only
the voxels of the mask are known, and cubic weights reach two voxels beyond them.
"""

from __future__ import annotations

import itertools
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

import nibabel as nib
import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array

from synbrain_cli.errors import InputError, MissingError
from synbrain_cli.io.files import atomic
from synbrain_cli.io.surface import HEMISPHERES, N_FSAVERAGE

SURFACE_SPACES = ("fsaverage5", "fsaverage6", "fsaverage", "fsnative")
_ROUNDING = 1e-6  # of a sum of weights in float32
_BLOCK = 1 << 16  # points interpolated at once
_CORNERS = np.array(list(itertools.product((False, True), repeat=3)))  # of a cell, in C order
# Voxel size in mm of FSL's MNI152 grids, by their shape. Both have voxel (0, 0, 0) at
# (90, −126, −72) mm and the first axis from right to left.
_MNI_GRIDS = {(182, 218, 182): 1.0, (91, 109, 91): 2.0}
_MNI_ORIGIN = (90.0, -126.0, -72.0)
_SIZES = ", ".join(map(str, N_FSAVERAGE.values()))
_T = TypeVar("_T")


class NothingReached(InputError):
    """No point of the other space lies in the mask: a transform that is not its own, or a mask
    without cortex."""


def interpolation(mask: ArrayLike, coordinates: ArrayLike) -> csr_array:
    """Weights that interpolate masked values at points of the voxel grid.

    Trilinear, over the up to eight voxels around a point. Voxels off the mask have no value: where
    less than half of a point's weight lies in the mask, it is outside; otherwise the weights in
    the mask are scaled to sum to 1, which keeps zeros from being blended in at the mask's edge
    (ours).

    Parameters
    ----------
    mask : bool array of shape (x, y, z)
        The voxels in use.
    coordinates : array of shape (n_points, 3)
        *0-based* voxel coordinates; integers are voxel centres. NaN, and what is not on the grid
        (below −0.5, or the axis' length − 0.5 and above, so NSD's 9999 too), is outside.

    Returns
    -------
    csr_array of shape (n_points, n_voxels), float32
        Voxels in C order of the mask. Rows outside are empty.

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
    # A border of −1 around the grid answers for what is beside it.
    order = np.full(np.add(mask.shape, 2), -1, dtype=np.int32)
    order[1:-1, 1:-1, 1:-1][mask] = np.arange(len(occupied), dtype=np.int32)
    strides = np.array([order.shape[1] * order.shape[2], order.shape[2], 1])
    order = order.ravel()
    counts = np.zeros(len(coordinates) + 1, dtype=np.int32)
    weights, voxels = [np.empty(0)], [np.empty(0, np.int32)]
    for start in range(0, len(coordinates), _BLOCK):
        block = coordinates[start : start + _BLOCK].astype(np.float64)
        near = np.flatnonzero(((block >= low) & (block < high)).all(1))
        cell = np.floor(block[near])  # (n_near, 3)
        fraction = (block[near] - cell)[:, None]
        weight = np.where(_CORNERS, fraction, 1 - fraction).prod(2)  # (n_near, 8)
        voxel = order[((cell.astype(np.int64) + 1) @ strides)[:, None] + _CORNERS @ strides]
        reached = (voxel >= 0) & (weight > 0)
        counts[start + 1 + near] = reached.sum(1)
        weights.append(weight[reached])
        voxels.append(voxel[reached])
    return _rescaled(
        csr_array(
            (np.concatenate(weights), np.concatenate(voxels), np.cumsum(counts, dtype=np.int32)),
            shape=(len(coordinates), len(occupied)),
        )
    )


@dataclass(frozen=True, eq=False)
class SurfaceResampling:
    """How the voxels of a mask reach cortical surfaces.

    Attributes
    ----------
    left, right : csr_array of shape (n_vertices, n_voxels), float32
        Weights of the masked voxels (C order of the mask) at each vertex of the subject's own
        surface; rows sum to 1, or are empty outside the mask. The hemispheres of a native surface
        differ in their number of vertices.
    to_fsaverage : dict of int32 arrays of shape (n_fsaverage,), or None
        For ``left`` and ``right``, the 0-based vertex of the own surface nearest to each vertex
        of fsaverage. None where the own surface is fsaverage itself, in any density.

    Raises
    ------
    InputError
        When shapes disagree, indices are out of range, or weights are no weights.
    """

    left: csr_array
    right: csr_array
    to_fsaverage: Mapping[str, NDArray[np.int32]] | None = None

    def __post_init__(self) -> None:
        for hemisphere in HEMISPHERES:
            weights = _checked(getattr(self, hemisphere), f"{hemisphere} sampling")
            object.__setattr__(self, hemisphere, weights)
        if self.left.shape[1] != self.right.shape[1]:
            raise InputError(
                "surface sampling: expected hemispheres of one mask, found "
                f"{self.left.shape[1]} voxels left and {self.right.shape[1]} right"
            )
        sizes = {h: getattr(self, h).shape[0] for h in HEMISPHERES}
        if self.to_fsaverage is None:
            if sizes["left"] != sizes["right"] or sizes["left"] not in N_FSAVERAGE.values():
                raise InputError(
                    f"surface sampling: expected one of {_SIZES} vertices in each hemisphere of "
                    f"fsaverage, found {sizes['left']} left and {sizes['right']} right: a native "
                    "surface needs to_fsaverage"
                )
            return
        nearest = _hemispheres(self.to_fsaverage, "to_fsaverage")
        if len({array.shape for array in nearest.values()}) > 1:
            raise InputError(
                "to_fsaverage: the hemispheres disagree, "
                f"{nearest['left'].shape} left and {nearest['right'].shape} right"
            )
        for hemisphere, vertices in nearest.items():
            if vertices.ndim != 1 or len(vertices) not in N_FSAVERAGE.values():
                raise InputError(
                    f"{hemisphere} to_fsaverage: expected one of {_SIZES} vertices, one number "
                    f"each; found shape {vertices.shape}"
                )
            n = sizes[hemisphere]
            if vertices.dtype.kind not in "iu" or vertices.min() < 0 or vertices.max() >= n:
                raise InputError(
                    f"{hemisphere} to_fsaverage: expected whole vertices 1 to {n} in NSD's "
                    f"1-based count, found {vertices.min() + 1} to {vertices.max() + 1} "
                    f"({vertices.dtype}): are the hemispheres swapped, or the subject another?"
                )
            nearest[hemisphere] = vertices.astype(np.int32)
        object.__setattr__(self, "to_fsaverage", nearest)

    @classmethod
    def from_layers(
        cls,
        mask: ArrayLike,
        layers: Mapping[str, ArrayLike],
        to_fsaverage: Mapping[str, ArrayLike] | None,
    ) -> Self:
        """Chain NSD's two transforms: voxels → native surface → fsaverage.

        At each vertex the values interpolated at the depths inside the mask are averaged.

        Parameters
        ----------
        mask : bool array of shape (x, y, z)
            The voxels in use.
        layers : dict of arrays of shape (n_depths, n_native, 3)
            For ``left`` and ``right``, per depth and vertex of the subject's own surface, the
            *1-based* voxel coordinate (``{lh,rh}.func1pt8-to-layerB{1,2,3}.mgz``). 9999, NaN and
            coordinates off the grid are outside.
        to_fsaverage : dict of arrays of shape (n_fsaverage,), or None
            For each fsaverage vertex the *1-based* nearest native vertex
            (``{lh,rh}.white-to-fsaverage.mgz``); n_fsaverage is 163842, 40962 or 10242. None
            where ``layers`` are of fsaverage's own vertices.

        Raises
        ------
        InputError
            When shapes or hemispheres disagree, or an index is no vertex of the native surface.
        NothingReached
            When no vertex at all lands in the mask.
        """
        layers = _hemispheres(layers, "layers")
        for hemisphere, layer in layers.items():
            if layer.ndim != 3 or layer.shape[2] != 3 or 0 in layer.shape:
                raise InputError(
                    f"{hemisphere} layers: expected (n_depths, n_native, 3), found {layer.shape}"
                )
        if len(layers["left"]) != len(layers["right"]):
            raise InputError(
                f"layers: the hemispheres disagree, {layers['left'].shape} left and "
                f"{layers['right'].shape} right"
            )
        weights = {}
        for hemisphere, layer in layers.items():
            depths = [interpolation(mask, depth - 1) for depth in layer]
            # Each depth inside adds 1 to a row's sum.
            weights[hemisphere] = _rescaled(sum(depths[1:], depths[0]))
        if not any(matrix.nnz for matrix in weights.values()):
            raise NothingReached(
                f"surface sampling: no vertex lands in the mask of shape {np.shape(mask)}: "
                "expected 1-based voxel coordinates of the same subject and resolution as the mask"
            )
        return cls(**weights, to_fsaverage=_zero_based(to_fsaverage))

    @classmethod
    def from_vertices(
        cls,
        vertices: Mapping[str, ArrayLike],
        n_vertices: Mapping[str, int],
        to_fsaverage: Mapping[str, ArrayLike] | None = None,
    ) -> Self:
        """Sampling of a subject recorded on a surface, whose "voxels" are vertices.

        Parameters
        ----------
        vertices : dict of int arrays
            For ``left`` and ``right``, the *0-based* vertices whose values make up the masked
            vector, the left hemisphere's first.
        n_vertices : dict of int
            Vertices of the whole surface.
        to_fsaverage : dict of arrays of shape (n_fsaverage,), optional
            As in `from_layers`, *1-based*; None where the surface is fsaverage.

        Raises
        ------
        InputError
            When a vertex is listed twice or does not exist, or as in `from_layers`.
        """
        vertices = _hemispheres(vertices, "vertices")
        sizes = _hemispheres(n_vertices, "n_vertices")
        n_values = sum(array.size for array in vertices.values())
        weights, first = {}, 0
        for hemisphere, own in vertices.items():
            n = int(sizes[hemisphere])
            if (
                own.ndim != 1
                or own.dtype.kind not in "iu"
                or ((own < 0) | (own >= n)).any()
                or len(np.unique(own)) != len(own)
            ):
                raise InputError(
                    f"{hemisphere} vertices: expected each of the vertices 0 to {n - 1} once at "
                    f"most, found {own.dtype} of shape {own.shape} from "
                    f"{own.min(initial=0)} to {own.max(initial=0)}"
                )
            weights[hemisphere] = csr_array(
                (np.ones(len(own), np.float32), (own, first + np.arange(len(own)))),
                shape=(n, n_values),
            )
            first += len(own)
        return cls(**weights, to_fsaverage=_zero_based(to_fsaverage))

    @property
    def n_voxels(self) -> int:
        """Length of the masked vector."""
        return self.left.shape[1]

    @property
    def spaces(self) -> tuple[str, ...]:
        """Those of `SURFACE_SPACES` that values can be brought to."""
        native = self.to_fsaverage is not None
        densest = len(self.to_fsaverage["left"]) if native else self.left.shape[0]
        available = tuple(space for space, n in N_FSAVERAGE.items() if n <= densest)
        return (*available, "fsnative") if native else available

    def project(
        self, values: ArrayLike, space: str = "fsaverage5"
    ) -> dict[str, NDArray[np.float32]]:
        """Carry voxel values to a surface.

        Parameters
        ----------
        values : array of shape (..., n_voxels)
            Any real values, any leading axes. A NaN voxel makes the vertices that read it NaN.
        space : str
            One of `spaces`. fsaverage5 and fsaverage6 are the first 10,242 and 40,962 vertices of
            fsaverage, an icosahedron subdivided again and again, each time appending vertices.

        Returns
        -------
        dict of float32 arrays of shape (..., n_vertices)
            For ``left`` and ``right``; NaN outside the mask.

        Raises
        ------
        InputError
            When the values are of another mask, or the space is not available.
        """
        values = _check_values(values, self.n_voxels)
        maps = {}
        for hemisphere, weights in self.weights_to(space).items():
            reached = np.flatnonzero(np.diff(weights.indptr))
            own = np.full((*values.shape[:-1], weights.shape[0]), np.nan, dtype=np.float32)
            own[..., reached] = _weighted(weights[reached], values)
            maps[hemisphere] = own
        return maps

    def project_labels(
        self, labels: ArrayLike, outside: int = -1, space: str = "fsaverage5"
    ) -> dict[str, NDArray[np.int32]]:
        """Carry voxel labels (ROIs) to a surface, where they cannot be averaged.

        Parameters
        ----------
        labels : int array of shape (n_voxels,)
            Label of each voxel.
        outside : int
            Label of vertices outside the mask.
        space : str
            As in `project`.

        Returns
        -------
        dict of int32 arrays of shape (n_vertices,)
            For ``left`` and ``right``, the label with the largest sum of weights; of equals, the
            smallest.

        Raises
        ------
        InputError
            As `project`, and when the labels are no integers.
        """
        labels = _check_values(labels, self.n_voxels)
        if labels.ndim != 1 or labels.dtype.kind not in "iu":
            raise InputError(
                f"labels: expected integers (n_voxels,), found {labels.dtype} of shape "
                f"{labels.shape}"
            )
        kinds, kind = np.unique(labels, return_inverse=True)
        belongs = csr_array(
            (np.ones(len(kind), np.float32), kind, np.arange(len(kind) + 1)),
            shape=(len(kind), len(kinds)),
        )
        maps = {}
        for hemisphere, weights in self.weights_to(space).items():
            votes = weights @ belongs  # (n_vertices, n_kinds)
            n_kinds = np.diff(votes.indptr)
            # Row by row, the most votes last; of equals, the smallest label.
            row = np.repeat(np.arange(len(n_kinds)), n_kinds)
            ranked = votes.indices[np.lexsort((-votes.indices, votes.data, row))]
            reached = n_kinds > 0
            own = np.full(len(n_kinds), outside, dtype=np.int32)
            own[reached] = kinds[ranked[votes.indptr[1:][reached] - 1]]
            maps[hemisphere] = own
        return maps

    def keep(self, voxels: ArrayLike) -> Self:
        """Sampling for a mask with fewer voxels.

        Parameters
        ----------
        voxels : bool array of shape (n_voxels,)
            Voxels that stay. A vertex that loses more than half of its weight is outside from now
            on; the weights of the others are scaled to sum to 1 again.
        """
        voxels = _check_choice(voxels, self.n_voxels)
        weights = {h: _rescaled(getattr(self, h)[:, voxels]) for h in HEMISPHERES}
        return type(self)(**weights, to_fsaverage=self.to_fsaverage)

    def save(self, path: Path | str) -> None:
        """Write as ``.npz``, atomically. ``load`` reads it back.

        Examples
        --------
        >>> import tempfile
        >>> vertices = {"left": np.array([3, 5]), "right": np.array([0])}
        >>> one = SurfaceResampling.from_vertices(vertices, {"left": 10242, "right": 10242})
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     one.save(f"{folder}/sampling.npz")
        ...     SurfaceResampling.load(f"{folder}/sampling.npz").project([7, 8, 9])["left"][3:6]
        array([ 7., nan,  8.], dtype=float32)
        """
        arrays = _arrays(left=self.left, right=self.right)
        if self.to_fsaverage is not None:
            arrays |= {f"{h}_to_fsaverage": self.to_fsaverage[h] for h in HEMISPHERES}
        _save(path, arrays)

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """Read what ``save`` wrote.

        Raises
        ------
        MissingError, InputError
            When the file is absent, damaged, or holds something else.
        """

        def build(stored: Mapping[str, NDArray]) -> Self:
            nearest = {
                h: stored[f"{h}_to_fsaverage"] for h in HEMISPHERES if f"{h}_to_fsaverage" in stored
            }
            return cls(_matrix(stored, "left"), _matrix(stored, "right"), nearest or None)

        return _load(path, build, "a surface sampling (.npz with left_weights, right_weights, …)")

    def weights_to(self, space: str) -> dict[str, csr_array]:
        """Weights of each hemisphere's vertices in a space."""
        if space not in self.spaces:
            raise InputError(
                f"surface space: expected {', '.join(self.spaces)}, found {space!r}"
                + (": this subject's transforms do not go there" * (space in SURFACE_SPACES))
            )
        weights = {h: getattr(self, h) for h in HEMISPHERES}
        if space == "fsnative":
            return weights
        n = N_FSAVERAGE[space]
        if self.to_fsaverage is None:
            return {h: matrix[:n] for h, matrix in weights.items()}
        return {h: matrix[self.to_fsaverage[h][:n]] for h, matrix in weights.items()}


@dataclass(frozen=True, eq=False)
class VolumeResampling:
    """How the voxels of a mask reach another volume, MNI's.

    Attributes
    ----------
    weights : csr_array of shape (n_inside, n_voxels), float32
        Weights of the masked voxels (C order of the mask) at the target voxels inside; rows sum
        to 1.
    index : int64 array of shape (n_inside,)
        Where these lie in the target grid, flat in C order, ascending.
    shape : tuple of int
        Target grid (x, y, z).
    affine : float64 array of shape (4, 4)
        Its 0-based voxel indices → mm.

    Raises
    ------
    InputError
        When shapes disagree, indices are out of range, or weights are no weights.
    """

    weights: csr_array
    index: NDArray[np.int64]
    shape: tuple[int, int, int]
    affine: NDArray[np.float64]

    def __post_init__(self) -> None:
        weights = _checked(self.weights, "volume sampling")
        index, affine = np.asarray(self.index), np.asarray(self.affine, dtype=np.float64)
        shape = tuple(int(n) for n in self.shape)
        if index.dtype.kind not in "iu" or index.shape != (weights.shape[0],):
            raise InputError(
                f"volume sampling: expected {weights.shape[0]} whole target voxels, found "
                f"{index.dtype} of shape {index.shape}"
            )
        if len(shape) != 3 or affine.shape != (4, 4) or not np.isfinite(affine).all():
            raise InputError(
                "volume sampling: expected a 3-D grid and its affine (4, 4), found the grid "
                f"{shape} and an affine of shape {affine.shape}"
            )
        if index.min() < 0 or index.max() >= np.prod(shape) or (np.diff(index) <= 0).any():
            raise InputError(
                f"volume sampling: expected ascending voxels of the grid {shape}, found "
                f"{index.min()} to {index.max()}"
            )
        if not np.diff(weights.indptr).all():
            raise InputError("volume sampling: expected weights for each target voxel")
        for name, value in (
            ("weights", weights),
            ("index", index.astype(np.int64)),
            ("shape", shape),
            ("affine", affine),
        ):
            object.__setattr__(self, name, value)

    @classmethod
    def from_mni(cls, mask: ArrayLike, coordinates: ArrayLike) -> Self:
        """Turn NSD's transform to MNI space into weights.

        NSD stores the array of FSL's MNI152 grid, whose first axis runs from right to left, with
        a header that is not to be trusted: the grid is known by its shape. The target grid here
        is that array flipped, so that x grows with the first index, as ``nsd_mapdata`` writes
        (nsdcode: origin ``[183-91 127 73]``, 1-based).

        Parameters
        ----------
        mask : bool array of shape (x, y, z)
            The voxels in use.
        coordinates : array of shape (182, 218, 182, 3) or (91, 109, 91, 3)
            For each voxel of the 1 mm or 2 mm grid the *1-based* voxel coordinate in the mask's
            volume (``func1pt8-to-MNI.nii.gz``); 9999, NaN and coordinates off the grid are
            outside.

        Raises
        ------
        InputError
            When it is another grid.
        NothingReached
            When no target voxel at all lands in the mask.
        """
        coordinates = np.asarray(coordinates)
        shape = coordinates.shape[:3]
        if shape not in _MNI_GRIDS or coordinates.shape[3:] != (3,):
            grids = " or ".join(str((*grid, 3)) for grid in _MNI_GRIDS)
            raise InputError(
                f"coordinates: expected {grids}, NSD's transform to FSL's MNI152 grid of 1 or "
                f"2 mm; found {coordinates.shape}"
            )
        size = _MNI_GRIDS[shape]
        affine = np.diag([size, size, size, 1.0])
        affine[:3, 3] = _MNI_ORIGIN
        affine[0, 3] -= size * (shape[0] - 1)
        # The one copy that is made: 87 MB at 1 mm.
        flipped = np.subtract(coordinates[::-1], 1, order="C")
        weights = interpolation(mask, flipped.reshape(-1, 3))
        index = np.flatnonzero(np.diff(weights.indptr))
        if not len(index):
            raise NothingReached(
                f"volume sampling: no MNI voxel lands in the mask of shape {np.shape(mask)}: "
                "expected 1-based voxel coordinates of the same subject and resolution as the mask"
            )
        return cls(weights[index], index, shape, affine)

    @property
    def n_voxels(self) -> int:
        """Length of the masked vector."""
        return self.weights.shape[1]

    def project(self, values: ArrayLike) -> nib.Nifti1Image:
        """Carry voxel values to the target grid.

        Parameters
        ----------
        values : array of shape (n_voxels,) or (n_maps, n_voxels)
            Any real values. A NaN voxel makes the target voxels that read it NaN.

        Returns
        -------
        Nifti1Image
            float32, 3-D or 4-D, 0 outside; qform and sform codes 4 (MNI152), mm.

        Raises
        ------
        InputError
            When the values are of another mask, or have more axes.
        """
        values = _check_values(values, self.n_voxels)
        if values.ndim > 2:
            raise InputError(
                f"values: expected (n_voxels,) or (n_maps, n_voxels), found shape {values.shape}"
            )
        volume = np.zeros((*values.shape[:-1], np.prod(self.shape)), dtype=np.float32)
        volume[..., self.index] = _weighted(self.weights, values)
        volume = volume.reshape(*values.shape[:-1], *self.shape)
        image = nib.Nifti1Image(np.moveaxis(volume, 0, -1) if values.ndim == 2 else volume, None)
        image.set_qform(self.affine, 4)
        image.set_sform(self.affine, 4)
        image.header.set_xyzt_units("mm")
        return image

    def keep(self, voxels: ArrayLike) -> Self:
        """Sampling for a mask with fewer voxels.

        Parameters
        ----------
        voxels : bool array of shape (n_voxels,)
            Voxels that stay. A target voxel that loses more than half of its weight is outside
            from now on; the weights of the others are scaled to sum to 1 again.
        """
        weights = _rescaled(self.weights[:, _check_choice(voxels, self.n_voxels)])
        inside = np.diff(weights.indptr) > 0
        return type(self)(weights[inside], self.index[inside], self.shape, self.affine)

    def save(self, path: Path | str) -> None:
        """Write as ``.npz``, atomically. ``load`` reads it back."""
        arrays = {"index": self.index, "shape": np.array(self.shape), "affine": self.affine}
        _save(path, _arrays(mni=self.weights) | arrays)

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """Read what ``save`` wrote.

        Raises
        ------
        MissingError, InputError
            When the file is absent, damaged, or holds something else.
        """

        def build(stored: Mapping[str, NDArray]) -> Self:
            rest = (stored[name] for name in ("index", "shape", "affine"))
            return cls(_matrix(stored, "mni"), *rest)

        return _load(path, build, "a volume sampling (.npz with mni_weights, index, …)")


# Helpers ------------------------------------------------------------------------------------------


def _rescaled(weights: csr_array) -> csr_array:
    """Rows scaled to sum to 1, in float32; rows with less than half of a weight are emptied.

    Rows that sum to 1 but for float32's rounding stay as they are.
    """
    total = weights.sum(axis=1, dtype=np.float64)
    scale = np.divide(1, total, out=np.zeros_like(total), where=total >= 0.5 - _ROUNDING)
    scale[np.abs(total - 1) < _ROUNDING] = 1
    data = (weights.data * np.repeat(scale, np.diff(weights.indptr))).astype(np.float32)
    rescaled = csr_array((data, weights.indices, weights.indptr), shape=weights.shape)
    rescaled.eliminate_zeros()
    return rescaled


def _weighted(weights: csr_array, values: NDArray) -> NDArray:
    """Weighted sums: values (..., n_voxels) → (..., n_rows)."""
    columns = values.reshape(-1, values.shape[-1]).T
    sums = weights @ columns.astype(np.result_type(values, np.float32), copy=False)
    return sums.T.reshape(*values.shape[:-1], weights.shape[0])


def _checked(weights: Any, name: str) -> csr_array:
    """The weights as float32, or an `InputError` where they are none."""
    if not isinstance(weights, csr_array) or weights.ndim != 2 or 0 in weights.shape:
        raise InputError(
            f"{name}: expected a csr_array (n_points, n_voxels), found {type(weights).__name__} "
            f"of shape {np.shape(weights)}"
        )
    indices, n_voxels = weights.indices, weights.shape[1]
    if indices.size and (indices.min() < 0 or indices.max() >= n_voxels):
        raise InputError(
            f"{name}: expected voxels 0 to {n_voxels - 1}, found {indices.min()} to "
            f"{indices.max()}: it belongs to another mask, or is damaged; prepare the subject again"
        )
    if (np.diff(weights.indptr) < 0).any():
        raise InputError(f"{name}: its rows are damaged: prepare the subject again")
    total = weights.sum(axis=1, dtype=np.float64)[np.diff(weights.indptr) > 0]
    if not (weights.data > 0).all() or not np.allclose(total, 1, rtol=0, atol=1e-3):
        raise InputError(
            f"{name}: expected weights above 0 that sum to 1 at each point inside, found other "
            "values: it is damaged; prepare the subject again"
        )
    return weights.astype(np.float32, copy=False)


def _hemispheres(values: Mapping[str, ArrayLike], name: str) -> dict[str, NDArray]:
    if set(values) != set(HEMISPHERES):
        raise InputError(f"{name}: expected the keys left and right, found {sorted(values)}")
    return {hemisphere: np.asarray(values[hemisphere]) for hemisphere in HEMISPHERES}


def _zero_based(nearest: Mapping[str, ArrayLike] | None) -> dict[str, NDArray[np.int64]] | None:
    """NSD's 1-based vertices, which may be stored as floats, counted from 0."""
    if nearest is None:
        return None
    arrays = _hemispheres(nearest, "to_fsaverage")
    for hemisphere, array in arrays.items():
        if array.dtype.kind not in "iuf" or not (array == np.floor(array)).all():
            raise InputError(
                f"{hemisphere} to_fsaverage: expected whole 1-based vertices, found {array.dtype} "
                "with other values"
            )
    return {hemisphere: array.astype(np.int64) - 1 for hemisphere, array in arrays.items()}


def _check_values(values: ArrayLike, n_voxels: int) -> NDArray:
    values = np.asarray(values)
    if values.ndim == 0 or values.shape[-1] != n_voxels:
        raise InputError(
            f"values: expected {n_voxels} voxels on the last axis, found shape "
            f"{values.shape}: pass values of the mask this sampling was made for"
        )
    return values


def _check_choice(voxels: ArrayLike, n_voxels: int) -> NDArray[np.bool_]:
    voxels = np.asarray(voxels)
    if voxels.dtype != bool or voxels.shape != (n_voxels,) or not voxels.any():
        raise InputError(
            f"voxels: expected one boolean for each of {n_voxels} voxels, and some that stay; "
            f"found {voxels.dtype} of shape {voxels.shape}, {np.count_nonzero(voxels)} staying"
        )
    return voxels


def _arrays(**matrices: csr_array) -> dict[str, NDArray]:
    """What is stored of sparse matrices, by name; `_matrix` puts one together again."""
    arrays: dict[str, NDArray] = {}
    for name, matrix in matrices.items():
        arrays["n_voxels"] = np.int64(matrix.shape[1])
        arrays[f"{name}_weights"] = matrix.data
        arrays[f"{name}_voxels"] = matrix.indices.astype(np.int32)
        arrays[f"{name}_counts"] = np.diff(matrix.indptr).astype(np.int32)
    return arrays


def _matrix(stored: Mapping[str, NDArray], name: str) -> csr_array:
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
            f"{name} sampling: expected the parts of a sparse matrix, found "
            + ", ".join(f"{part.dtype} {part.shape}" for part in parts)
        )
    rows = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    return csr_array((weights, voxels, rows), shape=(len(counts), int(stored["n_voxels"])))


def _save(path: Path | str, arrays: Mapping[str, NDArray]) -> None:
    with atomic(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)


def _load(path: Path | str, build: Callable[[Mapping[str, NDArray]], _T], expected: str) -> _T:
    """``build`` from a file's arrays, every fault of the file told as such."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            return build(stored)
    except FileNotFoundError as error:
        raise MissingError(
            f"{path} does not exist: prepare the subject again to make it"
        ) from error
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    # np.load takes a file that is no archive for a single array, or for a refused pickle
    except (
        zipfile.BadZipFile,
        zlib.error,
        OSError,
        EOFError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        IndexError,
    ) as error:
        raise InputError(
            f"{path}: expected {expected}, found something else or a damaged file ({error}): "
            "prepare the subject again"
        ) from error
