"""Voxel spaces: positions of the voxels of a subject, and their resampling to other spaces.

Prepared subjects and bundles store the voxel space in the same files: ``mask.nii.gz`` or
``vertices.npz``, ``voxels.tsv``, and the weights for resampling to cortical surfaces and to MNI
where transforms are known.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd

from synbrain_cli.errors import DAMAGED, InputError
from synbrain_cli.io.files import atomic
from synbrain_cli.io.seal import checked_member
from synbrain_cli.io.surface import HEMISPHERES
from synbrain_cli.io.surface_resampling import SurfaceResampling
from synbrain_cli.io.volume import read_volume, save_image, unmask
from synbrain_cli.io.volume_resampling import VolumeResampling
from synbrain_cli.paths import is_given

SURFACE_RESAMPLING, MNI_RESAMPLING = "surface_resampling.npz", "mni_resampling.npz"
# Files that a bundle copies from the prepared subject.
VOXEL_SPACE_FILES = (
    "mask.nii.gz",
    "vertices.npz",
    "voxels.tsv",
    SURFACE_RESAMPLING,
    MNI_RESAMPLING,
)


@dataclass(frozen=True, eq=False)
class Volume:
    """Voxels of a volume, in C order of the mask.

    Attributes
    ----------
    mask : Nifti1Image
        uint8, 1 for voxels in use.
    """

    mask: nib.Nifti1Image

    @classmethod
    def of(cls, inside: np.ndarray, like: nib.spatialimages.SpatialImage) -> Volume:
        """Make it from a boolean array (x, y, z) on the grid of an image."""
        image = nib.Nifti1Image(inside.astype(np.uint8), like.affine)
        image.header.set_xyzt_units("mm", "sec")
        return cls(image)

    @cached_property
    def inside(self) -> np.ndarray:
        """Mask as a boolean array (x, y, z)."""
        return np.asarray(self.mask.dataobj) > 0

    @property
    def n_voxels(self) -> int:
        """Number of voxels in use."""
        return int(self.inside.sum())

    def table(self) -> pd.DataFrame:
        """Return the 0-based position of each voxel: columns ``i``, ``j``, ``k``."""
        return pd.DataFrame(np.argwhere(self.inside), columns=["i", "j", "k"])

    def keep(self, voxels: np.ndarray) -> Volume:
        """Return the volume with the voxels that a boolean array (n_voxels,) selects."""
        inside = self.inside.copy()
        inside[inside] = voxels
        return Volume(nib.Nifti1Image(inside.astype(np.uint8), self.mask.affine, self.mask.header))

    def save(self, folder: Path) -> None:
        """Write ``mask.nii.gz``."""
        save_image(self.mask, folder / "mask.nii.gz")

    def to_nifti(self, values: np.ndarray, description: str = "") -> nib.Nifti1Image:
        """Place values (n_voxels,) or (n_maps, n_voxels) on the grid, with 0 outside the mask."""
        return unmask(values, self.mask, description=description)

    def labelled(self, labels: np.ndarray) -> nib.Nifti1Image:
        """Place whole numbers (n_voxels,) on the grid, in their own dtype, with 0 elsewhere."""
        volume = np.zeros(self.inside.shape, labels.dtype)
        volume[self.inside] = labels
        header = self.mask.header.copy()
        header.set_data_dtype(labels.dtype)
        return nib.Nifti1Image(volume, self.mask.affine, header)


@dataclass(frozen=True, eq=False)
class Vertices:
    """Vertices of a cortical surface, ordered with the left hemisphere before the right one.

    Attributes
    ----------
    left, right : int64 arrays of shape (n_left,) and (n_right,)
        0-based vertices in use, ascending.
    n_vertices : dict
        Number of vertices of each whole hemisphere.
    space : str
        ``fsaverage``, ``fsaverage6``, ``fsaverage5``, ``fsnative`` or ``fsLR``.

    Raises
    ------
    InputError
        When the vertices are not ascending, or do not exist.
    """

    left: np.ndarray
    right: np.ndarray
    n_vertices: dict[str, int]
    space: str

    def __post_init__(self) -> None:
        for hemisphere in HEMISPHERES:
            index, n = getattr(self, hemisphere), self.n_vertices[hemisphere]
            if len(index) and (index.min() < 0 or index.max() >= n or (np.diff(index) <= 0).any()):
                raise InputError(
                    f"{hemisphere} vertices: expected ascending numbers from 0 to {n - 1}, found "
                    f"{index.min()} to {index.max()}"
                )

    @property
    def n_voxels(self) -> int:
        """Number of vertices in use."""
        return len(self.left) + len(self.right)

    def table(self) -> pd.DataFrame:
        """Return the columns ``hemisphere`` and ``vertex`` (0-based)."""
        return pd.DataFrame(
            {
                "hemisphere": np.repeat(HEMISPHERES, [len(self.left), len(self.right)]),
                "vertex": np.concatenate([self.left, self.right]),
            }
        )

    def keep(self, voxels: np.ndarray) -> Vertices:
        """Return the vertices that a boolean array (n_voxels,) selects."""
        left, right = np.split(voxels, [len(self.left)])
        return Vertices(self.left[left], self.right[right], self.n_vertices, self.space)

    def save(self, folder: Path) -> None:
        """Write ``vertices.npz``."""
        with atomic(folder / "vertices.npz") as path, path.open("wb") as file:
            np.savez_compressed(
                file,
                left=self.left,
                right=self.right,
                n_vertices=np.array([self.n_vertices[h] for h in HEMISPHERES]),
                space=np.array(self.space),
            )

    @classmethod
    def load(cls, path: Path) -> Vertices:
        """Read ``vertices.npz``.

        Raises
        ------
        InputError
            When it is truncated or damaged, or the vertices are not ascending.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                n_vertices = dict(zip(HEMISPHERES, map(int, file["n_vertices"]), strict=True))
                return cls(file["left"], file["right"], n_vertices, str(file["space"]))
        except InputError as error:
            raise InputError(f"{path}: {error}") from error
        except DAMAGED as error:
            raise InputError(
                f"{path}: truncated or damaged ({error}): prepare the subject again"
            ) from error

    def to_full(self, values: np.ndarray) -> dict[str, np.ndarray]:
        """Place values (..., n_voxels) on whole hemispheres.

        Returns
        -------
        dict of float32 arrays of shape (..., n_vertices)
            For ``left`` and ``right``; NaN at vertices that are not in use.

        Raises
        ------
        InputError
            When the number of values is not that of the vertices.
        """
        values = np.asarray(values)
        if values.shape[-1] != self.n_voxels:
            raise InputError(
                f"values: expected shape (..., {self.n_voxels}), one per vertex in use, found "
                f"{values.shape}"
            )
        maps = {}
        for hemisphere, part in zip(
            HEMISPHERES, np.split(values, [len(self.left)], axis=-1), strict=True
        ):
            full = np.full((*part.shape[:-1], self.n_vertices[hemisphere]), np.nan, np.float32)
            full[..., getattr(self, hemisphere)] = part
            maps[hemisphere] = full
        return maps


