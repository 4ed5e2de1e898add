"""How single-trial responses are drawn around the mean."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from typing import Any

import numpy as np
import torch

from synbrain_cli.brain.prediction import Networks
from synbrain_cli.errors import InputError
from synbrain_cli.model.covariance import Normal
from synbrain_cli.model.draw_key import draw_generator
from synbrain_cli.model.error_fields import ErrorFields
from synbrain_cli.model.readout import Readout

SAMPLINGS = ("calibrated", "latent", "mean")
SIGNALS = ("shared", "fresh")
UNITS = ("recorded", "z")


@dataclass(frozen=True)
class Drawing:
    """How responses are drawn: the arguments of `Brain.draw`, checked.

    Attributes
    ----------
    n_draws : int
    seed : int
    sampling : {"calibrated", "latent", "mean"}
    signal : {"shared", "fresh"}
    noise_factor : float, optional
    unit : {"recorded", "z"}

    Raises
    ------
    InputError
        Where one is impossible.
    """

    n_draws: int = 1
    seed: int = 0
    sampling: str = "calibrated"
    signal: str = "shared"
    noise_factor: float | None = None
    unit: str = "recorded"

    def __post_init__(self) -> None:
        if self.n_draws < 1:
            raise InputError(f"expected at least one draw, found {self.n_draws}")
        for name, choices in (("sampling", SAMPLINGS), ("signal", SIGNALS), ("unit", UNITS)):
            if getattr(self, name) not in choices:
                raise InputError(
                    f"{name}: expected {' or '.join(choices)}, found {getattr(self, name)!r}"
                )
        if self.noise_factor is None:
            return
        if self.sampling != "latent":
            raise InputError(
                f"expected the sampling latent with a noise factor, found {self.sampling}"
            )
        if not (np.isfinite(self.noise_factor) and self.noise_factor >= 0):
            raise InputError(f"expected a noise factor of 0 or more, found {self.noise_factor}")


@dataclass(frozen=True)
class DrawGenerators:
    """Random generators of one image's draws: by seed, model, image and number of the draw.

    Attributes
    ----------
    drawing : Drawing
    digest : str
        Of the image's content.
    fields : ErrorFields
        Of the model.
    features : float32 array of shape (n_frequencies, 2), optional
        By which similar images share unexplained signal; None where they do not.
    """

    drawing: Drawing
    digest: str
    fields: ErrorFields
    features: np.ndarray | None = None

    def generator(self, what: int | str) -> np.random.Generator:
        """Return the generator of draw ``what``, or of the unexplained signal."""
        return draw_generator(self.drawing.seed, self.digest, what, self.fields.fingerprint)

    def signal(self, k: int) -> Normal:
        """Return what the unexplained signal of draw ``k`` is drawn from."""
        name = "signal" if self.drawing.signal == "shared" else f"signal/{k}"
        if self.features is None:
            return self.generator(name)
        return self.fields.normals(self.features, self.drawing.seed, name)

    @property
    def signals(self) -> list[Normal]:
        """What unexplained signal is drawn from: one for all draws, or one each."""
        n_signals = 1 if self.drawing.signal == "shared" else self.drawing.n_draws
        return [self.signal(k) for k in range(n_signals)]

    @property
    def noises(self) -> Iterator[np.random.Generator]:
        """One generator for each draw's trial noise."""
        return map(self.generator, range(self.drawing.n_draws))


@dataclass(frozen=True)
class ImageResponse:
    """A model's response to one image: what is expected of a trial, its spread, and draws of it.

    Attributes
    ----------
    draws : float32 array of shape (n_draws, n_voxels)
    mean : float32 array of shape (n_voxels,)
        The expected response m: the stacked prediction, not an average of draws.
    sd : float32 array of shape (n_voxels,), optional
        Standard deviation of a single trial around ``mean``, by the readout
        (`synbrain_cli.model.readout.Readout.sd`), not over the draws. None where nothing gives it
        exactly: of draws by noise in the latent, and of models without a readout.
    sem : float32 array of shape (n_voxels,), optional
        Standard error of ``mean``: how far the true mean response to this image is from it
        (`synbrain_cli.model.uncertainty`). None where ``sd`` is, and where no image was repeated in
        training: trial noise and the error of the mean are then not told apart.
    distance : float, optional
        Percentage of training images that are as near to the other training images or nearer.
    """

    draws: np.ndarray
    mean: np.ndarray
    sd: np.ndarray | None = None
    sem: np.ndarray | None = None
    distance: float | None = None


class RepeatedGenerators(DrawGenerators):
    """Generators of one image's draws that give the same numbers each time they are asked for.

    Several distributions are drawn with the same numbers, which are generated once.
    """

    @property
    def signals(self) -> list[Any]:
        """See `DrawGenerators`."""
        return [numbers.again() for numbers in self._signals]

    @property
    def noises(self) -> Iterator[Any]:
        """See `DrawGenerators`."""
        return (numbers.again() for numbers in self._noises)

    @cached_property
    def _signals(self) -> list[_Kept]:
        return [_Kept(generator) for generator in super().signals]

    @cached_property
    def _noises(self) -> list[_Kept]:
        return [_Kept(generator) for generator in super().noises]


@dataclass
class _Kept:
    """Normal numbers of a generator, kept in the order in which they were drawn."""

    generator: Normal
    numbers: list[np.ndarray] = field(default_factory=list)
    used: int = 0

    def again(self) -> _Kept:
        """Begin with the first numbers."""
        self.used = 0
        return self

    def standard_normal(self, size: int, dtype: type, /) -> np.ndarray:
        """Numbers that were drawn before, or new ones where there are none."""
        if self.used == len(self.numbers):
            self.numbers.append(self.generator.standard_normal(size, dtype))
        self.used += 1
        return self.numbers[self.used - 1]


def draw_around(mean: np.ndarray, readout: Readout, generators: DrawGenerators) -> np.ndarray:
    """Draw around a known mean response: float32 (n_draws, n_voxels), standardised.

    Parameters
    ----------
    mean : float32 array of shape (n_voxels,), standardised
    readout : Readout
    generators : DrawGenerators
    """
    return readout.draw(mean, generators.signals, list(generators.noises))


@torch.inference_mode()
def draw_latent(
    latent: torch.Tensor, networks: Networks, n_voxels: int, generators: DrawGenerators, batch: int
) -> np.ndarray:
    """Draw by noise in the latent (Mai et al. 2025, appendix E): (n_draws, n_voxels).

    Parameters
    ----------
    latent : float32 Tensor of shape (1, n_tokens, n_dims)
        S2N(tokens) of the image.
    networks : Networks
    n_voxels : int
    generators : DrawGenerators
    batch : int
        Draws that are decoded together.

    Returns
    -------
    float32 array of shape (n_draws, n_voxels), standardised
    """
    noise = (
        networks.latent_readout.noise(generator, generators.drawing.noise_factor)
        for generator in generators.noises
    )
    draws = []
    while some := list(islice(noise, batch)):
        noisy = latent + torch.from_numpy(np.stack(some)).to(latent.device)
        draws.append(networks.vae.decode(noisy, n_voxels).cpu().numpy())
    return np.concatenate(draws)
