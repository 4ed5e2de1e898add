r"""Random normal numbers that are alike for images that are alike.

Draws of unexplained signal u must not be independent over images, as the errors that they stand for
are not: a model errs alike on similar images (`synbrain_cli.model.similar_images`). Nor may a draw
of one image depend on which other images are drawn. Both hold where u is a random *function* of the
image, of which the seed chooses one: a Gaussian process, by random Fourier features (Rahimi & Recht
2007, *NeurIPS*). Over functions, each number n of an image of direction d is normal with variance
1, and for images i and j

.. math:: \mathrm{cov}(n_i, n_j) = C_{ij} = \frac{e^{\kappa k_{ij}} - 1}{e^\kappa - 1},
    \qquad k_{ij} = d_i^\top d_j, \quad \lVert d \rVert = 1

as :math:`e^{\kappa k} - 1 \propto E_\omega[f_\omega(d_i)^\top f_\omega(d_j)]` with
:math:`f_\omega(d) = (\cos \omega^\top d - e^{-\kappa/2},\; \sin \omega^\top d)` and ω normal of
variance κ. What all images would share is taken out with the constant: predictions have an
intercept. The features of an image are scaled to length 1, so that a single image's numbers are
exactly normal.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from synbrain_cli.model.draw_key import draw_generator

N_FREQUENCIES = 1_024
# Features of each number: more of them where numbers are fewer (factors, of which each matters)
LEAST_FEATURES, MOST_FEATURES = 16, 2 * N_FREQUENCIES
WEIGHTS = 2**17  # of one function, about
MOST_KEPT = 10**8  # weights that are kept: 0.4 GB

Features = NDArray[np.float32]


def shared_errors(cosines: NDArray[np.float64], concentration: float) -> NDArray[np.float64]:
    """Return C of cosines k, and 1 of each image with itself: float64 (n_images, n_images)."""
    shared = np.eye(len(cosines))
    if np.isfinite(concentration):
        shared = np.expm1(concentration * np.clip(cosines, -1, 1)) / np.expm1(concentration)
        np.fill_diagonal(shared, 1)
    return shared


class ErrorFields:
    """The random functions of one model, and what was computed for them.

    Parameters
    ----------
    fingerprint : str
        Of the model: functions depend on it, the seed and their name alone.
    """

    def __init__(self, fingerprint: str) -> None:
        self.fingerprint = fingerprint
        self._frequencies = np.empty((0, N_FREQUENCIES))  # ω / √κ
        self._functions: dict[tuple[int, str, int], _Function] = {}
        self._n_kept = 0

    def features(self, directions: NDArray[np.floating], concentration: float) -> Features:
        """Compute the features of images.

        Parameters
        ----------
        directions : float array of shape (n_images, n_dims)
            Of length 1 (`synbrain_cli.model.similar_images.directions`).
        concentration : float
            κ, finite: images share something.

        Returns
        -------
        float32 array of shape (n_images, N_FREQUENCIES, 2)
        """
        n_dims = directions.shape[1]
        if len(self._frequencies) != n_dims:
            generator = draw_generator(0, "", f"frequencies/{n_dims}", self.fingerprint)
            shape = n_dims, N_FREQUENCIES
            self._frequencies = generator.standard_normal(shape, np.float32).astype(np.float64)
        # In double precision: sums of many terms in single precision differ in the sixth digit by
        # the images that are computed together, and by the machine.
        angle = np.asarray(directions, np.float64) * concentration**0.5 @ self._frequencies
        found = np.stack([np.cos(angle) - np.exp(-concentration / 2), np.sin(angle)], -1)
        return found.astype(np.float32)

    def normals(self, features: Features, seed: int, name: str) -> Normals:
        """Return one function's normal numbers of an image (N_FREQUENCIES, 2).

        Parameters
        ----------
        features : float32 array of shape (N_FREQUENCIES, 2)
        seed : int
            Chosen by the user.
        name : str
            Of the function.
        """
        return Normals(self, features, seed, name)

    def function(self, seed: int, name: str, size: int) -> _Function:
        """Return a function of ``size`` numbers; the first ones asked for are kept."""
        key = seed, name, size
        found = self._functions.get(key)
        if found is None:
            found = _Function.draw(draw_generator(seed, "", name, self.fingerprint), size)
            if self._n_kept + found.weights.size <= MOST_KEPT:
                self._n_kept += found.weights.size
                self._functions[key] = found
        return found


class Normals:
    """Normal numbers of one image by one function: in place of a generator's.

    Numbers of later calls belong to other functions, as those of a generator are other numbers.
    """

    def __init__(self, fields: ErrorFields, features: Features, seed: int, name: str) -> None:
        self._fields, self._features = fields, features
        self._seed, self._name = seed, name
        self._calls = 0

    def standard_normal(self, size: int, dtype: Any, /) -> NDArray[np.floating]:
        """Array of shape (size,)."""
        name = f"{self._name}/{self._calls}"
        self._calls += 1
        found = self._fields.function(self._seed, name, size)(self._features)
        return found.astype(dtype, copy=False)


class _Function:
    """Weights of the features, for every number.

    Numbers take turns over groups of frequencies, so that all together see all of them. Which
    frequencies are a group differs from function to function.
    """

    def __init__(self, order: NDArray[np.intp], weights: NDArray[np.float32], size: int) -> None:
        self.order, self.weights, self.size = order, weights, size

    @classmethod
    def draw(cls, generator: np.random.Generator, size: int) -> _Function:
        """Draw a function of ``size`` numbers."""
        wanted = 2 ** int(np.log2(max(WEIGHTS / size, 1)))
        n_features = min(max(wanted, LEAST_FEATURES), MOST_FEATURES)
        n_groups = MOST_FEATURES // n_features
        order = generator.permutation(N_FREQUENCIES)
        shape = n_groups, n_features, -(-size // n_groups)
        return cls(order, generator.standard_normal(shape, np.float32), size)

    def __call__(self, features: Features) -> NDArray[np.float32]:
        """Return the numbers (size,) of an image."""
        own = features[self.order].reshape(len(self.weights), 1, -1)
        own /= np.sqrt(np.square(own).sum(-1, keepdims=True))
        numbers: NDArray[np.float32] = (own @ self.weights)[:, 0].T.reshape(-1)
        return numbers[: self.size]
