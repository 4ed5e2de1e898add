r"""The shape of residuals, voxel by voxel: a monotone curve Q of a standard normal variable.

Q goes through its values at `NODES` in straight lines, and on with slope 1. C = Q ∘ G bends the sum
of signal and noise to that shape, with G its normal scores, and has nodes farther out.

Q is fitted to the quantiles of standardised residuals. A voxel's own quantiles are noisy. What
bends its sum of signal and noise to them is shrunk towards that of all voxels, by as much as makes
residuals of images that were left out likeliest: where all sums are as they were recorded, nearly
all the way.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from synbrain_cli.progress import UNSEEN, Share

Array = NDArray[np.float64]
# Some voxels → their residuals in standard deviations, float32 (n_trials, n_chosen)
Standardised = Callable[[slice], NDArray[np.float32]]

# Of Q, in standard deviations: quantiles .005 to .995.
NODES = np.linspace(-2.6, 2.6, 27).astype(np.float32)
WIDE = np.linspace(-4, 4, 41).astype(np.float32)  # nodes at the same distance, of sums
LEAST_SLOPE = 0.2  # of Q where it is inverted, SD by SD (ours)
# Trials that count as much as all other voxels for a voxel's Q, of which one number is chosen
CURVE_TRIALS = (100.0, 300.0, 1e3, 3e3, 1e4, 1e5, np.inf)
CHOSEN_BY = 512  # voxels, at equal distances, whose residuals choose it
BLOCK = 512  # voxels that are computed together
MOST_GROWTH = 1.5  # of the log of the noise variance, per SD of the unexplained signal (ours)
N_QUADRATURE = 201  # nodes of the integral over signal, at equal distances
N_SHARES, N_GROWTHS = 33, 31  # for which it is taken
LEAST_NOISE = 0.06  # SD, of a voxel's: of less, the sum over nodes is no integral


def straight(n_voxels: int) -> NDArray[np.float32]:
    """Return the identity, float32 (n_nodes, n_voxels)."""
    return np.repeat(NODES[:, None], n_voxels, axis=1)


def fit_curve(
    standardised: Standardised,
    image_index: np.ndarray,
    scores: NDArray[np.floating],
    share: Share = UNSEEN,
) -> NDArray[np.float32]:
    """Fit Q of every voxel to residuals.

    Parameters
    ----------
    standardised : callable
        Slice of voxels → their residuals in standard deviations, float32 (n_trials, n_chosen).
    image_index : int array of shape (n_trials,)
        Image of each trial, or its group. They are left out whole.
    scores : float array of shape (n_wide, n_voxels)
        G at `WIDE`: normal scores of the sum of signal and noise (`normal_scores`).
    share : Share
        Of a task whose progress is shown.

    Returns
    -------
    float32 array of shape (n_nodes, n_voxels)
        Mean and variance of Q of a standard normal variable are those of the residuals.
    """
    n_voxels = scores.shape[1]
    curve, moments = np.empty((len(NODES), n_voxels)), np.empty((2, n_voxels))
    for start in share.over(range(0, n_voxels, BLOCK)):
        some = slice(start, start + BLOCK)
        residuals = standardised(some)
        curve[:, some] = _quantiles(residuals)
        moments[:, some] = residuals.mean(0), residuals.std(0)
    some = slice(0, n_voxels, max(1, n_voxels // CHOSEN_BY))
    count = trials_worth_all_voxels(standardised(some), image_index, scores[:, some])
    curve = _shrink(curve, scores, len(image_index), count)
    # Few nodes miss some of long tails: mean and variance are made those of the residuals.
    mean, sd = _moments(curve)
    return ((curve - mean) * (moments[1] / sd) + moments[0]).astype(np.float32)


def trials_worth_all_voxels(
    residuals: NDArray[np.float32], image_index: np.ndarray, scores: NDArray[np.floating]
) -> float:
    """Choose how much a voxel's own quantiles count, by residuals of images left out.

    Parameters
    ----------
    residuals : float32 array of shape (n_trials, n_voxels)
        In standard deviations.
    image_index : int array of shape (n_trials,)
        Images of even and odd numbers predict one another.
    scores : float array of shape (n_wide, n_voxels)
        As in `fit_curve`.

    Returns
    -------
    float
        The one of `CURVE_TRIALS` under which they are likeliest; infinite for one Q of all voxels.
    """
    odd = image_index % 2 == 1
    if not 0 < odd.sum() < len(odd):
        return np.inf
    likelihood = np.zeros(len(CURVE_TRIALS))
    for fitted, left_out in ((odd, ~odd), (~odd, odd)):
        own = _quantiles(residuals[fitted])
        sd = np.maximum(residuals[fitted].std(0, dtype=np.float64), 1e-12)
        for k, count in enumerate(CURVE_TRIALS):
            curve = _shrink(own, scores, int(fitted.sum()), count)
            mean, spread = _moments(curve)
            curve = (curve - mean) * (sd / spread) + residuals[fitted].mean(0, dtype=np.float64)
            t, log_slope = unbend(curve, residuals[left_out])
            likelihood[k] -= (t**2 / 2 + log_slope).sum()
    return float(CURVE_TRIALS[int(likelihood.argmax())])


def _quantiles(residuals: NDArray[np.float32]) -> Array:
    quantiles: Array = np.quantile(residuals, ndtr(NODES), axis=0)
    return quantiles


def _shrink(curve: Array, scores: NDArray[np.floating], n_trials: int, count: float) -> Array:
    """Shrink quantiles (n_nodes, n_voxels) of so many trials towards those of all voxels.

    What voxels have in common is how the sum of signal and noise is bent, C = Q ∘ G; how noise
    depends on the signal, and by it the shape Q, is their own.
    """
    trust = n_trials / (n_trials + count)
    bent = bend(curve, scores)
    bent = trust * bent + (1 - trust) * bent.mean(1, keepdims=True)
    sums, _ = unbend(scores, np.repeat(NODES[:, None], curve.shape[1], axis=1))
    return bend(bent, sums)


def _moments(curve: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of Q of a standard normal variable: (n_voxels,) each."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    weights = weights / weights.sum()
    values = bend(curve, np.repeat(nodes[:, None], curve.shape[1], axis=1))
    mean = weights @ values
    return mean, np.sqrt(weights @ (values - mean) ** 2)


def sd_of_normal(curve: np.ndarray) -> np.ndarray:
    r"""Standard deviation of Q of a standard normal variable, in closed form: (n_voxels,).

    Between two nodes Q is c + g t, and over any interval (a, b)

    .. math:: \int \varphi = \Phi(b) - \Phi(a), \quad \int t\varphi = \varphi(a) - \varphi(b),
        \quad \int t^2 \varphi = \int \varphi + a\varphi(a) - b\varphi(b)

    (`_moments` approximates the same in the fit, to some thousandths.)
    """
    nodes, values = NODES.astype(np.float64), curve.astype(np.float64)
    slope = np.diff(values, axis=0) / np.diff(nodes)[:, None]
    slope = np.concatenate([np.ones_like(values[:1]), slope, np.ones_like(values[:1])])
    start = np.concatenate([values[:1] - nodes[0], values - slope[1:] * nodes[:, None]])
    ends = np.concatenate([[-np.inf], nodes, [np.inf]])
    density = np.exp(-(ends**2) / 2) / np.sqrt(2 * np.pi)
    weighted = np.concatenate([[0.0], nodes * density[1:-1], [0.0]])
    mass, first = np.diff(ndtr(ends)), -np.diff(density)
    second = mass - np.diff(weighted)
    mean = mass @ start + first @ slope
    square = mass @ start**2 + 2 * (first @ (start * slope)) + second @ slope**2
    return np.sqrt(np.maximum(square - mean**2, 0))


def normal_scores(share: np.ndarray, growth: np.ndarray) -> NDArray[np.float32]:
    r"""Standard normal scores of a sum of signal and noise that depends on the signal, at `WIDE`.

    The sum :math:`t = \sqrt\pi\, z + \sqrt{(1 - \pi)\, h}\, z'`, with z and z' standard normal
    and :math:`h = \exp(g z - g^2/2)`, has mean 0 and variance 1, and is skewed. Its distribution
    function is an integral over z:

    .. math:: G(t) = \Phi^{-1} \int \varphi(z)\,
        \Phi\Big( \frac{t - \sqrt\pi\, z}{\sqrt{(1 - \pi)\, h(z)}} \Big)\, dz

    which is the same function for all voxels: it is taken once, for some π and g, and interpolated
    between these.

    Parameters
    ----------
    share : float array of shape (n_voxels,)
        π, the share of the signal in the variance.
    growth : float array of shape (n_voxels,)
        g, by how much log h grows per SD of the signal; `MOST_GROWTH` at most.

    Returns
    -------
    float32 array of shape (n_wide, n_voxels)
    """
    table = _scores_by_share_and_growth()
    last = np.array(table.shape[:2]) - 1
    angle = np.arcsin(np.sqrt(np.clip(share, 0, 1))) / (np.pi / 2) * last[0]
    grown = (np.clip(growth / MOST_GROWTH, -1, 1) + 1) / 2 * last[1]
    i, j = (np.minimum(x.astype(int), n - 1) for x, n in zip((angle, grown), last, strict=True))
    right, up = (angle - i).astype(np.float32), (grown - j).astype(np.float32)
    scores = table[i, j].T * ((1 - right) * (1 - up))
    scores += table[i + 1, j].T * (right * (1 - up))
    scores += table[i, j + 1].T * ((1 - right) * up)
    scores += table[i + 1, j + 1].T * (right * up)
    return np.ascontiguousarray(scores)


@cache
def _scores_by_share_and_growth() -> NDArray[np.float32]:
    """G by the angle whose sine is √π, by g, and by node: (n_shares, n_growths, n_wide)."""
    angle = np.linspace(0, np.pi / 2, N_SHARES)[:, None, None]
    g = np.linspace(-MOST_GROWTH, MOST_GROWTH, N_GROWTHS)[:, None]
    signal, noise = np.sin(angle), np.maximum(np.cos(angle), LEAST_NOISE)
    nodes = np.linspace(-6, 6, N_QUADRATURE)
    weights = np.exp(-(nodes**2) / 2)
    below = np.zeros((N_SHARES, N_GROWTHS, len(WIDE)))
    for z, weight in zip(nodes, weights / weights.sum(), strict=True):
        below += weight * ndtr((WIDE - signal * z) / (noise * np.exp(g * z / 2 - g**2 / 4)))
    table = ndtri(np.clip(below, 1e-12, 1 - 1e-12))
    table[-1] = WIDE  # nothing but signal
    return table.astype(np.float32)


def bend(curve: np.ndarray, t: np.ndarray) -> np.ndarray:
    """Q of (n, n_voxels), by linear interpolation between `NODES`; or C, between `WIDE`."""
    nodes = _nodes_of(curve)
    position = (t - nodes[0]) / (nodes[1] - nodes[0])
    j = position.astype(np.int32)
    np.clip(j, 0, len(nodes) - 2, out=j)
    part = position - j
    j *= t.shape[1]
    j += np.arange(t.shape[1], dtype=np.int32)
    below = np.take(curve, j)
    j += t.shape[1]
    bent = below + (np.take(curve, j) - below) * np.clip(part, 0, 1, out=part)
    beyond = np.abs(t) > nodes[-1]
    if beyond.any():
        far, (low, high) = t[beyond], _slopes_beyond(curve)
        voxel = np.nonzero(beyond)[1]
        bent[beyond] += low[voxel] * np.minimum(far - nodes[0], 0)
        bent[beyond] += high[voxel] * np.maximum(far - nodes[-1], 0)
    return bent


def _nodes_of(curve: np.ndarray) -> NDArray[np.float32]:
    """Nodes of Q, or of C."""
    return NODES if len(curve) == len(NODES) else WIDE


def _slopes_beyond(curve: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Slopes below the first node and above the last (n_voxels,): 1 of Q, of C those next to them.

    Next to its last nodes Q is that of a few trials; C bends a sum whose shape is known.
    """
    if len(curve) == len(NODES):
        return (np.ones_like(curve[0]),) * 2
    step = WIDE[1] - WIDE[0]
    return (curve[1] - curve[0]) / step, (curve[-1] - curve[-2]) / step


