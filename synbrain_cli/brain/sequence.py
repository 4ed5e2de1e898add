"""Draws of whole sessions: trials in order (`synbrain_cli.model.sequence`)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from synbrain_cli.brain.drawing import Drawing
from synbrain_cli.brain.images import given_tokens
from synbrain_cli.errors import InputError
from synbrain_cli.features.images import ImageSet
from synbrain_cli.io.bids import bids_labels
from synbrain_cli.io.events import Events
from synbrain_cli.model.draw_key import draw_generator
from synbrain_cli.model.sequence import Sequence, TrialOrder, estimate_drift, standard_mean
from synbrain_cli.model.trial_blocks import Residuals
from synbrain_cli.model.uncertainty import Doubt, ImageDoubt

if TYPE_CHECKING:
    from synbrain_cli.brain.brain import Brain


@dataclass(frozen=True, eq=False)
class ShownImages:
    """What a model expects of the images of a sequence, standardised.

    Attributes
    ----------
    mean : float32 array of shape (n_images, n_voxels)
        m of each.
    doubt : Doubt, optional
        How unsure each mean is.
    digests : list of str
        Of the images' content.
    """

    mean: np.ndarray
    doubt: Doubt | None
    digests: list[str]

    @classmethod
    def of(cls, brain: Brain, images: Any, rows: list[int]) -> ShownImages:
        """Predict the images in some rows of a set, in memory."""
        mean = np.empty((len(rows), brain.n_voxels), np.float32)
        doubts, digests = [], []
        for k, (own, doubt, digest) in enumerate(predict_images(brain, images, rows)):
            mean[k] = own
            digests.append(digest)
            if doubt is not None:
                doubts.append(doubt)
        return cls(mean, Doubt.join(doubts) if doubts else None, digests)

    def doubt_of(self, image: int) -> ImageDoubt | None:
        """How unsure the mean of one image is."""
        return None if self.doubt is None else self.doubt.of(image)


def predict_images(
    brain: Brain, images: Any, rows: list[int]
) -> Iterator[tuple[np.ndarray, ImageDoubt | None, str]]:
    """Yield mean (n_voxels,), how unsure it is, and digest of some images, one by one."""
    for tokens, digests in brain.tokens(images, rows):
        means = brain.mean_of_tokens(tokens)
        for token, mean, digest in zip(tokens.one_by_one(), means, digests, strict=False):
            yield mean, brain.doubt_of(token), digest


def shown_images(events: Events, images: Any = None) -> tuple[Any, np.ndarray]:
    """Find the images of a table of trials.

    Parameters
    ----------
    events : Events
    images
        As in `Brain.mean`; by default the table has paths, relative to its own folder.

    Returns
    -------
    images
        An `ImageSet`, or `Tokens`.
    int array of shape (n_trials,)
        Place of each trial's image in it.

    Raises
    ------
    MissingError, InputError
        When an image is not there.
    """
    if images is None:
        paths = list(dict.fromkeys(events.images))
        folder = Path(events.name).parent
        pictures = ImageSet.of([folder / path for path in paths])
        place = {path: k for k, path in enumerate(paths)}
        return pictures, np.array([place[path] for path in events.images])
    tokens = given_tokens(images)
    if tokens is not None:
        names = [f"image-{k:04d}" for k in range(1, len(tokens) + 1)]
        return tokens, events.rows_of(names, [])
    pictures = ImageSet.of(images)
    return pictures, events.rows_of(pictures.names, pictures.sources)


def require_sequence(brain: Brain) -> Sequence:
    """Return what the order of trials does, or say why the model does not know it.

    Raises
    ------
    InputError
    """
    brain.require_readout("--sequence")
    found = brain.distribution.sequence
    if found is not None:
        return found
    summary = brain.config.training.sequence
    why = (
        "it was made by an earlier version, which did not model the order of trials: train it "
        "again (`synbrain train --overwrite`)"
        if summary is None
        else f"the order of its trials was not modelled, as {summary.reason}"
    )
    raise InputError(f"{brain.folder}: expected a model for --sequence, found that {why}")


def settle_sequence(drawing: Drawing) -> Drawing:
    """Refuse draws that are not calibrated: these alone have trial noise, which has an order.

    Raises
    ------
    InputError
    """
    if drawing.sampling != "calibrated":
        raise InputError(
            f"--sampling {drawing.sampling}: expected calibrated with --sequence: other draws have "
            "no trial noise, of which drift is a part"
        )
    return drawing


@dataclass(frozen=True, eq=False)
class SequenceDrawer:
    """Draws the trials of an experiment in order.

    A sequence k depends on the seed, k, the model, and the order of all trials: on the names of the
    sessions for the drift, on the content of images and how often they were shown for the rest.

    Attributes
    ----------
    brain : Brain
    events : Events
    image : int array of shape (n_trials,)
        Row of ``shown`` that each trial shows.
    shown : ShownImages
    drawing : Drawing
    """

    brain: Brain
    events: Events
    image: np.ndarray
    shown: ShownImages
    drawing: Drawing

    @cached_property
    def order(self) -> TrialOrder:
        """Where the trials stand in time."""
        return TrialOrder.of(self.events.session, self.image, self.events.run)

    @cached_property
    def sequence(self) -> Sequence:
        """What the order does."""
        return require_sequence(self.brain)

    @property
    def beyond(self) -> int:
        """Trials whose image was shown more often by then than is told apart."""
        sequence = self.sequence
        if not (sequence.offset.any() or sequence.gain.any()):
            return 0
        return int((self.order.counted(sequence.count) > len(sequence.offset)).sum())

    def __call__(self, known: np.ndarray | None = None) -> Iterator[tuple[int, np.ndarray]]:
        """Yield rows of the table and draws, float32 (n_draws, n_voxels), in the drawing's unit.

        Parameters
        ----------
        known : bool array of shape (n_trials,), optional
            Trials that are passed over, as they were drawn before.
        """
        n_draws, recorded = self.drawing.n_draws, self.drawing.unit == "recorded"
        sequence, brain = self.sequence, self.brain
        first = 0
        for number, label in enumerate(self.events.sessions):
            length = int(self.order.length[number])
            courses = [
                sequence.courses(length, self._generator(f"session/{label}", f"drift/{k}"))
                for k in range(n_draws)
            ]
            for row, *drift in zip(range(first, first + length), *courses, strict=True):
                if known is not None and known[row]:
                    continue
                values = self._trial(row, drift)
                if recorded:
                    values = values * brain.response_sd + brain.response_mean
                yield row, values
            first += length

    def _trial(self, row: int, drift: list[np.ndarray]) -> np.ndarray:
        """Draw one trial, given the drift in each sequence: (n_draws, n_voxels), standardised."""
        shown, image, order = self.shown, int(self.image[row]), self.order
        readout, sequence = self.brain.distribution.readout, self.sequence
        mean, previous = shown.mean[image], int(order.previous[row])
        x = standard_mean(readout, np.asarray(mean))[None]
        before = np.zeros_like(x)
        if previous >= 0:
            before = standard_mean(readout, np.asarray(shown.mean[previous]))[None]
        presentation = order.counted(sequence.count)[row : row + 1]
        effect = sequence.effect(presentation, x, before)[0]
        doubt, times = shown.doubt_of(image), order.presentation[row]
        own = readout if doubt is None else readout.of_image(doubt.relative)
        generators = self.brain.generators(shown.digests[image], self.drawing, doubt)

        def rest(k: int) -> np.ndarray:
            return sequence.rest.draw(generators.generator(f"sequence/{k}/{times}"))

        signals = [np.zeros(len(mean), np.float32)]
        if not own.signal.is_nothing:
            signals = [own.signal.draw(one) for one in generators.signals]
        errors = (rest(k) + effect + course for k, course in enumerate(drift))
        return own.respond(np.asarray(mean), signals, errors, len(drift))

    def _generator(self, digest: str, what: str) -> np.random.Generator:
        return draw_generator(self.drawing.seed, digest, what, self.brain.config.fingerprint)


def drift_of_recording(
    brain: Brain,
    events: Events,
    betas: np.ndarray,
    image: np.ndarray,
    shown: ShownImages,
    known: np.ndarray,
) -> np.ndarray:
    """Estimate the drift in recorded sessions: see `Brain.estimate_drift`.

    Parameters
    ----------
    brain : Brain
    events : Events
    betas : float32 array of shape (n_trials, n_voxels), standardised
    image : int array of shape (n_trials,)
        Row of ``shown`` that each trial shows.
    shown : ShownImages
    known : bool array of shape (n_trials,)
    """
    sequence, readout = require_sequence(brain), brain.distribution.readout
    order = TrialOrder.of(events.session, image, events.run)
    drift = np.zeros(betas.shape, np.float32)
    for session, length in enumerate(order.length):
        rows = np.flatnonzero(order.session == session)
        seen = rows[known[rows]]
        if not len(seen):
            continue
        residuals = Residuals(betas[seen], image[seen], shown.mean, readout).of(slice(None))
        x = standard_mean(readout, shown.mean[image[seen]])
        previous = order.previous[seen]
        before = standard_mean(readout, shown.mean[previous]) * (previous >= 0)[:, None]
        residuals -= sequence.effect(order.counted(sequence.count)[seen], x, before)
        place = order.position[seen]
        drift[rows] = estimate_drift(residuals, place, int(length), sequence, readout.signal)
    return drift


def session_labels(events: Events) -> list[str]:
    """BIDS label of every session.

    Raises
    ------
    InputError
        When two would be the same.
    """
    return bids_labels(events.sessions, "sessions", "ses")
