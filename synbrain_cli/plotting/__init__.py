"""Figures of responses: functions that take arrays and return matplotlib figures.

>>> from synbrain_cli import load_model
>>> from synbrain_cli.plotting import plot_flatmap, save_figure, subject_labels
>>> brain = load_model("weights/sub-01")                                    # doctest: +SKIP
>>> maps = brain.to_surface(brain.mean("coffee.png")[0])                    # doctest: +SKIP
>>> plot_flatmap(maps, subject_labels(brain, "coffee"))                     # doctest: +SKIP

`Labels` hold title, unit, ROI outlines, stimulus and note of a figure, and `subject_labels` returns
those of a model. `ColourScale` maps values to colours. In a notebook, a figure is shown when it is
the last line of a cell; `save_figure` writes it to a file. Figures that are made within
`figure_style("paper")` or `figure_style("talk")` have the size and type of a journal or a slide.

===================  ==============================================================
`plot_flatmap`       map on the flattened cortex of fsaverage
`plot_surface`       map on the folded or inflated cortex, four views
`view_surface`       the same as an HTML page with a rotatable cortex
`plot_with_pycortex` flatmap by pycortex
`plot_slices`        map on slices of the subject's own volume
`plot_draws`         draws of one image beside recorded trials, as small flatmaps
`plot_sheet`         small flatmaps of many images
`plot_rois`          ROI means (`roi_means`) of draws and recorded trials
`plot_accuracy`      accuracy by voxel and region, against the noise ceiling
`plot_calibration`   calibration of draws against recorded trials
===================  ==============================================================
"""

from importlib import import_module
from typing import Any

# Name → module: matplotlib and nilearn load with the first that is used.
_MODULES = {
    "ColourScale": "colours",
    "Labels": "labels",
    "figure_style": "figure",
    "plot_accuracy": "accuracy",
    "plot_calibration": "calibration",
    "plot_draws": "trial_flatmaps",
    "plot_flatmap": "flatmap",
    "plot_rois": "roi_intervals",
    "plot_sheet": "image_sheet",
    "plot_slices": "slices",
    "plot_surface": "surface",
    "plot_with_pycortex": "pycortex",
    "roi_means": "roi_intervals",
    "save_figure": "figure",
    "subject_labels": "labels",
    "view_surface": "rotatable_surface",
}
__all__ = list(_MODULES)


def __getattr__(name: str) -> Any:
    """Import the function or record of that name."""
    if name in _MODULES:
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
