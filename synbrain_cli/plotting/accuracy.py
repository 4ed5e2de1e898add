"""Prediction accuracy on test images by voxel and by region: one figure."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from synbrain_cli.config import trials_name
from synbrain_cli.errors import InputError, InputTypeError
from synbrain_cli.io.results.evaluation import EvaluationRecord, ResponseScore
from synbrain_cli.plotting.colours import PREDICTOR_COLOURS as COLOURS
from synbrain_cli.plotting.figure import SIDE, add_letters, current_style, frame, wrap_names
from synbrain_cli.plotting.labels import EARLY_AREAS, Labels, simulated_note

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from synbrain_cli.brain import Brain
    from synbrain_cli.plotting.sources.evaluation import Evaluation

_COLUMNS = ("model", "linear", "ceiling")
_MOST_POINTS = 1500  # voxels, beyond which their density is plotted
_IN_BIN, _MOST_BINS = 50, 20  # voxels in a bin of the running medians, at least; and bins
_CONSTANT = "mean pattern (0)"  # constant over images, so that its correlation is 0 by definition


def plot_accuracy(
    voxels: pd.DataFrame,
    *,
    metrics: EvaluationRecord | None = None,
    title: str,
    note: str | None = None,
) -> Figure:
    """Plot the correlation over test images of each voxel, and its median in each region.

    Left, voxels against their noise ceilings, with the running medians of the model and of the
    linear encoder in bins of equal numbers of voxels; where no ceiling is known, the model against
    the linear encoder. Right, regions: V1, V2, V3 and hV4 first, the others in the order given.

    Parameters
    ----------
    voxels : DataFrame
        ``voxels.tsv`` of `synbrain evaluate`: ``model``, ``linear``, ``ceiling``. Voxels of which
        one is missing (NaN) are left out on the left, and counted.
    metrics : EvaluationRecord, optional
        Its ``metrics.json``. Without it, or without regions in it, there is no right panel.
    title : str
        Any length: wrapped.
    note : str, optional
        Highlighted text; by default "simulated subject" where the metrics are those of one.

    Returns
    -------
    matplotlib.figure.Figure
        Its legend gives the medians of the voxels shown.

    Raises
    ------
    InputError, InputTypeError
        When columns are missing, no voxel has a correlation, or the two are not of one evaluation.

    Examples
    --------
    >>> voxels = pd.DataFrame({"model": [0.2, 0.4], "linear": [0.1, 0.4], "ceiling": [0.5, 0.6]})
    >>> figure = plot_accuracy(voxels, title="sub-01")
    >>> figure.legends[0].get_texts()[1].get_text()
    'noise ceiling (median 0.550)'
    """
    values = _check(voxels, metrics)
    if note is None and metrics is not None and metrics.simulated:
        note = "simulated subject"
    regions = _regions(metrics)
    width, height = (13.0, max(4.6, 1.4 + 0.32 * len(regions))) if regions else (7.5, 5.0)
    n_panels, narrow = 2 if regions else 1, current_style().narrow
    if narrow:  # panels and legends below each other
        height = 7.8 + 0.24 * len(regions) if regions else 5.5
    framed = frame(width, height, Labels(title, "r", note=note))
    figure, margin = framed.figure, 0.6 * SIDE / framed.width
    rect = (margin, 0, 1 - 2 * margin, framed.top)
    figure.set_layout_engine("constrained", rect=rect, wspace=0.03)
    shape = (n_panels, 1) if narrow else (1, n_panels)
    axes = figure.subplots(*shape, squeeze=False).ravel()

    n_images = f"{metrics.n_test_images:,} " if metrics is not None else ""
    score = f"correlation over {n_images}test images (r)"
    if np.isfinite(values).all(1).any():
        _against_ceiling(axes[0], values, score, repeats_text(metrics))
    else:
        _against_linear(axes[0], values, score)
    if regions:
        _by_region(axes[1], regions, score)
    for one in axes:
        one.spines[["top", "right"]].set_visible(False)
        one.tick_params(labelsize=10)
    add_letters(axes, left=28)
    if narrow:
        wrap_names(axes, framed.width - 1.7)
    return figure


def accuracy_figure(brain: Brain, evaluation: Evaluation) -> Figure:
    """Return the figure of a model's evaluation: see `plot_accuracy`."""
    metrics = evaluation.metrics
    images = f"{metrics.n_test_images:,} test images{metrics.of_dataset}"
    return plot_accuracy(
        evaluation.voxels,
        metrics=metrics,
        title=f"Prediction of {images}, {brain.name}",
        note=simulated_note(brain),
    )


# Voxels -------------------------------------------------------------------------------------------


