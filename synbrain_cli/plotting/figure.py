"""The frame of all figures, their styles, panel letters, and writing figures to files.

Figures are laid out in inches and points of a screen. A style says how wide that layout is, and how
large an inch of it is printed: for a paper the layout is a journal's column, for a talk a slide.
"""

from __future__ import annotations

import contextlib
import math
import re
import textwrap
import weakref
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from synbrain_cli.errors import InputError
from synbrain_cli.io.files import atomic
from synbrain_cli.plotting.validation import check_stimulus

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from synbrain_cli.plotting.labels import Labels

FORMATS = ("png", "svg", "pdf")
WIDTH = 11.0  # inches
SIDE = 0.25  # inches left free on the left and on the right
FOOTER = 1.0  # inches, for the colour bar
NOTE_BACKGROUND = "#ffd54d"  # background colour of highlighted notes
LETTER = 14.0  # points, of the letters of panels
_MM = 25.4  # per inch
_HINTED = 0.98  # share of a width for outlines: rendered, small type is up to 1 % wider


# Styles -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Style:
    """How large figures are, and how large their type is.

    Attributes
    ----------
    scale : float
        Printed size of an inch, and of a point, of the layout.
    widths : tuple of float
        Printed widths, mm, of which each figure takes the one nearest to its design; without any,
        figures are as wide as they were designed.
    height : float, optional
        Printed height, mm, of all figures that can have it.
    title, note : float
        Size of their type in the layout, points.
    stimulus : float
        Greatest height of a stimulus, inches of the layout.
    least : float
        Smallest type of names on maps in the layout, points.
    dpi : int
        Dots per printed inch where none are asked for.
    dots : float
        How many more dots an inch of the layout has on a page of the report.
    """

    scale: float = 1.0
    widths: tuple[float, ...] = ()
    height: float | None = None
    title: float = 16.0
    note: float = 13.0
    stimulus: float = 1.2
    least: float = 5.0
    dpi: int = 200
    dots: float = 1.0

    def width(self, designed: float) -> float:
        """Return the width of a figure's layout, inches, for one designed to be so wide."""
        choices = [width / _MM / self.scale for width in self.widths] or [designed]
        return min(choices, key=lambda width: abs(math.log(width / designed)))

    @property
    def narrow(self) -> bool:
        """Whether panels have to be below each other."""
        return bool(self.widths) and self.width(WIDTH) < 5

    @property
    def slide(self) -> float | None:
        """Height of the layout, inches, where all figures have one."""
        return None if self.height is None else self.height / _MM / self.scale


STYLES = {
    "screen": Style(),
    # Widths of one and of two columns, and type of 5 to 7 points, are those of Nature:
    # https://research-figure-guide.nature.com/figures/building-and-exporting-figure-panels. Type
    # of figures is 9 to 12 points, and of titles no more.
    "paper": Style(7 / 12, (89.0, 183.0), title=12.0, note=11.0, least=60 / 7, dpi=300, dots=1.6),
    # A slide of 13.33 by 7.5 inches (16:9)
    "talk": Style(4 / 3, (338.667,), 190.5, note=12.0, stimulus=0.9, least=9.0, dpi=150, dots=1.3),
    # A page on a phone: 3.6 inches are 346 CSS pixels
    "phone": Style(
        1.0, (91.44,), title=13.0, note=12.0, stimulus=0.9, least=9.0, dpi=150, dots=1.6
    ),
}
_CURRENT: ContextVar[Style] = ContextVar("style", default=STYLES["screen"])
_STYLE_OF: weakref.WeakKeyDictionary[Figure, Style] = weakref.WeakKeyDictionary()


@contextlib.contextmanager
def figure_style(name: str | None) -> Iterator[Style]:
    """Make figures in a style while the context lasts; they keep it when they are written later.

    Parameters
    ----------
    name : {"screen", "paper", "talk", "phone"}, optional
        Default the style that is current.

    Raises
    ------
    InputError
        When there is no such style.

    Examples
    --------
    >>> with figure_style("paper"):
    ...     figure = new_figure(7, 3)
    >>> float(round(25.4 * figure.get_size_inches()[0] * style_of(figure).scale))
    89.0
    """
    if name is not None and name not in STYLES:
        raise InputError(f"--style {name}: expected one of {', '.join(STYLES)}")
    style = current_style() if name is None else STYLES[name]
    token = _CURRENT.set(style)
    try:
        yield style
    finally:
        _CURRENT.reset(token)


def current_style() -> Style:
    """Return the style of figures that are made now."""
    return _CURRENT.get()


def style_of(figure: Figure) -> Style:
    """Return the style that a figure was made in."""
    return _STYLE_OF.get(figure, STYLES["screen"])