def unbend(curve: np.ndarray, values: np.ndarray) -> tuple[Array, Array]:
    """Invert Q or C, with slopes of `LEAST_SLOPE` at least.

    Parameters
    ----------
    curve : array of shape (n_nodes, n_voxels)
        At `NODES` or at `WIDE`.
    values : array of shape (n, n_voxels)

    Returns
    -------
    t : float64 array of shape (n, n_voxels)
        Where Q is ``values``.
    log_slope : float64 array of shape (n, n_voxels)
        Log of the slope of Q there.
    """
    nodes = _nodes_of(curve).astype(np.float64)
    steps = np.maximum(
        np.diff(curve.astype(np.float64), axis=0), LEAST_SLOPE * np.diff(nodes)[:, None]
    )
    # Steps that were made steeper move the curve: its middle stays where it is.
    heights = np.concatenate([np.zeros((1, curve.shape[1])), np.cumsum(steps, axis=0)])
    middle = len(nodes) // 2
    heights += curve[middle] - heights[middle]
    below = (values[None] >= heights[1:-1, None]).sum(0)  # interval of each value, 0 … n_nodes − 2
    voxel = np.arange(curve.shape[1])
    width = nodes[1] - nodes[0]
    slope = steps[below, voxel] / width
    t = nodes[below] + (values - heights[below, voxel]) / slope
    low, high = heights[0], heights[-1]
    before, after = _slopes_beyond(heights)
    under, over = values < low, values > high
    t = np.where(under, nodes[0] + (values - low) / before, t)
    t = np.where(over, nodes[-1] + (values - high) / after, t)
    return t, np.log(np.where(under, before, np.where(over, after, slope)))
