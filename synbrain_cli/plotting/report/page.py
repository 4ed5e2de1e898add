"""One HTML file that holds a whole report: figures, numbers and text, without external references.

A page is made of frozen dataclasses, and `render` writes them with the template
`report.html.jinja`. Every text is escaped, because names of image files cannot be trusted. A
content security policy, which frames inherit, forbids the page to use the network.
"""

from __future__ import annotations

import base64
import io
import itertools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from synbrain_cli.errors import InputError, InputTypeError
from synbrain_cli.plotting.figure import NOTE_BACKGROUND, figure_style, style_of

if TYPE_CHECKING:
    from jinja2 import Environment
    from matplotlib.figure import Figure
    from PIL import Image

_NUMBER = re.compile(
    r"[<>≤≥≈~±+−-]?\s?\d+(,\d{3})*(\.\d+)?(e[+−-]?\d+)?"  # 22,500 or −0.4 or 1e-5
    r"(\s?[a-zA-Zµ%°/]+)?"  # its unit
    r"(\s?[±\[(].*)?"  # its interval
    r"|\[[^a-zA-Z]+\]"  # an interval alone
)
_ICON = re.compile(r"""<link\s[^>]*rel=["']icon["'][^>]*>""")
_FLAT = 0.01  # of the pixels, above which a colour is kept as it is
_SETTLED = 1000  # pixels that may still change their colour when the palette is taken as found


