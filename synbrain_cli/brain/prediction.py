"""The predictors that the mean response is stacked from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from synbrain_cli.brain.layouts import linear_arrays
from synbrain_cli.errors import InputError
from synbrain_cli.io.arrays import load_expected
from synbrain_cli.model.core import CoreEnsemble
from synbrain_cli.model.joint_tokens import JointTokens
from synbrain_cli.model.linear import LinearEncoder
from synbrain_cli.model.mapper import Mapper
from synbrain_cli.model.readout import LatentReadout
from synbrain_cli.model.tokens import StandardBand, TokenScaler
from synbrain_cli.model.transfer import Transfer
from synbrain_cli.model.vae import BrainVAE
from synbrain_cli.tokens import Tokens

BATCH = 16  # images that go through the networks together


@torch.inference_mode()
def predict_deep(
    vae: BrainVAE,
    mapper: Mapper,
    tokens: np.ndarray | StandardBand,
    n_voxels: int,
    batch: int = 64,
) -> np.ndarray:
    """Decode the output of the mapper, without noise.

    Parameters
    ----------
    vae : BrainVAE
    mapper : Mapper
    tokens : float32 array of shape (n_images, n_tokens, n_dims), standardised, or StandardBand
        As the networks see them (`synbrain_cli.model.joint_tokens`).
    n_voxels : int
    batch : int
        Images that are computed together.

    Returns
    -------
    float32 array of shape (n_images, n_voxels), standardised
    """
    device = next(vae.parameters()).device
    parts = [
        vae.decode(mapper(torch.from_numpy(tokens[i : i + batch]).to(device)), n_voxels).cpu()
        for i in range(0, len(tokens), batch)
    ]
    return torch.cat(parts).numpy()


@dataclass(frozen=True)
class Networks:
    """BrainVAE and S2N mapper of one subject, ready to predict.

    Attributes
    ----------
    vae : BrainVAE
    mapper : Mapper
    latent_readout : LatentReadout
        SD of the posterior, for the paper's sampling.
    joint : JointTokens
        How the tokens of several bands become those that the mapper takes.
    """

    vae: BrainVAE
    mapper: Mapper
    latent_readout: LatentReadout
    joint: JointTokens


class PredictsMean(Protocol):
    """A model of one subject that predicts mean responses: a `Brain`."""

    def mean_of_tokens(self, tokens: Tokens) -> np.ndarray:
        """Tokens of n images → responses (n_images, n_voxels), standardised."""


@dataclass(frozen=True)
class SourcePredictions:
    """Mean responses that models of other subjects predict: evidence for a new subject.

    Attributes
    ----------
    sources : sequence of Brain
    """

    sources: Sequence[PredictsMean]

    def __call__(self, tokens: Tokens) -> tuple[np.ndarray, None]:
        """Raw tokens of n images → responses (n, n_source_voxels); no prior."""
        return np.concatenate([source.mean_of_tokens(tokens) for source in self.sources], 1), None


@dataclass(frozen=True)
class Predictors:
    """Predictors that the mean is stacked from: raw tokens → standardised responses.

    Attributes
    ----------
    scaler : TokenScaler
        Of the linear encoder and the networks.
    token_shapes : tuple of (int, int)
        Tokens and their dimensions, of each band.
    linear_file : Path, optional
        Of the linear encoder, read when it is first used; None of published weights.
    networks : Networks, optional
        None of linear and most adapted models.
    transfer : Transfer, optional
        What an adapted model takes from other subjects.
    network : CoreEnsemble, optional
        Response network; None of linear and imported models.
    names : tuple of str
        "linear", "network", "transfer", "deep": those in the stack.
    stack : float32 array of shape (n_predictors, n_voxels)
        Their weights.
    """

    scaler: TokenScaler
    token_shapes: tuple[tuple[int, int], ...]
    linear_file: Path | None
    networks: Networks | None
    transfer: Transfer | None
    network: CoreEnsemble | None
    names: tuple[str, ...]
    stack: np.ndarray

    @cached_property
    def linear(self) -> LinearEncoder:
        """The linear encoder.

        Raises
        ------
        InputError
            Of published weights, which have none.
        """
        if self.linear_file is None:
            raise InputError("published weights come without a linear encoder")
        layout = linear_arrays(self.token_shapes, self.stack.shape[1])
        # A band has no receptive fields where images were too few to compare them; nor is anything
        # known of the uncertainty of models of earlier versions
        bands = range(len(self.token_shapes))
        beginnings = [one for k in bands for one in (f"field.{k}.", f"ridge.{k}.known.")]
        optional = [[name for name in layout if name.startswith(one)] for one in beginnings]
        named = load_expected(self.linear_file, layout, optional=optional)
        return LinearEncoder.from_arrays(named, len(self.token_shapes))

    def predict(self, name: str, tokens: Tokens) -> np.ndarray:
        """Predict with one of them.

        Parameters
        ----------
        name : {"linear", "network", "deep", "transfer"}
        tokens : Tokens
            As encoded.

        Returns
        -------
        float32 array of shape (n_images, n_voxels), standardised

        Raises
        ------
        InputError
            When the model does not have it.
        """
        by_name: dict[str, Callable[[Tokens], np.ndarray]] = {
            "linear": self._linear,
            "deep": self._deep,
            "transfer": self._transfer,
            "network": self._network,
        }
        return by_name[name](tokens)

    def mean(self, tokens: Tokens) -> np.ndarray:
        """Stack the predictions: m of every image, float32 (n_images, n_voxels), standardised."""
        mean = np.zeros((len(tokens), self.stack.shape[1]), np.float32)
        for first in range(0, len(tokens), BATCH):
            some = slice(first, first + BATCH)
            for name, weight in zip(self.names, self.stack, strict=True):
                if weight.any():
                    mean[some] += weight * self.predict(name, tokens[some])
        return mean

    def stacked(self, predictions: Mapping[str, np.ndarray]) -> np.ndarray:
        """Stack predictions that were made one by one: m, as `mean` returns it.

        Parameters
        ----------
        predictions : dict of float32 arrays of shape (n_images, n_voxels)
            Of every predictor in the stack, standardised.
        """
        mean = np.zeros_like(predictions[self.names[0]])
        for name, weight in zip(self.names, self.stack, strict=True):
            if weight.any():
                mean += weight * predictions[name]
        return mean

    def require_networks(self) -> Networks:
        """Return the networks, or refuse.

        Raises
        ------
        InputError
        """
        if self.networks is None:
            raise InputError(
                "this model holds a linear encoder and no networks: train one without "
                "`--model linear`, or draw with the sampling calibrated"
            )
        return self.networks

    def leverage(self, tokens: Tokens) -> tuple[np.ndarray, list[np.ndarray]]:
        """Leverage of images in the linear encoder, and their scores: see `LinearEncoder`."""
        return self.linear.leverage(self.scaler(tokens))

    def _linear(self, tokens: Tokens) -> np.ndarray:
        return self.linear.predict(self.scaler(tokens))

    def _deep(self, tokens: Tokens) -> np.ndarray:
        networks = self.require_networks()
        seen = networks.joint(self.scaler(tokens))
        return predict_deep(networks.vae, networks.mapper, seen, self.stack.shape[1])

    def _network(self, tokens: Tokens) -> np.ndarray:
        if self.network is None:
            raise InputError("this model has no response network: train one (`synbrain train`)")
        return self.network.predict(tokens)

    def _transfer(self, tokens: Tokens) -> np.ndarray:
        if self.transfer is None:
            raise InputError("this model was not adapted from models of other subjects")
        return self.transfer.predict(tokens)
