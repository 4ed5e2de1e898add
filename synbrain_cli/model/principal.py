"""Leading principal components, from the smaller of two matrices of moments."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh
from scipy.linalg.blas import ssyrk
from scipy.sparse.linalg import eigsh

# Of the largest eigenvalue; smaller ones are rounding: of products in float32, and, of a large
# matrix, of its decomposition in float32 too
LEAST = 1e-7
LEAST_SINGLE = 3e-7
LARGE = 2_500  # rows or features from which on eigenvectors are computed in float32, too
FEW = 20  # times as many rows as components from which on Lanczos iteration is the faster way


@dataclass(frozen=True)
class PrincipalComponents:
    """Principal components of rows of features, largest first.

    Attributes
    ----------
    powers : float64 array of shape (n_components,)
        Sum of squared scores over rows.
    vectors : float64 array of shape (n_rows, n_components)
        Scores of length 1.
    axes : float64 array of shape (n_features, n_components)
        Of length 1: features → scores.
    """

    powers: NDArray[np.float64]
    vectors: NDArray[np.float64]
    axes: NDArray[np.float64]


def principal_components(features: NDArray[np.float32], most: int) -> PrincipalComponents:
    """Find the principal components of centred features.

    Parameters
    ----------
    features : float32 array of shape (n_rows, n_features)
    most : int
        Components that are wanted; fewer are returned where the features have fewer.
    """
    by_row = len(features) <= features.shape[1]
    # One triangle, at half the cost of a product; a transposed array is in the order of BLAS.
    moments = ssyrk(1.0, features.T, trans=by_row, lower=1)
    is_large = len(moments) > LARGE
    values, vectors = _leading(moments if is_large else moments.astype(np.float64), most)
    n_components = int((values > values[0] * (LEAST_SINGLE if is_large else LEAST)).sum())
    values, vectors = values[:n_components], vectors[:, :n_components]
    length = np.sqrt(values)
    single = (vectors / length).astype(np.float32)
    other = ((features.T if by_row else features) @ single).astype(np.float64)
    vectors, axes = (vectors, other) if by_row else (other, vectors)
    # Of the two signs, that of a positive largest entry: correlations over components depend on it
    largest = np.abs(axes).argmax(0)
    sign = np.where(axes[largest, np.arange(n_components)] < 0, -1.0, 1.0)
    return PrincipalComponents(values, vectors * sign, axes * sign)


def _leading(
    moments: NDArray[np.floating], most: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Decompose a symmetric matrix of shape (n, n), whose lower triangle is read and overwritten.

    Returns the ``most`` leading eigenvalues, largest first, and eigenvectors of shape (n, most).
    """
    size = len(moments)
    if size > FEW * most:
        start = np.random.default_rng(0).standard_normal(size)  # the same in every run
        moments = moments.astype(np.float64)
        moments += np.tril(moments, -1).T
        values, vectors = eigsh(moments, most, which="LA", v0=start)
    else:
        wanted = (max(size - most, 0), size - 1)
        values, vectors = eigh(
            moments, subset_by_index=wanted, driver="evr", overwrite_a=True, check_finite=False
        )
    return values[::-1].astype(np.float64), vectors[:, ::-1].astype(np.float64)
