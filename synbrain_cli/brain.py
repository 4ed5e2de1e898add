"""A trained model of one person's visual cortex: what `load_model` returns."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import torch

from synbrain_cli.config import MapperConfig, VAEConfig
from synbrain_cli.errors import InputError
from synbrain_cli.features.encoders import load_encoder
from synbrain_cli.features.images import ImageSet, image_digest
from synbrain_cli.io.bundle import load_arrays, read_config
from synbrain_cli.io.place import Place, Volume, load_place
from synbrain_cli.io.prepared import read_voxels, roi_masks
from synbrain_cli.io.sampling import SurfaceSampling, VolumeSampling
from synbrain_cli.model.linear import LinearEncoder
from synbrain_cli.model.mapper import Mapper
from synbrain_cli.model.readout import LatentReadout, draw_generator
from synbrain_cli.model.tokens import TokenScaler
from synbrain_cli.model.vae import BrainVAE

SAMPLINGS = ("latent", "mean")
UNITS = ("recorded", "z")
BATCH = 16
MEAN_PAIRS = 8  # antithetic pairs of latents whose decoded responses make up the mean


def load_model(path: Path | str, device: str = "auto") -> Brain:
    """Load a model bundle.

    Parameters
    ----------
    path : path
        ``weights/<name>``.
    device : str
        "auto" (a GPU where there is one), "cpu", "cuda", "cuda:1", …

    Raises
    ------
    MissingError, InputError
        Not a bundle, incomplete, or changed since it was written.

    Examples
    --------
    >>> model = load_model("weights/sub-01")                         # doctest: +SKIP
    >>> draws = model.draw("examples/images", n_draws=8, seed=0)     # doctest: +SKIP
    """
    return Brain(Path(path), resolve_device(device))


def resolve_device(device: str) -> torch.device:
    """Turn "auto" into a device; check any other.

    Raises
    ------
    InputError
        When it does not exist here.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
        torch.empty(1, device=resolved)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"--device {device}: not available here; use cpu or auto") from error
    return resolved


def check_drawing(n_draws: int, sampling: str, noise_factor: float | None, unit: str) -> None:
    """Raise `InputError` where an argument of `Brain.draw` is impossible."""
    if n_draws < 1:
        raise InputError(f"expected at least one draw, found {n_draws}")
    if sampling not in SAMPLINGS:
        raise InputError(f"expected the sampling {' or '.join(SAMPLINGS)}, found {sampling!r}")
    if unit not in UNITS:
        raise InputError(f"expected the unit {' or '.join(UNITS)}, found {unit!r}")
    if noise_factor is not None and not (np.isfinite(noise_factor) and noise_factor >= 0):
        raise InputError(f"expected a noise factor of 0 or more, found {noise_factor}")


