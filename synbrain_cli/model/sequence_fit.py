r"""Fit of what the order of trials does to responses: `synbrain_cli.model.sequence`.

**What is fitted to.** Residuals of trials, each predicted without its image, brought to the scale of
trial noise: with Q of the readout undone and divided by √h, so that e has one variance per voxel.

**Repetition and the image before** are regressions, voxel by voxel, on residuals from which slow
courses within blocks were taken (a cosine basis of periods above `HIGH_PASS` trials), so that drift
does not pass for them. Coefficients are shrunk over voxels by empirical Bayes.

**Drift.** Within a block of n trials, residuals are taken to cosines of the orders 1 … n − 1 (DCT).
Their expected power is

.. math:: \mathrm{E} P_{kv} = N_v\, \nu_k + \sigma_{dv}^2\, \lambda_k(\tau),

ν and λ those of white noise and of the drift's process in the trials that are known, exactly. τ is
the one under which the powers, averaged over voxels, are most likely (Whittle 1953, *Arkiv för
Matematik* 2:423). Variances are weighted least squares of the powers, shrunk over voxels. The
covariance over voxels is that of the cosines of low orders, less that of higher ones
(`synbrain_cli.model.covariance.fit_low_rank`).

**What is kept.** Each of the three is fitted without one block of trials and judged by the log
likelihood of that block, as if voxels were independent, in turn for all blocks: whole sessions, or
parts of sessions where these are few. It is kept if the mean gain per block is above 0 by a 95 %
interval (t over blocks).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.fft import dct
from scipy.stats import t as student

from synbrain_cli.model.covariance import LowRank, Rows, fit_low_rank
from synbrain_cli.model.readout import NODES, Readout, shrink
from synbrain_cli.model.sequence import (
    EFFECT_TRIALS,
    Count,
    Sequence,
    TrialOrder,
    standard_mean,
    with_rest,
)
from synbrain_cli.progress import UNSEEN, Share

Effect = Literal["drift", "repetition", "serial"]
FEWEST_BLOCKS = 8  # into which trials are divided, where there are fewer sessions (ours)
LEAST_BLOCK = 50  # trials of a block: neighbours across a border are then few (ours)
HIGH_PASS = 100  # trials: courses of longer periods do not enter the regressions (ours)
LEVELS = 4  # the first presentations that are told apart; all later ones are as the last (ours)
LEAST_LEVEL = 0.02  # of the trials, for a level of its own
TIME_CONSTANTS = tuple(2.0 ** np.arange(0, 11))  # in trials, of which τ is chosen
SINGLE_ORDERS = 24  # cosines with a band of their own; higher ones share bands
LOW_ORDERS, CONTROL_ORDERS = 16, 48  # cosines that show the drift's factors, and the noise's
MAX_FACTORS = 8  # of the drift
VOXELS = 128  # that are computed together
SORTED = 0.9  # share of neighbours in the order of their names that is no order in time


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
        reach = student.ppf(0.975, n - 1) * gains.std(ddof=1) / np.sqrt(n)
        mean = float(gains.mean())
        return cls(mean, (mean - float(reach), mean + float(reach)), n)

    @property
    def is_sure(self) -> bool:
        """Whether the interval is above 0."""
        return self.interval[0] > 0


@dataclass(frozen=True)
class FittedSequence:
    """What the order of trials does, and how held-out trials bear it out.

    Attributes
    ----------
    sequence : Sequence
        With those parts alone that were kept.
    gains : dict of Gain
        Of every part that could be fitted.
    drift_share : float
        Share of the drift in the variance of trial noise, mean over voxels.
    """

    sequence: Sequence
    gains: Mapping[Effect, Gain]
    drift_share: float

    @property
    def kept(self) -> tuple[Effect, ...]:
        """The parts that were kept."""
        return tuple(name for name, gain in self.gains.items() if gain.is_sure)


def is_sorted_by_name(session: NDArray[np.int64], image: NDArray[np.int64]) -> bool:
    """Whether the images of trials follow one another by name: then rows are no order in time.

    Parameters
    ----------
    session : int array of shape (n_trials,)
    image : int array of shape (n_trials,)
        Rank of the image's name.
    """
    within = session[1:] == session[:-1]
    rising = (image[1:] >= image[:-1])[within]
    return bool(len(rising) and rising.mean() > SORTED)


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
            curve = readout.curve[:, some]
            for v in range(standard.shape[1]):
                standard[:, v] = _unbend(curve[:, v], standard[:, v])
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


def _unbend(curve: np.ndarray, t: np.ndarray) -> np.ndarray:
    """Undo Q of one voxel (n_nodes,): beyond the nodes it goes on with slope 1."""
    inside = np.interp(t, curve, NODES)
    return inside + np.minimum(t - curve[0], 0) + np.maximum(t - curve[-1], 0)


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
    """Cut every session into parts of equal length; those with too few known trials are left out."""
    blocks = []
    for session, length in enumerate(order.length):
        own = np.flatnonzero(order.session == session)
        own = own[np.argsort(order.position[own])]
        edges = np.linspace(0, length, n_parts + 1).round().astype(int)
        for start, end in zip(edges[:-1], edges[1:], strict=True):
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


def fit_sequence(
    residuals: Residuals,
    order: TrialOrder,
    generator: np.random.Generator,
    share: Share = UNSEEN,
) -> FittedSequence | None:
    """Fit drift, repetition and the effect of the image before, and keep what is borne out.

    Parameters
    ----------
    residuals : Residuals
    order : TrialOrder
        Of the same trials; ``previous`` are rows of the means.
    generator : numpy Generator
    share : Share
        Of a task whose progress is shown.

    Returns
    -------
    FittedSequence, or None
        None where trials are too few to hold some out.
    """
    blocks = held_out_blocks(order)
    if len(blocks) < FEWEST_BLOCKS // 2:
        return None
    of_regressions, of_drift = share.split(2, 1)
    noise = residuals.readout.noise
    sequence, gains = _fit_effects(residuals, order, blocks, of_regressions)
    drift, time_constant, gain = _fit_drift(
        residuals, order, blocks, sequence, (generator, of_drift)
    )
    gains = {"drift": gain, **gains}
    if gain.is_sure:
        sequence = replace(sequence, drift=drift, time_constant=time_constant)
    n_trials = len(residuals.trials)
    rows = np.unique(np.linspace(0, n_trials - 1, EFFECT_TRIALS).astype(int))
    sequence = with_rest(sequence, noise, _effects(residuals, order, sequence, rows=rows))
    part = sequence.drift.variance / np.maximum(noise.variance, 1e-12)
    return FittedSequence(sequence, gains, float(part.mean()))


# --------------------------------------------------------------------- repetition, image before


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
        n_blocks, n_voxels = self.residual.shape
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

    def columns(
        self, x: NDArray[np.float64], before: NDArray[np.float64]
    ) -> NDArray[np.float64]:
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
            square, product = [], []
            for block, basis, rows in zip(blocks, bases, own, strict=True):
                left = columns[:, block.rows]
                left = left - basis @ (basis.T @ left)
                by_voxel = np.ascontiguousarray(left.transpose(2, 0, 1))  # (n_some, p, n_trials)
                square.append(by_voxel @ by_voxel.transpose(0, 2, 1))
                product.append((by_voxel @ rows.T[:, :, None])[..., 0])
            part.append([np.stack(square), np.stack(product), residual])
    degrees = [len(x.rows) - y.shape[1] for x, y in zip(blocks, bases, strict=True)]
    return [
        _Sums(*(np.concatenate(one, 1) for one in zip(*part, strict=True)), np.array(degrees))
        for part in parts
    ]


def _fit_effects(
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


def _effects(
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


# ------------------------------------------------------------------------------ drift


@dataclass(frozen=True)
class _Spectra:
    """Powers of cosines in bands, of every block.

    Attributes
    ----------
    blocks : list of Block
    bands : list of int arrays
        Band of each order, of every block.
    power : list of float32 arrays of shape (n_bands, n_voxels)
        Mean over the orders of a band, in units of each voxel's variance.
    count : list of float arrays of shape (n_bands,)
        Orders of each band.
    """

    blocks: list[Block]
    bands: list[NDArray[np.int64]]
    power: list[NDArray[np.float32]]
    count: list[NDArray[np.float64]]

    def expected(self, time_constant: float) -> list[tuple[NDArray, NDArray]]:
        """ν and λ of every block, in bands: powers of white noise and of the drift."""
        found, known = [], {}
        for block, bands, count in zip(self.blocks, self.bands, self.count, strict=True):
            key = block.length, block.place.tobytes()
            if key not in known:
                place = np.arange(block.length)
                drift = np.exp(-np.abs(place[:, None] - place) / time_constant)
                known[key] = tuple(
                    np.bincount(bands, block.expected(one)) / count
                    for one in (np.eye(block.length), drift)
                )
            found.append(known[key])
        return found


def _bands(n_orders: int) -> NDArray[np.int64]:
    """Band of each order: the first ones have their own, higher ones share them, √2 wide."""
    order = np.arange(1, n_orders + 1)
    shared = SINGLE_ORDERS + np.floor(2 * np.log2(np.maximum(order, 1) / SINGLE_ORDERS)).astype(int)
    band = np.where(order <= SINGLE_ORDERS, order - 1, shared)
    return np.unique(band, return_inverse=True)[1]


@dataclass(frozen=True)
class _DriftFit:
    """Variance of the drift of every voxel, relative to white noise.

    Attributes
    ----------
    time_constant : float
    ratio : float64 array of shape (n_voxels,)
        σ_d² / N.
    white : float64 array of shape (n_voxels,)
        N, in units of the powers.
    flat : float64 array of shape (n_voxels,)
        The same without drift.
    pooled : float
        Ratio, pooled over voxels.
    """

    time_constant: float
    ratio: NDArray[np.float64]
    white: NDArray[np.float64]
    flat: NDArray[np.float64]
    pooled: float


def _fit_spectra(
    spectra: _Spectra,
    expected: Mapping[float, list[tuple[NDArray, NDArray]]],
    chosen: NDArray[np.bool_],
) -> _DriftFit:
    """Fit the time constant to pooled powers, then a variance to the powers of each voxel."""
    use = np.flatnonzero(chosen)
    count = np.concatenate([spectra.count[b] for b in use])
    power = np.concatenate([spectra.power[b] for b in use]).astype(np.float64)
    pooled = power.mean(1)
    best = (-np.inf, 0.0, 0.0)
    for time_constant, known in expected.items():
        white, drift = (np.concatenate([known[b][k] for b in use]) for k in (0, 1))
        ratio = 0.0
        for _ in range(8):  # weights depend on the ratio
            level, slope, _ = _least_squares(pooled[:, None], white, drift, count, ratio)
            ratio = max(float(slope[0] / max(level[0], 1e-12)), 0.0)
        shape = white + ratio * drift
        level_here = (count * pooled / shape).sum() / count.sum()
        likelihood = -(count * np.log(level_here * shape)).sum()
        if likelihood > best[0]:
            best = likelihood, time_constant, ratio
    _, time_constant, ratio = best
    known = expected[time_constant]
    white, drift = (np.concatenate([known[b][k] for b in use]) for k in (0, 1))
    flat = (count / white) @ power / count.sum()
    if ratio == 0:
        return _DriftFit(time_constant, np.zeros(len(flat)), flat, flat, 0.0)
    level, slope, error = _least_squares(power, white, drift, count, ratio)
    by_voxel = slope / np.maximum(level, 1e-12)
    by_voxel = np.maximum(shrink(by_voxel, np.full(len(flat), error)), 0)
    shape = white[:, None] + by_voxel * drift[:, None]
    return _DriftFit(
        time_constant, by_voxel, (count[:, None] * power / shape).sum(0) / count.sum(), flat, ratio
    )


def _least_squares(
    power: NDArray[np.float64],
    white: NDArray[np.float64],
    drift: NDArray[np.float64],
    count: NDArray[np.float64],
    ratio: float,
) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """Levels of white noise and drift (n_voxels,), and the error of their ratio.

    Powers are χ² variables: their variance is 2 / count times their squared expectation.
    """
    weight = count / (white + ratio * drift) ** 2
    square = np.array(
        [
            [(weight * white**2).sum(), (weight * white * drift).sum()],
            [(weight * white * drift).sum(), (weight * drift**2).sum()],
        ]
    )
    inverse = np.linalg.inv(square)
    product = np.stack([(weight * white) @ power, (weight * drift) @ power])
    level, slope = inverse @ product
    return level, slope, float(np.sqrt(2 * inverse[1, 1]))


def _gain_of_block(spectra: _Spectra, block: int, fit: _DriftFit, known: tuple) -> float:
    """Gain of log likelihood of a held-out block, in bits per voxel and trial."""
    power, count = spectra.power[block].astype(np.float64), spectra.count[block]
    white, drift = known
    shape = fit.white * (white[:, None] + fit.ratio * drift[:, None])
    flat = fit.flat * white[:, None]
    difference = np.log(flat / shape) + power / flat - power / shape
    by_voxel = 0.5 * count @ difference
    return float(by_voxel.mean() / len(spectra.blocks[block].rows) / np.log(2))


def _spectra(
    residuals: Residuals,
    order: TrialOrder,
    sequence: Sequence,
    cuts: list[list[Block]],
    share: Share,
) -> tuple[list[_Spectra], list[NDArray[np.float32]], NDArray[np.float64]]:
    """Powers of the blocks of every cut, low cosines of those of the last, and variances."""
    n_voxels = residuals.trials.shape[1]
    bands = [[_bands(b.length - 1) for b in blocks] for blocks in cuts]
    powers = [
        [np.empty((own.max() + 1, n_voxels), np.float32) for own in of_cut] for of_cut in bands
    ]
    counts = [[np.bincount(own).astype(float) for own in of_cut] for of_cut in bands]
    n_low = LOW_ORDERS + CONTROL_ORDERS
    low = [np.empty((min(n_low, b.length - 1), n_voxels), np.float32) for b in cuts[-1]]
    variance = np.empty(n_voxels)
    for some in share.over(residuals.blocks):
        seen = residuals.of(some)
        if sequence.has_effects:
            seen = seen - _effects(residuals, order, sequence, some)
        variance[some] = np.maximum(seen.var(0, dtype=np.float64), 1e-12)
        seen = seen / np.sqrt(variance[some]).astype(np.float32)
        for cut, blocks in enumerate(cuts):
            for b, block in enumerate(blocks):
                cosines = block.cosines(seen[block.rows])
                own = bands[cut][b]
                starts = np.r_[0, np.flatnonzero(np.diff(own)) + 1]
                powers[cut][b][:, some] = (
                    np.add.reduceat(cosines**2, starts) / counts[cut][b][:, None]
                )
                if cut == len(cuts) - 1:
                    low[b][:, some] = cosines[: len(low[b])]
    found = [_Spectra(*parts) for parts in zip(cuts, bands, powers, counts, strict=True)]
    return found, low, variance


def _fit_drift(
    residuals: Residuals,
    order: TrialOrder,
    blocks: list[Block],
    sequence: Sequence,
    run: tuple[np.random.Generator, Share],
) -> tuple[LowRank, float, Gain]:
    """Fit the drift's covariance over voxels and time, and what held-out blocks say of it."""
    generator, share = run
    sessions = cut_blocks(order, 1)
    (held_out, whole), low, variance = _spectra(
        residuals, order, sequence, [blocks, sessions], share
    )
    expected = {tau: held_out.expected(tau) for tau in TIME_CONSTANTS}
    gains = np.empty(len(blocks))
    for block in range(len(blocks)):
        fit = _fit_spectra(held_out, expected, np.arange(len(blocks)) != block)
        gains[block] = _gain_of_block(
            held_out, block, fit, expected[fit.time_constant][block]
        )
    gain = Gain.of(gains)
    longest = {tau: whole.expected(tau) for tau in TIME_CONSTANTS}
    fit = _fit_spectra(whole, longest, np.ones(len(sessions), bool))
    # Of the process less its mean over a session
    within = float(np.mean([1 - _mean_correlation(b.length, fit.time_constant) for b in sessions]))
    by_voxel = fit.ratio * fit.white * variance * within
    if not gain.is_sure or not by_voxel.any():
        return LowRank.independent(np.zeros(len(variance))), fit.time_constant, gain
    rows, weight = _low_rows(sessions, low, fit)
    sd = np.sqrt(variance).astype(np.float32)
    terms = [Rows(term.sign, term.rows * sd, term.image) for term in rows]
    drift = fit_low_rank(
        terms, weight / within, by_voxel, generator, max_rank=MAX_FACTORS
    )
    return drift, fit.time_constant, gain


