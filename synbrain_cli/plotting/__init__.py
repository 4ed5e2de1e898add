"""Figures of responses: functions that take arrays and return matplotlib figures.

>>> from synbrain_cli import load_model
>>> from synbrain_cli.plotting import looks, plot_flatmap, save_figure
>>> brain = load_model("weights/sub-01")                                    # doctest: +SKIP
>>> maps = brain.to_surface(brain.mean("coffee.png")[0])                    # doctest: +SKIP
>>> plot_flatmap(maps, title="coffee", **looks(brain))                      # doctest: +SKIP

A figure shows itself as the last line of a notebook's cell; `save_figure` writes it.
"""

from importlib import import_module
from typing import Any

# Function → module: matplotlib and nilearn load with the first that is used.
_WHERE = {
    "looks": "labels",
    "plot_accuracy": "accuracy",
    "plot_calibration": "calibration",
    "plot_draws": "draws",
    "plot_flatmap": "flatmap",
    "plot_rois": "rois",
    "plot_sheet": "sheet",
    "plot_slices": "slices",
    "plot_surface": "surface",
    "plot_with_pycortex": "pycortex",
    "roi_means": "rois",
    "save_figure": "figure",
    "view_surface": "surface",
}
__all__ = list(_WHERE)


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
