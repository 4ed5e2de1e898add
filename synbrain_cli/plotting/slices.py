"""Slices of a volume, for subjects without transforms to a cortical surface."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from synbrain_cli.errors import InputError, InputTypeError
from synbrain_cli.plotting.figure import (
    SIDE,
    Frame,
    colour_limits,
    colours,
    draw_colour_bar,
    frame,
)

if TYPE_CHECKING:
    import nibabel as nib
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Name → axis across the slices, axis to the right, axis up; of RAS coordinates
_DIRECTIONS = {"axial": (2, 0, 1), "coronal": (1, 0, 2), "sagittal": (0, 1, 2)}
_ENDS = ("LR", "PA", "IS")
_MOST = 6  # slices in a row
_WIDTH = 11.0  # inches
_GAP = 0.08  # inches between slices
_NAME = 0.3  # inches over a row
_LEGEND = 0.35  # inches, of ROIs
_BORDER = 12.0  # mm around the voxels
_WHITE = 1.6  # times the 99.5th percentile of a background's values: dim, beside colours
# Okabe & Ito's colours, and black
_OUTLINES = ("#000000", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#D55E00", "#0072B2", "#F0E442")


class _Grid(NamedTuple):
    """A volume whose axes run to the right, anterior and up."""

    data: NDArray
    origin: NDArray[np.float64]  # middle of the first voxel, mm
    size: NDArray[np.float64]  # of a voxel, mm

    @property
    def bounds(self) -> NDArray[np.float64]:
        """Outer faces of the first and last voxels, mm: shape (2, 3)."""
        return self.origin + self.size * np.stack([[-0.5] * 3, np.array(self.data.shape) - 0.5])

    def cut(self, direction: str, where: float) -> NDArray | None:
        """The slice through a position, mm, rows from the bottom up; None off the grid."""
        axis = _DIRECTIONS[direction][0]
        index = round((where - self.origin[axis]) / self.size[axis])
        if not 0 <= index < self.data.shape[axis]:
            return None
        return np.take(self.data, index, axis=axis).T


def plot_slices(
    image: nib.Nifti1Image,
    *,
    title: str,
    unit: str,
    mask: ArrayLike | nib.Nifti1Image | None = None,
    threshold: float | None = None,
    vmax: float | None = None,
    vmin: float | None = None,
    cmap: str | None = None,
    symmetric: bool = True,
    background: nib.Nifti1Image | None = None,
    rois: Mapping[str, ArrayLike | nib.Nifti1Image] | None = None,
    stimulus: ArrayLike | None = None,
    note: str | None = None,
) -> Figure:
    """Draw a map of voxels on axial, coronal and sagittal slices.

    Left is on the left (the neurological convention), and all slices have one scale. They are, up
    to six a direction, spread evenly over those that hold voxels of the mask, and pass through the
    middle of voxels. Nothing is interpolated; of an oblique grid, the nearest voxel is drawn.
    Coordinates are those of the image's affine.

    Parameters
    ----------
    image : Nifti1Image
        3-D; NaN where there are no data.
    title : str
        Any length: wrapped.
    unit : str
        Of the values, under the colour bar.
    mask : bool array of shape (x, y, z) or Nifti1Image, optional
        The voxels in use, as a model keeps them in ``mask.nii.gz``: outside, nothing is drawn. By
        default those that are neither 0 nor NaN.
    threshold, vmax, vmin, cmap, symmetric
        As in `synbrain_cli.plotting.flatmap.plot_flatmap`: a map has the same colours in both.
    background : Nifti1Image, optional
        Anatomy in the same coordinates, any grid. Without it the mask is grey underneath, and
        lighter where other slices hold voxels.
    rois : dict, optional
        Name → bool array of shape (x, y, z) or Nifti1Image. Outlined; eight at most, which
        colours still tell apart.
    stimulus : uint8 array of shape (height, width, 3), optional
        Shown in the upper left corner.
    note : str, optional
        A label that must not be overlooked, such as "simulated".

    Returns
    -------
    matplotlib.figure.Figure
        11 inches wide. ``save_figure`` writes it.

    Raises
    ------
    InputError, InputTypeError
        When the image is no volume or holds no values, a mask or ROI is of another grid, or an
        option does not fit.

    Examples
    --------
    >>> import nibabel as nib
    >>> image = nib.Nifti1Image(np.ones((4, 5, 6), np.float32), np.diag([2, 2, 2, 1]))
    >>> figure = plot_slices(image, title="Ones", unit="z")
    >>> figure.axes[0].get_label()
    'axial 0'
    """
    values, inside = _check_image(image, mask)
    outlines = {name: _members(roi, f"ROI {name}", image) for name, roi in (rois or {}).items()}
    if len(outlines) > len(_OUTLINES):
        raise InputError(
            f"rois: expected at most {len(_OUTLINES)}, which colours tell apart, found "
            f"{len(outlines)}: choose some"
        )
    limits = colour_limits(values[inside], vmin, vmax, threshold, symmetric)
    mappable = colours(limits, threshold, symmetric, cmap)
    shown = inside
    if threshold:
        shown = inside & ((np.abs(values) if symmetric else values) >= threshold)

    extent, picture = (
        _straight(array, image.affine) for array in (inside, np.where(shown, values, np.nan))
    )
    anatomy = None
    if background is not None:
        anatomy = _straight(np.nan_to_num(_volume(background, "background")), background.affine)
    members = [_straight(member, image.affine) for member in outlines.values()]
    window = _window(extent) if anatomy is None else anatomy.bounds  # (2, 3), mm
    size = window[1] - window[0]
    slot = (_WIDTH - 2 * SIDE) / _MOST  # inches
    scale = (slot - _GAP) / max(size[:2])  # inches per mm
    bottom = sum(size[up] * scale + _NAME for _, _, up in _DIRECTIONS.values())
    bottom += _LEGEND if outlines else 0
    framed = frame(_WIDTH, bottom, title=title, image=stimulus, note=note)
    for direction, (axis, right, up) in _DIRECTIONS.items():
        bottom -= _NAME + size[up] * scale
        for k, where in enumerate(_cuts(extent, axis)):
            left = SIDE + k * slot + (slot - size[right] * scale) / 2
            axes = framed.figure.add_axes(
                framed.box(left, bottom, size[right] * scale, size[up] * scale),
                label=f"{direction} {round(where)}",
            )
            axes.set(xlim=window[:, right], ylim=window[:, up])
            axes.axis("off")
            if anatomy is None:
                _draw(axes, _shadow(extent, axis), direction, where, "shadow", 0.9)
                _draw(axes, extent, direction, where, "mask", 0.8)
            else:
                _draw(axes, anatomy, direction, where, "background")
            _draw(axes, picture, direction, where, "data", mappable)
            for colour, member in zip(_OUTLINES, members, strict=False):
                _draw_outline(axes, member, direction, where, colour)
            _name(axes, direction, where, "black" if anatomy is None else "white")
        x, y, *_ = framed.box(SIDE, bottom + size[up] * scale + 0.07, 0, 0)
        framed.figure.text(x, y, f"{direction}, {'xyz'[axis]} in mm", fontsize=11)
    _draw_legend(framed, list(outlines))
    draw_colour_bar(
        framed, mappable, values[inside], unit, threshold=threshold, symmetric=symmetric
    )
    return framed.figure


# Geometry -----------------------------------------------------------------------------------------


def _straight(array: NDArray, affine: NDArray) -> _Grid:
    """An array on its grid turned to RAS axes; 0, or NaN, where an oblique one does not reach."""
    import nibabel as nib
    from nilearn.image import reorder_img

    # nilearn takes NaN for 0, so what holds a value travels with it.
    known = np.isfinite(array)
    turned = [
        reorder_img(nib.Nifti1Image(part, affine), resample="nearest")
        for part in (np.where(known, array, 0).astype(np.float32), known.astype(np.uint8))
    ]
    data = np.asarray(turned[0].dataobj)
    if array.dtype == bool:
        data = data > 0
    else:
        data = np.where(np.asarray(turned[1].dataobj) > 0, data, np.nan)
    return _Grid(data, turned[0].affine[:3, 3], np.diag(turned[0].affine)[:3])


def _window(inside: _Grid) -> NDArray[np.float64]:
    """Where the mask is and a border around it, mm: shape (2, 3)."""
    index = np.argwhere(inside.data)
    low, high = inside.origin + inside.size * np.stack([index.min(0) - 0.5, index.max(0) + 0.5])
    return np.stack([low - _BORDER, high + _BORDER])


def _cuts(inside: _Grid, axis: int) -> NDArray[np.float64]:
    """Middles of slices, mm, evenly spread over those that hold voxels."""
    held = np.flatnonzero(inside.data.any(axis=tuple(k for k in range(3) if k != axis)))
    n_cuts = min(_MOST, len(held))
    chosen = held[((np.arange(n_cuts) + 0.5) * len(held) / n_cuts).astype(int)]
    return inside.origin[axis] + inside.size[axis] * chosen


def _shadow(inside: _Grid, axis: int) -> _Grid:
    """The mask seen through, on every slice: tells where in it a slice's voxels are."""
    seen = inside.data.any(axis=axis, keepdims=True)
    return inside._replace(data=np.broadcast_to(seen, inside.data.shape))


