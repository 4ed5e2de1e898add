"""Orders of a model's voxels.

BrainVAE's convolutions run along the voxels, so what is next to a voxel in the order should be
next to it in cortex. The file order of a volume is the C order of a 3-D mask, in which
neighbours along two of the three axes are far apart.

file
    As in the prepared subject. Published weights need it.
curve
    Along a Hilbert curve through the voxels' positions in 3-D; with hemispheres, left, then right.
region
    Region by region, voxels of no region last; along the curve within each.
surface
    Along a Hilbert curve on the flattened or spherical cortical sheet, left, then right. The two
    banks of a sulcus are close in 3-D and not on the sheet.

All but ``file`` are ours.

References
----------
Hilbert (1891), Ueber die stetige Abbildung einer Linie auf ein Flächenstück, Math. Ann. 38:459.
Skilling (2004), Programming the Hilbert curve, AIP Conf. Proc. 707:381.
"""

from __future__ import annotations

import numpy as np
from hilbertcurve.hilbertcurve import HilbertCurve
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import KDTree

from synbrain_cli.errors import InputError

ORDERS = ("file", "curve", "region", "surface")
_SIDES = ("left", "right")
_MAX_BITS = 20  # per axis: distances along a curve in three dimensions fit in int64


class UnknownPlacesError(InputError):
    """An order needs positions or regions that are not known: another order may be possible."""


def hilbert_order(points: ArrayLike, n_bits: int = 8) -> NDArray[np.int64]:
    """Visit points along a Hilbert curve (Hilbert 1891), by Skilling's (2004) transform.

    The points' bounding cube is cut into ``2 ** n_bits`` cells along each axis. One scale serves
    all axes, so that neighbourhoods are not stretched. Points of one cell keep their order.

    Parameters
    ----------
    points : array of shape (n_points, 2) or (n_points, 3)
        Positions in any unit, finite.
    n_bits : int
        1 to 20. The default cuts a brain of 180 mm into cells of 0.7 mm.

    Returns
    -------
    int64 array of shape (n_points,)
        Indices of the points in the order of the visit.

    Raises
    ------
    InputError
        When points have another shape or are not finite numbers, or n_bits is out of range.

    Examples
    --------
    >>> hilbert_order([[0, 0], [1, 1], [1, 0], [0, 1]]).tolist()
    [0, 3, 1, 2]
    """
    positions = _positions(points, "points")
    if not 1 <= n_bits <= _MAX_BITS:
        raise InputError(
            f"n_bits: expected 1 to {_MAX_BITS}, found {n_bits}: 8 is enough for voxels"
        )
    if len(positions) < 2:
        return np.arange(len(positions))
    positions = positions / 2  # the span of finite numbers may not be one
    positions = positions - positions.min(0)
    n_cells = 2**n_bits
    unit = positions / (positions.max() or 1.0)
    # Rounding in millimetres must not move a voxel on a border to the cell before.
    cells = np.minimum(np.floor(unit * n_cells + 1e-9), n_cells - 1).astype(np.int64)
    # A list: the package goes through the points one by one, twice as fast without numpy scalars.
    distances = HilbertCurve(n_bits, positions.shape[1]).distances_from_points(cells.tolist())
    return np.argsort(np.array(distances, np.int64), kind="stable")


