"""A trained model of one person's visual cortex: what `load_model` returns."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import torch

from synbrain_cli.config import CoreConfig, MapperConfig, VAEConfig
from synbrain_cli.errors import InputError
from synbrain_cli.features.encoders import load_encoder, precision_here, same_encoder
from synbrain_cli.features.images import ImageSet, image_digest
from synbrain_cli.io.bundle import load_arrays, read_config
from synbrain_cli.io.prepared import read_voxels, roi_masks
from synbrain_cli.io.resampling import SurfaceResampling, VolumeResampling
from synbrain_cli.io.voxel_space import Geometry, Volume, load_geometry
from synbrain_cli.model.core import CoreEvidence
from synbrain_cli.model.draw_key import draw_generator
from synbrain_cli.model.linear import LinearEncoder
from synbrain_cli.model.mapper import Mapper
from synbrain_cli.model.readout import LatentReadout, Readout
from synbrain_cli.model.tokens import StandardTokens, TokenScaler
from synbrain_cli.model.transfer import Adapter, Transfer
from synbrain_cli.model.vae import BrainVAE
from synbrain_cli.prefetch import prefetch
from synbrain_cli.run import resolve_device

SAMPLINGS = ("calibrated", "latent", "mean")
SIGNALS = ("shared", "fresh")
UNITS = ("recorded", "z")
BATCH = 16  # images that go through the encoder and networks together on a GPU


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


def token_digest(token: np.ndarray) -> str:
    """What stands for an image's content where tokens are given: (n_tokens, n_dims) → text."""
    return hashlib.sha256(np.ascontiguousarray(token, np.float32).tobytes()).hexdigest()


@torch.inference_mode()
def predict_deep(
    vae: BrainVAE,
    mapper: Mapper,
    tokens: np.ndarray | StandardTokens,
    n_voxels: int,
    batch: int = 64,
) -> np.ndarray:
    """The decoded output of the mapper, without noise.

    Parameters
    ----------
    tokens : float32 array of shape (n_images, n_tokens, n_dims), standardised, or StandardTokens

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
class Drawing:
    """How responses are drawn: the arguments of `Brain.draw`, checked.

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
                f"a noise factor is the latent's: expected it with the sampling latent, found "
                f"{self.sampling}"
            )
        if not (np.isfinite(self.noise_factor) and self.noise_factor >= 0):
            raise InputError(f"expected a noise factor of 0 or more, found {self.noise_factor}")


