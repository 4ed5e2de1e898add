"""Labels of figures: title, unit, ROI outlines, stimulus and note."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from synbrain_cli.io.prepared_tables import roi_collections, roi_masks

if TYPE_CHECKING:
    from synbrain_cli.brain import Brain

# Plotted first, in the order of the visual hierarchy: the areas, and their parts on maps
EARLY_AREAS = ("V1", "V1v", "V1d", "V2", "V2v", "V2d", "V3", "V3v", "V3d", "hV4")
_PARIETAL = "Kastner2015", "IPS"  # a collection, and the beginning of the labels that maps show


@dataclass(frozen=True)
class Labels:
    """Labels of a figure.

    Attributes
    ----------
    title : str
        Any length: wrapped.
    unit : str
        Of the values, under the colour bar.
    rois : dict, optional
        ``left`` and ``right``, each one label per vertex (int or str; 0, negative numbers and ""
        are unlabelled) or a dict from name to a bool array of shape (n_vertices,). Outlined and
        named. A hemisphere may be absent.
    stimulus : uint8 array of shape (height, width, 3), optional
        Shown in the upper left corner.
    note : str, optional
        Highlighted text that must be noticed, such as "simulated subject".
    around : dict of bool arrays of shape (n_vertices,), optional
        ``left`` and ``right``: vertices that views of the part with data hold also where a map has
        no value, so that all maps of a subject show the same part.
    """

    title: str
    unit: str
    rois: Mapping[str, Any] | None = None
    stimulus: ArrayLike | None = None
    note: str | None = None
    around: Mapping[str, NDArray[np.bool_]] | None = None


def subject_labels(
    brain: Brain, title: str, space: str | None = None, stimulus: ArrayLike | None = None
) -> Labels:
    """Return labels with a model's unit, the subject's ROI outlines and the simulated note.

    Parameters
    ----------
    brain : Brain
    title : str
    space : str, optional
        Surface on which the ROIs are outlined; the subject must have a transform to it. Default:
        the subject's (`VoxelSpace.surface`).
    stimulus : uint8 array of shape (height, width, 3), optional

    Returns
    -------
    Labels
        Vertices belong to an ROI where resampling gives it a share of one half or more; ROIs
        without vertices are left out.

    Raises
    ------
    InputError
        When the subject has no transform to that surface.

    Examples
    --------
    >>> brain = load_model("weights/sub-01")                              # doctest: +SKIP
    >>> maps = brain.to_surface(brain.mean("coffee.png")[0])              # doctest: +SKIP
    >>> plot_flatmap(maps, subject_labels(brain, "coffee"))               # doctest: +SKIP
    """
    outlines = {
        hemisphere: {name: inside for name, inside in named.items() if inside.any()}
        for hemisphere, named in _outlines(brain, space).items()
    }
    reached = brain.to_surface(np.ones(brain.n_voxels, np.float32), space)
    around = {hemisphere: np.isfinite(values) for hemisphere, values in reached.items()}
    return Labels(title, brain.unit, outlines, stimulus, simulated_note(brain), around)


def simulated_note(brain: Brain) -> str | None:
    """Return the note of figures of a simulated subject; None for recorded subjects."""
    return "simulated subject" if brain.simulated else None


def plotted_rois(brain: Brain) -> dict[str, np.ndarray]:
    """Return the ROIs that figures show: bool arrays of shape (n_voxels,) by name.

    These are the visual areas and the category-selective areas where the subject has them, else
    every ROI of the first collection: collections overlap, and outlines of all would hide the map.
    V1, V2, V3 and hV4 come first.
    """
    return _early_first(roi_masks(brain.voxels, _chosen(brain)))


def mapped_rois(brain: Brain) -> dict[str, np.ndarray]:
    """Return the ROIs that maps outline: bool arrays of shape (n_voxels,) by name.

    Those of `plotted_rois`, with the dorsal and the ventral part of V1, V2 and V3 apart, which lie
    far from each other on the cortex; and the intraparietal areas (IPS0, IPS1, …) of the atlas by
    Wang et al. (2015), which NSD calls Kastner2015, where the subject has them.
    """
    masks = roi_masks(brain.voxels, _chosen(brain), parts=True)
    collection, prefix = _PARIETAL
    if collection in roi_collections(brain.voxels):
        found = roi_masks(brain.voxels, [collection], parts=True)
        masks |= {name: mask for name, mask in found.items() if name.startswith(prefix)}
    return _early_first(masks)


def _chosen(brain: Brain) -> list[str]:
    collections = roi_collections(brain.voxels)
    chosen = [c for c in collections if c == "prf-visualrois" or c.startswith("floc-")]
    return chosen or collections[:1]


def _early_first(masks: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    early = [name for name in EARLY_AREAS if name in masks]
    order = [*early, *(name for name in masks if name not in EARLY_AREAS)]
    return {name: masks[name] for name in order}


def _outlines(brain: Brain, space: str) -> dict[str, dict[str, np.ndarray]]:
    """Vertices that are an ROI by half or more: bool (n_vertices,) by hemisphere and name."""
    outlines: dict[str, dict[str, np.ndarray]] = {"left": {}, "right": {}}
    for name, mask in mapped_rois(brain).items():
        for hemisphere, share in brain.to_surface(mask.astype(np.float32), space).items():
            outlines[hemisphere][name] = np.nan_to_num(share) >= 0.5
    return outlines
