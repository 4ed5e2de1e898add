"""Checks of the arguments of figures: maps and ROIs of both hemispheres, and stimuli."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from synbrain_cli.errors import InputError, InputTypeError
from synbrain_cli.io.surface import HEMISPHERES, N_VERTICES

DENSITIES = {n: name for name, n in N_VERTICES.items()}  # vertices per hemisphere → fsaverage5, …


def check_hemispheres(maps: Mapping[str, ArrayLike]) -> dict[str, NDArray[np.float64]]:
    """Return the values of both hemispheres as float64, of any shape.

    Raises
    ------
    InputError, InputTypeError
        When a hemisphere is missing, a value is infinite or no number, or all are NaN.
    """
    if not isinstance(maps, Mapping) or set(maps) != set(HEMISPHERES):
        found = sorted(map(str, maps)) if isinstance(maps, Mapping) else type(maps).__name__
        raise InputError(f"maps: expected a dict with left and right, found {found}")
    checked = {}
    for hemisphere in HEMISPHERES:
        values = np.asarray(maps[hemisphere])
        if values.dtype.kind not in "biuf":
            raise InputTypeError(
                f"{hemisphere} map: expected real numbers, found dtype {values.dtype}"
            )
        if np.isinf(values).any():
            raise InputError(
                f"{hemisphere} map: expected finite values or NaN, found infinite ones"
            )
        checked[hemisphere] = values.astype(np.float64)
    if all(np.isnan(values).all() for values in checked.values()):
        raise InputError("maps: expected values on some vertex, found NaN everywhere")
    return checked


def check_maps(maps: Mapping[str, ArrayLike]) -> NDArray[np.float64]:
    """Return the values of both hemispheres of fsaverage or fsLR in one vector, left first.

    Parameters
    ----------
    maps : dict of float arrays of shape (n_vertices,)
        ``left`` and ``right``; NaN where there are no data.

    Returns
    -------
    float64 array of shape (2 · n_vertices,)

    Raises
    ------
    InputError, InputTypeError
        When a map is not of fsaverage5, fsaverage6, fsaverage or fsLR, or has no values.
    """
    checked = check_hemispheres(maps)
    for hemisphere, values in checked.items():
        if values.ndim != 1 or len(values) not in DENSITIES:
            counts = ", ".join(f"{n} ({name})" for n, name in DENSITIES.items())
            raise InputError(
                f"{hemisphere} map: expected one value per vertex of a surface, {counts}; found "
                f"shape {values.shape}: plot one map at a time, on one of these"
            )
    n_left, n_right = (len(checked[hemisphere]) for hemisphere in HEMISPHERES)
    if n_left != n_right:
        raise InputError(
            f"maps: expected as many vertices on the right as on the left, {n_left}; found "
            f"{n_right}"
        )
    return np.concatenate(list(checked.values()))


def check_rois(rois: Mapping[str, Any], n_vertices: int) -> dict[str, dict[str, NDArray[np.bool_]]]:
    """Return ROIs as bool arrays of shape (n_vertices,), by hemisphere and name.

    Parameters
    ----------
    rois : dict
        ``left`` and ``right``, or one of them, each one label per vertex (int or str; 0, negative
        numbers and "" are unlabelled) or a dict from name to a bool array of shape (n_vertices,).
    n_vertices : int
        Of a hemisphere.

    Raises
    ------
    InputError
        When the arrays have other shapes or dtypes.
    """
    if not set(rois) <= set(HEMISPHERES):
        raise InputError(f"rois: expected the keys left and right, found {sorted(map(str, rois))}")
    checked = {}
    for hemisphere, given in rois.items():
        if isinstance(given, Mapping):
            named = {str(name): np.asarray(member) for name, member in given.items()}
        else:
            named = _by_name(np.asarray(given), n_vertices, hemisphere)
        for name, member in named.items():
            if member.shape != (n_vertices,) or member.dtype != bool:
                raise InputError(
                    f"{hemisphere} ROI {name}: expected a bool array of shape ({n_vertices},), "
                    f"found {member.dtype} of shape {member.shape}"
                )
        checked[hemisphere] = named
    return checked


def _by_name(labels: NDArray, n_vertices: int, hemisphere: str) -> dict[str, NDArray[np.bool_]]:
    """Vertices of each label, in the order of the labels."""
    if labels.dtype.kind not in "iuUSO" or labels.shape != (n_vertices,):
        raise InputError(
            f"{hemisphere} rois: expected {n_vertices} labels (int or str) or a dict from "
            f"name to bool array, found {labels.dtype} of shape {labels.shape}"
        )
    if labels.dtype.kind in "iu":
        names = [label for label in np.unique(labels) if label > 0]
    else:
        labels = labels.astype(str)
        names = [label for label in np.unique(labels) if label]
    return {str(name): labels == name for name in names}


def check_stimulus(image: ArrayLike | None) -> NDArray[np.uint8] | None:
    """Return a stimulus as an array of shape (height, width, 3); None where there is none.

    Raises
    ------
    InputError
        When it is no uint8 array of that shape.
    """
    if image is None:
        return None
    image = np.asarray(image)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise InputError(
            f"stimulus: expected uint8 (height, width, 3), found {image.dtype} of shape "
            f"{image.shape}"
        )
    return image