def voxel_order(
    kind: str,
    n_voxels: int,
    *,
    points: ArrayLike | None = None,
    regions: ArrayLike | None = None,
    sheet: ArrayLike | None = None,
    hemisphere: ArrayLike | None = None,
) -> NDArray[np.int64]:
    """Order the voxels of a model.

    Parameters
    ----------
    kind : {"file", "curve", "region", "surface"}
        See the module. Arrays that a kind has no use for are not looked at.
    n_voxels : int
        Number of voxels.
    points : array of shape (n_voxels, 3), optional
        Positions in mm, finite. ``curve`` needs them; ``region`` keeps the file order within a
        region without them; ``surface`` needs them where voxels reach no vertex.
    regions : int array of shape (n_voxels,), optional
        Needed by ``region``: 0 for no region, 1 for the first region, 2 for the next.
    sheet : array of shape (n_voxels, 2) or (n_voxels, 3), optional
        Needed by ``surface``: coordinates on each hemisphere's sheet, NaN where a voxel reaches
        no vertex. Such a voxel gets those of the nearest voxel (in ``points``) that does, in the
        same hemisphere where its own is known. A hemisphere no voxel of which reaches a vertex
        is ordered along the curve in 3-D.
    hemisphere : array of str of shape (n_voxels,), optional
        ``left`` or ``right``, or empty where it is not known. Needed by ``surface``, for all
        voxels that reach a vertex. In ``curve`` and ``region``, voxels of unknown hemisphere go
        with the nearest voxel of a known one.

    Returns
    -------
    int64 array of shape (n_voxels,)
        Permutation: ``values[..., order]`` has the voxels in the new order.

    Raises
    ------
    UnknownPlacesError
        When an array that the order needs is missing.
    InputError
        When the kind is unknown, or an array is not as above.

    Examples
    --------
    >>> voxel_order("region", 4, regions=[0, 2, 1, 2]).tolist()
    [2, 1, 3, 0]
    """
    if kind not in ORDERS:
        raise InputError(
            f"voxel order: expected one of {', '.join(ORDERS)}, found {kind!r}: choose one of them"
        )
    if kind == "file":
        return np.arange(n_voxels)
    if kind == "surface":
        return _surface_order(n_voxels, points, sheet, hemisphere)
    if points is None and kind == "curve":
        raise _missing(kind, "points (n_voxels, 3) in mm", "'file'")
    if points is None:
        along = np.arange(n_voxels)
    else:
        along = _curve_order(kind, n_voxels, points, hemisphere)
    if kind == "curve":
        return along
    if regions is None:
        raise _missing(kind, "regions (n_voxels,)", "'curve' or 'file'")
    regions = np.asarray(regions)
    if regions.shape != (n_voxels,) or regions.dtype.kind not in "iu" or (regions < 0).any():
        raise InputError(
            f"voxel order 'region': expected regions as integers from 0, shape ({n_voxels},), "
            f"found {regions.dtype} of shape {regions.shape}"
            + (f" from {regions.min()}" if regions.size and regions.dtype.kind in "iuf" else "")
            + ": give one for each voxel, 0 for none"
        )
    rank = np.where(regions == 0, np.iinfo(np.int64).max, regions)
    return along[np.argsort(rank[along], kind="stable")]


def neighbour_distance(order: ArrayLike, points: ArrayLike) -> float:
    """Mean distance between consecutive voxels: a number to compare orders by.

    Parameters
    ----------
    order : int array of shape (n_voxels,)
        From `voxel_order`.
    points : array of shape (n_voxels, 3), or (n_voxels, 2) on a sheet
        Positions in mm, finite.

    Returns
    -------
    float
        In mm; NaN for fewer than two voxels.

    Raises
    ------
    InputError
        When order and points differ in length, or points are not finite numbers.

    Examples
    --------
    >>> neighbour_distance([0, 2, 1], [[0, 0, 0], [3, 4, 0], [0, 4, 0]])
    3.5
    """
    order, points = np.asarray(order), _positions(points, "points")
    if order.shape != (len(points),):
        raise InputError(
            f"order: expected shape ({len(points)},), as many as points, found {order.shape}: "
            "give the order of these voxels"
        )
    if len(points) < 2:
        return float("nan")
    return float(np.linalg.norm(np.diff(points[order], axis=0), axis=1).mean())


def _curve_order(
    kind: str, n_voxels: int, points: ArrayLike, hemisphere: ArrayLike | None
) -> NDArray[np.int64]:
    """Along the curve in 3-D; with hemispheres, left, then right."""
    points = _positions(points, f"voxel order {kind!r}: points", (n_voxels,), (3,))
    if hemisphere is None:
        return hilbert_order(points)
    side = _side_of(kind, hemisphere, n_voxels)
    known = side != ""
    if not known.any():
        return hilbert_order(points)
    side[~known] = side[known][_nearest(points[known], points[~known])]
    return _side_by_side(side, {name: points for name in _SIDES})


