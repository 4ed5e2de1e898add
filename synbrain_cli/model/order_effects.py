"""Regression of trial noise on the number of the presentation, and on the image before.

`synbrain_cli.model.sequence_fit` describes it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from synbrain_cli.model.readout import shrink
from synbrain_cli.model.sequence import Count, Effect, Sequence, TrialOrder
from synbrain_cli.model.trial_blocks import Block, Gain, Residuals
from synbrain_cli.progress import Share

LEVELS = 4  # the first presentations that are told apart; all later ones are as the last (ours)
LEAST_LEVEL = 0.02  # of the trials, for a level of its own


@dataclass(frozen=True)
class _Sums:
    """Sums of a regression by block: all that fits, and likelihoods of fits, depend on.

    Attributes
    ----------
    square : float64 array of shape (n_blocks, n_voxels, p, p)
    product : float64 array of shape (n_blocks, n_voxels, p)
    residual : float64 array of shape (n_blocks, n_voxels)
    trials : int array of shape (n_blocks,)
    """

    square: NDArray[np.float64]
    product: NDArray[np.float64]
    residual: NDArray[np.float64]
    trials: NDArray[np.int64]

    def fit(self, blocks: NDArray[np.bool_]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Coefficients (n_voxels, p), shrunk over voxels, and residual variance (n_voxels,)."""
        square, product = self.square[blocks].sum(0), self.product[blocks].sum(0)
        n_trials = self.trials[blocks].sum()
        p = product.shape[1]
        ridge = 1e-6 * np.maximum(np.trace(square, axis1=1, axis2=2) / p, 1e-12)
        inverse = np.linalg.inv(square + ridge[:, None, None] * np.eye(p))
        raw = (inverse @ product[..., None])[..., 0]
        left = np.maximum(self.residual[blocks].sum(0) - (raw * product).sum(1), 1e-12)
        variance = left / max(n_trials - p, 1)
        found = np.empty_like(raw)
        for k in range(p):
            error = np.sqrt(np.maximum(inverse[:, k, k] * variance, 1e-24))
            found[:, k] = shrink(raw[:, k], error)
        return found, variance

    def gain(self) -> Gain:
        """Gain of log likelihood of every block, by the fit to the others."""
        n_blocks = len(self.residual)
        gains = np.empty(n_blocks)
        for block in range(n_blocks):
            others = np.arange(n_blocks) != block
            found, variance = self.fit(others)
            explained = 2 * (found * self.product[block]).sum(1)
            explained -= np.einsum("vp,vpq,vq->v", found, self.square[block], found)
            gains[block] = (explained / (2 * variance)).mean() / self.trials[block]
        return Gain.of(gains / np.log(2))


@dataclass(frozen=True)
class _Candidate:
    """A regression: on levels of the presentation, or on the image before.

    Attributes
    ----------
    part : {"repetition", "serial"}
    count : {"experiment", "session"}
        Of presentations.
    dummies : float64 array of shape (n_levels - 1, n_trials)
        Of every level but the first, of mean 0; nothing of the image before.
    shares : float64 array of shape (n_levels - 1,)
        Of trials, of these levels.
    """

    part: Effect
    count: Count
    dummies: NDArray[np.float64]
    shares: NDArray[np.float64]

    def columns(self, x: NDArray[np.float64], before: NDArray[np.float64]) -> NDArray[np.float64]:
        """Regressors (p, n_trials, n_some), given those of voxels (n_trials, n_some)."""
        if self.part == "serial":
            return before[None]
        offset = np.repeat(self.dummies[:, :, None], x.shape[1], axis=2)
        return np.concatenate([offset, offset * x])


def _candidates(order: TrialOrder) -> list[_Candidate]:
    """Regressions that the design allows."""
    found = []
    counts: tuple[Count, ...] = ("experiment", "session")
    for count in counts:
        presentation = order.counted(count)
        n_levels = _levels(presentation)
        same = count == "session" and np.array_equal(presentation, order.presentation)
        if n_levels == 1 or same:
            continue
        level = np.minimum(presentation, n_levels)
        dummies = (level == np.arange(2, n_levels + 1)[:, None]).astype(float)
        shares = dummies.mean(1)
        found.append(_Candidate("repetition", count, dummies - shares[:, None], shares))
    if (order.previous >= 0).any():
        none = np.zeros((0, len(order.previous)))
        found.append(_Candidate("serial", "experiment", none, none[:, 0]))
    return found


