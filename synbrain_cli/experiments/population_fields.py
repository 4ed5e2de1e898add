r"""Population receptive fields, fitted to responses to apertures.

The response of a voxel to an aperture s, 1 where there is contrast and 0 elsewhere, is (Dumoulin &
Wandell 2008, *NeuroImage* 39:647; with the exponent, Kay et al. 2013, *Journal of Neurophysiology*
110:481)

.. math:: r(s) = a \Big( \sum_p g(p)\, s(p) \Big)^n + b, \qquad a \ge 0,

for a Gaussian g with its centre at (x, y), the SD σ and the sum 1 over the plane. The size of the
field is :math:`\sigma / \sqrt n`, as in Kay et al. A grid of centres, SDs and exponents is searched
for the largest correlation; the centre and the SD are then refined by damped Gauss–Newton steps, in
which a and b are solved for (variable projection; Kaufman 1975, *BIT* 15:49).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from synbrain_cli.experiments.mapping_stimuli import grid_positions
from synbrain_cli.progress import UNSEEN, Share

Array = NDArray[np.float64]
CENTRES = np.linspace(-1.2, 1.2, 25)  # half-widths of the picture
SDS = (0.06, 0.1, 0.17, 0.28, 0.45, 0.7)
EXPONENTS = (0.25, 0.5, 1.0)
LEAST_SD, MOST_SD, FARTHEST = 0.03, 2.0, 2.0  # half-widths
STEPS = 12
VOXELS = 256  # that are computed together
COARSE = 32  # cells of an aperture's side in the fit


@dataclass(frozen=True)
class PopulationFields:
    """Population receptive fields of voxels, in half-widths of the picture.

    Attributes
    ----------
    x, y : float arrays of shape (n_voxels,)
        Centre: to the right, upwards.
    sd, exponent : float arrays of shape (n_voxels,)
    gain, baseline : float arrays of shape (n_voxels,)
        a and b, in the unit of the responses.
    r2 : float array of shape (n_voxels,)
        Share of the variance over apertures that the fit explains; 0 of voxels that do not vary.
    """

    x: Array
    y: Array
    sd: Array
    exponent: Array
    gain: Array
    baseline: Array
    r2: Array

    @property
    def size(self) -> Array:
        """SD over the root of the exponent (Kay et al. 2013)."""
        return self.sd / np.sqrt(self.exponent)

    @property
    def eccentricity(self) -> Array:
        """Distance of the centre from that of the picture, where the eyes rest."""
        return np.hypot(self.x, self.y)

    @property
    def angle(self) -> Array:
        """Polar angle of the centre, degrees from 0 to 360: right 0, up 90, left 180, down 270."""
        return np.rad2deg(np.arctan2(self.y, self.x)) % 360

    def predict(self, masks: NDArray[np.float32]) -> Array:
        """Return responses to apertures (n, side, side): (n, n_voxels)."""
        theta = np.stack([self.x, self.y, np.log(self.sd)])
        seen = _Seen.through(_coarse(masks), theta).overlap
        return self.gain * seen**self.exponent + self.baseline


def fit_population_fields(
    masks: NDArray[np.float32], responses: NDArray[np.floating], share: Share = UNSEEN
) -> PopulationFields:
    """Fit every voxel.

    Parameters
    ----------
    masks : float32 array of shape (n_apertures, side, side)
        Rows from the top, in a multiple of `COARSE` cells a side.
    responses : float array of shape (n_apertures, n_voxels)
    share : Share
        Of a task whose progress is shown.
    """
    coarse = _coarse(masks)
    theta = np.array(
        [(x, y, np.log(sd)) for sd, y, x in product(SDS, CENTRES, CENTRES)], np.float64
    ).T
    seen = _Seen.through(coarse, theta).overlap
    candidates = [_unit(seen**n) for n in EXPONENTS]
    found = []
    for start in share.over(range(0, responses.shape[1], VOXELS)):
        own = responses[:, start : start + VOXELS].astype(np.float64)
        n_voxels, unit = own.shape[1], _unit(own)
        best, at = np.full(n_voxels, -np.inf), np.zeros(n_voxels, int)
        exponent = np.ones(n_voxels)
        for n, candidate in zip(EXPONENTS, candidates, strict=True):
            r = candidate.T @ unit
            top = r.argmax(0)
            value = np.take_along_axis(r, top[None], 0)[0]
            better = value > best
            best[better], at[better], exponent[better] = value[better], top[better], n
        found.append(_refine(coarse, own, theta[:, at], exponent))
    return PopulationFields(*np.concatenate(found, 1))


def _coarse(masks: NDArray[np.float32]) -> Array:
    """Apertures averaged over cells of a grid of `COARSE` a side: (n, COARSE²)."""
    n, side, _ = masks.shape
    cell = side // COARSE
    return masks.reshape(n, COARSE, cell, COARSE, cell).mean((2, 4), np.float64).reshape(n, -1)


def _unit(values: Array) -> Array:
    """Columns of mean 0 and length 1; of 0 where they do not vary."""
    centred = values - values.mean(0)
    length = np.sqrt((centred**2).sum(0))
    return centred / np.where(length > 1e-12, length, np.inf)


@dataclass(frozen=True)
class _Seen:
    """Overlap of Gaussian fields with apertures, and its derivatives by x, y and log SD.

    Attributes
    ----------
    overlap : float64 array of shape (n_apertures, n_fields)
        From 0 to 1.
    slopes : sequence of arrays of the same shape
    """

    overlap: Array
    slopes: Sequence[Array]

    @classmethod
    def through(cls, coarse: Array, theta: Array, slopes: bool = False) -> _Seen:
        """Compute for fields theta (3, n_fields): x, y, log SD."""
        across, up = (p.ravel()[:, None] for p in grid_positions(COARSE))
        dx, dy, variance = across - theta[0], up - theta[1], np.exp(2 * theta[2])
        distance = dx**2 + dy**2
        cell = (2 / COARSE) ** 2
        field = np.exp(-distance / (2 * variance)) * (cell / (2 * np.pi * variance))
        overlap = np.clip(coarse @ field, 1e-9, 1)
        if not slopes:
            return cls(overlap, ())
        by = (dx / variance, dy / variance, distance / variance - 2)
        return cls(overlap, [coarse @ (field * one) for one in by])


def _refine(coarse: Array, responses: Array, theta: Array, exponent: Array) -> Array:
    """Refine fields, and return the attributes of `PopulationFields`: (7, n_voxels)."""
    damping = np.full(theta.shape[1], 1e-2)
    theta = theta.copy()
    seen = _Seen.through(coarse, theta, slopes=True)
    r = _correlation(seen.overlap**exponent, responses)
    for _ in range(STEPS):
        step = _step(seen, responses, exponent, damping)
        trial = theta + step
        trial[:2] = np.clip(trial[:2], -FARTHEST, FARTHEST)
        trial[2] = np.clip(trial[2], np.log(LEAST_SD), np.log(MOST_SD))
        new = _Seen.through(coarse, trial, slopes=True)
        found = _correlation(new.overlap**exponent, responses)
        better = found > r
        theta[:, better], r[better] = trial[:, better], found[better]
        damping = np.where(better, damping / 3, damping * 4)
        overlap = np.where(better, new.overlap, seen.overlap)
        slopes = [np.where(better, b, a) for a, b in zip(seen.slopes, new.slopes, strict=True)]
        seen = _Seen(overlap, slopes)
    p = seen.overlap**exponent
    centred = p - p.mean(0)
    power = (centred**2).sum(0)
    gain = (centred * responses).sum(0) / np.where(power > 1e-12, power, np.inf)
    gain = np.maximum(gain, 0)
    baseline = responses.mean(0) - gain * p.mean(0)
    return np.stack([*theta[:2], np.exp(theta[2]), exponent, gain, baseline, np.maximum(r, 0) ** 2])


def _correlation(predicted: Array, responses: Array) -> Array:
    return (_unit(predicted) * _unit(responses)).sum(0)


def _step(seen: _Seen, responses: Array, exponent: Array, damping: Array) -> Array:
    """Damped Gauss–Newton step of x, y and log SD, with gain and baseline solved for."""
    p = seen.overlap**exponent
    unit = _unit(p)
    centred = responses - responses.mean(0)
    length = np.sqrt(((p - p.mean(0)) ** 2).sum(0))
    gain = (unit * centred).sum(0) / np.where(length > 1e-12, length, np.inf)
    left = centred - unit * (unit * centred).sum(0)
    jacobian = []
    for slope in seen.slopes:
        change = gain * exponent * seen.overlap ** (exponent - 1) * slope
        change = change - change.mean(0)
        jacobian.append(change - unit * (unit * change).sum(0))
    j = np.stack(jacobian, 1)  # (n_apertures, 3, n_voxels)
    normal = np.einsum("apv,aqv->vpq", j, j)
    against = np.einsum("apv,av->vp", j, left)
    size = np.einsum("vpp->vp", normal)
    diagonal = damping[:, None] * np.maximum(size, 1e-12)
    normal[:, range(3), range(3)] += diagonal
    step = np.linalg.solve(normal, against[..., None])[..., 0].T
    return np.clip(step, -0.3, 0.3)
