"""What all figures share: the frame around a map, its colours, ROIs, checks, and files."""

from __future__ import annotations

import math
import os
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from synbrain_cli.errors import InputError, InputTypeError, SynbrainError
from synbrain_cli.io.surface import HEMISPHERES, N_FSAVERAGE

if TYPE_CHECKING:
    from matplotlib.cm import ScalarMappable
    from matplotlib.figure import Figure

FORMATS = ("png", "svg", "pdf")
# Okabe & Ito's colours can be told apart by all.
COLOURS = {
    "model": "#0072B2",
    "linear": "#E69F00",
    "mean_pattern": "#999999",
    "shuffled": "#CC79A7",
    "latent": "#D55E00",
    "recorded": "#000000",
    "ceiling": "#009E73",
}
EARLY = ("V1", "V2", "V3", "hV4")  # regions drawn first, in the order of the visual hierarchy
DENSITIES = {n: name for name, n in N_FSAVERAGE.items()}  # vertices per hemisphere → fsaverage5, …
WIDTH = 11.0  # inches
SIDE = 0.25  # inches left free on the left and on the right
_FOOTER = 1.0  # inches, for the colour bar
BAND = "#ffd54d"  # behind what must not be overlooked


# Frame --------------------------------------------------------------------------------------------


class Frame(NamedTuple):
    """A figure with its header, and room for ``panel`` inches of maps above the colour bar."""

    figure: Figure
    width: float  # inches
    height: float
    ink: str  # a colour that can be read on the background

    def box(self, left: float, bottom: float, width: float, height: float) -> tuple[float, ...]:
        """Inches from the lower left corner of the maps → what ``add_axes`` takes."""
        return (
            left / self.width,
            (_FOOTER + bottom) / self.height,
            width / self.width,
            height / self.height,
        )


