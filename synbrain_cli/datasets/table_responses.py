"""Responses of an experiment: their files, and the positions and properties of the voxels."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd

from synbrain_cli.datasets.table_experiment import OWN_COLUMNS, Experiment
from synbrain_cli.errors import InputError
from synbrain_cli.io.betas import (
    n_trials_of,
    n_vertices_of,
    read_array,
    read_at_vertices,
    read_map,
    read_masked,
)
from synbrain_cli.io.surface import HEMISPHERES, N_VERTICES, fsaverage
from synbrain_cli.io.surface_resampling import SurfaceResampling
from synbrain_cli.io.tables import has_no_value, numbers, read_table, row_in
from synbrain_cli.io.values import as_float32, check_finite_as
from synbrain_cli.io.volume import check_same_grid, load_image, read_3d
from synbrain_cli.io.voxel_space import SURFACE_RESAMPLING, Geometry, Vertices, Volume
from synbrain_cli.labels import column_name, roi_label

MAX_NCSNR = 1e6  # far beyond any recording: a value in another unit, or damaged


@dataclass(frozen=True)
class ResponseFiles:
    """The responses of an experiment, in one file or in several with consecutive trials.

    Attributes
    ----------
    experiment : Experiment
    """

    experiment: Experiment

    def rows_of_files(self, n_trials: int) -> list[int]:
        """Return the number of trials of each file of responses (of the left hemisphere).

        Parameters
        ----------
        n_trials : int
            Number of rows of the table.

        Raises
        ------
        InputError
            When the table has another number of rows, or the hemispheres differ.
        """
        experiment = self.experiment
        files = experiment.responses or experiment.left
        inside = self.voxel_space.inside if isinstance(self.voxel_space, Volume) else None
        counts = [n_trials_of(path, inside) for path in files]
        for left, right, n in zip(experiment.left, experiment.right, counts, strict=False):
            if n_trials_of(right, None) != n:
                raise InputError(
                    f"{right}: expected {n} trials, as in {left}, found "
                    f"{n_trials_of(right, None)}: pass both hemispheres of the same trials"
                )
        if sum(counts) != n_trials:
            pairs = list(zip(files, counts, strict=True))
            each = ", ".join(f"{path.name} {k}" for path, k in pairs[:20])
            swapped = files[0].suffix == ".npy" and read_array(files[0]).shape[1:] == (n_trials,)
            raise InputError(
                f"{experiment.table_names} has {n_trials} rows, but the responses have "
                f"{sum(counts)} trials ({each}{', …' if len(pairs) > 20 else ''}): expected one "
                "row a trial, in the same order"
                + (": trials are the first axis: save the transpose" if swapped else "")
            )
        return counts

    @cached_property
    def voxel_space(self) -> Geometry | None:
        """Voxels of the mask or vertices of the surface; None where positions are unknown.

        Raises
        ------
        MissingError, InputError
            When responses and mask do not fit together.
        """
        experiment = self.experiment
        if experiment.on_surface:
            return self._vertices()
        for path in experiment.responses:
            shape = read_array(path).shape if path.suffix == ".npy" else ()
            if len(shape) == 4 and shape[1:3] == (1, 1):  # GLMsingle's output without a grid
                raise InputError(
                    f"{path}: expected (n_trials, n_voxels), found {shape}: save betas[:, 0, 0].T"
                )
        if not experiment.mask:
            for path in experiment.responses:
                if path.suffix != ".npy" or read_array(path).ndim > 2:
                    raise InputError(
                        f"{path}: a volume needs a mask: pass --mask with a volume on the same "
                        "grid that is above 0 in the voxels to model (an ROI, or fMRIPrep's "
                        "*_desc-brain_mask.nii.gz)"
                    )
            return None
        values, image = read_3d(experiment.mask[0])
        if not (values > 0).any():
            raise InputError(f"{experiment.mask[0]}: expected voxels above 0, found none")
        for path in experiment.responses:
            if path.name.endswith((".nii", ".nii.gz")):
                check_same_grid(path, load_image(path), experiment.mask[0], image)
        return Volume.of(values > 0, image)

    def _vertices(self) -> Vertices:
        experiment = self.experiment
        sizes = {}
        for h, (path, *_) in zip(HEMISPHERES, (experiment.left, experiment.right), strict=True):
            sizes[h] = n_vertices_of(path)
            expected = N_VERTICES.get(experiment.space, sizes[h])
            if sizes[h] != expected:
                raise InputError(
                    f"{path}: expected the {expected:,} vertices of {experiment.space} in each "
                    f"trial, found {sizes[h]:,}: pass the --space it is in; of .npy, trials are "
                    "the first axis"
                )
        chosen = {h: np.arange(sizes[h]) for h in HEMISPHERES}
        for h, path in zip(HEMISPHERES, experiment.mask, strict=False):
            values = read_map(path)
            values = values[:, 0] if values.ndim == 2 else values
            if values.shape != (sizes[h],):
                raise InputError(
                    f"{path}: expected a mask of {sizes[h]:,} vertices, found {values.shape}"
                )
            chosen[h] = np.flatnonzero(values > 0)
        if not (len(chosen["left"]) or len(chosen["right"])):
            raise InputError(f"{experiment.mask[0]}: expected vertices above 0, found none")
        return Vertices(chosen["left"], chosen["right"], sizes, experiment.space)

    def source(self, index: int) -> Path:
        """Return the path of a file of responses (of the left hemisphere), for messages."""
        return (self.experiment.responses or self.experiment.left)[index]

    def read(self, index: int) -> np.ndarray:
        """Read the responses of one file, or of the files of both hemispheres.

        Parameters
        ----------
        index : int
            Number of the file, from 0.

        Returns
        -------
        float32 array of shape (n_trials, n_voxels)
            After the division by ``divide_by``.

        Raises
        ------
        MissingError, InputError
            When a file is absent or damaged, or has another number of voxels.
        """
        experiment = self.experiment
        values = self._stored(index)
        if experiment.divide_by == 1:
            return values
        with np.errstate(all="ignore"):
            divided = values / np.float32(experiment.divide_by)
        check_finite_as(values, divided, self.source(index))
        return divided

    def _stored(self, index: int) -> np.ndarray:
        experiment = self.experiment
        voxel_space = self.voxel_space
        if isinstance(voxel_space, Vertices):
            parts = [
                read_at_vertices(files[index], getattr(voxel_space, h), voxel_space.n_vertices[h])
                for h, files in zip(HEMISPHERES, (experiment.left, experiment.right), strict=True)
            ]
            return as_float32(np.concatenate(parts, axis=1), self.source(index))
        path = experiment.responses[index]
        if path.suffix == ".npy":
            values = read_array(path)
            if values.ndim == 4 and isinstance(voxel_space, Volume):
                return as_float32(values[voxel_space.inside].T, path)
            if voxel_space is not None and values.shape[1] != voxel_space.n_voxels:
                raise InputError(
                    f"{path}: expected the {voxel_space.n_voxels:,} voxels of {experiment.mask[0]} "
                    f"on the second axis, found {values.shape}: is it the mask of another subject?"
                )
            return np.array(as_float32(values, path))  # a copy, and no memory map
        return as_float32(read_masked(path, voxel_space.inside), path)

    @property
    def n_voxels(self) -> int:
        """Number of voxels, vertices or neurons."""
        if self.voxel_space is None:
            return read_array(self.experiment.responses[0]).shape[1]
        return self.voxel_space.n_voxels

    def voxel_table(self) -> pd.DataFrame:
        """Return the table of voxels: columns of the user's table, and one per ROI volume.

        Raises
        ------
        MissingError, InputError
            When the table has another number of rows, or an ROI does not fit the mask.
        """
        experiment = self.experiment
        table = pd.DataFrame(index=range(self.n_voxels))
        if experiment.voxels is not None:
            given = read_table(experiment.voxels)
            if len(given) != self.n_voxels:
                raise InputError(
                    f"{experiment.voxels}: expected one row for each of the {self.n_voxels:,} "
                    f"voxels, found {len(given):,}"
                )
            for column in given.columns.drop(OWN_COLUMNS, errors="ignore"):
                table[column_name(column)] = self._numbers_or_labels(given[column])
        for name, path in experiment.rois:
            if not isinstance(self.voxel_space, Volume):
                raise InputError(
                    f"--roi {name}: only with a volume --mask: add the labels to the "
                    "table of --voxels instead"
                )
            if name in table:
                raise InputError(
                    f"--roi {name}: the name is taken, because {experiment.voxels} has a column of "
                    "this name: choose another"
                )
            table[name] = roi_column(name, path, self.voxel_space, experiment.mask[0])
        return table

    def _numbers_or_labels(self, given: pd.Series) -> pd.Series:
        """Convert a column to numbers if all its values are numbers, else keep it as text.

        A column of labels therefore stays text where one label looks like a number ("4" beside
        "V4"). The column ncsnr must hold numbers from 0 to `MAX_NCSNR`.
        """
        if given.name == "ncsnr":
            row = row_in(self.experiment.voxels)
            return pd.Series(numbers(given, row, 0, highest=MAX_NCSNR), given.index, name="ncsnr")
        text = given.where(~has_no_value(given), "")
        found = pd.to_numeric(text, errors="coerce")
        given_as_text = (found.isna() & (text != "")).any() or (text == "").all()
        if not given_as_text:
            return found
        for label in text[text != ""].unique():
            roi_label(label)
        return text

    def resamplings(self) -> dict[str, SurfaceResampling]:
        """Return the resampling to surfaces that figures show, by file name.

        It exists for surfaces in fsaverage and fsLR, and for volumes in MNI space.
        """
        voxel_space = self.voxel_space
        if isinstance(voxel_space, Vertices) and voxel_space.space != "fsnative":
            vertices = {h: getattr(voxel_space, h) for h in HEMISPHERES}
            return {
                SURFACE_RESAMPLING: SurfaceResampling.from_vertices(
                    vertices, voxel_space.n_vertices
                )
            }
        if isinstance(voxel_space, Volume) and self.experiment.space.upper().startswith("MNI"):
            return {SURFACE_RESAMPLING: mni_to_fsaverage(voxel_space)}
        return {}


def roi_column(name: str, path: Path, volume: Volume, mask: Path) -> np.ndarray:
    """Return the label of an ROI at the voxels of a mask: its name inside, empty outside.

    Raises
    ------
    MissingError, InputError
        When the volume of the ROI is absent, or not on the grid of the mask.
    """
    values, image = read_3d(path)
    check_same_grid(path, image, mask, volume.mask)
    return np.where(values[volume.inside] > 0, name, "")


def mni_to_fsaverage(volume: Volume) -> SurfaceResampling:
    """Return the resampling of a volume in MNI space to fsaverage5.

    Values are sampled at three depths between the white and the pial surface of fsaverage, as by
    ``vol_to_surf`` of nilearn. The surface of one average brain is placed in the volume of another,
    which suffices for figures but not for measurements.

    Raises
    ------
    NothingReached
        When no vertex lies in the mask.
    """
    inverse = np.linalg.inv(volume.mask.affine)
    white, pial = fsaverage("white"), fsaverage("pial")
    layers = {}
    for h in HEMISPHERES:
        depths = [
            white[h].coordinates + share * (pial[h].coordinates - white[h].coordinates)
            for share in (0.25, 0.5, 0.75)
        ]
        layers[h] = np.stack([nib.affines.apply_affine(inverse, d) + 1 for d in depths])
    return SurfaceResampling.from_layers(volume.inside, layers, None)
