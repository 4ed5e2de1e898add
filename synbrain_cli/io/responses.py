"""Records beside synthesized responses: model, settings of the sampling, and images."""

from __future__ import annotations

import msgspec

from synbrain_cli.config import EncoderIdentity

AXES = ("image (rows of images.tsv)", "draw", "voxel (rows of the model's voxels.tsv)")


class ResponseImage(msgspec.Struct, frozen=True):
    """An image for which responses were synthesized.

    Attributes
    ----------
    name : str
        Name of the image.
    sha256 : str
        Checksum of the file.
    source : str, optional
        Path of the file.
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
    spaces : list of str
        Spaces to which means and standard deviations were resampled.
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
    """Progress of an interrupted synthesis.

    Attributes
    ----------
    done : dict
        Number of a finished image → checksum of what was written for it.
    """

    done: dict[int, str]


class ResponseSidecar(msgspec.Struct, frozen=True, rename="pascal", kw_only=True):
    """JSON sidecar of an array of draws, with field names in the style of BIDS.

    Attributes
    ----------
    description : str
    axes : tuple of str
        Meaning of the axes of the array.
    unit : str
        Unit of the draws.
    simulated : bool
        Whether the model was trained on a simulated subject.
    subject, dataset, space : str
    encoder : EncoderIdentity
        Image encoder of the model.
    model, model_fingerprint : str
        Name and fingerprint of the bundle.
    sampling : str
        Method of sampling, as in `synbrain_cli.brain.Brain.draw`.
    signal : str, optional
        Setting of calibrated draws; None for other draws.
    noise_factor : float or str, optional
        Setting of latent draws; None for other draws.
    averaged_over : int
        Recorded trials that each draw is an average of, as the rows of the training data were.
    number_of_draws, seed : int
        Number of draws per image, and seed of the sampling.
    versions : dict
        Package → version.
    """

    description: str
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
    averaged_over: int
    number_of_draws: int
    seed: int
    versions: dict[str, str]
