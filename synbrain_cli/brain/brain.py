"""A trained model of one subject's visual cortex: what `load_model` returns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from synbrain_cli.brain.drawing import (
    DrawGenerators,
    Drawing,
    ImageResponse,
    draw_around,
    draw_latent,
)
from synbrain_cli.brain.loaded_model import LoadedModel
from synbrain_cli.brain.sequence import (
    SequenceDrawer,
    ShownImages,
    drift_of_recording,
    require_sequence,
    shown_images,
)
from synbrain_cli.brain.token_source import TokenFiles
from synbrain_cli.errors import InputError
from synbrain_cli.io.events import Events
from synbrain_cli.model.readout import Readout
from synbrain_cli.model.uncertainty import ImageDoubt
from synbrain_cli.prefetch import prefetch
from synbrain_cli.run import resolve_device
from synbrain_cli.tokens import Tokens

# Mean response, function that makes the draws, and uncertainty of the mean
_Begun = tuple[np.ndarray, Callable[[], np.ndarray], ImageDoubt | None]


def load_model(path: Path | str, device: str = "auto", tokens: TokenFiles = ()) -> Brain:
    """Load a model bundle.

    Parameters
    ----------
    path : path
        ``weights/<name>``.
    device : str
        "auto" (a GPU where there is one), "cpu", "cuda", "cuda:1", …
    tokens : mapping of str to path, optional
        Of a model that was trained on tokens of the user's own: name of each such band → file with
        its tokens of the images that will be shown (`synbrain_cli.io.token_files`).

    Raises
    ------
    MissingError, InputError
        Not a bundle, incomplete, or changed since it was written; tokens of another shape, or of a
        band that the model does not have.

    Examples
    --------
    >>> model = load_model("weights/sub-01")                         # doctest: +SKIP
    >>> draws = model.draw("examples/images", n_draws=8, seed=0)     # doctest: +SKIP
    """
    return Brain(Path(path), resolve_device(device), tokens)


class Brain(LoadedModel):
    """A trained model of one subject.

    Parameters
    ----------
    folder : Path
        Model bundle.
    device : torch.device
    tokens : mapping of str to path, or sequence of TokenFile, optional
        As in `load_model`.

    Attributes
    ----------
    config : BundleConfig
        ``config.json``.
    predictors : Predictors
        Linear encoder, networks and transfer, and how they are stacked.
    response_mean, response_sd : float32 arrays of shape (n_voxels,)
        Return standardised responses to the recorded unit.
    voxel_space : VoxelSpace
        Mask or vertices, and resampling to other spaces.
    voxels : DataFrame
        One row per voxel.
    """

    def mean(self, images: Any, unit: str = "recorded") -> np.ndarray:
        """Predict the mean response to each image: the stacked predictors.

        Parameters
        ----------
        images : folder, path, list of paths, PIL images, array
            uint8 array (n_images, height, width, 3), or the encoder's `Tokens`; of a single band
            also a float array (n_images, n_tokens, n_dims) or (n_images, n_features). Of a band of
            the user's own also the path of a file of tokens.
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

        Draws of similar images share errors: draws k of all images are trials of one possible brain
        (`synbrain_cli.model.error_fields`). For the interval of a number that is computed from
        several images, compute it from draws 0 of all, from draws 1, …, with ``signal="fresh"``.

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
            (for predictive intervals, which a new recording may fall anywhere in).
        noise_factor : float, optional
            SD of the latent's noise, with ``sampling="latent"``. None: the posterior's own,
            dimension by dimension (root mean square over training trials); 1 for published
            weights, which do not record it. A number: the same for every dimension; 0 gives the
            published deterministic output.
        unit : {"recorded", "z"}

        Returns
        -------
        float32 array of shape (n_images, n_draws, n_voxels)

        Raises
        ------
        InputError
            When there are no images, or the model cannot draw so (`settle`).
        """
        drawing = Drawing(n_draws, seed, sampling, signal, noise_factor, unit)
        with closing(self.stream(images, drawing)) as responses:
            return np.stack([response.draws for response in responses])

    def draw_sequence(
        self,
        events: pd.DataFrame | Path | str,
        images: Any = None,
        n_draws: int = 1,
        seed: int = 0,
        signal: str = "shared",
        unit: str = "recorded",
    ) -> np.ndarray:
        """Draw whole sessions, trial by trial in order: with drift, repetition, the image before.

        Single trials vary as those of `draw` do; what of their noise has an order in time is drawn
        in that order (`synbrain_cli.model.sequence`), as far as training bore it out.

        Parameters
        ----------
        events : DataFrame, or path of a table
            A row per trial, in order: ``image`` and, if there are several, ``session`` and ``run``
            (`synbrain_cli.io.events.Events`).
        images
            As in `mean`: those that the table names, by file name with or without suffix; images
            without a file are ``image-0001``, ``image-0002``, …. By default the table has paths,
            relative to its own folder.
        n_draws : int
            Sequences: each is drawn with a drift of its own.
        seed : int
        signal : {"shared", "fresh"}
            Whether sequences share unexplained signal, as sessions of one brain do, or each has its
            own. Within a sequence, presentations of an image always share it.
        unit : {"recorded", "z"}

        Returns
        -------
        float32 array of shape (n_trials, n_draws, n_voxels)

        Raises
        ------
        InputError
            When the model does not know what order does; when the table is no table of trials, or
            names an image that is not there.
        """
        drawing = Drawing(n_draws, seed, signal=signal, unit=unit)
        require_sequence(self)
        table = Events.of(events) if isinstance(events, pd.DataFrame) else Events.read(events)
        shown, place = shown_images(table, images)
        used, image = np.unique(place, return_inverse=True)
        predicted = ShownImages.of(self, shown, used.tolist())
        draws = np.empty((len(image), n_draws, self.n_voxels), np.float32)
        for row, values in SequenceDrawer(self, table, image, predicted, drawing)():
            draws[row] = values
        return draws

    def estimate_drift(
        self,
        betas: np.ndarray,
        events: pd.DataFrame | Path | str,
        images: Any = None,
        known: np.ndarray | None = None,
    ) -> np.ndarray:
        """Estimate the drift within recorded sessions, in every trial.

        Parameters
        ----------
        betas : float32 array of shape (n_trials, n_voxels)
            Recorded responses, standardised (``unit="z"``), in the order of the table.
        events, images
            As in `draw_sequence`.
        known : bool array of shape (n_trials,), optional
            Trials from which it is estimated; all by default.

        Returns
        -------
        float32 array of shape (n_trials, n_voxels)
            Its expectation given the known trials, of all, in standard deviations; 0 where the
            model holds no drift.

        Raises
        ------
        InputError
            As `draw_sequence`; when the responses are not those of the table.
        """
        require_sequence(self)
        table = Events.of(events) if isinstance(events, pd.DataFrame) else Events.read(events)
        n_trials = len(table.session)
        expected = (n_trials, self.n_voxels)
        if betas.shape != expected or (known is not None and known.shape != (n_trials,)):
            raise InputError(
                f"expected responses of shape {expected} and as many known trials, found "
                f"{betas.shape} and {n_trials if known is None else known.shape}"
            )
        shown, place = shown_images(table, images)
        used, image = np.unique(place, return_inverse=True)
        predicted = ShownImages.of(self, shown, used.tolist())
        every = np.ones(n_trials, bool) if known is None else known
        return drift_of_recording(self, table, betas, image, predicted, every)

    def settle(self, drawing: Drawing) -> Drawing:
        """Fill in what a drawing leaves open, and refuse what this model cannot draw.

        Raises
        ------
        InputError
            Of published weights: calibrated draws, or the unit z.
        """
        if self.config.has_readout:
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
    ) -> Iterator[ImageResponse]:
        """Yield the response to one image after the other, in constant memory.

        `draw` says what the draws are. Beside them stand the expected response, which no draw
        enters, and the standard deviation of a single trial. Threads prefetch images, and draw
        behind the networks.

        Parameters
        ----------
        images
            As in `mean`.
        drawing : Drawing
        rows : sequence of int, optional
            Which images, and in which order; default: all.

        Yields
        ------
        ImageResponse
        """
        drawing = self.settle(drawing)
        recorded = drawing.unit == "recorded"
        has_sd, has_sem = (n in self.statistics(drawing.sampling) for n in ("std", "sem"))

        def finish(begun: _Begun) -> ImageResponse:
            mean, draw, doubt = begun
            values = np.empty((drawing.n_draws + 1, self.n_voxels), np.float32)
            values[:-1], values[-1] = draw(), mean
            if recorded:
                values *= self.response_sd
                values += self.response_mean
            sd = sem = distance = None
            if has_sd:
                readout = self.distribution.readout
                if doubt is not None:
                    readout, distance = readout.of_image(doubt.relative), doubt.distance
                sd = readout.sd(mean)
                if has_sem:
                    sem = np.sqrt(readout.signal.variance).astype(np.float32)
                if recorded:
                    sd *= self.response_sd
                    sem = sem if sem is None else sem * self.response_sd
            return ImageResponse(values[:-1], values[-1], sd, sem, distance)

        begun = self._begin(images, drawing, rows)
        yield from prefetch(finish, begun, 4 * (drawing.n_draws + 2) * self.n_voxels)

    def _begin(self, images: Any, drawing: Drawing, rows: Sequence[int] | None) -> Iterator[_Begun]:
        """Yield, for each image, its mean, a function that makes its draws, and its uncertainty.

        Networks have run by then: they share one device. All is standardised; draws are of shape
        (n_draws, n_voxels), or (n_voxels,) where all are equal.
        """
        for tokens, digests in self.tokens(images, rows):
            means = self.mean_of_tokens(tokens)
            for token, mean, digest in zip(tokens.one_by_one(), means, digests, strict=False):
                if drawing.sampling == "latent":
                    drawn = self._draw_latent(token, digest, drawing)
                    yield mean, partial(np.asarray, drawn), None
                    continue
                doubt = self.doubt_of(token)
                if drawing.sampling == "mean":
                    yield mean, partial(np.asarray, mean), doubt
                else:
                    draw = partial(self.draw_around, mean, digest, drawing, doubt=doubt)
                    yield mean, draw, doubt

    def draw_around(
        self,
        mean: np.ndarray,
        digest: str,
        drawing: Drawing,
        readout: Readout | None = None,
        doubt: ImageDoubt | None = None,
    ) -> np.ndarray:
        """Make calibrated draws for one image whose mean response is known.

        Parameters
        ----------
        mean : float32 array of shape (n_voxels,), standardised
        digest : str
            Of the image's content.
        drawing : Drawing
        readout : Readout, optional
            Another distribution, drawn with the same random numbers: for comparisons.
        doubt : ImageDoubt, optional
            How unsure this image's mean is (`doubt_of`), and with which images it shares errors.

        Returns
        -------
        float32 array of shape (n_draws, n_voxels), standardised
        """
        own = readout or self.distribution.readout
        own = own if doubt is None else own.of_image(doubt.relative)
        return draw_around(mean, own, self.generators(digest, drawing, doubt))

    def generators(
        self, digest: str, drawing: Drawing, doubt: ImageDoubt | None = None
    ) -> DrawGenerators:
        """Return what the draws of one image are drawn from: arguments of `draw_around`."""
        features = None if doubt is None else doubt.features
        return DrawGenerators(drawing, digest, self.fields, features)

    def _draw_latent(self, token: Tokens, digest: str, drawing: Drawing) -> np.ndarray:
        generators = self.generators(digest, drawing)
        latent = self.latent(token)
        return draw_latent(latent, self.networks, self.n_voxels, generators, self._batch)
