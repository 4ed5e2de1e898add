"""How well images are predicted over how far they are from those of training: one figure."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from synbrain_cli.plotting.figure import new_figure

# Of the palette of Okabe & Ito (2008): the model's own test images, then other datasets'
_COLOURS = ("#999999", "#D55E00", "#0072B2", "#009E73")
N_BINS = 6  # of running medians
LEAST = 4  # images of a bin


def plot_image_distances(images: Mapping[str, pd.DataFrame], title: str) -> Figure:
    """Plot the correlation of predicted and recorded pattern over leverage, image by image.

    Parameters
    ----------
    images : mapping
        Name of a set of images, the model's own first → its ``images.tsv``, with the columns
        ``leverage`` and ``pattern_r``.
    title : str

    Returns
    -------
    Figure
        Lines are medians of bins with equal numbers of images.
    """
    figure = new_figure(7.5, 4.6, layout="constrained")
    axes = figure.subplots()
    figure.suptitle(title, fontsize=11)
    for colour, (name, table) in zip(_COLOURS, images.items(), strict=False):
        _plot_set(axes, table, f"{name} ({len(table):,} images)", colour)
    axes.axhline(0, color="0.8", linewidth=0.8, zorder=0)
    axes.set_xscale("log")
    axes.set_xlabel("leverage, as a multiple of the median training image's")
    axes.set_ylabel("pattern correlation (r)")
    axes.spines[["top", "right"]].set_visible(False)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("{x:g}")
    axes.tick_params(axis="x", which="both", labelsize=8)
    handles = axes.get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=2, fontsize=9, frameon=False)
    return figure


def _plot_set(axes: Axes, table: pd.DataFrame, label: str, colour: str) -> None:
    known = table[["leverage", "pattern_r"]].dropna().sort_values("leverage")
    axes.plot(
        known["leverage"],
        known["pattern_r"],
        ".",
        color=colour,
        alpha=0.45,
        markersize=5,
        label=label,
    )
    bins = [part for part in np.array_split(np.arange(len(known)), N_BINS) if len(part) >= LEAST]
    if len(bins) > 1:
        medians = [known.iloc[part].median() for part in bins]
        axes.plot(
            [one["leverage"] for one in medians],
            [one["pattern_r"] for one in medians],
            "o-",
            color=colour,
            markeredgecolor="white",
            linewidth=1.6,
        )
