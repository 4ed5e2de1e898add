"""Voxels of one subject of NSD: ROIs, mask, properties of voxels, and transforms."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from synbrain_cli.datasets.nsd_choice import Choice
from synbrain_cli.datasets.nsd_files import NSD, SHORT, TRANSFORM_NAMES
from synbrain_cli.errors import InputError, MissingError
from synbrain_cli.io.prepared_tables import roi_name
from synbrain_cli.io.reading import reading
from synbrain_cli.io.resampling_weights import NothingReached
from synbrain_cli.io.surface import HEMISPHERES, read_mgh_vertices
from synbrain_cli.io.surface_resampling import SurfaceResampling
from synbrain_cli.io.values import signal_to_noise, whole_codes
from synbrain_cli.io.volume import check_same_grid, load_image, read_3d, read_volume
from synbrain_cli.io.volume_resampling import VolumeResampling
from synbrain_cli.io.voxel_space import (
    MNI_RESAMPLING,
    SURFACE_RESAMPLING,
    Geometry,
    Vertices,
    Volume,
)
from synbrain_cli.paths import is_given


@dataclass(frozen=True)
class Labels:
    """One ROI collection on a subject's grid.

    Attributes
    ----------
    values : array of shape (x, y, z), or (n_left + n_right,) on a surface
        Code of each voxel: above 0 within the collection.
    names : dict
        Code → label.
    """

    values: np.ndarray
    names: dict[int, str]


@dataclass(frozen=True)
class SubjectVoxels:
    """Voxels of one subject in the space, and of the ROIs, that a choice names.

    Attributes
    ----------
    nsd : NSD
    subject : int
        1-based, as in NSD.
    choice : Choice
    """

    nsd: NSD
    subject: int
    choice: Choice

    def collections(self) -> list[str]:
        """Return the names of the ROI collections in this copy, which cover both hemispheres."""
        folder = self.nsd.roi_folder(self.subject, self.choice)
        if self.choice.volume:
            names = {path.name.removesuffix(".nii.gz") for path in folder.glob("*.nii.gz")}
            return sorted(name for name in names if not name.startswith(("lh.", "rh.")))
        left, right = (
            {path.name[3:].removesuffix(".mgz") for path in folder.glob(f"{short}.*.mgz")}
            for short in SHORT.values()
        )
        # The folder also holds maps (prfangle, R2, …); collections have a label table.
        return sorted(
            name for name in left & right if name == "nsdgeneral" or self._label_names(name)
        )

    def labels(self, collection: str) -> Labels:
        """Read one ROI collection on the grid of the subject.

        On fsaverage, a vertex has the label of the nearest vertex of the native surface.

        Raises
        ------
        MissingError, InputError
            When the file is absent, damaged, or on another grid.
        """
        names = self._label_names(collection)
        folder = self.nsd.roi_folder(self.subject, self.choice)
        if self.choice.volume:
            path = folder / f"{collection}.nii.gz"
            values, image = read_3d(path)
            check_same_grid(path, image, *self.grid())
            return Labels(whole_codes(values, path), names)
        parts = []
        for hemisphere, short in SHORT.items():
            path = folder / f"{short}.{collection}.mgz"
            values = whole_codes(read_mgh_vertices(path)[:, 0], path)
            if self.choice.space == "fsaverage":
                values = self._at_fsaverage(hemisphere, values, path)
            n = self._n_vertices(hemisphere)
            if len(values) != n:
                raise InputError(
                    f"{path}: expected one code for each of {n:,} vertices, as in the other files "
                    f"of subject {self.subject}, found {len(values):,}: copy it again"
                )
            parts.append(values)
        return Labels(np.concatenate(parts), names)

    def grid(self) -> tuple[Path, Any]:
        """Return path and image of the volume with the grid: nsdgeneral, or the first ROI."""
        folder = self.nsd.roi_folder(self.subject, self.choice)
        paths = [folder / "nsdgeneral.nii.gz", *sorted(folder.glob("[!lr]*.nii.gz"))]
        path = next(filter(is_given, paths), paths[0])
        return path, load_image(path)

    def _to_fsaverage(self, hemisphere: str) -> np.ndarray:
        """Return the 1-based vertex of the native surface nearest to each vertex of fsaverage."""
        path = (
            self.nsd.transforms_folder(self.subject) / f"{SHORT[hemisphere]}.white-to-fsaverage.mgz"
        )
        return whole_codes(read_mgh_vertices(path)[:, 0], path)

    def _at_fsaverage(self, hemisphere: str, values: np.ndarray, path: Path) -> np.ndarray:
        """Return values of the native surface at the vertices of fsaverage."""
        nearest = self._to_fsaverage(hemisphere)
        if nearest.min() < 1 or nearest.max() > len(values):
            raise InputError(
                f"{path}: {len(values):,} vertices, but the transform to fsaverage names the "
                f"vertices {nearest.min()} to {nearest.max()}: copy both files of the subject again"
            )
        return values[nearest - 1]

    def _label_names(self, collection: str) -> dict[int, str]:
        """Read the labels of a collection by code from its colour table (lines "code name")."""
        tables = (
            self.nsd.label_folder(self.subject) / f"{collection}.mgz.ctab",
            self.nsd.root / f"nsddata/freesurfer/fsaverage/label/{collection}.mgz.ctab",
            self.nsd.root / f"nsddata/templates/{collection}.ctab",
        )
        path = next(filter(is_given, tables), None)
        if path is None:
            return {}
        with reading(path, "lines of a code and a label", "copy it again"):
            rows = [line.split() for line in path.read_text("utf-8").splitlines() if line.strip()]
            names = {int(row[0]): row[1] for row in rows if int(row[0]) > 0}
        if not names:
            raise InputError(
                f"{path}: expected lines of a code and a label, found none: copy it again"
            )
        if len(names) < sum(int(row[0]) > 0 for row in rows):
            raise InputError(f"{path}: a code has two labels: copy it again")
        return names

    def mask(self) -> tuple[np.ndarray, Geometry]:
        """Return the voxels that are in any of the chosen ROIs.

        Returns
        -------
        bool array of shape (x, y, z), or (n_left + n_right,) on a surface
        Volume or Vertices
            The same voxels as a geometry.

        Raises
        ------
        MissingError, InputError
            When a collection, label or file does not exist, is on another grid, or has no voxels.
        """
        inside: np.ndarray | None = None
        for roi in self.choice.rois:
            found = self._roi(roi)
            if not found.any():
                raise InputError(
                    f"--roi {roi}: expected voxels of subject {self.subject} in it, found none: "
                    "choose another ROI"
                )
            inside = found if inside is None else inside | found
        if inside is None:
            raise InputError("expected at least one ROI, found none")
        if self.choice.volume:
            return inside, Volume.of(inside, self.grid()[1])
        n_left = self._n_vertices("left")
        space = "fsnative" if self.choice.space == "nativesurface" else _fsaverage_name(n_left)
        return inside, Vertices(
            np.flatnonzero(inside[:n_left]),
            np.flatnonzero(inside[n_left:]),
            {"left": n_left, "right": len(inside) - n_left},
            space,
        )

    def _n_vertices(self, hemisphere: str) -> int:
        """Return the number of vertices of a hemisphere, from the first ROI collection."""
        if self.choice.space == "fsaverage":
            return len(self._to_fsaverage(hemisphere))
        name = f"{SHORT[hemisphere]}.{self.collections()[0]}.mgz"
        return len(read_mgh_vertices(self.nsd.label_folder(self.subject) / name))

    def _roi(self, roi: str) -> np.ndarray:
        """Return the voxels of one ROI of `Choice.rois` as a boolean array on the grid."""
        if self.choice.volume and roi.endswith((".nii", ".nii.gz")):
            values, image = read_3d(Path(roi))
            check_same_grid(roi, image, *self.grid())
            return values > 0
        collections = self.collections()
        if not collections:
            folder = self.nsd.roi_folder(self.subject, self.choice)
            raise MissingError(
                f"{folder / 'nsdgeneral.nii.gz'} does not exist, nor any other ROI file there"
                if self.choice.volume
                else f"{folder}: no ROI file such as lh.nsdgeneral.mgz"
            )
        if roi in collections:
            return self.labels(roi).values > 0  # 0 is unlabelled, −1 outside the volume covered
        wanted, _, label = roi.partition(":")
        searched = [wanted] if label else collections
        label = label or roi
        found: np.ndarray | None = None
        for collection in sorted(set(searched) & set(collections)):
            named = [
                code
                for code, name in self._label_names(collection).items()
                if label in (name, roi_name(name))
            ]
            if named:
                inside = np.isin(self.labels(collection).values, named)
                found = inside if found is None else found | inside
        if found is None:
            listing = []
            for collection in collections:
                names = list(self._label_names(collection).values())
                some = ", ".join(names[:8]) + (", …" if len(names) > 8 else "")
                listing.append(f"{collection} ({some})" if names else collection)
            raise MissingError(
                f"--roi {roi}: no such collection or label in "
                f"{self.nsd.roi_folder(self.subject, self.choice)}; there are {'; '.join(listing)}"
            )
        return found

    def voxel_table(self, inside: np.ndarray) -> pd.DataFrame:
        """Return one row per voxel of the mask: NSD's ncsnr, and the label in each ROI collection.

        Parameters
        ----------
        inside : bool array
            The mask, from `mask`.
        """
        ncsnr = pd.DataFrame({"ncsnr": self._ncsnr(inside)})
        return pd.concat([ncsnr, self.label_table(inside)], axis=1)

    def label_table(self, inside: np.ndarray) -> pd.DataFrame:
        """Return one row per voxel of the mask: its label in each ROI collection, or "".

        Parameters
        ----------
        inside : bool array
            The mask, from `mask`.
        """
        table = pd.DataFrame(index=pd.RangeIndex(int(inside.sum())))
        for collection in self.collections():
            labels = self.labels(collection)
            inner = labels.values[inside]
            if collection == "nsdgeneral" or not (inner > 0).any():
                continue
            table[collection] = [
                labels.names.get(code, f"{collection}-{code}") if code > 0 else ""
                for code in inner.tolist()
            ]
        return table

    def _ncsnr(self, inside: np.ndarray) -> np.ndarray:
        """Read NSD's ncsnr of the masked voxels; NaN where the file is not in this copy."""
        folder = self.nsd.betas_folder(self.subject, self.choice)
        if self.choice.volume:
            path = folder / "ncsnr.nii.gz"
            if not is_given(path):
                return np.full(int(inside.sum()), np.nan)
            values, image = read_3d(path)
            check_same_grid(path, image, *self.grid())
            return signal_to_noise(values[inside], path)
        paths = [folder / f"{short}.ncsnr.mgh" for short in SHORT.values()]
        if not all(map(is_given, paths)):
            return np.full(int(inside.sum()), np.nan)
        parts = [read_mgh_vertices(path)[:, 0] for path in paths]
        for hemisphere, path, part in zip(HEMISPHERES, paths, parts, strict=True):
            n = self._n_vertices(hemisphere)
            if len(part) != n:
                raise InputError(
                    f"{path}: expected one value for each of {n:,} vertices, found {len(part):,}"
                )
        return signal_to_noise(np.concatenate(parts)[inside], folder)

    # --------------------------------------------------------------------------- spaces

    def resamplings(
        self, inside: np.ndarray, voxel_space: Geometry
    ) -> dict[str, SurfaceResampling | VolumeResampling]:
        """Return the resampling to cortical surfaces and to MNI, where this copy has transforms.

        Parameters
        ----------
        inside : bool array
            The mask, from `mask`.
        voxel_space : Volume or Vertices
            The same voxels as a geometry.

        Returns
        -------
        dict
            File name → resampling.

        Raises
        ------
        InputError
            When a transform does not fit the mask.
        """
        folder = self.nsd.transforms_folder(self.subject)
        found: dict[str, SurfaceResampling | VolumeResampling] = {}
        tables = [folder / f"{short}.white-to-fsaverage.mgz" for short in SHORT.values()]
        nearest = (
            {h: self._to_fsaverage(h) for h in HEMISPHERES} if all(map(is_given, tables)) else None
        )
        if isinstance(voxel_space, Vertices):
            vertices = {h: getattr(voxel_space, h) for h in HEMISPHERES}
            own = voxel_space.space == "fsnative"
            if nearest is not None or not own:
                found[SURFACE_RESAMPLING] = SurfaceResampling.from_vertices(
                    vertices, voxel_space.n_vertices, nearest if own else None
                )
            return found
        stem = TRANSFORM_NAMES[self.choice.space]
        layers = {
            hemisphere: [folder / f"{short}.{stem}-to-layerB{depth}.mgz" for depth in (1, 2, 3)]
            for hemisphere, short in SHORT.items()
        }
        if nearest is not None and all(is_given(p) for paths in layers.values() for p in paths):
            depths = {h: np.stack([read_mgh_vertices(p) for p in ps]) for h, ps in layers.items()}
            try:
                found[SURFACE_RESAMPLING] = SurfaceResampling.from_layers(inside, depths, nearest)
            except NothingReached:
                # Only a mask of subcortical voxels, chosen by the user, may miss the surface.
                if self.choice.rois == Choice.rois:
                    raise
        mni = folder / f"{stem}-to-MNI.nii.gz"
        if is_given(mni):
            found[MNI_RESAMPLING] = VolumeResampling.from_mni(inside, read_volume(mni)[0])
        return found


def _fsaverage_name(n_vertices: int) -> str:
    return {10_242: "fsaverage5", 40_962: "fsaverage6"}.get(n_vertices, "fsaverage")
