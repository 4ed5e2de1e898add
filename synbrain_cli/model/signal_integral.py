r"""The density of repeats whose noise depends on the unexplained signal that they share.

Repeats of an image are :math:`t_k = u + d(u) \odot e_k` with u of covariance U, e of covariance E,
and :math:`d_v(u) = \exp(g_v u_v / 2 - g_v^2 U_{vv} / 4)`, so that d² is 1 on average. Their density
is an integral over u,

.. math:: p(t_1 \dots t_n) = \int e^{-f(u)}\, du, \qquad
    f = \tfrac12 u^\top U^{-1} u + \sum_k \tfrac12 w_k^\top E^{-1} w_k + n \sum_v \log d_v +
    \text{const}, \quad w_k = (t_k - u) / d(u),

taken by Laplace's method (MacKay 2003, *Information Theory, Inference, and Learning Algorithms*,
chapter 27): f is replaced by its second-order expansion around its minimum û, which is exact where
g is 0. With :math:`J_k = (1 + g\,(t_k - u) / 2) / d`, its Hessian is

.. math:: U^{-1} + H, \qquad H = \sum_k J_k E^{-1} J_k + \mathrm{diag}(c), \quad
    c = \sum_k \frac{E^{-1} w_k}{d} \odot g \odot \Big(1 + \frac{g\,(t_k - u)}{4} \Big)

û is found in steps with the Hessian of g = 0, whose inverse is known for all trials of an image. As
H is private less low-rank, the determinant :math:`|I + U H|` is one of matrices of the ranks.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve_triangular

from synbrain_cli.model.low_rank_density import LowRankDensity

MOST_STEPS = 30
CLOSE = 1e-3  # nats: a step that gains less is the last
SHORTEST = 1 / 64  # of a step
LEAST_CURVATURE = 1e-6

Array = NDArray[np.float64]


class SignalIntegral:
    """Density of repeats, by integration over the unexplained signal that they share.

    Parameters
    ----------
    signal : LowRankDensity
        u.
    noise : LowRankDensity
        e.
    growth : float array of shape (n_voxels,)
        g, by how much the log of the noise variance grows with u, per unit of u.
    """

    def __init__(self, signal: LowRankDensity, noise: LowRankDensity, growth: Array) -> None:
        self._signal, self._noise, self._growth = signal, noise, growth
        variance = signal.private + np.square(signal.loadings).sum(1, dtype=np.float64)
        self._average = np.square(growth) * variance / 4
        self._of_sum: dict[int, LowRankDensity] = {}

    def log_density(self, t: Array) -> float:
        """Return the log density, in nats, of repeats (n_repeats, n_voxels)."""
        n, n_voxels = t.shape
        z, f = self._minimum(t)
        constant = n * (self._noise.log_determinant + n_voxels * np.log(2 * np.pi))
        return -f - 0.5 * (constant + self._log_determinant(t, self._signal.times(z)))

    def _minimum(self, t: Array) -> tuple[Array, float]:
        """Return :math:`z = U^{-1} û` and f there, but for a constant."""
        n = len(t)
        if n not in self._of_sum:  # of n repeats' mean: U + E / n
            self._of_sum[n] = self._signal.plus(self._noise, 1 / n)
        of_mean = self._of_sum[n]
        z = of_mean.solve(t.mean(0))
        f, pull = self._f(t, z)
        if not np.isfinite(f):  # so far from all that is expected that its noise would be 0
            z = np.zeros_like(z)
            f, pull = self._f(t, z)
        for _ in range(MOST_STEPS):
            signal = self._signal.times(z + pull)
            step, size = of_mean.solve(signal) - pull - z, 1.0
            while True:
                tried = z + size * step
                found, own = self._f(t, tried)
                if found <= f or size <= SHORTEST:
                    break
                size /= 2
            if not found <= f:
                break
            gained, z, f, pull = f - found, tried, found, own
            if gained < CLOSE:
                break
        return z, f

    def _f(self, t: Array, z: Array) -> tuple[float, Array]:
        """Return f at u = U z, and its gradient over u without that of the prior, which is z."""
        u = self._signal.times(z)
        with np.errstate(over="ignore", invalid="ignore"):  # a step too far is made shorter
            w, slope, log_d = self._noise_of(t, u)
            solved = self._noise.solve(w)
            f = 0.5 * float(z @ u) + 0.5 * float((w * solved).sum()) + len(t) * float(log_d.sum())
        pull = len(t) * self._growth / 2 - (slope * solved).sum(0)
        return f, pull

    def _noise_of(self, t: Array, u: Array) -> tuple[Array, Array, Array]:
        """Return w and J of every repeat (n_repeats, n_voxels), and log d (n_voxels,)."""
        log_d = self._growth / 2 * u - self._average
        inverse = np.exp(-log_d)
        left = t - u
        return inverse * left, inverse * (1 + self._growth / 2 * left), log_d

    def _log_determinant(self, t: Array, u: Array) -> float:
        r"""Log of :math:`|I + U H|`.

        With U = L Lᵀ + P and H = A − K Kᵀ, it is :math:`|I + P H|\,|I + L^\top X L|`,
        :math:`X = H (I + P H)^{-1}`; and with :math:`B = (I + P A)^{-1}`,
        :math:`|I + P H| = |I + P A|\,|M|`, :math:`M = I - K^\top P B K`,
        :math:`X = A B + B K M^{-1} K^\top B`, of which K comes with a minus.
        """
        w, slope, log_d = self._noise_of(t, u)
        curved = self._noise.solve(w) * np.exp(-log_d) * self._growth
        own = np.square(slope).sum(0) / self._noise.private
        own += (curved * (1 + self._growth / 4 * (t - u))).sum(0)
        loadings, private = self._signal.loadings, self._signal.private
        factors = [
            row[:, None] * self._noise.precision_loadings for row in slope.astype(np.float32)
        ]
        k = np.concatenate(factors, 1)
        shrunk = 1 / np.maximum(1 + private * own, LEAST_CURVATURE)
        total = -float(np.log(shrunk).sum())
        lowered = shrunk.astype(np.float32)[:, None] * k
        m = _plus_identity(-(k.T @ (private.astype(np.float32)[:, None] * lowered)))
        of_m, root = _positive(m)
        total += of_m
        weighed = (own * shrunk).astype(np.float32)[:, None] * loadings
        crossed = (lowered.T @ loadings).astype(np.float64)
        turned = solve_triangular(root, crossed, lower=True, check_finite=False)
        return total + _positive(_plus_identity(loadings.T @ weighed - turned.T @ turned))[0]


def _plus_identity(matrix: NDArray[np.floating]) -> Array:
    added = matrix.astype(np.float64)
    added[np.diag_indices_from(added)] += 1
    return added


def _positive(matrix: Array) -> tuple[float, Array]:
    """Log determinant and lower root of a matrix that is positive but for rounding.

    Curvature is positive at a minimum; single precision may lose that of its flattest direction.
    """
    try:
        root = np.asarray(np.linalg.cholesky(matrix), np.float64)
    except np.linalg.LinAlgError:
        values, vectors = np.linalg.eigh(matrix)
        upper = vectors.T * np.sqrt(np.maximum(values, LEAST_CURVATURE))[:, None]
        root = np.asarray(np.linalg.qr(upper, mode="r"), np.float64).T
    return 2 * float(np.log(np.abs(np.diag(root))).sum()), root