def frame(
    width: float,
    panel: float,
    *,
    title: str,
    image: ArrayLike | None = None,
    note: str | None = None,
    background: str = "white",
) -> Frame:
    """Make a figure with a title, the stimulus in the upper left corner and a label.

    Parameters
    ----------
    width, panel : float
        Of the figure, and height of what will be drawn in it, inches.
    title : str
        Any length: wrapped.
    image : uint8 array of shape (height, width, 3), optional
        The stimulus.
    note : str, optional
        A label that must not be overlooked, such as "simulated".
    background : str
        Colour of the figure.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import to_rgb
    from matplotlib.figure import Figure

    image = check_image(image)
    red, green, blue = to_rgb(background)
    ink = "black" if 0.3 * red + 0.59 * green + 0.11 * blue > 0.5 else "white"
    picture_width = 0.0
    if image is not None:
        picture_height = min(1.2, 2.4 * image.shape[0] / image.shape[1])
        picture_width = picture_height * image.shape[1] / image.shape[0]
    note_lines = textwrap.wrap(note or "", 36)
    note_width = max((_text_width(line, 13, bold=True) + 0.5 for line in note_lines), default=0)
    title_left = SIDE + (picture_width + 0.25 if picture_width else 0)
    lines = _wrap(title, width - SIDE - title_left - note_width, 16)
    header = max(
        0.35 + 0.27 * len(lines), 0.35 + 0.22 * len(note_lines), 1.45 if picture_width else 0
    )
    height = header + panel + _FOOTER
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
            bbox={"boxstyle": "round,pad=0.35", "facecolor": BAND, "edgecolor": "none"},
        )  # fmt: skip
    return Frame(figure, width, height, ink)


# Colours ------------------------------------------------------------------------------------------


def colours(
    limits: tuple[float, float],
    threshold: float | None = None,
    symmetric: bool = True,
    cmap: str | None = None,
) -> ScalarMappable:
    """Return the colours of values: grey, as cortex is, below the threshold.

    Parameters
    ----------
    limits : (float, float)
        As `colour_limits` gives them.
    threshold, symmetric, cmap
        As `synbrain_cli.plotting.flatmap.plot_flatmap` takes them.

    Raises
    ------
    InputError
        When there is no such colour map.
    """
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import ListedColormap, Normalize

    name = cmap or ("RdBu_r" if symmetric else "inferno")
    if name not in colormaps:
        raise InputError(f"cmap: expected the name of a matplotlib colour map, found {name!r}")
    levels = np.linspace(*limits, 1024)
    rgba = colormaps[name](np.linspace(0, 1, len(levels)))
    rgba[hidden(levels, threshold, symmetric)] = (0.8, 0.8, 0.8, 1)
    return ScalarMappable(Normalize(*limits), ListedColormap(rgba))


def hidden(
    values: NDArray[np.floating], threshold: float | None, symmetric: bool
) -> NDArray[np.bool_]:
    """Where values are nearer to 0 than the threshold (below it, when not symmetric)."""
    if not threshold:
        return np.zeros(values.shape, bool)
    return (np.abs(values) if symmetric else values) < threshold


def draw_colour_bar(
    framed: Frame,
    mappable: ScalarMappable,
    data: NDArray,
    unit: str,
    *,
    threshold: float | None = None,
    symmetric: bool = True,
    centre: float = 0.5,
    width: float = 0.34,
) -> None:
    """Draw the one colour bar, with its unit, range and threshold.

    Parameters
    ----------
    data : float array
        All that is drawn with these colours: arrows tell that values lie beyond.
    centre, width : float
        As shares of the figure's width.
    """
    low, high = mappable.get_clim()
    below, above = np.nanmin(data) < low, np.nanmax(data) > high
    extend = ("both" if above else "min") if below else ("max" if above else "neither")
    ticks = {low, high}
    label = unit
    if threshold:
        if threshold > 0.12 * (high - low):  # nearer, numbers would run into each other
            ticks |= {-threshold, threshold} if symmetric else {threshold}
        label += f"  (shown: {'|value|' if symmetric else 'value'} ≥ {threshold:g})"
    else:
        ticks.add(0.0 if low < 0 < high else (low + high) / 2)
    slot = framed.figure.add_axes(
        (centre - width / 2, 0.62 / framed.height, width, 0.17 / framed.height), label="colorbar"
    )
    bar = framed.figure.colorbar(mappable, cax=slot, orientation="horizontal", extend=extend)
    bar.set_ticks(sorted(ticks), labels=[f"{tick:.3g}".replace("-", "−") for tick in sorted(ticks)])
    bar.ax.tick_params(labelsize=11, color=framed.ink, labelcolor=framed.ink, length=3)
    bar.outline.set_visible(False)
    bar.set_label(label, fontsize=12, color=framed.ink, parse_math=False)


def colour_limits(
    data: NDArray,
    vmin: float | None = None,
    vmax: float | None = None,
    threshold: float | None = None,
    symmetric: bool = True,
) -> tuple[float, float]:
    """Ends of the colours, with the threshold between them.

    By default ±, or 0 to, the 99th percentile of the values' magnitude, two significant digits.

    Raises
    ------
    InputError
        When a threshold or limit leaves nothing to draw.
    """
    values = data[np.isfinite(data)]
    size = np.abs(values) if symmetric else values
    if symmetric and vmin is not None:
        raise InputError("vmin: symmetric colours run from −vmax to vmax: leave vmin out")
    if vmax is not None:
        high = float(vmax)
    else:
        high = _round(np.percentile(size, 99))
        if high <= (threshold or 0):
            high = _round(size.max())
        if threshold is None and high <= 0:
            high = 0.0 if size.min() < 0 else 1.0
    if symmetric:
        low = -high
    elif vmin is not None:
        low = float(vmin)
    else:
        low = min(0.0, -_round(-np.percentile(values, 1)))
    if threshold is not None and not 0 <= threshold < high:
        raise InputError(
            f"threshold: expected 0 or more and less than {high:g}, the upper end of the colours; "
            f"found {threshold:g}; the largest value is {size.max():g}"
        )
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise InputError(f"colours: expected finite limits, vmin < vmax; found {low:g}, {high:g}")
    return low, high


def _round(value: float) -> float:
    """Two significant digits, away from zero for positive values, so that the range reads well."""
    if value == 0:
        return 0.0
    unit = 10.0 ** (math.floor(math.log10(abs(value))) - 1)
    return float(f"{math.ceil(value / unit - 1e-9) * unit:.2g}")


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
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with rc_context({"svg.hashsalt": "synbrain", "pdf.fonttype": 42}):
            # Half the time that zlib's default takes, for files a fifth larger
            fast = {"pil_kwargs": {"compress_level": 3}} if path.suffix == ".png" else {}
            figure.savefig(temporary, dpi=dpi, metadata=metadata[path.suffix], **fast)
        temporary.replace(path)
    except OSError as error:
        raise SynbrainError(
            f"cannot write {path}: {error.strerror or error}: free some space or choose a folder "
            "you may write to"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


# Checks -------------------------------------------------------------------------------------------


def check_hemispheres(maps: Mapping[str, ArrayLike]) -> dict[str, NDArray[np.float64]]:
    """Left and right values, of any shape: finite or NaN, and some finite."""
    if not isinstance(maps, Mapping) or set(maps) != set(HEMISPHERES):
        found = sorted(map(str, maps)) if isinstance(maps, Mapping) else type(maps).__name__
        raise InputError(f"maps: expected a dict with left and right, found {found}")
    checked = {}
    for hemisphere in HEMISPHERES:
        values = np.asarray(maps[hemisphere])
        if values.dtype.kind not in "biuf":
            raise InputTypeError(
                f"{hemisphere} map: expected real numbers, found dtype {values.dtype}"
            )
        if np.isinf(values).any():
            raise InputError(
                f"{hemisphere} map: expected finite values or NaN, found infinite ones"
            )
        checked[hemisphere] = values.astype(np.float64)
    if all(np.isnan(values).all() for values in checked.values()):
        raise InputError("maps: expected values on some vertex, found NaN everywhere")
    return checked


def check_maps(maps: Mapping[str, ArrayLike]) -> NDArray[np.float64]:
    """Both hemispheres in one vector, left first."""
    checked = check_hemispheres(maps)
    for hemisphere, values in checked.items():
        if values.ndim != 1 or len(values) not in DENSITIES:
            counts = ", ".join(f"{n} ({name})" for n, name in DENSITIES.items())
            raise InputError(
                f"{hemisphere} map: expected one value per vertex of fsaverage, {counts}; found "
                f"shape {values.shape}: plot one map at a time, projected to fsaverage"
            )
    n_left, n_right = (len(checked[hemisphere]) for hemisphere in HEMISPHERES)
    if n_left != n_right:
        raise InputError(
            f"maps: expected as many vertices on the right as on the left, {n_left}; found "
            f"{n_right}"
        )
    return np.concatenate(list(checked.values()))


def check_rois(rois: Mapping[str, Any], n_vertices: int) -> dict[str, dict[str, NDArray[np.bool_]]]:
    """ROIs as hemisphere → name → member."""
    if not set(rois) <= set(HEMISPHERES):
        raise InputError(f"rois: expected the keys left and right, found {sorted(map(str, rois))}")
    checked = {}
    for hemisphere, given in rois.items():
        if isinstance(given, Mapping):
            named = {str(name): np.asarray(member) for name, member in given.items()}
            kinds = "b"
        else:
            labels = np.asarray(given)
            kinds = "b" if labels.dtype.kind not in "iuUSO" else labels.dtype.kind
            if kinds in "iu":
                names = [label for label in np.unique(labels) if label > 0]
            else:
                labels = labels.astype(str)
                names = [label for label in np.unique(labels) if label]
            named = {str(name): labels == name for name in names}
            if kinds == "b" or labels.shape != (n_vertices,):
                raise InputError(
                    f"{hemisphere} rois: expected {n_vertices} labels (int or str) or a dict from "
                    f"name to bool array, found {labels.dtype} of shape {labels.shape}"
                )
        for name, member in named.items():
            if member.shape != (n_vertices,) or member.dtype != bool:
                raise InputError(
                    f"{hemisphere} ROI {name}: expected a bool array of shape ({n_vertices},), "
                    f"found {member.dtype} of shape {member.shape}"
                )
        checked[hemisphere] = named
    return checked


def check_image(image: ArrayLike | None) -> NDArray[np.uint8] | None:
    if image is None:
        return None
    image = np.asarray(image)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise InputError(
            f"image: expected uint8 (height, width, 3), found {image.dtype} of shape {image.shape}"
        )
    return image


# Text ---------------------------------------------------------------------------------------------


def _text_width(text: str, size: float, bold: bool = False) -> float:
    """Width in inches."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextToPath

    font = FontProperties(weight="bold" if bold else "normal", size=size)
    return TextToPath().get_text_width_height_descent(text, font, ismath=False)[0] / 72


def _wrap(text: str, width: float, size: float) -> list[str]:
    """Lines no wider than ``width`` inches."""
    for n_letters in range(max(8, int(160 * width / size)), 7, -2):
        lines = textwrap.wrap(text, n_letters) or [""]
        if max(_text_width(line, size) for line in lines) <= width:
            break
    return lines
