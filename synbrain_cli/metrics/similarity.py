r"""Similarity of the geometry of two sets of patterns over images.

Representational similarity analysis (Kriegeskorte et al. 2008, *Front. Syst. Neurosci.* 2:4)
compares the distances between images; centred kernel alignment (Kornblith et al. 2019, *ICML*)
their inner products. Neither asks for the same pattern, only for the same geometry.

Everywhere here:

- patterns are ``(n_images, n_voxels)``, and all sums are taken and returned in float64;
- a missing value (NaN) makes the score NaN: nothing is dropped or filled;
- data that do not vary over images give NaN; where the data vary and the prediction does not, the
  score is 0, as in ``accuracy``;
- no score is clipped.

The bootstrap scores weigh a pair of images by the product of their counts, and leave out the pairs
of copies of one image, whose distance of 0 was not measured. Where two sets are unrelated, such
intervals are too wide, by up to √3, since pairs overlap in their images: they err on the safe side.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.distance import squareform
from scipy.stats import rankdata

from synbrain_cli.errors import InputError, InputTypeError
from synbrain_cli.metrics.arrays import (
    as_matrix,
    at_least_two,
    block_slices,
    centred_columns,
    shares_of_counts,
)
from synbrain_cli.metrics.identification import _DECIMALS, _unit_rows


def rdm(patterns: ArrayLike) -> NDArray[np.float64]:
    """Representational dissimilarities: 1 − Pearson correlation over voxels, of each two images.

    Subtract the mean *training* pattern first, or z-score each voxel by training data. Voxels
    differ in their mean, all images share these differences, and otherwise they make all distances
    small and alike.

    Parameters
    ----------
    patterns : array of shape (n_images, n_voxels)
        One pattern per image, in any unit: scale and offset of a row do not matter. At least two
        images and two voxels.

    Returns
    -------
    float64 array of shape (n_images · (n_images − 1) / 2,)
        Between 0 and 2, in the order of ``scipy.spatial.distance.pdist(patterns, "correlation")``:
        (0, 1), (0, 2), …, (1, 2), …; rounded to 12 decimals so that equal patterns are at 0. NaN
        where a pattern is the same in all voxels or misses a value.
    """
    patterns = as_matrix(patterns, "patterns")
    at_least_two(patterns.shape[0], "distances between images", "images")
    at_least_two(patterns.shape[1], "a correlation over voxels", "voxels")
    unit = _unit_rows(patterns)
    distances = 1 - (unit @ unit.T).round(_DECIMALS)
    constant = ~unit.any(1)
    distances[constant] = distances[:, constant] = np.nan
    return squareform(distances, checks=False)


def rsa(rdm_true: ArrayLike, rdm_pred: ArrayLike) -> float:
    """Spearman correlation between two sets of distances; ties share their average rank.

    Parameters
    ----------
    rdm_true, rdm_pred : arrays of shape (n_images · (n_images − 1) / 2,)
        Condensed distances of the same images in the same order, from ``rdm`` or any other. Three
        images or more.

    Returns
    -------
    float
        1 for the same order of distances, about 0 for unrelated patterns. 0 where all predicted
        distances are equal, or all are NaN, as they are for a prediction without variance; NaN
        where some are NaN, and where any true one is or all true ones are equal.
    """
    t, p, verdict = _ranks_of_pair(rdm_true, rdm_pred)
    return float(t @ p / len(t)) if verdict is None else verdict


def weighted_rsa(
    rdm_true: ArrayLike, rdm_pred: ArrayLike, counts: ArrayLike
) -> NDArray[np.float64]:
    r"""``rsa`` for each bootstrap sample of images, with the ranks of the full sample.

    Pair (i, j) weighs :math:`c_i c_j`; the score is the Pearson correlation, with these weights, of
    the ranks a and b. Ranks are not taken anew in each sample, so every sum is a quadratic form
    in the counts, :math:`\sum_{i<j} c_i c_j a_{ij} b_{ij} = \frac12 c^\top (A \circ B)\, c`, and so
    one matrix product for all samples.

    Parameters
    ----------
    rdm_true, rdm_pred : arrays of shape (n_images · (n_images − 1) / 2,)
        As in ``rsa``.
    counts : array of shape (n_boot, n_images)
        How often the sample holds each image.

    Returns
    -------
    float64 array of shape (n_boot,)
        ``rsa`` where all counts are 1. In a sample, NaN where its true ranks do not vary, 0
        where only the predicted ones do not.
    """
    return WeightedRSA(rdm_true, rdm_pred)(counts)


class WeightedRSA:
    """`weighted_rsa` of two sets of distances, whose ranks are taken once for all samples.

    Parameters
    ----------
    rdm_true, rdm_pred : arrays of shape (n_images · (n_images − 1) / 2,)
        As in ``rsa``.
    """

    def __init__(self, rdm_true: ArrayLike, rdm_pred: ArrayLike) -> None:
        t, p, self._verdict = _ranks_of_pair(rdm_true, rdm_pred)
        self._n_images = _n_images(t)
        if self._verdict is None:
            a, b = squareform(t), squareform(p)  # zero on the diagonal: no pair of copies counts
            self._forms = (a, b, a * a, b * b, a * b)

    def __call__(self, counts: ArrayLike) -> NDArray[np.float64]:
        """Score of each sample: counts (n_boot, n_images) → (n_boot,)."""
        shares = shares_of_counts(counts, self._n_images)
        if self._verdict is not None:
            return np.full(len(shares), self._verdict)
        weight = 1 - (shares**2).sum(1)
        forms = (_quadratic(form, shares) for form in self._forms)
        with np.errstate(divide="ignore", invalid="ignore"):
            mean_t, mean_p, square_t, square_p, product = (form / weight for form in forms)
            var_t, var_p = square_t - mean_t**2, square_p - mean_p**2
            r = (product - mean_t * mean_p) / np.sqrt(var_t * var_p)
        # Ranks have variance 1, so that a variance of 1e-12 in a sample is rounding: constant
        r[var_p <= 1e-12] = 0
        r[~(var_t > 1e-12)] = np.nan
        return r


def linear_cka(y_true: ArrayLike, y_pred: ArrayLike) -> float:
    r"""Debiased linear centred kernel alignment of two sets of patterns.

    With the kernels :math:`K = Y Y^\top` and :math:`L = \hat Y \hat Y^\top`, both U-centred,

    .. math::
        \tilde K_{ij} = K_{ij} - \frac{\sum_{l \neq i} K_{il}}{n - 2}
            - \frac{\sum_{l \neq j} K_{lj}}{n - 2}
            + \frac{\sum_{k \neq l} K_{kl}}{(n - 1)(n - 2)} \quad (i \neq j),
        \qquad \tilde K_{ii} = 0,

    the unbiased estimator of the Hilbert–Schmidt independence criterion is
    :math:`\mathrm{HSIC}(K, L) = \sum_{ij} \tilde K_{ij} \tilde L_{ij} \,/\, n (n - 3)`
    (Song et al. 2012, *JMLR* 13; in this form Székely & Rizzo 2014, *Ann. Stat.* 42), and

    .. math:: \mathrm{CKA} = \frac{\mathrm{HSIC}(K, L)}
        {\sqrt{\mathrm{HSIC}(K, K)\, \mathrm{HSIC}(L, L)}}

    (Kornblith et al. 2019; debiased by Nguyen et al. 2021, *ICLR*; Murphy et al. 2024). The biased
    one counts each image's likeness to itself: with 100 images of 1,000 voxels it is high for any
    two sets. This one is about 0 for unrelated patterns and for shuffled images.

    Parameters
    ----------
    y_true, y_pred : arrays of shape (n_images, n_voxels)
        Patterns, row by row of the same images, in any unit. The numbers of voxels may differ. Four
        images or more.

    Returns
    -------
    float
        1 for the same geometry up to rotation, scale and offset; at most 1, and may fall below 0.
        0 where the prediction does not vary over images and the data do; NaN where the data do not,
        or a value is missing.
    """
    t, p, verdict = _kernels(y_true, y_pred)
    return float((t * p).sum()) if verdict is None else verdict


def weighted_cka(y_true: ArrayLike, y_pred: ArrayLike, counts: ArrayLike) -> NDArray[np.float64]:
    r"""``linear_cka`` for each bootstrap sample of images, from the kernels of all the images.

    .. math:: \frac{\sum_{i \neq j} c_i c_j \tilde K_{ij} \tilde L_{ij}}
        {\sqrt{\sum_{i \neq j} c_i c_j \tilde K_{ij}^2 \; \sum_{i \neq j} c_i c_j \tilde L_{ij}^2}}

    Kernels are not centred anew in each sample: quadratic forms in the counts, as in
    ``weighted_rsa``.

    Parameters
    ----------
    y_true, y_pred : arrays of shape (n_images, n_voxels)
        As in ``linear_cka``.
    counts : array of shape (n_boot, n_images)
        How often the sample holds each image.

    Returns
    -------
    float64 array of shape (n_boot,)
        ``linear_cka`` where all counts are 1. NaN where the resampled data do not vary (for example
        a single image), 0 where only the prediction does not.
    """
    return WeightedCKA(y_true, y_pred)(counts)


class WeightedCKA:
    """`weighted_cka` of two sets of patterns, whose kernels are computed once for all samples.

    Parameters
    ----------
    y_true, y_pred : arrays of shape (n_images, n_voxels)
        As in ``linear_cka``.
    """

    def __init__(self, y_true: ArrayLike, y_pred: ArrayLike) -> None:
        t, p, self._verdict = _kernels(y_true, y_pred)
        self._n_images = len(t)
        self._forms = (t * p, t * t, p * p)

    def __call__(self, counts: ArrayLike) -> NDArray[np.float64]:
        """Score of each sample: counts (n_boot, n_images) → (n_boot,)."""
        shares = shares_of_counts(counts, self._n_images)
        if self._verdict is not None:
            return np.full(len(shares), self._verdict)
        product, norm_t, norm_p = (_quadratic(form, shares) for form in self._forms)
        with np.errstate(divide="ignore", invalid="ignore"):
            cka = product / np.sqrt(norm_t * norm_p)
        cka[norm_p == 0] = 0
        cka[norm_t == 0] = np.nan
        return cka


# Helpers ------------------------------------------------------------------------------------------


def _quadratic(matrix: np.ndarray, shares: np.ndarray) -> NDArray[np.float64]:
    """cᵀ M c of each row c of ``shares``."""
    return ((shares @ matrix) * shares).sum(1)


def _ranks_of_pair(
    rdm_true: ArrayLike, rdm_pred: ArrayLike
) -> tuple[np.ndarray, np.ndarray, float | None]:
    """Return ranks of mean 0 and variance 1, and the score where it follows without ranks."""
    rdm_true, rdm_pred = _condensed(rdm_true, "rdm_true"), _condensed(rdm_pred, "rdm_pred")
    if rdm_true.shape != rdm_pred.shape:
        raise InputError(
            f"rdm_true and rdm_pred: expected the same pairs of images, found {len(rdm_true)} and "
            f"{len(rdm_pred)} distances: take both from the same images"
        )
    missing = np.isnan(rdm_pred)
    verdict: float | None
    if np.isnan(rdm_true).any() or np.ptp(rdm_true) == 0:
        verdict = math.nan
    elif missing.all() or np.ptp(rdm_pred) == 0:
        verdict = 0.0
    else:
        verdict = math.nan if missing.any() else None
    if verdict is not None:
        return rdm_true, rdm_pred, verdict
    t, p = (rankdata(distances) for distances in (rdm_true, rdm_pred))
    return (t - t.mean()) / t.std(), (p - p.mean()) / p.std(), None


def _condensed(distances: ArrayLike, name: str) -> NDArray[np.float64]:
    distances = np.asarray(distances)
    if distances.dtype.kind not in "biuf":
        raise InputTypeError(f"{name}: expected real numbers, found dtype {distances.dtype}")
    n_pairs = math.comb(_n_images(distances), 2) if distances.ndim == 1 else None
    if n_pairs != distances.size or n_pairs < 3:
        raise InputError(
            f"{name}: expected one distance per pair of three images or more, shape "
            f"(n · (n − 1) / 2,), found shape {distances.shape}: take it from rdm(patterns)"
        )
    return distances.astype(np.float64)


def _n_images(distances: np.ndarray) -> int:
    """The n of n (n − 1) / 2 pairs, rounded down."""
    return (1 + math.isqrt(1 + 8 * distances.size)) // 2


def _kernels(y_true: ArrayLike, y_pred: ArrayLike) -> tuple[np.ndarray, np.ndarray, float | None]:
    """Return U-centred kernels of norm 1, and the score where it follows without kernels."""
    y_true, y_pred = as_matrix(y_true, "y_true"), as_matrix(y_pred, "y_pred")
    if len(y_true) != len(y_pred):
        raise InputError(
            f"y_true and y_pred: expected the same images (rows), found {len(y_true)} and "
            f"{len(y_pred)}: average the repeats, or repeat the prediction, so that rows correspond"
        )
    if len(y_true) < 4:
        raise InputError(f"debiased CKA: expected four images or more, found {len(y_true)}")
    t, p = (_u_centred(_gram(y)) for y in (y_true, y_pred))
    if np.isnan([t[0, 1], p[0, 1]]).any() or not t.any():
        return t, p, math.nan
    return t, p, None if p.any() else 0.0


def _gram(y: np.ndarray) -> NDArray[np.float64]:
    """Inner products of images, voxels centred over images: smaller numbers, same U-centring."""
    gram = np.zeros((len(y), len(y)))
    with np.errstate(invalid="ignore"):  # infinite minus infinite: NaN is meant
        for columns in block_slices(y.shape[1], len(y)):
            block = centred_columns(y[:, columns].astype(np.float64))
            gram += block @ block.T
    return gram


def _u_centred(gram: np.ndarray) -> NDArray[np.float64]:
    """U-centred and scaled to norm 1; all 0 where nothing remains, all NaN where a value misses."""
    n_images, scale = len(gram), np.trace(gram)
    if scale == 0:
        return gram
    kernel = gram / scale
    np.fill_diagonal(kernel, 0)
    sums = kernel.sum(0) / (n_images - 2)
    kernel += sums.sum() / (n_images - 1) - sums - sums[:, None]
    np.fill_diagonal(kernel, 0)
    norm = np.linalg.norm(kernel)
    if np.isnan(norm):
        return np.full_like(kernel, np.nan)
    # All images alike but one: centring leaves nothing, and rounding about 1e-16 of the trace
    return kernel / norm if norm > 1e-12 else np.zeros_like(kernel)
