r"""The penalty of ridge regression, chosen for every target by cross-validation over rows.

The choice is that of himalaya's ``RidgeCV`` (Dupré la Tour et al. 2022, *NeuroImage* 264:119728):
every fold is predicted by a fit to the others, for each penalty, and the penalty of least squared
error is taken, averaged over folds. Here the moments of a fold's training rows are those of all
rows less those of the fold, and their eigenvectors serve all penalties, so that a prediction costs
a product over components, not over rows. Penalties have most of it in common.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh

from synbrain_cli.progress import UNSEEN, Share

TOGETHER = 512  # targets that are computed together
FEW = 16  # rows whose errors are computed together: they stay in the processor's cache
ROUNDING = 1e-6  # of shrinkage: that of float32
NOTHING = 1e-10  # of the largest eigenvalue: below it, a direction is not in the training rows


@dataclass(frozen=True)
class _Fold:
    """Rows that are held out, and the fit to all others in its own principal components.

    Attributes
    ----------
    rows : int array of shape (n_held_out,)
    scores : float32 array of shape (n_held_out, n_components)
        Of these rows, as given.
    turned : float32 array of shape (n_held_out, n_components)
        Of these rows, on the eigenvectors of the training rows' moments.
    vectors : float32 array of shape (n_components, n_components)
    powers : float64 array of shape (n_components,)
        Eigenvalues; infinite where a direction is not in the training rows, and has no weight.
    """

    rows: NDArray[np.integer]
    scores: NDArray[np.float32]
    turned: NDArray[np.float32]
    vectors: NDArray[np.float32]
    powers: NDArray[np.float64]

    @classmethod
    def of(
        cls, scores: NDArray[np.float32], rows: NDArray[np.integer], moments: NDArray[np.float64]
    ) -> _Fold:
        """Leave some rows out of the moments (n_components, n_components) of all."""
        own = scores[rows]
        exact = own.astype(np.float64)
        powers, vectors = eigh(moments - exact.T @ exact, overwrite_a=True, check_finite=False)
        powers[powers <= NOTHING * powers[-1]] = np.inf
        single = vectors.astype(np.float32)
        return cls(rows, own, own @ single, single, powers)

    def errors(
        self,
        targets: NDArray[np.float32],
        products: NDArray[np.float32],
        penalties: NDArray[np.float64],
    ) -> NDArray[np.float32]:
        """Mean squared error of each penalty: (n_penalties, n_targets).

        Parameters
        ----------
        targets : float32 array of shape (n_rows, n_targets)
            Of all rows.
        products : float32 array of shape (n_components, n_targets)
            Scores times targets, of all rows.
        penalties : float64 array of shape (n_penalties,)
        """
        own = targets[self.rows]
        turned = self.vectors.T @ (products - self.scores.T @ own)
        basis, weights = self._basis(penalties)
        predicted = np.empty((len(weights), *own.shape), np.float32)
        for one, direction in zip(predicted, basis.T, strict=True):
            np.matmul(self.turned, turned * direction[:, None], out=one)
        found = np.zeros((len(penalties), own.shape[1]), np.float32)
        for first in range(0, len(own), FEW):
            some = slice(first, first + FEW)
            flat = predicted[:, some].reshape(len(weights), -1)
            error = (weights.T @ flat).reshape(len(penalties), -1, own.shape[1])
            error -= own[some]
            found += np.einsum("kij,kij->kj", error, error)
        found /= len(own)
        return found

    def _basis(
        self, penalties: NDArray[np.float64]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Fewer directions than penalties, whose sums are the shrinkage of each penalty.

        Shrinkage p / (p + α) is a smooth function of α: where components differ in their power by
        three orders of magnitude, ten predictions hold those of fifteen penalties, to `ROUNDING`.

        Returns
        -------
        float32 array of shape (n_components, n_directions)
            Divided by the power: what products are multiplied with.
        float32 array of shape (n_directions, n_penalties)
        """
        inside = np.isfinite(self.powers)
        powers = self.powers[inside, None]
        left, sizes, right = np.linalg.svd(powers / (powers + penalties), full_matrices=False)
        n_kept = int((sizes > ROUNDING * sizes[0]).sum())
        basis = np.zeros((len(self.powers), n_kept), np.float32)
        basis[inside] = left[:, :n_kept] / powers
        return basis, (sizes[:n_kept, None] * right[:n_kept]).astype(np.float32)


def choose_penalties(
    scores: NDArray[np.float32],
    targets: NDArray[np.float32],
    folds: Sequence[NDArray[np.integer]],
    penalties: NDArray[np.float64],
    share: Share = UNSEEN,
) -> NDArray[np.integer]:
    """Choose the penalty of least squared error on rows that were held out, target by target.

    Parameters
    ----------
    scores : float32 array of shape (n_rows, n_components)
        Centred; any linear features will do.
    targets : float32 array of shape (n_rows, n_targets)
        Centred.
    folds : sequence of int arrays
        Rows that are held out by turns.
    penalties : float64 array of shape (n_penalties,)
    share : Share
        Of a task whose progress is shown.

    Returns
    -------
    int array of shape (n_targets,)
        Number of the penalty; of equal ones, the first.
    """
    exact = scores.astype(np.float64)
    moments = exact.T @ exact
    del exact
    decomposing, predicting = share.split(scores.shape[1], targets.shape[1] / 2)
    parts = [_Fold.of(scores, rows, moments) for rows in decomposing.over(folds)]
    best = np.empty(targets.shape[1], np.intp)
    for start in predicting.over(range(0, targets.shape[1], TOGETHER)):
        some = slice(start, start + TOGETHER)
        block = np.ascontiguousarray(targets[:, some])
        products = scores.T @ block
        errors = np.mean([part.errors(block, products, penalties) for part in parts], axis=0)
        best[some] = errors.argmin(0)
    return best