def new_figure(width: float, height: float, **options: Any) -> Figure:
    """Return an empty figure in the current style.

    Parameters
    ----------
    width, height : float
        As designed, inches of the layout.
    **options
        As ``matplotlib.figure.Figure`` takes them.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    style = current_style()
    figure = Figure(figsize=(style.width(width), style.slide or height), **options)
    FigureCanvasAgg(figure)
    _STYLE_OF[figure] = style
    return figure


# Frame --------------------------------------------------------------------------------------------


class Frame(NamedTuple):
    """A figure with its header, and room for maps between the header and the colour bar."""

    figure: Figure
    width: float  # inches
    height: float
    header: float
    ink: str  # a colour that can be read on the background

    @property
    def top(self) -> float:
        """Lower end of the header, as a share of the figure."""
        return 1 - self.header / self.height

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

    def fit(self, width: float, height: float, fixed: float = 0.0) -> tuple[float, float, float]:
        """Place maps of a size in inches: left and bottom, and what their size is multiplied by.

        They lie in the middle, and are smaller than planned where a style gives them less height.
        What is ``fixed`` of the height beside theirs, such as titles, is not made smaller.
        """
        room = self.height - self.header - FOOTER - fixed
        share = min(1.0, room / height)
        return (self.width - share * width) / 2, (room - share * height) / 2, share


def frame(
    width: float, panel: float, labels: Labels, background: str = "white", *, slide: bool = True
) -> Frame:
    """Make a figure with a title, the stimulus in the upper left corner and the note.

    Parameters
    ----------
    width, panel : float
        Width of the figure as designed, and height of what will be plotted in it, inches.
    labels : Labels
        Their title, stimulus and note.
    background : str
        Colour of the figure.
    slide : bool
        Whether the figure has the height of a slide where the style says so.

    Raises
    ------
    InputError
        When the stimulus is no uint8 array of shape (height, width, 3).
    """
    from matplotlib.colors import to_rgb

    style = current_style()
    width = style.width(width)
    image = check_stimulus(labels.stimulus)
    red, green, blue = to_rgb(background)
    ink = "black" if 0.3 * red + 0.59 * green + 0.11 * blue > 0.5 else "white"
    picture_width = picture_height = 0.0
    if image is not None:
        picture_height = min(style.stimulus, 2 * style.stimulus * image.shape[0] / image.shape[1])
        picture_width = picture_height * image.shape[1] / image.shape[0]
    line, note_line = 0.27 / 16 * style.title, 0.22 / 13 * style.note  # inches
    note_lines = textwrap.wrap(labels.note or "", 36)
    note_width = max(
        (text_width(one, style.note, bold=True) + 0.5 for one in note_lines), default=0
    )
    above = 0.0  # of the note, over the title where it has no room beside it
    if style.narrow and note_lines:
        above, note_width = 0.2 + note_line * len(note_lines), 0.0
    title_left = SIDE + (picture_width + 0.25 if picture_width else 0)
    lines = wrap_text(labels.title, width - SIDE - title_left - note_width, style.title)
    beside = 0.25 + picture_height if picture_width else 0
    header = above + max(
        0.35 + line * len(lines), 0 if above else 0.35 + note_line * len(note_lines), beside
    )
    height = header + panel + FOOTER
    if slide and style.slide is not None:
        height = style.slide
    figure = new_figure(width, height, facecolor=background)
    figure.set_size_inches(width, height)
    figure.text(
        title_left / width, 1 - (above + 0.18) / height, "\n".join(lines), parse_math=False,
        fontsize=style.title, color=ink, va="top", ha="left", linespacing=1.2, gid="title",
    )  # fmt: skip
    if image is not None:
        corner = figure.add_axes(
            (
                SIDE / width,
                1 - (above + 0.15 + picture_height) / height,
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
            fontsize=style.note, fontweight="bold", color="black", va="top", ha="right", gid="note",
            bbox={"boxstyle": "round,pad=0.35", "facecolor": NOTE_BACKGROUND, "edgecolor": "none"},
        )  # fmt: skip
    return Frame(figure, width, height, header, ink)


# Panels -------------------------------------------------------------------------------------------


def add_letters(panels: Iterable[Axes], left: float = 0.0, above: float = 5.0) -> None:
    """Letter panels a, b, c, … at their upper left corners; one alone has no letter.

    Parameters
    ----------
    panels : axes
    left, above : float
        How far left of the corner and above it, points: an axis has its name and numbers below the
        letter; where there is no room above, the letter is inside (negative numbers).
    """
    from matplotlib.patheffects import withStroke

    panels = list(panels)
    if len(panels) < 2:
        return
    for number, axes in enumerate(panels):
        axes.annotate(
            panel_letter(number), (0, 1), (-left, above), xycoords="axes fraction", gid="letter",
            textcoords="offset points", fontsize=LETTER, fontweight="bold", ha="left",
            va="top" if above < 0 else "bottom", annotation_clip=False, zorder=6,
            path_effects=[withStroke(linewidth=3, foreground="white")],
        )  # fmt: skip


def panel_letter(number: int) -> str:
    """Return a, b, …, z, aa, ab, … for 0, 1, ….

    Examples
    --------
    >>> [panel_letter(number) for number in (0, 25, 26)]
    ['a', 'z', 'aa']
    """
    before, last = divmod(number, 26)
    return (panel_letter(before - 1) if before else "") + chr(ord("a") + last)


def lettered(n_panels: int, what: str) -> str:
    """Return the beginning of a caption of panels that are all alike, or nothing for one panel.

    Examples
    --------
    >>> lettered(6, "one image each")
    'a to f: one image each. '
    """
    return f"a to {panel_letter(n_panels - 1)}: {what}. " if n_panels > 1 else ""


# Files --------------------------------------------------------------------------------------------


def save_figure(figure: Figure, path: Path | str, dpi: int | None = None) -> None:
    """Write a figure atomically; the same figure always gives the same bytes.

    Parameters
    ----------
    figure : matplotlib.figure.Figure
        What to write, in the size of the style that it was made in.
    path : path
        Ends in ``.png``, ``.svg`` or ``.pdf``.
    dpi : int, optional
        Dots per inch of rasters; default 200, or those of the style.

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
    style = style_of(figure)
    dpi = dpi or style.dpi
    options: dict[str, Any] = {"dpi": dpi * style.scale, "metadata": metadata[path.suffix]}
    rc = rc_context({"svg.hashsalt": "synbrain", "pdf.fonttype": 42})
    with atomic(path) as temporary, rc:
        if path.suffix == ".png":
            # Half the time that zlib's default takes, for files a fifth larger
            options["pil_kwargs"] = {"compress_level": 3, "dpi": (dpi, dpi)}
        if path.suffix == ".pdf" and style.scale != 1:
            with _pdf_canvas(figure, style.scale):
                figure.savefig(temporary, **options)
        else:
            figure.savefig(temporary, **options)
        if path.suffix == ".svg" and style.scale != 1:
            temporary.write_text(_scaled_svg(temporary.read_text("utf-8"), style.scale), "utf-8")


