"""Slices of a volume, for subjects without transforms to a cortical surface; nilearn draws them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np
from nibabel.affines import apply_affine, from_matvec
from numpy.typing import ArrayLike, NDArray

from synbrain_cli.errors import InputError, InputTypeError
from synbrain_cli.io.volume import check_same_grid
from synbrain_cli.plotting.figure import SIDE, colour_limits, colours, draw_colour_bar, frame

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# nilearn's name → axis across the slices, axis up; of RAS coordinates
_DIRECTIONS = {"z": (2, 1), "y": (1, 2), "x": (0, 2)}
_MOST = 6  # slices in a row
_WIDTH = 11.0  # inches
_GAP = 0.1  # inches between rows
_BORDER = 12.0  # mm around the voxels, for the labels


def plot_slices(
    image: nib.Nifti1Image,
    *,
    title: str,
    unit: str,
    mask: nib.Nifti1Image | None = None,
    threshold: float | None = None,
    vmax: float | None = None,
    vmin: float | None = None,
    cmap: str | None = None,
    symmetric: bool = True,
    background: nib.Nifti1Image | None = None,
    stimulus: ArrayLike | None = None,
    note: str | None = None,
) -> Figure:
    """Draw a map of voxels on axial, coronal and sagittal slices, with nilearn's `plot_stat_map`.

    Left is on the left (the neurological convention), and all slices have one scale. They are, up
    to six a direction, spread evenly over those that hold voxels of the mask, and pass through the
    middle of voxels, in mm of the image's affine. Nothing is interpolated; of an oblique grid, the
    nearest voxel is drawn. nilearn lets a picture end at the middle, not at the face, of its
    outermost voxels, so places on it are right to half a voxel.

    Parameters
    ----------
    image : Nifti1Image
        3-D; NaN where there are no data.
    title : str
        Any length: wrapped.
    unit : str
        Of the values, under the colour bar.
    mask : Nifti1Image, optional
        The voxels in use, as a model keeps them in ``mask.nii.gz``: inside, 0 is drawn as any other
        value; outside, nothing is. By default those that are neither 0 nor NaN.
    threshold, vmax, vmin, cmap, symmetric
        As in `synbrain_cli.plotting.flatmap.plot_flatmap`: a map has the same colours in both.
    background : Nifti1Image, optional
        Anatomy in the same coordinates, any grid, 0 outside the head; seen, too, where values are
        below the threshold. Without it, places where other slices hold voxels are light grey.
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
        When the image is no volume or holds no values, the mask is of another grid, or an option
        does not fit.

    Examples
    --------
    >>> image = nib.Nifti1Image(np.ones((4, 5, 6), np.float32), np.diag([2, 2, 2, 1]))
    >>> figure = plot_slices(image, title="Ones", unit="z")
    >>> figure.axes[1].texts[-1].get_text()
    'z=0.0'
    """
    from matplotlib.colors import ListedColormap
    from nilearn.image import resample_img
    from nilearn.plotting import plot_stat_map

    values, inside = _check_image(image, mask)
    limits = colour_limits(values[inside], vmin, vmax, threshold, symmetric)
    mappable = colours(limits, threshold, symmetric, cmap)
    known = nib.Nifti1Image(inside.astype(np.uint8), image.affine)
    affine, shape = _window(known, background)
    data, known = (
        resample_img(given, affine, shape, interpolation="nearest", copy_header=True)
        for given in (nib.Nifti1Image(np.where(inside, values, 0), image.affine), known)
    )
    inside = known.get_fdata() > 0
    voxel = affine.diagonal()[:3]

    size = voxel * (shape - 1)  # mm
    slot = (_WIDTH - 2 * SIDE) / _MOST  # inches
    heights = slot / max(size[:2]) * size  # inches
    bottom = sum(heights[up] + _GAP for _, up in _DIRECTIONS.values())
    framed = frame(_WIDTH, bottom, title=title, image=stimulus, note=note)
    for direction, (axis, up) in _DIRECTIONS.items():
        others = tuple({0, 1, 2} - {axis})
        held = np.flatnonzero(inside.any(others))
        n_cuts = min(_MOST, len(held))
        cuts = held[((np.arange(n_cuts) + 0.5) * len(held) / n_cuts).astype(int)]
        bottom -= heights[up] + _GAP
        display = plot_stat_map(
            data, bg_img=background, figure=framed.figure, display_mode=direction,
            axes=framed.box(SIDE, bottom, n_cuts * slot, heights[up]),
            cut_coords=list(affine[axis, 3] + voxel[axis] * cuts), radiological=False,
            cmap=mappable.cmap, vmin=limits[0], vmax=limits[1], colorbar=False, black_bg=False,
            # nilearn hides what is near 0, unless a mask rather than a threshold says what to hide.
            # Below the threshold, the colours are grey.
            transparency=known, threshold=threshold if background else None,
            resampling_interpolation="nearest", annotate=False,
        )  # fmt: skip
        if background is None:
            seen = np.broadcast_to(inside.any(axis, keepdims=True), shape).astype(np.uint8)
            display.add_overlay(
                nib.Nifti1Image(seen, affine), cmap=ListedColormap(["0.9"]), zorder=-1
            )
        display.annotate(size=10, decimals=1)
    draw_colour_bar(
        framed, mappable, values[inside], unit, threshold=threshold, symmetric=symmetric
    )
    return framed.figure
