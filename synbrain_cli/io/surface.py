"""The cortical surface: fsaverage geometry, per-vertex values, and GIFTI files.

Everything on the surface is a dict with the keys ``left`` and ``right``; nothing is ever
concatenated over hemispheres without them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
from numpy.typing import ArrayLike, NDArray

from synbrain_cli.errors import InputError, MissingError
from synbrain_cli.io.files import atomic
from synbrain_cli.io.volume import read_volume

HEMISPHERES = ("left", "right")
# Vertices per hemisphere: 10 · 4⁵ + 2, and so on. Those of one are the first of the next.
N_FSAVERAGE = {"fsaverage5": 10242, "fsaverage6": 40962, "fsaverage": 163842}
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


def fsaverage_map(name: str = "sulcal", density: str = "fsaverage5") -> dict[str, NDArray[Any]]:
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


def read_mgh_vertices(path: Path | str) -> NDArray[Any]:
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
    values, _ = read_volume(path)
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


def _with_suffix(path: Path | str, suffix: str) -> Path:
    path = Path(path)
    if path.suffix != suffix:
        raise InputError(f"{path}: expected a name that ends in {suffix}")
    return path
