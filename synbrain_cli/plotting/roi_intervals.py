"""Mean responses of ROIs: draws of a model as intervals, recorded trials as points."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from synbrain_cli.errors import InputError, InputTypeError
from synbrain_cli.plotting.colours import PREDICTOR_COLOURS as COLOURS
from synbrain_cli.plotting.figure import SIDE, Frame, add_letters, current_style, frame
from synbrain_cli.plotting.labels import Labels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_INNER, _OUTER = 0.5, 0.9  # nominal levels of the thick and of the thin interval
MOST_PANELS = 6  # images that have a panel each; of more, each region has one
_NARROWEST, _WIDEST = 7.5, 13.0  # of all panels, inches
_BESIDES = 0.6  # inches beside the panels, for their axis
_FORMAT = 1.6  # width / height that panels are arranged for: a slide's
_BESIDE = (0.18, 0.38)  # where repeats lie, right of their draws, as a share of the spacing,
_FARTHEST = 36.0  # which counts as no more than this, points
_LONGEST_NAME = 24  # letters


def plot_rois(
    draws: ArrayLike,
    expected: ArrayLike,
    labels: Labels,
    *,
    rois: Sequence[str],
    images: Sequence[str],
    recorded: Sequence[ArrayLike | None] | None = None,
) -> Figure:
    """Plot each region's mean response: the expected one, and central intervals over draws.

    Up to six images have a panel each, with regions along the axis. Of more, each region has a
    panel, with images along the axis in the order given. All panels share their axes.

    The thick interval is of 50 %, the thin one of 90 %. Where there are too few draws for that
    (fewer than 19), the thin one is their range, and the legend gives its level: a further trial,
    were it one more draw, is as likely to lie in each of the n + 1 gaps between and beyond n
    draws, hence within their range with probability (n − 1)/(n + 1).

    Parameters
    ----------
    draws : float array of shape (n_images, n_draws, n_rois)
        Region means of each draw, from ``roi_means``; NaN where a region is empty. Where recorded
        trials are to be compared with the intervals, draw with ``signal="fresh"``: draws that
        share the signal no prediction explains vary less than recorded trials differ from them,
        and lie about their own response and not the expected one.
    expected : float array of shape (n_images, n_rois)
        Region means of the response that the model expects (`Brain.mean`); NaN as in the draws.
    labels : Labels
        Title, of any length; unit of the responses; note, such as "simulated".
    rois, images : lists of n_rois and n_images names
    recorded : list, optional
        One entry per image: None, or the region means of its recorded single trials, float array
        of shape (n_repeats, n_rois) in the same unit. They lie right of their draws, in the order
        given.

    Returns
    -------
    matplotlib.figure.Figure
        As large as its content needs, 13.6 inches wide at most, or as the style has it.

    Raises
    ------
    InputError, InputTypeError
        When the arrays and the names do not fit together.

    Examples
    --------
    >>> draws = np.random.default_rng(0).normal(size=(1, 200, 2))
    >>> names = {"rois": ["V1", "V2"], "images": ["coffee"]}
    >>> labels = Labels("coffee", "percent signal change")
    >>> figure = plot_rois(draws, np.zeros((1, 2)), labels, **names)
    >>> [label.get_text() for label in figure.axes[0].get_xticklabels()]
    ['V1', 'V2']
    """
    draws = _check_draws(draws, rois, images)
    means = _check_expected(expected, draws)
    trials = _check_recorded(recorded, rois, images)
    by_image = len(images) <= MOST_PANELS
    panels, along = (images, rois) if by_image else (rois, images)
    values = draws if by_image else draws.transpose(2, 1, 0)  # (n_panels, n_draws, n_positions)
    means = means if by_image else means.T
    layout = _arrange(len(panels), along, by_image)

    framed = frame(layout.width, layout.height, labels)
    figure = framed.figure
    left, right = 1.8 * SIDE / framed.width, 0.5 * SIDE / framed.width
    figure.set_layout_engine("constrained", rect=(left, 0, 1 - left - right, framed.top))
    grid = figure.subplots(
        layout.n_rows, layout.n_columns, sharex=True, sharey=True, squeeze=False
    ).ravel()
    axes = list(grid[: len(panels)])
    for empty in grid[len(panels) :]:
        empty.remove()
    for number, (one, name) in enumerate(zip(axes, panels, strict=True)):
        _plot_intervals(one, values[number], means[number], layout.spacing)
        if trials is not None:
            _plot_trials(one, trials, number, by_image, layout.spacing)
        one.set_title(_short(name), fontsize=11, parse_math=False)
        one.spines[["top", "right"]].set_visible(False)
        one.tick_params(labelsize=10)
    add_letters(axes, left=14)
    low, high = axes[0].get_ylim()
    if low <= 0 <= high:
        for one in axes:
            one.axhline(0, color="black", linewidth=0.6, zorder=0, gid="zero")
    _name_positions(axes, along, layout, "region" if by_image else "image")
    # In the middle of all rows, and as it may be longer than one, of no say in their height
    axes[(layout.n_rows - 1) // 2 * layout.n_columns].set_ylabel(
        f"mean response ({labels.unit})", y=0.5 if layout.n_rows % 2 else -0.1, fontsize=11,
        parse_math=False, in_layout=False,
    )  # fmt: skip
    order = f"in the order given: 1 is {_short(along[0])}, {len(along)} {_short(along[-1])}"
    _add_legend(framed, axes[0], layout, None if layout.names else order)
    return figure


def roi_means(values: ArrayLike, masks: Mapping[str, ArrayLike]) -> NDArray[np.float64]:
    """Average responses over the voxels of each region; missing ones (NaN) are left out.

    Parameters
    ----------
    values : float array of shape (..., n_voxels)
        Draws, say, of shape (n_images, n_draws, n_voxels), in any unit.
    masks : dict of bool arrays of shape (n_voxels,)
        One per region, as ``Brain.rois()`` returns them.

    Returns
    -------
    float64 array of shape (..., n_rois)
        In the order of ``masks``; NaN where no voxel of a region has a value.

    Raises
    ------
    InputError, InputTypeError
        When values are no numbers, or a mask is not boolean or has another length.

    Examples
    --------
    >>> masks = {"V1": np.array([True, True, False]), "V2": np.array([False, False, True])}
    >>> roi_means([[1.0, 3.0, np.nan]], masks).tolist()
    [[2.0, nan]]
    """
    values = np.asarray(values)
    if values.dtype.kind not in "iuf" or values.ndim == 0:
        raise InputTypeError(
            f"values: expected numbers of shape (..., n_voxels), found {values.dtype} of shape "
            f"{values.shape}"
        )
    means = np.full((*values.shape[:-1], len(masks)), np.nan)
    for number, (name, mask) in enumerate(masks.items()):
        mask = np.asarray(mask)
        if mask.dtype != bool or mask.shape != values.shape[-1:]:
            raise InputError(
                f"mask {name!r}: expected a bool array of shape ({values.shape[-1]},), one entry "
                f"per voxel of the values, found {mask.dtype} of shape {mask.shape}"
            )
        inside = values[..., mask]
        known = ~np.isnan(inside)
        n_known = known.sum(-1)
        total = inside.sum(-1, where=known, dtype=np.float64)
        np.divide(total, n_known, out=means[..., number], where=n_known > 0)
    return means


# Plotting -----------------------------------------------------------------------------------------


def _plot_intervals(axes: Axes, values: NDArray, means: NDArray, spacing: float) -> None:
    """Plot the draws of a panel, (n_draws, n_positions), at positions ``spacing`` points apart."""
    colour, position, n_draws = COLOURS["model"], np.arange(values.shape[1]), len(values)
    thick = min(7.0, 0.6 * spacing)  # points
    widest = (n_draws - 1) / (n_draws + 1)  # level of the range
    if n_draws > 1:
        ends, label = _interval(values, _OUTER), f"central {100 * _OUTER:g} % of draws"
        if widest < _OUTER:
            ends = values.min(0), values.max(0)
            label = f"range of the draws ({100 * widest:.0f} % interval)"
        axes.vlines(position, *ends, color=colour, linewidth=0.22 * thick, label=label, gid="outer")
    else:
        axes.plot(
            position, values[0], "_", color=colour, markersize=2 * thick,
            markeredgewidth=0.3 * thick, label="one draw", gid="outer",
        )  # fmt: skip
    if widest >= _INNER:
        axes.vlines(
            position, *_interval(values, _INNER), color=colour, linewidth=thick, gid="inner",
            label=f"central {100 * _INNER:g} % of draws",
        )  # fmt: skip
    axes.plot(
        position, means, "o", color=colour, markerfacecolor="white",
        markersize=0.85 * thick, markeredgewidth=0.15 * thick, gid="expected",
        label="expected response",
    )  # fmt: skip


def _interval(values: NDArray, level: float) -> NDArray:
    """Ends of the central interval over draws: (n_draws, n_positions) → (2, n_positions).

    Quantile p is the order statistic p(n + 1) (Hyndman & Fan 1996, definition 6), below which a
    share p of further trials are expected; numpy's default would make the interval too narrow.
    """
    return np.quantile(values, [(1 - level) / 2, (1 + level) / 2], axis=0, method="weibull")


class _Trials(NamedTuple):
    """Recorded trials of all images."""

    image: NDArray[np.int64]  # (n_trials,)
    offset: NDArray[np.float64]  # (n_trials,), from the position of the draws, of the spacing
    values: NDArray[np.float64]  # (n_trials, n_rois)
    label: str


def _plot_trials(axes: Axes, trials: _Trials, panel: int, by_image: bool, spacing: float) -> None:
    """Plot the recorded trials of an image, or of a region, as points."""
    offset = trials.offset[:, None] * min(1, _FARTHEST / spacing)
    if by_image:
        some = trials.image == panel
        y = trials.values[some]  # (n_repeats, n_rois)
        x = np.arange(y.shape[1]) + offset[some]
    else:
        y = trials.values[:, [panel]]
        x = trials.image[:, None] + offset
    axes.plot(
        x.ravel(), y.ravel(), "o", color=COLOURS["recorded"], markersize=min(4.5, 0.4 * spacing),
        markeredgecolor="white", markeredgewidth=min(0.4, 0.04 * spacing), zorder=3,
        label=trials.label, gid="recorded",
    )  # fmt: skip


# Layout -------------------------------------------------------------------------------------------


class _Layout(NamedTuple):
    n_rows: int
    n_columns: int
    width: float  # of the figure, inches
    height: float  # of all panels
    spacing: float  # of positions, points
    names: float  # how far names reach down, inches; 0 where positions are numbered
    upright: bool


def _arrange(n_panels: int, along: Sequence[str], by_image: bool) -> _Layout:
    """Choose the number of columns that brings the figure closest to the format of a slide."""
    n_positions = len(along)
    # Inches per name, and height of a panel: regions are read one by one, images as a series
    wanted, least, height = (0.5, 0.28, 2.6) if by_image else (0.2, 0.055, 1.7)
    choices = []
    style = current_style()
    widest = style.width(_WIDEST + _BESIDES) - _BESIDES
    for n_columns in range(1, n_panels + 1):
        width = max(2.4, _NARROWEST / n_columns, wanted * n_positions + 0.3)
        width = min(width, widest / n_columns)
        if n_columns > 1 and width < least * n_positions + 0.3:
            break
        width = (style.width(n_columns * width + _BESIDES) - _BESIDES) / n_columns
        n_rows = math.ceil(n_panels / n_columns)
        misfit = abs(math.log((n_columns * width + _BESIDES) / (n_rows * height + 1.8) / _FORMAT))
        n_empty = n_rows * n_columns - n_panels
        choices.append((misfit + 0.35 * n_empty, n_rows, n_columns, width))
    _, n_rows, n_columns, width = min(choices)
    spacing = (width - 0.3) / n_positions
    longest = 0.083 * max(len(_short(name)) for name in along)  # inches, in letters of 10 points
    upright = longest + 0.06 > spacing
    names = (longest if spacing > 0.15 else 0) if upright else 0.2
    return _Layout(
        n_rows,
        n_columns,
        n_columns * width + _BESIDES,
        max(n_rows * height, 2.6) + names * (2 if n_rows * n_columns > n_panels else 1),
        72 * spacing,
        names,
        upright,
    )


def _name_positions(axes: Sequence[Axes], along: Sequence[str], layout: _Layout, kind: str) -> None:
    """Label the positions: by names, or where these have no room by numbers, some seven of them."""
    n_positions = len(along)
    step = 1 if layout.names else next((n for n in (5, 10, 20, 50) if n_positions < 8 * n), 100)
    ticks = np.unique([0, *range(step - 1, n_positions, step)])
    labels = [_short(along[tick]) if layout.names else f"{tick + 1}" for tick in ticks]
    for number, one in enumerate(axes):
        one.set_xlim(-0.7, n_positions - 0.3)
        rotation = 90 if layout.names and layout.upright else 0
        for tick in one.set_xticks(ticks, labels, rotation=rotation):
            tick.label1.set_parse_math(False)
        if number + layout.n_columns >= len(axes):  # the lowest of its column
            one.tick_params(labelbottom=True)
            if not layout.names:
                one.set_xlabel(kind, fontsize=11)


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"


def _add_legend(framed: Frame, axes: Axes, layout: _Layout, title: str | None) -> None:
    """Add the legend of bars and points below the panels."""
    handles, labels = axes.get_legend_handles_labels()
    most = max(1, int(framed.width / (0.073 * max(map(len, labels)) + 0.45)))  # in a line
    legend = framed.figure.legend(
        handles, labels, loc="outside lower center", fontsize=10, frameon=False, handlelength=1,
        ncols=math.ceil(len(labels) / math.ceil(len(labels) / most)),
        markerscale=max(1, 12 / layout.spacing), title=title, title_fontsize=10,
    )  # fmt: skip
    legend.get_title().set_parse_math(False)


# Checks -------------------------------------------------------------------------------------------


def _check_draws(
    draws: ArrayLike, rois: Sequence[str], images: Sequence[str]
) -> NDArray[np.float64]:
    draws = _numbers(draws, "draws")
    if draws.ndim != 3 or 0 in draws.shape or draws.shape[::2] != (len(images), len(rois)):
        raise InputError(
            f"draws: expected shape (n_images, n_draws, n_rois) with {len(images)} images and "
            f"{len(rois)} ROIs, one a name, and one draw or more; found {draws.shape}"
        )
    return draws


def _check_expected(expected: ArrayLike, draws: NDArray[np.float64]) -> NDArray[np.float64]:
    means = _numbers(expected, "expected")
    if means.shape != draws.shape[::2]:
        raise InputError(
            f"expected: expected shape {draws.shape[::2]}, a mean of each image and region, found "
            f"{means.shape}"
        )
    return means


def _check_recorded(
    recorded: Sequence[ArrayLike | None] | None, rois: Sequence[str], images: Sequence[str]
) -> _Trials | None:
    if recorded is None:
        return None
    if len(recorded) != len(images):
        raise InputError(
            f"recorded: expected {len(images)} entries, one per image, None where there is no "
            f"trial; found {len(recorded)}"
        )
    image, offset, values = [], [], []
    for number, one in enumerate(recorded):
        if one is None or np.size(one) == 0:
            continue
        trials = _numbers(one, f"recorded trials of {images[number]}")
        if trials.ndim != 2 or trials.shape[1] != len(rois):
            raise InputError(
                f"recorded trials of {images[number]}: expected shape (n_repeats, {len(rois)}), "
                f"one column per ROI, found {trials.shape}"
            )
        n_repeats = len(trials)
        image.append(np.full(n_repeats, number))
        offset.append(np.linspace(*_BESIDE, n_repeats) if n_repeats > 1 else _BESIDE[:1])
        values.append(trials)
    if not values:
        return None
    counts = sorted({len(trials) for trials in values})
    repeats = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    some = "" if len(values) == len(images) else f"; {len(values)} of {len(images)} images"
    label = f"recorded trials ({repeats} repeat{'s' if counts[-1] > 1 else ''}{some})"
    return _Trials(*(np.concatenate(parts) for parts in (image, offset, values)), label)


def _numbers(values: ArrayLike, name: str) -> NDArray[np.float64]:
    values = np.asarray(values)
    if values.dtype.kind not in "iuf":
        raise InputTypeError(f"{name}: expected real numbers, found dtype {values.dtype}")
    if np.isinf(values).any() or (values.size and np.isnan(values).all()):
        raise InputError(
            f"{name}: expected finite values, NaN where a region is empty; found "
            f"{'infinite ones' if np.isinf(values).any() else 'only NaN'}"
        )
    return values.astype(np.float64)