Geometry = Volume | Vertices
POSITION_COLUMNS = ("i", "j", "k", "hemisphere", "vertex")


def load_geometry(folder: Path) -> Geometry | None:
    """Read the mask or the vertices of a prepared subject or bundle; None where neither exists."""
    path = folder / "mask.nii.gz"
    if is_given(path):
        inside, image = read_volume(path)  # reads to the end, so that damage is noticed here
        # In memory: every map of every image is placed with it.
        return Volume(nib.Nifti1Image(inside, image.affine, image.header))
    if is_given(folder / "vertices.npz"):
        return Vertices.load(folder / "vertices.npz")
    return None


@dataclass(frozen=True, eq=False)
class VoxelSpace:
    """Positions of the voxels of a prepared subject or bundle, and resampling to other spaces.

    Attributes
    ----------
    folder : Path
        Folder with ``mask.nii.gz`` or ``vertices.npz``, and with the files of resampling weights
        where transforms are known.
    checksums : mapping of str to str
        SHA-256 of the folder's files, with which they are compared before they are read. A file
        that is not listed is refused.
    """

    folder: Path
    checksums: Mapping[str, str]

    @cached_property
    def geometry(self) -> Geometry | None:
        """Mask of a volume or vertices of a surface; None where positions are unknown."""
        files = self._file("mask.nii.gz"), self._file("vertices.npz")
        return load_geometry(self.folder) if any(files) else None

    @cached_property
    def surface_resampling(self) -> SurfaceResampling | None:
        """Resampling to cortical surfaces; None without transforms."""
        path = self._file(SURFACE_RESAMPLING)
        return SurfaceResampling.load(path) if path is not None else None

    @cached_property
    def mni_resampling(self) -> VolumeResampling | None:
        """Resampling to MNI152; None without the transform."""
        path = self._file(MNI_RESAMPLING)
        return VolumeResampling.load(path) if path is not None else None

    def _file(self, name: str) -> Path | None:
        """Path of a file that is as it was written; None where there is none of that name."""
        if name not in self.checksums and not os.path.lexists(self.folder / name):
            return None
        return checked_member(self.folder, name, self.checksums, "copy the folder again")

    @property
    def is_volume(self) -> bool:
        """Whether the voxels are those of a volume."""
        return isinstance(self.geometry, Volume)

    @property
    def other_spaces(self) -> tuple[str, ...]:
        """Spaces to which responses can be resampled."""
        surfaces = self.surface_resampling.spaces if self.surface_resampling is not None else ()
        return (*surfaces, "MNI") if self.mni_resampling is not None else surfaces

    @property
    def surface(self) -> str:
        """Surface on which maps are shown unless another is asked for: fsaverage5, or fsLR."""
        resampling = self.surface_resampling
        return "fsaverage5" if resampling is None else resampling.spaces[0]

    def to_nifti(self, values: np.ndarray, description: str = "") -> nib.Nifti1Image:
        """Place values on the grid of the subject's own volume.

        Parameters
        ----------
        values : array of shape (n_voxels,) or (n_maps, n_voxels)
        description : str
            Text for the header.

        Returns
        -------
        Nifti1Image
            float32, 3-D or 4-D, 0 outside the mask.

        Raises
        ------
        InputError
            When the voxels are not those of a volume.
        """
        if not isinstance(self.geometry, Volume):
            raise InputError(
                f"{self.folder}: expected voxels of a volume for a NIfTI image, found none: use "
                "the array, or to_surface for a subject on a surface"
            )
        return self.geometry.to_nifti(values, description=description)

    def to_surface(self, values: np.ndarray, space: str | None = None) -> dict[str, np.ndarray]:
        """Resample values to a cortical surface.

        Parameters
        ----------
        values : array of shape (..., n_voxels)
        space : str, optional
            One of `other_spaces`: fsaverage5, fsaverage6, fsaverage, fsnative or fsLR; default
            `surface`.

        Returns
        -------
        dict of float32 arrays of shape (..., n_vertices)
            For ``left`` and ``right``; NaN at vertices without voxels.

        Raises
        ------
        InputError
            When the subject has no transform to that surface.
        """
        if self.surface_resampling is None:
            raise InputError(
                f"{self.folder}: this subject was prepared without transforms to fsaverage, so "
                "that nothing can be shown on a cortical surface: use the arrays or volumes"
            )
        return self.surface_resampling.project(values, space or self.surface)

    def to_mni(self, values: np.ndarray) -> nib.Nifti1Image:
        """Resample values (n_voxels,) or (n_maps, n_voxels) to MNI152, with 0 outside the mask.

        Raises
        ------
        InputError
            When the subject has no transform to MNI.
        """
        if self.mni_resampling is None:
            raise InputError(
                f"{self.folder}: this subject was prepared without a transform to MNI: use "
                "another space"
            )
        return self.mni_resampling.project(values)

    def copy_to(self, folder: Path) -> None:
        """Copy the files of the voxel space to another folder, such as that of a bundle.

        Raises
        ------
        MissingError, InputError
            When a file is absent, or not what was written, or cannot be read: a bundle would seal
            it.
        """
        _ = self.geometry, self.surface_resampling, self.mni_resampling
        for name in VOXEL_SPACE_FILES:
            path = self._file(name)
            if path is not None:
                shutil.copyfile(path, folder / name)
