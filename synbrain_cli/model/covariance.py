"""Covariance of thousands of voxels as shared factors plus a private variance of each voxel.

With ``Σ = loadings @ loadings.T + diag(private²)``, no matrix of voxels × voxels is needed to
estimate the covariance or to draw from it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from synbrain_cli.groups import Groups, count_groups, deal
from synbrain_cli.progress import UNSEEN, Share
from synbrain_cli.threads import one_thread

MAX_RANK = 64
RANK_OF_REGION = 8
N_FOLDS = 5
DENSE = 2_048  # number of voxels up to which the matrix voxels × voxels is formed, which is faster
MOST_TAKEN = 0.9  # of a voxel's private variance, by factors that are added
LEAST_ADDED = 0.02  # of the variance of a sum over voxels: less has no factor
_POWER_STEPS = 12
_OVERSAMPLING = 8
_ROUNDS = 3  # of principal factors: the variance that factors share, then factors, then …


class Normal(Protocol):
    """What normal numbers are drawn from: a numpy Generator, or numbers that were drawn before."""

    def standard_normal(self, size: int, dtype: type, /) -> np.ndarray:
        """Array of shape (size,)."""


class Term(Protocol):
    """One term of a second moment, ± the sum of the outer products of its rows.

    Attributes
    ----------
    sign : float
        1 or −1.
    """

    @property
    def sign(self) -> float:
        """Plus or minus one."""

    def of(self, inside: NDArray[np.bool_]) -> NDArray[np.float32]:
        """Rows (n_rows, n_voxels) of some images (n_images,)."""


@dataclass(frozen=True)
class Rows:
    """A term whose rows are in memory.

    Attributes
    ----------
    sign : float
    rows : float32 array of shape (n_rows, n_voxels)
    image : int array of shape (n_rows,)
        Image that each row belongs to.
    """

    sign: float
    rows: np.ndarray
    image: np.ndarray

    def of(self, inside: NDArray[np.bool_]) -> NDArray[np.float32]:
        """Rows of some images."""
        return self.rows[inside[self.image]]


@dataclass(frozen=True)
class LowRank:
    """A normal distribution of mean 0 over voxels.

    Attributes
    ----------
    loadings : float32 array of shape (n_voxels, rank)
    private : float32 array of shape (n_voxels,)
        Standard deviation of the part that is independent of all other voxels.
    """

    loadings: np.ndarray
    private: np.ndarray

    @classmethod
    def independent(cls, variance: np.ndarray) -> LowRank:
        """Return the distribution of independent voxels of a variance (n_voxels,)."""
        return cls(
            np.zeros((len(variance), 0), np.float32),
            np.sqrt(np.maximum(variance, 0)).astype(np.float32),
        )

    @cached_property
    def variance(self) -> np.ndarray:
        """Variance of each voxel, float64 (n_voxels,)."""
        return (self.loadings.astype(np.float64) ** 2).sum(1) + self.private.astype(np.float64) ** 2

    @cached_property
    def is_nothing(self) -> bool:
        """Whether no voxel varies."""
        return not (self.loadings.any() or self.private.any())

    def draw(self, generator: Normal) -> np.ndarray:
        """Return one draw, float32 (n_voxels,)."""
        own = generator.standard_normal(len(self.private), np.float32)
        if not self.loadings.shape[1]:
            return self.private * own
        shared = generator.standard_normal(self.loadings.shape[1], np.float32)
        return self.private * own + self.loadings @ shared

    def variance_of(self, sums: NDArray[np.floating]) -> NDArray[np.float64]:
        """Variance of weighted sums over voxels (n_sums, n_voxels): float64 (n_sums,)."""
        weights = sums.astype(np.float64)
        shared = np.square(weights @ self.loadings.astype(np.float64)).sum(1)
        return np.asarray(shared + np.square(weights * self.private.astype(np.float64)).sum(1))

    def scaled(self, relative: np.ndarray) -> LowRank:
        """Return the same correlations with variances times ``relative`` (n_voxels,)."""
        factor = np.sqrt(relative).astype(np.float32)
        return LowRank(self.loadings * factor[:, None], self.private * factor)

    def with_variance(self, variance: np.ndarray) -> LowRank:
        """Return the same correlations with another variance of each voxel (n_voxels,)."""
        with np.errstate(divide="ignore", invalid="ignore"):
            relative = np.where(self.variance > 0, variance / self.variance, 0)
        return self.scaled(relative)


def add_factors(
    found: LowRank, sums: NDArray[np.floating], variances: NDArray[np.float64]
) -> LowRank:
    """Add a factor for each sum over voxels that varies more than the factors found say.

    A low rank loses covariance that is weak between any two voxels and adds up over many: over a
    region, or along a pattern in which predicted responses vary, and what is not predicted of them
    varies, too. The loadings of a sum's factor are proportional to its weights, and taken from
    private variance, so that the variances of voxels remain. The sizes of all factors are found
    together, by non-negative least squares over the variances of the sums, each relative to what
    was measured, or to what it is without them where that is more: the factor of one sum adds to
    others, and none may then vary more than it should.

    Parameters
    ----------
    found : LowRank
    sums : float array of shape (n_sums, n_voxels)
        Weights of the voxels in each.
    variances : float array of shape (n_sums,)
        Of the sums, measured.

    Returns
    -------
    LowRank
    """
    if not len(sums):
        return found
    from scipy.optimize import nnls  # takes a moment to import; draws need it not

    private, weights = found.private.astype(np.float64), sums.astype(np.float64)
    factors = weights / np.linalg.norm(weights, axis=1, keepdims=True)
    # What a factor, taken from private variance, adds to the variance of each sum
    gained = np.square(weights @ factors.T) - np.square(weights) @ np.square(factors).T
    known = found.variance_of(sums)
    lacking = variances - known
    is_met = lacking <= LEAST_ADDED * variances
    scale = np.maximum(np.maximum(variances, known), 1e-30)  # an estimate may be below 0
    gained[:, is_met] = 0  # has no factor of its own
    sizes, _ = nnls(gained / scale[:, None], np.maximum(lacking, 0) / scale)
    chosen = sizes > 0
    loadings = np.sqrt(sizes[chosen, None]) * factors[chosen]
    taken, most = np.square(loadings).sum(0), MOST_TAKEN * np.square(private)
    loadings *= np.sqrt(np.minimum(most / np.maximum(taken, 1e-30), 1))
    left = np.sqrt(np.maximum(np.square(private) - np.square(loadings).sum(0), 0))
    stacked = np.concatenate([found.loadings.astype(np.float64), loadings.T], axis=1)
    return LowRank(stacked.astype(np.float32), left.astype(np.float32))


@dataclass(frozen=True)
class SecondMoment:
    r"""A second moment of voxels, estimated from images.

    .. math:: M = \sum_t \pm X_t^\top X_t \Big/ \sum_i w_i

    Attributes
    ----------
    terms : sequence of Term
        X, whose rows belong to images.
    weight : float array of shape (n_images,)
        w: what each image's rows are divided by; 0 for images without information.
    groups : int array of shape (n_images,), optional
        Groups of images that are never both fitted and held out (`synbrain_cli.groups`).
    """

    terms: Sequence[Term]
    weight: np.ndarray
    groups: Groups | None = None

    @cached_property
    def used(self) -> NDArray[np.intp]:
        """Images with information: int (n_used,)."""
        return np.flatnonzero(self.weight > 0)

    def deal(self, generator: np.random.Generator) -> list[_Fold]:
        """Divide the images at random into at most `N_FOLDS` folds; none of one image or group."""
        of_used = None if self.groups is None else self.groups[self.used]
        n_folds = min(N_FOLDS, count_groups(len(self.used), of_used))
        if n_folds < 2:
            return []
        folds = []
        for chosen in deal(len(self.used), n_folds, generator, of_used):
            inside = np.zeros(len(self.weight), bool)
            inside[self.used[chosen]] = True
            rows = [(term.sign, term.of(inside)) for term in self.terms]
            folds.append(_Fold(rows, float(self.weight[inside].sum())))
        return folds


def fit_low_rank(
    moment: SecondMoment,
    variance: np.ndarray,
    generator: np.random.Generator,
    regions: Sequence[NDArray[np.bool_]] = (),
    max_rank: int = MAX_RANK,
    share: Share = UNSEEN,
) -> LowRank:
    r"""Fit shared factors, with the remaining variance of each voxel as its private variance.

    Factors are principal factors (Harman 1976, *Modern Factor Analysis*): leading eigenvectors of
    the moment M with its diagonal replaced by the variance that factors account for, found again a
    few times. The eigenvalues of a sample are too large, the more so the more voxels and the fewer
    images there are. A factor's variance is therefore measured on images that did not choose its
    direction (Abadir, Distaso & Žikeš 2014, *Journal of Econometrics* 181:165):

    .. math:: \lambda_j = \frac1K \sum_f v_{jf}^\top M_f\, v_{jf}

    with :math:`v_{jf}` the j-th eigenvector of the images outside fold f and M_f the moment inside
    it. The first λ that is not positive ends the list: held-out images choose the rank, too.

    What some voxels share is lost among all: the errors of an estimated direction grow with the
    number of voxels. In each region, the largest first, further factors are therefore found in the
    same way from what is left of the moment within it (ours; `benchmarks/joint_models.py`).

    Parameters
    ----------
    moment : SecondMoment
    variance : array of shape (n_voxels,)
        Of each voxel, ≥ 0: what factors leave of it is private. Loadings that exceed it are
        shortened.
    generator : numpy Generator
        Deals images to folds, and starts the search for eigenvectors.
    regions : sequence of bool arrays of shape (n_voxels,)
        Have at most `RANK_OF_REGION` factors of their own; those of more than `DENSE` voxels none,
        in which directions are lost as they are among all.
    max_rank : int
        Of the factors of all voxels.
    share : Share
        Of a task whose progress is shown.

    Returns
    -------
    LowRank
    """
    n_voxels = len(variance)
    # More factors than a fifth of the images that determine them would be noise, and cost time.
    rank = int(min(max_rank, n_voxels // 2, len(moment.used) // N_FOLDS))
    folds = moment.deal(generator) if rank > 0 else []
    if not folds:
        return LowRank.independent(variance)
    of_all, of_regions = share.split(3, 1)
    found = _principal_factors([fold.moment() for fold in folds], variance, rank, generator, of_all)
    private = np.maximum(variance - np.square(found).sum(1), 0)
    for region in of_regions.over(sorted(regions, key=np.count_nonzero, reverse=True)):
        inside = np.flatnonzero(region)
        rank = min(RANK_OF_REGION, len(inside) // 2, len(moment.used) // N_FOLDS)
        if rank < 1 or len(inside) > DENSE:
            continue
        parts = [fold.moment(inside, found[inside]) for fold in folds]
        most = MOST_TAKEN * private[inside]
        added = _principal_factors(parts, most, rank, generator)
        own = np.zeros((n_voxels, added.shape[1]))
        own[inside] = added
        found = np.concatenate([found, own], axis=1)
        private[inside] -= np.square(added).sum(1)
    return LowRank(found.astype(np.float32), np.sqrt(private).astype(np.float32))


def _principal_factors(
    parts: Sequence[_Moment],
    variance: np.ndarray,
    rank: int,
    generator: np.random.Generator,
    share: Share = UNSEEN,
) -> NDArray[np.float64]:
    """Loadings (n_voxels, at most rank) of the factors of a moment, whose parts are the folds."""
    n_voxels = len(variance)
    start = generator.standard_normal((n_voxels, min(rank + _OVERSAMPLING, n_voxels)))
    folds = range(len(parts))
    sums = [tuple(g for g in folds if g != fold) for fold in folds] + [tuple(folds)]
    communality = np.zeros(n_voxels)
    n_rounds = _ROUNDS if n_voxels <= DENSE else 1  # of thousands, one is next to nothing
    for _, own in share.each(range(n_rounds)):
        *others, everything = _eigenvectors(parts, sums, communality, start, own)
        held_out = np.zeros(rank)
        for fold, vectors in enumerate(others):
            chosen = vectors[:, :rank]
            (product,) = _products(parts, [(fold,)], communality, [chosen])
            held_out += (chosen * product).sum(0) / len(parts)
        kept = int(np.argmax(np.r_[held_out <= 0, True]))
        loadings = everything[:, :kept] * np.sqrt(np.minimum.accumulate(held_out[:kept]))
        communality = np.minimum((loadings**2).sum(1), variance)

    shared = (loadings**2).sum(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return loadings * np.where(shared > variance, np.sqrt(variance / shared), 1.0)[:, None]


@dataclass(frozen=True)
class _Fold:
    """Rows of some images, one array of each term with its sign, and the images' weight."""

    rows: list[tuple[float, np.ndarray]]
    weight: float

    def moment(
        self, inside: NDArray[np.intp] | None = None, known: np.ndarray | None = None
    ) -> _Moment:
        """Moment of all voxels, or of some less what factors (n_inside, n_factors) account for."""
        if inside is None or known is None:
            return _Moment.of(self.rows, self.weight)
        rows = [(sign, own[:, inside]) for sign, own in self.rows]
        accounted = (np.sqrt(self.weight) * known.T).astype(np.float32)
        return _Moment.of([*rows, (-1.0, accounted)], self.weight)


