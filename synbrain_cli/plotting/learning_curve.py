"""Scores against the amount of training data: one panel, any number of models."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator
from numpy.typing import ArrayLike, NDArray

from synbrain_cli.errors import InputError, InputTypeError
from synbrain_cli.metrics.learning_curve import LearningCurveFit
from synbrain_cli.plotting.figure import NOTE_BACKGROUND, new_figure

# Of the palette of Okabe & Ito (2008); the markers can be told apart without colour
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9")
_MARKERS = ("o", "s", "^", "D", "v", "P")
_LEVEL_LINES = (":", "-.", (0, (1, 3)), (0, (5, 2, 1, 2, 1, 2)))
_CLOSEST_TICKS = 0.04  # of the width of the axis: amounts nearer than this share a label
_FURTHEST = 10  # times the largest amount: a target reached later is in the legend only
_MOST_NAMES = 8  # of subjects, beyond which they are not named


@dataclass(frozen=True)
class Curve:
    """Scores of one model at several amounts of training data.

    Attributes
    ----------
    amounts : float64 array of shape (n_amounts,)
        Above 0; given in any order, kept in ascending order.
    scores : float64 array of shape (n_subjects, n_amounts)
        NaN where a subject has no such amount. Given as (n_amounts,), it is of one subject.
    ci : float64 array of shape (n_amounts, 2), optional
        Low and high of the mean over subjects, NaN where unknown.
    fit : LearningCurveFit, optional
        The fitted line.
    subjects : sequence of str
        Names of the n_subjects subjects; by default none are named.

    Raises
    ------
    InputError
        When the arrays do not fit together.
    """

    amounts: ArrayLike
    scores: ArrayLike
    ci: ArrayLike | None = None
    fit: LearningCurveFit | None = None
    subjects: Sequence[str] = ()

    def __post_init__(self) -> None:
        amounts = np.asarray(self.amounts, dtype=np.float64)
        scores = np.atleast_2d(np.asarray(self.scores, dtype=np.float64))
        positive = (np.isfinite(amounts) & (amounts > 0)).all()
        if amounts.ndim != 1 or not positive or not len(amounts):
            raise InputError(f"curve: expected a list of amounts above 0, found {amounts}")
        if scores.ndim != 2 or scores.shape[1] != len(amounts):
            raise InputError(
                f"curve: expected scores of shape (n_subjects, {len(amounts)}), one per amount, "
                f"found {scores.shape}"
            )
        if np.isnan(scores).all():
            raise InputError("curve: expected one score or more, found only NaN")
        if self.subjects and len(self.subjects) != len(scores):
            raise InputError(
                f"curve: expected {len(scores)} subjects, one per row of scores, found "
                f"{len(self.subjects)}"
            )
        order = np.argsort(amounts, kind="stable")
        object.__setattr__(self, "amounts", amounts[order])
        object.__setattr__(self, "scores", scores[:, order])
        if self.ci is not None:
            ci = np.asarray(self.ci, dtype=np.float64)
            if ci.shape != (len(amounts), 2):
                raise InputError(
                    f"curve: expected ci of shape ({len(amounts)}, 2), low and high of each mean, "
                    f"found {ci.shape}"
                )
            object.__setattr__(self, "ci", ci[order])


@dataclass(frozen=True)
class Levels:
    """Scores shown as horizontal lines.

    Attributes
    ----------
    ceiling : float, optional
        Best score that the noise allows.
    references : dict
        Name → score, such as "full data".
    target : float, optional
        Score of interest. The legend gives the amount at which each fitted line reaches it, and
        whether this is an extrapolation. A hollow star marks amounts of up to ten times the
        largest one.
    """

    ceiling: float | None = None
    references: Mapping[str, float] = field(default_factory=dict)
    target: float | None = None

    def lines(self) -> list[tuple[str, float, str, object]]:
        """Return name, score, colour and line style of each level."""
        levels = [("noise ceiling", self.ceiling, "black", "-")]
        for number, (name, score) in enumerate(self.references.items()):
            levels.append((name, score, "#666666", _LEVEL_LINES[number % len(_LEVEL_LINES)]))
        levels.append(("target", self.target, "#CC79A7", "-"))
        return [level for level in levels if level[1] is not None]


def plot_learning_curve(
    curves: Mapping[str, Curve],
    *,
    ylabel: str,
    unit: str = "hours",
    levels: Levels | None = None,
    title: str | None = None,
    simulated: bool = False,
) -> Figure:
    """Plot scores against the amount of training data, on a logarithmic axis.

    Thin lines are subjects, the thick line is their mean with its interval; its points are open
    where a subject has no such amount, so that the mean is of fewer. The fitted line is dashed,
    with the band of its interval.

    Parameters
    ----------
    curves : dict
        Name of a model → its scores.
    ylabel : str
        Name of the score.
    unit : str
        Of the amounts.
    levels : Levels, optional
        Noise ceiling, references and target.
    title : str, optional
        Any length: wrapped.
    simulated : bool
        Whether "simulated" is written in the corner.

    Returns
    -------
    Figure
        The legend is below the panel. ``figure.save_figure`` writes it.

    Raises
    ------
    InputError, InputTypeError
        When there are no curves, or one is no `Curve`.
    """
    if not curves:
        raise InputError("curves: expected one model or more, found none")
    for name, curve in curves.items():
        if not isinstance(curve, Curve):
            raise InputTypeError(f"curve {name!r}: expected a Curve, found {type(curve).__name__}")
    levels = levels or Levels()
    n_lines = len(curves) * (1 if levels.target is None else 2) + len(levels.references) + 4
    figure = new_figure(7, 4.2 + 0.16 * n_lines, layout="constrained")
    axes = figure.subplots()
    axes.set_xscale("log")
    amounts = np.unique(np.concatenate([curve.amounts for curve in curves.values()]))
    goal = None if levels.target is None else _Goal(levels.target, amounts[-1] * _FURTHEST, unit)
    handles = [
        _plot_curve(axes, name, curve, number, goal)
        for number, (name, curve) in enumerate(curves.items())
    ]
    _amount_axis(axes, amounts)
    for name, score, colour, line in levels.lines():
        label = f"{name} ({_number(score)})"
        handles.append(
            axes.axhline(score, color=colour, linestyle=line, linewidth=0.9, label=label)
        )
    handles += _keys(curves)
    axes.set(xlabel=f"training data ({unit})", ylabel=ylabel)
    axes.set_title("\n".join(textwrap.wrap(title or "", 68)), fontsize=11, loc="left")
    if simulated:
        axes.text(
            1, 1.03, "simulated", transform=axes.transAxes, fontsize=9, fontweight="bold",
            color="black", ha="right", va="bottom", gid="note",
            bbox={"boxstyle": "round,pad=0.3", "facecolor": NOTE_BACKGROUND, "edgecolor": "none"},
        )  # fmt: skip
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
    # Below the panel, as its long lines would cover the curves
    figure.legend(handles=handles, loc="outside lower center", fontsize=7.5, frameon=False)
    return figure


@dataclass(frozen=True)
class _Goal:
    """A score that fitted lines may reach, and the largest amount at which that is marked."""

    target: float
    furthest: float
    unit: str


def _plot_curve(axes: Axes, name: str, curve: Curve, number: int, goal: _Goal | None) -> Line2D:
    """Plot one model; return its mean line, whose label describes the fit."""
    colour, marker = (x[number % len(x)] for x in (_COLOURS, _MARKERS))
    known = ~np.isnan(curve.scores)
    n_known = known.sum(0)
    if len(curve.scores) > 1:  # else the mean is the subject
        names = curve.subjects or [""] * len(curve.scores)
        for subject, row, there in zip(names, curve.scores, known, strict=True):
            axes.plot(
                curve.amounts[there], row[there], color=colour, alpha=0.4, linewidth=0.7,
                label=subject, gid="subject",
            )  # fmt: skip
    some = n_known > 0
    amounts = curve.amounts[some]
    mean = np.where(known, curve.scores, 0).sum(0)[some] / n_known[some]
    (line,) = axes.plot(
        amounts, mean, color=colour, linewidth=2, marker=marker, markersize=5, label=name,
        zorder=3, gid="mean",
    )  # fmt: skip
    fewer = n_known[some] < len(curve.scores)
    axes.plot(
        amounts[fewer], mean[fewer], linestyle="", marker=marker, markersize=5, color=colour,
        markerfacecolor="white", zorder=3.1, gid="fewer",
    )  # fmt: skip
    if curve.ci is not None:
        axes.vlines(curve.amounts, *curve.ci.T, color=colour, linewidth=1.5, zorder=2.9)
    if curve.fit is not None:
        line.set_label(f"{name}: {_slope(curve.fit)}")
        _plot_fit(axes, line, curve, goal)
    return line


def _plot_fit(axes: Axes, line: Line2D, curve: Curve, goal: _Goal | None) -> None:
    """Plot the fitted line and its band; add to the label when it reaches the target."""
    colour, marked = line.get_color(), list(curve.amounts)
    if goal is not None:
        reached, interval = curve.fit.amount_to_reach(goal.target)
        line.set_label(f"{line.get_label()}\n{_reach(goal, reached, interval, marked)}")
        if marked[0] / _FURTHEST <= reached <= goal.furthest:
            axes.plot(
                reached, goal.target, marker="*", markersize=11, color=colour,
                markerfacecolor="white", zorder=4, gid="reached",
            )  # fmt: skip
            marked.append(reached)
    grid = np.geomspace(min(marked), max(marked), 60)
    axes.plot(grid, curve.fit.predict(grid), color=colour, linestyle="--", linewidth=1.1, gid="fit")
    low, high = curve.fit.band(grid)
    if np.isfinite(low).all():
        axes.fill_between(grid, low, high, color=colour, alpha=0.13, linewidth=0)


def _amount_axis(axes: Axes, amounts: NDArray) -> None:
    """Set limits with a margin, and label the amounts themselves where there is room."""
    low, high = np.log10([axes.dataLim.minposx, axes.dataLim.x1])
    margin = 0.05 * (high - low) or 0.3
    axes.set_xlim(10 ** (low - margin), 10 ** (high + margin))
    ticks = []
    for amount in amounts[::-1]:  # the largest, of all data, keeps its label
        if not ticks or np.log10(ticks[-1] / amount) > _CLOSEST_TICKS * (high - low):
            ticks.append(amount)
    axes.set_xticks(ticks[::-1], [_amount(amount) for amount in ticks[::-1]])
    axes.xaxis.set_minor_locator(NullLocator())


def _keys(curves: Mapping[str, Curve]) -> list[Line2D]:
    """Legend entries that explain thin and dashed lines, where there are any."""
    keys = []
    rests_on = dict.fromkeys(c.fit.interval for c in curves.values() if c.fit is not None)
    if rests_on:
        label = f"log-linear fit; interval from {', '.join(rests_on)}"
        keys.append(Line2D([], [], color="#666666", linewidth=1.1, linestyle="--", label=label))
    several = [curve for curve in curves.values() if len(curve.scores) > 1]
    if several:
        names = list(dict.fromkeys(name for curve in several for name in curve.subjects))
        label = "one subject each"
        if 0 < len(names) <= _MOST_NAMES:
            label += f" ({', '.join(names)})"
        if any(np.isnan(curve.scores).any() for curve in several):
            label += "; open points: not all subjects"
        keys.append(Line2D([], [], color="#666666", linewidth=0.7, label=label))
    return keys


# Words --------------------------------------------------------------------------------------------


def _slope(fit: LearningCurveFit) -> str:
    low, high = fit.slope_ci
    known = math.isfinite(low) and math.isfinite(high)
    span = f"{100 * fit.level:g} % CI {_number(low)} to {_number(high)}" if known else "no interval"
    return f"slope {_number(fit.slope)} per tenfold data ({span})"


def _reach(
    goal: _Goal, reached: float, interval: tuple[float, float], measured: list[float]
) -> str:
    if math.isinf(reached):
        return f"does not reach {_number(goal.target)}"
    low, high = interval
    span = f" ({_amount(low)} to {_amount(high)})" if not math.isnan(low) else ""
    outside = "" if min(measured) <= reached <= max(measured) else ", extrapolated"
    return f"reaches {_number(goal.target)} at {_amount(reached)} {goal.unit}{span}{outside}"


def _number(value: float) -> str:
    """Three digits, and never "-0"."""
    return f"{value + 0:.3g}".replace("-", "−")


def _amount(value: float) -> str:
    """Plain digits as far as they can be read."""
    if math.isinf(value):
        return "∞"
    if 100 <= value < 1e7:
        return f"{value:,.0f}"
    return f"{value:.3g}"
