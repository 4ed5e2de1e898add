"""Bundle → networks, predictors and readout."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from synbrain_cli.brain.layouts import (
    ORDER,
    PUBLISHED_SCALE,
    ensemble_arrays,
    main_arrays,
    network_arrays,
    readout_arrays,
    sequence_arrays,
    transfer_arrays,
)
from synbrain_cli.brain.prediction import Networks, Predictors, PredictsMean, SourcePredictions
from synbrain_cli.errors import InputError
from synbrain_cli.io.arrays import COPY_AGAIN, load_expected
from synbrain_cli.io.bundle import BundleConfig
from synbrain_cli.io.bundle_checks import source_folder
from synbrain_cli.model.core import CoreEnsemble, CoreEvidence
from synbrain_cli.model.joint_tokens import JointTokens
from synbrain_cli.model.mapper import Mapper
from synbrain_cli.model.readout import IMAGE_BLIND, LatentReadout, Readout
from synbrain_cli.model.sequence import Sequence
from synbrain_cli.model.tokens import TokenScaler
from synbrain_cli.model.transfer import Adapter, Transfer
from synbrain_cli.model.uncertainty import MeanUncertainty
from synbrain_cli.model.vae import BrainVAE

# Of errors that similar images share, of which a model has one
ONCE = ("uncertainty_concentration", "uncertainty_power")


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
    uncertainty : MeanUncertainty, optional
        None of models of earlier versions, and where features did not vary.
    image_blind : Readout, optional
        Of images that nothing is known of; its ``centre`` is the pattern that it is around. None
        of models of earlier versions.
    sequence : Sequence, optional
        What the order of trials does; None of models of earlier versions, and where it could not be
        fitted.
    """

    readout: Readout
    mean_pattern: np.ndarray
    linear_variance: np.ndarray
    trial_variance: np.ndarray
    uncertainty: MeanUncertainty | None = None
    image_blind: Readout | None = None
    sequence: Sequence | None = None

    @cached_property
    def normal_noise(self) -> dict[str, Readout]:
        """Independent normal noise of constant variance around each baseline."""
        return {
            "linear": Readout.gaussian(self.linear_variance),
            "mean_pattern": Readout.gaussian(self.trial_variance),
        }


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

    @property
    def n_voxels(self) -> int:
        """Number of voxels."""


def load_weights(
    folder: Path,
    config: BundleConfig,
    n_voxels: int,
    device: torch.device,
    load_source: Callable[[Path], SourceModel],
) -> Weights:
    """Load the arrays of a bundle.

    Parameters
    ----------
    folder : path
    config : BundleConfig
    n_voxels : int
        Rows of ``voxels.tsv``.
    device : torch.device
    load_source : callable
        Loads the bundles that an adapted model holds.

    Raises
    ------
    MissingError, InputError
        A file is absent or damaged, or its tensors are not those that the configuration describes.
    """
    arrays = load_expected(folder / "arrays.safetensors", main_arrays(config, n_voxels))
    stack, distribution = np.ones((1, n_voxels), np.float32), None
    if config.has_readout:
        path = folder / "readout.safetensors"
        layout = readout_arrays(len(config.predictors), n_voxels)
        # Of models of earlier versions, not all is known
        beginnings = ("uncertainty_", IMAGE_BLIND)
        groups = [[n for n in layout if n.startswith(p) and n not in ONCE] for p in beginnings]
        named = load_expected(path, layout, optional=[*groups, *([name] for name in ONCE)])
        stack = named["stack"]
        distribution = Distribution(
            Readout.from_arrays(named),
            arrays["mean_pattern"],
            named["linear_variance"],
            named["trial_variance"],
            MeanUncertainty.from_arrays(named),
            Readout.from_arrays(named, IMAGE_BLIND) if f"{IMAGE_BLIND}curve" in named else None,
            _load_sequence(folder, config, n_voxels),
        )
    predictors = Predictors(
        TokenScaler.from_arrays(arrays, len(config.bands)),
        config.token_shapes,
        folder / "linear.safetensors" if config.has_readout else None,
        _load_networks(folder, config, arrays, device),
        _load_transfer(folder, config, n_voxels, load_source),
        _load_network(folder, config, n_voxels, device),
        config.predictors,
        stack,
    )
    return Weights(predictors, distribution, arrays["response_mean"], arrays["response_sd"])


def _load_sequence(folder: Path, config: BundleConfig, n_voxels: int) -> Sequence | None:
    """Load what the order of trials does."""
    if not config.training.has_sequence:
        return None
    path = folder / "sequence.safetensors"
    named = load_expected(path, sequence_arrays(n_voxels))
    if named["drift_time_constant"][0] <= 0 or not len(named["repetition_offset"]):
        raise InputError(
            f"{path}: expected a time constant above 0 and a presentation or more, found none: "
            f"{COPY_AGAIN}"
        )
    return Sequence.from_arrays(named)


