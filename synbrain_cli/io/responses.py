"""``settings.json`` of synthesized responses: which model, how it drew, and which images."""

from __future__ import annotations

import msgspec


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