def _mean_correlation(length: int, time_constant: float) -> float:
    """Mean correlation of two trials of a session, each with itself included."""
    falling = np.exp(-np.arange(length) / time_constant)
    lag = np.arange(length)
    weight = np.where(lag, 2.0 * (length - lag), length)
    return float((weight * falling).sum() / length**2)


def _low_rows(
    sessions: list[Block], low: list[NDArray[np.float32]], fit: _DriftFit
) -> tuple[list[Rows], NDArray[np.float64]]:
    """Terms of the drift's second moment: low cosines, less higher ones, and their weights.

    Every low cosine of a session is a unit ("image") of `fit_low_rank`.
    """
    plus, minus, of_plus, of_minus, weights = [], [], [], [], []
    for block, rows in zip(sessions, low, strict=True):
        place = np.arange(block.length)
        drift = block.expected(np.exp(-np.abs(place[:, None] - place) / fit.time_constant))
        white = block.expected(np.eye(block.length))
        n_low = min(LOW_ORDERS, len(rows) // 4)
        control = np.arange(n_low, len(rows))
        for k in range(n_low):
            own = control[k::n_low]
            worth = drift[k] / (white[k] + fit.pooled * drift[k]) ** 2
            factors = worth * white[k] / white[own] / len(own)
            unit = len(weights)
            plus.append(np.sqrt(worth) * rows[k])
            minus.extend(np.sqrt(factors)[:, None] * rows[own])
            of_plus.append(unit)
            of_minus.extend([unit] * len(own))
            weights.append(max(worth * drift[k] - float(factors @ drift[own]), 0.0))
    terms = [
        Rows(1.0, np.array(plus, np.float32), np.array(of_plus)),
        Rows(-1.0, np.array(minus, np.float32), np.array(of_minus)),
    ]
    return terms, np.array(weights)
