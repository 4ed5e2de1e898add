"""The cortical surface: fsaverage5 geometry, voxels ↔ vertices, and GIFTI files.

Everything on the surface is a dict with the keys ``left`` and ``right``; nothing is ever
concatenated over hemispheres without them.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

import nibabel as nib
import numpy as np
from numpy.typing import ArrayLike, NDArray

from synbrain_cli.errors import InputError, MissingError
from synbrain_cli.io.files import atomic
from synbrain_cli.io.volume import read_volume

HEMISPHERES = ("left", "right")
N_FSAVERAGE5 = 10242  # vertices per hemisphere: 10 · 4⁵ + 2
_FSAVERAGE_SIZES = {N_FSAVERAGE5: "fsaverage5", 40962: "fsaverage6", 163842: "fsaverage"}
_OUTSIDE = 9999  # NSD's coordinate of a vertex outside the slab
_MESHES = {"flat": "flat", "inflated": "infl", "pial": "pial", "sphere": "sphere", "white": "white"}
_MAPS = {"area": "area", "curvature": "curv", "sulcal": "sulc", "thickness": "thick"}
_STRUCTURES = {"left": "CortexLeft", "right": "CortexRight"}


class Mesh(NamedTuple):
    """One hemisphere's surface.

    Attributes
    ----------
    coordinates : float32 array of shape (n_vertices, 3)
        Positions in mm.
    faces : int32 array of shape (n_faces, 3)
        Vertices of each triangle. ``flat`` leaves out the medial wall and the cuts.
    """

    coordinates: NDArray[np.float32]
    faces: NDArray[np.int32]


def fsaverage(surface: str = "flat", density: str = "fsaverage5") -> dict[str, Mesh]:
    """Geometry of FreeSurfer's average brain (Fischl et al. 1999), as nilearn has it.

    Parameters
    ----------
    surface : {"flat", "inflated", "pial", "sphere", "white"}
        Which surface. Vertices correspond between surfaces.
    density : str
        ``fsaverage5`` comes with nilearn. Others are used where nilearn has already fetched them;
        nothing is downloaded here.

    Returns
    -------
    dict of Mesh
        Keys ``left`` and ``right``; 10,242 vertices each in fsaverage5.

    Raises
    ------
    InputError, MissingError
        When the surface is unknown, or the density is not on this machine.

    Examples
    --------
    >>> fsaverage("pial")["left"].coordinates.shape
    (10242, 3)
    """
    return {
        hemisphere: Mesh(*(array.data for array in image.darrays))
        for hemisphere, image in _fsaverage_images(surface, _MESHES, density).items()
    }


def fsaverage_map(name: str = "sulcal", density: str = "fsaverage5") -> dict[str, NDArray]:
    """Anatomy of the average brain, one float32 value per vertex.

    Parameters
    ----------
    name : {"area", "curvature", "sulcal", "thickness"}
        Area in mm², mean curvature in 1/mm (positive in sulci), sulcal depth (FreeSurfer's
        ``sulc``, positive in sulci), thickness in mm.
    density : str
        As in ``fsaverage``.

    Returns
    -------
    dict of float32 arrays of shape (n_vertices,)
    """
    return {
        hemisphere: image.darrays[0].data
        for hemisphere, image in _fsaverage_images(name, _MAPS, density).items()
    }


@dataclass(frozen=True, eq=False)
class SurfaceSampling:
    """How the voxels of a mask reach the vertices of fsaverage5.

    Attributes
    ----------
    left, right : int32 arrays of shape (n_vertices, n_depths)
        For each vertex and cortical depth, the index of the voxel to read in the masked vector
        (C order of the mask: ``np.flatnonzero(mask)``); −1 outside the mask.
    n_voxels : int
        Length of the masked vector.

    Raises
    ------
    InputError
        When the hemispheres disagree in shape, or an index is out of range.
    """

    left: NDArray[np.int32]
    right: NDArray[np.int32]
    n_voxels: int

    def __post_init__(self) -> None:
        for hemisphere in HEMISPHERES:
            index = np.asarray(getattr(self, hemisphere))
            if index.ndim != 2 or index.dtype.kind not in "iu" or 0 in index.shape:
                raise InputError(
                    f"{hemisphere} sampling: expected integers (n_vertices, n_depths), found "
                    f"{index.dtype} of shape {index.shape}"
                )
            if index.min() < -1 or index.max() >= self.n_voxels:
                raise InputError(
                    f"{hemisphere} sampling: expected voxels −1 to {self.n_voxels - 1}, found "
                    f"{index.min()} to {index.max()}: it belongs to another mask, or is damaged; "
                    "prepare the subject again"
                )
            object.__setattr__(self, hemisphere, index.astype(np.int32))
        if self.left.shape != self.right.shape:
            raise InputError(
                "surface sampling: expected hemispheres of one shape (n_vertices, n_depths), "
                f"found {self.left.shape} left and {self.right.shape} right"
            )

    @classmethod
    def from_layers(
        cls,
        mask: ArrayLike,
        layers: Mapping[str, ArrayLike],
        to_fsaverage: Mapping[str, ArrayLike],
    ) -> Self:
        """Chain NSD's two transforms: voxels → native surface → fsaverage5.

        The voxel nearest to each coordinate is read, without interpolation; halves round up.
        Only the first 10,242 fsaverage vertices are kept: fsaverage is an icosahedron subdivided
        again and again, each time appending vertices, so these are fsaverage5's.

        Parameters
        ----------
        mask : bool array of shape (x, y, z)
            The voxels in use.
        layers : dict of arrays of shape (n_depths, n_native, 3)
            For ``left`` and ``right``, per depth and vertex of the subject's own surface, the
            *1-based* voxel coordinate (``{lh,rh}.func1pt8-to-layerB{1,2,3}.mgz``). 9999, NaN and
            coordinates off the grid are outside.
        to_fsaverage : dict of arrays of shape (n_fsaverage,)
            For each fsaverage vertex the *1-based* nearest native vertex
            (``{lh,rh}.white-to-fsaverage.mgz``); n_fsaverage is 163842, 40962 or 10242.

        Raises
        ------
        InputError
            When shapes or hemispheres disagree, an index is no vertex of the native surface, or no
            vertex at all lands in the mask.
        """
        mask = np.asarray(mask)
        if mask.ndim != 3 or mask.dtype != bool or not mask.any():
            raise InputError(
                f"mask: expected a 3-D boolean array with voxels in it, found {mask.dtype} "
                f"of shape {mask.shape} with {np.count_nonzero(mask)} voxels"
            )
        order = np.full(mask.shape, -1, dtype=np.int32)
        order[mask] = np.arange(np.count_nonzero(mask), dtype=np.int32)
        sampling = cls(
            **{
                hemisphere: _sample(order, layer, nearest, hemisphere)
                for hemisphere, layer, nearest in zip(
                    HEMISPHERES,
                    _both(layers, "layers"),
                    _both(to_fsaverage, "to_fsaverage"),
                    strict=True,
                )
            },
            n_voxels=int(mask.sum()),
        )
        if max(sampling.left.max(), sampling.right.max()) < 0:
            raise InputError(
                f"surface sampling: no vertex lands in the mask of shape {mask.shape}: expected "
                "1-based voxel coordinates of the same subject and resolution as the mask"
            )
        return sampling

    @property
    def n_vertices(self) -> int:
        """Vertices per hemisphere."""
        return self.left.shape[0]

    def project(self, values: ArrayLike) -> dict[str, NDArray[np.float32]]:
        """Carry voxel values to the surface, averaging over the depths inside the mask.

        Parameters
        ----------
        values : array of shape (..., n_voxels)
            Any real values, any leading axes. A NaN voxel makes its vertices NaN.

        Returns
        -------
        dict of float32 arrays of shape (..., n_vertices)
            NaN where no depth is inside.
        """
        values = self._check(values)
        maps = {}
        for hemisphere in HEMISPHERES:
            index = getattr(self, hemisphere)
            inside = index >= 0
            reached = np.flatnonzero(inside.any(1))
            total = np.zeros((*values.shape[:-1], len(reached)))
            for depth, within in zip(index[reached].T, inside[reached].T, strict=True):
                total[..., within] += values[..., depth[within]]
            maps[hemisphere] = np.full((*values.shape[:-1], len(index)), np.nan, dtype=np.float32)
            maps[hemisphere][..., reached] = total / inside[reached].sum(1)
        return maps

    def keep(self, voxels: ArrayLike) -> Self:
        """Sampling for a mask with fewer voxels.

        Parameters
        ----------
        voxels : bool array of shape (n_voxels,)
            Voxels that stay; vertices and depths that read another are outside from now on.
        """
        voxels = self._check(voxels).astype(bool)
        # The last entry answers for −1, outside.
        renumbered = np.append(np.where(voxels, np.cumsum(voxels) - 1, -1), -1).astype(np.int32)
        return type(self)(renumbered[self.left], renumbered[self.right], int(voxels.sum()))

    def project_labels(self, labels: ArrayLike, outside: int = -1) -> dict[str, NDArray[np.int32]]:
        """Carry voxel labels (ROIs) to the surface, where they cannot be averaged.

        Parameters
        ----------
        labels : int array of shape (n_voxels,)
            Label of each voxel.
        outside : int
            Label of vertices that no voxel reaches.

        Returns
        -------
        dict of int32 arrays of shape (n_vertices,)
            The label most frequent over the depths inside; of equals, that of the first depth.
        """
        labels = self._check(labels)
        if labels.ndim != 1 or labels.dtype.kind not in "iu":
            raise InputError(
                f"labels: expected integers (n_voxels,), found {labels.dtype} of shape "
                f"{labels.shape}"
            )
        maps = {}
        for hemisphere in HEMISPHERES:
            index = getattr(self, hemisphere)
            inside = index >= 0
            found = labels[index]
            same = (found[:, :, None] == found[:, None, :]) & inside[:, None, :]
            votes = np.where(inside, same.sum(2), 0)
            best = np.take_along_axis(found, votes.argmax(1)[:, None], axis=1)[:, 0]
            maps[hemisphere] = np.where(inside.any(1), best, outside).astype(np.int32)
        return maps

    def save(self, path: Path | str) -> None:
        """Write as ``.npz``, atomically. ``load`` reads it back.

        Examples
        --------
        >>> import tempfile
        >>> index = np.array([[0], [-1]], dtype=np.int32)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     SurfaceSampling(left=index, right=index, n_voxels=1).save(f"{folder}/surface.npz")
        ...     SurfaceSampling.load(f"{folder}/surface.npz").left.tolist()
        [[0], [-1]]
        """
        with atomic(_with_suffix(path, ".npz")) as temporary:
            np.savez_compressed(
                temporary, left=self.left, right=self.right, n_voxels=np.int64(self.n_voxels)
            )

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """Read what ``save`` wrote.

        Raises
        ------
        MissingError, InputError
            When the file is absent, damaged, or holds something else.
        """
        try:
            with np.load(path, allow_pickle=False) as stored:
                return cls(stored["left"], stored["right"], int(stored["n_voxels"]))
        except FileNotFoundError as error:
            raise MissingError(
                f"{path} does not exist: prepare the subject again to make it"
            ) from error
        except InputError as error:
            raise InputError(f"{path}: {error}") from error
        # np.load takes a file that is no archive for a single array, or for a refused pickle
        except (
            zipfile.BadZipFile,
            OSError,
            EOFError,
            ValueError,
            KeyError,
            TypeError,
            AttributeError,
            IndexError,
        ) as error:
            raise InputError(
                f"{path}: expected a surface sampling (.npz with left, right, n_voxels), found "
                f"something else or a damaged file ({error}): prepare the subject again"
            ) from error

    def _check(self, values: ArrayLike) -> NDArray:
        values = np.asarray(values)
        if values.ndim == 0 or values.shape[-1] != self.n_voxels:
            raise InputError(
                f"values: expected {self.n_voxels} voxels on the last axis, found shape "
                f"{values.shape}: pass values of the mask this sampling was made for"
            )
        return values


def read_mgh_vertices(path: Path | str) -> NDArray:
    """Read per-vertex values from ``.mgh`` or ``.mgz``.

    NSD stores them as (n, 1, 1, k), (n, 3) or (n, 1, 1); the longest axis is taken for the
    vertices and at most one other may be longer than 1.

    Parameters
    ----------
    path : path
        The file.

    Returns
    -------
    array of shape (n_vertices, k)
        In the file's dtype and the machine's byte order.

    Raises
    ------
    MissingError, InputError
        When the file is absent, unreadable, or of another shape.
    """
    try:
        values, _ = read_volume(path)
    except (TypeError, ValueError) as error:  # nibabel's answer to a header cut short
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: truncated or damaged ({error}): copy the file again") from error
    if values.ndim == 0 or sum(n > 1 for n in values.shape) > 2:
        raise InputError(
            f"{path}: expected per-vertex values, shape (n_vertices, 1, 1, k), found "
            f"{values.shape}: is it a volume?"
        )
    values = np.moveaxis(values, int(np.argmax(values.shape)), 0)
    values = values.reshape(len(values), -1)
    return values.astype(values.dtype.newbyteorder("="))


def to_gifti(
    values: ArrayLike, hemisphere: str, meta: Mapping[str, Any] | None = None
) -> nib.gifti.GiftiImage:
    """Surface maps of one hemisphere as a GIFTI image.

    Parameters
    ----------
    values : array of shape (n_vertices,) or (n_maps, n_vertices)
        One map or several; stored as float32.
    hemisphere : {"left", "right"}
        Written as ``AnatomicalStructurePrimary``, by which viewers choose the mesh.
    meta : dict, optional
        More metadata, stored as text.

    Returns
    -------
    nibabel.gifti.GiftiImage
        One data array per map.
    """
    if hemisphere not in _STRUCTURES:
        raise InputError(f"hemisphere: expected one of {HEMISPHERES}, found {hemisphere!r}")
    maps = np.asarray(values, dtype=np.float32)
    if maps.ndim not in (1, 2) or 0 in maps.shape:
        raise InputError(
            f"surface maps: expected (n_vertices,) or (n_maps, n_vertices), found {maps.shape}"
        )
    meta = {str(key): str(value) for key, value in (meta or {}).items()}
    return nib.gifti.GiftiImage(
        meta=nib.gifti.GiftiMetaData(
            meta | {"AnatomicalStructurePrimary": _STRUCTURES[hemisphere]}
        ),
        darrays=[
            nib.gifti.GiftiDataArray(
                np.ascontiguousarray(row), intent="NIFTI_INTENT_NONE", datatype="float32"
            )
            for row in np.atleast_2d(maps)
        ],
    )


def write_gifti(
    path: Path | str,
    values: ArrayLike,
    hemisphere: str,
    meta: Mapping[str, Any] | None = None,
) -> None:
    """Write ``to_gifti(values, hemisphere, meta)`` atomically; ``path`` ends in ``.gii``.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_gifti(f"{folder}/sub-01_hemi-L_statmap.func.gii", np.arange(3), "left")
    ...     nib.load(f"{folder}/sub-01_hemi-L_statmap.func.gii").agg_data().tolist()
    [0.0, 1.0, 2.0]
    """
    image = to_gifti(values, hemisphere, meta)
    with atomic(_with_suffix(path, ".gii")) as temporary:
        image.to_filename(temporary)


# Helpers ------------------------------------------------------------------------------------------


def _fsaverage_images(
    name: str, names: Mapping[str, str], density: str
) -> dict[str, nib.gifti.GiftiImage]:
    """The two hemispheres' files, without letting nilearn download."""
    from nilearn.datasets import fetch_surf_fsaverage, get_data_dirs

    if name not in names:
        raise InputError(f"fsaverage: expected one of {', '.join(names)}; found {name!r}")
    attributes = {hemisphere: f"{names[name]}_{hemisphere}" for hemisphere in HEMISPHERES}
    if density == "fsaverage5":
        files = fetch_surf_fsaverage("fsaverage5")  # inside the package: fetches nothing
        return {h: nib.load(files[attribute]) for h, attribute in attributes.items()}
    for folder in map(Path, get_data_dirs()):
        paths = {h: folder / density / f"{a}.gii.gz" for h, a in attributes.items()}
        if all(path.is_file() for path in paths.values()):
            return {h: nib.load(path) for h, path in paths.items()}
    raise MissingError(
        f"fsaverage: expected fsaverage5, which comes with nilearn; {density!r} is not on this "
        "machine and is not downloaded here: fetch it once with "
        f"nilearn.datasets.fetch_surf_fsaverage({density!r})"
    )


