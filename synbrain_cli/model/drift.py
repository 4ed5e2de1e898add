"""Variance, time constant and covariance over voxels of the drift within sessions.

`synbrain_cli.model.sequence_fit` describes the fit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from synbrain_cli.model.covariance import LowRank
from synbrain_cli.model.order_effects import effects_of
from synbrain_cli.model.readout import shrink
from synbrain_cli.model.sequence import Sequence, TrialOrder, centred_variance, falling
from synbrain_cli.model.trial_blocks import Block, Gain, Residuals, cut_blocks
from synbrain_cli.progress import Share

TIME_CONSTANTS = tuple(2.0 ** np.arange(0, 11))  # in trials, of which τ is chosen
SINGLE_ORDERS = 24  # cosines with a band of their own; higher ones share bands
LOW_ORDERS = 32  # cosines that show which courses voxels share
MAX_FACTORS = 8  # of the drift
N_FOLDS = 5  # of sessions, by which their number is chosen
EM_STEPS = 60

# Expected powers in bands: of white noise, and of a drift of variance 1
Powers = tuple[NDArray[np.float64], NDArray[np.float64]]


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

    def expected(self, time_constant: float) -> list[Powers]:
        """ν and λ of every block, in bands: powers of white noise and of the drift."""
        found: list[Powers] = []
        known: dict[tuple[int, bytes], Powers] = {}
        for block, bands, count in zip(self.blocks, self.bands, self.count, strict=True):
            key = block.length, block.place.tobytes()
            if key not in known:
                white = block.expected(np.eye(block.length))
                drift = block.expected(falling(block.length, time_constant))
                known[key] = np.bincount(bands, white) / count, np.bincount(bands, drift) / count
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
    expected: Mapping[float, list[Powers]],
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


def _gain_of_block(spectra: _Spectra, block: int, fit: _DriftFit, known: Powers) -> float:
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
    low = [np.empty((min(LOW_ORDERS, b.length - 1), n_voxels), np.float32) for b in cuts[-1]]
    variance = np.empty(n_voxels)
    for some in share.over(residuals.blocks):
        seen = residuals.of(some)
        if sequence.has_effects:
            seen = seen - effects_of(residuals, order, sequence, some)
        variance[some] = np.maximum(seen.var(0, dtype=np.float64), 1e-12)
        seen /= np.sqrt(variance[some]).astype(np.float32)
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


def fit_drift(
    residuals: Residuals,
    order: TrialOrder,
    blocks: list[Block],
    sequence: Sequence,
    share: Share,
) -> tuple[LowRank, float, Gain]:
    """Fit the drift's covariance over voxels and time, and what held-out blocks say of it."""
    sessions = cut_blocks(order, 1)
    (held_out, whole), low, variance = _spectra(
        residuals, order, sequence, [blocks, sessions], share
    )
    expected = {tau: held_out.expected(tau) for tau in TIME_CONSTANTS}
    gains = np.empty(len(blocks))
    for block in range(len(blocks)):
        fit = _fit_spectra(held_out, expected, np.arange(len(blocks)) != block)
        gains[block] = _gain_of_block(held_out, block, fit, expected[fit.time_constant][block])
    gain = Gain.of(gains)
    longest = {tau: whole.expected(tau) for tau in TIME_CONSTANTS}
    fit = _fit_spectra(whole, longest, np.ones(len(sessions), bool))
    # Of the process less its mean over a session
    within = float(
        np.mean([centred_variance(b.length, fit.time_constant).mean() for b in sessions])
    )
    by_voxel = fit.ratio * fit.white * variance * within
    if not gain.is_sure or not by_voxel.any():
        return LowRank.independent(np.zeros(len(variance))), fit.time_constant, gain
    readout, sd = residuals.readout, np.sqrt(variance).astype(np.float32)
    whitening = _Whitening.of([readout.signal, readout.noise])
    shared = _shared_courses(sessions, [one * sd for one in low], fit.time_constant, whitening)
    return _with_private(shared * np.sqrt(within), by_voxel), fit.time_constant, gain


