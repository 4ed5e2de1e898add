"""Bundle → networks, predictors and readout."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from synbrain_cli.brain.prediction import Networks, Predictors, PredictsMean, SourcePredictions
from synbrain_cli.errors import InputError
from synbrain_cli.io.bundle import BundleConfig, load_arrays
from synbrain_cli.model.core import CoreEvidence
from synbrain_cli.model.mapper import Mapper
from synbrain_cli.model.readout import LatentReadout, Readout
from synbrain_cli.model.tokens import TokenScaler
from synbrain_cli.model.transfer import Adapter, Transfer
from synbrain_cli.model.vae import BrainVAE


@dataclass(frozen=True)
class Distribution:
    """What was fitted to single trials.

    Attributes
    ----------
    readout : Readout
        Unexplained signal and trial noise around the mean.
    mean_pattern : float32 array of shape (n_voxels,)
        Mean over training trials.
    linear_variance, trial_variance : float32 arrays of shape (n_voxels,)
        Of trials around the linear encoder and around the mean pattern: the noise of the two
        baselines that draws must beat.
    """

    readout: Readout
    mean_pattern: np.ndarray
    linear_variance: np.ndarray
    trial_variance: np.ndarray


@dataclass(frozen=True)
class Weights:
    """Everything a bundle's arrays hold, on a device.

    Attributes
    ----------
    predictors : Predictors
    distribution : Distribution, optional
        None of published weights.
    response_mean, response_sd : float32 arrays of shape (n_voxels,)
        Return standardised responses to the recorded unit: ``z * response_sd + response_mean``.
    """

    predictors: Predictors
    distribution: Distribution | None
    response_mean: np.ndarray
    response_sd: np.ndarray


class SourceModel(PredictsMean, Protocol):
    """A model of another subject, of which an adapted model holds a copy: a `Brain`."""

    config: BundleConfig


def load_weights(
    folder: Path,
    config: BundleConfig,
    device: torch.device,
    load_source: Callable[[Path], SourceModel],
) -> Weights:
    """Load the arrays of a bundle.

    Parameters
    ----------
    folder : path
    config : BundleConfig
    device : torch.device
    load_source : callable
        Loads the bundles that an adapted model holds.

    Raises
    ------
    MissingError, InputError
        A file is absent or damaged, or its tensors are not those that the configuration describes.
    """
    arrays = load_arrays(folder / "arrays.safetensors")
    n_voxels = len(arrays["response_mean"])
    stack, distribution = np.ones((1, n_voxels), np.float32), None
    if config.has_readout:
        named = load_arrays(folder / "readout.safetensors")
        stack = named["stack"]
        distribution = Distribution(
            Readout.from_arrays(named),
            arrays["mean_pattern"],
            named["linear_variance"],
            named["trial_variance"],
        )
    predictors = Predictors(
        TokenScaler(arrays["token_mean"], arrays["token_sd"]),
        folder / "linear.safetensors" if config.has_readout else None,
        _load_networks(folder, config, arrays.get("latent_sd"), device),
        _load_transfer(folder, config, load_source),
        config.predictors,
        stack,
    )
    return Weights(predictors, distribution, arrays["response_mean"], arrays["response_sd"])


def _load_networks(
    folder: Path, config: BundleConfig, latent_sd: np.ndarray | None, device: torch.device
) -> Networks | None:
    if config.vae is None or config.mapper is None:
        return None
    state = load_arrays(folder / "networks.safetensors")
    # Copies: fine-tuning writes to them.
    tensors = {name: torch.from_numpy(value.copy()) for name, value in state.items()}
    order, gain, offset = (tensors.pop(f"vae.{name}", None) for name in ("order", "gain", "offset"))
    with torch.device("meta"):
        vae, mapper = BrainVAE(config.vae), Mapper(config.mapper)
    try:
        for network, prefix in ((vae, "vae."), (mapper, "mapper.")):
            own = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
            network.load_state_dict(own, assign=True)
    except RuntimeError as error:
        raise InputError(
            f"{folder / 'networks.safetensors'}: its tensors are not those that config.json "
            f"describes ({str(error).splitlines()[0]}): train the model again"
        ) from error
    vae.lay_out(order)
    vae.measure(gain, offset)
    if latent_sd is None:  # published weights do not record it
        latent_sd = np.ones(mapper.positions.shape, np.float32)
    return Networks(vae.to(device).eval(), mapper.to(device).eval(), LatentReadout(latent_sd))


def _load_transfer(
    folder: Path, config: BundleConfig, load_source: Callable[[Path], SourceModel]
) -> Transfer | None:
    """Load what an adapted model takes from other subjects."""
    if config.transfer is None:
        return None
    named = load_arrays(folder / "transfer.safetensors")
    adapter = Adapter.from_arrays(named)
    if config.transfer.core is not None:
        return Transfer(CoreEvidence.from_arrays(config.transfer.core, named), adapter)
    sources = [load_source(folder / "sources" / name) for name in config.transfer.sources]
    found = [source.config.fingerprint for source in sources]
    if found != config.transfer.fingerprints:
        raise InputError(
            f"{folder / 'sources'}: expected the models {config.transfer.fingerprints}, found "
            f"{found}: copy the model's folder again, or adapt again"
        )
    return Transfer(SourcePredictions(sources), adapter)