def _against_ceiling(axes: Axes, values: NDArray, score: str, repeats: str) -> None:
    """Plot correlations of the model and running medians over the ceiling: (n_voxels, 3)."""
    shown = values[np.isfinite(values).all(1)]
    model, _, ceiling = shown.T
    _plot_voxels(axes, ceiling, model)
    top = ceiling.max()
    axes.plot(
        [0, top], [0, top], color=COLOURS["ceiling"], linewidth=2, gid="ceiling",
        label=f"noise ceiling (median {_number(np.median(ceiling))})",
    )  # fmt: skip
    in_order = shown[np.argsort(ceiling, kind="stable")]
    n_bins = int(np.clip(len(shown) // _IN_BIN, 1, _MOST_BINS))
    running = np.array([np.median(part, axis=0) for part in np.array_split(in_order, n_bins)])
    # Both can be seen where they agree
    for column, name, label, line, width, marker in (
        (0, "model", "model", "-", 3.0, "o"),
        (1, "linear", "linear encoder", "--", 1.5, "s"),
    ):
        median = _number(np.median(shown[:, column]))
        axes.plot(
            running[:, 2], running[:, column], color=COLOURS[name], linestyle=line, marker=marker,
            linewidth=width, markersize=2.4 * width, markeredgewidth=0, gid=name,
            label=f"{label}, running median (median of all {median})",
        )  # fmt: skip
    axes.axhline(0, color=COLOURS["mean_pattern"], linewidth=1.5, label=_CONSTANT, gid="mean")
    axes.set_xlim(-0.02 * top, 1.02 * top)
    axes.set_xlabel(f"noise ceiling{repeats} (r)", fontsize=11)
    axes.set_ylabel(score, fontsize=11)
    axes.set_title("Voxels against their noise ceilings", fontsize=12, loc="left")
    _add_legend(axes, "left", _counted(len(values), len(shown), "correlation or ceiling"))


def _against_linear(axes: Axes, values: NDArray, score: str) -> None:
    """Plot correlations of the model over those of the linear encoder."""
    shown = values[np.isfinite(values[:, :2]).all(1), :2]
    model, linear = shown.T
    _plot_voxels(axes, linear, model)
    ends = [shown.min(), shown.max()]
    axes.plot(ends, ends, color="black", linewidth=0.8, label="equal correlations", gid="equal")
    median, other = np.median(shown, axis=0)
    axes.axhline(
        median, color=COLOURS["model"], linewidth=2, gid="model",
        label=f"model (median {_number(median)})",
    )  # fmt: skip
    axes.axvline(
        other, color=COLOURS["linear"], linewidth=2, linestyle="--", gid="linear",
        label=f"linear encoder (median {_number(other)})",
    )  # fmt: skip
    axes.axhline(0, color=COLOURS["mean_pattern"], linewidth=1.5, label=_CONSTANT, gid="mean")
    axes.set_xlabel("linear encoder (r)", fontsize=11)
    axes.set_ylabel(f"model, {score}", fontsize=11)
    axes.set_title(
        "Voxels: noise ceiling unknown, as no image was\nrepeated and the data came without ncsnr",
        fontsize=12, loc="left",
    )  # fmt: skip
    _add_legend(axes, "left", _counted(len(values), len(shown), "correlation"))


def _plot_voxels(axes: Axes, x: NDArray, y: NDArray) -> None:
    """Plot single points for few voxels, and their density for many."""
    if len(x) <= _MOST_POINTS:
        axes.plot(
            x, y, ".", color=COLOURS["model"], alpha=0.4, markeredgewidth=0,
            markersize=np.clip(120 / np.sqrt(len(x)), 4, 10),
            label="model, one voxel", gid="voxels",
        )  # fmt: skip
        return
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap

    # Neither so light that one voxel is lost nor so dark that lines are
    greys = ListedColormap(colormaps["Greys"](np.linspace(0.15, 0.8, 256)))
    density = axes.hexbin(x, y, gridsize=45, mincnt=1, cmap=greys, linewidths=0, gid="voxels")
    bar = axes.figure.colorbar(density, ax=axes, pad=0.01, aspect=35, shrink=0.8)
    bar.set_label("voxels (model)", fontsize=10)
    bar.outline.set_visible(False)


# Regions ------------------------------------------------------------------------------------------


def _regions(metrics: EvaluationRecord | None) -> dict[str, ResponseScore]:
    """Label of each row → its scores, from the top: all voxels, then along the hierarchy."""
    if metrics is None or not metrics.roi:
        return {}
    given = metrics.roi
    early = [name for name in EARLY_AREAS if name in given]
    names = early + [name for name in given if name not in early]
    rows = {
        f"{name}  ({given[name].n_voxels:,})": given[name].voxelwise_correlation for name in names
    }
    return {f"all voxels  ({metrics.n_voxels:,})": metrics.overall.voxelwise_correlation, **rows}


def _by_region(axes: Axes, regions: dict[str, ResponseScore], score: str) -> None:
    """Plot the median correlation of each region with its interval, beside the baselines."""
    row = np.arange(len(regions), dtype=float)

    def column(name: str) -> NDArray[np.float64]:
        return np.array([one.get(name) for one in regions.values()], dtype=np.float64)

    intervals = np.array([one.ci for one in regions.values()], dtype=float)
    axes.hlines(row - 0.18, *intervals.T, color=COLOURS["model"], linewidth=2.5, gid="interval")
    for name, label, marker, size, shift in (
        ("ceiling", "noise ceiling", "|", 14, 0.0),
        ("shuffled", "model, images shuffled (control)", "X", 6, 0.18),
        ("linear", "linear encoder", "s", 6, 0.18),
        ("model", "model, 95 % interval over images", "o", 7, -0.18),
    ):
        if np.isfinite(column(name)).any():
            axes.plot(
                column(name), row + shift, marker, color=COLOURS[name], markersize=size,
                markeredgewidth=2.5 if marker == "|" else 0, label=label, gid=name,
            )  # fmt: skip
    axes.axvline(0, color=COLOURS["mean_pattern"], linewidth=1.5, label=_CONSTANT, gid="mean")
    axes.axhline(0.5, color="black", linewidth=0.5)
    for tick in axes.set_yticks(row, list(regions)):
        tick.label1.set_parse_math(False)
    axes.set_ylim(len(regions) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(f"{score}, median voxel", fontsize=11)
    axes.set_title("Regions (number of voxels)", fontsize=12, loc="left")
    _add_legend(axes, "right", None)


# Words --------------------------------------------------------------------------------------------


def _counted(n_voxels: int, n_shown: int, missing: str) -> str:
    if n_shown == n_voxels:
        return f"{n_voxels:,} voxels"
    return f"{n_shown:,} voxels; {n_voxels - n_shown:,} left out, which have no {missing}"


def _add_legend(axes: Axes, side: str, title: str | None) -> None:
    """Add the legend below the panels: inside, it would cover voxels."""
    handles, names = axes.get_legend_handles_labels()
    style = {"fontsize": 10, "frameon": False, "title_fontsize": 10, "alignment": "left"}
    if current_style().narrow:  # each below its own panel
        from matplotlib.transforms import ScaledTranslation, blended_transform_factory

        names = [textwrap.fill(name, 36) for name in names]
        figure = axes.figure
        below = axes.transAxes + ScaledTranslation(0, -0.75, figure.dpi_scale_trans)  # inches
        beside = blended_transform_factory(figure.transFigure, below)
        where = {"loc": "upper left", "bbox_to_anchor": (0, 0), "bbox_transform": beside}
        axes.legend(handles, names, title=title and textwrap.fill(title, 36), **where, **style)
        return
    axes.figure.legend(
        handles, names, loc=f"outside lower {side}", title=title, borderaxespad=1, borderpad=0.7,
        ncols=2 if side == "right" and axes.figure.get_figwidth() > 12 else 1, **style,
    )  # fmt: skip


def repeats_text(metrics: EvaluationRecord | None) -> str:
    """Return the number of repeats of the ceiling, which for one is far below that for three."""
    if metrics is None:
        return ""
    low, high = metrics.repeats_per_image.min, metrics.repeats_per_image.max
    if high == 1:
        return f" of {trials_name(metrics.averaged_over)}"
    low, high = low * metrics.averaged_over, high * metrics.averaged_over
    return f" of averages of {high if low == high else f'{low} to {high}'} repeats"


def _number(value: float) -> str:
    """Three decimals, and never "-0"."""
    return f"{round(float(value), 3) + 0.0:.3f}".replace("-", "−")


# Checks -------------------------------------------------------------------------------------------


def _check(voxels: pd.DataFrame, metrics: EvaluationRecord | None) -> NDArray[np.float64]:
    """Correlations: (n_voxels, 3), in the order of the columns."""
    if not isinstance(voxels, pd.DataFrame):
        raise InputTypeError(
            f"voxels: expected the DataFrame of voxels.tsv, found {type(voxels).__name__}"
        )
    if not set(_COLUMNS) <= set(voxels.columns):
        raise InputError(
            f"voxels: expected the columns {', '.join(_COLUMNS)}, found "
            f"{', '.join(map(str, voxels.columns))}: pass the table that `synbrain evaluate` wrote"
        )
    try:
        values = voxels[list(_COLUMNS)].to_numpy(np.float64)
    except ValueError as error:
        raise InputTypeError(f"voxels: expected numbers or NaN, found text: {error}") from error
    if not np.isfinite(values[:, :2]).all(1).any():
        raise InputError(
            "voxels: expected correlations of the model and of the linear encoder in one voxel or "
            f"more, found none in {len(values):,}"
        )
    if metrics is not None and not isinstance(metrics, EvaluationRecord):
        raise InputTypeError(
            f"metrics: expected the EvaluationRecord of metrics.json, found "
            f"{type(metrics).__name__}"
        )
    if metrics is not None and metrics.n_voxels != len(values):
        raise InputError(
            f"metrics: expected those of the same evaluation as the table of {len(values):,} "
            f"voxels, found {metrics.n_voxels:,} voxels"
        )
    return values
