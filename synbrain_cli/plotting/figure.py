"""What all figures share: colours, the label of simulated subjects, and files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from synbrain_cli.errors import InputError, SynbrainError

if TYPE_CHECKING:
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
BAND = "#ffd54d"  # behind what must not be overlooked


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
            figure.savefig(temporary, dpi=dpi, metadata=metadata[path.suffix])
        temporary.replace(path)
    except OSError as error:
        raise SynbrainError(
            f"cannot write {path}: {error.strerror or error}: free some space or choose a folder "
            "you may write to"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
