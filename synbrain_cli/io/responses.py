"""Records beside synthesized responses: model, settings of the sampling, and images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from synbrain_cli.config import Band
from synbrain_cli.errors import InputError
from synbrain_cli.io.bids import func_file
from synbrain_cli.io.files import read_json
from synbrain_cli.io.records import convert_record

FORMAT = 3
SETTINGS = "settings.json"
AGAIN = "synthesize again with --overwrite"  # what to do about a folder that cannot be read
AXES = ("image (rows of images.tsv)", "draw", "voxel (rows of the model's voxels.tsv)")
MAP_AXES = (AXES[0], AXES[2])  # of the arrays of means and of standard deviations
SEQUENCE_AXES = (
    "trial (rows of events.tsv)",
    "sequence (all sessions)",
    "voxel (rows of the model's voxels.tsv)",
)


class ResponseImage(msgspec.Struct, frozen=True):
    """An image for which responses were synthesized.

    Attributes
    ----------
    name : str
        Name of the image.
    sha256 : str
        Checksum of the file; empty for an image without a picture.
    source : str, optional
        Path of the file, or of that of its tokens.
    """

    name: str
    sha256: str
    source: str | None = None


class ResponseSettings(msgspec.Struct, frozen=True):
    """Settings with which responses were synthesized.

    Attributes
    ----------
    model, model_folder, model_fingerprint : str
        Name and path of the bundle, and its fingerprint at the time.
    n_draws, seed : int
        Number of draws per image, and seed of the sampling.
    sampling, signal, noise_factor, unit
        As in `synbrain_cli.brain.Brain.draw`.
    images : list of ResponseImage
    statistics : list of str
        "mean", the expected response, "std", the predictive standard deviation of a single trial,
        "sem", the standard error of the expected response, and "distance" of the images from those
        of training; what is known of them. There are maps of the first three.
    spaces : list of str
        Spaces to which maps of statistics were resampled.
    maps : bool
        Whether every image has files of its own (NIfTI, GIFTI) beside the arrays of all images.
    tokens : dict
        Band of the user's own → checksum of the file of tokens
        (`synbrain_cli.io.token_files.TokenRows`).
    format : int
        Of the folder. Before format 3, arrays and maps were not in ``sub-01/func``; before format
        2, maps of the mean were averages of draws.
    """

    model: str
    model_folder: str
    model_fingerprint: str
    n_draws: int
    seed: int
    sampling: str
    signal: str
    noise_factor: float | None
    unit: str
    images: list[ResponseImage]
    statistics: list[str]
    spaces: list[str] = []
    maps: bool = True
    tokens: dict[str, str] = {}
    format: int = FORMAT


def array_of(folder: Path, what: str, subject: str = "*") -> Path | None:
    """Find an array of a folder of responses; None where there is none.

    Parameters
    ----------
    folder : path
    what : str
        End of its name, without suffix: ``desc-draws_betas``.
    subject : str
        Label; default any.
    """
    return min(folder.glob(func_file(subject, f"{what}.npy")), default=None)


def read_settings(path: Path) -> ResponseSettings:
    """Read the settings of a folder of responses.

    Raises
    ------
    MissingError
        When there are none.
    InputError
        When they are of another format, or not as synthesize writes them.
    """
    return convert_settings(read_json(path, AGAIN), path)


def convert_settings(content: Any, path: Path) -> ResponseSettings:
    """Convert what was read from ``path``: see `read_settings`."""
    if isinstance(content, dict) and content.get("kind") == "sequence":
        raise InputError(
            f"{path}: expected responses to images, found whole sessions (synthesize --sequence): "
            "read their array or NIfTI files"
        )
    if isinstance(content, dict) and content.get("format") != FORMAT:
        found = content.get("format")
        older = "an older one, whose maps of the mean are averages of draws"
        raise InputError(
            f"{path}: expected responses of format {FORMAT}, found "
            f"{older if found is None else str(found)[:20]}: {AGAIN}"
        )
    return convert_record(content, ResponseSettings, str(path), AGAIN)


class SequenceSettings(msgspec.Struct, frozen=True):
    """Settings with which whole sessions were synthesized.

    Attributes
    ----------
    model, model_folder, model_fingerprint : str
        As in `ResponseSettings`.
    sequence_sha256 : str
        Checksum of what the model knows of the order of trials.
    events, events_sha256 : str
        Path and checksum of the table of trials.
    images : list of ResponseImage
        Those that are shown.
    n_draws, seed, sampling, signal, unit, maps
        As in `ResponseSettings`; ``n_draws`` are sequences.
    kind : str
        Tells these settings from those of responses to images alone.
    """

    model: str
    model_folder: str
    model_fingerprint: str
    sequence_sha256: str
    events: str
    events_sha256: str
    images: list[ResponseImage]
    n_draws: int
    seed: int
    sampling: str
    signal: str
    unit: str
    maps: bool = True
    kind: str = "sequence"


class Sidecar(msgspec.Struct, frozen=True, rename="pascal", kw_only=True):
    """What the JSON sidecar of any map or array says, with field names in the style of BIDS.

    Attributes
    ----------
    description : str
        What is shown, and what is not.
    unit : str
        Unit of the values.
    simulated : bool
        Whether the model was trained on a simulated subject.
    subject, dataset, space : str
    model, model_fingerprint : str
        Name and fingerprint of the bundle.
    versions : dict
        Package → version.
    """

    description: str
    unit: str
    simulated: bool
    subject: str
    dataset: str
    space: str
    model: str
    model_fingerprint: str
    versions: dict[str, str]


class MapSidecar(Sidecar, frozen=True, rename="pascal", kw_only=True):
    """JSON sidecar of the maps of one statistic, and of the array that holds them for all images.

    Attributes
    ----------
    axes : tuple of str, optional
        Meaning of the axes of the array, where there is one.
    averaged_over : int
        As in `ResponseSidecar`.
    """

    axes: tuple[str, ...] | UnsetType = UNSET
    averaged_over: int


class DrawsSidecar(Sidecar, frozen=True, rename="pascal", kw_only=True):
    """What the JSON sidecar of any array of draws says.

    Attributes
    ----------
    axes : tuple of str
        Meaning of the axes of the array.
    bands : tuple of Band
        What the model sees of an image.
    sampling : str
        Method of sampling, as in `synbrain_cli.brain.Brain.draw`.
    signal : str, optional
        Setting of calibrated draws; None for other draws.
    number_of_draws, seed : int
        Number of draws per image, or of sequences, and seed of the sampling.
    command : str, optional
        Command line that was typed, without the folders of absolute paths; None from Python.
    """

    axes: tuple[str, ...]
    bands: tuple[Band, ...]
    sampling: str
    signal: str | None
    number_of_draws: int
    seed: int
    command: str | None = None


class ResponseSidecar(DrawsSidecar, frozen=True, rename="pascal", kw_only=True):
    """JSON sidecar of an array of draws for images.

    Attributes
    ----------
    noise_factor : float or str, optional
        Setting of latent draws; None for other draws.
    averaged_over : int
        Recorded trials that each draw is an average of, as the rows of the training data were.
    """

    axes: tuple[str, ...] = AXES
    noise_factor: float | str | None
    averaged_over: int


class SequenceSidecar(DrawsSidecar, frozen=True, rename="pascal", kw_only=True):
    """JSON sidecar of an array of whole sessions.

    Attributes
    ----------
    modelled : list of str
        What the order of trials does in these draws: "drift", "repetition", "serial".
    order : list of str
        The same in words, with what held-out trials say of each part.
    drift_time_constant : float, optional
        In trials; None without drift.
    presentations_counted : {"experiment", "session"}, optional
        Since when; None without effects of repetition.
    """

    axes: tuple[str, ...] = SEQUENCE_AXES
    modelled: list[str]
    order: list[str]
    drift_time_constant: float | None
    presentations_counted: str | None


class SegmentationSidecar(msgspec.Struct, frozen=True, rename="pascal", kw_only=True):
    """JSON sidecar of a mask or of regions, with the fields that BIDS has for these.

    Attributes
    ----------
    description : str
    type : str, optional
        Of a mask: "ROI".
    spatial_reference : str
        "orig": the subject's own grid.
    sources : list of str, optional
        Files that it was made of, as BIDS URIs.
    """

    description: str
    type: str | UnsetType = UNSET
    spatial_reference: str = "orig"
    sources: list[str] | UnsetType = UNSET