def _both(values: Mapping[str, ArrayLike], name: str) -> list[NDArray]:
    if set(values) != set(HEMISPHERES):
        raise InputError(f"{name}: expected the keys left and right, found {sorted(values)}")
    arrays = [np.asarray(values[hemisphere]) for hemisphere in HEMISPHERES]
    # Native surfaces differ in size between hemispheres; depths and fsaverage do not
    lengths = [array.shape[:1] for array in arrays]
    if lengths[0] != lengths[1]:
        raise InputError(
            f"{name}: the hemispheres disagree, {arrays[0].shape} left and {arrays[1].shape} right"
        )
    return arrays


def _sample(
    order: NDArray[np.int32], layers: NDArray, nearest: NDArray, hemisphere: str
) -> NDArray[np.int32]:
    """Voxel index of each fsaverage5 vertex and depth, (n_vertices, n_depths)."""
    if layers.ndim != 3 or layers.shape[2] != 3:
        raise InputError(
            f"{hemisphere} layers: expected (n_depths, n_native, 3), found {layers.shape}"
        )
    if nearest.ndim != 1 or len(nearest) not in _FSAVERAGE_SIZES:
        raise InputError(
            f"{hemisphere} to_fsaverage: expected {sorted(_FSAVERAGE_SIZES)} vertices, one number "
            f"each; found shape {nearest.shape}"
        )
    nearest = nearest[:N_FSAVERAGE5]
    vertices = nearest.astype(np.int64)
    n_native = layers.shape[1]
    if (vertices != nearest).any() or vertices.min() < 1 or vertices.max() > n_native:
        raise InputError(
            f"{hemisphere} to_fsaverage: expected whole 1-based vertices 1 to {n_native}, found "
            f"{nearest.min()} to {nearest.max()}: are the hemispheres swapped, or the subject "
            "another?"
        )
    coordinates = layers[:, vertices - 1].astype(np.float64)  # (n_depths, n_vertices, 3)
    with np.errstate(invalid="ignore"):
        inside = ((coordinates >= 0.5) & (coordinates < np.add(order.shape, 0.5))).all(-1)
    inside &= (coordinates != _OUTSIDE).all(-1)
    voxels = np.floor(np.where(inside[..., None], coordinates, 1) - 0.5).astype(np.int64)
    return np.where(inside, order[tuple(np.moveaxis(voxels, -1, 0))], -1).T.astype(np.int32)


def _with_suffix(path: Path | str, suffix: str) -> Path:
    path = Path(path)
    if path.suffix != suffix:
        raise InputError(f"{path}: expected a name that ends in {suffix}")
    return path