# Drawing ------------------------------------------------------------------------------------------


def _draw(
    axes: Axes, grid: _Grid, direction: str, where: float, name: str, colour: Any = None
) -> None:
    """A slice: values in a mappable's colours, members in one grey, or anatomy in greys."""
    from matplotlib.colors import ListedColormap

    picture = grid.cut(direction, where)
    if picture is None:
        return
    _, right, up = _DIRECTIONS[direction]
    (left, bottom), (end, top) = grid.bounds[:, [right, up]]
    if grid.data.dtype == bool:
        picture = np.ma.masked_equal(picture, False)
        style = {"cmap": ListedColormap([(colour,) * 3])}
    elif colour is None:
        white = _WHITE * np.percentile(grid.data, 99.5)
        style = {"cmap": "gray", "vmin": 0, "vmax": white}
    else:
        picture = np.ma.masked_invalid(picture)
        style = {"cmap": colour.cmap, "norm": colour.norm}
    axes.imshow(
        picture, extent=(left, end, bottom, top), origin="lower", aspect="auto",
        interpolation="nearest", gid=name, **style,
    )  # fmt: skip


def _draw_outline(axes: Axes, member: _Grid, direction: str, where: float, colour: str) -> None:
    """Along the faces between voxels of an ROI and others."""
    from matplotlib.collections import LineCollection

    picture = member.cut(direction, where)
    if picture is None or not picture.any():
        return
    _, right, up = _DIRECTIONS[direction]
    padded = np.pad(picture, 1)
    rows, columns = np.nonzero(padded[:, 1:] != padded[:, :-1])
    upright = np.stack([[columns, rows - 1], [columns, rows]])  # (2 ends, 2, n_lines)
    rows, columns = np.nonzero(padded[1:] != padded[:-1])
    level = np.stack([[columns - 1, rows], [columns, rows]])
    corners = np.concatenate([upright, level], axis=2).transpose(2, 0, 1)
    lines = member.bounds[0, [right, up]] + corners * member.size[[right, up]]
    axes.add_collection(
        LineCollection(lines, colors=colour, linewidths=1.4, capstyle="projecting", gid="outline"),
        autolim=False,
    )


