"""Calibration of draws against recorded trials: one figure of four panels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from msgspec import UNSET
from numpy.typing import NDArray

from synbrain_cli.io.results.evaluation import DrawScores, EvaluationRecord, PITHistograms
from synbrain_cli.io.results.record import Number
from synbrain_cli.plotting.colours import PREDICTOR_COLOURS
from synbrain_cli.plotting.figure import SIDE, add_letters, current_style, frame
from synbrain_cli.plotting.labels import Labels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Distribution → label, colour, line
_SHOWN = {
    "model": ("calibrated draws", PREDICTOR_COLOURS["model"], "-"),
    "linear": ("linear + normal", PREDICTOR_COLOURS["linear"], "--"),
    "mean_pattern": ("mean pattern + normal", PREDICTOR_COLOURS["mean_pattern"], ":"),
    "latent_nf1": ("latent, nf 1", PREDICTOR_COLOURS["latent"], "-."),
    "latent_best": ("latent, best nf", PREDICTOR_COLOURS["latent"], ":"),
}
_RANKED = ("model", "linear", "mean_pattern", "latent_nf1")  # whose ranks and coverage are shown
_LEVELS = (50, 80, 90, 95)
_MOST = 2.0  # ratio of variances, beyond which voxels share a bar


def plot_calibration(metrics: EvaluationRecord, voxels: pd.DataFrame) -> Figure:
    """Plot PIT histograms, coverage, reliability and variance of draws.

    Bars that are cut have an arrow and their height; voxels whose variance is beyond the axis are
    collected in its last bar, which is hatched and counted.

    Parameters
    ----------
    metrics : EvaluationRecord
        ``metrics.json`` of `synbrain evaluate`.
    voxels : DataFrame
        Its ``voxels.tsv``: ``ncsnr``, ``ncsnr_of_draws`` (where there are repeats),
        ``variance_ratio``.

    Returns
    -------
    Figure
        With the note "simulated subject" where the subject is one.
    """
    narrow = current_style().narrow  # panels are below each other
    title = (
        f"Draws against {metrics.n_test_trials:,} held-out trials of "
        f"{metrics.n_test_images:,} images{metrics.of_dataset}, {metrics.model}"
    )
    note = "simulated subject" if metrics.simulated else None
    framed = frame(12.0, 11.0 if narrow else 7.0, Labels(title, "", note=note))
    figure, margin = framed.figure, 0.6 * SIDE / framed.width
    rect = (margin, 0, 1 - 2 * margin, framed.top)
    figure.set_layout_engine("constrained", rect=rect, h_pad=0.12, w_pad=0.08)
    axes = figure.subplots(*((4, 1) if narrow else (2, 2))).ravel()
    _pit(axes[0], metrics.draws.pit_histogram)
    _coverage(axes[1], metrics.draws)
    _reliability(axes[2], metrics.draws, voxels)
    _variance(axes[3], metrics.draws, voxels)
    for one in axes:
        one.spines[["top", "right"]].set_visible(False)
        one.tick_params(labelsize=10)
    add_letters(axes, left=30, above=19)  # beside the first of two lines
    _add_legend(figure, axes, "outside lower left" if narrow else "outside right center")
    return figure


def _label(axes: Axes, title: str, across: str, up: str) -> None:
    axes.set_title(title, fontsize=12, loc="left")
    axes.set_xlabel(across, fontsize=11)
    axes.set_ylabel(up, fontsize=11)


def _pit(axes: Axes, histograms: PITHistograms) -> None:
    heights = {name: np.array(values, float) for name, values in histograms.items()}
    # Nearly all trials lie beyond the draws of the latent: their bars would hide the rest
    top = 1.15 * max(heights[k].max() for k in ("model", "linear", "mean_pattern"))
    for name in _RANKED:
        if name not in heights:
            continue
        label, colour, line = _SHOWN[name]
        edges = np.linspace(0, 1, len(heights[name]) + 1)
        if name == "model":
            axes.stairs(heights[name], edges, fill=True, color=colour, alpha=0.35, label=label)
        else:
            axes.stairs(
                heights[name], edges, color=colour, linestyle=line, linewidth=1.5, label=label
            )
        _mark_cut(axes, heights[name], edges, top, colour)
    axes.axhline(1, color="black", linewidth=0.8)
    axes.set(xlim=(0, 1), ylim=(0, top))
    _label(
        axes,
        "Ranks of recorded trials:\nflat where calibrated",
        "rank among draws (PIT)",
        "density",
    )


def _mark_cut(axes: Axes, heights: NDArray, edges: NDArray, top: float, colour: str) -> None:
    """Point out of the panel, with the height, where an outer bar is higher than the panel."""
    for k, align in ((0, "left"), (-1, "right")):
        if heights[k] > top:
            middle = (edges[:2] if k == 0 else edges[-2:]).mean()
            arrow = {"arrowstyle": "-|>", "color": colour, "linewidth": 1.5}
            axes.annotate(
                "", (middle, top), (middle, 0.9 * top), arrowprops=arrow, gid="cut", zorder=4
            )
            axes.text(
                middle + (0.035 if k == 0 else -0.035), 0.97 * top, f"cut: {heights[k]:.1f}",
                ha=align, va="top", fontsize=10, gid="cut",
            )  # fmt: skip


def _coverage(axes: Axes, draws: DrawScores) -> None:
    nominal = np.array(_LEVELS) / 100
    axes.plot([0, 1], [0, 1], color="black", linewidth=0.8, label="as recorded trials are")
    scores = [draws.coverage_50, draws.coverage_80, draws.coverage_90, draws.coverage_95]
    by_region = [score.roi or {} for score in scores]
    for number, region in enumerate(by_region[0]):
        axes.plot(
            nominal,
            np.array([values.get(region) for values in by_region], float),
            color=_SHOWN["model"][1],
            alpha=0.35,
            linewidth=0.7,
            label="_" if number else "calibrated, by region",
        )
    for name in _RANKED:
        label, colour, line = _SHOWN[name]
        found = [score.get(name) for score in scores]
        some = [x is not None for x in found]  # few draws have no widest intervals
        if any(some):
            axes.plot(
                nominal[some],
                [x for x in found if x is not None],
                marker="o",
                markersize=5,
                color=colour,
                linestyle=line,
                label=label,
            )
    axes.set(xlim=(0.45, 1), ylim=(0, 1))
    _label(
        axes,
        "Coverage of intervals:\ndiagonal where calibrated",
        "central interval of draws",
        "share of trials inside",
    )


def _reliability(axes: Axes, draws: DrawScores, voxels: pd.DataFrame) -> None:
    slope, correlation, ratio = draws.ncsnr_slope, draws.ncsnr_correlation, draws.ncsnr_median_ratio
    if "ncsnr_of_draws" not in voxels or UNSET in (slope, correlation, ratio):
        axes.text(
            0.5, 0.5, "no repeats: no ncsnr", ha="center", va="center", transform=axes.transAxes
        )
        axes.set_title("Reliability by voxel", fontsize=12, loc="left")
        return
    axes.plot(
        voxels["ncsnr"],
        voxels["ncsnr_of_draws"],
        ".",
        color=_SHOWN["model"][1],
        alpha=0.4,
        markersize=5,
        markeredgewidth=0,
    )
    top = 1.05 * np.nanmax(voxels[["ncsnr", "ncsnr_of_draws"]].to_numpy(float))
    axes.plot([0, top], [0, top], color="black", linewidth=0.8)
    axes.set(xlim=(0, top), ylim=(0, top))
    _label(
        axes,
        f"Reliability by voxel: r {_number(correlation.model, 3)},\n"
        f"slope {_number(slope.model, 2)}, median ratio {_number(ratio.model, 2)}",
        "ncsnr of recordings",
        "ncsnr of draws",
    )


def _variance(axes: Axes, draws: DrawScores, voxels: pd.DataFrame) -> None:
    median = draws.variance_ratio_median_voxel
    ratio = voxels["variance_ratio"].to_numpy(float)
    ratio = ratio[np.isfinite(ratio)]
    beyond = int((ratio >= _MOST).sum())
    _, _, bars = axes.hist(
        np.clip(ratio, 0, _MOST),
        bins=np.linspace(0, _MOST, 41).tolist(),
        color=_SHOWN["model"][1],
        alpha=0.35,
    )
    if beyond:
        last = bars[-1]
        last.set(hatch="/////", edgecolor="black", linewidth=0.5)
        tip = min(last.get_height(), 0.75 * axes.get_ylim()[1])
        axes.annotate(
            f"{beyond:,} voxel{'s' if beyond > 1 else ''} of {_MOST:g} or more\nin the last bar",
            (_MOST - 0.025, tip), (0, 24), textcoords="offset points", ha="right",
            va="bottom", fontsize=10, gid="cut",
            arrowprops={"arrowstyle": "-|>", "color": "black", "linewidth": 1.0},
        )  # fmt: skip
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set(xlim=(0, _MOST))
    ticks = np.linspace(0, _MOST, 5)
    names = [f"{tick:g}" for tick in ticks]
    axes.set_xticks(ticks, [*names[:-1], f"≥ {names[-1]}"] if beyond else names)
    _label(
        axes,
        "Total variance by voxel:\n"
        f"all {_number(draws.variance_ratio.model, 3)}, median {_number(median.model, 3)}",
        "variance of draws / recordings",
        "voxels",
    )
    for name in ("latent_nf1", "latent_best"):
        value = median.get(name)
        if value is not None:
            label, colour, line = _SHOWN[name]
            axes.axvline(value, color=colour, linestyle=line, linewidth=1.5, label=label, gid=name)


def _add_legend(figure: Figure, axes: NDArray, where: str) -> None:
    """Add one legend of all panels beside them: inside, it would cover what they show."""
    entries = {}
    for one in axes:
        for handle, label in zip(*one.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    first = [label for label, _, _ in _SHOWN.values() if label in entries]
    names = [*first, *(label for label in entries if label not in first)]
    figure.legend(
        [entries[name] for name in names], names, loc=where, fontsize=10, frameon=False,
        handlelength=2.6, labelspacing=0.8, alignment="left",
    )  # fmt: skip


def _number(value: Number, digits: int) -> str:
    return "unknown" if value is None else f"{value:.{digits}f}"
