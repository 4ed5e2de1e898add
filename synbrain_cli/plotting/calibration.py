"""Calibration of draws against recorded trials: one figure of four panels."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from msgspec import UNSET

from synbrain_cli.io.results.evaluation import DrawScores, EvaluationRecord, PITHistograms
from synbrain_cli.io.results.record import Number
from synbrain_cli.plotting.colours import PREDICTOR_COLOURS

# Distribution → label, colour, line
_SHOWN = {
    "model": ("calibrated", PREDICTOR_COLOURS["model"], "-"),
    "linear": ("linear + normal", PREDICTOR_COLOURS["linear"], "--"),
    "mean_pattern": ("mean pattern + normal", PREDICTOR_COLOURS["mean_pattern"], ":"),
    "latent_nf1": ("latent, nf 1", PREDICTOR_COLOURS["latent"], "-."),
}
_LEVELS = (50, 80, 90, 95)


def plot_calibration(metrics: EvaluationRecord, voxels: pd.DataFrame) -> Figure:
    """Plot PIT histograms, coverage, reliability and variance of draws.

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
        Its title contains "(simulated)" where the subject is simulated.
    """
    figure = Figure(figsize=(9.5, 7.2), layout="constrained")
    axes = figure.subplots(2, 2)
    kind = " (simulated)" if metrics.simulated else ""
    figure.suptitle(
        f"{metrics.model}{kind}: draws against {metrics.n_test_trials:,} held-out trials of "
        f"{metrics.n_test_images:,} images",
        fontsize=11,
    )
    _pit(axes[0, 0], metrics.draws.pit_histogram)
    _coverage(axes[0, 1], metrics.draws)
    _reliability(axes[1, 0], metrics.draws, voxels)
    _variance(axes[1, 1], metrics.draws, voxels)
    for one in axes.flat:
        one.spines[["top", "right"]].set_visible(False)
        one.tick_params(labelsize=8)
    return figure


def _pit(axes: Axes, histograms: PITHistograms) -> None:
    heights = {name: np.array(values, float) for name, values in histograms.items()}
    for name, (label, colour, line) in _SHOWN.items():
        if name not in heights:
            continue
        edges = np.linspace(0, 1, len(heights[name]) + 1)
        if name == "model":
            axes.stairs(heights[name], edges, fill=True, color=colour, alpha=0.35, label=label)
        else:
            axes.stairs(heights[name], edges, color=colour, linestyle=line, label=label)
    axes.axhline(1, color="black", linewidth=0.8)
    axes.set(
        xlabel="rank of the recorded trial among draws (PIT)",
        ylabel="density",
        title="Rank of recorded trials: flat where calibrated",
        xlim=(0, 1),
        # Nearly all trials lie beyond the draws of the latent: their bars would hide the rest
        ylim=(0, 1.15 * max(heights[k].max() for k in ("model", "linear", "mean_pattern"))),
    )
    axes.legend(fontsize=7, framealpha=0.85, edgecolor="none", loc="lower center", ncols=2)


def _coverage(axes: Axes, draws: DrawScores) -> None:
    nominal = np.array(_LEVELS) / 100
    axes.plot([0, 1], [0, 1], color="black", linewidth=0.8)
    scores = [draws.coverage_50, draws.coverage_80, draws.coverage_90, draws.coverage_95]
    for name, (label, colour, line) in _SHOWN.items():
        found = [score.get(name) for score in scores]
        some = [x is not None for x in found]  # few draws have no widest intervals
        if any(some):
            axes.plot(
                nominal[some],
                [x for x in found if x is not None],
                marker="o",
                markersize=4,
                color=colour,
                linestyle=line,
                label=label,
            )
    by_region = [score.roi or {} for score in scores]
    for region in by_region[0]:
        axes.plot(
            nominal,
            np.array([values.get(region) for values in by_region], float),
            color=_SHOWN["model"][1],
            alpha=0.25,
            linewidth=0.7,
        )
    axes.set(
        xlabel="central interval of the draws",
        ylabel="share of recorded trials inside",
        title="Coverage (thin lines: regions)",
        xlim=(0.45, 1),
        ylim=(0, 1),
    )
    axes.legend(fontsize=7, frameon=False, loc="center right", bbox_to_anchor=(1, 0.4))


def _reliability(axes: Axes, draws: DrawScores, voxels: pd.DataFrame) -> None:
    slope, correlation, ratio = draws.ncsnr_slope, draws.ncsnr_correlation, draws.ncsnr_median_ratio
    if "ncsnr_of_draws" not in voxels or UNSET in (slope, correlation, ratio):
        axes.text(
            0.5, 0.5, "no repeats: no ncsnr", ha="center", va="center", transform=axes.transAxes
        )
        axes.set(title="Reliability")
        return
    axes.plot(
        voxels["ncsnr"],
        voxels["ncsnr_of_draws"],
        ".",
        color=_SHOWN["model"][1],
        alpha=0.4,
        markersize=4,
        markeredgewidth=0,
    )
    top = 1.05 * np.nanmax(voxels[["ncsnr", "ncsnr_of_draws"]].to_numpy(float))
    axes.plot([0, top], [0, top], color="black", linewidth=0.8)
    axes.set(
        xlabel="ncsnr recorded",
        ylabel="ncsnr of draws",
        title=f"Reliability by voxel: r {_number(correlation.model, 3)}, "
        f"slope {_number(slope.model, 2)}, median ratio {_number(ratio.model, 2)}",
        xlim=(0, top),
        ylim=(0, top),
    )


def _variance(axes: Axes, draws: DrawScores, voxels: pd.DataFrame) -> None:
    median = draws.variance_ratio_median_voxel
    ratio = voxels["variance_ratio"].to_numpy(float)
    axes.hist(
        np.clip(ratio[np.isfinite(ratio)], 0, 2),
        bins=np.linspace(0, 2, 41).tolist(),
        color=_SHOWN["model"][1],
        alpha=0.35,
    )
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set(
        xlabel="variance of draws / variance of recorded trials",
        ylabel="voxels",
        title=f"Total variance by voxel: all {_number(draws.variance_ratio.model, 3)}, "
        f"median {_number(median.model, 3)}",
        xlim=(0, 2),
    )
    for name, label, line in (
        ("latent_nf1", "latent, nf 1", "-."),
        ("latent_best", "latent, best nf", ":"),
    ):
        value = median.get(name)
        if value is not None:
            colour = _SHOWN["latent_nf1"][1]
            axes.axvline(value, color=colour, linestyle=line, label=f"{label} (median)")
            axes.legend(fontsize=7, frameon=False)


def _number(value: Number, digits: int) -> str:
    return "unknown" if value is None else f"{value:.{digits}f}"
