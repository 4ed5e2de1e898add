"""Maps with one value per voxel → NIfTI and GIFTI files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from synbrain_cli.brain import Brain
from synbrain_cli.io.surface import write_gifti
from synbrain_cli.io.volume import save_image
from synbrain_cli.io.voxel_space import Vertices, Volume

SPACE = "fsaverage5"

Surfaces = Mapping[str, np.ndarray]  # left and right


def write_value_maps(
    prefix: Path, brain: Brain, values: Mapping[str, np.ndarray], units: Mapping[str, str]
) -> None:
    """Write maps in the subject's own space, and on fsaverage5 where that can be reached.

    Parameters
    ----------
    prefix : path
        Of the files' names.
    brain : Brain
    values : dict of float arrays of shape (n_voxels,)
        By the name of the statistic.
    units : dict of str
        Of those that have one.
    """
    where = brain.voxel_space
    for name, own in values.items():
        surfaces: dict[str, Surfaces] = {}
        if isinstance(where.geometry, Volume):
            save_image(brain.to_nifti(own), Path(f"{prefix}_stat-{name}_statmap.nii.gz"))
        elif isinstance(where.geometry, Vertices):
            surfaces[where.geometry.space] = where.geometry.to_full(own)
        if SPACE in where.other_spaces and SPACE not in surfaces:
            surfaces[SPACE] = brain.to_surface(own, SPACE)
        for space, hemispheres in surfaces.items():
            write_surfaces(prefix, name, space, hemispheres, brain, units.get(name, "1"))


def write_surfaces(
    prefix: Path, name: str, space: str, hemispheres: Surfaces, brain: Brain, unit: str
) -> None:
    """Write a map of a surface: a GIFTI file for each hemisphere.

    Parameters
    ----------
    prefix, name, space : str
        Of the file's name.
    hemispheres : dict of float arrays of shape (n_vertices,)
    brain : Brain
    unit : str
    """
    meta = {"Unit": unit, "Simulated": str(brain.simulated)}
    for hemisphere, data in hemispheres.items():
        file = f"{prefix}_hemi-{hemisphere[0].upper()}_space-{space}_stat-{name}_statmap.func.gii"
        write_gifti(Path(file), data, hemisphere, meta)