def _levels(presentation: NDArray[np.int64]) -> int:
    """Presentations that are told apart: those of which there are trials enough."""
    n = 1
    while n < LEVELS and (presentation > n).mean() >= LEAST_LEVEL:
        n += 1
    return n


def _regress(
    residuals: Residuals,
    order: TrialOrder,
    blocks: list[Block],
    candidates: list[_Candidate],
    share: Share,
) -> list[_Sums]:
    """Sums of every regression, in one pass over the residuals."""
    bases = [block.low_basis() for block in blocks]
    parts: list[list[list[NDArray[np.float64]]]] = [[] for _ in candidates]
    for some in share.over(residuals.blocks):
        seen, (x, before) = residuals.of(some), _means(residuals, order, some)
        own = []
        for block, basis in zip(blocks, bases, strict=True):
            rows = seen[block.rows].astype(np.float64)
            own.append(rows - basis @ (basis.T @ rows))
        residual = np.stack([np.square(rows).sum(0) for rows in own])
        for part, candidate in zip(parts, candidates, strict=True):
            columns = candidate.columns(x, before)
            squares, products = [], []
            for block, basis, rows in zip(blocks, bases, own, strict=True):
                left = columns[:, block.rows]
                left = left - basis @ (basis.T @ left)
                by_voxel = np.ascontiguousarray(left.transpose(2, 0, 1))  # (n_some, p, n_trials)
                squares.append(by_voxel @ by_voxel.transpose(0, 2, 1))
                products.append((by_voxel @ rows.T[:, :, None])[..., 0])
            part.append([np.stack(squares), np.stack(products), residual])
    degrees = [len(x.rows) - y.shape[1] for x, y in zip(blocks, bases, strict=True)]
    found = []
    for part in parts:
        square, product, residual = (np.concatenate(one, 1) for one in zip(*part, strict=True))
        found.append(_Sums(square, product, residual, np.array(degrees)))
    return found


def fit_effects(
    residuals: Residuals, order: TrialOrder, blocks: list[Block], share: Share
) -> tuple[Sequence, dict[Effect, Gain]]:
    """Fit repetition, counted in either way, and the image before; keep what is borne out."""
    sequence = Sequence.nothing(residuals.readout.noise)
    candidates = _candidates(order)
    sums = _regress(residuals, order, blocks, candidates, share)
    everything = np.ones(len(blocks), bool)
    gains: dict[Effect, Gain] = {}
    scored = [(one.gain(), candidate, one) for candidate, one in zip(candidates, sums, strict=True)]
    for gain, candidate, one in sorted(scored, key=lambda each: -each[0].bits):
        if candidate.part in gains:  # counted in the way that tells less
            continue
        gains[candidate.part] = gain
        if not gain.is_sure:
            continue
        found = one.fit(everything)[0]
        if candidate.part == "serial":
            sequence = replace(sequence, serial=found[:, 0].astype(np.float32))
        else:
            offset, slope = _by_level(found, candidate.shares)
            sequence = replace(sequence, offset=offset, gain=slope, count=candidate.count)
    return sequence, gains


def _means(
    residuals: Residuals,
    order: TrialOrder,
    some: slice,
    rows: NDArray[np.int64] | slice = slice(None),
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Standardised means of the images of trials, and of the images before, 0 without one."""
    x = residuals.standard(some)
    previous = order.previous[rows]
    before = np.where(previous[:, None] >= 0, x[previous], 0)
    return x[residuals.image_index[rows]], before


def _by_level(
    found: NDArray[np.float64], shares: NDArray[np.float64]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Offset and gain of every level, of mean 0 over trials: float32 (n_levels, n_voxels)."""
    both = []
    for part in np.split(found.T, 2):
        centred = np.concatenate([np.zeros_like(part[:1]), part]) - shares @ part
        both.append(centred.astype(np.float32))
    return both[0], both[1]


def effects_of(
    residuals: Residuals,
    order: TrialOrder,
    sequence: Sequence,
    some: slice = slice(None),
    rows: NDArray[np.int64] | slice = slice(None),
) -> NDArray[np.float32]:
    """Effects of repetition and of the image before in trials: float32 (n_trials, n_some)."""
    own = replace(
        sequence,
        offset=sequence.offset[:, some],
        gain=sequence.gain[:, some],
        serial=sequence.serial[some],
    )
    x, before = _means(residuals, order, some, rows)
    return own.effect(order.counted(sequence.count)[rows], x, before)
