"""Recorded trials of one image beside draws of it, as small flatmaps on one colour scale."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from synbrain_cli.errors import InputError
from synbrain_cli.io.surface import HEMISPHERES
from synbrain_cli.plotting.figure import (
    SIDE,
    check_maps,
    check_rois,
    colour_limits,
    colours,
    draw_colour_bar,
    frame,
)
from synbrain_cli.plotting.flatmap import draw_panel, panel_window

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_WIDTH = 13.0  # inches
_MOST = 4  # trials in a row
_TITLE = 0.3  # inches over a panel


def plot_draws(
    draws: Mapping[str, ArrayLike],
    recorded: Mapping[str, ArrayLike] | None = None,
    *,
    title: str,
    unit: str,
    rois: Mapping[str, Any] | None = None,
    vmax: float | None = None,
    image: ArrayLike | None = None,
    note: str | None = None,
) -> Figure:
    """Draw single trials, their mean and their spread: recorded above, drawn below.

    A row each: the first trials (four at most), the mean over all, and the deviation over all
    (n − 1 in its denominator). Trials and means share one colour bar, deviations another, from 0.
    Deviations are those of single trials: they hold the noise. Means of few trials hold a good
    part of it.

    Parameters
    ----------
    draws : dict of float arrays of shape (n_draws, n_vertices)
        ``left`` and ``right``, of fsaverage5, fsaverage6 or fsaverage; NaN where there are no data.
    recorded : dict of float arrays of shape (n_trials, n_vertices), optional
        Recorded trials of the same image.
    title, unit, rois, image, note
        As `synbrain_cli.plotting.flatmap.plot_flatmap` takes them; outlines have no names here.
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
    rows = {"drawn": _trials(draws, "draws")}
    if recorded is not None:
        rows = {"recorded": _trials(recorded, "recorded"), **rows}
        if rows["recorded"].shape[1] != rows["drawn"].shape[1]:
            raise InputError(
                f"recorded: expected the vertices of draws, {rows['drawn'].shape[1] // 2} a "
                f"hemisphere, found {rows['recorded'].shape[1] // 2}"
            )
    # As many draws as trials were recorded: the eye compares rows.
    n_columns = min(_MOST, max(len(rows.get("recorded", rows["drawn"])), 2))
    means = {name: trials.mean(0) for name, trials in rows.items()}
    spreads = {name: trials.std(0, ddof=1) for name, trials in rows.items() if len(trials) > 1}
    responses = np.concatenate(
        [*(trials[:n_columns].ravel() for trials in rows.values()), *means.values()]
    )
    signed = colours(colour_limits(responses, vmax=vmax))
    window, aspect = panel_window(means["drawn"])
    outlines = check_rois(rois or {}, len(means["drawn"]) // 2)
    width = (_WIDTH - 2 * SIDE) / (n_columns + 1 + bool(spreads))
    height = (width - 0.1) * aspect
    framed = frame(_WIDTH, len(rows) * (height + _TITLE), title=title, image=image, note=note)

    def draw(values: NDArray, row: int, column: int, text: str, **options: Any) -> None:
        bottom = (len(rows) - 1 - row) * (height + _TITLE)
        axes = framed.figure.add_axes(
            framed.box(SIDE + column * width, bottom, width - 0.1, height), label=text
        )
        axes.set_title(text, fontsize=11, pad=4)
        draw_panel(axes, values, window, outlines=outlines, **options)

    for row, (name, trials) in enumerate(rows.items()):
        for k, values in enumerate(trials[:n_columns]):
            draw(values, row, k, f"{name} {k + 1} of {len(trials)}", mappable=signed)
        draw(means[name], row, n_columns, f"mean of {len(trials)} {name}", mappable=signed)
    draw_colour_bar(framed, signed, responses, unit, centre=0.4 if spreads else 0.5, width=0.3)
    if spreads:
        deviations = np.concatenate(list(spreads.values()))
        magnitude = colours(colour_limits(deviations, symmetric=False), symmetric=False)
        for row, name in enumerate(rows):
            if name in spreads:
                text = f"deviation of {len(rows[name])} {name}"
                draw(spreads[name], row, n_columns + 1, text, mappable=magnitude, symmetric=False)
        draw_colour_bar(
            framed, magnitude, deviations, f"deviation ({unit})", symmetric=False, centre=0.86,
            width=0.18,
        )  # fmt: skip
    return framed.figure


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
