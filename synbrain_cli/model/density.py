r"""The density of recorded trials under the response distribution, jointly over voxels.

Of trial k of an image, :math:`t_k = C^{-1}\big((y_k - m) / s\big)` is the sum of u and √h·e in
units of s (`synbrain_cli.model.readout`), so that

.. math:: \log p(y_1 \dots y_n) = \log p(t_1 \dots t_n)
    - \sum_{kv} \big( \log s_v + \log C_v'(t_{kv}) \big)

**Where noise does not depend on u**, t is normal. With :math:`U = \mathrm{cov}(u) / (s s^\top)` and
:math:`E = \sqrt{h h^\top}\, \mathrm{cov}(e) / (s s^\top)`, repeats have the covariance U + E with
themselves and U with one another. Orthonormal contrasts make them independent:
:math:`\sqrt n\, \bar t` has the covariance :math:`n U + E`, and the n − 1 others have E. Every one
of these is low-rank plus private; with W the loadings and D the private variances, nothing of
voxels × voxels is formed (Woodbury and the determinant lemma):

.. math:: (W W^\top + D)^{-1} = D^{-1} - D^{-1} W M^{-1} W^\top D^{-1}, \quad
    \log |W W^\top + D| = \log |M| + \log |D|, \quad M = I + W^\top D^{-1} W

**Where it does**, u is integrated out (`synbrain_cli.model.signal_integral`).

The density of a trial given the *other* repeats of its image is the density of all less that of the
others: what Bayes' rule makes of u once the others are known.

C is inverted with slopes of `synbrain_cli.model.curve.LEAST_SLOPE` at least. Where recordings are
counts, it has steps, and a density could otherwise be as large as one likes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from synbrain_cli.errors import InputError
from synbrain_cli.model.curve import unbend
from synbrain_cli.model.low_rank_density import LowRankDensity
from synbrain_cli.model.readout import Readout
from synbrain_cli.model.signal_integral import SignalIntegral

Array = NDArray[np.float64]


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
        self._curve = readout.curve_of_sum(h)
        gain = np.sqrt(h) / self._scale
        self._signal = LowRankDensity.of(readout.signal, 1 / self._scale)
        self._noise = LowRankDensity.of(readout.noise, gain)
        self._known: dict[int, LowRankDensity] = {}
        self._integral: SignalIntegral | None = None
        if readout.depends_on_signal:
            growth = readout.growth.astype(np.float64) * self._scale
            self._integral = SignalIntegral(self._signal, self._noise, growth)

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
        t, jacobian = self._unbent(trials)
        if self._integral is None:
            return self._of_repeats(1).log_density(t) + jacobian
        return np.array([self._integral.log_density(own[None]) for own in t]) + jacobian

    def log_joint(self, trials: np.ndarray) -> float:
        """Return the log density of all repeats of the image together, in nats.

        ``trials`` are as in `log_density`.
        """
        t, jacobian = self._unbent(trials)
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
        t, jacobian = self._unbent(trials)
        together = self._log_joint(t)
        others = [self._log_joint(np.delete(t, k, axis=0)) for k in range(n)]
        return together - np.array(others) + jacobian

    def _unbent(self, trials: np.ndarray) -> tuple[Array, Array]:
        """Return t of trials, and the log of its Jacobian: (n_trials, n_voxels) and (n_trials,)."""
        standard = (trials - self._mean) / self._scale
        log_scale = np.log(self._scale).sum()
        if self._readout.is_straight:
            return standard, np.full(len(trials), -log_scale)
        t, log_slope = unbend(self._curve, standard)
        return t, -log_slope.sum(1) - log_scale

    def _of_repeats(self, n: int) -> LowRankDensity:
        """Distribution of the mean of n repeats times √n; of their differences, where n is 0."""
        if n not in self._known:
            self._known[n] = self._noise.plus(self._signal, n) if n else self._noise
        return self._known[n]

    def _log_joint(self, t: Array) -> float:
        if self._integral is not None:
            return self._integral.log_density(t)
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
