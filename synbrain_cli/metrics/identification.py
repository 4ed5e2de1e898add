r"""Identification: how often a pattern is more similar to its match than to other candidates.

Similarities are ``(n_queries, n_candidates)``. In a square one, row i's match is column i, and the
scores are one number per row, so that ``accuracy.weighted_mean`` gives their bootstrap over images
(among the candidates of the full set, which are not drawn again).

A missing value (NaN) makes every score of its row NaN.
"""

from __future__ import annotations

import operator

import numpy as np
from numpy.typing import ArrayLike, NDArray

from synbrain_cli.errors import InputError, InputTypeError
from synbrain_cli.metrics.arrays import as_matrix, at_least_two, blockwise, centred_columns

# Correlations are rounded to this many digits. Patterns that are equal, or equal up to scale, then
# tie, as they should; summed in another order they would differ in the last digits of float64.
_DECIMALS = 12


def pattern_similarity(queries: ArrayLike, candidates: ArrayLike) -> NDArray[np.float64]:
    r"""Pearson correlation of every query with every candidate.

    .. math:: s_{ij} = \frac{\sum_v (q_{iv} - \bar q_i)(c_{jv} - \bar c_j)}
        {\sqrt{\sum_v (q_{iv} - \bar q_i)^2 \sum_v (c_{jv} - \bar c_j)^2}}

    Subtract the mean *training* pattern from both first, or z-score each feature by training data.
    Features differ in their mean, all images share these differences, and otherwise they make all
    similarities high and alike.

    Parameters
    ----------
    queries : array of shape (n_queries, n_features)
        One pattern per row, in any unit: scale and offset of a row do not matter. At least two
        features.
    candidates : array of shape (n_candidates, n_features)
        Patterns to choose from, with the same features.

    Returns
    -------
    float64 array of shape (n_queries, n_candidates)
        Between −1 and 1, rounded to 12 decimals so that equal patterns tie. 0 where a pattern is
        the same in all features: a constant pattern is tied with all others and counts one half.
        NaN where either pattern misses a value.
    """
    queries, candidates = as_matrix(queries, "queries"), as_matrix(candidates, "candidates")
    if queries.shape[1] != candidates.shape[1]:
        raise InputError(
            f"queries and candidates: expected the same features (columns), found "
            f"{queries.shape[1]} and {candidates.shape[1]}: select the same voxels in both"
        )
    at_least_two(queries.shape[1], "a correlation over features", "features")
    return (_unit_rows(queries) @ _unit_rows(candidates).T).round(_DECIMALS)


def two_way(similarity: ArrayLike) -> NDArray[np.float64]:
    r"""Two-way identification: share of the other candidates that the match beats.

    .. math:: \frac{1}{N - 1} \sum_{j \neq i}
        \Big( [s_{ij} < s_{ii}] + \tfrac12 [s_{ij} = s_{ii}] \Big)

    Equal to the area under the ROC curve of match against others. Chance is ½.

    Parameters
    ----------
    similarity : array of shape (n_images, n_images)
        From ``pattern_similarity``, or any other: only the order within a row matters. Two images
        or more.

    Returns
    -------
    float64 array of shape (n_images,)
        Between 0 and 1. NaN where the row misses a value.
    """
    n_less, n_tied, missing = _standing(similarity)
    return np.where(missing, np.nan, (n_less + n_tied / 2) / (len(missing) - 1))