def _surface_order(
    n_voxels: int,
    points: ArrayLike | None,
    sheet: ArrayLike | None,
    hemisphere: ArrayLike | None,
) -> NDArray[np.int64]:
    """Along the curve on the sheet, left, then right."""
    if sheet is None:
        raise _missing("surface", "sheet (n_voxels, 2 or 3)", "'curve' or 'file'")
    if hemisphere is None:
        raise _missing("surface", "hemisphere (n_voxels,)", "'curve' or 'file'")
    name = "voxel order 'surface': sheet"
    sheet = _positions(sheet, name, (n_voxels,), nan=True).copy()
    side = _side_of("surface", hemisphere, n_voxels)
    reached = ~np.isnan(sheet).any(1)
    if (side[reached] == "").any():
        raise InputError(
            "voxel order 'surface': expected the hemisphere of every voxel that reaches a vertex, "
            f"found {(side[reached] == '').sum()} of {reached.sum()} without: give it, or choose "
            "'curve' or 'file'"
        )
    if reached.all():
        return _side_by_side(side, {name: sheet for name in _SIDES})
    if not reached.any():
        raise InputError(
            f"voxel order 'surface': expected voxels that reach a vertex, found none of {n_voxels}:"
            " choose 'curve' or 'file'"
        )
    if points is None:
        raise InputError(
            "voxel order 'surface': expected points (n_voxels, 3) in mm to place the "
            f"{(~reached).sum()} voxels that reach no vertex, found none: give them, or choose "
            "'file'"
        )
    points = _positions(points, "voxel order 'surface': points", (n_voxels,), (3,))
    coordinates = {name: sheet for name in _SIDES}
    for name in (*_SIDES, ""):
        stray = ~reached & (side == name)
        source = np.flatnonzero(reached & ((side == name) | (name == "")))
        if len(source):
            nearest = source[_nearest(points[source], points[stray])]
            sheet[stray], side[stray] = sheet[nearest], side[nearest]
        else:  # no voxel of this hemisphere is on the sheet
            coordinates[name] = points
    return _side_by_side(side, coordinates)


def _side_by_side(side: np.ndarray, coordinates: dict[str, np.ndarray]) -> NDArray[np.int64]:
    """Left, then right, each along its own curve."""
    members = [(name, np.flatnonzero(side == name)) for name in _SIDES]
    return np.concatenate([voxels[hilbert_order(coordinates[n][voxels])] for n, voxels in members])


def _nearest(known: np.ndarray, wanted: np.ndarray) -> NDArray[np.int64]:
    """Index of the nearest known point, for each wanted one."""
    return KDTree(known).query(wanted)[1].astype(np.int64)


def _side_of(kind: str, hemisphere: ArrayLike, n_voxels: int) -> NDArray[np.str_]:
    """Check hemispheres and copy them."""
    side = np.array(hemisphere).astype(str)
    if side.shape != (n_voxels,):
        raise InputError(
            f"voxel order {kind!r}: expected hemisphere of shape ({n_voxels},), found "
            f"{side.shape}: give one for each voxel"
        )
    others = sorted(set(side.tolist()) - {*_SIDES, ""})
    if others:
        raise InputError(
            f"voxel order {kind!r}: expected hemispheres 'left' and 'right', found "
            f"{', '.join(map(repr, others[:3]))}: leave unknown ones empty"
        )
    return side


def _positions(
    points: ArrayLike,
    name: str,
    length: tuple[int, ...] = (),
    n_dims: tuple[int, ...] = (2, 3),
    nan: bool = False,
) -> NDArray[np.float64]:
    """Check positions; float64."""
    points = np.asarray(points)
    expected = f"({length[0] if length else 'n_points'}, {' or '.join(map(str, n_dims))})"
    if (
        points.ndim != 2
        or points.shape[1] not in n_dims
        or points.dtype.kind not in "iuf"
        or points.shape[:1] != (length or points.shape[:1])
    ):
        raise InputError(
            f"{name}: expected numbers {expected}, found {points.dtype} of shape {points.shape}: "
            "give one row for each voxel"
        )
    points = points.astype(np.float64)
    bad = ~np.isfinite(points) & ~(nan & np.isnan(points))
    if bad.any():
        raise InputError(
            f"{name}: expected {'finite numbers or NaN' if nan else 'finite numbers'}, found "
            f"{points[bad][0]} in {bad.any(1).sum()} of {len(points)} rows: leave those voxels "
            "out, or choose 'file'"
        )
    return points


def _missing(kind: str, what: str, instead: str) -> UnknownPlacesError:
    return UnknownPlacesError(
        f"voxel order {kind!r}: expected {what}, found none: give them, or choose {instead}"
    )