@dataclass(frozen=True)
class _Moment:
    """Some images' part of a second moment: how to multiply with it, its diagonal, its weight.

    The product is in ``precision``, as the vectors are that it is given.
    """

    multiply: Callable[[np.ndarray], np.ndarray]
    diagonal: np.ndarray
    weight: float
    precision: np.dtype

    @classmethod
    def of(cls, terms: Sequence[tuple[float, np.ndarray]], weight: float) -> _Moment:
        squares = (s * np.einsum("ij,ij->j", x, x, dtype=np.float64) for s, x in terms)
        diagonal = np.asarray(sum(squares))
        if len(diagonal) <= DENSE:
            matrix = np.asarray(sum(s * (x.T @ x).astype(np.float64) for s, x in terms))
            return cls(matrix.__matmul__, diagonal, weight, np.dtype(np.float64))

        def multiply(vectors: np.ndarray) -> np.ndarray:
            products = (np.float32(s) * (x.T @ (x @ vectors)) for s, x in terms)
            return np.asarray(sum(products))

        return cls(multiply, diagonal, weight, np.dtype(np.float32))


Sums = Sequence[tuple[int, ...]]  # numbers of the parts that each moment is the sum of


def _products(
    parts: Sequence[_Moment],
    sums: Sums,
    communality: np.ndarray,
    vectors: Sequence[np.ndarray],
) -> list[np.ndarray]:
    """Each sum's moment times its vectors, its diagonal replaced by the communality.

    A part multiplies the vectors of all sums that it belongs to at once: wide products are faster
    than narrow ones, and its rows are read once.
    """
    products = [np.zeros(own.shape) for own in vectors]
    for number, part in enumerate(parts):
        members = [g for g, group in enumerate(sums) if number in group]
        if not members:
            continue
        widths = np.cumsum([vectors[g].shape[1] for g in members])
        together = part.multiply(np.hstack([vectors[g] for g in members], dtype=part.precision))
        for g, product in zip(members, np.hsplit(together, widths[:-1]), strict=True):
            products[g] += product
    for group, own, product in zip(sums, vectors, products, strict=True):
        weight = sum(parts[number].weight for number in group)
        product /= weight
        diagonal = communality - sum(parts[number].diagonal for number in group) / weight
        product += diagonal[:, None] * own
    return products


def _eigenvectors(
    parts: Sequence[_Moment],
    sums: Sums,
    communality: np.ndarray,
    start: np.ndarray,
    share: Share,
) -> list[np.ndarray]:
    """Leading eigenvectors of each sum, largest first, by subspace iteration from ``start``."""
    vectors = [_orthonormal(start)] * len(sums)
    for _ in share.over(range(_POWER_STEPS)):
        vectors = [_orthonormal(p) for p in _products(parts, sums, communality, vectors)]
    turned = []
    for own, product in zip(vectors, _products(parts, sums, communality, vectors), strict=True):
        image = own.T @ product
        _, turn = np.linalg.eigh((image + image.T) / 2)
        turned.append(own @ turn[:, ::-1])
    return turned


def _orthonormal(vectors: np.ndarray) -> np.ndarray:
    with one_thread():
        return np.linalg.qr(vectors)[0]
