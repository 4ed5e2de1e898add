"""Scores of decoders trained with synthesized trials as well: one figure of two panels."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from synbrain_cli.config import trials_name
from synbrain_cli.io.results.augmentation import Augmentation
from synbrain_cli.plotting.figure import add_letters, new_figure

# Condition → label, colour (of the palette of Okabe & Ito 2008)
_SHOWN = {
    "draws": ("draws", "#0072B2"),
    "mean": ("predicted means", "#E69F00"),
    "shuffled": ("draws, images shuffled", "#999999"),
}
_LINES = {"averages": "--", "trials": "-"}
_STEP = 0.05  # between curves, so that their bars lie beside each other


def plot_augmentation(augmentation: Augmentation) -> Figure:
    """Plot scores on test trials over the amount of synthesized trials.

    Bars are 95 % intervals of the difference to real trials alone, whose score the thin lines
    show. A ring marks the amount that validation images choose.

    Parameters
    ----------
    augmentation : Augmentation
        Results of `synbrain augment`.

    Returns
    -------
    Figure
        Its title contains "(simulated)" where the subject is simulated.
    """
    figure = new_figure(9.5, 5.2, layout="constrained")
    axes = figure.subplots(1, 2)
    kind = " (simulated)" if augmentation.simulated else ""
    figure.suptitle(
        f"{augmentation.model}{kind}\ndecoders of {augmentation.n_real_trials:,} real and more "
        f"and more synthesized trials, on {augmentation.n_test_trials:,} real test trials",
        fontsize=10,
    )
    _panel(axes[0], augmentation, "two_way", "Two-way identification")
    _panel(
        axes[1], augmentation, "retrieval", f"Retrieval: first among {augmentation.n_candidates}"
    )
    add_letters(axes, left=30)
    figure.legend(
        *axes[0].get_legend_handles_labels(),
        loc="outside lower center",
        ncols=2,
        fontsize=7,
        frameon=False,
        handlelength=4,
        title="bars: 95 % interval of the difference to real trials alone (thin lines); ring: the "
        "amount chosen on validation images",
        title_fontsize=7,
    )
    return figure


def _panel(axes: Axes, augmentation: Augmentation, score: str, title: str) -> None:
    amounts = augmentation.amounts
    position = np.arange(len(amounts))
    shift = -2.5 * _STEP
    kinds = {"averages": "repeat averages", "trials": trials_name(augmentation.averaged_over)}
    for kind, kind_label in kinds.items():
        line = _LINES[kind]
        for condition, (label, colour) in _SHOWN.items():
            decoders = augmentation.conditions[condition]
            found = [decoder.scores[f"{score}_{kind}"] for decoder in decoders]
            value = np.array([f.value for f in found])
            low, high = value[0] + np.array([f.gain_ci for f in found]).T
            axes.errorbar(
                position + shift,
                value,
                # The limits of an interval that hardly has a width may both lie beside the value.
                [np.maximum(value - low, 0), np.maximum(high - value, 0)],
                color=colour,
                linestyle=line,
                marker="o",
                markersize=3.5,
                elinewidth=0.8,
                label=f"{label}, {kind_label}",
            )
            chosen = amounts.index(augmentation.chosen[condition].amount)
            axes.plot(
                position[chosen] + shift,
                value[chosen],
                "o",
                markersize=9,
                markerfacecolor="none",
                markeredgecolor=colour,
            )
            shift += _STEP
        axes.axhline(value[0], color="black", linestyle=line, linewidth=0.6)
    _chance(axes, augmentation.chance[f"{score}_trials"])
    axes.set(
        xlabel="synthesized trials / real trials",
        ylabel="share identified",
        title=title,
        xticks=position,
        xticklabels=[f"{amount:g}" for amount in amounts],
    )
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)


def _chance(axes: Axes, chance: float) -> None:
    """A line, or a word at the edge where the line would press all curves into one."""
    low, high = axes.get_ylim()
    near = low - chance < 1.5 * (high - low)
    if near:
        axes.axhline(chance, color="black", linestyle=":", linewidth=0.8)
    axes.annotate(
        "chance" if near else f"↓ chance {chance:.3g}",
        (1, chance if near else low),
        xycoords=("axes fraction", "data"),
        xytext=(-2, 2),
        textcoords="offset points",
        ha="right",
        fontsize=7,
    )
    axes.set_ylim(*axes.get_ylim())