@dataclass(frozen=True)
class _Whitening:
    """Makes what a covariance describes independent over voxels, of variance 1, and undoes it.

    Attributes
    ----------
    sd : float64 array of shape (n_voxels,)
        Of private parts.
    basis : float64 array of shape (n_voxels, rank)
        Orthonormal: in its directions factors add to them.
    root : float64 array of shape (rank,)
        Standard deviation in these directions, in units of the private parts'.
    """

    sd: NDArray[np.float64]
    basis: NDArray[np.float64]
    root: NDArray[np.float64]

    @classmethod
    def of(cls, parts: list[LowRank]) -> _Whitening:
        loadings = np.hstack([part.loadings for part in parts]).astype(np.float64)
        private = np.sum([part.private.astype(np.float64) ** 2 for part in parts], 0)
        sd = np.sqrt(np.maximum(private, 1e-3 * max(private.max(), 1e-12)))
        basis, values, _ = np.linalg.svd(loadings / sd[:, None], full_matrices=False)
        return cls(sd, basis, np.sqrt(1 + values**2))

    def apply(self, rows: NDArray[np.floating]) -> NDArray[np.float64]:
        """Whiten rows (n_rows, n_voxels)."""
        scaled = rows / self.sd
        return scaled + (scaled @ self.basis) * (1 / self.root - 1) @ self.basis.T

    def undo(self, loadings: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return loadings (n_voxels, n) of whitened rows to the unit of the voxels."""
        along = (self.root - 1)[:, None] * (self.basis.T @ loadings)
        return self.sd[:, None] * (loadings + self.basis @ along)


def _shared_courses(
    sessions: list[Block],
    low: list[NDArray[np.float32]],
    time_constant: float,
    whitening: _Whitening,
) -> NDArray[np.float64]:
    r"""Loadings of the courses that voxels share: float64 (n_voxels, n_factors).

    The cosine of order k of a session, whitened, is :math:`\sqrt{\nu_k} e + \sqrt{\lambda_k} F g`
    with e and g standard normal. F is the most likely one, found by expectation and maximisation
    (probabilistic principal components; Tipping & Bishop 1999, *JRSS B* 61:611; with a known
    strength of each observation). The number of factors is that under which cosines of sessions
    that did not enter are most likely.

    Parameters
    ----------
    sessions : list of Block
    low : list of float32 arrays of shape (n_orders, n_voxels)
        Their cosines of low orders, in the unit of e.
    time_constant : float
    whitening : _Whitening
    """
    strength, session, rows = [], [], []
    for number, (block, own) in enumerate(zip(sessions, low, strict=True)):
        drift = block.expected(falling(block.length, time_constant))
        white = block.expected(np.eye(block.length))[: len(own)]
        rows.append(whitening.apply(own / np.sqrt(white)[:, None]))
        strength.append(drift[: len(own)] / white)
        session.append(np.full(len(own), number))
    strong, of_session = np.concatenate(strength), np.concatenate(session)
    stacked = np.concatenate(rows)
    # In the space of the rows, with as many dimensions as there are rows, all goes faster
    _, _, axes = np.linalg.svd(stacked, full_matrices=False)
    units = stacked @ axes.T
    n_sessions = len(sessions)
    folds = [of_session % min(N_FOLDS, n_sessions) == k for k in range(min(N_FOLDS, n_sessions))]
    if n_sessions < 2:
        folds = [np.arange(len(units)) % N_FOLDS == k for k in range(N_FOLDS)]
    scores = [0.0]
    for rank in range(1, min(MAX_FACTORS, len(units) // 8) + 1):
        scores.append(
            sum(
                _likelihood(units[own], strong[own], _factors(units[~own], strong[~own], rank))
                for own in folds
            )
        )
        if scores[-1] < max(scores) - 10:  # nats: it goes down
            break
    rank = int(np.argmax(scores))
    return whitening.undo(axes.T @ _factors(units, strong, rank))


def _factors(
    units: NDArray[np.float64], strength: NDArray[np.float64], rank: int
) -> NDArray[np.float64]:
    """Most likely F (n_dims, rank) of units (n_units, n_dims), as `_shared_courses` says."""
    if not rank:
        return np.zeros((units.shape[1], 0))
    weight = np.sqrt(strength)
    _, values, axes = np.linalg.svd(units * weight[:, None] / weight.max(), full_matrices=False)
    found = axes[:rank].T * values[:rank] / np.sqrt(strength.sum())
    for _ in range(EM_STEPS):
        precision = np.eye(rank) + strength[:, None, None] * (found.T @ found)
        spread = np.linalg.inv(precision)
        mean = (spread @ (weight[:, None] * (units @ found))[..., None])[..., 0]
        square = strength[:, None, None] * (spread + mean[:, :, None] * mean[:, None, :])
        found = np.linalg.solve(square.sum(0), (weight[:, None] * mean).T @ units).T
    return found


def _likelihood(
    units: NDArray[np.float64], strength: NDArray[np.float64], factors: NDArray[np.float64]
) -> float:
    """Log likelihood of units under factors, above that without any."""
    values, turn = np.linalg.eigh(factors.T @ factors)
    along = np.square(units @ factors @ turn)
    total = 1 + strength[:, None] * np.maximum(values, 0)
    return float(0.5 * (strength[:, None] * along / total - np.log(total)).sum())


def _with_private(loadings: NDArray[np.float64], variance: NDArray[np.float64]) -> LowRank:
    """Factors, and what they lack of the variance of voxels as private; its sum remains."""
    shared = (loadings**2).sum(1)
    total = variance.sum()
    if shared.sum() >= total:
        loadings = loadings * np.sqrt(total / shared.sum())
        return LowRank(loadings.astype(np.float32), np.zeros(len(variance), np.float32))
    lacking = np.maximum(variance - shared, 0)
    lacking *= (total - shared.sum()) / lacking.sum()
    return LowRank(loadings.astype(np.float32), np.sqrt(lacking).astype(np.float32))