class Brain:
    """A trained model of one person.

    Parameters
    ----------
    folder : Path
        Model bundle.
    device : torch.device

    Attributes
    ----------
    config : dict
        ``config.json``.
    voxels : DataFrame
        One row a voxel.
    """

    def __init__(self, folder: Path, device: torch.device) -> None:
        self.folder = folder
        self.device = device
        self.config: dict[str, Any] = read_config(folder)
        state = load_arrays(folder / "networks.safetensors")
        # Copies: fine-tuning writes to them.
        tensors = {name: torch.from_numpy(value.copy()) for name, value in state.items()}
        vae = {k.removeprefix("vae."): v for k, v in tensors.items() if k.startswith("vae.")}
        mapper = {
            k.removeprefix("mapper."): v for k, v in tensors.items() if k.startswith("mapper.")
        }
        with torch.device("meta"):
            self.vae = BrainVAE(VAEConfig.from_dict(self.config["vae"]))
            self.mapper = Mapper(MapperConfig.from_dict(self.config["mapper"]))
        try:
            self.vae.load_state_dict(vae, assign=True)
            self.mapper.load_state_dict(mapper, assign=True)
        except RuntimeError as error:
            raise InputError(
                f"{folder / 'networks.safetensors'}: its tensors are not those that config.json "
                f"describes ({str(error).splitlines()[0]}): train the model again"
            ) from error
        self.vae.to(device).eval()
        self.mapper.to(device).eval()
        arrays = load_arrays(folder / "arrays.safetensors")
        self.scaler = TokenScaler(arrays["token_mean"], arrays["token_sd"])
        self.readout = LatentReadout(arrays["latent_sd"])
        self.response_mean, self.response_sd = arrays["response_mean"], arrays["response_sd"]
        self.mean_pattern = arrays["mean_pattern"]
        self.voxels: pd.DataFrame = read_voxels(folder / "voxels.tsv")

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def subject(self) -> str:
        """Label without ``sub-``."""
        return self.config["subject"]

    @property
    def simulated(self) -> bool:
        return self.config["simulated"]

    @property
    def n_voxels(self) -> int:
        return len(self.response_mean)

    @cached_property
    def encoder(self) -> Any:
        """The image encoder, checked to be the one trained with.

        Raises
        ------
        InputError
            When its weights are others.
        """
        wanted = self.config["encoder"]
        encoder = load_encoder(wanted["spec"], device=str(self.device))
        if encoder.identity != wanted["identity"]:
            raise InputError(
                f"{self.folder}: trained with the image encoder {wanted['identity']}, "
                f"{wanted['spec']} is now {encoder.identity}: use the weights it was trained with"
            )
        return encoder

    @cached_property
    def linear(self) -> LinearEncoder:
        return LinearEncoder(**load_arrays(self.folder / "linear.safetensors"))

    @cached_property
    def place(self) -> Place | None:
        """Where its voxels are: in a volume, on a surface, or None where nothing says."""
        return load_place(self.folder)

    @cached_property
    def sampling(self) -> SurfaceSampling | None:
        path = self.folder / "sampling.npz"
        return SurfaceSampling.load(path) if path.exists() else None

    @cached_property
    def mni(self) -> VolumeSampling | None:
        path = self.folder / "mni.npz"
        return VolumeSampling.load(path) if path.exists() else None

    @property
    def spaces(self) -> tuple[str, ...]:
        """Spaces its responses can be brought to, beside its own."""
        surfaces = self.sampling.spaces if self.sampling is not None else ()
        return (*surfaces, "MNI") if self.mni is not None else surfaces

    @property
    def unit(self) -> str:
        """The unit of the data: what ``unit="recorded"`` is."""
        return self.config["recorded_unit"]

    def standardize(self, betas: np.ndarray) -> np.ndarray:
        """A prepared subject's betas in the unit the networks work in (``unit="z"``)."""
        if self.config["standardization"] != "none":
            return betas
        return (betas - self.response_mean) / self.response_sd

    def rois(self) -> dict[str, np.ndarray]:
        """Boolean array (n_voxels,) per ROI."""
        return roi_masks(self.voxels)

    # ------------------------------------------------------------------ images → responses

    def mean(self, images: Any, unit: str = "recorded") -> np.ndarray:
        """The response expected to each image: the mean of draws, deterministic.

        Parameters
        ----------
        images : folder, path, list of paths, PIL images, array
            uint8 array (n_images, height, width, 3), or the encoder's tokens, float
            (n_images, n_tokens, n_dims).
        unit : {"recorded", "z"}
            That of the data (percent signal change, for NSD), or standardised as in training.

        Returns
        -------
        float32 array of shape (n_images, n_voxels)
        """
        return np.concatenate([d[:, 0] for _, d in self.stream(images, 1, 0, "mean", unit=unit)])

    def draw(
        self,
        images: Any,
        n_draws: int = 1,
        seed: int = 0,
        sampling: str = "latent",
        noise_factor: float | None = None,
        unit: str = "recorded",
    ) -> np.ndarray:
        """Draw single-trial responses.

        Draw k of an image depends on the seed, the image's pixels, k and the model: not on the
        other images, their order, or how many are processed at once.

        Parameters
        ----------
        images
            As in `mean`.
        n_draws : int
        seed : int
        sampling : {"latent", "mean"}
            "latent": z = S2N(tokens) + noise, decoded. "mean": the average of such responses
            over a fixed set of noise, the same for every draw; with ``noise_factor=0`` the
            published deterministic output, the decoded S2N(tokens).
        noise_factor : float, optional
            Deviation of the latent's noise. None: the posterior's own, dimension by dimension
            (root mean square over training trials). A number: the same for every dimension
            (Mai et al. 2025, appendix E).
        unit : {"recorded", "z"}

        Returns
        -------
        float32 array of shape (n_images, n_draws, n_voxels)
        """
        parts = self.stream(images, n_draws, seed, sampling, noise_factor, unit)
        return np.concatenate([draws for _, draws in parts])

    def stream(
        self,
        images: Any,
        n_draws: int,
        seed: int,
        sampling: str,
        noise_factor: float | None = None,
        unit: str = "recorded",
        start: int = 0,
    ) -> Iterator[tuple[slice, np.ndarray]]:
        """Yield draws batch by batch, in constant memory: `draw` says what each is.

        Yields
        ------
        slice, float32 array of shape (n, n_draws, n_voxels)
            Which images, from ``start`` on, and their draws.
        """
        check_drawing(n_draws, sampling, noise_factor, unit)
        for where, tokens, digests in self._tokens(images, start):
            latent = self._latents(tokens)
            draws = np.empty((len(latent), n_draws, self.n_voxels), np.float32)
            if sampling == "mean":
                draws[:] = self._expected(latent, noise_factor)[:, None]
            else:
                for k in range(n_draws):
                    noise = np.stack(
                        [
                            self.readout.noise(
                                draw_generator(seed, digest, k, self.config["fingerprint"]),
                                noise_factor,
                            )
                            for digest in digests
                        ]
                    )
                    draws[:, k] = self._decode(latent + torch.from_numpy(noise).to(self.device))
            if unit == "recorded":
                draws = draws * self.response_sd + self.response_mean
            yield where, draws

    def predict_linear(self, images: Any, unit: str = "recorded") -> np.ndarray:
        """Predict with the linear encoder: float32 (n_images, n_voxels)."""
        values = np.concatenate(
            [self.linear.predict(self.scaler(tokens)) for _, tokens, _ in self._tokens(images, 0)]
        )
        return values * self.response_sd + self.response_mean if unit == "recorded" else values

    def _tokens(self, images: Any, start: int) -> Iterator[tuple[slice, np.ndarray, list[str]]]:
        """Tokens (n, n_tokens, n_dims) and a digest of each image's content, batch by batch."""
        expected = (self.config["mapper"]["n_tokens"], self.config["mapper"]["n_dims"])
        given = isinstance(images, np.ndarray) and images.dtype.kind == "f"
        if given and (images.ndim != 3 or images.shape[1:] != expected):
            raise InputError(
                f"expected tokens of shape (n_images, {expected[0]}, {expected[1]}) for this "
                f"model's encoder {self.config['encoder']['spec']}, found {images.shape}"
            )
        chosen = images if given else ImageSet.of(images)
        for first in range(start, len(chosen), BATCH):
            where = slice(first, min(first + BATCH, len(chosen)))
            if given:
                tokens = np.ascontiguousarray(chosen[where], np.float32)
                digests = [hashlib.sha256(token.tobytes()).hexdigest() for token in tokens]
            else:
                pixels = [chosen[i] for i in range(where.start, where.stop)]
                tokens = self.encoder(pixels)
                digests = [image_digest(p) for p in pixels]
            yield where, tokens, digests

    def _expected(self, latent: torch.Tensor, noise_factor: float | None) -> np.ndarray:
        """Response expected over the latent's noise: (n, n_voxels).

        The decoder is far from linear (it normalises its input), so the response to the central
        latent is not the mean of draws. Averaged over pairs z ± ε, the same for every image.
        """
        if noise_factor == 0:
            return self._decode(latent)
        total = np.zeros((len(latent), self.n_voxels), np.float32)
        for pair in range(MEAN_PAIRS):
            generator = draw_generator(0, "mean", pair, self.config["fingerprint"])
            noise = torch.from_numpy(self.readout.noise(generator, noise_factor)).to(self.device)
            total += self._decode(latent + noise) + self._decode(latent - noise)
        return total / (2 * MEAN_PAIRS)

    @torch.inference_mode()
    def _latents(self, tokens: np.ndarray) -> torch.Tensor:
        return self.mapper(torch.from_numpy(self.scaler(tokens)).to(self.device))

    @torch.inference_mode()
    def _decode(self, latent: torch.Tensor) -> np.ndarray:
        return self.vae.decode(latent, self.n_voxels).cpu().numpy()

    # ------------------------------------------------------------------ responses → space

    def to_nifti(self, values: np.ndarray) -> nib.Nifti1Image:
        """Put responses on the subject's own grid.

        Parameters
        ----------
        values : array of shape (n_voxels,) or (n_maps, n_voxels)

        Returns
        -------
        Nifti1Image
            float32, 3-D or 4-D, 0 outside the mask.

        Raises
        ------
        InputError
            When the subject's responses were not recorded in a volume.
        """
        if not isinstance(self.place, Volume):
            raise InputError(
                f"{self.folder}: its responses are not of a volume, so there is no NIfTI of them: "
                "use the array, or to_surface where the subject is on a surface"
            )
        label = "simulated by synbrain" if self.simulated else "synthesized by synbrain"
        return self.place.to_nifti(values, description=label)

    def to_surface(self, values: np.ndarray, space: str = "fsaverage5") -> dict[str, np.ndarray]:
        """Sample responses on a cortical surface.

        Parameters
        ----------
        values : array of shape (..., n_voxels)
        space : str
            One of `spaces`: fsaverage5, fsaverage6, fsaverage, or fsnative, the subject's own.

        Returns
        -------
        dict
            "left" and "right": float32 (..., n_vertices), NaN where no voxel is.

        Raises
        ------
        InputError
            When the subject has no transforms to that surface.
        """
        if self.sampling is None:
            raise InputError(
                f"{self.folder}: this subject was prepared without transforms to fsaverage, so "
                "there is nothing to draw on a cortical surface: look at the arrays or volumes"
            )
        return self.sampling.project(values, space)

    def to_mni(self, values: np.ndarray) -> nib.Nifti1Image:
        """Sample responses in MNI152: values (n_voxels,) or (n_maps, n_voxels), 0 outside.

        Raises
        ------
        InputError
            When the subject has no transform to MNI.
        """
        if self.mni is None:
            raise InputError(f"{self.folder}: this subject was prepared without a transform to MNI")
        return self.mni.project(values)
