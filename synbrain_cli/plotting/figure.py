"""The frame of all figures, with title, stimulus and note, and writing figures to files."""

from __future__ import annotations

import textwrap
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from synbrain_cli.errors import InputError
from synbrain_cli.io.files import atomic
from synbrain_cli.plotting.validation import check_stimulus

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from synbrain_cli.plotting.labels import Labels

FORMATS = ("png", "svg", "pdf")
WIDTH = 11.0  # inches
SIDE = 0.25  # inches left free on the left and on the right
FOOTER = 1.0  # inches, for the colour bar
NOTE_BACKGROUND = "#ffd54d"  # background colour of highlighted notes


# Frame --------------------------------------------------------------------------------------------


class Frame(NamedTuple):
    """A figure with its header, and room for maps between the header and the colour bar."""

    figure: Figure
    width: float  # inches
    height: float
    ink: str  # a colour that can be read on the background

    def box(
        self, left: float, bottom: float, width: float, height: float
    ) -> tuple[float, float, float, float]:
        """Return shares of the figure, as ``add_axes`` takes them, of a box in inches.

        ``left`` and ``bottom`` are counted from the lower left corner of the maps.
        """
        return (
            left / self.width,
            (FOOTER + bottom) / self.height,
            width / self.width,
            height / self.height,
        )


def frame(width: float, panel: float, labels: Labels, background: str = "white") -> Frame:
    """Make a figure with a title, the stimulus in the upper left corner and the note.

    Parameters
    ----------
    width, panel : float
        Width of the figure, and height of what will be plotted in it, inches.
    labels : Labels
        Their title, stimulus and note.
    background : str
        Colour of the figure.

    Raises
    ------
    InputError
        When the stimulus is no uint8 array of shape (height, width, 3).
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import to_rgb
    from matplotlib.figure import Figure

    image = check_stimulus(labels.stimulus)
    red, green, blue = to_rgb(background)
    ink = "black" if 0.3 * red + 0.59 * green + 0.11 * blue > 0.5 else "white"
    picture_width = 0.0
    if image is not None:
        picture_height = min(1.2, 2.4 * image.shape[0] / image.shape[1])
        picture_width = picture_height * image.shape[1] / image.shape[0]
    note_lines = textwrap.wrap(labels.note or "", 36)
    note_width = max((text_width(line, 13, bold=True) + 0.5 for line in note_lines), default=0)
    title_left = SIDE + (picture_width + 0.25 if picture_width else 0)
    lines = _wrap(labels.title, width - SIDE - title_left - note_width, 16)
    header = max(
        0.35 + 0.27 * len(lines), 0.35 + 0.22 * len(note_lines), 1.45 if picture_width else 0
    )
    height = header + panel + FOOTER
    figure = Figure(figsize=(width, height), facecolor=background)
    FigureCanvasAgg(figure)
    figure.text(
        title_left / width, 1 - 0.18 / height, "\n".join(lines), parse_math=False,
        fontsize=16, color=ink, va="top", ha="left", linespacing=1.2, gid="title",
    )  # fmt: skip
    if image is not None:
        corner = figure.add_axes(
            (
                SIDE / width,
                1 - (0.15 + picture_height) / height,
                picture_width / width,
                picture_height / height,
            ),
            label="stimulus",
        )
        corner.imshow(image, aspect="auto")
        corner.axis("off")
    if note_lines:
        figure.text(
            1 - (SIDE + 0.1) / width, 1 - 0.2 / height, "\n".join(note_lines), parse_math=False,
            fontsize=13, fontweight="bold", color="black", va="top", ha="right", gid="note",
            bbox={"boxstyle": "round,pad=0.35", "facecolor": NOTE_BACKGROUND, "edgecolor": "none"},
        )  # fmt: skip
    return Frame(figure, width, height, ink)


# Files --------------------------------------------------------------------------------------------


def save_figure(figure: Figure, path: Path | str, dpi: int = 200) -> None:
    """Write a figure atomically; the same figure always gives the same bytes.

    Parameters
    ----------
    figure : matplotlib.figure.Figure
        What to write.
    path : path
        Ends in ``.png``, ``.svg`` or ``.pdf``.
    dpi : int
        Dots per inch of rasters.

    Raises
    ------
    InputError, SynbrainError
        When the format is another, or the file cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> from matplotlib.figure import Figure
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_figure(Figure(figsize=(1, 1)), f"{folder}/empty.png")
    """
    from matplotlib import rc_context

    path = Path(path)
    # Versions and times left out of the file
    metadata = {
        ".png": {"Software": None},
        ".svg": {"Date": None, "Creator": None},
        ".pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    }
    if path.suffix not in metadata:
        raise InputError(f"{path}: expected a name that ends in .png, .svg or .pdf")
    style = rc_context({"svg.hashsalt": "synbrain", "pdf.fonttype": 42})
    with atomic(path) as temporary, style:
        # Half the time that zlib's default takes, for files a fifth larger
        fast = {"pil_kwargs": {"compress_level": 3}} if path.suffix == ".png" else {}
        figure.savefig(temporary, dpi=dpi, metadata=metadata[path.suffix], **fast)


# Text ---------------------------------------------------------------------------------------------


@lru_cache(maxsize=4096)
def text_width(text: str, size: float, bold: bool = False) -> float:
    """Return the width of a text in inches; ``size`` of its letters in points."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextToPath

    font = FontProperties(weight="bold" if bold else "normal", size=size)
    return TextToPath().get_text_width_height_descent(text, font, ismath=False)[0] / 72


def _wrap(text: str, width: float, size: float) -> list[str]:
    """Lines no wider than ``width`` inches."""
    for n_letters in range(max(8, int(160 * width / size)), 7, -2):
        lines = textwrap.wrap(text, n_letters) or [""]
        if max(text_width(line, size) for line in lines) <= width:
            break
    return lines