def _name(axes: Axes, direction: str, where: float, ink: str) -> None:
    """Where the slice is, and what is on its left and right."""
    from matplotlib.patheffects import withStroke

    axis, right, _ = _DIRECTIONS[direction]
    halo = [withStroke(linewidth=3, foreground="white" if ink == "black" else "black")]
    style = {"transform": axes.transAxes, "fontsize": 10, "color": ink, "path_effects": halo}
    text = f"{'xyz'[axis]} = {round(where)}".replace("-", "−")
    axes.text(0.02, 0.01, text, ha="left", va="bottom", **style)
    for x, letter, side in zip((0.02, 0.98), _ENDS[right], ("left", "right"), strict=True):
        axes.text(x, 0.99, letter, ha=side, va="top", **style)


def _draw_legend(framed: Frame, names: list[str]) -> None:
    from matplotlib.lines import Line2D

    if not names:
        return
    lines = [
        Line2D([], [], color=colour, linewidth=2, label=name)
        for colour, name in zip(_OUTLINES, names, strict=False)
    ]
    x, y, *_ = framed.box(SIDE, 0, 0, 0)
    legend = framed.figure.legend(
        handles=lines, loc="lower left", bbox_to_anchor=(x, y), ncols=len(names), frameon=False,
        fontsize=10, borderaxespad=0, borderpad=0, handlelength=1.2, columnspacing=1.5,
    )  # fmt: skip
    for text in legend.get_texts():
        text.set_parse_math(False)


# Checks -------------------------------------------------------------------------------------------


def _check_image(
    image: nib.Nifti1Image, mask: ArrayLike | nib.Nifti1Image | None
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Values, and where there are some."""
    values = _volume(image, "image")
    inside = values != 0 if mask is None else _members(mask, "mask", image)
    if np.isinf(values[inside]).any():
        raise InputError("image: expected finite values or NaN, found infinite ones")
    inside = inside & np.isfinite(values)
    if not inside.any():
        raise InputError("image: expected values in the mask, found none: nothing can be drawn")
    return values, inside


def _members(
    given: ArrayLike | nib.Nifti1Image, name: str, image: nib.Nifti1Image
) -> NDArray[np.bool_]:
    """The voxels of a mask or an ROI, on the image's grid."""
    if hasattr(given, "affine"):
        member = _volume(given, name) > 0
        if not np.allclose(given.affine, image.affine, rtol=0, atol=1e-3):
            raise InputError(f"{name}: expected the image's grid, found another affine")
    else:
        member = np.asarray(given)
        if member.dtype != bool:
            raise InputTypeError(f"{name}: expected a bool array, found {member.dtype}")
    if member.shape != image.shape:
        raise InputError(f"{name}: expected the image's shape {image.shape}, found {member.shape}")
    return member


def _volume(image: Any, name: str) -> NDArray[np.float64]:
    if not hasattr(image, "affine"):
        raise InputTypeError(f"{name}: expected a Nifti1Image, found {type(image).__name__}")
    values = np.asarray(image.dataobj)
    if values.ndim != 3:
        raise InputError(
            f"{name}: expected a volume of three dimensions, found shape {values.shape}: plot one "
            "map at a time"
        )
    if values.dtype.kind not in "biuf":
        raise InputTypeError(f"{name}: expected real numbers, found dtype {values.dtype}")
    return values.astype(np.float64)
