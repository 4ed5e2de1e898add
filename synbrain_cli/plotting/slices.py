"""Slices of a volume, plotted by nilearn, for subjects without transforms to a cortical surface."""

from __future__ import annotations

from typing import TYPE_CHECKING

import nibabel as nib
import numpy as np
from nibabel.affines import apply_affine, from_matvec
from numpy.typing import NDArray

from synbrain_cli.errors import InputError, InputTypeError
from synbrain_cli.io.volume import check_same_grid
from synbrain_cli.plotting.categories import AnyScale
from synbrain_cli.plotting.colours import ColourScale
from synbrain_cli.plotting.figure import SIDE, WIDTH, add_letters, current_style, frame
from synbrain_cli.plotting.labels import Labels

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DIRECTIONS = {"z": (2, 1), "y": (1, 2), "x": (0, 2)}  # axes across the slices and up them; RAS
_MOST = 6  # slices in a row
_GAP = 0.1  # inches between rows
_BORDER = 16.0  # mm around the voxels, for nilearn's labels


def plot_slices(
    image: nib.Nifti1Image,
    labels: Labels,
    scale: AnyScale | None = None,
    *,
    mask: nib.Nifti1Image | None = None,
    background: nib.Nifti1Image | None = None,
) -> Figure:
    """Plot a map of voxels on axial, coronal and sagittal slices, with nilearn's `plot_stat_map`.

    Left is on the left (the neurological convention), and all slices have one scale. They are, up
    to six a direction, spread evenly over those that hold voxels of the mask, and pass through the
    middle of voxels, in mm of the image's affine. Nothing is interpolated; of an oblique grid, the
    nearest voxel is shown. Light grey is where other slices hold voxels, and where voxels of the
    mask have no value. nilearn takes the middle of the outermost voxels for the edge of a slice, so
    positions are right to half a voxel.

    Parameters
    ----------
    image : Nifti1Image
        3-D; NaN where there are no data.
    labels : Labels
        Title and unit, and stimulus and note where there are some. ROIs are not outlined.
    scale : ColourScale, Categories or Wheel, optional
        As in `synbrain_cli.plotting.flatmap.plot_flatmap`: a map has the same colours in both.
    mask : Nifti1Image, optional
        The voxels in use, as a model keeps them in ``mask.nii.gz``: nothing is plotted outside, and
        0 is data inside. By default those that are neither 0 nor NaN.
    background : Nifti1Image, optional
        Anatomy in the same coordinates, any grid, 0 outside the head: shown in place of the greys,
        also of those below the threshold, at the resolution of the image.

    Returns
    -------
    matplotlib.figure.Figure
        11 inches wide. ``save_figure`` writes it.

    Raises
    ------
    InputError, InputTypeError
        When the image is no volume or holds no values, the mask is of another grid, the background
        of another space, or an option does not fit.

    Examples
    --------
    >>> image = nib.Nifti1Image(np.ones((4, 5, 6), np.float32), np.diag([2, 2, 2, 1]))
    >>> figure = plot_slices(image, Labels("Ones", "z"))
    >>> figure.axes[1].texts[-1].get_text()
    'z=0.0'
    """
    from matplotlib.colors import ListedColormap
    from nibabel.processing import resample_from_to
    from nilearn.plotting import plot_stat_map

    values, inside, kept = _check(image, mask, background)
    colours = (scale or ColourScale()).fit(values[inside])
    vmin, vmax = colours.limits
    opaque = inside
    if background is not None:
        opaque = inside & ~colours.scale.hides(values)

    # What is plotted: an upright grid around the voxels, of their size
    positions = apply_affine(image.affine, np.argwhere(kept))  # mm
    voxel = np.abs(image.affine[:3, :3]).max(axis=1)  # mm, along the axes of RAS
    border = np.ceil(_BORDER / voxel)
    origin = positions.min(axis=0) - border * voxel
    shape = tuple(np.rint(np.ptp(positions, axis=0) / voxel + 1 + 2 * border).astype(int))
    affine = from_matvec(np.diag(voxel), origin)
    given = [nib.Nifti1Image(1.0 * a, image.affine) for a in (kept, opaque, values)]
    members, transparency, data, anatomy = (
        volume and resample_from_to(volume, (shape, affine), order=0)
        for volume in (*given, background)
    )
    held = members.get_fdata() > 0
    if background is not None and not anatomy.get_fdata().any():
        raise InputError("background: shows nothing where the mask is: is it in the same space?")

    most = 3 if current_style().narrow else _MOST
    slot = (current_style().width(WIDTH) - 2 * SIDE) / most  # inches
    size = voxel * (np.array(shape) - 1)  # mm
    heights = size * slot / max(size[:2])  # inches
    bottom = sum(heights[up] + _GAP for _, up in _DIRECTIONS.values())
    page = current_style().width(WIDTH) - 2 * SIDE
    key = colours.key_height(page, labels.unit)
    framed = frame(WIDTH, bottom + key, labels)
    left, low, share = framed.fit(page, bottom, key)
    first = []
    for direction, (axis, up) in _DIRECTIONS.items():
        planes = np.flatnonzero(held.any(tuple({0, 1, 2} - {axis})))
        n_cuts = min(most, len(planes))
        cuts = planes[((np.arange(n_cuts) + 0.5) * len(planes) / n_cuts).astype(int)]
        bottom -= heights[up] + _GAP
        display = plot_stat_map(
            data, bg_img=anatomy, display_mode=direction, radiological=False,
            cut_coords=list(origin[axis] + voxel[axis] * cuts),
            figure=framed.figure,
            axes=framed.box(
                left, key + low + share * bottom, share * n_cuts * slot, share * heights[up]
            ),
            cmap=colours.cmap, vmin=vmin, vmax=vmax, colorbar=False, black_bg=False,
            # nilearn's threshold would hide zeros; the colours are grey below ours.
            transparency=transparency if opaque.any() else 0.0, threshold=None, annotate=False,
        )  # fmt: skip
        if background is None:
            seen = np.broadcast_to(held.any(axis, keepdims=True), shape).astype(np.float32)
            grey = ListedColormap(["0.9"])
            display.add_overlay(nib.Nifti1Image(seen, affine), cmap=grey, zorder=-1)
        display.annotate(size=10, decimals=1)
        first.append(display.frame_axes)
    add_letters(first, left=16, above=-2)  # positions are written between rows
    colours.add_key(framed, labels.unit)
    return framed.figure


def _check(
    image: nib.Nifti1Image, mask: nib.Nifti1Image | None, background: nib.Nifti1Image | None
) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_]]:
    """Values, 0 where there are none; where there are some; and where the mask holds voxels."""
    mask = image if mask is None else mask
    background = image if background is None else background
    for name, given in {"image": image, "mask": mask, "background": background}.items():
        if not hasattr(given, "affine"):
            raise InputTypeError(f"{name}: expected a Nifti1Image, found {type(given).__name__}")
        if len(given.shape) != 3:
            raise InputError(
                f"{name}: expected three dimensions, found {given.shape}: plot one map at a time"
            )
    values = image.get_fdata()
    check_same_grid("mask", mask, "the image", image)
    kept = np.nan_to_num(mask.get_fdata()) != 0
    inside = kept & ~np.isnan(values)
    if not inside.any():
        raise InputError("image: expected values in the mask, found none: nothing can be plotted")
    if np.isinf(values[inside]).any():
        raise InputError("image: expected finite values or NaN, found infinite ones")
    return np.where(inside, values, 0), inside, kept
