"""A trained model of one subject, loaded: what it holds, and what it predicts without drawing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import torch

from synbrain_cli.bands import is_own
from synbrain_cli.brain.images import (
    check_token_shapes,
    given_tokens,
    named_images,
    stream_tokens,
)
from synbrain_cli.brain.loading import Distribution, load_weights
from synbrain_cli.brain.prediction import BATCH, Networks
from synbrain_cli.brain.token_source import TokenFiles, TokenSource, match_files
from synbrain_cli.config import a_trial
from synbrain_cli.errors import InputError
from synbrain_cli.features.encoder import Encoder, precision_here, same_bands
from synbrain_cli.features.loading import load_encoder
from synbrain_cli.io.bundle import BundleConfig
from synbrain_cli.io.bundle_checks import read_verified_config
from synbrain_cli.io.prepared_tables import read_voxels, roi_masks
from synbrain_cli.io.replacing import unreplaced
from synbrain_cli.io.token_files import TokenFile
from synbrain_cli.io.voxel_space import VoxelSpace
from synbrain_cli.model.error_fields import ErrorFields
from synbrain_cli.model.similar_images import doubt_images
from synbrain_cli.model.uncertainty import Doubt, ImageDoubt
from synbrain_cli.tokens import Tokens


class LoadedModel:
    """A trained model of one subject, without draws, which `Brain` adds.

    Its parameters and attributes are those of `synbrain_cli.brain.Brain`.
    """

    def __init__(self, folder: Path, device: torch.device, tokens: TokenFiles = ()) -> None:
        self.folder = folder
        self.device = device
        with unreplaced(folder):
            self.config: BundleConfig = read_verified_config(folder)
            self.voxels: pd.DataFrame = read_voxels(folder / "voxels.tsv")
            source = partial(type(self), device=device)
            weights = load_weights(folder, self.config, len(self.voxels), device, source)
        self.predictors = weights.predictors
        self.response_mean, self.response_sd = weights.response_mean, weights.response_sd
        self._distribution = weights.distribution
        self.voxel_space = VoxelSpace(folder, self.config.checksums)
        self._token_files = tokens

    def __repr__(self) -> str:
        """Return what the model is, in one line."""
        config = self.config
        kind = f"{' + '.join(config.predictors)}"
        if not config.has_readout:
            kind += ", published weights"
        return (
            f"<Brain {self.name}: {config.label}{' (simulated)' if self.simulated else ''}, "
            f"{self.n_voxels:,} voxels in {config.space}, {self.unit}; {kind} on "
            f"{config.encoder}, {self.device}>"
        )

    @property
    def name(self) -> str:
        """Name of the bundle."""
        return self.folder.name

    @property
    def subject(self) -> str:
        """Label without ``sub-``."""
        return self.config.subject

    @property
    def simulated(self) -> bool:
        """Whether the subject was simulated."""
        return self.config.simulated

    @property
    def n_voxels(self) -> int:
        """Number of voxels."""
        return len(self.response_mean)

    @property
    def unit(self) -> str:
        """The unit of the data: what ``unit="recorded"`` is."""
        return self.config.recorded_unit

    def unit_name(self, unit: str) -> str:
        """Return what responses are measured in, with ``unit`` "recorded" or "z"."""
        if unit == "recorded":
            return self.unit
        return f"standard deviations of {a_trial(self.config.averaged_over)}"

    @property
    def distribution(self) -> Distribution:
        """What was fitted to single trials: readout and baselines.

        Raises
        ------
        InputError
            Of published weights, for which nothing was.
        """
        if self._distribution is None:
            self.require_readout("a distribution of single trials")
        assert self._distribution is not None
        return self._distribution

    @property
    def networks(self) -> Networks:
        """BrainVAE and mapper.

        Raises
        ------
        InputError
            When the model has none.
        """
        networks: Networks = self._in_this_model(self.predictors.require_networks)
        return networks

    def require_readout(self, what: str) -> None:
        """Refuse what needs the readout, or standardised trials, where there is none.

        Raises
        ------
        InputError
        """
        if not self.config.has_readout:
            raise InputError(
                f"{self.name}: {what} is not available for published weights: nothing was fitted "
                "to tell signal from noise, and the standard deviation of trials is unknown. Draw "
                "with --sampling latent or mean in the recorded unit; for the rest train a model "
                "of this subject (`synbrain train`), or adapt this one to another (`synbrain "
                "adapt`)"
            )

    def statistics(self, sampling: str) -> list[str]:
        """What is known of the response to an image without drawing, in this order.

        "mean", the expected response; "std", the standard deviation of a single trial, which has no
        closed form where noise is added to the latent; "sem", the standard error of the mean, which
        needs repeats in training, without which it is not told from trial noise; "distance" of the
        image from those of training, which models of earlier versions do not know.
        """
        if not self.config.has_readout or sampling == "latent":
            return ["mean"]
        known = self.distribution
        has = {
            "mean": True,
            "std": True,
            "sem": not known.readout.signal.is_nothing,
            "distance": known.uncertainty is not None,
        }
        return [name for name, is_known in has.items() if is_known]

    def doubt(self, tokens: Tokens) -> Doubt | None:
        """How unsure the mean response to images is, and how far they are from training images.

        None of published weights, of models of earlier versions, and of those whose training images
        did not differ.
        """
        known = self._distribution
        if known is None or known.uncertainty is None:
            return None
        seen = self.predictors.scaler(tokens)
        return doubt_images(self.predictors.linear, seen, known.uncertainty, self.fields)

    def doubt_of(self, token: Tokens) -> ImageDoubt | None:
        """Return `doubt` of a single image."""
        doubt = self.doubt(token)
        return None if doubt is None else doubt.of(0)

    @cached_property
    def fields(self) -> ErrorFields:
        """Random functions of the image, by which draws of similar images share errors."""
        return ErrorFields(self.config.fingerprint)

    @cached_property
    def source(self) -> TokenSource:
        """What makes tokens of images: the image encoder, and files of tokens of the user's own.

        Raises
        ------
        InputError
            As `encoder`; tokens of another shape, or of a band that the model does not have.
        """
        files = match_files(self.name, self.config.bands, self._token_files)
        return TokenSource(self.name, self.config.bands, self.encoder, files)

    @cached_property
    def encoder(self) -> Encoder | None:
        """The image encoder, checked to be the one trained with, in its precision on a GPU.

        Of the bands that are computed from pictures; None where the user computed all of them.

        Raises
        ------
        InputError
            When its weights are others.
        """
        wanted = [band for band in self.config.bands if not is_own(band.spec)]
        if not wanted:
            return None
        half = {band.precision for band in wanted} - {"float32"}
        precision = precision_here(half.pop() if half else "float32", self.device)
        encoder = load_encoder([band.spec for band in wanted], self.device, precision)
        if not same_bands(wanted, encoder.bands):
            raise InputError(
                f"{self.folder}: trained with the image encoder "
                f"{[band.identity for band in wanted]}, {self.config.encoder} is now "
                f"{[band.identity for band in encoder.bands]}: use the weights it was trained with"
            )
        return encoder

    def standardize(self, betas: np.ndarray) -> np.ndarray:
        """Bring a prepared subject's betas to the unit the predictors work in (``unit="z"``).

        Betas that were standardised when they were prepared stay as they are, in SDs of their own
        session. The unit of a model of a few hours is that of its hours' training trials; it does
        not know any other session's, and differs from it by the error of a mean and an SD over so
        many trials.
        """
        if self.config.standardization != "none":
            return betas
        return (betas - self.response_mean) / self.response_sd

    def rois(self) -> dict[str, np.ndarray]:
        """Boolean array (n_voxels,) per ROI."""
        return roi_masks(self.voxels)

    # ------------------------------------------------------------------ images → predictions

    def predict(self, predictor: str, images: Any, unit: str = "recorded") -> np.ndarray:
        """Predict responses with one of the stacked predictors alone.

        Parameters
        ----------
        predictor : {"linear", "network", "deep", "transfer"}
            The linear encoder; the response network; the published networks, without noise; what
            an adapted model takes from other subjects.
        images
            As in `mean`.
        unit : {"recorded", "z"}

        Returns
        -------
        float32 array of shape (n_images, n_voxels)

        Raises
        ------
        InputError
            When the model does not have that predictor.
        """
        if unit == "z":
            self.require_readout("--unit z")
        if predictor == "linear":
            self.require_readout("the linear encoder")
        values = np.stack(
            [
                self._in_this_model(lambda one=token: self.predictors.predict(predictor, one))[0]
                for tokens, digests in self.tokens(images)
                for token, _ in zip(tokens.one_by_one(), digests, strict=False)
            ]
        )
        return values * self.response_sd + self.response_mean if unit == "recorded" else values

    def mean_of_tokens(self, tokens: Tokens) -> np.ndarray:
        """Predict the standardised mean response to many images' tokens at once.

        Faster than `mean`, which takes images one by one, and equal to it but for rounding.

        Parameters
        ----------
        tokens : Tokens

        Returns
        -------
        float32 array of shape (n_images, n_voxels)
        """
        return self.predictors.mean(tokens)

    @torch.inference_mode()
    def latent(self, token: Tokens) -> torch.Tensor:
        """Map the tokens of one image to a latent (1, n_tokens, n_dims).

        Raises
        ------
        InputError
            When the model has no networks.
        """
        seen = self.networks.joint(self.predictors.scaler(token))
        return self.networks.mapper(torch.from_numpy(seen).to(self.device))

    def _in_this_model(self, work: Callable[[], Any]) -> Any:
        """Name the bundle in what a predictor refuses."""
        try:
            return work()
        except InputError as error:
            raise InputError(f"{self.folder}: {error}") from error

    @property
    def _batch(self) -> int:
        return BATCH if self.device.type == "cuda" else 1

    def tokens(
        self, images: Any, rows: Sequence[int] | None = None
    ) -> Iterator[tuple[Tokens, list[str]]]:
        """Yield tokens and digests of images' content, some images at a time.

        The last batch may hold more tokens than digests: it is filled up to the size of the others.
        """
        tokens = given_tokens(images)
        if tokens is not None:
            check_token_shapes(tokens, self.config.token_shapes, self.config.encoder)
            source = TokenSource(self.name, self.config.bands, None, {})
            return stream_tokens(tokens, source, rows, self._batch)
        unseen, source = named_images(images), self.source
        if unseen is not None:  # the file is that of the tokens, too, where no other was given
            file = images if isinstance(images, TokenFile) else TokenFile.parse(str(images))
            files = match_files(self.name, self.config.bands, [file]) | source.files
            source = replace(source, files=files)
        return stream_tokens(images if unseen is None else unseen, source, rows, self._batch)

    # ------------------------------------------------------------------ responses → space

    def to_nifti(self, values: np.ndarray) -> nib.Nifti1Image:
        """Put responses on the subject's own grid: see `VoxelSpace.to_nifti`."""
        label = "simulated by synbrain" if self.simulated else "synthesized by synbrain"
        return self.voxel_space.to_nifti(values, description=label)

    def to_surface(self, values: np.ndarray, space: str | None = None) -> dict[str, np.ndarray]:
        """Resample responses to a cortical surface: see `VoxelSpace.to_surface`."""
        return self.voxel_space.to_surface(values, space)

    def to_mni(self, values: np.ndarray) -> nib.Nifti1Image:
        """Resample responses to MNI152: see `VoxelSpace.to_mni`."""
        return self.voxel_space.to_mni(values)
