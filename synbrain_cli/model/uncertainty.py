r"""How unsure the mean is, image by image: more, the less an image is like the training images.

The mean m differs from the true mean response by the unexplained signal u, of variance
:math:`\sigma_{uv}^2` on average over images (`synbrain_cli.model.readout`). Of image x it is

.. math:: \mathrm{sem}_{xv}^2 = \sigma_{uv}^2\, g_{xv}, \qquad
    g_{xv} = \frac{h_{xv}^\gamma}{\langle h_{iv}^\gamma \rangle_i}

The leverage h is the variance of a ridge's prediction, in units of the noise (the posterior of
Bayesian linear regression; Rasmussen & Williams 2006, *Gaussian Processes*, equation 2.26). With s
the scores of the image on the components, p their powers, r the length of what the components leave
of its features, and α the voxel's penalty,

.. math:: h = \frac1n + \sum_j \frac{s_j^2}{p_j + \alpha} + \frac{r^2}{\alpha};

bands are averaged with the weights that they have in the linear encoder's stack.
:math:`\langle\cdot\rangle` is a mean over training images, each by a fit without it.

A posterior is right only if its prior is. How errors grow with the leverage, γ, is therefore
measured (ours): it is the one under which residuals of training images, each predicted without
itself, are most likely as normal variables of variance :math:`\sigma_u^2 g + \sigma_e^2 / n_i`,
with the trial noise of an average over n repeats. 0 is among the choices.

"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

GROWTHS = tuple(np.linspace(0, 1, 21))  # of which γ is chosen
MEASURED = 2_000  # voxels of which residuals are compared
SOME = 2_000  # training images over which leverages are averaged
FARTHEST = 100.0  # percent: distance of an image farther than any of training from the others
PERCENTS = 101  # of distances of training images: 0 to 100
LEAST = 1e-12
MOST_CONCENTRATION = 1e6  # infinity, in a file
OF_POWER = 1.5  # κ for each unit of the power by which earlier versions had similar images share

Array = NDArray[np.floating]


@dataclass(frozen=True)
class Leverage:
    """What a ridge's leverage depends on.

    Attributes
    ----------
    powers : float32 array of shape (n_components,)
        Sum over training images of squared scores.
    penalties : float32 array of shape (n_penalties,)
        Of which each voxel has one.
    left_out : float32 array of shape (n_images, n_penalties)
        Leverage of each training image in the fit to all others.
    """

    powers: NDArray[np.float32]
    penalties: NDArray[np.float32]
    left_out: NDArray[np.float32]

    def of_scores(self, scores: Array, beyond: Array) -> NDArray[np.float64]:
        """Leverage of new images.

        Parameters
        ----------
        scores : float array of shape (n_images, n_components)
        beyond : float array of shape (n_images,)
            Squared length of what the components leave of the features.

        Returns
        -------
        float64 array of shape (n_images, n_penalties)
        """
        penalties = self.penalties.astype(np.float64)
        shrunk = 1 / np.maximum(self.powers[:, None] + penalties, LEAST)
        leverage = np.square(scores.astype(np.float64)) @ shrunk
        leverage += beyond[:, None] / np.maximum(penalties, LEAST)
        return 1 / len(self.left_out) + leverage

    def column(self, alphas: Array) -> NDArray[np.intp]:
        """Column of ``left_out`` of each voxel's penalty (n_voxels,)."""
        distance = np.abs(self.penalties[:, None] - alphas)
        columns: NDArray[np.intp] = distance.argmin(0)
        return columns


@dataclass(frozen=True)
class Residuals:
    """What is left of training images, each predicted without itself.

    Attributes
    ----------
    squares : float32 array of shape (n_images, n_voxels)
        Squared differences of recorded averages from predictions.
    signal : float array of shape (n_voxels,)
        Variance of the unexplained signal.
    noise : float array of shape (n_images, n_voxels)
        Variance of the averages' trial noise.
    """

    squares: Array
    signal: Array
    noise: Array

    def log_likelihood(self, relative: Array) -> float:
        """Mean log density, but for a constant, with g (n_images, n_voxels)."""
        variance = np.maximum(self.signal * relative + self.noise, LEAST)
        return float(-0.5 * (np.log(variance) + self.squares / variance).mean(dtype=np.float64))


def measured_voxels(n_voxels: int) -> NDArray[np.intp]:
    """Choose the voxels whose residuals are compared, at equal distances."""
    return np.unique(np.linspace(0, n_voxels - 1, MEASURED).astype(np.intp))


