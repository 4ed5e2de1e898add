r"""Variance components: how much of what the mean leaves repeats with the image, and how much not.

Residuals of trial k of image i are :math:`r_{ik} = u_i + e_{ik}`, n the repeats of an image and a
bar for their average. The classical estimates of a one-way design with random effects (Searle,
Casella & McCulloch 1992, *Variance Components*, chapter 3) are, for each voxel,

.. math:: \sigma_e^2 = \frac{\sum_{ik} (r_{ik} - \bar r_i)^2}{\sum_i (n_i - 1)}, \qquad
    \sigma_u^2 = \frac1I \sum_i \Big( \bar r_i^2 - \frac{\sigma_e^2}{n_i} \Big)

Their precision is that of their degrees of freedom: repeats within images, D = Σ(n − 1), and images
I. An estimate of d degrees of freedom has a relative standard error of √(2/d).

Few repeats say little of a voxel's noise, while its total variance T and what the predictions
explain of it, of all images, are known well; and the more of a voxel is explained, the less of it
is noise.

- `ENOUGH` images or more were repeated: the share of the noise in T is shrunk, by empirical Bayes,
  towards a regression over voxels on the explained share and on the regions (ours). With many
  repeats the estimates of voxels remain nearly what they are.
- Fewer, but some: noise and signal are pooled towards their means over voxels.
- No image was repeated: nothing tells the two apart.

Shrunk estimates keep the spread over voxels that remains when that of their errors is taken off
(constrained empirical Bayes: Louis 1984, *JASA* 79:393), so that they vary over voxels as the truth
does.

The pooled share of the noise has a 95 % interval by the jackknife over images, which says how sure
the separation is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array
from scipy.stats import chi2, t

from synbrain_cli.groups import Groups, independent_parts
from synbrain_cli.model.covariance import Term
from synbrain_cli.model.principal import principal_components
from synbrain_cli.progress import UNSEEN, Share

VOXELS = 256  # whose sums are taken together
N_PATTERNS = 32  # of predicted responses, along which variances are measured
MOST_IMAGES = 2_000  # from whose predictions these are found: more change them little
LEAST_VARIED = 1e-6  # SDs of responses: predictions that vary less have no pattern
ENOUGH = 10  # repeated images from which on each voxel has its own estimates (ours)
LEAST_VOXELS = 20  # of a regression over voxels (ours)
RIDGES = np.logspace(-1, 4, 11)  # penalties of regions, of which one is chosen


@dataclass(frozen=True)
class Separation:
    """How unexplained signal was told from trial noise, and how surely.

    Attributes
    ----------
    repeats : int
        Degrees of freedom within images: trials beyond the first of each image.
    repeated : int
        Images shown twice or more.
    images : int
        Images shown: degrees of freedom between images.
    noise_share : float
        Share of the noise in the variance of residuals of single trials, pooled over voxels.
    interval : pair of float
        95 % interval of that share.
    """

    repeats: int
    repeated: int
    images: int
    noise_share: float
    interval: tuple[float, float]

    @property
    def possible(self) -> bool:
        """Whether the two can be told apart: some image was repeated, and another image shown."""
        return self.repeats > 0 and self.images > 1

    @property
    def by_voxel(self) -> bool:
        """Whether there are repeats enough for every voxel's own estimates."""
        return self.repeated >= ENOUGH


@dataclass(frozen=True)
class Contrasts:
    r"""Orthogonal contrasts among the repeats of each image (Helmert), as a term of a moment.

    An image of n repeats has n − 1 rows, :math:`(\sum_{j<k} y_j - k\, y_k) / \sqrt{k (k + 1)}` for
    k = 1 … n − 1 from the second repeat on. The sum of their outer products is that of the n
    deviations from the image's average, whatever is predicted for it.

    Attributes
    ----------
    sign : float
    trials : float32 array of shape (n_trials, n_voxels)
    image : int array of shape (n_trials,)
    """

    sign: float
    trials: np.ndarray
    image: np.ndarray

    def of(self, inside: NDArray[np.bool_]) -> NDArray[np.float32]:
        """Contrasts of some images: float32 (n_contrasts, n_voxels)."""
        chosen = np.flatnonzero(inside[self.image])
        chosen = chosen[np.argsort(self.image[chosen], kind="stable")]
        _, starts, counts = np.unique(self.image[chosen], return_index=True, return_counts=True)
        rows = np.empty(((counts - 1).sum(), self.trials.shape[1]), np.float32)
        filled = 0
        for count in np.unique(counts[counts > 1]):
            first = starts[counts == count]
            total = self.trials[chosen[first]]
            for k in range(1, count):
                repeat = self.trials[chosen[first + k]]
                own = rows[filled : filled + len(first)]
                np.subtract(total, np.float32(k) * repeat, out=own)
                own /= np.float32(np.sqrt(k * (k + 1)))
                total += repeat
                filled += len(first)
        return rows


