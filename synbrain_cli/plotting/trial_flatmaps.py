"""Flatmaps of single trials of one image, recorded and drawn from a model, on one colour scale."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from synbrain_cli.errors import InputError
from synbrain_cli.io.surface import HEMISPHERES
from synbrain_cli.plotting.colours import Colours, ColourScale, add_colour_bar
from synbrain_cli.plotting.figure import SIDE, frame
from synbrain_cli.plotting.flatmap import panel_regions, panel_window, plot_panel
from synbrain_cli.plotting.labels import Labels
from synbrain_cli.plotting.roi_outlines import add_legend, legend_height, legend_lines
from synbrain_cli.plotting.validation import check_maps, check_rois

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_WIDTH = 13.0  # inches
_MOST = 4  # trials in a row
_TITLE = 0.3  # inches over a panel


def plot_draws(
    draws: Mapping[str, ArrayLike],
    expected: Mapping[str, ArrayLike],
    labels: Labels,
    recorded: Mapping[str, ArrayLike] | None = None,
    *,
    vmax: float | None = None,
) -> Figure:
    """Plot single trials, what they scatter about, and how far: recorded above, draws below.

    Each row shows the first trials (four at most); the mean over all recorded trials, or of draws
    the response that the model expects; and the standard deviation over all trials of the row
    (n − 1 in its denominator). Trials and means share one colour bar; standard deviations have
    another, from 0. Standard deviations are those of single trials, and so include their noise.
    The mean of few recorded trials includes a good part of it, and draws have no such map: their
    average would show, beside what is expected, the one unexplained signal that they share.

    Parameters
    ----------
    draws : dict of float arrays of shape (n_draws, n_vertices)
        ``left`` and ``right``, of fsaverage5, fsaverage6 or fsaverage; NaN where there are no data.
    expected : dict of float arrays of shape (n_vertices,)
        The model's expected response to the image (`Brain.mean`).
    labels : Labels
        As `synbrain_cli.plotting.flatmap.plot_flatmap` takes them.
    recorded : dict of float arrays of shape (n_trials, n_vertices), optional
        Recorded trials of the same image.
    vmax : float, optional
        Upper end of the colours of trials and means; by default the 99th percentile of their
        magnitude.

    Returns
    -------
    matplotlib.figure.Figure
        13 inches wide.

    Raises
    ------
    InputError, InputTypeError
        When maps have other shapes.
    """
    rows = {"draw": _trials(draws, "draws")}
    if recorded is not None:
        rows = {"recorded trial": _trials(recorded, "recorded"), **rows}
        if rows["recorded trial"].shape[1] != rows["draw"].shape[1]:
            raise InputError(
                f"recorded: expected the vertices of draws, {rows['draw'].shape[1] // 2} per "
                f"hemisphere, found {rows['recorded trial'].shape[1] // 2}"
            )
    # As many draws as recorded trials are shown, so that rows can be compared
    n_columns = min(_MOST, max(len(rows.get("recorded trial", rows["draw"])), 2))
    means = {name: trials.mean(0) for name, trials in rows.items()}
    means["draw"] = check_maps({h: expected[h] for h in HEMISPHERES})
    if means["draw"].shape != rows["draw"].shape[1:]:
        raise InputError(
            f"expected: expected the vertices of draws, {rows['draw'].shape[1] // 2} per "
            f"hemisphere, found {len(means['draw']) // 2}"
        )
    sds = {name: trials.std(0, ddof=1) for name, trials in rows.items() if len(trials) > 1}
    responses = np.vstack([*(trials[:n_columns] for trials in rows.values()), *means.values()])
    signed = ColourScale(vmax=vmax).fit(responses)
    window, aspect = panel_window(means["draw"], labels)
    outlines = check_rois(labels.rois or {}, len(means["draw"]) // 2)
    width = (_WIDTH - 2 * SIDE) / (n_columns + 1 + bool(sds))
    height = (width - 0.1) * aspect
    regions = panel_regions(outlines, window, width - 0.1)
    legend = legend_lines([regions.names], _WIDTH - 2 * SIDE)
    below = legend_height(legend)
    framed = frame(_WIDTH, len(rows) * (height + _TITLE) + below, labels)
    add_legend(framed, legend)

    def plot(values: NDArray, row: int, column: int, title: str, colours: Colours) -> None:
        bottom = below + (len(rows) - 1 - row) * (height + _TITLE)
        axes = framed.figure.add_axes(
            framed.box(SIDE + column * width, bottom, width - 0.1, height), label=title
        )
        axes.set_title(title, fontsize=11, pad=4)
        plot_panel(axes, values, window, colours, regions)

    for row, (name, trials) in enumerate(rows.items()):
        for k, values in enumerate(trials[:n_columns]):
            plot(values, row, k, f"{name} {k + 1} of {len(trials)}", signed)
        mean = "expected response" if name == "draw" else f"mean of {_counted(trials, name)}"
        plot(means[name], row, n_columns, mean, signed)
    add_colour_bar(framed, signed, labels.unit, centre=0.4 if sds else 0.5, width=0.3)
    if sds:
        magnitude = ColourScale(symmetric=False).fit(np.stack(list(sds.values())))
        for row, (name, trials) in enumerate(rows.items()):
            if name in sds:
                plot(sds[name], row, n_columns + 1, f"SD of {_counted(trials, name)}", magnitude)
        add_colour_bar(framed, magnitude, f"SD ({labels.unit})", centre=0.86, width=0.18)
    return framed.figure


def _counted(trials: NDArray, name: str) -> str:
    return f"{len(trials)} {name}{'s' if len(trials) > 1 else ''}"


def _trials(maps: Mapping[str, ArrayLike], name: str) -> NDArray[np.float64]:
    """Both hemispheres side by side: (n_trials, 2 · n_vertices)."""
    if set(maps) != set(HEMISPHERES):
        raise InputError(f"{name}: expected left and right maps, found {sorted(map(str, maps))}")
    left, right = (np.asarray(maps[hemisphere]) for hemisphere in HEMISPHERES)
    if left.ndim != 2 or right.ndim != 2 or len(left) != len(right) or len(left) == 0:
        raise InputError(
            f"{name}: expected arrays of shape (n_trials, n_vertices), with as many trials on the "
            f"right as on the left; found {left.shape} and {right.shape}"
        )
    return np.stack([check_maps({"left": a, "right": b}) for a, b in zip(left, right, strict=True)])
