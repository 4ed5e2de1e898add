r"""Stacking: several predictions of the mean, weighed voxel by voxel.

Stacking (Wolpert 1992, *Neural Networks* 5:241; Breiman 1996, *Machine Learning* 24:49). Per voxel
v, with predictions X (images × predictors), not negative:

.. math:: w_v = \arg\min_{w \ge 0} \lVert y_v - X_v w \rVert^2
    + \kappa\, (w - \bar w)^\top G\, (w - \bar w)

:math:`\bar w` are the weights best for all voxels together and G the mean over voxels of
:math:`X_v^\top X_v`: few images pull weights to those of all voxels, so that the stack is no worse
than its best member beyond what those can tell. κ is chosen by cross-validation over images;
infinite is among the choices. All of it needs no more than :math:`X_v^\top X_v` and
:math:`X_v^\top y_v` of each fold.

A predictor of new images may be the mean of several fits, of which each predicted a part of the
images here. These predictions then vary more than that mean (`synbrain_cli.model.committee`), and
would be weighed too little; the excess is taken from :math:`X_v^\top X_v`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from synbrain_cli.errors import InputError
from synbrain_cli.groups import Groups, count_groups, deal
from synbrain_cli.progress import UNSEEN, Share

_SHRINKAGES = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, np.inf)
TIMES = 3, 1, 1  # shares of products of matrices, of the choice of κ, and of predictions
_VOXELS = 256  # that are computed together
_ROUNDING = 1e-9  # of the diagonal: keeps equal predictors apart
_SWEEPS, _ROUNDS = 20, 100  # of coordinate descent, and checks of its result
_CLOSE = 1e-9  # of the largest gradient: smaller ones are 0

Predictions = Sequence[NDArray[np.float32]]  # of each predictor, (n_images, n_voxels)


def fit_stack(
    predictions: Predictions,
    averages: NDArray[np.float32],
    generator: np.random.Generator,
    excess: Mapping[int, NDArray[np.float32]] | None = None,
    share: Share = UNSEEN,
    groups: Groups | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Weigh several predictions of the mean; the module says how.

    Parameters
    ----------
    predictions : sequence of float arrays of shape (n_images, n_voxels)
        Each predictor's, of images on which it was not fitted.
    averages : float array of shape (n_images, n_voxels)
        Their recorded responses, averaged over repeats.
    generator : numpy Generator
        Deals images to folds.
    excess : dict of float arrays of shape (n_voxels,), optional
        By the number of a predictor: variance of its predictions here that those of new images
        have not.
    share : Share
        Of a task whose progress is shown.
    groups : int array of shape (n_images,), optional
        Groups of images that are never both fitted and held out (`synbrain_cli.groups`).

    Returns
    -------
    float32 array of shape (n_predictors, n_voxels)
        Weights.
    float32 array of shape (n_images, n_voxels)
        The stack's predictions of the same images, each by weights fitted without it.

    Raises
    ------
    InputError
        With fewer than two images.
    """
    n_images, n_voxels = averages.shape
    if n_images < 2:
        raise InputError(
            f"stacking: expected two validation images or more, found {n_images}: prepare with a "
            "larger --validation"
        )
    folds = deal(n_images, min(10, count_groups(n_images, groups)), generator, groups)
    multiplying, choosing, predicting = share.split(*TIMES)
    parts = _normal_equations(predictions, averages, folds, multiplying)
    for predictor, variance in (excess or {}).items():
        parts.take_variance(predictor, variance, [len(fold) for fold in folds])
    gram, cross = parts.gram.sum(0), parts.cross.sum(0)

    errors = np.zeros(len(_SHRINKAGES))
    for g, c in choosing.over(zip(parts.gram, parts.cross, strict=True)):
        for k, kappa in enumerate(_SHRINKAGES):
            w = _weights(gram - g, cross - c, kappa).T
            # |y - Xw|² of the fold, but for |y|²
            errors[k] += float(np.einsum("vp,vpq,vq->", w, g, w) - 2 * (w * c).sum())
    best = _SHRINKAGES[int(errors.argmin())]

    stacked = np.empty((n_images, n_voxels), np.float32)
    for fold, g, c in predicting.over(zip(folds, parts.gram, parts.cross, strict=True)):
        weights = _weights(gram - g, cross - c, best).astype(np.float32)
        stacked[fold] = sum(w * one[fold] for w, one in zip(weights, predictions, strict=True))
    return _weights(gram, cross, best).astype(np.float32), stacked


