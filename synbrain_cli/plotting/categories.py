"""Colours of maps whose values are categories, such as the bands of an encoder, and their key."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from synbrain_cli.bands import split_layers
from synbrain_cli.errors import InputError
from synbrain_cli.plotting.colours import Colours, ColourScale, FixedColours
from synbrain_cli.plotting.figure import FOOTER, SIDE, text_width
from synbrain_cli.plotting.wheels import Wheel, WheelColours

if TYPE_CHECKING:
    from synbrain_cli.plotting.figure import Frame
    from synbrain_cli.plotting.mesh_raster import Raster

# Encoders of one band have colours of the palette of Okabe & Ito (2008), those of several layers
# maps of ColorBrewer (Harrower & Brewer 2003) whose hues are not among the first of these.
_SINGLE = ("#F0E442", "#CC79A7", "#D55E00", "#009E73", "#56B4E9", "#000000")
_RAMPS = ("Blues", "Oranges", "Greens", "Purples", "Reds")
_LIGHTEST, _DARKEST = 0.4, 1.0  # of a ramp: lighter colours are lost on the greys of curvature
_NAMES, _CAPTION = 11.0, 10.0  # points
_LINE, _CAPTION_LINE = 0.24, 0.17  # inches
_SWATCH, _NEAR, _APART = 0.16, 0.07, 0.25  # inches: its side, to its name, to the next one
_ABOVE, _BELOW = 0.14, 0.1  # inches, of the key


class _Part(NamedTuple):
    """One name of the key, with or without a swatch, in a line: inches from its left."""

    left: float
    line: int
    text: str
    colour: str | None


@dataclass(frozen=True)
class Categories:
    """Colours of the numbers 0, 1, …, each of which stands for a category.

    Attributes
    ----------
    names : tuple of str
    colours : tuple of str
        As ``#rrggbb``, one per name.
    groups : tuple of str
        Group of each, in which the key gathers those that follow one another: named once, before
        the first of several.

    Raises
    ------
    InputError
        When there are not as many of each.
    """

    names: tuple[str, ...]
    colours: tuple[str, ...]
    groups: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.names or len({len(self.names), len(self.colours), len(self.groups)}) > 1:
            raise InputError(
                f"categories: expected one or more, each with a colour and a group, found "
                f"{len(self.names)} names, {len(self.colours)} colours, {len(self.groups)} groups"
            )

    @classmethod
    def of_bands(cls, specs: Sequence[str]) -> Categories:
        """Return a colour for each band: within an encoder, from light to dark by its layers.

        Encoders differ in hue, so that they can be told apart without colour vision, too.

        Parameters
        ----------
        specs : sequence of str
            Names of bands, as ``ENCODER@LAYER``.

        Examples
        --------
        >>> Categories.of_bands(["gabor", "efficientnet@3", "efficientnet@5"]).colours
        ('#f0e442', '#94c4df', '#08306b')
        """
        from matplotlib import colormaps
        from matplotlib.colors import to_hex

        found = [split_layers(spec) for spec in specs]
        encoders = [encoder for encoder, _ in found]
        colours = [""] * len(found)
        n_single = n_ramps = 0
        for encoder in dict.fromkeys(encoders):
            own = sorted(
                (k for k, one in enumerate(encoders) if one == encoder), key=found.__getitem__
            )
            if len(own) == 1:
                colours[own[0]] = to_hex(_SINGLE[n_single % len(_SINGLE)])
                n_single += 1
                continue
            ramp = colormaps[_RAMPS[n_ramps % len(_RAMPS)]]
            n_ramps += 1
            for k, at in zip(own, np.linspace(_LIGHTEST, _DARKEST, len(own)), strict=True):
                colours[k] = to_hex(ramp(at))
        return cls(tuple(specs), tuple(colours), tuple(encoders))

    def fit(self, values: NDArray) -> CategoryColours:
        """Return the colours, as `ColourScale.fit` does: they do not depend on values."""
        from matplotlib.cm import ScalarMappable
        from matplotlib.colors import ListedColormap, Normalize

        limits = Normalize(-0.5, len(self.names) - 0.5)
        return CategoryColours(ScalarMappable(limits, ListedColormap(list(self.colours))), self)


@dataclass(frozen=True)
class CategoryColours(FixedColours):
    """Colours of categories on a map: what `Colours` are for a scale.

    Attributes
    ----------
    categories : Categories
    """

    categories: Categories

    def picture(self, raster: Raster, values: NDArray) -> NDArray[np.float32]:
        """Return at each pixel the category with the largest share of its triangle's vertices.

        Parameters
        ----------
        raster : Raster
        values : float array of shape (n_vertices,)
            Numbers of categories; NaN where there is none.
        """
        known = np.isfinite(values)
        most, best = None, None
        for k in np.unique(values[known]):
            share = raster.interpolate(np.where(known, values == k, np.nan))
            if most is None:
                most, best = share, np.where(np.isnan(share), np.nan, np.float32(k))
            else:
                best[share > most] = k
                most = np.fmax(most, share)
        if best is None:
            return np.full(raster.inside.shape, np.nan, np.float32)
        return best

    def key_height(self, width: float, unit: str) -> float:
        """Return the height that the key needs beyond the footer, inches.

        Parameters
        ----------
        width : float
            Of the page, inches.
        unit : str
            What is written below it.
        """
        return max(0.0, self._height(width, unit) - FOOTER)

    def add_key(self, framed: Frame, unit: str) -> None:
        """Add a square and a name for each category in the footer of a figure, and the unit."""
        from matplotlib.patches import Rectangle

        figure, page = framed.figure, framed.width - 2 * SIDE
        parts = list(self._parts(page))
        n_lines = parts[-1].line + 1
        ends = [0.0] * n_lines
        for one in parts:
            ends[one.line] = _end(one)
        top = max(FOOTER, self._height(page, unit)) - _ABOVE
        for one in parts:
            left = SIDE + max(0.0, (page - max(ends)) / 2) + one.left
            middle = top - (one.line + 0.5) * _LINE
            if one.colour is not None:
                figure.add_artist(
                    Rectangle(
                        (left / framed.width, (middle - _SWATCH / 2) / framed.height),
                        _SWATCH / framed.width, _SWATCH / framed.height,
                        transform=figure.transFigure, facecolor=one.colour, edgecolor="0.3",
                        linewidth=0.6, gid="swatch",
                    )
                )  # fmt: skip
                left += _SWATCH + _NEAR
            figure.text(
                left / framed.width, middle / framed.height, one.text, fontsize=_NAMES,
                color=framed.ink, ha="left", va="center_baseline", gid="category",
                parse_math=False,
            )  # fmt: skip
        figure.text(
            0.5, (top - n_lines * _LINE - 0.06) / framed.height,
            "\n".join(_wrapped(unit, page)), fontsize=_CAPTION, color=framed.ink, ha="center",
            va="top", linespacing=1.2, gid="caption", parse_math=False,
        )  # fmt: skip

    def _height(self, width: float, unit: str) -> float:
        n_lines = max(one.line for one in self._parts(width)) + 1
        caption = _CAPTION_LINE * len(_wrapped(unit, width))
        return _ABOVE + _LINE * n_lines + 0.06 + caption + _BELOW

    def _parts(self, width: float) -> Iterator[_Part]:
        """Names in lines no wider than ``width`` inches, if possible; those of a group together."""
        left, line = 0.0, 0
        for _, members in itertools.groupby(range(len(self.categories.names)), self._group):
            parts = self._named(list(members))
            whole = sum(map(_end, parts)) + _APART / 2 * (len(parts) - 1)
            for k, one in enumerate(parts):
                needed = whole if k == 0 and whole <= width else _end(one)
                if left and left + needed > width:
                    left, line = 0.0, line + 1
                placed = one._replace(left=left, line=line)
                yield placed
                left = _end(placed) + (_APART / 2 if k + 1 < len(parts) else _APART)

    def _group(self, k: int) -> str:
        return self.categories.groups[k]

    def _named(self, members: list[int]) -> list[_Part]:
        """Parts of one group, not yet placed."""
        names, group = self.categories.names, self._group(members[0])
        several = len(members) > 1
        parts = [
            _Part(0, 0, names[k].removeprefix(group if several else ""), self.categories.colours[k])
            for k in members
        ]
        return [_Part(0, 0, group, None), *parts] if several else parts


AnyScale = ColourScale | Categories | Wheel
AnyColours = Colours | CategoryColours | WheelColours


def _end(part: _Part) -> float:
    """Right end of a name, inches."""
    swatch = _SWATCH + _NEAR if part.colour is not None else 0.0
    return part.left + swatch + text_width(part.text, _NAMES)


def _wrapped(text: str, width: float) -> list[str]:
    if not text:
        return []
    n_letters = max(8, int(0.95 * len(text) * width / text_width(text, _CAPTION)))
    return textwrap.wrap(text, n_letters, break_on_hyphens=False)
