"""Contact sheets: pictures in rows, each with its name and what was found of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from synbrain_cli.errors import InputError
from synbrain_cli.plotting.figure import FOOTER, SIDE, Frame, current_style, frame, text_width
from synbrain_cli.plotting.labels import Labels
from synbrain_cli.plotting.validation import check_stimulus

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WIDTH = 13.0  # inches
_COLUMNS = 5
_HEADING = 0.4  # inches over the pictures of a group
_CAPTION = 0.62  # inches below a picture
_GAP = 0.15  # inches between pictures
_SIZE = 10.0  # points, of captions
_PIXELS = 300  # side of a picture in the figure, at most
FAR = "#b3261e"  # of pictures that a model is asked to extrapolate to


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture of a contact sheet.

    Attributes
    ----------
    pixels : uint8 array of shape (height, width, 3)
        Its largest centred square is shown, which is what models see.
    name : str
    found : str
        What was found of it, in a few words.
    is_far : bool
        Whether it is farther from the training images than any of these: marked by its frame.
    """

    pixels: NDArray[np.uint8]
    name: str
    found: str
    is_far: bool = False


def plot_contact_sheet(groups: Sequence[tuple[str, Sequence[Picture]]], labels: Labels) -> Figure:
    """Plot groups of pictures below each other, five in a row.

    Parameters
    ----------
    groups : sequence of (str, sequence of Picture)
        Heading and pictures of each.
    labels : Labels
        Title, note, and the unit of what was found.

    Returns
    -------
    matplotlib.figure.Figure
        13 inches wide.

    Raises
    ------
    InputError
        When there is no picture.
    """
    if not any(pictures for _, pictures in groups):
        raise InputError("contact sheet: expected one picture or more, found none")
    n_columns = 2 if current_style().narrow else _COLUMNS
    width = current_style().width(_WIDTH) - 2 * SIDE
    side = (width - (n_columns - 1) * _GAP) / n_columns
    pitch = side + _CAPTION
    rows = [math.ceil(len(pictures) / n_columns) for _, pictures in groups]
    height = sum(_HEADING + n * pitch for n in rows)
    # The room of a colour bar, which there is none of, holds the last rows and the line below.
    framed = frame(_WIDTH, height + 0.3 - FOOTER, labels, slide=False)
    any_far = any(picture.is_far for _, pictures in groups for picture in pictures)
    far = "; red frames: beyond the range of the training images" if any_far else ""
    _write(framed, SIDE, 0.12, f"Below each picture: score and 95 % interval, {labels.unit}{far}")
    top = height + 0.3
    for (heading, pictures), n_rows in zip(groups, rows, strict=True):
        _write(framed, SIDE, top - 0.28, heading, bold=True)
        top -= _HEADING
        for k, picture in enumerate(pictures):
            row, column = divmod(k, n_columns)
            left, bottom = SIDE + column * (side + _GAP), top - row * pitch - side
            box = framed.box(left, bottom - FOOTER, side, side)
            _show(framed.figure.add_axes(box, label=f"picture {picture.name}"), picture, side)
        top -= n_rows * pitch
    return framed.figure


def _write(framed: Frame, left: float, bottom: float, text: str, bold: bool = False) -> None:
    """Write a line, placed in inches from the lower left corner of the figure."""
    framed.figure.text(
        left / framed.width, bottom / framed.height, text, parse_math=False, color=framed.ink,
        fontsize=_SIZE + 2 if bold else _SIZE, fontweight="bold" if bold else "normal",
    )  # fmt: skip


def _show(axes: Axes, picture: Picture, side: float) -> None:
    """Show a picture with its caption below."""
    pixels = check_stimulus(picture.pixels)
    assert pixels is not None
    axes.imshow(_small_square(pixels), aspect="auto")
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(picture.is_far)
        spine.set(color=FAR, linewidth=3)
    lines = (_fitted(picture.name, side), _fitted(picture.found, side))
    axes.text(
        0, -0.04 / side, "\n".join(lines), transform=axes.transAxes, fontsize=_SIZE, va="top",
        parse_math=False, gid="caption",
    )  # fmt: skip


def _small_square(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The largest centred square, with no more pixels than can be seen."""
    from PIL import Image

    height, width = pixels.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = Image.fromarray(np.ascontiguousarray(pixels[top : top + side, left : left + side]))
    square.thumbnail((_PIXELS, _PIXELS))
    return np.asarray(square)


def _fitted(text: str, width: float) -> str:
    """Text with its middle left out where it is wider than ``width`` inches."""
    kept = len(text)
    shown = text
    while kept > 4 and text_width(shown, _SIZE) > 0.98 * width:  # rendered, small type is wider
        kept -= 1
        shown = f"{text[: (kept + 1) // 2]}…{text[len(text) - kept // 2 :]}"
    return shown
