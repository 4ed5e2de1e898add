"""How scores grow with the amount of training data: one panel, any number of models."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator
from numpy.typing import NDArray

from synbrain_cli.errors import InputError, InputTypeError

# Okabe & Ito's colours can be told apart by all; the markers also without colour.
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9")
_MARKERS = ("o", "s", "^", "D", "v", "P")
_LEVEL_LINES = (":", "-.", (0, (1, 3)), (0, (5, 2, 1, 2, 1, 2)))
_CLOSEST_TICKS = 0.04  # of the width of the axis: amounts nearer than this share a label
_FURTHEST = 10  # times the largest amount: a target reached later is told and not drawn
_MOST_NAMES = 8  # of subjects, beyond which they are not named


def plot_learning_curve(
    curves: Mapping[str, Mapping[str, Any]],
    *,
    unit: str = "hours",
    ylabel: str,
    ceiling: float | None = None,
    references: Mapping[str, float] | None = None,
    title: str | None = None,
    simulated: bool = False,
    target: float | None = None,
) -> Figure:
    """Draw scores against the amount of training data, on a logarithmic axis.

    Thin lines are subjects, the thick line their mean with its interval; its points are open where
    a subject has no such amount, so that the mean is of fewer. Dashed is the fitted line, with the
    band of its interval.

    Parameters
    ----------
    curves : dict
        Name of a model → dict of

        - ``amounts``: array of shape (n_amounts,), above 0, in any order;
        - ``scores``: array of shape (n_subjects, n_amounts) or (n_amounts,), NaN where a subject
          has no such amount;
        - ``ci``: array of shape (n_amounts, 2), optional: low and high of the mean, NaN where
          unknown;
        - ``fit``: ``metrics.scaling.LearningCurveFit``, optional;
        - ``subjects``: list of n_subjects names, optional.
    unit : str
        Of the amounts.
    ylabel : str
        What the score is.
    ceiling : float, optional
        Best score that the noise allows.
    references : dict, optional
        Name → score, drawn as horizontal lines ("full data", log).
    title : str, optional
        Any length: wrapped.
    simulated : bool
        Log so in the corner.
    target : float, optional
        A score: the legend tells at which amount each fitted line reaches it, and whether that is
        an extrapolation; a hollow star marks it where that is up to ten times the largest amount.

    Returns
    -------
    Figure
        The legend is below the panel. ``figure.save_figure`` writes it.

    Raises
    ------
    InputError, InputTypeError
        When there are no curves or the arrays of one do not fit together.
    """
    if not curves:
        raise InputError("curves: expected one model or more, found none")
    checked = {name: _check(name, curve) for name, curve in curves.items()}
    references = references or {}
    n_lines = len(curves) * (1 if target is None else 2) + len(references) + 4
    figure = Figure(figsize=(7, 4.2 + 0.16 * n_lines), layout="constrained")
    axes = figure.subplots()
    axes.set_xscale("log")
    amounts = np.unique(np.concatenate([curve.amounts for curve in checked.values()]))
    furthest = amounts[-1] * _FURTHEST
    handles = [
        _curve(axes, name, curve, number, unit, target, furthest)
        for number, (name, curve) in enumerate(checked.items())
    ]
    _amount_axis(axes, amounts)
    levels = [("noise ceiling", ceiling, "black", "-")]
    for number, (name, score) in enumerate(references.items()):
        levels.append((name, score, "#666666", _LEVEL_LINES[number % len(_LEVEL_LINES)]))
    levels.append(("target", target, "#CC79A7", "-"))
    for name, score, colour, line in levels:
        if score is not None:
            label = f"{name} ({_number(score)})"
            handles.append(
                axes.axhline(score, color=colour, linestyle=line, linewidth=0.9, label=label)
            )
    handles += _keys(checked)
    axes.set(xlabel=f"training data ({unit})", ylabel=ylabel)
    axes.set_title("\n".join(textwrap.wrap(title or "", 68)), fontsize=11, loc="left")
    if simulated:
        axes.text(
            1, 1.03, "simulated", transform=axes.transAxes, fontsize=9, fontweight="bold",
            color="black", ha="right", va="bottom", gid="note",
            bbox={"boxstyle": "round,pad=0.3", "facecolor": "#ffd54d", "edgecolor": "none"},
        )  # fmt: skip
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
    # Below the panel: its long lines would cover the curves.
    figure.legend(handles=handles, loc="outside lower center", fontsize=7.5, frameon=False)
    return figure


class _Curve(NamedTuple):
    """One model's arrays, checked and in order of amount."""

    amounts: NDArray[np.float64]  # (n_amounts,)
    scores: NDArray[np.float64]  # (n_subjects, n_amounts)
    ci: NDArray[np.float64] | None  # (n_amounts, 2)
    fit: Any  # metrics.scaling.LearningCurveFit: figures do not import scores
    subjects: list[str]  # n_subjects names, or none


def _curve(
    axes: Axes,
    name: str,
    curve: _Curve,
    number: int,
    unit: str,
    target: float | None,
    furthest: float,
) -> Line2D:
    """Draw one model; return its mean line, whose label tells of the fit."""
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
        _fit(axes, line, curve, unit, target, furthest)
    return line