def n_way(similarity: ArrayLike, n_candidates: int) -> NDArray[np.float64]:
    r"""Probability that the match is the most similar of n candidates.

    The other n − 1 candidates are drawn at random, without replacement, from the N − 1 other
    images; a first rank shared with m others counts 1/(m + 1). With b others better than the
    match, t tied and l worse, the numbers drawn follow the multivariate hypergeometric
    distribution. None better is drawn, and m tied are, with the probability

    .. math:: P(m) = \binom{t}{m} \binom{l}{n - 1 - m} \Big/ \binom{N - 1}{n - 1},

    and since :math:`\binom{t}{m} / (m + 1) = \binom{t + 1}{m + 1} / (t + 1)`, the expectation is,
    by Vandermonde's identity,

    .. math:: \sum_m \frac{P(m)}{m + 1}
        = \frac{\binom{l + t + 1}{n} - \binom{l}{n}}{(t + 1) \binom{N - 1}{n - 1}}.

    This is exact. The usual evaluation on NSD (MindEye, Scotti et al. 2023: top-1 among 300
    candidates) averages 30 random sets of candidates; this is the value that the average tends to.
    With n = 2 it is ``two_way``, with n = N plain top-1 accuracy. Chance is 1/n.

    Parameters
    ----------
    similarity : array of shape (n_images, n_images)
        As in ``two_way``.
    n_candidates : int
        Candidates, the match among them: n above, between 2 and N = n_images.

    Returns
    -------
    float64 array of shape (n_images,)
        Between 0 and 1. NaN where the row misses a value.

    Examples
    --------
    >>> similarity = [[3, 2, 1], [3, 2, 1], [3, 2, 2]]  # best, second, tied for second
    >>> n_way(similarity, 2).tolist(), n_way(similarity, 3).tolist()
    ([1.0, 0.5, 0.25], [1.0, 0.0, 0.0])
    """
    n_less, n_tied, missing = _standing(similarity)
    n_images = len(missing)
    try:
        n = operator.index(n_candidates)
    except TypeError:
        raise InputTypeError(
            f"n_candidates: expected an integer, found {type(n_candidates).__name__}"
        ) from None
    if not 2 <= n <= n_images:
        raise InputError(
            f"n_candidates: expected 2 to {n_images} (the images in similarity), found {n}: "
            "take fewer candidates, or score more images at once"
        )
    n_better = n_images - 1 - n_less - n_tied
    # Both probabilities are products of ratios of neighbouring binomial coefficients. Looked up in
    # running sums of logarithms, they stay exact where the coefficients would overflow.
    none_better = _none_drawn(n_images - 1, n - 1)[n_better]
    n_not_better = n_images - n_better  # l + t + 1, the match among them
    log_ratio = _log_running_product(n, n_images)
    match_or_tied = -np.expm1(log_ratio[n_less] - log_ratio[n_not_better])
    match_or_tied = np.where(n_less < n, 1, match_or_tied)  # too few worse ones to fill a set
    shared = none_better * match_or_tied * (n_not_better / (n * (n_tied + 1)))
    return np.where(missing, np.nan, np.where(n_tied == 0, none_better, shared))


# Helpers ------------------------------------------------------------------------------------------


def _unit_rows(patterns: np.ndarray) -> NDArray[np.float64]:
    """Rows minus their mean, of length 1; all 0 for a constant row, all NaN for one with a gap."""

    def unit(block: np.ndarray) -> np.ndarray:
        centred = centred_columns(block.T).T
        norm = np.linalg.norm(centred, axis=1, keepdims=True)
        return centred / np.where(norm == 0, 1, norm)

    with np.errstate(invalid="ignore"):  # infinite minus infinite: NaN is meant
        return blockwise(unit, patterns, keep=0)


def _standing(similarity: ArrayLike) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Per row: others less similar than the match, others tied with it, whether a value is NaN."""
    similarity = as_matrix(similarity, "similarity")
    if similarity.shape[0] != similarity.shape[1]:
        raise InputError(
            f"similarity: expected a square array, row i's match in column i, found shape "
            f"{similarity.shape}: compare each image with the same images, in the same order"
        )
    at_least_two(len(similarity), "identification", "images")
    match = similarity.diagonal()[:, None]
    n_less, n_tied = (similarity < match).sum(1), (similarity == match).sum(1) - 1
    missing = np.isnan(similarity).any(1)
    return n_less, np.where(missing, 0, n_tied), missing


def _none_drawn(n_population: int, n_drawn: int) -> NDArray[np.float64]:
    r"""Probability that none of b is drawn, :math:`\binom{M - b}{k} / \binom{M}{k}`, b = 0 … M."""
    marked = np.arange(n_population)
    left = np.maximum(n_population - n_drawn - marked, 0)
    with np.errstate(divide="ignore"):
        steps = np.log(left / (n_population - marked))
    return np.exp(np.append(0, np.cumsum(steps)))


def _log_running_product(n: int, n_images: int) -> NDArray[np.float64]:
    r"""S with :math:`S_l - S_a = \log \binom{l}{n} / \binom{a}{n}` for n ≤ l ≤ a ≤ n_images.

    Summed from the largest number down: there the steps are smallest, and so are then the sums.
    """
    steps = np.zeros(n_images + 1)
    steps[n:-1] = np.log1p(-n / np.arange(n + 1, n_images + 1))
    return np.cumsum(steps[::-1])[::-1]
