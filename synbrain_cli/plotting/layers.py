"""Which band of the linear encoder predicts each voxel best: a map, and bars of regions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from synbrain_cli.errors import InputError
from synbrain_cli.plotting.categories import Categories
from synbrain_cli.plotting.figure import SIDE, add_letters, current_style, frame, text_width
from synbrain_cli.plotting.labels import Labels
from synbrain_cli.plotting.maps import BrainMap

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from synbrain_cli.brain import Brain
    from synbrain_cli.plotting.sources.layers import Layers

_WIDTH = 11.0  # inches
_ROW = 0.27  # inches, of a region
_TITLE, _AXIS = 0.4, 0.38  # inches above the bars and below
_GAP = 0.35  # inches between panels
_TEXT = 10.0  # points
PANELS = {"fraction_won": "Fraction of voxels won", "mean_share": "Mean share of contributions"}


def layers_map(brain: Brain, layers: Layers) -> BrainMap:
    """Return the map of the band that contributes most to the prediction of each voxel."""
    return BrainMap(
        f"{brain.name}_layers",
        f"Band that contributes most to each voxel's prediction, {brain.name}",
        layers.definition,
        layers.best,
        categories=Categories.of_bands(layers.bands),
    )


def plot_layers(table: pd.DataFrame, caption: str, *, title: str, note: str | None) -> Figure:
    """Plot the fraction of voxels that each band wins in each region, and its mean share.

    Parameters
    ----------
    table : DataFrame
        ``region``, ``n_voxels``, ``band``, ``fraction_won`` and ``mean_share``, one row per region
        and band, as `synbrain_cli.plotting.sources.layers.layers_table` returns it. Regions
        without voxels that count are left out.
    caption : str
        Under the key: what a contribution is.
    title : str
        Any length: wrapped.
    note : str, optional
        Highlighted text.

    Returns
    -------
    matplotlib.figure.Figure
        11 inches wide; in a narrow style the panels are below each other.

    Raises
    ------
    InputError
        When no region has voxels that count.
    """
    bands = list(dict.fromkeys(table["band"]))
    regions = {
        f"{name}  ({n:,})": rows.set_index("band").loc[bands]
        for (name, n), rows in table.groupby(["region", "n_voxels"], sort=False)
        if n > 0
    }
    if not regions:
        raise InputError("regions: expected voxels that the linear encoder predicts, found none")
    colours = Categories.of_bands(bands).fit(np.array([]))
    narrow, page = current_style().narrow, current_style().width(_WIDTH) - 2 * SIDE
    names = max(text_width(name, _TEXT) for name in regions) + 0.15
    down = len(PANELS) if narrow else 1
    bars = _ROW * len(regions)
    key = colours.key_height(page, caption)
    fixed = key + down * (_TITLE + _AXIS)
    framed = frame(_WIDTH, down * bars + fixed, Labels(title, "", note=note))
    _, spare, share = framed.fit(page, down * bars, fixed)
    width = page - names if narrow else (page - names - _GAP) / len(PANELS)
    panels = []
    for k, (column, name) in enumerate(PANELS.items()):
        row = down - 1 - k if narrow else 0
        bottom = key + spare + row * (share * bars + _TITLE + _AXIS) + _AXIS
        left = SIDE + names + (0 if narrow else k * (width + _GAP))
        axes = framed.figure.add_axes(framed.box(left, bottom, width, share * bars), label=column)
        _plot_bars(axes, regions, column, colours.categories)
        # Above names, too, where bars are short
        begin = (0.28 - names) / width if narrow else 0.0
        axes.set_title(name, fontsize=12, loc="left", pad=8, x=begin)
        if k and not narrow:
            axes.tick_params(labelleft=False)
        panels.append(axes)
    add_letters(panels, left=72 * names if narrow else 16, above=6)
    colours.add_key(framed, caption)
    return framed.figure


def _plot_bars(
    axes: Axes, regions: dict[str, pd.DataFrame], column: str, categories: Categories
) -> None:
    """Plot a bar for each region, from 0 to 1, in pieces of the bands in order."""
    values = np.array([rows[column].to_numpy(float) for rows in regions.values()])
    rows, left = np.arange(len(regions)), np.zeros(len(regions))
    for k, (band, colour) in enumerate(zip(categories.names, categories.colours, strict=True)):
        axes.barh(
            rows, values[:, k], left=left, height=0.78, color=colour, edgecolor="white",
            linewidth=0.5, label=band, gid=f"band-{band}",
        )  # fmt: skip
        left += values[:, k]
    for tick in axes.set_yticks(rows, list(regions)):
        tick.label1.set_parse_math(False)
    axes.set_xlim(0, 1)
    axes.set_ylim(len(regions) - 0.5, -0.5)
    axes.axhline(0.5, color="black", linewidth=0.5)
    axes.tick_params(labelsize=_TEXT)
    axes.tick_params(axis="y", length=0)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "0.25", "0.5", "0.75", "1"])
    axes.spines[["top", "right", "left"]].set_visible(False)
