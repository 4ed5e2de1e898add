"""Statistics of the agreement between trials and images: chance, paired differences, stretches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from synbrain_cli.evaluation.alignment import Floats, Integers

LEAST_IMAGES = 8  # from which on a standard error over images is estimated
FALSE_ALARM = 1e-3  # of all tests that are made of one session together
# Tests that the best stretch of n independent trials stands for, per (n / its length)²: 8 to 13 at
# p = .001, by 40,000 simulations each of 60, 200 and 1,000 trials.
STRETCHES = 10


def permutation_moments(agreement: NDArray[np.floating]) -> tuple[float, float, float]:
    r"""Sum of a square matrix's diagonal, and its mean and variance when columns are permuted.

    .. math:: E = n \bar c, \qquad V = \frac{1}{n - 1} \sum_{ij}
        (c_{ij} - \bar c_{i\cdot} - \bar c_{\cdot j} + \bar c)^2

    Over all permutations, exactly (Hoeffding 1951, *Annals of Mathematical Statistics* 22:558).

    Parameters
    ----------
    agreement : float array of shape (n_trials, n_trials)
        Of each trial with the image of each trial.
    """
    c = np.asarray(agreement, np.float64)
    n = len(c)
    if n < 2:
        return float(np.trace(c)), float(c.sum()), 0.0
    centred = c - c.mean(1, keepdims=True) - c.mean(0, keepdims=True) + c.mean()
    return float(np.trace(c)), float(c.sum() / n), float(np.square(centred).sum() / (n - 1))


@dataclass(frozen=True)
class Chance:
    """Mean agreement beside what is expected when images are permuted within sessions.

    Attributes
    ----------
    r : float
        Mean over trials, less that under permutation.
    sd : float
        SD under permutation.
    """

    r: float
    sd: float

    @property
    def z(self) -> float:
        """Standardised."""
        return self.r / self.sd if self.sd > 0 else 0.0


def permutation_z(matrices: Sequence[NDArray[np.floating]], n: int) -> Chance:
    """Pool matrices of agreement of groups of images, which are permuted within each.

    Parameters
    ----------
    matrices : sequence of float arrays of shape (n_images, n_images)
        Agreement with every image, summed over the trials of an image: all of these get another
        image together, as trials of one image share more than the image tells. Templates are those
        of the given design whatever is permuted; where they come from the same trials, SDs are to
        be multiplied by `TWICE`.
    n : int
        Number of trials.
    """
    moments = [permutation_moments(one) for one in matrices]
    total = sum(m[0] - m[1] for m in moments)
    return Chance(total / max(n, 1), float(np.sqrt(sum(m[2] for m in moments))) / max(n, 1))


def mean_by_image(values: Floats, image: Integers) -> tuple[float, float]:
    """Mean over trials, and its standard error when trials of an image are not independent.

    The sandwich estimator with images as clusters (Liang & Zeger 1986, *Biometrika* 73:13).

    Parameters
    ----------
    values : float array of shape (n_trials,)
    image : int array of shape (n_trials,)

    Returns
    -------
    mean, error
        The error is infinite for fewer than `LEAST_IMAGES` images.
    """
    _, own = np.unique(image, return_inverse=True)
    if not len(own) or own.max() + 1 < LEAST_IMAGES:
        return float(np.mean(values)) if len(values) else 0.0, np.inf
    mean = float(values.mean())
    sums = np.bincount(own.ravel(), values - mean)
    n_images = len(sums)
    return mean, float(np.sqrt((sums**2).sum() * n_images / (n_images - 1)) / len(values))


def paired_z(
    other: Floats, given: Floats, images: tuple[Integers, Integers]
) -> tuple[float, float, float]:
    """Compare the agreement of the same trials with two designs.

    Parameters
    ----------
    other, given : float arrays of shape (n_trials,)
        Trials in which either is NaN do not count.
    images : pair of int64 arrays of shape (n_trials,)
        Of the two designs. Trials that share an image in either are not independent: the larger of
        the two errors counts.

    Returns
    -------
    mean of other, mean of given, z
        z of the mean difference, or of the mean of ``other`` if that is smaller.
    """
    both = np.isfinite(other) & np.isfinite(given)
    if not both.any():
        return 0.0, 0.0, 0.0
    z = []
    for values in (other[both] - given[both], other[both]):
        errors = [mean_by_image(values, image[both])[1] for image in images]
        z.append(float(values.mean()) / max(errors) if max(errors) > 0 else 0.0)
    smallest = min(z)
    return float(other[both].mean()), float(given[both].mean()), smallest


def best_segment(gains: Floats) -> tuple[int, int, float]:
    """Find the run of consecutive trials with the largest sum.

    Parameters
    ----------
    gains : float array of shape (n_trials,)

    Returns
    -------
    start, stop, sum
        The segment ``gains[start:stop]``; (0, 0, 0.0) where no gain is above 0.

    Examples
    --------
    >>> best_segment(np.array([-1.0, 2.0, -0.5, 3.0, -4.0]))
    (1, 4, 4.5)
    """
    if not len(gains) or gains.max() <= 0:
        return 0, 0, 0.0
    total = np.concatenate([[0.0], np.cumsum(gains, dtype=np.float64)])
    least = np.minimum.accumulate(total)
    rise = total - least
    stop = int(rise.argmax())
    start = int(total[: stop + 1].argmin())
    return start, stop, float(rise[stop])


def critical_z(n: float) -> float:
    """Return the z that the largest of n hardly ever exceeds by chance (`FALSE_ALARM`, Bonferroni).

    Examples
    --------
    >>> round(critical_z(1), 2), round(critical_z(100), 2)
    (3.09, 4.26)
    """
    return float(norm.isf(FALSE_ALARM / n))


def critical_z_of_stretch(n_shifts: int, n_lengths: float) -> float:
    """Return the z that the best of all stretches of a length, at any shift, hardly ever exceeds.

    Parameters
    ----------
    n_shifts : int
        Shifts that were tried.
    n_lengths : float
        Trials in which stretches were sought, in lengths of a stretch. Long stretches need less
        than short ones, of which there are more: their number goes with its square (Dümbgen &
        Spokoiny 2001, *Annals of Statistics* 29:124), and with `STRETCHES` (ours).

    Examples
    --------
    >>> round(critical_z_of_stretch(10, 1.0), 2), round(critical_z_of_stretch(10, 50.0), 2)
    (4.26, 5.77)
    """
    return critical_z(STRETCHES * n_shifts * n_lengths**2)


def counted_twice(part: Integers, trials: Integers) -> float:
    """SD of a sum of agreement over some trials, relative to that of independent products.

    Products count twice where both trials are among them, in two parts of the recording that serve
    as templates of each other.

    Parameters
    ----------
    part : int array of shape (n_trials,)
        As in `Recording`.
    trials : int array of shape (n_chosen,)

    Returns
    -------
    float
        1 (where no other part holds any of them) to √2 (where they are all trials).
    """
    own = np.zeros(len(part), bool)
    own[trials] = True
    n_own = n_left = 0
    for one in np.unique(part[own]):
        left = part != one
        n_own += int((left & own).sum())
        n_left += int(left.sum())
    return float(np.sqrt(1 + n_own / max(n_left, 1)))