def _fit(
    axes: Axes, line: Line2D, curve: _Curve, unit: str, target: float | None, furthest: float
) -> None:
    """Draw the fitted line and its band; add to the label when it reaches the target."""
    colour, marked = line.get_color(), list(curve.amounts)
    if target is not None:
        reached, interval = curve.fit.amount_to_reach(target)
        line.set_label(f"{line.get_label()}\n{_reach(target, reached, interval, unit, marked)}")
        if marked[0] / _FURTHEST <= reached <= furthest:
            axes.plot(
                reached, target, marker="*", markersize=11, color=colour,
                markerfacecolor="white", zorder=4, gid="reached",
            )  # fmt: skip
            marked.append(reached)
    grid = np.geomspace(min(marked), max(marked), 60)
    axes.plot(grid, curve.fit.predict(grid), color=colour, linestyle="--", linewidth=1.1, gid="fit")
    low, high = curve.fit.band(grid)
    if np.isfinite(low).all():
        axes.fill_between(grid, low, high, color=colour, alpha=0.13, linewidth=0)


def _amount_axis(axes: Axes, amounts: NDArray) -> None:
    """Limits with a margin, and the amounts themselves as labels where there is room."""
    low, high = np.log10([axes.dataLim.minposx, axes.dataLim.x1])
    margin = 0.05 * (high - low) or 0.3
    axes.set_xlim(10 ** (low - margin), 10 ** (high + margin))
    ticks = []
    for amount in amounts[::-1]:  # that of all data is kept
        if not ticks or np.log10(ticks[-1] / amount) > _CLOSEST_TICKS * (high - low):
            ticks.append(amount)
    axes.set_xticks(ticks[::-1], [_amount(amount) for amount in ticks[::-1]])
    axes.xaxis.set_minor_locator(NullLocator())


def _keys(curves: Mapping[str, _Curve]) -> list[Line2D]:
    """What thin and dashed lines are, if there are any."""
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


def _slope(fit: Any) -> str:
    low, high = fit.slope_ci
    known = math.isfinite(low) and math.isfinite(high)
    span = f"{100 * fit.level:g} % CI {_number(low)} to {_number(high)}" if known else "no interval"
    return f"slope {_number(fit.slope)} per tenfold data ({span})"


def _reach(
    target: float,
    reached: float,
    interval: tuple[float, float],
    unit: str,
    measured: list[float],
) -> str:
    if math.isinf(reached):
        return f"does not reach {_number(target)}"
    low, high = interval
    span = f" ({_amount(low)} to {_amount(high)})" if not math.isnan(low) else ""
    outside = "" if min(measured) <= reached <= max(measured) else ", extrapolated"
    return f"reaches {_number(target)} at {_amount(reached)} {unit}{span}{outside}"


def _number(value: float) -> str:
    """Three digits; no "-0"."""
    return f"{value + 0:.3g}".replace("-", "−")


def _amount(value: float) -> str:
    """Plain digits as far as they can be read."""
    if math.isinf(value):
        return "∞"
    if 100 <= value < 1e7:
        return f"{value:,.0f}"
    return f"{value:.3g}"


# Checks -------------------------------------------------------------------------------------------


def _check(name: str, curve: Mapping[str, Any]) -> _Curve:
    if not isinstance(curve, Mapping) or not {"amounts", "scores"} <= curve.keys():
        raise InputTypeError(
            f"curve {name!r}: expected a dict with amounts and scores, found "
            f"{sorted(curve) if isinstance(curve, Mapping) else type(curve).__name__}"
        )
    amounts = np.asarray(curve["amounts"], dtype=np.float64)
    scores = np.atleast_2d(np.asarray(curve["scores"], dtype=np.float64))
    ci, subjects = curve.get("ci"), curve.get("subjects")
    if amounts.ndim != 1 or not (np.isfinite(amounts) & (amounts > 0)).all() or not len(amounts):
        raise InputError(f"curve {name!r}: expected a list of amounts above 0, found {amounts}")
    if scores.ndim != 2 or scores.shape[1] != len(amounts):
        raise InputError(
            f"curve {name!r}: expected scores of shape (n_subjects, {len(amounts)}), one per "
            f"amount, found {scores.shape}"
        )
    if np.isnan(scores).all():
        raise InputError(f"curve {name!r}: expected one score or more, found only NaN")
    if ci is not None:
        ci = np.asarray(ci, dtype=np.float64)
        if ci.shape != (len(amounts), 2):
            raise InputError(
                f"curve {name!r}: expected ci of shape ({len(amounts)}, 2), low and high of each "
                f"mean, found {ci.shape}"
            )
    if subjects is not None and len(subjects) != len(scores):
        raise InputError(
            f"curve {name!r}: expected {len(scores)} subjects, one per row of scores, found "
            f"{len(subjects)}"
        )
    order = np.argsort(amounts, kind="stable")
    ci = None if ci is None else ci[order]
    return _Curve(amounts[order], scores[:, order], ci, curve.get("fit"), list(subjects or []))
