r"""What the order of trials does to responses: drift, repetition, and the image before.

In the response distribution (`synbrain_cli.model.readout`), trial noise e holds all that differs
between repeats of an image. Some of it has an order in time. For trial t of a session, which shows
image i for the k-th time after image j,

.. math:: e_t = d_t + a_k + b_k\, x_i + c\, x_j + e'_t

per voxel, with x a mean response in standard deviations over images, as in the readout:

- **d**, drift within sessions. Its covariance over voxels is low-rank plus private
  (`synbrain_cli.model.covariance`), that over time is of an autoregressive process of order one,
  :math:`\exp(-|t - t'| / \tau)`, less the session's mean, scaled to one variance in all trials.
- **a, b**, repetition: offset and gain by the number of the presentation.
- **c**, serial effect of the image before.
- **e'**, the rest, independent from trial to trial. Its covariance is that of e less that of the
  other parts, so that the distribution of a single trial stays what the readout says.

`synbrain_cli.model.sequence_fit` estimates all of it, and leaves out what held-out trials do not
bear out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from synbrain_cli.model.covariance import LowRank, Normal
from synbrain_cli.model.readout import Readout

Count = Literal["experiment", "session"]
Effect = Literal["drift", "repetition", "serial"]
FARTHEST = 3.0  # standard deviations: nothing is extrapolated beyond (as in the readout)
MOST_TAKEN = 0.9  # of the trial noise's variance, by what has an order
EFFECT_TRIALS = 1_000  # of which the covariance of repetition and serial effects is taken
EFFECT_FACTORS = 16


@dataclass(frozen=True)
class TrialOrder:
    """Where trials stand in an experiment.

    Attributes
    ----------
    session : int array of shape (n_trials,)
        Number of the session, from 0, in recorded order.
    position : int array of shape (n_trials,)
        Place in the session, from 0.
    length : int array of shape (n_sessions,)
        Trials of each session.
    presentation, presentation_in_session : int arrays of shape (n_trials,)
        How often the image was shown by then, this time included.
    previous : int array of shape (n_trials,)
        Row of the image shown in the trial before; −1 where there is none, or it is not known.
    """

    session: NDArray[np.int64]
    position: NDArray[np.int64]
    length: NDArray[np.int64]
    presentation: NDArray[np.int64]
    presentation_in_session: NDArray[np.int64]
    previous: NDArray[np.int64]

    @classmethod
    def of(
        cls,
        session: NDArray[np.int64],
        image: NDArray[np.int64],
        run: NDArray[np.int64] | None = None,
    ) -> TrialOrder:
        """Find the places of all trials of an experiment, given in recorded order.

        Parameters
        ----------
        session : int array of shape (n_trials,)
            Session of each trial, in any numbers; the trials of a session stand together.
        image : int array of shape (n_trials,)
            Number of the image that each trial shows.
        run : int array of shape (n_trials,), optional
            Run of each trial: the first of a run has no image before.
        """
        starts = np.flatnonzero(np.r_[True, session[1:] != session[:-1]])
        length = np.diff(np.r_[starts, len(session)])
        number = np.repeat(np.arange(len(starts)), length)
        position = np.arange(len(session)) - np.repeat(starts, length)
        follows = position > 0
        if run is not None:
            follows[1:] &= run[1:] == run[:-1]
        previous = np.where(follows, np.r_[-1, image[:-1]], -1)
        in_session = number * (int(image.max(initial=0)) + 1) + image
        return cls(number, position, length, 1 + earlier(image), 1 + earlier(in_session), previous)

    def part(self, trials: NDArray[np.int64], row: NDArray[np.int64]) -> TrialOrder:
        """Choose some trials, whose images are rows of a table of their own.

        Parameters
        ----------
        trials : int array of shape (n_chosen,)
        row : int array of shape (n_images,)
            Row of each image in that table; −1 of images that are not in it.
        """
        previous = self.previous[trials]
        return TrialOrder(
            self.session[trials],
            self.position[trials],
            self.length,
            self.presentation[trials],
            self.presentation_in_session[trials],
            np.where(previous >= 0, row[previous], -1),
        )

    def counted(self, count: Count) -> NDArray[np.int64]:
        """Number of the presentation, in the experiment or in the session."""
        return self.presentation if count == "experiment" else self.presentation_in_session


def earlier(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """How often the value at each place occurred before it: int64 array (n,).

    >>> earlier(np.array([5, 7, 5, 5])).tolist()
    [0, 0, 1, 2]
    """
    order = np.argsort(values, kind="stable")
    _, starts, counts = np.unique(values[order], return_index=True, return_counts=True)
    before = np.empty(len(values), np.int64)
    before[order] = np.arange(len(values)) - np.repeat(starts, counts)
    return before


@dataclass(frozen=True)
class Sequence:
    """What the order of trials does to the responses of one subject. The module defines symbols.

    Attributes
    ----------
    drift : LowRank
        Covariance of d over voxels; nothing where it was not borne out.
    time_constant : float
        τ, in trials.
    offset, gain : float32 arrays of shape (n_levels, n_voxels)
        a and b of the first, second, … presentation; the last level holds for all later ones.
    count : {"experiment", "session"}
        Since when presentations are counted.
    serial : float32 array of shape (n_voxels,)
        c.
    rest : LowRank
        e'.
    """

    drift: LowRank
    time_constant: float
    offset: np.ndarray
    gain: np.ndarray
    count: Count
    serial: np.ndarray
    rest: LowRank

    @classmethod
    def nothing(cls, noise: LowRank) -> Sequence:
        """Return a sequence in which the order does nothing."""
        none = np.zeros(len(noise.private), np.float32)
        level = none[None]
        return cls(LowRank.independent(none), 1.0, level, level, "experiment", none, noise)

    @property
    def has_effects(self) -> bool:
        """Whether repetition or the image before does anything."""
        return bool(self.offset.any() or self.gain.any() or self.serial.any())

    def effect(
        self,
        presentation: NDArray[np.int64],
        x: NDArray[np.floating],
        before: NDArray[np.floating],
    ) -> NDArray[np.float32]:
        """Effects of repetition and of the image before, on the scale of e.

        Parameters
        ----------
        presentation : int array of shape (n_trials,)
            From 1.
        x, before : float arrays of shape (n_trials, n_voxels)
            Standardised means of the image and of the one before; 0 where there is none.

        Returns
        -------
        float32 array of shape (n_trials, n_voxels)
        """
        level = np.minimum(presentation, len(self.offset)) - 1
        found = self.offset[level] + self.gain[level] * x + self.serial * before
        return found.astype(np.float32)

    def courses(self, length: int, generator: Normal) -> Iterator[NDArray[np.float32]]:
        """Draw the drift of one session, trial by trial, in memory that its length does not need.

        Parameters
        ----------
        length : int
            Trials of the session.
        generator : numpy Generator
            Its numbers are drawn twice, the first time for the session's mean.

        Yields
        ------
        float32 array of shape (n_voxels,)
            d of the next trial.
        """
        if self.drift.is_nothing or length < 2:
            for _ in range(length):
                yield np.zeros(len(self.serial), np.float32)
            return
        rank = self.drift.loadings.shape[1]
        size = rank + len(self.drift.private)
        kept = np.exp(-1 / self.time_constant)
        numbers = _Twice(generator)

        def states() -> Iterator[NDArray[np.float64]]:
            state = np.zeros(size)
            for t in range(length):
                fresh = numbers.standard_normal(size)
                state = kept * state + (np.sqrt(1 - kept**2) if t else 1.0) * fresh
                yield state

        mean = np.zeros(size)
        for state in states():
            mean += state / length
        numbers.again()
        scale = 1 / np.sqrt(centred_variance(length, self.time_constant))
        for t, state in enumerate(states()):
            course = (scale[t] * (state - mean)).astype(np.float32)
            yield self.drift.loadings @ course[:rank] + self.drift.private * course[rank:]

    def arrays(self) -> dict[str, np.ndarray]:
        """Return named arrays, for a file."""
        return {
            "drift_loadings": self.drift.loadings,
            "drift_private": self.drift.private,
            "drift_time_constant": np.array([self.time_constant], np.float32),
            "repetition_offset": self.offset,
            "repetition_gain": self.gain,
            "repetition_in_session": np.array([self.count == "session"], np.float32),
            "serial": self.serial,
            "rest_loadings": self.rest.loadings,
            "rest_private": self.rest.private,
        }

    @classmethod
    def from_arrays(cls, named: dict[str, np.ndarray]) -> Sequence:
        """Rebuild from the named arrays of a file."""
        return cls(
            LowRank(named["drift_loadings"], named["drift_private"]),
            float(named["drift_time_constant"][0]),
            named["repetition_offset"],
            named["repetition_gain"],
            "session" if named["repetition_in_session"][0] else "experiment",
            named["serial"],
            LowRank(named["rest_loadings"], named["rest_private"]),
        )


class _Twice:
    """Normal numbers of a generator that begin again, without being kept."""

    def __init__(self, generator: Normal) -> None:
        self._generator: np.random.Generator = generator  # type: ignore[assignment]
        self._start = self._generator.bit_generator.state

    def standard_normal(self, size: int) -> NDArray[np.float32]:
        return self._generator.standard_normal(size, np.float32)

    def again(self) -> None:
        self._generator.bit_generator.state = self._start


def standard_mean(readout: Readout, mean: np.ndarray) -> np.ndarray:
    """Mean responses in standard deviations over images; shape of ``mean`` (..., n_voxels)."""
    return np.clip((mean - readout.centre) / readout.spread, -FARTHEST, FARTHEST)


def falling(length: int, time_constant: float) -> NDArray[np.float64]:
    """Correlation exp(−|t − t'| / τ) of trials of a session: float64 (length, length)."""
    place = np.arange(length)
    return np.exp(-np.abs(place[:, None] - place) / time_constant)


def time_covariance(length: int, time_constant: float) -> NDArray[np.float64]:
    r"""Correlation of the drift over the trials of a session: float64 (length, length).

    Of a process of correlations :math:`\exp(-|t - t'| / \tau)` less its mean over the session,
    scaled to variance 1 in every trial.
    """
    raw = falling(length, time_constant)
    centred = raw - raw.mean(0) - raw.mean(1)[:, None] + raw.mean()
    sd = np.sqrt(np.diag(centred))
    return centred / np.outer(sd, sd)


def centred_variance(length: int, time_constant: float) -> NDArray[np.float64]:
    """Variance, trial by trial, of a process less its mean: float64 (length,)."""
    before = np.cumsum(np.exp(-np.arange(length) / time_constant))
    of_row = (before + before[::-1] - 1) / length
    return 1 - 2 * of_row + of_row.mean()


def less(noise: LowRank, taken: np.ndarray, variance: NDArray[np.float64]) -> LowRank:
    r"""Take covariance out of a noise: its factors, less the outer product of others.

    The variance of every voxel becomes ``variance``, exactly. Of the covariance between voxels,
    what would be below 0 in any direction is 0.

    Parameters
    ----------
    noise : LowRank
    taken : float array of shape (n_voxels, n)
        Factors of the covariance to be taken out.
    variance : float64 array of shape (n_voxels,)
        Of what is left.
    """
    if not taken.shape[1]:
        return noise.with_variance(variance)
    both = np.hstack([noise.loadings, taken]).astype(np.float64)
    sign = np.repeat([1.0, -1.0], [noise.loadings.shape[1], taken.shape[1]])
    basis, coordinates = np.linalg.qr(both)
    values, vectors = np.linalg.eigh((coordinates * sign) @ coordinates.T)
    kept = values > 1e-12 * max(values.max(initial=0), 1e-30)
    loadings = basis @ (vectors[:, kept] * np.sqrt(values[kept]))
    shared = (loadings**2).sum(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        loadings *= np.where(shared > variance, np.sqrt(variance / shared), 1.0)[:, None]
    private = np.sqrt(np.maximum(variance - (loadings**2).sum(1), 0))
    return LowRank(loadings.astype(np.float32), private.astype(np.float32))


def effect_factors(effects: NDArray[np.float32]) -> NDArray[np.float64]:
    """Leading factors of the covariance of effects over trials: float64 (n_voxels, n_factors).

    Parameters
    ----------
    effects : float32 array of shape (n_trials, n_voxels)
        Of some trials (`EFFECT_TRIALS`).
    """
    rows = effects - effects.mean(0)
    if not rows.any():
        return np.zeros((rows.shape[1], 0))
    values, vectors = np.linalg.eigh((rows @ rows.T).astype(np.float64))
    leading = values[::-1][:EFFECT_FACTORS]
    chosen = vectors[:, ::-1][:, : int((leading > 1e-6 * max(leading[0], 1e-30)).sum())]
    factors: NDArray[np.float64] = rows.T.astype(np.float64) @ chosen / np.sqrt(len(rows))
    return factors


def with_rest(sequence: Sequence, noise: LowRank, effects: NDArray[np.float32]) -> Sequence:
    """Take what has an order out of the trial noise, so that single trials vary as before.

    Where that is more than `MOST_TAKEN` of a voxel's noise, it is made smaller.

    Parameters
    ----------
    sequence : Sequence
        With any rest.
    noise : LowRank
        e.
    effects : float32 array of shape (n_trials, n_voxels)
        Effects of repetition and of the image before in some of the trials of training.
    """
    own = effects.var(0, dtype=np.float64)
    taken = sequence.drift.variance + own
    room = MOST_TAKEN * noise.variance
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where(taken > room, room / taken, 1.0)
    root = np.sqrt(share).astype(np.float32)
    drift = sequence.drift.scaled(share)
    factors = np.hstack([drift.loadings, effect_factors(effects) * root[:, None]])
    return Sequence(
        drift,
        sequence.time_constant,
        sequence.offset * root,
        sequence.gain * root,
        sequence.count,
        sequence.serial * root,
        less(noise, factors, noise.variance - share * taken),
    )


def estimate_drift(
    residuals: NDArray[np.floating],
    position: NDArray[np.int64],
    length: int,
    sequence: Sequence,
    signal: LowRank,
) -> NDArray[np.float64]:
    r"""Estimate the drift of a recorded session: its expectation given some of its trials.

    Factors g of the drift :math:`d = L g + p \odot z` are first estimated in each trial by
    generalised least squares, given the covariance of all else; their courses, and those of private
    parts, are then smoothed by the covariance in time (kriging; Rasmussen & Williams 2006,
    *Gaussian Processes*, equation 2.23).

    Parameters
    ----------
    residuals : float array of shape (n_trials, n_voxels)
        Of the trials that are known, on the scale of e, less effects of repetition and of the
        image before.
    position : int array of shape (n_trials,)
        Their places in the session.
    length : int
        Trials of the session.
    sequence : Sequence
    signal : LowRank
        u.

    Returns
    -------
    float64 array of shape (length, n_voxels)
        In all trials, on the scale of e.
    """
    drift, rest = sequence.drift, sequence.rest
    if drift.is_nothing or length < 2:  # of a single trial, the process less its mean is nothing
        return np.zeros((length, len(drift.private)))
    prior = time_covariance(length, sequence.time_constant)
    known, across = prior[np.ix_(position, position)], prior[:, position]
    values, vectors = np.linalg.eigh(known)
    turned = across @ vectors  # (length, n_trials)

    def smooth(seen: NDArray[np.floating], noise: NDArray[np.floating]) -> NDArray[np.float64]:
        """Courses of variance 1 from what is seen of them (n_trials, n), with noise (n,)."""
        weighed = (vectors.T @ seen) / (values[:, None] + noise)
        found: NDArray[np.float64] = turned @ weighed
        return found

    loadings = drift.loadings.astype(np.float64)
    factors = np.hstack([signal.loadings, rest.loadings]).astype(np.float64)
    private = signal.private.astype(np.float64) ** 2 + rest.private.astype(np.float64) ** 2
    private += drift.private.astype(np.float64) ** 2
    private = np.maximum(private, 1e-6 * max(private.max(), 1e-12))
    found = np.zeros((length, len(private)))
    if loadings.shape[1]:
        own = factors / private[:, None]
        inner = np.linalg.inv(np.eye(factors.shape[1]) + factors.T @ own)
        weighed = loadings / private[:, None] - own @ (inner @ (own.T @ loadings))
        precision, turn = np.linalg.eigh(loadings.T @ weighed)
        precision = np.maximum(precision, 1e-12)
        seen = residuals @ weighed @ turn / precision
        found = smooth(seen, 1 / precision) @ turn.T @ loadings.T
    own_sd = drift.private.astype(np.float64)
    some = own_sd > 0
    if some.any():
        left = residuals[:, some] - found[np.ix_(position, some)]
        noise = (signal.variance + rest.variance)[some] / own_sd[some] ** 2
        found[:, some] += smooth(left / own_sd[some], noise) * own_sd[some]
    return found
