"""Resampling from voxels to cortical surfaces with NSD's transforms: `surface_resampling.npz`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array

from synbrain_cli.errors import InputError
from synbrain_cli.io.fslr import FSLR, N_FSLR
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
from synbrain_cli.io.surface import HEMISPHERES, N_FSAVERAGE, N_VERTICES

SURFACE_SPACES = ("fsaverage5", "fsaverage6", "fsaverage", "fsnative")
_SIZES = ", ".join(map(str, N_FSAVERAGE.values()))


@dataclass(frozen=True, eq=False)
class SurfaceResampling:
    """Resampling of the voxels of a mask to cortical surfaces.

    Attributes
    ----------
    left, right : csr_array of shape (n_vertices, n_voxels), float32
        Weights of the masked voxels (C order of the mask) at each vertex of the native surface of
        the subject. Rows sum to 1, and are empty outside the mask. The hemispheres of a native
        surface differ in their number of vertices.
    to_fsaverage : dict of int32 arrays of shape (n_fsaverage,), or None
        For ``left`` and ``right``, the 0-based vertex of the native surface that is nearest to
        each vertex of fsaverage. None where ``left`` and ``right`` are already on fsaverage, in
        any density, or on fsLR.

    Raises
    ------
    InputError
        When shapes disagree, indices are out of range, or a matrix does not hold interpolation
        weights.
    """

    left: csr_array
    right: csr_array
    to_fsaverage: Mapping[str, NDArray[np.integer[Any]]] | None = None

    def __post_init__(self) -> None:
        for hemisphere in HEMISPHERES:
            weights = checked_weights(getattr(self, hemisphere), f"{hemisphere} resampling")
            object.__setattr__(self, hemisphere, weights)
        if self.left.shape[1] != self.right.shape[1]:
            raise InputError(
                "surface resampling: expected hemispheres of one mask, found "
                f"{self.left.shape[1]} voxels left and {self.right.shape[1]} right"
            )
        sizes = {h: getattr(self, h).shape[0] for h in HEMISPHERES}
        if self.to_fsaverage is None:
            if sizes["left"] != sizes["right"] or sizes["left"] not in N_VERTICES.values():
                raise InputError(
                    f"surface resampling: expected one of {_SIZES} vertices in each hemisphere of "
                    f"fsaverage, or {N_FSLR} of fsLR, found {sizes['left']} left and "
                    f"{sizes['right']} right: a native surface needs to_fsaverage"
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
                    f"{hemisphere} to_fsaverage: expected one of {_SIZES} vertices, with one "
                    f"number each, found shape {vertices.shape}"
                )
            n = sizes[hemisphere]
            if vertices.dtype.kind not in "iu" or vertices.min() < 0 or vertices.max() >= n:
                raise InputError(
                    f"{hemisphere} to_fsaverage: expected whole vertices 1 to {n} in NSD's "
                    f"1-based count, found {vertices.min() + 1} to {vertices.max() + 1} "
                    f"({vertices.dtype}): check that the hemispheres are not swapped and that the "
                    "file belongs to this subject"
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
        """Combine NSD's two transforms: voxels → native surface → fsaverage.

        The values at a vertex are averaged over those cortical depths that lie inside the mask.

        Parameters
        ----------
        mask : bool array of shape (x, y, z)
            The voxels in use.
        layers : dict of arrays of shape (n_depths, n_native, 3)
            For ``left`` and ``right``, the *1-based* voxel coordinate of each vertex of the native
            surface at each depth (``{lh,rh}.func1pt8-to-layerB{1,2,3}.mgz``). 9999, NaN and
            coordinates outside the grid mark vertices outside.
        to_fsaverage : dict of arrays of shape (n_fsaverage,), or None
            For each vertex of fsaverage, the *1-based* nearest vertex of the native surface
            (``{lh,rh}.white-to-fsaverage.mgz``); n_fsaverage is 163842, 40962 or 10242. None
            where ``layers`` hold the vertices of fsaverage.

        Raises
        ------
        InputError
            When shapes or hemispheres disagree, or an index is not a vertex of the native surface.
        NothingReached
            When no vertex lies in the mask.
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
            weights[hemisphere] = rescaled(sum(depths[1:], depths[0]))
        if not any(matrix.nnz for matrix in weights.values()):
            raise NothingReached(
                f"surface resampling: no vertex lies in the mask of shape {np.shape(mask)}: "
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
        """Make the resampling of a subject with data on a surface, where "voxels" are vertices.

        Parameters
        ----------
        vertices : dict of int arrays
            For ``left`` and ``right``, the *0-based* vertices that have data. Values are ordered
            in this way, with the left hemisphere first.
        n_vertices : dict of int
            Number of vertices of each whole hemisphere.
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
        """Number of voxels in the mask."""
        return self.left.shape[1]

    @property
    def spaces(self) -> tuple[str, ...]:
        """Spaces of `SURFACE_SPACES` to which values can be resampled, or fsLR, where they are."""
        nearest = self.to_fsaverage
        densest = self.left.shape[0] if nearest is None else len(nearest["left"])
        if nearest is None and densest == N_FSLR:
            return (FSLR,)
        available = tuple(space for space, n in N_FSAVERAGE.items() if n <= densest)
        return available if nearest is None else (*available, "fsnative")

    def project(
        self, values: ArrayLike, space: str = "fsaverage5"
    ) -> dict[str, NDArray[np.float32]]:
        """Resample voxel values to a surface.

        Parameters
        ----------
        values : array of shape (..., n_voxels)
            Real values with any leading axes. Vertices that depend on a NaN voxel are NaN.
        space : str
            One of `spaces`. fsaverage is an icosahedron that was subdivided repeatedly, each time
            with new vertices appended; fsaverage5 and fsaverage6 are its first 10,242 and 40,962
            vertices.

        Returns
        -------
        dict of float32 arrays of shape (..., n_vertices)
            For ``left`` and ``right``; NaN outside the mask.

        Raises
        ------
        InputError
            When the number of voxels is another, or the space is not available.
        """
        values = check_values(values, self.n_voxels)
        maps = {}
        for hemisphere, weights in self.weights_to(space).items():
            reached = np.flatnonzero(np.diff(weights.indptr))
            own = np.full((*values.shape[:-1], weights.shape[0]), np.nan, dtype=np.float32)
            own[..., reached] = weighted_sums(weights[reached], values)
            maps[hemisphere] = own
        return maps

    def project_labels(
        self, labels: ArrayLike, outside: int = -1, space: str = "fsaverage5"
    ) -> dict[str, NDArray[np.int32]]:
        """Resample voxel labels (ROIs), which cannot be averaged, to a surface by majority.

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
            For ``left`` and ``right``, the label with the largest sum of weights (ours); the
            smallest label in case of a tie.

        Raises
        ------
        InputError
            As in `project`, and when the labels are not integers.
        """
        labels = check_values(labels, self.n_voxels)
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
            # Sorted within each row by votes; in case of a tie the smallest label is last.
            row = np.repeat(np.arange(len(n_kinds)), n_kinds)
            ranked = votes.indices[np.lexsort((-votes.indices, votes.data, row))]
            reached = n_kinds > 0
            own = np.full(len(n_kinds), outside, dtype=np.int32)
            own[reached] = kinds[ranked[votes.indptr[1:][reached] - 1]]
            maps[hemisphere] = own
        return maps

    def keep(self, voxels: ArrayLike) -> Self:
        """Return the resampling for a mask with fewer voxels.

        Parameters
        ----------
        voxels : bool array of shape (n_voxels,)
            True for voxels that are kept. A vertex that loses more than half of its weight is
            outside the new mask; the weights of other vertices are scaled to sum to 1 again.

        Raises
        ------
        InputError
            When it is not a boolean array of this shape, or no voxel is kept.
        """
        voxels = check_choice(voxels, self.n_voxels)
        weights = {h: rescaled(getattr(self, h)[:, voxels]) for h in HEMISPHERES}
        return type(self)(**weights, to_fsaverage=self.to_fsaverage)

    def save(self, path: Path | str) -> None:
        """Write a ``.npz`` file atomically; `load` reads it.

        Examples
        --------
        >>> import tempfile
        >>> vertices = {"left": np.array([3, 5]), "right": np.array([0])}
        >>> one = SurfaceResampling.from_vertices(vertices, {"left": 10242, "right": 10242})
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     one.save(f"{folder}/surface_resampling.npz")
        ...     again = SurfaceResampling.load(f"{folder}/surface_resampling.npz")
        >>> again.project([7, 8, 9])["left"][3:6]
        array([ 7., nan,  8.], dtype=float32)
        """
        arrays = arrays_of(left=self.left, right=self.right)
        if self.to_fsaverage is not None:
            arrays |= {f"{h}_to_fsaverage": self.to_fsaverage[h] for h in HEMISPHERES}
        save_weights(path, arrays)

    @staticmethod
    def load(path: Path | str) -> SurfaceResampling:
        """Read a file that `save` wrote.

        Raises
        ------
        MissingError, InputError
            When the file is absent, damaged, or holds something else.
        """

        def build(stored: Mapping[str, NDArray[Any]]) -> SurfaceResampling:
            nearest = {
                h: stored[f"{h}_to_fsaverage"] for h in HEMISPHERES if f"{h}_to_fsaverage" in stored
            }
            left, right = (matrix_of(stored, hemisphere) for hemisphere in HEMISPHERES)
            return SurfaceResampling(left, right, nearest or None)

        return load_weights(
            path, build, "a surface resampling (.npz with left_weights, right_weights, …)"
        )

    def weights_to(self, space: str) -> dict[str, csr_array]:
        """Return the weights of voxels at the vertices of a space, for each hemisphere.

        Parameters
        ----------
        space : str
            One of `spaces`.

        Returns
        -------
        dict of csr_array of shape (n_vertices, n_voxels)

        Raises
        ------
        InputError
            When the space is not available.
        """
        if space not in self.spaces:
            raise InputError(
                f"surface space: expected {', '.join(self.spaces)}, found {space!r}"
                + (": this subject has no transform to it" * (space in SURFACE_SPACES))
            )
        weights = {h: getattr(self, h) for h in HEMISPHERES}
        if space in ("fsnative", FSLR):
            return weights
        n = N_FSAVERAGE[space]
        if self.to_fsaverage is None:
            return {h: matrix[:n] for h, matrix in weights.items()}
        return {h: matrix[self.to_fsaverage[h][:n]] for h, matrix in weights.items()}


def _hemispheres(values: Mapping[str, ArrayLike], name: str) -> dict[str, NDArray[Any]]:
    if set(values) != set(HEMISPHERES):
        raise InputError(f"{name}: expected the keys left and right, found {sorted(values)}")
    return {hemisphere: np.asarray(values[hemisphere]) for hemisphere in HEMISPHERES}


def _zero_based(nearest: Mapping[str, ArrayLike] | None) -> dict[str, NDArray[np.int64]] | None:
    """Convert NSD's 1-based vertices, which may be stored as floats, to 0-based ones."""
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
