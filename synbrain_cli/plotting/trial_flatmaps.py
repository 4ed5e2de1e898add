"""Flatmaps of single trials of one image, recorded and drawn from a model, on one colour scale."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from synbrain_cli.errors import InputError
from synbrain_cli.io.surface import HEMISPHERES
from synbrain_cli.plotting.colours import Colours, ColourScale, add_colour_bar
from synbrain_cli.plotting.figure import SIDE, add_letters, current_style
from synbrain_cli.plotting.flatmap import panel_regions, panel_window, plot_panel
from synbrain_cli.plotting.labels import Labels
from synbrain_cli.plotting.named_maps import NamedMaps, frame_named_maps
from synbrain_cli.plotting.validation import check_maps, check_rois

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from synbrain_cli.plotting.flatmap import NamedOutlines
    from synbrain_cli.plotting.label_placement import Placement

_WIDTH = 13.0  # inches
_MOST = 4  # trials in a row
_TITLE = 0.3  # inches over a panel
_GAP = 0.1  # inches beside a panel


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
    (n − 1 in its denominator). In a narrow style rows are columns, recordings on the left. Trials
    and means share one colour bar; standard deviations have another, from 0. Standard deviations
    are those of single trials, and so include their noise. The mean of few recorded trials includes
    a good part of it, and draws have no such map: their average would show, beside what is
    expected, the one unexplained signal that they share.

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
    rows = _rows(draws, recorded)
    # As many draws as recorded trials are shown, so that rows can be compared
    n_columns = min(_MOST, max(len(rows.get("recorded trial", rows["draw"])), 2))
    means = {name: trials.mean(0) for name, trials in rows.items()}
    means["draw"] = _expected(expected, rows["draw"])
    sds = {name: trials.std(0, ddof=1) for name, trials in rows.items() if len(trials) > 1}
    responses = np.vstack([*(trials[:n_columns] for trials in rows.values()), *means.values()])
    signed = ColourScale(vmax=vmax).fit(responses)
    window, aspect = panel_window(means["draw"], labels)
    outlines = check_rois(labels.rois or {}, len(means["draw"]) // 2)
    grid = _Grid.of(len(rows), n_columns + 1 + bool(sds), aspect)

    def place_names(share: float) -> tuple[NamedOutlines, list[Placement]]:
        regions = panel_regions(outlines, window, share * grid.panel[0])
        return regions, [regions.names]

    placed = frame_named_maps(_WIDTH, grid.size, labels, place_names, fixed=grid.titles)
    framed, regions = placed.framed, placed.named
    first = []

    def plot(values: NDArray, row: int, column: int, title: str, colours: Colours) -> None:
        axes = framed.figure.add_axes(grid.box(placed, row, column), label=title)
        axes.set_title(textwrap.fill(title, 16) if grid.turned else title, fontsize=10, pad=4)
        plot_panel(axes, values, window, colours, regions)
        if column == 0:
            first.append(axes)

    for row, (name, trials) in enumerate(rows.items()):
        for k, values in enumerate(trials[:n_columns]):
            plot(values, row, k, f"{name} {k + 1} of {len(trials)}", signed)
        mean = "expected response" if name == "draw" else f"mean of {_counted(trials, name)}"
        plot(means[name], row, n_columns, mean, signed)
    add_letters(first, left=-2, above=-2)  # titles are above the maps
    bar, other = grid.bars
    add_colour_bar(framed, signed, labels.unit, **(bar if sds else {}))
    if sds:
        magnitude = ColourScale(symmetric=False).fit(np.stack(list(sds.values())))
        for row, (name, trials) in enumerate(rows.items()):
            if name in sds:
                plot(sds[name], row, n_columns + 1, f"SD of {_counted(trials, name)}", magnitude)
        unit = "SD" if grid.turned else f"SD ({labels.unit})"  # the same unit as beside it
        add_colour_bar(framed, magnitude, unit, **other)
    return framed.figure


def _rows(
    draws: Mapping[str, ArrayLike], recorded: Mapping[str, ArrayLike] | None
) -> dict[str, NDArray]:
    """Trials of each row, from the top: float64 (n_trials, 2 · n_vertices), left before right."""
    rows = {"draw": _trials(draws, "draws")}
    if recorded is None:
        return rows
    rows = {"recorded trial": _trials(recorded, "recorded"), **rows}
    if rows["recorded trial"].shape[1] != rows["draw"].shape[1]:
        raise InputError(
            f"recorded: expected the vertices of draws, {rows['draw'].shape[1] // 2} per "
            f"hemisphere, found {rows['recorded trial'].shape[1] // 2}"
        )
    return rows


class _Grid(NamedTuple):
    """Where panels are, inches: rows of trials are columns where the figure is narrow."""

    shape: tuple[int, int]  # rows and columns, as planned
    turned: bool
    panel: tuple[float, float]  # width and height of a map

    @classmethod
    def of(cls, n_rows: int, n_columns: int, aspect: float) -> _Grid:
        style = current_style()
        across = n_rows if style.narrow else n_columns
        width = (style.width(_WIDTH) - 2 * SIDE) / across - _GAP
        return cls((n_rows, n_columns), style.narrow, (width, width * aspect))

    @property
    def title(self) -> float:
        """Height of a title, of two lines where maps are narrow."""
        return (1.6 if self.turned else 1) * _TITLE

    @property
    def bars(self) -> tuple[dict[str, float], dict[str, float]]:
        """Places of the two colour bars, as shares of the width."""
        if self.turned:
            return {"centre": 0.27, "width": 0.34}, {"centre": 0.77, "width": 0.3}
        return {"centre": 0.4, "width": 0.3}, {"centre": 0.86, "width": 0.18}

    @property
    def _down_across(self) -> tuple[int, int]:
        down, across = reversed(self.shape) if self.turned else self.shape
        return down, across

    @property
    def size(self) -> tuple[float, float]:
        """Width and height of all maps, as planned, without titles."""
        down, across = self._down_across
        width, height = self.panel
        return across * (width + _GAP), down * height

    @property
    def titles(self) -> float:
        """Height of all titles above each other, which keep it where maps are smaller."""
        return self._down_across[0] * self.title

    def box(self, placed: NamedMaps, row: int, column: int) -> tuple[float, float, float, float]:
        """Shares of the figure, of one map."""
        down, _ = self._down_across
        if self.turned:
            row, column = column, row
        (width, height), share = self.panel, placed.share
        left = (placed.framed.width - self.size[0]) / 2 + column * (width + _GAP)
        left += width * (1 - share) / 2
        bottom = placed.bottom + (down - 1 - row) * (share * height + self.title)
        return placed.framed.box(left, bottom, share * width, share * height)


def _counted(trials: NDArray, name: str) -> str:
    return f"{len(trials)} {name}{'s' if len(trials) > 1 else ''}"


def _expected(maps: Mapping[str, ArrayLike], draws: NDArray) -> NDArray[np.float64]:
    """Both hemispheres side by side: (2 · n_vertices,)."""
    expected = check_maps({h: maps[h] for h in HEMISPHERES})
    if expected.shape != draws.shape[1:]:
        raise InputError(
            f"expected: expected the vertices of draws, {draws.shape[1] // 2} per hemisphere, "
            f"found {len(expected) // 2}"
        )
    return expected


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
