"""Residuals of trials in blocks: what the fit of order works on, and is judged by."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.fft import dct
from scipy.stats import t as student

from synbrain_cli.model.curve import unbend
from synbrain_cli.model.readout import Readout
from synbrain_cli.model.sequence import TrialOrder, standard_mean

FEWEST_BLOCKS = 8  # into which trials are divided, where there are fewer sessions (ours)
LEAST_BLOCK = 50  # trials of a block: neighbours across a border are then few (ours)
HIGH_PASS = 100  # trials: courses of longer periods do not enter the regressions (ours)
VOXELS = 128  # that are computed together


@dataclass(frozen=True)
class Gain:
    """How much a part of the model tells of held-out trials.

    Attributes
    ----------
    bits : float
        Gain of log likelihood, in bits per voxel and trial, mean over blocks.
    interval : pair of float
        95 % interval, by t over blocks.
    blocks : int
    """

    bits: float
    interval: tuple[float, float]
    blocks: int

    @classmethod
    def of(cls, gains: NDArray[np.float64]) -> Gain:
        """Summarise the gains of blocks (n_blocks,)."""
        n = len(gains)
        reach = float(student.ppf(0.975, n - 1) * gains.std(ddof=1) / np.sqrt(n))
        mean = float(gains.mean())
        return cls(mean, (mean - reach, mean + reach), n)

    @property
    def is_sure(self) -> bool:
        """Whether the interval is above 0."""
        return self.interval[0] > 0


@dataclass(frozen=True)
class Residuals:
    """Single-trial residuals on the scale of e, made for some voxels at a time.

    Attributes
    ----------
    trials : float32 array of shape (n_trials, n_voxels)
    image_index : int array of shape (n_trials,)
    means : float32 array of shape (n_images, n_voxels)
        Predictions, each without its image.
    readout : Readout
    """

    trials: np.ndarray
    image_index: np.ndarray
    means: np.ndarray
    readout: Readout

    def of(self, some: slice) -> NDArray[np.float32]:
        """Residuals of some voxels, float32 (n_trials, n_some): Q undone, divided by √h."""
        readout = self.readout
        x, beta = self.standard(some), readout.signal_dependence[some]
        h = np.exp(beta * x - beta**2 / 2)
        noise, signal = readout.noise.variance[some], readout.signal.variance[some]
        scale = np.sqrt(np.maximum(signal + h * noise, 1e-24))[self.image_index]
        standard = (self.trials[:, some] - self.means[self.image_index, some]) / scale
        if not readout.is_straight:
            standard = unbend(readout.curve[:, some], standard)[0]
        return (standard * scale / np.sqrt(h)[self.image_index]).astype(np.float32)

    def standard(self, some: slice) -> NDArray[np.float64]:
        """Standardised means x of some voxels: (n_images, n_some)."""
        own = replace(
            self.readout, centre=self.readout.centre[some], spread=self.readout.spread[some]
        )
        return standard_mean(own, self.means[:, some])

    @property
    def blocks(self) -> list[slice]:
        """Voxels that are computed together."""
        return [slice(v, v + VOXELS) for v in range(0, self.trials.shape[1], VOXELS)]


@dataclass(frozen=True)
class Block:
    """Successive trials of one session.

    Attributes
    ----------
    rows : int array of shape (n_known,)
        Trials that are known.
    place : int array of shape (n_known,)
        Their places in the block.
    length : int
        Trials of the block, known or not.
    """

    rows: NDArray[np.int64]
    place: NDArray[np.int64]
    length: int

    def low_basis(self) -> NDArray[np.float64]:
        """Orthonormal basis of slow courses and the mean in the known trials: (n_known, n)."""
        n_orders = 1 + min(int(2 * self.length / HIGH_PASS), len(self.rows) // 4)
        angle = np.pi * (self.place[:, None] + 0.5) / self.length * np.arange(n_orders)
        return np.linalg.qr(np.cos(angle))[0]

    def cosines(self, residuals: NDArray[np.float32]) -> NDArray[np.float32]:
        """Cosines of the orders 1 … of residuals (n_known, n), unknown trials 0."""
        filled = np.zeros((self.length, residuals.shape[1]), np.float32)
        filled[self.place] = residuals - residuals.mean(0)
        return dct(filled, axis=0, norm="ortho")[1:]

    def expected(self, covariance: NDArray[np.float64]) -> NDArray[np.float64]:
        """Expected power of these cosines, of a process with a covariance in time.

        Parameters
        ----------
        covariance : float64 array of shape (length, length)
        """
        known = covariance[np.ix_(self.place, self.place)]
        known = known - known.mean(0) - known.mean(1)[:, None] + known.mean()
        filled = np.zeros((self.length, self.length))
        filled[np.ix_(self.place, self.place)] = known
        once = dct(filled, axis=0, norm="ortho")
        return np.diag(dct(once, axis=1, norm="ortho"))[1:].copy()


def cut_blocks(order: TrialOrder, n_parts: int) -> list[Block]:
    """Cut every session into equal parts; those with too few known trials are left out."""
    blocks = []
    for session, length in enumerate(order.length):
        own = np.flatnonzero(order.session == session)
        own = own[np.argsort(order.position[own])]
        edges = np.linspace(0, length, n_parts + 1).round().astype(int)
        for start, end in pairwise(edges):
            rows = own[(order.position[own] >= start) & (order.position[own] < end)]
            if len(rows) >= LEAST_BLOCK // 2 and end - start >= LEAST_BLOCK:
                blocks.append(Block(rows, order.position[rows] - start, int(end - start)))
    return blocks


def held_out_blocks(order: TrialOrder) -> list[Block]:
    """Blocks that are held out by turns: sessions, or parts of them where sessions are few."""
    n_sessions = max(len(np.unique(order.session)), 1)
    n_parts = -(-FEWEST_BLOCKS // n_sessions)
    while n_parts > 1 and order.length.max(initial=0) / n_parts < LEAST_BLOCK:
        n_parts -= 1
    return cut_blocks(order, n_parts)
