"""Records beside synthesized responses: which model, how it drew, and which images."""

from __future__ import annotations

import msgspec

from synbrain_cli.config import EncoderIdentity

AXES = ("image (rows of images.tsv)", "draw", "voxel (rows of the model's voxels.tsv)")


class ResponseImage(msgspec.Struct, frozen=True):
    """An image to which responses were synthesized.

    Attributes
    ----------
    name : str
    sha256 : str
        Of the file.
    source : str, optional
        Its path.
    """

    name: str
    sha256: str
    source: str | None = None


class ResponseSettings(msgspec.Struct, frozen=True):
    """How responses were synthesized.

    Attributes
    ----------
    model, model_folder, model_fingerprint : str
        Name and path of the bundle, and its fingerprint when it drew.
    n_draws, seed : int
    sampling, signal, noise_factor, unit
        As in `synbrain_cli.brain.Brain.draw`.
    images : list of ResponseImage
    spaces : list of str
        To which means and standard deviations were resampled.
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
    spaces: list[str] = []


class ResponseProgress(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How many images, from the first on, are finished."""

    n_done: int


class ResponseSidecar(msgspec.Struct, frozen=True, rename="pascal", kw_only=True):
    """JSON sidecar of an array of draws, as BIDS names its fields.

    Attributes
    ----------
    unit : str
    simulated : bool
    subject, dataset, space : str
    encoder : EncoderIdentity
    model, model_fingerprint : str
    sampling : str
    signal : str, optional
        Of calibrated draws.
    noise_factor : float or str, optional
        Of latent draws.
    number_of_draws, seed : int
    versions : dict
    """

    description: str = "Synthesized single-trial responses"
    axes: tuple[str, ...] = AXES
    unit: str
    simulated: bool
    subject: str
    dataset: str
    space: str
    encoder: EncoderIdentity
    model: str
    model_fingerprint: str
    sampling: str
    signal: str | None
    noise_factor: float | str | None
    number_of_draws: int
    seed: int
    versions: dict[str, str]