def _load_networks(
    folder: Path, config: BundleConfig, arrays: dict[str, np.ndarray], device: torch.device
) -> Networks | None:
    """Load BrainVAE and mapper; ``arrays`` are those of ``arrays.safetensors``."""
    if config.vae is None or config.mapper is None:
        return None
    path, n_voxels = folder / "networks.safetensors", len(arrays["response_mean"])
    latent_shape = config.mapper.n_tokens, config.mapper.n_dims
    layout = network_arrays(n_voxels) | {"mapper.positions": latent_shape}
    state = load_expected(
        path,
        layout,
        optional=[[name] for name in PUBLISHED_SCALE],
        integers=(ORDER,),
        others=("vae.", "mapper."),
    )
    if not np.array_equal(np.sort(state[ORDER]), np.arange(n_voxels)):
        raise InputError(f"{path}: expected every voxel once in {ORDER}: {COPY_AGAIN}")
    # Copies: fine-tuning writes to them.
    tensors = {name: torch.from_numpy(value.copy()) for name, value in state.items()}
    order, gain, offset = (tensors.pop(name, None) for name in (ORDER, *PUBLISHED_SCALE))
    with torch.device("meta"):
        vae, mapper = BrainVAE(config.vae), Mapper(config.mapper)
    try:
        for network, prefix in ((vae, "vae."), (mapper, "mapper.")):
            own = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
            network.load_state_dict(own, assign=True)
    except RuntimeError as error:
        raise InputError(
            f"{path}: its tensors are not those that config.json "
            f"describes ({str(error).splitlines()[0]}): train the model again"
        ) from error
    vae.lay_out(order)
    vae.measure(gain, offset)
    latent_sd = arrays.get("latent_sd")
    if latent_sd is None:  # published weights do not record it
        latent_sd = np.ones(mapper.positions.shape, np.float32)
    joint = JointTokens.from_arrays(arrays, len(config.bands))
    readout = LatentReadout(latent_sd)
    return Networks(vae.to(device).eval(), mapper.to(device).eval(), readout, joint)


def _load_network(
    folder: Path, config: BundleConfig, n_voxels: int, device: torch.device
) -> CoreEnsemble | None:
    """Load the response network."""
    if config.network is None:
        return None
    path, core = folder / "network.safetensors", config.network.core
    named = load_expected(path, ensemble_arrays(core, n_voxels), others=("core.",))
    try:
        return CoreEnsemble.from_arrays(core, named, device)
    except RuntimeError as error:
        raise _other_core(path, error) from error


def _other_core(path: Path, error: RuntimeError) -> InputError:
    return InputError(
        f"{path}: its tensors are not those of the core that config.json describes "
        f"({str(error).splitlines()[0]}): {COPY_AGAIN}"
    )


def _load_transfer(
    folder: Path,
    config: BundleConfig,
    n_voxels: int,
    load_source: Callable[[Path], SourceModel],
) -> Transfer | None:
    """Load what an adapted model takes from other subjects."""
    transfer = config.transfer
    if transfer is None:
        return None
    path, core = folder / "transfer.safetensors", transfer.core
    if core is not None:
        layout = transfer_arrays(core, n_voxels, None)
        named = load_expected(path, layout, integers=("n_sources",), others=("core.",))
        n_evidence = len(named["ridge.feature_mean"])
        n_sources = named["n_sources"].item()
        if (n_evidence, n_evidence + n_voxels) != (n_sources, len(named["voxels.0.offset"])):
            raise InputError(
                f"{path}: expected the voxels of the source subjects ({n_evidence:,}) and of this "
                f"one ({n_voxels:,}), found {len(named['voxels.0.offset']):,}, {n_sources:,} of "
                f"them of source subjects: {COPY_AGAIN}"
            )
        try:
            evidence = CoreEvidence.from_arrays(core, named)
        except RuntimeError as error:
            raise _other_core(path, error) from error
        return Transfer(evidence, Adapter.from_arrays(named))
    sources = [load_source(source_folder(folder, name)) for name in transfer.sources]
    found = [source.config.fingerprint for source in sources]
    if found != transfer.fingerprints:
        raise InputError(
            f"{folder / 'sources'}: expected the models {transfer.fingerprints}, found "
            f"{found}: copy the model's folder again, or adapt again"
        )
    n_evidence = sum(source.n_voxels for source in sources)
    named = load_expected(path, transfer_arrays(None, n_voxels, n_evidence))
    return Transfer(SourcePredictions(sources), Adapter.from_arrays(named))