@dataclass(frozen=True)
class Picture:
    """An image: its bytes, alternative text, and a caption that explains how to read it.

    The bytes are a PNG, JPEG or WebP file.

    A wide picture takes the whole width of the page, others at most that of the text. On narrow
    screens another rendering stands in its place, where there is one.
    """

    data: bytes
    alt: str
    caption: str
    wide: bool = True
    narrow: bytes | None = None

    def __post_init__(self) -> None:
        _ = self.size  # checks the bytes
        if self.narrow is not None:
            _ = self.narrow_size
        if not self.alt.strip():
            raise InputError("picture: expected an alternative text (alt), found an empty one")

    @cached_property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels, so that the page does not jump while it loads."""
        return _size(self.data, self.alt)

    @cached_property
    def narrow_size(self) -> tuple[int, int]:
        """The same of the rendering for narrow screens, which there must be."""
        return _size(self.narrow or b"", self.alt)

    @property
    def source(self) -> str:
        """The image itself as a data URL."""
        return _data_url(self.data)

    @property
    def narrow_source(self) -> str:
        """The rendering for narrow screens as a data URL."""
        return _data_url(self.narrow or b"")


@dataclass(frozen=True)
class Table:
    """Rows of cells. The first cell of a row is its header; numbers are aligned right."""

    caption: str
    header: list[str]
    rows: list[list[str]]
    note: str | None = None

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.header):
                raise InputError(
                    f"table {self.caption!r}: expected {len(self.header)} cells a row, as in the "
                    f"header, found {len(row)} in {row}"
                )

    @property
    def numeric(self) -> list[bool]:
        """Which columns hold numbers, some of which may be missing ("–" or "not known")."""
        return [
            any(map(_NUMBER.fullmatch, column))
            and all(_NUMBER.fullmatch(cell) or not re.search(r"\d", cell) for cell in column)
            for column in zip(*self.rows, strict=True)
        ] or [False] * len(self.header)


@dataclass(frozen=True)
class Facts:
    """Names and values of any length, such as settings and provenance."""

    items: list[tuple[str, str]]


@dataclass(frozen=True)
class Command:
    """A command to repeat, with a button that copies it."""

    text: str


@dataclass(frozen=True)
class Live:
    """A complete interactive HTML page (nilearn's rotatable surfaces), in a frame of its own.

    The frame may run scripts and nothing else: no storage, no pop-ups, no network. Screen readers
    use the title as its name. Where there is no WebGL, no script or only paper, a still picture,
    with its own caption, is in its place.
    """

    html: str
    title: str
    caption: str
    still: Picture

    @property
    def document(self) -> str:
        """The page without its icon, which nilearn links to an address outside the frame."""
        return _ICON.sub("", self.html)


@dataclass(frozen=True)
class Gallery:
    """Small pictures in a grid: stimuli with their names."""

    pictures: list[Picture]


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str


Block = Picture | Table | Facts | Command | Live | Gallery | Text


@dataclass(frozen=True)
class Section:
    """A heading, an introduction, and the parts of the section in order."""

    title: str
    intro: str
    blocks: list[Block]

    def __post_init__(self) -> None:
        for block in self.blocks:
            if not isinstance(block, Block):
                raise InputTypeError(
                    f"section {self.title!r}: expected Picture, Table, Facts, Command, Live, "
                    f"Gallery or Text, found {type(block).__name__}"
                )


@dataclass(frozen=True)
class KeyNumber:
    """A number that matters: what it is, and beside what it is to be read."""

    label: str
    value: str
    beside: str


@dataclass(frozen=True)
class KeyNumbers:
    """The box of the numbers that matter, above the contents."""

    title: str
    numbers: list[KeyNumber]


@dataclass(frozen=True)
class Page:
    """The report. Its warning is above everything else, on the screen and in print."""

    title: str
    lead: str
    warning: str | None
    sections: list[Section]
    footer: str
    key_numbers: KeyNumbers | None = None


def render(page: Page) -> str:
    """Write the report as one HTML file; the same page always gives the same text.

    Figures and tables are numbered in order of appearance.

    Parameters
    ----------
    page : Page

    Returns
    -------
    str
        To be written as UTF-8.

    Examples
    --------
    >>> html = render(Page("Report", "What it is.", None, [Section("One", "", [])], "synbrain"))
    >>> "<h1>Report</h1>" in html
    True
    """
    return _environment().get_template("report.html.jinja").render(page=page, band=NOTE_BACKGROUND)


def number_text(value: float | None) -> str:
    """Return a number as tables print it, with three digits after the point, fewer above 10."""
    if value is None or not np.isfinite(value):
        return "–"
    digits = 1 if abs(value) >= 100 else 2 if abs(value) >= 10 else 3
    return f"{round(value, digits) + 0:.{digits}f}".replace("-", "−")


def listed(names: Sequence[str], n: int = 12) -> str:
    """Return the first ``n`` names, separated by commas, and how many more there are."""
    more = f" and {len(names) - n} more" if len(names) > n else ""
    return ", ".join(names[:n]) + more


def figure_png(figure: Figure, dpi: float = 110) -> bytes:
    """Write a figure as a PNG of 256 colours; the same figure always gives the same bytes.

    A flatmap has some 25,000 colours; with a palette its file is 0.4 times as large. The palette
    is chosen to span all colours (otherwise rare ones are lost: those of the stimulus, and of the
    end of the colour bar that no voxel reaches) and is then refined by k-means; white and other
    colours of whole areas stay as they are. Dithering keeps smooth colours free of steps, which
    readers would take for contours.

    Parameters
    ----------
    figure : matplotlib.figure.Figure
    dpi : float
        Dots per inch; 110 makes an 11-inch flatmap as wide as the page on a screen. Styles have
        more, in proportion.

    Returns
    -------
    bytes
    """
    return small_png(_pixels(figure, dpi))


def _pixels(figure: Figure, dpi: float) -> Image.Image:
    """The picture of a figure, mode RGB."""
    from PIL import Image

    file = io.BytesIO()
    unpacked = {"compress_level": 0}  # it is not kept
    dpi *= style_of(figure).dots
    figure.savefig(file, format="png", dpi=dpi, metadata={"Software": None}, pil_kwargs=unpacked)
    return Image.open(file).convert("RGB")


def plotted(plot: Callable[[], Figure], alt: str, caption: str, dpi: float = 110) -> Picture:
    """Return a figure as a picture, with a second rendering for narrow screens.

    Parameters
    ----------
    plot : function
        Returns the figure in the current style.
    alt, caption : str
        Of the picture.
    dpi : float
        As `figure_png` takes it, of the wide rendering.
    """
    wide = figure_png(plot(), dpi)
    with figure_style("phone"):
        narrow = _pixels(plot(), 110)
    # Maps are a third as large in WebP, charts are smaller as a PNG of few colours
    files = small_png(narrow), _encoded(narrow, "WEBP", quality=80)
    return Picture(wide, alt, caption, narrow=min(files, key=len))


def small_png(image: Image.Image) -> bytes:
    """Write a picture, mode RGB, as a PNG of 256 colours: see `figure_png`."""
    from PIL import Image

    area = image.width * image.height
    flat = [colour for n, colour in image.getcolors(area) if n > _FLAT * area]
    others = image.quantize(256 - len(flat), Image.Quantize.MAXCOVERAGE, kmeans=_SETTLED)
    palette = Image.new("P", (1, 1))
    palette.putpalette([*itertools.chain(*flat), *others.getpalette()])
    small = image.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG)
    # Pillow finds the nearest colour only approximately: white could become a tint
    index, pixels = np.array(small), np.array(image)
    for k, colour in enumerate(flat):
        index[(pixels == colour).all(-1)] = k
    small.frombytes(index.tobytes())
    return _encoded(small, "PNG", optimize=True)


def thumbnail(image: NDArray[np.uint8], size: int = 320) -> bytes:
    """Write a photograph small, as a JPEG: what a gallery of stimuli is made of.

    Parameters
    ----------
    image : uint8 array of shape (height, width, 3)
    size : int
        Pixels of the longer side; smaller images stay as they are.

    Returns
    -------
    bytes

    Examples
    --------
    >>> Picture(thumbnail(np.zeros((600, 400, 3), np.uint8)), "black", "A black image").size
    (213, 320)
    """
    from PIL import Image

    small = Image.fromarray(image)
    small.thumbnail((size, size))
    return _encoded(small, "JPEG", quality=85)


def _size(data: bytes, alt: str) -> tuple[int, int]:
    """Width and height of an image in pixels."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(data), formats=("PNG", "JPEG", "WEBP")) as image:
            return image.size
    except UnidentifiedImageError as error:
        raise InputError(
            f"picture {alt!r}: expected the bytes of a PNG, JPEG or WebP file, found "
            f"{bytes(data[:8])!r}…: see figure_png and thumbnail"
        ) from error


def _data_url(data: bytes) -> str:
    kinds = {b"\x89PNG": "png", b"RIFF": "webp"}
    kind = kinds.get(data[:4], "jpeg")
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"


def _encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@lru_cache(maxsize=1)
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("synbrain_cli", "plotting/report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["kind"] = lambda block: type(block).__name__
    return environment
