"""Effects of a contrast by region, and the power of an experiment."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from synbrain_cli.brain import Brain
from synbrain_cli.plotting.figure import FOOTER, SIDE, current_style, frame
from synbrain_cli.plotting.labels import Labels, simulated_note

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_WIDTH, _LEFT, _KEY, _BOTTOM = 7.0, 1.3, 1.7, 0.65  # inches
_ROW = 0.24  # inches, of a region
_HEIGHT = 3.6  # inches, of power
_MOST = 6  # regions with a line
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9")
_CONTROLS = {
    "adjusted": ("beside low-level statistics", "D", "#E69F00"),
    "scrambled": ("phase-scrambled images", "x", "#D55E00"),
    "random_weights": ("encoder of random weights", "s", "#009E73"),
}


class Contrasted(Protocol):
    """A contrast, as figures need it."""

    @property
    def brain(self) -> Brain:
        """Model."""

    @property
    def title(self) -> str:
        """The first condition − the second."""


class Powers(Protocol):
    """Power by region and number of trials, as figures need it."""

    @property
    def contrast(self) -> Contrasted:
        """What is to be found."""

    @property
    def trials(self) -> tuple[int, ...]:
        """Of each condition."""

    @property
    def table(self) -> pd.DataFrame:
        """One row per region and number of trials."""

    @property
    def needed(self) -> NDArray[np.float64]:
        """Trials for a power of 80 %, by region."""


def plot_effects(found: Contrasted, table: pd.DataFrame) -> Figure:
    """Plot the difference in every region with its interval, beside those of the controls.

    Parameters
    ----------
    found : Contrasted
    table : DataFrame
        One row per region: ``difference``, ``low``, ``high``, and the controls that there are.
    """
    rows = table.iloc[::-1]
    height = _BOTTOM + 0.3 + _ROW * len(rows)
    labels = Labels(
        f"{found.title} by region, {found.brain.name}", "", note=simulated_note(found.brain)
    )
    framed = frame(_WIDTH, height, labels)
    width = current_style().width(_WIDTH) - _LEFT - _KEY - SIDE
    axes = framed.figure.add_axes(
        framed.box(_LEFT, _BOTTOM - FOOTER, width, height + FOOTER - _BOTTOM - 0.1), label="effects"
    )
    at = np.arange(len(rows))
    effect = rows["difference"].to_numpy(float)
    reach = np.stack([effect - rows["low"], rows["high"] - effect])
    axes.axvline(0, color="0.6", linewidth=1)
    axes.errorbar(
        effect, at, xerr=reach, fmt="o", color="black", markersize=5, linewidth=1.5,
        label="contrast, 95 % interval",
    )  # fmt: skip
    for name, (label, marker, colour) in _CONTROLS.items():
        if name in rows:
            axes.plot(rows[name], at, marker, color=colour, markersize=4.5, label=label, alpha=0.9)
    axes.set_yticks(
        at, [f"{r} ({n})" for r, n in zip(rows["region"], rows["n_voxels"], strict=True)]
    )
    axes.set_xlabel(f"difference, {found.brain.unit}", fontsize=11)
    axes.tick_params(labelsize=9)
    axes.set_ylim(-0.7, len(rows) - 0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return framed.figure


def plot_power(found: Powers) -> Figure:
    """Plot the power over the number of trials, for the regions that need fewest.

    Parameters
    ----------
    found : Powers
    """
    contrast, table = found.contrast, found.table
    regions = list(dict.fromkeys(table["region"]))
    order = np.argsort(np.nan_to_num(found.needed, nan=np.inf), kind="stable")
    highest = table.groupby("region")["power"].max()
    shown = [regions[k] for k in order if regions[k] != "all" or len(regions) == 1]
    shown = sorted(shown[:_MOST], key=lambda name: -highest[name]) if len(shown) else regions
    framed = frame(
        _WIDTH,
        _HEIGHT,
        Labels(
            f"{contrast.title}: power, {contrast.brain.name}",
            "",
            note=simulated_note(contrast.brain),
        ),
    )
    width = current_style().width(_WIDTH) - _LEFT - _KEY - SIDE
    axes = framed.figure.add_axes(
        framed.box(_LEFT, _BOTTOM - FOOTER, width, _HEIGHT + FOOTER - _BOTTOM - 0.2), label="power"
    )
    needed = dict(zip(regions, found.needed, strict=True))
    for name, colour in zip(shown, _COLOURS, strict=False):
        own = table[table["region"] == name]
        n = needed[name]
        label = f"{name} ({'more' if np.isnan(n) else f'{np.ceil(n):.0f}'})"
        axes.fill_between(
            own["trials"], own["low"], own["high"], color=colour, alpha=0.2, linewidth=0
        )
        axes.plot(own["trials"], own["power"], color=colour, linewidth=1.5, label=label)
    axes.axhline(0.8, color="0.6", linewidth=1, linestyle="--")
    axes.set_xscale("log")
    ticks = [n for n in found.trials if n in (4, 8, 16, 32, 64, 128, 256)] or list(found.trials)
    axes.set_xticks(ticks, [str(n) for n in ticks])
    axes.minorticks_off()
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("trials of each condition", fontsize=11)
    axes.set_ylabel("power", fontsize=11)
    axes.tick_params(labelsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(
        fontsize=9, frameon=False, title="region (trials for 80 %)", title_fontsize=9,
        loc="upper left", bbox_to_anchor=(1.0, 1.0),
    )  # fmt: skip
    return framed.figure