class _NormalEquations:
    """XᵀX (n_folds, n_voxels, p, p) and Xᵀy (n_folds, n_voxels, p) of each fold."""

    def __init__(self, n_folds: int, n_voxels: int, p: int) -> None:
        self.gram: NDArray[np.float64] = np.empty((n_folds, n_voxels, p, p))
        self.cross: NDArray[np.float64] = np.empty((n_folds, n_voxels, p))

    def take_variance(
        self, predictor: int, variance: NDArray[np.float32], sizes: Sequence[int]
    ) -> None:
        """Take variance (n_voxels,) from a predictor, but half of what no other explains at most.

        ``sizes`` are the folds' numbers of images.
        """
        gram = self.gram.sum(0)
        ridge = 10 * _ROUNDING * np.einsum("vpp->v", gram) + np.finfo(float).tiny
        inverse = np.linalg.inv(gram + ridge[:, None, None] * np.eye(gram.shape[1]))
        own = 1 / inverse[:, predictor, predictor] - 2 * ridge  # its own part of XᵀX
        taken = np.clip(own / 2 / sum(sizes), 0, variance)
        self.gram[:, :, predictor, predictor] -= np.outer(sizes, taken)


def _normal_equations(
    predictions: Predictions,
    averages: NDArray[np.float32],
    folds: Sequence[NDArray[np.integer]],
    share: Share,
) -> _NormalEquations:
    parts = _NormalEquations(len(folds), averages.shape[1], len(predictions))
    for start in share.over(range(0, averages.shape[1], _VOXELS)):
        some = slice(start, start + _VOXELS)
        # voxels first: a small product of matrices for each
        x = np.stack([one[:, some].T for one in predictions], 1).astype(np.float64)  # (v, p, n)
        y = averages[:, some].T.astype(np.float64)
        for k, fold in enumerate(folds):
            own = np.ascontiguousarray(x[:, :, fold])
            parts.gram[k, some] = own @ own.transpose(0, 2, 1)
            parts.cross[k, some] = (own @ y[:, fold, None])[..., 0]
    return parts


def _weights(
    gram: NDArray[np.float64], cross: NDArray[np.float64], kappa: float
) -> NDArray[np.float64]:
    """Weights of each voxel, (p, n_voxels), shrunk towards those of all voxels by κ."""
    pooled, target = gram.mean(0), cross.mean(0)
    common = non_negative(pooled[None], target[None])[0]
    if np.isinf(kappa):
        return np.repeat(common[:, None], len(gram), axis=1)
    return non_negative(gram + kappa * pooled, cross + kappa * (pooled @ common)).T


def non_negative(gram: NDArray[np.float64], cross: NDArray[np.float64]) -> NDArray[np.float64]:
    """Solve least squares with w ≥ 0 for many targets at once.

    Coordinate descent on the normal equations, of all targets at a time (Franc, Hlaváč & Navara
    2005), finds which weights are positive; these are then solved for exactly, and a target is done
    when none of them is negative and no other weight would reduce the error (Karush, Kuhn, Tucker).

    Parameters
    ----------
    gram : float64 array of shape (n_targets, p, p)
        XᵀX.
    cross : float64 array of shape (n_targets, p)
        Xᵀy.

    Returns
    -------
    float64 array of shape (n_targets, p)
    """
    n_targets, p = cross.shape
    diagonal = np.einsum("vpp->vp", gram)
    size = np.sqrt(np.where(diagonal > 0, diagonal, 1))
    # Predictors of unit length; one that is 0 everywhere has no weight
    unit = gram / (size[:, :, None] * size[:, None, :]) + _ROUNDING * np.eye(p)
    unit[:, range(p), range(p)] = np.where(diagonal > 0, 1 + _ROUNDING, 1)
    against = np.where(diagonal > 0, cross / size, 0)
    found, descent = np.zeros((n_targets, p)), np.zeros((n_targets, p))
    left = np.arange(n_targets)
    for _ in range(_ROUNDS):
        g, c = unit[left], against[left]
        descent[left] = _descend(g, c, descent[left])
        positive = descent[left] > 0
        exact = _solve_where(positive, g, c)
        gradient = (g @ exact[..., None])[..., 0] - c
        close = _CLOSE * np.abs(c).max(1, keepdims=True)
        done = ((exact >= 0) & (positive | (gradient >= -close))).all(1)
        found[left] = np.where(done[:, None], exact, descent[left])
        left = left[~done]
        if not len(left):
            break
    return found / size


def _descend(
    gram: NDArray[np.float64], cross: NDArray[np.float64], start: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Sweep over the weights of all targets, from ``start`` (n_targets, p)."""
    w, rows = start.T.copy(), np.ascontiguousarray(gram.transpose(1, 2, 0))
    gradient = np.einsum("pqv,qv->pv", rows, w) - cross.T
    for _ in range(_SWEEPS):
        for j in range(len(w)):
            new = np.maximum(w[j] - gradient[j] / rows[j, j], 0)
            gradient += rows[j] * (new - w[j])
            w[j] = new
    return w.T


def _solve_where(
    positive: NDArray[np.bool_], gram: NDArray[np.float64], cross: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Least squares of the chosen weights of every target; the others are 0."""
    both = positive[:, :, None] & positive[:, None, :]
    own = np.where(both, gram, np.eye(gram.shape[1]))
    return np.linalg.solve(own, np.where(positive, cross, 0)[..., None])[..., 0]