@dataclass(frozen=True)
class _Residuals:
    """Residuals of single trials, as a term of a moment."""

    sign: float
    trials: np.ndarray
    image: np.ndarray
    means: np.ndarray

    def of(self, inside: NDArray[np.bool_]) -> NDArray[np.float32]:
        chosen = np.flatnonzero(inside[self.image])
        return (self.trials[chosen] - self.means[self.image[chosen]]).astype(np.float32)


@dataclass(frozen=True)
class _Averages:
    """Average residuals of images, each times a factor, as a term of a moment."""

    sign: float
    average: np.ndarray
    factor: np.ndarray

    def of(self, inside: NDArray[np.bool_]) -> NDArray[np.float32]:
        rows: NDArray[np.float32] = self.average[inside]
        rows *= self.factor[inside, None].astype(np.float32)
        return rows


class Measured(NamedTuple):
    """Variances of sums over voxels.

    Attributes
    ----------
    variance : float64 array of shape (n_sums,)
    error : float64 array of shape (n_sums,)
        Its standard error over images, or over groups of images: of a ratio of sums.
    """

    variance: NDArray[np.float64]
    error: NDArray[np.float64]

    @classmethod
    def of(
        cls,
        of_images: NDArray[np.float64],
        weight: NDArray[np.floating],
        groups: Groups | None = None,
    ) -> Measured:
        """Average over images what they say (n_images, n_sums): a variance times its weight."""
        variance = of_images.sum(0) / weight.sum()
        apart = of_images - weight[:, None] * variance
        parts = independent_parts(len(apart), groups)
        of_parts = np.array([apart[part].sum(0) for part in parts])
        return cls(variance, np.sqrt(np.square(of_parts).sum(0)) / weight.sum())


class SumComponents(NamedTuple):
    """Variances of sums over voxels, of signal and noise."""

    signal: Measured
    noise: Measured