@dataclass(frozen=True, eq=False)
class ImageDoubt:
    """How unsure the mean response to one image is: a row of `Doubt`.

    Attributes
    ----------
    relative : float32 array of shape (n_voxels,)
    distance : float
    features : float32 array of shape (n_frequencies, 2), optional
    """

    relative: NDArray[np.float32]
    distance: float
    features: NDArray[np.float32] | None = None

    def apart(self) -> ImageDoubt:
        """Return the same, of an image whose draws share no errors with other images."""
        return replace(self, features=None)


@dataclass(frozen=True, eq=False)
class Doubt:
    """How unsure the mean response to some images is.

    Attributes
    ----------
    relative : float32 array of shape (n_images, n_voxels)
        g: the variance of the unexplained signal, relative to its mean over training images.
    distance : float64 array of shape (n_images,)
        Percentage of training images that are as near to the other training images or nearer.
    features : float32 array of shape (n_images, n_frequencies, 2), optional
        By which draws of similar images share errors (`synbrain_cli.model.error_fields`); None
        where they share none.
    """

    relative: NDArray[np.float32]
    distance: NDArray[np.float64]
    features: NDArray[np.float32] | None = None

    @classmethod
    def join(cls, images: Sequence[ImageDoubt]) -> Doubt:
        """Join those of single images, of which all have features or none."""
        features = [one.features for one in images if one.features is not None]
        return cls(
            np.stack([one.relative for one in images]),
            np.array([one.distance for one in images]),
            np.stack(features) if features else None,
        )

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.relative)

    def of(self, image: int) -> ImageDoubt:
        """Return that of one image."""
        features = None if self.features is None else self.features[image]
        return ImageDoubt(self.relative[image], float(self.distance[image]), features)


@dataclass(frozen=True)
class MeanUncertainty:
    """What the uncertainty of an image is compared with.

    Attributes
    ----------
    growth : float
        γ.
    level : float32 array of shape (n_voxels,)
        Mean over training images of the leverage to the power of γ.
    distances : float32 array of shape (PERCENTS,)
        Percentiles over training images of the mean leverage over voxels.
    concentration : float
        κ of the errors that similar images share (`synbrain_cli.model.similar_images`).
    """

    growth: float
    level: NDArray[np.float32]
    distances: NDArray[np.float32]
    concentration: float = np.inf

    @property
    def is_shared(self) -> bool:
        """Whether similar images share errors."""
        return bool(np.isfinite(self.concentration))

    @classmethod
    def fit(
        cls, leverages: NDArray[np.float32], residuals: Residuals, concentration: float = np.inf
    ) -> MeanUncertainty:
        """Fit to training images.

        Parameters
        ----------
        leverages : float32 array of shape (n_images, n_voxels)
            Of images, each by a fit without it; bands averaged.
        residuals : Residuals
            Of the same images, and of `measured_voxels`.
        concentration : float
        """
        own = leverages[:, measured_voxels(leverages.shape[1])].astype(np.float64)

        def likelihood(growth: float) -> float:
            power = own**growth
            return residuals.log_likelihood(power / power.mean(0))

        growth = float(max(GROWTHS, key=likelihood))
        level = (leverages**growth).mean(0, dtype=np.float64).astype(np.float32)
        mean = leverages.mean(1, dtype=np.float64)
        distances = np.percentile(mean, np.linspace(0, 100, PERCENTS)).astype(np.float32)
        return cls(growth, level, distances, concentration)

    def __call__(self, leverage: NDArray[np.float32]) -> Doubt:
        """Compare new images, of leverages (n_images, n_voxels), with training images."""
        relative = leverage**self.growth / self.level
        mean = leverage.mean(1, dtype=np.float64)
        percent = np.searchsorted(self.distances, mean, side="right") / PERCENTS * 100
        return Doubt(relative.astype(np.float32), percent)

    def arrays(self) -> dict[str, np.ndarray]:
        """Return named arrays, for a file."""
        named = {
            "growth": np.array([self.growth], np.float32),
            "level": self.level,
            "distances": self.distances,
            "concentration": np.array([min(self.concentration, MOST_CONCENTRATION)], np.float32),
        }
        return {f"uncertainty_{name}": value for name, value in named.items()}

    @classmethod
    def from_arrays(cls, named: dict[str, np.ndarray]) -> MeanUncertainty | None:
        """Rebuild from the named arrays of a file; None where it has none of them."""
        if "uncertainty_growth" not in named:
            return None
        one = {n.removeprefix("uncertainty_"): float(v[0]) for n, v in named.items()
               if n.startswith("uncertainty_") and v.size == 1}  # fmt: skip
        level, distances = (named[f"uncertainty_{n}"] for n in ("level", "distances"))
        found = one.get("concentration", OF_POWER * one.get("power", np.inf))
        return cls(
            one["growth"], level, distances, np.inf if found >= MOST_CONCENTRATION else found
        )