def _scaled_svg(svg: str, scale: float) -> str:
    """Change the size of a picture, whose view box stays."""

    def scaled(size: re.Match[str]) -> str:
        return f'{size[1]}="{scale * float(size[2]):.6g}pt"'

    start = svg.index("<svg ")
    end = svg.index(">", start)
    root = re.sub(r'\b(width|height)="([\d.]+)pt"', scaled, svg[start:end])
    return svg[:start] + root + svg[end:]


@contextlib.contextmanager
def _pdf_canvas(figure: Figure, scale: float) -> Iterator[None]:
    """Let a figure be written as a PDF of another size: matplotlib can only change the layout."""
    from matplotlib.backends.backend_mixed import MixedModeRenderer
    from matplotlib.backends.backend_pdf import FigureCanvasPdf, Op, PdfFile, RendererPdf

    class ScaledCanvas(FigureCanvasPdf):
        def print_pdf(self, filename: Any, *, metadata: Any = None, **_: Any) -> None:
            dpi, self.figure.dpi = self.figure.dpi, 72  # points of a PDF per inch
            width, height = self.figure.get_size_inches()
            file = PdfFile(filename, metadata=metadata)
            try:
                file.newPage(scale * width, scale * height)
                file.output(scale, 0, 0, scale, 0, 0, Op.concat_matrix)
                pen = RendererPdf(file, dpi, height, width)
                mixed = MixedModeRenderer(self.figure, width, height, dpi, pen)
                self.figure.draw(mixed)
                mixed.finalize()
                file.finalize()
            finally:
                file.close()

    canvas = figure.canvas
    ScaledCanvas(figure)
    try:
        yield
    finally:
        figure.set_canvas(canvas)


# Text ---------------------------------------------------------------------------------------------


@lru_cache(maxsize=4096)
def text_width(text: str, size: float, bold: bool = False) -> float:
    """Return the width of a line in inches of the layout; ``size`` in points."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextToPath

    font = FontProperties(weight="bold" if bold else "normal", size=size)
    return TextToPath().get_text_width_height_descent(text, font, ismath=False)[0] / 72


def wrap_names(panels: Iterable[Axes], width: float) -> None:
    """Break titles of panels and names of horizontal axes, to be no wider than ``width`` inches."""
    from matplotlib.text import Text

    for axes in panels:
        titles = [part for part in axes.get_children() if isinstance(part, Text)]
        for text in (*titles, axes.xaxis.label):
            if text.get_text() and text not in axes.texts:
                lines = " ".join(text.get_text().split())
                text.set_text("\n".join(wrap_text(lines, width, text.get_fontsize())))


def wrap_text(text: str, width: float, size: float) -> list[str]:
    """Break a text of ``size`` points into lines no wider than ``width`` inches of the layout."""
    width *= _HINTED
    for n_letters in range(max(8, int(160 * width / size)), 7, -2):
        lines = textwrap.wrap(text, n_letters) or [""]
        if max(text_width(line, size) for line in lines) <= width:
            break
    return lines
