"""What figures of a model's responses have in common: unit, ROI outlines, the label "simulated"."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from synbrain_cli.io.prepared import roi_collections, roi_masks
from synbrain_cli.plotting.figure import EARLY

if TYPE_CHECKING:
    from synbrain_cli.brain import Brain


def looks(brain: Brain, space: str = "fsaverage5") -> dict[str, Any]:
    """Return arguments of the plot functions, so that a figure says whose responses it shows.

    Parameters
    ----------
    brain : Brain
    space : str
        Of the maps, for the outlines; the subject must have a transform to it.

    Returns
    -------
    dict
        ``unit``, ``rois`` and ``note``.

    Examples
    --------
    >>> brain = load_model("weights/sub-01")                              # doctest: +SKIP
    >>> maps = brain.to_surface(brain.mean("coffee.png")[0])              # doctest: +SKIP
    >>> plot_flatmap(maps, title="coffee", **looks(brain))                # doctest: +SKIP
    """
    return {
        "unit": brain.unit,
        "rois": {
            hemisphere: {name: inside for name, inside in named.items() if inside.any()}
            for hemisphere, named in _outlines(brain, space).items()
        },
        "note": note(brain),
    }


def note(brain: Brain) -> str | None:
    """What must not be overlooked: that nobody was scanned."""
    return "simulated subject" if brain.simulated else None


def drawn_rois(brain: Brain) -> dict[str, np.ndarray]:
    """ROIs shown in figures: bool (n_voxels,) by name.

    The visual areas and category-selective areas where the subject has them, else every ROI of the
    first collection: collections overlap, and outlines of all would hide the map. V1, V2, V3 and
    hV4 come first.
    """
    collections = roi_collections(brain.voxels)
    chosen = [c for c in collections if c == "prf-visualrois" or c.startswith("floc-")]
    masks = roi_masks(brain.voxels, chosen or collections[:1])
    order = [*(name for name in EARLY if name in masks), *(n for n in masks if n not in EARLY)]
    return {name: masks[name] for name in order}


def _outlines(brain: Brain, space: str) -> dict[str, dict[str, np.ndarray]]:
    """Vertices that are an ROI by half or more: bool (n_vertices,) by hemisphere and name."""
    outlines: dict[str, dict[str, np.ndarray]] = {"left": {}, "right": {}}
    for name, mask in drawn_rois(brain).items():
        for hemisphere, share in brain.to_surface(mask.astype(np.float32), space).items():
            outlines[hemisphere][name] = np.nan_to_num(share) >= 0.5
    return outlines