@dataclass(frozen=True)
class SourceEvidence:
    """What models of other people say of images: the mean responses they expect."""

    sources: Sequence[Brain]

    def __call__(self, tokens: np.ndarray) -> tuple[np.ndarray, None]:
        """Raw tokens (n, n_tokens, n_dims) → responses (n, n_source_voxels); no prior."""
        return np.concatenate([source.mean_of_tokens(tokens) for source in self.sources], 1), None


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
        arrays = load_arrays(folder / "arrays.safetensors")
        self.scaler = TokenScaler(arrays["token_mean"], arrays["token_sd"])
        self.response_mean, self.response_sd = arrays["response_mean"], arrays["response_sd"]
        if self.config["vae"] is not None:
            self.vae, self.mapper = self._networks()
            shape = self.mapper.positions.shape
            self.latent_readout = LatentReadout(
                arrays["latent_sd"] if self.has_readout else np.ones(shape, np.float32)
            )
        self.transfer = self._transfer()
        # (n_predictors, n_voxels), in the order of `predictors`
        self.stack = np.ones((1, self.n_voxels), np.float32)
        if self.has_readout:
            self.mean_pattern = arrays["mean_pattern"]
            readout = load_arrays(folder / "readout.safetensors")
            self.stack = readout["stack"]
            self.readout = Readout.from_arrays(readout)
            self.linear_variance = readout["linear_variance"]
            self.trial_variance = readout["trial_variance"]
        self.voxels: pd.DataFrame = read_voxels(folder / "voxels.tsv")

    def _networks(self) -> tuple[BrainVAE, Mapper]:
        state = load_arrays(self.folder / "networks.safetensors")
        # Copies: fine-tuning writes to them.
        tensors = {name: torch.from_numpy(value.copy()) for name, value in state.items()}
        order, gain, offset = (
            tensors.pop(f"vae.{name}", None) for name in ("order", "gain", "offset")
        )
        vae = {k.removeprefix("vae."): v for k, v in tensors.items() if k.startswith("vae.")}
        mapper = {
            k.removeprefix("mapper."): v for k, v in tensors.items() if k.startswith("mapper.")
        }
        with torch.device("meta"):
            networks = (
                BrainVAE(VAEConfig.from_dict(self.config["vae"])),
                Mapper(MapperConfig.from_dict(self.config["mapper"])),
            )
        try:
            networks[0].load_state_dict(vae, assign=True)
            networks[1].load_state_dict(mapper, assign=True)
        except RuntimeError as error:
            raise InputError(
                f"{self.folder / 'networks.safetensors'}: its tensors are not those that "
                f"config.json describes ({str(error).splitlines()[0]}): train the model again"
            ) from error
        networks[0].lay_out(order)
        networks[0].measure(gain, offset)
        for network in networks:
            network.to(self.device).eval()
        return networks

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

    def _transfer(self) -> Transfer | None:
        """What an adapted model knows from other people."""
        config = self.config.get("transfer")
        if config is None:
            return None
        named = load_arrays(self.folder / "transfer.safetensors")
        if config["kind"] == "shared-core":
            return Transfer(
                CoreEvidence.from_arrays(CoreConfig.from_dict(config["core"]), named),
                Adapter.from_arrays(named),
            )
        sources = [Brain(self.folder / "sources" / name, self.device) for name in config["sources"]]
        found = [source.config["fingerprint"] for source in sources]
        if found != config["fingerprints"]:
            raise InputError(
                f"{self.folder / 'sources'}: expected the models {config['fingerprints']}, found "
                f"{found}: copy the model's folder again, or adapt again"
            )
        return Transfer(SourceEvidence(sources), Adapter.from_arrays(named))

    @property
    def predictors(self) -> list[str]:
        """What the mean is stacked from: "linear", "deep", "transfer"."""
        return self.config.get("predictors", ["linear", "deep"][: len(self.stack)])

    @property
    def has_networks(self) -> bool:
        """False where it was trained with ``--model linear``."""
        return self.config["vae"] is not None

    @property
    def has_readout(self) -> bool:
        """False where nothing was fitted to single trials: published weights, imported."""
        return self.config.get("readout", True)

    def require_readout(self, what: str) -> None:
        """Refuse what needs the readout, or standard deviations, where there is none.

        Raises
        ------
        InputError
        """
        if not self.has_readout:
            raise InputError(
                f"{self.name}: {what} is not to be had of published weights: nothing was fitted to "
                "tell signal from noise, and no deviation of its trials is known. Draw with "
                "--sampling latent or mean in the recorded unit; for the rest train a model of "
                "this person (`synbrain train`), or adapt this one to another (`synbrain adapt`)"
            )

    @cached_property
    def encoder(self) -> Any:
        """The image encoder, checked to be the one trained with, in its precision on a GPU.

        Raises
        ------
        InputError
            When its weights are others.
        """
        wanted = self.config["encoder"]
        # Older models do not say: their tokens are float32.
        precision = precision_here(wanted.get("precision", "float32"), self.device)
        encoder = load_encoder(wanted["spec"], self.device, precision)
        if not same_encoder(wanted["identity"], encoder.identity):
            raise InputError(
                f"{self.folder}: trained with the image encoder {wanted['identity']}, "
                f"{wanted['spec']} is now {encoder.identity}: use the weights it was trained with"
            )
        return encoder

    @cached_property
    def linear(self) -> LinearEncoder:
        return LinearEncoder(**load_arrays(self.folder / "linear.safetensors"))

    @cached_property
    def place(self) -> Geometry | None:
        """Where its voxels are: in a volume, on a surface, or None where nothing says."""
        return load_geometry(self.folder)

    @cached_property
    def sampling(self) -> SurfaceResampling | None:
        path = self.folder / "sampling.npz"
        return SurfaceResampling.load(path) if path.exists() else None

    @cached_property
    def mni(self) -> VolumeResampling | None:
        path = self.folder / "mni.npz"
        return VolumeResampling.load(path) if path.exists() else None

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
        """A prepared subject's betas in the unit the networks work in (``unit="z"``).

        Betas prepared in deviations stay in those of their own session: a model of a few hours,
        whose unit is that of its hours' training trials, knows no other session's, and differs
        from it by the error of a mean and a deviation over so many trials.
        """
        if self.config["standardization"] != "none":
            return betas
        return (betas - self.response_mean) / self.response_sd

    def rois(self) -> dict[str, np.ndarray]:
        """Boolean array (n_voxels,) per ROI."""
        return roi_masks(self.voxels)

    # ------------------------------------------------------------------ images → responses

    def mean(self, images: Any, unit: str = "recorded") -> np.ndarray:
        """The response expected to each image: linear and deep predictions, stacked.

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
        return self.draw(images, sampling="mean", unit=unit)[:, 0]

    def draw(
        self,
        images: Any,
        n_draws: int = 1,
        seed: int = 0,
        sampling: str = "calibrated",
        signal: str = "shared",
        noise_factor: float | None = None,
        unit: str = "recorded",
    ) -> np.ndarray:
        """Draw single-trial responses.

        Draw k of an image depends on the seed, the image's pixels, k and the model: not on the
        other images, their order, or how many are processed at once. On a CPU images are processed
        one by one, so that not even rounding differs. On a GPU, where that would leave most of it
        idle, they are processed in batches of one fixed shape: another place in its batch may
        change how an image's response is rounded.

        Parameters
        ----------
        images
            As in `mean`.
        n_draws : int
        seed : int
        sampling : {"calibrated", "latent", "mean"}
            "calibrated": mean + unexplained signal + trial noise, as recorded trials are
            (`synbrain_cli.model.readout`). "latent": z = S2N(tokens) + noise, decoded (Mai et al.
            2025, appendix E). "mean": the mean alone, the same for every draw.
        signal : {"shared", "fresh"}
            Whether the draws of an image share the signal that no prediction explains, as
            repeats of it in one brain do (for reliability, RSA, decoding), or each has its own
            (for predictive intervals: another brain recording might be anywhere in them).
        noise_factor : float, optional
            Deviation of the latent's noise, with ``sampling="latent"``. None: the posterior's
            own, dimension by dimension (root mean square over training trials); of published
            weights, which do not tell it, 1. A number: the same for every dimension; 0 gives the
            published deterministic output.
        unit : {"recorded", "z"}

        Returns
        -------
        float32 array of shape (n_images, n_draws, n_voxels)

        Raises
        ------
        InputError
            When the images are none, or the model cannot draw so (`settle`).
        """
        drawing = Drawing(n_draws, seed, sampling, signal, noise_factor, unit)
        with closing(self.stream(images, drawing)) as draws:
            return np.stack(list(draws))

    def settle(self, drawing: Drawing) -> Drawing:
        """The drawing that this model makes of it, with all that it leaves open.

        Raises
        ------
        InputError
            Of published weights: calibrated draws, or the unit z.
        """
        if self.has_readout:
            return drawing
        if drawing.sampling == "calibrated":
            self.require_readout("--sampling calibrated")
        if drawing.unit == "z":
            self.require_readout("--unit z")
        if drawing.sampling == "latent" and drawing.noise_factor is None:
            return replace(drawing, noise_factor=1.0)
        return drawing

    def stream(
        self, images: Any, drawing: Drawing, rows: Sequence[int] | None = None
    ) -> Iterator[np.ndarray]:
        """Yield the draws of one image after the other, in constant memory.

        `draw` says what they are. Threads read images ahead, and draw behind the networks.

        Parameters
        ----------
        images
            As in `mean`.
        drawing : Drawing
        rows : sequence of int, optional
            Which images, and in which order; default: all.

        Yields
        ------
        float32 array of shape (n_draws, n_voxels)
        """
        drawing = self.settle(drawing)

        def finish(draw: Callable[[], np.ndarray]) -> np.ndarray:
            draws = np.empty((drawing.n_draws, self.n_voxels), np.float32)
            draws[:] = draw()
            if drawing.unit == "recorded":
                draws *= self.response_sd
                draws += self.response_mean
            return draws

        begun = self._begin(images, drawing, rows)
        yield from prefetch(finish, begun, 4 * drawing.n_draws * self.n_voxels)

    def _begin(
        self, images: Any, drawing: Drawing, rows: Sequence[int] | None
    ) -> Iterator[Callable[[], np.ndarray]]:
        """Yield the call that gives each image's draws, its random numbers yet to come.

        Networks have run by then: they share one device. (n_draws, n_voxels), or (n_voxels,)
        where all are equal; standardised.
        """
        for tokens, digests in self._tokens(images, rows):
            if drawing.sampling == "latent":
                for token, digest in zip(tokens, digests, strict=False):
                    yield partial(np.asarray, self._draw_latent(token, digest, drawing))
                continue
            for mean, digest in zip(self.mean_of_tokens(tokens), digests, strict=False):
                if drawing.sampling == "mean":
                    yield partial(np.asarray, mean)
                else:
                    yield partial(self.draw_around, mean, digest, drawing)

    def draw_around(
        self, mean: np.ndarray, digest: str, drawing: Drawing, readout: Readout | None = None
    ) -> np.ndarray:
        """Calibrated draws for one image whose mean response is known.

        Parameters
        ----------
        mean : float32 array of shape (n_voxels,), standardised
        digest : str
            Of the image's content.
        drawing : Drawing
        readout : Readout, optional
            Another distribution, drawn with the same random numbers: for comparisons.

        Returns
        -------
        float32 array of shape (n_draws, n_voxels), standardised
        """
        numbers = range(drawing.n_draws)
        shared = drawing.signal == "shared"
        return (readout or self.readout).draw(
            mean,
            [
                self._generator(drawing, digest, "signal" if shared else f"signal/{k}")
                for k in (range(1) if shared else numbers)
            ],
            [self._generator(drawing, digest, k) for k in numbers],
        )

    def _draw_latent(self, token: np.ndarray, digest: str, drawing: Drawing) -> np.ndarray:
        latent = self.latent(token)
        noise = (
            self.latent_readout.noise(self._generator(drawing, digest, k), drawing.noise_factor)
            for k in range(drawing.n_draws)
        )
        draws = []
        while some := list(islice(noise, self._at_once)):
            noisy = latent + torch.from_numpy(np.stack(some)).to(self.device)
            draws.append(self._decode(noisy))
        return np.concatenate(draws)

    def _generator(self, drawing: Drawing, digest: str, what: int | str) -> np.random.Generator:
        return draw_generator(drawing.seed, digest, what, self.config["fingerprint"])

    def predict_linear(self, images: Any, unit: str = "recorded") -> np.ndarray:
        """Predict with the linear encoder: float32 (n_images, n_voxels)."""
        return self._predict(images, unit, self._linear_one)

    def predict_deep(self, images: Any, unit: str = "recorded") -> np.ndarray:
        """Predict with the published networks alone, without noise: float32 (n_images, n_voxels).

        Raises
        ------
        InputError
            When the model has none (``--model linear``).
        """
        return self._predict(images, unit, lambda token: self._decode(self.latent(token))[0])

    def predict_transfer(self, images: Any, unit: str = "recorded") -> np.ndarray:
        """Predict by what is known of other people: float32 (n_images, n_voxels).

        Raises
        ------
        InputError
            When the model was not adapted, or by fine-tuning.
        """
        return self._predict(images, unit, self._transfer_one)

    def _predict(
        self, images: Any, unit: str, one: Callable[[np.ndarray], np.ndarray]
    ) -> np.ndarray:
        if unit == "z":
            self.require_readout("--unit z")
        values = np.stack(
            [
                one(token)
                for tokens, digests in self._tokens(images)
                for token, _ in zip(tokens, digests, strict=False)
            ]
        )
        return values * self.response_sd + self.response_mean if unit == "recorded" else values

    @property
    def _at_once(self) -> int:
        return BATCH if self.device.type == "cuda" else 1

    def _tokens(
        self, images: Any, rows: Sequence[int] | None = None
    ) -> Iterator[tuple[np.ndarray, list[str]]]:
        """Tokens (n, n_tokens, n_dims) and digests of images' content, some images at a time.

        There are always as many tokens: a last group is filled up with images without a digest,
        as on a GPU another shape would be another rounding.
        """
        expected = self.scaler.mean.shape
        given = isinstance(images, np.ndarray) and images.dtype.kind == "f"
        if given and (images.ndim != 3 or images.shape[1:] != expected):
            raise InputError(
                f"expected tokens of shape (n_images, {expected[0]}, {expected[1]}) for this "
                f"model's encoder {self.config['encoder']['spec']}, found {images.shape}"
            )
        chosen = images if given else ImageSet.of(images)
        digest = token_digest if given else image_digest

        def look(row: int) -> tuple[str, np.ndarray]:
            one = np.ascontiguousarray(chosen[row], np.float32) if given else chosen[row]
            return digest(one), one

        def groups(seen: Iterator[tuple[str, np.ndarray]]) -> Iterator[tuple[list[str], list]]:
            while some := list(islice(seen, self._at_once)):
                digests, found = map(list, zip(*some, strict=True))
                yield digests, found + found[-1:] * (self._at_once - len(found))

        with closing(prefetch(look, range(len(chosen)) if rows is None else rows)) as seen:
            if given:
                for digests, found in groups(seen):
                    yield np.stack(found), digests
            else:
                for digests, tokens in self.encoder.stream(groups(seen)):
                    yield tokens.astype(np.float32, copy=False), digests

    def mean_of_tokens(self, tokens: np.ndarray) -> np.ndarray:
        """m of many images' tokens at once, standardised.

        Faster than `mean`, which takes images one by one, and equal to it but for rounding.

        Parameters
        ----------
        tokens : float array of shape (n_images, n_tokens, n_dims)

        Returns
        -------
        float32 array of shape (n_images, n_voxels)
        """
        predict = {
            "linear": lambda part: self.linear.predict(self.scaler(part)),
            "deep": lambda part: predict_deep(
                self.vae, self.mapper, self.scaler(part), self.n_voxels
            ),
            "transfer": lambda part: self.transfer.predict(part),
        }
        mean = np.zeros((len(tokens), self.n_voxels), np.float32)
        for first in range(0, len(tokens), BATCH):
            some = slice(first, first + BATCH)
            for name, weight in zip(self.predictors, self.stack, strict=True):
                if weight.any():
                    mean[some] += weight * predict[name](tokens[some])
        return mean

    def _transfer_one(self, token: np.ndarray) -> np.ndarray:
        """Response by what is known of other people: float32 (n_voxels,)."""
        if self.transfer is None:
            raise InputError(f"{self.folder}: was not adapted from other people's models")
        return self.transfer.predict(token[None])[0]

    def _linear_one(self, token: np.ndarray) -> np.ndarray:
        self.require_readout("the linear encoder")
        return self.linear.predict(self.scaler(token[None]))[0]

    @torch.inference_mode()
    def latent(self, token: np.ndarray) -> torch.Tensor:
        """S2N(tokens) of one image, (n_tokens, n_dims): float32 (1, n_tokens, n_dims)."""
        if not self.has_networks:
            raise InputError(
                f"{self.folder}: holds a linear encoder and no networks: train one without "
                "`--model linear`, or draw with the sampling calibrated"
            )
        return self.mapper(torch.from_numpy(self.scaler(token[None])).to(self.device))

    @torch.inference_mode()
    def _decode(self, latents: torch.Tensor) -> np.ndarray:
        """Responses to latents (n, n_tokens, n_dims): float32 (n, n_voxels)."""
        return self.vae.decode(latents, self.n_voxels).cpu().numpy()

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
