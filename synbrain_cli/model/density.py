r"""The density of recorded trials under the response distribution, jointly over voxels.

Of trial k of an image, :math:`t_k = Q^{-1}\big((y_k - m) / s\big)` is normal
(`synbrain_cli.model.readout`), so that

.. math:: \log p(y_1 \dots y_n) = \log N(t_1 \dots t_n)
    - \sum_{kv} \big( \log s_v + \log Q_v'(t_{kv}) \big)

With :math:`U = \mathrm{cov}(u) / (s s^\top)` and :math:`E = \sqrt{h h^\top}\, \mathrm{cov}(e) / (s
s^\top)`, repeats have the covariance U + E with themselves and U with one another. Orthonormal
contrasts make them independent: :math:`\sqrt n\, \bar t` has the covariance :math:`n U + E`, and
the n − 1 others have E. Every one of these is low-rank plus private; with W the loadings and D
the private variances, nothing of voxels × voxels is formed (Woodbury and the determinant lemma):

.. math:: (W W^\top + D)^{-1} = D^{-1} - D^{-1} W M^{-1} W^\top D^{-1}, \quad
    \log |W W^\top + D| = \log |M| + \log |D|, \quad M = I + W^\top D^{-1} W

The density of a trial given the *other* repeats of its image is the density of all less that of the
others: what Bayes' rule makes of u once the others are known.

Q is inverted with slopes of `synbrain_cli.model.curve.LEAST_SLOPE` at least. Where recordings are
counts, Q has steps, and a density could otherwise be as large as one likes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve

from synbrain_cli.errors import InputError
from synbrain_cli.model.curve import unbend
from synbrain_cli.model.readout import Readout

LEAST_PRIVATE = 1e-6  # private variance of a voxel, of its whole variance: below it, singular

Array = NDArray[np.float64]


@dataclass(frozen=True)
class _Normal:
    """A centred normal distribution of covariance ``loadings @ loadings.T + diag(private)``.

    Loadings are float32 (n_voxels, rank), and so are products over voxels, which is twice as fast:
    of 15,724 voxels, the log density is then right to a hundredth of a nat. ``private`` are
    variances, float64 (n_voxels,).
    """

    loadings: NDArray[np.float32]
    private: Array

    @cached_property
    def _weighed(self) -> NDArray[np.float32]:
        return np.divide(self.loadings, self.private[:, None], dtype=np.float32)

    @cached_property
    def _factor(self) -> tuple[Array, bool]:
        inner = (self.loadings.T @ self._weighed).astype(np.float64)
        inner[np.diag_indices_from(inner)] += 1
        return cho_factor(inner, lower=True)

    @cached_property
    def _log_determinant(self) -> float:
        shared = 2 * np.log(np.diag(self._factor[0])).sum() if self.loadings.size else 0.0
        return float(shared + np.log(self.private).sum())

    def log_density(self, t: Array) -> Array:
        """Log density, nats, of rows (n, n_voxels): (n,)."""
        distance = (t**2 / self.private).sum(1)
        if self.loadings.size:
            score = (t.astype(np.float32) @ self._weighed).astype(np.float64)
            distance = distance - (score * cho_solve(self._factor, score.T).T).sum(1)
        n_voxels = t.shape[1]
        density: Array = -0.5 * (distance + self._log_determinant + n_voxels * np.log(2 * np.pi))
        return density


class TrialDensity:
    """The density of single trials of one image.

    Parameters
    ----------
    readout : Readout
        Of the image (`Readout.of_image`).
    mean : float32 array of shape (n_voxels,)
        m.
    """

    def __init__(self, readout: Readout, mean: np.ndarray) -> None:
        self._readout, self._mean = readout, mean.astype(np.float64)
        h = readout.relative_noise_variance(self._mean)
        self._scale = readout.scale(h)
        signal, noise, gain = readout.signal, readout.noise, np.sqrt(h) / self._scale
        parts = (signal, 1 / self._scale), (noise, gain)
        self._of_signal, self._of_noise = (
            (part.loadings * by[:, None].astype(np.float32), (part.private * by) ** 2)
            for part, by in parts
        )
        self._known: dict[int, _Normal] = {}

    def log_density(self, trials: np.ndarray) -> Array:
        """Return the log density of each trial, whatever the others are.

        Parameters
        ----------
        trials : float array of shape (n_trials, n_voxels)
            Standardised, as the readout was fitted.

        Returns
        -------
        float64 array of shape (n_trials,)
            Nats.
        """
        t, jacobian = self._normal(trials)
        return self._of_repeats(1).log_density(t) + jacobian

    def log_joint(self, trials: np.ndarray) -> float:
        """Return the log density of all repeats of the image together, in nats.

        ``trials`` are as in `log_density`.
        """
        t, jacobian = self._normal(trials)
        return self._log_joint(t) + float(jacobian.sum())

    def log_density_given_others(self, trials: np.ndarray) -> Array:
        """Return the log density of each repeat given the other repeats of the image.

        Parameters
        ----------
        trials : float array of shape (n_trials, n_voxels)
            Two or more.

        Returns
        -------
        float64 array of shape (n_trials,)
            Nats.
        """
        n = len(trials)
        if n < 2:
            raise InputError(f"the density given other repeats: expected two repeats, found {n}")
        t, jacobian = self._normal(trials)
        together = self._log_joint(t)
        others = [self._log_joint(np.delete(t, k, axis=0)) for k in range(n)]
        return together - np.array(others) + jacobian

    def _normal(self, trials: np.ndarray) -> tuple[Array, Array]:
        """T of trials, and the log of its Jacobian: (n_trials, n_voxels) and (n_trials,)."""
        standard = (trials - self._mean) / self._scale
        log_scale = np.log(self._scale).sum()
        if self._readout.is_straight:
            return standard, np.full(len(trials), -log_scale)
        t, log_slope = unbend(self._readout.curve, standard)
        return t, -log_slope.sum(1) - log_scale

    def _of_repeats(self, n: int) -> _Normal:
        """Distribution of the mean of n repeats times √n; of their differences, where n is 0."""
        if n not in self._known:
            (signal, own), (noise, private) = self._of_signal, self._of_noise
            loadings = np.hstack([np.float32(np.sqrt(n)) * signal, noise]) if n else noise
            variance = n * own + private
            shared = np.square(loadings).sum(1, dtype=np.float64)
            least = LEAST_PRIVATE * (variance + shared) + 1e-24
            self._known[n] = _Normal(loadings, np.maximum(variance, least))
        return self._known[n]

    def _log_joint(self, t: Array) -> float:
        n = len(t)
        mean = t.mean(0)
        total = self._of_repeats(n).log_density(np.sqrt(n) * mean[None])[0]
        if n > 1:
            total += self._of_repeats(0).log_density(_contrasts(t)).sum()
        return float(total)


def _contrasts(t: Array) -> Array:
    """Orthonormal contrasts among rows (Helmert): (n − 1, n_voxels)."""
    k = np.arange(1, len(t))[:, None]
    contrasts: Array = (np.cumsum(t[:-1], axis=0) - k * t[1:]) / np.sqrt(k * (k + 1))
    return contrasts