class VarianceComponents:
    """Noise and unexplained signal of every voxel, from residuals of single trials.

    Nothing as large as the trials is made: sums over trials are taken in float64, some voxels at a
    time, and what is kept of each image is in float32.

    Parameters
    ----------
    trials : float32 array of shape (n_trials, n_voxels)
    image_index : int array of shape (n_trials,)
    means : float32 array of shape (n_images, n_voxels)
        Predictions; residuals are trials less these.
    regions : sequence of bool arrays of shape (n_voxels,)
    share : Share
        Of a task whose progress is shown.
    groups : int array of shape (n_images,), optional
        Groups of images, which are not independent within them.

    Attributes
    ----------
    n_repeats : int array of shape (n_images,)
    average : float32 array of shape (n_images, n_voxels)
        Residuals averaged over repeats; 0 for images that were not shown.
    separable : bool
        Whether an image was repeated, and another shown.
    degrees : float array of shape (n_images,)
        Degrees of freedom of each image in what the noise is estimated from: deviations of trials
        from the average of their image; where nothing can be told apart, residuals.
    within : float32 array of shape (n_images, n_voxels)
        Sums of their squares by image.
    noise, signal : float64 arrays of shape (n_voxels,)
        Variances of trial noise and of unexplained signal. Where nothing can be told apart, all is
        noise.
    """

    def __init__(
        self,
        trials: np.ndarray,
        image_index: np.ndarray,
        means: np.ndarray,
        regions: Sequence[NDArray[np.bool_]] = (),
        share: Share = UNSEEN,
        groups: Groups | None = None,
    ) -> None:
        self._trials, self._index, self._means = trials, image_index, means
        self._regions, self._groups = regions, groups
        n_images, n_voxels = means.shape
        self.n_repeats = np.bincount(image_index, minlength=n_images)
        self.separable = bool((self.n_repeats > 1).any() and (self.n_repeats > 0).sum() > 1)
        self.degrees = np.maximum(self.n_repeats - float(self.separable), 0)
        self.average, self.within = np.empty((2, n_images, n_voxels), np.float32)
        # Of each image, means over voxels: what the separation rests on
        self._within_of_image, self._square_of_image = np.zeros((2, n_images))
        self.noise, self._square, self._total, self._left = np.empty((4, n_voxels))
        for start in share.over(range(0, n_voxels, VOXELS)):
            self._sum(slice(start, start + VOXELS))
        self._within_of_image /= n_voxels
        self._square_of_image /= n_voxels
        self.signal = np.zeros(n_voxels)
        if self.separable:
            self._estimate()

    def _sum(self, some: slice) -> None:
        """Sum over the trials of each image, within some voxels."""
        index, n_images = self._index, len(self._means)
        repeats = self.n_repeats[:, None]
        block = self._trials[:, some].astype(np.float64)
        recorded = sum_by_image(block, index, n_images) / np.maximum(repeats, 1)
        self._total[some] = block.var(0)
        average = np.where(repeats > 0, recorded - self._means[:, some], 0)
        block -= recorded[index]
        within = sum_by_image(np.square(block, out=block), index, n_images)
        if not self.separable:
            within += repeats * average**2
        self.average[:, some], self.within[:, some] = average, within
        self.noise[some] = within.sum(0) / self.degrees.sum()
        around = repeats * average**2 if self.separable else 0
        self._left[some] = (within + around).sum(0) / len(index)
        square = average**2
        self._square[some] = square.sum(0) / (self.n_repeats > 0).sum()
        self._within_of_image += within.sum(1)
        self._square_of_image += square.sum(1)

    def noise_terms(self) -> list[Term]:
        """Second moment of the noise; its weights are ``degrees``."""
        if self.separable:
            return [Contrasts(1.0, self._trials, self._index)]
        return [_Residuals(1.0, self._trials, self._index, self._means)]

    def signal_terms(self) -> list[Term]:
        r"""Second moment of the signal: products of different repeats; weights n (n − 1).

        :math:`\sum_{k \ne l} r_k r_l^\top = n (n - 1)\, \bar r \bar r^\top` less the sum of the
        outer products of deviations.
        """
        factor = np.sqrt(self.n_repeats * (self.n_repeats - 1.0))
        return [_Averages(1.0, self.average, factor), Contrasts(-1.0, self._trials, self._index)]

    @cached_property
    def sums(self) -> NDArray[np.float32]:
        """Sums over voxels whose variances are measured: weights (n_sums, n_voxels).

        Means over regions, and the leading principal components of the predictions over images:
        what is not predicted, and noise, vary along them more than along others.
        """
        n_voxels = self._means.shape[1]
        regions = [region / region.sum() for region in self._regions]
        some = self._means[:: -(-len(self._means) // MOST_IMAGES)]
        centred = np.ascontiguousarray(some - some.mean(0, dtype=np.float64), np.float32)
        patterns = np.empty((0, n_voxels))
        most = min(N_PATTERNS, n_voxels // 2, len(some) - 1)
        if most > 0 and np.abs(centred).max() > LEAST_VARIED:
            patterns = principal_components(centred, most).axes.T
        return np.concatenate([np.reshape(regions, (-1, n_voxels)), patterns]).astype(np.float32)

    @property
    def is_pattern(self) -> NDArray[np.bool_]:
        """Which of `sums` are along patterns of the predictions: bool (n_sums,)."""
        return np.arange(len(self.sums)) >= len(self._regions)

    @cached_property
    def of_sums(self) -> SumComponents:
        """Variances of `sums`, from products of the same and of different repeats."""
        weights = self.sums.T
        index, n_images, n = self._index, len(self._means), self.n_repeats
        of_trials = (self._trials @ weights - (self._means @ weights)[index]).astype(np.float64)
        total = sum_by_image(of_trials, index, n_images)
        squares = sum_by_image(of_trials**2, index, n_images)
        within = squares - total**2 / np.maximum(n, 1)[:, None] if self.separable else squares
        noise = Measured.of(within, self.degrees, self._groups)
        signal = Measured(*np.zeros((2, len(self.sums))))
        if (n > 1).sum() >= ENOUGH:
            signal = Measured.of(total**2 - squares, n * (n - 1.0), self._groups)
        return SumComponents(signal, noise)

    def _estimate(self) -> None:
        """Estimate the signal, and shrink both."""
        shown = self.n_repeats > 0
        counts = self.n_repeats[shown]
        signal = self._square - self.noise * (1 / counts).mean()
        if (counts > 1).sum() < ENOUGH:
            # E s² = (1 + 2/d) σ⁴ of an estimate s of d degrees of freedom, of variance 2 σ⁴/d
            error_noise = 2 / (self.degrees.sum() + 2) * (self.noise**2).mean()
            level = max(signal.mean(), 0.0) + self.noise.mean() / counts
            error = 2 / len(counts) * (level**2).mean() + (1 / counts).mean() ** 2 * error_noise
            self.noise = np.maximum(pool(self.noise, error_noise), 0)
            signal = pool(signal, error)
        elif len(self.noise) >= LEAST_VOXELS:
            explained = 1 - _ratio(self._left, self._total)
            own = _ratio(self.noise, self._total)
            share = shrink_noise_share(own, self.degrees.sum(), explained, self._regions)
            self.noise = self._total * np.clip(share, 0, 1 - explained)
            signal = self._square - self.noise * (1 / counts).mean()
        self.signal = np.maximum(signal, 0)

    def separation(self) -> Separation:
        """Return how surely the two were told apart, pooled over voxels."""
        shown = self.n_repeats > 0
        counts = self.n_repeats[shown]
        repeats, repeated = int((counts - 1).sum()), int((counts > 1).sum())
        found = (repeats, repeated, len(counts))
        if not self.separable:
            return Separation(*found, noise_share=1.0, interval=(0.0, 1.0))
        within, square = self._within_of_image[shown], self._square_of_image[shown]
        share = _noise_share(within, square, counts)
        of_shown = None if self._groups is None else self._groups[shown]
        limits = _interval((within, square, counts), share, of_shown)
        return Separation(*found, noise_share=float(np.clip(share, 0, 1)), interval=limits)


def _noise_share(within: np.ndarray, square: np.ndarray, counts: np.ndarray) -> float:
    """Share of the noise, above 1 where the signal's estimate is below 0.

    Parameters: of each image, the sum of squares within and the squared average, over voxels.
    """
    noise = within.sum() / (counts - 1).sum()
    signal = (square - noise / counts).mean()
    # Both together are never less than a noise that repeats of one image alone would show.
    return float(noise / max(noise + signal, 1e-6 * noise, 1e-30))


def _interval(
    of_images: tuple[np.ndarray, np.ndarray, np.ndarray], share: float, groups: Groups | None
) -> tuple[float, float]:
    """95 % interval of the share: jackknife over images (Tukey 1958), t of images − 1.

    Groups of images are left out whole, and count as one each. With one repeated image or group,
    none can be left out: the noise's interval is then that of its degrees of freedom, as if voxels
    varied as one.

    ``of_images`` are what `_noise_share` takes.
    """
    counts = of_images[2]
    parts = independent_parts(len(counts), groups)
    n, repeated = len(parts), np.array([(counts[part] > 1).any() for part in parts])
    if repeated.sum() > 1:
        each = ([np.delete(values, part) for values in of_images] for part in parts)
        left_out = np.array([_noise_share(*some) for some in each])
        error = np.sqrt((n - 1) / n * np.square(left_out - left_out.mean()).sum())
        reach = float(t.ppf(0.975, repeated.sum() - 1) * error)
        low, high = share - reach, share + reach
    else:
        degrees = int((counts - 1).sum())
        low, high = share * degrees / chi2.ppf([0.975, 0.025], degrees)
    return float(np.clip(low, 0, 1)), float(np.clip(high, 0, 1))


def sum_by_image(rows: np.ndarray, image_index: np.ndarray, n_images: int) -> np.ndarray:
    """Sums of rows by image, float64 (n_images, n_voxels)."""
    n_rows = len(rows)
    one = (np.ones(n_rows), (image_index, np.arange(n_rows)))
    total: NDArray[np.float64] = csr_array(one, shape=(n_images, n_rows)) @ rows
    return total


def shrink_noise_share(
    own: NDArray[np.float64],
    degrees: float,
    explained: NDArray[np.float64],
    regions: Sequence[NDArray[np.bool_]],
) -> NDArray[np.float64]:
    """Shrink each voxel's share of noise towards what its explained share and its regions say.

    Parameters
    ----------
    own : float array of shape (n_voxels,)
        Estimates of the voxels' noise, as shares of their total variance.
    degrees : float
        Degrees of freedom of each: its variance is 2 / degrees of its square.
    explained : float array of shape (n_voxels,)
        Share of the total variance that predictions of left-out images explain.
    regions : sequence of bool arrays of shape (n_voxels,)

    Returns
    -------
    float array of shape (n_voxels,)
    """
    from sklearn.linear_model import RidgeCV  # takes a second to import; draws need it not

    line = np.stack([np.ones_like(own), explained], 1)
    expected = line @ np.linalg.lstsq(line, own, rcond=None)[0]
    if len(regions):
        inside = np.stack(regions, 1).astype(float)
        expected += RidgeCV(RIDGES).fit(inside, own - expected).predict(inside)
    error = 2 / (degrees + 2) * expected**2
    left = own - expected
    variance = max(float(np.var(left) - error.mean()), 0.0)
    kept = np.sqrt(_ratio(variance, variance + error))
    return expected + kept * left


def _ratio(above: ArrayLike, below: ArrayLike) -> NDArray[np.float64]:
    """Quotient; 0 where the divisor is 0."""
    above, below = np.broadcast_arrays(np.asarray(above, float), np.asarray(below, float))
    return np.divide(above, below, out=np.zeros(below.shape), where=below > 0)


def pool(estimates: np.ndarray, error: float) -> np.ndarray:
    """Pool estimates (n_voxels,) of one error variance towards their mean (Louis 1984).

    Their variance becomes that of the truth: that of the estimates less that of their errors.
    """
    spread = float(np.var(estimates))
    kept = max(0.0, 1 - error / spread) if spread > 0 else 0.0
    return estimates.mean() + np.sqrt(kept) * (estimates - estimates.mean())
