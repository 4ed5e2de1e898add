"""Scores of several models of one subject, one row each: one figure."""

from __future__ import annotations

import textwrap

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from synbrain_cli.io.results.comparison import ComparedRow, Comparison, Estimate
from synbrain_cli.plotting.colours import PREDICTOR_COLOURS
from synbrain_cli.plotting.figure import new_figure

# Kind of row → colour, marker
_SHOWN = {
    "mean_pattern": (PREDICTOR_COLOURS["mean_pattern"], "D"),
    "shuffled": (PREDICTOR_COLOURS["shuffled"], "X"),
    "linear": (PREDICTOR_COLOURS["linear"], "s"),
    "model": (PREDICTOR_COLOURS["model"], "o"),
}
_LABELS = {
    "noise_normalised_correlation": "correlation / noise ceiling (median over {n} reliable voxels)",
    "voxelwise_correlation": "correlation with the repeat averages (median over {n} voxels)",
}


def plot_comparison(comparison: Comparison) -> Figure:
    """Plot the score of each model with its interval.

    Parameters
    ----------
    comparison : Comparison
        Results of `synbrain compare`.

    Returns
    -------
    Figure
        One row per predictor in the order of the file. The noise ceiling is a line where it is
        known, as is the reference (dashed). The title contains "(simulated)" where the subject is
        simulated.
    """
    by = comparison.compared_by
    rows = [row for row in comparison.rows if row.kind in _SHOWN]
    scored = [(row, score) for row in rows if (score := row.score(by)) is not None]
    figure = new_figure(9.5, 1.9 + 0.52 * len(scored), layout="constrained")
    axes = figure.subplots()
    for position, (row, score) in enumerate(scored):
        _row(axes, position, row.kind, score)
    names = axes.set_yticks(range(len(scored)), labels=[_name(row) for row, _ in scored])
    for name in names:
        name.label1.set(parse_math=False, fontsize=8, linespacing=1.3)
    axes.axvline(0, color="black", linewidth=0.6)
    lines = _lines(axes, comparison, scored)
    normalised = comparison.is_normalised
    n_voxels = comparison.n_reliable_voxels if normalised else comparison.n_voxels
    limits = [x for _, score in scored for x in (score.value, *(score.ci or ()))]
    low, high = min(0, *limits), max(1 if normalised else 0, *limits)
    axes.set(
        xlabel=_LABELS[by].format(n=f"{n_voxels:,}"),
        xlim=(low - 0.03 * (high - low), high + 0.05 * (high - low)),
        ylim=(len(scored) - 0.4, -0.6),
    )
    kind = " (simulated)" if comparison.simulated else ""
    n_images = comparison.n_test_images
    figure.suptitle(
        f"{comparison.subject}{kind}: models compared on {n_images:,} test images"
        f"{comparison.of_dataset}",
        fontsize=11,
    )
    axes.set_title("95 % intervals over images", fontsize=8, loc="left")
    if lines:
        figure.legend(handles=lines, fontsize=8, frameon=False, ncols=2, loc="outside lower right")
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(axis="x", labelsize=8)
    axes.tick_params(axis="y", length=0)
    return figure


def _row(axes: Axes, position: int, kind: str, score: Estimate) -> None:
    colour, marker = _SHOWN[kind]
    value, limits = score.value, score.ci
    if limits:
        axes.plot(limits, [position, position], color=colour, linewidth=2.5, alpha=0.6)
    axes.plot([value], [position], marker=marker, color=colour, markersize=8, linestyle="none")
    text = f"{round(value, 3) + 0.0:.3f}"
    if limits:
        text += " [{:.3f}, {:.3f}]".format(*(round(x, 3) + 0.0 for x in limits))
    axes.annotate(
        text,
        (1.01, position),
        xycoords=("axes fraction", "data"),
        va="center",
        fontsize=8,
        annotation_clip=False,
    )


def _lines(
    axes: Axes, comparison: Comparison, scored: list[tuple[ComparedRow, Estimate]]
) -> list[Line2D]:
    """Plot lines of the noise ceiling and the reference; return them for the legend."""
    lines = []
    if comparison.is_normalised:
        lines.append(axes.axvline(1, color="black", linewidth=1.2, label="noise ceiling"))
    for row, score in scored:
        if row.kind == "model" and row.row == comparison.reference:
            what = "all their data" if comparison.reference_has_all_data else "the reference"
            line = axes.axvline(
                score.value,
                color=_SHOWN["model"][0],
                linewidth=1.2,
                linestyle="--",
                zorder=0,
                label=f"{row.row}, {what}",
            )
            lines.append(line)
    return lines


def _name(row: ComparedRow) -> str:
    """Name, and below it what it was trained on."""
    lines = textwrap.wrap(row.row, 46)
    return "\n".join([*lines, *textwrap.wrap(_training(row), 54)])


def _training(row: ComparedRow) -> str:
    training = row.training
    if training is None:
        return ""
    parts = []
    if training.hours is not None:
        parts.append(f"{training.hours:g} hour" + ("s" if training.hours != 1 else ""))
    parts.append(f"{training.n_trials:,} trials")
    if training.sources:
        parts.append(f"from {', '.join(training.sources)}")
    if training.strategy:
        parts.append(training.strategy.partition(":")[0])
    return ", ".join(parts)
